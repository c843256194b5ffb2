"""The gate: a new model passes only when it is not worse than the old one on the same images, nor on any part of them."""

from collections.abc import Mapping

import numpy as np

from tilth.claims import Json
from tilth.engine.steps import Facts, step
from tilth.engine.work import Work
from tilth.errors import GateRefused
from tilth.train.artifacts.artifact import read_about
from tilth.train.judge.evaluate import FPR, TEXT_AREA, category_scores, whole
from tilth.train.judge.predict import read_predictions
from tilth.train.measure.metrics import Array, expected_calibration_error, recall_at_fpr
from tilth.train.measure.prediction import known

RESAMPLES = 1000
MIN_UNSAFE = 20  # images that show a category, or are unsafe in a slice, before it is looked at by itself


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
        max_slice_drop: By so much on a single category or slice, where it surely fell: few images tell less, and one of many always falls.
        max_ece: Expected calibration error of the new model at most, the mean over categories; 1 for any.
    """

    old: str = "evaluate.baseline"
    new: str = "evaluate.final"
    old_classifier: str = "baseline.classifier"
    new_classifier: str = "final.classifier"
    max_drop: float = 0.02
    max_slice_drop: float = 0.05
    max_ece: float = 1.0

    def __post_init__(self) -> None:
        """Check the settings."""
        for name in ("max_drop", "max_slice_drop", "max_ece"):
            if not 0 <= (value := getattr(self, name)) <= 1:
                raise ValueError(f"{name} must lie in [0, 1], got {value}")

    def run(self, work: Work) -> Facts:
        """Compare.

        Raises:
            GateRefused: The new model is worse; it holds the facts.
        """
        if work.facts.get(self.old, {}).get("bundle", "") is None:  # the first
            return {"passed": True, "reason": "the first: no model is in use that it could be worse than", "images": 0}
        facts = self._compare(work)
        if not facts["passed"]:
            raise GateRefused(f"{work.name}: {facts['reason']}; the old model stays", facts)
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
        scores = [category_scores(row, unsafe, side[1]) for row, side in zip(rows, sides, strict=True)]
        (old, is_unsafe, judged), (new, *_) = (whole(each, truth, sure) for each in scores)
        facts = decide(old[judged], new[judged], is_unsafe[judged], self.max_drop, work.seed)
        parts = np.array([p.part for p in rows[0]])
        groups = {
            f"category {name}": (*(each[sure[:, k], k] for each in scores), truth[sure[:, k], k])
            for k, name in enumerate(unsafe)
        }
        for part in sorted({*parts.tolist()} - {""}):
            inside = judged & (parts == part)
            groups[f"slice {part}"] = (old[inside], new[inside], is_unsafe[inside])
        facts |= self._groups(groups, work.seed)
        was, found = (_ece(each, truth, sure) for each in scores)
        facts["ece"] = {"old": was, "new": found}
        reasons = [str(facts["reason"])]
        if worse := facts["worse"]:
            facts["passed"] = False
            reasons.append(f"worse on {', '.join(worse)}")  # type: ignore[arg-type]  # they are names
        if found is not None and found > self.max_ece:
            facts["passed"] = False
            reasons.append(f"its chances are off by {found:.3f} in the mean, allowed {self.max_ece:g}")
        counts = {name: len(side) for name, (side, _) in zip((self.old, self.new), sides, strict=True)}
        if len(ids) < max(counts.values()):
            of = " and ".join(f"{len(ids)} of the {n} images of {name}" for name, n in counts.items())
            reasons.append(f"compared were {of}, which both judged")
        facts["reason"] = "; ".join(reasons)
        return {**facts, "images_left_out": int((~judged).sum()), "images_judged": counts}

    def _groups(self, groups: Mapping[str, tuple[Array, ...]], seed: int) -> dict[str, Json]:
        """Compare on each category and slice that has enough images; as many looks find something by chance, intervals are wider."""
        fit = {name: g for name, g in groups.items() if g[2].sum() >= MIN_UNSAFE and (~g[2]).sum() >= 1 / FPR}
        told: dict[str, Json] = {}
        worse = list[str]()
        for name, (old, new, truth) in fit.items():
            before, after = recall_at_fpr(old, truth, FPR), recall_at_fpr(new, truth, FPR)
            low, high = paired(old, new, truth, seed, level=1 - 0.05 / len(fit))
            told[name] = {
                "old": round(before, 4),
                "new": round(after, 4),
                "interval": [round(low, 4), round(high, 4)],
                "positives": int(truth.sum()),
            }
            if high < 0 and before - after > self.max_slice_drop:
                worse.append(f"{name} ({before:.3f} to {after:.3f})")
        return {"groups": told, "worse": worse, "too_small": sorted(groups.keys() - fit.keys())}


def _ece(scores: Array, truth: Array, sure: Array) -> float | None:
    """Return how far scores are from being chances, the mean over categories; None when nothing is known."""
    each = [expected_calibration_error(scores[told, k], truth[told, k]) for k, told in enumerate(sure.T) if told.any()]
    return round(float(np.mean(each)), 4) if each else None


def paired(old: Array, new: Array, truth: Array, seed: int, *, level: float = 0.95) -> tuple[float, float]:
    """Return the ends of an interval of the difference in recall, by a paired bootstrap over images."""
    rng = np.random.default_rng(seed)
    differences = []
    for _ in range(RESAMPLES):
        rows = rng.integers(0, len(truth), len(truth))
        differences.append(recall_at_fpr(new[rows], truth[rows], FPR) - recall_at_fpr(old[rows], truth[rows], FPR))
    low, high = np.nanpercentile(differences, [50 * (1 - level), 50 * (1 + level)])
    return float(low), float(high)


def decide(old: Array, new: Array, truth: Array, max_drop: float, seed: int) -> dict[str, Json]:
    """Say whether the new scores pass, by a paired bootstrap over images; what cannot be compared does not."""
    unsafe, safe = int(truth.sum()), int((~truth).sum())
    if not unsafe or not safe:
        reason = (
            f"nothing to compare: recall at {FPR:.0%} false positives needs unsafe and safe images that both judged and that people "
            f"looked at for every category; there are {unsafe} unsafe and {safe} safe ones; evaluate both on one test set that has both"
        )
        nothing: dict[str, Json] = {"passed": False, "reason": reason, "old": None, "new": None}
        return {**nothing, "difference": {"mean": None, "ci95": [None, None]}, "images": len(truth)}
    low, high = paired(old, new, truth, seed)
    before, after = recall_at_fpr(old, truth, FPR), recall_at_fpr(new, truth, FPR)
    passed = low >= -max_drop
    moved = f"stayed at {after:.3f}"
    if after != before:
        moved = f"{'rose' if after > before else 'fell'} from {before:.3f} to {after:.3f}"
    verdict = "better" if low > 0 else "not worse" if passed else "worse" if high < 0 else "perhaps worse"
    reason = (
        f"{verdict}: recall at {FPR:.0%} false positives {moved}, 95 % interval of the difference "
        f"[{low:+.3f}, {high:+.3f}], allowed drop {max_drop:g}"
    )
    return {
        "passed": passed, "reason": reason, "old": round(before, 4), "new": round(after, 4),
        "difference": {"mean": round(after - before, 4), "ci95": [round(low, 4), round(high, 4)]}, "images": len(truth),
    }  # fmt: skip
