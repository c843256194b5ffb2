"""The router: cheap numbers say how likely a case is harmful, and a stated cost says what to do: clear, block, ask on, or call a person.

What it cannot read, as letters that it never learned from, a text that is longer than any it knows, or a number that is none, goes the
dear way. It blocks and clears only where the policy's thresholds say the same of its chances. It runs in numpy alone.

Paper: Chow, 1970, "On optimum recognition error and reject tradeoff"
Differs: what is rejected goes to a check or a person, each with a cost, and a check with rates of its own.
"""

import math
import zlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from itertools import pairwise
from typing import TypeAlias

import numpy as np
import numpy.typing as npt

from tilth.encoders.fusion import sigmoid
from tilth.runtime.stages.stage1 import Screen
from tilth.texts import bare, plain, uncovered

UNSAFE = "unsafe"  # the first output of every line: whether any category applies
LETTERS = (2, 3, 4, 5)  # letters of a run inside a word
NUMBERS = ("length", "disguised", "foreign", "capitals", "digits", "words")  # of a text, beside its runs

Floats: TypeAlias = npt.NDArray[np.float64]
Ids: TypeAlias = npt.NDArray[np.uint32]


class Way(StrEnum):
    """Where a case goes."""

    CLEAR = "clear"
    BLOCK = "block"
    CHECK = "check"  # the next dearer one: of an image reading its words, of words the language model
    PERSON = "person"


@dataclass(frozen=True, kw_only=True)
class Costs:
    """What things cost, in whatever unit, and how good the dearer check is.

    Args:
        missed: A harmful case that is cleared.
        false_alarm: A harmless one that is blocked.
        check: The dearer check.
        review: A person's look, which is taken to be right.
        recall: Of the dearer check, in [0, 1].
        false_positives: Share of the harmless that it flags, in [0, 1].
    """

    missed: float
    false_alarm: float
    check: float
    review: float
    recall: float = 1.0
    false_positives: float = 0.0

    def of(self, chance: Floats | float) -> dict[Way, Floats]:
        """Return what each way costs a case that is harmful with a chance."""
        p = np.asarray(chance, np.float64)
        wrong = self.missed * p * (1 - self.recall) + self.false_alarm * (1 - p) * self.false_positives
        return {
            Way.CLEAR: self.missed * p,
            Way.CHECK: self.check + wrong,
            Way.PERSON: np.full_like(p, self.review),
            Way.BLOCK: self.false_alarm * (1 - p),
        }

    def cheapest(self, chance: float, *, among: Sequence[Way] = tuple(Way)) -> Way:
        """Return the cheapest way, the check of equally cheap ones; of a chance that is none always the check."""
        if not math.isfinite(chance):
            return Way.CHECK
        costs = self.of(chance)
        return min((way for way in (Way.CHECK, *among)), key=lambda way: float(costs[way]))


@dataclass(frozen=True, kw_only=True)
class Said:
    """What the router says of a case.

    Args:
        way: Where it goes.
        chances: Of `unsafe` and each category; empty when it could not be read.
        why: Why it goes the dear way, when that is not for the cost.
    """

    way: Way
    chances: Mapping[str, float] = field(default_factory=dict)
    why: str = ""


@dataclass(frozen=True, kw_only=True, eq=False)
class Line:
    """A linear model of chances, calibrated, of one kind of case.

    Args:
        outputs: `unsafe`, and the categories that it tells, `k`.
        ids: Hashes of the runs of letters and words that it knows, sorted, `(v,)`.
        weights: Of these, `(v, k)`.
        numbers: What else it reads, `m` names.
        centre: Subtracted from the numbers, `(m,)`.
        scale: Then divides them, `(m,)`.
        slopes: Of the numbers, `(m, k)`.
        bias: `(k,)`.
        calibration: Slope and offset of each logit, `(k, 2)`.
        trusted: Outputs of which enough was seen: nothing else blocks, and nothing is cleared unless all are.
        known_from: Least share of a text's runs that must be known.
        longest: Longest text, in characters, that it learned from.
        costs: By which it routes.
    """

    outputs: tuple[str, ...]
    ids: Ids = field(default_factory=lambda: np.zeros(0, np.uint32))
    weights: Floats
    numbers: tuple[str, ...]
    centre: Floats
    scale: Floats
    slopes: Floats
    bias: Floats
    calibration: Floats
    trusted: tuple[str, ...]
    known_from: float = 0.0
    longest: int = 0
    costs: Costs

    def logits(self, runs: Ids, numbers: Sequence[float]) -> Floats:
        """Return what the model says before calibration, `(k,)`; a run that it does not know counts for nothing."""
        known = runs[_among(runs, self.ids)]
        places = np.searchsorted(self.ids, known)
        values = np.clip((np.asarray(numbers, np.float64) - self.centre) / self.scale, -5, 5)
        told = self.weights[places].sum(0) / math.sqrt(max(1, len(runs)))
        return np.asarray(told + values @ self.slopes + self.bias, np.float64)

    def chances(self, runs: Ids, numbers: Sequence[float]) -> dict[str, float]:
        """Return the calibrated chance of each output."""
        logits = self.calibration[:, 0] * self.logits(runs, numbers) + self.calibration[:, 1]
        return dict(zip(self.outputs, map(float, sigmoid(logits)), strict=True))

    def way(self, chances: Mapping[str, float], among: Sequence[Way] = tuple(Way)) -> Said:
        """Say where a case with these chances goes."""
        if not all(map(math.isfinite, chances.values())):
            return Said(way=Way.CHECK, why="its numbers are none")
        never = {Way.CLEAR: not {*self.outputs} <= {*self.trusted}, Way.BLOCK: UNSAFE not in self.trusted}
        ways = tuple(way for way in among if not never.get(way))
        way = self.costs.cheapest(chances[UNSAFE], among=ways)
        likeliest = max((name for name in chances if name != UNSAFE), key=chances.__getitem__, default="")
        if way is Way.BLOCK and likeliest not in self.trusted:
            return Said(way=Way.CHECK, chances=chances, why=f"too few cases of {likeliest}")
        return Said(way=way, chances=chances)

    def known(self, runs: Ids) -> float:
        """Return the share of a text's runs that it has learned from; 0 of a text without any."""
        return float(_among(runs, self.ids).mean()) if len(runs) else 0.0


