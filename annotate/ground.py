"""The step `ground`: boxes for the policy's categories, by asking GroundingDINO for them in words.

Paper: https://arxiv.org/abs/2303.05499
Differs: a box gets the phrase whose own tokens score best, so labels never merge; look-alikes of the policy compete for it;
images of a batch share one text and one size, so none is padded and none influences another.
"""

import time
from collections import Counter, defaultdict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import field
from itertools import islice
from pathlib import Path
from typing import Any, Literal, cast

import numpy as np

from tilth import models
from tilth.annotate.boxes import CleanUp, clean_batch
from tilth.annotate.grounding_model import Finder, Seen, precision_on
from tilth.annotate.phrases import Question, questions
from tilth.claims import Claim, Json
from tilth.errors import InputError
from tilth.geometry import Box
from tilth.samples import Result, Sample
from tilth.steps import Facts, fingerprint, step
from tilth.work import Work

FLOOR = 0.1  # what scores less is not kept: no threshold goes there


@step
class Look:
    """Ask the model, and keep all it sees above a floor, so that thresholds can change without asking again."""

    name: str
    model: str
    questions: tuple[Question, ...]
    backend: str = "transformers"
    precision: str = ""
    tiles: int = 1
    size_multiple: int = 32
    batch_size: int = 32
    device: str = "auto"

    def models(self) -> tuple[str, ...]:
        """The grounding model."""
        return (self.model,)

    def load(self) -> Callable[[Sequence[Sample]], list[Result]]:
        """Load it."""
        finder = Finder(
            self.model,
            self.questions,
            backend=self.backend,
            device=self.device,
            size_multiple=self.size_multiple,
            tiles_per_side=self.tiles,
            floor=FLOOR,
            precision=self.precision,
        )

        by = models.source(self.model)

        def look(samples: Sequence[Sample]) -> list[Result]:
            found = finder.find([sample.pixels() for sample in samples])
            return [
                Result(columns={f"{self.name}.seen": [_row(one) for one in seen], f"{self.name}.by": by})
                for seen in found
            ]

        return look


def _row(seen: Seen) -> list[Json]:
    return [seen.phrase, seen.category, seen.prompt, round(seen.score, 6), *(round(v, 3) for v in seen.box_xyxy)]


@step
class Decide:
    """Turn what the model saw into claims: thresholds, look-alikes, and the clean-up of boxes."""

    name: str
    source: str
    asked: str
    threshold: float
    thresholds: dict[str, float] = field(default_factory=dict)
    rules: CleanUp = field(default_factory=CleanUp)
    batch_size: int = 64

    def models(self) -> tuple[str, ...]:
        """None: what was seen says which model it was."""
        return ()

    def load(self) -> Callable[[Sequence[Sample]], list[Result]]:
        """Nothing to load."""
        round_ = fingerprint(self)

        def decide(samples: Sequence[Sample]) -> list[Result]:
            seen = [self._enough(sample) for sample in samples]
            together = [row for rows in seen for row in rows]
            # a look-alike takes part in the clean-up as a class of its own, and removes the weaker boxes on its place
            classes = [_class(row) for row in together]
            cleaned = clean_batch(
                np.array([row[4:8] for row in together], np.float64).reshape(-1, 4),
                np.array([row[3] for row in together]),
                classes,
                np.repeat(np.arange(len(samples)), [len(rows) for rows in seen]),
                np.array([sample.size_wh for sample in samples]),
                self.rules,
            )
            why = iter(
                (reason, classes[by] if by >= 0 else "") for reason, by in zip(cleaned.reasons, cleaned.by, strict=True)
            )
            return [
                self._decide(sample, rows, list(islice(why, len(rows))), round_)
                for sample, rows in zip(samples, seen, strict=True)
            ]

        return decide

    def _rows(self, sample: Sample) -> list[list[Any]]:
        return cast("list[list[Any]]", sample.columns.get(f"{self.name}.seen") or [])

    def _enough(self, sample: Sample) -> list[list[Any]]:
        return [row for row in self._rows(sample) if row[3] >= self.thresholds.get(row[1], self.threshold)]

    def _decide(self, sample: Sample, rows: list[list[Any]], whys: list[tuple[str, str]], round_: str) -> Result:
        judged = list(zip(rows, whys, strict=True))
        claims = [self._claim(row, round_) for row, (reason, _) in judged if row[1] and not reason]
        removed = [_removed(row, reason, by) for row, (reason, by) in judged if reason and row[1]]
        removed += [_removed(row, "look-alike", "") for row, _ in judged if not row[1]]
        if not claims:
            claims = [Claim(says="empty", source=self.source, evidence={"round": round_})]
        top: dict[str, float] = {}
        for row in self._rows(sample):
            if row[1]:
                top[row[1]] = max(top.get(row[1], 0.0), row[3])
        columns: dict[str, Json] = {
            f"{self.name}.removed": removed,
            f"{self.name}.top": top,
            **({f"{self.name}.asked": self.asked} if self.asked else {}),
        }
        return Result(claims=tuple(claims), columns=columns)

    def _claim(self, row: list[Any], round_: str) -> Claim:
        evidence = {"phrase": row[0], "raw_score": row[3], "prompt": row[2], "round": round_}
        x0, y0, x1, y1 = row[4:8]
        return Claim(category=row[1], box_xyxy=(x0, y0, x1, y1), score=row[3], source=self.source, evidence=evidence)


