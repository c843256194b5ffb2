"""Clean up the boxes of a detector: every box that goes is given a reason, and none is forgotten.

Detectors that are asked by words name one thing twice, draw one box around a group beside the boxes of its members, box a
part and the whole, and answer "the whole picture" when they find nothing. Each habit has its rule here; 0 turns a rule off.

The rules judge the boxes of many images at once, over the sparse list of pairs that share some area (`annotate/boxes/pairs.py`);
what they say of an image does not depend on which others are in the batch.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import numpy.typing as npt

from tilth.annotate.boxes.pairs import Ints, Pairs, by_image, iou_of, overlapping, suppress
from tilth.geometry import Boxes, areas

Floats = npt.NDArray[np.floating]
Flags = npt.NDArray[np.bool_]

MEMBERS_APART_IOU = 0.3  # two boxes that share more than this are one thing, not two members of a group
REASONS = (
    "",
    "sliver",
    "whole image",
    "same thing twice",
    "group of others",
    "part of another",
    "another class fits better",
)


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
    """What became of each box.

    Args:
        codes: Place in `REASONS` of why each box goes, `(n,)`; 0 for a box that stays.
        by: The box that it gave way to, or -1, `(n,)`.
    """

    codes: npt.NDArray[np.uint8]
    by: Ints

    @cached_property
    def reasons(self) -> tuple[str, ...]:
        """Why each box goes; empty for a box that stays."""
        return tuple(REASONS[code] for code in self.codes)

    @property
    def kept(self) -> list[int]:
        """Indices of the boxes that stay."""
        return [int(index) for index in np.flatnonzero(self.codes == 0)]


def clean(
    boxes_xyxy: Boxes, scores: Floats, classes: Sequence[str] | Ints, size_wh: tuple[int, int], rules: CleanUp
) -> Cleaned:
    """Apply the rules to the boxes of one image: a batch of one; see `clean_batch`."""
    return clean_batch(boxes_xyxy, scores, classes, np.zeros(len(scores), np.int64), np.array([size_wh]), rules)


def clean_batch(
    boxes_xyxy: Boxes, scores: Floats, classes: Sequence[str] | Ints, images: Ints, sizes_wh: Ints, rules: CleanUp
) -> Cleaned:
    """Apply the rules to the boxes of many images.

    Args:
        boxes_xyxy: `(n, 4)` in pixels.
        scores: `(n,)`.
        classes: `(n,)`, names or numbers.
        images: Which image each box is of, `(n,)`, in any order.
        sizes_wh: Of the images, `(m, 2)`.
        rules: Which rules, and how strict.
    """
    boxes = np.asarray(boxes_xyxy, np.float64).reshape(-1, 4)
    scores, images = np.asarray(scores, np.float64), np.asarray(images, np.int64)
    kinds = np.asarray(classes)
    if kinds.dtype.kind not in "iu":
        kinds = np.unique(kinds, return_inverse=True)[1]
    codes, by = np.zeros(len(boxes), np.uint8), np.full(len(boxes), -1)
    whole = np.asarray(sizes_wh, np.float64).reshape(-1, 2).prod(1)[images]
    _alone(boxes, whole, rules, codes)
    left = np.flatnonzero(codes == 0)
    for within in by_image(images[left]):
        part = left[within]
        judge = _Judge(boxes[part], scores[part], kinds[part], images[part])
        judge.apply(rules)
        codes[part] = judge.codes
        by[part] = np.where(judge.by < 0, -1, part[judge.by])
    return Cleaned(codes=codes, by=by)


def _alone(boxes: Boxes, whole: Floats, rules: CleanUp, codes: npt.NDArray[np.uint8]) -> None:
    """Apply the rules that look at one box alone."""
    wh = boxes[:, 2:] - boxes[:, :2]
    short, long = wh.min(1, initial=np.inf), wh.max(1, initial=0)
    sliver = short < rules.min_side_px
    if rules.max_aspect:
        sliver |= long > rules.max_aspect * np.maximum(short, 1e-9)
    sliver |= ~np.isfinite(boxes).all(1)  # a side that is no number is below and above nothing
    codes[sliver] = REASONS.index("sliver")
    if rules.whole_image:
        codes[(areas(boxes) > rules.whole_image * whole) & ~sliver] = REASONS.index("whole image")


class _Judge:
    """The rules that compare boxes, over one part of a batch."""

    def __init__(self, boxes: Boxes, scores: Floats, classes: Ints, images: Ints) -> None:
        self.boxes, self.scores = boxes, scores
        self.codes, self.by = np.zeros(len(boxes), np.uint8), np.full(len(boxes), -1)
        # of equal scores the earlier box wins
        self.rank = np.empty(len(boxes), np.int64)
        self.rank[np.argsort(-scores, kind="stable")] = np.arange(len(boxes))
        self.pairs = overlapping(boxes, images)
        a, b, shared = self.pairs
        size = areas(boxes)
        self.same = classes[a] == classes[b]
        self.iou = iou_of(shared, size[a], size[b])
        # share of the smaller box that lies in the larger; of equal boxes neither is inside
        smaller = np.minimum(size[a], size[b])
        self.inside = np.where(size[a] != size[b], shared / np.maximum(smaller, 1e-9), 0)
        self.a_larger = size[a] > size[b]

    def apply(self, rules: CleanUp) -> None:
        if rules.same_class_iou:
            self.compete(self.same & (self.iou > rules.same_class_iou), "same thing twice")
        if rules.group_cover:
            self.groups(self.same & (self.inside > rules.group_cover))
        if rules.nested_cover:
            self.compete(self.same & (self.inside > rules.nested_cover), "part of another")
        if rules.cross_class_iou:
            self.compete(~self.same & (self.iou > rules.cross_class_iou), "another class fits better")

    def chosen(self, which: Flags) -> Pairs:
        """Return the pairs among boxes that are left."""
        a, b, shared = (part[which] for part in self.pairs)
        left = (self.codes[a] == 0) & (self.codes[b] == 0)
        return a[left], b[left], shared[left]

    def compete(self, which: Flags, reason: str) -> None:
        a, b, _ = self.chosen(which)
        by = suppress(a, b, self.rank)
        goes = by >= 0
        self.codes[goes] = REASONS.index(reason)
        self.by[goes] = by[goes]

    def groups(self, which: Flags) -> None:
        a, b, _ = self.chosen(which)
        size = areas(self.boxes)
        outer, inner = np.where(size[a] > size[b], (a, b), (b, a))
        order = np.lexsort((inner, outer))
        outer, inner = outer[order], inner[order]
        around, start, members = np.unique(outer, return_index=True, return_counts=True)
        mean = np.bincount(np.repeat(np.arange(len(around)), members), self.scores[inner], len(around)) / members
        apart = self._apart(inner, start, members)
        goes = apart & (mean >= self.scores[around] / 2)
        group = around[goes]
        strongest = inner[np.lexsort((self.rank[inner], outer))][start]
        self.codes[group] = REASONS.index("group of others")
        self.by[group] = strongest[goes]

    def _apart(self, inner: Ints, start: Ints, members: Ints) -> Flags:
        """Tell which groups have two members that are apart.

        Each turn compares one member of every undecided group with those after it; groups whose members all overlap the
        first are small heaps, so there are few turns.
        """
        apart = np.zeros(len(start), bool)
        turn, open_ = 0, np.flatnonzero(members > 1)
        while len(open_):
            rest = members[open_] - turn - 1
            group = np.repeat(open_, rest)
            step = np.arange(len(group)) - np.repeat(np.cumsum(rest) - rest, rest)
            first, other = inner[start[group] + turn], inner[start[group] + turn + 1 + step]
            size = areas(self.boxes)
            low = np.maximum(self.boxes[first, :2], self.boxes[other, :2])
            wh = np.clip(np.minimum(self.boxes[first, 2:], self.boxes[other, 2:]) - low, 0, None)
            overlap = iou_of(wh[:, 0] * wh[:, 1], size[first], size[other])
            apart[group[overlap < MEMBERS_APART_IOU]] = True
            turn += 1
            open_ = open_[~apart[open_] & (members[open_] > turn + 1)]
        return apart
