"""The step `fuse`: one set of boxes from what several `ground` steps saw, by other models, other words or in smaller tiles.

Boxes that agree become one, which lies where most of them say; what one step alone saw keeps a part of its score. The fused
boxes speak for the models they come from, so an image is not counted as several opinions afterwards.
"""

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import field
from typing import Any, cast

import numpy as np

from tilth.annotate.boxes.clean import CleanUp, clean_batch
from tilth.annotate.boxes.decide import Decide
from tilth.annotate.boxes.weighted import fuse_boxes
from tilth.claims import Json
from tilth.data.where import both, open_to_models
from tilth.engine.steps import Facts, fingerprint, step
from tilth.engine.work import Work
from tilth.errors import InputError
from tilth.geometry import clip
from tilth.samples import Result, Sample

MIN_SIDE_PX = 1e-3  # coordinates are kept to three digits; what is thinner would have no area


@step
class Join:
    """Fuse what the steps saw into a column like theirs, so that thresholds can change without fusing again."""

    name: str
    of: tuple[str, ...]
    weights: tuple[float, ...]
    iou: float
    source: str
    rules: CleanUp
    batch_size: int = 64

    def models(self) -> tuple[str, ...]:
        """None: the columns say which models they are of."""
        return ()

    def load(self) -> Callable[[Sequence[Sample]], list[Result]]:
        """Nothing to load."""
        return self._join

    def _join(self, samples: Sequence[Sample]) -> list[Result]:
        told = [
            (image, model, row)
            for image, sample in enumerate(samples)
            for model, name in enumerate(self.of)
            for row in cast("list[list[Any]]", sample.columns[f"{name}.seen"])
        ]
        images, models = (np.array([one[k] for one in told], int) for k in (0, 1))
        rows = [row for _, _, row in told]
        boxes = np.array([row[4:8] for row in rows], np.float64).reshape(-1, 4)
        scores = np.array([row[3] for row in rows], np.float64)
        # look-alikes are fused too, each by its own words, and compete as such later
        classes = np.array([row[1] or f"not: {row[0]}" for row in rows], dtype=str)
        # of each thing a step may say one box only, or its own doubles would thin out its score
        sizes = np.array([sample.size_wh for sample in samples]).repeat(len(self.of), 0)
        looks = images * len(self.of) + models
        use = np.array(clean_batch(boxes, scores, classes, looks, sizes, self.rules).kept, int)
        fused = fuse_boxes(boxes[use], scores[use], classes[use], images[use], models[use], self.weights, iou=self.iou)
        into = np.full(len(rows), -1)
        into[use] = fused.into
        members: list[list[int]] = [[] for _ in fused.scores]
        for place in np.flatnonzero(into >= 0):
            members[into[place]].append(int(place))
        found: list[list[Json]] = [[] for _ in samples]
        for box, score, image, who in zip(fused.boxes_xyxy, fused.scores, fused.images, members, strict=True):
            strongest = max((rows[n] for n in who), key=lambda row: float(row[3]))
            box = clip(box[None], samples[image].size_wh)[0]
            if (box[2:] - box[:2]).min() < MIN_SIDE_PX:
                continue
            went_in: list[Json] = [[self.of[models[n]], rows[n][0], *rows[n][3:8]] for n in who]
            found[image].append(
                [*strongest[:3], round(min(1.0, float(score)), 6), *(round(float(v), 3) for v in box), {"of": went_in}]
            )
        return [
            Result(
                columns={
                    f"{self.name}.seen": each,
                    f"{self.name}.by": self.source,
                    f"{self.name}.categories": categories_of(sample, self.of),
                }
            )
            for sample, each in zip(samples, found, strict=True)
        ]


def categories_of(sample: Sample, steps: Sequence[str]) -> list[Json]:
    """Return what any of the steps looked for; nothing when one does not say."""
    told = [cast("list[str]", sample.columns.get(f"{name}.categories") or []) for name in steps]
    return list(dict.fromkeys(name for names in told for name in names)) if all(told) else []


