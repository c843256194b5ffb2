"""Drop generated images that do not show what was asked for, by what the detector saw in them afterwards."""

from collections import Counter
from collections.abc import Callable, Sequence

import numpy as np

from tilth.claims import Claim
from tilth.geometry import areas
from tilth.samples import Result, Sample
from tilth.steps import Facts, step
from tilth.work import Work


@step
class AdherenceMapper:
    """Compare the category a generated image was asked for with the boxes that models claimed."""

    min_score: float = 0.3
    max_cover: float = 0.97
    batch_size: int = 256

    def load(self) -> Callable[[Sequence[Sample]], list[Result]]:
        """Nothing to load."""
        return lambda samples: [self._judge(sample) for sample in samples]

    def _judge(self, sample: Sample) -> Result:
        asked = str(sample.origin.get("category", ""))
        boxes = [c for c in sample.claims if c.kind == "model" and c.says == "label" and c.box_xyxy]
        right = [c for c in boxes if c.category == asked and c.score >= self.min_score]
        best = max((c.score for c in boxes if c.category == asked), default=0.0)
        columns = {"adherence.score": round(best, 4), "adherence.asked": asked}
        if not right:
            others = sorted({str(c.category) for c in boxes if c.score >= self.min_score})
            found = f"found {', '.join(others)}" if others else "nothing found"
            return Result(columns=columns, dropped=f"asked for {asked}, {found}")
        if self._covers_all(sample, right):
            return Result(columns=columns, dropped="box covers everything")
        return Result(columns=columns)

    def _covers_all(self, sample: Sample, right: Sequence[Claim]) -> bool:
        whole = sample.size_wh[0] * sample.size_wh[1]
        return bool((areas(np.array([c.box_xyxy for c in right])) / whole > self.max_cover).all())


@step
class Adherence:
    """Keep the generated images in which grounding finds the category that was asked for.

    Run `ground` on them first. The score is a column, so another threshold needs no model.

    Args:
        min_score: Least score of a box of the category.
        max_cover: A box over more of the image than this says nothing about where.
    """

    min_score: float = 0.3
    max_cover: float = 0.97

    def __post_init__(self) -> None:
        """Check the thresholds."""
        for name in ("min_score", "max_cover"):
            if not 0 < getattr(self, name) <= 1:
                raise ValueError(f"{name} must lie in (0, 1], got {getattr(self, name)}")

    def run(self, work: Work) -> Facts:
        """Judge every generated image."""
        counts = work.map(AdherenceMapper(min_score=self.min_score, max_cover=self.max_cover), lambda s: s.made, on="claims")
        reasons: Counter[str] = Counter()
        kept: Counter[str] = Counter()
        for sample in work.dataset.samples(lambda s: s.made, images=False, dropped=True):
            own = [reason for name, reason in sample.drops if name == work.name]
            reasons.update(own)
            kept[str(sample.origin.get("category"))] += not own
        total = sum(counts.values())
        return {
            "kept": counts.get("ok", 0), "dropped": counts.get("dropped", 0),
            "acceptance": round(counts.get("ok", 0) / total, 4) if total else None,
            "kept_by_category": dict(kept), "reasons": dict(reasons.most_common(30)),
        }  # fmt: skip
