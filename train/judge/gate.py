"""The gate: a new model passes only when it is not worse than the old one on the same images, nor on any part of them."""

from collections.abc import Mapping
from typing import Any, ClassVar

import numpy as np

from tilth.claims import Json
from tilth.engine.steps import Facts, step
from tilth.engine.work import Work
from tilth.errors import GateRefused
from tilth.train.judge.compare import Pair
from tilth.train.measure.judged import FPR, RESAMPLES, whole
from tilth.train.measure.metrics import with_interval
from tilth.train.measure.prediction import Array
from tilth.train.measure.ranked import Ranked

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

    refers: ClassVar[tuple[str, ...]] = ("old", "new", "old_classifier", "new_classifier")

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
        pair = Pair.read(work, (self.old, self.old_classifier), (self.new, self.new_classifier))
        sides, truth, sure = (pair.old, pair.new), pair.new.truth, pair.new.sure
        (old, is_unsafe, judged), (new, *_) = (whole(side.scores, truth, sure) for side in sides)
        facts = decide(old[judged], new[judged], is_unsafe[judged], self.max_drop, work.seed)
        groups = {
            f"category {name}": (*(side.scores[sure[:, k], k] for side in sides), truth[sure[:, k], k])
            for k, name in enumerate(pair.categories)
        }
        parts = sorted({*pair.parts.tolist()} - {""})
        for part in parts if len(parts) > 1 else ():  # a part that is the whole tells nothing more
            inside = judged & (pair.parts == part)
            groups[f"slice {part}"] = (old[inside], new[inside], is_unsafe[inside])
        facts |= self._groups(groups, work.seed)
        was, found = (side.ece(np.ones(len(truth), int)) for side in sides)
        facts["ece"] = {
            name: None if np.isnan(each) else round(each, 4) for name, each in (("old", was), ("new", found))
        }
        reasons = [str(facts["reason"])]
        if worse := facts["worse"]:
            facts["passed"] = False
            reasons.append(f"worse on {', '.join(worse)}")  # type: ignore[arg-type]  # they are names
        if found > self.max_ece:
            facts["passed"] = False
            reasons.append(f"its chances are off by {found:.3f} in the mean, allowed {self.max_ece:g}")
        if len(truth) < max(pair.counts.values()):
            of = " and ".join(f"{len(truth)} of the {n} images of {name}" for name, n in pair.counts.items())
            reasons.append(f"compared were {of}, which both judged")
        facts["reason"] = "; ".join(reasons)
        return {**facts, "images_left_out": int((~judged).sum()), "images_judged": dict(pair.counts)}

    def _groups(self, groups: Mapping[str, tuple[Array, ...]], seed: int) -> dict[str, Json]:
        """Compare on each category and slice that has enough images; as many looks find something by chance, intervals are wider."""
        fit = {name: g for name, g in groups.items() if g[2].sum() >= MIN_UNSAFE and (~g[2]).sum() >= 1 / FPR}
        told: dict[str, Json] = {}
        worse = list[str]()
        for name, (old, new, truth) in fit.items():
            before, after, low, high = compared(old, new, truth, seed, level=1 - 0.05 / len(fit))
            told[name] = {
                "old": round(before, 4),
                "new": round(after, 4),
                "interval": [low, high],
                "positives": int(truth.sum()),
            }
            if high < 0 and before - after > self.max_slice_drop:
                worse.append(f"{name} ({before:.3f} to {after:.3f})")
        return {"groups": told, "worse": worse, "too_small": sorted(groups.keys() - fit.keys())}


def compared(
    old: Array, new: Array, truth: Array, seed: int, *, level: float = 0.95
) -> tuple[float, float, float, float]:
    """Return the recall of both, and the ends of an interval of the difference, by a paired bootstrap over images."""
    before, after = Ranked(old, truth), Ranked(new, truth)
    told: Any = with_interval(
        lambda counts: after.recall(FPR, counts) - before.recall(FPR, counts),
        len(truth),
        resamples=RESAMPLES,
        seed=seed,
        level=level,
    )
    return before.recall(FPR), after.recall(FPR), *told["ci95"]


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
    before, after, low, high = compared(old, new, truth, seed)
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
        "difference": {"mean": round(after - before, 4), "ci95": [low, high]}, "images": len(truth),
    }  # fmt: skip
