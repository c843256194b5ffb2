"""Tables of texts as rows: JSON Lines, JSON, CSV, Parquet, the Arrow files of Hugging Face `datasets`, and plain lines."""

import csv
import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from tilth.annotate.formats.parquet import DAMAGE, check_groups, class_names
from tilth.annotate.formats.parts.files import Files
from tilth.annotate.formats.parts.texts import MAX_ITEM, json_lists, lines, parse_json
from tilth.errors import InputError
from tilth.sources.texts import readable

SUFFIXES = (".jsonl", ".ndjson", ".json", ".csv", ".tsv", ".parquet", ".arrow", ".txt")
ABOUT = ("dataset_info.json", "state.json", "dataset_dict.json")  # what `datasets` writes beside its tables
LABELLED = ("label", "labels", "state")  # what a task's data may say of labels, people say themselves
BATCH_ROWS = 256
SIGNS = ",;\t|"  # that part the columns of a CSV

Cells = Mapping[str, Any]


@dataclass(frozen=True, slots=True, kw_only=True)
class Row:
    """A row of a table.

    Args:
        file: Path of the table relative to the root.
        number: Of the row, from 1.
        cells: By column; of a plain line, `text` alone.
        names: Names of numbered classes, by column.
        error: Why the row, or the rest of the table, cannot be read; empty when it can.
    """

    file: str
    number: int
    cells: Cells = field(default_factory=dict)
    names: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    error: str = ""


class Rows:
    """Reads every table under a folder, or one; its memory does not grow with the number of rows.

    Args:
        path: The folder or file.

    Raises:
        InputError: A file is of no kind that is read.
    """

    def __init__(self, path: Path) -> None:
        self.folder = path.parent if path.is_file() else path
        if path.is_file() and path.suffix.lower() not in SUFFIXES:
            raise InputError(f"{path}: not a table of texts; those read are {', '.join(SUFFIXES)}")
        self._files = None if path.is_file() else Files(path, SUFFIXES)
        self._one = path.name

    def files(self) -> Iterator[str]:
        """Yield the paths of the tables, relative to the folder."""
        if self._files is None:
            yield self._one
            return
        yield from (name for name in self._files if name.rpartition("/")[2] not in ABOUT)

    def _place(self, file: str) -> Path:
        return self._files.checked(file) if self._files is not None else self.folder / file

    def count(self) -> int | None:
        """Say how many rows there are at most; None when only reading would tell."""
        total = 0
        for file in self.files():
            place = self._place(file)
            suffix = place.suffix.lower()
            try:
                if suffix == ".parquet":
                    total += int(pq.read_metadata(place).num_rows)
                elif suffix in (".json", ".arrow"):
                    return None
                else:
                    total += _lines_in(place)
            except DAMAGE:
                return None  # reading will say it
        return total

    def __iter__(self) -> Iterator[Row]:
        """Yield the rows of all tables, in the order of their names."""
        for file in self.files():
            number = 0
            try:
                place = self._place(file)
                for row in _READ[place.suffix.lower()](place, file):
                    number = row.number
                    yield row
            except DAMAGE as error:
                yield Row(file=file, number=number + 1, error=f"damaged from here on: {str(error)[:300]}")


def _lines_in(place: Path) -> int:
    count = 0
    with place.open("rb") as stream:
        while piece := stream.read(2**20):
            count += piece.count(b"\n")
    return count + 1


def _plain(place: Path, file: str) -> Iterator[Row]:
    for number, line in lines(place):
        yield Row(file=file, number=number, cells={"text": line})


def _json_lines(place: Path, file: str) -> Iterator[Row]:
    for number, line in lines(place):
        try:
            yield _object(parse_json(line), file, number)
        except InputError as error:
            yield Row(file=file, number=number, error=str(error))


def _json(place: Path, file: str) -> Iterator[Row]:
    for number, (_, item) in enumerate(json_lists(place, ("", "data")), 1):
        yield _object(item, file, number)


def _object(value: object, file: str, number: int) -> Row:
    if isinstance(value, str):
        return Row(file=file, number=number, cells={"text": value})
    if not isinstance(value, dict):
        return Row(file=file, number=number, error=f"expected an object or a text, got {type(value).__name__}")
    if isinstance(value.get("data"), dict) and isinstance(value.get("annotations"), list):
        return _task(value, file, number)
    return Row(file=file, number=number, cells=value)


