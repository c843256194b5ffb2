"""How likely is a label right? Learned from what people said of labels that models had made, with a belief before.

A box that a model keeps is right the more often, the surer the model is and the surer a second one is of the same place. What a second
model sees and the first does not keep is there the more often, the surer both are. Two logistic curves say how much, pulled towards a
belief that stands as long as nobody has looked.
"""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt

from tilth.encoders.fusion import sigmoid

Floats = npt.NDArray[np.float64]
NOTHING = 0.01  # the score of what a model did not see

# Slope of the logit of the first model's score, of the second's, what it adds that the first was never asked, that the image was given
# with its labels, and the rest. Logits as they stand: deviations from what is usual in the same look differ from look to look, and made
# chances worse. Who gives labelled images gives such as show something: there a box is right far more often than where nobody chose.
KEPT_BEFORE = np.array([3.0, 1.5, 0.0, 1.5, 0.0])
SEEN_BEFORE = np.array([0.3, 1.5, -1.0, 1.5, -1.0])
# How hard the belief holds, in images; curves of few answers would be steep, and sure too soon.
PULL = np.array([5.0, 5.0, 1.0, 2.0, 0.5])
PULL_CATEGORY = 1.0  # the same for what a category is more or less often right than others
SURE = 1.0  # deviations below a chance where it still lies five times in six


@dataclass(frozen=True, kw_only=True)
class Said:
    """What two models say of a box of a category.

    Args:
        category: Its name.
        first: Score of the first model.
        second: Of the second; nan where there is none.
        unasked: Whether the first was never asked.
        given: Whether the image came with people's labels, and was not chosen from what was mined.
    """

    category: str
    first: float
    second: float
    unasked: bool = False
    given: bool = False


def _logit(scores: Floats) -> Floats:
    scores = np.clip(scores, NOTHING, 1 - NOTHING)
    return np.asarray(np.log(scores) - np.log1p(-scores))


@dataclass(frozen=True, kw_only=True)
class Curve:
    """A logistic curve over two scores.

    Args:
        weights: Of the first model's logit, of the second's, of the first not having been asked, of a given image, and of everything.
        offsets: By category.
        covariance: Of the weights and the offsets, in their order: how far the answers so far can tell.
        learned_from: Number of answers of people.
        confirmed: How many boxes of each category they said are right, in images that were mined.
    """

    weights: tuple[float, ...]
    offsets: Mapping[str, float]
    covariance: tuple[tuple[float, ...], ...]
    learned_from: int = 0
    confirmed: Mapping[str, int] = field(default_factory=dict)

    def __call__(self, said: Sequence[Said]) -> list[float]:
        """Return the chance of each to be right."""
        return [float(chance) for chance in sigmoid(_features(said, list(self.offsets)) @ self._all)]

    def at_least(self, said: Sequence[Said]) -> list[float]:
        """Return what the chance of each is at least, five times in six.

        Of a category that people have hardly answered about, that is far below the chance.
        """
        x, covariance = _features(said, list(self.offsets)), np.array(self.covariance).reshape(len(self._all), -1)
        new = np.array([one.category not in self.offsets for one in said], float)
        unsure = np.sqrt(np.einsum("ij,jk,ik->i", x, covariance, x) + new / PULL_CATEGORY)
        return [float(chance) for chance in sigmoid(x @ self._all - SURE * unsure)]

    @property
    def _all(self) -> Floats:
        return np.array([*self.weights, *self.offsets.values()])


def features_of(one: Said) -> list[float]:
    """Return the logits of both scores, 0 for one that nobody gave, whether the first was not asked, whether it was given, and 1."""
    scores = (float("nan") if one.unasked else one.first, one.second)
    return [
        *(0.0 if np.isnan(s) else float(_logit(np.array(s))) for s in scores),
        float(one.unasked),
        float(one.given),
        1.0,
    ]


def _features(said: Sequence[Said], names: Sequence[str]) -> Floats:
    """Return a row for each, `(n, weights + names)`: its own features, and which of the categories it is."""
    rows = [[*features_of(one), *(one.category == name for name in names)] for one in said]
    return np.array(rows, float).reshape(len(said), len(PULL) + len(names))


def fit_curve(
    said: Sequence[Said], right: Sequence[bool], before: Floats, counts: Sequence[float] | None = None
) -> Curve:
    """Fit a curve to answers of people, pulled towards a belief.

    Args:
        said: What the models said.
        right: What people said.
        before: Weights of the belief.
        counts: How much each answer counts, in (0, 1]; all of them whole when None.

    >>> said = [Said(category="knife", first=0.5, second=score) for score in [0.9] * 20 + [0.1] * 20]
    >>> told = fit_curve(said, [True] * 20 + [False] * 20, KEPT_BEFORE)
    >>> [round(chance, 1) for chance in told([said[0], said[-1]])]
    [1.0, 0.0]
    """
    from scipy.optimize import minimize

    names = sorted({one.category for one in said})
    weights, pull = np.concatenate([before, np.zeros(len(names))]), np.append(PULL, [PULL_CATEGORY] * len(names))
    belief, y = weights.copy(), np.array(right, float)
    each = np.ones(len(y)) if counts is None else np.array(counts, float)
    x = _features(said, names)

    def cost(now: Floats) -> tuple[float, Floats]:
        logits = x @ now
        slope = x.T @ (each * (sigmoid(logits) - y)) + pull * (now - belief)
        return float(each @ (np.logaddexp(0, logits) - y * logits) + (pull * (now - belief) ** 2).sum() / 2), slope

    rising = [(0.0, None)] * 2 + [(None, None)] * (len(weights) - 2)  # a surer model is never a reason against
    weights = minimize(cost, weights, jac=True, method="L-BFGS-B", bounds=rising).x
    chance = sigmoid(x @ weights)
    bend = (x * (each * chance * (1 - chance))[:, None]).T @ x + np.diag(pull)
    covariance = tuple(tuple(np.round(row, 6).tolist()) for row in np.linalg.inv(bend))
    own = dict(zip(names, np.round(weights[len(before) :], 4).tolist(), strict=True))
    kept = tuple(np.round(weights[: len(before)], 4).tolist())
    confirmed = Counter(one.category for one, there in zip(said, right, strict=True) if there and not one.given)
    return Curve(weights=kept, offsets=own, covariance=covariance, learned_from=len(y), confirmed=dict(confirmed))
