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

# Slope of the first model's score, of the second's, whether the first was never asked, and the rest; scores in deviations from what is
# usual, as one training's 0.4 is another one's 0.7.
KEPT_BEFORE = np.array([1.5, 1.5, 0.0, 1.5])
SEEN_BEFORE = np.array([0.3, 1.5, 0.3, -2.0])
PULL = np.array([0.5, 0.5, 1.0, 0.5])  # in images: how hard the belief holds
PULL_CATEGORY = 1.0  # the same for what a category is more or less often right than others
SURE = 1.64  # deviations below a chance where it still lies nineteen times in twenty


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
class Scale:
    """Mean and deviation of the logits of the first model's scores and of the second's, among all boxes of one look."""

    first: tuple[float, float] = (0.0, 1.0)
    second: tuple[float, float] = (0.0, 1.0)


def scale_of(said: Sequence[Said]) -> Scale:
    """Return what is usual; a score that nobody gave says nothing about it."""
    found = []
    for scores in ([one.first for one in said if not one.unasked], [one.second for one in said]):
        logits = _logit(np.array([score for score in scores if not np.isnan(score)]))
        wide = len(logits) > 1 and logits.std() > 0.1
        found.append((float(logits.mean()) if len(logits) else 0.0, float(logits.std()) if wide else 1.0))
    return Scale(first=found[0], second=found[1])


def _logit(scores: Floats) -> Floats:
    scores = np.clip(scores, NOTHING, 1 - NOTHING)
    return np.asarray(np.log(scores) - np.log1p(-scores))


@dataclass(frozen=True, kw_only=True)
class Curve:
    """A logistic curve over two scores.

    Args:
        weights: Of the first model's logit, of the second's, of the first not having been asked, and of everything.
        offsets: By category.
        covariance: Of the weights and the offsets, in their order: how far the answers so far can tell.
        learned_from: Number of answers of people.
    """

    weights: tuple[float, ...]
    offsets: Mapping[str, float]
    covariance: tuple[tuple[float, ...], ...]
    learned_from: int = 0

    def __call__(self, said: Sequence[Said], scale: Scale) -> list[float]:
        """Return the chance of each to be right."""
        return [float(sigmoid(np.array(logit))) for logit, _ in self._logits(said, scale)]

    def at_least(self, said: Sequence[Said], scale: Scale) -> list[float]:
        """Return what the chance of each is at least, nineteen times in twenty.

        Of a category that people have hardly answered about, that is far below the chance.
        """
        return [float(sigmoid(np.array(logit - SURE * unsure))) for logit, unsure in self._logits(said, scale)]

    def _logits(self, said: Sequence[Said], scale: Scale) -> list[tuple[float, float]]:
        weights = np.array([*self.weights, *self.offsets.values()])
        covariance = np.array(self.covariance).reshape(len(weights), len(weights))
        found = []
        for one in said:
            x = np.array([*features_of(one, scale), *(one.category == name for name in self.offsets)], float)
            variance = float(x @ covariance @ x) + (0 if one.category in self.offsets else 1 / PULL_CATEGORY)
            found.append((float(x @ weights), np.sqrt(variance)))
        return found


def features_of(one: Said, scale: Scale) -> list[float]:
    """Return both scores in deviations, 0 for one that nobody gave, whether the first was not asked, and 1."""
    scores = []
    for score, (mean, deviation) in (
        (float("nan") if one.unasked else one.first, scale.first),
        (one.second, scale.second),
    ):
        scores.append(0.0 if np.isnan(score) else (float(_logit(np.array(score))) - mean) / deviation)
    return [*scores, float(one.unasked), 1.0]


def fit_curve(said: Sequence[tuple[Said, Scale]], right: Sequence[bool], before: Floats) -> Curve:
    """Fit a curve to answers of people, pulled towards a belief.

    Args:
        said: What the models said, and what is usual in the look in which they did.
        right: What people said.
        before: Weights of the belief.

    >>> said = [Said(category="knife", first=0.5, second=score) for score in [0.9] * 20 + [0.1] * 20]
    >>> told = fit_curve([(one, Scale()) for one in said], [True] * 20 + [False] * 20, KEPT_BEFORE)
    >>> [round(chance, 1) for chance in told([said[0], said[-1]], Scale())]
    [1.0, 0.0]
    """
    from scipy.optimize import minimize

    names = sorted({one.category for one, _ in said})
    weights, pull = np.concatenate([before, np.zeros(len(names))]), np.append(PULL, [PULL_CATEGORY] * len(names))
    belief, y = weights.copy(), np.array(right, float)
    features = [[*features_of(one, scale), *(one.category == name for name in names)] for one, scale in said]
    x = np.array(features, float).reshape(len(y), len(weights))

    def cost(now: Floats) -> tuple[float, Floats]:
        logits = x @ now
        slope = x.T @ (sigmoid(logits) - y) + pull * (now - belief)
        return float((np.logaddexp(0, logits) - y * logits).sum() + (pull * (now - belief) ** 2).sum() / 2), slope

    rising = [(0.0, None)] * 2 + [(None, None)] * (len(weights) - 2)  # a surer model is never a reason against
    weights = minimize(cost, weights, jac=True, method="L-BFGS-B", bounds=rising).x
    chance = sigmoid(x @ weights)
    bend = (x * (chance * (1 - chance))[:, None]).T @ x + np.diag(pull)
    covariance = tuple(tuple(np.round(row, 6).tolist()) for row in np.linalg.inv(bend))
    own = dict(zip(names, np.round(weights[len(before) :], 4).tolist(), strict=True))
    kept = tuple(np.round(weights[: len(before)], 4).tolist())
    return Curve(weights=kept, offsets=own, covariance=covariance, learned_from=len(y))
