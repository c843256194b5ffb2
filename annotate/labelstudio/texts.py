"""Texts as Label Studio tasks, and what people said of them as claims: categories of a whole text, and of parts of it.

A text is hidden until somebody opens it. Places are characters of the text, from a start to an end that is no part.
"""

import hashlib
import xml.etree.ElementTree as ElementTree
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from tilth.annotate.boxes.draw import colour_of
from tilth.annotate.labelstudio.answers import Answer, began_with, digest_of, each_person
from tilth.annotate.labelstudio.tasks import EMPTY, ESCALATE, SHOWS, UNUSABLE, WHOLE, Row, choices
from tilth.claims import Claim, Json
from tilth.samples import Sample

TEXT, WHERE = "text", "where"  # names of the tags in the labelling interface
Span = tuple[int, int]
# of one paragraph each, in the direction of its own letters, as written
STYLE = '[class*="htx-richtext"] { unicode-bidi: plaintext; text-align: start; white-space: pre-wrap; overflow-wrap: anywhere; }'


def make_interface(categories: Sequence[tuple[str, str]]) -> str:
    """Write a labelling interface for categories, each with its definition: of the whole text, of parts, and a word about it as such."""
    view = ElementTree.Element("View")
    ElementTree.SubElement(view, "Style").text = STYLE
    choices(view, WHOLE, "single", (EMPTY, UNUSABLE, ESCALATE), TEXT)
    choices(view, SHOWS, "multiple", [name for name, _ in categories], TEXT)
    labels = ElementTree.SubElement(view, "Labels", name=WHERE, toName=TEXT)
    for name, definition in categories:
        colour = "#{:02x}{:02x}{:02x}".format(*colour_of(name))
        ElementTree.SubElement(labels, "Label", value=name, background=colour, hint=definition)
    panel = ElementTree.SubElement(ElementTree.SubElement(view, "Collapse"), "Panel", value="The text", open="false")
    # taken as it is, never as an address to fetch; and no answer repeats it
    ElementTree.SubElement(panel, "Text", name=TEXT, value=f"${TEXT}", valueType="text", saveTextResult="no")
    return ElementTree.tostring(view, encoding="unicode")


def make_task(sample: Sample, why: str = "") -> Row:
    """Write a text as a task, its labels as a prediction of whoever made them."""
    prediction = make_prediction(sample)
    return {
        "data": {TEXT: sample.text(), "sample": sample.id, "why": why},
        "predictions": [prediction] if prediction else [],
    }


def make_prediction(sample: Sample) -> Row:
    """Write the labels of a text as a prediction; empty when there are none."""
    labels = sample.truth.labels
    if not labels:
        return {}
    spans = [(str(label.category), (int(label.span[0]), int(label.span[1]))) for label in labels if label.span]
    return {
        "model_version": labels[0].source,
        "score": min(label.score for label in labels),
        "result": make_regions(sample.id, {str(label.category) for label in labels if not label.span}, spans),
    }


def make_regions(id_: str, whole: set[str], spans: Sequence[tuple[str, Span]]) -> list[Row]:
    """Write categories of a whole text and of parts of it as regions."""
    found: list[Row] = []
    if whole:
        value: Row = {"choices": sorted(whole)}
        found.append({"id": _name(id_, SHOWS), "type": "choices", "from_name": SHOWS, "to_name": TEXT, "value": value})
    for number, (category, (start, end)) in enumerate(spans):
        value = {"start": start, "end": end, "labels": [category]}
        found.append(
            {"id": _name(id_, str(number)), "type": "labels", "from_name": WHERE, "to_name": TEXT, "value": value}
        )
    return found


def _name(id_: str, part: str) -> str:
    return hashlib.sha256(f"{id_} {part}".encode()).hexdigest()[:10]


def check_task(task: object, categories: Sequence[str]) -> list[str]:
    """Return all that is wrong with a task before it is sent, without a word of its text; the server would take it."""
    if not isinstance(task, Mapping) or not isinstance(task.get("data"), Mapping):
        return ["a task is an object with data"]
    data, predictions = task["data"], task.get("predictions", [])
    text = data.get(TEXT)
    wrong = [] if isinstance(text, str) and text else [f"data.{TEXT} must be a text"]
    if not isinstance(data.get("sample"), str) or len(data["sample"]) != 64:
        wrong.append("data.sample must be a sample id")
    if not isinstance(predictions, list):
        return [*wrong, "predictions must be a list"]
    size = len(text) if isinstance(text, str) else 0
    for number, prediction in enumerate(predictions):
        wrong += [f"predictions[{number}]{what}" for what in check_prediction(prediction, size, categories)]
    return wrong


def check_prediction(prediction: object, characters: object, categories: Sequence[str]) -> list[str]:
    """Return all that is wrong with a prediction for a text of so many characters."""
    if not isinstance(prediction, Mapping) or not isinstance(prediction.get("result"), list):
        return [" must be an object with a list of regions as its result"]
    score = prediction.get("score")
    wrong = [] if isinstance(score, int | float) and 0 <= score <= 1 else [".score must lie in [0, 1]"]
    if not prediction.get("model_version"):
        wrong.append(".model_version must be a name")
    for number, region in enumerate(prediction["result"]):
        named, span = _of_region(region)
        if not named or not set(named) <= set(categories):
            wrong.append(f".result[{number}] must be of categories of the policy")
        if region.get("type") == "labels" and not _within(span, characters):
            wrong.append(f".result[{number}].value.start and end must lie in the text")
    return wrong


