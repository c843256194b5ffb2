"""How to tell what kind of corpus lies at a place; and those in tar archives and object stores (`tables.py` has tables).

Nothing is unpacked. A key says where an image lies, so that any image can be read alone.
"""

import json
import os
import tarfile
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from tilth.errors import InputError, Unavailable
from tilth.extras import optional
from tilth.images import MAX_BYTES, SUFFIXES
from tilth.mining.corpus import Corpus, FolderCorpus, Item, ShardFiles, about_of, file_stamp, limited
from tilth.mining.tables import ArrowCorpus, LanceCorpus, ParquetCorpus
from tilth.mining.web import UrlCorpus

BROKEN = "broken archive"
MAX_SIDECAR = 64 * 1024  # bytes of a JSON member


def open_corpus(location: str, downloads: Path | None = None) -> Corpus:
    """Open a corpus by what lies at its location.

    Args:
        location: A folder of images, of `.tar`, `.parquet` or `.arrow` files (Hugging Face `datasets`), one such file, a Lance
            table, a list of URLs (`.txt` or `.csv`), or the URL of a folder in an object store, such as `s3://bucket/images`.
        downloads: Folder that keeps what a list of URLs leads to; beside the list when None.

    Raises:
        InputError: There is nothing, or nothing that is a corpus.
    """
    if "://" in location:
        return StoreCorpus(location)
    path = Path(location)
    if path.name.endswith(".lance"):
        return LanceCorpus(path)
    found = path.suffix if path.is_file() else _first_kind(path) if path.is_dir() else ""
    if found == ".tar":
        return TarCorpus(path)
    if found == ".parquet":
        return ParquetCorpus(path)
    if found == ".arrow":
        return ArrowCorpus(path)
    if found in (".txt", ".csv"):
        return UrlCorpus(path, downloads or path.with_suffix(".downloads"))
    if path.is_file():
        raise InputError(
            f"{path}: not a corpus; give a folder, a .tar, .parquet, .arrow, .lance, .txt or .csv, or a URL"
        )
    return FolderCorpus(path)


def _first_kind(folder: Path) -> str:
    """Return the suffix of the first archive, table or image that a folder holds."""
    for _, folders, files in os.walk(folder):
        folders.sort()
        for name in sorted(files):
            suffix = Path(name).suffix.lower()
            if suffix in (".tar", ".parquet", ".arrow") or suffix in SUFFIXES:
                return suffix
    return ""


class TarCorpus(ShardFiles):
    """The images in tar archives, as WebDataset writes them; a JSON file of the same stem says licence and url.

    Archives are read where they lie. A key is `shard.tar/member@first:offset:size`, with the bytes where the sample and the
    image begin. Links and devices in an archive are passed over; a damaged archive gives what comes before the damage, and one
    item that cannot be read.

    Args:
        path: A `.tar` file, or a folder of them.

    Raises:
        InputError: There is none.
    """

    def __init__(self, path: Path) -> None:
        super().__init__(path, ".tar")

    def items(self) -> Iterator[Item]:
        """Yield the images in the order of the archives."""
        for name, path in self._names():
            stamp = file_stamp(path)
            try:
                with tarfile.open(path, "r:") as archive:
                    first, stem = 0, ""
                    while member := archive.next():
                        archive.members = []  # type: ignore[attr-defined]  # it would keep them all
                        if not member.isfile():
                            continue
                        if (own := member.name.partition(".")[0]) != stem:
                            first, stem = member.offset, own
                        if member.name.lower().endswith(SUFFIXES):
                            yield Item(
                                key=f"{name}/{member.name}@{first}:{member.offset_data}:{member.size}", stamp=stamp
                            )
            except (tarfile.TarError, OSError):
                yield Item(key=f"{name}/@{BROKEN}", stamp=stamp)

    def _split(self, key: str) -> tuple[Path, int, int, int]:
        member, _, place = key.rpartition("@")
        name = member[: member.find(".tar/") + len(".tar")]
        if place == BROKEN:
            raise InputError(f"{key.rpartition('/')[0]}: {BROKEN}; what comes after the damage is lost")
        try:
            first, offset, size = map(int, place.split(":"))
        except ValueError as error:
            raise InputError(f"{key}: no such image in the corpus") from error
        return self._path(name, key), first, offset, size

    def read(self, key: str) -> bytes:
        """Return the bytes of a member."""
        path, _, offset, size = self._split(key)
        if size > MAX_BYTES:
            raise InputError(f"{key}: larger than {MAX_BYTES // 2**20} MiB")
        with path.open("rb") as stream:
            stream.seek(offset)
            data = stream.read(size)
        if len(data) < size:
            raise InputError(f"{key}: the archive ends before the image does")
        return limited(data, key)

    def stamp(self, key: str) -> str:
        """Return size and time of change of the archive."""
        try:
            return file_stamp(self._split(key)[0])
        except InputError:
            return ""

    def about(self, key: str) -> dict[str, str]:
        """Read the JSON member of the same sample."""
        path, first, _, _ = self._split(key)
        stem = key.rpartition("@")[0].partition(".tar/")[2].partition(".")[0]
        with path.open("rb") as stream:
            stream.seek(first)
            try:
                with tarfile.open(fileobj=stream, mode="r|") as archive:
                    for member in archive:
                        if member.name.partition(".")[0] != stem:
                            break
                        if (
                            member.name.endswith(".json")
                            and member.size <= MAX_SIDECAR
                            and (file := archive.extractfile(member))
                        ):
                            return about_of(json.loads(file.read()))
            except (tarfile.TarError, ValueError):
                pass
        return {}


