"""Thresholds for a stated cost: what a missed harm, a look of a person and a millisecond are worth beside each other, on validation images.

Chosen are `review_above` of each category, from which on a person looks, and `clear_below`, below which Stage 1 alone lets an image pass
and no words are read. Every image is seen and read once; what a choice would do is then computed. `block_above` stays, as does the
threshold of a category with an aim of its own (`review_at`), and of one of which too few images tell.
"""

import math
import shutil
import tempfile
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import asdict, dataclass, fields, replace
from functools import partial
from pathlib import Path

import numpy as np

from tilth.claims import Json
from tilth.errors import InputError
from tilth.pipeline.protocols.examples import Example
from tilth.policy import Policy, load_policy
from tilth.runtime.bundles.bundle import in_use
from tilth.runtime.bundles.repolicy import repolicy
from tilth.runtime.bundles.settings import write_policy
from tilth.runtime.stages.cascade import Case, Moderator
from tilth.runtime.stages.stage1 import Screen
from tilth.train.measure.judged import RESAMPLES
from tilth.train.measure.metrics import with_intervals
from tilth.train.measure.prediction import Array

LEAST = 20  # unsafe images of a category, and others, from which on its threshold is chosen
CLEAR = 24  # values of `clear_below` that are tried
SWEEPS = 10  # over the categories, at most; each makes it cheaper, or is the last


@dataclass(frozen=True, kw_only=True)
class Cost:
    """What things cost, in whatever unit.

    Args:
        missed: An unsafe image that nobody looks at.
        review: An image that somebody has to look at.
        ms: A millisecond of computing.
    """

    missed: float = 100.0
    review: float = 1.0
    ms: float = 0.0

    def __post_init__(self) -> None:
        """Check that there is anything to weigh.

        Raises:
            InputError: A cost is none, or misses or looks cost nothing, so that the best is to flag all or nothing.
        """
        for name, value in asdict(self).items():
            if not math.isfinite(value) or value < 0:
                raise InputError(f"cost of {name}: expected a number of at least 0, got {value}")
        if not self.missed or not self.review:
            raise InputError("a cost needs missed and review above 0: were one free, all or nothing would be flagged")


def read_cost(text: str) -> Cost:
    """Read `missed=100,review=1,ms=0.001`; what is left out has its default.

    Raises:
        InputError: It is written otherwise.

    >>> read_cost("missed=50,ms=0.01")
    Cost(missed=50.0, review=1.0, ms=0.01)
    """
    known, told = [item.name for item in fields(Cost)], dict[str, float]()
    for part in text.split(","):
        name, _, value = (each.strip() for each in part.partition("="))
        try:
            told[name] = float(value)
        except ValueError:
            raise InputError(f"--cost: expected {'=…,'.join(known)}=…, got {part!r}") from None
        if name not in known:
            raise InputError(f"--cost: there is no {name!r}; there are {', '.join(known)}")
    return Cost(**told)


@dataclass(frozen=True, kw_only=True, eq=False)
class Seen:
    """What both stages say of n images about k categories, whichever of them would be asked.

    Args:
        screens: Of Stage 1.
        alone: Scores when it decides, `(n, k)`.
        read: Scores when words are read, `(n, k)`.
        shown: Which categories apply, `(n, k)`.
        unsafe: Whether any does, `(n,)`.
        stage1_ms: `(n,)`.
        more_ms: What reading and judging words take, `(n,)`.
        left_out: Images that could not be decoded, whose words nobody judged, or of which nobody knows whether they are safe.
    """

    screens: Sequence[Screen]
    alone: Array
    read: Array
    shown: Array
    unsafe: Array
    stage1_ms: Array
    more_ms: Array
    left_out: int


