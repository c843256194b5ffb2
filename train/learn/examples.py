"""Training examples: small squares on disk, with what the truth says of each. No image is held in memory."""

import json
import os
from array import array
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, fields, replace
from hashlib import sha256
from pathlib import Path
from typing import BinaryIO, SupportsIndex, overload

import numpy as np
import numpy.typing as npt

from tilth.claims import PEOPLE, Claim, State
from tilth.data.where import both, one_of
from tilth.engine.job import batched
from tilth.engine.work import Work
from tilth.errors import InputError
from tilth.images import frame
from tilth.samples import Sample
from tilth.train.learn.squares import BATCH, Squares

VAL_SHARE = 0.15
DOUBT = 0.1  # a chance farther than this from what is said leaves it in doubt
KEPT = "examples.jsonl"  # what is known of the images of a step, and in a file of numbers beside it where each begins
Box = tuple[float, float, float, float]
KNOWN = (State.REVIEWED, State.CONFIRMED_EMPTY, State.AUTO)


@dataclass(frozen=True, kw_only=True)
class Example:
    """What is known of one image.

    Args:
        id: Of the sample.
        labels: Category of each box or of the image, as an index into the labels that are trained.
        boxes: `(x0, y0, x1, y1)` in parts of the square that the image lies in, for labels that have one; None for others.
        looked: Kind of source that looked for each of the labels that are trained; empty where nobody did.
        reviewed: Whether a person said so.
        made: Whether the image was generated.
        val: Whether it is held back for choosing and calibrating.
        sure: Chance of what is said about each of the labels to be right, where a model was asked; empty where nobody can tell.
        likely: Chance that the image shows each of the labels, by what models say; nan where they do not. Empty where no model was asked.
        maybe: What nobody claims and may be there all the same: label, box and chance.
    """

    id: str
    labels: tuple[int, ...]
    boxes: tuple[Box | None, ...]
    looked: tuple[str, ...]
    reviewed: bool
    made: bool
    val: bool
    sure: tuple[float, ...] = ()
    likely: tuple[float, ...] = ()
    maybe: tuple[tuple[int, Box, float], ...] = ()


NAMES = tuple(one.name for one in fields(Example))


