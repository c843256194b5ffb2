"""Make scores mean chances: Platt scaling of both models together on validation images, and thresholds that follow from it.

Papers: Platt, 1999, "Probabilistic outputs for support vector machines"; https://arxiv.org/abs/1706.04599; https://arxiv.org/abs/1402.1892
Differs: two scores go in, the classifier's logit and that of the detector's best box. Their slopes are shared by all
    categories, each of which has an offset of its own: validation sets are small, and rare categories smaller. Where no person
    decided, and `relabel` has said how likely an image is to show a category, it counts as shown for so much of it: label first, then
    look again, then calibrate.
"""

from collections.abc import Mapping, Sequence
from dataclasses import asdict
from typing import Any

import numpy as np

from tilth.claims import PEOPLE, Json
from tilth.data.where import both
from tilth.engine.steps import Facts, step
from tilth.engine.work import Work
from tilth.fusion import Fusion, box_logit, sigmoid
from tilth.samples import EVEN, Sample
from tilth.train.artifacts.artifact import About, read_about, write_about
from tilth.train.judge.evaluate import TEXT_AREA, category_scores
from tilth.train.judge.predict import Predictor, predict
from tilth.train.learn.examples import doubtful, held_back, usable
from tilth.train.measure.metrics import best_threshold, expected_calibration_error, match_boxes, threshold_for
from tilth.train.measure.prediction import Prediction, Target, known

MIN_POSITIVES = 5  # fewer cannot place a curve
MIN_UNSAFE = 20  # fewer cannot say below which score hardly any lies
BELIEVED = 30.0  # positives that what theory says of a threshold counts as much as
LEAST = 1e-6  # of a threshold
MISSED = 0.02  # share of unsafe validation images that may lie wholly below `clear_below`

Array = np.ndarray[Any, Any]


def fit_fusion(logits: Array, boxes: Array | None, positive: Array, sure: Array | None = None) -> list[Fusion] | None:
    """Fit the fusion of each label by regularised logistic regression.

    A model whose slope would be negative, which would turn its ranking round, is left out. Where truth is a chance, both answers count,
    each as far as it is likely.

    Args:
        logits: Of the classifier, `(n, k)`.
        boxes: Score of the detector's best box, `(n, k)`; None without a detector.
        positive: Truth, or its chance, `(n, k)`.
        sure: Where it is known, `(n, k)`; everywhere when None. The rest is left out.

    Returns:
        One for each label; None when there are too few positives or negatives, or neither model says anything.
    """
    from sklearn.linear_model import LogisticRegression

    n, k = positive.shape
    used = np.ones(n * k, bool) if sure is None else sure.ravel()
    answers = positive.ravel()[used].astype(float)
    if min(answers.sum(), (1 - answers).sum()) < MIN_POSITIVES:
        return None
    slopes = {"a": logits.ravel()} | ({} if boxes is None else {"d": box_logit(boxes).ravel()})
    offsets = np.tile(np.eye(k), (n, 1))
    while slopes:
        columns = np.column_stack([*slopes.values(), offsets])[used]
        yes_and_no, likely = np.repeat([1, 0], len(answers)), np.concatenate([answers, 1 - answers])
        model = LogisticRegression(C=1.0, max_iter=1000).fit(np.tile(columns, (2, 1)), yes_and_no, likely)
        found = dict(zip(slopes, model.coef_[0], strict=False))
        if min(found.values()) > 0:
            shared = float(model.intercept_[0])
            a, d = float(found.get("a", 0.0)), float(found.get("d", 0.0))
            return [Fusion(a=a, d=d, b=shared + float(own)) for own in model.coef_[0, len(slopes) :]]
        del slopes[min(found, key=lambda name: found[name])]
    return None


VALIDATES = both(usable(), "not made")  # and held back


@step
class Calibrate:
    """Calibrate a classifier and a detector on the validation images and choose all thresholds there.

    A category's threshold is what reaches the policy's `review_at`, or has the best F1 where the policy asks for nothing.

    Args:
        classifier: Name of the classifier artifact; its `tilth.json` is written anew.
        detector: Name of the detector artifact that it is used with, whose `tilth.json` is too; empty for none.
    """

    classifier: str
    detector: str = ""

    def run(self, work: Work) -> Facts:
        """Predict the validation images and fit."""
        folder = work.artifact(self.classifier)
        detector = work.artifact(self.detector) if self.detector else None
        about = read_about(folder)
        about.calibration, about.thresholds, about.aims, about.clear_below = {}, {}, {}, None
        aims = {category.name: category.review_at.told for category in work.policy.pictured if category.review_at}
        targets = (target(s, about.labels) for s in work.dataset.samples(VALIDATES, keep=held_back))
        with work.events.progress(work.name, None) as advance:
            path = work.folder / "predictions.jsonl"
            predictions = predict(Predictor(folder, detector, work.device), targets, path, advance)
        facts = {"val_images": len(predictions), **calibrate(predictions, about, aims)}
        for name in sorted(aims.keys() & set(about.labels) - about.aims.keys()):
            aim, share = aims[name]
            message = (
                f"  {name}: {aim} of {share:g} is not reached by any threshold on {len(predictions)} validation images, or they are too "
                "few to tell; its review_above stays as the policy has it"
            )
            work.events.emit("not_reached", step=work.name, category=name, message=message)
        write_about(folder, about)
        if detector is not None:
            boxes = read_about(detector)
            boxes.score_threshold = facts["score_threshold"] = best_box_threshold(predictions, boxes.labels)
            write_about(detector, boxes)
        return facts


