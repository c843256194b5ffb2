"""CVAT for images 1.1: one XML file, an `<image>` with a `<box>` for each thing, in pixels from corner to corner."""

import codecs
import json
import math
from collections.abc import Callable, Iterator
from pathlib import Path
from xml.parsers import expat
from xml.sax.saxutils import escape, quoteattr

from tilth.annotate.formats.parts.files import write_image
from tilth.annotate.formats.parts.listing import Listed
from tilth.annotate.formats.parts.objects import listed_in
from tilth.annotate.formats.parts.records import MAX_LABELS, Entry, Found, Labels, LeftOut, Named, Oddities
from tilth.annotate.formats.parts.texts import xml_encoding
from tilth.claims import State
from tilth.errors import InputError
from tilth.geometry import Box

FILE = "annotations.xml"
CHUNK = 2**18  # bytes read at once
MAX_SILENCE = 16 * 2**20  # bytes without a tag; more is no label file
CORNERS = ("xtl", "ytl", "xbr", "ybr")
NAN = float("nan")

Attributes = dict[str, str]
Label = Named | LeftOut


class _Images:
    """Collects `<image>` elements as the parser meets them."""

    def __init__(self, odd: Oddities) -> None:
        self.odd = odd
        self.ready: list[tuple[Attributes, list[Label]]] = []
        self.root = ""
        self.voc = False  # it holds what a file of Pascal VOC holds
        self.tracks: dict[str, None] = {}  # labels of the tracks that were met
        self._image: tuple[Attributes, list[Label]] | None = None
        self._outer = ""  # the track or skeleton that the parser is in
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
        self.voc = self.voc or tag == "annotation"
        if tag == "image":
            self._image = (given, [])
        elif tag == "track":
            self._outer = tag
            self.tracks[given.get("label", "")] = None
            self.odd.lost.note("track of a video", given.get("label", ""))
        elif self._image is None:
            if "label" in given and not self._outer:
                self.odd.lost.note(f"<{tag}> outside an image", given["label"])
        elif not self._outer and tag != "attribute":
            image, labels = self._image
            if len(labels) >= MAX_LABELS:
                raise InputError(f"refused: more than {MAX_LABELS} labels of one image")
            labels.append(self._label(tag, given, image.get("name", "")))
            self._outer = "skeleton" if tag == "skeleton" else ""  # its points are no labels of their own

    def _label(self, tag: str, given: Attributes, where: str) -> Label:
        category = given.get("label", "")
        if tag == "tag":
            return Named(category=category, box_xyxy=None, score=_score(given))
        if tag == "box":
            if _angle(given):
                self.odd.note("turned box, taken as the upright box around it", where)
            return Named(category=category, box_xyxy=_turned(given), score=_score(given))
        if tag in AROUND:
            self.odd.note(f"{tag}, taken as the box around it", where)
            return Named(category=category, box_xyxy=AROUND[tag](given))
        return LeftOut(kind=f"{tag}, which is no box", category=category)

    def _end(self, tag: str) -> None:
        self._silent = 0
        if tag == self._outer:
            self._outer = ""
        if tag == "image" and self._image is not None:
            self.ready.append(self._image)
            self._image = None


def _angle(given: Attributes) -> float:
    try:
        return float(given.get("rotation") or 0)
    except ValueError:
        return NAN


def _score(given: Attributes) -> float:
    try:
        return min(1.0, max(0.0, float(given.get("score") or 1)))
    except ValueError:
        return 1.0


def _turned(given: Attributes) -> Box:
    try:
        x0, y0, x1, y1 = (float(given[side]) for side in CORNERS)
    except (KeyError, ValueError):
        return (NAN,) * 4
    if angle := math.radians(_angle(given)):  # about the middle of the box
        cos, sin = abs(math.cos(angle)), abs(math.sin(angle))
        return _about(
            (x0 + x1) / 2, (y0 + y1) / 2, (x1 - x0) * cos + (y1 - y0) * sin, (x1 - x0) * sin + (y1 - y0) * cos
        )
    return x0, y0, x1, y1


