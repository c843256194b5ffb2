"""Pictures of the report: which samples are shown, and how. What may be unsafe is veiled until somebody asks for it.

A sample that matched a hash list is never decoded here, let alone shown.
"""

import base64
import io
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
from markupsafe import Markup
from PIL import Image as PilImage

from tilth.claims import Claim, State
from tilth.data.dataset import Dataset
from tilth.errors import InputError
from tilth.images import Image, decode, fit_within
from tilth.pipeline.report.dataset import Few, source_of, without_ids
from tilth.pipeline.report.plots import boxes
from tilth.policy import Policy
from tilth.samples import IMAGE, Sample

SIDE = 128  # pixels of the longer side of a thumbnail
JPEG_QUALITY = 74
PER_GROUP = {"seed": 4, "generated": 4}  # others get MOST_IN_ROW
MOST_IN_ROW = 8
MOST_GROUPS = 8  # of a strip
MOST_BYTES = 5_000_000  # of all pictures together
LISTED = ("hash list", "hash-list", "quarantin")  # words in the reason of a drop that must not be shown


@dataclass(frozen=True, kw_only=True)
class Picture:
    """A thumbnail: `uri` holds the whole JPEG; `veiled` blurs it until asked for."""

    uri: str
    alt: str
    caption: str
    marks: Markup
    veiled: bool
    size_wh: tuple[int, int]


@dataclass(frozen=True, kw_only=True)
class Row:
    """A line of pictures under one heading."""

    title: str
    pictures: tuple[Picture, ...]


@dataclass(frozen=True, kw_only=True)
class Wanted:
    """What to show: a sample, or a file with the categories that its truth names; `marks` replace a sample's claims.

    With a box in `around`, no more than what lies there is shown.
    """

    id: str
    file: str = ""
    caption: str = ""
    marks: tuple[Mapping[str, Any], ...] | None = None
    categories: tuple[str, ...] = ()
    around: tuple[float, float, float, float] | None = None


def is_listed(sample: Sample) -> bool:
    """Tell whether a hash list caught the sample."""
    return any(word in reason.lower() or word in step.lower() for step, reason in sample.drops for word in LISTED)


def harmless(policy: Policy) -> set[str]:
    """Return the categories that need no veil: low severity, unless they are boards whose words may do harm."""
    low = [c for c in policy.categories if c.severity == "low"]
    return {c.name for c in low if not (policy.written and c.is_signpost)}


def is_known_safe(sample: Sample, policy: Policy) -> bool:
    """Tell whether an image needs no veil.

    A person has said that it shows nothing harmful, or the policy knows nothing harmful at all.
    """
    known = harmless(policy)
    if known == set(policy.names):
        return True
    said = {c.category for c in sample.claims if c.category is not None}
    return sample.truth.state in (State.REVIEWED, State.CONFIRMED_EMPTY) and said <= known


def claim_marks(labels: Iterable[Claim]) -> list[dict[str, Any]]:
    """Turn claims with boxes into marks to draw."""
    return [
        {"box": c.box_xyxy, "css": f"by-{c.kind}", "name": f"{c.category}, {c.score:.2f} by {c.source}"}
        for c in labels
        if c.box_xyxy is not None
    ]


def thumbnail(image: Image) -> str:
    """Encode an image as a small JPEG in a data URI."""
    small = PilImage.fromarray(np.ascontiguousarray(fit_within(image, SIDE)))
    out = io.BytesIO()
    small.save(out, "JPEG", quality=JPEG_QUALITY, optimize=True)
    return "data:image/jpeg;base64," + base64.b64encode(out.getvalue()).decode()


def cut_out(
    image: Image, marks: Sequence[Mapping[str, Any]], around: tuple[float, float, float, float] | None
) -> tuple[Image, list[Mapping[str, Any]]]:
    """Cut a box and half of its longer side around it out of an image, and move the marks along."""
    if around is None:
        return image, [*marks]
    rim = max(around[2] - around[0], around[3] - around[1]) / 2
    left, top = (max(0, int(start - rim)) for start in around[:2])
    cut = image[top : int(around[3] + rim) + 1, left : int(around[2] + rim) + 1]
    moved: list[Mapping[str, Any]] = [
        {**mark, "box": [v - (top if i % 2 else left) for i, v in enumerate(mark["box"])]} for mark in marks
    ]
    return cut, moved


