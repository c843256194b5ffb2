"""Which images a person should see: the doubtful, those the sources disagree on, all categories alike, nothing twice, some at random.

Urgency is the chance that something is wrong, by the scores and by the sources; it counts the less, the more an image looks like one
that is chosen already. The random ones are an audit: only they tell without bias how good the automatic labels are.

Where `relabel` has weighed all labels, that chance is its own, and counts the more, the fewer images show the category. Else a score is
taken for the chance that its label is right. So what was kept with a low score comes first, and of what was not kept only
much at once is a reason: nearly all of it is rightly gone.
"""

import hashlib
import heapq
import itertools
import math
from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field, replace
from types import MappingProxyType

import numpy as np
import numpy.typing as npt

from tilth.claims import PEOPLE, shared, standing
from tilth.samples import Sample

# Measured in a drawn world, where 271 of 5,970 images had a label wrong: of kept boxes, the share that was right follows the score;
# of what was seen and not kept a fifth of the score or less was there; and 8 of 145 images that were mined for something and grounded
# without it did show it.
UNKEPT = 0.2
CONTRADICTION = 0.1
QUOTAS = 0.5  # part of the budget in which all categories share alike; all of it found 162 of the 271, none of it 193, half 190
HASH, QUALITY = "hash.pdq", "hash.pdq_quality"  # columns of the step `hash`
SERVED = "served.scores"  # column: calibrated chances by category, of an image that a served model was unsure about
LEAST_QUALITY = 50  # below, an image is too plain for its hash to tell it from others
COPY_BITS = 31  # of 256; no further apart, two images count as one (the value that PDQ's makers recommend)
STRANGER_BITS = 128  # unrelated images differ in half of the bits


@dataclass(order=True, frozen=True)
class Entry:
    """An image in line; greater ones come first."""

    priority: float
    tie: str
    id: str = field(compare=False)
    why: str = field(compare=False)
    category: str = field(compare=False)
    group: str = field(compare=False)
    hash: str = field(compare=False, default="")


def expected_category(sample: Sample) -> str:
    """Return what the image was mined or made for; empty when nobody says."""
    said = sample.origin.get("category")
    columns = (sample.columns[name] for name in sorted(sample.columns) if name.endswith(".category"))
    return next((value for value in (said, *columns) if isinstance(value, str)), "")


def doubt(sample: Sample) -> float:
    """Return the chance that a label is wrong or missing, in [0, 1], by the scores; those of what people have decided are of no account.

    >>> from tilth.claims import Claim
    >>> knife = Claim(category="knife", score=0.4, source="model:a@1")
    >>> round(doubt(Sample(id="a", size_wh=(9, 9), claims=(knife,), columns={"ground.top": {"pill": 0.25}})), 2)
    0.62
    """
    truth = sample.truth
    settled = {name for name, kind in truth.looked.items() if kind in PEOPLE}
    right = math.prod(claim.score for claim in truth.labels if claim.category not in settled)
    seen: dict[str, float] = {}
    for name in (name for name in sample.columns if name.endswith(".top")):
        if isinstance(value := sample.columns[name], dict):
            for category, score in value.items():
                seen[category] = max(seen.get(category, 0.0), float(score))
    settled |= truth.categories
    return 1 - right * math.prod(1 - UNKEPT * min(1.0, score) for name, score in seen.items() if name not in settled)


def missed(sample: Sample) -> tuple[float, str]:
    """Return the chance that an image shows what nobody has labelled, by a served model that was unsure about it, and of what.

    Its scores are calibrated, so they are chances as they stand, unlike those of a model that looks for boxes by words.
    """
    truth, scores = sample.truth, sample.columns.get(SERVED)
    settled = truth.categories | {name for name, kind in truth.looked.items() if kind in PEOPLE}
    found = scores.items() if isinstance(scores, Mapping) else ()
    return max(((float(str(score)), name) for name, score in found if name not in settled), default=(0.0, ""))


def disagreement(sample: Sample) -> float:
    """Return how far the sources contradict each other, in [0, 1].

    Of two models, the part of their labels that the other lacks; of a second opinion, the part of the boxes that it refused. What a
    clean-up removed is no contradiction: doubles and look-alikes are everyday.
    """
    models = (claim for claim in sample.claims if claim.kind == "model")
    said = [[claim for claim in claims if claim.says == "label"] for claims in standing(models).values()]
    # 1 - F1; two models that see nothing agree
    parts = [1 - 2 * shared(a, b) / (len(a) + len(b)) for a, b in itertools.combinations(said, 2) if a or b]
    kept = sum(map(len, said))
    for name, value in sample.columns.items():
        if name.endswith(".removed") and isinstance(value, list):
            # of all who remove boxes only a second opinion has scores of its own
            refused = sum(isinstance(row, dict) and "match" in row for row in value)
            parts += [refused / (refused + kept)] if refused else []
    return max(parts, default=0.0)


def tie(seed: int, id_: str) -> str:
    """Return what decides between samples that are equally urgent, and who is audited."""
    return hashlib.sha256(f"{seed}\n{id_}".encode()).hexdigest()[:16]


