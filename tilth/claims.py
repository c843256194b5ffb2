"""What is said about a sample, by whom, and what it adds up to."""

import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from enum import StrEnum
from itertools import chain
from typing import Literal, TypeAlias

from tilth.errors import InputError
from tilth.geometry import Box, iou_of, span_iou

Json: TypeAlias = bool | int | float | str | Sequence["Json"] | Mapping[str, "Json"] | None

SOURCES = ("human", "model", "import", "synth")
PEOPLE = ("human", "import")  # whose word is a label and not a guess
WHOLE = ("reject", "escalate", "withdraw")  # about the image, whatever was asked
SAME_BOX_IOU = 0.5  # from here on two boxes, or two spans, of a category are the same statement


@dataclass(frozen=True, slots=True, kw_only=True)
class Claim:
    """One statement by one source about one sample.

    Args:
        says: `label`: the category is here. `empty`: nothing that was asked for is here. `reject`: the image is unusable.
            `escalate`: somebody else must decide. `withdraw`: the source takes back what it said before.
        category: Name from the policy; set exactly when `says` is `label`.
        box_xyxy: Where, in pixels of the full image; None means somewhere in the image.
        span: Where, from a start to an end that is no part of it: characters of the normalised text, or seconds of a
            sound. None means somewhere in it.
        score: Confidence in [0, 1]; 1 for a person.
        source: `human:<who>`, `model:<name>@<digest>`, `import:<file>` or `synth:<recipe>`.
        time: When, ISO 8601 in UTC; not part of the claim's identity.
        evidence: Whatever explains the claim: prompt, seed, other scores.
        asked: The categories that the source looked for when it spoke, in the order of the policy; each claim of a round has them.
            Empty when the source does not say: it then speaks for the category that it names, and for no other.
        policy: Whose categories these are, `name@version`; empty when unknown.
    """

    says: Literal["label", "empty", "reject", "escalate", "withdraw"] = "label"
    category: str | None = None
    box_xyxy: Box | None = None
    span: tuple[float, float] | None = None
    score: float = 1.0
    source: str
    time: str = field(default="", compare=False)
    evidence: Mapping[str, Json] = field(default_factory=dict)
    asked: tuple[str, ...] = ()
    policy: str = ""

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
        if self.span is not None:
            start, end = self.span
            if not (all(map(math.isfinite, self.span)) and 0 <= start < end) or self.box_xyxy is not None:
                raise InputError(f"span must be (start, end) with 0 <= start < end and without a box, got {self.span}")

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


class Answer(StrEnum):
    """What is known about one category in an image."""

    PRESENT = "present"
    ABSENT = "absent"
    UNASKED = "nobody looked"


@dataclass(frozen=True, slots=True, kw_only=True)
class Truth:
    """The resolved labels of an image, and what they are an answer to.

    Args:
        state: What the claims add up to.
        labels: What is here; empty unless the state says otherwise.
        looked: Kind of source that looked for a category and decides it, by category; `model` for a vote of several. Of a disputed
            image, what people were asked all the same.
        silent: Whether somebody decides who does not say what they looked for; no source below them is heard.
    """

    state: State
    labels: Sequence[Claim] = ()
    looked: Mapping[str, str] = field(default_factory=dict)
    silent: bool = False

    @property
    def categories(self) -> frozenset[str]:
        """The names of the categories in the image."""
        return frozenset(label.category for label in self.labels if label.category is not None)

    def of(self, category: str) -> Answer:
        """Return what is known about a category; of a disputed or rejected image nothing is.

        >>> seen = resolve([Claim(category="knife", source="human:a", asked=("knife", "pill"))])
        >>> [str(seen.of(name)) for name in ("knife", "pill", "dice")]
        ['present', 'absent', 'nobody looked']
        """
        if self.state in (State.DISPUTED, State.REJECTED) or category not in self.looked:
            return Answer.UNASKED
        return Answer.PRESENT if category in self.categories else Answer.ABSENT

    def unasked(self, names: Iterable[str], by: Sequence[str] = SOURCES) -> tuple[str, ...]:
        """Return those of the categories that no source of these kinds has looked for."""
        return tuple(name for name in names if self.looked.get(name) not in by)


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
    if a.span is not None and b.span is not None:
        return span_iou(a.span, b.span) >= SAME_BOX_IOU
    if a.box_xyxy is None or b.box_xyxy is None:
        return a.box_xyxy is b.box_xyxy and a.span is b.span
    return iou_of(a.box_xyxy, b.box_xyxy) >= SAME_BOX_IOU


