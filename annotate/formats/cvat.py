"""CVAT for images 1.1: one XML file, an `<image>` with a `<box>` for each thing, in pixels from corner to corner."""

import codecs
import math
from collections.abc import Iterator
from pathlib import Path
from xml.parsers import expat
from xml.sax.saxutils import escape, quoteattr

from tilth.annotate.formats.parts.files import write_image
from tilth.annotate.formats.parts.listing import Listed
from tilth.annotate.formats.parts.records import MAX_LABELS, Entry, Found, Named, Oddities
from tilth.annotate.formats.parts.texts import xml_encoding
from tilth.claims import State
from tilth.errors import InputError

FILE = "annotations.xml"
CHUNK = 2**18  # bytes read at once
MAX_SILENCE = 16 * 2**20  # bytes without a tag; more is no label file
CORNERS = ("xtl", "ytl", "xbr", "ybr")
OTHERS = ("polyline", "points", "ellipse", "cuboid", "skeleton", "mask")
NAN = float("nan")

Attributes = dict[str, str]


class _Images:
    """Collects `<image>` elements as the parser meets them."""

    def __init__(self, odd: Oddities) -> None:
        self.odd = odd
        self.ready: list[tuple[Attributes, list[Named]]] = []
        self.root = ""
        self._image: tuple[Attributes, list[Named]] | None = None
        self._silent = 0
        self._decoder: codecs.IncrementalDecoder | None = None
        self._parser = expat.ParserCreate()
        self._parser.StartElementHandler = self._start
        self._parser.EndElementHandler = self._end
        self._parser.StartDoctypeDeclHandler = self._doctype

    def feed(self, data: bytes) -> None:
        """Parse a piece; an empty one is the end.

        Raises:
            InputError: It is not XML, declares a document type, or has too much in one place.
        """
        self._silent += len(data)
        try:
            if self._decoder is None:
                self._decoder = codecs.getincrementaldecoder(xml_encoding(data))("replace")
            # of text, the parser does not heed what the file declares
            self._parser.Parse(self._decoder.decode(data, not data), not data)
        except (expat.ExpatError, ValueError) as error:
            raise InputError(f"not an XML file: {error}") from error
        if self._silent > MAX_SILENCE:
            raise InputError(f"refused: {MAX_SILENCE // 2**20} MiB without a tag")

    def _doctype(self, *_: object) -> None:
        raise InputError("refused: a label file needs no DOCTYPE, and entities can be bombs")

    def _start(self, tag: str, given: Attributes) -> None:
        self._silent = 0
        self.root = self.root or tag
        if tag == "image":
            self._image = (given, [])
        elif tag == "track":
            self.odd.note("track of a video, skipped", given.get("label", ""))
        elif self._image is not None:
            image, shapes = self._image
            if len(shapes) >= MAX_LABELS:
                raise InputError(f"refused: more than {MAX_LABELS} labels of one image")
            if tag == "box":
                if _angle(given):
                    self.odd.note("turned box, taken as the upright box around it", image.get("name", ""))
                shapes.append(_box(given))
            elif tag == "polygon":
                self.odd.note("polygon, taken as the box around it", image.get("name", ""))
                shapes.append(Named(category=given.get("label", ""), box_xyxy=_around(given)))
            elif tag in OTHERS:
                self.odd.note(f"{tag}, which is no box, skipped", image.get("name", ""))
                shapes.append(Named(category="", box_xyxy=(NAN,) * 4))

    def _end(self, tag: str) -> None:
        self._silent = 0
        if tag == "image" and self._image is not None:
            self.ready.append(self._image)
            self._image = None


def _angle(given: Attributes) -> float:
    try:
        return float(given.get("rotation") or 0)
    except ValueError:
        return NAN


