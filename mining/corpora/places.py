"""Where the files of a corpus lie: in a folder here, or below a URL of an object store; read alike, never left.

Stores are those that `fsspec` knows: s3://, gs://, az://, hf:// (Hugging Face) and others. Credentials are the environment's.
"""

import errno
import io
import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from functools import cached_property
from pathlib import Path
from typing import Any, BinaryIO, Protocol, cast

from tilth.errors import InputError, TilthError, Unavailable
from tilth.extras import EXTRAS, optional

PART_BYTES = 2**20  # of an archive or a table in one request: many headers of small images, few bytes beside large ones
REFUSALS = (errno.EINVAL, errno.EPERM, errno.EISDIR, errno.ENAMETOOLONG)  # a token that ran out is "invalid" to S3


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

    What a store says of one object is an `InputError`, so that a run goes on without that object; when the store itself fails, or
    lets nobody in any more, it is `Unavailable`, so that the run stops and the same command goes on later.

    Args:
        url: Such as `s3://bucket/images`.

    Raises:
        InputError: The library for this kind of store is not installed, or the URL makes no sense.
    """

    def __init__(self, url: str) -> None:
        with optional():
            import fsspec
        try:
            # a listing that is kept would grow with the corpus, and hide what changes in the store meanwhile
            self._files, root = fsspec.core.url_to_fs(url, skip_instance_cache=True, use_listings_cache=False)
        except ImportError as error:
            if not isinstance(error.__cause__, ModuleNotFoundError):
                raise
            library = str(error.__cause__.name)
            cure = f"'tilth[{EXTRAS[library]}]'" if library in EXTRAS else library
            raise InputError(f"{url}: {library} is not installed; run: pip install {cure}") from error
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
            InputError: There is nothing, or the store lets nobody in with these credentials.
            Unavailable: The store does not answer.
        """
        return self._below(self._root)

    def _below(self, folder: str) -> Iterator[tuple[str, str]]:
        with self._asking():
            entries = sorted(self._files.ls(folder, detail=True), key=lambda e: e["name"])
        for entry in entries:
            name = str(entry["name"]).rstrip("/")
            if name == folder and entry["type"] != "directory":
                if not str(entry["name"]).endswith("/"):  # else an empty object that stands for the folder
                    yield name.rpartition("/")[2], _stamp(entry)  # the URL is that of one object
            elif name == folder or name.rpartition("/")[2].startswith("."):
                continue
            elif entry["type"] == "directory":
                yield from self._below(name)
            else:
                yield name.removeprefix(self._root).lstrip("/"), _stamp(entry)

    @contextmanager
    def _asking(self, name: str = "") -> Iterator[None]:
        """Turn whatever a store's client raises about an object, or about the whole place, into one line."""
        try:
            yield
        except TilthError:
            raise
        except FileNotFoundError as error:
            raise InputError(
                f"{name}: no such file in the corpus" if name else f"{self.place}: nothing there"
            ) from error
        except Exception as error:
            told = str(getattr(error, "strerror", None) or error)
            why = (told.splitlines() or [""])[0][:200] or type(error).__name__
            if not _refusal(error):
                place = f"{self.place}: {name}" if name else self.place
                raise Unavailable(f"{place}: {why}; check credentials and network, then run again") from error
            if not name:
                raise InputError(f"{self.place}: {why}; check the address and the credentials") from error
            # credentials that have run out are refused every object, and none of them is to blame
            try:
                self._files.info(self._root)
            except Exception as also:
                raise Unavailable(f"{self.place}: {why}; check credentials and network, then run again") from also
            raise InputError(f"{name}: {why}") from error

    def _full(self, name: str) -> str:
        if ".." in name.split("/"):  # a table may name any file, and not all stores take names literally
            raise InputError(f"{name}: no such file in the corpus")
        only = self._root.endswith("/" + name) and self._is_object
        return self._root if only else f"{self._root}/{name}"

    @cached_property
    def _is_object(self) -> bool:
        with self._asking():
            return bool(self._files.info(self._root)["type"] != "directory")

    def _info(self, name: str) -> Mapping[str, Any]:
        with self._asking(name):
            return cast("Mapping[str, Any]", self._files.info(self._full(name)))

    def open(self, name: str) -> BinaryIO:
        """Open an object, of which a part is fetched when it is read."""
        return cast(BinaryIO, io.BufferedReader(_Parts(self, name, int(self._info(name)["size"])), PART_BYTES))

    def range(self, name: str, start: int, size: int) -> bytes:
        """Return a part of an object, and fetch no more than it."""
        with self._asking(name):
            return bytes(self._files.cat_file(self._full(name), start=start, end=start + size))

    def stamp(self, name: str) -> str:
        """Return size and version."""
        try:
            return _stamp(self._info(name))
        except InputError:
            return ""


class _Parts(io.RawIOBase):
    """An object as a stream whose reads are requests for ranges."""

    def __init__(self, place: StorePlace, name: str, size: int) -> None:
        super().__init__()
        self._place, self._name, self._size, self._at = place, name, size, 0

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def tell(self) -> int:
        return self._at

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        self._at = offset + {io.SEEK_SET: 0, io.SEEK_CUR: self._at, io.SEEK_END: self._size}[whence]
        return self._at

    def readinto(self, buffer: Any) -> int:  # of WriteableBuffer, a name that exists for type checkers only
        wanted = min(len(buffer), self._size - self._at)
        if wanted <= 0:
            return 0
        data = self._place.range(self._name, self._at, wanted)
        if len(data) != wanted:  # taken for the end of the object, it would pass for damage
            raise Unavailable(f"{self._name}: {len(data)} bytes came for {wanted}; run again")
        buffer[:wanted] = data
        self._at += wanted
        return wanted


def _refusal(error: Exception) -> bool:
    """Tell whether a store has answered, and said no, from one that fails; libraries name credentials in classes of their own."""
    no = isinstance(error, OSError) and (isinstance(error, PermissionError) or error.errno in REFUSALS)
    return no or "Credential" in type(error).__name__


def _stamp(entry: Mapping[str, Any]) -> str:
    marks = ("ETag", "etag", "md5Hash", "LastModified", "mtime", "created", "blob_id")
    changed = next((str(entry[mark]) for mark in marks if entry.get(mark)), "")
    return f"{entry.get('size')}-{changed}"


def place_of(location: str) -> Place:
    """Return where a location leads: a URL to a store, anything else to a path here."""
    return StorePlace(location) if "://" in location else LocalPlace(Path(location))
