"""What the regions of a Label Studio annotation say, whatever the labelling interface: boxes, labels of the whole image, or neither.

A region is one entry of `result`, or several of one `id`: a `<Rectangle>` and the `<Labels>` or `<Choices>` that name it.
"""

import math
import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

from tilth.annotate.formats.parts.records import LeftOut, Named
from tilth.annotate.labelstudio.tasks import EMPTY, ESCALATE, SHOWS, UNUSABLE, corners
from tilth.geometry import Box

WORDS = (EMPTY, UNUSABLE, ESCALATE)  # of our interface, about the image
PLAIN = (
    "rectangle",
    "polygon",
    "ellipse",
)  # shapes that have a box; with "labels" behind it, the same shape with names
NO_LABELS = (
    "textarea",
    "rating",
    "number",
    "datetime",
    "pairwise",
    "ranker",
    "relation",
)  # beside a shape, they describe it
POINTS = 100.0  # Label Studio counts in percent
# of JSON_MIN: the shape that an answer has by its members, in this order; those that make its place; names of a single choice
SHAPES = {"points": "polygon", "radiusX": "ellipse", "rle": "brush", "width": "rectangle", "x": "keypoint"}
PLACES = ("x", "y", "width", "height", "points", "radiusX", "radiusY", "rotation")
SIZES = ("original_width", "original_height", "id")
CHOSEN = ("choice", "choices")
NOTES = ("id", "annotator", "annotation_id", "created_at", "updated_at", "lead_time", "sample", "state", "license")
A_CHOICE = re.compile(r"\w[\w &'()+-]{0,60}")  # a word or a few: no path, address, time or sentence

Row = Mapping[str, Any]


@dataclass(frozen=True, kw_only=True)
class Region:
    """A label, and the id of the region that it is of; the box is in parts of the image."""

    id: str
    label: Named


@dataclass
class Reading:
    """What an annotation says.

    Args:
        regions: The labels.
        said: Words about the image as a whole: `EMPTY`, `UNUSABLE`, `ESCALATE`.
        left_out: What is no box and no label of the whole image.
        notes: What was taken in another way than it was drawn, one of each.
    """

    regions: list[Region] = field(default_factory=list)
    said: set[str] = field(default_factory=set)
    left_out: list[LeftOut] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)


def read_result(result: Iterable[object], size_wh: tuple[int, int] | None = None) -> Reading:
    """Read the regions of an annotation or a prediction.

    Args:
        result: Its `result`.
        size_wh: Of the image, which a turned box needs to stay in shape; what the region says of it when None.
    """
    reading = Reading()
    groups: dict[object, list[Row]] = {}
    for number, region in enumerate(result):
        if not isinstance(region, Mapping):
            reading.left_out.append(LeftOut(kind="region that is no object"))
        elif region.get("type") != "relation":  # of two regions, and no label
            name = region.get("id")
            groups.setdefault(name if isinstance(name, str) and name else number, []).append(region)
    pictures = {
        str(part.get("to_name")) for parts in groups.values() for part in parts if _shape(str(part.get("type") or ""))
    }
    for name, parts in groups.items():
        if any(part.get("item_index") for part in parts) or (
            len(pictures) > 1 and str(parts[0].get("to_name")) in pictures
        ):
            reading.left_out += [
                LeftOut(kind="of one of several images of a task", category=each) for each in _all(parts)
            ]
        else:
            _read(str(name), parts, size_wh, reading)
    return reading


def _all(parts: list[Row]) -> list[str]:
    values = [(str(part.get("type") or ""), part.get("value")) for part in parts]
    return [name for kind, value in values if isinstance(value, Mapping) for name in _names(kind, value)] or [""]


def _read(name: str, parts: list[Row], size_wh: tuple[int, int] | None, reading: Reading) -> None:
    values = [part["value"] if isinstance(part.get("value"), Mapping) else {} for part in parts]
    kinds = [str(part.get("type") or "") for part in parts]
    shape = next((n for n, kind in enumerate(kinds) if _shape(kind)), None)
    if shape is None:
        for part, kind, value in zip(parts, kinds, values, strict=True):
            _whole(name, part, kind, value, reading)
        return
    names = [
        each for kind, value in zip(kinds, values, strict=True) if _names_things(kind) for each in _names(kind, value)
    ]
    if not names:  # a shape without labels of its own is named by the choice that was made for it
        names = [
            each for kind, value in zip(kinds, values, strict=True) if kind == "choices" for each in _names(kind, value)
        ]
    if any(kind in NO_LABELS for kind in kinds):
        reading.notes.append("words beside a shape, left out")
    kind = _shape(kinds[shape])
    if kind not in PLAIN:
        reading.left_out += [LeftOut(kind=f"{kind}, which is no box", category=each) for each in names or [""]]
    elif not names:
        reading.left_out.append(LeftOut(kind=f"{kind} without a label"))
    else:
        box, note = _box(kind, parts[shape], values[shape], size_wh)
        reading.notes += [note] if note else []
        score = _score(next((part["score"] for part in parts if "score" in part), None))
        reading.regions += [
            Region(id=name, label=Named(category=each, box_xyxy=box, parts=True, score=score)) for each in names
        ]


def _whole(name: str, part: Row, kind: str, value: Row, reading: Reading) -> None:
    """Read an answer that has no shape."""
    chosen = _names(kind, value)
    if kind not in ("choices", "taxonomy"):
        what = f"{kind or 'region of no type'} without a shape"
        reading.left_out += [LeftOut(kind=what, category=each) for each in chosen or [""]]
        return
    if not isinstance(value.get(kind), list | str):
        reading.left_out.append(LeftOut(kind=f"{kind} that cannot be read"))
    for each in chosen:
        if each in WORDS and part.get("from_name") != SHOWS:
            reading.said.add(each)
        else:
            score = _score(part.get("score"))
            reading.regions.append(Region(id=name, label=Named(category=each, box_xyxy=None, score=score)))


