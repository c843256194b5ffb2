"""Make scores mean chances: Platt scaling of both models together on validation images, and thresholds that follow from it.

Papers: Platt, 1999, "Probabilistic outputs for support vector machines"; https://arxiv.org/abs/1706.04599; https://arxiv.org/abs/1402.1892
Differs: two scores go in, the classifier's logit and that of the detector's best box. Their slopes are shared by all
    categories, each of which has an offset of its own: validation sets are small, and rare categories smaller. Where no person
    decided, and `relabel` has said how likely an image is to show a category, it counts as shown for so much of it: label first, then
    look again, then calibrate.
"""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import asdict
from typing import Any, ClassVar

import numpy as np

from tilth.claims import PEOPLE, Json
from tilth.data.where import both
from tilth.encoders.fusion import Fusion, box_logit, sigmoid
from tilth.engine.steps import Facts, step
from tilth.engine.work import Work
from tilth.samples import EVEN, Sample
from tilth.train.artifacts.artifact import About, read_about, write_about
from tilth.train.judge.kept import predict, read_columns
from tilth.train.judge.measure import category_scores
from tilth.train.judge.predict import Predictor
from tilth.train.learn.examples import doubtful, held_back, usable
from tilth.train.measure.boxes import match
from tilth.train.measure.metrics import best_threshold, expected_calibration_error, threshold_for
from tilth.train.measure.prediction import Predictions, Target

MIN_POSITIVES = 5  # fewer cannot place a curve
MIN_UNSAFE = 20  # fewer cannot say below which score hardly any lies
BELIEVED = 30.0  # positives that what theory says of a threshold counts as much as
LEAST = 1e-6  # of a threshold
MOST_STEPS, CONVERGED = 100, 1e-9  # of Newton's method: steps, and the mean gradient that is as good as none
DIGITS = 6  # of what was fitted: the same on every machine
AT_ONCE = 512  # images that it looks at together
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
    used = np.ones(positive.shape, bool) if sure is None else sure
    found = float(positive[used].sum())
    if min(found, used.sum() - found) < MIN_POSITIVES:
        return None
    slopes = {"a": logits} | ({} if boxes is None else {"d": box_logit(boxes)})
    while slopes:
        steep, shared, own = fit_slopes([*slopes.values()], positive, used)
        by = {name: round(slope, DIGITS) for name, slope in zip(slopes, steep.tolist(), strict=True)}
        if min(by.values()) > 0:
            return [Fusion(**{"a": 0.0, "d": 0.0, **by}, b=round(shared + each, DIGITS)) for each in own.tolist()]
        del slopes[min(by, key=lambda name: by[name])]
    return None


def fit_slopes(columns: Sequence[Array], positive: Array, used: Array) -> tuple[Array, float, Array]:
    """Fit a logistic curve with a slope for each column, an offset for all, and one for each label, by Newton's method.

    The slopes and the labels' offsets are pulled to 0, as scikit-learn's `LogisticRegression(C=1)` does, which would need a matrix of
    n k rows and k columns.

    Args:
        columns: Scores, `(n, k)` each.
        positive: Truth, or its chance, `(n, k)`.
        used: Where it counts, `(n, k)`.

    Returns:
        The slopes, the offset of all, and the labels' own.
    """
    dense = len(columns) + 1  # the slopes and the offset of all; below them the Hessian is a diagonal
    found = np.zeros(dense + positive.shape[1])
    move, lost = np.zeros_like(found), np.inf
    for _ in range(MOST_STEPS):
        loss, gradient, bend, edge, own = _curved(found + move, columns, positive, used)
        if loss > lost:
            move /= 2
            continue
        found, lost = found + move, loss
        if np.abs(gradient).max() < CONVERGED * used.sum():
            break
        first = np.linalg.solve(bend - edge / own @ edge.T, gradient[:dense] - edge / own @ gradient[dense:])
        move = -np.concatenate([first, (gradient[dense:] - first @ edge) / own])
    return found[: dense - 1], float(found[dense - 1]), found[dense:]


