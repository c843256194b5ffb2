"""Scores beside the truth, and every number that is told of them, for any bootstrap sample of the images."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property, partial
from typing import Any, TypeAlias

import numpy as np

from tilth.claims import Json
from tilth.train.measure.boxes import Matched
from tilth.train.measure.metrics import expected_calibration_error, precision_of_ranked, with_intervals
from tilth.train.measure.prediction import Array
from tilth.train.measure.ranked import Ranked

FPR = 0.05
CURVE = (
    0.0,
    0.002,
    0.005,
    0.01,
    0.015,
    0.02,
    0.03,
    0.04,
    0.05,
    0.06,
    0.08,
    0.1,
    0.12,
    0.15,
    0.2,
)  # shares of false positives
OTHER_FPRS = (0.01, 0.02, 0.1)
RESAMPLES, RESAMPLES_AP = 1000, 100
FEWER = (200, 50)  # of both, for a category or a slice

Value: TypeAlias = Callable[[Array], float]


def whole(scores: Array, truth: Array, sure: Array) -> tuple[Array, Array, Array]:
    """Judge images as a whole: their unsafe score, whether they are unsafe, and whether that is known, each `(n,)`.

    An image with nothing unsafe among what was looked for is safe only when everything was.

    Args:
        scores: By category, `(n, k)`.
        truth: What they show, `(n, k)`.
        sure: Where that is known, `(n, k)`.
    """
    unsafe = np.asarray((truth & sure).any(1))
    return np.where(sure, scores, 0.0).max(1, initial=0.0), unsafe, np.asarray(unsafe | sure.all(1))


@dataclass(frozen=True, kw_only=True, eq=False)
class Judged:
    """What n images score in k categories beside the truth; verbs take how often each image counts, `(n,)`.

    Args:
        scores: `(n, k)`.
        truth: `(n, k)`.
        sure: Where the truth is known, as somebody looked, `(n, k)`.
        thresholds: A score of at least this says the category, `(k,)`.
        matches: Boxes of each category beside the true ones, at the overlaps of COCO from 0.5 on; empty without a detector.
        inside: The images that count; all when None.
    """

    scores: Array
    truth: Array
    sure: Array
    thresholds: Array
    matches: Sequence[Matched] = ()
    inside: Array | None = field(default=None)

    @property
    def n(self) -> int:
        """The number of images that count."""
        return len(self.scores) if self.inside is None else int(self.inside.sum())

    @property
    def positives(self) -> int:
        """The number of these that show something unsafe."""
        shown = (self.truth & self.sure).any(1)
        return int((shown if self.inside is None else shown & self.inside).sum())

    def among(self, inside: Array) -> "Judged":
        """Look at some of the n images only."""
        return replace(self, inside=inside)

    def of(self, *categories: int) -> "Judged":
        """Look at some categories only."""
        kept: Any = slice(categories[0], categories[0] + 1) if len(categories) == 1 else list(categories)
        return replace(
            self,
            scores=self.scores[:, kept],
            truth=self.truth[:, kept],
            sure=self.sure[:, kept],
            thresholds=self.thresholds[kept],
            matches=[self.matches[place] for place in categories] if self.matches else (),
        )

    def _often(self, counts: Array) -> Array:
        """Return how often each of all images counts."""
        if self.inside is None:
            return counts
        often = np.zeros(len(self.scores), int)
        often[self.inside] = counts
        return often

    @cached_property
    def _whole(self) -> tuple[Ranked, Array]:
        scores, unsafe, judged = whole(self.scores, self.truth, self.sure)
        return Ranked(scores[judged], unsafe[judged]), judged

    @cached_property
    def _each(self) -> list[tuple[Ranked, Array]]:
        """The images by their score for each category, and where it is known whether they show it."""
        columns = zip(self.scores.T, self.truth.T, self.sure.T, strict=True)
        return [(Ranked(scores[known], truth[known]), known) for scores, truth, known in columns]

    @cached_property
    def _said(self) -> tuple[Any, Any, Any]:
        """Return for each category the images that it is said of, that it is shown in, and both, `(k, n)`; mostly nothing."""
        from scipy.sparse import csr_array

        said, shown = (self.scores >= self.thresholds) & self.sure, self.truth & self.sure
        return csr_array(said.T, dtype=int), csr_array(shown.T, dtype=int), csr_array((said & shown).T, dtype=int)

    @cached_property
    def right(self) -> tuple[Array, Array]:
        """Whether the verdict on each image is right at the thresholds that are served, and where that is known."""
        said, shown = (np.asarray((each & self.sure).any(1)) for each in (self.scores >= self.thresholds, self.truth))
        return np.asarray(said == shown), np.asarray(shown | self.sure.all(1))

    def recall(self, counts: Array, fpr: float = FPR) -> float:
        """Return the recall at a share of false positives."""
        ranked, judged = self._whole
        return ranked.recall(fpr, self._often(counts)[judged])

    def average_precision(self, counts: Array) -> float:
        """Return the area under the precision-recall curve of unsafe images; nan where all or none are."""
        ranked, judged = self._whole
        return ranked.average_precision(self._often(counts)[judged])

    def mean_average_precision(self, counts: Array) -> float:
        """Return the mean over categories of the area under the precision-recall curve of the images that show each; nan of none."""
        often = self._often(counts)
        each = [ranked.average_precision(often[known]) for ranked, known in self._each]
        return mean([value for value in each if not np.isnan(value)])

    def auroc(self, counts: Array) -> float:
        """Return the area under the ROC curve of unsafe images; nan where all or none are."""
        ranked, judged = self._whole
        return ranked.auroc(self._often(counts)[judged])

    def _of_whole(self) -> tuple[Ranked, int, int]:
        """Return the images that count by score, and how many of them are unsafe and safe."""
        scores, unsafe, judged = whole(self.scores, self.truth, self.sure)
        kept = judged if self.inside is None else judged & self.inside
        return Ranked(scores[kept], unsafe[kept]), int(unsafe[kept].sum()), int((~unsafe[kept]).sum())

    def curve(self) -> list[list[float | None]]:
        """Return rows of share of false positives, recall and precision, along the left of the ROC curve."""
        ranked, n, safe = self._of_whole()
        rows: list[list[float | None]] = []
        for fpr in CURVE if n and safe else ():
            recall, false = ranked.recall(fpr), np.floor(fpr * safe)
            called = recall * n + false
            rows.append([fpr, round(recall, 4), round(recall * n / called, 4) if called else None])
        return rows

    def precisions(self) -> list[list[float]]:
        """Return rows of recall and precision, along the whole of the precision-recall curve of unsafe images."""
        return self._of_whole()[0].precisions()

    def always(self) -> dict[str, Json]:
        """Return what a model scores that says everything of every image: nothing below means anything."""
        _, n, safe = self._of_whole()
        kept = slice(None) if self.inside is None else self.inside
        shown, looked = ((of & self.sure)[kept].sum(0) for of in (self.truth, self.sure))
        each = [2 * p / (p + m) for p, m in zip(shown.tolist(), looked.tolist(), strict=True) if p]
        share, boxes = round(n / (n + safe), 4) if n + safe else None, any(len(m.true) for m in self.matches)
        return {
            **({"map50": 0.0, "map": 0.0} if boxes else {}),  # as it draws none
            "recall_at_fpr05": 0.0 if n and safe else None, "f1": round(mean(each), 4) if each else None,
            "average_precision": share if n and safe else None, "precision": share,
        }  # fmt: skip

    def ece(self, counts: Array) -> float:
        """Return how far scores are from being chances, the mean over categories."""
        often, each = self._often(counts), []
        for k, known in enumerate(self.sure.T):
            found = expected_calibration_error(self.scores[known, k], self.truth[known, k], often[known])
            each += [] if np.isnan(found) else [found]
        return mean(each)

    def macro_f1(self, counts: Array) -> float:
        """Return the mean F1 of the categories that are shown."""
        often = self._often(counts)
        said, shown, hits = (matrix @ often for matrix in self._said)
        there = shown > 0
        return mean((2 * hits[there] / (said + shown)[there]).tolist())

    def map50(self, counts: Array) -> float:
        """Return the mean average precision at IoU 0.5 of the categories that have true boxes."""
        return self._map(counts, 0)

    def map(self, counts: Array) -> float:
        """Return the mean of that over IoU 0.5, 0.55, …, 0.95, as COCO has it."""
        return mean([self._map(counts, at) for at in range(len(self.matches[0].right))])

    def _map(self, counts: Array, at: int) -> float:
        often = self._often(counts)
        each = [precision_of_ranked(m.right[at], int(often[m.true].sum()), often[m.owner]) for m in self.matches]
        return mean([value for value in each if not np.isnan(value)])

    def at_threshold(self, counts: Array, what: str) -> float:
        """Return what the threshold of the one category reaches: `recall`, `precision` or share of `false_positives`."""
        truth, said, sure = self.truth[:, 0], self.scores[:, 0] >= self.thresholds[0], self.sure[:, 0]
        of = {"recall": truth & sure, "precision": said & sure, "false_positives": ~truth & sure}[what]
        right, often = truth if what == "precision" else said, self._often(counts)
        total = often[of].sum()
        return float(often[of & right].sum() / total) if total else float("nan")

    def values(self, resamples: tuple[int, int] = (RESAMPLES, RESAMPLES_AP)) -> dict[str, tuple[Value, int]]:
        """Return the numbers that are told everywhere, and of how many bootstrap samples: quick ones, and slow ones."""
        quick, slow = resamples
        told: dict[str, tuple[Value, int]] = {
            "recall_at_fpr05": (self.recall, quick),
            "f1": (self.macro_f1, quick),
            "average_precision": (self.average_precision, slow),
        }
        return told | ({"map50": (self.map50, slow)} if self.matches else {})

    def numbers(self, resamples: tuple[int, int] = FEWER) -> dict[str, Json]:
        """Return these with their intervals, and what calling everything unsafe would score."""
        return {**with_intervals(self.values(resamples), self.n), "always_unsafe": self.always()}

    def all_numbers(self) -> dict[str, Json]:
        """Return these and what is told of all images alone, with intervals."""
        values = self.values()
        for fpr in OTHER_FPRS:
            values[f"recall_at_fpr{round(100 * fpr):02d}"] = (partial(self.recall, fpr=fpr), RESAMPLES)
        values |= {"auroc": (self.auroc, RESAMPLES_AP), "ece": (self.ece, RESAMPLES_AP)}
        if self.matches:
            values["map"] = (self.map, FEWER[1])
        always = self.always()
        always |= {name: always["recall_at_fpr05"] for name in values if name.startswith("recall_")}
        always["auroc"] = None if always["recall_at_fpr05"] is None else 0.5  # as of any that ranks nothing
        return {**with_intervals(values, self.n), "always_unsafe": always}


def mean(values: Sequence[float]) -> float:
    """Return the mean; nan of nothing."""
    return float(np.mean(values)) if values else float("nan")
