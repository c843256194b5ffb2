"""A corpus that is a list of URLs: fetched politely, from public addresses only, each image once.

Hosts are asked as their `robots.txt` allows, two requests at a time with a pause between them. An answer whose `X-Robots-Tag`
says `noai` or `noimageai` is not used. Every connection, after every redirect, goes to an address that was looked up and
checked right then, so that no name can lead into a private network.
"""

import hashlib
import os
import socket
import threading
import time
from collections import OrderedDict
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any
from urllib.parse import urljoin, urlsplit
from urllib.robotparser import RobotFileParser

from tilth.errors import InputError, Unavailable
from tilth.extras import optional
from tilth.images import MAX_BYTES
from tilth.mining.corpora.addresses import addresses, check_list, encode
from tilth.mining.corpora.corpus import Item
from tilth.sources.public import is_public
from tilth.sources.walk import LeftAlone

AGENT = "tilth"
AT_ONCE = 2  # requests to a host
PAUSE_S = 0.1  # between two requests to a host
TIMEOUT_S = 20.0
TRIES = 3
MAX_REDIRECTS = 5
MAX_ROBOTS = 512 * 1024  # bytes
HOSTS_KEPT = 10_000
ASKED_AROUND = 5  # other hosts of a list, when one cannot be reached and none has answered yet
UNWILLING = ("noai", "noimageai")


class Busy(InputError):
    """The host may answer later."""


class Unreachable(Busy):
    """Nobody answers at the address."""


def _backend(allowed: Callable[[str], bool]) -> Any:
    """Return a network backend that connects to allowed addresses only, whatever a name resolves to."""
    import httpcore

    class Guarded(httpcore.SyncBackend):
        def connect_tcp(self, host: str, port: int, *rest: Any, **more: Any) -> Any:
            try:
                found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)
            except (OSError, UnicodeError) as error:
                raise httpcore.ConnectError(f"{host} has no address") from error
            addresses = [str(entry[4][0]) for entry in found]
            if not all(map(allowed, addresses)):
                raise InputError(f"{host} is not a public address")
            return super().connect_tcp(addresses[0], port, *rest, **more)

    return Guarded()


class _Host:
    """What is known of a host: what its robots.txt allows, and when it was last asked."""

    def __init__(self) -> None:
        self.gate = threading.Semaphore(AT_ONCE)
        self.lock = threading.Lock()
        self.robots: RobotFileParser | None = None
        self.last = 0.0

    def wait(self) -> None:
        """Wait until the host may be asked again."""
        with self.lock:
            time.sleep(max(0.0, self.last + PAUSE_S - time.monotonic()))
            self.last = time.monotonic()


def _origin(url: str) -> str:
    parts = urlsplit(url)
    return f"{parts.scheme}://{parts.netloc}"


def _text(header: bytes) -> str:
    """Read a header; addresses in it are often UTF-8, whatever the standard says."""
    try:
        return header.decode()
    except UnicodeDecodeError:
        return header.decode("latin-1")