def _about(x: float, y: float, w: float, h: float) -> Box:
    return x - w / 2, y - h / 2, x + w / 2, y + h / 2


def _points(given: Attributes) -> Box:
    try:
        points = [tuple(map(float, point.split(","))) for point in given["points"].split(";")]
        xs, ys = zip(*points, strict=True)
        return min(xs), min(ys), max(xs), max(ys)
    except (KeyError, ValueError):
        return (NAN,) * 4


def _ellipse(given: Attributes) -> Box:
    try:
        x, y, rx, ry = (float(given[name]) for name in ("cx", "cy", "rx", "ry"))
    except (KeyError, ValueError):
        return (NAN,) * 4
    angle = math.radians(_angle(given))
    cos, sin = math.cos(angle), math.sin(angle)
    return _about(x, y, 2 * math.hypot(rx * cos, ry * sin), 2 * math.hypot(rx * sin, ry * cos))


def _mask(given: Attributes) -> Box:
    try:
        x, y, w, h = (float(given[name]) for name in ("left", "top", "width", "height"))
    except (KeyError, ValueError):
        return (NAN,) * 4
    return x, y, x + w, y + h


# shapes that have a box around them
AROUND: dict[str, Callable[[Attributes], Box]] = {"polygon": _points, "ellipse": _ellipse, "mask": _mask}


def looks_like_cvat(path: Path) -> bool:
    """Tell whether an XML file begins as CVAT's do."""
    seen = _Images(Oddities())
    try:
        with path.open("rb") as stream:
            seen.feed(stream.read(65536))
    except (InputError, OSError):
        pass  # a file that is cut short still has its first tag
    return seen.root == "annotations" and not seen.voc


class Cvat(Listed):
    """Reads every `.xml` of CVAT under a folder, or one."""

    suffixes = (".xml",)

    def in_file(self, file: str, place: Path) -> Iterator[Found]:
        """Yield the images in their order."""
        # a track is of images that it does not name, and may lie behind them
        tracks = tuple(_tracks(place))
        for image, found in self._images_in(place, self.odd):
            yield self.found(
                image.get("name", ""),
                file,
                labels=Labels.of(found),
                size_wh=_size(image),
                state=image.get("state", ""),
                unasked=listed_in(image.get("unasked", "")),
                unsure=tracks,
            )

    def _images_in(self, place: Path, odd: Oddities) -> Iterator[tuple[Attributes, list[Label]]]:
        images = _Images(odd)
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


def _tracks(place: Path) -> dict[str, None]:
    """Return the labels of the tracks of a file; one without the word is not parsed for it."""
    tail, found = b"", False
    with place.open("rb") as stream:
        while not found and (data := stream.read(CHUNK)):
            found = b"<track" in tail + data
            tail = data[-8:]
        images = _Images(Oddities())
        stream.seek(0)
        try:
            while found and (data := stream.read(CHUNK)):
                images.feed(data)
                images.ready = []
        except InputError:
            pass  # reading for good will say it
    return images.tracks


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
        head = f'<image id="{self._images}" name={name} width="{width}" height="{height}" state="{entry.state}"'
        more = f" unasked={quoteattr(json.dumps(entry.unasked))}" if entry.unasked else ""
        self._stream.write(f"  {head}{more}>\n")
        for label in entry.labels:
            corners = " ".join(f'{side}="{v}"' for side, v in zip(CORNERS, label.box_xyxy, strict=True))
            named = f'label={self._names[label.category]} source="{source}" occluded="0"'
            self._stream.write(f'    <box {named} {corners} z_order="0" score="{label.score}"></box>\n')
        for shown in entry.shown:
            named = f'label={self._names[shown.category]} source="{source}"'
            self._stream.write(f'    <tag {named} score="{shown.score}"></tag>\n')
        self._stream.write("  </image>\n")
        self._images += 1

    def close(self) -> None:
        """Write the end."""
        self._stream.write("</annotations>\n")
        self._stream.close()
