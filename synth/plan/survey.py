"""What a dataset holds before images are made: labels by category and style, and real images to start from.

Only training images count, and only they are started from: nothing of the test or validation split ever is.
"""

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field

from tilth.claims import State
from tilth.data.where import STYLE
from tilth.geometry import Box
from tilth.origins.said import words_in
from tilth.samples import Sample
from tilth.synth.plan.prompts import Cell

MOST_PARENTS = 4096  # of a kind; more would only cost memory
DRAWN_INTO = ("inpaint", "insert", "paste")  # methods that start from a harmless scene
TRAINED_ON = (State.AUTO, State.REVIEWED, State.CONFIRMED_EMPTY)


class Shelf:
    """Keeps the samples with the smallest ids: ids are hashes, so they are a fair draw that is the same in every run."""

    def __init__(self) -> None:
        self._ids: list[str] = []

    def put(self, id_: str) -> None:
        """Add one."""
        self._ids.append(id_)
        if len(self._ids) >= 2 * MOST_PARENTS:
            self._ids = sorted(self._ids)[:MOST_PARENTS]

    def all(self) -> list[str]:
        """Return them in order."""
        return sorted(self._ids)[:MOST_PARENTS]


@dataclass(kw_only=True)
class Survey:
    """What was counted.

    Args:
        real: Real, labelled training images.
        made: Generated images that are already in.
        labels: Images with a label of each category and style; the style is empty where it is unknown.
        showing: Images with exactly one thing of a category, to follow the edges of, to redraw, to replace or to cut out.
        resembling: Images without a label in which a model saw a look-alike of a category.
        empty: Images that a person found empty, to draw into.
        unseen: Images that only a model found empty, for when there are none that a person did.
    """

    real: int = 0
    made: int = 0
    labels: Counter[Cell] = field(default_factory=Counter)
    showing: dict[str, Shelf] = field(default_factory=dict)
    resembling: dict[str, Shelf] = field(default_factory=dict)
    empty: Shelf = field(default_factory=Shelf)
    unseen: Shelf = field(default_factory=Shelf)

    def parents(self, method: str, category: str) -> list[str]:
        """Return the ids of images that a method can start from."""
        if method in DRAWN_INTO:
            return self.empty.all() or self.unseen.all()
        shelves = (self.showing, self.resembling) if method == "replace" else (self.showing,)
        return [id_ for shelf in shelves if category in shelf for id_ in shelf[category].all()]


def take_stock(
    samples: Iterable[Sample], categories: Iterable[str], look_alikes: Mapping[str, Sequence[str]] | None = None
) -> Survey:
    """Look at samples once, those that may be trained on, without their images.

    Args:
        samples: To look at.
        categories: To count.
        look_alikes: Category -> look-alikes that can be replaced by it; none are looked for when None.
    """
    found, wanted = Survey(), set(categories)
    for sample in samples:
        if sample.made:
            found.made += 1
        truth = sample.truth
        if truth.state not in TRAINED_ON:
            continue
        found.real += not sample.made
        for category in truth.categories & wanted:
            found.labels[(category, style_of(sample))] += 1
        if sample.made:
            continue  # children of generated images would pass their flaws on
        if len(truth.labels) == 1 and truth.labels[0].box_xyxy and truth.labels[0].category in wanted:
            found.showing.setdefault(str(truth.labels[0].category), Shelf()).put(sample.id)
        elif not truth.labels:
            (found.empty if truth.state is State.CONFIRMED_EMPTY else found.unseen).put(sample.id)
            for category, words in (look_alikes or {}).items():
                if look_alike_in(sample, words):
                    found.resembling.setdefault(category, Shelf()).put(sample.id)
    return found


def look_alike_in(sample: Sample, words: Sequence[str]) -> Box | None:
    """Return the box of the surest look-alike that a model saw in an image and grounding put aside, of those that are named."""
    seen = [
        row
        for name, rows in sample.columns.items()
        if name.endswith(".removed") and isinstance(rows, Sequence)
        for row in rows
        if isinstance(row, Mapping) and row.get("reason") == "look-alike" and row.get("phrase") in words
    ]
    best = max(seen, key=lambda row: float(str(row["score"])), default=None)
    if best is None or not isinstance(corners := best["box_xyxy"], Sequence):
        return None
    x0, y0, x1, y1 = (float(str(value)) for value in corners)
    return x0, y0, x1, y1


def style_of(sample: Sample) -> str:
    """Return the style of a sample as a column or its origin tells it; empty when unknown."""
    return str(sample.columns.get(STYLE) or sample.origin.get("style") or "")


def said_of(sample: Sample) -> str:
    """Return all words that came with an image: where it is from, its caption, its tags, its text; with its data, what the file says."""
    inside = words_in(sample.data) if sample.data else ""
    return " ".join([*_texts([sample.origin, sample.columns]), inside])


def _texts(told: object) -> Iterator[str]:
    if isinstance(told, str):
        yield told
    elif isinstance(told, Mapping):
        yield from (text for value in told.values() for text in _texts(value))
    elif isinstance(told, Sequence):
        yield from (text for value in told for text in _texts(value))


def frame_around(
    size_wh: tuple[int, int], box_xyxy: Box | None, shape_wh: tuple[int, int] = (1, 1)
) -> tuple[int, int, int, int]:
    """Return the largest frame `(left, top, width, height)` of a shape in an image, as near to the middle of a box as it gets.

    >>> frame_around((100, 60), (70.0, 10.0, 90.0, 50.0))
    (40, 0, 60, 60)
    >>> frame_around((100, 60), None, (2, 1))
    (0, 5, 100, 50)
    """
    scale = min(length / part for length, part in zip(size_wh, shape_wh, strict=True))
    wide, tall = (max(1, min(length, round(part * scale))) for length, part in zip(size_wh, shape_wh, strict=True))
    middle = [(box_xyxy[i] + box_xyxy[i + 2]) / 2 for i in (0, 1)] if box_xyxy else [length / 2 for length in size_wh]
    left, top = (
        min(max(0, round(m - side / 2)), length - side)
        for m, side, length in zip(middle, (wide, tall), size_wh, strict=True)
    )
    return left, top, wide, tall
