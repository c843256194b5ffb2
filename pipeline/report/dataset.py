"""What a run's dataset says of itself: counts, versions, what was left out and why. One pass, memory flat in its size.

The numbers go into `summary.json` under `dataset`, beside those of the steps.
"""

import heapq
import re
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any

from tilth.data.dataset import Dataset
from tilth.samples import Sample

IDS = re.compile(
    r"\b[0-9a-f]{12} \(.*\)(?= in (?:train|val|test)$|$)|\b[0-9a-f]{6,64}…?"
)  # with the source behind it, if any
MEASURED = re.compile(r"\b(is|was|of|got|score|distance) [-+]?\d+(\.\d+)?(?![\d%])")
FIGURES = re.compile(r"\d+(\.\d+)?")
MANY_REASONS = 12  # of one step; from here on their numbers are taken out of the wording


def source_of(sample: Sample) -> str:
    """Name the step that brought an image in."""
    origin = sample.origin
    step = str(origin.get("step") or "")
    return step or ("generated" if sample.made else "imported")


def without_ids(reason: str) -> str:
    """Take ids and measured numbers out of a reason, so that equal reasons are counted together; limits stay.

    >>> without_ids("near-duplicate of 3f9a0c1d22aa (set/a (1).png)"), without_ids("quality.contrast is 0.12, wanted >= 0.3")
    ('near-duplicate of …', 'quality.contrast is …, wanted >= 0.3')
    """
    first = reason.splitlines()[0] if reason else "no reason given"
    return MEASURED.sub(r"\1 …", IDS.sub("…", first))[:120]


@dataclass
class Few:
    """The ids of a few samples; ids are hashes, so the smallest are a fair draw, and the same on every run."""

    most: int
    _heap: list[tuple[int, str]] = field(default_factory=list)

    def offer(self, id_: str) -> None:
        """Take a sample if it is among the smallest."""
        item = (-int(id_[:15], 16), id_)
        if len(self._heap) < self.most:
            heapq.heappush(self._heap, item)
        else:
            heapq.heappushpop(self._heap, item)

    def ids(self) -> list[str]:
        """Return what was kept, in a fixed order."""
        return sorted(id_ for _, id_ in self._heap)


class Census:
    """Counts samples as they pass."""

    def __init__(self) -> None:
        self.counts: dict[str, Counter[str]] = {
            name: Counter()
            for name in (
                "by_media",
                "by_state",
                "by_source",
                "by_split",
                "by_category",
                "boxes_by_category",
                "test_by_category",
            )
        }
        self.drops: dict[str, Counter[str]] = {}
        self.samples = self.dropped = self.made = 0

    def add(self, sample: Sample) -> None:
        """Count one sample; a dropped one counts only among the dropped."""
        if sample.drops:
            self.dropped += 1
            step, reason = sample.drops[0]
            self.drops.setdefault(step, Counter())[without_ids(reason)] += 1
            return
        truth = sample.truth
        self.samples += 1
        self.made += sample.made
        self.counts["by_media"][sample.media] += 1
        self.counts["by_state"][truth.state.value] += 1
        self.counts["by_source"][source_of(sample)] += 1
        self.counts["by_split"][sample.split or "no split"] += 1
        for category in truth.categories:
            self.counts["by_category"][category] += 1
            if sample.split == "test":
                self.counts["test_by_category"][category] += 1
        self.counts["boxes_by_category"].update(c.category for c in truth.labels if c.category and c.box_xyxy)

    def document(self) -> dict[str, Any]:
        """Return the counts, largest first."""
        states = self.counts["by_state"]
        labelled = sum(states[state] for state in ("auto", "reviewed", "confirmed_empty"))
        found: dict[str, Any] = {
            "samples": self.samples,
            "labelled": labelled,
            "generated": self.made,
            "left_out": self.dropped,
        }
        found |= {name: dict(counter.most_common()) for name, counter in self.counts.items() if counter}
        found["left_out_by_reason"] = {
            step: dict(merged(reasons).most_common()) for step, reasons in self.drops.items()
        }
        return found


def merged(reasons: Counter[str]) -> Counter[str]:
    """Take the numbers out of reasons when a step has too many different ones."""
    if len(reasons) <= MANY_REASONS:
        return reasons
    fewer: Counter[str] = Counter()
    for reason, count in reasons.items():
        fewer[FIGURES.sub("…", reason)] += count
    return fewer


def failures(dataset: Dataset) -> dict[str, dict[str, int]]:
    """Count the failed samples of each step by their error; a file's name is no part of its error."""
    found: dict[str, Counter[str]] = {}
    for ref in dataset.at.tables:
        for id_, error in dataset.table(ref.name, ref.lance_version).failures():
            words = error.partition(": ")[2] if id_.startswith("failed:") and ": " in error else error
            found.setdefault(ref.step, Counter())[without_ids(words)] += 1
    return {step: dict(merged(errors).most_common()) for step, errors in found.items()}


def versions(dataset: Dataset, most: int = 40) -> list[dict[str, Any]]:
    """Return the newest versions, oldest first, with their tags."""
    tags: dict[int, list[str]] = {}
    for name, number in dataset.tags().items():
        tags.setdefault(number, []).append(name)
    history = [v for v in dataset.history() if v.number <= dataset.at.number][-most:]
    return [
        {
            "number": v.number,
            "parent": v.parent,
            "message": v.message,
            "time": v.time,
            "tags": sorted(tags.get(v.number, [])),
        }
        for v in history
    ]


def census(dataset: Dataset, see: Callable[[Sample], None] = lambda sample: None) -> dict[str, Any]:
    """Count a dataset.

    Args:
        dataset: Open at the version to describe.
        see: Called with every sample, dropped ones too, without its image.

    Returns:
        What the summary says under `dataset`.
    """
    counts = Census()
    for sample in _all(dataset):
        counts.add(sample)
        see(sample)
    failed = failures(dataset)
    return {
        **counts.document(),
        "failed": sum(sum(errors.values()) for errors in failed.values()),
        "failed_by_error": failed,
        "versions": versions(dataset),
    }


def _all(dataset: Dataset) -> Iterator[Sample]:
    return dataset.samples(images=False, dropped=True)
