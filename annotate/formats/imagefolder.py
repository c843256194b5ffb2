"""Hugging Face imagefolder: images beside a `metadata.jsonl`, `.csv` or `.parquet`, one row an image."""

import json
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa

from tilth.annotate.formats.csv_table import Csv
from tilth.annotate.formats.parquet import rows_in
from tilth.annotate.formats.parts.objects import SILENT, parse_row, said_of, to_row
from tilth.annotate.formats.parts.records import Entry, Found
from tilth.annotate.formats.parts.texts import lines
from tilth.errors import InputError

METADATA = "metadata.jsonl"
KINDS = (METADATA, "metadata.csv", "metadata.parquet")


class ImageFolder(Csv):
    """Reads all metadata files under a folder."""

    suffixes = KINDS

    def in_file(self, file: str, place: Path) -> Iterator[Found]:
        """Yield the images in the order of the rows."""
        if place.suffix.lower() == ".csv":
            yield from super().in_file(file, place)
        elif place.suffix.lower() == ".parquet":
            try:
                for number, (row, names) in enumerate(rows_in(place)):
                    yield self._row(file, number, row, names)
            except (pa.ArrowException, OSError) as error:
                raise InputError(f"damaged, or no such table: {str(error)[:300]}") from error
        else:
            for number, line in lines(place):
                try:
                    row = parse_row(line)
                except InputError as error:
                    yield Found(name=f"{file}:{number}", label_file=file, error=str(error))
                else:
                    yield self._row(file, number, row, {})

    def _row(self, file: str, number: int, row: dict[str, Any], names: Mapping[str, Sequence[str]]) -> Found:
        try:
            labels, more = said_of(row, file, names)
        except InputError as error:
            return Found(name=f"{file}:{number}", label_file=file, error=str(error))
        if not (more["label_file"] or more["served"]):
            self.odd.note(SILENT, f"{file}: {', '.join(map(str, row))}")
        return self.found(str(row.get("file_name") or ""), file, labels=labels, **more)


class ImageFolderWriter:
    """Writes the images and one line for each."""

    def __init__(self, folder: Path, categories: tuple[str, ...]) -> None:
        self.folder = folder
        self._lines = (folder / METADATA).open("w", encoding="utf-8")

    def add(self, entry: Entry) -> None:
        """Write an image and its line."""
        if entry.data is not None:
            (self.folder / entry.file).write_bytes(entry.data)
        self._lines.write(json.dumps({"file_name": entry.file} | to_row(entry)) + "\n")

    def close(self) -> None:
        """Close the list."""
        self._lines.close()
