"""Pascal VOC: one XML file an image; pixels count from 1 and both ends belong to the box.

Paper: https://doi.org/10.1007/s11263-009-0275-4
"""

import os
import xml.etree.ElementTree as ElementTree
from collections.abc import Iterator
from pathlib import Path

from tilth.annotate.formats import Found, Images, Named, Oddities, inside
from tilth.errors import InputError
from tilth.images import SUFFIXES
from tilth.samples import SPLITS

SIDES = ("xmin", "ymin", "xmax", "ymax")
MAX_BYTES = 8 * 2**20


class _NoDoctype(ElementTree.TreeBuilder):
    def doctype(self, *_: object) -> None:
        raise InputError("refused: a label file needs no DOCTYPE, and entities can be bombs")


def parse(path: Path) -> ElementTree.Element:
    """Read an XML file that may be hostile.

    Raises:
        InputError: It is not XML, is larger than 8 MiB, or declares a document type.
    """
    if path.stat().st_size > MAX_BYTES:
        raise InputError(f"label file larger than {MAX_BYTES // 2**20} MiB")
    try:
        return ElementTree.fromstring(path.read_bytes(), parser=ElementTree.XMLParser(target=_NoDoctype()))
    except ElementTree.ParseError as error:
        raise InputError(f"not an XML file: {error}") from error


class Voc:
    """Reads a folder of XML files, in the layout of the challenge or beside the images.

    Args:
        root: The folder.
        split: Read only these images, when `ImageSets/Main` tells splits apart.
        odd: Takes notes.
    """

    def __init__(self, root: Path, split: str, odd: Oddities) -> None:
        self.root, self.odd = root, odd
        self.images = Images(root)
        chosen = _image_set(root, split)
        self._whole = chosen is None
        self._files = [
            (Path(folder) / name).relative_to(root).as_posix()
            for folder, folders, names in os.walk(root, topdown=True)
            if folders.sort() is None  # sorted in place, so that the walk has one order
            for name in sorted(names)
            if name.lower().endswith(".xml") and (chosen is None or Path(name).stem in chosen)
        ]

    def __len__(self) -> int:
        """Count at least the label files; images without one may come on top."""
        return max(len(self._files), len(self.images)) if self._whole else len(self._files)

    def __iter__(self) -> Iterator[Found]:
        """Yield the images of the label files, then the images that have none."""
        seen: set[str] = set()
        for file in self._files:
            try:
                inside(self.root, file)
                tree = parse(self.root / file)
                path = self._image_of(file, tree.findtext("filename") or "")
            except InputError as error:
                yield Found(name=file, label_file=file, error=str(error))
                continue
            if path in seen:
                self.odd.note("image with two label files", path)
            seen.add(path)
            yield Found(
                name=path,
                path=self.root / path,
                label_file=file,
                size_wh=_size(tree),
                labels=tuple(_boxes(tree)),
            )
        for path in self.images if self._whole else ():
            if path not in seen:
                self.odd.note("image without a label file", path)
                yield _bare(self.root, path)

    def _image_of(self, file: str, filename: str) -> str:
        """Find the image: the one that bears the label file's name, else the one that it names.

        Sets are renamed more often than the `filename` inside is kept up, so the file's own name comes first.
        """
        own = Path(file)
        folders = (own.parent, own.parent.parent / "JPEGImages", own.parent.parent / "images")
        stems = [(folder / (own.stem + suffix)).as_posix() for folder in folders for suffix in SUFFIXES]
        if path := self.images.at(*stems):
            if filename and Path(filename.replace("\\", "/")).stem != own.stem:
                self.odd.note("label file names another image than its own name does", file)
            inside(self.root, path)
            return path
        if not filename:
            raise InputError("names no image")
        return self.images.find(filename, tuple("" if f == Path() else f.as_posix() for f in folders))


def _image_set(root: Path, split: str) -> set[str] | None:
    """Return the names of the images of a split, or None when the set does not tell splits apart.

    Raises:
        InputError: It does, and has no such split.
    """
    lists = {path.stem: path for path in root.glob("ImageSets/Main/*.txt") if path.stem in SPLITS}
    if not split or not lists:
        return None
    if split not in lists:
        raise InputError(f"{root}: has no images for {split!r}; it has {', '.join(sorted(lists))}")
    return {line.split()[0] for line in lists[split].read_text(encoding="utf-8").splitlines() if line.strip()}


def _bare(root: Path, path: str) -> Found:
    try:
        return Found(name=path, path=inside(root, path))
    except InputError as error:
        return Found(name=path, error=str(error))


def _size(tree: ElementTree.Element) -> tuple[int, int] | None:
    try:
        width, height = (int(float(tree.findtext(f"size/{side}") or 0)) for side in ("width", "height"))
    except ValueError:
        return None
    return (width, height) if width > 0 and height > 0 else None


def _boxes(tree: ElementTree.Element) -> Iterator[Named]:
    for thing in tree.iter("object"):
        try:
            x0, y0, x1, y1 = (float(thing.findtext(f"bndbox/{side}") or "nan") for side in SIDES)
        except ValueError:
            x0 = y0 = x1 = y1 = float("nan")
        yield Named(category=(thing.findtext("name") or "").strip(), box_xyxy=(x0 - 1, y0 - 1, x1, y1))