def _box(given: Attributes) -> Named:
    try:
        x0, y0, x1, y1 = (float(given[side]) for side in CORNERS)
        score = min(1.0, max(0.0, float(given.get("score") or 1)))
    except (KeyError, ValueError):
        x0 = y0 = x1 = y1 = NAN
        score = 1.0
    if angle := math.radians(_angle(given)):  # about the middle of the box
        cos, sin = abs(math.cos(angle)), abs(math.sin(angle))
        w, h = (x1 - x0) * cos + (y1 - y0) * sin, (x1 - x0) * sin + (y1 - y0) * cos
        x, y = (x0 + x1) / 2, (y0 + y1) / 2
        x0, y0, x1, y1 = x - w / 2, y - h / 2, x + w / 2, y + h / 2
    return Named(category=given.get("label", ""), box_xyxy=(x0, y0, x1, y1), score=score)


def _around(given: Attributes) -> tuple[float, float, float, float]:
    try:
        points = [tuple(map(float, point.split(","))) for point in given["points"].split(";")]
        xs, ys = zip(*points, strict=True)
        return min(xs), min(ys), max(xs), max(ys)
    except (KeyError, ValueError):
        return (NAN,) * 4


def looks_like_cvat(path: Path) -> bool:
    """Tell whether an XML file begins as CVAT's do."""
    seen = _Images(Oddities())
    try:
        with path.open("rb") as stream:
            seen.feed(stream.read(65536))
    except (InputError, OSError):
        pass  # a file that is cut short still has its first tag
    return seen.root == "annotations"


class Cvat(Listed):
    """Reads every `.xml` of CVAT under a folder, or one."""

    suffixes = (".xml",)

    def in_file(self, file: str, place: Path) -> Iterator[Found]:
        """Yield the images in their order."""
        for image, shapes in self._images_in(place):
            name, state = image.get("name", ""), image.get("state", "")
            yield self.found(name, file, labels=tuple(shapes), size_wh=_size(image), state=state)

    def _images_in(self, place: Path) -> Iterator[tuple[Attributes, list[Named]]]:
        images = _Images(self.odd)
        try:
            with place.open("rb") as stream:
                while True:
                    data = stream.read(CHUNK)
                    images.feed(data)
                    yield from images.ready
                    images.ready = []
                    if not data:
                        return
        except OSError as error:
            raise InputError(f"{place.name}: cannot be read: {error.strerror or error}") from error


def _size(image: Attributes) -> tuple[int, int] | None:
    try:
        width, height = int(image["width"]), int(image["height"])
    except (KeyError, ValueError):
        return None
    return (width, height) if width > 0 and height > 0 else None


class CvatWriter:
    """Writes `annotations.xml`, with the images in `images/`; scores and states are attributes that CVAT passes over."""

    def __init__(self, folder: Path, categories: tuple[str, ...]) -> None:
        self.folder = folder
        self._images = 0
        self._names = {name: quoteattr(name) for name in categories}
        self._stream = (folder / FILE).open("w", encoding="utf-8")
        labels = "".join(f"<label><name>{escape(name)}</name></label>" for name in categories)
        self._stream.write('<?xml version="1.0" encoding="utf-8"?>\n<annotations>\n  <version>1.1</version>\n')
        self._stream.write(f"  <meta><task><labels>{labels}</labels></task></meta>\n")

    def add(self, entry: Entry) -> None:
        """Write an image and its boxes."""
        name = quoteattr(write_image(self.folder, entry))
        width, height = entry.size_wh
        source = "auto" if entry.state == State.AUTO else "manual"
        self._stream.write(
            f'  <image id="{self._images}" name={name} width="{width}" height="{height}" state="{entry.state}">\n'
        )
        for label in entry.labels:
            corners = " ".join(f'{side}="{v}"' for side, v in zip(CORNERS, label.box_xyxy, strict=True))
            named = f'label={self._names[label.category]} source="{source}" occluded="0"'
            self._stream.write(f'    <box {named} {corners} z_order="0" score="{label.score}"></box>\n')
        self._stream.write("  </image>\n")
        self._images += 1

    def close(self) -> None:
        """Write the end."""
        self._stream.write("</annotations>\n")
        self._stream.close()
