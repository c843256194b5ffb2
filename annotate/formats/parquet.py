"""Parquet: image bytes and nested boxes in one table, in the columns that Hugging Face data sets use."""

import json
from collections.abc import Iterator, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from tilth.annotate.formats.parts.files import Files
from tilth.annotate.formats.parts.footer import claims
from tilth.annotate.formats.parts.objects import BESIDE, PLACES, WORDS, said_of, to_row
from tilth.annotate.formats.parts.records import Entry, Found, Labels, Oddities, on_disk
from tilth.errors import InputError
from tilth.images import MAX_BYTES

DAMAGE = (
    InputError,
    pa.ArrowException,
    OSError,
    ValueError,
    LookupError,
)  # what the library makes of a table that is none
GROUP_ROWS, GROUP_BYTES = 1000, 32 * 2**20
FILE_BYTES = 512 * 2**20
BATCH_ROWS = 64
# A claim of more is no table of labels: it would be unpacked into memory before anything could be checked.
MAX_GROUP_BYTES, MAX_GROUP_VALUES = 2 * 2**30, 20_000_000
COLUMNS = (
    "image",
    "width",
    "height",
    "objects",
    "image_label_scores",
    "unasked",
    "state",
    *PLACES,
    *dict.fromkeys((*WORDS, *BESIDE)),
)
OBJECTS = pa.struct(
    [
        ("bbox", pa.list_(pa.list_(pa.float64()))),
        ("categories", pa.list_(pa.string())),
        ("score", pa.list_(pa.float64())),
        ("source", pa.list_(pa.string())),
    ]
)
SCHEMA = pa.schema(
    [
        ("image", pa.struct([("bytes", pa.binary()), ("path", pa.string())])),
        ("width", pa.int32()),
        ("height", pa.int32()),
        ("objects", OBJECTS),
        ("image_labels", pa.list_(pa.string())),
        ("image_label_scores", pa.list_(pa.float64())),
        ("unasked", pa.list_(pa.string())),
        ("sample", pa.string()),
        ("state", pa.string()),
        ("license", pa.string()),
    ]
)


Names = Mapping[str, Sequence[str]]


class Parquet:
    """Reads every `.parquet` under a folder, or one.

    Args:
        path: The folder or file.
        images: Folder of the images, for rows that have their path and not their bytes; that of the table when None.
        odd: Takes notes.
    """

    def __init__(self, path: Path, images: Path | None, odd: Oddities) -> None:
        self.folder = path.parent if path.is_file() else path
        self.root, self.odd = images or self.folder, odd
        self._files = (path.name,) if path.is_file() else Files(path, (".parquet",))
        self._images: Files | None = None

    def _place(self, file: str) -> Path:
        return self._files.checked(file) if isinstance(self._files, Files) else self.folder / file

    def count(self) -> int | None:
        """Sum up what the files say of their rows."""
        try:
            return sum(int(pq.read_metadata(self._place(file)).num_rows) for file in self._files)
        except DAMAGE:
            return None  # reading will say which file is damaged

    def __iter__(self) -> Iterator[Found]:
        """Yield the images in the order of the rows."""
        for file in self._files:
            try:
                yield from self._file(self._place(file), file)
            except DAMAGE as error:
                yield Found(name=file, label_file=file, error=f"damaged or no such table: {str(error)[:300]}")

    def _file(self, place: Path, file: str) -> Iterator[Found]:
        with pq.ParquetFile(place, buffer_size=2**20, pre_buffer=False) as table:
            _check(table, place)
            names = class_names(table.schema_arrow)
            chosen = [name for name in COLUMNS if name in table.schema_arrow.names]
            number = 0
            for batch in table.iter_batches(BATCH_ROWS, columns=chosen):
                rows = batch.drop_columns(["image"]).to_pylist()
                images = batch.column("image")
                for at, row in enumerate(rows):
                    yield self._row(images, at, row, names, file, number)
                    number += 1

    def _row(self, images: pa.Array, at: int, row: dict[str, Any], names: Names, file: str, number: int) -> Found:
        struct = pa.types.is_struct(images.type)
        data = images.field("bytes")[at] if struct else images[at]
        path = images.field("path")[at].as_py() if struct and "path" in [f.name for f in images.type] else None
        name = f"{file}/{path or number}"
        labels, more = Labels(), dict[str, Any](label_file=file)
        try:
            labels, more = said_of(row, file, names)
            if data.is_valid:
                read = partial(_limited, data)
            else:
                name, read = self._on_disk(path)
        except InputError as error:
            read, more = None, {**more, "error": str(error)}
        return Found(name=name, read=read, labels=labels.taken, left_out=labels.left_out, **more)

    def _on_disk(self, path: str | None) -> tuple[str, Any]:
        if not path:
            raise InputError("a row with neither bytes nor a path")
        if self._images is None:
            self._images = Files(self.root)
        found = self._images.find(path, ("", "images"), self.odd)
        return found, on_disk(self.root / found)


def _limited(data: pa.Scalar) -> bytes:
    buffer = data.as_buffer()
    if buffer.size > MAX_BYTES:
        raise InputError(f"image of {buffer.size / 2**20:.0f} MiB, the limit is {MAX_BYTES // 2**20} MiB")
    return bytes(buffer)


