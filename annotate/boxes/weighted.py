"""Fuse the boxes of several detectors, prompts or scales into boxes that lie where most of them say, many images at once.

Paper: https://arxiv.org/abs/1910.13302 (weighted boxes fusion)
Differs: the strongest boxes of all images take their turn together, then the second strongest, and so on, so that the work of a
turn is arithmetic on arrays; sums are kept in double precision; each box says which fused box it went into.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from tilth.annotate.boxes.pairs import Floats, Ints, by_image, iou_of
from tilth.geometry import Boxes, areas


@dataclass(frozen=True, kw_only=True)
class Fused:
    """Fused boxes, image by image, the strongest first.

    Args:
        boxes_xyxy: `(k, 4)`.
        scores: Mean score of the members, times the share of the models that they come from at best, `(k,)`.
        classes: `(k,)`, as they were given.
        images: `(k,)`, as they were given.
        into: For each box that was given the place of the fused box it is part of, or -1, `(n,)`.
    """

    boxes_xyxy: Boxes
    scores: Floats
    classes: npt.NDArray[np.generic]
    images: Ints
    into: Ints


def fuse_boxes(
    boxes_xyxy: Boxes,
    scores: Floats,
    classes: Sequence[str] | Ints,
    images: Ints,
    models: Ints,
    weights: Sequence[float],
    *,
    iou: float = 0.55,
    min_score: float = 0.0,
) -> Fused:
    """Fuse boxes of one class and image that overlap; a fused box is the mean of its members, weighted by their scores.

    Args:
        boxes_xyxy: `(n, 4)` in pixels; those without area, or with a side that is no number, take no part.
        scores: `(n,)`; those that are not above 0 take no part.
        classes: `(n,)`, names or numbers.
        images: Which image each box is of, `(n,)`, in any order.
        models: Which model each box is from, `(n,)`, as a place in `weights`.
        weights: How much each model counts, `(m,)`.
        iou: A box joins the fused box that it overlaps most, if by more than this.
        min_score: Boxes below take no part.

    Raises:
        ValueError: A weight is not above 0, or `iou` lies outside (0, 1).
    """
    trust = np.asarray(weights, np.float64)
    if not len(trust) or not (trust > 0).all() or not 0 < iou < 1:
        raise ValueError(f"weights must be above 0 and iou in (0, 1), got {list(weights)} and {iou}")
    boxes, scores = np.asarray(boxes_xyxy, np.float64).reshape(-1, 4), np.asarray(scores, np.float64)
    kinds, images = np.asarray(classes), np.asarray(images, np.int64)
    strength = scores * trust[models]
    part_of = np.full(len(boxes), -1)
    whole = np.isfinite(boxes).all(1) & np.isfinite(scores)
    usable = np.flatnonzero(whole & (areas(boxes) > 0) & (scores > 0) & (scores >= min_score))
    group = np.unique(kinds[usable], return_inverse=True)[1] if len(usable) else usable
    count = 0
    for within in by_image(images[usable]):
        part = usable[within]
        group_of = np.unique(images[part], return_inverse=True)[1] * len(usable) + group[within]
        part_of[part] = count + _clusters(boxes[part], strength[part], group_of, iou)
        count = int(part_of[part].max()) + 1
    return _fused(boxes, strength, kinds, images, trust, part_of, count)


def _fused(
    boxes: Boxes,
    strength: Floats,
    kinds: npt.NDArray[np.generic],
    images: Ints,
    trust: Floats,
    part_of: Ints,
    count: int,
) -> Fused:
    used = np.flatnonzero(part_of >= 0)
    cluster = part_of[used]
    members = np.bincount(cluster, minlength=count)
    total = np.bincount(cluster, strength[used], count)
    mean = np.stack([np.bincount(cluster, strength[used] * boxes[used, k], count) for k in range(4)], 1)
    first = np.empty(count, np.int64)
    first[cluster[::-1]] = used[::-1]
    scores = total / members * np.minimum(len(trust), members) / trust.sum()
    order = np.lexsort((-scores, images[first]))
    place = np.empty(count, np.int64)
    place[order] = np.arange(count)
    return Fused(
        boxes_xyxy=(mean / total[:, None])[order],
        scores=scores[order],
        classes=kinds[first][order],
        images=images[first][order],
        into=np.where(part_of < 0, -1, place[part_of]) if count else part_of,
    )


def _clusters(boxes: Boxes, strength: Floats, group: Ints, limit: float) -> Ints:
    """Return which cluster each box is part of, `(n,)`, numbered from 0.

    A group holds the boxes that may join each other. Its clusters lie in the places of its boxes, as there cannot be more.
    """
    order = np.lexsort((-strength, group))
    boxes, strength = boxes[order], strength[order]
    start, size = np.unique(group[order], return_index=True, return_counts=True)[1:]
    largest = np.argsort(-size, kind="stable")  # groups that still have boxes are then always the first ones
    start, size = start[largest], size[largest]
    clusters = np.zeros(len(start), np.int64)
    weight, weighted, fused = np.zeros(len(boxes)), np.zeros((len(boxes), 4)), np.zeros((len(boxes), 4))
    slot = np.empty(len(boxes), np.int64)
    for turn in range(int(size[0]) if len(size) else 0):
        active = int(np.searchsorted(-size, -turn, side="left"))
        new = start[:active] + turn
        found = _best(fused, boxes[new], start[:active], clusters[:active], limit)
        fresh = found < 0
        joins = np.where(fresh, start[:active] + clusters[:active], found)
        clusters[:active] += fresh
        slot[new] = joins
        weight[joins] += strength[new]  # of every group one box, so that no place comes twice
        weighted[joins] += strength[new, None] * boxes[new]
        fused[joins] = weighted[joins] / weight[joins, None]
    part_of = np.empty(len(boxes), np.int64)
    part_of[order] = np.unique(slot, return_inverse=True)[1]
    return part_of


def _best(fused: Boxes, boxes: Boxes, start: Ints, clusters: Ints, limit: float) -> Ints:
    """Return for the box of each group the cluster that it overlaps most, or -1 when by no more than the limit, `(groups,)`."""
    group = np.repeat(np.arange(len(start)), clusters)
    ahead = np.cumsum(clusters) - clusters
    place = np.arange(len(group)) - ahead[group] + start[group]
    low = np.maximum(fused[place, :2], boxes[group, :2])
    wh = np.clip(np.minimum(fused[place, 2:], boxes[group, 2:]) - low, 0, None)
    overlap = iou_of(wh[:, 0] * wh[:, 1], areas(fused)[place], areas(boxes)[group]).round(
        9
    )  # a tie goes to the stronger
    near = np.flatnonzero(overlap > limit)
    best = np.full(len(start), -1)
    order = near[np.lexsort((place[near], -overlap[near], group[near]))]
    winner, first = np.unique(group[order], return_index=True)
    best[winner] = place[order[first]]
    return best
