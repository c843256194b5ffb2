"""A student looks at its teacher's labels: a model that was trained on them says which are probably wrong, and what is missing.

Few labels are wrong, and a model that has seen thousands of others, for a few passes only, learns the rule before the exceptions. So
where it disagrees with the label that it was given, the label is suspect; how much, people's answers tell. Where the evidence is strong
it speaks for itself, as a source of its own that can be taken back; where it is not, people are asked, and training counts the label
for as much as it is likely.

Papers: https://arxiv.org/abs/1804.06872 (what is learned first is mostly right), https://arxiv.org/abs/1911.00068 (confident learning)
"""

import math
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, ClassVar

from tilth import models
from tilth.claims import PEOPLE, Claim, Json
from tilth.data.where import both, one_of, open_to_models
from tilth.engine.steps import Facts, fingerprint, step
from tilth.engine.work import Work
from tilth.samples import EVEN, Result, Sample
from tilth.train.judge.answers import AGAIN, MINE, Answers, Looked
from tilth.train.judge.chances import Curve
from tilth.train.judge.predict import Predictor
from tilth.train.learn.examples import held_back

FLOOR = 0.05  # of a box that is kept in the column
MOST = 20  # boxes of an image that are
CONFIRMED = 3  # boxes that people have confirmed, before a student is sure of a category that no model was asked for
RIGHT = "right"


@step
class Look:
    """Look at images with a trained detector."""

    revision: ClassVar[int] = 1  # scores of before bfloat16 are hundredths away

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


@dataclass(frozen=True, kw_only=True)
class Weighed:
    """A box of the teacher's, or a new one of the student's.

    Args:
        claim: What its maker says.
        chance: How likely it is to be right.
        new: Whether it is the student's.
        stands: Whether it is to count.
    """

    claim: Claim
    chance: float
    new: bool
    stands: bool


@step
class Decide:
    """Say what is likelier, label by label, and how likely it is."""

    name: str
    look: str
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
        looked = Looked(sample, self.look, self.categories)
        boxes = self._weigh(looked)
        right: dict[str, Json] = {}
        present: dict[str, Json] = {}
        asked: list[str] = []
        for category in self.categories:
            known = category in looked.asked
            if not known and not looked.student:
                continue
            own = [box for box in boxes if box.claim.category == category]
            said = [box.chance for box in own if box.stands]
            doubt = max((box.chance for box in own if not box.stands), default=0.0)
            right[category] = round(math.prod(said) * (1 - doubt), 4)
            if category not in looked.unplaced:  # a label without a box is nobody's to weigh
                present[category] = round(max((box.chance for box in own), default=0.0), 4)
            changed = category in looked.overruled or any(box.new == box.stands for box in own)
            if changed if known else said or doubt <= self.absent:  # of the rest nobody says anything
                asked.append(category)
        suspected: list[Json] = [
            [box.claim.category, round(box.chance, 4), *(round(v, 2) for v in box.claim.box_xyxy or ())]
            for box in boxes if not box.stands and box.chance > self.absent
        ]  # fmt: skip
        columns: dict[str, Json] = {
            f"{self.name}.{RIGHT}": right,
            f"{self.name}.present": present,
            f"{self.name}.turn": _turn(sample, self.name),
            f"{self.name}.suspected": suspected,
        }
        if self.look != self.name:
            columns[f"{self.name}.{AGAIN}"] = sample.columns.get(f"{self.look}.{AGAIN}")
        labels = [box for box in boxes if box.stands and box.claim.category in asked]
        return Result(claims=self._claims(labels, asked, looked, round_), columns=columns)

    def _weigh(self, looked: Looked) -> list[Weighed]:
        """Say of each box how likely it is to be right; a new one counts only where that is sure enough."""
        news = looked.news()
        said = looked.said(news, kept=False)
        kept = zip(looked.kept, self.kept(looked.said(looked.kept, kept=True)), strict=True)
        met = [not s.unasked or self.seen.confirmed.get(s.category, 0) >= CONFIRMED for s in said]
        seen = zip(news, self.seen(said), self.seen.at_least(said), met, strict=True)
        return [
            *(Weighed(claim=claim, chance=p, new=False, stands=p >= EVEN) for claim, p in kept),
            *(
                Weighed(claim=claim, chance=p, new=True, stands=some and least >= self.sure)
                for claim, p, least, some in seen
            ),
        ]

    def _claims(
        self, labels: Sequence[Weighed], asked: Sequence[str], looked: Looked, round_: str
    ) -> tuple[Claim, ...]:
        """Return what is said now, and take back what earlier students said: this one has seen what they saw."""
        source = f"{MINE}{self.digest}"
        evidence: dict[str, Json] = {"round": round_, "instead_of": looked.sources}
        mine: dict[str, Any] = {"source": source, "asked": tuple(asked), "policy": self.policy}
        claims = [
            replace(box.claim, score=round(box.chance, 5), evidence={**evidence, "was": box.claim.source}, **mine)
            for box in labels
        ]  # fmt: skip
        if asked and not claims:
            claims = [Claim(says="empty", evidence=evidence, **mine)]
        gone = [other for other in looked.students if other != source]
        return (*claims, *(Claim(says="withdraw", source=other, evidence={"round": round_}) for other in gone))


