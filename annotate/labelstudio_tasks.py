"""Samples as Label Studio tasks, and its annotations as claims; everything is checked, as the server checks nothing.

Label Studio counts in percent of the image from its top left corner, and its tasks show the image upright.
"""

import hashlib
import math
import xml.etree.ElementTree as ElementTree
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from tilth.annotate.draw import colour_of
from tilth.claims import Claim, Json
from tilth.geometry import Box, iou
from tilth.policy import Policy
from tilth.samples import Sample

BOXES, WHOLE, IMAGE = "boxes", "whole", "image"  # names of the tags in the labelling interface
EMPTY, UNUSABLE = "confirmed empty", "unusable"
SAME_IOU = 0.99  # less means that a person has moved the box
EPSILON = 1e-6  # percent

Row = dict[str, Any]


def make_config(policy: Policy) -> str:
    """Write the labelling interface of a policy: boxes of its pictured categories, and a word about the whole image."""
    return make_interface([(category.name, category.definition) for category in policy.pictured])


def make_interface(categories: Sequence[tuple[str, str]]) -> str:
    """Write the labelling interface of categories, each with its definition."""
    view = ElementTree.Element("View")
    ElementTree.SubElement(view, "Image", name=IMAGE, value=f"${IMAGE}", zoom="true", zoomControl="true")
    boxes = ElementTree.SubElement(view, "RectangleLabels", name=BOXES, toName=IMAGE)
    for name, definition in categories:
        colour = "#{:02x}{:02x}{:02x}".format(*colour_of(name))
        ElementTree.SubElement(boxes, "Label", value=name, background=colour, hint=definition)
    choices = ElementTree.SubElement(view, "Choices", name=WHOLE, toName=IMAGE, choice="single", showInLine="true")
    for value in (EMPTY, UNUSABLE):
        ElementTree.SubElement(choices, "Choice", value=value)
    return ElementTree.tostring(view, encoding="unicode")


def make_task(sample: Sample, image_url: str, why: str = "") -> Row:
    """Write a sample as a task, its labels as a prediction of whoever made them."""
    width, height = sample.size_wh
    labels = [label for label in sample.truth.labels if label.box_xyxy is not None]
    task: Row = {
        "data": {IMAGE: image_url, "sample": sample.id, "width": width, "height": height, "why": why},
        "predictions": [],
    }
    if labels:
        task["predictions"].append(
            {
                "model_version": labels[0].source,
                "score": min(label.score for label in labels),
                "result": [
                    make_region(
                        sample.id, n, sample.size_wh, str(label.category), label.box_xyxy or (0, 0, 0, 0), label.score
                    )
                    for n, label in enumerate(labels)
                ],
            }
        )
    return task


