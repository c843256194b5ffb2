"""Write images with boxes as COCO, YOLO or Pascal VOC, one at a time; COCO's lists wait on disk until the end."""

import json
import shutil
import xml.etree.ElementTree as ElementTree
from collections.abc import Callable
from pathlib import Path
from typing import Protocol, TextIO

import numpy as np
import yaml

from tilth.claims import Claim
from tilth.geometry import Boxes, xyxy_to_cxcywh, xyxy_to_xywh
from tilth.samples import Sample


def _boxed(sample: Sample) -> list[Claim]:
    return [label for label in sample.truth.labels if label.box_xyxy is not None]


def _array(labels: list[Claim]) -> Boxes:
    return np.array([label.box_xyxy for label in labels], np.float64).reshape(-1, 4)


class _CocoFolder:
    """One `annotations.json` with its `images/`."""

    def __init__(self, folder: Path, categories: tuple[str, ...]) -> None:
        self.folder, self.categories = folder, categories
        (folder / "images").mkdir(parents=True)
        self.images, self.labels = 0, 0
        self._lists: dict[str, TextIO] = {
            name: (folder / f"{name}.partial").open("w+", encoding="utf-8") for name in ("images", "annotations")
        }

    def _put(self, name: str, first: bool, row: dict[str, object]) -> None:
        self._lists[name].write(("" if first else ",\n") + json.dumps(row))

    def add(self, sample: Sample, file: str, data: bytes) -> None:
        """Write an image and its rows."""
        (self.folder / "images" / file).write_bytes(data)
        self.images += 1
        width, height = sample.size_wh
        row = {
            "id": self.images,
            "file_name": file,
            "width": width,
            "height": height,
            "sample": sample.id,
            "state": str(sample.state),
            "license_text": sample.origin.get("licence", ""),
        }
        self._put("images", self.images == 1, row)
        labels = _boxed(sample)
        for label, box in zip(labels, xyxy_to_xywh(_array(labels)).tolist(), strict=True):
            self.labels += 1
            row = {
                "id": self.labels,
                "image_id": self.images,
                "bbox": box,
                "area": box[2] * box[3],
                "iscrowd": 0,
                "category_id": self.categories.index(str(label.category)) + 1,
                "score": label.score,
                "source": label.source,
            }
            self._put("annotations", self.labels == 1, row)

    def close(self) -> None:
        """Join the lists into one file."""
        categories = [{"id": n, "name": name} for n, name in enumerate(self.categories, 1)]
        with (self.folder / "annotations.json").open("w", encoding="utf-8") as out:
            out.write('{"info": {"description": "written by tilth"}, "categories": ' + json.dumps(categories))
            for name, stream in self._lists.items():
                out.write(f',\n"{name}": [')
                stream.seek(0)
                shutil.copyfileobj(stream, out)
                out.write("]")
                stream.close()
                (self.folder / f"{name}.partial").unlink()
            out.write("}\n")


class CocoWriter:
    """COCO: a folder for each split, or the folder itself when there are none."""

    def __init__(self, folder: Path, categories: tuple[str, ...], splits: tuple[str, ...]) -> None:
        places = {split: folder / (split or "unsplit") for split in splits} if any(splits) else {"": folder}
        self._parts = {split: _CocoFolder(place, categories) for split, place in places.items()}

    def add(self, sample: Sample, file: str, data: bytes) -> None:
        """Write an image and its rows."""
        self._parts[sample.split].add(sample, file, data)

    def close(self) -> None:
        """Finish all splits."""
        for part in self._parts.values():
            part.close()


