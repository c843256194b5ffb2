"""The step `ground`: boxes for the policy's categories, by asking GroundingDINO for them in words.

Paper: https://arxiv.org/abs/2303.05499
Differs: a box gets the phrase whose own tokens score best, so labels never merge; look-alikes of the policy compete for it;
images of a batch share one text and one size, so none is padded and none influences another.
"""

import time
from collections import Counter, defaultdict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import field
from pathlib import Path
from typing import Any, Literal, cast

from tilth import models
from tilth.annotate.boxes.clean import CleanUp
from tilth.annotate.boxes.decide import FLOOR, Decide
from tilth.annotate.grounding.model import Finder, Seen, precision_on
from tilth.annotate.grounding.phrases import Question, questions, spelled, unknown
from tilth.annotate.grounding.thresholds import read_thresholds
from tilth.claims import Json
from tilth.data.where import both, open_to_models, quoted
from tilth.engine.steps import Facts, fingerprint, step
from tilth.engine.work import Work
from tilth.errors import InputError
from tilth.samples import Result, Sample


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

        same: dict[str, Json] = {
            f"{self.name}.by": models.source(self.model),
            f"{self.name}.categories": [question.category for question in self.questions],
        }

        def look(samples: Sequence[Sample]) -> list[Result]:
            found = finder.find([sample.pixels() for sample in samples])
            return [Result(columns={f"{self.name}.seen": [_row(one) for one in seen], **same}) for seen in found]

        return look


def _row(seen: Seen) -> list[Json]:
    return [seen.phrase, seen.category, seen.prompt, round(seen.score, 6), *(round(v, 3) for v in seen.box_xyxy)]


@step
class Ground:
    """Find boxes of the policy's categories with an open-vocabulary detector.

    A category is asked for when the model was taught the words of one of its prompts; else nobody has looked for it, and the facts
    name it under `unknown`.

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
        clean_up: Rules for boxes; see `annotate/boxes/clean.py`.
        relabel: Ask again for images that people or imported files have labelled; without it, for those that they were not
            asked about every category. The test split is never asked for, and neither are images that an earlier step with these
            settings has asked for.
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
            InputError: `thresholds` names a category that cannot be pictured, or the prompts do not fit the model, or it knows none.
        """
        work.policy.check_pictured(self.thresholds, "thresholds")
        asked, words, left = self._in_its_words(work)
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
        categories = [question.category for question in asked]
        wanted = self._wanted(work, key, categories)
        unasked = work.unasked([category.name for category in work.policy.pictured], "split != 'test'")
        began, before = time.monotonic(), self._looked(work, look)
        looked = work.map(look, wanted)
        seconds, new = time.monotonic() - began, self._looked(work, look) - before
        decide = Decide(
            name=work.name,
            source=source,
            asked=key,
            policy=work.policy.tag,
            threshold=self.threshold,
            thresholds={**self._calibrated(work), **self.thresholds},
            rules=self.clean_up,
        )
        seen = f"{work.name}.seen"
        work.map(decide, both(wanted, f"`{seen}` is not null"), on="claims", label=f"{work.name}: decide")
        if new and words:
            self._warn_of_words(work, words, left)
        return {
            "unknown": list(left),
            "images": looked.get("ok", 0),
            "failed": looked.get("failed", 0),
            "unasked_before": unasked,
            "looked_at_now": new,
            "seconds": round(seconds, 2),
            "images_per_s": round(new / seconds, 2) if new else None,
            "threshold": decide.threshold,
            "thresholds": decide.thresholds,
            **_count(work, source, fingerprint(decide)),
        }

    def inputs(self) -> tuple[Path, ...]:
        """The file of learned thresholds, when it is one."""
        return (Path(self.calibrated),) if self.calibrated.endswith(".json") else ()

    def _calibrated(self, work: Work) -> dict[str, float]:
        if not self.calibrated:
            return {}
        path = self.inputs()[0] if self.inputs() else work.artifact(self.calibrated)
        return {name: value for name, value in read_thresholds(path).items() if value >= FLOOR}

    def _in_its_words(self, work: Work) -> tuple[tuple[Question, ...], list[str], tuple[str, ...]]:
        """Return what to ask, the prompts that the model cannot know, and the categories that have no other.

        Such a category is not asked for: a model finds next to nothing by the letters of a word, and what it then says,
        that nothing is there, would look like an answer.

        Raises:
            InputError: There is none that it knows.
        """
        from transformers import AutoTokenizer

        tokenizer: Any = AutoTokenizer.from_pretrained(models.locate(self.model), local_files_only=True)
        asked = questions(work.policy.pictured)
        words = spelled([phrase for question in asked for phrase in question.phrases], tokenizer.tokenize)
        left = unknown(asked, words)
        known = tuple(question for question in asked if question.category not in left)
        if asked and not known:
            raise InputError(
                f"{self.model} was not taught any of the policy's prompts, {', '.join(words[:10])}; use its words, or another model"
            )
        return known, words, left

    def _warn_of_words(self, work: Work, words: Sequence[str], left: Sequence[str]) -> None:
        """Say which prompts the model cannot know, and which categories it is not asked for."""
        more = f" and {len(words) - 10} more" if len(words) > 10 else ""
        told = f"  {self.model} was not taught these words and will hardly find them: {', '.join(words[:10])}{more}"
        less = f"; it is not asked for {', '.join(left)}, of which it knows no prompt" if left else ""
        work.events.emit(
            "unknown_words",
            words=list(words),
            categories=list(left),
            message=f"{told}{less}; use its words, or another model",
        )

    @staticmethod
    def _looked(work: Work, look: Look) -> int:
        return len(work.dataset.table(f"{work.name}-{fingerprint(look)}"))

    def _wanted(self, work: Work, key: str, categories: Sequence[str]) -> str:
        """Return the condition on images to look at; an earlier step that asked the same has the answer."""
        others = [n for n in work.dataset.measured() if n.endswith(".asked") and n != f"{work.name}.asked"]
        answered = " or ".join(f"coalesce(`{name}` = {quoted(key)}, false)" for name in others)
        return both(
            "split != 'test'",
            "" if self.relabel else open_to_models(categories),
            f"not ({answered})" if answered else "",
        )


def _count(work: Work, source: str, round_: str) -> Mapping[str, Json]:
    boxes: Counter[str] = Counter()
    removed: Counter[str] = Counter()
    scores: dict[str, float] = defaultdict(float)
    empty = 0
    for sample in work.dataset.samples(images=False):
        mine = [c for c in sample.claims if c.source == source and c.evidence.get("round") == round_]
        empty += any(claim.says == "empty" for claim in mine)
        for claim in mine:
            if claim.category:
                boxes[claim.category] += 1
                scores[claim.category] += claim.score
        if mine:
            rows = cast("list[dict[str, Any]]", sample.columns.get(f"{work.name}.removed") or [])
            removed.update(str(row["reason"]) for row in rows)
    return {
        "boxes": sum(boxes.values()),
        "boxes_by_category": dict(boxes),
        "mean_score": {category: round(total / boxes[category], 4) for category, total in scores.items()},
        "images_without_boxes": empty,
        "removed_by_reason": dict(removed),
    }