@dataclass(frozen=True, kw_only=True, eq=False)
class Router:
    """What routes a bundle's cases.

    Args:
        text: Of texts that come without an image; None to route none.
        image: Of what Stage 1 says of an image, before its words are read; None to route none.
    """

    text: Line | None = None
    image: Line | None = None

    def of_text(self, text: str) -> Said | None:
        """Say where a text goes; None where texts are not routed."""
        line = self.text
        if line is None:
            return None
        if len(text) > line.longest:
            return Said(way=Way.CHECK, why="longer than any that it learned from")
        runs, numbers = read_text(text)
        if line.known(runs) < line.known_from or not len(runs):
            return Said(way=Way.CHECK, why="unlike what it learned from")
        return line.way(line.chances(runs, numbers))

    def of_screen(self, screen: Screen) -> Said | None:
        """Say whether an image that Stage 1 leaves open needs its words read; None where images are not routed.

        It never blocks by words that nobody read.
        """
        line = self.image
        if line is None:
            return None
        if lacking := [name for name in line.numbers if not _there(name, screen)]:
            return Said(way=Way.CHECK, why=f"Stage 1 says nothing of {', '.join(lacking)}")
        return line.way(line.chances(np.zeros(0, np.uint32), read_screen(screen, line.numbers)), (Way.CLEAR,))


def read_text(text: str) -> tuple[Ids, list[float]]:
    """Return the hashes of all words, pairs of words and runs of letters that a text has, sorted, and its `NUMBERS`.

    Letters in disguise are read as they are meant; how many there are is one of the numbers.

    >>> runs, numbers = read_text("W\u0456n B1G")
    >>> (runs == read_text("win big")[0]).all(), round(dict(zip(NUMBERS, numbers))["disguised"], 2)
    (np.True_, 0.29)
    """
    words = bare(text).split()
    grams = {f"w{word}" for word in words} | {f"w{a} {b}" for a, b in pairwise(words)}
    for word in words:
        padded = f" {word} "
        grams.update(padded[i : i + n] for n in LETTERS for i in range(len(padded) - n + 1))
    runs = np.unique(np.array([zlib.crc32(gram.encode()) for gram in grams], np.uint32))
    n, letters = max(1, len(text)), max(1, sum(map(str.isalpha, text)))
    shown, meant = " ".join(plain(text).split()), uncovered(text)
    differ = sum(a != b for a, b in zip(shown, meant, strict=False)) + abs(len(shown) - len(meant))
    differ += max(0, len(text) - len(plain(text)))  # what is not seen
    return runs, [
        math.log1p(n),
        differ / n,
        sum(not sign.isascii() for sign in text) / n,
        sum(map(str.isupper, text)) / letters,
        sum(map(str.isdigit, text)) / n,
        math.log1p(len(words)),
    ]


def screen_numbers(labels: Sequence[str], boxed: Sequence[str]) -> tuple[str, ...]:
    """Name the numbers of a Stage 1 with these labels, and these found by boxes: each score, and each best box's score and area."""
    return (
        *(f"score:{label}" for label in labels),
        *(f"{what}:{label}" for label in boxed for what in ("box", "area")),
    )


def read_screen(screen: Screen, names: Sequence[str]) -> list[float]:
    """Return the named numbers of what Stage 1 says: scores as logits, of a label without a box 0 for its score and area."""
    width, height = screen.size_wh
    told = []
    for name in names:
        what, _, label = name.partition(":")
        boxes = [found for found in screen.boxes if found.category == label]
        if what == "score":
            score = min(1 - 1e-6, max(1e-6, screen.scores[label]))
            told.append(math.log(score / (1 - score)))
        elif what == "box":
            told.append(max((found.score for found in boxes), default=0.0))
        else:
            x0, y0, x1, y1 = boxes[0].box_xyxy if boxes else (0.0, 0.0, 0.0, 0.0)
            told.append((x1 - x0) * (y1 - y0) / max(1, width * height))
    return told


def _there(name: str, screen: Screen) -> bool:
    what, _, label = name.partition(":")
    return what != "score" or label in screen.scores


def _among(runs: Ids, ids: Ids) -> npt.NDArray[np.bool_]:
    """Return which runs are among sorted ids, `(n,)`."""
    if not len(ids):
        return np.zeros(len(runs), bool)
    places = np.minimum(np.searchsorted(ids, runs), len(ids) - 1)
    return np.asarray(ids[places] == runs)
