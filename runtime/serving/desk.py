"""Where requests become verdicts: images are decoded in threads, then judged in batches with those of other requests.

Each part of the work has its own batches, so that reading the words of one image does not hold up Stage 1 of the others. A request is
finished by the moderator that it began with, also when another takes over meanwhile.
"""

import asyncio
import os
from collections.abc import Callable, Coroutine, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from typing import Any, TypeVar

from tilth.errors import InputError
from tilth.images import Image
from tilth.runtime.serving.admission import Door, Limits, Place
from tilth.runtime.serving.batches import Batches
from tilth.runtime.serving.body import items_of
from tilth.runtime.serving.doubts import Doubts
from tilth.runtime.serving.metrics import Metrics
from tilth.runtime.serving.payload import Item, Text, Upload, Url, bytes_of, images_of, is_remote, pixels_of, told_of
from tilth.runtime.serving.remote import Remote
from tilth.runtime.stages.cascade import Case, Moderator, Verdict

T = TypeVar("T")
SMALL, FEW = 2**16, 2**16  # bytes of a body, and pixels, that are read at once: going to a thread and back takes longer


@dataclass(frozen=True, kw_only=True)
class Batching:
    """How many images and texts of different requests are worked on together.

    Args:
        stage1: Images that Stage 1 sees at once.
        language: Prompts that the language model judges at once.
        workers: Batches of Stage 1 that are worked on at the same time.
        readers: Images whose words are read at the same time.
    """

    stage1: int = 32
    language: int = 16
    workers: int = 2  # one prepares its pixels while the other's are judged
    readers: int = 1

    def __post_init__(self) -> None:
        """Check the numbers.

        Raises:
            InputError: One is none.
        """
        for name in ("stage1", "language", "workers", "readers"):
            if getattr(self, name) < 1:
                raise InputError(f"{name} must be at least 1, got {getattr(self, name)}")


class _Bench:
    """A moderator with its batches; ends once it is retired and has answered all that it began."""

    def __init__(self, moderator: Moderator, batching: Batching, told: Callable[[str], Callable[[int], None]]) -> None:
        self.moderator = moderator
        one = partial(Batches[Any, Any], workers=1)
        self.see = one(
            moderator.see, name="stage1", most=batching.stage1, workers=batching.workers, told=told("stage1")
        )
        self.read = one(self._read, name="ocr", most=1, workers=batching.readers, told=told("ocr"))
        asks = {"most": batching.language, "workers": moderator.stage2.judge.workers if moderator.stage2 else 1}
        self.judge = one(moderator.judge, name="language", told=told("language"), **asks)
        self.texts = one(moderator.moderate_texts, name="texts", told=told("texts"), **asks)
        self.parts = (self.see, self.read, self.judge, self.texts)
        self._busy, self._retired = 0, False

    def __enter__(self) -> "_Bench":
        self._busy += 1
        return self

    def __exit__(self, *_: object) -> None:
        self._busy -= 1
        self._close_if_done()

    def retire(self) -> None:
        self._retired = True
        self._close_if_done()

    def _close_if_done(self) -> None:
        if self._retired and not self._busy:
            for part in self.parts:
                part.close()

    def _read(self, cases: Sequence[tuple[Image, Case]]) -> list[Case]:
        return [self.moderator.read(image, case) for image, case in cases]

    async def on_images(self, images: Sequence[Image]) -> list[Verdict]:
        seen = await self.see(images)
        cases = await self.read([(i, one) for i, one in zip(images, seen, strict=True) if isinstance(one, Case)])
        judged = iter(await self.judge(cases))
        return [next(judged) if isinstance(one, Case) else one for one in seen]


