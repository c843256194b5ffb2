"""Label files of other tools: what every reader yields and every writer gets, and what is noted when a file is odd."""

import os
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from functools import partial
from itertools import islice
from pathlib import Path
from typing import NamedTuple, Protocol

from tilth.errors import InputError
from tilth.geometry import Box
from tilth.images import MAX_BYTES

EXAMPLES = 10  # of each oddity that are named
MAX_NAME = 255  # bytes of a file's name
MAX_LABELS = 100_000  # of an image; more is an attack, or no label file


@dataclass(frozen=True, slots=True, kw_only=True)
class Named:
    """A label as a file has it; its box is `xyxy`, end exclusive, not clipped, in pixels or (`parts`) in parts of the image.

    Without a box it says that the category is somewhere in the image.
    """

    category: str
    box_xyxy: Box | None
    parts: bool = False
    score: float = 1.0


@dataclass(frozen=True, slots=True, kw_only=True)
class LeftOut:
    """A label that a file holds and that its reader can't take: what it is, and of what, empty when that is not known.

    `where` it stands is given where the image's name does not say enough.
    """

    kind: str
    category: str = ""
    where: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Found:
    """An image and what a label file says of it.

    Args:
        name: Path of the image relative to the root, or what the file calls it when it cannot be had.
        read: Returns the image file's bytes when it is called, and not before; None when `error` says why there is none.
        label_file: Path of the label file relative to the root; empty when nothing speaks of the image.
        labels: Those that can be taken. With those left out they are all that the file holds of the image, each once.
        left_out: Those that cannot.
        size_wh: The size that the label file gives; None when it gives none.
        upright: The tool that made the label file shows images as they are to be seen, whatever size it gives.
        state: What the file says of an image without labels, if it does: `confirmed_empty` or `unlabelled`.
        unasked: What the file says that nobody looked for in the image, by its own names.
        unsure: What the image may show besides its labels, by the file's own names; an empty name is anything.
        one_of: Whether the label is the one that was chosen of several, which says nothing of the others.
        served: What a model that is served thought of the image, as `tilth serve --keep-doubts` wrote it.
        error: Why the image cannot be had.
    """

    name: str
    read: Callable[[], bytes] | None = None
    label_file: str = ""
    labels: tuple[Named, ...] = ()
    left_out: tuple[LeftOut, ...] = ()
    size_wh: tuple[int, int] | None = None
    upright: bool = False
    state: str = ""
    unasked: tuple[str, ...] = ()
    unsure: tuple[str, ...] = ()
    one_of: bool = False
    served: "Served | None" = None
    error: str = ""


class Served(NamedTuple):
    """What a served model thought of an image: the score of each of its categories, and how unsure it was of the whole, in [0, 1]."""

    by: str
    time: str
    doubt: float
    scores: dict[str, float]


class Reader(Protocol):
    """Reads a label source; its memory does not grow with the number of images."""

    root: Path

    def count(self) -> int | None:
        """Return how many images there are at most; None when only reading would tell."""
        ...

    def __iter__(self) -> Iterator[Found]: ...


class Boxed(NamedTuple):
    """A box to write."""

    category: str
    box_xyxy: Box
    score: float
    source: str


class Shown(NamedTuple):
    """A label of the whole image to write."""

    category: str
    score: float
    source: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Entry:
    """An image to write.

    Args:
        id: Of the sample.
        file: Path to write it under, or the path it is known by when the labels are written alone.
        data: The image file; None when the labels are written alone.
        size_wh: As it is shown.
        split: `train`, `val`, `test` or empty.
        state: Of the sample.
        licence: Of the image.
        labels: The boxes, pixels of the image as it is shown.
        shown: The labels of the whole image.
        unasked: Categories of the set that nobody looked for in the image.
    """

    id: str
    file: str
    data: bytes | None
    size_wh: tuple[int, int]
    split: str
    state: str
    licence: str = ""
    labels: tuple[Boxed, ...] = ()
    shown: tuple[Shown, ...] = ()
    unasked: tuple[str, ...] = ()


class Writer(Protocol):
    """Writes one format into a folder that is there, one image at a time."""

    def add(self, entry: Entry) -> None:
        """Write an image and its boxes."""
        ...

    def close(self) -> None:
        """Write what comes last."""
        ...


@dataclass
class Tally:
    """Counts things by kind, and names the first of each."""

    counts: Counter[str] = field(default_factory=Counter)
    examples: dict[str, list[str]] = field(default_factory=dict)

    def note(self, kind: str, where: str) -> None:
        """Count one."""
        self.counts[kind] += 1
        named = self.examples.setdefault(kind, [])
        if len(named) < EXAMPLES:
            named.append(writable(where[:200]))


@dataclass
class Oddities(Tally):
    """What is odd in a source, and the labels that it holds of no image that is taken."""

    lost: Tally = field(default_factory=Tally)


def inside(root: Path, name: str) -> Path:
    """Return the path that a label file names, which must stay under the root, links followed.

    Raises:
        InputError: It leaves the root.
    """
    parts = name.replace("\\", "/").split("/")
    if ".." in parts or parts[0] == "" or parts[0].endswith(":") or "\0" in name:
        raise InputError(f"refused: {name!r} leads out of the folder")
    if max(len(os.fsencode(part)) for part in parts) > MAX_NAME:
        raise InputError(f"refused: {name[:40]!r}… is longer than the name of any file")
    path = root.joinpath(*parts)
    real = os.path.realpath(root)
    if os.path.commonpath((real, os.path.realpath(path))) != real:
        raise InputError(f"refused: {name!r} is a link out of the folder")
    return path


def limited(labels: Iterable[Named | LeftOut]) -> "Labels":
    """Collect the labels of an image.

    Raises:
        InputError: There are more than any image has.
    """
    found = list(islice(labels, MAX_LABELS + 1))
    if len(found) > MAX_LABELS:
        raise InputError(f"refused: more than {MAX_LABELS} labels of one image")
    return Labels.of(found)


class Labels(NamedTuple):
    """The labels of an image, those that can be taken and those that cannot."""

    taken: tuple[Named, ...] = ()
    left_out: tuple[LeftOut, ...] = ()

    @classmethod
    def of(cls, found: Iterable[Named | LeftOut]) -> "Labels":
        """Part them."""
        labels = list(found)
        out = tuple(label for label in labels if isinstance(label, LeftOut))
        return cls(tuple(label for label in labels if isinstance(label, Named)) if out else tuple(labels), out)  # type: ignore[arg-type]


def writable(text: str) -> str:
    """Return a text without what no file can hold: half characters, which JSON can write.

    >>> writable("a" + chr(0xD800))
    'a?'
    """
    return text if text.isascii() else text.encode("utf-8", "replace").decode()


def nobody(name: str) -> bool:
    """Know no name; for readers that need not ask what a label is called here."""
    return False


def is_absolute(name: str) -> bool:
    r"""Tell whether a path is one of another machine: from its root, or from a drive of Windows.

    >>> is_absolute("C:\\sets\\a.png"), is_absolute("/sets/a.png"), is_absolute("a:b.png")
    (True, True, False)
    """
    return name.startswith(("/", "\\")) or name[1:3] in (":\\", ":/")


def on_disk(path: Path) -> Callable[[], bytes]:
    """Return what reads a file later, refusing one that is larger than any image may be."""
    return partial(_read, path)


def _read(path: Path) -> bytes:
    if (size := path.stat().st_size) > MAX_BYTES:
        raise InputError(f"file of {size / 2**20:.0f} MiB, the limit is {MAX_BYTES // 2**20} MiB")
    return path.read_bytes()
