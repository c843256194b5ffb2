"""Scores of images, best first, beside the truth: what any threshold between them reaches, for any bootstrap sample at once."""

from typing import Any

import numpy as np
import numpy.typing as npt

Array = npt.NDArray[Any]
RECALLS = tuple(round(0.05 * i, 2) for i in range(1, 21))  # where a precision-recall curve is drawn


class Ranked:
    """Images by score. Equal scores are called together, as no threshold parts them.

    Args:
        scores: `(n,)`.
        positive: `(n,)`.
    """

    def __init__(self, scores: Array, positive: Array) -> None:
        self._order = np.argsort(-scores, kind="stable")
        ranked = scores[self._order]
        self._positive = positive[self._order].astype(bool)
        self._last = np.flatnonzero(np.append(ranked[1:] != ranked[:-1], True)[: len(ranked)])

    def _called(self, counts: Array | None) -> tuple[Array, Array]:
        """Return how many positives and how many negatives each threshold calls, the highest first."""
        often = np.ones(len(self._order), int) if counts is None else counts[self._order]
        hits = np.cumsum(often * self._positive)[self._last]
        return hits, np.cumsum(often)[self._last] - hits

    def recall(self, fpr: float, counts: Array | None = None) -> float:
        """Return the share of positives above the threshold which lets `fpr` of the negatives through; nan without one of either.

        Args:
            fpr: Share of false positives.
            counts: How often each image counts; once when None.
        """
        hits, false = self._called(counts)
        if not len(hits) or not hits[-1] or not false[-1]:
            return float("nan")
        passed = int(np.searchsorted(false, np.floor(fpr * false[-1]), side="right"))
        return float(hits[passed - 1] / hits[-1]) if passed else 0.0

    def average_precision(self, counts: Array | None = None) -> float:
        """Return the area under the precision-recall curve, as scikit-learn has it; nan where all or none are positive."""
        hits, false = self._called(counts)
        if not len(hits) or not hits[-1] or not false[-1]:
            return float("nan")
        gained = np.diff(hits, prepend=0)
        there = gained > 0
        return float((gained[there] * hits[there] / (hits + false)[there]).sum() / hits[-1])

    def auroc(self, counts: Array | None = None) -> float:
        """Return the area under the ROC curve; nan where all or none are positive."""
        hits, false = self._called(counts)
        if not len(hits) or not hits[-1] or not false[-1]:
            return float("nan")
        return float((np.diff(false, prepend=0) * (hits - np.diff(hits, prepend=0) / 2)).sum() / hits[-1] / false[-1])

    def precisions(self) -> list[list[float]]:
        """Return rows of recall and precision, from the surest on; empty where all or none are positive."""
        hits, false = self._called(None)
        if not len(hits) or not hits[-1] or not false[-1]:
            return []
        at = np.searchsorted(hits, np.array([0.0, *RECALLS]) * hits[-1] - 1e-9)
        rows = [[round(float(hits[j] / hits[-1]), 4), round(float(hits[j] / (hits[j] + false[j])), 4)] for j in at]
        return [row for place, row in enumerate(rows) if row not in rows[:place]]
