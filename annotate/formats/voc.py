"""Pascal VOC: one XML file an image, or one of many; pixels count from 1 and both ends belong to the box.

Paper: https://doi.org/10.1007/s11263-009-0275-4
"""

import re
import xml.etree.ElementTree as ElementTree
from collections.abc import Iterator, Sequence
from pathlib import Path
from xml.sax.saxutils import escape

import numpy as np

from tilth.annotate.formats.parts.files import Files, Seen, write_text
from tilth.annotate.formats.parts.records import Entry, Found, Labels, LeftOut, Named, Oddities, limited, on_disk
from tilth.annotate.formats.parts.texts import ends, lines, xml_encoding
from tilth.errors import InputError
from tilth.geometry import Box
from tilth.samples import SPLITS
from tilth.sources.walk import stem_of

SIDES = ("xmin", "ymin", "xmax", "ymax")
FLAG = re.compile(r"\s+-?[01]$")
WRAPPER = re.compile(r"<(?:\w+:)?annotations\b")
MAX_BYTES = 8 * 2**20


class _NoDoctype(ElementTree.TreeBuilder):
    def doctype(self, *_: object) -> None:
        raise InputError("refused: a label file needs no DOCTYPE, and entities can be bombs")


def parse(path: Path) -> ElementTree.Element:
    """Read an XML file that may be hostile.

    Raises:
        InputError: It cannot be read, is not XML, is larger than 8 MiB, or declares a document type.
    """
    try:
        if path.stat().st_size > MAX_BYTES:
            raise InputError(f"label file larger than {MAX_BYTES // 2**20} MiB")
        data = path.read_bytes()
        # of text, the parser does not heed what the file declares
        text = data.decode(xml_encoding(data), "replace")
        tree = ElementTree.fromstring(text.lstrip(), parser=ElementTree.XMLParser(target=_NoDoctype()))
        if "xmlns" in text:  # a namespace says whose the names are, and nothing else
            for element in tree.iter():
                element.tag = element.tag.rpartition("}")[2]
        return tree
    except OSError as error:
        raise InputError(f"cannot be read: {error.strerror or error}") from error
    except (ElementTree.ParseError, ValueError) as error:
        raise InputError(f"not an XML file: {error}") from error