def see(moderator: Moderator, examples: Iterable[Example], advance: Callable[[int], None] = lambda n: None) -> Seen:
    """Let both stages judge all images.

    Raises:
        InputError: There is no image of which is known whether it is safe.
    """
    names, screens, left_out = moderator.policy.names, list[Screen](), 0
    alone, read, shown, unsafe = list[list[float]](), list[list[float]](), list[list[bool]](), list[bool]()
    stage1_ms, more_ms = list[float](), list[float]()
    for example in examples:
        advance(1)
        if example.image is None or example.unsafe is None:
            left_out += 1
            continue
        if not screens:  # models and readers load at their first use, which is no image's time
            moderator.judge(
                [moderator.read(example.image, Case(screen=moderator.stage1([example.image])[0], timings_ms={}))]
            )
        began = time.perf_counter()
        [screen] = moderator.stage1([example.image])
        looked = time.perf_counter()
        case = moderator.read(example.image, Case(screen=screen, timings_ms={}))
        [verdict] = moderator.judge([case])
        if verdict.degraded:  # nobody judged its words
            left_out += 1
            continue
        stage1_ms.append(1000 * (looked - began))
        more_ms.append(1000 * (time.perf_counter() - looked))
        screens.append(screen)
        alone.append([screen.scores.get(name, 0.0) for name in names])
        read.append([verdict.scores[name] for name in names])
        shown.append([name in example.categories for name in names])
        unsafe.append(example.unsafe)
    if not screens:
        raise InputError(
            f"no image to choose thresholds by: {left_out} were left out, as nobody knows whether they are safe"
        )
    return Seen(
        screens=screens, alone=np.array(alone), read=np.array(read), shown=np.array(shown), unsafe=np.array(unsafe),
        stage1_ms=np.array(stage1_ms), more_ms=np.array(more_ms), left_out=left_out,
    )  # fmt: skip


@dataclass(frozen=True, kw_only=True)
class Choice:
    """Thresholds, and what they cost an image.

    Args:
        review_above: By category.
        clear_below: Of the bundle.
        cost: Mean of an image.
    """

    review_above: dict[str, float]
    clear_below: float
    cost: float


class Chooser:
    """Computes what thresholds would do to images that were seen.

    Args:
        moderator: The bundle.
        seen: What it says of them.
        cost: What things cost.
    """

    def __init__(self, moderator: Moderator, seen: Seen, cost: Cost) -> None:
        self.moderator, self.seen, self.cost = moderator, seen, cost
        self.names, policy = moderator.policy.names, moderator.policy
        self.now = np.array([one.review_above for one in policy.categories])
        self.most = np.array([one.block_above for one in policy.categories])
        self.kept = {one.name: why for one in policy.categories if (why := self._kept(one.name))}
        # what Stage 1 leaves open does not depend on `review_above`, below which a bundle may not let images pass
        raised = tuple(one.model_copy(update={"review_above": one.block_above}) for one in policy.categories)
        self._lax = replace(moderator, policy=policy.with_categories(raised), clear_below=0.0)

    def _kept(self, name: str) -> str:
        """Say why the threshold of a category stays; nothing where it is chosen."""
        category, shown = self.moderator.policy[name], self.seen.shown[:, self.names.index(name)]
        if category.is_signpost:
            return "a signpost"
        if category.review_at is not None:
            return "has an aim of its own"
        if min(shown.sum(), (~shown).sum()) < LEAST:
            return f"{int(shown.sum())} images show it and {int((~shown).sum())} do not, at least {LEAST} of each would tell"
        return ""

    def scores(self, clear_below: float) -> tuple[Array, Array]:
        """Return the scores that decide, `(n, k)`, and which images are read, `(n,)`."""
        lax = replace(self._lax, clear_below=clear_below)
        opened = np.array([isinstance(lax.sort(screen), Case) for screen in self.seen.screens], bool)
        return np.where(opened[:, None], self.seen.read, self.seen.alone), opened

    def costs(self, review_above: Array, clear_below: float) -> Array:
        """Return what each image costs, `(n,)`."""
        scores, opened = self.scores(clear_below)
        flagged = (scores > review_above).any(1)
        ms = self.seen.stage1_ms + opened * self.seen.more_ms
        return np.asarray(
            self.cost.missed * (self.seen.unsafe & ~flagged) + self.cost.review * flagged + self.cost.ms * ms
        )

    def best(self) -> Choice:
        """Return the cheapest thresholds; those of the bundle where nothing is cheaper."""
        best = Choice(
            review_above=dict(zip(self.names, self.now.tolist(), strict=True)), clear_below=self.moderator.clear_below,
            cost=float(self.costs(self.now, self.moderator.clear_below).mean()),
        )  # fmt: skip
        highest = np.array([max(screen.scores.values(), default=0.0) for screen in self.seen.screens])
        tried = {self.moderator.clear_below, *np.round(np.quantile(highest, np.linspace(0, 1, CLEAR)), 4).tolist(), 0.0}
        known = [i for i, name in enumerate(self.names) if name in self.moderator.stage1.labels]
        fixed = [self.now[i] for i in known if self.names[i] in self.kept]
        for clear_below in sorted(tried):
            if clear_below > min([*fixed, *self.most[known]], default=1.0):
                continue  # it would let images pass that somebody is to look at
            thresholds = self._thresholds(clear_below, known)
            cost = float(self.costs(thresholds, clear_below).mean())
            if cost < best.cost - 1e-9:
                chosen = dict(zip(self.names, thresholds.tolist(), strict=True))
                best = Choice(review_above=chosen, clear_below=clear_below, cost=cost)
        return best

    def _thresholds(self, clear_below: float, known: Sequence[int]) -> Array:
        """Choose the thresholds of all categories, one after the other until none gets cheaper."""
        scores, _ = self.scores(clear_below)
        least = np.zeros(len(self.names))
        least[list(known)] = clear_below
        thresholds = np.maximum(self.now, least)
        for _ in range(SWEEPS):
            before = thresholds.copy()
            for k, name in enumerate(self.names):
                if name not in self.kept:
                    others = np.delete(scores > thresholds, k, axis=1).any(1)
                    thresholds[k] = self._one(
                        scores[~others, k], self.seen.unsafe[~others], thresholds[k], least[k], self.most[k]
                    )
            if (thresholds == before).all():
                break
        return np.asarray(thresholds)

    def _one(self, scores: Array, unsafe: Array, now: float, least: float, most: float) -> float:
        """Choose one threshold, by the images that no other category flags; of equally cheap ones that nearest to now."""
        inside = np.unique(scores[(scores > least) & (scores < most)])
        between = np.concatenate([[now, least, most], (inside[1:] + inside[:-1]) / 2])
        above = scores[None, :] > between[:, None]
        cost = self.cost.review * above.sum(1) + self.cost.missed * (unsafe & ~above).sum(1)
        cheapest = between[cost <= cost.min() + 1e-9]
        return float(cheapest[np.abs(cheapest - now).argmin()])


