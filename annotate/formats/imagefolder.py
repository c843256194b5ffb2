"""Hugging Face imagefolder: images beside a `metadata.jsonl`, one line an image, in a folder for each split."""

import json
from collections.abc import Iterator
from pathlib import Path

from tilth.annotate.formats.parts.listing import Listed
from tilth.annotate.formats.parts.objects import has_objects, labels_of, parse_row, size_of, state_of, to_row
from tilth.annotate.formats.parts.records import Entry, Found
from tilth.annotate.formats.parts.texts import lines
from tilth.errors import InputError

METADATA = "metadata.jsonl"


class ImageFolder(Listed):
    """Reads every `metadata.jsonl` under a folder."""

    suffixes = (METADATA,)

    def in_file(self, file: str, place: Path) -> Iterator[Found]:
        """Yield the images in the order of the lines."""
        for number, line in lines(place):
            yield self._line(file, number, line)

    def _line(self, file: str, number: int, line: str) -> Found:
        try:
            row = parse_row(line)
            name = str(row.get("file_name") or "")
            labels = labels_of(row)
        except InputError as error:
            return Found(name=f"{file}:{number}", label_file=file, error=str(error))
        spoken = file if has_objects(row) or labels else ""
        found = self.found(name, file, labels=labels, size_wh=size_of(row), state=state_of(row))
        # a line without objects is a caption or a class: it says nothing of boxes
        return found if spoken or found.error else Found(name=found.name, read=found.read)


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
