"""Both stages beside Stage 1 alone and beside rivals, on the same images in one run.

An image counts as flagged when the action is not `allow`. What could not be decoded or answered is counted and named; it is never safe.
Subsets are made by what is known of the images:

    all             every image
    text + visual   images that hold words, beside whatever they show; their harm may be in either
    text only       of those, images that show no harm: what there is, is only written
"""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from tilth.claims import Json
from tilth.images import Image
from tilth.pipeline.protocols.examples import Example
from tilth.pipeline.protocols.rates import differences, rates
from tilth.pipeline.protocols.said import FULL, VISION, Cascade, Judge, Said
from tilth.policy import Policy
from tilth.train.measure.prediction import Array

ALWAYS = "always unsafe"
SUBSETS = ("all", "text + visual", "text only")
NAMED = 10  # files of each kind that are named
HARDEST = 24


@dataclass(frozen=True, kw_only=True)
class Row:
    """An image, without its pixels, and what all judges say of it."""

    file: str
    unsafe: bool
    categories: tuple[str, ...]
    pictured: bool | None
    words: bool | None
    said: Mapping[str, Said]


@dataclass(kw_only=True)
class Asked:
    """What was asked, and what could not be.

    Args:
        rows: Images with their answers.
        broken: Names of images that could not be decoded, with the reason.
        unknown: Names of images of which nobody knows whether they are safe.
        read: Whether the bundle was asked which images hold words, as the set does not say.
    """

    rows: list[Row] = field(default_factory=list)
    broken: list[dict[str, Json]] = field(default_factory=list)
    unknown: list[str] = field(default_factory=list)
    read: bool = False


def ask(
    examples: Iterable[Example],
    cascade: Cascade,
    rivals: Sequence[Judge] = (),
    advance: Callable[[int], None] = lambda n: None,
    keep: Callable[[str, Image], None] = lambda file, image: None,
) -> Asked:
    """Ask all judges about each image, by turns, so that what else the machine does slows all of them alike.

    Args:
        examples: The images.
        cascade: The bundle.
        rivals: Others.
        advance: Called with the number of images just done.
        keep: Called with the name and the pixels of each image of which both stages are wrong.
    """
    asked, judges, warm = Asked(), [cascade, *rivals], False
    for example in examples:
        advance(1)
        if example.image is None:
            asked.broken.append({"file": example.file, "why": example.why})
            continue
        if example.unsafe is None:
            asked.unknown.append(example.file)
            continue
        if not warm:  # models and readers load at their first use, which is no image's time
            cascade.words(example.image)
            for judge in judges:
                judge(example.image)
            warm = True
        said = {name: one for judge in judges for name, one in judge(example.image).items()}
        words = example.words
        if words is None:
            asked.read = True
            words = True if said[FULL].text else cascade.words(example.image)
        if said[FULL].flagged is not example.unsafe:
            keep(example.file, example.image)
        asked.rows.append(
            Row(
                file=example.file, unsafe=example.unsafe, categories=example.categories, pictured=example.pictured,
                words=words, said=said,
            )
        )  # fmt: skip
    return asked


def measure(asked: Asked, policy: Policy, *, seed: int = 0) -> dict[str, Json]:
    """Return all numbers of the protocol."""
    rows = asked.rows
    names = [*rows[0].said] if rows else [FULL, VISION]
    answered = [row for row in rows if row.said[FULL].flagged is not None]
    return {
        "images": len(rows),
        "unsafe": sum(row.unsafe for row in rows),
        "not_decoded": few([*asked.broken]),
        "nobody_looked": few([*asked.unknown]),
        "words_read": asked.read,
        "not_answered": {
            name: few(silent) for name in names
            if (silent := [{"file": r.file, "why": r.said[name].why} for r in rows if r.said[name].flagged is None])
        },
        "subsets": {name: _measured(some, names, seed) for name in SUBSETS if (some := subset(rows, name))},
        "per_category": _per_category(rows, names, policy, seed),
        "decided_by": {
            f"stage{stage}": round(float(np.mean([row.said[FULL].stage == stage for row in answered])), 4)
            for stage in (1, 2) if answered
        },
        "latency_ms": {name: _latency([r.said[name] for r in rows]) for name in names},
        "hardest": hardest(answered),
    }  # fmt: skip


