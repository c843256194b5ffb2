"""Training examples: decoded once to a small square, kept on disk, with what the truth says of each.

Nothing here holds all images in memory: `images.npy` is a memory map of `(n, side, side, 3)` uint8.
"""

import json
import shutil
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from hashlib import sha256
from pathlib import Path
from typing import Any, cast

import numpy as np
import numpy.typing as npt

from tilth.claims import PEOPLE, State
from tilth.data.where import both, one_of
from tilth.engine.work import Work
from tilth.errors import InputError
from tilth.images import resize
from tilth.samples import Sample

VAL_SHARE = 0.15
KNOWN = (State.REVIEWED, State.CONFIRMED_EMPTY, State.AUTO)


@dataclass(frozen=True, kw_only=True)
class Example:
    """What is known of one image.

    Args:
        id: Of the sample.
        labels: Category of each box or of the image, as an index into the labels that are trained.
        boxes: `(x0, y0, x1, y1)` in parts of the image, for labels that have one; None for others.
        looked: Kind of source that looked for each of the labels that are trained; empty where nobody did.
        reviewed: Whether a person said so.
        made: Whether the image was generated.
        val: Whether it is held back for choosing and calibrating.
        sure: Chance of what is said about each of the labels to be right, where a model was asked; empty where nobody can tell.
    """

    id: str
    labels: tuple[int, ...]
    boxes: tuple[tuple[float, float, float, float] | None, ...]
    looked: tuple[str, ...]
    reviewed: bool
    made: bool
    val: bool
    sure: tuple[float, ...] = ()


@dataclass(frozen=True, kw_only=True)
class Examples:
    """Images `(n, side, side, 3)` and what is known of them."""

    images: npt.NDArray[np.uint8]
    rows: list[Example]

    def indices(self, *, val: bool) -> npt.NDArray[np.int64]:
        """Return the places of the validation or the training images; of those of which nothing is known, none."""
        return np.array([i for i, row in enumerate(self.rows) if row.val == val and any(row.looked)], np.int64)


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


def gather(
    work: Work, labels: Sequence[str], side: int, *, states: Sequence[State], max_made_ratio: float, boxes_only: bool
) -> Examples:
    """Read the usable samples of the dataset into `work.folder`, or open what is there already.

    Generated images beyond `max_made_ratio` times the real ones are left out, in the order of their ids. They are never
    used for validation, nor for training when what they were made from is held back.

    Raises:
        InputError: Nothing usable is there, or no example shows any of the labels.
    """
    folder = work.folder / f"examples-{work.dataset.at.number}-{side}-sure"
    if not (folder / "rows.json").exists():
        real = work.dataset.count(both(usable(states), "not made"))
        made = work.dataset.samples(both(usable(states), "made"), images=False, keep=lambda s: not held_back(s))
        made_ids = sorted(sample.id for sample in made)
        chosen = set(made_ids[: int(real * max_made_ratio)])
        _write(work, folder, labels, side, states, chosen, real + len(chosen), boxes_only)
    rows = [_example(row) for row in json.loads((folder / "rows.json").read_text())]
    images = np.load(folder / "images.npy", mmap_mode="r")
    if not any(row.labels for row in rows if not row.val):
        raise InputError(f"{work.name}: no training image shows any of {', '.join(labels)}; label some first")
    return Examples(images=images[: len(rows)], rows=rows)


def _example(row: dict[str, object]) -> Example:
    boxes = tuple(tuple(b) if b else None for b in row.pop("boxes"))  # type: ignore[attr-defined]
    listed = {name: tuple(cast("list[Any]", row.pop(name, ()))) for name in ("labels", "looked", "sure")}
    return Example(**row, **listed, boxes=boxes)  # type: ignore[arg-type]


def _write(
    work: Work,
    folder: Path,
    labels: Sequence[str],
    side: int,
    states: Sequence[State],
    made: set[str],
    n: int,
    boxes_only: bool,
) -> None:
    partial = folder.with_suffix(".partial")
    shutil.rmtree(partial, ignore_errors=True)
    partial.mkdir(parents=True)
    if n == 0:
        raise InputError(f"{work.name}: no labelled image to train on; import, ground or review some first")
    images = np.lib.format.open_memmap(partial / "images.npy", "w+", np.uint8, (n, side, side, 3))
    rows: list[dict[str, object]] = []
    wanted = work.dataset.samples(usable(states), keep=lambda sample: not sample.made or sample.id in made)
    with work.events.progress(f"{work.name}: read", n) as advance:
        for sample in wanted:
            truth = sample.truth
            kept = [c for c in truth.labels if c.category in labels and (c.box_xyxy or not boxes_only)]
            if boxes_only and any(c.category in labels and c.box_xyxy is None for c in truth.labels):
                advance(1)  # it shows something, nobody knows where: neither an example nor a counter-example
                continue
            width, height = sample.size_wh
            scale = np.array([width, height, width, height])
            images[len(rows)] = resize(sample.pixels(), (side, side))
            rows.append(asdict(Example(
                id=sample.id,
                labels=tuple(labels.index(str(c.category)) for c in kept),
                boxes=tuple(
                    tuple(float(v) for v in np.clip(np.array(c.box_xyxy) / scale, 0, 1)) if c.box_xyxy else None for c in kept  # type: ignore[misc]
                ),
                looked=tuple(truth.looked.get(name, "") for name in labels),
                sure=tuple(round(chances.get(name, 1.0), 4) for name in labels) if (chances := sample.chances) else (),
                reviewed=truth.state is not State.AUTO, made=sample.made, val=held_back(sample) and not sample.made,
            )))  # fmt: skip
            advance(1)
    images.flush()
    (partial / "rows.json").write_text(json.dumps(rows))
    shutil.rmtree(folder, ignore_errors=True)
    partial.rename(folder)  # named last, so its existence means it is whole
