"""Folders that are classes: the name of the folder that an image lies in is its label.

Nothing in such a set says that it is one. It is when a folder of images is called as something that is a label here; folders of
`train`, `val` and `test` may lie above the classes or below them. The layout is torchvision's `ImageFolder`.
"""

import os
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

from tilth.annotate.formats.parts.files import Files
from tilth.annotate.formats.parts.records import Entry, Found, LeftOut, Named, Oddities, on_disk
from tilth.claims import State
from tilth.errors import InputError
from tilth.images import SUFFIXES

SPLITS = {"train": "train", "training": "train", "val": "val", "valid": "val", "validation": "val", "dev": "val",
          "test": "test", "testing": "test", "unsplit": ""}  # fmt: skip
AROUND = ("images", "data", "imgs")  # folders that are neither
STATES = (
    State.CONFIRMED_EMPTY.value,
    State.UNLABELLED.value,
)  # as our own export calls folders of images without a label
MANY_FOLDERS = 10_000  # that are looked at; a set of classes has fewer


def taken_name(name: str) -> bool:
    """Tell whether a folder that is called so would not be read as the class of this name."""
    return name in STATES or "/" in name or name in (".", "..") or name.lower() in SPLITS or name.lower() in AROUND


def folders_in(root: Path) -> list[tuple[str, ...]]:
    """Return the folders that hold images, each as its parts below the root that are no split."""
    found: dict[tuple[str, ...], None] = {}
    for number, (place, folders, files) in enumerate(os.walk(root)):
        if number > MANY_FOLDERS:
            break
        folders.sort()
        if any(name.lower().endswith(SUFFIXES) and not name.startswith(".") for name in files):
            found[_classes(Path(place).relative_to(root).parts)] = None
    return list(found)


def _classes(parts: tuple[str, ...]) -> tuple[str, ...]:
    return tuple(part for part in parts if part.lower() not in SPLITS and part.lower() not in AROUND)


def looks_like_classes(root: Path, knows: Callable[[str], bool]) -> bool:
    """Tell whether a folder of images is called as something that is a label here."""
    return any(knows(part) for parts in folders_in(root) for part in parts)


def unknown_classes(root: Path) -> list[str]:
    """Return the names of folders that may be classes: there are several side by side, which hold all images."""
    found = folders_in(root)
    names = {parts[0] for parts in found if parts}
    return sorted(names) if len(names) > 1 and () not in found else []


class ClassFolders:
    """Reads the images of a folder, each with the class that its folder is called by.

    Args:
        root: The folder.
        split: Read only these images, when folders tell splits apart.
        odd: Takes notes.
        knows: Tells whether a name is a label here.
    """

    def __init__(self, root: Path, split: str, odd: Oddities, knows: Callable[[str], bool]) -> None:
        self.root, self.odd = root, odd
        self._knows = lambda name: name not in STATES and knows(name)
        self.images = Files(root)
        folders = folders_in(root)
        at = Counter(level for parts in folders for level, part in enumerate(parts) if self._knows(part))
        self._level = max(at, key=lambda level: (at[level], -level)) if at else 0
        self.categories = tuple(
            dict.fromkeys(name for parts in folders if (name := self._at(parts)) and name not in STATES)
        )
        self._split = split
        if split:
            there = {SPLITS[part.lower()] for place, _, _ in os.walk(root) for part in Path(place).relative_to(root).parts
                     if part.lower() in SPLITS} - {""}  # fmt: skip
            if there and split not in there:
                raise InputError(f"{root}: has no folder for {split!r}; it has {', '.join(sorted(there))}")
            self._split = split if there else ""

    def _at(self, parts: tuple[str, ...]) -> str:
        return parts[self._level] if len(parts) > self._level else ""

    def count(self) -> int:
        """Count the images."""
        return len(self.images)

    def __iter__(self) -> Iterator[Found]:
        """Yield the images in the order of their folders and names."""
        for path in self.images:
            folders = tuple(path.split("/")[:-1])
            if self._split and self._split not in {SPLITS.get(part.lower()) for part in folders}:
                continue
            try:
                read, error = on_disk(self.images.checked(path)), ""
            except InputError as problem:
                read, error = None, str(problem)
            yield self._found(Found(name=path, read=read, error=error), folders)

    def _found(self, found: Found, folders: tuple[str, ...]) -> Found:
        parts = _classes(folders)
        named = [part for part in parts if self._knows(part)]
        name = self._at(parts) if len(named) != 1 else named[0]
        more: dict[str, Any] = {"label_file": "/".join(folders) + "/", "one_of": True}
        if len(set(named)) > 1:
            more["left_out"] = tuple(
                LeftOut(kind="one of several classes that an image's folders name", category=n) for n in named
            )
        elif name in STATES:
            more["state"] = name
        elif name:
            more["labels"] = (Named(category=name, box_xyxy=None),)
        else:
            self.odd.note("image outside the folders of classes, taken without a label", found.name)
            more = {}
        return replace(found, **more)


class ClassFoldersWriter:
    """Writes each image into the folder of its category, `confirmed_empty` or `unlabelled`."""

    def __init__(self, folder: Path, categories: tuple[str, ...]) -> None:
        self.folder = folder
        for name in categories:
            (folder / name).mkdir()

    def add(self, entry: Entry) -> None:
        """Write an image."""
        names = dict.fromkeys([*(label.category for label in entry.labels), *(label.category for label in entry.shown)])
        place = self.folder / next(iter(names), entry.state)
        place.mkdir(exist_ok=True)
        (place / entry.file).write_bytes(entry.data or b"")

    def close(self) -> None:
        """Nothing comes last."""
