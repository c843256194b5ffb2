"""Which images get another face: those whose face is covered by a consent, or belongs to nobody. All others are named, with the reason."""

import hashlib
import json
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace

import numpy as np

from tilth.claims import Answer, Claim, Json
from tilth.data.where import both, one_of
from tilth.engine.work import Work
from tilth.geometry import Box, areas, intersections, iou_of
from tilth.origins.packet import MADE
from tilth.origins.said import words_in
from tilth.samples import Sample
from tilth.synth.identity.faces import Face, face_of
from tilth.synth.plan.survey import TRAINED_ON
from tilth.synth.safety.consent import Consent, against_category, against_faces, records_in

# Only training images get another face: what a model is measured on stays as it was.
PARENTS = both("split != 'test' and split != 'val'", one_of("state", TRAINED_ON))
MOST_SHARED = 0.1  # of a face that may lie under the box of another, in which no pixel changes
SAME_FACE = 0.3  # IoU of a box in a record with one that was found
UNSAID = ("negative_prompt", "refusals", "digital_source_type", "licence", "licence_of_model", "key", "model_digest")


@dataclass(frozen=True, kw_only=True)
class Swap:
    """One image to make.

    Args:
        number: Its place in the plan.
        parent: Whose face is replaced.
        source: Record of the face that is given.
        target: Record that covers the parent's face; empty where that is nobody's.
        face: Where the face is, as a column has it.
        others: The other faces, in which nothing changes.
    """

    number: int
    parent: str
    source: str
    target: str
    face: tuple[float, ...]
    others: tuple[Box, ...] = ()


@dataclass(kw_only=True)
class Plan:
    """What to make, and why other images are left as they are.

    Args:
        swaps: In the order in which they are made.
        with_faces: Parents in which a face was found.
        left_out: Images by the reason for which they get no other face.
        names: One line an image that was left out, in JSON.
    """

    swaps: list[Swap] = field(default_factory=list)
    with_faces: int = 0
    left_out: Counter[str] = field(default_factory=Counter)
    names: list[str] = field(default_factory=list)

    def leave(self, sample: Sample, reason: str) -> None:
        """Note that an image gets no other face."""
        self.left_out[reason] += 1
        self.names.append(json.dumps({"id": sample.id, "source": sample.origin.get("source"), "reason": reason}))

    def text(self) -> str:
        """Return it as JSON, but for the names."""
        swaps = [vars(swap) for swap in self.swaps]
        return json.dumps({"swaps": swaps, "with_faces": self.with_faces, "left_out": self.left_out})

    @classmethod
    def read(cls, text: str) -> "Plan":
        """Read what `text` wrote."""
        told = json.loads(text)
        swaps = [
            Swap(**{**row, "face": tuple(row["face"]), "others": tuple(map(tuple, row["others"]))})
            for row in told["swaps"]
        ]
        return cls(swaps=swaps, with_faces=told["with_faces"], left_out=Counter(told["left_out"]))


def is_nobodys(origin: Mapping[str, Json]) -> bool:
    """Tell whether a model drew an image from words alone, so that its face was nobody's to begin with.

    The origin must say so itself: which model, that there was no other image, and no adapter that may know a person.
    """
    alone = origin.get("parents") == [] and origin.get("adapters") == [] and not origin.get("controlnet")
    return alone and origin.get("digital_source_type") == MADE and bool(origin.get("model_digest"))


def words_of(sample: Sample) -> str:
    """Return the words that came with an image and its file; what steps measured of it is left out."""
    told = {name: value for name, value in sample.origin.items() if name not in UNSAID}
    return f"{json.dumps(told, ensure_ascii=False)} {words_in(sample.data)}"


