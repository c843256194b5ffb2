"""A student looks at its teacher's labels: a model that was trained on them says which are probably wrong, and what is missing.

Few labels are wrong, and a model that has seen thousands of others, for a few passes only, learns the rule before the exceptions. So
where it disagrees with the label that it was given, the label is suspect; how much, people's answers tell. Where the evidence is strong
it speaks for itself, as a source of its own that can be taken back; where it is not, people are asked, and training counts the label
for as much as it is likely to be right.

Papers: https://arxiv.org/abs/1804.06872 (what is learned first is mostly right), https://arxiv.org/abs/1911.00068 (confident learning)
"""

from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np

from tilth import models
from tilth.claims import PEOPLE, Claim, Json
from tilth.data.where import both, one_of, open_to_models
from tilth.engine.steps import Facts, fingerprint, step
from tilth.engine.work import Work
from tilth.samples import Result, Sample
from tilth.train.judge.answers import AGAIN, MINE, Answers, Looked
from tilth.train.judge.chances import Curve
from tilth.train.judge.predict import Predictor
from tilth.train.learn.examples import held_back

FLOOR = 0.05  # of a box that is kept in the column
MOST = 20  # boxes of an image that are
RIGHT = "right"
LIKELY = 0.5


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
        predictor = Predictor(None, Path(self.detector), self.device, quick=True)

        def look(samples: Sequence[Sample]) -> list[Result]:
            said = predictor([sample.pixels() for sample in samples])
            return [
                Result(columns={f"{self.name}.{AGAIN}": [[b[5], b[4], *b[:4]] for b in boxes if b[4] >= FLOOR][:MOST]})
                for _, boxes in said
            ]

        return look


@step
class Decide:
    """Say what is likelier, label by label, and how likely it is."""

    name: str
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
        looked = Looked(sample, self.name, self.categories)
        news = looked.news()
        kept_chance = self.kept(looked.said(looked.kept, kept=True))
        said_of_news = looked.said(news, kept=False)
        news_chance = self.seen(said_of_news)
        surely = {id(c) for c, p in zip(news, self.seen.at_least(said_of_news), strict=True) if p >= self.sure}
        right: dict[str, Json] = {}
        present: dict[str, Json] = {}
        labels: list[Claim] = []
        asked: list[str] = []
        for category in self.categories:
            old = [(c, p) for c, p in zip(looked.kept, kept_chance, strict=True) if c.category == category]
            new = [(c, p) for c, p in zip(news, news_chance, strict=True) if c.category == category]
            known = category in looked.asked
            if not known and not looked.student:
                continue
            said = [(c, p) for c, p in old if p >= LIKELY] + [(c, p) for c, p in new if id(c) in surely]
            doubts = [p for _, p in old if p < LIKELY] + [p for c, p in new if id(c) not in surely]
            right[category] = round(_product([p for _, p in said]) * (1 - max(doubts, default=0.0)), 4)
            present[category] = round(max((p for _, p in old + new), default=0.0), 4)
            changes = (
                any(p < LIKELY for _, p in old) or any(id(c) in surely for c, _ in new) or category in looked.overruled
            )
            if (
                changes if known else said or max(doubts, default=0.0) <= self.absent
            ):  # of the rest nobody says anything
                asked.append(category)
                labels += [replace(c, score=round(p, 5)) for c, p in said]
        source = f"{MINE}{self.digest}"
        evidence: dict[str, Json] = {"round": round_, "instead_of": looked.sources}
        claims = [
            replace(c, source=source, evidence={**evidence, "was": c.source}, asked=tuple(asked), policy=self.policy)
            for c in labels
        ]  # fmt: skip
        if asked and not claims:
            nothing = Claim(says="empty", source=source, evidence=evidence, asked=tuple(asked))
            claims = [replace(nothing, policy=self.policy)]
        # this student has seen what those before it saw, so nothing of theirs stands beside it
        gone = [other for other in looked.students if other != source]
        claims += [Claim(says="withdraw", source=other, evidence={"round": round_}) for other in gone]
        turn = 1 + max((number for step_, number in sample.turns.items() if step_ != self.name), default=0)
        proposed: list[Json] = [
            [c.category, round(p, 4), *(round(v, 2) for v in c.box_xyxy or ())]
            for c, p in zip(news, news_chance, strict=True) if self.absent < p and id(c) not in surely
        ]  # fmt: skip
        columns: dict[str, Json] = {
            f"{self.name}.{RIGHT}": right,
            f"{self.name}.present": present,
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
    `<step>.present`, the chance that the image shows it, to which models are calibrated; and `<step>.suspected`, boxes that may be
    missing. A label of the teacher's that is probably wrong goes, a new one that is surely right
    comes, as claims of `model:student`; how likely, training and `review` read from the column.

    Args:
        detector: Name of the detector artifact; empty to weigh the teacher's scores alone, by what people said so far.
        sure: Chance from which on a label is added, at the lower end of what people's answers can tell: nobody is sure of a category that
            people have hardly answered about.
        absent: Chance up to which a category counts as absent that no model was asked for. In between nobody has looked: where a category
            is rare, what is probably absent hides most of what there is.
        batch_size: Images at a time.
    """

    detector: str = ""
    sure: float = 0.7
    absent: float = 0.01
    batch_size: int = 64

    def __post_init__(self) -> None:
        """Check the settings."""
        if not 0 <= self.absent <= LIKELY <= self.sure <= 1:
            raise ValueError(f"absent must lie in [0, 0.5] and sure in [0.5, 1], got {self.absent} and {self.sure}")

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
        answers = Answers(categories)
        for sample in work.dataset.samples(people, images=False):
            answers.take(sample, work.name)
        kept, seen = answers.curves()
        contradicted = answers.contradicted()
        if contradicted["surprising"]:
            work.events.emit(
                "people_doubted",
                step=work.name,
                message="  people took away {taken_away} of {labels} labels that are nearly surely right, where {expected} "
                "were to be expected: is the policy clear to them? people: 2 asks two for each image".format(
                    **contradicted
                ),
            )
        decide = Decide(
            name=work.name, digest=digest, policy=work.policy.tag, categories=categories,
            kept=kept, seen=seen, sure=self.sure, absent=self.absent,
        )  # fmt: skip
        work.map(decide, wanted, on="claims", label=f"{work.name}: decide")
        return {
            "images": looked.get("ok", 0),
            "failed": looked.get("failed", 0),
            "learned_from": {"kept": kept.learned_from, "suspected": seen.learned_from},
            "curves": {name: [*one.weights, dict(one.offsets)] for name, one in (("kept", kept), ("suspected", seen))},
            "nearly_sure": contradicted,
            **_count(work, categories),
        }


def _count(work: Work, categories: Sequence[str]) -> dict[str, Json]:
    wrong = dict.fromkeys(categories, 0.0)
    added: Counter[str] = Counter()
    judged = 0
    for sample in work.dataset.samples(f"`{work.name}.turn` is not null", images=False):
        chances = sample.chances
        judged += 1
        for category in sample.truth.unasked(chances, PEOPLE):
            wrong[category] = wrong.get(category, 0.0) + 1 - chances[category]
        added.update(str(claim.category) for claim in sample.truth.labels if claim.source.startswith(MINE))
    return {
        "expected_wrong": {name: round(count, 1) for name, count in wrong.items()},
        "labels_of_the_student": dict(added),
        "judged": judged,
    }
