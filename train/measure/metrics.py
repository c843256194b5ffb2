"""Numbers for judging moderation models, each with a bootstrap interval over images.

Average precision is COCO's, at IoU 0.5 with 101 recall points; a test holds it against pycocotools. It is computed here
because an interval needs it a hundred times, and matching boxes once is enough for all of them.
"""

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from tilth.claims import Json
from tilth.geometry import iou
from tilth.train.measure.prediction import Prediction

Array = npt.NDArray[Any]
RECALL_POINTS = np.linspace(0, 1, 101)


def recall_at_fpr(scores: Array, positive: Array, fpr: float) -> float:
    """Return the share of positives that score above the threshold which lets `fpr` of the negatives through.

    >>> recall_at_fpr(np.array([.9, .8, .3, .2, .1]), np.array([1, 1, 0, 0, 0], bool), 0.05)
    1.0
    """
    negatives = np.sort(scores[~positive])[::-1]
    if len(negatives) == 0 or not positive.any():
        return float("nan")
    allowed = int(np.floor(fpr * len(negatives)))
    threshold = negatives[allowed] if allowed < len(negatives) else -np.inf
    return float((scores[positive] > threshold).mean())


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
    predictions: Sequence[Prediction], category: str, min_iou: float = 0.5
) -> tuple[Array, Array, Array, Array]:
    """Match boxes of a category to the truth, image by image, best score first, as COCO does.

    Boxes in images of which nobody knows whether they show it are left out, and so are true ones.

    Returns:
        For every predicted box its score, whether it is right, and the place of its image; and the number of true boxes of
        each image.
    """
    scores, right, owner, truths = [], [], [], np.zeros(len(predictions), int)
    for place, prediction in enumerate(predictions):
        if category in prediction.unasked:
            continue
        true = np.array([b[:4] for b in prediction.truth_boxes if b[4] == category], float).reshape(-1, 4)
        truths[place] = len(true)
        said = sorted((b for b in prediction.boxes if b[5] == category), key=lambda b: -b[4])[:100]
        overlaps = iou(np.array([b[:4] for b in said], float).reshape(-1, 4), true)
        free = np.ones(len(true), bool)
        for box, row in zip(said, overlaps, strict=True):
            candidates = np.where(free, row, -1.0)
            best = int(candidates.argmax()) if len(true) else -1
            hit = best >= 0 and candidates[best] >= min_iou
            if hit:
                free[best] = False
            scores.append(box[4])
            right.append(hit)
            owner.append(place)
    return np.array(scores, float), np.array(right, bool), np.array(owner, int), truths


def average_precision(scores: Array, right: Array, n_true: int, counts: Array | None = None) -> float:
    """Return the area under the precision-recall curve at 101 recall points; nan without true boxes.

    Args:
        scores: Of the boxes.
        right: Whether each is.
        n_true: Number of true boxes.
        counts: How often each box counts, for a bootstrap sample.
    """
    if n_true == 0:
        return float("nan")
    if len(scores) == 0:
        return 0.0
    weight = np.ones(len(scores)) if counts is None else counts.astype(float)
    order = np.argsort(-scores, kind="mergesort")
    hits = np.cumsum((right * weight)[order])
    seen = np.cumsum(weight[order])
    keep = seen > 0
    recall, precision = hits[keep] / n_true, hits[keep] / seen[keep]
    if len(recall) == 0:
        return 0.0
    precision = np.maximum.accumulate(precision[::-1])[::-1]
    places = np.searchsorted(recall, RECALL_POINTS, side="left")
    return float(np.where(places < len(precision), precision[np.minimum(places, len(precision) - 1)], 0.0).mean())


def with_interval(value: Callable[[Array], float], n: int, *, resamples: int, seed: int = 0) -> dict[str, Json]:
    """Return a number over all images and its 95 % percentile interval.

    Args:
        value: Of an array that says how often each of `n` images counts.
        n: Number of images.
        resamples: Bootstrap samples.
        seed: Of the samples.
    """
    rng = np.random.default_rng(seed)
    whole = value(np.ones(n, int))
    drawn = [value(np.bincount(rng.integers(0, n, n), minlength=n)) for _ in range(resamples)] if n else []
    drawn = [v for v in drawn if not np.isnan(v)]
    ci = [round(float(v), 4) for v in np.percentile(drawn, [2.5, 97.5])] if drawn else [None, None]
    return {"mean": None if np.isnan(whole) else round(whole, 4), "ci95": ci}


def expected_calibration_error(chances: Array, positive: Array, bins: int = 15) -> float:
    """Return the mean gap between said and true chance over equal-width bins, weighted by their size.

    Paper: https://arxiv.org/abs/1706.04599
    """
    place = np.clip((chances * bins).astype(int), 0, bins - 1)
    gap = 0.0
    for each in range(bins):
        inside = place == each
        if inside.any():
            gap += inside.mean() * abs(chances[inside].mean() - positive[inside].mean())
    return float(gap)
