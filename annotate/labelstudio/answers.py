"""What people said in Label Studio as claims, and what became of each box that they were shown."""

import hashlib
import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from functools import partial

import numpy as np

from tilth.annotate.labelstudio.regions import in_pixels, read_result
from tilth.annotate.labelstudio.tasks import EMPTY, ESCALATE, SUSPECT, UNUSABLE, Row
from tilth.claims import SAME_BOX_IOU, Claim, Json
from tilth.geometry import Box, iou

SAME_IOU = 0.99  # less means that a person has moved the box
Named = tuple[str, Box, str]  # category, box, name of the region


@dataclass(frozen=True, kw_only=True)
class Answer:
    """What one person said about one image.

    Args:
        who: Number of the person.
        claims: What stands; none when the person skipped the image or contradicts themself.
        actions: What they did to the shown boxes: accept (kept), edit (moved), relabel, draw (added), reject (removed).
        seconds: How long the image was open.
        note: Why there are no claims: `skipped`, `says nothing`, `contradicts itself`, `cannot be read`.
        odd: Oddities of single boxes.
        digest: Changes when the person changes their answer.
        removed: Category and place of each shown box that is gone.
        before: How many of the shown boxes were right, how many were shown, and how many there are.
    """

    who: str
    claims: tuple[Claim, ...] = ()
    actions: tuple[str, ...] = ()
    seconds: float = 0.0
    note: str = ""
    odd: tuple[str, ...] = ()
    digest: str = ""
    removed: tuple[tuple[str, Box], ...] = ()
    before: tuple[int, int, int] = (0, 0, 0)


@dataclass
class _Reading:
    boxes: list[Named] = field(default_factory=list)
    shows: set[str] = field(default_factory=set)
    said: set[str] = field(default_factory=set)
    odd: list[str] = field(default_factory=list)
    unread: set[str] = field(default_factory=set)  # categories of what could not be read; an empty one may be any


def read_answers(
    task: Row, categories: Sequence[str], round_: int, shows: Sequence[str] = (), policy: str = ""
) -> list[Answer]:
    """Read the newest annotation of each person.

    Args:
        task: As the server lists it, with annotations and predictions.
        categories: The pictured categories; boxes of others are odd.
        round_: Number of this review.
        shows: The categories that an image can show without a box; others are odd.
        policy: Whose categories these are.
    """
    return each_person(task, lambda who, said: _answer(who, said, task, categories, round_, shows, policy))


def each_person(task: Row, read: Callable[[str, Row], Answer]) -> list[Answer]:
    """Read the newest annotation of each person by a function of the person and the annotation."""
    newest: dict[str, Row] = {}
    for annotation in sorted(task.get("annotations") or [], key=lambda a: str(a.get("updated_at"))):
        newest[who_said(annotation)] = annotation
    answers = []
    for who, annotation in sorted(newest.items()):
        try:
            answers.append(read(who, annotation))
        except (TypeError, ValueError, KeyError, AttributeError):  # the server keeps whatever a program sends it
            answers.append(Answer(who=who, note="cannot be read", digest=digest_of(annotation)))
    return answers


def who_said(annotation: Row) -> str:
    """Return the number of the person."""
    who = annotation.get("completed_by")
    return str(who.get("id") if isinstance(who, dict) else who)


def _answer(
    who: str, annotation: Row, task: Row, categories: Sequence[str], round_: int, shows: Sequence[str], policy: str
) -> Answer:
    size = (int(task["data"]["width"]), int(task["data"]["height"]))
    spent = float(annotation.get("lead_time") or 0.0)
    name = digest_of(annotation)
    # a skipped task keeps the whole prediction as its result; nobody has agreed to it
    if annotation.get("was_cancelled"):
        return Answer(who=who, seconds=spent, note="skipped", digest=name)
    reading = _read(annotation.get("result") or [], size, categories, shows)
    shown = _shown(annotation, task, size, categories)
    did, removed = _compare(reading.boxes, shown)
    labels = [
        one for one in shown if not one[2].startswith(SUSPECT)
    ]  # what is suspected is nobody's label, right or wrong
    actions = [*(each for one in did for each in one.split("+")), *["reject"] * len(removed)]
    note = _note(reading)
    if not note:
        actions += ["reject"] * (UNUSABLE in reading.said) + ["confirm_empty"] * (EMPTY in reading.said)
    whole: dict[str, Json] = {
        "round": round_,
        "actions": list(actions),
        "seconds": spent,
        "annotation": int(annotation.get("id") or 0),
    }
    # the interface offers all of them: those with boxes, and those that can be shown without
    asked = tuple(dict.fromkeys((*shows, *categories)))
    # of what was said in a way that cannot be read nobody knows that it is absent
    named = {*reading.shows, *(category for category, _, _ in reading.boxes)}
    asked = tuple(name for name in asked if name in named or not reading.unread & {name, ""})
    said = Claim(says="empty", source=f"human:labelstudio-{who}", evidence=whole, asked=asked, policy=policy)
    claims = _claims(reading, did, said)
    return Answer(
        who=who,
        claims=() if note else claims,
        actions=tuple(actions),
        seconds=spent,
        note=note,
        odd=tuple(reading.odd),
        digest=name,
        removed=tuple(removed),
        before=(_right(reading.boxes, labels), len(labels), len(reading.boxes)),
    )