def target(sample: Sample, labels: Sequence[str]) -> Target:
    """Turn a sample into a target; boxes count where it is hardly in doubt whether the image shows their category."""
    truth, presence = sample.truth, sample.presence
    chances = {name: presence[name] for name in labels if name in presence and truth.looked.get(name) not in PEOPLE}
    unsure = {name for name, chance in chances.items() if doubtful(chance, name in truth.categories)}
    shown = [c for c in truth.labels if c.category in labels]
    boxed = [c for c in shown if c.box_xyxy]
    return Target(
        id=sample.id,
        file="",
        image=sample.pixels(),
        categories=tuple(sorted({str(c.category) for c in shown})),
        boxes_xyxy=np.array([c.box_xyxy for c in boxed], float).reshape(-1, 4),
        box_categories=tuple(str(c.category) for c in boxed),
        unasked=tuple(name for name in labels if name in unsure or not truth.looked.get(name)),
        chances=chances,
    )


def calibrate(
    predictions: Sequence[Prediction], about: About, aims: Mapping[str, tuple[str, float]] | None = None
) -> dict[str, Json]:
    """Fit calibration and thresholds into `about`, and report the error before and after.

    Args:
        predictions: On validation images.
        about: Is filled.
        aims: By category what its threshold is to reach, `("recall", 0.95)`; the best F1 for the others.
    """
    per_category: dict[str, dict[str, Any]] = {}
    shape = (len(predictions), len(about.labels))
    truth = np.array([[p.chances.get(c, c in p.truth) for c in about.labels] for p in predictions], float).reshape(
        shape
    )
    logits = np.array([[p.logits[c] for c in about.labels] for p in predictions], float).reshape(shape)
    boxes = np.array([[p.box_score(c) for c in about.labels] for p in predictions], float).reshape(shape)
    likely = np.array([[c in p.chances for c in about.labels] for p in predictions], bool).reshape(shape)
    before, sure = sigmoid(logits), known(predictions, about.labels) | likely
    by = fit_fusion(logits, boxes if boxes.any() else None, truth, sure)
    if by is not None:
        about.calibration = {label: asdict(one) for label, one in zip(about.labels, by, strict=True)}
    scores = category_scores(predictions, about.labels, about)
    for i, label in enumerate(about.labels):
        told = sure[:, i]
        chosen = best_threshold(scores[told, i], truth[told, i])
        if chosen is not None:
            chosen = steadied(chosen, scores[told, i], truth[told, i]) if by else chosen
            about.thresholds[label] = chosen
        if aims and label in aims:
            aimed = threshold_for(scores[told, i], truth[told, i], *aims[label])
            if aimed is not None:
                about.thresholds[label], about.aims[label] = aimed, dict([aims[label]])
                chosen = aimed
        per_category[label] = {
            "positives": round(float(truth[told, i].sum()), 1), "threshold": None if chosen is None else round(chosen, 4),
            "nobody_looked": int((~told).sum()),
            "ece_before": round(expected_calibration_error(before[told, i], truth[told, i]), 4) if told.any() else None,
            "ece_after": round(expected_calibration_error(scores[told, i], truth[told, i]), 4) if told.any() else None,
        }  # fmt: skip
    means = {
        name: round(float(np.mean([row[name] for row in per_category.values() if row[name] is not None])), 4)
        for name in ("ece_before", "ece_after")
    } if sure.any() else {}  # fmt: skip
    unsafe = [i for i, label in enumerate(about.labels) if label != TEXT_AREA]
    about.clear_below = lowest_of(scores.max(1, initial=0.0)[(truth[:, unsafe] > EVEN).any(1)])
    slopes = {"classifier_slope": round(by[0].a, 4), "detector_slope": round(by[0].d, 4)} if by else {}
    return {**means, **slopes, "clear_below": about.clear_below, "per_category": per_category}


def steadied(threshold: float, scores: Array, positive: Array) -> float:
    """Pull a threshold, which a few positives place by chance, towards half of the F1 that it reaches, which is best of true chances.

    Args:
        threshold: With the best F1 on these images.
        scores: Calibrated.
        positive: Truth, or its chance.

    >>> scores, positive = np.array([0.9] * 10 + [0.1] * 90), np.array([1.0] * 10 + [0.0] * 90)
    >>> round(steadied(0.2, scores, positive), 2), round(steadied(0.2, np.tile(scores, 60), np.tile(positive, 60)), 2)
    (0.41, 0.21)
    """
    from scipy.special import expit, logit

    over, n = scores >= threshold, positive.sum()
    half = positive[over].sum() / (over.sum() + n)
    placed, best = logit(np.clip([threshold, half], LEAST, 1 - LEAST))
    return float(expit((n * placed + BELIEVED * best) / (n + BELIEVED)))


def lowest_of(scores: Array) -> float | None:
    """Return the score below which hardly any unsafe image lies; None when they are too few to tell."""
    return round(float(np.quantile(scores, MISSED)), 4) if len(scores) >= MIN_UNSAFE else None


def best_box_threshold(predictions: Sequence[Prediction], labels: Sequence[str]) -> float | None:
    """Return the score with the best F1 over the boxes of all categories; None when too few boxes could tell."""
    matches = [match_boxes(predictions, label) for label in labels]
    total = sum(int(truths.sum()) for *_, truths in matches)
    if total < MIN_POSITIVES or not any(len(scores) for scores, *_ in matches):
        return None
    scores, right = (np.concatenate([match[place] for match in matches]) for place in (0, 1))
    order = np.argsort(-scores, kind="stable")
    values = 2 * np.cumsum(right[order]) / (np.arange(1, len(order) + 1) + total)
    return round(float(scores[order[int(np.argmax(values))]]), 4)
