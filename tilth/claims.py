"""What is said about an image, by whom, and what it adds up to."""

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Literal, TypeAlias

from tilth.errors import InputError
from tilth.geometry import Box, iou_of

Json: TypeAlias = bool | int | float | str | Sequence["Json"] | Mapping[str, "Json"] | None

SOURCES = ("human", "model", "import", "synth")
SAME_BOX_IOU = 0.5  # from here on two boxes of a category are the same statement


@dataclass(frozen=True, slots=True, kw_only=True)
class Claim:
    """One statement by one source about one image.

    Args:
        says: `label`: the category is here. `empty`: nothing of the policy is here. `reject`: the image is unusable.
            `escalate`: somebody else must decide. `withdraw`: the source takes back what it said before.
        category: Name from the policy; set exactly when `says` is `label`.
        box_xyxy: Where, in pixels of the full image; None means somewhere in the image.
        score: Confidence in [0, 1]; 1 for a person.
        source: `human:<who>`, `model:<name>@<digest>`, `import:<file>` or `synth:<recipe>`.
        time: When, ISO 8601 in UTC; not part of the claim's identity.
        evidence: Whatever explains the claim: prompt, seed, other scores.
    """

    says: Literal["label", "empty", "reject", "escalate", "withdraw"] = "label"
    category: str | None = None
    box_xyxy: Box | None = None
    score: float = 1.0
    source: str
    time: str = field(default="", compare=False)
    evidence: Mapping[str, Json] = field(default_factory=dict)

    def __post_init__(self) -> None:
        """Check the claim, as it may come from a file.

        Raises:
            InputError: A field is out of its range.
        """
        if (self.says == "label") != (self.category is not None):
            raise InputError(
                f"a claim needs a category exactly when it says 'label', got {self.says!r}, {self.category!r}"
            )
        if not 0 <= self.score <= 1:
            raise InputError(f"score must lie in [0, 1], got {self.score}")
        if self.source.partition(":")[0] not in SOURCES or not self.source.partition(":")[2]:
            raise InputError(f"source must be one of {', '.join(f'{s}:…' for s in SOURCES)}, got {self.source!r}")
        if self.box_xyxy is not None:
            x0, y0, x1, y1 = self.box_xyxy
            if not (all(map(math.isfinite, self.box_xyxy)) and x0 < x1 and y0 < y1):
                raise InputError(f"box must be (x0, y0, x1, y1) with x0 < x1 and y0 < y1, got {self.box_xyxy}")

    @property
    def kind(self) -> str:
        """Who speaks: `human`, `model`, `import` or `synth`."""
        return self.source.partition(":")[0]


class State(StrEnum):
    """What the claims about an image add up to."""

    UNLABELLED = "unlabelled"
    AUTO = "auto"
    REVIEWED = "reviewed"
    CONFIRMED_EMPTY = "confirmed_empty"
    DISPUTED = "disputed"
    REJECTED = "rejected"


@dataclass(frozen=True, slots=True, kw_only=True)
class Truth:
    """The resolved labels of an image; `labels` is empty unless the state says otherwise."""

    state: State
    labels: tuple[Claim, ...] = ()

    @property
    def categories(self) -> frozenset[str]:
        """The names of the categories in the image."""
        return frozenset(label.category for label in self.labels if label.category is not None)


def agree(a: Sequence[Claim], b: Sequence[Claim]) -> bool:
    """Tell whether two sets of labels say the same: each box has a partner of its category at IoU >= 0.5.

    >>> left = [Claim(category="knife", box_xyxy=(0, 0, 10, 10), source="human:a")]
    >>> agree(left, [Claim(category="knife", box_xyxy=(1, 0, 10, 10), source="human:b")]), agree(left, [])
    (True, False)
    """
    return len(a) == len(b) == shared(a, b)


def shared(a: Sequence[Claim], b: Sequence[Claim]) -> int:
    """Count the labels of `a` that have a partner in `b`, each one of its own."""
    free, count = list(b), 0
    for claim in a:
        partner = next((other for other in free if _same(claim, other)), None)
        if partner is not None:
            free.remove(partner)
            count += 1
    return count


def _same(a: Claim, b: Claim) -> bool:
    if a.category != b.category:
        return False
    if a.box_xyxy is None or b.box_xyxy is None:
        return a.box_xyxy is b.box_xyxy
    return iou_of(a.box_xyxy, b.box_xyxy) >= SAME_BOX_IOU


def standing(claims: Iterable[Claim]) -> dict[str, list[Claim]]:
    """Return what each source says now, given all claims oldest first.

    Claims of one source count as a round when they share a `round` in their evidence, and the last round stands. A model whose
    evidence names other models under `instead_of`, as fused boxes do, takes the place of what those said before.
    """
    by_source: dict[str, list[Claim]] = {}
    for claim in claims:
        seen = by_source.setdefault(claim.source, [])
        if seen and seen[-1].evidence.get("round") != claim.evidence.get("round"):
            seen.clear()
        seen.append(claim)
        replaced = claim.evidence.get("instead_of") if claim.kind == "model" else None
        for other in replaced if isinstance(replaced, list | tuple) else ():
            if str(other).startswith("model:") and other != claim.source:
                by_source.pop(str(other), None)
    return by_source


def resolve(claims: Iterable[Claim]) -> Truth:
    """Resolve claims, given oldest first, by the house rule: human over consensus over one model.

    Of each source only what it says now counts; see `standing`. Imported labels count as a person's until a person looks. Of
    several people more than half must agree, or the image is disputed; so is one that a person escalated until another has
    looked. When several models looked, a label needs more than half of them.

    >>> resolve([]).state
    <State.UNLABELLED: 'unlabelled'>
    """
    by_source = {k: v for k, v in standing(claims).items() if all(claim.says != "withdraw" for claim in v)}
    people = [v for k, v in by_source.items() if k.startswith("human:")] or [
        v for k, v in by_source.items() if k.startswith("import:")
    ]
    if people:
        return _resolve_people(people)
    models = [v for k, v in by_source.items() if k.startswith("model:")]
    if models:
        return Truth(state=State.AUTO, labels=_majority(models))
    made = [claim for k, v in by_source.items() if k.startswith("synth:") for claim in v if claim.says == "label"]
    return Truth(state=State.AUTO if made else State.UNLABELLED, labels=tuple(made))


def _resolve_people(people: list[list[Claim]]) -> Truth:
    if any(claim.says == "reject" for round_ in people for claim in round_):
        return Truth(state=State.REJECTED)
    decided = [round_ for round_ in people if all(claim.says != "escalate" for claim in round_)]
    labels = [[claim for claim in round_ if claim.says == "label"] for round_ in decided]
    agreed = [mine for mine in labels if 2 * sum(agree(mine, other) for other in labels) > len(labels)]
    if not agreed:
        return Truth(state=State.DISPUTED)
    return Truth(state=State.REVIEWED if agreed[-1] else State.CONFIRMED_EMPTY, labels=tuple(agreed[-1]))


def _majority(models: list[list[Claim]]) -> tuple[Claim, ...]:
    labels = [[claim for claim in said if claim.says == "label"] for said in models]
    if len(labels) == 1:
        return tuple(labels[0])
    kept: list[Claim] = []
    for claim in sorted((c for said in labels for c in said), key=lambda c: -c.score):
        votes = sum(any(_same(claim, other) for other in said) for said in labels)
        if votes * 2 > len(labels) and not any(_same(claim, other) for other in kept):
            kept.append(claim)
    return tuple(kept)
