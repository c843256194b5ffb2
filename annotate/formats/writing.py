"""The formats that are written, what they hold, and the writer for each."""

from collections.abc import Callable
from pathlib import Path

from tilth.annotate.formats.coco import CocoWriter
from tilth.annotate.formats.csv_table import CsvWriter
from tilth.annotate.formats.cvat import CvatWriter
from tilth.annotate.formats.imagefolder import ImageFolderWriter
from tilth.annotate.formats.labelstudio import LabelStudioWriter
from tilth.annotate.formats.parquet import ParquetWriter
from tilth.annotate.formats.parts.classes import ClassFoldersWriter
from tilth.annotate.formats.parts.records import Entry, Writer
from tilth.annotate.formats.voc import VocWriter
from tilth.annotate.formats.webdataset import WebDatasetWriter
from tilth.annotate.formats.yolo import YoloWriter

SPLIT_INSIDE: dict[str, Callable[[Path, tuple[str, ...], tuple[str, ...]], Writer]] = {
    "yolo": YoloWriter,
    "voc": VocWriter,
}
SPLIT_BY_FOLDER: dict[str, Callable[[Path, tuple[str, ...]], Writer]] = {
    "coco": CocoWriter,
    "labelstudio": LabelStudioWriter,
    "cvat": CvatWriter,
    "imagefolder": ImageFolderWriter,
    "classfolders": ClassFoldersWriter,
    "webdataset": WebDatasetWriter,
    "parquet": ParquetWriter,
    "csv": CsvWriter,
}
CARRIES_IMAGES = ("webdataset", "classfolders")
FORMATS = (*SPLIT_BY_FOLDER, *SPLIT_INSIDE)
HOLDS_STATE = tuple(SPLIT_BY_FOLDER)  # whether an image without labels was looked at
HOLDS_SCORES = tuple(name for name in SPLIT_BY_FOLDER if name != "classfolders")
HOLDS_UNASKED = HOLDS_SCORES  # the categories that nobody looked for in an image
HOLDS_WHOLE = tuple(name for name in SPLIT_BY_FOLDER if name != "coco")  # labels of the whole image
HOLDS_BOXES = tuple(name for name in FORMATS if name != "classfolders")


class _ByFolder:
    """A folder for each split, or the folder itself when there are none."""

    def __init__(
        self,
        folder: Path,
        categories: tuple[str, ...],
        splits: tuple[str, ...],
        make: Callable[[Path, tuple[str, ...]], Writer],
    ) -> None:
        places = {split: folder / (split or "unsplit") for split in splits} if any(splits) else {"": folder}
        for place in places.values():
            place.mkdir(parents=True, exist_ok=True)
        self._parts = {split: make(place, categories) for split, place in places.items()}

    def add(self, entry: Entry) -> None:
        """Write an image and its boxes."""
        self._parts[entry.split].add(entry)

    def close(self) -> None:
        """Finish all splits."""
        for part in self._parts.values():
            part.close()


def open_writer(format_: str, folder: Path, categories: tuple[str, ...], splits: tuple[str, ...]) -> Writer:
    """Return the writer of a format."""
    if format_ in SPLIT_INSIDE:
        return SPLIT_INSIDE[format_](folder, categories, splits)
    return _ByFolder(folder, categories, splits, SPLIT_BY_FOLDER[format_])
