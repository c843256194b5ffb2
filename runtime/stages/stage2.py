"""Stage 2: a language model reads about the image and its words, and says how likely each verdict is.

Which model, and where it runs, is its judge's to know (`tilth.runtime.judges`). A judge that cannot be asked says so of each case, and what
nobody judged is never taken for safe.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Literal, Protocol, TypeAlias

import numpy as np
import numpy.typing as npt

from tilth.errors import InputError
from tilth.runtime.stages.stage1 import Screen
from tilth.runtime.stages.template import SAFE, case

MAX_BATCH = 16
SHARED = 32  # characters on either side of where words are parted, so that no phrase is torn

Chances: TypeAlias = npt.NDArray[np.float64]
Why: TypeAlias = Literal["timeout", "unreachable", "refused", "no_label", "resting"]


@dataclass(frozen=True)
class Unjudged:
    """Nobody judged a case.

    Args:
        why: The server took too long (`timeout`), is not there (`unreachable`), answered with an error (`refused`) or with none of the
            labels (`no_label`), or failed lately and is not asked until it answers again (`resting`).
    """

    why: Why


class Judge(Protocol):
    """A language model behind the one way to ask it.

    `back_end` names what runs it, and `workers` is how many batches of cases it can be asked about at once.
    """

    @property
    def back_end(self) -> str: ...

    @property
    def workers(self) -> int: ...

    def room(self, case: str) -> int:
        """Return how many tokens are left beside a prompt about this case; below 0 it is too long."""
        ...

    def __call__(self, cases: Sequence[str]) -> "Sequence[Chances | Unjudged]":
        """Return the probability of each verdict `(k,)`, by case."""
        ...


@dataclass(frozen=True, kw_only=True, eq=False)
class Stage2:
    """A judge with the verdicts that it gives.

    Args:
        judge: Is asked.
        labels: The verdicts, in the order of its probabilities.
        write: Makes the case of what Stage 1 says and of the words in the image.
    """

    judge: Judge
    labels: tuple[str, ...]
    write: Callable[[Screen, str], str] = case

    def __call__(self, screens: Sequence[Screen], texts: Sequence[str]) -> list[dict[str, float] | Unjudged]:
        """Return the probability of each verdict, by image.

        Of words that take several prompts, each verdict has the probability of its worst part, and `safe` that of the least safe; if
        nobody judged one part, nobody judged the image.

        Raises:
            ModelError: The model says what is no number.
        """
        cases = [self.cases(screen, text) for screen, text in zip(screens, texts, strict=True)]
        rows = [row for of_one in cases for row in of_one]
        judged = (
            one for start in range(0, len(rows), MAX_BATCH) for one in self.judge(rows[start : start + MAX_BATCH])
        )
        return [self._worst([next(judged) for _ in of_one]) for of_one in cases]

    def _worst(self, parts: "Sequence[Chances | Unjudged]") -> dict[str, float] | Unjudged:
        known = [part for part in parts if not isinstance(part, Unjudged)]
        if len(known) < len(parts):
            return next(part for part in parts if isinstance(part, Unjudged))
        by_label = zip(self.labels, zip(*known, strict=True), strict=True)
        return {name: float((min if name == SAFE else max)(chances)) for name, chances in by_label}

    def cases(self, screen: Screen, text: str) -> list[str]:
        """Write as many cases as the words need; halves share some characters.

        Raises:
            InputError: Even without text the prompt is too long for the model.
        """
        whole = self.write(screen, text)
        room = self.judge.room(whole)
        if room >= 0:
            return [whole]
        if len(text) < 2:
            raise InputError(f"the prompt takes {-room} tokens more without text than the language model can read")
        middle = len(text) // 2
        overlap = min(SHARED, middle // 2)
        return [*self.cases(screen, text[: middle + overlap]), *self.cases(screen, text[middle - overlap :])]
