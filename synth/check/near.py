"""Which generated images are nearly the same as a real one, or as one another, and how far apart they are.

By their PDQ hashes, where `hash` measured them, and by the vectors of an encoder.
"""

from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt

from tilth.engine.job import batched
from tilth.geometry import Box, iou_of
from tilth.synth.check.look import cosines, unit

COPY = 31  # bits of 256 between the PDQ hashes of copies
SAME_PLACE = 0.5  # overlap of two boxes, intersection over union
AT_ONCE = 1024

Vector = npt.NDArray[np.int8]
Words = npt.NDArray[np.uint64]


@dataclass(frozen=True, kw_only=True)
class Seen:
    """What was measured of one image.

    Args:
        id: Of the sample.
        category: That was asked for.
        style: The same.
        alone: It is not compared with other generated images, as it was made to be like another one.
        found: Best score with which a model found the category.
        wrong: Why what models found is not what was asked for; empty where it is.
        match: Similarity with the words for the category; nan where it was not measured.
        agrees: Chance that a classifier gives the category; nan where none was asked.
        vector: Short vector of the encoder; None where there is none.
        hash: PDQ hash, of an image that is not too plain for one; None where there is none.
        parents: Ids of the images that it was made from.
        place: Box that was drawn into, in pixels; None for the whole.
        brightness: In [0, 1].
        contrast: The same.
        smoothness: How alike neighbouring pixels are, at most 1.
    """

    id: str
    category: str
    style: str = ""
    alone: bool = False
    found: float = 0.0
    wrong: str = ""
    match: float = float("nan")
    agrees: float = float("nan")
    vector: Vector | None = None
    hash: Words | None = None
    parents: tuple[str, ...] = ()
    place: Box | None = None
    brightness: float = 0.5
    contrast: float = 0.2
    smoothness: float = 1.0

    @property
    def cell(self) -> tuple[str, str]:
        """Category and style."""
        return self.category, self.style


@dataclass(frozen=True, kw_only=True)
class Real:
    """The real images that nothing may be a copy of.

    Args:
        vector_ids: Of those with a vector.
        vectors: `(n, d)`.
        hash_ids: Of those with a hash.
        hashes: `(m, 4)`.
    """

    vector_ids: Sequence[str] = ()
    vectors: Vector = field(default_factory=lambda: np.empty((0, 0), np.int8))
    hash_ids: Sequence[str] = ()
    hashes: Words = field(default_factory=lambda: np.empty((0, 4), np.uint64))


def copies(images: Sequence[Seen], real: Real, max_cosine: float) -> dict[str, str]:
    """Say of each image that is a copy of a real one whose; what it was made from may show in it."""
    found: dict[str, str] = {}
    for place, other in _pairs([one.hash for one in images], real.hashes, _close):
        one = images[place]
        if real.hash_ids[other] not in one.parents:
            found.setdefault(one.id, f"copy of a real image: {real.hash_ids[other][:12]}")
    for place, other in _pairs([one.vector for one in images], real.vectors, _alike(max_cosine)):
        one = images[place]
        if real.vector_ids[other] not in one.parents:
            found.setdefault(one.id, f"nearly the same as a real image: {real.vector_ids[other][:12]}")
    return found


def _alike(max_cosine: float) -> Callable[[Vector, Vector], npt.NDArray[np.bool_]]:
    return lambda a, b: np.asarray(cosines(a, b) >= max_cosine)


def _close(a: Words, b: Words) -> npt.NDArray[np.bool_]:
    bits = sum(np.bitwise_count(a[:, k, None] ^ b[None, :, k]).astype(np.int32) for k in range(4))
    return np.asarray(bits <= COPY)


def _pairs(
    mine: Sequence[Any], theirs: npt.NDArray[Any], close: Callable[..., npt.NDArray[np.bool_]]
) -> Iterator[tuple[int, int]]:
    """Yield the places of pairs that are close; one of which nothing is known is close to nothing."""
    there = [place for place, one in enumerate(mine) if one is not None]
    for some in batched(there, AT_ONCE) if len(theirs) else ():
        rows = np.stack([mine[place] for place in some])
        for start in range(0, len(theirs), 8 * AT_ONCE):
            for row, other in np.argwhere(close(rows, theirs[start : start + 8 * AT_ONCE])).tolist():
                yield some[row], start + other


def siblings(images: Sequence[Seen], good: Mapping[str, float], max_cosine: float) -> dict[str, str]:
    """Say of each image that is nearly the same as a better one of its category and style which that is."""
    found: dict[str, str] = {}
    cells: dict[tuple[str, str], list[Seen]] = defaultdict(list)
    for one in sorted(images, key=lambda one: (-good[one.id], -one.found, one.id)):
        if not one.alone:
            cells[one.cell].append(one)
    for cell in cells.values():
        kept: list[Seen] = []
        for one in cell:
            if (same := next(_same(one, kept, max_cosine), None)) is None:
                kept.append(one)
            else:
                found[one.id] = f"nearly the same as a better one: {same.id[:12]}"
    return found


def _same(one: Seen, kept: Sequence[Seen], max_cosine: float) -> Iterator[Seen]:
    """Yield those of the kept images that an image is nearly the same as."""
    for name, close in (("vector", _alike(max_cosine)), ("hash", _close)):
        if getattr(one, name) is not None:
            there = [other for other in kept if getattr(other, name) is not None and not _elsewhere(one, other)]
            for some in batched(there, AT_ONCE):
                near = close(getattr(one, name)[None], np.stack([getattr(other, name) for other in some]))[0]
                yield from (other for other, same in zip(some, near.tolist(), strict=True) if same)


def _elsewhere(one: Seen, other: Seen) -> bool:
    """Tell whether two images have different places of one real image drawn into: most of them is the same, and what counts is not."""
    if one.place is None or other.place is None or not {*one.parents} & {*other.parents}:
        return False
    return iou_of(one.place, other.place) < SAME_PLACE


def diversity(images: Sequence[Seen]) -> dict[str, float]:
    """Return the mean distance of two images of each category and style, 1 - cosine; of two or more with vectors."""
    cells: dict[str, list[Vector]] = defaultdict(list)
    for one in images:
        if one.vector is not None:
            cells[" ".join(filter(None, one.cell))].append(one.vector)
    found = {}
    for name, vectors in sorted(cells.items()):
        n, total = len(vectors), unit(np.stack(vectors)).sum(0)
        if n > 1:
            found[name] = round(1 - (float(total @ total) - n) / (n * (n - 1)), 4)
    return found
