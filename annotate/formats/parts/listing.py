"""Formats whose label files name their images: which files there are under a path, and where the images lie that they name."""

from collections.abc import Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from tilth.annotate.formats.parts.files import Files
from tilth.annotate.formats.parts.records import Found, Labels, Oddities, on_disk
from tilth.errors import InputError


class Parts:
    """Reads a set that has a folder for each of its parts, with a label file in each, as one.

    Args:
        root: The folder above them.
        parts: Readers by the names of their folders.
    """

    def __init__(self, root: Path, parts: Mapping[str, Any]) -> None:
        self.root, self.parts = root, parts

    @property
    def categories(self) -> tuple[str, ...]:
        """Return the names that the lists of all parts have."""
        lists = [part.categories for part in self.parts.values()]
        return tuple(name for name in lists[0] if all(name in each for each in lists))

    @property
    def label_files(self) -> tuple[str, ...]:
        """Return the names of the label files."""
        return tuple({part.file.name: None for part in self.parts.values()})

    def count(self) -> int:
        """Count the images."""
        return sum(part.count() for part in self.parts.values())

    def __iter__(self) -> Iterator[Found]:
        """Yield the images, part by part."""
        for place, part in self.parts.items():
            for found in part:
                file = f"{place}/{found.label_file}" if found.label_file else ""
                yield replace(found, name=f"{place}/{found.name}", label_file=file)


class Listed:
    """Reads the label files of a source, one after the other; a format says what is in one.

    Args:
        path: A label file, or a folder of them.
        images: Folder of the images; that of the labels when None.
        odd: Takes notes.
    """

    suffixes: tuple[str, ...]  # of label files

    def __init__(self, path: Path, images: Path | None, odd: Oddities) -> None:
        self.folder = path.parent if path.is_file() else path
        self.root = images or self.folder
        self.odd, self._apart = odd, images is not None
        self._only = path.name if path.is_file() else ""
        self._labels = Files(self.folder, self.suffixes)
        self._images = Files(self.root)

    def files(self) -> Iterator[tuple[str, Path]]:
        """Yield the label files: their names relative to the folder, and where they lie, which a link may lead out of."""
        for file in (self._only,) if self._only else self._labels:
            yield file, self.folder / file

    def in_file(self, file: str, place: Path) -> Iterator[Found]:
        """Yield what a label file says.

        Args:
            file: Its name, relative to the folder.
            place: Where it lies.

        Raises:
            InputError: It is damaged from here on.
        """
        raise NotImplementedError

    def __iter__(self) -> Iterator[Found]:
        """Yield the images in the order of the files; what cannot be read of a file is one that failed."""
        for file, place in self.files():
            try:
                yield from self.in_file(file, place if self._only else self._labels.checked(file))
            except InputError as error:
                yield Found(name=file, label_file=file, error=str(error))
        for path in self._images.unmarked():
            self.odd.note("image that the label file does not list, left out", path)

    def found(
        self,
        name: str,
        file: str,
        *,
        labels: Labels = Labels(),  # noqa: B008  # cannot change
        error: str = "",
        **more: Any,
    ) -> Found:
        """Say what the label file `file` says of the image that it calls `name`; `more` are other fields of `Found`."""
        beside = file.rpartition("/")[0]
        places = ("",) if self._apart else tuple(p.strip("/") for p in (beside, f"{beside}/images", "", "images"))
        more = {"label_file": file, "labels": labels.taken, "left_out": labels.left_out, **more}
        try:
            if error or not name:
                raise InputError(error or "names no image")
            path = self.find(name, places)
        except (InputError, UnicodeEncodeError) as problem:  # JSON can write half a character
            return Found(name=name or file, error=str(problem), **more)
        if not self._images.mark(path):
            self.odd.note("image listed twice", name)
        return Found(name=path, read=on_disk(self.root / path), **more)

    def find(self, name: str, places: tuple[str, ...]) -> str:
        """Return the image file that is called `name`, in a folder of `places` before others.

        Raises:
            InputError: There is none, or several.
        """
        return self._images.find(name, places, self.odd)

    def count(self) -> int:
        """Count the images that lie there."""
        return len(self._images)
