"""The application, in the shape of OpenAI's moderation endpoint.

    POST /v1/moderations   {"input": [{"type": "image_url", "image_url": {"url": "data:image/png;base64,…"}},
                                      {"type": "text", "text": "…"}]}, or a form with files
    GET  /v1/models        the bundle that is served
    GET  /healthz          200 while the process lives
    GET  /readyz           200 while requests should be sent here, else 503
    GET  /metrics          for Prometheus

Each element of the input has a result of its own, in the same order. Texts are judged where the bundle has a language model and
categories that words decide, and refused in a sentence where not.

Logs carry request ids, counts and times; never pixels, never words.
"""

import asyncio
import logging
import time
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Any

from tilth.claims import Json
from tilth.errors import InputError
from tilth.extras import optional
from tilth.runtime.serving.admission import Full, Tokens
from tilth.runtime.serving.body import HungUp, TooLarge, length_of, read_body
from tilth.runtime.serving.desk import Desk
from tilth.runtime.serving.metrics import Counted
from tilth.runtime.serving.payload import ANSWERS, BODY, WrongRequest
from tilth.runtime.serving.refusals import refusal, refuse_elsewhere, request_id
from tilth.runtime.stages.cascade import Action, Moderator, Verdict

if TYPE_CHECKING:
    from fastapi import FastAPI, Request, Response

log = logging.getLogger("tilth.serve")

FOLLOW_S = 2.0  # between two looks whether another bundle is in use
LOADING_S = 2  # until a client should ask again whether the bundle is there


class _Refused(Exception):
    """A request is not judged.

    Args:
        status: Of HTTP.
        message: Why, for a person.
        reason: Why, for the metrics.
        param: The part of the body that is wrong, if one is.
        code: Why, for programs, if there is a word for it.
        unread: Whether a body may still be coming.
        headers: Of the answer, with _ for -.
    """

    def __init__(
        self,
        status: int,
        message: str,
        reason: str,
        *,
        param: str = "",
        code: str = "",
        unread: bool = False,
        **headers: str,
    ) -> None:
        super().__init__(message)
        self.status, self.reason = status, reason
        self._told: dict[str, Any] = {"param": param, "code": code, "unread": unread}
        self._headers = {name.replace("_", "-"): value for name, value in headers.items()}

    def answer(self, id_: str) -> "Response":
        """Say so to the client."""
        return refusal(self.status, str(self), id_, headers=self._headers, **self._told)


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
            name: [verdict.of]
            if (verdict.of == "image" or name in judged_in_texts) and name not in verdict.unjudged
            else []
            for name in verdict.scores
        },
        "tilth": {
            "action": verdict.action.value,
            "actions": {name: action.value for name, action in verdict.actions.items()},
            "stage": verdict.stage,
            "reason": verdict.reason,
            **({"route": verdict.route} if verdict.route else {}),
            "degraded": verdict.degraded or None,
            "boxes": [
                {"category": b.category, "box_xyxy": [round(v, 1) for v in b.box_xyxy], "score": round(b.score, 4)}
                for b in verdict.boxes
            ],
            "text": verdict.text,
            "timings_ms": {part: round(ms, 2) for part, ms in verdict.timings_ms.items()},
        },
    }


