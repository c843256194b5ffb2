"""Corpora that are not folders of files: tar archives, Parquet files, Lance tables, object stores; and how to tell which.

Nothing is unpacked. A key says where an image lies, so that any image can be read alone.
"""

import json
import os
import tarfile
from collections import OrderedDict
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from threading import Lock
from typing import Any

import lance
import pyarrow as pa
import pyarrow.parquet as pq

from tilth.errors import InputError, Unavailable
from tilth.extras import optional
from tilth.images import MAX_BYTES, SUFFIXES
from tilth.mining.corpus import Corpus, FolderCorpus, Item
from tilth.mining.web import UrlCorpus

IMAGE_COLUMNS = (
    "image",
    "img",
    "jpg",
    "jpeg",
    "png",
    "webp",
    "bytes",
    "image_bytes",
    "data",
    "content",
    "path",
    "file",
    "file_name",
)
ABOUT_COLUMNS = {"licence": ("licence", "license"), "url": ("url", "source_url", "source", "page_url")}
BROKEN = "broken archive"
ROW_GROUPS_KEPT = 2
ROWS_AT_ONCE = 1024
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


def _stamp(path: Path) -> str:
    try:
        stat = path.stat()
    except OSError:
        return ""
    return f"{stat.st_size}-{stat.st_mtime_ns}"


def _limited(data: bytes | None, key: str) -> bytes:
    if not data:
        raise InputError(f"{key}: holds no image")
    if len(data) > MAX_BYTES:
        raise InputError(f"{key}: larger than {MAX_BYTES // 2**20} MiB")
    return data


class _Files:
    """What corpora of a few large files have in common."""

    def __init__(self, path: Path, suffix: str) -> None:
        self._root = (path if path.is_dir() else path.parent).resolve()
        self._paths = sorted(path.rglob(f"*{suffix}")) if path.is_dir() else [path]
        if not self._paths or not all(p.is_file() for p in self._paths):
            raise InputError(f"{path}: no {suffix} file here")
        self.name, self.place = path.stem, str(path.resolve())

    def _names(self) -> Iterator[tuple[str, Path]]:
        for path in self._paths:
            yield path.resolve().relative_to(self._root).as_posix(), path

    def _path(self, name: str, key: str) -> Path:
        path = (self._root / name).resolve()
        if not path.is_relative_to(self._root) or not path.is_file():
            raise InputError(f"{key}: no such file in the corpus")
        return path


class TarCorpus(_Files):
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
            stamp = _stamp(path)
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
        return _limited(data, key)

    def stamp(self, key: str) -> str:
        """Return size and time of change of the archive."""
        try:
            return _stamp(self._split(key)[0])
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
                            return _about(json.loads(file.read()))
            except (tarfile.TarError, ValueError):
                pass
        return {}


class _Column:
    """The column of a table that holds the images, and those that say where they are from."""

    def __init__(self, schema: pa.Schema, place: str) -> None:
        known = {name.lower(): name for name in schema.names}
        self.name = next(
            (known[name] for name in IMAGE_COLUMNS if name in known and _holds(schema.field(known[name]).type)), ""
        )
        if not self.name:
            raise InputError(
                f"{place}: no column of images (binary, path, or a struct of both) called one of "
                f"{', '.join(IMAGE_COLUMNS)}; it has {', '.join(schema.names)}"
            )
        self.about = {
            what: known[name] for what, names in ABOUT_COLUMNS.items() for name in reversed(names) if name in known
        }


def _holds(kind: pa.DataType) -> bool:
    if pa.types.is_struct(kind):
        return any(field.name in ("bytes", "path") for field in kind)
    return any(
        test(kind)
        for test in (pa.types.is_binary, pa.types.is_large_binary, pa.types.is_string, pa.types.is_large_string)
    )


def _about(row: object) -> dict[str, str]:
    if not isinstance(row, Mapping):
        return {}
    found: dict[str, str] = {}
    for what, names in ABOUT_COLUMNS.items():
        for name in names:
            if isinstance(row.get(name), str) and row[name]:
                found.setdefault(what, str(row[name])[:2000])
    return found


