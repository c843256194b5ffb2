"""Samples as Label Studio tasks with predictions; everything is checked before it is sent, as the server checks nothing.

Label Studio counts in percent of the image from its top left corner, and its tasks show the image upright.
"""

import hashlib
import json
import math
import xml.etree.ElementTree as ElementTree
from collections.abc import Mapping, Sequence
from typing import Any

from tilth.annotate.boxes.draw import colour_of
from tilth.errors import InputError
from tilth.geometry import Box
from tilth.policy import Policy
from tilth.samples import SUSPECTED, Sample

BOXES, SHOWS, WHOLE, IMAGE = "boxes", "shows", "whole", "image"  # names of the tags in the labelling interface
EMPTY, UNUSABLE, ESCALATE = "confirmed empty", "unusable", "escalate"
SUSPECT = "s"  # begins the id of a region that is no label, but probably missing; the others are hexadecimal
EPSILON = 1e-6  # percent

Row = dict[str, Any]


def make_config(policy: Policy) -> str:
    """Write the labelling interface of a policy."""
    return make_interface([(c.name, c.definition) for c in policy.pictured], policy.names)


def make_interface(categories: Sequence[tuple[str, str]], shows: Sequence[str]) -> str:
    """Write a labelling interface.

    It asks for boxes, for the categories that the image shows without a box, and for a word about the image as a whole.

    Args:
        categories: Name and definition of those that boxes are drawn of.
        shows: All categories.
    """
    view = ElementTree.Element("View")
    boxes = ElementTree.SubElement(view, "RectangleLabels", name=BOXES, toName=IMAGE)
    for name, definition in categories:
        colour = "#{:02x}{:02x}{:02x}".format(*colour_of(name))
        ElementTree.SubElement(boxes, "Label", value=name, background=colour, hint=definition)
    # above the image, where they can be seen without scrolling
    choices(view, WHOLE, "single", (EMPTY, UNUSABLE, ESCALATE))
    ElementTree.SubElement(view, "Image", name=IMAGE, value=f"${IMAGE}", zoom="true", zoomControl="true")
    ElementTree.SubElement(view, "Header", value="Shown without a box", size="6")
    choices(view, SHOWS, "multiple", shows)
    return ElementTree.tostring(view, encoding="unicode")


def choices(view: ElementTree.Element, name: str, choice: str, values: Sequence[str], of: str = IMAGE) -> None:
    """Add a question with choices, `single` or `multiple`, about the object of this name."""
    tag = ElementTree.SubElement(view, "Choices", name=name, toName=of, choice=choice, showInLine="true")
    for value in values:
        ElementTree.SubElement(tag, "Choice", value=value)


def asked(config: str) -> dict[str, frozenset[str]]:
    """Return what an interface asks for, by the names of its tags; colours, hints and order do not matter.

    Raises:
        InputError: It is not XML.
    """
    if "<!" in config.replace("<!--", ""):  # a document type could name entities, which would be expanded
        raise InputError("the labelling interface declares a document type; Label Studio's own have none")
    try:
        view = ElementTree.fromstring(config)
    except ElementTree.ParseError as error:
        raise InputError(f"the labelling interface is not XML: {error}") from error
    tags = {"RectangleLabels": "Label", "Labels": "Label", "Choices": "Choice"}
    found = {
        str(tag.get("name")): frozenset(str(each.get("value")) for each in tag.iter(tags[tag.tag]))
        for tag in view.iter()
        if tag.tag in tags
    }
    return found | {IMAGE: frozenset(str(tag.get("value")) for name in ("Image", "Text") for tag in view.iter(name))}


def make_task(sample: Sample, image_url: str, why: str = "") -> Row:
    """Write a sample as a task, its labels as a prediction of whoever made them."""
    width, height = sample.size_wh
    prediction = make_prediction(sample)
    return {
        "data": {IMAGE: image_url, "sample": sample.id, "width": width, "height": height, "why": why},
        "predictions": [prediction] if prediction else [],
    }