@step
class Relabel:
    """Let a detector that was trained on automatic labels look at them again.

    Leaves `<step>.right`, the chance of what is now said about each category to be right, by which `review` asks; `<step>.present`, the
    chance that the image shows it, which models learn and calibration fits; and `<step>.suspected`, boxes that may be missing, which a
    detector is shown as often as they are likely. A label of the teacher's that is probably wrong goes, a new one that is surely right
    comes, as claims of `model:student`. What the same detector saw in an earlier step of the run is weighed anew, by what people have said
    since, without a look.

    Args:
        detector: Name of the detector artifact; empty to weigh the teacher's scores alone, by what people said so far.
        sure: Chance from which on a label is added, at the lower end of what people's answers can tell: nobody is sure of a category that
            people have hardly answered about, and of one that no model was asked for not before they confirmed three boxes.
        absent: Chance up to which a category counts as absent that no model was asked for. In between nobody has looked: where a category
            is rare, what is probably absent hides most of what there is.
        batch_size: Images at a time.
    """

    refers: ClassVar[tuple[str, ...]] = ("detector",)

    detector: str = ""
    sure: float = 0.7
    absent: float = 0.01
    batch_size: int = 64

    def __post_init__(self) -> None:
        """Check the settings."""
        if not 0 <= self.absent <= EVEN <= self.sure <= 1:
            raise ValueError(f"absent must lie in [0, 0.5] and sure in [0.5, 1], got {self.absent} and {self.sure}")

    def run(self, work: Work) -> Facts:
        """Look, learn from people how far to believe it, decide."""
        folder = work.artifact(self.detector) if self.detector else None
        digest = models.digest(str(folder)) if folder else "scores"
        categories = tuple(category.name for category in work.policy.pictured)
        wanted = both("split != 'test'", open_to_models(categories))
        people = both("split != 'test'", one_of("state", ("reviewed", "confirmed_empty")))
        looked = dict[str, int]()
        before = [name for name, facts in work.facts.items() if folder and facts.get("looked_with") == digest]
        if before and work.dataset.count(both(wanted, f"`{before[-1]}.{AGAIN}` is null")):
            before = []  # images have come since
        look = before[-1] if before else work.name
        if folder and not before:
            looked = self._look(work, Look(
                name=work.name, detector=str(folder), digest=digest, batch_size=self.batch_size, device=work.device
            ), wanted, people)  # fmt: skip
        first = next(iter(work.dataset.samples(wanted, images=False)), None)
        answers = Answers(categories, _turn(first, work.name) if first else 1)
        for sample in work.dataset.samples(people, images=False):
            answers.take(sample, look)
        kept, seen = answers.curves()
        contradicted = answers.contradicted()
        if contradicted["surprising"]:
            work.events.emit(
                "people_doubted",
                step=work.name,
                message="  people contradicted {contradicted} of {answers} things that are nearly sure, where {expected} "
                "were to be expected: is the policy clear to them? people: 2 asks two for each image".format(
                    **contradicted
                ),
            )
        decide = Decide(
            name=work.name, look=look, digest=digest, policy=work.policy.tag, categories=categories,
            kept=kept, seen=seen, sure=self.sure, absent=self.absent,
        )  # fmt: skip
        work.map(decide, wanted, on="claims", label=f"{work.name}: decide")
        return {
            **({"looked_with": digest} if folder else {}),
            "images": looked.get("ok", 0),
            "failed": looked.get("failed", 0),
            "learned_from": {"kept": kept.learned_from, "suspected": seen.learned_from},
            "curves": {name: [*one.weights, dict(one.offsets)] for name, one in (("kept", kept), ("suspected", seen))},
            "nearly_sure": contradicted,
            **_count(work, categories),
        }

    @staticmethod
    def _look(work: Work, look: Look, wanted: str, people: str) -> dict[str, int]:
        """Look at what is open to models, and at what the detector was not shown of what people labelled."""
        counts = work.map(look, wanted, label=f"{work.name}: look")
        held = {s.id for s in work.dataset.samples(people, images=False, keep=held_back) if not s.made}
        if held:
            work.map(look, people, ids=held, label=f"{work.name}: look at held-back images")
        return dict(counts)


def _turn(sample: Sample, name: str) -> int:
    """Return the number of a look at an image: one more than those of other steps before."""
    return 1 + max((number for step_, number in sample.turns.items() if step_ != name), default=0)


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
