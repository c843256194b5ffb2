"""A student looks at its teacher's labels: a model that was trained on them says which are probably wrong, and what is missing.

Few labels are wrong, and a model that has seen thousands of others, for a few passes only, learns the rule before the exceptions. So
where it disagrees with the label that it was given, the label is suspect; how much, people's answers tell. Where the evidence is strong
it speaks for itself, as a source of its own that can be taken back; where it is not, people are asked, and training counts the label
for as much as it is likely to be right.

Papers: https://arxiv.org/abs/1804.06872 (what is learned first is mostly right), https://arxiv.org/abs/1911.00068 (confident learning)
"""

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from tilth import models
from tilth.claims import PEOPLE, Claim, Json, standing
from tilth.data.where import both, one_of, open_to_models
from tilth.engine.steps import Facts, fingerprint, step
from tilth.engine.work import Work
from tilth.geometry import iou
from tilth.samples import Result, Sample
from tilth.train.judge.chances import KEPT_BEFORE, SEEN_BEFORE, Curve, Said, fit_curve
from tilth.train.judge.predict import Predictor
from tilth.train.learn.examples import held_back

FLOOR = 0.05  # of a box that is kept in the column
MOST = 20  # boxes of an image that are
SAME_IOU = 0.5
MINE = "model:student@"
AGAIN, RIGHT = "again", "right"


@step
class Look:
    """Look at images with a trained detector."""

    name: str
    detector: str
    digest: str
    batch_size: int = 64
    device: str = "auto"

    def models(self) -> tuple[str, ...]:
        """None that others know; `digest` tells one from another."""
        return ()

    def load(self) -> Callable[[Sequence[Sample]], list[Result]]:
        """Load it."""
        predictor = Predictor(None, Path(self.detector), self.device)

        def look(samples: Sequence[Sample]) -> list[Result]:
            said = predictor([sample.pixels() for sample in samples])
            return [
                Result(columns={f"{self.name}.{AGAIN}": [[b[5], b[4], *b[:4]] for b in boxes if b[4] >= FLOOR][:MOST]})
                for _, boxes in said
            ]

        return look


class Looked:
    """What teacher and student say of one image.

    Args:
        sample: The image.
        name: Of the column that the student left.
        mine: Beginning of the student's own sources.
        categories: All that can be pictured.
    """

    def __init__(self, sample: Sample, name: str, mine: str, categories: Sequence[str]) -> None:
        self.student = sample.columns.get(f"{name}.{AGAIN}") is not None
        rows = [row for row in _rows(sample.columns.get(f"{name}.{AGAIN}")) if row[0] in categories]
        self.seen = [
            Claim(category=str(r[0]), score=min(1.0, float(r[1])), box_xyxy=tuple(r[2:6]), source=mine + "?")
            for r in rows
        ]
        said = standing(c for c in sample.claims if c.kind == "model" and not c.source.startswith(mine))
        claims = [claim for round_ in said.values() for claim in round_]
        self.asked = {name for claim in claims for name in claim.asked} | {
            str(c.category) for c in claims if c.category
        }
        self.kept = [c for c in claims if c.says == "label" and c.category in categories and c.box_xyxy]
        own = [claim for claim in sample.claims if claim.source.startswith(mine)]
        self.overruled = {name for claim in own for name in claim.asked}  # by this student or one before it
        self.sources = [*said, *sorted({claim.source for claim in own})]
        self.top: dict[str, float] = {}
        for column, value in sample.columns.items():
            if column.endswith(".top") and isinstance(value, Mapping):
                for category, score in value.items():
                    self.top[category] = max(self.top.get(category, 0.0), float(str(score)))

    def backing(self, claim: Claim) -> float:
        """Return the student's best score for a box of the teacher's."""
        if not self.student:
            return float("nan")
        return max((s.score for s in self.seen if s.category == claim.category and _overlap(s, claim)), default=0.0)

    def news(self) -> list[Claim]:
        """Return what the student sees where the teacher keeps nothing of that category, the best of each place."""
        found: list[Claim] = []
        for one in sorted(self.seen, key=lambda claim: -claim.score):
            others = [
                *(k for k in self.kept if k.category == one.category),
                *(f for f in found if f.category == one.category),
            ]
            if not any(_overlap(one, other) for other in others):
                found.append(one)
        return found

    def said(self, claims: Sequence[Claim], *, kept: bool) -> list[Said]:
        """Return what both say of the teacher's boxes, or of the student's."""
        if kept:
            return [Said(category=str(c.category), first=c.score, second=self.backing(c)) for c in claims]
        found = {c.category for c in self.kept}  # whose best score is that of what was kept
        return [
            Said(
                category=str(c.category), first=0.0 if c.category in found else self.top.get(str(c.category), 0.0),
                second=c.score, unasked=c.category not in self.asked,
            )
            for c in claims
        ]  # fmt: skip


