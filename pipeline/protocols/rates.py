"""How often decisions are right, each share with its bootstrap interval, and the difference of two judges on the same images."""

from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any

import numpy as np

from tilth.claims import Json
from tilth.train.measure.judged import RESAMPLES
from tilth.train.measure.metrics import with_intervals
from tilth.train.measure.prediction import Array

NUMBERS = ("accuracy", "f1", "precision", "recall", "balanced_accuracy", "fpr")


def rate(counts: Array, what: str, said: Array, truth: Array) -> float:
    """Return one number of decisions; nan where it has no meaning, as precision where nothing is flagged.

    Args:
        counts: How often each image counts, `(n,)`.
        what: One of `NUMBERS`.
        said: Whether each is flagged, `(n,)`.
        truth: Whether each is unsafe, `(n,)`.

    >>> said, truth = np.array([1, 1, 0, 0], bool), np.array([1, 0, 0, 0], bool)
    >>> {what: round(rate(np.ones(4, int), what, said, truth), 2) for what in NUMBERS}
    {'accuracy': 0.75, 'f1': 0.67, 'precision': 0.5, 'recall': 1.0, 'balanced_accuracy': 0.83, 'fpr': 0.33}
    """
    hits, false = float(counts @ (said & truth)), float(counts @ (said & ~truth))
    unsafe = float(counts @ truth)
    safe = float(counts.sum()) - unsafe
    return {
        "accuracy": lambda: _share(hits + safe - false, unsafe + safe),
        "f1": lambda: _share(2 * hits, hits + false + unsafe) if unsafe else float("nan"),
        "precision": lambda: _share(hits, hits + false),
        "recall": lambda: _share(hits, unsafe),
        "balanced_accuracy": lambda: (_share(hits, unsafe) + _share(safe - false, safe)) / 2,
        "fpr": lambda: _share(false, safe),
    }[what]()


def _share(part: float, whole: float) -> float:
    return part / whole if whole else float("nan")


def rates(said: Array, truth: Array, *, seed: int = 0, numbers: Sequence[str] = NUMBERS) -> dict[str, Json]:
    """Return all numbers of a judge with their intervals."""
    values = {what: (partial(rate, what=what, said=said, truth=truth), RESAMPLES) for what in numbers}
    return dict(with_intervals(values, len(truth), seed=seed))


def differences(more: Array, less: Array, truth: Array, *, seed: int = 0) -> dict[str, Json]:
    """Return by how much one judge is above another, with intervals of a paired bootstrap."""

    def gain(counts: Array, what: str) -> float:
        return rate(counts, what, more, truth) - rate(counts, what, less, truth)

    return dict(
        with_intervals({what: (partial(gain, what=what), RESAMPLES) for what in NUMBERS}, len(truth), seed=seed)
    )


def shares(of: Mapping[str, tuple[Array, Array]], images: int, *, seed: int = 0) -> dict[str, dict[str, Json]]:
    """Return shares of cases with intervals over images, as cases of one image are no independent evidence.

    Args:
        of: By name, the image of each case `(m,)` and whether it counts `(m,)`.
        images: Their number.
        seed: Of the bootstrap samples.
    """

    def share(counts: Array, owner: Array, right: Array) -> float:
        often = counts[owner]
        return _share(float(often @ right), float(often.sum()))

    values: dict[str, Any] = {
        name: (partial(share, owner=np.asarray(owner, int), right=np.asarray(right, float)), RESAMPLES)
        for name, (owner, right) in of.items()
    }
    return with_intervals(values, images, seed=seed)