def _class(row: list[Any]) -> str:
    return str(row[1] or f"not: {row[0]}")


def _removed(row: list[Any], reason: str, by: str) -> dict[str, Json]:
    return {
        "phrase": row[0],
        "category": row[1],
        "score": row[3],
        "box_xyxy": list(row[4:8]),
        "reason": reason,
        "by": by,
    }


def restore(sample: Sample, name: str, reasons: Sequence[str] = ()) -> list[tuple[str, Box, float]]:
    """Return boxes that the clean-up of step `name` took from a sample, as (category, box, score).

    Args:
        sample: The sample.
        name: The step's name in its recipe.
        reasons: Only those removed for one of these; all when empty.
    """
    rows = cast("list[dict[str, Any]]", sample.columns.get(f"{name}.removed") or [])
    chosen = [row for row in rows if row["category"] and (not reasons or row["reason"] in reasons)]
    return [(row["category"], tuple(row["box_xyxy"]), row["score"]) for row in chosen]


@step
class Ground:
    """Find boxes of the policy's categories with an open-vocabulary detector.

    Args:
        model: A GroundingDINO, MM-Grounding-DINO or LLMDet, as `starter:grounding` or a hub id with its commit.
        backend: `transformers`, or `groundingdino-py` for that package; both give the same boxes.
        threshold: Least score of a claim.
        thresholds: The same for single categories.
        calibrated: Thresholds that the step `thresholds` learned: its name in this run, or its file from an earlier one;
            `thresholds` goes before them, and they before `threshold`.
        counter_prompts: Let the policy's look-alikes compete.
        size_multiple: Sides are rounded to multiples of this, so that images of like shape share a batch; 1 leaves them.
        tiles: Look at so many overlapping tiles a side as well as at the whole, for small things; 1 for none.
        precision: Of the arithmetic; `auto` takes what suits the device.
        batch_size: Images at a time; what goes through the model at once also depends on memory.
        clean_up: Rules for boxes; see `annotate/boxes.py`.
        relabel: Ask again for images that people or imported files have labelled. The test split is never asked for, and
            neither are images that an earlier step with these settings has asked for.
    """

    model: str = "starter:grounding"
    threshold: float = 0.3
    thresholds: dict[str, float] = field(default_factory=dict)
    calibrated: str = ""
    counter_prompts: bool = True
    backend: Literal["transformers", "groundingdino-py"] = "transformers"
    tiles: int = 1
    precision: Literal["auto", "float32", "bfloat16", "float16"] = "auto"
    size_multiple: int = 32
    batch_size: int = 32
    clean_up: CleanUp = field(default_factory=CleanUp)
    relabel: bool = False

    def __post_init__(self) -> None:
        """Check the numbers."""
        for name, value in {"threshold": self.threshold, **self.thresholds}.items():
            if not FLOOR <= value <= 1:
                raise ValueError(f"{name} must lie in [{FLOOR}, 1], got {value}")
        if not 1 <= self.tiles <= 8:
            raise ValueError(f"tiles must lie in [1, 8], got {self.tiles}")

    def models(self) -> tuple[str, ...]:
        """The grounding model."""
        return (self.model,)

    def run(self, work: Work) -> Facts:
        """Look once, then decide.

        Raises:
            InputError: `thresholds` names a category that cannot be pictured, or the prompts do not fit the model.
        """
        pictured = {category.name for category in work.policy.pictured}
        if wrong := sorted(set(self.thresholds) - pictured):
            raise InputError(
                f"thresholds: no pictured category {', '.join(wrong)}; there are {', '.join(sorted(pictured))}"
            )
        asked = questions(work.policy.pictured)
        if not self.counter_prompts:
            asked = tuple(Question(category=q.category, phrases=q.phrases) for q in asked)
        look = Look(
            name=work.name,
            model=self.model,
            questions=asked,
            backend=self.backend,
            precision=precision_on(models.device(work.device)) if self.precision == "auto" else self.precision,
            tiles=self.tiles,
            size_multiple=self.size_multiple,
            batch_size=self.batch_size,
            device=work.device,
        )
        source = models.source(self.model)
        key = fingerprint(self, source, repr(asked))

        def wanted(sample: Sample) -> bool:
            return self._wanted(sample, work.name, key)

        began, before = time.monotonic(), self._looked(work, look)
        looked = work.map(look, wanted)
        seconds, new = time.monotonic() - began, self._looked(work, look) - before
        decide = Decide(
            name=work.name,
            source=source,
            asked=key,
            threshold=self.threshold,
            thresholds={**self._calibrated(work), **self.thresholds},
            rules=self.clean_up,
        )
        work.map(decide, lambda sample: wanted(sample) and f"{work.name}.seen" in sample.columns, on="claims")
        return {
            "images": looked.get("ok", 0),
            "failed": looked.get("failed", 0),
            "looked_at_now": new,
            "seconds": round(seconds, 2),
            "images_per_s": round(new / seconds, 2) if new else None,
            **_count(work, source, fingerprint(decide)),
        }

    def inputs(self) -> tuple[Path, ...]:
        """The file of learned thresholds, when it is one."""
        return (Path(self.calibrated),) if self.calibrated.endswith(".json") else ()

    def _calibrated(self, work: Work) -> dict[str, float]:
        from tilth.annotate.thresholds import read_thresholds

        if not self.calibrated:
            return {}
        path = self.inputs()[0] if self.inputs() else work.artifact(self.calibrated)
        return {name: value for name, value in read_thresholds(path).items() if value >= FLOOR}

    @staticmethod
    def _looked(work: Work, look: Look) -> int:
        return len(work.dataset.table(f"{work.name}-{fingerprint(look)}"))

    def _wanted(self, sample: Sample, name: str, key: str) -> bool:
        if sample.split == "test" or (not self.relabel and any(c.kind in ("human", "import") for c in sample.claims)):
            return False
        # an earlier step that asked the same has the answer
        others = (
            value for column, value in sample.columns.items() if column.endswith(".asked") and column != f"{name}.asked"
        )
        return all(value != key for value in others)


def _count(work: Work, source: str, round_: str) -> Mapping[str, Json]:
    boxes: Counter[str] = Counter()
    removed: Counter[str] = Counter()
    scores: dict[str, list[float]] = defaultdict(list)
    empty = 0
    for sample in work.dataset.samples(images=False):
        mine = [c for c in sample.claims if c.source == source and c.evidence.get("round") == round_]
        empty += any(claim.says == "empty" for claim in mine)
        for claim in mine:
            if claim.category:
                boxes[claim.category] += 1
                scores[claim.category].append(claim.score)
        if mine:
            rows = cast("list[dict[str, Any]]", sample.columns.get(f"{work.name}.removed") or [])
            removed.update(str(row["reason"]) for row in rows)
    means = {category: round(float(np.mean(values)), 4) for category, values in scores.items()}
    return {
        "boxes": sum(boxes.values()),
        "boxes_by_category": dict(boxes),
        "mean_score": means,
        "images_without_boxes": empty,
        "removed_by_reason": dict(removed),
    }