class Voc:
    """Reads a folder of XML files, in the layout of the challenge or beside the images, or one XML file.

    Args:
        root: The folder, or the file.
        split: Read only these images, when `ImageSets/Main` tells splits apart.
        images: Folder of the images; the same when None.
        odd: Takes notes.
    """

    def __init__(self, root: Path, split: str, images: Path | None, odd: Oddities) -> None:
        self._only = root.name if root.is_file() else ""
        root = root.parent if self._only else root
        self.root, self.odd = images or root, odd
        self.images = Files(self.root)
        self._files = Files(root, (".xml",))
        self._chosen = _image_set(root, split)
        if self._chosen is None and (lists := _lists(root)):
            odd.note(
                f"division into {', '.join(sorted(lists))} that the set has; split=… takes one of them",
                "ImageSets/Main",
            )

    def count(self) -> int:
        """Count at least the label files; images without one may come on top."""
        return max(len(self._files), len(self.images)) if self._chosen is None else len(self._chosen)

    def __iter__(self) -> Iterator[Found]:
        """Yield the images of the label files, then the images that have none."""
        for file in (self._only,) if self._only else self._files:
            yield from self._in_file(file)
        for path in self.images.unmarked() if self._chosen is None else ():
            if self._only:
                self.odd.note("image that the label file does not list, left out", path)
                continue
            self.odd.note("image without a label file", path)
            yield self.images.unlabelled(path)

    def _in_file(self, file: str) -> Iterator[Found]:
        """Yield the image of a label file, or those of one that wraps the annotations of many."""
        try:
            place = self._files.root / file if self._only else self._files.checked(file)
            if not self._wanted(file) and not WRAPPER.search(ends(place)[0]):
                return
            tree = parse(place)
        except InputError as error:
            yield Found(name=file, label_file=file, error=str(error))
            return
        wrapped = [] if tree.tag == "annotation" else tree.findall("annotation")
        for one in wrapped:
            name = (one.findtext("filename") or "").strip()
            if self._wanted(name):
                yield self._found(file, one, name, wrapped=True)
        if not wrapped and self._wanted(file):
            yield self._found(file, tree, tree.findtext("filename") or "", wrapped=False)

    def _wanted(self, file: str) -> bool:
        return self._chosen is None or _is_chosen(file, self._chosen)

    def _found(self, file: str, tree: ElementTree.Element, name: str, *, wrapped: bool) -> Found:
        labels = Labels()
        try:
            labels = limited(_labels(tree, file, self.odd))
            path = self._named(file, name) if wrapped else self._image_of(file, name)
        except InputError as error:
            more = {"labels": labels.taken, "left_out": labels.left_out}
            return Found(name=name if wrapped and name else file, label_file=file, error=str(error), **more)  # type: ignore[arg-type]
        if not self.images.mark(path):
            self.odd.note("image with two label files", path)
        return Found(
            name=path,
            read=on_disk(self.root / path),
            label_file=file,
            size_wh=_size(tree),
            labels=labels.taken,
            left_out=labels.left_out,
        )

    def _image_of(self, file: str, filename: str) -> str:
        """Find the image: the one that bears the label file's name, else the one that it names.

        Sets are renamed more often than the `filename` inside is kept up, so the file's own name comes first; of several images of
        that name, which differ in their suffix, the one that the file names.
        """
        folders, name = _places(file), file.rpartition("/")[2]
        stem, called = stem_of(name), filename.replace("\\", "/").rpartition("/")[2].lower()
        paths = self.images.stems(*(f"{f}/{stem}" if f else stem for f in folders))
        if paths:
            path = next((p for p in paths if p.rpartition("/")[2].lower() == called), "")
            if not path and len(paths) > 1:
                self.odd.note("label file whose name several images bear and that names none of them; one taken", file)
            elif filename and not path and stem_of(called) != stem.lower():
                self.odd.note("label file names another image than its own name does", file)
            self.images.checked(path or paths[0])
            return path or paths[0]
        return self._named(file, filename)

    def _named(self, file: str, filename: str) -> str:
        if not filename:
            raise InputError("names no image")
        return self.images.find(filename, ("", *_places(file)), self.odd)


def _places(file: str) -> tuple[str, ...]:
    """Return the folders that may hold the images of a label file."""
    folder = file.rpartition("/")[0]
    above = folder.rpartition("/")[0]
    return tuple(f.removeprefix("/") for f in (folder, f"{above}/JPEGImages", f"{above}/images"))


def _lists(root: Path) -> dict[str, Path]:
    """Return the lists of images that divide a set."""
    return {path.stem: path for path in root.glob("ImageSets/Main/*.txt") if path.stem in SPLITS}


def _image_set(root: Path, split: str) -> Seen | None:
    """Return the names of the images of a split, or None when the set does not tell splits apart.

    Raises:
        InputError: It does, and has no such split.
    """
    lists = _lists(root)
    if not split or not lists:
        return None
    if split not in lists:
        raise InputError(f"{root}: has no images for {split!r}; it has {', '.join(sorted(lists))}")
    chosen = Seen()
    for _, line in lines(lists[split]):
        # names can have spaces; some lists have a flag behind the name
        chosen.add(line.strip())
        chosen.add(FLAG.sub("", line.strip()))
    return chosen


def _is_chosen(file: str, chosen: Seen) -> bool:
    stem = file.rpartition(".")[0]
    return stem.rpartition("/")[2] in chosen or stem.removeprefix("Annotations/") in chosen


def _size(tree: ElementTree.Element) -> tuple[int, int] | None:
    try:
        width, height = (int(float(tree.findtext(f"size/{side}") or 0)) for side in ("width", "height"))
    except (OverflowError, ValueError):
        return None
    return (width, height) if width > 0 and height > 0 else None


