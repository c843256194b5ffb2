"""The stages of a moderator that work elsewhere: each is asked as if it were here, and asked again where a replica died in the midst.

A question changes nothing where it is answered, so asking twice is harmless.
"""

import logging
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, TypeAlias

from tilth.errors import TilthError, Unavailable
from tilth.images import Image
from tilth.runtime.bundles.bundle import Bundle
from tilth.runtime.stages.cascade import Moderator
from tilth.runtime.stages.graphs import Arrays, Graph
from tilth.runtime.stages.reading import Reader
from tilth.runtime.stages.stage1 import Prepare, Screen, Stage1
from tilth.runtime.stages.stage2 import Chances, Stage2, Unjudged

Ask: TypeAlias = Callable[..., Any]  # what a stage was called with, and what it answers
# rests before each try, in seconds: as long as it takes until a dead replica is known to be dead
TRIES_S = (0.0, 0.1, 0.3, 1.0, 3.0)
log = logging.getLogger("tilth.cluster")


class Elsewhere:
    """A graph, or a judge, whose work is done elsewhere; nobody asks it here."""

    back_end = "cluster"

    def __init__(self, workers: int = 1) -> None:
        self.workers = workers

    def run(self, names: Sequence[str], inputs: Any) -> Sequence[Arrays]:
        """Never called."""
        raise AssertionError("this graph is elsewhere")

    def room(self, case: str) -> int:
        """Never called."""
        raise AssertionError("this judge is elsewhere")

    def __call__(self, cases: Sequence[str]) -> Sequence[Chances | Unjudged]:
        """Never called."""
        raise AssertionError("this judge is elsewhere")


@dataclass(frozen=True, kw_only=True)
class Stage1There(Stage1):
    """Stage 1 on other machines."""

    ask: Ask

    def __call__(self, images: Sequence[Image]) -> list[Screen]:
        """Screen images of any size."""
        screens: list[Screen] = again(self.ask, list(images))
        return screens


@dataclass(frozen=True, kw_only=True, eq=False)
class Stage2There(Stage2):
    """A language model on other machines; one that cannot be reached has judged nothing."""

    ask: Ask

    def __call__(self, screens: Sequence[Screen], texts: Sequence[str]) -> list[dict[str, float] | Unjudged]:
        """Return the probability of each verdict, by image."""
        if not texts:
            return []
        try:
            judged: list[dict[str, float] | Unjudged] = again(self.ask, list(screens), list(texts))
        except TimeoutError:
            return [Unjudged("timeout")] * len(texts)
        except Unavailable:
            return [Unjudged("unreachable")] * len(texts)
        return judged


class ReaderThere(Reader):
    """OCR on other machines.

    Args:
        ask: Does it.
    """

    def __init__(self, ask: Ask) -> None:
        self._ask = ask

    def __call__(self, image: Image) -> str:
        """Return the words in an image."""
        return str(again(self._ask, image))


def spread(bundle: Bundle, *, see: Ask, read: Ask, judge: Ask, workers: int) -> Moderator:
    """Return the moderator of a bundle whose stages work elsewhere; the cascade between them, and its verdicts, are the same.

    Args:
        bundle: It.
        see: Asks Stage 1.
        read: Asks OCR.
        judge: Asks the language model.
        workers: Batches that the language model is asked about at once.
    """
    verdict = bundle.verdict

    def elsewhere(name: str, prepare: Prepare) -> Graph:
        return Elsewhere()

    known = bundle.stage1(elsewhere)
    return Moderator(
        policy=bundle.policy,
        stage1=Stage1There(classifier=known.classifier, detector=known.detector, ask=see),
        stage2=Stage2There(judge=Elsewhere(workers), labels=verdict.labels, ask=judge) if verdict else None,
        reader=ReaderThere(read) if verdict else None,
        clear_below=bundle.clear_below,
        router=bundle.router,
        name=bundle.name,
    )


def again(ask: Ask, *given: Any) -> Any:
    """Ask, and ask another replica where one dies.

    Raises:
        TilthError: What was asked says so.
        TimeoutError: There was no answer in time.
        Unavailable: No replica lives long enough to answer.
    """
    from ray.exceptions import RayActorError, RayTaskError, WorkerCrashedError

    died: Exception | None = None
    for rest_s in TRIES_S:
        time.sleep(rest_s)
        try:
            return ask(*given)
        except (RayActorError, WorkerCrashedError) as error:
            log.warning("a replica died in the midst of its work, another is asked (%s)", type(error).__name__)
            died = error
        except RayTaskError as error:
            if isinstance(error.cause, TilthError):
                raise error.cause from None
            raise
    raise Unavailable("no replica lives long enough to answer") from died