class YoloWriter:
    """YOLO: `images/<split>`, `labels/<split>` and a `data.yaml`; an image without boxes has an empty text file."""

    def __init__(self, folder: Path, categories: tuple[str, ...], splits: tuple[str, ...]) -> None:
        self.folder, self.categories = folder, categories
        self.places = {split: split or "unsplit" for split in splits}
        for kind in ("images", "labels"):
            for place in self.places.values():
                (folder / kind / place).mkdir(parents=True)

    def add(self, sample: Sample, file: str, data: bytes) -> None:
        """Write an image and its text file."""
        place = self.places[sample.split]
        (self.folder / "images" / place / file).write_bytes(data)
        labels = _boxed(sample)
        parts = xyxy_to_cxcywh(_array(labels) / [*sample.size_wh, *sample.size_wh])
        lines = [
            f"{self.categories.index(str(label.category))} " + " ".join(f"{v:.8f}" for v in row) + "\n"
            for label, row in zip(labels, parts.tolist(), strict=True)
        ]
        (self.folder / "labels" / place / file).with_suffix(".txt").write_text("".join(lines))

    def close(self) -> None:
        """Write `data.yaml`."""
        # other tools want a train, and ignore a name that they do not know
        spare = "unsplit" if "train" in self.places else "train"
        document = {split or spare: f"images/{place}" for split, place in self.places.items()}
        names = dict(enumerate(self.categories))
        (self.folder / "data.yaml").write_text(yaml.safe_dump({**document, "names": names}, sort_keys=False))


class VocWriter:
    """Pascal VOC: `JPEGImages`, `Annotations` and `ImageSets/Main/<split>.txt`; whole pixels, counted from 1."""

    def __init__(self, folder: Path, categories: tuple[str, ...], splits: tuple[str, ...]) -> None:
        self.folder = folder
        for name in ("JPEGImages", "Annotations", "ImageSets/Main"):
            (folder / name).mkdir(parents=True)
        self._lists = {split: (folder / "ImageSets" / "Main" / f"{split}.txt").open("w") for split in splits if split}

    def add(self, sample: Sample, file: str, data: bytes) -> None:
        """Write an image and its XML file."""
        (self.folder / "JPEGImages" / file).write_bytes(data)
        tree = ElementTree.Element("annotation")
        _put(tree, folder="JPEGImages", filename=file)
        _put(ElementTree.SubElement(tree, "size"), width=sample.size_wh[0], height=sample.size_wh[1], depth=3)
        _put(tree, segmented=0)
        for label in _boxed(sample):
            thing = ElementTree.SubElement(tree, "object")
            _put(thing, name=str(label.category), pose="Unspecified", truncated=0, difficult=0)
            x0, y0, x1, y1 = label.box_xyxy or (0, 0, 0, 0)
            (left, right), (top, bottom) = _whole(x0, x1, sample.size_wh[0]), _whole(y0, y1, sample.size_wh[1])
            _put(ElementTree.SubElement(thing, "bndbox"), xmin=left + 1, ymin=top + 1, xmax=right, ymax=bottom)
        ElementTree.indent(tree)
        ElementTree.ElementTree(tree).write((self.folder / "Annotations" / file).with_suffix(".xml"), encoding="utf-8")
        if sample.split:
            self._lists[sample.split].write(f"{Path(file).stem}\n")

    def close(self) -> None:
        """Close the lists of the splits."""
        for stream in self._lists.values():
            stream.close()


def _whole(low: float, high: float, limit: int) -> tuple[int, int]:
    """Round to whole pixels; what is too thin for that becomes the pixel that its middle lies in.

    >>> _whole(1.2, 7.8, 10), _whole(1.5, 1.6, 10)
    ((1, 8), (1, 2))
    """
    first, last = round(low), round(high)
    if first < last:
        return first, last
    pixel = min(int((low + high) / 2), limit - 1)
    return pixel, pixel + 1


def _put(parent: ElementTree.Element, **values: str | int) -> None:
    for name, value in values.items():
        ElementTree.SubElement(parent, name).text = str(value)


class Writer(Protocol):
    """Writes one format into a folder, one image at a time."""

    def add(self, sample: Sample, file: str, data: bytes) -> None:
        """Write an image under this file name, with its boxes."""
        ...

    def close(self) -> None:
        """Write what comes last."""
        ...


WRITERS: dict[str, Callable[[Path, tuple[str, ...], tuple[str, ...]], Writer]] = {
    "coco": CocoWriter,
    "yolo": YoloWriter,
    "voc": VocWriter,
}