def _curved(
    at: Array, columns: Sequence[Array], positive: Array, used: Array
) -> tuple[float, Array, Array, Array, Array]:
    """Return the loss, its gradient and its Hessian: the corner of slopes and common offset, what lies beside it, and the diagonal."""
    (n, k), dense = positive.shape, len(columns) + 1
    pull = np.ones(len(at))
    pull[dense - 1] = 0.0
    loss, gradient = float(pull @ at**2 / 2), pull * at
    bend, edge, own = np.diag(pull[:dense]), np.zeros((dense, k)), np.ones(k)
    for start in range(0, n, AT_ONCE):
        rows = slice(start, start + AT_ONCE)
        kept, known = used[rows], positive[rows]
        x = [*(column[rows].astype(float) for column in columns), np.ones(kept.shape)]
        z = at[dense:] + sum(slope * one for slope, one in zip(at, x, strict=False))
        chance = sigmoid(z)
        loss += float((np.logaddexp(0, z) - known * z)[kept].sum())
        off, weight = np.where(kept, chance - known, 0.0), np.where(kept, chance * (1 - chance), 0.0)
        gradient += [*((off * one).sum() for one in x), *off.sum(0)]
        own += weight.sum(0)
        for i, one in enumerate(x):
            edge[i] += (weight * one).sum(0)
            bend[i] += [(weight * one * other).sum() for other in x]
    return loss, gradient, bend, edge, own


VALIDATES = both(usable(), "not made")  # and held back


@step
class Calibrate:
    """Calibrate a classifier and a detector on the validation images and choose all thresholds there.

    A category's threshold is what reaches the policy's `review_at`, or has the best F1 where the policy asks for nothing.

    Args:
        classifier: Name of the classifier artifact; its `tilth.json` is written anew.
        detector: Name of the detector artifact that it is used with, whose `tilth.json` is too; empty for none.
    """

    refers: ClassVar[tuple[str, ...]] = ("classifier", "detector")

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
            ids = predict(Predictor(folder, detector, work.device), targets, path, advance)
        facts = {
            "val_images": len(ids),
            **calibrate(read_columns(path, about.labels, ids), about, aims, work.policy.signposts),
        }
        for name in sorted(aims.keys() & set(about.labels) - about.aims.keys()):
            aim, share = aims[name]
            message = (
                f"  {name}: {aim} of {share:g} is not reached by any threshold on {len(ids)} validation images, or they are too "
                "few to tell; its review_above stays as the policy has it"
            )
            work.events.emit("not_reached", step=work.name, category=name, message=message)
        write_about(folder, about)
        if detector is not None:
            boxes = read_about(detector)
            boxes.score_threshold = facts["score_threshold"] = best_box_threshold(read_columns(path, boxes.labels, ids))
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
    predictions: Predictions,
    about: About,
    aims: Mapping[str, tuple[str, float]] | None = None,
    signposts: Collection[str] = (),
) -> dict[str, Json]:
    """Fit calibration and thresholds into `about`, and report the error before and after.

    Args:
        predictions: On validation images, of the labels of `about`.
        about: Is filled.
        aims: By category what its threshold is to reach, `("recall", 0.95)`; the best F1 for the others.
        signposts: Labels that make no image unsafe.
    """
    per_category: dict[str, dict[str, Any]] = {}
    truth, sure = predictions.truth.astype(float), predictions.known
    if predictions.chances is not None:
        likely = ~np.isnan(predictions.chances)
        truth[likely], sure = predictions.chances[likely], sure | likely
    by = fit_fusion(predictions.logits, predictions.best if predictions.best.any() else None, truth, sure)
    if by is not None:
        about.calibration = {label: asdict(one) for label, one in zip(about.labels, by, strict=True)}
    scores = category_scores(predictions, about)
    for i, label in enumerate(about.labels):
        told = sure[:, i]
        before = sigmoid(predictions.logits[told, i].astype(float))
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
            "ece_before": round(expected_calibration_error(before, truth[told, i]), 4) if told.any() else None,
            "ece_after": round(expected_calibration_error(scores[told, i], truth[told, i]), 4) if told.any() else None,
        }  # fmt: skip
    means = {
        name: round(float(np.mean([row[name] for row in per_category.values() if row[name] is not None])), 4)
        for name in ("ece_before", "ece_after")
    } if sure.any() else {}  # fmt: skip
    unsafe = [i for i, label in enumerate(about.labels) if label not in signposts]
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


def best_box_threshold(predictions: Predictions) -> float | None:
    """Return the score with the best F1 over the boxes of all categories; None when too few boxes could tell."""
    matches = [match(predictions, place) for place in range(len(predictions.categories))]
    total = sum(len(matched.true) for matched in matches)
    if total < MIN_POSITIVES or not any(len(matched.score) for matched in matches):
        return None
    scores, right = np.concatenate([m.score for m in matches]), np.concatenate([m.right[0] for m in matches])
    order = np.argsort(-scores, kind="stable")
    values = 2 * np.cumsum(right[order]) / (np.arange(1, len(order) + 1) + total)
    return round(float(scores[order[int(np.argmax(values))]]), 4)
