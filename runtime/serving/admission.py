"""Who comes in: whoever has a token, while there is room. Both are settled before a byte of a body is read.

Room is counted in requests, in bytes of their bodies and in pixels of their images. Where there is none, the answer is to come back
after so many seconds as it takes, at the measured rate, until what is inside is done.
"""

import asyncio
import hashlib
import hmac
import math
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path

from tilth.errors import InputError, TilthError

SMOOTHING = 0.05  # of the time that a request takes, when the next one ends
LONGEST_S = 60  # that anybody is told to wait
SHORTEST_TOKEN = 16  # characters; what is shorter can be guessed


@dataclass(frozen=True, kw_only=True)
class Limits:
    """What a request may ask for, and how much is taken in at once.

    Args:
        body_bytes: Of a request's body.
        pixels: Of all images of a request together, as they are decoded.
        timeout_s: Until a request has its answer, in seconds.
        requests: That are inside, at work or waiting.
        bytes_inside: Of the bodies of all requests inside.
        pixels_inside: Of the images of all requests inside.
    """

    body_bytes: int = 32 * 2**20
    pixels: int = 100_000_000
    timeout_s: float = 30.0
    requests: int = 64
    bytes_inside: int = 256 * 2**20
    pixels_inside: int = 200_000_000

    def __post_init__(self) -> None:
        """Check that every request which is allowed also fits in.

        Raises:
            InputError: A limit is none, or one request could ask for more than there is room for.
        """
        for name, limit in asdict(self).items():
            if not limit > 0:
                raise InputError(f"{name} must be above 0, got {limit}")
        room = (
            ("bytes_inside", self.body_bytes, self.bytes_inside),
            ("pixels_inside", self.pixels, self.pixels_inside),
        )
        for name, one_request, all_ in room:
            if one_request > all_:
                raise InputError(f"{name} must hold one request, which may have {one_request:,}; got {all_:,}")


class Full(TilthError):
    """There is no room.

    Args:
        of: What there is too much of: `requests`, `bytes` or `pixels`.
        retry_after_s: When to come back.
    """

    def __init__(self, of: str, retry_after_s: int) -> None:
        super().__init__(f"the server is full; try again in {retry_after_s} s")
        self.of, self.retry_after_s = of, retry_after_s


class Place:
    """The room that one request takes.

    Attributes:
        bytes: Of its body.
        pixels: Of its images.
    """

    def __init__(self, bytes_: int) -> None:
        self.bytes, self.pixels = bytes_, 0


class Door:
    """Lets requests in while there is room; used in the event loop alone.

    Args:
        limits: How much there is.
        clock: Seconds.

    Attributes:
        requests: That are inside.
        bytes: Of their bodies.
        pixels: Of their images.
    """

    def __init__(self, limits: Limits, clock: Callable[[], float] = time.monotonic) -> None:
        self._limits, self._clock = limits, clock
        self.requests = self.bytes = self.pixels = 0
        self._turn, self._went = asyncio.Lock(), asyncio.Event()
        self._each_s, self._since = 0.0, 0.0

    @contextmanager
    def enter(self, length: int | None) -> Iterator[Place]:
        """Hold room for a request.

        Args:
            length: Bytes that its body is said to have; None where nobody knows, which takes the room of the largest.

        Raises:
            Full: There is none.
        """
        taken = min(self._limits.body_bytes if length is None else length, self._limits.body_bytes)
        if self.requests >= self._limits.requests:
            raise Full("requests", self.retry_after_s)
        if self.bytes + taken > self._limits.bytes_inside:
            raise Full("bytes", self.retry_after_s)
        if self._turn.locked():  # somebody waits for room for pixels already
            raise Full("pixels", self.retry_after_s)
        if not self.requests:
            self._since = self._clock()
        place = Place(taken)
        self.requests += 1
        self.bytes += taken
        try:
            yield place
        finally:
            self.requests -= 1
            self.bytes -= place.bytes
            self.pixels -= place.pixels
            self._went.set()
            now = self._clock()
            gap = now - self._since
            self._each_s += SMOOTHING * (gap - self._each_s) if self._each_s else gap
            self._since = now

    def came(self, place: Place, bytes_: int) -> None:
        """Note how long a body really is."""
        self.bytes += bytes_ - place.bytes
        place.bytes = bytes_

    async def hold(self, place: Place, pixels: int) -> None:
        """Wait until there is room for the pixels of a request, in the order in which requests ask."""
        async with self._turn:
            while self.pixels and self.pixels + pixels > self._limits.pixels_inside:
                self._went.clear()
                await self._went.wait()
            self.pixels += pixels
            place.pixels += pixels

    @property
    def retry_after_s(self) -> int:
        """Seconds until those inside will be done, if they take as long as those before."""
        return max(1, min(LONGEST_S, math.ceil(self.requests * self._each_s)))


class Tokens:
    """The tokens of those who may ask; only their digests are held.

    Args:
        tokens: At least one.
    """

    def __init__(self, tokens: Sequence[str]) -> None:
        self._digests = [_digest(token) for token in tokens]

    @classmethod
    def read(cls, path: Path) -> "Tokens":
        """Read a file with a token a line; empty lines, and those that begin with #, say nothing.

        Raises:
            InputError: There is no such file, no token in it, or one that is none.
        """
        try:
            lines = path.read_text(encoding="utf-8").splitlines()
        except (OSError, UnicodeDecodeError) as error:
            raise InputError(f"{path}: no file of tokens that can be read; expected one a line") from error
        found = [(number, line.strip()) for number, line in enumerate(lines, 1) if line.strip()[:1] not in ("", "#")]
        for number, token in found:
            if len(token) < SHORTEST_TOKEN or not token.isascii() or not token.isprintable() or " " in token:
                raise InputError(
                    f"{path}:{number}: expected a token of at least {SHORTEST_TOKEN} ASCII characters without spaces; "
                    "make one with: openssl rand -hex 32"
                )
        if not found:
            raise InputError(f"{path}: no token in it; expected one a line")
        return cls([token for _, token in found])

    def __call__(self, authorization: str) -> bool:
        """Tell whether the header `Authorization` holds one of them; takes as long for any that does not."""
        scheme, _, token = authorization.partition(" ")
        given = _digest(token.strip())
        same = [hmac.compare_digest(given, one) for one in self._digests]
        return any(same) and scheme.lower() == "bearer"


def _digest(token: str) -> bytes:
    return hashlib.sha256(token.encode()).digest()
