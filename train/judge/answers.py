"""What a teacher and a student say of an image, and what people answered: from that the chance of a label is learned."""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

from tilth.claims import PEOPLE, SAME_BOX_IOU, Claim, Json, standing
from tilth.geometry import iou_of
from tilth.samples import EVEN, Sample
from tilth.train.judge.chances import KEPT_BEFORE, SEEN_BEFORE, Curve, Said, fit_curve

# chances of a category from which on people who say the opposite are likelier to be wrong
NEARLY_PRESENT, NEARLY_ABSENT = 0.9, 0.01
LEAST_CHANCE = 0.001  # that a category is there which nobody saw
SURPRISE = 0.001  # a number of contradictions that chance alone makes less often is said
FADES = 0.7  # what is left, with each look since, of an answer about what a student suspected: the next one's scores mean something else
MINE = "model:student@"
AGAIN = "again"  # column of what a student saw


class Looked:
    """What teacher and student say of one image.

    Args:
        sample: The image.
        name: Of the column that the student left.
        categories: All that can be pictured.
    """

    def __init__(self, sample: Sample, name: str, categories: Sequence[str]) -> None:
        self.student = sample.columns.get(f"{name}.{AGAIN}") is not None
        rows = [row for row in _rows(sample.columns.get(f"{name}.{AGAIN}")) if row[0] in categories]
        self.seen = [
            Claim(category=str(r[0]), score=min(1.0, float(r[1])), box_xyxy=tuple(r[2:6]), source=MINE + "?")
            for r in rows
        ]
        said = standing(c for c in sample.claims if c.kind == "model" and not c.source.startswith(MINE))
        claims = [claim for round_ in said.values() for claim in round_]
        self.asked = {name for claim in claims for name in claim.asked} | {
            str(c.category) for c in claims if c.category
        }
        self.unplaced = {c.category for c in claims if c.says == "label" and not c.box_xyxy}
        self.kept = [c for c in claims if c.says == "label" and c.category in categories and c.box_xyxy]
        own = [claim for claim in sample.claims if claim.source.startswith(MINE)]
        self.overruled = {name for claim in own for name in claim.asked}  # by this student or one before it
        self.students = sorted({claim.source for claim in own})
        self.sources = [*said, *self.students]
        self.top: dict[str, float] = {}
        for column in (name for name in sample.columns if name.endswith(".top")):
            if isinstance(value := sample.columns[column], Mapping):
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


class Answers:
    """What people said of labels on which a student that had not learned them had a say.

    Args:
        categories: All that can be pictured.
        turn: Number of the look that is weighed by them.
    """

    def __init__(self, categories: Sequence[str], turn: int = 1) -> None:
        self.categories, self.turn = categories, turn
        # of kept boxes and of suspected ones: what was said, whether it is right, how much that counts
        self.told: dict[bool, list[tuple[Said, bool, float]]] = {True: [], False: []}
        # chance that what is nearly sure is wrong, and whether people said so
        self.nearly_sure: list[tuple[float, bool]] = []

    def take(self, sample: Sample, name: str) -> None:
        """Take the answer about one image, by the last look that was before it, or by this one when it came with its labels."""
        looked, given = Looked(sample, sample.last_turn or name, self.categories), not sample.last_turn
        truth, since = sample.truth, max(0, self.turn - 1 - sample.turns.get(sample.last_turn, self.turn))
        decided = {category for category, kind in truth.looked.items() if kind in PEOPLE}
        # the teacher's scores alone are no such evidence, nor is a suspicion that nobody dared to make a label, and nobody can be sure
        # that something is absent that no teacher was asked for
        for category, chance in sample.presence.items() if looked.student else ():
            there = category in truth.categories
            if category in decided and chance >= NEARLY_PRESENT and sample.chances.get(category, 0.0) >= EVEN:
                self.nearly_sure.append((1 - chance, not there))
            elif category in decided and chance <= NEARLY_ABSENT and category in looked.asked:
                self.nearly_sure.append((max(chance, LEAST_CHANCE), there))
        for kept, claims in ((True, looked.kept), (False, looked.news())):
            for claim, said in zip(claims, looked.said(claims, kept=kept), strict=True):
                if claim.category in decided:
                    own = [t for t in truth.labels if t.category == claim.category]
                    there = any(t.box_xyxy is None or _overlap(t, claim) for t in own)
                    self.told[kept].append((replace(said, given=given), there, 1.0 if kept else FADES**since))

    def contradicted(self) -> dict[str, Json]:
        """Count what was nearly sure and people said the opposite of; `surprising` when chance hardly ever makes so many."""
        from scipy.stats import poisson

        expected, found = sum(chance for chance, _ in self.nearly_sure), sum(gone for _, gone in self.nearly_sure)
        rare = found > 2 and float(poisson.sf(found - 1, max(expected, 0.5))) < SURPRISE
        return {
            "answers": len(self.nearly_sure),
            "expected": round(expected, 2),
            "contradicted": found,
            "surprising": rare,
        }

    def curves(self) -> tuple[Curve, Curve]:
        """Return that of kept boxes and that of suspected ones."""
        found = []
        for kept, before in ((True, KEPT_BEFORE), (False, SEEN_BEFORE)):
            said, there, counts = zip(*self.told[kept], strict=True) if self.told[kept] else ((), (), ())
            found.append(fit_curve(said, there, before, counts))
        return found[0], found[1]


def _rows(value: Json) -> list[Any]:
    return [row for row in value if isinstance(row, list | tuple)] if isinstance(value, list | tuple) else []


def _overlap(a: Claim, b: Claim) -> bool:
    return a.box_xyxy is not None and b.box_xyxy is not None and iou_of(a.box_xyxy, b.box_xyxy) >= SAME_BOX_IOU
