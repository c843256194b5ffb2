"""The row that imagefolder, WebDataset and Parquet share: `objects: {bbox, categories}` with `(left, top, width, height)`."""

from collections.abc import Mapping, Sequence
from typing import Any

from tilth.annotate.formats.parts.records import Entry, Named
from tilth.annotate.formats.parts.texts import parse_json
from tilth.errors import InputError

NO_BOX = Named(category="", box_xyxy=(float("nan"),) * 4)  # the one place that judges boxes refuses it


def to_row(entry: Entry) -> dict[str, Any]:
    """Write what is known of an image, but for the image."""
    boxes = [label.box_xyxy for label in entry.labels]
    return {
        "width": entry.size_wh[0],
        "height": entry.size_wh[1],
        "objects": {
            "bbox": [[x0, y0, x1 - x0, y1 - y0] for x0, y0, x1, y1 in boxes],
            "categories": [label.category for label in entry.labels],
            "score": [label.score for label in entry.labels],
            "source": [label.source for label in entry.labels],
        },
        "sample": entry.id,
        "state": entry.state,
        "license": entry.licence,
    }


def parse_row(text: str | bytes) -> dict[str, Any]:
    """Read a row that is JSON.

    Raises:
        InputError: It is none, or no object.
    """
    row = parse_json(text.decode("utf-8-sig", "replace") if isinstance(text, bytes) else text)
    if not isinstance(row, dict):
        raise InputError(f"expected a JSON object, got {type(row).__name__}")
    return row


def size_of(row: Mapping[str, Any]) -> tuple[int, int] | None:
    """Return the size that a row gives, if it does."""
    size = (row.get("width"), row.get("height"))
    return size if all(isinstance(side, int) and side > 0 for side in size) else None  # type: ignore[return-value]


def state_of(row: Mapping[str, Any]) -> str:
    """Return the state that a row gives, if it does."""
    return str(row.get("state") or "")


def has_objects(row: Mapping[str, Any]) -> bool:
    """Tell whether a row speaks of things in the image at all."""
    return row.get("objects") is not None


def labels_of(row: Mapping[str, Any], names: Sequence[str] = ()) -> tuple[Named, ...]:
    """Return the boxes of a row.

    Args:
        row: With `objects`, either lists side by side or a list of objects.
        names: Of the categories, when the row gives numbers.

    Raises:
        InputError: The row is not of this form.
    """
    objects = row.get("objects")
    if objects is None:
        return ()
    if isinstance(objects, list):
        things = [thing if isinstance(thing, dict) else {} for thing in objects]
        return tuple(_label(t.get("bbox"), _category(t), t.get("score", 1.0), names) for t in things)
    if not isinstance(objects, dict):
        raise InputError("objects must be an object with bbox and categories")
    boxes, categories = objects.get("bbox"), _category(objects)
    if not isinstance(boxes, list) or not isinstance(categories, list) or len(boxes) != len(categories):
        raise InputError("objects.bbox and objects.categories must be lists of one length")
    scores = objects.get("score")
    if not isinstance(scores, list) or len(scores) != len(boxes):
        scores = [1.0] * len(boxes)
    return tuple(_label(*one, names) for one in zip(boxes, categories, scores, strict=True))


def _category(thing: Mapping[str, Any]) -> Any:
    return next((thing[key] for key in ("categories", "category", "label") if key in thing), None)


def _label(box: Any, category: Any, score: Any, names: Sequence[str]) -> Named:
    try:
        x, y, w, h = (float(v) for v in box)
        kept = min(1.0, max(0.0, float(score)))
    except (OverflowError, TypeError, ValueError):
        return NO_BOX
    if isinstance(category, int) and 0 <= category < len(names):
        category = names[category]
    return Named(category="" if category is None else str(category), box_xyxy=(x, y, x + w, y + h), score=kept)
