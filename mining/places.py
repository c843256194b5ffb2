"""Where the files of a corpus lie: in a folder here, or below a URL of an object store; read alike, never left.

Stores are those that `fsspec` knows: s3://, gs://, az://, hf:// (Hugging Face) and others. Credentials are the environment's.
"""

import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, BinaryIO, Protocol, cast

from tilth.errors import InputError, Unavailable
from tilth.extras import optional


class Place(Protocol):
    """Files by name, a path with `/` below the place."""

    name: str
    place: str

    def names(self) -> Iterator[str]:
        """Yield the names of all files, in order, a folder at a time."""
        ...

    def open(self, name: str) -> BinaryIO:
        """Open a file.

        Raises:
            InputError: It is absent, or outside.
        """
        ...

    def range(self, name: str, start: int, size: int) -> bytes:
        """Return a part of a file, shorter where it ends; errors as `open`."""
        ...

    def stamp(self, name: str) -> str:
        """Return what changes with the file; empty when it is gone."""
        ...


class LocalPlace:
    """A folder of this machine, or one file of it; links are followed only inside.

    Args:
        path: Of the folder or the file.

    Raises:
        InputError: It is absent.
    """

    def __init__(self, path: Path) -> None:
        if not path.exists():
            raise InputError(f"{path}: no such file or folder")
        self.root = (path if path.is_dir() else path.parent).resolve()
        self._only = None if path.is_dir() else path.resolve()
        self.name, self.place = path.stem, str(path.resolve())

    def names(self) -> Iterator[str]:
        """Yield the files by path."""
        if self._only:
            yield self._only.name
            return
        for folder, folders, files in os.walk(self.root):
            folders.sort()
            below = Path(folder).relative_to(self.root)
            yield from ((below / name).as_posix() for name in sorted(files))

    def path(self, name: str) -> Path:
        """Return the path of a file.

        Raises:
            InputError: It is absent, or outside.
        """
        path = (self.root / name).resolve()
        if not path.is_relative_to(self.root) or not path.is_file():
            raise InputError(f"{name}: no such file in the corpus")
        return path

    def open(self, name: str) -> BinaryIO:
        """Open a file."""
        return self.path(name).open("rb")

    def range(self, name: str, start: int, size: int) -> bytes:
        """Return a part of a file."""
        with self.open(name) as stream:
            stream.seek(start)
            return stream.read(size)

    def stamp(self, name: str) -> str:
        """Return size and time of change."""
        try:
            stat = self.path(name).stat()
        except (InputError, OSError):
            return ""
        return f"{stat.st_size}-{stat.st_mtime_ns}"


class StorePlace:
    """What lies below a URL.

    Args:
        url: Such as `s3://bucket/images`.

    Raises:
        InputError: The library for this kind of store is not installed, or the URL makes no sense.
    """

    def __init__(self, url: str) -> None:
        with optional():
            import fsspec
        try:
            self._files, root = fsspec.core.url_to_fs(url)
        except ImportError as error:
            raise InputError(f"{url}: {error}") from error
        except ValueError as error:
            raise InputError(f"{url}: {error}; known are s3://, gs://, az://, hf:// and others of fsspec") from error
        self._root = root.rstrip("/")
        self.name, self.place = self._root.rpartition("/")[2] or "store", url

    def names(self) -> Iterator[str]:
        """Yield the objects by path, but for hidden ones; errors as `entries`."""
        return (name for name, _ in self.entries())

    def entries(self) -> Iterator[tuple[str, str]]:
        """Yield the objects with their stamps, which the listing has already.

        Raises:
            InputError: There is nothing.
            Unavailable: The store does not answer.
        """
        return self._below(self._root)

    def _below(self, folder: str) -> Iterator[tuple[str, str]]:
        try:
            with self._answering():
                entries = sorted(self._files.ls(folder, detail=True), key=lambda e: e["name"])
        except FileNotFoundError as error:
            raise InputError(f"{self.place}: nothing there") from error
        except OSError as error:
            raise self._silent(error) from error
        for entry in entries:
            name = str(entry["name"]).rstrip("/")
            if name == folder and entry["type"] != "directory":
                yield name.rpartition("/")[2], _stamp(entry)  # the URL is that of one object
            elif name == folder or name.rpartition("/")[2].startswith("."):
                continue
            elif entry["type"] == "directory":
                yield from self._below(name)
            else:
                yield name.removeprefix(self._root).lstrip("/"), _stamp(entry)

    def _silent(self, error: Exception) -> Unavailable:
        why = (str(error).splitlines() or [""])[0][:200] or type(error).__name__
        return Unavailable(f"{self.place}: {why}; check credentials and network, then run again")

    @contextmanager
    def _answering(self) -> Iterator[None]:
        """Let through what a missing or unreadable object raises; whatever else a store's client has of its own is one line."""
        try:
            yield
        except OSError:
            raise
        except Exception as error:
            raise self._silent(error) from error

    @contextmanager
    def _there(self, name: str) -> Iterator[None]:
        """Say of an object what is wrong with it."""
        try:
            with self._answering():
                yield
        except FileNotFoundError as error:
            raise InputError(f"{name}: no such file in the corpus") from error
        except OSError as error:
            raise InputError(f"{name}: {error}") from error

    def _full(self, name: str) -> str:
        return self._root if self._root.endswith("/" + name) else f"{self._root}/{name}"

    def open(self, name: str) -> BinaryIO:
        """Open an object."""
        with self._there(name):
            return cast(BinaryIO, self._files.open(self._full(name), "rb"))

    def range(self, name: str, start: int, size: int) -> bytes:
        """Return a part of an object, and fetch no more than it."""
        with self._there(name):
            return bytes(self._files.cat_file(self._full(name), start=start, end=start + size))

    def stamp(self, name: str) -> str:
        """Return size and version."""
        try:
            with self._answering():
                return _stamp(self._files.info(self._full(name)))
        except OSError:
            return ""


def _stamp(entry: Mapping[str, Any]) -> str:
    marks = ("ETag", "etag", "md5Hash", "LastModified", "mtime", "created", "blob_id")
    changed = next((str(entry[mark]) for mark in marks if entry.get(mark)), "")
    return f"{entry.get('size')}-{changed}"


def place_of(location: str) -> Place:
    """Return where a location leads: a URL to a store, anything else to a path here."""
    return StorePlace(location) if "://" in location else LocalPlace(Path(location))