def asked_in(said: Iterable[Claim]) -> tuple[str, ...]:
    """Return the categories that a source looked for: those it was asked for, and those it names; none when it does not say.

    >>> asked_in([Claim(category="knife", source="human:a", asked=("pill", "knife"))])
    ('pill', 'knife')
    >>> asked_in([Claim(category="knife", source="human:a")])
    ()
    """
    claims = list(said)
    if not any(claim.asked for claim in claims):
        return ()
    named = (claim.category for claim in claims if claim.category is not None)
    return tuple(dict.fromkeys([*(name for claim in claims for name in claim.asked), *named]))


def standing(claims: Iterable[Claim]) -> dict[str, list[Claim]]:
    """Return what each source says now, given all claims oldest first.

    Claims of one source count as a round when they share a `round` in their evidence. A round of a person or a model takes the place
    of what they said before about the categories that it asked for, and what they said about others stands; a round that does not
    say what it asked for, that is about the whole image, or that is a file read again, takes the place of all. A model whose
    evidence names other models under `instead_of`, as fused boxes do, takes the place of what those said before in the same way. What
    a model repeats in a round it has said once; a file may list a thing twice.
    """
    return {source: _after(before, now) for source, (before, now) in rounds(claims).items()}


def rounds(claims: Iterable[Claim]) -> dict[str, tuple[list[Claim], list[Claim]]]:
    """Return of each source what stands of its earlier rounds, and the round at hand: all that later claims can change."""
    by_source: dict[str, tuple[list[Claim], list[Claim]]] = {}
    for claim in claims:
        before, now = by_source.setdefault(claim.source, ([], []))
        if now and now[-1].evidence.get("round") != claim.evidence.get("round"):
            before[:], now[:] = _after(before, now), []
        if claim.kind != "model" or claim not in now:  # else the same settings decided again, another night
            now.append(claim)
        replaced = claim.evidence.get("instead_of") if claim.kind == "model" else None
        for other in replaced if isinstance(replaced, list | tuple) else ():
            if str(other).startswith("model:") and other in by_source and other != claim.source:
                left = _without(_after(*by_source[str(other)]), asked_in([claim])) if claim.asked else []
                by_source[str(other)] = (left, [])
                if not left:
                    del by_source[str(other)]
    return by_source


def _after(before: list[Claim], now: list[Claim]) -> list[Claim]:
    """Return what a source says after a round."""
    if not now:
        return before
    asked = asked_in(now)
    if not before or not asked or now[0].kind not in ("human", "model") or any(claim.says in WHOLE for claim in now):
        return list(now)
    return [*_without(before, asked), *now]


def _without(said: Sequence[Claim], asked: Sequence[str]) -> list[Claim]:
    """Return what is left of what a source said when it has been asked for some categories again."""
    said = [claim for claim in said if claim.says not in WHOLE]
    rest = tuple(name for name in asked_in(said) if name not in asked)
    left = [
        replace(claim, asked=tuple(name for name in claim.asked if name not in asked))
        for claim in said
        if claim.says == "label" and claim.category not in asked
    ]
    if rest and set(asked_in(left)) < set(rest):  # that others are absent was said by labels which are gone
        left.append(replace(said[-1], says="empty", category=None, box_xyxy=None, span=None, score=1.0, asked=rest))
    return left