def digest_of(annotation: Row) -> str:
    """Name what a person said; another answer has another name."""
    said = [annotation.get("id"), bool(annotation.get("was_cancelled")), annotation.get("result") or []]
    return hashlib.sha256(json.dumps(said, sort_keys=True).encode()).hexdigest()[:12]


def _note(reading: _Reading) -> str:
    labels = bool(reading.boxes or reading.shows)
    # what is escalated may be half labelled
    if len(reading.said) > 1 or ((labels or reading.unread) and reading.said & {EMPTY, UNUSABLE}):
        return "contradicts itself"
    return "" if labels or reading.said else "cannot be read" if reading.unread else "says nothing"


def _claims(reading: _Reading, did: Sequence[str], empty: Claim) -> tuple[Claim, ...]:
    """Return the claims of a reading, given what it would be if it said that nothing is there."""
    if ESCALATE in reading.said:
        return (replace(empty, says="escalate"),)
    label = partial(replace, empty, says="label")
    claims = [
        label(category=category, box_xyxy=box, evidence={**empty.evidence, "action": action})
        for (category, box, _), action in zip(reading.boxes, did, strict=True)
    ]
    boxed = {category for category, _, _ in reading.boxes}
    claims += [label(category=name) for name in sorted(reading.shows - boxed)]
    return tuple(claims) or (replace(empty, says="reject") if UNUSABLE in reading.said else empty,)


def _read(regions: list[Row], size: tuple[int, int], categories: Sequence[str], shows: Sequence[str]) -> _Reading:
    found = read_result(regions, size)
    reading = _Reading(said=found.said, odd=[*(label.kind for label in found.left_out), *found.notes])
    reading.unread = {label.category for label in found.left_out}
    for region in found.regions:
        category, box = region.label.category, in_pixels(region.label, size)
        if region.label.box_xyxy is None:
            if category in shows:
                reading.shows.add(category)
                continue
            reading.odd.append("category that the policy does not have")
        elif category in categories and box is not None:
            reading.boxes.append((category, box, region.id))
            continue
        else:
            reading.odd.append("box without a place in the image or a category of the policy")
        reading.unread.add(category if category in (*categories, *shows) else "")
    return reading


def _shown(annotation: Row, task: Row, size: tuple[int, int], categories: Sequence[str]) -> list[Named]:
    """Return the boxes that the person began with."""
    return _read(began_with(annotation, task), size, categories, ()).boxes


def began_with(annotation: Row, task: Row) -> list[Row]:
    """Return the regions of the prediction that an annotation names, or else of the newest when it was begun; none when there was none."""
    predictions = task.get("predictions") or []
    parent, began = annotation.get("parent_prediction"), str(annotation.get("created_at") or "~")
    earlier = [p for p in predictions if str(p.get("created_at") or "") <= began]
    chosen = [p for p in predictions if p.get("id") == parent] or sorted(
        earlier, key=lambda p: str(p.get("created_at") or ""), reverse=True
    )
    return list(chosen[0].get("result") or []) if chosen else []


def _compare(boxes: list[Named], shown: list[Named]) -> tuple[list[str], list[tuple[str, Box]]]:
    """Say what was done to get each box, and which shown ones are gone; regions keep their ids while they are worked on."""
    before = {name: (category, box) for category, box, name in shown}
    did = []
    for category, box, name in boxes:
        if name not in before:
            did.append("draw")
            continue
        was, place = before.pop(name)
        moved = float(iou(np.array([box]), np.array([place]))[0, 0]) < SAME_IOU
        did.append("+".join(["relabel"] * (category != was) + ["edit"] * moved) or "accept")
    return did, list(before.values())


def _right(boxes: list[Named], shown: list[Named]) -> int:
    """Count the shown boxes that have a box of their own category and place in the end."""
    free, right = list(boxes), 0
    for category, place, _ in shown:
        partner = next(
            (b for b in free if b[0] == category and iou(np.array([b[1]]), np.array([place]))[0, 0] >= SAME_BOX_IOU),
            None,
        )
        if partner is not None:
            free.remove(partner)
            right += 1
    return right