@step
class Fuse:
    """Fuse the boxes of several `ground` steps by their scores; put it after them.

    The fused score is the mean of the members' scores, times the share of the steps that it has members from at best. Evidence
    of each claim, under `of`, lists the boxes that went in: step, phrase, score and corners.

    Args:
        of: Names of the `ground` steps in the recipe.
        weights: How much a step counts; 1 when it is not named.
        iou: Boxes of a category that overlap more are taken for one thing.
        threshold: Least fused score of a claim.
        thresholds: The same for single categories.
        clean_up: Rules for the boxes of each step before, and for the fused ones after; see `annotate/boxes/clean.py`.
    """

    of: tuple[str, ...]
    weights: dict[str, float] = field(default_factory=dict)
    iou: float = 0.55
    threshold: float = 0.3
    thresholds: dict[str, float] = field(default_factory=dict)
    clean_up: CleanUp = field(default_factory=CleanUp)

    def __post_init__(self) -> None:
        """Check the names and numbers."""
        if len(set(self.of)) != len(self.of) or len(self.of) < 2:
            raise ValueError(f"of needs the names of at least two different ground steps, got {list(self.of)}")
        if wrong := sorted(set(self.weights) - set(self.of)):
            raise ValueError(f"weights name steps that `of` does not: {', '.join(wrong)}")
        if any(weight <= 0 for weight in self.weights.values()):
            raise ValueError(f"weights must be above 0, got {self.weights}")
        if not 0 < self.iou < 1:
            raise ValueError(f"iou must lie in (0, 1), got {self.iou}")
        for name, value in {"threshold": self.threshold, **self.thresholds}.items():
            if not 0 < value <= 1:
                raise ValueError(f"{name} must lie in (0, 1], got {value}")

    def run(self, work: Work) -> Facts:
        """Fuse, then decide.

        Raises:
            InputError: `thresholds` names a category that cannot be pictured, or no image was seen by all the steps.
        """
        work.policy.check_pictured(self.thresholds, "thresholds")
        sources = self._sources(work)
        source = f"model:fusion@{fingerprint(self, *sources)}"
        weights = tuple(self.weights.get(name, 1.0) for name in self.of)
        join = Join(name=work.name, of=self.of, weights=weights, iou=self.iou, source=source, rules=self.clean_up)
        joined = work.map(join, self._wanted(work), on="claims")
        decide = Decide(
            name=work.name,
            source=source,
            asked="",
            policy=work.policy.tag,
            threshold=self.threshold,
            thresholds=self.thresholds,
            instead_of=sources,
            rules=self.clean_up,
        )
        seen = f"{work.name}.seen"
        work.map(decide, both(self._wanted(work), f"`{seen}` is not null"), on="claims", label=f"{work.name}: decide")
        return {
            "images": joined.get("ok", 0),
            "failed": joined.get("failed", 0),
            "threshold": self.threshold,
            "thresholds": self.thresholds,
            **self._count(work, source),
        }

    def _wanted(self, work: Work) -> str:
        names = [category.name for category in work.policy.pictured]
        return both("split != 'test'", open_to_models(names), *(f"`{name}.seen` is not null" for name in self.of))

    def _sources(self, work: Work) -> tuple[str, ...]:
        by = [f"{name}.by" for name in self.of]
        found = {str(source) for sources in work.dataset.tally(*by, where=self._wanted(work)) for source in sources}
        if not found:
            raise InputError(
                f"of: no image without people's labels was seen by all of {', '.join(self.of)}; "
                "name the ground steps that come before, and give the later ones `relabel: true` if they skip images"
            )
        return tuple(sorted(found))

    def _count(self, work: Work, source: str) -> Mapping[str, Json]:
        boxes: Counter[str] = Counter()
        agreed = went_in = 0
        for sample in work.dataset.samples(self._wanted(work), images=False):
            went_in += sum(len(cast("list[Any]", sample.columns[f"{name}.seen"])) for name in self.of)
            for claim in sample.truth.labels:
                if claim.source == source:
                    boxes[str(claim.category)] += 1
                    members = cast("list[list[Any]]", claim.evidence["of"])
                    agreed += len({member[0] for member in members}) == len(self.of)
        return {
            "boxes_seen": went_in,
            "boxes": sum(boxes.values()),
            "boxes_by_category": dict(boxes),
            "boxes_that_all_saw": agreed,
        }