class Rows(Sequence[Example]):
    """What is known of many images, in a file, so that memory does not grow with them.

    Args:
        path: Of the file, which `write` has written.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        with np.load(path.with_suffix(".npz")) as told:
            self._ends, self.val, self.known = told["ends"], told["val"], told["known"]

    @classmethod
    def write(cls, path: Path, rows: Iterable[Example]) -> "Rows":
        """Write rows, and open the file."""
        path.parent.mkdir(parents=True, exist_ok=True)
        ends, val, known = array("q", [0]), array("b"), array("b")
        with path.open("wb") as stream:
            for row in rows:
                ends.append(ends[-1] + stream.write(json.dumps(list(vars(row).values())).encode()))
                val.append(row.val)
                known.append(any(row.looked))
        np.savez(path.with_suffix(".npz"), ends=ends, val=np.array(val, bool), known=np.array(known, bool))
        return cls(path)

    def __len__(self) -> int:
        return len(self.val)

    @overload
    def __getitem__(self, at: SupportsIndex) -> Example: ...
    @overload
    def __getitem__(self, at: slice) -> list[Example]: ...
    def __getitem__(self, at: SupportsIndex | slice) -> Example | list[Example]:
        """Read a row, or some."""
        if isinstance(at, slice):
            return [self[i] for i in range(*at.indices(len(self)))]
        i = range(len(self))[at]
        with self._path.open("rb") as stream:
            return self._read(stream, i)

    def __iter__(self) -> Iterator[Example]:
        with self._path.open("rb") as stream:
            for i in range(len(self)):
                yield self._read(stream, i)

    def _read(self, stream: BinaryIO, i: int) -> Example:
        begin, end = int(self._ends[i]), int(self._ends[i + 1])
        told = dict(zip(NAMES, json.loads(os.pread(stream.fileno(), end - begin, begin)), strict=True))
        boxes = tuple(tuple(box) if box else None for box in told["boxes"])
        maybe = tuple((label, tuple(box), chance) for label, box, chance in told["maybe"])
        lists = {name: tuple(value) for name, value in told.items() if isinstance(value, list)}
        return Example(**{**told, **lists, "boxes": boxes, "maybe": maybe})


@dataclass(frozen=True, kw_only=True)
class Examples:
    """What is known of images, and where each lies among the squares of the dataset.

    Args:
        squares: Of the dataset.
        places: Of each image among them; -1 for those that there was no room for.
        rows: What is known of each.
        read: Returns samples by their ids, with their images.
    """

    squares: Squares
    places: npt.NDArray[np.int64]
    rows: Rows
    read: Callable[[Sequence[str]], Sequence[Sample]]

    def images(self, chosen: npt.NDArray[np.int64]) -> npt.NDArray[np.uint8]:
        """Read some images, `(n, side, side, 3)`; those that are not kept as squares are decoded anew."""
        places = self.places[chosen]
        if (places >= 0).all():
            return self.squares.read(places)
        found = np.empty((len(chosen), self.squares.side, self.squares.side, 3), np.uint8)
        if (places >= 0).any():
            found[places >= 0] = self.squares.read(places[places >= 0])
        found[places < 0] = self.squares.make(self.read([self.rows[i].id for i in chosen[places < 0]]))
        return found

    def indices(self, *, val: bool) -> npt.NDArray[np.int64]:
        """Return the places of the validation or the training images; of those of which nothing is known, none."""
        return np.flatnonzero((self.rows.val == val) & self.rows.known)


def present(rows: Sequence[Example], n_labels: int) -> npt.NDArray[np.float32]:
    """Return which labels each image shows, `(n, n_labels)` of 0 and 1."""
    table = np.zeros((len(rows), n_labels), np.float32)
    for i, row in enumerate(rows):
        table[i, list(row.labels)] = 1
    return table


def known(rows: Sequence[Example], auto_weight: float = 1.0) -> npt.NDArray[np.float32]:
    """Return how much is known of each label of each image, `(n, n_labels)`: 0 where nobody looked, else 1.

    What a model says about an image that people have looked at for other things counts `auto_weight`; where the chance of its label to be
    right is known, as far as that is above even.
    """
    table = np.ones((len(rows), len(rows[0].looked) if rows else 0), np.float32)
    for i, row in enumerate(rows):
        for k, kind in enumerate(row.looked):
            table[i, k] = 0 if not kind else auto_weight if row.reviewed and kind not in PEOPLE else 1
            if row.sure and kind and kind not in PEOPLE:
                table[i, k] = max(0.0, 2 * row.sure[k] - 1)
    return table


def likely(
    rows: Sequence[Example], auto_weight: float = 1.0
) -> tuple[npt.NDArray[np.float32], npt.NDArray[np.float32]]:
    """Return the chance that each image shows each label, and how much that counts, both `(n, n_labels)`.

    What people say is sure. Where only models looked, the chance is what `relabel` made of it, also where it dares say nothing; without it,
    what they say counts as `known` has it.
    """
    truth, counts = present(rows, len(rows[0].looked) if rows else 0), known(rows, auto_weight)
    for i, row in enumerate(rows):
        for k, chance in enumerate(row.likely):
            if row.looked[k] not in PEOPLE and not np.isnan(chance):
                truth[i, k], counts[i, k] = chance, 1
    return truth, counts


def drawn(row: Example, rng: np.random.Generator) -> Example:
    """Return what an image shows this time: what is in doubt is there as often as it is likely.

    So a loss that knows only yes and no, such as that of boxes, learns a chance. What people decided stays, and what nobody weighed.
    """
    weighed = {k for k, chance in enumerate(row.likely) if not np.isnan(chance) and row.looked[k] not in PEOPLE}
    shown = [
        (label, box)
        for label, box in zip(row.labels, row.boxes, strict=True)
        if label not in weighed or rng.random() < row.likely[label]
    ]
    shown += [(label, box) for label, box, chance in row.maybe if label in weighed and rng.random() < chance]
    return replace(
        row,
        labels=tuple(label for label, _ in shown),
        boxes=tuple(box for _, box in shown),
        looked=tuple("model" if k in weighed else by for k, by in enumerate(row.looked)),
        sure=tuple(1.0 if k in weighed else sure for k, sure in enumerate(row.sure)),
    )


def doubtful(chance: float, said: bool) -> bool:
    """Tell whether what is said of a category, present or not, is too far from its chance to be present to judge a model by.

    >>> doubtful(0.95, True), doubtful(0.95, False), doubtful(0.5, True), doubtful(0.02, False)
    (False, True, True, False)
    """
    return abs(chance - said) > DOUBT


def held_back(sample: Sample) -> bool:
    """Tell whether a sample is for validation; relatives share the answer, and an explicit split decides first."""
    if sample.split:
        return sample.split == "val"
    parents = sample.origin.get("parents")
    family = parents[0] if isinstance(parents, list | tuple) and parents else None
    group = str(sample.columns.get("dedup.group") or family or ("" if sample.made else sample.id))
    if not group:
        return False  # generated from words alone: it has no relative that could be held back
    return int(sha256(group.encode()).hexdigest()[:8], 16) / 16**8 < VAL_SHARE


def usable(states: Sequence[State] = KNOWN) -> str:
    """Return the condition on samples that may be trained on; sealed ones never."""
    return both("split != 'test'", one_of("state", states))


def made_for(work: Work, states: Sequence[State], ratio: float | None = None) -> list[str]:
    """Return the ids of the generated images that are learned from, the best judged first; at most `ratio` for one real image."""
    made = work.dataset.samples(both(usable(states), "made"), images=False, keep=lambda s: not held_back(s))
    best = [id_ for _, id_ in sorted((sample.rank, sample.id) for sample in made)]
    return best if ratio is None else best[: int(work.dataset.count(both(usable(states), "not made")) * ratio)]


def gather(
    work: Work, labels: Sequence[str], side: int, *, states: Sequence[State], max_made_ratio: float, boxes_only: bool,
    cache_gb: float = 20.0, keep_aspect: bool = False,
) -> Examples:  # fmt: skip
    """Read what is known of the usable samples of the dataset, and decode those that no step has decoded before.

    Images beyond `cache_gb` of squares are decoded when they are shown. Generated images beyond `max_made_ratio` times the real ones are
    left out, the best judged last. They are never used for validation, nor for training when what they were made from is held back.

    Raises:
        InputError: Nothing usable is there, or no example shows any of the labels.
    """
    chosen = set(made_for(work, states, max_made_ratio))
    wanted = work.dataset.samples(usable(states), images=False, keep=lambda s: not s.made or s.id in chosen)
    known = (
        row
        for sample in wanted
        if (row := example(sample, labels, boxes_only=boxes_only, keep_aspect=keep_aspect)) is not None
    )
    rows = Rows.write(work.folder / KEPT, known)
    if not len(rows):
        raise InputError(f"{work.name}: no labelled image to train on; import, ground or review some first")
    if not any(row.labels for row in rows if not row.val):
        raise InputError(f"{work.name}: no training image shows any of {', '.join(labels)}; label some first")
    squares = Squares(work.dataset.root / "squares", side, cache_gb * 1e9, keep_aspect=keep_aspect)
    lacking = sum(int((squares.places(some) < 0).sum()) for some in _ids(rows))
    if lacking > squares.room:
        left = f"{lacking - squares.room:,} of {len(rows):,} images do not fit into {cache_gb:g} GB of decoded squares"
        work.events.emit("cache", step=work.name, message=f"  {left}; they are decoded each time they are shown")
    with work.events.progress(f"{work.name}: read", min(lacking, squares.room)) as advance:
        for some in _ids(rows):
            if missing := [id_ for id_, place in zip(some, squares.places(some), strict=True) if place < 0][
                : squares.room
            ]:
                squares.add(work.dataset.samples(ids=missing), advance)
    return gathered(work, side, keep_aspect=keep_aspect)


def gathered(work: Work, side: int, *, keep_aspect: bool = False) -> Examples:
    """Return what `gather` has gathered for a step, in this process or another one."""
    rows, squares = Rows(work.folder / KEPT), Squares(work.dataset.root / "squares", side, 0, keep_aspect=keep_aspect)
    places = np.concatenate([squares.places(some) for some in _ids(rows)])
    return Examples(squares=squares, places=places, rows=rows, read=work.dataset.read)


def forget(work: Work) -> None:
    """Remove what `gather` has gathered for a step; the squares stay."""
    for path in (work.folder / KEPT, (work.folder / KEPT).with_suffix(".npz")):
        path.unlink(missing_ok=True)


def _ids(rows: Rows) -> Iterator[list[str]]:
    """Yield the ids, many at a time."""
    return batched((row.id for row in rows), 16 * BATCH)


def example(
    sample: Sample, labels: Sequence[str], *, boxes_only: bool = False, keep_aspect: bool = False
) -> Example | None:
    """Return what is known of a sample; None when it shows something and a box is needed that nobody has drawn."""
    truth = sample.truth
    kept = [c for c in truth.labels if c.category in labels]
    if boxes_only and any(c.box_xyxy is None for c in kept):
        return None  # nobody knows where: neither an example nor a counter-example
    width, height = frame(sample.size_wh, (1, 1), keep_aspect=keep_aspect)
    scale = np.array([width, height, width, height])

    def part(claim: Claim) -> Box | None:
        return tuple(np.clip(np.array(claim.box_xyxy) / scale, 0, 1).tolist()) if claim.box_xyxy else None

    chances, presence = sample.chances, sample.presence
    return Example(
        id=sample.id,
        labels=tuple(labels.index(str(c.category)) for c in kept),
        boxes=tuple(map(part, kept)),
        looked=tuple(truth.looked.get(name, "") for name in labels),
        reviewed=truth.state is not State.AUTO,
        made=sample.made,
        val=held_back(sample) and not sample.made,
        sure=tuple(chances.get(name, 1.0) for name in labels) if chances else (),
        likely=tuple(presence.get(name, float("nan")) for name in labels) if presence else (),
        maybe=tuple(
            (labels.index(c.category), box, c.score) for c in sample.doubts if c.category in labels and (box := part(c))
        ),
    )
