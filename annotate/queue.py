"""Which images a person should see: the doubtful, the contradictory, all categories alike, no copy twice, and some at random.

The random ones are an audit: only they tell without bias how good the automatic labels are.
"""

import hashlib
import heapq
import math
from collections import defaultdict
from collections.abc import Iterable
from dataclasses import dataclass, field

from tilth.samples import Sample

CONTRADICTION = 0.95  # priority of an image that was mined for one category and grounded as another


@dataclass(order=True, frozen=True)
class Entry:
    """An image in line; greater ones come first."""

    priority: float
    tie: str
    id: str = field(compare=False)
    why: str = field(compare=False)
    category: str = field(compare=False)
    group: str = field(compare=False)


def expected_category(sample: Sample) -> str:
    """Return what the image was mined or made for; empty when nobody says."""
    said = sample.origin.get("category")
    columns = (value for name, value in sorted(sample.columns.items()) if name.endswith(".category"))
    return next((value for value in (said, *columns) if isinstance(value, str)), "")


def uncertainty(sample: Sample, threshold: float) -> float:
    """Return how close the closest score is to the threshold, in [0, 1]; scores below it count too, where they were kept."""
    scores = [claim.score for claim in sample.truth.labels]
    for name, value in sample.columns.items():
        if name.endswith(".top") and isinstance(value, dict):
            scores += [float(score) for score in value.values()]
    reach = max(threshold, 1 - threshold)
    return max((1 - min(1.0, abs(score - threshold) / reach) for score in scores), default=0.0)


def _tie(seed: int, id_: str) -> str:
    return hashlib.sha256(f"{seed}\n{id_}".encode()).hexdigest()[:16]


def entry(sample: Sample, threshold: float, seed: int) -> Entry:
    """Say how urgent an image is, and why."""
    expected, found = expected_category(sample), sample.truth.categories
    doubt = uncertainty(sample, threshold)
    contradicts = bool(expected) and expected not in found
    groups = (value for name, value in sorted(sample.columns.items()) if name.endswith(".group"))
    return Entry(
        priority=max(doubt, CONTRADICTION if contradicts else 0.0),
        tie=_tie(seed, sample.id),
        id=sample.id,
        why="contradiction" if contradicts and doubt <= CONTRADICTION else "doubt",
        category=expected or min(found, default=""),
        group=next((v for v in groups if isinstance(v, str)), ""),
    )


class _Best:
    """The `size` greatest entries of a stream."""

    def __init__(self, size: int) -> None:
        self.size, self.heap = size, list[Entry]()

    def add(self, one: Entry) -> None:
        (heapq.heappush if len(self.heap) < self.size else heapq.heappushpop)(self.heap, one)

    def ranked(self) -> list[Entry]:
        return sorted(self.heap, reverse=True)


def choose(
    samples: Iterable[Sample], budget: int, *, audit_share: float = 0.1, threshold: float = 0.3, seed: int = 0
) -> dict[str, str]:
    """Choose images for review; memory grows with the budget, not with the samples.

    Args:
        samples: Candidates, read without images.
        budget: Largest number of images.
        audit_share: Part of the budget that is drawn at random from all candidates.
        threshold: The score at which a label is most doubtful.
        seed: Of the audit, and of ties.

    Returns:
        `audit`, `doubt` or `contradiction` by sample id, most urgent first.
    """
    if budget <= 0:
        return {}
    size = 2 * budget  # copies will fall out
    by_category: dict[str, _Best] = defaultdict(lambda: _Best(size))
    random = _Best(size)
    for sample in samples:
        one = entry(sample, threshold, seed)
        by_category[one.category].add(one)
        drawn = _tie(seed + 1, sample.id)
        random.add(Entry(priority=0, tie=drawn, id=one.id, why="audit", category=one.category, group=one.group))
    chosen: dict[str, str] = {}
    groups: set[str] = set()
    _take(random.ranked(), math.ceil(budget * audit_share), chosen, groups)
    quota = math.ceil((budget - len(chosen)) / max(1, len(by_category)))
    ranks = [best.ranked() for best in by_category.values()]
    first = [one for rank in ranks for one in rank[:quota]]
    rest = [one for rank in ranks for one in rank[quota:]]
    for line in (first, rest):
        _take(sorted(line, reverse=True), budget - len(chosen), chosen, groups)
    return chosen


def _take(line: list[Entry], count: int, chosen: dict[str, str], groups: set[str]) -> None:
    for one in line:
        if count <= 0:
            return
        if one.id not in chosen and (not one.group or one.group not in groups):
            chosen[one.id] = one.why
            groups.add(one.group)
            count -= 1
