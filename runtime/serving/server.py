"""Serve a bundle over HTTP, in the shape of OpenAI's moderation endpoint.

    POST /v1/moderations   {"input": [{"type": "image_url", "image_url": {"url": "data:image/png;base64,…"}}]}
    GET  /v1/models        the bundle that is served
    GET  /health           200 once it is

Logs carry request ids, counts and times; never pixels, never words.
"""

import asyncio
import logging
import re
import time
import uuid
from collections import Counter
from pathlib import Path
from typing import TYPE_CHECKING

from tilth.claims import Json
from tilth.errors import InputError
from tilth.extras import optional
from tilth.runtime.bundles.bundle import load_bundle
from tilth.runtime.serving.payload import MAX_BODY_BYTES, ModerationRequest, images_of, parse
from tilth.runtime.stages.cascade import Action, Moderator, Verdict

if TYPE_CHECKING:
    from fastapi import FastAPI, Request

log = logging.getLogger("tilth.serve")

CONCURRENCY = 2  # requests that are worked on at once
WAITING = 32  # requests that may wait for their turn; more are told to come back


class _TooLarge(Exception):
    """The body is longer than allowed."""


def result(verdict: Verdict) -> dict[str, Json]:
    """Write a verdict as an element of `results`, with what OpenAI's shape has no place for under `tilth`."""
    return {
        "flagged": verdict.flagged,
        "categories": {name: action is not Action.ALLOW for name, action in verdict.actions.items()},
        "category_scores": {name: round(score, 6) for name, score in verdict.scores.items()},
        "category_applied_input_types": {name: ["image"] for name in verdict.scores},
        "tilth": {
            "action": verdict.action.value,
            "actions": {name: action.value for name, action in verdict.actions.items()},
            "stage": verdict.stage,
            "reason": verdict.reason,
            "boxes": [
                {"category": b.category, "box_xyxy": [round(v, 1) for v in b.box_xyxy], "score": round(b.score, 4)}
                for b in verdict.boxes
            ],
            "text": verdict.text,
            "timings_ms": {part: round(ms, 2) for part, ms in verdict.timings_ms.items()},
        },
    }


class Desk:
    """Takes requests one by one: a few are worked on, some wait, the rest are turned away.

    Args:
        moderator: Judges the images.
        concurrency: Requests worked on at once.
        waiting: Requests that may wait.
    """

    def __init__(self, moderator: Moderator, *, concurrency: int = CONCURRENCY, waiting: int = WAITING) -> None:
        self.moderator = moderator
        self._turn = asyncio.Semaphore(concurrency)
        self._room = concurrency + waiting
        self._inside = 0

    async def work_on(self, request: ModerationRequest) -> list[Verdict] | None:
        """Return the verdicts, or None when the desk is full.

        Raises:
            InputError: An image cannot be decoded.
        """
        if self._inside >= self._room:
            return None
        self._inside += 1
        try:
            async with self._turn:
                return await asyncio.to_thread(self._decide, request)
        finally:
            self._inside -= 1

    def _decide(self, request: ModerationRequest) -> list[Verdict]:
        return self.moderator.moderate(images_of(request))