def resolve(claims: Iterable[Claim]) -> Truth:
    """Resolve claims, given oldest first, by the house rule, for each category: human over import over consensus over one model.

    Of each source only what it says now counts; see `standing`. Who looked for a category decides it: people before imported
    labels, those before models, and what an image was made to show comes last. Of several people more than half must agree about
    the categories that the same of them looked for, or the image is disputed; so is one that a person escalated until another has
    looked. When several models looked for a category, a label needs more than half of them. A person who does not say what they
    looked for is taken to have seen all that matters, so nobody below is heard, but nothing that they do not name is known absent.

    >>> resolve([]).state
    <State.UNLABELLED: 'unlabelled'>
    """
    said: dict[str, list[list[Claim]]] = {kind: [] for kind in ("human", "import", "model", "synth")}
    claims = list(claims)
    for claims_ in standing(claims).values():
        if all(claim.says != "withdraw" for claim in claims_):
            said[claims_[0].kind].append(claims_)
    people = said["human"] or said["import"]
    if any(claim.says == "reject" for round_ in people for claim in round_):
        return Truth(state=State.REJECTED)
    labels: list[Claim] = []
    looked: dict[str, str] = {}
    silent = disputed = False
    for kind, rounds in said.items():
        if silent:
            break
        told = [left for round_ in _deciding(kind, rounds) if (left := _open(round_, looked))]
        disputed |= kind in PEOPLE and bool(rounds) and not told and not looked  # whoever looked has passed it on
        for names, takers in _parts(told):
            found = _agreed(takers) if kind in PEOPLE else _majority(takers) if kind == "model" else [*chain(*takers)]
            disputed |= found is None
            labels += found or []
            looked |= dict.fromkeys([*names, *(str(claim.category) for claim in found or [])], kind)
        silent = any(not asked_in(round_) for round_ in told)
    if disputed:
        asked = {name: kind for kind in ("import", "human") for round_ in said[kind] for name in asked_in(round_)}
        return Truth(state=State.DISPUTED, looked=asked, silent=silent)
    state = State.AUTO if labels or looked or said["model"] else State.UNLABELLED
    if people:
        state = State.REVIEWED if labels else State.CONFIRMED_EMPTY
    return Truth(state=state, labels=tuple(_as_made(label, claims) for label in labels), looked=looked, silent=silent)


def _as_made(label: Claim, claims: Sequence[Claim]) -> Claim:
    """Return a label as it was claimed, whatever was taken from what it was asked for since."""
    if any(label is claim for claim in claims):
        return label
    return next((c for c in claims if c.category == label.category and replace(c, asked=label.asked) == label), label)


def _deciding(kind: str, rounds: list[list[Claim]]) -> list[list[Claim]]:
    """Leave out the people who passed an image on."""
    return [round_ for round_ in rounds if kind not in PEOPLE or all(claim.says not in WHOLE for claim in round_)]


def _open(round_: list[Claim], decided: Mapping[str, str]) -> list[Claim]:
    """Return what a source says of the categories that nobody above it has decided."""
    if not decided:
        return round_
    if asked_in(round_):
        return _without(round_, tuple(decided))
    return [claim for claim in round_ if claim.category not in decided]


def _parts(rounds: list[list[Claim]]) -> Iterator[tuple[list[str], list[list[Claim]]]]:
    """Part the categories by who looked for them, and yield those of each part with the labels of each who did.

    Sources that do not say what they looked for are compared with each other, about all that they name; with others only where they
    name the same category. Theirs alone count as no category that was looked for.
    """
    asked = [asked_in(round_) for round_ in rounds]
    silent = [place for place, names in enumerate(asked) if not names]
    named = [name for names in asked for name in names]
    named += [str(claim.category) for place in silent for claim in rounds[place] if claim.category]
    parts: dict[tuple[int, ...], list[str]] = {}
    for name in dict.fromkeys(named):
        told = [place for place, names in enumerate(asked) if name in names]
        also = [place for place in silent if not told or any(claim.category == name for claim in rounds[place])]
        parts.setdefault(tuple(sorted(told + also)), []).append(name)
    if rounds and not parts:
        parts[tuple(silent)] = []
    for places, names in parts.items():
        labels = [[claim for claim in rounds[place] if claim.category in names] for place in places]
        yield [] if set(places) <= set(silent) else names, labels


def _agreed(labels: list[list[Claim]]) -> list[Claim] | None:
    """Return the labels that more than half of the people share; None when they do not agree."""
    agreed = [mine for mine in labels if 2 * sum(agree(mine, other) for other in labels) > len(labels)]
    return agreed[-1] if agreed else None


def _majority(labels: list[list[Claim]]) -> list[Claim]:
    if len(labels) == 1:
        return labels[0]
    kept: list[Claim] = []
    for claim in sorted((c for said in labels for c in said), key=lambda c: -c.score):
        votes = sum(any(_same(claim, other) for other in said) for said in labels)
        if votes * 2 > len(labels) and not any(_same(claim, other) for other in kept):
            kept.append(claim)
    return kept
