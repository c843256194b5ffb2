"""How likely is a label right? Learned from what people said of labels that models had made, with a belief before.

A box that a model keeps is right the more often, the surer the model is and the surer a second one is of the same place. What a second
model sees and the first does not keep is there the more often, the surer both are. Two logistic curves say how much, pulled towards a
belief that stands as long as nobody has looked.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from tilth.fusion import sigmoid

Floats = npt.NDArray[np.float64]
NOTHING = 0.01  # the score of what a model did not see

# slope of the first model's logit, of the second's, whether the first was never asked, and the rest
KEPT_BEFORE = np.array([0.7, 0.5, 0.0, 1.0])
SEEN_BEFORE = np.array([0.3, 0.9, 0.5, -0.3])
PULL = np.array([4.0, 4.0, 1.0, 1.0])  # in images: how hard the belief holds


@dataclass(frozen=True, kw_only=True)
class Curve:
    """A logistic curve over two scores.

    Args:
        weights: Of the first model's logit, of the second's, of the first not having been asked, and of everything.
        learned_from: Number of answers of people.
    """

    weights: tuple[float, ...]
    learned_from: int = 0

    def __call__(self, first: Floats, second: Floats, unasked: npt.NDArray[np.bool_]) -> Floats:
        """Return the chance of being right, each `(n,)`."""
        return np.asarray(sigmoid(_features(first, second, unasked) @ np.array(self.weights)))


def _features(first: Floats, second: Floats, unasked: npt.NDArray[np.bool_]) -> Floats:
    logits = [np.log(p) - np.log1p(-p) for p in (np.clip(np.asarray(s, float), NOTHING, 0.99) for s in (first, second))]
    logits[0] = np.where(unasked, 0.0, logits[0])  # who was not asked says nothing
    return np.column_stack([*logits, np.asarray(unasked, float), np.ones(len(logits[0]))])


def fit_curve(
    first: Sequence[float], second: Sequence[float], unasked: Sequence[bool], right: Sequence[bool], before: Floats
) -> Curve:
    """Fit a curve to answers of people by Newton's method, pulled towards a belief.

    Args:
        first: Score of the first model, `(n,)`.
        second: Of the second.
        unasked: Whether the first was never asked.
        right: What people said.
        before: Weights of the belief.

    >>> told = fit_curve([0.5] * 40, [0.9] * 20 + [0.1] * 20, [False] * 40, [True] * 20 + [False] * 20, KEPT_BEFORE)
    >>> np.round(told(np.array([0.5, 0.5]), np.array([0.9, 0.1]), np.zeros(2, bool)), 1).tolist()
    [1.0, 0.1]
    """
    x, y = _features(np.array(first), np.array(second), np.array(unasked, bool)), np.array(right, float)
    weights = before.copy()
    for _ in range(25):
        if not len(y):
            break
        chance = sigmoid(x @ weights)
        slope = x.T @ (chance - y) + PULL * (weights - before)
        bend = (x * (chance * (1 - chance))[:, None]).T @ x + np.diag(PULL)
        change = np.linalg.solve(bend, slope)
        weights = weights - change
        if np.abs(change).max() < 1e-6:
            break
    weights[:2] = np.maximum(weights[:2], 0.0)  # a surer model is never a reason against
    return Curve(weights=tuple(round(float(w), 6) for w in weights), learned_from=len(y))