def make_app(
    moderator: Moderator,
    *,
    concurrency: int = CONCURRENCY,
    waiting: int = WAITING,
    max_body_bytes: int = MAX_BODY_BYTES,
) -> "FastAPI":
    """Make the application.

    Args:
        moderator: Judges the images.
        concurrency: Requests worked on at once.
        waiting: Requests that may wait; further ones get 503.
        max_body_bytes: Longer bodies get 413, and are not read to the end.
    """
    with optional():
        from fastapi import FastAPI, Request, Response
        from fastapi.responses import JSONResponse

    app = FastAPI(title="Tilth moderation", version="1")
    desk = Desk(moderator, concurrency=concurrency, waiting=waiting)
    started = int(time.time())

    def refuse(status: int, message: str, id_: str, kind: str = "invalid_request_error") -> Response:
        log.info("id=%s status=%d", id_, status)
        body = {"error": {"message": message, "type": kind, "param": None, "code": None}}
        headers = {"x-request-id": id_, **({"retry-after": "1"} if status == 503 else {})}
        return JSONResponse(body, status, headers=headers)

    @app.post("/v1/moderations", openapi_extra=_body_schema())
    async def moderations(request: Request) -> Response:
        began, id_ = time.perf_counter(), _request_id(request)
        try:
            verdicts = await desk.work_on(parse(await _read(request, max_body_bytes)))
        except _TooLarge:
            return refuse(413, f"the body is larger than {max_body_bytes / 2**20:g} MiB", id_)
        except InputError as error:
            return refuse(400, str(error).splitlines()[0], id_)
        except Exception:
            log.exception("id=%s failed", id_)
            return refuse(500, f"internal error; the log has it under {id_}", id_, "server_error")
        if verdicts is None:
            return refuse(503, "too many requests at once; try again in a second", id_, "server_error")
        counts = Counter(v.action.value for v in verdicts) + Counter(f"stage{v.stage}" for v in verdicts)
        told = " ".join(f"{name}={n}" for name, n in sorted(counts.items()))
        took_ms = 1000 * (time.perf_counter() - began)
        log.info("id=%s status=200 images=%d %s ms=%.0f", id_, len(verdicts), told, took_ms)
        body = {"id": id_, "model": moderator.name, "results": [result(v) for v in verdicts]}
        return JSONResponse(body, headers={"x-request-id": id_})

    @app.get("/health")
    async def health() -> dict[str, str]:
        return {"status": "ok", "model": moderator.name}

    @app.get("/v1/models")
    async def models() -> dict[str, object]:
        policy = moderator.policy
        one = {
            "id": moderator.name,
            "object": "model",
            "created": started,
            "owned_by": "tilth",
            "policy": policy.policy,
            "policy_version": policy.version,
            "categories": list(policy.names),
        }
        return {"object": "list", "data": [one]}

    return app


def _body_schema() -> dict[str, object]:
    # The body is read by hand, to stop in time when it is too large, so the documentation has to be told its shape.
    schema = ModerationRequest.model_json_schema(ref_template="#/components/schemas/{model}")
    return {"requestBody": {"required": True, "content": {"application/json": {"schema": _inline(schema)}}}}


def _inline(schema: dict[str, object]) -> object:
    parts = schema.pop("$defs", {})

    def walk(node: object) -> object:
        if isinstance(node, dict):
            if isinstance(reference := node.get("$ref"), str):
                return walk(parts[reference.rpartition("/")[2]])  # type: ignore[index]
            return {key: walk(value) for key, value in node.items()}
        return [walk(item) for item in node] if isinstance(node, list) else node

    return walk(schema)


async def _read(request: "Request", limit: int) -> bytes:
    length = request.headers.get("content-length", "0")
    if length.isdigit() and int(length) > limit:
        raise _TooLarge
    body = bytearray()
    async for chunk in request.stream():
        body += chunk
        if len(body) > limit:
            raise _TooLarge
    return bytes(body)


def _request_id(request: "Request") -> str:
    """Take the client's id if it is harmless in a log, else make one."""
    given = request.headers.get("x-request-id", "")
    return given if re.fullmatch(r"[A-Za-z0-9._-]{1,64}", given) else f"modr-{uuid.uuid4().hex}"


def serve(folder: Path, *, host: str = "127.0.0.1", port: int = 8080, threads: int = 0) -> None:
    """Verify a bundle and serve it until interrupted.

    Args:
        folder: The bundle.
        host: Address to listen on.
        port: Port to listen on.
        threads: Of each model; 0 lets onnxruntime choose.

    Raises:
        InputError: The folder is no bundle.
        ModelError: A file in it was changed.
    """
    with optional():
        import uvicorn
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(name)s %(message)s")
    app = make_app(load_bundle(folder, threads=threads))
    # Its access log would carry addresses of clients; ours has one line a request.
    uvicorn.run(app, host=host, port=port, access_log=False, server_header=False)