def _shape(kind: str) -> str:
    """Return the shape of a region by its type, empty when it has none.

    >>> _shape("rectanglelabels"), _shape("brush"), _shape("labels"), _shape("choices")
    ('rectangle', 'brush', '', '')
    """
    if kind in ("labels", "choices", "taxonomy", "", *NO_LABELS):
        return ""
    return kind.removesuffix("labels")


def _names_things(kind: str) -> bool:
    return kind.endswith("labels")


def _names(kind: str, value: Row) -> list[str]:
    """Return the names that an entry gives; of a place in a taxonomy the innermost."""
    names = value.get(kind)
    if not isinstance(names, list):
        return [names] if isinstance(names, str) and names else []
    inner = [name[-1] if isinstance(name, list) and name else name for name in names]
    return [str(name) for name in inner if isinstance(name, str | int | float) and name != ""]


def _score(value: object) -> float:
    # the server also has scores in percent, or of a scale of its own
    number = float(value) if isinstance(value, int | float) and abs(value) < 2 else 1.0
    return min(1.0, max(0.0, number)) if math.isfinite(number) else 1.0


def _box(kind: str, region: Row, value: Row, size_wh: tuple[int, int] | None) -> tuple[Box, str]:
    """Return the box around a shape in parts of the image, and what is to be noted; one without numbers is refused later."""
    try:
        width, height = size_wh or (int(region.get("original_width") or 100), int(region.get("original_height") or 100))
        if kind == "polygon":
            xs, ys = zip(*((float(x) / POINTS, float(y) / POINTS) for x, y in value["points"]), strict=True)
            return (min(xs), min(ys), max(xs), max(ys)), "polygon, taken as the box around it"
        if kind == "ellipse":
            return _ellipse(value, width, height), "ellipse, taken as the box around it"
        x0, y0, x1, y1 = corners(dict(value), (width, height)) or (math.nan,) * 4
        note = "turned box, taken as the upright box around it" if value.get("rotation") else ""
        return (x0 / width, y0 / height, x1 / width, y1 / height), note
    except (KeyError, OverflowError, TypeError, ValueError, ZeroDivisionError):
        return (math.nan,) * 4, ""


def _ellipse(value: Row, width: int, height: int) -> Box:
    x, y = float(value["x"]) / POINTS, float(value["y"]) / POINTS
    a, b = float(value["radiusX"]) / POINTS * width, float(value["radiusY"]) / POINTS * height
    angle = math.radians(float(value.get("rotation") or 0))
    w = math.hypot(a * math.cos(angle), b * math.sin(angle)) / width
    h = math.hypot(a * math.sin(angle), b * math.cos(angle)) / height
    return x - w, y - h, x + w, y + h


def in_pixels(label: Named, size_wh: tuple[int, int]) -> Box | None:
    """Return the box of a region in pixels, cut at the edges of the image; None when nothing of it is left."""
    if label.box_xyxy is None or not all(map(math.isfinite, label.box_xyxy)):
        return None
    width, height = size_wh
    x0, y0, x1, y1 = (v * side for v, side in zip(label.box_xyxy, (width, height) * 2, strict=True))
    x0, x1 = max(0.0, x0), min(float(width), x1)
    y0, y1 = max(0.0, y0), min(float(height), y1)
    return (x0, y0, x1, y1) if x0 < x1 and y0 < y1 else None


def minimal(row: Row, is_label: Callable[[str], bool]) -> list[Row]:
    """Return the regions of an entry of Label Studio's smaller export, JSON_MIN, which has a member for each tag that was answered.

    Args:
        row: The entry.
        is_label: Tells whether a word is a label; a single choice and a column of the data look alike there.
    """
    regions: list[Row] = []
    for name, answer in row.items():
        if isinstance(answer, list) and answer and all(isinstance(each, Mapping) for each in answer):
            regions += [_region(name, each) for each in answer]
        elif isinstance(answer, Mapping) and isinstance(answer.get("choices"), list):
            regions.append({"type": "choices", "from_name": name, "value": {"choices": answer["choices"]}})
        elif isinstance(answer, str) and name not in NOTES:
            if name in (*CHOSEN, SHOWS) or answer in WORDS or is_label(answer):
                regions.append({"type": "choices", "from_name": name, "value": {"choices": [answer]}})
            elif A_CHOICE.fullmatch(answer) and not answer.isdigit():
                regions.append({"type": f"text of {name!r}", "value": {}})
    # a shape and the labels that name it are members of their own, both with its place
    named = [_place_of(region) for region in regions if str(region["type"]).endswith("labels")]
    return [region for region in regions if str(region["type"]).endswith("labels") or _place_of(region) not in named]


def _region(name: str, value: Row) -> Row:
    named = next((str(key) for key in value if str(key).endswith("labels")), "")
    shape = next((kind for key, kind in SHAPES.items() if key in value), "")
    kind = shape + "labels" if named == "labels" else named or shape
    more = {kind: value[named]} if named else {}
    return {"type": kind, "from_name": name, "value": {**value, **more}, **{k: value[k] for k in SIZES if k in value}}


def _place_of(region: Row) -> object:
    value = region["value"]
    return tuple(str(value[key]) for key in PLACES if key in value) or id(region)
