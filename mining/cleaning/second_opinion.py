"""A second opinion on boxes: does the thing that a detector found match its words, seen alone and by another model?

Grounding puts boxes on what is not there. An image-text model that was trained to tell true captions from false ones sees
the crop of each box, and compares the category's words with those of its look-alikes.

Paper: https://arxiv.org/abs/2301.12597 (image-text matching, section 3.2)
"""

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import field, replace
from typing import Any, cast

import numpy as np

from tilth import models
from tilth.claims import Claim, Json, asked_in, standing
from tilth.data.where import both, open_to_models
from tilth.encoders.families import open_encoder
from tilth.engine.steps import Facts, fingerprint, step
from tilth.engine.work import Work
from tilth.geometry import Box
from tilth.images import Image
from tilth.mining.search.rank import Question, questions
from tilth.samples import Result, Sample


@step
class Match:
    """Score the crop of every automatic box against its category's words; a column, so that thresholds can change."""

    name: str
    model: str
    questions: tuple[Question, ...]
    margin: float
    device: str = "auto"
    batch_size: int = 16

    def models(self) -> tuple[str, ...]:
        """The image-text model."""
        return (self.model,)

    def load(self) -> Callable[[Sequence[Sample]], list[Result]]:
        """Load it."""
        encoder = open_encoder(self.model, self.device)
        asked = {question.category: question for question in self.questions}

        def look(samples: Sequence[Sample]) -> list[Result]:
            found: list[list[Json]] = [[] for _ in samples]
            crops: dict[str, list[tuple[int, Claim, Image]]] = {}
            for place, sample in enumerate(samples):
                image = sample.pixels()
                for claim in boxes_of(sample):
                    crop = crop_of(image, cast("Box", claim.box_xyxy), self.margin)
                    crops.setdefault(str(claim.category), []).append((place, claim, crop))
            for category, group in crops.items():
                question = asked[category]
                chances = encoder.match([crop for _, _, crop in group], question.texts)
                for (place, claim, _), row in zip(group, chances, strict=True):
                    found[place].append(_row(claim, row, len(question.prompts)))
            return [Result(columns={f"{self.name}.match": rows}) for rows in found]

        return look


def _row(claim: Claim, chances: Any, prompts: int) -> dict[str, Json]:
    return {
        **_key(claim),
        "match": round(float(chances[:prompts].max()), 5),
        "counter_match": round(float(chances[prompts:].max(initial=0.0)), 5),
    }


def _key(claim: Claim) -> dict[str, Json]:
    box = [round(v, 3) for v in cast("Box", claim.box_xyxy)]
    return {"source": claim.source, "category": claim.category, "box_xyxy": box}


def crop_of(image: Image, box: Box, margin: float) -> Image:
    """Return the square around a box `(h, w, 3)`, with a margin in parts of its longer side, as far as the image goes.

    A square, because the model would squeeze anything else into one; with a margin, because it was taught with pictures
    that show surroundings.
    """
    height, width = image.shape[:2]
    half = max(box[2] - box[0], box[3] - box[1]) * (0.5 + margin)
    spans = []
    for low, high, length in ((box[0], box[2], width), (box[1], box[3], height)):
        start = min(max(0.0, (low + high) / 2 - half), max(0.0, length - 2 * half))
        first = min(int(start), length - 1)
        spans.append(slice(first, max(first + 1, min(length, int(np.ceil(start + 2 * half))))))
    return image[spans[1], spans[0]]


def last_rounds(sample: Sample) -> dict[str, list[Claim]]:
    """Return what each model said last about an image."""
    return {source: said for source, said in standing(sample.claims).items() if source.startswith("model:")}


def boxes_of(sample: Sample) -> list[Claim]:
    """Return the boxes that models claim."""
    return [c for said in last_rounds(sample).values() for c in said if c.says == "label" and c.box_xyxy is not None]