def _task(task: dict[str, Any], file: str, number: int) -> Row:
    """Read a task that Label Studio exported: what people said who did not skip it."""
    done = [each for each in task["annotations"] if isinstance(each, dict) and not each.get("was_cancelled")]
    said = [_regions(each.get("result")) for each in done]
    if any(sorted(map(str, each)) != sorted(map(str, said[0])) for each in said):
        return Row(file=file, number=number, error=f"{len(said)} people do not agree; settle it in Label Studio")
    cells = {name: each for name, each in task["data"].items() if name not in LABELLED}
    if said:
        cells |= {"labels": said[0], **({} if said[0] else {"state": "confirmed_empty"})}
    return Row(file=file, number=number, cells=cells)


def _regions(result: object) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = []
    for region in result if isinstance(result, list) else ():
        value = region.get("value") if isinstance(region, dict) else None
        if isinstance(value, dict):
            place = {end: value[end] for end in ("start", "end") if end in value}
            names = [*listed(value.get("labels")), *listed(value.get("choices"))]
            found += [{"category": str(name), **place} for name in names]
    return found


def _csv(place: Path, file: str) -> Iterator[Row]:
    csv.field_size_limit(max(csv.field_size_limit(), MAX_ITEM))
    with readable(place) as stream:
        head = stream.readline(MAX_ITEM).lstrip("\ufeff")
        sign = max(SIGNS, key=lambda each: len(next(csv.reader([head], delimiter=each), [])))
        header = [name.strip() for name in next(csv.reader([head], delimiter=sign), [])]
        if len(header) != len(set(header)):
            raise InputError(f"two columns have one name, in {', '.join(header)[:200]}")
        table = csv.reader(stream, delimiter=sign)
        try:
            for number, cells in enumerate(table, 1):
                if not cells:
                    continue
                if len(cells) != len(header):
                    told = f"{len(cells)} cells, and the header has {len(header)}; is a quotation mark missing?"
                    yield Row(file=file, number=number, error=told)
                    continue
                yield Row(file=file, number=number, cells=dict(zip(header, cells, strict=True)))
        except csv.Error as error:
            raise InputError(f"not CSV: {error}") from error


def _parquet(place: Path, file: str) -> Iterator[Row]:
    with pq.ParquetFile(place, buffer_size=2**20, pre_buffer=False) as table:
        check_groups(place)
        yield from _batches(table.iter_batches(BATCH_ROWS), table.schema_arrow, file)


def _arrow(place: Path, file: str) -> Iterator[Row]:
    with pa.memory_map(str(place)) as source, pa.ipc.open_stream(source) as table:
        whole = (part for batch in table for part in _cut(batch))
        yield from _batches(whole, table.schema, file)


def _cut(batch: pa.RecordBatch) -> Iterator[pa.RecordBatch]:
    yield from (batch.slice(start, BATCH_ROWS) for start in range(0, batch.num_rows, BATCH_ROWS))


def _batches(batches: Iterator[pa.RecordBatch], schema: pa.Schema, file: str) -> Iterator[Row]:
    names = {column: tuple(map(str, found)) for column, found in class_names(schema, schema.names).items()}
    number = 0
    for batch in batches:
        for cells in batch.to_pylist():
            number += 1
            yield Row(file=file, number=number, cells=cells, names=names)


_READ = {
    ".jsonl": _json_lines,
    ".ndjson": _json_lines,
    ".json": _json,
    ".csv": _csv,
    ".tsv": _csv,
    ".parquet": _parquet,
    ".arrow": _arrow,
    ".txt": _plain,
}


def listed(value: object) -> list[Any]:
    """Return the items of a cell that is a list, or is written as one in JSON; another cell is one item, an empty one none.

    >>> listed('["a", "b"]'), listed("a"), listed(None), listed("")
    (['a', 'b'], ['a'], [], [])
    """
    if isinstance(value, str) and value.lstrip().startswith("["):
        try:
            value = json.loads(value)
        except ValueError:
            return [value]
    if value is None or value == "":
        return []
    return list(value) if isinstance(value, list | tuple) else [value]
