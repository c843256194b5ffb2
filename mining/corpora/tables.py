"""Corpora that are tables: Parquet files, Arrow files of Hugging Face `datasets`, Lance tables.

One column holds the images, as bytes, as paths below the folder, or as both. Every file is taken as hostile: mapped ones are
checked row by row, and what their libraries raise, or panic with, becomes one line.
"""

import re
from collections import OrderedDict
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from threading import Lock
from typing import Any

import lance
import pyarrow as pa
import pyarrow.parquet as pq

from tilth.errors import InputError, Unavailable
from tilth.images import MAX_BYTES
from tilth.mining.corpora.corpus import ABOUT_COLUMNS, Item, Shards, about_of, limited
from tilth.mining.corpora.places import LocalPlace, Place, place_of
from tilth.sources.walk import LeftAlone

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
BROKEN = "broken"
DAMAGE = (pa.ArrowException, OSError, ValueError, LookupError)  # what the library makes of a table that is none
ROW_GROUPS_KEPT = 2
# Lance has a client of its own for stores, and of what that says only the text comes through
STORE_FAILS = re.compile(r"Generic (?!LocalFileSystem|memory)\w+ error")
STORE_REFUSES = re.compile(r"status code: 4(?!08|29)")
STORE_SHUTS = re.compile(r"lacked (the necessary privileges|valid authentication)")


def _line(error: Exception) -> str:
    return (str(error).splitlines() or [type(error).__name__])[0]


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


def _bytes(value: Any, place: Place, key: str) -> bytes:
    """Return the image of a cell: its bytes, or those of the file that it names beside the table."""
    if isinstance(value, Mapping):
        value = value.get("bytes") or value.get("path")
    if isinstance(value, str):
        return limited(place.range(value, 0, MAX_BYTES + 1), key)
    return limited(value, key)


def _only_row(table: pa.Table, key: str) -> dict[str, Any]:
    """Return the row of a table of one; mapped files are not checked when opened, and a wrong offset would lead anywhere."""
    try:
        table.validate(full=True)
        return dict(table.to_pylist()[0])
    except DAMAGE as error:
        raise InputError(f"{key}: damaged: {_line(error)[:200]}") from error


class _Rows:
    """What corpora of rows have in common: an image, and where it is from, are cells of its row."""

    _files: Place

    def _column(self, key: str) -> _Column:
        raise NotImplementedError

    def _row(self, key: str) -> dict[str, Any]:
        raise NotImplementedError

    def read(self, key: str) -> bytes:
        """Return the image of a row."""
        return _bytes(self._row(key)[self._column(key).name], self._files, key)

    def about(self, key: str) -> dict[str, str]:
        """Return the columns that say where an image is from."""
        row = self._row(key)
        return about_of({what: row[name] for what, name in self._column(key).about.items()})


class _Tables(_Rows, Shards):
    """What corpora of several tables have in common: one that is damaged, or holds no images, is an item that fails.

    Args:
        location: Of the tables.
        suffix: Of the files.

    Raises:
        InputError: There is none, or none of them holds images.
    """

    def __init__(self, location: str, suffix: str) -> None:
        super().__init__(location, suffix)
        self._columns: dict[str, _Column] = {}

    def _schema(self, name: str) -> pa.Schema:
        raise NotImplementedError

    def _check(self) -> None:
        """See that a table can be opened and has images; of tables that are all without, the last one says why."""
        for name in self._names[:-1]:
            with suppress(InputError):
                self._column(f"{name}/")
                return
        self._column(f"{self._names[-1]}/")

    def _column(self, key: str) -> _Column:
        name = key.rpartition("/")[0]
        if name not in self._columns:
            self._columns[name] = _Column(self._schema(name), f"{self.place}: {name}")
        return self._columns[name]

    def stamp(self, key: str) -> str:
        """Return size and time of change of the file."""
        return self._files.stamp(key.rpartition("/")[0])


class ParquetCorpus(_Tables):
    """The rows of Parquet files with a column of image bytes, of paths below the folder, or of both as `datasets` writes them.

    A key is `file.parquet/group:row`. Columns `licence` (or `license`) and `url` go with the image.

    Args:
        location: A `.parquet` file, or a folder of them, here or in an object store.

    Raises:
        InputError: There is none, or none that holds images.
    """

    def __init__(self, location: str) -> None:
        super().__init__(location, ".parquet")
        self._groups: OrderedDict[tuple[str, int], pa.Table] = OrderedDict()
        self._one = Lock()  # several threads read at once, and a group is large
        self._check()

    def _schema(self, name: str) -> pa.Schema:
        return self._open(name).schema_arrow

    def _open(self, name: str) -> pq.ParquetFile:
        try:
            files = self._files
            return pq.ParquetFile(files.path(name) if isinstance(files, LocalPlace) else files.open(name))
        except DAMAGE as error:
            raise InputError(f"{name}: not a readable Parquet file: {_line(error)}") from error

    def items(self) -> Iterator[Item]:
        """Yield all rows in order; nothing but the footers is read."""
        self.left_alone = self.beside()
        for name in self._names:
            stamp = self._files.stamp(name)
            try:
                self._column(f"{name}/")
                about = self._open(name).metadata
            except InputError:
                yield Item(key=f"{name}/{BROKEN}", stamp=stamp)
                continue
            for group in range(about.num_row_groups):
                for row in range(about.row_group(group).num_rows):
                    yield Item(key=f"{name}/{group}:{row}", stamp=stamp)

    def _row(self, key: str) -> dict[str, Any]:
        name, _, place = key.rpartition("/")
        column = self._column(key)
        try:
            group, row = map(int, place.split(":"))
        except ValueError as error:
            raise InputError(f"{key}: no such image in the corpus") from error
        table = self._group(name, group, key, column)
        if row >= table.num_rows:
            raise InputError(f"{key}: no such image in the corpus")
        return _only_row(table.slice(row, 1), key)

    def _group(self, name: str, group: int, key: str, column: _Column) -> pa.Table:
        with self._one:
            if (name, group) not in self._groups:
                wanted = [column.name, *column.about.values()]
                try:
                    self._groups[name, group] = self._open(name).read_row_group(group, columns=wanted)
                except DAMAGE as error:
                    raise InputError(f"{key}: cannot be read: {_line(error)}") from error
                while len(self._groups) > ROW_GROUPS_KEPT:
                    self._groups.popitem(last=False)
            return self._groups[name, group]


