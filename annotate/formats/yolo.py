"""YOLO: one text file an image; a line is a class number and a box as centre, width and height in parts of the image.

The parts are of the image as it is shown, as Ultralytics reads them (`exif_size`).
"""

from collections.abc import Iterator
from pathlib import Path
from typing import TextIO

import yaml

from tilth.annotate.formats.parts.files import Files, Seen, write_text
from tilth.annotate.formats.parts.records import (
    Entry,
    Found,
    Labels,
    LeftOut,
    Named,
    Oddities,
    inside,
    is_absolute,
    limited,
    on_disk,
)
from tilth.annotate.formats.parts.texts import lines
from tilth.annotate.formats.parts.yololines import NOTES, TASKS, Common, Lines, Odd, common_of
from tilth.errors import InputError
from tilth.sources.walk import stem_of

SPLITS = {"train": "train", "val": "val", "valid": "val", "test": "test"}

NAMES = (
    "classes.txt",
    "obj.names",
    "labels/classes.txt",
)  # where labelling tools and Darknet keep the names, one a line


class Yolo:
    """Reads a folder of images and text files, with or without a `data.yaml`.

    Args:
        path: The folder or its YAML file.
        split: Read only these images, when the YAML file tells splits apart.
        images: Folder of the images; the same when None.
        odd: Takes notes.
    """

    def __init__(self, path: Path, split: str, images: Path | None, odd: Oddities) -> None:
        self.odd = odd
        self.file = path if path.is_file() else next((p for p in sorted(path.glob("*.y*ml")) if _is_data(p)), None)
        self.folder = path.parent if path.is_file() else path
        self.root = images or self.folder
        document = _yaml(self.file) if self.file else {}
        self.names = self._names(document)
        self.images = Files(self.root)
        self._texts = Files(self.folder, (".txt",))
        self._chosen = self._choose(document, split)
        self._all = not split and isinstance(self._chosen, Files)
        self._lines = Lines(_task(document), _points(document), self._common)

    def _names(self, document: dict[str, object]) -> dict[int, str]:
        names = document.get("names")
        if names is None:
            file = next((place for name in NAMES if (place := self.folder / name).is_file()), None)
            names = {number - 1: line for number, line in lines(file)} if file else {}
        pairs = names.items() if isinstance(names, dict) else enumerate(names if isinstance(names, list) else [])
        try:
            # nothing but plain values is written out, as an alias of an alias of a list can be endless
            plain = {int(number): str(name).strip() for number, name in pairs if isinstance(name, str | int | float)}
            return {number: name for number, name in plain.items() if name}
        except (OverflowError, TypeError, ValueError) as error:
            raise InputError(f"{self.file}: names must be a list, or a mapping from numbers") from error

    def _choose(self, document: dict[str, object], split: str) -> Files | Seen:
        places = {SPLITS[key]: value for key, value in document.items() if key in SPLITS and value}
        if not places:
            return self.images
        if split and split not in places:
            raise InputError(f"{self.file}: has no images for {split!r}; it has {', '.join(places)}")
        base = str(document.get("path") or "")
        chosen = Seen()
        for value in [places[split]] if split else places.values():
            for place in value if isinstance(value, list) else [value]:
                for path in self._under(str(place), base):
                    chosen.add(path)
        return chosen

    def _under(self, place: str, base: str) -> Iterator[str]:
        """Return the images of one entry; files move, so a path that fits no longer is sought beside the file."""
        entry = place.replace("\\", "/").removeprefix("./")
        while entry.startswith("../"):  # Roboflow writes ../train/images for a folder beside the file
            entry = entry[3:]
        places = [entry, f"{Path(base).name}/{entry}" if base else entry]
        if is_absolute(entry):  # of another machine: what of its end is here too
            parts = [part for part in entry.split("/") if part]
            places = ["/".join(parts[n:]) for n in range(1, len(parts))] or places
        for folder in places:
            path = inside(self.folder, folder)
            if path.is_dir():
                return self.images.under(folder)
            if path.is_file() and path.suffix == ".txt":
                return (line.strip().replace("\\", "/").removeprefix("./") for _, line in lines(path))
        raise InputError(f"{self.file}: no folder or list {place!r} in {self.folder}")

    def count(self) -> int:
        """Count the images."""
        return len(self._chosen)

    def __iter__(self) -> Iterator[Found]:
        """Yield the images in the order of their names."""
        for name in self._chosen:
            path, file, labels, error = "", "", Labels(), ""
            try:
                path = self.images.find(name, ("",), self.odd)
                file = self._label_file(path)
                labels = limited(self._labels(file)) if file else labels
            except InputError as problem:
                error = str(problem)
            if file:
                self._texts.mark(file)
                if path and self.images.has_twin(path):
                    shared = (
                        "label file that several images share, as they differ in their suffix alone; taken for each"
                    )
                    self.odd.note(shared, path)
            elif not error:
                self.odd.note("image without a label file", path)
            yield Found(
                name=path or name,
                read=None if error else on_disk(self.root / path),
                label_file=file,
                labels=labels.taken,
                left_out=labels.left_out,
                error=error,
            )
        for file in self._texts.unmarked() if self._all else ():
            for category in self._lost(file):
                self.odd.lost.note("of an image that is not there", f"{file}: {category}")

    def _lost(self, file: str) -> list[str]:
        """Return the categories of a label file whose image is missing; none of a text that is no label file."""
        try:
            read = [line.split() for _, line in lines(self._texts.checked(file))]
            return [self._category(float(words[0])) for words in read] if all(len(words) > 4 for words in read) else []
        except (InputError, ValueError):
            return []

    def _label_file(self, path: str) -> str:
        folder, _, name = path.rpartition("/")
        stem = stem_of(name) + ".txt"
        beside = f"{folder}/{stem}" if folder else stem
        parts = folder.split("/")
        candidates = [beside, f"labels/{beside}"]
        if "images" in parts:
            last = len(parts) - 1 - parts[::-1].index("images")
            candidates.insert(0, "/".join([*parts[:last], "labels", *parts[last + 1 :], stem]))
        return self._texts.at(*candidates)

    def _labels(self, file: str) -> Iterator[Named | LeftOut]:
        for number, line in lines(self._texts.checked(file)):
            category = ""
            try:
                which, *values = map(float, line.split())
                category = self._category(which)
                kind, box, score = self._lines.read(values)
            except (OverflowError, ValueError) as error:
                why = str(error) if isinstance(error, Odd) else "line that is no label"
                yield LeftOut(kind=why, category=category, where=f"{file}:{number}")
                continue
            if kind in NOTES:
                self.odd.note(NOTES[kind], f"{file}:{number}")
            yield Named(category=category, box_xyxy=box, parts=True, score=score)

    def _category(self, which: float) -> str:
        if not which.is_integer():
            raise Odd("class number that is no whole number")
        return self.names.get(int(which), str(int(which)))

    def _common(self) -> Common:
        return common_of(self._long())

    def _long(self) -> Iterator[list[float]]:
        for file in self._texts:
            try:
                for _, line in lines(self._texts.checked(file)):
                    words = line.split()
                    if len(words) > 6:
                        yield [float(word) for word in words[1:]]
            except (InputError, ValueError):
                continue  # it is told when it is read


