"""Two models on the same images: how much better is one, and can these images tell?"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from tilth.claims import Json
from tilth.engine.work import Work
from tilth.errors import InputError
from tilth.train.artifacts.artifact import read_about
from tilth.train.judge.kept import read_columns
from tilth.train.judge.measure import judged, unsafe_names
from tilth.train.measure.judged import FEWER, RESAMPLES, RESAMPLES_AP, Judged, Value
from tilth.train.measure.metrics import with_intervals
from tilth.train.measure.prediction import Array

TOO_WIDE = 0.02  # an interval that reaches further down does not tell whether a model is worse; the gate allows as much


@dataclass(frozen=True, kw_only=True, eq=False)
class Pair:
    """Two evaluations, of the images that both judged, where it is known to both what they show.

    Args:
        old: What the model before scores.
        new: What the other one scores.
        categories: Their names.
        parts: Slice of each image.
        counts: How many images each of the evaluations has.
    """

    old: Judged
    new: Judged
    categories: tuple[str, ...]
    parts: Array
    counts: dict[str, int]

    @classmethod
    def read(cls, work: Work, old: tuple[str, str], new: tuple[str, str], overlaps: Sequence[float] = ()) -> "Pair":
        """Read both.

        Args:
            work: The surroundings.
            old: Name of the step that evaluated the model before, and of its classifier, which is empty for none.
            new: The same of the other model.
            overlaps: From which boxes are right; none without boxes.

        Raises:
            InputError: A classifier spoke that is not named, without whose calibration its scores mean nothing.
        """
        names = unsafe_names(work.policy)
        sides = [read_columns(work.artifact(f"{name}.predictions"), names) for name, _ in (old, new)]
        for (name, classifier), side in zip((old, new), sides, strict=True):
            if not classifier and side.logits.any():
                raise InputError(
                    f"{work.name}: {name} judged a classifier, of which nothing is known here; evaluate it again, or name its artifact"
                )
        counts = {name: len(side) for (name, _), side in zip((old, new), sides, strict=True)}
        common = {*sides[0].ids} & {*sides[1].ids}
        sides = [side.of_images(sorted(common)) for side in sides]
        known = sides[0].known & sides[1].known
        ours, theirs = (
            judged(
                replace(side, known=known, truth=sides[1].truth),
                read_about(work.artifact(classifier)) if classifier else None,
                overlaps if all(each.detects for each in sides) else (),
            )
            for side, (_, classifier) in zip(sides, (old, new), strict=True)
        )
        return cls(old=ours, new=theirs, categories=tuple(names), parts=np.array(sides[1].parts), counts=counts)

    def told(self, seed: int) -> dict[str, Json]:
        """Return all differences, with intervals of a paired bootstrap, overall and by category, and what they say."""
        differences = _differences(self.old, self.new, seed, (RESAMPLES, RESAMPLES_AP))
        each = {
            name: _differences(self.old.of(k), self.new.of(k), seed, FEWER) for k, name in enumerate(self.categories)
        }
        return {**differences, "per_category": {name: told for name, told in each.items() if told["images"]}}


def _differences(old: Judged, new: Judged, seed: int, resamples: tuple[int, int]) -> dict[str, Json]:
    before, after = old.values(resamples), new.values(resamples)

    def gain(name: str) -> Value:
        return lambda counts: after[name][0](counts) - before[name][0](counts)

    once = np.ones(new.n, int)
    found = with_intervals({name: (gain(name), times) for name, (_, times) in after.items()}, new.n, seed=seed)
    told: dict[str, Json] = {
        name: {"old": _number(before[name][0](once)), "new": _number(after[name][0](once)), "difference": difference}
        for name, difference in found.items()
    }
    return {**told, **_right(old, new), "said": said(found["recall_at_fpr05"], new)}


def _number(value: float) -> float | None:
    return None if np.isnan(value) else round(value, 4)


def _right(old: Judged, new: Judged) -> dict[str, Json]:
    """Count the images whose verdict, at the thresholds that are served, one model gets right and the other wrong.

    Whether these are more than chance has it is McNemar's exact test: https://doi.org/10.1007/BF02295996
    """
    from scipy.stats import binomtest

    (before, known), (after, _) = old.right, new.right
    better, worse = int((after & ~before & known).sum()), int((before & ~after & known).sum())
    p = float(binomtest(better, better + worse).pvalue) if better + worse else 1.0
    return {"images": int(known.sum()), "right_only_now": better, "right_only_before": worse, "p": float(f"{p:.2g}")}


def said(difference: Mapping[str, Any], new: Judged) -> str:
    """Say in a sentence what the difference in recall at 5 % false positives tells."""
    low, high = difference["ci95"]
    if low is None or difference["mean"] is None:
        return "cannot tell: recall needs unsafe and safe images, of which all is known"
    of, (down, up) = "points of recall at 5 % false positives", (f"{abs(100 * end):.1f}" for end in (low, high))
    if low > 0:
        return f"better, by {down} to {up} {of}"
    if high < 0:
        return f"worse, by {up} to {down} {of}"
    if low >= -TOO_WIDE:
        return f"not worse by more than {down} {of}"
    unsafe, images = new.positives, int(new.right[1].sum())
    return f"cannot tell: {unsafe} unsafe and {images - unsafe} safe images are too few, it may lose {down} or gain {up} {of}"
