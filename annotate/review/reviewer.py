"""A reviewer who knows the truth, works action by action as a person does, and errs at a given rate.

The same function labels a random image from nothing, so that a loop and its baseline pay the same price for the same work.
"""

import hashlib
import json
from collections.abc import Container, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from tilth.annotate.review.effort import seconds
from tilth.claims import Claim, Json
from tilth.errors import InputError
from tilth.geometry import Box, iou
from tilth.samples import SUSPECTED

SOURCE = "human:simulated"
ACCEPT_IOU = 0.8  # a box that fits less well is moved
EDIT_IOU = 0.3  # a box that fits less well is not worth moving
RELABEL_IOU = 0.5  # a box of another category that fits so well shows the right thing under the wrong name

TruthBox = tuple[str, Box]


@dataclass(frozen=True, kw_only=True)
class Reviewed:
    """What a review of one image gave and cost.

    Args:
        claims: What the person says, each with the actions and seconds of the whole image in its evidence.
        actions: In the order of the work.
        right: How many of the shown boxes were right: same category, IoU at least 0.5.
        shown: Number of boxes shown.
        present: Number of boxes there are.
    """

    claims: tuple[Claim, ...]
    actions: tuple[str, ...]
    right: int = 0
    shown: int = 0
    present: int = 0

    @property
    def seconds(self) -> float:
        """How long it took."""
        return seconds(self.actions)


@dataclass(frozen=True, kw_only=True)
class _Slip:
    """What goes wrong with one box: `missed`, `misnamed`, `misplaced`, or nothing."""

    kind: str = ""
    category: str = ""
    box: Box = (0, 0, 0, 0)


def label_by_truth(
    sample_id: str,
    truth: Sequence[TruthBox],
    shown: Sequence[Claim] = (),
    *,
    categories: Sequence[str],
    error_rate: float = 0.02,
    seed: int = 0,
    round_: int = 1,
    source: str = SOURCE,
    policy: str = "",
) -> Reviewed:
    """Label an image as a person would who sees the truth, given the boxes that are shown to begin with.

    Errors depend on the seed, the image and its truth alone, so that they strike alike whatever is shown.

    Args:
        sample_id: Id of the image.
        truth: `(category, box)` of everything that is there.
        shown: Boxes to correct; none means labelling from nothing, where each box is drawn.
        categories: What the person looks for, and can take a thing for.
        error_rate: Chance of a mistake for each thing, and of keeping a box that is wrong.
        seed: Of the errors.
        round_: Number of the review, which replaces what earlier ones by the same source say of the same categories.
        source: Who says so.
        policy: Whose categories these are.
    """
    truth = sorted(truth)
    boxes = [claim for claim in shown if claim.says == "label" and claim.box_xyxy is not None]
    same, other = _match(truth, boxes)
    slips = _slips(sample_id, truth, categories, error_rate, seed)
    chance = np.random.default_rng(_number("kept", seed, sample_id))
    labels: list[tuple[TruthBox, str]] = []
    actions: list[str] = []
    for index, ((category, box), slip) in enumerate(zip(truth, slips, strict=True)):
        partner = boxes[same[index]] if index in same else boxes[other[index]] if index in other else None
        if slip.kind == "missed":
            actions += ["reject"] if partner else []
            continue
        done = _correct((slip.category or category, slip.box if slip.kind == "misplaced" else box), box, partner)
        labels.append((done[0], "+".join(done[1])))
        actions += done[1]
    for index in sorted(set(range(len(boxes))) - set(same.values()) - set(other.values())):
        kept = chance.random() < error_rate
        actions.append("accept" if kept else "reject")
        if kept:
            labels.append(((str(boxes[index].category), boxes[index].box_xyxy or (0, 0, 1, 1)), "accept"))
    if not labels:
        actions.append("confirm_empty")
    whole: dict[str, Json] = {"round": round_, "actions": actions, "seconds": seconds(actions)}
    say = partial(Claim, source=source, asked=tuple(categories), policy=policy)
    claims = [say(category=c, box_xyxy=b, evidence={**whole, "action": did}) for (c, b), did in labels] or [
        say(says="empty", evidence={**whole, "action": "confirm_empty"})
    ]
    said = [
        claim for claim in boxes if claim.source != SUSPECTED
    ]  # what is suspected is nobody's label, right or wrong
    return Reviewed(
        claims=tuple(claims), actions=tuple(actions), right=_right(truth, said), shown=len(said), present=len(truth)
    )


def _correct(label: TruthBox, true_box: Box, partner: Claim | None) -> tuple[TruthBox, list[str]]:
    """Return the label that results and the actions it took."""
    category, box = label
    if partner is None or partner.box_xyxy is None:
        return label, ["draw"]
    actions = ["relabel"] if partner.category != category else []
    if _iou(partner.box_xyxy, true_box) >= ACCEPT_IOU:
        return (category, partner.box_xyxy), actions or ["accept"]
    return (category, box), [*actions, "edit"]


def _iou(a: Box, b: Box) -> float:
    return float(iou(np.array([a]), np.array([b]))[0, 0])


def _match(truth: Sequence[TruthBox], boxes: Sequence[Claim]) -> tuple[dict[int, int], dict[int, int]]:
    """Pair true boxes with shown ones, best first: those of the same category, then of another."""
    pairs = sorted(
        ((_iou(box, claim.box_xyxy or box), t, s) for t, (_, box) in enumerate(truth) for s, claim in enumerate(boxes)),
        key=lambda pair: (-pair[0], pair[1], pair[2]),
    )
    same: dict[int, int] = {}
    other: dict[int, int] = {}
    for which, least, alike in ((same, EDIT_IOU, True), (other, RELABEL_IOU, False)):
        for overlap, t, s in pairs:
            free = t not in same and t not in other and s not in same.values() and s not in other.values()
            if free and overlap >= least and (truth[t][0] == boxes[s].category) == alike:
                which[t] = s
    return same, other