def make_prediction(sample: Sample) -> Row:
    """Write the labels of a sample, and boxes that may well be missing, as a prediction; empty when there are none of both."""
    labels = (*sample.truth.labels, *sample.suspected)
    boxes = [label for label in labels if label.box_xyxy is not None]
    shown = sorted({str(label.category) for label in labels} - {str(label.category) for label in boxes})
    if not labels:
        return {}
    regions = [
        make_region(
            sample.id,
            n,
            sample.size_wh,
            str(label.category),
            label.box_xyxy or (0, 0, 0, 0),
            label.score,
            mark=SUSPECT if label.source == SUSPECTED else "",
        )
        for n, label in enumerate(boxes)
    ]
    return {
        "model_version": labels[0].source,
        "score": min(label.score for label in labels),
        "result": regions + ([_shows(sample, shown)] if shown else []),
    }


def digest(prediction: Row | None = None) -> str:
    """Name a prediction by what it says; empty for none."""
    text = json.dumps(prediction, sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()[:12] if prediction else ""


def _shows(sample: Sample, categories: Sequence[str]) -> Row:
    name = hashlib.sha256(f"{sample.id} {SHOWS}".encode()).hexdigest()[:10]
    value = {"choices": list(categories)}
    return {"id": name, "type": "choices", "from_name": SHOWS, "to_name": IMAGE, "value": value}


def make_region(
    id_: str, number: int, size_wh: tuple[int, int], category: str, box_xyxy: Box, score: float, *, mark: str = ""
) -> Row:
    """Write a box, the one of this number of the sample, as a region whose id begins with a mark."""
    width, height = size_wh
    x0, y0, x1, y1 = box_xyxy
    return {
        "id": mark + hashlib.sha256(f"{id_} {number}".encode()).hexdigest()[: 10 - len(mark)],
        "type": "rectanglelabels",
        "from_name": BOXES,
        "to_name": IMAGE,
        "original_width": width,
        "original_height": height,
        "image_rotation": 0,
        "score": score,
        "value": {
            "x": 100 * x0 / width,
            "y": 100 * y0 / height,
            "width": 100 * (x1 - x0) / width,
            "height": 100 * (y1 - y0) / height,
            "rotation": 0,
            "rectanglelabels": [category],
        },
    }


def corners(value: Row, size_wh: tuple[int, int]) -> Box | None:
    """Return the upright box around a region, in pixels and not clipped; None when it is no box."""
    try:
        x, y, w, h = (
            float(value[k]) / 100 * side for k, side in zip(("x", "y", "width", "height"), size_wh * 2, strict=True)
        )
        angle = math.radians(float(value.get("rotation") or 0))  # clockwise about the top left corner
    except (KeyError, TypeError, ValueError):
        return None
    # what was drawn from the lower right has a negative width and height
    xs = [x + dx * math.cos(angle) - dy * math.sin(angle) for dx in (0, w) for dy in (0, h)]
    ys = [y + dx * math.sin(angle) + dy * math.cos(angle) for dx in (0, w) for dy in (0, h)]
    return min(xs), min(ys), max(xs), max(ys)


def _number(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)


def check_task(task: object, categories: Sequence[str], shows: Sequence[str] = ()) -> list[str]:
    """Return all that is wrong with a task before it is sent; the server would take it.

    Args:
        task: As it would be sent.
        categories: What boxes may be of.
        shows: What images may show without a box.
    """
    if not isinstance(task, Mapping) or not isinstance(task.get("data"), Mapping):
        return ["a task is an object with data"]
    data = task["data"]
    wrong = [] if isinstance(data.get(IMAGE), str) and data[IMAGE] else [f"data.{IMAGE} must be an address"]
    if not isinstance(data.get("sample"), str) or len(data["sample"]) != 64:
        wrong.append("data.sample must be a sample id")
    size = (data.get("width"), data.get("height"))
    if not all(isinstance(side, int) and side > 0 for side in size):
        wrong.append("data.width and data.height must be positive")
    predictions = task.get("predictions", [])
    if not isinstance(predictions, list):
        return [*wrong, "predictions must be a list"]
    for number, prediction in enumerate(predictions):
        wrong += [f"predictions[{number}]{what}" for what in check_prediction(prediction, size, categories, shows)]
    return wrong


def check_prediction(
    prediction: object, size: tuple[object, object], categories: Sequence[str], shows: Sequence[str] = ()
) -> list[str]:
    """Return all that is wrong with a prediction for an image of this size."""
    if not isinstance(prediction, Mapping):
        return [" must be an object"]
    wrong = []
    if not isinstance(prediction.get("model_version"), str) or not prediction["model_version"]:
        wrong.append(".model_version must be a name")
    if not _number(prediction.get("score")) or not 0 <= prediction["score"] <= 1:
        wrong.append(".score must lie in [0, 1]")
    regions = prediction.get("result")
    if not isinstance(regions, list) or not regions:
        return [*wrong, ".result must be a list of regions"]
    names = [region.get("id") if isinstance(region, Mapping) else None for region in regions]
    for number, region in enumerate(regions):
        if isinstance(region, Mapping) and region.get("type") == "choices":
            wrong += [f".result[{number}]{what}" for what in _check_shows(region, shows)]
        else:
            wrong += [f".result[{number}]{what}" for what in _check_region(region, size, categories)]
        if names.count(names[number]) > 1:
            wrong.append(f".result[{number}].id {names[number]!r} occurs twice; one box would take the other's place")
    return wrong


def _check_shows(region: Mapping[str, Any], shows: Sequence[str]) -> list[str]:
    value = region.get("value")
    chosen = value.get("choices") if isinstance(value, Mapping) else None
    rules = {
        ".id must be a name": isinstance(region.get("id"), str) and bool(region["id"]),
        f".from_name must be {SHOWS}": region.get("from_name") == SHOWS,
        f".to_name must be {IMAGE}": region.get("to_name") == IMAGE,
        ".value.choices must be categories of the policy": isinstance(chosen, list)
        and bool(chosen)
        and all(name in shows for name in chosen),
    }
    return [rule for rule, holds in rules.items() if not holds]


def _check_region(region: object, size: tuple[object, object], categories: Sequence[str]) -> list[str]:
    if not isinstance(region, Mapping) or not isinstance(region.get("value"), Mapping):
        return [" must be an object with a value"]
    value = region["value"]
    rules = {
        ".id must be a name": isinstance(region.get("id"), str) and bool(region["id"]),
        ".type must be rectanglelabels": region.get("type") == "rectanglelabels",
        f".from_name must be {BOXES}": region.get("from_name") == BOXES,
        f".to_name must be {IMAGE}": region.get("to_name") == IMAGE,
        ".original_width and .original_height must be the image's": size
        == (region.get("original_width"), region.get("original_height")),
        ".image_rotation must be 0": region.get("image_rotation") == 0,
        ".score must lie in [0, 1]": _number(region.get("score")) and 0 <= region["score"] <= 1,
        ".value.rotation must be 0": value.get("rotation") == 0,
        ".value.rectanglelabels must be one category of the policy": isinstance(value.get("rectanglelabels"), list)
        and len(value["rectanglelabels"]) == 1
        and value["rectanglelabels"][0] in categories,
    }
    wrong = [rule for rule, holds in rules.items() if not holds]
    for start, extent in (("x", "width"), ("y", "height")):
        if not _number(value.get(start)) or not _number(value.get(extent)):
            wrong.append(f".value.{start} and .value.{extent} must be numbers")
        elif not (value[start] >= 0 and value[extent] > 0 and value[start] + value[extent] <= 100 + EPSILON):
            wrong.append(f".value.{start} and .value.{extent} must lie in the image, in percent")
    return wrong