class Chooser:
    """Chooses parents and the faces that they get.

    Args:
        work: Its dataset has `faces.found`; its seed deals out the faces.
        records: All consents that hold today.
        categories: That parents must show one of; any that a consent covers, and none at all, when empty.
        min_side: Least pixels of the shorter side of a face.
        per_image: Images to make of a parent, each with another face.
    """

    def __init__(
        self, work: Work, records: Sequence[Consent], categories: Sequence[str], *, min_side: int, per_image: int
    ) -> None:
        self._work, self._records, self._categories = work, records, set(categories)
        self._sources = [record for record in records if record.references]
        self._min_side, self._per_image = min_side, per_image
        self._never = {c.name: reason for c in work.policy.categories if (reason := against_category(c))}
        pictured = {category.name for category in work.policy.pictured}
        self._must_be_absent = [name for name in self._never if name in pictured]

    def plan(self, count: int) -> Plan:
        """Look at all possible parents once and choose at most `count` swaps: those with the smallest ids, which are hashes."""
        plan = Plan()
        chosen: dict[str, list[Swap]] = {}
        for batch in self._work.dataset.scan(PARENTS, images=False):
            seen = []
            for sample in batch:
                if records_in(sample.origin) or (self._categories and not self._categories & sample.truth.categories):
                    continue  # made by such a step, or not asked for
                if not isinstance(found := sample.columns.get("faces.found"), Sequence):
                    plan.leave(sample, "nobody has looked for faces")
                elif not found:
                    plan.leave(sample, "no face found")
                else:
                    seen.append(sample)
            for sample in self._work.dataset.with_images(seen):
                plan.with_faces += 1
                swaps = self._swaps(sample)
                if isinstance(swaps, str):
                    plan.leave(sample, swaps)
                else:
                    chosen[sample.id] = swaps
        swaps = [swap for id_ in sorted(chosen) for swap in chosen[id_]][:count]
        plan.swaps = [replace(swap, number=number) for number, swap in enumerate(swaps)]
        return plan

    def _swaps(self, sample: Sample) -> list[Swap] | str:
        """Return what to make of an image, or why nothing is made of it."""
        if reason := self._against(sample):
            return reason
        rows = sample.columns["faces.found"]
        faces = [face_of(row) for row in rows if isinstance(row, Sequence)]  # type: ignore[union-attr]
        covered = self._covered(sample, faces)
        if isinstance(covered, str):
            return covered
        at, target = covered
        x0, y0, x1, y1 = faces[at].box_xyxy
        if min(x1 - x0, y1 - y0) < self._min_side:
            return f"its face is smaller than {self._min_side} pixels"
        others = tuple(face.box_xyxy for place, face in enumerate(faces) if place != at)
        if any(shared(faces[at].box_xyxy, other) > MOST_SHARED for other in others):
            return "another face overlaps it"
        shown = sample.truth.categories
        if target and (lacking := target.lacks(shown)):
            return f"the consent for its face does not cover {', '.join(lacking)}"
        given = [s for s in self._sources if not s.lacks(shown) and (target is None or s.subject != target.subject)]
        if not given:
            return "no consent gives a face for what it shows"
        rng = np.random.default_rng([self._work.seed, int(sample.id[:12], 16)])
        order = rng.permutation(len(given))[: self._per_image]
        return [
            Swap(
                number=0,
                parent=sample.id,
                source=given[place].record,
                target=target.record if target else "",
                face=tuple(float(str(value)) for value in faces[at].row()),
                others=others,
            )
            for place in order
        ]

    def _against(self, sample: Sample) -> str:
        """Say what speaks against a real person's face in an image: what it shows, what nobody looked for, what is said of it."""
        truth = sample.truth
        for name in sorted(truth.categories):
            if reason := self._never.get(name) or ("" if name in self._work.policy.names else "not in the policy"):
                return f"shows {name}: {reason}"
        for name in self._must_be_absent:
            if truth.of(name) is not Answer.ABSENT:
                return f"nobody looked for {name}: {self._never[name]}"
        reason = against_faces({"words": words_of(sample)})
        return f"words that came with it: {reason}" if reason else ""

    def _covered(self, sample: Sample, faces: Sequence[Face]) -> tuple[int, Consent | None] | str:
        """Return which face may be replaced, the largest of those that are nobody's, and by whose consent; or why none may."""
        if is_nobodys(sample.origin):
            return 0, None
        digests = sample.id, hashlib.sha256(sample.data).hexdigest()
        for record in self._records:
            if (told := record.target(*digests)) is None:
                continue
            if told.face_xyxy is None:
                return (0, record) if len(faces) == 1 else f"{len(faces)} faces, and the consent does not say which"
            overlaps = [iou_of(face.box_xyxy, told.face_xyxy) for face in faces]
            best = int(np.argmax(overlaps))
            return (best, record) if overlaps[best] >= SAME_FACE else "no face where the consent says that it is"
        return "a face without a consent"


def carried(parent: Sample, step: str, policy: str) -> tuple[Claim, ...]:
    """Return what is said of a parent as claims about its child: nothing but a face has changed, so boxes stay where they are."""
    truth = parent.truth
    asked = tuple(truth.looked)

    def claim(says: str, label: Claim | None = None) -> Claim:
        return Claim(
            says="label" if label else "empty",
            category=label.category if label else None,
            box_xyxy=label.box_xyxy if label else None,
            score=label.score if label else 1.0,
            source=f"synth:{step}",
            evidence={"method": "face_swap", "parent": parent.id, **({"said_by": label.source} if label else {})},
            asked=asked,
            policy=(label.policy if label else "") or policy,
        )

    return tuple(claim("label", label) for label in truth.labels) or (claim("empty"),)


def shared(face: Box, other: Box) -> float:
    """Return the part of a face that another box covers."""
    own = np.array([face])
    return float(intersections(own, np.array([other]))[0, 0] / areas(own)[0])


def untouched(parent: Sample, face: Face) -> list[Box]:
    """Return the labelled boxes that the face must not be pasted over: things before it, not what the face is a part of."""
    boxes = [label.box_xyxy for label in parent.truth.labels if label.box_xyxy]
    return [box for box in boxes if shared(face.box_xyxy, box) < 0.5]