def _task(document: dict[str, object]) -> str:
    return TASKS.get(str(document.get("task") or ""), "")


def _points(document: dict[str, object]) -> int:
    shape = document.get("kpt_shape")
    return shape[0] if isinstance(shape, list) and shape and isinstance(shape[0], int) and shape[0] > 0 else 0


def _yaml(path: Path) -> dict[str, object]:
    try:
        document = yaml.safe_load(path.read_bytes())  # which tells UTF-16 by its mark
    except (yaml.YAMLError, ValueError, RecursionError, OSError) as error:
        raise InputError(f"{path}: not a YAML file: {error}") from error
    if not isinstance(document, dict):
        raise InputError(f"{path}: a data file is a mapping with names and train, val or test")
    return document


def _is_data(path: Path) -> bool:
    try:
        return "names" in _yaml(path)
    except InputError:
        return False


def looks_like_yolo(path: Path) -> bool:
    """Tell whether a folder or file is a YOLO set."""
    if path.is_file():
        return path.suffix.lower() in (".yaml", ".yml")
    if next((path / "labels").rglob("*.txt"), None):
        return True
    # a list of names alone may lie beside folders of classes as well
    if any((path / name).is_file() for name in NAMES) and any(p.name not in NAMES for p in path.rglob("*.txt")):
        return True
    return any(_is_data(p) for p in path.glob("*.y*ml"))


class YoloWriter:
    """Writes `images/<split>`, `labels/<split>` and a `data.yaml`; an image without boxes has an empty text file.

    When labels are written alone, `<split>.txt` lists the images, and `labels/` repeats their folders.
    """

    def __init__(self, folder: Path, categories: tuple[str, ...], splits: tuple[str, ...]) -> None:
        self.folder, self.categories = folder, categories
        self._number = {name: n for n, name in enumerate(categories)}
        self.places = {split: split or "unsplit" for split in splits}
        self._lists: dict[str, TextIO] = {}

    def add(self, entry: Entry) -> None:
        """Write an image and its text file."""
        place = self.places[entry.split]
        stem = stem_of(entry.file)
        if entry.data is not None:
            (self.folder / "images" / place).mkdir(parents=True, exist_ok=True)
            (self.folder / "images" / place / entry.file).write_bytes(entry.data)
            stem = f"{place}/{stem}"
        else:
            if place not in self._lists:
                self._lists[place] = (self.folder / f"{place}.txt").open("w", encoding="utf-8")
            self._lists[place].write(f"{entry.file}\n")
        width, height = entry.size_wh
        rows = []
        for label in entry.labels:
            x0, y0, x1, y1 = label.box_xyxy
            centre = f"{(x0 + x1) / 2 / width:.8f} {(y0 + y1) / 2 / height:.8f}"
            rows.append(f"{self._number[label.category]} {centre} {(x1 - x0) / width:.8f} {(y1 - y0) / height:.8f}\n")
        write_text(self.folder / "labels" / f"{stem}.txt", "".join(rows))

    def close(self) -> None:
        """Write `data.yaml`."""
        for stream in self._lists.values():
            stream.close()
        # other tools want a train, and ignore a name that they do not know
        spare = "unsplit" if "train" in self.places else "train"
        document = {
            split or spare: f"{place}.txt" if place in self._lists else f"images/{place}"
            for split, place in self.places.items()
        }
        names = dict(enumerate(self.categories))
        (self.folder / "data.yaml").write_text(yaml.safe_dump({**document, "names": names}, sort_keys=False))
