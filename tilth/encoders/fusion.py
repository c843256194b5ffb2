"""How a classifier and a detector become one probability a label: the same sum where they are judged and where they serve.

Paper: Platt, 1999, "Probabilistic outputs for support vector machines", here with two scores instead of one
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from tilth.errors import ModelError

Array = npt.NDArray[Any]

LEAST_BOX = 0.05  # a detector's scores below are all nothing
MOST_BOX = 0.995


@dataclass(frozen=True, kw_only=True)
class Fusion:
    """Probability of a label: `sigmoid(a · logit + d · box_logit(best box) + b)`.

    The defaults are for models that nobody calibrated: both count the same.
    """

    a: float = 0.5
    d: float = 0.5
    b: float = 0.0


def fusions(calibration: Mapping[str, Mapping[str, float]], labels: Sequence[str]) -> list[Fusion]:
    """Read the fusion of each label; the default where none was fitted."""
    return [Fusion(**calibration[label]) if label in calibration else Fusion() for label in labels]


def finite(said: Any, who: str) -> Array:
    """Return what a model said, which must be numbers: nothing that it says otherwise is a verdict.

    Args:
        said: Its answer, of any shape.
        who: Names the model in the message.

    Raises:
        ModelError: A value is not a number, or infinite.
    """
    values = np.asarray(said)
    if wrong := int((~np.isfinite(values)).sum()):
        raise ModelError(
            f"{who}: {wrong} of {values.size} values that it says are no numbers (NaN or infinite); "
            "no verdict can be made of these, train and package it again"
        )
    return values


def sigmoid(x: Array) -> Array:
    """Return 1 / (1 + exp(-x)) without overflow."""
    return np.asarray(np.exp(-np.logaddexp(0, -x)))


def box_logit(scores: Array) -> Array:
    """Turn box scores into logits.

    >>> box_logit(np.array([0.0, 0.01, 0.5])).round(2).tolist()
    [-2.94, -2.94, 0.0]
    """
    bounded = np.clip(scores, LEAST_BOX, MOST_BOX)
    return np.asarray(np.log(bounded / (1 - bounded)))


def fuse(logits: Array, boxes: Array | None, by: Sequence[Fusion]) -> Array:
    """Turn what both models say into probabilities.

    Args:
        logits: Of the classifier, `(n, k)`.
        boxes: Score in [0, 1] of the detector's best box, 0 where there is none, `(n, k)`; None without a detector, and then
            the classifier counts alone.
        by: Of each of the `k` labels.

    Returns:
        Probabilities `(n, k)`.

    >>> by = [Fusion(a=1.0, d=1.0, b=0.0)]
    >>> [round(float(fuse(np.array([[x]]), np.array([[y]]), by)[0, 0]), 2) for x, y in ((3, 0.9), (3, 0.0), (-3, 0.0))]
    [0.99, 0.51, 0.0]
    """
    a, b = np.array([one.a for one in by]), np.array([one.b for one in by])
    if boxes is None:
        return sigmoid(a * logits + b)
    return sigmoid(a * logits + np.array([one.d for one in by]) * box_logit(boxes) + b)
