"""What models say of images, beside what is known of them: a record an image, as it lies on disk, and columns of many, to be measured."""

from array import array
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import numpy.typing as npt

from tilth.images import Image

Array = npt.NDArray[Any]
MOST_BOXES = 100  # of a category in an image, best first, as COCO counts


@dataclass(frozen=True, kw_only=True)
class Target:
    """An image with its truth: categories, boxes `(k, 4)` xyxy pixels with their category, and a slice such as a style.

    Whether it shows a category in `unasked` is not known, as nobody looked or it is in doubt; of a category in `chances`, which no
    person decided, models say how likely it is.
    """

    id: str
    file: str
    image: Image
    categories: tuple[str, ...]
    boxes_xyxy: npt.NDArray[np.floating[Any]]
    box_categories: tuple[str, ...]
    part: str = ""
    unasked: tuple[str, ...] = ()
    chances: Mapping[str, float] = field(default_factory=dict)


@dataclass(frozen=True, kw_only=True)
class Prediction:
    """What both models say of one image, beside its truth.

    `logits` and `scores` are by category; `boxes` are `[x0, y0, x1, y1, score, category]` in pixels. `unasked` are the categories
    of which nobody knows whether it shows them, as nobody looked or it is in doubt; `chances`, of categories that no person decided, how
    likely models take it to show them. `size_wh` is that of the image; zeros where it was not noted.
    """

    id: str
    file: str
    part: str
    truth: tuple[str, ...]
    truth_boxes: list[list[Any]]
    logits: dict[str, float]
    boxes: list[list[Any]]
    unasked: tuple[str, ...] = ()
    chances: Mapping[str, float] = field(default_factory=dict)
    size_wh: tuple[int, int] = (0, 0)


@dataclass(frozen=True, kw_only=True, eq=False)
class Boxes:
    """Boxes of many images, by category, then image, then score.

    Args:
        owner: Place of the image of each of the m boxes, `(m,)`.
        label: Place of its category, `(m,)`.
        xyxy: `(m, 4)`.
        score: `(m,)`; ones for true boxes.
    """

    owner: Array
    label: Array
    xyxy: Array
    score: Array

    def of(self, label: int) -> "Boxes":
        """Return those of one category."""
        return self.chosen(slice(*np.searchsorted(self.label, [label, label + 1])))

    def moved(self, places: Array) -> "Boxes":
        """Give images their new places; those at -1 leave."""
        owner = places[self.owner]
        order = np.lexsort((-self.score, owner, self.label))
        return replace(self, owner=owner).chosen(order[owner[order] >= 0])

    def by_image(self) -> "Boxes":
        """Return them by image, then score."""
        return self.chosen(np.lexsort((-self.score, self.owner)))

    def chosen(self, kept: Array | slice) -> "Boxes":
        """Return some of them: places or a mask."""
        return Boxes(owner=self.owner[kept], label=self.label[kept], xyxy=self.xyxy[kept], score=self.score[kept])


class _Boxes:
    """Gathers boxes image by image."""

    def __init__(self) -> None:
        self._owner, self._label, self._numbers = array("i"), array("i"), array("d")

    def add(self, owner: int, boxes: Sequence[Sequence[Any]], places: Mapping[str, int], *, scored: bool) -> None:
        for box in boxes:
            if (label := places.get(box[-1])) is not None:
                self._owner.append(owner)
                self._label.append(label)
                self._numbers.extend(map(float, box[:5] if scored else (*box[:4], 1.0)))

    def sorted(self) -> Boxes:
        owner, label = np.array(self._owner, np.int32), np.array(self._label, np.int32)
        numbers = np.array(self._numbers, float).reshape(-1, 5)
        order = np.lexsort((-numbers[:, 4], owner, label))
        owner, label = owner[order], label[order]
        begins = np.ones(len(order), bool)
        begins[1:] = (owner[1:] != owner[:-1]) | (label[1:] != label[:-1])
        rank = np.arange(len(order)) - np.maximum.accumulate(np.where(begins, np.arange(len(order)), 0))
        kept = rank < MOST_BOXES
        order = order[kept]
        return Boxes(owner=owner[kept], label=label[kept], xyxy=numbers[order, :4], score=numbers[order, 4])


