"""COCO: one JSON file with images, categories and `(left, top, width, height)` boxes.

Paper: https://arxiv.org/abs/1405.0312
"""

import json
from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from tilth.annotate.formats import Found, Images, Named, Oddities
from tilth.errors import InputError

IMAGE_FOLDERS = ("", "images", "data", "train2017", "val2017")


def find_json(path: Path) -> Path | None:
    """Return the label file of a COCO folder, or None when it is none.

    Raises:
        InputError: There are several.
    """
    if path.is_file():
        return path if path.suffix.lower() == ".json" else None
    candidates = [p for p in sorted([*path.glob("*.json"), *path.glob("annotations/*.json")]) if _looks_like_coco(p)]
    if len(candidates) > 1:
        raise InputError(f"{path}: several COCO files, give one: {', '.join(str(p) for p in candidates)}")
    return candidates[0] if candidates else None


def _looks_like_coco(path: Path) -> bool:
    # the keys come in any order, so the end of a long file counts too
    with path.open("rb") as stream:
        head = stream.read(65536)
        stream.seek(max(0, path.stat().st_size - 65536))
        ends = head + stream.read()
    return b'"images"' in ends or b'"annotations"' in ends


class Coco:
    """Reads a COCO file; the file is held in memory, images are not."""

    def __init__(self, path: Path, odd: Oddities) -> None:
        self.file, self.odd = path, odd
        folder = path.parent
        self.root = folder.parent if folder.name == "annotations" else folder
        self.images = Images(self.root)
        document = self._load()
        self._listed: list[dict[str, Any]] = document["images"]
        self._names = {c.get("id"): str(c.get("name")) for c in document["categories"] if isinstance(c, dict)}
        self._labels: dict[Any, list[dict[str, Any]]] = defaultdict(list)
        known = {image.get("id") for image in self._listed if isinstance(image, dict)}
        for number, label in enumerate(document["annotations"]):
            if not isinstance(label, dict) or label.get("image_id") not in known:
                odd.note("label of an image that is not listed", f"annotations[{number}]")
            else:
                self._labels[label["image_id"]].append(label)

    def _load(self) -> dict[str, Any]:
        try:
            document = json.loads(self.file.read_text(encoding="utf-8-sig"))
        except ValueError as error:
            raise InputError(f"{self.file}: not a JSON file: {error}") from error
        for key in ("images", "annotations", "categories"):
            if not isinstance(document, dict) or not isinstance(document.setdefault(key, []), list):
                raise InputError(f"{self.file}: a COCO file has lists of images, annotations and categories")
        return dict(document)

    def __len__(self) -> int:
        """Count the listed images."""
        return len(self._listed)

    def __iter__(self) -> Iterator[Found]:
        """Yield the listed images in the order of the file."""
        label_file = self.file.relative_to(self.root).as_posix()
        seen: set[str] = set()
        for number, image in enumerate(self._listed):
            name = str(image.get("file_name", "")) if isinstance(image, dict) else ""
            try:
                if not name:
                    raise InputError(f"images[{number}] has no file_name")
                path = self.images.find(name, IMAGE_FOLDERS)
            except InputError as error:
                yield Found(name=name or f"images[{number}]", label_file=label_file, error=str(error))
                continue
            if path in seen:
                self.odd.note("image listed twice", name)
            seen.add(path)
            yield Found(
                name=path,
                path=self.root / path,
                label_file=label_file,
                size_wh=_size(image),
                labels=tuple(self._boxes(image.get("id"), name)),
                state=str(image.get("state", "")),
            )
        for path in self.images:
            if path not in seen:
                self.odd.note("image that the label file does not list, left out", path)

    def _boxes(self, image_id: Any, name: str) -> Iterator[Named]:
        for label in self._labels.get(image_id, ()):
            category = self._names.get(label.get("category_id"), f"category_id {label.get('category_id')}")
            if label.get("iscrowd"):
                self.odd.note("crowd region, skipped", f"{name}: {category}")
                continue
            try:
                x, y, w, h = (float(v) for v in label.get("bbox") or _around(label.get("segmentation")))
                score = min(1.0, max(0.0, float(label.get("score", 1.0))))
            except (TypeError, ValueError):
                # not a number, so that the one place that judges boxes refuses it
                x = y = w = h = float("nan")
                score = 1.0
            yield Named(category=category, box_xyxy=(x, y, x + w, y + h), score=score)


def _size(image: dict[str, Any]) -> tuple[int, int] | None:
    try:
        return (int(image["width"]), int(image["height"])) if image["width"] and image["height"] else None
    except (KeyError, TypeError, ValueError):
        return None


def _around(polygons: Any) -> tuple[float, float, float, float]:
    """Return the `xywh` box around polygons; labels made for segmentation leave `bbox` out."""
    values = [float(v) for polygon in polygons for v in polygon]
    xs, ys = values[0::2], values[1::2]
    return min(xs), min(ys), max(xs) - min(xs), max(ys) - min(ys)
