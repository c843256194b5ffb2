"""Numbers for judging moderation models, each with a bootstrap interval over images.

Average precision is COCO's, at IoU 0.5 with 101 recall points; a test holds it against pycocotools. It is computed here
because an interval needs it a hundred times, and matching boxes once is enough for all of them.
"""

from collections.abc import Callable, Mapping, Sequence

import numpy as np

from tilth.claims import Json
from tilth.train.measure.boxes import MIN_IOU, match
from tilth.train.measure.prediction import Array, Prediction, Predictions
from tilth.train.measure.ranked import Ranked

RECALL_POINTS = np.linspace(0, 1, 101)


def recall_at_fpr(scores: Array, positive: Array, fpr: float) -> float:
    """Return the share of positives that score above the threshold which lets `fpr` of the negatives through.

    >>> recall_at_fpr(np.array([.9, .8, .3, .2, .1]), np.array([1, 1, 0, 0, 0], bool), 0.05)
    1.0
    """
    return Ranked(scores, positive).recall(fpr)


def f1(said: Array, positive: Array) -> float:
    """Return the harmonic mean of precision and recall; 0 when nothing is right."""
    hits = float((said & positive).sum())
    return 2 * hits / max(1.0, float(said.sum() + positive.sum()))


def best_threshold(scores: Array, positive: Array) -> float | None:
    """Return the score threshold with the best F1, or None when fewer than 5 positives could tell.

    Args:
        scores: Of the images.
        positive: Truth, or its chance; the F1 is then that of expected counts.
    """
    if positive.sum() < 5:
        return None
    order = np.argsort(-scores, kind="stable")
    hits = np.cumsum(positive[order])
    values = 2 * hits / (np.arange(1, len(order) + 1) + positive.sum())
    best = int(np.argmax(values))
    after = scores[order[best + 1]] if best + 1 < len(order) else 0.0
    return float((scores[order[best]] + after) / 2)


def threshold_for(scores: Array, positive: Array, aim: str, share: float) -> float | None:
    """Return the score threshold that reaches an aim with the fewest false positives, or for these with the most recall.

    None when none does, also when the images are too few to tell: a recall of 0.95 needs 20 positives, 1 % of false positives a
    hundred negatives.

    Args:
        scores: Of the images.
        positive: Truth, or its chance.
        aim: `recall` or `precision` of at least `share`, `false_positives` of at most so much.
        share: In (0, 1).

    >>> scores, positive = np.linspace(0, 1, 200), np.arange(200) >= 100
    >>> [round(threshold_for(scores, positive, *aim), 2) for aim in (("recall", 0.9), ("precision", 0.8), ("false_positives", 0.1))]
    [0.55, 0.37, 0.45]
    """
    order = np.argsort(-scores, kind="stable")
    ranked, hits = scores[order], np.cumsum(positive[order])
    over = np.arange(1, len(order) + 1)
    n = float(positive.sum())
    needed = {"recall": (n, 1 / (1 - share)), "precision": (n, 5.0), "false_positives": (len(order) - n, 1 / share)}
    there, least = needed[aim]
    if there < least - 1e-9:
        return None
    last = np.append(ranked[1:] != ranked[:-1], True)  # equal scores are let through together
    if aim == "recall":
        fit = np.flatnonzero(last & (hits >= share * n - 1e-9))
        place = int(fit[0]) if len(fit) else -1
    else:
        good = hits / over >= share - 1e-9 if aim == "precision" else over - hits <= share * there + 1e-9
        fit = np.flatnonzero(last & good)
        place = int(fit[-1]) if len(fit) else -1
    if place < 0:
        return None
    after = ranked[place + 1] if place + 1 < len(ranked) else 0.0
    return float((ranked[place] + after) / 2)


