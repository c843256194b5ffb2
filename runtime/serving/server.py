"""Serve a bundle over HTTP, in the shape of OpenAI's moderation endpoint.

    POST /v1/moderations   {"input": [{"type": "image_url", "image_url": {"url": "data:image/png;base64,…"}},
                                      {"type": "text", "text": "…"}]}
    GET  /v1/models        the bundle that is served
    GET  /health           200 once it is

Each element of the input has a result of its own, in the same order. Texts are judged where the bundle has a language model and
categories that words decide, and refused in a sentence where not.

Logs carry request ids, counts and times; never pixels, never words.
"""

import asyncio
import logging
import socket
import sys
import time
from collections import Counter
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tilth.claims import Json
from tilth.errors import InputError, TilthError
from tilth.events import LogLines
from tilth.extras import optional
from tilth.runtime.bundles.bundle import in_use, load_bundle
from tilth.runtime.serving.doubts import Doubts
from tilth.runtime.serving.payload import MAX_BODY_BYTES, SCHEMA, Item, Text, WrongRequest, images_of, parse
from tilth.runtime.serving.refusals import protocol, refusal, refuse_elsewhere, request_id
from tilth.runtime.stages.cascade import Action, Moderator, Verdict

if TYPE_CHECKING:
    from fastapi import FastAPI, Request

log = logging.getLogger("tilth.serve")

CONCURRENCY = 2  # requests that are worked on at once
HEARD_OUT = (
    8  # times the limit of a body are read of one that is too large, for so many seconds at most, before it is refused
)
HEARD_OUT_S = 10
FOLLOW_S = 2.0  # between two looks whether another bundle is in use
WAITING = 32  # requests that may wait for their turn; more are told to come back


class _TooLarge(Exception):
    """The body is longer than allowed."""


class _HungUp(Exception):
    """The client went away in the middle of its body, of which so many bytes had come."""


