"""COCO: one JSON file with images, categories and `(left, top, width, height)` boxes.

Paper: https://arxiv.org/abs/1405.0312
"""

import json
import shutil
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, TextIO

from tilth.annotate.formats.parts.files import Files, scratch, write_image
from tilth.annotate.formats.parts.records import MAX_LABELS, Boxed, Entry, Found, Named, Oddities, limited, on_disk
from tilth.annotate.formats.parts.texts import ends, json_lists
from tilth.errors import InputError

IMAGE_FOLDERS = ("", "images", "data", "train2017", "val2017")
LISTS = ("images", "annotations", "categories")
SHOW_UPRIGHT = ("Label Studio",)  # in the browser, and then write the size of the file as it is stored
NAN = float("nan")


def find_json(path: Path) -> Path | None:
    """Return the label file of a COCO folder, or None when it is none.

    Raises:
        InputError: There are several.
    """
    if path.is_file():
        return path if path.suffix.lower() == ".json" and looks_like_coco(path) else None
    candidates = [p for p in sorted([*path.glob("*.json"), *path.glob("annotations/*.json")]) if looks_like_coco(p)]
    if len(candidates) > 1:
        # captions, key points and the like lie beside the boxes under names of their own
        candidates = [p for p in candidates if p.name.startswith("instances")] or candidates
    if len(candidates) > 1:
        raise InputError(f"{path}: several COCO files, give one: {', '.join(str(p) for p in candidates)}")
    return candidates[0] if candidates else None


def looks_like_coco(path: Path) -> bool:
    """Tell whether a JSON file may be a COCO file, by its ends."""
    # the keys come in any order, so the end of a long file counts too
    head, tail = ends(path)
    return not head.startswith("[") and any(
        f'"{key}"' in head + tail for key in ("images", "annotations")
    )  # Label Studio's


class Coco:
    """Reads a COCO file, whose lists come in any order: they are sorted in a temporary database, not in memory.

    Args:
        path: The file.
        images: Folder of the images; that of the file when None.
        odd: Takes notes.
    """

    def __init__(self, path: Path, images: Path | None, odd: Oddities) -> None:
        self.file, self.odd = path, odd
        folder = path.parent
        self.root = images or (folder.parent if folder.name == "annotations" else folder)
        self.label_file = path.name if images else path.relative_to(self.root).as_posix()
        self.images = Files(self.root)
        self._names: dict[object, str] = {}
        self._upright = False
        self._rows = scratch()
        self._rows.execute("CREATE TABLE images (number INTEGER PRIMARY KEY, id, name, width, height, state, unasked)")
        self._rows.execute("CREATE TABLE labels (image, number INTEGER, category, crowd, x, y, w, h, score)")
        self._load()

    def _load(self) -> None:
        seen = dict.fromkeys(LISTS, 0)
        self._rows.execute("BEGIN")
        for kind, item in json_lists(self.file, LISTS, ("info",)):
            if kind == "info":
                self._upright = isinstance(item, dict) and item.get("contributor") in SHOW_UPRIGHT
                continue
            number = seen[kind]
            seen[kind] += 1
            if kind == "images":
                self._rows.execute("INSERT INTO images VALUES (?, ?, ?, ?, ?, ?, ?)", (number, *_image(item)))
            elif not isinstance(item, dict):
                self.odd.note("entry that is no object, skipped", f"{kind}[{number}]")
            elif kind == "annotations":
                row = (_id(item.get("image_id")), number, *_label(item))
                self._rows.execute("INSERT INTO labels VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?)", row)
            else:
                self._names[_id(item.get("id"))] = str(item.get("name"))
        self._rows.execute("COMMIT")
        if not any(seen.values()):
            raise InputError(f"{self.file}: a COCO file has lists of images, annotations and categories")
        self._rows.execute("CREATE INDEX by_image ON labels(image, number)")
        self._rows.execute("CREATE INDEX by_id ON images(id)")
        lost = "SELECT number FROM labels WHERE NOT EXISTS (SELECT 1 FROM images WHERE id = image) ORDER BY number"
        for (number,) in self._rows.execute(lost):
            self.odd.note("label of an image that is not listed", f"annotations[{number}]")
        twice = "SELECT name FROM images WHERE id IN (SELECT id FROM images GROUP BY id HAVING count(*) > 1)"
        for (name,) in self._rows.execute(twice):
            self.odd.note("image whose id another image has too", str(name))

    @property
    def categories(self) -> tuple[str, ...]:
        """Return the names of the set's own list: annotators of a COCO set looked for these in every image."""
        return tuple(self._names.values())

    def count(self) -> int:
        """Count the listed images."""
        return int(self._rows.execute("SELECT count(*) FROM images").fetchone()[0])

    def __iter__(self) -> Iterator[Found]:
        """Yield the listed images in the order of the file."""
        for number, id_, name, width, height, state, unasked in self._rows.execute(
            "SELECT * FROM images ORDER BY number"
        ):
            try:
                if not name:
                    raise InputError(f"images[{number}] has no file_name")
                path = self.images.find(name, IMAGE_FOLDERS, self.odd)
                labels = limited(self._boxes(id_, name))
            except InputError as error:
                yield Found(name=name or f"images[{number}]", label_file=self.label_file, error=str(error))
                continue
            if not self.images.mark(path):
                self.odd.note("image listed twice", name)
            yield Found(
                name=path,
                read=on_disk(self.root / path),
                label_file=self.label_file,
                size_wh=(width, height) if width and height else None,
                upright=self._upright,
                labels=labels,
                state=state,
                unasked=tuple(json.loads(unasked)),
            )
        for path in self.images.unmarked():
            self.odd.note("image that the label file does not list, left out", path)

    def _boxes(self, image: object, name: str) -> Iterator[Named]:
        wanted = "SELECT category, crowd, x, y, w, h, score FROM labels WHERE image = ? ORDER BY number"
        for category_id, crowd, *box, score in self._rows.execute(wanted, (image,)):
            category = self._names.get(category_id, f"category_id {category_id}")
            if crowd:
                self.odd.note("crowd region, skipped", f"{name}: {category}")
                continue
            # what is not a number comes back as None, so that the one place that judges boxes refuses it
            x, y, w, h = (NAN if v is None else v for v in box)
            yield Named(category=category, box_xyxy=(x, y, x + w, y + h), score=score)


