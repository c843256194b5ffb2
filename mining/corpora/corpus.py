"""Corpora: images that are not ours yet, read-only, streamed in one order that never changes.

A corpus is anything with the verbs of `Corpus`. The plainest is a folder of image files; `corpora.py` has the others.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from tilth.errors import InputError
from tilth.images import MAX_BYTES
from tilth.mining.corpora.places import place_of
from tilth.sources.walk import NO_SUFFIX, LeftAlone, hidden, suffix_of, walk

ABOUT_COLUMNS = {"licence": ("licence", "license"), "url": ("url", "source_url", "source", "page_url")}


@dataclass(frozen=True, slots=True, kw_only=True)
class Item:
    """One image of a corpus, not read yet.

    Args:
        key: Names it in the corpus for good: a path below the folder, with `/`.
        stamp: Changes when its bytes do; empty when the corpus never changes.
    """

    key: str
    stamp: str = ""


class Corpus(Protocol):
    """A read-only source of images, possibly hundreds of millions; `place` tells it from all others.

    `left_alone` counts what lies there and is no item, as far as the last listing has come.
    """

    name: str
    place: str
    left_alone: LeftAlone

    def items(self) -> Iterator[Item]:
        """Yield all items, always in the same order, holding few at a time."""
        ...

    def read(self, key: str) -> bytes:
        """Return the image file of a key.

        Raises:
            InputError: It is gone, unreadable or too large.
        """
        ...

    def stamp(self, key: str) -> str:
        """Return the present stamp of a key; empty when it is gone."""
        ...

    def about(self, key: str) -> dict[str, str]:
        """Return what the corpus says of an image: its `licence` and its `url`, if it does."""
        ...


class FolderCorpus:
    """The image files below a folder, by path; hidden ones, and links that lead out of the folder, are not part of it.

    Folders that are links are never entered: what they hold inside the folder is met anyway, and they can form rings.

    Args:
        folder: Where the images are.

    Raises:
        InputError: There is no such folder.
    """

    def __init__(self, folder: Path) -> None:
        if not folder.is_dir():
            raise InputError(f"{folder}: no such folder of images")
        self.name = folder.name
        self._root = folder.resolve()
        self.place = str(self._root)
        self.left_alone = LeftAlone()

    def items(self) -> Iterator[Item]:
        """Yield the images in the order of their paths."""
        self.left_alone = LeftAlone()
        for folder, name, _ in walk(self._root, self.left_alone, ordered=True):
            key = f"{folder}/{name}" if folder else name
            if stamp := self.stamp(key):
                yield Item(key=key, stamp=stamp)
            else:
                self.left_alone.note("link out of the folder", key)

    def _path(self, key: str) -> Path | None:
        path = (self._root / key).resolve()
        return path if path.is_relative_to(self._root) and path.is_file() else None

    def stamp(self, key: str) -> str:
        """Return size and time of change; empty when there is no such file inside the folder."""
        path = self._path(key)
        if path is None:
            return ""
        stat = path.stat()
        return f"{stat.st_size}-{stat.st_mtime_ns}"

    def read(self, key: str) -> bytes:
        """Return the bytes of a file, at most what the decoder takes."""
        path = self._path(key)
        if path is None:
            raise InputError(f"{key}: no such file in the corpus")
        try:
            with path.open("rb") as stream:
                data = stream.read(MAX_BYTES + 1)
        except OSError as error:
            raise InputError(f"{key}: {error.strerror or error}") from error
        if len(data) > MAX_BYTES:
            raise InputError(f"{key}: larger than {MAX_BYTES // 2**20} MiB")
        return data

    def about(self, key: str) -> dict[str, str]:
        """Return nothing: files do not say where they are from."""
        return {}


def limited(data: bytes | None, key: str) -> bytes:
    """Return an image file, unless there is none or it is larger than the decoder takes."""
    if not data:
        raise InputError(f"{key}: holds no image")
    if len(data) > MAX_BYTES:
        raise InputError(f"{key}: larger than {MAX_BYTES // 2**20} MiB")
    return data


class Shards:
    """What corpora of a few large files have in common.

    Args:
        location: A path or a URL, of a file or of what it lies below.
        suffix: Of the files.

    Raises:
        InputError: There is none.
    """

    def __init__(self, location: str, suffix: str) -> None:
        self._files = place_of(location)
        self._names: list[str] = []
        self._beside = LeftAlone()
        for name in self._files.names():
            if kind := next(filter(None, map(hidden, name.split("/"))), ""):
                self._beside.note(f"{kind} file", name)
            elif name.lower().endswith(suffix):
                self._names.append(name)
            else:
                self._beside.note(suffix_of(name) or NO_SUFFIX, name)
        if not self._names:
            raise InputError(f"{location}: no {suffix} file here")
        self.name, self.place = self._files.name, self._files.place
        self.left_alone = self.beside()

    def beside(self) -> LeftAlone:
        """Return a fresh count of the files that lie beside the large ones."""
        left = LeftAlone()
        left.add(self._beside)
        return left


def about_of(row: object) -> dict[str, str]:
    """Return what the row of a table, or a JSON file, says of an image: its licence and where it is from."""
    if not isinstance(row, Mapping):
        return {}
    found: dict[str, str] = {}
    for what, names in ABOUT_COLUMNS.items():
        for name in names:
            if isinstance(row.get(name), str) and row[name]:
                found.setdefault(what, str(row[name])[:2000])
    return found