def _bytes(value: Any, folder: Path, key: str) -> bytes:
    """Return the image of a cell: its bytes, or those of the file that it names below a folder."""
    if isinstance(value, Mapping):
        value = value.get("bytes") or value.get("path")
    if isinstance(value, str):
        return FolderCorpus(folder).read(value)
    return _limited(value, key)


def _only_row(table: pa.Table, key: str) -> dict[str, Any]:
    """Return the row of a table of one; mapped files are not checked when opened, and a wrong offset would lead anywhere."""
    try:
        table.validate(full=True)
        return dict(table.to_pylist()[0])
    except (pa.ArrowException, ValueError, IndexError) as error:
        raise InputError(f"{key}: damaged: {str(error).splitlines()[0][:200]}") from error


class ParquetCorpus(_Files):
    """The rows of Parquet files with a column of image bytes, of paths below the folder, or of both as `datasets` writes them.

    A key is `file.parquet/group:row`. Columns `licence` (or `license`) and `url` go with the image.

    Args:
        path: A `.parquet` file, or a folder of them.

    Raises:
        InputError: There is none, one is damaged, or no column holds images.
    """

    def __init__(self, path: Path) -> None:
        super().__init__(path, ".parquet")
        self._groups: OrderedDict[tuple[str, int], pa.Table] = OrderedDict()
        self._one = Lock()  # several threads read at once, and a group is large
        self._column = _Column(self._open(self._paths[0]).schema_arrow, str(path))

    @staticmethod
    def _open(path: Path) -> pq.ParquetFile:
        try:
            return pq.ParquetFile(path)
        except (pa.ArrowException, OSError) as error:
            raise InputError(f"{path}: not a readable Parquet file: {str(error).splitlines()[0]}") from error

    def items(self) -> Iterator[Item]:
        """Yield all rows in order; nothing but the footers is read."""
        for name, path in self._names():
            about = self._open(path).metadata
            stamp = _stamp(path)
            for group in range(about.num_row_groups):
                for row in range(about.row_group(group).num_rows):
                    yield Item(key=f"{name}/{group}:{row}", stamp=stamp)

    def _row(self, key: str) -> dict[str, Any]:
        name, _, place = key.rpartition("/")
        try:
            group, row = map(int, place.split(":"))
        except ValueError as error:
            raise InputError(f"{key}: no such image in the corpus") from error
        table = self._group(name, group, key)
        if row >= table.num_rows:
            raise InputError(f"{key}: no such image in the corpus")
        return _only_row(table.slice(row, 1), key)

    def _group(self, name: str, group: int, key: str) -> pa.Table:
        with self._one:
            if (name, group) not in self._groups:
                wanted = [self._column.name, *self._column.about.values()]
                try:
                    self._groups[name, group] = self._open(self._path(name, key)).read_row_group(group, columns=wanted)
                except (pa.ArrowException, OSError, IndexError) as error:
                    raise InputError(f"{key}: cannot be read: {str(error).splitlines()[0]}") from error
                while len(self._groups) > ROW_GROUPS_KEPT:
                    self._groups.popitem(last=False)
            return self._groups[name, group]

    def read(self, key: str) -> bytes:
        """Return the image of a row."""
        return _bytes(self._row(key)[self._column.name], self._root, key)

    def stamp(self, key: str) -> str:
        """Return size and time of change of the file."""
        return _stamp(self._root / key.rpartition("/")[0])

    def about(self, key: str) -> dict[str, str]:
        """Return the columns that say where an image is from."""
        row = self._row(key)
        return _about({what: row[name] for what, name in self._column.about.items()})