def _within(span: Span | None, characters: object) -> bool:
    return span is not None and isinstance(characters, int) and 0 <= span[0] < span[1] <= characters


def _of_region(region: Mapping[str, Any]) -> tuple[list[str], Span | None]:
    """Return the names of a region, and where it is; nowhere when it says no whole characters."""
    value = region["value"]
    named = value.get("labels") if region.get("type") == "labels" else value.get("choices")
    place = value.get("start"), value.get("end")
    span = (place[0], place[1]) if all(type(end) is int for end in place) else None
    return [str(name) for name in named or []], span


@dataclass
class _Reading:
    spans: list[tuple[str, Span, str]] = field(default_factory=list)  # category, place, name of the region
    shows: set[str] = field(default_factory=set)
    said: set[str] = field(default_factory=set)
    odd: list[str] = field(default_factory=list)
    unread: set[str] = field(default_factory=set)  # categories of what could not be read; an empty one may be any


def _read(regions: Sequence[Row], characters: int, categories: Sequence[str]) -> _Reading:
    reading = _Reading()
    for region in regions:
        if region.get("type") not in ("choices", "labels"):
            reading.odd.append("region that is neither a choice nor a part of the text")
            reading.unread.add("")
            continue
        named, span = _of_region(region)
        if region.get("from_name") == WHOLE:
            reading.said |= set(named)
            continue
        for name in named:
            if name not in categories:
                reading.odd.append("category that the policy does not have")
            elif region["type"] == "choices":
                reading.shows.add(name)
                continue
            elif span is not None and _within(span, characters):
                reading.spans.append((name, span, str(region.get("id"))))
                continue
            else:
                reading.odd.append("part that is not within the text")
            reading.unread.add(name if name in categories else "")
    return reading


def read_answers(task: Row, characters: int, categories: Sequence[str], round_: int, policy: str) -> list[Answer]:
    """Read the newest annotation of each person about a text.

    Args:
        task: As the server lists it, with annotations and predictions.
        characters: Of the text; people can edit what a task says of it.
        categories: That people were asked for.
        round_: Number of this review.
        policy: Whose categories these are.
    """
    return each_person(task, lambda who, said: _answer(who, said, task, characters, categories, round_, policy))


def _answer(
    who: str, annotation: Row, task: Row, characters: int, categories: Sequence[str], round_: int, policy: str
) -> Answer:
    spent, name = float(annotation.get("lead_time") or 0.0), digest_of(annotation)
    # a skipped task keeps the whole prediction as its result; nobody has agreed to it
    if annotation.get("was_cancelled"):
        return Answer(who=who, seconds=spent, note="skipped", digest=name)
    reading = _read(annotation.get("result") or [], characters, categories)
    shown = _read(began_with(annotation, task), characters, categories)
    did, actions = _compare(reading, shown)
    marked = {category for category, _, _ in reading.spans}
    named, before = reading.shows | marked, shown.shows | {category for category, _, _ in shown.spans}
    note = ""
    if len(reading.said) > 1 or ((named or reading.unread) and reading.said & {EMPTY, UNUSABLE}):
        note = "contradicts itself"
    elif not named and not reading.said:
        note = "cannot be read" if reading.unread else "says nothing"
    if not note:
        actions += ["reject"] * (UNUSABLE in reading.said) + ["confirm_empty"] * (EMPTY in reading.said)
    # of what was said in a way that cannot be read nobody knows that it is absent
    asked = tuple(each for each in categories if each in named or not reading.unread & {each, ""})
    whole: dict[str, Json] = {
        "round": round_,
        "actions": list(actions),
        "seconds": spent,
        "annotation": int(annotation.get("id") or 0),
    }
    empty = Claim(says="empty", source=f"human:labelstudio-{who}", evidence=whole, asked=asked, policy=policy)
    labels = [
        replace(empty, says="label", category=category, span=span, evidence={**whole, "action": action})
        for (category, span, _), action in zip(reading.spans, did, strict=True)
    ]
    labels += [replace(empty, says="label", category=each) for each in sorted(reading.shows - marked)]
    claims = tuple(labels) or (replace(empty, says="reject") if UNUSABLE in reading.said else empty,)
    if ESCALATE in reading.said:  # what is escalated may be half labelled
        claims = (replace(empty, says="escalate"),)
    return Answer(
        who=who,
        claims=() if note else claims,
        actions=tuple(actions),
        seconds=spent,
        note=note,
        odd=tuple(reading.odd),
        digest=name,
        before=(len(named & before), len(before), len(named)),
    )


def _compare(reading: _Reading, shown: _Reading) -> tuple[list[str], list[str]]:
    """Say what was done to get each span, and all that was done: to spans, which keep their names, and to choices."""
    before = {name: (category, span) for category, span, name in shown.spans}
    did = []
    for category, span, name in reading.spans:
        if name not in before:
            did.append("draw")
            continue
        was, place = before.pop(name)
        did.append("+".join(["relabel"] * (category != was) + ["edit"] * (span != place)) or "accept")
    actions = [*(each for one in did for each in one.split("+")), *["reject"] * len(before)]
    actions += ["accept"] * len(reading.shows & shown.shows) + ["reject"] * len(shown.shows - reading.shows)
    return did, actions + ["relabel"] * len(reading.shows - shown.shows)