class Desk:
    """Judges what requests bring; lives in the event loop.

    Args:
        moderator: Judges; None until one is ready.
        doubts: Are offered each image with its verdict.
        limits: Of a request, and of all inside.
        batching: How many are worked on together.
        remote: Fetches images that lie elsewhere; None where none are fetched.

    Attributes:
        draining: Whether the server is about to end, and should be sent nothing more.
    """

    def __init__(
        self,
        moderator: Moderator | None = None,
        doubts: Doubts | None = None,
        *,
        limits: Limits | None = None,
        batching: Batching | None = None,
        remote: Remote | None = None,
    ) -> None:
        self.limits, self.doubts, self.remote, self.draining = limits or Limits(), doubts, remote, False
        self.door, self.metrics = Door(self.limits), Metrics()
        self._batching = batching or Batching()
        self._bench: _Bench | None = None
        self._decoding = ThreadPoolExecutor(min(8, max(2, os.cpu_count() or 1)), thread_name_prefix="decode")
        self.metrics.watch(self.door, self._waiting, lambda: self.ready)
        if moderator is not None:
            self.change(moderator)

    @property
    def moderator(self) -> Moderator | None:
        """Who judges what comes now."""
        return self._bench.moderator if self._bench else None

    @property
    def ready(self) -> bool:
        """Whether requests should be sent here."""
        return self._bench is not None and not self.draining

    def change(self, moderator: Moderator) -> None:
        """Let another moderator judge from now on; what is being judged is finished by the one who began."""
        before, self._bench = self._bench, _Bench(moderator, self._batching, self.metrics.batch)
        self.metrics.serves(moderator)
        if before is not None:
            before.retire()

    async def work_on(self, body: bytes, content_type: str, place: Place) -> tuple[Moderator, list[Verdict]]:
        """Return the verdicts on what a body asks about, in its order, and who gave them.

        Args:
            body: Of a request.
            content_type: What it says the body is.
            place: The room that it takes.

        Raises:
            InputError: It asks for nothing that can be judged, for too much, or an image cannot be decoded.
        """
        bench = self._bench
        if bench is None:
            raise RuntimeError("nothing is served yet")
        with bench:
            told = (body, content_type, self.limits.pixels)
            items, files, pixels = _opened(*told) if len(body) <= SMALL else await self._in_thread(_opened, *told)
            texts = [one.text for one in items if isinstance(one, Text)]
            if texts:
                bench.moderator.check_texts()
            judged = await _together(bench.texts(texts), self._on_images(bench, items, files, pixels, place))
            on_texts, on_images = map(iter, judged)
            verdicts = [next(on_texts if isinstance(one, Text) else on_images) for one in items]
        self.metrics.judged(verdicts)
        return bench.moderator, verdicts

    async def close(self) -> None:
        """Let the threads, the connections and the folder of doubts go."""
        if self._bench is not None:
            self._bench.retire()
        self._decoding.shutdown(wait=False)
        if self.remote is not None:
            await self.remote.close()
        if self.doubts is not None:
            await asyncio.to_thread(self.doubts.close)

    async def _on_images(
        self, bench: _Bench, items: Sequence[Item], files: dict[int, bytes], pixels: int, place: Place
    ) -> list[Verdict]:
        if away := {i: one.url for i, one in enumerate(items) if isinstance(one, Url) and i not in files}:
            came = await _together(*(self._fetched(i, url) for i, url in away.items()))
            files = dict(sorted({**files, **dict(zip(away, came, strict=True))}.items()))
            pixels = await self._in_thread(pixels_of, files, self.limits.pixels)
        if not files:
            return []
        await self.door.hold(place, pixels)
        images = images_of(files) if pixels <= FEW else await self._in_thread(images_of, files)
        verdicts = await bench.on_images(images)
        if self.doubts is not None:
            for data, verdict in zip(files.values(), verdicts, strict=True):
                self.doubts.offer(data, verdict, bench.moderator)
        return verdicts

    async def _fetched(self, place: int, url: str) -> bytes:
        with told_of(place):
            return await self.remote(url) if self.remote else bytes_of(url)  # which says why not

    def _waiting(self) -> dict[str, int]:
        return {part.name: len(part) for part in self._bench.parts} if self._bench else {}

    def _in_thread(self, work: Callable[..., T], *given: Any) -> "asyncio.Future[T]":
        return asyncio.get_running_loop().run_in_executor(self._decoding, partial(work, *given))


async def _together(*work: Coroutine[Any, Any, T]) -> list[T]:
    """Do several things at once; what goes wrong with one ends the others."""
    try:
        async with asyncio.TaskGroup() as group:
            tasks = [group.create_task(one) for one in work]
    except ExceptionGroup as several:
        raise several.exceptions[0] from None
    return [task.result() for task in tasks]


def _opened(body: bytes, content_type: str, limit: int) -> tuple[list[Item], dict[int, bytes], int]:
    """Read a body: what is to be judged, the files of those images that came with it, each under its place, and their pixels."""
    items = items_of(body, content_type)
    files = {}
    for i, one in enumerate(items):
        if isinstance(one, Upload):
            files[i] = one.data
        elif isinstance(one, Url) and not is_remote(one.url):
            with told_of(i):
                files[i] = bytes_of(one.url)
    return items, files, pixels_of(files, limit)