class ArrowCorpus(_Files):
    """The rows of Arrow files, as `save_to_disk` of Hugging Face `datasets` writes them; mapped, not read.

    A key is `file.arrow/row`.

    Args:
        path: An `.arrow` file, or a folder of them.

    Raises:
        InputError: There is none, one is damaged, or no column holds images.
    """

    def __init__(self, path: Path) -> None:
        super().__init__(path, ".arrow")
        self._tables: dict[str, pa.Table] = {}
        self._column = _Column(self._table(next(iter(self._names()))[0]).schema, str(path))

    def _table(self, name: str) -> pa.Table:
        if name not in self._tables:
            path = self._path(name, name)
            try:
                self._tables[name] = pa.ipc.open_stream(pa.memory_map(str(path))).read_all()
            except (pa.ArrowException, OSError) as error:
                raise InputError(f"{path}: not a readable Arrow stream: {str(error).splitlines()[0]}") from error
        return self._tables[name]

    def items(self) -> Iterator[Item]:
        """Yield all rows in order."""
        for name, path in self._names():
            stamp = _stamp(path)
            for row in range(self._table(name).num_rows):
                yield Item(key=f"{name}/{row}", stamp=stamp)

    def _row(self, key: str) -> dict[str, Any]:
        name, _, row = key.rpartition("/")
        if not row.isdigit() or int(row) >= self._table(name).num_rows:
            raise InputError(f"{key}: no such image in the corpus")
        columns = [self._column.name, *self._column.about.values()]
        return _only_row(self._table(name).select(columns).slice(int(row), 1), key)

    def read(self, key: str) -> bytes:
        """Return the image of a row."""
        return _bytes(self._row(key)[self._column.name], self._root, key)

    def stamp(self, key: str) -> str:
        """Return size and time of change of the file."""
        return _stamp(self._root / key.rpartition("/")[0])

    def about(self, key: str) -> dict[str, str]:
        """Return the columns that say where an image is from."""
        row = self._row(key)
        return _about({what: row[name] for what, name in self._column.about.items()})


@contextmanager
def _damage(what: str) -> Iterator[None]:
    """Turn what Lance makes of a damaged table into one line; some damage makes it panic, which is no `Exception`."""
    try:
        yield
    except (pa.ArrowException, ValueError, OSError, RuntimeError, IndexError) as error:
        raise InputError(f"{what}: {(str(error).splitlines() or [''])[0][:200]}") from error
    except BaseException as error:
        if type(error).__name__ == "PanicException":
            raise InputError(f"{what}: damaged") from error
        raise


class LanceCorpus:
    """The rows of a Lance table with a column of image bytes; a key is the number of a row.

    Args:
        path: The table.

    Raises:
        InputError: There is none, or no column holds images.
    """

    def __init__(self, path: Path) -> None:
        with _damage(f"{path}: not a readable Lance table"):
            self._data = lance.dataset(str(path))
            self._rows = int(self._data.count_rows())
            schema = self._data.schema
        self.name, self.place = path.stem, str(path.resolve())
        self._root = path.parent
        self._column = _Column(schema, str(path))

    def items(self) -> Iterator[Item]:
        """Yield all rows in order."""
        stamp = str(self._data.version)
        for row in range(self._rows):
            yield Item(key=str(row), stamp=stamp)

    def _row(self, key: str) -> dict[str, Any]:
        if not key.isdigit() or int(key) >= self._rows:
            raise InputError(f"{key}: no such image in the corpus")
        with _damage(f"{key}: cannot be read"):
            table = self._data.take([int(key)], columns=[self._column.name, *self._column.about.values()])
            return _only_row(table, key)

    def read(self, key: str) -> bytes:
        """Return the image of a row."""
        return _bytes(self._row(key)[self._column.name], self._root, key)

    def stamp(self, key: str) -> str:
        """Return the version of the table."""
        return str(self._data.version) if key.isdigit() and int(key) < self._rows else ""

    def about(self, key: str) -> dict[str, str]:
        """Return the columns that say where an image is from."""
        row = self._row(key)
        return _about({what: row[name] for what, name in self._column.about.items()})


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
            return _limited(self._files.cat_file(f"{self._root}/{key}", start=0, end=MAX_BYTES + 1), key)
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
