"""Pairs of boxes of one image that share some area, for millions of boxes without a loop over boxes.

Boxes are sorted by image and left edge. The candidates of a box are then those that follow it in its image and begin before
it ends: one binary search for each box, and everything after it is arithmetic on arrays.
"""

from collections.abc import Iterator
from typing import TypeAlias

import numpy as np
import numpy.typing as npt

from tilth.geometry import Boxes

Ints: TypeAlias = npt.NDArray[np.integer]
Floats: TypeAlias = npt.NDArray[np.floating]
Pairs: TypeAlias = tuple[Ints, Ints, Floats]
"""First box, second box and shared area of every pair, each `(pairs,)`."""

BOXES_AT_ONCE = 20_000  # of a part; its arrays stay in the processor's cache


def by_image(images: Ints) -> Iterator[Ints]:
    """Cut a batch into parts of whole images, so that memory does not grow with the batch.

    Yields:
        Indices of boxes, in the order of the batch within each image.
    """
    order = np.argsort(images, kind="stable")
    ends = np.append(np.flatnonzero(np.diff(images[order])) + 1, len(order))
    start = 0
    while start < len(order):
        within = np.searchsorted(ends, start + BOXES_AT_ONCE, side="right") - 1
        end = int(ends[max(within, np.searchsorted(ends, start, side="right"))])
        yield order[start:end]
        start = end


def overlapping(boxes_xyxy: Boxes, images: Ints) -> Pairs:
    """Return all pairs of boxes of the same image that share some area; the first index is the smaller one."""
    # ranks instead of coordinates: image and edge then fit into one whole number, and nothing is rounded
    edges = np.unique(boxes_xyxy[:, [0, 2]], return_inverse=True)[1].reshape(-1, 2)
    base = np.unique(images, return_inverse=True)[1] * (2 * len(images) + 1)
    begins, ends = base + edges[:, 0], base + edges[:, 1]
    order = np.argsort(begins, kind="stable")
    count = np.searchsorted(begins[order], ends[order], side="left") - np.arange(len(order)) - 1
    count = np.maximum(count, 0)  # an inverted box ends before it begins
    first = np.repeat(np.arange(len(order)), count)
    second = np.arange(len(first)) - np.repeat(np.cumsum(count) - count, count) + first + 1
    x0, y0, x1, y1 = boxes_xyxy[order].T
    high = np.minimum(y1[first], y1[second]) - np.maximum(y0[first], y0[second])
    touch = high > 0
    first, second, high = first[touch], second[touch], high[touch]
    shared = np.clip(np.minimum(x1[first], x1[second]) - x0[second], 0, None) * high
    a, b = order[first], order[second]
    found = shared > 0
    return np.minimum(a, b)[found], np.maximum(a, b)[found], shared[found]


def iou_of(shared: Floats, area_a: Floats, area_b: Floats) -> Floats:
    """Return the intersection over union of pairs whose areas are known."""
    union = area_a + area_b - shared
    return np.divide(shared, union, out=np.zeros(len(shared)), where=union > 0)


def suppress(a: Ints, b: Ints, rank: Ints) -> Ints:
    """Greedy non-maximum suppression over pairs that exclude each other.

    Each turn keeps the boxes that no undecided stronger one excludes, and takes those that they exclude: what the greedy loop
    over boxes gives, in as many turns as the longest chain of exclusions.

    Args:
        a: First box of each pair, `(pairs,)`.
        b: Second box of each pair.
        rank: Place of each box in the order of strength, `(n,)`; 0 is the strongest.

    Returns:
        For each box the index of the strongest kept box that excludes it, or -1, `(n,)`.
    """
    stronger = rank[a] < rank[b]
    winner, loser = np.where(stronger, (a, b), (b, a))
    gone = np.zeros(len(rank), bool)
    w, l_ = winner, loser
    while len(w):
        waits = np.zeros(len(rank), bool)
        waits[l_] = True
        gone[l_[~waits[w]]] = True
        open_ = ~gone[w] & ~gone[l_]
        w, l_ = w[open_], l_[open_]
    stands = gone[loser] & ~gone[winner]
    winner, loser = winner[stands], loser[stands]
    order = np.lexsort((rank[winner], loser))
    taken, first = np.unique(loser[order], return_index=True)
    by = np.full(len(rank), -1)
    by[taken] = winner[order][first]
    return by
