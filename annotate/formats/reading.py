"""Which format a path has, and the reader for it."""

from pathlib import Path
from typing import Literal

from tilth.annotate.formats import Oddities, Reader
from tilth.annotate.formats.coco import Coco, find_json
from tilth.annotate.formats.folder import Folder
from tilth.annotate.formats.voc import Voc
from tilth.annotate.formats.yolo import Yolo, looks_like_yolo
from tilth.errors import InputError

Format = Literal["auto", "coco", "yolo", "voc", "folder"]


def detect_format(path: Path) -> str:
    """Return the format of a path; `folder` when there are images only.

    Raises:
        InputError: The path is absent, or is a file of no known kind.
    """
    if not path.exists():
        raise InputError(f"{path}: no such file or folder")
    if find_json(path):
        return "coco"
    if looks_like_yolo(path):
        return "yolo"
    if path.is_dir():
        return "voc" if next(path.rglob("*.xml"), None) or next(path.rglob("*.XML"), None) else "folder"
    raise InputError(f"{path}: give a folder, a COCO .json or a YOLO data.yaml")


def open_reader(path: Path, format_: Format, split: str, images: Path | None, odd: Oddities) -> tuple[str, Reader]:
    """Open a label source; return its format and reader.

    Raises:
        InputError: It is absent or not of this format.
    """
    found = detect_format(path) if format_ == "auto" else format_
    if not path.exists():
        raise InputError(f"{path}: no such file or folder")
    if images and not images.is_dir():
        raise InputError(f"{images}: no such folder of images")
    if found == "coco":
        if (file := find_json(path)) is None:
            raise InputError(f"{path}: no COCO file; expected a .json with images, annotations and categories")
        return found, Coco(file, images, odd)
    if found == "yolo":
        return found, Yolo(path, split, images, odd)
    if not path.is_dir():
        raise InputError(f"{path}: the format {found!r} needs a folder")
    return found, Voc(path, split, images, odd) if found == "voc" else Folder(path, odd)
