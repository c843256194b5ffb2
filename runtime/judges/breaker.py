"""A circuit breaker: what fails several times in a row is asked no more until it answers again, so that no request waits for a dead server.

Whether it answers again is tried beside the requests, by a thread that lives while the breaker is open; no request pays for that.
"""

import logging
import threading
import time
import weakref
from collections.abc import Callable

FAILURES = 3  # in a row, until it opens
REST_S = (0.5, 30.0)  # between two tries: at first, and at most; each rest is twice as long as the one before

log = logging.getLogger("tilth.judges")


class Breaker:
    """Counts failures of something that is asked; safe to share between threads.

    Args:
        name: Of what is asked, for the log.
        answers: Asks once and tells whether it answered; a bound method of whoever holds the breaker, and not kept alive by it.
        rest_s: Seconds between two tries, at first and at most.
    """

    def __init__(self, name: str, answers: Callable[[], bool], *, rest_s: tuple[float, float] | None = None) -> None:
        self._name, self._rest_s = name, rest_s or REST_S
        self._answers = weakref.WeakMethod(answers)
        self._lock, self._failed, self._open = threading.Lock(), 0, False

    @property
    def is_open(self) -> bool:
        """Whether it is not to be asked now."""
        return self._open

    def went(self, *, well: bool, why: str = "") -> None:
        """Note how it went when it was asked.

        Args:
            well: Whether it answered.
            why: Why not, in a word.
        """
        with self._lock:
            if self._open:
                return  # one that was asked before it opened; only the thread closes it
            self._failed = 0 if well else self._failed + 1
            if self._failed < FAILURES:
                return
            self._open = True
        log.warning("%s does not answer (%s); Stage 1 decides alone until it does", self._name, why)
        threading.Thread(target=self._try_again, args=(time.monotonic(),), name="breaker", daemon=True).start()

    def _try_again(self, since: float) -> None:
        rest, most = self._rest_s
        while True:
            time.sleep(rest)
            answers = self._answers()
            if answers is None:  # nobody holds it any more
                return
            if answers():
                break
            del answers
            rest = min(2 * rest, most)
        with self._lock:
            self._open, self._failed = False, 0
        log.warning("%s answers again, after %.0f s", self._name, time.monotonic() - since)