@step
class Judge:
    """Let each model's claims stand again, without the boxes that do not match; what goes is kept in a column."""

    name: str
    by: str
    min_match: Mapping[str, float]
    counter_weight: float
    batch_size: int = 256

    def models(self) -> tuple[str, ...]:
        """None: the column says what the model saw."""
        return ()

    def load(self) -> Callable[[Sequence[Sample]], list[Result]]:
        """Nothing to load."""
        round_ = fingerprint(self)
        return lambda samples: [self._judge(sample, round_) for sample in samples]

    def _judge(self, sample: Sample, round_: str) -> Result:
        rows = cast("list[dict[str, Any]]", sample.columns.get(f"{self.name}.match") or [])
        scores = {_name(row): row for row in rows}
        claims: list[Claim] = []
        removed: list[Json] = []
        for source, said in last_rounds(sample).items():
            kept = []
            for claim in said:
                row = scores.get(_name(_key(claim))) if claim.box_xyxy is not None else None
                if row is None:
                    kept.append(self._again(claim, round_, {}))
                elif reason := self._refuses(row):
                    removed.append({**_key(claim), "score": claim.score, "match": row["match"], "reason": reason})
                else:
                    kept.append(
                        self._again(claim, round_, {"match": row["match"], "counter_match": row["counter_match"]})
                    )
            evidence = {"round": round_, "second_opinion": self.by}
            asked = asked_in(said)  # of them all: a box that goes leaves its category absent
            claims += [replace(claim, asked=asked) for claim in kept] or [
                Claim(says="empty", source=source, evidence=evidence, asked=asked, policy=said[-1].policy)
            ]
        return Result(claims=tuple(claims), columns={f"{self.name}.removed": removed})

    def _refuses(self, row: Mapping[str, Any]) -> str:
        least = self.min_match[row["category"]]
        chance = row["match"] - self.counter_weight * max(0.0, row["counter_match"] - row["match"])
        if chance >= least:
            return ""
        return "does not match" if row["match"] < least else "look-alike matches better"

    def _again(self, claim: Claim, round_: str, more: Mapping[str, Json]) -> Claim:
        return replace(claim, time="", evidence={**claim.evidence, **more, "round": round_, "second_opinion": self.by})


def _name(row: Mapping[str, Any]) -> tuple[str, str, tuple[float, ...]]:
    return str(row["source"]), str(row["category"]), tuple(row["box_xyxy"])


@step
class SecondOpinion:
    """Reject automatic boxes whose crop does not match their category; put it after `ground`.

    Both scores are kept: a claim's own, and `match` in its evidence. A rejected box lies in the column `<step>.removed` with
    its scores, and comes back when a lower `min_match` is run, which asks no model.

    Args:
        model: A BLIP-2 image-text retrieval model.
        min_match: Least probability that the category's words are true of the crop.
        thresholds: The same for single categories.
        counter_weight: How much it counts that a look-alike's words match better.
        margin: Surroundings that the crop shows, in parts of the box's longer side.
        batch_size: Images at a time.
    """

    model: str = "starter:retrieval"
    min_match: float = 0.2
    thresholds: dict[str, float] = field(default_factory=dict)
    counter_weight: float = 0.0
    margin: float = 0.5
    batch_size: int = 16

    def __post_init__(self) -> None:
        """Check the numbers."""
        for name, value in {"min_match": self.min_match, **self.thresholds}.items():
            if not 0 <= value <= 1:
                raise ValueError(f"{name} must lie in [0, 1], got {value}")
        for name in ("counter_weight", "margin"):
            if getattr(self, name) < 0:
                raise ValueError(f"{name} must not be negative, got {getattr(self, name)}")

    def models(self) -> tuple[str, ...]:
        """The image-text model."""
        return (self.model,)

    def run(self, work: Work) -> Facts:
        """Look at every automatic box once, then decide.

        Raises:
            InputError: `thresholds` names a category that cannot be pictured.
        """
        work.policy.check_pictured(self.thresholds, "thresholds")
        match = Match(
            name=work.name,
            model=self.model,
            questions=tuple(questions(work.policy)),
            margin=self.margin,
            device=work.device,
            batch_size=self.batch_size,
        )
        judge = Judge(
            name=work.name,
            by=models.source(self.model),
            min_match={
                name: self.thresholds.get(name, self.min_match) for name in sorted(c.name for c in work.policy.pictured)
            },
            counter_weight=self.counter_weight,
        )
        wanted = both(
            "split != 'test' and boxes > 0", open_to_models(category.name for category in work.policy.pictured)
        )
        looked = work.map(match, wanted, on="claims")
        work.map(judge, both(wanted, f"`{work.name}.match` is not null"), on="claims")
        return {"images": looked.get("ok", 0), "failed": looked.get("failed", 0), **_count(work)}


def _count(work: Work) -> dict[str, Json]:
    seen: Counter[str] = Counter()
    reasons: Counter[str] = Counter()
    gone: Counter[str] = Counter()
    for sample in work.dataset.samples(f"`{work.name}.removed` is not null", images=False):
        rows = cast("list[dict[str, Any]]", sample.columns.get(f"{work.name}.match") or [])
        removed = cast("list[dict[str, Any]]", sample.columns[f"{work.name}.removed"])
        seen.update(str(row["category"]) for row in rows)
        gone.update(str(row["category"]) for row in removed)
        reasons.update(str(row["reason"]) for row in removed)
    return {
        "boxes_before": sum(seen.values()),
        "boxes_kept": sum(seen.values()) - sum(gone.values()),
        "rejected_by_category": {category: gone[category] for category in sorted(seen)},
        "rejected_by_reason": dict(reasons),
    }
