"""Every number of an evaluation, from what the models said."""

from collections import Counter
from collections.abc import Sequence
from functools import partial

import numpy as np

from tilth.claims import Json
from tilth.encoders.fusion import fuse, fusions
from tilth.policy import SAFE, Policy
from tilth.train.artifacts.artifact import About
from tilth.train.judge.testsets import cannot_measure
from tilth.train.measure.boxes import MIN_IOU, confusions, match
from tilth.train.measure.judged import FEWER, Judged, whole
from tilth.train.measure.metrics import with_interval
from tilth.train.measure.prediction import Array, Predictions

OVERLAPS = (MIN_IOU, *(round(0.55 + 0.05 * i, 2) for i in range(9)))
SIZES = (
    ("small", 0.0, 0.01),
    ("medium", 0.01, 0.1),
    ("large", 0.1, np.inf),
)  # share of the image that its largest true box takes
AT_ONCE = 64  # categories whose scores are computed together


def unsafe_names(policy: Policy) -> list[str]:
    """Name the categories that make an image unsafe by what is pictured."""
    return [c.name for c in policy.pictured if not c.is_signpost]


def category_scores(predictions: Predictions, about: About | None) -> Array:
    """Return the score of every category for every image, `(n, k)`; 0 for one that the classifier was not trained for.

    That is what such a model is worth when a policy has grown: it never says the new category.
    """
    if about is None:
        return predictions.best
    scores = np.zeros(predictions.best.shape)
    for start in range(0, len(predictions.categories), AT_ONCE):
        names, some = predictions.categories[start : start + AT_ONCE], slice(start, start + AT_ONCE)
        learned = np.array([name in about.labels for name in names], bool)
        boxes = predictions.best[:, some] if predictions.detects else None
        said = fuse(predictions.logits[:, some], boxes, fusions(about.calibration, names))
        scores[:, some] = np.where(learned, said, 0.0)
    return scores


def judged(predictions: Predictions, about: About | None, overlaps: Sequence[float] = ()) -> Judged:
    """Put scores, truth and, with overlaps from which on they are right, boxes side by side."""
    names = predictions.categories
    return Judged(
        scores=category_scores(predictions, about),
        truth=predictions.truth,
        sure=predictions.known,
        thresholds=np.array([(about.thresholds if about else {}).get(c, 0.5) for c in names]),
        matches=[match(predictions, k, overlaps) for k in range(len(names))] if overlaps else (),
    )


def measure(
    predictions: Predictions, policy: Policy, about: About | None, *, box_threshold: float | None
) -> dict[str, Json]:
    """Return all numbers of an evaluation.

    Args:
        predictions: Of the categories that `unsafe_names` names.
        policy: Has these.
        about: What is known of the classifier; None for none.
        box_threshold: Score from which on boxes of the detector are shown; None for no detector.
    """
    names = predictions.categories
    told = judged(predictions, about, () if box_threshold is None else OVERLAPS)
    _, shown, sure = whole(told.scores, told.truth, told.sure)
    why = cannot_measure(int((shown & sure).sum()), int((~shown & sure).sum()))
    return {
        **told.all_numbers(),
        "curve": told.curve(),
        "pr_curve": told.precisions(),
        "per_category": {
            name: {**one.numbers(), "pr_curve": one.precisions(), "positives": int((one.truth & one.sure).sum())}
            for i, name in enumerate(names) if (one := told.of(i))
        },
        **_slices(told, predictions, policy),
        "operating_points": {
            category: {
                "aim": about.aims[category], "threshold": round(float(told.thresholds[i]), 4),
                **{
                    what: with_interval(partial(told.of(i).at_threshold, what=what), len(predictions), resamples=FEWER[0])
                    for what in ("recall", "precision", "false_positives")
                },
            }
            for i, category in enumerate(names) if about and category in about.aims
        },
        **({} if box_threshold is None else {"confusion": confused(predictions, box_threshold), "box_threshold": box_threshold}),
        "nobody_looked": predictions.left_out(),
        "never_learned": [c for c in names if about and c not in about.labels],
        "n_images": len(predictions), "n_unsafe": int(told.truth.any(1).sum()),
        **({"cannot_measure": why} if why else {}),
        "thresholds": dict(zip(names, told.thresholds.tolist(), strict=True)),
    }  # fmt: skip


def _slices(told: Judged, predictions: Predictions, policy: Policy) -> dict[str, Json]:
    """Measure on parts of the test set; where there is one part only, it is the whole.

    By severity some categories are looked at, otherwise some images. All safe images are beside those of each size.
    """
    severities = [policy[name].severity for name in predictions.categories]
    parts, largest = np.array(predictions.parts), predictions.largest()
    safe = ~told.truth.any(1)
    groups: dict[str, dict[str, Judged]] = {
        "per_severity": {each: told.of(*np.flatnonzero(np.array(severities) == each)) for each in dict.fromkeys(severities)},
        "per_slice": {str(part): told.among(parts == part) for part in sorted({*predictions.parts}) if part},
        "per_size": {
            size: told.among(safe | inside)
            for size, least, most in SIZES if (inside := (largest >= least) & (largest < most)).any()
        },
    }  # fmt: skip
    return {
        name: {part: {**some.numbers(), "n_images": some.n, "positives": some.positives} for part, some in each.items()}
        for name, each in groups.items() if len(each) > 1
    }  # fmt: skip


def confused(predictions: Predictions, threshold: float) -> dict[str, Json]:
    """Count what boxes of each category are seen as; `safe` stands for nothing, in which no category may be called."""
    names = (*predictions.categories, SAFE)
    found = confusions(predictions, threshold)
    counts = Counter(zip(found.true.tolist(), found.said.tolist(), strict=True))
    told: dict[str, dict[str, Json]] = {}
    for (true, said), count in sorted(
        counts.items(), key=lambda item: (item[0][0] % len(names), item[0][1] % len(names))
    ):
        told.setdefault(names[true], {})[names[said]] = count
    return dict(told)