def _rows(value: Json) -> list[Any]:
    return [row for row in value if isinstance(row, list | tuple)] if isinstance(value, list | tuple) else []


def _overlap(a: Claim, b: Claim) -> bool:
    return bool(iou(np.array([a.box_xyxy]), np.array([b.box_xyxy]))[0, 0] >= SAME_IOU)


@step
class Decide:
    """Say for each label how likely it is right; overrule what is nearly sure to be wrong."""

    name: str
    mine: str
    digest: str
    policy: str
    categories: tuple[str, ...]
    kept: Curve
    seen: Curve
    sure: float
    absent: float
    batch_size: int = 256

    def models(self) -> tuple[str, ...]:
        """None: the columns say what was seen."""
        return ()

    def load(self) -> Callable[[Sequence[Sample]], list[Result]]:
        """Nothing to load."""
        round_ = fingerprint(self)
        return lambda samples: [self.decide(sample, round_) for sample in samples]

    def decide(self, sample: Sample, round_: str) -> Result:
        """Weigh one image."""
        looked = Looked(sample, self.name, self.mine, self.categories)
        news = looked.news()
        kept_chance = self.kept(looked.said(looked.kept, kept=True))
        news_chance = self.seen(looked.said(news, kept=False))
        right: dict[str, Json] = {}
        labels: list[Claim] = []
        asked: list[str] = []
        for category in self.categories:
            old = [(c, p) for c, p in zip(looked.kept, kept_chance, strict=True) if c.category == category]
            new = [(c, p) for c, p in zip(news, news_chance, strict=True) if c.category == category]
            changes = any(p <= self.absent for _, p in old) or any(p >= self.sure for _, p in new)
            known = category in looked.asked
            if not known and not looked.student:
                continue
            if known and not changes and category not in looked.overruled:
                right[category] = _product([p for _, p in old] + [1 - p for _, p in new])
                continue
            said = [(c, p) for c, p in old if p > self.absent] + [(c, p) for c, p in new if p >= self.sure]
            doubts = [p for _, p in new if p < self.sure] + [p for _, p in old if p <= self.absent]
            chance = _product([p for _, p in said] + [1 - p for p in doubts])
            right[category] = chance
            if known or said or max(doubts, default=0.0) <= self.absent:  # of the rest nobody says anything
                asked.append(category)
                labels += [replace(c, score=round(p, 5)) for c, p in said]
        evidence: dict[str, Json] = {"round": round_, "instead_of": looked.sources}
        claims = [
            replace(c, source=f"{self.mine}{self.digest}", evidence={**evidence, "was": c.source}, asked=tuple(asked), policy=self.policy)
            for c in labels
        ]  # fmt: skip
        if asked and not claims:
            nothing = Claim(says="empty", source=f"{self.mine}{self.digest}", evidence=evidence, asked=tuple(asked))
            claims = [replace(nothing, policy=self.policy)]
        rounded: dict[str, Json] = {name: round(float(str(p)), 4) for name, p in right.items()}
        earlier = (
            v
            for n in sample.columns
            if n.endswith(".turn") and n != f"{self.name}.turn" and isinstance(v := sample.columns[n], int)
        )
        turn = 1 + max(earlier, default=0)
        proposed: list[Json] = [
            [c.category, round(p, 4), *(round(v, 2) for v in c.box_xyxy or ())]
            for c, p in zip(news, news_chance, strict=True) if self.absent < p < self.sure
        ]  # fmt: skip
        columns: dict[str, Json] = {
            f"{self.name}.{RIGHT}": rounded,
            f"{self.name}.turn": turn,
            f"{self.name}.suspected": proposed,
        }
        return Result(claims=tuple(claims), columns=columns)


def _product(chances: Sequence[float]) -> float:
    return float(np.prod(chances)) if chances else 1.0


