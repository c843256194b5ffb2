"""From which chance on somebody counts as recognised: what keeps a stated precision, with an interval, or no promise at all.

Pictures of one person are right or wrong together, so everything here draws people and not pictures.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

DRAWS = 400
SLACK = 0.02  # how far below the stated precision the interval may reach
LEAST = 20  # people among whom somebody must have been recognised, before anything is promised

Floats = npt.NDArray[np.float64]
Bools = npt.NDArray[np.bool_]


@dataclass(frozen=True, kw_only=True)
class Promise:
    """What a threshold keeps.

    Args:
        asked: The stated precision.
        threshold: Chance from which on somebody counts as recognised; None when nothing can be promised.
        precision: Found among calibration people.
        low: End of its 95 % interval over people.
        high: The other.
        recall: Share of pictures of known people that are recognised rightly.
        people: That were recognised in some picture, rightly or not.
        why: Why nothing is promised; empty when something is.
    """

    asked: float
    threshold: float | None
    precision: float
    low: float
    high: float
    recall: float
    people: int
    why: str = ""


def threshold_for(scores: Floats, right: Bools, precision: float) -> float:
    """Return the lowest score from which on the share of right answers is at least so large; infinite when there is none.

    >>> threshold_for(np.array([0.9, 0.8, 0.7, 0.6]), np.array([True, True, False, True]), 0.9)
    0.8
    """
    order = np.argsort(-scores, kind="stable")
    share = np.cumsum(right[order]) / np.arange(1, len(order) + 1)
    enough = np.flatnonzero(share >= precision)
    return float(scores[order[enough[-1]]]) if len(enough) else float("inf")


def promise(scores: Floats, right: Bools, known: Bools, people: Sequence[str], asked: float, seed: int = 0) -> Promise:
    """Choose the threshold that keeps a stated precision.

    Args:
        scores: Chance of the likeliest known person, a picture each.
        right: Whether it is that person.
        known: Whether the picture shows a known person at all.
        people: Whom each picture shows, known or not.
        asked: The precision.
        seed: Of the draws.
    """
    rng = np.random.default_rng((seed, 83))
    names, who = np.unique(np.asarray(people), return_inverse=True)
    own = [np.flatnonzero(who == k) for k in range(len(names))]
    draws = [np.concatenate([own[k] for k in rng.integers(0, len(own), len(own))]) for _ in range(DRAWS)]
    found = sorted(threshold_for(scores[d], right[d], asked) for d in draws)
    at = found[len(found) // 2]  # of all the data at once the lowest is too low: it is where luck was greatest
    taken = scores >= at
    recognised = len({*who[taken].tolist()})
    of = [right[d][scores[d] >= at].mean() for d in draws if (scores[d] >= at).any()]
    low, high = (float(v) for v in np.quantile(of, (0.025, 0.975))) if of else (0.0, 1.0)
    share = float(right[taken].mean()) if taken.any() else 0.0
    sure = 3.0 / max(1, recognised)  # of so many people all right, so many wrong ones are still possible
    why = ""
    if recognised < LEAST:
        why = f"only {recognised} people were recognised, and {LEAST} are needed to know"
    elif not np.isfinite(at) or share - low > SLACK or (low == high == 1.0 and sure > SLACK + 1 - asked):
        why = f"the precision lies in [{low:.1%}, {high:.1%}], too wide to promise {asked:.0%}; calibrate with more people"
    recall = float((taken & right).sum() / max(1, int(known.sum())))
    return Promise(
        asked=asked, threshold=None if why else at, precision=share, low=low, high=high, recall=recall, people=recognised, why=why
    )  # fmt: skip