def _id(value: object) -> int | float | str:
    """Return an id as the database can compare it: 1 and "1" differ, as they do in Python."""
    if isinstance(value, str | float) or (isinstance(value, int) and abs(value) < 2**63):
        return value
    return json.dumps(value)[:1000]


def _image(image: object) -> tuple[object, str, int | None, int | None, str, str]:
    if not isinstance(image, dict):
        return None, "", None, None, "", "[]"
    width, height = _side(image.get("width")), _side(image.get("height"))
    told = image.get("unasked")
    unasked = json.dumps([str(name) for name in told[:MAX_LABELS]] if isinstance(told, list) else [])
    return _id(image.get("id")), str(image.get("file_name") or ""), width, height, str(image.get("state", "")), unasked


def _side(value: Any) -> int | None:
    try:
        return int(value) if 0 < int(value) < 2**31 else None
    except (OverflowError, TypeError, ValueError):
        return None


def _label(label: Mapping[str, Any]) -> tuple[object, int, float, float, float, float, float]:
    try:
        x, y, w, h = (float(v) for v in label.get("bbox") or _around(label.get("segmentation")))
        score = min(1.0, max(0.0, float(label.get("score", 1.0))))
    except (OverflowError, TypeError, ValueError):
        x = y = w = h = NAN
        score = 1.0
    return _id(label.get("category_id")), int(bool(label.get("iscrowd"))), x, y, w, h, score


def _around(polygons: Any) -> tuple[float, float, float, float]:
    """Return the `xywh` box around polygons; labels made for segmentation leave `bbox` out."""
    values = [float(v) for polygon in polygons for v in polygon]
    xs, ys = values[0::2], values[1::2]
    return min(xs), min(ys), max(xs) - min(xs), max(ys) - min(ys)


class CocoWriter:
    """Writes `annotations.json`; its two lists wait on disk until the end."""

    def __init__(self, folder: Path, categories: tuple[str, ...]) -> None:
        self.folder, self.categories = folder, categories
        self._number = {name: n for n, name in enumerate(categories, 1)}
        self.images, self.labels = 0, 0
        self._lists: dict[str, TextIO] = {
            name: (folder / f"{name}.partial").open("w+", encoding="utf-8") for name in ("images", "annotations")
        }

    def _put(self, name: str, first: bool, row: dict[str, object]) -> None:
        self._lists[name].write(("" if first else ",\n") + json.dumps(row))

    def add(self, entry: Entry) -> None:
        """Write an image and its rows."""
        file = write_image(self.folder, entry)
        self.images += 1
        width, height = entry.size_wh
        row: dict[str, object] = {
            "id": self.images,
            "file_name": file,
            "width": width,
            "height": height,
            "sample": entry.id,
            "state": entry.state,
            "license_text": entry.licence,
            **({"unasked": list(entry.unasked)} if entry.unasked else {}),
        }
        self._put("images", self.images == 1, row)
        for label in entry.labels:
            self.labels += 1
            self._put("annotations", self.labels == 1, self._row(label))

    def _row(self, label: Boxed) -> dict[str, object]:
        x0, y0, x1, y1 = label.box_xyxy
        return {
            "id": self.labels,
            "image_id": self.images,
            "bbox": [x0, y0, x1 - x0, y1 - y0],
            "area": (x1 - x0) * (y1 - y0),
            "iscrowd": 0,
            "category_id": self._number[label.category],
            "score": label.score,
            "source": label.source,
        }

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
