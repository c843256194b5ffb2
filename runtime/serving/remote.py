"""Images that lie elsewhere: fetched from hosts that the operator has named and from no other, within limits, and never from inside.

A host is named as `images.example.org`, with a port where it is not that of its scheme, or as `*.example.org` for all below it. What a
star lets in must lie at a public address, looked up and checked right when it is connected to; a host that is named in full may lie
anywhere. A redirection is followed when it leads to a host that is allowed, too.
"""

import asyncio
import re
import socket
from collections.abc import Sequence
from typing import Any
from urllib.parse import urljoin, urlsplit

from tilth.errors import InputError
from tilth.extras import optional
from tilth.sources.public import is_public

PORTS = {"http": 80, "https": 443}
FETCH_S = 10.0
REDIRECTS = 3
AT_ONCE = 8  # images that are fetched at the same time, for all requests together
MOVED = (301, 302, 303, 307, 308)
KINDS = ("image/", "application/octet-stream", "binary/octet-stream")
HOST = re.compile(r"(\*\.)?[a-z0-9]([a-z0-9.-]*[a-z0-9])?(:[0-9]{1,5})?")
SEND = "send the image itself, as data:image/png;base64,…"


class Remote:
    """Fetches images from allowed hosts.

    Args:
        hosts: Names, with a port or a star.
        max_bytes: Of an image.
        timeout_s: For an image, redirections and all.

    Raises:
        InputError: A host is none.
    """

    def __init__(self, hosts: Sequence[str], *, max_bytes: int, timeout_s: float = FETCH_S) -> None:
        with optional():
            import httpcore
        for host in hosts:
            if not HOST.fullmatch(host.lower()):
                raise InputError(
                    f"--allow-host {host!r}: expected a host such as images.example.org, cdn.local:9000 or *.example.org"
                )
        self._hosts = frozenset(host.lower() for host in hosts)
        self._max_bytes, self._timeout_s = max_bytes, timeout_s
        self._turn = asyncio.Semaphore(AT_ONCE)
        self._pool = httpcore.AsyncConnectionPool(max_connections=4 * AT_ONCE, network_backend=_backend(self._named))

    async def __call__(self, url: str) -> bytes:
        """Return the image at a URL.

        Raises:
            InputError: Its host is not allowed, or does not give an image in time; nothing of the URL is said.
        """
        import httpcore

        try:
            async with self._turn, asyncio.timeout(self._timeout_s):
                return await self._follow(url.strip())
        except TimeoutError as error:
            raise InputError(f"the image could not be fetched within {self._timeout_s:g} s; {SEND}") from error
        except (httpcore.NetworkError, httpcore.TimeoutException, httpcore.ProtocolError, OSError) as error:
            raise InputError(f"the image could not be fetched, its host cannot be reached; {SEND}") from error
        except (httpcore.UnsupportedProtocol, ValueError) as error:
            raise InputError(f"the image's URL cannot be read; {SEND}") from error

    async def close(self) -> None:
        """Let the connections go."""
        await self._pool.aclose()

    async def _follow(self, url: str) -> bytes:
        for _ in range(REDIRECTS + 1):
            status, headers, data = await self._get(url)
            if status in MOVED and "location" in headers:
                url = urljoin(url, headers["location"])
                continue
            if status != 200:
                raise InputError(f"the image could not be fetched, its host answered {status}; {SEND}")
            if not headers.get("content-type", KINDS[1]).lower().startswith(KINDS):
                raise InputError(f"what was fetched is not called an image by its host; {SEND}")
            return data
        raise InputError(f"the image could not be fetched after {REDIRECTS} redirections; {SEND}")

    async def _get(self, url: str) -> tuple[int, dict[str, str], bytes]:
        import httpcore

        parts = urlsplit(url)
        host, port = parts.hostname or "", parts.port or PORTS.get(parts.scheme, 0)
        if parts.scheme not in PORTS or not self._allows(host, port) or parts.username is not None:
            raise InputError(f"images are not fetched from this host; {SEND}")
        # of the parts that were looked at, so that no other reader finds another host in the same text
        target = (parts.path or "/") + (f"?{parts.query}" if parts.query else "")
        asked = httpcore.URL(scheme=parts.scheme, host=host, port=parts.port, target=target)
        headers = (("User-Agent", "tilth"), ("Accept", "image/*"))
        async with self._pool.stream("GET", asked, headers=headers) as answer:
            told = {name.decode("latin-1").lower(): value.decode("latin-1") for name, value in answer.headers}
            data = bytearray()
            if answer.status == 200:
                async for chunk in answer.aiter_stream():
                    data += chunk
                    if len(data) > self._max_bytes:
                        raise InputError(f"the image is larger than {self._max_bytes / 2**20:g} MiB")
            return answer.status, told, bytes(data)

    def _named(self, host: str, port: int) -> bool:
        return f"{host}:{port}" in self._hosts or (port in PORTS.values() and host in self._hosts)

    def _allows(self, host: str, port: int) -> bool:
        _, *above = host.split(".")
        stars = [f"*.{'.'.join(above[i:])}" for i in range(len(above))]
        return self._named(host, port) or any(self._named(star, port) for star in stars)


def _backend(named: Any) -> Any:
    """Return a network backend that connects to public addresses, and to others only of hosts that are named in full."""
    import httpcore

    class Guarded(httpcore.AnyIOBackend):
        async def connect_tcp(self, host: str, port: int, *rest: Any, **more: Any) -> Any:
            try:
                found = await asyncio.get_running_loop().getaddrinfo(host, port, type=socket.SOCK_STREAM)
            except (OSError, UnicodeError) as error:
                raise httpcore.ConnectError("no address") from error
            addresses = [str(entry[4][0]) for entry in found]
            if not named(host, port) and not all(map(is_public, addresses)):
                raise InputError(f"images are not fetched from this host; {SEND}")
            return await super().connect_tcp(addresses[0], port, *rest, **more)

    return Guarded()
