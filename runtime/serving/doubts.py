"""What the served model is unsure about is kept aside, to be labelled and learned from: the image as it came, and its scores.

Nothing else is kept, no address and no header. An image on a hash list never is. Keeping happens beside answering: a thread of its
own decodes, looks images up and writes; where it cannot keep up, or a disk is full, that is counted, and answers go on.
"""

import logging
import queue
import threading
from collections import Counter
from collections.abc import Callable
from pathlib import Path

from tilth.errors import InputError
from tilth.events import stamp
from tilth.images import HEAD_BYTES, SUFFIX_OF, decode, image_id, kind_of
from tilth.policy import Category, Policy
from tilth.runtime.serving.shelf import Guard, Shelf
from tilth.runtime.stages.cascade import Moderator, Verdict

log = logging.getLogger("tilth.doubts")

MOST = 10_000  # images
WAITING_BYTES = 64 * 2**20  # of images that wait to be kept; what comes beyond is passed over
TOLD_EVERY = 1_000  # images that were seen
COUNTED = ("seen", "doubt", "kept", "copy", "less_doubtful", "busy", "listed", "failed", "pushed_out")
LEAST = 0.01  # of what is to be looked at by a person, however sure it seems


def doubt(verdict: Verdict, policy: Policy, clear_below: float) -> float:
    """Return how unsure a verdict on an image is, in [0, 1]; 0 when nothing was in doubt.

    It is that of the most doubtful category: 1 for a score at `review_above`, where one step up or down changes what happens, and less
    towards `clear_below` and `block_above`. A category that only says where to read is in no doubt, nor is one that nobody judged.
    """
    if verdict.of != "image":
        return 0.0
    named = (c for c in policy.categories if not c.is_signpost and c.name not in verdict.unjudged)
    return max((_of(category, verdict.scores[category.name], clear_below) for category in named), default=0.0)


def _of(category: Category, score: float, clear_below: float) -> float:
    low, line, high = min(clear_below, category.review_above), category.review_above, category.block_above
    if not low < score <= high:
        return 0.0
    return (score - low) / (line - low) if score <= line else max(LEAST, (high - score) / (high - line))


class Doubts:
    """Keeps what a moderator is unsure about; safe to share between threads.

    Args:
        moderator: Whose doubts they are.
        folder: See `Shelf`.
        most: Images that are kept, the most doubtful.
        guard: Knows the images that must not be kept.
        now: The clock.

    Attributes:
        counts: Images that were `seen`, those in `doubt`, and what became of each of these: `kept`, a `copy` of one that is there,
            `less_doubtful` than those that are, `busy` for coming too fast, `listed` on a hash list, or `failed` to be written.
            `pushed_out` are those of the kept that went later, for more doubtful ones.

    Raises:
        InputError: The folder is not ours, or another's.
    """

    def __init__(
        self,
        moderator: Moderator,
        folder: Path,
        *,
        most: int = MOST,
        guard: Guard | None = None,
        now: Callable[[], str] = stamp,
    ) -> None:
        self._moderator, self._guard, self._now = moderator, guard, now
        self.counts = Counter[str]()
        self._shelf = Shelf(folder, most, guard)
        self._came: queue.SimpleQueue[tuple[bytes, Verdict, float, str] | None] = queue.SimpleQueue()
        self._lock, self._waiting_bytes = threading.Lock(), 0
        self._thread: threading.Thread | None = None
        told = "no hash lists are given" if guard is None else "what is on a hash list is not"
        log.info("at most %d images that are in doubt are kept; %s", most, told)

    def offer(self, data: bytes, verdict: Verdict, by: Moderator | None = None) -> None:
        """Have an image kept if it is in doubt; returns at once, and never fails.

        Args:
            data: The image file.
            verdict: On it.
            by: Who gave it, where another may have taken over meanwhile.
        """
        by = by or self._moderator
        sure = self._note(verdict, by)
        with self._lock:
            if sure <= 0:
                return
            if self._waiting_bytes + len(data) > WAITING_BYTES:
                self.counts["busy"] += 1
                return
            self._waiting_bytes += len(data)
            if self._thread is None:
                self._thread = threading.Thread(target=self._work, name="doubts", daemon=True)
                self._thread.start()
        self._came.put((data, verdict, sure, by.name))

    def keep(self, data: bytes, verdict: Verdict) -> None:
        """Keep an image now if it is in doubt; what goes wrong is counted. Not to be mixed with `offer`."""
        if (sure := self._note(verdict, self._moderator)) > 0:
            self._keep(data, verdict, sure, self._moderator.name)

    def close(self) -> None:
        """Keep what waits, say how it went, and let go of the folder."""
        if self._thread is not None:
            self._came.put(None)
            self._thread.join()
            self._thread = None
        self._tell()
        self._shelf.close()

    def _note(self, verdict: Verdict, by: Moderator) -> float:
        found = doubt(verdict, by.policy, by.clear_below)
        with self._lock:
            self.counts["seen"] += verdict.of == "image"
            self.counts["doubt"] += found > 0
            told = verdict.of == "image" and self.counts["seen"] % TOLD_EVERY == 0
        if told:
            self._tell()
        return found

    def _work(self) -> None:
        while (item := self._came.get()) is not None:
            self._keep(*item)
            with self._lock:
                self._waiting_bytes -= len(item[0])

    def _keep(self, data: bytes, verdict: Verdict, sure: float, by: str) -> None:
        try:
            became = self._put(data, verdict, sure, by)
        except Exception as error:  # noqa: BLE001  # whatever it is, it must not break an answer
            became = "failed"
            if not self.counts["failed"]:
                log.warning("a doubtful image could not be kept, and others may not be: %s", _plain(error))
        with self._lock:
            self.counts[became] += 1
            self.counts["pushed_out"] = self._shelf.pushed_out

    def _put(self, data: bytes, verdict: Verdict, sure: float, by: str) -> str:
        sure = round(sure, 6)
        if not self._shelf.wants(sure):  # decoding and looking it up would be for nothing
            return "less_doubtful"
        image = decode(data)
        if self._guard is not None and self._guard(image) is not None:
            return "listed"
        # of all that is decoded only some bitmaps do not tell by their first bytes what they are
        suffix = SUFFIX_OF.get(kind_of(data[:HEAD_BYTES]), ".bmp")
        served = {
            "by": by,
            "time": self._now(),
            "stage": verdict.stage,
            "action": verdict.action.value,
            "doubt": sure,
            "scores": {name: round(score, 6) for name, score in verdict.scores.items() if name not in verdict.unjudged},
        }
        return self._shelf.put(image_id(image), suffix, data, served)

    def _tell(self) -> None:
        with self._lock:
            told = dict(self.counts)
        log.info("%s", " ".join(f"{name}={told.get(name, 0)}" for name in COUNTED))


def _plain(error: Exception) -> str:
    """Say what went wrong without the name of a file, which is the id of an image."""
    if isinstance(error, OSError):
        return error.strerror or type(error).__name__
    return str(error).splitlines()[0][:200] if isinstance(error, InputError) else type(error).__name__