def _check(table: pq.ParquetFile, place: Path) -> None:
    """Refuse a table without images, and one whose groups are too large to be unpacked.

    Raises:
        InputError: It is such a table.
    """
    schema = table.schema_arrow
    kind = schema.field("image").type if "image" in schema.names else None
    bytes_ = (
        kind.field("bytes").type
        if kind is not None and pa.types.is_struct(kind) and "bytes" in [f.name for f in kind]
        else kind
    )
    if bytes_ is None or not (pa.types.is_binary(bytes_) or pa.types.is_large_binary(bytes_)):
        raise InputError(f"expected a column image with bytes (and objects), got {', '.join(schema.names)}")
    check_groups(place)


def check_groups(place: Path) -> None:
    """Refuse a table whose groups are too large to be unpacked.

    Raises:
        InputError: It is such a table.
    """
    for number, (size, values) in enumerate(claims(place)):
        if size > MAX_GROUP_BYTES or values > MAX_GROUP_VALUES:
            raise InputError(f"refused: row group {number} claims {size} bytes and {values} values")


def names_files(place: Path) -> bool:
    """Tell whether a table names its images by `file_name` and so has none inside."""
    try:
        names = pq.read_schema(place).names
    except (pa.ArrowException, OSError):
        return False
    return "file_name" in names and "image" not in names


def rows_in(place: Path) -> Iterator[tuple[dict[str, Any], Names]]:
    """Yield the rows of a table that names its images by `file_name`, and the names of its numbered categories.

    Raises:
        InputError: It is no such table, or one whose groups are too large to be unpacked.
    """
    with pq.ParquetFile(place, buffer_size=2**20, pre_buffer=False) as table:
        if "file_name" not in table.schema_arrow.names:
            raise InputError(f"expected a column file_name, got {', '.join(table.schema_arrow.names)}")
        check_groups(place)
        names = class_names(table.schema_arrow)
        chosen = [name for name in ("file_name", *COLUMNS[1:]) if name in table.schema_arrow.names]
        for batch in table.iter_batches(BATCH_ROWS, columns=chosen):
            for row in batch.to_pylist():
                yield row, names


def class_names(schema: pa.Schema, columns: Sequence[str] = ("objects", *WORDS, *BESIDE)) -> Names:
    """Return the names of numbered categories by column, which Hugging Face keeps in the metadata of the schema."""
    try:
        features = json.loads((schema.metadata or {})[b"huggingface"])["info"]["features"]
        texts = {column: json.dumps(features[column]) for column in columns if column in features}
    except (KeyError, TypeError, ValueError, RecursionError):
        return {}
    found: dict[str, list[tuple[str, ...]]] = {column: [] for column in texts}
    for column, text in texts.items():

        def look(node: dict[str, Any], column: str = column) -> dict[str, Any]:
            if node.get("_type") == "ClassLabel" and isinstance(node.get("names"), list):
                found[column].append(tuple(map(str, node["names"])))
            return node

        json.loads(text, object_hook=look)
    return {column: names[0] for column, names in found.items() if names}


def _features() -> bytes:
    """Say in Hugging Face's words that `image` is an image; without that it is read as bytes."""

    def value(kind: str) -> dict[str, str]:
        return {"dtype": kind, "_type": "Value"}

    def list_of(inner: dict[str, Any]) -> dict[str, Any]:
        return {"feature": inner, "_type": "List"}

    features = {
        "image": {"_type": "Image"},
        "width": value("int32"),
        "height": value("int32"),
        "objects": {
            "bbox": list_of(list_of(value("float64"))),
            "categories": list_of(value("string")),
            "score": list_of(value("float64")),
            "source": list_of(value("string")),
        },
        "image_labels": list_of(value("string")),
        "image_label_scores": list_of(value("float64")),
        "unasked": list_of(value("string")),
        "sample": value("string"),
        "state": value("string"),
        "license": value("string"),
    }
    return json.dumps({"info": {"features": features}}).encode()


class ParquetWriter:
    """Writes `00000.parquet`, …, in row groups of at most 1,000 images or 32 MiB."""

    def __init__(self, folder: Path, categories: tuple[str, ...]) -> None:
        self.folder = folder
        self._schema = SCHEMA.with_metadata({b"huggingface": _features()})
        self._rows: list[dict[str, Any]] = []
        self._files, self._group, self._written = 0, 0, 0
        self._table: pq.ParquetWriter | None = None

    def add(self, entry: Entry) -> None:
        """Write an image and its boxes."""
        size = len(entry.data or b"")
        if self._rows and (len(self._rows) >= GROUP_ROWS or self._group + size > GROUP_BYTES):
            self._flush()
        self._rows.append({"image": {"bytes": entry.data, "path": entry.file}} | to_row(entry))
        self._group += size

    def _flush(self) -> None:
        if self._table is None:
            place = self.folder / f"{self._files:05d}.parquet"
            self._table = pq.ParquetWriter(place, self._schema, compression="zstd")
            self._files += 1
        self._table.write_table(pa.Table.from_pylist(self._rows, schema=self._schema))
        self._written += self._group
        self._rows, self._group = [], 0
        if self._written > FILE_BYTES:
            self._close()

    def _close(self) -> None:
        if self._table is not None:
            self._table.close()
        self._table, self._written = None, 0

    def close(self) -> None:
        """Write the last rows."""
        if self._rows or not self._files:
            self._flush()
        self._close()
