"""The door: who has the token comes in, by a link first and by its cookie from then on; all else is told 403.

It stands before everything, web sockets too. A page of another origin is sent away even when the browser brings the cookie along,
and a body that is larger than an upload may be is not read.
"""

import hashlib
import hmac
import http.cookies
from collections.abc import Awaitable, Callable, MutableMapping
from typing import Any
from urllib.parse import parse_qs, urlencode, urlsplit

Scope = MutableMapping[str, Any]
Message = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]
App = Callable[[Scope, Receive, Send], Awaitable[None]]

HEADERS = (
    (b"x-content-type-options", b"nosniff"),
    (b"referrer-policy", b"no-referrer"),
    (b"x-frame-options", b"DENY"),
    (b"cross-origin-resource-policy", b"same-origin"),
)


class TooLarge(Exception):
    """A body is larger than it may be."""


class Door:
    """Lets in who has the token.

    Args:
        app: All that is behind.
        token: Secret.
        name: Of the cookie; another for each port, as browsers do not tell ports apart.
        most_bytes: Of a body.
    """

    def __init__(self, app: App, token: str, name: str, most_bytes: int) -> None:
        self._app, self._name, self._most = app, name, most_bytes
        self._digest = _digest(token)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one request, or hand it on."""
        if scope["type"] not in ("http", "websocket"):
            await self._app(scope, receive, send)
            return
        headers = {name.lower(): value for name, value in scope["headers"]}
        query = parse_qs(scope.get("query_string", b"").decode("latin-1"))
        if scope["type"] == "http" and scope["method"] == "GET" and self._knows(query.get("token", [""])[0]):
            await self._welcome(scope, query, send)
        elif not self._knows(self._cookie(headers)):
            why = "this console opens with the link that `tilth console` printed; open that one"
            await _refuse(scope, receive, send, 403, why)
        elif not _same_origin(headers):
            await _refuse(scope, receive, send, 403, "a page of another site asked for this; open the console itself")
        elif int(headers.get(b"content-length", b"0") or 0) > self._most:
            await _refuse(
                scope, receive, send, 413, f"an upload holds at most {self._most // 2**20:,} MiB; name a folder instead"
            )
        else:
            await self._hand_on(scope, receive, send)

    def _knows(self, token: str) -> bool:
        return bool(token) and hmac.compare_digest(_digest(token), self._digest)

    def _cookie(self, headers: dict[bytes, bytes]) -> str:
        try:
            told = http.cookies.SimpleCookie(headers.get(b"cookie", b"").decode("latin-1"))
        except http.cookies.CookieError:
            return ""
        return told[self._name].value if self._name in told else ""

    async def _welcome(self, scope: Scope, query: dict[str, list[str]], send: Send) -> None:
        """Put the token into a cookie that no script reads, and out of the address."""
        rest = urlencode({name: values for name, values in query.items() if name != "token"}, doseq=True)
        path = "/" + scope["path"].lstrip("/")  # two slashes would lead to another host
        cookie = f"{self._name}={query['token'][0]}; HttpOnly; SameSite=Lax; Path=/"
        headers = [
            (b"location", f"{path}{'?' + rest if rest else ''}".encode("latin-1", "replace")),
            (b"set-cookie", cookie.encode()),
        ]
        await send({"type": "http.response.start", "status": 303, "headers": [*headers, *HEADERS]})
        await send({"type": "http.response.body", "body": b""})

    async def _hand_on(self, scope: Scope, receive: Receive, send: Send) -> None:
        came, began = 0, False

        async def counted() -> Message:
            nonlocal came
            message = await receive()
            if message["type"] == "http.request":
                came += len(message.get("body", b""))
                if came > self._most:
                    raise TooLarge
            return message

        async def safe(message: Message) -> None:
            nonlocal began
            if message["type"] == "http.response.start":
                began = True
                message["headers"] = [*message.get("headers", ()), *HEADERS]
            await send(message)

        try:
            await self._app(scope, counted if scope["type"] == "http" else receive, safe)
        except TooLarge:
            if not began:
                await _refuse(scope, receive, send, 413, "an upload is too large; name a folder instead")


def _digest(token: str) -> bytes:
    return hashlib.sha256(token.encode("utf-8", "surrogatepass")).digest()


def _same_origin(headers: dict[bytes, bytes]) -> bool:
    """Tell whether a request comes from a page of this console, or from no page at all."""
    origin = headers.get(b"origin", b"").decode("latin-1")
    return not origin or urlsplit(origin).netloc == headers.get(b"host", b"").decode("latin-1")


async def _refuse(scope: Scope, receive: Receive, send: Send, status: int, why: str) -> None:
    if scope["type"] == "websocket":
        await receive()
        await send({"type": "websocket.close", "code": 1008, "reason": why[:120]})
        return
    headers = [(b"content-type", b"text/plain; charset=utf-8"), (b"connection", b"close"), *HEADERS]
    await send({"type": "http.response.start", "status": status, "headers": headers})
    await send({"type": "http.response.body", "body": f"{why}\n".encode()})
