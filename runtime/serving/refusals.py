"""What a client is told when it gets no answer: OpenAI's shape of an error, in words for a person, on every route."""

import asyncio
import contextlib
import json
import logging
import re
import uuid
from typing import TYPE_CHECKING, Any

from tilth.extras import optional

if TYPE_CHECKING:
    from fastapi import FastAPI, Request, Response
    from starlette.types import Receive, Scope, Send

log = logging.getLogger("tilth.serve")
HEARD_OUT, HEARD_OUT_S = 256 * 2**20, 10  # bytes, and seconds
NO_HTTP = "this is no HTTP/1.1 that can be read, or a body of another length than it says; the server speaks plain HTTP, without TLS"


def request_id(request: "Request") -> str:
    """Take the client's id if it is harmless in a log, else make one."""
    given = request.headers.get("x-request-id", "")
    return given if re.fullmatch(r"[A-Za-z0-9._-]{1,64}", given) else f"modr-{uuid.uuid4().hex}"


def refusal(
    status: int,
    message: str,
    id_: str,
    *,
    param: str = "",
    code: str = "",
    headers: dict[str, str] | None = None,
    unread: bool = False,
) -> "Response":
    """Make the answer to a request that is not worked on, and note it in the log.

    Args:
        status: Of HTTP.
        message: For a person.
        id_: Of the request.
        param: The part of the body that is wrong, if one is.
        code: The reason for programs, if there is one.
        headers: Beside the request's id.
        unread: Whether a body may still be coming. The answer is sent at once, but many clients hear nothing while they send: they
            are heard out for a while afterwards, and nothing of it is kept.
    """
    from fastapi.responses import JSONResponse
    from starlette.datastructures import Headers

    class HeardOut(JSONResponse):
        async def __call__(self, scope: "Scope", receive: "Receive", send: "Send") -> None:
            await send({"type": "http.response.start", "status": self.status_code, "headers": self.raw_headers})
            await send({"type": "http.response.body", "body": self.body, "more_body": True})
            if "expect" not in Headers(scope=scope):  # else the client waits for a word before it sends anything
                with contextlib.suppress(TimeoutError):
                    async with asyncio.timeout(HEARD_OUT_S):
                        await _hear_out(receive)
            await send({"type": "http.response.body", "body": b""})

    log.info("id=%s status=%d", id_, status)
    answer = HeardOut if unread else JSONResponse
    return answer(_shape(status, message, param, code), status, headers={**(headers or {}), "x-request-id": id_})


async def _hear_out(receive: "Receive") -> None:
    came = 0
    while came < HEARD_OUT:
        message = await receive()
        came += len(message.get("body", b""))
        if message["type"] == "http.disconnect" or not message.get("more_body"):
            return


def _shape(status: int, message: str, param: str = "", code: str = "") -> dict[str, Any]:
    kind = "invalid_request_error" if status < 500 else "server_error"
    return {"error": {"message": message, "type": kind, "param": param or None, "code": code or None}}


def protocol() -> type[asyncio.Protocol]:
    """Return uvicorn's protocol, which answers in the same shape what is no HTTP, from the first line or in the midst of a body.

    It is that in plain Python, whatever else is installed: another takes other requests for HTTP.
    """
    from uvicorn.protocols.http.h11_impl import H11Protocol

    class Shaped(H11Protocol):
        def send_400_response(self, msg: str) -> None:
            if self.cycle is None or not self.cycle.response_started or self.cycle.response_complete:
                id_ = f"modr-{uuid.uuid4().hex}"
                log.info("id=%s status=400 no HTTP that can be read", id_)
                body = json.dumps(_shape(400, NO_HTTP)).encode()
                head = f"content-type: application/json\r\ncontent-length: {len(body)}\r\nx-request-id: {id_}\r\nconnection: close"
                self.transport.write(f"HTTP/1.1 400 Bad Request\r\n{head}\r\n\r\n".encode() + body)
            self.transport.close()

    return Shaped


def refuse_elsewhere(app: "FastAPI") -> None:
    """Answer in the same shape where no function of ours is reached: unknown addresses, other methods, and what breaks."""
    with optional():
        from fastapi.exceptions import RequestValidationError
        from starlette.exceptions import HTTPException

    routes = ", ".join(
        f"{'/'.join(sorted(methods))} {path}"
        for path, methods in ((r.path, getattr(r, "methods", None)) for r in app.routes if hasattr(r, "path"))
        if methods and path.startswith(("/v1", "/healthz", "/readyz", "/metrics"))
    )

    @app.exception_handler(HTTPException)
    async def not_here(request: "Request", error: HTTPException) -> "Response":
        asked = f"{request.method} {request.url.path[:100]}"
        if error.status_code == 404:
            told, code = f"there is nothing at {asked}; there are: {routes}", "unknown_url"
        elif error.status_code == 405:
            told, code = f"{asked} is not answered; there are: {routes}", "method_not_supported"
        else:
            told, code = str(error.detail), ""
        return refusal(error.status_code, told, request_id(request), code=code, headers=dict(error.headers or {}))

    @app.exception_handler(RequestValidationError)
    async def not_understood(request: "Request", error: RequestValidationError) -> "Response":
        places = ", ".join(".".join(map(str, one["loc"])) for one in error.errors())
        return refusal(400, f"not understood: {places}", request_id(request))

    @app.exception_handler(Exception)
    async def broken(request: "Request", error: Exception) -> "Response":
        id_ = request_id(request)
        return refusal(500, f"internal error; the log has it under {id_}", id_)
