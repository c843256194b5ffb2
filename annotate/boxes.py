"""Clean up the boxes of a detector: every box that goes is given a reason, and none is forgotten.

Detectors that are asked by words name one thing twice, draw one box around a group beside the boxes of its members, box a
part and the whole, and answer "the whole picture" when they find nothing. Each habit has its rule here; 0 turns a rule off.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from tilth.geometry import Boxes, areas, intersections, iou

Ints = npt.NDArray[np.integer]
Floats = npt.NDArray[np.floating]

MEMBERS_APART_IOU = 0.3  # two boxes that share more than this are one thing, not two members of a group


@dataclass(frozen=True, kw_only=True)
class CleanUp:
    """The rules, in the order they are applied.

    Args:
        min_side_px: Boxes with a shorter side go.
        max_aspect: Boxes longer than this many times their width go.
        whole_image: Boxes that cover more than this share of the image go.
        same_class_iou: Of two boxes of a class that overlap more, the one with the lower score goes.
        group_cover: A box goes when at least two others of its class, apart from each other and together no weaker than
            half its score on average, lie inside it by more than this share of their area.
        nested_cover: Of two boxes of a class, the lower-scored one goes when the smaller lies inside the larger by more
            than this share of its area.
        cross_class_iou: Of two boxes of different classes that overlap more, the one with the lower score goes.
    """

    min_side_px: float = 2.0
    max_aspect: float = 20.0
    whole_image: float = 0.97
    same_class_iou: float = 0.5
    group_cover: float = 0.8
    nested_cover: float = 0.9
    cross_class_iou: float = 0.7


@dataclass(frozen=True, kw_only=True)
class Cleaned:
    """What became of each box: `reason` is empty for a box that stays, `by` is the box it gave way to, or -1."""

    reasons: tuple[str, ...]
    by: tuple[int, ...]

    @property
    def kept(self) -> list[int]:
        """Indices of the boxes that stay."""
        return [index for index, reason in enumerate(self.reasons) if not reason]


def suppress(overlaps: Floats, scores: Floats, limit: float) -> Ints:
    """Greedy non-maximum suppression over any measure of overlap `(n, n)`.

    Returns:
        For each box the index of the box it gives way to, or -1, `(n,)`. Of equal scores the earlier box wins.
    """
    by = np.full(len(scores), -1)
    order = np.argsort(-scores, kind="stable")
    for place, best in enumerate(order):
        if by[best] < 0:
            later = order[place + 1 :]
            by[later[(overlaps[best, later] > limit) & (by[later] < 0)]] = best
    return by


def clean(
    boxes_xyxy: Boxes, scores: Floats, classes: Sequence[str] | Ints, size_wh: tuple[int, int], rules: CleanUp
) -> Cleaned:
    """Apply the rules to the boxes of one image.

    Args:
        boxes_xyxy: `(n, 4)` in pixels.
        scores: `(n,)`.
        classes: `(n,)`, names or numbers.
        size_wh: Of the image.
        rules: Which rules, and how strict.
    """
    judge = _Judge(
        np.asarray(boxes_xyxy, np.float64).reshape(-1, 4), np.asarray(scores, np.float64), np.asarray(classes)
    )
    wh = judge.boxes[:, 2:] - judge.boxes[:, :2]
    short, long = wh.min(1, initial=np.inf), wh.max(1, initial=0)
    judge.drop(short < rules.min_side_px, "sliver")
    if rules.max_aspect:
        judge.drop(long > rules.max_aspect * np.maximum(short, 1e-9), "sliver")
    if rules.whole_image:
        judge.drop(areas(judge.boxes) > rules.whole_image * size_wh[0] * size_wh[1], "whole image")
    same = judge.classes[:, None] == judge.classes[None, :]
    overlap = iou(judge.boxes, judge.boxes)
    if rules.same_class_iou:
        judge.compete(np.where(same, overlap, 0), rules.same_class_iou, "same thing twice")
    inside = _inside(judge.boxes)
    if rules.group_cover:
        judge.groups(same & (inside > rules.group_cover), overlap)
    if rules.nested_cover:
        judge.compete(np.where(same, np.maximum(inside, inside.T), 0), rules.nested_cover, "part of another")
    if rules.cross_class_iou:
        judge.compete(np.where(same, 0, overlap), rules.cross_class_iou, "another class fits better")
    return Cleaned(reasons=tuple(judge.reasons), by=tuple(int(b) for b in judge.by))


def _inside(boxes: Boxes) -> Floats:
    """Return which share of box j's area lies in box i, `(n, n)`; only of boxes that are smaller."""
    size = areas(boxes)
    share = intersections(boxes, boxes) / np.maximum(size, 1e-9)[None, :]
    return np.where(size[:, None] > size[None, :], share, 0)


class _Judge:
    def __init__(self, boxes: Boxes, scores: Floats, classes: npt.NDArray[np.generic]) -> None:
        self.boxes, self.scores, self.classes = boxes, scores, classes
        self.reasons = [""] * len(boxes)
        self.by = np.full(len(boxes), -1)

    @property
    def left(self) -> npt.NDArray[np.bool_]:
        return np.array([not reason for reason in self.reasons], bool)

    def drop(self, which: npt.NDArray[np.bool_], reason: str, by: Ints | None = None) -> None:
        for index in np.flatnonzero(which & self.left):
            self.reasons[index] = reason
            self.by[index] = -1 if by is None else by[index]

    def compete(self, overlaps: Floats, limit: float, reason: str) -> None:
        left = np.flatnonzero(self.left)
        by = np.full(len(self.boxes), -1)
        winners = suppress(overlaps[np.ix_(left, left)], self.scores[left], limit)
        by[left] = np.where(winners < 0, -1, left[winners])
        self.drop(by >= 0, reason, by)

    def groups(self, members: npt.NDArray[np.bool_], overlap: Floats) -> None:
        left = self.left
        which = np.zeros(len(self.boxes), bool)
        by = np.full(len(self.boxes), -1)
        for index in np.flatnonzero(left):
            inner = np.flatnonzero(members[index] & left)
            apart = len(inner) > 1 and (overlap[np.ix_(inner, inner)] < MEMBERS_APART_IOU).sum() > 0
            if apart and self.scores[inner].mean() >= self.scores[index] / 2:
                which[index], by[index] = True, inner[np.argmax(self.scores[inner])]
        self.drop(which, "group of others", by)
