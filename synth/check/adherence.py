"""Drop generated images that do not show what was asked for, by what grounding saw in them afterwards."""

from collections import Counter
from collections.abc import Callable, Sequence

import numpy as np

from tilth.claims import Claim, Json
from tilth.data.where import both
from tilth.engine.steps import Facts, step
from tilth.engine.work import Work
from tilth.errors import InputError
from tilth.geometry import Boxes, areas, intersections
from tilth.samples import Result, Sample

WANTED = "made and split != 'test' and not array_has(kinds, 'human')"


@step
class AdherenceMapper:
    """Compare the category that a generated image was asked for with what models found in it."""

    min_score: float = 0.3
    max_cover: float = 0.97
    min_inside: float = 0.5
    batch_size: int = 256

    def models(self) -> tuple[str, ...]:
        """None: the claims say which models they are of."""
        return ()

    def load(self) -> Callable[[Sequence[Sample]], list[Result]]:
        """Nothing to load."""
        return lambda samples: [self._judge(sample) for sample in samples]

    def _judge(self, sample: Sample) -> Result:
        asked = str(sample.origin.get("category", ""))
        said = [claim for claim in sample.claims if claim.kind == "model"]
        seen = [c for c in said if c.says == "label" and c.box_xyxy and c.score >= self.min_score]
        right = [c for c in seen if c.category == asked]
        score = max((c.score for c in said if c.category == asked), default=0.0)
        cover, inside = _cover(sample, right), _inside(sample, right)
        columns: dict[str, Json] = {
            "adherence.asked": asked,
            "adherence.score": round(score, 4),
            "adherence.cover": round(float(cover.min(initial=1)), 4),
            "adherence.inside": round(float(inside.max(initial=0)), 4),
        }
        if not asked:  # such as an image of nothing whose face was changed
            return Result(columns=columns)
        if not said:
            return Result(columns=columns, dropped="no model has looked at it")
        if not right:
            return Result(columns=columns, dropped=f"asked for {asked}, {_found_instead(sample, seen)}")
        if (cover > self.max_cover).all():
            return Result(columns=columns, dropped=f"asked for {asked}, box covers everything")
        if (inside[cover <= self.max_cover] < self.min_inside).all():
            return Result(columns=columns, dropped=f"asked for {asked}, found in another place")
        return Result(columns=columns)


def _boxes(claims: Sequence[Claim]) -> Boxes:
    return np.array([c.box_xyxy for c in claims if c.box_xyxy], np.float64).reshape(-1, 4)


def _cover(sample: Sample, right: Sequence[Claim]) -> Boxes:
    """Return the part of the image that each box takes, `(n,)`."""
    return areas(_boxes(right)) / (sample.size_wh[0] * sample.size_wh[1])


def _inside(sample: Sample, right: Sequence[Claim]) -> Boxes:
    """Return the part of each box that lies where the thing was asked for, `(n,)`; all of it when any place would do."""
    asked = _boxes([c for c in sample.claims if c.kind == "synth"])
    found = _boxes(right)
    if not len(asked) or not len(found):
        return np.ones(len(found))
    return np.asarray(intersections(found, asked).max(1) / np.maximum(areas(found), 1e-9), np.float64)


def _found_instead(sample: Sample, seen: Sequence[Claim]) -> str:
    """Say what a model saw: other categories, or look-alikes that took the box from the category."""
    others = {str(claim.category) for claim in seen}
    for name in (name for name in sample.columns if name.endswith(".removed")):
        if isinstance(rows := sample.columns[name], Sequence):
            others |= {
                str(row.get("phrase")) for row in rows if isinstance(row, dict) and row.get("reason") == "look-alike"
            }
    return f"found {', '.join(sorted(others))}" if others else "nothing found"


@step
class Adherence:
    """Keep the generated images in which grounding finds the category that was asked for, where it was asked for.

    Run `ground` on them first. The measures are columns, so other thresholds need no model. Images that a person has
    labelled are left to what the person said.

    Args:
        min_score: Least score of a box of the category.
        max_cover: A box over more of the image than this says nothing about where.
        min_inside: Least part of a box that lies in the hole that was drawn into, or in the box whose edges were followed.
    """

    min_score: float = 0.3
    max_cover: float = 0.97
    min_inside: float = 0.5

    def __post_init__(self) -> None:
        """Check the thresholds."""
        for name, least in (("min_score", 0.0), ("max_cover", 0.0), ("min_inside", -1.0)):
            if not least < getattr(self, name) <= 1:
                raise ValueError(f"{name} must lie in {'[' if least < 0 else '('}0, 1], got {getattr(self, name)}")

    def run(self, work: Work) -> Facts:
        """Judge every generated image.

        Raises:
            InputError: There are generated images, and no model has looked at any.
        """
        looked = work.dataset.count(both(WANTED, "array_has(kinds, 'model')"))
        if work.dataset.count(WANTED) and not looked:
            raise InputError(f"{work.name}: no model has looked at the generated images; put 'ground' before this step")
        mapper = AdherenceMapper(min_score=self.min_score, max_cover=self.max_cover, min_inside=self.min_inside)
        counts = work.map(mapper, WANTED, on="claims")
        reasons: Counter[str] = Counter()
        asked: Counter[str] = Counter()
        kept: Counter[str] = Counter()
        for sample in work.dataset.samples(WANTED, images=False, dropped=True):
            if any(name != work.name for name, _ in sample.drops):
                continue
            category = str(sample.origin.get("category"))
            own = [reason for name, reason in sample.drops if name == work.name]
            reasons.update(own)
            asked[category] += 1
            kept[category] += not own
        total = sum(counts.values())
        return {
            "kept": counts.get("ok", 0),
            "dropped": counts.get("dropped", 0),
            "acceptance": round(counts.get("ok", 0) / total, 4) if total else None,
            "kept_by_category": {c: kept[c] for c in sorted(asked)},
            "acceptance_by_category": {c: round(kept[c] / n, 4) for c, n in sorted(asked.items())},
            "reasons": dict(reasons.most_common(30)),
        }
