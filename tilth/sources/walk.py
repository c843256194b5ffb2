"""The files below a folder: images are known by their suffix, or else by their first bytes, and nothing is passed over unsaid.

A file with a suffix of `SUFFIXES` is taken for an image unopened, so a million of them cost no more than their listing; what it
really is, decoding says. Of files with other suffixes, or none, the first bytes are read, unless the suffix is one of `OTHERS`.
"""

import os
from collections import deque
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple

from tilth.claims import Json
from tilth.errors import InputError
from tilth.images import HEAD_BYTES, SUFFIXES, is_image, kind_of

OTHERS = (  # never images that are read, so they are not opened
    ".txt", ".json", ".jsonl", ".xml", ".csv", ".tsv", ".yaml", ".yml", ".md", ".html", ".py", ".log", ".tar", ".parquet", ".arrow",
    ".lance", ".npy", ".npz", ".zip", ".gz", ".pdf", ".mp4", ".mov", ".dng", ".nef", ".arw", ".cr2", ".cr3", ".orf", ".rw2", ".pef",
    ".raf", ".srw",
)  # fmt: skip
APPLE, HIDDEN = "macOS's own (._)", "hidden"
FOLDER_OF_APPLE = "__MACOSX"
NO_SUFFIX = "no suffix"
KINDS = 100  # that are told apart: files can be numbered by their suffix


@dataclass
class LeftAlone:
    """Counts what was not taken, by kind, with the first of each as an example."""

    counts: dict[str, int] = field(default_factory=dict)
    examples: dict[str, str] = field(default_factory=dict)

    def note(self, kind: str, where: str) -> None:
        """Count one."""
        kind = kind if kind in self.counts or len(self.counts) < KINDS else "other kinds"
        self.counts[kind] = self.counts.get(kind, 0) + 1
        if kind not in self.examples:
            self.examples[kind] = os.fsencode(where).decode("utf-8", "backslashreplace")[:200]

    def add(self, other: "LeftAlone") -> None:
        """Count what somebody else has counted, too."""
        for kind, count in other.counts.items():
            self.counts[kind] = self.counts.get(kind, 0) + count
            self.examples.setdefault(kind, other.examples[kind])

    def facts(self) -> dict[str, Json]:
        """Return the counts as a step reports them."""
        return {kind: {"files": count, "example": self.examples[kind]} for kind, count in sorted(self.counts.items())}


class Listed(NamedTuple):
    """A file that is taken: its folder relative to the root, its name there, and whether it is a link."""

    folder: str
    name: str
    link: bool


def suffix_of(name: str) -> str:
    """Return what follows the last dot of a file's name, with the dot and in lower case; empty when there is none.

    >>> suffix_of("a/b.tar/IMG.JPG"), suffix_of("a.b/photo"), suffix_of(".png")
    ('.jpg', '', '')
    """
    stem, dot, last = name.rpartition("/")[2].rpartition(".")
    return f".{last.lower()}" if dot and stem else ""


def stem_of(path: str) -> str:
    """Return a path without its suffix.

    >>> stem_of("a.b/photo"), stem_of("a.b/photo.png")
    ('a.b/photo', 'a.b/photo')
    """
    suffix = suffix_of(path)
    return path[: -len(suffix)] if suffix else path


def hidden(name: str) -> str:
    """Return the kind of a name that is not to be shown; empty for others."""
    if name[:1] != "." and name != FOLDER_OF_APPLE:
        return ""
    return HIDDEN if name[:1] == "." and name[1:2] != "_" else APPLE


def walk(
    root: Path,
    left: LeftAlone,
    suffixes: Sequence[str] = (),
    *,
    ordered: bool = False,
    name_all: bool = True,
    skip: tuple[str, ...] = (),
) -> Iterator[Listed]:
    """Yield the files of some kinds below a folder; links to folders and hidden folders are not entered.

    Args:
        root: The folder.
        left: Takes notes of everything else.
        suffixes: Of the files, in lower case; of images, also of those that only their first bytes tell, when there are none.
        ordered: Go by name, folder by folder; else as the system has them.
        name_all: Note files of other kinds, too, and not only those that could not be had.
        skip: Ends of paths, in lower case, of files that somebody else reads.

    Raises:
        InputError: The folder itself cannot be listed.
    """
    wanted = tuple(suffixes) or SUFFIXES
    waiting = deque([_entries(root, "", left, ordered)])
    while waiting:
        found = next(waiting[-1], None)
        if found is None:
            waiting.pop()
            continue
        folder, entry = found
        name = entry.name
        path = f"{folder}/{name}" if folder else name
        if kind := hidden(name):
            left.note(kind + (" folder, not entered" if entry.is_dir(follow_symlinks=False) else " file"), path)
        elif entry.is_dir(follow_symlinks=False):
            below = _entries(root, path, left, ordered)
            waiting.append(below) if ordered else waiting.appendleft(below)
        elif (not entry.is_file() or not path.isascii()) and (why := _unusable(entry, path)):
            left.note(why, path)
        elif name.lower().endswith(wanted):
            yield Listed(folder, name, entry.is_symlink())
        elif not suffixes or name_all:
            suffix = suffix_of(name)
            told = "" if suffix in OTHERS else _beginning(root / path)
            if not suffixes and is_image(told):
                yield Listed(folder, name, entry.is_symlink())
            elif name_all and not path.lower().endswith(skip):
                left.note((suffix or NO_SUFFIX) + (f" ({told})" if told else ""), path)


def images_in(folder: Path) -> list[Path]:
    """Return the image files below a folder, sorted."""
    return sorted(folder / found.folder / found.name for found in walk(folder, LeftAlone()))


def _entries(root: Path, folder: str, left: LeftAlone, ordered: bool) -> "Iterator[tuple[str, os.DirEntry[str]]]":
    try:
        with os.scandir(root / folder) as entries:
            for entry in sorted(entries, key=lambda e: e.name) if ordered else entries:
                yield folder, entry
    except OSError as error:
        if not folder:
            raise InputError(f"{root}: cannot be listed: {error.strerror}") from error
        left.note("folder that cannot be listed", folder)


def _unusable(entry: "os.DirEntry[str]", path: str) -> str:
    """Say why an entry can be no file of ours: no table can hold its name, or there is nothing to read."""
    try:
        path.encode()
    except UnicodeEncodeError:
        return "name that is not Unicode"
    if entry.is_file():
        return ""
    if entry.is_dir():
        return "link to a folder, not entered"
    return "link that leads nowhere" if entry.is_symlink() else "no regular file"


def _beginning(path: Path) -> str:
    try:
        with path.open("rb") as stream:
            return kind_of(stream.read(HEAD_BYTES))
    except OSError:
        return "that cannot be opened"