class Album:
    """Turns samples into pictures until the page is full."""

    def __init__(self, dataset: Dataset, policy: Policy) -> None:
        self._dataset, self._policy = dataset, policy
        self._left = MOST_BYTES

    def pictures(self, wanted: Sequence[Wanted], heading: str = "") -> tuple[Picture, ...]:
        """Return the pictures of these samples; one that cannot be read or shown is left out.

        Args:
            wanted: What to show.
            heading: What stands over them, and need not be said again below each.
        """
        if not wanted:
            return ()
        samples = {s.id: s for s in self._dataset.read(list(dict.fromkeys(w.id for w in wanted)))}
        made = []
        for want in wanted:
            sample = samples[want.id]
            if is_listed(sample):
                continue
            try:
                image = sample.pixels()
            except InputError:
                continue
            labels = sample.truth.labels
            names = ", ".join(sorted({c.category.replace("_", " ") for c in labels if c.category})) or _nothing(sample)
            what = "generated image" if sample.made else "image"
            caption = want.caption or _said(sample, names, heading)
            marks: Sequence[Mapping[str, Any]] = claim_marks(labels) if want.marks is None else want.marks
            shown = replace(want, caption=caption, marks=tuple(marks))
            veiled = not is_known_safe(sample, self._policy)
            picture = self._picture(image, shown, f"{what} {sample.id[:8]}, {names}", veiled=veiled)
            if picture is None:
                break
            made.append(picture)
        return tuple(made)

    def _picture(self, image: Image, want: Wanted, alt: str, *, veiled: bool) -> Picture | None:
        """Make a picture, or none where the page is full."""
        cut, marks = cut_out(image, want.marks or (), want.around)
        uri, size_wh = thumbnail(cut), (cut.shape[1], cut.shape[0])
        if len(uri) > self._left:
            return None
        self._left -= len(uri)
        return Picture(
            uri=uri, alt=alt, caption=want.caption, marks=boxes(marks, size_wh), veiled=veiled, size_wh=size_wh
        )

    def files(self, folder: Path, wanted: Sequence[Wanted]) -> tuple[Picture, ...]:
        """Return pictures of files of a labelled folder; one that cannot be read is left out."""
        made = []
        for want in wanted:
            try:
                image = decode((folder / want.file).read_bytes())
            except (InputError, OSError):
                continue
            if self._dataset.guard and self._dataset.guard(image):
                continue
            veiled = not set(want.categories) <= harmless(self._policy)
            picture = self._picture(image, want, f"test image {want.file}, {want.caption}", veiled=veiled)
            if picture is None:
                break
            made.append(picture)
        return tuple(made)

    def rows(self, groups: Mapping[str, Sequence[Wanted]]) -> tuple[Row, ...]:
        """Return a row of pictures for each group that has any."""
        rows = (
            Row(title=title, pictures=self.pictures(wanted, title))
            for title, wanted in list(groups.items())[:MOST_GROUPS]
        )
        return tuple(row for row in rows if row.pictures)


def _said(sample: Sample, names: str, heading: str) -> str:
    """Say what the heading of the row does not say yet."""
    labels = sample.truth.labels
    who = {"human": "by a person", "model": "by a model"}.get(labels[0].kind, "") if labels else ""
    return ", ".join(part for part in (names if names != heading else "", who) if part)


def _nothing(sample: Sample) -> str:
    return {
        State.CONFIRMED_EMPTY: "confirmed empty",
        State.REJECTED: "rejected",
        State.DISPUTED: "disputed",
        State.UNLABELLED: "not labelled",
    }.get(sample.state, "nothing found")


@dataclass
class Draw:
    """Picks a few samples for each strip while the dataset passes by."""

    policy: Policy
    mined_steps: frozenset[str] = frozenset()
    strips: dict[str, dict[str, Few]] = field(default_factory=dict)

    def see(self, sample: Sample) -> None:
        """Offer an image to the strips that it belongs to."""
        if sample.media != IMAGE:
            return
        for strip, group in self._places(sample):
            self.strips.setdefault(strip, {}).setdefault(group, Few(PER_GROUP.get(strip, MOST_IN_ROW))).offer(sample.id)

    def _places(self, sample: Sample) -> Iterable[tuple[str, str]]:
        if sample.drops:
            step, reason = sample.drops[0]
            yield ("fallen" if sample.made else "left_out"), f"{step}: {without_ids(reason)}"
            return
        if sample.split == "test":
            return
        truth = sample.truth
        groups = sorted(truth.categories) or [_nothing(sample)]
        if sample.made:
            yield "generated", groups[0]
        elif source_of(sample) in self.mined_steps:
            why = sample.columns.get("mine.reason")
            asked = str(sample.columns.get("mine.category") or groups[0])
            yield "mined", {"look-alike": "look-alikes", "explore": "drawn at random"}.get(str(why), asked)
        elif any(c.kind == "import" for c in sample.claims):
            yield "seed", groups[0]
        if truth.state in (State.DISPUTED, State.REJECTED):
            yield "odd", truth.state.value

    def groups(self, strip: str) -> dict[str, list[Wanted]]:
        """Return what was picked for a strip, by group; categories come first, in the order of the policy."""
        order = {name: number for number, name in enumerate(self.policy.names)}
        found = sorted(self.strips.get(strip, {}).items(), key=lambda item: (order.get(item[0], len(order)), item[0]))
        return {group.replace("_", " "): [Wanted(id=id_) for id_ in few.ids()] for group, few in found}
