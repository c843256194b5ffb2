"""The row that imagefolder, WebDataset and Parquet share.

Boxes are `objects: {bbox, categories}` with `(left, top, width, height)`; labels of the whole image are `image_labels`, a list of names.
"""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from tilth.annotate.formats.parts.records import Entry, Labels, LeftOut, Named, Served, limited
from tilth.annotate.formats.parts.texts import parse_json
from tilth.errors import InputError
from tilth.geometry import Box

SILENT = "row that says nothing of labels, taken as a plain image"
NOWHERE: Box = (float("nan"),) * 4  # the one place that judges boxes refuses it
SEVERAL = ("image_labels", "labels")  # columns of labels of the whole image, and …
ONE = ("label", "category", "class", "cls")  # … of the one that was chosen of several
WORDS = (*SEVERAL, *ONE)
PLACES = ("bbox", "bboxes")
BESIDE = ("categories", "category", "labels", "label", "class")  # what boxes are of, in a column beside theirs


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
        "image_labels": [label.category for label in entry.shown],
        "image_label_scores": [label.score for label in entry.shown],
        "unasked": list(entry.unasked),
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


def listed_in(text: str) -> tuple[str, ...]:
    """Read a list of names that is written as JSON where a format has room for a text only."""
    try:
        names = parse_json(text) if text else []
    except InputError:
        return ()
    return tuple(map(str, names)) if isinstance(names, list) else ()


def said_of(
    row: Mapping[str, Any], file: str, names: Mapping[str, Sequence[str]] | None = None
) -> tuple[Labels, dict[str, Any]]:
    """Return the labels of a row, and other fields of `Found` that it gives.

    Args:
        row: With `objects`, either lists side by side or a list of objects; or with labels of the whole image.
        file: The label file; a row that says nothing of things in the image, a caption say, is as if it were in none.
        names: Of the categories that a column gives as numbers.

    Raises:
        InputError: The row is not of this form.
    """
    row, names = _unflattened(row, names or {})
    labels = limited(_labels(row, names))
    size = (row.get("width"), row.get("height"))
    unasked = row.get("unasked")
    spoken = (
        row.get("objects") is not None or labels != Labels() or any(row.get(word) not in (None, "") for word in WORDS)
    )
    several = [word for word in SEVERAL if row.get(word) is not None]
    several += [word for word in ONE if isinstance(row.get(word), list)]
    return labels, {
        "label_file": file if spoken else "",
        "size_wh": size if all(isinstance(side, int) and side > 0 for side in size) else None,
        "state": str(row.get("state") or ""),
        "unasked": tuple(map(str, unasked)) if isinstance(unasked, list) else (),
        # one word of an image that has no boxes was chosen among words
        "one_of": row.get("objects") is None and not several,
        "served": _served(row.get("served")),
    }


def _served(told: Any) -> Served | None:
    """Read what a served model thought; None when nothing of that form is there."""
    try:
        scores = {str(name): float(score) for name, score in told["scores"].items()}
        found = Served(str(told["by"]), str(told["time"]), float(told["doubt"]), scores)
    except (AttributeError, KeyError, OverflowError, TypeError, ValueError):
        return None
    return found if scores and all(0 <= score <= 1 for score in (found.doubt, *scores.values())) else None


def _unflattened(
    row: Mapping[str, Any], names: Mapping[str, Sequence[str]]
) -> tuple[Mapping[str, Any], Mapping[str, Sequence[str]]]:
    """Return a row whose boxes stand beside `objects` and not in it, with the names of their categories, as if they stood in it."""
    boxes, word = _place(row), next((word for word in BESIDE if row.get(word) is not None), "")
    if row.get("objects") is not None or boxes is None:
        return row, names
    categories = row.get(word)
    if isinstance(boxes, list) and boxes and not isinstance(boxes[0], list | tuple | dict):
        boxes, categories = [boxes], categories if isinstance(categories, list) else [categories]
    objects = {"bbox": boxes, "categories": categories if word else [None] * len(boxes), "score": row.get("score")}
    return {**{k: v for k, v in row.items() if k != word}, "objects": objects}, {"objects": names.get(word, ())}


def _labels(row: Mapping[str, Any], names: Mapping[str, Sequence[str]]) -> Iterator[Named | LeftOut]:
    yield from objects_of(row.get("objects"), names.get("objects", ()))
    scores = row.get("image_label_scores")
    for word in WORDS:
        said = row.get(word)
        several = said if isinstance(said, list) else [] if said is None or said == "" else [said]
        for number, one in enumerate(several):
            if isinstance(one, str | int | float) and one != "":
                listed = isinstance(scores, list) and len(scores) == len(several)
                score = _score(scores[number]) if listed and word == SEVERAL[0] else 1.0  # type: ignore[index]
                yield Named(category=_named(one, names.get(word, ())), box_xyxy=None, score=score)
            else:
                yield LeftOut(kind=f"{word} that is no name")


def objects_of(objects: Any, names: Sequence[str] = ()) -> Iterator[Named | LeftOut]:
    """Yield the labels of `objects`: lists side by side, or a list of objects.

    Raises:
        InputError: It is neither.
    """
    if objects is None:
        return
    if isinstance(objects, list):
        things = [thing if isinstance(thing, dict) else {} for thing in objects]
        rows = [(_place(t), _category(t), t.get("score", 1.0)) for t in things]
    elif isinstance(objects, dict):
        boxes, categories, scores = _place(objects), _category(objects), objects.get("score")
        if boxes is None and categories is None:
            if any(objects.values()):
                yield LeftOut(kind="objects without bbox and categories")
            return
        if not isinstance(boxes, list) or not isinstance(categories, list) or len(boxes) != len(categories):
            raise InputError("objects.bbox and objects.categories must be lists of one length")
        if not isinstance(scores, list) or len(scores) != len(boxes):
            scores = [1.0] * len(boxes)
        rows = list(zip(boxes, categories, scores, strict=True))
    else:
        raise InputError("objects must be an object with bbox and categories")
    for box, category, score in rows:
        yield _label(box, category, score, names)


def _place(thing: Mapping[str, Any]) -> Any:
    return next((thing[key] for key in PLACES if key in thing), None)


def _category(thing: Mapping[str, Any]) -> Any:
    return next((thing[key] for key in ("categories", "category", "labels", "label") if key in thing), None)


def _named(category: Any, names: Sequence[str]) -> str:
    if isinstance(category, int) and not isinstance(category, bool) and 0 <= category < len(names):
        return names[category]
    if isinstance(category, float) and category.is_integer():
        category = int(category)
    return "" if category is None else str(category)


def _score(score: Any) -> float:
    try:
        return min(1.0, max(0.0, float(score)))
    except (OverflowError, TypeError, ValueError):
        return 1.0


def _label(box: Any, category: Any, score: Any, names: Sequence[str]) -> Named | LeftOut:
    name = _named(category, names)
    if box is None:
        return (
            Named(category=name, box_xyxy=None, score=_score(score)) if name else LeftOut(kind="object without a name")
        )
    try:
        x, y, w, h = (float(v) for v in box)
    except (OverflowError, TypeError, ValueError):
        return Named(category=name, box_xyxy=NOWHERE)
    return Named(category=name, box_xyxy=(x, y, x + w, y + h), score=_score(score))