def _labels(tree: ElementTree.Element, file: str, odd: Oddities) -> Iterator[Named | LeftOut]:
    for thing in tree.iter("object"):
        category = (thing.findtext("name") or "").strip()
        if (box := thing.find("bndbox")) is not None:
            x0, y0, x1, y1 = _numbers(box, SIDES)
            yield Named(category=category, box_xyxy=(x0 - 1, y0 - 1, x1, y1))
        elif (box := thing.find("robndbox")) is not None:  # roLabelImg's: about its middle, in radians
            odd.note("turned box, taken as the upright box around it", file)
            x, y, w, h, angle = _numbers(box, ("cx", "cy", "w", "h", "angle"))
            cos, sin = abs(np.cos(angle)), abs(np.sin(angle))
            w, h = float(w * cos + h * sin) / 2, float(w * sin + h * cos) / 2
            yield Named(category=category, box_xyxy=(x - w, y - h, x + w, y + h))
        elif thing.find("polygon") is not None:
            odd.note("polygon, taken as the box around it", file)
            yield Named(category=category, box_xyxy=_around(thing))
        else:
            yield LeftOut(kind="object without a box", category=category)


def _numbers(place: ElementTree.Element, names: Sequence[str]) -> list[float]:
    try:
        return [float(place.findtext(name) or "nan") for name in names]
    except ValueError:
        return [float("nan")] * len(names)


def _around(thing: ElementTree.Element) -> Box:
    """Return the box around a polygon, whose corners are `x1`, `y1`, … or, as LabelMe has them, `pt` with `x` and `y`."""
    corners: dict[str, list[float]] = {"x": [], "y": []}
    try:
        for number in thing.iter():
            if re.fullmatch(r"[xy]\d*", number.tag):
                corners[number.tag[0]].append(float(number.text or "nan"))
        return min(corners["x"]), min(corners["y"]), max(corners["x"]), max(corners["y"])
    except ValueError:
        return (float("nan"),) * 4


class VocWriter:
    """Writes `JPEGImages`, `Annotations` and `ImageSets/Main/<split>.txt`; whole pixels, counted from 1."""

    def __init__(self, folder: Path, categories: tuple[str, ...], splits: tuple[str, ...]) -> None:
        self.folder = folder
        for name in ("JPEGImages", "Annotations", "ImageSets/Main"):
            (folder / name).mkdir(parents=True)
        # the challenge has twenty categories of its own; CVAT and Datumaro learn of others by this file
        write_text(folder / "labelmap.txt", "".join(f"{name}:::\n" for name in ("background", *categories)))
        self._names = {name: escape(name) for name in categories}
        self._lists = {
            split: (folder / "ImageSets" / "Main" / f"{split}.txt").open("w", encoding="utf-8")
            for split in splits
            if split
        }

    def add(self, entry: Entry) -> None:
        """Write an image and its XML file."""
        if entry.data is not None:
            (self.folder / "JPEGImages" / entry.file).write_bytes(entry.data)
        width, height = entry.size_wh
        text = [
            f"<annotation>\n  <folder>JPEGImages</folder>\n  <filename>{escape(entry.file)}</filename>\n",
            f"  <size><width>{width}</width><height>{height}</height><depth>3</depth></size>\n",
            "  <segmented>0</segmented>\n",
        ]
        for label in entry.labels:
            x0, y0, x1, y1 = label.box_xyxy
            (left, right), (top, bottom) = _whole(x0, x1, width), _whole(y0, y1, height)
            box = f"<xmin>{left + 1}</xmin><ymin>{top + 1}</ymin><xmax>{right}</xmax><ymax>{bottom}</ymax>"
            text.append(
                f"  <object><name>{self._names[label.category]}</name><pose>Unspecified</pose>"
                f"<truncated>0</truncated><difficult>0</difficult><bndbox>{box}</bndbox></object>\n"
            )
        stem = stem_of(entry.file)
        write_text(self.folder / "Annotations" / f"{stem}.xml", "".join([*text, "</annotation>\n"]))
        if entry.split:
            self._lists[entry.split].write(f"{stem}\n")

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
