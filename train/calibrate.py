"""Make scores mean chances: Platt scaling on validation images, and the thresholds with the best F1 there.

Paper: Platt, 1999, "Probabilistic outputs for support vector machines"; https://arxiv.org/abs/1706.04599
"""

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np

from tilth.claims import Json
from tilth.samples import Sample
from tilth.steps import Facts, step
from tilth.train.artifact import About, probability, read_about, write_about
from tilth.train.evaluate import category_scores
from tilth.train.examples import held_back, usable
from tilth.train.metrics import best_threshold, expected_calibration_error
from tilth.train.predict import Prediction, Predictor, Target, predict
from tilth.work import Work

MIN_POSITIVES = 5  # fewer cannot place a curve
WEIGHTS = (0.0, 0.25, 0.5, 0.75, 1.0)


def fit_platt(logits: np.ndarray[Any, Any], positive: np.ndarray[Any, Any]) -> tuple[float, float]:
    """Return a and b of `sigmoid(a · logit + b)`, by regularised logistic regression.

    A negative a would turn the ranking round; then the scores are left as they are.
    """
    from sklearn.linear_model import LogisticRegression

    model = LogisticRegression(C=10.0).fit(logits[:, None], positive)
    a, b = float(model.coef_[0, 0]), float(model.intercept_[0])
    return (a, b) if a > 0 else (1.0, 0.0)


@step
class Calibrate:
    """Calibrate a classifier on the validation images and choose each category's threshold there.

    Args:
        classifier: Name of the classifier artifact; its `tilth.json` is written anew.
        detector: Name of the detector artifact that it is used with; empty for none.
    """

    classifier: str
    detector: str = ""

    def run(self, work: Work) -> Facts:
        """Predict the validation images and fit."""
        folder = work.artifact(self.classifier)
        detector = work.artifact(self.detector) if self.detector else None
        about = read_about(folder)
        about.calibration, about.thresholds = {}, {}
        targets = (target(s, about.labels) for s in work.dataset.samples(validates))
        with work.events.progress(work.name, None) as advance:
            path = work.folder / "predictions.jsonl"
            predictions = predict(Predictor(folder, detector, work.device), targets, path, advance)
        told = calibrate(predictions, about)
        write_about(folder, about)
        return {"val_images": len(predictions), **told}


def validates(sample: Sample) -> bool:
    """Tell whether a sample is for validation: held back, real, and known."""
    return usable(sample) and held_back(sample) and not sample.made


def target(sample: Sample, labels: Sequence[str]) -> Target:
    """Turn a sample into a target."""
    shown = tuple(sorted({str(c.category) for c in sample.truth.labels if c.category in labels}))
    return Target(
        id=sample.id, file="", image=sample.pixels(), categories=shown, boxes_xyxy=np.zeros((0, 4)), box_categories=()
    )


def calibrate(predictions: Sequence[Prediction], about: About) -> dict[str, Json]:
    """Fit calibration and thresholds into `about`, and report the error before and after."""
    told: dict[str, Json] = {}
    truth = np.array([[c in p.truth for c in about.labels] for p in predictions], bool).reshape(-1, len(about.labels))
    logits = np.array([[p.logits[c] for c in about.labels] for p in predictions], float).reshape(truth.shape)
    before = probability(logits, about)
    for i, label in enumerate(about.labels):
        if truth[:, i].sum() >= MIN_POSITIVES and (~truth[:, i]).sum() >= MIN_POSITIVES:
            a, b = fit_platt(logits[:, i], truth[:, i])
            about.calibration[label] = {"a": a, "b": b}
    after = probability(logits, about)
    about.detector_weight = best_weight(predictions, truth, about)
    scores = category_scores(predictions, about.labels, about)
    for i, label in enumerate(about.labels):
        chosen = best_threshold(scores[:, i], truth[:, i])
        if chosen is not None:
            about.thresholds[label] = chosen
        told[label] = {
            "positives": int(truth[:, i].sum()), "threshold": None if chosen is None else round(chosen, 4),
            "ece_before": round(expected_calibration_error(before[:, i], truth[:, i]), 4) if len(truth) else None,
            "ece_after": round(expected_calibration_error(after[:, i], truth[:, i]), 4) if len(truth) else None,
        }  # fmt: skip
    means = {
        name: round(float(np.mean([row[name] for row in told.values()])), 4)  # type: ignore[index, call-overload]
        for name in ("ece_before", "ece_after")
    } if len(truth) else {}  # fmt: skip
    return {**means, "detector_weight": about.detector_weight, "per_category": told}


def best_weight(predictions: Sequence[Prediction], truth: np.ndarray[Any, Any], about: About) -> float:
    """Return the weight of the detector with the best mean average precision; a half when too few positives can tell."""
    from sklearn.metrics import average_precision_score

    enough = [i for i in range(truth.shape[1]) if truth[:, i].sum() >= MIN_POSITIVES]
    if not enough or not any(p.boxes for p in predictions):
        return 0.5

    def quality(weight: float) -> float:
        scores = category_scores(predictions, about.labels, replace(about, detector_weight=weight))
        return float(np.mean([average_precision_score(truth[:, i], scores[:, i]) for i in enough]))

    return max(WEIGHTS, key=lambda weight: (quality(weight), -abs(weight - 0.5)))