def result(verdict: Verdict, judged_in_texts: Sequence[str] = ()) -> dict[str, Json]:
    """Write a verdict as an element of `results`, with what OpenAI's shape has no place for under `tilth`.

    Args:
        verdict: On an image or a text.
        judged_in_texts: The categories that can be found in a text.
    """
    return {
        "flagged": verdict.flagged,
        "categories": {name: action is not Action.ALLOW for name, action in verdict.actions.items()},
        "category_scores": {name: round(score, 6) for name, score in verdict.scores.items()},
        "category_applied_input_types": {
            name: [verdict.of] if verdict.of == "image" or name in judged_in_texts else [] for name in verdict.scores
        },
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
        doubts: Are offered each image with its verdict.
        concurrency: Requests worked on at once.
        waiting: Requests that may wait.
    """

    def __init__(
        self,
        moderator: Moderator,
        doubts: Doubts | None = None,
        *,
        concurrency: int = CONCURRENCY,
        waiting: int = WAITING,
    ) -> None:
        self.moderator, self.doubts = moderator, doubts
        self._turn = asyncio.Semaphore(concurrency)
        self._room = concurrency + waiting
        self._inside = 0

    def change(self, moderator: Moderator) -> None:
        """Let another moderator judge from now on; what is being judged is finished by the one who began."""
        self.moderator = moderator

    async def work_on(self, items: Sequence[Item]) -> tuple[Moderator, list[Verdict]] | None:
        """Return the verdicts and who gave them, or None when the desk is full.

        Raises:
            InputError: An image cannot be decoded, or texts are not judged here.
        """
        if self._inside >= self._room:
            return None
        self._inside += 1
        try:
            async with self._turn:
                return await asyncio.to_thread(self._decide, items)
        finally:
            self._inside -= 1

    def _decide(self, items: Sequence[Item]) -> tuple[Moderator, list[Verdict]]:
        moderator = self.moderator
        texts = [one.text for one in items if isinstance(one, Text)]
        on_texts = iter(moderator.moderate_texts(texts) if texts else ())
        images = images_of(items)
        verdicts = moderator.moderate([image for _, image in images])
        if self.doubts is not None:
            for (data, _), verdict in zip(images, verdicts, strict=True):
                self.doubts.offer(data, verdict, moderator)
        on_images = iter(verdicts)
        return moderator, [next(on_texts if isinstance(one, Text) else on_images) for one in items]


def make_app(
    moderator: Moderator,
    doubts: Doubts | None = None,
    *,
    concurrency: int = CONCURRENCY,
    waiting: int = WAITING,
    max_body_bytes: int = MAX_BODY_BYTES,
    newer: Callable[[], Moderator | None] | None = None,
) -> "FastAPI":
    """Make the application.

    Args:
        moderator: Judges the images.
        doubts: Keep what it is unsure about; closed when the application ends. None keeps nothing.
        concurrency: Requests worked on at once.
        waiting: Requests that may wait; further ones get 503.
        max_body_bytes: Longer bodies get 413, and are not kept.
        newer: Is asked every few seconds whether another moderator is to take over from the one at work; None for never.
    """
    with optional():
        from fastapi import FastAPI, Request, Response
        from fastapi.responses import JSONResponse

    @asynccontextmanager
    async def whole_life(_: FastAPI) -> AsyncIterator[None]:
        following = asyncio.create_task(_follow(desk, newer)) if newer else None
        yield
        if following is not None:
            following.cancel()
        if doubts is not None:
            await asyncio.to_thread(doubts.close)

    # an address with a slash too many is told so: a redirection has no words, and many clients do not send a body twice
    app = FastAPI(title="Tilth moderation", version="1", redirect_slashes=False, lifespan=whole_life)
    desk = Desk(moderator, doubts, concurrency=concurrency, waiting=waiting)
    started = int(time.time())

    @app.post("/v1/moderations", openapi_extra=_body_schema())
    async def moderations(request: Request) -> Response:
        began, id_ = time.perf_counter(), request_id(request)
        try:
            items = parse(await _read(request, max_body_bytes))
            judged = await desk.work_on(items)
        except _HungUp as error:
            log.info("id=%s status=499 the client hung up after %s bytes of its request", id_, error)
            return Response(status_code=499)  # which nobody is there to read
        except _TooLarge:
            limit = f"{max_body_bytes / 2**20:g} MiB"
            return refusal(413, f"the body is larger than {limit}; send fewer or smaller images", id_)
        except InputError as error:
            param = error.param if isinstance(error, WrongRequest) else ""
            return refusal(400, str(error).splitlines()[0], id_, param=param)
        except Exception:
            log.exception("id=%s failed", id_)
            return refusal(500, f"internal error; the log has it under {id_}", id_)
        if judged is None:
            return refusal(503, "too many requests at once; try again in a second", id_, headers={"retry-after": "1"})
        by, verdicts = judged
        log.info("id=%s status=200 %s ms=%.0f", id_, _counts(verdicts), 1000 * (time.perf_counter() - began))
        results = [result(verdict, by.judged_in_texts) for verdict in verdicts]
        return JSONResponse({"id": id_, "model": by.name, "results": results}, headers={"x-request-id": id_})

    @app.head("/health", include_in_schema=False)
    @app.get("/health")
    async def health() -> dict[str, str]:
        return {"status": "ok", "model": desk.moderator.name}

    @app.get("/v1/models")
    async def models() -> dict[str, object]:
        policy = desk.moderator.policy
        one = {
            "id": desk.moderator.name,
            "object": "model",
            "created": started,
            "owned_by": "tilth",
            "policy": policy.policy,
            "policy_version": policy.version,
            "categories": list(policy.names),
        }
        return {"object": "list", "data": [one]}

    refuse_elsewhere(app)
    return app


async def _follow(desk: Desk, newer: Callable[[], Moderator | None]) -> None:
    """Let another moderator take over whenever there is one; one that cannot be loaded is told, and the old one stays."""
    told = ""
    while True:
        await asyncio.sleep(FOLLOW_S)
        try:
            found = await asyncio.to_thread(newer)
        except Exception as error:  # whatever it is, the old one goes on, and so does looking for another
            if str(error) != told:
                log.exception("the new bundle cannot be served, %s stays", desk.moderator.name)
            told = str(error)
            continue
        if found is not None:
            log.info("%s takes over from %s", found.name, desk.moderator.name)
            desk.change(found)


def _counts(verdicts: Sequence[Verdict]) -> str:
    kinds = Counter(f"{verdict.of}s" for verdict in verdicts)
    counts = Counter(v.action.value for v in verdicts) + Counter(f"stage{v.stage}" for v in verdicts)
    return " ".join(f"{name}={n}" for part in (kinds, counts) for name, n in sorted(part.items()))


def _body_schema() -> dict[str, object]:
    # The body is read by hand, to stop in time when it is too large, so the documentation has to be told its shape.
    return {"requestBody": {"required": True, "content": {"application/json": {"schema": SCHEMA}}}}


async def _read(request: "Request", limit: int) -> bytes:
    """Read the body, up to a limit.

    Raises:
        _TooLarge: It is longer.
        _HungUp: The client went away.
        InputError: It is packed.
    """
    from starlette.requests import ClientDisconnect

    if (packed := request.headers.get("content-encoding", "identity")) != "identity":
        raise InputError(f"the body is packed ({packed[:20]!r}), which is not undone here; send plain JSON")
    length, came = request.headers.get("content-length", "0"), 0
    large = length.isdigit() and int(length) > limit
    if large and "expect" in request.headers:  # this client waits for a word before it sends anything
        raise _TooLarge
    body = bytearray()
    try:
        async with asyncio.timeout(None) as patience:
            async for chunk in request.stream():
                came += len(chunk)
                if came > limit and not large:
                    large, body = True, bytearray()
                if not large:
                    body += chunk
                # Many clients hear nothing while they send: they are heard out for a while, and nothing of it is kept.
                elif patience.when() is None:
                    patience.reschedule(asyncio.get_running_loop().time() + HEARD_OUT_S)
                elif came > HEARD_OUT * limit:
                    break
    except ClientDisconnect as error:
        raise _HungUp(came) from error
    except TimeoutError as error:
        raise _TooLarge from error
    if large:
        raise _TooLarge
    return bytes(body)


def _check_port(host: str, port: int) -> None:
    """Miss the address before models are loaded."""
    try:
        found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)
        with socket.socket(found[0][0], socket.SOCK_STREAM) as listener:
            listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            listener.bind(found[0][4])
    except OSError as error:
        raise InputError(
            f"cannot listen on {host}:{port} ({error.strerror}); choose another --port or --host"
        ) from error


def on_the_wire() -> dict[str, Any]:
    """Return what uvicorn is told: answers of our shape alone, and nothing but HTTP.

    Its access log would carry addresses of clients; ours has one line a request.
    """
    return {"http": protocol(), "ws": "none", "access_log": False, "server_header": False, "log_config": None}


def show_log() -> None:
    """Write the log to standard error: for a person on a terminal, as JSON lines elsewhere."""
    told = logging.StreamHandler()
    told.setFormatter(logging.Formatter("%(asctime)s %(name)s %(message)s") if sys.stderr.isatty() else LogLines())
    logging.basicConfig(level=logging.INFO, handlers=[told])


def serve(
    folder: Path,
    *,
    host: str = "127.0.0.1",
    port: int = 8080,
    threads: int = 0,
    keeping: Callable[[Moderator], Doubts] | None = None,
) -> None:
    """Verify a bundle and serve it until interrupted; of a champion, the next bundle takes over when it is promoted.

    Args:
        folder: The bundle, or a champion.
        host: Address to listen on.
        port: Port to listen on.
        threads: Of each model; 0 lets onnxruntime choose.
        keeping: Makes what keeps the doubts of the bundle's moderator; None keeps none.

    Raises:
        InputError: The folder is no bundle, or somebody else listens there.
        ModelError: A file in it was changed, or a model in it says no numbers.
    """
    with optional():
        import uvicorn
    _check_port(host, port)
    show_log()
    served = in_use(folder)
    moderator = load_bundle(served, threads=threads)

    def newer() -> Moderator | None:
        nonlocal served
        if (now := in_use(folder)) == served:
            return None
        try:
            found = load_bundle(now, threads=threads)
        except TilthError:
            served = now  # it is none, or was changed: no other try will help
            raise
        served = now
        return found

    follows = newer if served != folder else None
    app = make_app(moderator, keeping(moderator) if keeping else None, newer=follows)
    uvicorn.run(app, host=host, port=port, **on_the_wire())