@dataclass(frozen=True, kw_only=True, eq=False)
class Predictions:
    """What models say of n images about k categories, in columns; as `Prediction`s they would take ten times the memory.

    Args:
        categories: The k names.
        ids: Of the images, and so on.
        files: Their names in a test folder.
        parts: Their slices.
        logits: Of the classifier, 0 where it says nothing, `(n, k)`.
        best: Score of the detector's best box, 0 where there is none, `(n, k)`.
        truth: What they show, `(n, k)`.
        known: Where that is known, as somebody looked, `(n, k)`.
        chances: Of what no person decided, `(n, k)`; nan elsewhere, and None when there are none.
        said: Boxes of the detector.
        true: Those that are there.
        area: Pixels of each image; nan where its size was not noted, `(n,)`.
        detects: Whether a detector saw anything at all, if of other categories only.
    """

    categories: tuple[str, ...]
    ids: list[str]
    files: list[str]
    parts: list[str]
    logits: Array
    best: Array
    truth: Array
    known: Array
    chances: Array | None
    said: Boxes
    true: Boxes
    area: Array
    detects: bool

    @classmethod
    def of(cls, rows: Iterable[Prediction], categories: Sequence[str]) -> "Predictions":
        """Read records one by one; none of them is kept."""
        places, k = {name: place for place, name in enumerate(categories)}, len(categories)
        ids, files, parts, areas, detects = list[str](), list[str](), list[str](), array("d"), False
        logits, truth, known, chances = list[Array](), list[Array](), list[Array](), dict[int, Array]()
        said, true = _Boxes(), _Boxes()
        for owner, row in enumerate(rows):
            ids.append(row.id)
            files.append(row.file)
            parts.append(row.part)
            areas.append(row.size_wh[0] * row.size_wh[1] or np.nan)
            detects |= bool(row.boxes)
            logits.append(np.array([row.logits.get(name, 0.0) for name in categories], np.float32))
            for column, names, on in ((truth, row.truth, True), (known, row.unasked, False)):
                column.append(np.full(k, not on))
                column[-1][[places[name] for name in names if name in places]] = on
            if row.chances:
                chances[owner] = np.array([row.chances.get(name, np.nan) for name in categories], float)
            said.add(owner, row.boxes, places, scored=True)
            true.add(owner, row.truth_boxes, places, scored=False)
        n, boxes = len(ids), said.sorted()
        best = np.zeros((n, k))
        np.maximum.at(best, (boxes.owner, boxes.label), boxes.score)
        likely = None
        if chances:
            likely = np.full((n, k), np.nan)
            likely[[*chances]] = [*chances.values()]
        return cls(
            categories=tuple(categories), ids=ids, files=files, parts=parts, logits=_rows(logits, k, np.float32), best=best,
            truth=_rows(truth, k, bool), known=_rows(known, k, bool), chances=likely, said=boxes, true=true.sorted(),
            area=np.array(areas), detects=detects,
        )  # fmt: skip

    def __len__(self) -> int:
        """Return the number of images."""
        return len(self.ids)

    def largest(self) -> Array:
        """Return the share of each image that its largest true box takes; nan where there is none, or its size was not noted."""
        pixels = np.full(len(self), np.nan)
        x0, y0, x1, y1 = self.true.xyxy.T
        np.fmax.at(pixels, self.true.owner, (x1 - x0) * (y1 - y0))
        return pixels / self.area

    def of_images(self, ids: Sequence[str]) -> "Predictions":
        """Return what is said of some of the images, in this order."""
        if ids == self.ids:
            return self
        index = {id_: place for place, id_ in enumerate(self.ids)}
        places = np.array([index[id_] for id_ in ids], int)
        moved = np.full(len(self), -1)
        moved[places] = np.arange(len(places))
        return replace(
            self, ids=list(ids), files=[self.files[p] for p in places], parts=[self.parts[p] for p in places],
            logits=self.logits[places], best=self.best[places], truth=self.truth[places], known=self.known[places],
            chances=None if self.chances is None else self.chances[places], said=self.said.moved(moved), true=self.true.moved(moved),
            area=self.area[places],
        )  # fmt: skip

    def left_out(self) -> dict[str, int]:
        """Count for each category the images that say nothing about it, as nobody looked."""
        return dict(zip(self.categories, (~self.known).sum(0).tolist(), strict=True))


def _rows(rows: list[Array], k: int, kind: Any) -> Array:
    return np.array(rows, kind).reshape(len(rows), k)