def entry(sample: Sample, seed: int, worth: Mapping[str, float] = MappingProxyType({})) -> Entry:
    """Say how urgent an image is, and why; `worth` says what a label of each category is worth, 1 where it does not."""
    truth = sample.truth
    expected, found = expected_category(sample), truth.categories
    contradicts = bool(expected) and expected not in found and bool(truth.unasked([expected], PEOPLE))
    settled = {name for name, kind in truth.looked.items() if kind in PEOPLE}
    if chances := sample.chances:  # somebody has weighed all of this already
        wrong = {name: worth.get(name, 1.0) * (1 - chance) for name, chance in chances.items() if name not in settled}
        reasons = {"student": 1 - math.prod(1 - chance for chance in wrong.values())}
        expected = max(wrong, key=lambda name: wrong[name], default="") or expected
    else:
        chance, missing = missed(sample)
        expected = expected or missing
        reasons = {
            "doubt": doubt(sample),
            "disagreement": disagreement(sample),
            "contradiction": CONTRADICTION if contradicts else 0.0,
            "served": chance,
        }
    groups = (value for name, value in sorted(sample.columns.items()) if name.endswith(".group"))
    return Entry(
        priority=1 - math.prod(1 - chance for chance in reasons.values()),
        tie=tie(seed, sample.id),
        id=sample.id,
        why=max(reasons, key=lambda name: reasons[name]),
        category=expected or min(found, default=""),
        group=next((v for v in groups if isinstance(v, str)), ""),
        hash=str(sample.columns.get(HASH) or "") if float(str(sample.columns.get(QUALITY, 0))) >= LEAST_QUALITY else "",
    )


def worth_of(shown: Mapping[str, int]) -> dict[str, float]:
    """Return what one more label of each category is worth, in [0, 1], given how many images are known to show it.

    What a model knows of a category grows about with the root of its examples.

    >>> worth_of({"knife": 199, "syringe": 7})
    {'knife': 0.2, 'syringe': 1.0}
    """
    fewest = min(shown.values(), default=0)
    return {name: round(math.sqrt((1 + fewest) / (1 + count)), 4) for name, count in shown.items()}


class _Best:
    """The `size` greatest entries of a stream."""

    def __init__(self, size: int) -> None:
        self.size, self.heap = size, list[Entry]()

    def add(self, one: Entry) -> None:
        (heapq.heappush if len(self.heap) < self.size else heapq.heappushpop)(self.heap, one)

    def ranked(self) -> list[Entry]:
        return sorted(self.heap, reverse=True)


def choose(
    samples: Iterable[Sample],
    budget: int,
    *,
    audit_share: float = 0.1,
    seed: int = 0,
    worth: Mapping[str, float] = MappingProxyType({}),
    weigh: Callable[[Sample, int, Mapping[str, float]], Entry] = entry,
) -> dict[str, str]:
    """Choose images for review; memory grows with the budget, not with the samples.

    Args:
        samples: Candidates, read without images.
        budget: Largest number of images.
        audit_share: Part of the budget that is drawn at random from all candidates.
        seed: Of the audit, and of ties.
        worth: Of a label of each category, in [0, 1]; see `worth_of`.
        weigh: Says how urgent a sample is.

    Returns:
        `audit`, `doubt`, `disagreement`, `contradiction` or `served` by sample id, most urgent first.
    """
    if budget <= 0:
        return {}
    size = 2 * budget  # copies will fall out
    by_category: dict[str, _Best] = defaultdict(lambda: _Best(size))
    random = _Best(size)
    for sample in samples:
        one = weigh(sample, seed, worth)
        by_category[one.category].add(one)
        drawn = tie(seed + 1, sample.id)
        random.add(replace(one, priority=0, tie=drawn, why="audit"))
    chosen = _Chosen(budget)
    chosen.draw(random.ranked(), math.ceil(budget * audit_share))
    quota = math.ceil(QUOTAS * (budget - len(chosen.why)) / max(1, len(by_category)))
    ranks = [best.ranked() for best in by_category.values()]
    first = [one for rank in ranks for one in rank[:quota]]
    rest = [one for rank in ranks for one in rank[quota:]]
    for line in (first, rest):
        chosen.take(line, budget - len(chosen.why))
    return chosen.why


class _Chosen:
    """Images that are chosen, and how far others are from them."""

    def __init__(self, budget: int) -> None:
        self.why: dict[str, str] = {}
        self._groups: set[str] = set()
        self._hashes, self._hashed = np.zeros((budget, 4), np.uint64), 0

    def draw(self, line: Iterable[Entry], count: int) -> None:
        """Take the first `count` of a line, one of each group of copies."""
        for one in line:
            if len(self.why) < count and self._fresh(one):
                self._add(one)

    def take(self, line: Iterable[Entry], count: int) -> None:
        """Take `count` by priority x novelty. Novelty only falls, so most of the line is never looked at again."""
        entries = sorted(line, reverse=True)
        heap = [(-one.priority, place, 0) for place, one in enumerate(entries)]
        bits = [STRANGER_BITS] * len(entries)  # to the nearest chosen one, among those compared with so far
        while heap and count > 0:
            _, place, compared = heap[0]
            one = entries[place]
            if not self._fresh(one):
                heapq.heappop(heap)
            elif one.hash and compared < self._hashed:
                bits[place] = min(bits[place], self._nearest(one, compared))
                if bits[place] <= COPY_BITS:
                    heapq.heappop(heap)
                else:
                    heapq.heapreplace(heap, (-one.priority * bits[place] / STRANGER_BITS, place, self._hashed))
            else:
                heapq.heappop(heap)
                self._add(one)
                count -= 1

    def _fresh(self, one: Entry) -> bool:
        return one.id not in self.why and (not one.group or one.group not in self._groups)

    def _add(self, one: Entry) -> None:
        self.why[one.id] = one.why
        self._groups.add(one.group)
        if one.hash:
            self._hashes[self._hashed] = _words(one.hash)
            self._hashed += 1

    def _nearest(self, one: Entry, start: int) -> int:
        differing = np.bitwise_xor(self._hashes[start : self._hashed], _words(one.hash))
        return int(np.bitwise_count(differing).sum(axis=1).min())


def _words(text: str) -> npt.NDArray[np.uint64]:
    return np.frombuffer(bytes.fromhex(text), np.uint64)
