"""How likely is a label right? Learned from what people said of labels that models had made, with a belief before.

A box that a model keeps is right the more often, the surer the model is and the surer a second one is of the same place. What a second
model sees and the first does not keep is there the more often, the surer both are. Two logistic curves say how much, pulled towards a
belief that stands as long as nobody has looked.
"""

from collections.abc import Mapping, Sequence
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


PULL_CATEGORY = 2.0  # the same for what a category is more or less often right than others


@dataclass(frozen=True, kw_only=True)
class Said:
    """What two models say of a box of a category.

    Args:
        category: Its name.
        first: Score of the first model.
        second: Of the second; nan where there is none.
        unasked: Whether the first was never asked.
    """

    category: str
    first: float
    second: float
    unasked: bool = False


@dataclass(frozen=True, kw_only=True)
class Curve:
    """A logistic curve over two scores.

    Args:
        weights: Of the first model's logit, of the second's, of the first not having been asked, and of everything.
        offsets: By category.
        learned_from: Number of answers of people.
    """

    weights: tuple[float, ...]
    offsets: Mapping[str, float]
    learned_from: int = 0

    def __call__(self, said: Sequence[Said]) -> list[float]:
        """Return the chance of each to be right."""
        if not said:
            return []
        own = np.array([self.offsets.get(one.category, 0.0) for one in said])
        return [float(chance) for chance in sigmoid(_features(said) @ np.array(self.weights) + own)]


def _features(said: Sequence[Said]) -> Floats:
    scores = np.array([[one.first, one.second] for one in said], float)
    missing = np.column_stack([[one.unasked for one in said], np.isnan(scores[:, 1])])
    scores = np.clip(np.where(missing, 0.5, scores), NOTHING, 1 - NOTHING)  # who was not asked says nothing
    return np.column_stack([np.log(scores) - np.log1p(-scores), missing[:, 0], np.ones(len(said))])


def fit_curve(said: Sequence[Said], right: Sequence[bool], before: Floats) -> Curve:
    """Fit a curve to answers of people by Newton's method, pulled towards a belief.

    Args:
        said: What the models said.
        right: What people said.
        before: Weights of the belief.

    >>> said = [Said(category="knife", first=0.5, second=score) for score in [0.9] * 20 + [0.1] * 20]
    >>> told = fit_curve(said, [True] * 20 + [False] * 20, KEPT_BEFORE)
    >>> [round(chance, 1) for chance in told([said[0], said[-1]])]
    [1.0, 0.1]
    """
    names = sorted({one.category for one in said})
    weights, pull = np.concatenate([before, np.zeros(len(names))]), np.append(PULL, [PULL_CATEGORY] * len(names))
    belief, y = weights.copy(), np.array(right, float)
    if len(y):
        x = np.column_stack([_features(said), [[one.category == name for name in names] for one in said]])
        for _ in range(25):
            chance = sigmoid(x @ weights)
            slope = x.T @ (chance - y) + pull * (weights - belief)
            bend = (x * (chance * (1 - chance))[:, None]).T @ x + np.diag(pull)
            change = np.linalg.solve(bend, slope)
            weights = weights - change
            if np.abs(change).max() < 1e-6:
                break
    weights[:2] = np.maximum(weights[:2], 0.0)  # a surer model is never a reason against
    own = dict(zip(names, np.round(weights[len(before) :], 4).tolist(), strict=True))
    return Curve(weights=tuple(np.round(weights[: len(before)], 4).tolist()), offsets=own, learned_from=len(y))
