"""The gate: a new model passes only when it is not worse than the old one on the same images."""

from typing import Any

import numpy as np

from tilth.claims import Json
from tilth.engine.steps import Facts, step
from tilth.engine.work import Work
from tilth.errors import GateRefused
from tilth.train.artifacts.artifact import read_about
from tilth.train.judge.evaluate import FPR, TEXT_AREA, category_scores, whole
from tilth.train.judge.predict import read_predictions
from tilth.train.measure.metrics import recall_at_fpr
from tilth.train.measure.prediction import known

RESAMPLES = 1000


@step
class Gate:
    """Compare two evaluations image by image and refuse the new model when it lost recall.

    Args:
        old: Name of the evaluate step of the model in use.
        new: Name of the evaluate step of the candidate.
        old_classifier: Classifier artifact of the old evaluation; empty for none.
        new_classifier: Classifier artifact of the new evaluation; empty for none.
        max_drop: Recall at 5 % false positives may fall by so much; the lower end of the 95 % interval of the difference
            decides.
    """

    old: str = "evaluate.baseline"
    new: str = "evaluate.final"
    old_classifier: str = "baseline.classifier"
    new_classifier: str = "final.classifier"
    max_drop: float = 0.02

    def __post_init__(self) -> None:
        """Check the settings."""
        if not 0 <= self.max_drop <= 1:
            raise ValueError(f"max_drop must lie in [0, 1], got {self.max_drop}")

    def run(self, work: Work) -> Facts:
        """Compare.

        Raises:
            GateRefused: The new model is worse.
        """
        facts = self._compare(work)
        if not facts["passed"]:
            raise GateRefused(f"{work.name}: {facts['reason']}; the old model stays")
        return facts

    def _compare(self, work: Work) -> dict[str, Json]:
        unsafe = [c.name for c in work.policy.pictured if c.name != TEXT_AREA]
        sides = []
        for name, classifier in ((self.old, self.old_classifier), (self.new, self.new_classifier)):
            predictions = {p.id: p for p in read_predictions(work.artifact(f"{name}.predictions"))}
            sides.append((predictions, read_about(work.artifact(classifier)) if classifier else None))
        ids = sorted(sides[0][0].keys() & sides[1][0].keys())
        rows = [[side[i] for i in ids] for side, _ in sides]
        truth = np.array([[c in p.truth for c in unsafe] for p in rows[0]], bool).reshape(-1, len(unsafe))
        sure = known(rows[0], unsafe) & known(rows[1], unsafe)
        told = [
            whole(category_scores(row, unsafe, side[1]), truth, sure) for row, side in zip(rows, sides, strict=True)
        ]
        (old, is_unsafe, judged), (new, *_) = told
        facts = decide(old[judged], new[judged], is_unsafe[judged], self.max_drop, work.seed)
        counts = {name: len(side) for name, (side, _) in zip((self.old, self.new), sides, strict=True)}
        if len(ids) < max(counts.values()):
            of = " and ".join(f"{len(ids)} of the {n} images of {name}" for name, n in counts.items())
            facts["reason"] = f"{facts['reason']}; compared were {of}, which both judged"
        return {**facts, "images_left_out": int((~judged).sum()), "images_judged": counts}


def decide(
    old: np.ndarray[Any, Any], new: np.ndarray[Any, Any], truth: np.ndarray[Any, Any], max_drop: float, seed: int
) -> dict[str, Json]:
    """Say whether the new scores pass, by a paired bootstrap over images; what cannot be compared does not."""
    unsafe, safe = int(truth.sum()), int((~truth).sum())
    if not unsafe or not safe:
        reason = (
            f"nothing to compare: recall at {FPR:.0%} false positives needs unsafe and safe images that both judged and that people "
            f"looked at for every category; there are {unsafe} unsafe and {safe} safe ones; evaluate both on one test set that has both"
        )
        nothing: dict[str, Json] = {"passed": False, "reason": reason, "old": None, "new": None}
        return {**nothing, "difference": {"mean": None, "ci95": [None, None]}, "images": len(truth)}
    rng = np.random.default_rng(seed)
    differences = []
    for _ in range(RESAMPLES):
        rows = rng.integers(0, len(truth), len(truth))
        differences.append(recall_at_fpr(new[rows], truth[rows], FPR) - recall_at_fpr(old[rows], truth[rows], FPR))
    low, high = (float(v) for v in np.nanpercentile(differences, [2.5, 97.5]))
    before, after = recall_at_fpr(old, truth, FPR), recall_at_fpr(new, truth, FPR)
    passed = low >= -max_drop
    moved = f"stayed at {after:.3f}"
    if after != before:
        moved = f"{'rose' if after > before else 'fell'} from {before:.3f} to {after:.3f}"
    reason = (
        f"recall at {FPR:.0%} false positives {moved}, 95 % interval of the difference "
        f"[{low:+.3f}, {high:+.3f}], allowed drop {max_drop:g}"
    )
    return {
        "passed": passed, "reason": reason, "old": round(before, 4), "new": round(after, 4),
        "difference": {"mean": round(after - before, 4), "ci95": [round(low, 4), round(high, 4)]}, "images": len(truth),
    }  # fmt: skip
