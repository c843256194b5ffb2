"""Boxes held against the truth, image by image, best score first, as COCO does."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from tilth.geometry import iou
from tilth.train.measure.prediction import Array, Boxes, Predictions

MIN_IOU = 0.5


@dataclass(frozen=True, kw_only=True, eq=False)
class Matched:
    """Boxes of one category beside the truth, the best score first.

    Args:
        score: Of each of the m boxes, `(m,)`.
        owner: Place of its image, `(m,)`.
        right: Whether it is, for each least overlap, `(t, m)`.
        true: Place of the image of each true box.
    """

    score: Array
    owner: Array
    right: Array
    true: Array


def match(predictions: Predictions, category: int, least: Sequence[float] = (MIN_IOU,)) -> Matched:
    """Match boxes of a category to the truth, for each least overlap by itself.

    Boxes in images of which nobody knows whether they show it are left out, and so are true ones.

    Args:
        predictions: Of n images.
        category: Its place.
        least: Overlaps from which on a box is right.
    """
    known = predictions.known[:, category]
    said, true = predictions.said.of(category), predictions.true.of(category)
    said, true = said.chosen(known[said.owner]), true.chosen(known[true.owner])
    right = np.zeros((len(least), len(said.owner)), bool)
    for ours, theirs in _together(said, true):
        overlaps = iou(said.xyxy[ours], true.xyxy[theirs])
        for row, enough in enumerate(least):
            right[row, ours] = _taken(overlaps, enough) >= 0
    order = np.argsort(-said.score, kind="stable")
    return Matched(score=said.score[order], owner=said.owner[order], right=right[:, order], true=true.owner)


@dataclass(frozen=True, kw_only=True, eq=False)
class Confusions:
    """What is seen where something is, and what is seen where nothing is.

    Args:
        true: Place of the category that is there, -1 for nothing, `(m,)`.
        said: Place of the category that is seen, -1 for nothing, `(m,)`.
        owner: Place of the image, `(m,)`.
        xyxy: The box of what is there; where nothing is, of what is seen, `(m, 4)`.
        score: Of what is seen, 0 for nothing, `(m,)`.
    """

    true: Array
    said: Array
    owner: Array
    xyxy: Array
    score: Array


def confusions(predictions: Predictions, threshold: float) -> Confusions:
    """Hold boxes against the truth whatever their category: each belongs to the true box that it overlaps most, by half at least.

    Where several boxes see the same category in a thing, the surest counts. What nobody looked for is left out.

    Args:
        predictions: Of n images.
        threshold: Least score of a box.
    """
    rows: list[tuple[int, int, int, Array, float]] = []
    kept = (predictions.said.score >= threshold) & predictions.known[predictions.said.owner, predictions.said.label]
    said, true = predictions.said.chosen(kept).by_image(), predictions.true.by_image()
    for owner in np.union1d(said.owner, true.owner):
        ours, theirs = (each.chosen(slice(*np.searchsorted(each.owner, [owner, owner + 1]))) for each in (said, true))
        overlaps = iou(ours.xyxy, theirs.xyxy)
        seen: dict[tuple[int, int], float] = {}
        for place, (label, score) in enumerate(zip(ours.label.tolist(), ours.score.tolist(), strict=True)):
            thing = int(overlaps[place].argmax()) if len(theirs.label) else -1
            if thing >= 0 and overlaps[place, thing] >= MIN_IOU:
                seen.setdefault((thing, label), score)
            else:
                rows.append((-1, label, owner, ours.xyxy[place], score))
        rows += [(int(theirs.label[thing]), label, owner, theirs.xyxy[thing], s) for (thing, label), s in seen.items()]
        missed = {*range(len(theirs.label))} - {thing for thing, _ in seen}
        rows += [(int(theirs.label[thing]), -1, owner, theirs.xyxy[thing], 0.0) for thing in sorted(missed)]
    columns = [*zip(*rows, strict=True)] or [()] * 5
    return Confusions(
        true=np.array(columns[0], int), said=np.array(columns[1], int), owner=np.array(columns[2], int),
        xyxy=np.array(columns[3], float).reshape(-1, 4), score=np.array(columns[4], float),
    )  # fmt: skip


def _together(said: Boxes, true: Boxes) -> Iterator[tuple[slice, slice]]:
    """Yield where the boxes of each image lie that has boxes on both sides; both are in the order of images."""
    for owner in np.intersect1d(said.owner, true.owner):
        yield (
            slice(*np.searchsorted(said.owner, [owner, owner + 1])),
            slice(*np.searchsorted(true.owner, [owner, owner + 1])),
        )


def _taken(overlaps: Array, enough: float) -> Array:
    """Return which true box each box takes, the first to choose first; -1 for none, `(m,)`.

    Args:
        overlaps: `(m, t)`.
        enough: Least overlap.
    """
    free, taken = np.ones(overlaps.shape[1], bool), np.full(len(overlaps), -1)
    for place in np.flatnonzero(overlaps.max(1, initial=0.0) >= enough):
        candidates = np.where(free, overlaps[place], -1.0)
        best = int(candidates.argmax())
        if candidates[best] >= enough:
            free[best], taken[place] = False, best
    return taken