def make_app(
    desk: Desk,
    *,
    tokens: Tokens | None = None,
    starting: Callable[[], Awaitable[None]] | None = None,
    newer: Callable[[], Moderator | None] | None = None,
) -> "FastAPI":
    """Make the application.

    Args:
        desk: Judges; closed when the application ends.
        tokens: Of those who may ask; None for anybody.
        starting: Is begun with the application, to give the desk a moderator.
        newer: Is asked every few seconds whether another moderator is to take over from the one at work; None for never.
    """
    with optional():
        from fastapi import FastAPI, Request, Response
        from fastapi.responses import JSONResponse

    @asynccontextmanager
    async def whole_life(_: FastAPI) -> AsyncIterator[None]:
        beside = [asyncio.ensure_future(starting())] if starting else []
        beside += [asyncio.create_task(_follow(desk, newer))] if newer else []
        yield
        for task in beside:
            task.cancel()
        await desk.close()

    # an address with a slash too many is told so: a redirection has no words, and many clients do not send a body twice.
    # pages that show the interface would fetch their scripts from elsewhere
    app = FastAPI(
        title="Tilth moderation",
        version="1",
        redirect_slashes=False,
        lifespan=whole_life,
        docs_url=None,
        redoc_url=None,
    )
    app.add_middleware(Counted, metrics=desk.metrics)
    started = int(time.time())

    def check(request: Request) -> None:
        if tokens is not None and not tokens(request.headers.get("authorization", "")):
            told = "a token is needed that this server knows; send Authorization: Bearer TOKEN"
            raise _Refused(401, told, "token", code="invalid_api_key", unread=True, www_authenticate="Bearer")

    @app.post("/v1/moderations", openapi_extra={"requestBody": BODY}, responses=ANSWERS)
    async def moderations(request: Request) -> Response:
        began, id_ = time.perf_counter(), request_id(request)
        try:
            check(request)
            by, verdicts = await _judged(desk, request)
        except HungUp as error:
            log.info("id=%s status=499 the client hung up after %s bytes of its request", id_, error)
            desk.metrics.refused("hung_up")
            return Response(status_code=499)  # which nobody is there to read
        except _Refused as no:
            desk.metrics.refused(no.reason)
            return no.answer(id_)
        except Exception:
            log.exception("id=%s failed", id_)
            desk.metrics.refused("broken")
            return refusal(500, f"internal error; the log has it under {id_}", id_)
        log.info("id=%s status=200 %s ms=%.0f", id_, _counts(verdicts), 1000 * (time.perf_counter() - began))
        results = [result(verdict, by.judged_in_texts) for verdict in verdicts]
        return JSONResponse({"id": id_, "model": by.name, "results": results}, headers={"x-request-id": id_})

    @app.head("/healthz", include_in_schema=False)
    @app.get("/healthz")
    async def healthz() -> dict[str, str]:
        return {"status": "ok"}

    @app.head("/readyz", include_in_schema=False)
    @app.get("/readyz", responses={503: {"description": "Loading, or about to end."}})
    async def readyz() -> Response:
        if desk.moderator is None or desk.draining:
            return JSONResponse({"status": "draining" if desk.draining else "loading"}, 503)
        return JSONResponse({"status": "ready", "model": desk.moderator.name})

    @app.get("/metrics", responses={200: {"content": {"text/plain": {}}, "description": "For Prometheus."}})
    async def metrics() -> Response:
        page, kind = desk.metrics.page()
        return Response(page, media_type=kind)

    @app.get("/v1/models", responses=ANSWERS)
    async def models(request: Request) -> Response:
        try:
            check(request)
            moderator = _ready(desk)
        except _Refused as no:
            return no.answer(request_id(request))
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
        return JSONResponse({"object": "list", "data": [one]})

    refuse_elsewhere(app)
    return app


def _ready(desk: Desk) -> Moderator:
    if desk.moderator is None:
        told = "the bundle is still being loaded; try again in a few seconds"
        raise _Refused(503, told, "loading", unread=True, retry_after=str(LOADING_S))
    return desk.moderator


async def _judged(desk: Desk, request: "Request") -> tuple[Moderator, list[Verdict]]:
    """Let a request in, read it, and judge what it brings.

    Raises:
        _Refused: It is not judged.
        HungUp: The client went away.
    """
    limits = desk.limits
    _ready(desk)
    read = False
    try:
        with desk.door.enter(length_of(request)) as place:
            async with asyncio.timeout(limits.timeout_s):
                body = await read_body(request, limits.body_bytes)
                desk.door.came(place, len(body))
                read = True
                return await desk.work_on(body, request.headers.get("content-type", ""), place)
    except Full as full:
        raise _Refused(
            429, str(full), f"full_{full.of}", code="overloaded", unread=True, retry_after=str(full.retry_after_s)
        ) from full
    except TooLarge as error:
        told = f"the body is larger than {limits.body_bytes / 2**20:g} MiB; send fewer or smaller images"
        raise _Refused(413, told, "too_large", unread=True) from error
    except InputError as error:
        param = error.param if isinstance(error, WrongRequest) else ""
        raise _Refused(400, str(error).splitlines()[0], "wrong", param=param, unread=not read) from error
    except TimeoutError as error:
        if not read:
            raise _Refused(408, f"the request did not come within {limits.timeout_s:g} s", "slow_client") from error
        told = f"no verdict within {limits.timeout_s:g} s; try again later"
        raise _Refused(504, told, "timeout", code="timeout", retry_after=str(desk.door.retry_after_s)) from error


async def _follow(desk: Desk, newer: Callable[[], Moderator | None]) -> None:
    """Let another moderator take over whenever there is one; one that cannot be loaded is told, and the old one stays."""
    told = ""
    while True:
        await asyncio.sleep(FOLLOW_S)
        before = desk.moderator.name if desk.moderator else "none"
        try:
            found = await asyncio.to_thread(newer)
        except Exception as error:  # whatever it is, the old one goes on, and so does looking for another
            if str(error) != told:
                log.exception("the new bundle cannot be served, %s stays", before)
            told = str(error)
            continue
        if found is not None:
            log.info("%s takes over from %s", found.name, before)
            desk.change(found)


def _counts(verdicts: Sequence[Verdict]) -> str:
    kinds = Counter(f"{verdict.of}s" for verdict in verdicts)
    counts = Counter(v.action.value for v in verdicts) + Counter(f"stage{v.stage}" for v in verdicts)
    counts += Counter("degraded" for v in verdicts if v.degraded)
    return " ".join(f"{name}={n}" for part in (kinds, counts) for name, n in sorted(part.items()))
