"""Keep of the mined images those that the detector sees, too: two models that err differently look at the same claim.

    score = order + w * log-odds of the detector's best box of the category

`order` is what mining ranked by (see `search.py`). Mine two or three times as many as people should look at, ground them, and
let this step keep the best; `docs/grow-a-category.md` says what that gains.
"""

from collections import Counter, defaultdict
from collections.abc import Mapping
from typing import Any, cast

import numpy as np

from tilth.data.where import both, quoted
from tilth.engine.apply import Apply
from tilth.engine.steps import Facts, step
from tilth.engine.work import Work
from tilth.errors import InputError
from tilth.mining.search.rank import log_odds
from tilth.samples import Result, Sample

MATCH = "match"


@step
class Verify:
    """Drop the mined matches that the detector does not confirm; look-alikes and explored images stay.

    Args:
        by: Name of the `ground` step that looked at the mined images.
        keep: Matches kept per category; all that score enough when None.
        min_score: Detector's score in [0, 1] that a match needs at least.
        detector_weight: w above.
    """

    by: str = "ground"
    keep: int | None = None
    min_score: float = 0.0
    detector_weight: float = 1.0

    def __post_init__(self) -> None:
        """Check the settings."""
        if self.keep is not None and self.keep < 1:
            raise ValueError(f"keep must be at least 1, got {self.keep}")
        if not 0 <= self.min_score <= 1:
            raise ValueError(f"min_score must lie in [0, 1], got {self.min_score}")

    def run(self, work: Work) -> Facts:
        """Score the matches and drop the others.

        Raises:
            InputError: No mined image has been looked at.
        """
        column = f"{self.by}.top"
        scores: dict[str, list[tuple[float, float, str]]] = defaultdict(list)
        match = f"mine.reason = {quoted(MATCH)}"
        mined = work.dataset.count(match)
        for sample in work.dataset.samples(both(match, f"`{column}` is not null"), images=False):
            category = str(sample.columns["mine.category"])
            seen = _seen(sample, column, category)
            scores[category].append((self._score(sample, seen), seen, sample.id))
        if mined and not scores:
            raise InputError(
                f"step {work.name}: no mined image has a column {column!r}; run ground before, or set `by`"
            )
        results: dict[str, Result] = {}
        kept: Counter[str] = Counter()
        for category, found in scores.items():
            for rank, (score, seen, id_) in enumerate(sorted(found, key=lambda f: (-f[0], f[2])), 1):
                why = ""
                if seen < self.min_score:
                    why = f"the detector sees no {category} ({seen:.2f})"
                elif self.keep is not None and rank > self.keep:
                    why = f"not among the {self.keep} best matches of {category}"
                kept[category] += not why
                results[id_] = Result(columns={"verify.score": round(score, 4), "verify.rank": rank}, dropped=why)
        Apply.to(work, results)
        dropped = {c: len(f) - kept[c] for c, f in sorted(scores.items())}
        return {"matches": mined, "kept": dict(sorted(kept.items())), "dropped": cast("Mapping[str, Any]", dropped)}

    def _score(self, sample: Sample, seen: float) -> float:
        explain = cast("Mapping[str, Any]", sample.columns.get("mine.explain") or {})
        return combined(float(explain.get("order", 0.0)), seen, self.detector_weight)


def combined(order: float, seen: float, weight: float = 1.0) -> float:
    """Return the score of an image from mining's order and the detector's best box in [0, 1]."""
    return order + weight * float(log_odds(np.array([seen], np.float32))[0])


def _seen(sample: Sample, column: str, category: str) -> float:
    top = cast("Mapping[str, float]", sample.columns[column])
    return float(top.get(category, 0.0))