class ArrowCorpus(_Tables):
    """The rows of Arrow files, as `save_to_disk` of Hugging Face `datasets` writes them; mapped, not read.

    A key is `file.arrow/row`.

    Args:
        location: An `.arrow` file, or a folder of them, on this machine.

    Raises:
        InputError: There is none, or none that holds images.
    """

    def __init__(self, location: str) -> None:
        super().__init__(location, ".arrow")
        self._tables: dict[str, pa.Table] = {}
        self._check()

    def _schema(self, name: str) -> pa.Schema:
        return self._table(name).schema

    def _table(self, name: str) -> pa.Table:
        if not isinstance(self._files, LocalPlace):
            raise InputError(f"{self.place}: Arrow files are mapped, so they must lie on this machine; or take Parquet")
        if name not in self._tables:
            path = self._files.path(name)
            try:
                self._tables[name] = pa.ipc.open_stream(pa.memory_map(str(path))).read_all()
            except DAMAGE as error:
                raise InputError(f"{path}: not a readable Arrow stream: {_line(error)}") from error
        return self._tables[name]

    def items(self) -> Iterator[Item]:
        """Yield all rows in order."""
        self.left_alone = self.beside()
        for name in self._names:
            stamp = self._files.stamp(name)
            try:
                self._column(f"{name}/")
                count = self._table(name).num_rows
            except InputError:
                yield Item(key=f"{name}/{BROKEN}", stamp=stamp)
                continue
            for row in range(count):
                yield Item(key=f"{name}/{row}", stamp=stamp)

    def _row(self, key: str) -> dict[str, Any]:
        name, _, row = key.rpartition("/")
        column, table = self._column(key), self._table(name)
        if not row.isdigit() or int(row) >= table.num_rows:
            raise InputError(f"{key}: no such image in the corpus")
        return _only_row(table.select([column.name, *column.about.values()]).slice(int(row), 1), key)


@contextmanager
def _damage(what: str, *, opened: bool = False) -> Iterator[None]:
    """Turn what Lance makes of a damaged table into one line; some damage makes it panic, which is no `Exception`.

    Args:
        what: Begins the line.
        opened: It could be read before, so a store that refuses it now is to be tried again, with other credentials.
    """
    try:
        yield
    except (pa.ArrowException, ValueError, OSError, RuntimeError, IndexError) as error:
        why = (str(error).splitlines() or [""])[0]
        fails = STORE_FAILS.search(why) and not STORE_REFUSES.search(why)
        if fails or (opened and STORE_SHUTS.search(why)):
            raise Unavailable(f"{what}: {why[:300]}; check credentials and network, then run again") from error
        raise InputError(f"{what}: {why[:200]}") from error
    except BaseException as error:
        if type(error).__name__ == "PanicException":
            raise InputError(f"{what}: damaged") from error
        raise


class LanceCorpus(_Rows):
    """The rows of a Lance table with a column of image bytes; a key is the number of a row.

    Args:
        location: The table, a path or a URL that Lance knows (s3://, gs://, az://).

    Raises:
        InputError: There is none, or no column holds images.
    """

    def __init__(self, location: str) -> None:
        with _damage(f"{location}: not a readable Lance table"):
            self._data = lance.dataset(location)
            self._rows = int(self._data.count_rows())
            schema = self._data.schema
        remote = "://" in location
        self.name, self.place = Path(location).stem, location if remote else str(Path(location).resolve())
        self._files = place_of(location.rstrip("/").rpartition("/")[0] if remote else str(Path(location).parent))
        self._images = _Column(schema, location)
        self.left_alone = LeftAlone()

    def items(self) -> Iterator[Item]:
        """Yield all rows in order."""
        stamp = str(self._data.version)
        for row in range(self._rows):
            yield Item(key=str(row), stamp=stamp)

    def _column(self, key: str) -> _Column:
        return self._images

    def _row(self, key: str) -> dict[str, Any]:
        if not key.isdigit() or int(key) >= self._rows:
            raise InputError(f"{key}: no such image in the corpus")
        with _damage(f"{key}: cannot be read", opened=True):
            table = self._data.take([int(key)], columns=[self._images.name, *self._images.about.values()])
            return _only_row(table, key)

    def stamp(self, key: str) -> str:
        """Return the version of the table."""
        return str(self._data.version) if key.isdigit() and int(key) < self._rows else ""