def choose(moderator: Moderator, seen: Seen, cost: Cost, *, seed: int = 0) -> tuple[Choice, dict[str, Json]]:
    """Choose thresholds, and tell what they cost beside those of the bundle.

    The images that a choice was made by flatter it; what it is worth is for others to tell.
    """
    chooser = Chooser(moderator, seen, cost)
    best = chooser.best()
    before = chooser.costs(chooser.now, moderator.clear_below)
    after = chooser.costs(np.array([best.review_above[name] for name in chooser.names]), best.clear_below)

    def mean(counts: Array, of: Array) -> float:
        return float(counts @ of / counts.sum())

    costs = {"cost_before": before, "cost_after": after, "saved": before - after}
    told = with_intervals(
        {name: (partial(mean, of=of), RESAMPLES) for name, of in costs.items()}, len(before), seed=seed
    )
    changed = {
        name: {"was": round(float(old), 4), "is": round(best.review_above[name], 4)}
        for name, old in zip(chooser.names, chooser.now, strict=True)
        if abs(best.review_above[name] - old) > 1e-9
    }
    facts: dict[str, Json] = {
        "cost": asdict(cost), "images": len(before), "unsafe": int(seen.unsafe.sum()), "left_out": seen.left_out,
        **told, "review_above": changed, "clear_below": {"was": moderator.clear_below, "is": best.clear_below},
        "kept": dict(chooser.kept),
    }  # fmt: skip
    return best, facts


def write(bundle: Path, out: Path, choice: Choice, *, made: str, facts: dict[str, Json]) -> None:
    """Make a bundle with other thresholds, which says what they were chosen for.

    Args:
        bundle: The bundle.
        out: Folder of the new one, which must not be there.
        choice: The thresholds.
        made: When, for its manifest.
        facts: What to remember of the choice.

    Raises:
        InputError: `out` is there.
    """
    policy: Policy = load_policy(in_use(bundle) / "policy.yaml")
    categories = tuple(
        one.model_copy(update={"review_above": choice.review_above[one.name]}) for one in policy.categories
    )
    folder = Path(tempfile.mkdtemp())
    try:
        write_policy(folder, policy.with_categories(categories))
        repolicy(
            bundle, folder / "policy.yaml", out, made=made, clear_below=choice.clear_below, facts={"chosen_for": facts}
        )
    finally:
        shutil.rmtree(folder)
