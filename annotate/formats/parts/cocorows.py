"""Entries of COCO's lists as rows of a database, and what a label is that is no plain box."""

import json
from collections.abc import Iterator, Mapping
from typing import Any
from urllib.parse import unquote

from tilth.annotate.formats.parts.records import MAX_LABELS, writable

NAN = float("nan")
NAMES = ("file_name", "coco_url", "flickr_url", "url")  # of what names an image, the first that is there
# what a label is when it is no plain box
CROWD = "crowd region, taken as one box around all of it"
POLYGON = "polygon, taken as the box around it"
KEYPOINTS = "key points beside a box, left out"
WHOLE = "label of the whole image"
MASK, POINTS = "mask without a box", "key points without a box"
BOXLESS = (MASK, POINTS)


def read_id(value: object) -> int | float | str:
    """Return an id as the database can compare it: 1 and "1" differ, as they do in Python."""
    if isinstance(value, str):
        return writable(value)
    if isinstance(value, float) or (isinstance(value, int) and abs(value) < 2**63):
        return value
    return json.dumps(value)[:1000]


def plain(id_: object) -> str:
    """Return what an id is, be it written as a number or as a text.

    >>> plain(7), plain("007"), plain("7.0"), plain(7.0), plain(" a7 ")
    ('7', '7', '7', '7', 'a7')
    """
    text = str(int(id_)) if isinstance(id_, float) and id_.is_integer() else str(id_).strip()
    text = text.removesuffix(".0") if text[:-2].isdecimal() else text
    return (text.lstrip("0") or "0") if text.isdecimal() else text


def last(path: object) -> str:
    r"""Return a file's name without its folders, as a label may have it in place of an id.

    >>> last("sets/One/a.png"), last("C:\\sets\\a.png"), last("https://host/a%20b.png?size=9")
    ('a.png', 'a.png', 'a b.png')
    """
    text = str(path)
    text = unquote(text.partition("?")[0]) if "://" in text else text.replace("\\", "/")
    return text.rpartition("/")[2]


def labels_in(item: Mapping[str, Any]) -> Iterator[Mapping[str, Any]]:
    """Yield the labels of an entry of `annotations`: itself, or its segments, as a panoptic file has them."""
    segments = item.get("segments_info")
    if not isinstance(segments, list):
        yield item
        return
    for segment in segments:
        yield {**(segment if isinstance(segment, dict) else {}), "image_id": item.get("image_id")}


def read_image(image: object) -> tuple[object, str, int | None, int | None, str, str]:
    """Return a row of an image: id, name, width, height, state, and what nobody looked for, as JSON."""
    if not isinstance(image, dict):
        return None, "", None, None, "", "[]"
    width, height = _side(image.get("width")), _side(image.get("height"))
    told = image.get("unasked")
    unasked = json.dumps([str(name) for name in told[:MAX_LABELS]] if isinstance(told, list) else [])
    id_ = None if image.get("id") is None else read_id(image["id"])
    return (
        id_,
        writable(str(next((image[key] for key in NAMES if image.get(key)), ""))),
        width,
        height,
        writable(str(image.get("state", ""))),
        unasked,
    )


def _side(value: Any) -> int | None:
    try:
        return int(value) if 0 < int(value) < 2**31 else None
    except (OverflowError, TypeError, ValueError):
        return None


def read_label(label: Mapping[str, Any]) -> tuple[object, str, float, float, float, float, float]:
    """Return a row of a label; its `kind` says what it is, empty for a plain box."""
    box, mask = label.get("bbox") or None, label.get("segmentation") or None
    kind, x, y, w, h, score = "", NAN, NAN, NAN, NAN, 1.0
    if not isinstance(mask, list) and box is None:
        kind = MASK if mask is not None else POINTS if label.get("keypoints") else WHOLE
    elif label.get("iscrowd"):
        kind = CROWD
    elif label.get("keypoints"):
        kind = KEYPOINTS
    elif box is None:
        kind = POLYGON
    try:
        score = min(1.0, max(0.0, float(1.0 if label.get("score") is None else label["score"])))
        if kind not in (WHOLE, *BOXLESS):
            x, y, w, h = (float(v) for v in box or _around(mask))
    except (OverflowError, TypeError, ValueError):
        x = NAN
    category = next((label[key] for key in ("category_id", "category_name", "category") if key in label), None)
    return read_id(category), kind, x, y, w, h, score


def _around(polygons: Any) -> tuple[float, float, float, float]:
    """Return the `xywh` box around polygons; labels made for segmentation leave `bbox` out."""
    values = [float(v) for polygon in polygons for v in polygon]
    xs, ys = values[0::2], values[1::2]
    return min(xs), min(ys), max(xs) - min(xs), max(ys) - min(ys)