@step
class Relabel:
    """Let a detector that was trained on automatic labels look at them again.

    Leaves `<step>.right`, the chance of what is now said about each category to be right, by which `review` asks and training weighs;
    and `<step>.suspected`, boxes that may be missing. Where the chance of a label falls to `absent`, or that of a new one
    reaches `sure`, the student's word takes the place of its teacher's, as claims of `model:student`.

    Args:
        detector: Name of the detector artifact; empty to weigh the teacher's scores alone, by what people said so far.
        sure: Chance from which on the student adds a label.
        absent: Chance up to which it takes one away, or calls a category absent that nobody has looked for.
        batch_size: Images at a time.
    """

    detector: str = ""
    sure: float = 0.8
    absent: float = 0.05
    batch_size: int = 64

    def __post_init__(self) -> None:
        """Check the settings."""
        if not 0.5 <= self.sure <= 1 or not 0 <= self.absent <= 0.5:
            raise ValueError(f"sure must lie in [0.5, 1] and absent in [0, 0.5], got {self.sure} and {self.absent}")

    def run(self, work: Work) -> Facts:
        """Look, learn from people how far to believe it, decide."""
        folder = work.artifact(self.detector) if self.detector else None
        digest = models.digest(str(folder)) if folder else "scores"
        categories = tuple(category.name for category in work.policy.pictured)
        wanted = both("split != 'test'", open_to_models(categories))
        people = both("split != 'test'", one_of("state", ("reviewed", "confirmed_empty")))
        looked = dict[str, int]()
        if folder:
            look = Look(
                name=work.name, detector=str(folder), digest=digest, batch_size=self.batch_size, device=work.device
            )
            looked = work.map(look, wanted, label=f"{work.name}: look")
            held = {s.id for s in work.dataset.samples(people, images=False, keep=held_back) if not s.made}
            if held:
                work.map(look, people, ids=held, label=f"{work.name}: look at held-back images")
        answers = _Answers(categories)
        for sample in work.dataset.samples(people, images=False):
            answers.take(sample, work.name)
        kept, seen = answers.curves()
        decide = Decide(
            name=work.name, mine=MINE, digest=digest, policy=work.policy.tag, categories=categories,
            kept=kept, seen=seen, sure=self.sure, absent=self.absent,
        )  # fmt: skip
        work.map(decide, wanted, on="claims", label=f"{work.name}: decide")
        return {
            "images": looked.get("ok", 0),
            "failed": looked.get("failed", 0),
            "learned_from": {"kept": kept.learned_from, "suspected": seen.learned_from},
            "curves": {name: [*one.weights, dict(one.offsets)] for name, one in (("kept", kept), ("suspected", seen))},
            **_count(work, categories),
        }


class _Answers:
    """What people said of labels on which a student that had not learned them had a say."""

    def __init__(self, categories: Sequence[str]) -> None:
        self.mine, self.categories = MINE, categories
        self.told: dict[bool, list[tuple[Said, bool]]] = {True: [], False: []}

    def take(self, sample: Sample, name: str) -> None:
        """Take the answer about one image, by the last look that was before it, or by this one when it was held back."""
        turns = [n.removesuffix(".turn") for n in sample.columns if n.endswith(".turn")]
        last = max(turns, key=lambda n: int(str(sample.columns[f"{n}.turn"])), default=name)
        looked = Looked(sample, last, self.mine, self.categories)
        truth = sample.truth
        decided = {category for category, kind in truth.looked.items() if kind in PEOPLE}
        for kept, claims in ((True, looked.kept), (False, looked.news())):
            for claim, said in zip(claims, looked.said(claims, kept=kept), strict=True):
                if claim.category in decided:
                    own = [t for t in truth.labels if t.category == claim.category]
                    there = any(t.box_xyxy is None or _overlap(t, claim) for t in own)
                    self.told[kept].append((said, there))

    def curves(self) -> tuple[Curve, Curve]:
        """Return that of kept boxes and that of suspected ones."""
        found = []
        for kept, before in ((True, KEPT_BEFORE), (False, SEEN_BEFORE)):
            rows = self.told[kept]
            found.append(fit_curve([said for said, _ in rows], [there for _, there in rows], before))
        return found[0], found[1]


def _count(work: Work, categories: Sequence[str]) -> dict[str, Json]:
    wrong: Counter[str] = Counter()
    added: Counter[str] = Counter()
    judged = 0
    for sample in work.dataset.samples(f"`{work.name}.turn` is not null", images=False):
        chances = sample.chances
        judged += 1
        for category in sample.truth.unasked(chances, PEOPLE):
            wrong[category] += 1 - chances[category]
        added.update(str(claim.category) for claim in sample.truth.labels if claim.source.startswith(MINE))
    return {
        "expected_wrong": {name: round(wrong[name], 1) for name in categories},
        "labels_of_the_student": dict(added),
        "judged": judged,
    }
