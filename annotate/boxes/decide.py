"""Turn what a model saw into claims: thresholds, look-alikes and the clean-up of boxes, without asking the model again.

What was seen lies in the column `<step>.seen`, a row a box: phrase, category (empty for a look-alike), prompt, score, box, and
for fused boxes the evidence for it; what was looked for lies in `<step>.categories`. What the clean-up removes lies in
`<step>.removed`, and comes back with `restore`.
"""

from collections.abc import Callable, Sequence
from dataclasses import field, replace
from itertools import islice
from typing import Any, cast

import numpy as np

from tilth.annotate.boxes.clean import CleanUp, clean_batch
from tilth.claims import Claim, Json
from tilth.engine.steps import fingerprint, step
from tilth.geometry import Box
from tilth.samples import Result, Sample

FLOOR = 0.1  # of a detector's scores: what lies below is not kept, so no threshold goes there


@step
class Decide:
    """Turn what the model saw into claims: thresholds, look-alikes, and the clean-up of boxes."""

    name: str
    source: str
    asked: str
    policy: str = ""  # whose categories were asked for; when empty, the one that the source named before
    threshold: float
    instead_of: tuple[str, ...] = ()  # sources whose earlier claims these replace
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
        about = self._about(sample)
        claims = [replace(self._claim(row, round_), **about) for row, (reason, _) in judged if row[1] and not reason]
        removed = [_removed(row, reason, by) for row, (reason, by) in judged if reason and row[1]]
        removed += [_removed(row, "look-alike", "") for row, _ in judged if not row[1]]
        if not claims:
            claims = [Claim(says="empty", source=self.source, evidence=self._evidence(round_), **about)]
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

    def _about(self, sample: Sample) -> dict[str, Any]:
        """Return what the model was asked for."""
        before = (claim.policy for claim in reversed(sample.claims) if claim.source == self.source)
        categories = cast("list[str]", sample.columns.get(f"{self.name}.categories") or [])
        return {"asked": tuple(categories), "policy": self.policy or next(before, "")}

    def _evidence(self, round_: str) -> dict[str, Json]:
        return {"round": round_, **({"instead_of": self.instead_of} if self.instead_of else {})}

    def _claim(self, row: list[Any], round_: str) -> Claim:
        more = row[8] if len(row) > 8 else {}
        evidence = {"phrase": row[0], "raw_score": row[3], "prompt": row[2], **more, **self._evidence(round_)}
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
