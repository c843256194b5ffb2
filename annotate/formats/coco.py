"""COCO: one JSON file with images, categories and `(left, top, width, height)` boxes.

Paper: https://arxiv.org/abs/1405.0312
"""

import json
import shutil
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any, TextIO

from tilth.annotate.formats.parts.cocorows import (
    BOXLESS,
    WHOLE,
    labels_in,
    last,
    plain,
    read_id,
    read_image,
    read_label,
)
from tilth.annotate.formats.parts.files import Files, scratch, write_image
from tilth.annotate.formats.parts.records import (
    Boxed,
    Entry,
    Found,
    Labels,
    LeftOut,
    Named,
    Oddities,
    limited,
    on_disk,
)
from tilth.annotate.formats.parts.texts import ends, json_lists, mentions
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
        self._twice: set[object] = set()  # ids of several names
        self._shared: set[object] = set()  # ids of several images
        self._doubtful: set[object] = set()  # ids that a lost label may mean
        self._repeated: set[int] = set()  # entries of an id and a name that were there before
        self._silent = False  # it says nothing of labels
        self._astray = False  # there are labels of which nothing tells the image
        self._plain: dict[str, str] | None = None
        self._rows = scratch()
        self._rows.execute("CREATE TABLE images (number INTEGER PRIMARY KEY, id, name, width, height, state, unasked)")
        self._rows.execute("CREATE TABLE labels (image, number INTEGER, category, kind, x, y, w, h, score)")
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
            self._take(kind, number, item)
        self._rows.execute("COMMIT")
        if not any(seen.values()):
            raise InputError(f"{self.file}: a COCO file has lists of images, annotations and categories")
        self._silent = not (seen["annotations"] or mentions(self.file, '"annotations"'))
        if self._silent:
            self.odd.note("label file without annotations, so that its images are taken as plain ones", self.label_file)
        self._rows.execute("CREATE INDEX by_image ON labels(image, number)")
        self._rows.execute("CREATE INDEX by_id ON images(id)")
        self._match()

    def _take(self, kind: str, number: int, item: object) -> None:
        if kind == "images":
            row = read_image(item)
            self._rows.execute("INSERT INTO images VALUES (?, ?, ?, ?, ?, ?, ?)", (number, *row))
            inner = item.get("annotations") if isinstance(item, dict) else None  # as Detectron2 has them
            self._put(number, ({**each, "image_id": row[0]} for each in inner or () if isinstance(each, dict)))
        elif kind == "annotations":
            if isinstance(item, dict):
                self._put(number, labels_in(item))
            else:
                self.odd.lost.note("entry that is no object", f"annotations[{number}]")
        else:
            self._take_category(number, item if isinstance(item, dict) else {})

    def _take_category(self, number: int, item: Mapping[str, Any]) -> None:
        id_, name = read_id(item.get("id")), item.get("name")
        if isinstance(name, str | int | float) and str(name).strip():
            self._name(id_, str(name))
            return
        self.odd.note("entry of categories without a name, called by its id", f"categories[{number}]")
        if item.get("id") is not None:
            self._name(id_, plain(id_))

    def _put(self, number: int, labels: Iterable[Mapping[str, Any]]) -> None:
        rows = (
            (read_id(label.get("image_id", label.get("file_name"))), number, *read_label(label)) for label in labels
        )
        self._rows.executemany("INSERT INTO labels VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?)", rows)

    def _name(self, id_: object, name: str) -> None:
        if self._names.setdefault(id_, name) != name:
            self.odd.note("category id that two names have, so its labels may be of either", f"{id_}: {name}")
            self._twice.add(id_)

    def _match(self) -> None:
        """Find the image of each label; an id may be a number here and a text there, where only one image can be meant."""
        ask = self._rows.execute
        lost = "NOT EXISTS (SELECT 1 FROM images WHERE id = image)"
        if ask(f"SELECT 1 FROM labels WHERE {lost} LIMIT 1").fetchone():
            self._rows.create_function("plain", 1, plain, deterministic=True)
            ask("CREATE TABLE plain_ids AS SELECT id, plain(id) AS key FROM images WHERE id IS NOT NULL GROUP BY id")
            ask("CREATE INDEX by_key ON plain_ids(key)")
            meant = "(SELECT min(id) FROM plain_ids WHERE key = plain(image) HAVING count(*) = 1)"
            ask(f"UPDATE labels SET image = coalesce({meant}, image) WHERE {lost}")
            self._rows.create_function("last", 1, last, deterministic=True)
            ask("CREATE TABLE names AS SELECT id, last(name) AS key FROM images WHERE name != '' GROUP BY id, name")
            ask("CREATE INDEX by_name ON names(key)")
            meant = "(SELECT min(id) FROM names WHERE key = last(image) HAVING count(*) = 1)"
            ask(f"UPDATE labels SET image = coalesce({meant}, image) WHERE typeof(image) = 'text' AND {lost}")
            words = "typeof({0}) = 'text' AND plain({0}) GLOB '*[^0-9]*'"
            astray = ask(f"SELECT 1 FROM labels WHERE {words.format('image')} AND {lost} LIMIT 1").fetchone()
            self._astray = (
                bool(astray) and not ask(f"SELECT 1 FROM images WHERE {words.format('id')} LIMIT 1").fetchone()
            )
            maybe = ask(f"SELECT id FROM plain_ids WHERE key IN (SELECT plain(image) FROM labels WHERE {lost})")
            self._doubtful |= {id_ for (id_,) in maybe}
        for number, category in ask(f"SELECT number, category FROM labels WHERE {lost} ORDER BY number"):
            self.odd.lost.note("of an image that is not listed", f"annotations[{number}]: {self._category(category)}")
        # an id of several files says nothing of which of them its labels are of
        shared = "SELECT id FROM images WHERE id IS NOT NULL GROUP BY id HAVING count(DISTINCT name) > 1"
        for (name,) in ask(f"SELECT name FROM images WHERE id IN ({shared}) ORDER BY number"):
            self.odd.note("image whose id another image has too", str(name))
        for number, category in ask(f"SELECT number, category FROM labels WHERE image IN ({shared}) ORDER BY number"):
            self.odd.lost.note(
                "of an id that several images have", f"annotations[{number}]: {self._category(category)}"
            )
        self._shared = {id_ for (id_,) in ask(shared)}
        first = "SELECT min(number) FROM images GROUP BY id"
        again = ask(f"SELECT number, id FROM images WHERE id IS NOT NULL AND number NOT IN ({first})")
        self._repeated = {number for number, id_ in again if id_ not in self._shared}

    @property
    def categories(self) -> tuple[str, ...]:
        """Return the names of the set's own list: annotators of a COCO set looked for these in every image."""
        return tuple(dict.fromkeys(self._names.values()))

    def count(self) -> int:
        """Count the listed images."""
        return int(self._rows.execute("SELECT count(*) FROM images").fetchone()[0])

    def __iter__(self) -> Iterator[Found]:
        """Yield the listed images in the order of the file."""
        for number, id_, name, width, height, state, unasked in self._rows.execute(
            "SELECT * FROM images ORDER BY number"
        ):
            if number in self._repeated:
                self.odd.note("image listed twice", name)
                continue
            found, path, error = Labels(), "", "" if name else f"images[{number}] has no file_name"
            try:
                found = found if id_ in self._shared else limited(self._labels(id_, name))
                path = self.images.find(name, IMAGE_FOLDERS, self.odd) if name else ""
            except InputError as problem:
                error = str(problem)
            if not error and not self.images.mark(path):
                self.odd.note("image listed twice", name)
            yield Found(
                name=path or name or f"images[{number}]",
                read=None if error else on_disk(self.root / path),
                label_file="" if self._silent else self.label_file,
                size_wh=(width, height) if width and height else None,
                upright=self._upright,
                labels=found.taken,
                left_out=found.left_out,
                state=state,
                unasked=tuple(json.loads(unasked)),
                unsure=("",) if self._astray or id_ is None or id_ in self._shared or id_ in self._doubtful else (),
                error=error,
            )
        for path in self.images.unmarked():
            self.odd.note("image that the label file does not list, left out", path)

    def _category(self, id_: object) -> str:
        """Return the name of a category, by its id as a number or as a text.

        Where no category has the id, it is the name: a recipe can say what it means, and others leave the label out.
        """
        if id_ in self._names and id_ not in self._twice:
            return self._names[id_]
        if self._plain is None:
            keys = Counter(plain(known) for known in self._names)
            self._plain = {plain(known): name for known, name in self._names.items() if keys[plain(known)] == 1}
        name = None if id_ in self._twice else self._plain.get(plain(id_))
        if name is None and isinstance(id_, str) and (not self._names or id_ in self._names.values()):
            name = id_  # of a file that writes names in place of ids
        if name is None and id_ not in self._twice and plain(id_) not in self._names.values():
            name = plain(id_)
        return f"category_id {id_}" if name in (None, "null") else str(name)

    def _labels(self, image: object, name: str) -> Iterator[Named | LeftOut]:
        wanted = "SELECT category, kind, x, y, w, h, score FROM labels WHERE image = ? ORDER BY number"
        for category_id, kind, x, y, w, h, score in self._rows.execute(wanted, (image,)):
            category = self._category(category_id)
            if kind in (WHOLE, *BOXLESS):
                if kind == WHOLE:
                    yield Named(category=category, box_xyxy=None, score=score)
                else:
                    yield LeftOut(kind=kind, category=category)
                continue
            if kind:
                self.odd.note(kind, f"{name}: {category}")
            # what is not a number comes back as None, so that the one place that judges boxes refuses it
            box = (NAN,) * 4 if None in (x, y, w, h) else (x, y, x + w, y + h)
            yield Named(category=category, box_xyxy=box, score=score)


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
