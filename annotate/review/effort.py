"""What a person's actions cost: the kinds that are counted, how long each takes as published, and what a review added up to."""

from collections import Counter
from collections.abc import Iterable, Mapping
from typing import cast

from tilth.claims import Json
from tilth.engine.job import batched
from tilth.engine.work import Work

READ_ROWS = 500

ACTIONS = ("accept", "edit", "relabel", "draw", "reject", "confirm_empty")

SECONDS_PER_ACTION = {
    # "We don't need no bounding-boxes", CVPR 2016: yes/no on a box that is shown.
    "accept": 1.6,
    "reject": 1.6,
    # The same: choosing one of five answers about a box that is shown.
    "relabel": 2.4,
    # "Extreme clicking for efficient object annotation", ICCV 2017: four clicks on a thing that is already found.
    "edit": 7.0,
    # "Crowdsourcing annotations for visual object detection", 2012, as the former cites it: 34.5 s in the traditional way.
    "draw": 34.5,
    # The same of 2012: checking that no instance in an image was missed.
    "confirm_empty": 7.8,
}
SECONDS_SOURCE = "published averages (Su 2012, Papadopoulos 2016 and 2017)"


def seconds(actions: Iterable[str]) -> float:
    """Return how long these actions take, in seconds.

    >>> seconds(["accept", "accept", "draw"])
    37.7
    """
    return round(sum(SECONDS_PER_ACTION[action] for action in actions), 3)


def tally(actions: Iterable[str]) -> dict[str, int]:
    """Count actions by kind, every kind named."""
    counts = Counter(actions)
    return {kind: counts[kind] for kind in ACTIONS}


def count_effort(work: Work, ids: set[str]) -> dict[str, Json]:
    """Add up what a review cost, and how good the labels were before it.

    Args:
        work: The step's surroundings; its columns hold the actions of each image.
        ids: The images of the queue.
    """
    actions: list[str] = []
    spent = 0.0
    reasons: Counter[str] = Counter()
    before: dict[str, Counter[str]] = {"all": Counter(), "audit": Counter()}
    states: Counter[str] = Counter()
    for sample in (s for some in batched(sorted(ids), READ_ROWS) for s in work.dataset.read(some, images=False)):
        if sample.drops or f"{work.name}.actions" not in sample.columns:
            continue
        actions += cast("list[str]", sample.columns[f"{work.name}.actions"])
        spent += float(cast("float", sample.columns.get(f"{work.name}.seconds") or 0))
        why = str(sample.columns.get(f"{work.name}.why"))
        reasons[why] += 1
        states[str(sample.state)] += 1
        numbers = cast("dict[str, int]", sample.columns.get(f"{work.name}.before") or {})
        for part in ("all", "audit") if why == "audit" else ("all",):
            before[part].update({**numbers, "images": 1})
    return {
        "human_actions": len(actions),
        "actions": tally(actions),
        "estimated_seconds": round(spent, 1),
        "hours": round(spent / 3600, 4),
        "seconds_if_published": seconds(actions),
        "images_reviewed": sum(states.values()),
        "states": dict(states),
        "queued_for": dict(reasons),
        "labels_before_review": {part: _quality(counts) for part, counts in before.items()},
    }


def _quality(counts: Counter[str]) -> dict[str, Json]:
    """Return precision and recall of the boxes that were shown, with 95 % intervals (Wilson's)."""
    right, shown, present = counts["right"], counts["shown"], counts["present"]
    return {
        "images": counts["images"],
        "right": right,
        "shown": shown,
        "present": present,
        "precision": round(right / shown, 4) if shown else None,
        "precision_ci95": share_ci95(right, shown),
        "recall": round(right / present, 4) if present else None,
        "recall_ci95": share_ci95(right, present),
    }


def share_ci95(part: int, whole: int) -> list[Json]:
    """Return between which shares the true one lies; from 0 to 1 when nothing was counted.

    >>> share_ci95(9, 10)
    [0.5958, 0.9821]
    """
    if not whole:
        return [0.0, 1.0]
    from scipy.stats import binomtest

    ends = binomtest(min(part, whole), whole).proportion_ci(method="wilson")
    return [round(float(ends.low), 4), round(float(ends.high), 4)]


def audited(facts: Iterable[Mapping[str, Json]]) -> dict[str, Json]:
    """Add up the audits of several reviews: how good labels were before people saw them.

    Args:
        facts: Of the reviews.
    """
    counts: Counter[str] = Counter()
    for one in facts:
        before = cast("Mapping[str, Mapping[str, int]]", one.get("labels_before_review") or {}).get("audit", {})
        counts.update({name: int(before.get(name) or 0) for name in ("images", "right", "shown", "present")})
    return _quality(counts)
