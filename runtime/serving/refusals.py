"""What a client is told when it gets no answer: OpenAI's shape of an error, in words for a person, on every route."""

import logging
import re
import uuid
from typing import TYPE_CHECKING

from tilth.extras import optional

if TYPE_CHECKING:
    from fastapi import FastAPI, Request, Response

log = logging.getLogger("tilth.serve")


def request_id(request: "Request") -> str:
    """Take the client's id if it is harmless in a log, else make one."""
    given = request.headers.get("x-request-id", "")
    return given if re.fullmatch(r"[A-Za-z0-9._-]{1,64}", given) else f"modr-{uuid.uuid4().hex}"


def refusal(
    status: int, message: str, id_: str, *, param: str = "", code: str = "", headers: dict[str, str] | None = None
) -> "Response":
    """Make the answer to a request that is not worked on, and note it in the log.

    Args:
        status: Of HTTP.
        message: For a person.
        id_: Of the request.
        param: The part of the body that is wrong, if one is.
        code: The reason for programs, if there is one.
        headers: Beside the request's id.
    """
    from fastapi.responses import JSONResponse

    log.info("id=%s status=%d", id_, status)
    kind = "invalid_request_error" if status < 500 else "server_error"
    body = {"error": {"message": message, "type": kind, "param": param or None, "code": code or None}}
    return JSONResponse(body, status, headers={**(headers or {}), "x-request-id": id_})


def refuse_elsewhere(app: "FastAPI") -> None:
    """Answer in the same shape where no function of ours is reached: unknown addresses, other methods, and what breaks."""
    with optional():
        from fastapi.exceptions import RequestValidationError
        from starlette.exceptions import HTTPException

    routes = ", ".join(
        f"{'/'.join(sorted(methods))} {path}"
        for path, methods in ((r.path, getattr(r, "methods", None)) for r in app.routes if hasattr(r, "path"))
        if methods and path.startswith(("/v1", "/health"))
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
