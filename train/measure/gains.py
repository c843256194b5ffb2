"""What more training images gain: models of several seeds with and without them, judged on the same images.

A gain is uncertain twice over: by the images that it is judged on, which a bootstrap tells, and by chance in training, which the seeds
tell. Its variance is the sum of both. As few seeds tell little, what they vary by is pooled over all amounts: seeds are blocks and
amounts treatments, as in a randomised block design, and the interval is that of Student's t, with the degrees of freedom after Welch
and Satterthwaite. As the best of several amounts is looked for, the interval of each is wider (Bonferroni).

Paper: https://doi.org/10.2307/3002019 (Satterthwaite, 1946)
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from operator import methodcaller

import numpy as np

from tilth.claims import Json
from tilth.train.measure.judged import Judged
from tilth.train.measure.prediction import Array

LEVEL = 0.95
DRAWS = 200  # bootstrap samples; a variance needs fewer than the ends of an interval
LEAST_SHOWN, LEAST_EACH = (
    20,
    5,
)  # images that show anything, and that show or lack a category, below which nothing can be told
LEAST_SLICE = 10  # images that show something in a slice

Metric = Callable[[Judged, Array], float]
METRICS: dict[str, Metric] = {
    "mean_ap": Judged.mean_average_precision,
    "recall_at_fpr05": Judged.recall,
    "average_precision": Judged.average_precision,
    "map50": Judged.map50,
}
WORDS = {
    "mean_ap": "mean average precision",
    "recall_at_fpr05": "recall at 5 % false positives",
    "average_precision": "average precision of unsafe images",
    "map50": "mAP at IoU 0.50",
}


@dataclass(frozen=True, kw_only=True)
class Gain:
    """A difference with the ends of its interval; nan where nothing can be told."""

    mean: float
    low: float
    high: float

    def told(self) -> dict[str, Json]:
        """Return it as reports have it."""
        numbers = [None if np.isnan(value) else round(value, 4) for value in (self.mean, self.low, self.high)]
        return {"mean": numbers[0], "ci95": numbers[1:]}

    def __str__(self) -> str:
        """Write it in points."""
        return f"{100 * self.mean:+.1f} points (95 % interval {100 * self.low:+.1f} to {100 * self.high:+.1f})"


@dataclass(frozen=True, kw_only=True)
class Amount:
    """How an amount of generated images did.

    Args:
        ratio: Generated images for one real one.
        images: Their number.
        gain: On all images.
        slices: On each category and slice that has enough images.
    """

    ratio: float
    images: int
    gain: Gain
    slices: Mapping[str, Gain] = field(default_factory=dict)

    def __str__(self) -> str:
        """Write it for a person."""
        return f"{self.gain} with {self.ratio:g} generated images for a real one"

    @property
    def worse(self) -> dict[str, Gain]:
        """The parts on which it is worse, beyond noise."""
        return {name: gain for name, gain in self.slices.items() if gain.high < 0}

    @property
    def helps(self) -> bool:
        """Whether it surely helps, and surely harms nothing."""
        return self.gain.low > 0 and not self.worse


def too_few(judged: Judged, categories: Sequence[str], metric: str) -> str:
    """Say why images cannot tell anything; empty when they can."""
    shown, looked = judged.truth & judged.sure, judged.sure
    whole = int(shown.any(1).sum())
    each = {
        name: (int(shown[:, k].sum()), int((looked & ~judged.truth)[:, k].sum())) for k, name in enumerate(categories)
    }
    fit = [name for name, (there, absent) in each.items() if min(there, absent) >= LEAST_EACH]
    safe = int((looked.all(1) & ~shown.any(1)).sum())
    if whole < LEAST_SHOWN or not fit:
        return (
            f"nothing can be told: of the real validation images that people labelled {whole} show something, and {len(fit)} of "
            f"{len(categories)} categories are shown by {LEAST_EACH} and absent from {LEAST_EACH}; needed are {LEAST_SHOWN} and one"
        )
    if metric in ("recall_at_fpr05", "average_precision") and safe < LEAST_SHOWN:
        return f"nothing can be told: {safe} real validation images are known to be safe, {WORDS[metric]} needs {LEAST_SHOWN}"
    return ""


def gains(
    without: Sequence[Judged], amounts: Mapping[float, Sequence[Judged]], metric: str, *, parts: int = 1, seed: int = 0
) -> dict[float, Gain]:
    """Return the gain of each amount over none; all models see the same images.

    Args:
        without: By seed, without any.
        amounts: By seed, for each amount.
        metric: What is compared.
        parts: Looks that are taken at once, beside the amounts; intervals are the wider for it.
        seed: Of the bootstrap.
    """
    from scipy.stats import t

    value = METRICS[metric]
    every = [list(without), *map(list, amounts.values())]
    n, k = without[0].n, len(without)
    once = np.ones(n, int)
    scores = np.array([[value(one, once) for one in models] for models in every])  # (amounts + 1, seeds)
    rng = np.random.default_rng(seed)
    drawn = []
    for _ in range(DRAWS):
        counts = np.bincount(rng.integers(0, n, n), minlength=n)
        drawn.append([np.mean([value(one, counts) for one in models]) for models in every])
    by_images = np.nanvar(np.array(drawn)[:, 1:] - np.array(drawn)[:, :1], axis=0, ddof=1)
    off = scores - scores.mean(0) - scores.mean(1, keepdims=True) + scores.mean()
    free = (k - 1) * len(amounts)
    by_seeds = 2 * float((off**2).sum()) / free / k
    found = {}
    for place, ratio in enumerate(amounts):
        variance = float(by_images[place]) + by_seeds
        freedom = free * (variance / by_seeds) ** 2 if by_seeds else np.inf
        reach = float(t.ppf(1 - (1 - LEVEL) / 2 / len(amounts) / parts, freedom)) * variance**0.5
        mean = float((scores[place + 1] - scores[0]).mean())
        found[ratio] = Gain(mean=mean, low=mean - reach, high=mean + reach)
    return found


def score(models: Sequence[Judged], metric: str) -> list[float]:
    """Return what each model scores on all images."""
    return [round(METRICS[metric](one, np.ones(one.n, int)), 4) for one in models]


def compare(
    models: Mapping[float, Sequence[Judged]], images: Mapping[float, int], categories: Sequence[str], parts: Sequence[str],
    metric: str, *, seed: int = 0,
) -> list[Amount]:  # fmt: skip
    """Return how each amount did beside none, on all images and on each category and slice that enough of them show.

    Args:
        models: By ratio of generated images, by seed; ratio 0 is there.
        images: Number of generated images at each ratio.
        categories: Their names.
        parts: Slice of each validation image, such as its style.
        metric: What is compared.
        seed: Of the bootstrap.
    """
    tried = {ratio: each for ratio, each in models.items() if ratio}
    looks = _looks(models[0][0], categories, parts, metric)
    whole = gains(models[0], tried, metric, seed=seed)
    inside = {}
    for name, look in looks.items():
        seen = {ratio: [look(one) for one in each] for ratio, each in tried.items()}
        inside[name] = gains([look(one) for one in models[0]], seen, metric, parts=len(looks), seed=seed)
    return [
        Amount(ratio=ratio, images=images[ratio], gain=whole[ratio], slices={name: each[ratio] for name, each in inside.items()})
        for ratio in tried
    ]  # fmt: skip


def _looks(
    one: Judged, categories: Sequence[str], parts: Sequence[str], metric: str
) -> dict[str, Callable[[Judged], Judged]]:
    """Return a look at each category, and at each slice where there are several."""
    looks = {f"category {name}": methodcaller("of", k) for k, name in enumerate(categories)}
    names = sorted({*parts} - {""})
    if len(names) > 1:
        looks |= {f"slice {name}": methodcaller("among", np.array(parts) == name) for name in names}

    def tells(seen: Judged) -> bool:
        return seen.positives >= LEAST_SLICE and not np.isnan(METRICS[metric](seen, np.ones(seen.n, int)))

    return {name: look for name, look in looks.items() if tells(look(one))}


def choose(amounts: Sequence[Amount], metric: str) -> tuple[Amount | None, str]:
    """Return the amount that gains most of those that surely help and harm nothing, and why; None when none does.

    >>> sure = Amount(ratio=0.5, images=50, gain=Gain(mean=0.04, low=0.01, high=0.07))
    >>> more = Amount(ratio=1, images=100, gain=Gain(mean=0.05, low=-0.01, high=0.11))
    >>> choose([sure, more], "mean_ap")[1]
    'mean average precision gains +4.0 points (95 % interval +1.0 to +7.0) with 0.5 generated images for a real one'
    >>> choose([more], "mean_ap")[0], choose([more], "mean_ap")[1].partition(":")[0]
    (None, 'mean average precision gains nothing for sure')
    """
    told = WORDS[metric]
    if kept := [amount for amount in amounts if amount.helps]:
        best = max(kept, key=lambda amount: (amount.gain.mean, -amount.ratio))
        return best, f"{told} gains {best}"
    best = max(amounts, key=lambda amount: (amount.gain.low > 0, amount.gain.mean))
    if best.gain.low > 0:
        worse = ", ".join(f"{name}, {gain}" for name, gain in best.worse.items())
        return None, f"{told} gains {best}, but it is worse on {worse}"
    return None, f"{told} gains nothing for sure: {best}"