class UrlCorpus:
    """The images that a list of URLs leads to, kept in a folder once fetched.

    Args:
        path: A text file with a URL a line, or a table (`.csv`, `.tsv`) with a column `url`.
        cache: Folder for what was fetched.
        allowed: Says which addresses may be connected to; public ones when None.

    Raises:
        InputError: There is no such list, or it has no column of URLs.
    """

    def __init__(self, path: Path, cache: Path, *, allowed: Callable[[str], bool] | None = None) -> None:
        with optional():
            import httpcore
        if not path.is_file():
            raise InputError(f"{path}: no such list of URLs")
        self.name, self.place = path.stem, str(path.resolve())
        self._path, self._cache = path, cache
        self.left_alone = LeftAlone()
        check_list(path)
        self._answered = False  # by any host
        self._pool = httpcore.ConnectionPool(max_connections=32, network_backend=_backend(allowed or is_public))
        self._hosts: OrderedDict[str, _Host] = OrderedDict()
        self._lock = threading.Lock()

    def items(self) -> Iterator[Item]:
        """Yield the URLs in the order of the list; one that comes again is the same item."""
        for url in addresses(self._path):
            yield Item(key=url)

    def stamp(self, key: str) -> str:
        """Return nothing: what was fetched is kept, so it never changes."""
        return ""

    def about(self, key: str) -> dict[str, str]:
        """Return the URL."""
        return {"url": key}

    def read(self, key: str) -> bytes:
        """Return the image of a URL, from the network the first time.

        Raises:
            InputError: The address is not public, the host forbids it or does not have it, or it does not answer.
            Unavailable: Neither this host nor others of the list can be reached.
        """
        name = hashlib.sha256(key.encode()).hexdigest()
        path = self._cache / name[:2] / name
        if path.exists():
            return path.read_bytes()
        try:
            data = self._fetch_patiently(encode(key))
        except Unreachable as error:
            if not self._answered:
                self._ask_around(str(error))
            raise
        path.parent.mkdir(parents=True, exist_ok=True)
        partial = path.with_suffix(f".{threading.get_ident()}")
        partial.write_bytes(data)
        os.replace(partial, path)
        return data

    def _ask_around(self, why: str) -> None:
        """Find out whether one host is down or the network is.

        Raises:
            Unavailable: Some other hosts of the list do not answer either.
        """
        origins: dict[str, None] = {}
        for url in addresses(self._path):
            with suppress(InputError):
                origins[_origin(encode(url))] = None
            if len(origins) >= HOSTS_KEPT:
                break
        for origin in [*origins][:: max(1, len(origins) // ASKED_AROUND)][:ASKED_AROUND]:
            try:
                self._get(_Host(), f"{origin}/robots.txt", MAX_ROBOTS)
            except Unreachable:
                continue
            except InputError:
                return  # an answer, if not a good one
        if not self._answered:
            raise Unavailable(
                f"{self._path.name}: no host of it can be reached: {why}; check the network, then run again"
            )

    def _fetch_patiently(self, url: str) -> bytes:
        from tenacity import Retrying, retry_if_exception_type, stop_after_attempt, wait_random_exponential

        tries = Retrying(
            retry=retry_if_exception_type(Busy), stop=stop_after_attempt(TRIES), reraise=True,
            wait=wait_random_exponential(0.5, max=10),
        )  # fmt: skip
        data: bytes = tries(self._fetch, url)
        return data

    def _fetch(self, url: str) -> bytes:
        for _ in range(MAX_REDIRECTS + 1):
            host = self._host(url)
            if host.robots and not host.robots.can_fetch(AGENT, url):
                raise InputError(f"{url}: robots.txt forbids it")
            status, headers, data = self._get(host, url, MAX_BYTES)
            if status in (301, 302, 303, 307, 308) and "location" in headers:
                url = encode(urljoin(url, headers["location"]))
                continue
            if status == 429 or status >= 500:
                raise Busy(f"{url}: the host answered {status}; try again later with --retry-failed")
            if status != 200:
                raise InputError(f"{url}: the host answered {status}")
            if any(word in headers.get("x-robots-tag", "").lower() for word in UNWILLING):
                raise InputError(f"{url}: its owner does not want it used for AI")
            return data
        raise InputError(f"{url}: more than {MAX_REDIRECTS} redirects")

    def _get(self, host: _Host, url: str, most: int) -> tuple[int, dict[str, str], bytes]:
        import httpcore

        timeouts = dict.fromkeys(("connect", "read", "write", "pool"), TIMEOUT_S)
        with host.gate:
            host.wait()
            began = time.monotonic()
            try:
                with self._pool.stream(
                    "GET", url, headers={"User-Agent": AGENT, "Accept": "image/*,*/*"}, extensions={"timeout": timeouts}
                ) as answer:
                    chunks, size = [], 0
                    for chunk in answer.iter_stream():
                        chunks.append(chunk)
                        size += len(chunk)
                        if size > most:
                            raise InputError(f"{url}: larger than {most // 2**20} MiB")
                        if time.monotonic() - began > 3 * TIMEOUT_S:
                            raise Busy(f"{url}: takes too long")
                    headers = {k.decode("latin-1").lower(): _text(v) for k, v in answer.headers}
                    self._answered = True
                    return int(answer.status), headers, b"".join(chunks)
            except (httpcore.UnsupportedProtocol, httpcore.LocalProtocolError, ValueError) as error:
                raise InputError(f"{url}: not an http address") from error
            except (httpcore.NetworkError, httpcore.TimeoutException, httpcore.RemoteProtocolError) as error:
                raise Unreachable(f"{url}: cannot be reached: {type(error).__name__} {error}".rstrip()) from error

    def _host(self, url: str) -> _Host:
        """Return what is known of the host of a URL; its robots.txt is read once."""
        origin = _origin(url)
        with self._lock:
            host = self._hosts.setdefault(origin, _Host())
            self._hosts.move_to_end(origin)
            while len(self._hosts) > HOSTS_KEPT:
                self._hosts.popitem(last=False)
        if host.robots is None:
            self._read_robots(host, origin)
        return host

    def _read_robots(self, host: _Host, origin: str) -> None:
        rules = RobotFileParser()
        url = origin + "/robots.txt"
        for _ in range(MAX_REDIRECTS):
            status, headers, data = self._get(host, url, MAX_ROBOTS)
            if status in (301, 302, 303, 307, 308) and "location" in headers:
                url = encode(urljoin(url, headers["location"]))
                continue
            if status >= 500:
                raise Busy(f"{url}: the host answered {status}; its rules are unknown")
            # as RFC 9309 has it: no such file allows everything
            rules.parse(data.decode("utf-8", "replace").splitlines() if status == 200 else [])
            break
        else:
            rules.parse([])
        host.robots = rules