def make_region(id_: str, number: int, size_wh: tuple[int, int], category: str, box_xyxy: Box, score: float) -> Row:
    """Write a box, the one of this number of the sample, as a region."""
    width, height = size_wh
    x0, y0, x1, y1 = box_xyxy
    return {
        "id": hashlib.sha256(f"{id_} {number}".encode()).hexdigest()[:10],
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


def _number(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)


def check_task(task: object, categories: Sequence[str]) -> list[str]:
    """Return all that is wrong with a task before it is sent; the server would take it."""
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
        wrong += [f"predictions[{number}]{what}" for what in _check_prediction(prediction, size, categories)]
    return wrong


def _check_prediction(prediction: object, size: tuple[object, object], categories: Sequence[str]) -> list[str]:
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
        wrong += [f".result[{number}]{what}" for what in _check_region(region, size, categories)]
        if names.count(names[number]) > 1:
            wrong.append(f".result[{number}].id {names[number]!r} occurs twice; one box would take the other's place")
    return wrong


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


@dataclass(frozen=True, kw_only=True)
class Answer:
    """What one person said about one image.

    Args:
        who: Number of the person.
        claims: What stands; none when the person skipped the image or contradicts themself.
        actions: What they did to the shown boxes.
        seconds: How long the image was open.
        note: Why there are no claims: `skipped`, `says nothing`, `contradicts itself`.
        odd: Oddities of single boxes.
    """

    who: str
    claims: tuple[Claim, ...] = ()
    actions: tuple[str, ...] = ()
    seconds: float = 0.0
    note: str = ""
    odd: tuple[str, ...] = ()


@dataclass
class _Reading:
    boxes: list[tuple[str, Box, str]] = field(default_factory=list)  # category, box, region id
    said: set[str] = field(default_factory=set)
    odd: list[str] = field(default_factory=list)


def read_answers(task: Row, categories: Sequence[str], round_: int) -> list[Answer]:
    """Read the newest annotation of each person.

    Args:
        task: As the server lists it, with annotations and predictions.
        categories: The pictured categories; boxes of others are odd.
        round_: Number of this review.
    """
    newest: dict[str, Row] = {}
    for annotation in sorted(task.get("annotations") or [], key=lambda a: str(a.get("updated_at"))):
        newest[_who(annotation)] = annotation
    size = (int(task["data"]["width"]), int(task["data"]["height"]))
    return [_answer(who, a, task, size, categories, round_) for who, a in sorted(newest.items())]


def _who(annotation: Row) -> str:
    who = annotation.get("completed_by")
    return str(who.get("id") if isinstance(who, dict) else who)


def _answer(
    who: str, annotation: Row, task: Row, size: tuple[int, int], categories: Sequence[str], round_: int
) -> Answer:
    spent = float(annotation.get("lead_time") or 0.0)
    # a skipped task keeps the whole prediction as its result; nobody has agreed to it
    if annotation.get("was_cancelled"):
        return Answer(who=who, seconds=spent, note="skipped")
    reading = _read(annotation.get("result") or [], size, categories)
    shown = _shown(annotation, task, size, categories)
    actions = _actions(reading.boxes, shown)
    if len(reading.said) > 1 or (reading.said and reading.boxes):
        return Answer(who=who, actions=tuple(actions), seconds=spent, note="contradicts itself", odd=tuple(reading.odd))
    if UNUSABLE in reading.said:
        actions.append("reject")
    elif EMPTY in reading.said:
        actions.append("confirm_empty")
    elif not reading.boxes:
        return Answer(who=who, actions=tuple(actions), seconds=spent, note="says nothing", odd=tuple(reading.odd))
    source = f"human:labelstudio-{who}"
    whole: dict[str, Json] = {
        "round": round_,
        "actions": list(actions),
        "seconds": spent,
        "annotation": int(annotation.get("id") or 0),
    }
    claims = [Claim(category=c, box_xyxy=b, source=source, evidence=whole) for c, b, _ in reading.boxes]
    if not claims:
        claims = [Claim(says="reject" if UNUSABLE in reading.said else "empty", source=source, evidence=whole)]
    return Answer(who=who, claims=tuple(claims), actions=tuple(actions), seconds=spent, odd=tuple(reading.odd))


def _read(regions: list[Row], size: tuple[int, int], categories: Sequence[str]) -> _Reading:
    reading = _Reading()
    for region in regions:
        value = region.get("value") or {}
        if region.get("type") == "choices":
            reading.said |= set(value.get("choices") or [])
        elif region.get("type") == "rectanglelabels":
            names = value.get("rectanglelabels") or []
            box = _box(value, size)
            if len(names) != 1 or names[0] not in categories or box is None:
                reading.odd.append("box without a place in the image or a category of the policy")
                continue
            if value.get("rotation"):
                reading.odd.append("turned box, taken as the upright box around it")
            reading.boxes.append((names[0], box, str(region.get("id"))))
    return reading


def corners(value: Row, size_wh: tuple[int, int]) -> Box | None:
    """Return the upright box around a region, in pixels and not clipped; None when it is no box."""
    try:
        x, y, w, h = (
            float(value[k]) / 100 * side for k, side in zip(("x", "y", "width", "height"), size_wh * 2, strict=True)
        )
        angle = math.radians(float(value.get("rotation") or 0))  # clockwise about the top left corner
    except (KeyError, TypeError, ValueError):
        return None
    if not angle:
        return x, y, x + w, y + h
    xs = [x + dx * math.cos(angle) - dy * math.sin(angle) for dx in (0, w) for dy in (0, h)]
    ys = [y + dx * math.sin(angle) + dy * math.cos(angle) for dx in (0, w) for dy in (0, h)]
    return min(xs), min(ys), max(xs), max(ys)


def _box(value: Row, size: tuple[int, int]) -> Box | None:
    around = corners(value, size)
    if around is None or not all(map(math.isfinite, around)):
        return None
    x0, x1 = max(0.0, around[0]), min(float(size[0]), around[2])
    y0, y1 = max(0.0, around[1]), min(float(size[1]), around[3])
    return (x0, y0, x1, y1) if x0 < x1 and y0 < y1 else None


def _shown(annotation: Row, task: Row, size: tuple[int, int], categories: Sequence[str]) -> list[tuple[str, Box, str]]:
    """Return the boxes that the person began with: those of the prediction the annotation names, else of the only one."""
    predictions = task.get("predictions") or []
    parent = annotation.get("parent_prediction")
    chosen = [p for p in predictions if p.get("id") == parent] or predictions[:1]
    return _read(chosen[0].get("result") or [], size, categories).boxes if chosen else []


def _actions(boxes: list[tuple[str, Box, str]], shown: list[tuple[str, Box, str]]) -> list[str]:
    """Compare what is there with what was shown; regions keep their ids while a person works on them."""
    before = {name: (category, box) for category, box, name in shown}
    actions = []
    for category, box, name in boxes:
        if name not in before:
            actions.append("draw")
            continue
        was, place = before.pop(name)
        moved = float(iou(np.array([box]), np.array([place]))[0, 0]) < SAME_IOU
        renamed = category != was
        actions += ["relabel"] * renamed + ["edit"] * moved + ["accept"] * (not renamed and not moved)
    return [*actions, *["reject"] * len(before)]