def _right(truth: Sequence[TruthBox], boxes: Sequence[Claim]) -> int:
    same, _ = _match(truth, boxes)
    return sum(_iou(truth[t][1], boxes[s].box_xyxy or truth[t][1]) >= 0.5 for t, s in same.items())


def _number(*parts: object) -> int:
    return int.from_bytes(hashlib.sha256("\n".join(map(str, parts)).encode()).digest()[:8], "big")


def _slips(sample_id: str, truth: Sequence[TruthBox], names: Sequence[str], rate: float, seed: int) -> list[_Slip]:
    rng = np.random.default_rng(_number("slips", seed, sample_id))
    slips = []
    for category, (x0, y0, x1, y1) in truth:
        errs, kind, pick, side = rng.random() < rate, int(rng.integers(3)), rng.random(), rng.choice([-1.0, 1.0])
        others = [name for name in names if name != category]
        if not errs:
            slips.append(_Slip())
        elif kind == 0:
            slips.append(_Slip(kind="missed"))
        elif kind == 1 and others:
            slips.append(_Slip(kind="misnamed", category=others[int(pick * len(others))]))
        else:
            # a fifth of the width and height off: IoU 0.47, as of a hasty box; inwards where the image may end
            dx, dy = (0.2 * (x1 - x0), 0.2 * (y1 - y0))
            box = (x0 + dx, y0 + dy, x1, y1) if side > 0 else (x0, y0, x1 - dx, y1 - dy)
            slips.append(_Slip(kind="misplaced", box=box))
    return slips


def read_truth(path: Path, wanted: Container[str] | None = None) -> dict[str, tuple[TruthBox, ...]]:
    """Read `{"id": …, "labels": [{"category": …, "box_xyxy": …}]}` lines.

    Args:
        path: The file.
        wanted: Only these ids; all when None.

    Raises:
        InputError: A line is not of this form.
    """
    found = {}
    for number, row in _lines(path):
        try:
            if wanted is None or row["id"] in wanted:
                found[str(row["id"])] = tuple(_truth_box(label) for label in row["labels"])
        except (KeyError, TypeError, ValueError) as error:
            raise InputError(f"{path}:{number}: needs id and labels with category and box_xyxy: {error!r}") from error
    return found


def read_made_truth(path: Path) -> dict[str, str]:
    """Read `{"id": …, "category": …}` lines; a made image without a category shows nothing of the policy, as "".

    Raises:
        InputError: A line is not of this form.
    """
    found = {}
    for number, row in _lines(path):
        if "id" not in row:
            raise InputError(f"{path}:{number}: needs id and category")
        found[str(row["id"])] = str(row.get("category") or "")
    return found


def _lines(path: Path) -> Iterable[tuple[int, Mapping[str, Any]]]:
    if not path.is_file():
        raise InputError(f"{path}: no such file")
    with path.open(encoding="utf-8") as stream:
        for number, line in enumerate(stream, 1):
            try:
                row = json.loads(line)
            except ValueError as error:
                raise InputError(f"{path}:{number}: not a line of JSON") from error
            if not isinstance(row, dict):
                raise InputError(f"{path}:{number}: not a JSON object")
            yield number, row


def _truth_box(label: Mapping[str, Any]) -> TruthBox:
    x0, y0, x1, y1 = (float(v) for v in label["box_xyxy"])
    return str(label["category"]), (x0, y0, x1, y1)


def label_made(
    sample_id: str,
    category: str,
    shown: Sequence[Claim],
    *,
    categories: Sequence[str] = (),
    error_rate: float = 0.02,
    seed: int = 0,
    round_: int = 1,
    source: str = SOURCE,
    policy: str = "",
) -> Reviewed:
    """Review a made image of which only the category is known: keep its best box, reject the rest.

    It was made to show one thing, and whoever looks at it sees all of it: what is not kept is absent. An image that shows its
    category where no box is, is rejected: the truth of its place is not known.

    Args:
        sample_id: Id of the image.
        category: What it shows; empty for nothing of the policy.
        shown: Boxes to judge.
        categories: What the person looks for.
        error_rate: Chance of taking the wrong decision about a box.
        seed: Of the errors.
        round_: Number of the review.
        source: Who says so.
        policy: Whose categories these are.
    """
    boxes = [claim for claim in shown if claim.says == "label" and claim.box_xyxy is not None]
    best = max((c for c in boxes if c.category == category), key=lambda c: c.score, default=None)
    rng = np.random.default_rng(_number("made", seed, sample_id))
    kept = [claim for claim in boxes if (claim is best) != (rng.random() < error_rate)]
    actions = ["accept" if claim in kept else "reject" for claim in boxes]
    says = "label" if kept else "reject" if category else "empty"
    actions += [] if kept else ["reject"] if category else ["confirm_empty"]
    whole: dict[str, Json] = {"round": round_, "actions": actions, "seconds": seconds(actions)}
    say = partial(Claim, source=source, evidence=whole, asked=tuple(categories), policy=policy)
    claims = [say(category=c.category, box_xyxy=c.box_xyxy) for c in kept]
    if says == "reject":
        claims = [say(says="reject")]
    elif says == "empty":
        claims = [say(says="empty")]
    right = int(best is not None)
    return Reviewed(
        claims=tuple(claims), actions=tuple(actions), right=right, shown=len(boxes), present=int(bool(category))
    )
