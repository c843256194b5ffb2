"""Which format a path has, and the reader for it."""

import os
from collections.abc import Callable, Iterator
from itertools import islice
from pathlib import Path
from typing import Literal, get_args

from tilth.annotate.formats.coco import Coco, find_json
from tilth.annotate.formats.csv_table import Csv, looks_like_csv
from tilth.annotate.formats.cvat import Cvat, looks_like_cvat
from tilth.annotate.formats.folder import Folder
from tilth.annotate.formats.imagefolder import KINDS, METADATA, ImageFolder
from tilth.annotate.formats.labelstudio import LabelStudio, looks_like_tasks
from tilth.annotate.formats.parquet import Parquet, names_files
from tilth.annotate.formats.parts.classes import ClassFolders, looks_like_classes, unknown_classes
from tilth.annotate.formats.parts.listing import Parts
from tilth.annotate.formats.parts.records import Oddities, Reader, nobody
from tilth.annotate.formats.parts.texts import ends
from tilth.annotate.formats.voc import Voc
from tilth.annotate.formats.webdataset import WebDataset
from tilth.annotate.formats.yolo import Yolo, looks_like_yolo
from tilth.errors import InputError
from tilth.images import SUFFIXES
from tilth.sources.walk import suffix_of

Format = Literal[
    "auto",
    "coco",
    "yolo",
    "voc",
    "labelstudio",
    "cvat",
    "imagefolder",
    "classfolders",
    "webdataset",
    "parquet",
    "csv",
    "folder",
]
SPLIT_INSIDE = ("yolo", "voc", "classfolders", "folder")  # the others have a folder for each split
ASKING = {"labelstudio": LabelStudio, "imagefolder": ImageFolder, "csv": Csv}  # what a label is called here
BY_LIST: dict[str, Callable[[Path, Path | None, Oddities], Reader]] = {
    "cvat": Cvat,
    "parquet": Parquet,
}
LABELS_MAYBE = (".json", ".jsonl", ".xml", ".csv", ".tsv", ".parquet", ".yaml", ".yml")
CALLED = {"train": ("train",), "val": ("val", "valid", "validation"), "test": ("test",)}  # the folders of a split
SAMPLES = "samples.jsonl"  # lies beside every export of ours
LOOKED_AT = 20  # files of a kind, before we say that none is of a format


def detect_format(path: Path, knows: Callable[[str], bool]) -> str:
    """Return the format of a path; `folder` when there are images only.

    Args:
        path: Of a set.
        knows: Tells whether a name is a label here, as that alone makes a folder a class.

    Raises:
        InputError: The path is absent, or is a file of no known kind.
    """
    if not path.exists():
        raise InputError(f"{path}: no such file or folder")
    if find_json(path) or (path.is_dir() and any(find_json(place) for place in _split_folders(path))):
        return "coco"
    if any(looks_like_tasks(p) for p in islice(_under(path, ".json"), LOOKED_AT)):
        return "labelstudio"
    if looks_like_yolo(path):
        return "yolo"
    if next(_metadata(path, knows), None):
        return "imagefolder"
    if any(looks_like_cvat(p) for p in islice(_under(path, ".xml"), LOOKED_AT)):
        return "cvat"
    if next(_under(path, ".xml"), None) and (path.is_dir() or "annotation" in ends(path)[0]):
        return "voc"
    if next(_under(path, ".tar"), None):
        return "webdataset"
    if next(_under(path, ".parquet"), None):
        return "parquet"
    if any(looks_like_csv(p, knows) for p in islice(_under(path, ".csv", ".tsv"), LOOKED_AT)):
        return "csv"
    if path.is_dir():
        return "classfolders" if looks_like_classes(path, knows) else "folder"
    raise InputError(f"{path}: give a folder, or a label file of one of {', '.join(get_args(Format)[1:-1])}")


def listed_names(reader: Reader) -> tuple[str, ...]:
    """Return what a set says that its labels are of, by its own names; none when it has no list of them."""
    if isinstance(reader, Coco | Parts | ClassFolders | Csv):
        return reader.categories
    return tuple(dict.fromkeys(reader.names.values())) if isinstance(reader, Yolo) else ()