def match_boxes(
    predictions: Sequence[Prediction], category: str, min_iou: float = MIN_IOU
) -> tuple[Array, Array, Array, Array]:
    """Match boxes of a category to the truth.

    Returns:
        For every predicted box its score, whether it is right, and the place of its image; and the number of true boxes of
        each image.
    """
    matched = match(Predictions.of(predictions, [category]), 0, (min_iou,))
    return matched.score, matched.right[0], matched.owner, np.bincount(matched.true, minlength=len(predictions))


def average_precision(scores: Array, right: Array, n_true: int, counts: Array | None = None) -> float:
    """Return the area under the precision-recall curve at 101 recall points; nan without true boxes.

    Args:
        scores: Of the boxes.
        right: Whether each is.
        n_true: Number of true boxes.
        counts: How often each box counts, for a bootstrap sample.
    """
    order = np.argsort(-scores, kind="mergesort")
    return precision_of_ranked(right[order], n_true, None if counts is None else counts[order])


def precision_of_ranked(right: Array, n_true: int, counts: Array | None = None) -> float:
    """Return the same for boxes in the order of their scores, the best first."""
    if n_true == 0:
        return float("nan")
    weight = np.ones(len(right)) if counts is None else counts.astype(float)
    hits, seen = np.cumsum(right * weight), np.cumsum(weight)
    keep = seen > 0
    recall, precision = hits[keep] / n_true, hits[keep] / seen[keep]
    if len(recall) == 0:
        return 0.0
    precision = np.maximum.accumulate(precision[::-1])[::-1]
    places = np.searchsorted(recall, RECALL_POINTS, side="left")
    return float(np.where(places < len(precision), precision[np.minimum(places, len(precision) - 1)], 0.0).mean())


def with_interval(
    value: Callable[[Array], float], n: int, *, resamples: int, seed: int = 0, level: float = 0.95
) -> dict[str, Json]:
    """Return a number over all images and its percentile interval."""
    return with_intervals({"": (value, resamples)}, n, seed=seed, level=level)[""]


def with_intervals(
    values: Mapping[str, tuple[Callable[[Array], float], int]], n: int, *, seed: int = 0, level: float = 0.95
) -> dict[str, dict[str, Json]]:
    """Return numbers over all images, each with its percentile interval; all of them see the same bootstrap samples.

    The difference of two models is such a number, too, and its interval that of a paired bootstrap.

    Args:
        values: Of an array that says how often each of `n` images counts, and the number of bootstrap samples.
        n: Number of images.
        seed: Of the samples.
        level: Of the intervals.
    """
    rng = np.random.default_rng(seed)
    drawn: dict[str, list[float]] = {name: [] for name in values}
    for turn in range(max((resamples for _, resamples in values.values()), default=0) if n else 0):
        counts = np.bincount(rng.integers(0, n, n), minlength=n)
        for name, (value, resamples) in values.items():
            if turn < resamples and not np.isnan(found := value(counts)):
                drawn[name].append(found)
    ends = [50 * (1 - level), 50 * (1 + level)]
    told: dict[str, dict[str, Json]] = {}
    for name, (value, _) in values.items():
        whole = value(np.ones(n, int))
        ci = [round(float(v), 4) for v in np.percentile(drawn[name], ends)] if drawn[name] else [None, None]
        told[name] = {"mean": None if np.isnan(whole) else round(whole, 4), "ci95": ci}
    return told


def expected_calibration_error(chances: Array, positive: Array, counts: Array | None = None, bins: int = 15) -> float:
    """Return the mean gap between said and true chance over equal-width bins, weighted by their size.

    Paper: https://arxiv.org/abs/1706.04599

    Args:
        chances: `(n,)`.
        positive: `(n,)`.
        counts: How often each image counts; once when None.
        bins: Their number.
    """
    place = np.clip((chances * bins).astype(int), 0, bins - 1)
    often = np.ones(len(chances)) if counts is None else counts
    total = often.sum()
    return float(np.abs(np.bincount(place, often * (chances - positive))).sum() / total) if total else float("nan")