def subset(rows: Sequence[Row], name: str) -> list[Row]:
    """Return the images of a subset; see the module."""
    kept = {
        "all": lambda row: True,
        "text + visual": lambda row: row.words is True,
        "text only": lambda row: row.words is True and row.pictured is False,
    }[name]
    return [row for row in rows if kept(row)]


def flags(rows: Sequence[Row], name: str) -> tuple[Array, Array]:
    """Return whether a judge flags each image, and whether it answered, each `(n,)`."""
    said = [row.said[name].flagged for row in rows]
    return np.array([one is True for one in said], bool), np.array([one is not None for one in said], bool)


def _measured(rows: Sequence[Row], names: Sequence[str], seed: int) -> dict[str, Json]:
    truth = np.array([row.unsafe for row in rows], bool)
    flagged = {name: flags(rows, name) for name in names}
    judges: dict[str, Json] = {
        name: {"images": int(there.sum()), **rates(said[there], truth[there], seed=seed)}
        for name, (said, there) in flagged.items()
    }
    judges[ALWAYS] = {"images": len(rows), **rates(np.ones_like(truth), truth, seed=seed)}
    full, answered = flagged[FULL]
    minus: dict[str, Json] = {}
    for name in (name for name in names if name != FULL):
        said, there = flagged[name]
        both = there & answered
        minus[name] = {"images": int(both.sum()), **differences(full[both], said[both], truth[both], seed=seed)}
    return {"images": len(rows), "unsafe": int(truth.sum()), "judges": judges, "full_minus": minus}


def _per_category(rows: Sequence[Row], names: Sequence[str], policy: Policy, seed: int) -> dict[str, Json]:
    """Say how many images of each category are flagged for whatever reason, and how right it is where it is named."""
    found: dict[str, Json] = {}
    for category in dict.fromkeys([*policy.names, *(c for row in rows for c in row.categories)]):
        own = [row for row in rows if category in row.categories]
        if not own:
            continue
        recall: dict[str, Any] = {}
        for name in names:
            said, there = flags(own, name)
            recall[name] = rates(said[there], np.ones(int(there.sum()), bool), seed=seed, numbers=("recall",))["recall"]
        naming: dict[str, Any] = {}
        for name in names:
            told = [row for row in rows if category in row.said[name].knows]
            if told:
                said = np.array([category in row.said[name].named for row in told], bool)
                shown = np.array([category in row.categories for row in told], bool)
                naming[name] = rates(said, shown, seed=seed, numbers=("f1", "precision", "recall"))
        found[category] = {"images": len(own), "recall": recall, "naming": naming}
    return found


def _latency(said: Sequence[Said]) -> dict[str, Json]:
    ms = [one.ms for one in said if one.flagged is not None]
    if not ms:
        return {"images": 0}
    p50, p99 = np.percentile(ms, [50, 99])
    return {"images": len(ms), "p50": round(float(p50), 2), "p99": round(float(p99), 2)}


def hardest(rows: Sequence[Row]) -> list[dict[str, Json]]:
    """Return the images of which both stages are wrong, those first of which they are surest."""
    wrong = [row for row in rows if row.said[FULL].flagged is not row.unsafe]
    told: list[tuple[float, dict[str, Json]]] = []
    for row in wrong:
        said = row.said[FULL]
        own = [said.scores.get(name, 0.0) for name in row.categories]
        best = max((said.scores.get(name, 0.0) for name in said.named), default=0.0)
        score = max(own, default=0.0) if row.unsafe else best
        sure = 1 - score if row.unsafe else score
        what: dict[str, Json] = {
            "file": row.file, "is": "missed" if row.unsafe else "false alarm", "categories": list(row.categories),
            "said": sorted(said.named), "score": round(score, 4), "stage": said.stage,
        }  # fmt: skip
        told.append((sure, what))
    return [what for _, what in sorted(told, key=lambda pair: -pair[0])[:HARDEST]]


def few(found: Sequence[Json]) -> dict[str, Json]:
    """Count, and name the first."""
    return {"count": len(found), "first": list(found[:NAMED])}