class StoreCorpus:
    """The image files below a URL of an object store or another file system that `fsspec` knows.

    Args:
        url: Such as `s3://bucket/images` or `gs://bucket/images`; credentials are those of the environment.

    Raises:
        InputError: The library for this kind of store is not installed, or the URL makes no sense.
        Unavailable: The store does not answer.
    """

    def __init__(self, url: str) -> None:
        with optional():
            import fsspec
        try:
            self._files, self._root = fsspec.core.url_to_fs(url)
        except ImportError as error:
            raise InputError(f"{url}: {error}") from error
        except ValueError as error:
            raise InputError(f"{url}: {error}; known are s3://, gs://, az:// and others of fsspec") from error
        self._root = self._root.rstrip("/")
        self.name, self.place = self._root.rpartition("/")[2] or "store", url

    def items(self) -> Iterator[Item]:
        """Yield the images in the order of their paths, a folder at a time."""
        return self._below(self._root)

    def _below(self, folder: str) -> Iterator[Item]:
        try:
            entries = sorted(self._files.ls(folder, detail=True), key=lambda e: e["name"])
        except FileNotFoundError as error:
            raise InputError(f"{self.place}: nothing there") from error
        except (OSError, PermissionError) as error:
            raise Unavailable(f"{self.place}: {error}; check credentials and network, then run again") from error
        for entry in entries:
            name = str(entry["name"]).rstrip("/")
            if name == folder or name.rpartition("/")[2].startswith("."):
                continue
            if entry["type"] == "directory":
                yield from self._below(name)
            elif name.lower().endswith(SUFFIXES):
                yield Item(key=name.removeprefix(self._root).lstrip("/"), stamp=_store_stamp(entry))

    def read(self, key: str) -> bytes:
        """Return the bytes of an object, at most what the decoder takes."""
        try:
            return limited(self._files.cat_file(f"{self._root}/{key}", start=0, end=MAX_BYTES + 1), key)
        except FileNotFoundError as error:
            raise InputError(f"{key}: no such file in the corpus") from error
        except OSError as error:
            raise InputError(f"{key}: {error}") from error

    def stamp(self, key: str) -> str:
        """Return size and version of an object; empty when it is gone."""
        try:
            return _store_stamp(self._files.info(f"{self._root}/{key}"))
        except (FileNotFoundError, OSError):
            return ""

    def about(self, key: str) -> dict[str, str]:
        """Return the URL of an object."""
        return {"url": f"{self.place.rstrip('/')}/{key}"}


def _store_stamp(entry: Mapping[str, Any]) -> str:
    changed = next(
        (str(entry[k]) for k in ("ETag", "etag", "md5Hash", "LastModified", "mtime", "created") if entry.get(k)), ""
    )
    return f"{entry.get('size')}-{changed}"