def _under(path: Path, *suffixes: str) -> Iterator[Path]:
    """Yield the files with one of these suffixes, in whatever case."""
    if path.is_file():
        yield from [path] if suffix_of(path.name) in suffixes else []
        return
    for folder, _, names in os.walk(
        path
    ):  # a path of its own for each of a million files would take longer than reading them
        found = (Path(folder, name) for name in names if suffix_of(name) in suffixes)
        yield from (place for place in found if place.is_file())


def _metadata(path: Path, knows: Callable[[str], bool]) -> Iterator[Path]:
    """Yield the files that an imagefolder has beside its images; others may have this name too, so those are looked into."""
    yield from (p for p in _under(path, ".jsonl") if p.name == METADATA)
    yield from (p for p in _under(path, ".csv") if p.name in KINDS and looks_like_csv(p, knows))
    yield from (p for p in _under(path, ".parquet") if p.name in KINDS and names_files(p))


def _split_folders(path: Path) -> list[Path]:
    return [path / name for names in CALLED.values() for name in names if (path / name).is_dir()]


def _part(path: Path, format_: str, split: str) -> Path:
    """Return the folder of a split, where the format has one for each.

    Raises:
        InputError: There are such folders, but not for this split.
    """
    if not path.is_dir() or format_ in SPLIT_INSIDE or (format_ == "coco" and find_json(path)):
        return path
    places = [place.name for place in _split_folders(path)]
    if fit := [name for name in CALLED.get(split, ()) if name in places]:
        return path / fit[0]
    if places and split:
        raise InputError(f"{path}: give a split that it has: {', '.join(places)}; got {split!r}")
    return path


def open_reader(
    path: Path,
    format_: Format,
    split: str,
    images: Path | None,
    odd: Oddities,
    knows: Callable[[str], bool] = nobody,
) -> tuple[str, Reader]:
    """Open a label source; return its format and reader.

    Args:
        path: Of the set.
        format_: Of the set; `auto` looks.
        split: Read this one only; all when empty.
        images: Folder of the images, when they lie apart.
        odd: Takes notes.
        knows: Tells whether a name is a label here.

    Raises:
        InputError: It is absent or not of this format.
    """
    found = detect_format(path, knows) if format_ == "auto" else format_
    if not path.exists():
        raise InputError(f"{path}: no such file or folder")
    if images and not images.is_dir():
        raise InputError(f"{images}: no such folder of images")
    if found == "imagefolder" and path.is_dir() and not next(_metadata(path, knows), None):
        found = "classfolders"  # what Hugging Face does with a folder without metadata
    path = _part(path, found, split)
    if found == "coco":
        if (file := find_json(path)) is None:
            if parts := {place.name: file for place in _split_folders(path) if (file := find_json(place))}:
                return found, Parts(path, {name: Coco(file, images, odd) for name, file in parts.items()})
            raise InputError(f"{path}: no COCO file; expected a .json with images, annotations and categories")
        return found, Coco(file, images, odd)
    if found in ASKING:
        return found, ASKING[found](path, images, odd, knows)
    if found == "yolo":
        return found, Yolo(path, split, images, odd)
    if found == "webdataset":
        return found, WebDataset(path, odd)
    if found in BY_LIST:
        return found, BY_LIST[found](path, images, odd)
    if found == "voc":
        return found, Voc(path, split, images, odd)
    if not path.is_dir():
        raise InputError(f"{path}: the format {found!r} needs a folder")
    if found == "classfolders":
        return found, ClassFolders(path, split, odd, knows)
    _say_unread(path, odd, named=format_ == "folder")
    return found, Folder(path, odd)


def _beside_image(file: Path) -> bool:
    return any(file.with_suffix(suffix).exists() for suffix in SUFFIXES)


def _say_unread(path: Path, odd: Oddities, *, named: bool) -> None:
    """Note what may hold labels in a folder that is taken as plain images."""
    for file in islice(_under(path, *LABELS_MAYBE), LOOKED_AT):
        if not file.name.startswith(".") and file.name != SAMPLES:
            odd.note("file that may hold labels and that no reader takes", file.relative_to(path).as_posix())
    for file in islice((p for p in _under(path, ".txt") if _beside_image(p)), LOOKED_AT):
        odd.note("text beside an image that may be its label or caption and that no reader takes", file.name)
    names = [] if named else unknown_classes(path)
    for name in names:
        odd.note("folder that may be a class; map its name by `categories`, or none is taken as a label", name)
