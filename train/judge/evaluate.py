"""Judge a classifier and a detector together on images with known truth.

An image is unsafe when its truth names a picture category of the policy other than `text_area`. Its score for a category is
the probability that calibration makes of the classifier and the detector's best box, as the runtime does; when only one of
them is there, it alone counts. Its unsafe score is the largest over categories.

What nobody looked for is left out: an image counts for the categories that somebody looked for, and as a safe one only when that
were all of them.
"""

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path

import numpy as np

from tilth.claims import PEOPLE, Json, State
from tilth.data.where import both, one_of, quoted
from tilth.engine.steps import Facts, step
from tilth.engine.work import Work
from tilth.errors import InputError
from tilth.fusion import fuse, fusions
from tilth.geometry import xywh_to_xyxy
from tilth.images import decode
from tilth.policy import Policy
from tilth.train.artifacts.artifact import About, read_about
from tilth.train.judge.predict import Asked, Predictor, predict
from tilth.train.measure.metrics import (
    Array,
    average_precision,
    expected_calibration_error,
    f1,
    match_boxes,
    recall_at_fpr,
    with_interval,
)
from tilth.train.measure.prediction import Prediction, Target, known, left_out

TEXT_AREA = "text_area"
FPR = 0.05
CURVE = (
    0.0,
    0.002,
    0.005,
    0.01,
    0.015,
    0.02,
    0.03,
    0.04,
    0.05,
    0.06,
    0.08,
    0.1,
    0.12,
    0.15,
    0.2,
)  # shares of false positives
OTHER_FPRS = (0.01, 0.02, 0.1)
STRICTER = tuple(round(0.55 + 0.05 * i, 2) for i in range(9))  # overlaps, beyond 0.5
RESAMPLES, RESAMPLES_AP = 1000, 100
FEWER = (200, 50)  # of both, for a category or a slice


def coco_targets(folder: Path, wanted: Sequence[str], parts: dict[str, str]) -> Iterator[Target]:
    """Yield the images of a COCO folder (`annotations.json` and `images/`) one by one.

    Raises:
        InputError: The folder is not of this form, or an image is absent or damaged: a test set must be whole.
    """
    path = folder / "annotations.json"
    if not path.exists():
        raise InputError(f"{path}: no such file; a test set is a folder with annotations.json and images/")
    document = json.loads(path.read_text())
    names = {c["id"]: c["name"] for c in document["categories"]}
    unasked = tuple(name for name in wanted if name not in names.values())  # the set's list says what was looked for
    boxes: dict[int, list[tuple[list[float], str]]] = {}
    for annotation in document["annotations"]:
        if (name := names[annotation["category_id"]]) in wanted:
            boxes.setdefault(annotation["image_id"], []).append((annotation["bbox"], name))
    for image in document["images"]:
        file = folder / "images" / image["file_name"]
        try:
            pixels = decode(file.read_bytes())
        except (OSError, InputError) as error:
            raise InputError(f"{file}: {error}; a sealed test set must be whole") from error
        own = boxes.get(image["id"], [])
        xyxy = xywh_to_xyxy(np.array([b for b, _ in own], float).reshape(-1, 4))
        yield Target(
            id=image["file_name"], file=image["file_name"], image=pixels, categories=tuple(sorted({c for _, c in own})),
            boxes_xyxy=xyxy, box_categories=tuple(c for _, c in own), part=parts.get(image["file_name"], ""),
            unasked=unasked,
        )  # fmt: skip


def coco_counts(folder: Path, policy: Policy) -> tuple[int, int]:
    """Count the unsafe and the safe images of a COCO test folder by its list alone."""
    wanted = [c.name for c in policy.pictured if c.name != TEXT_AREA]
    document = json.loads((folder / "annotations.json").read_text())
    names = {c["id"]: c["name"] for c in document["categories"]}
    unsafe = {a["image_id"] for a in document["annotations"] if names.get(a["category_id"]) in wanted}
    looked = not set(wanted) - set(names.values())  # an image is safe when all was looked for
    images = {image["id"] for image in document["images"]}
    return len(images & unsafe), len(images - unsafe) if looked else 0


def cannot_measure(unsafe: int, safe: int) -> str:
    """Say what images can and cannot measure; nothing when there are enough of both.

    >>> cannot_measure(40, 0)
    'recall at 5% false positives cannot be measured, as there are 40 unsafe and 0 safe images of which all is known'
    >>> cannot_measure(40, 12)
    'with 12 safe images, recall at 5% false positives is recall without a single one; at least 20 would tell'
    """
    least = round(1 / FPR)
    if not unsafe or not safe:
        return (
            f"recall at {FPR:.0%} false positives cannot be measured, as there are {unsafe} unsafe and {safe} safe images "
            "of which all is known"
        )
    if safe < least:
        return f"with {safe} safe images, recall at {FPR:.0%} false positives is recall without a single one; at least {least} would tell"
    return ""


def dataset_targets(work: Work, split: str) -> Iterator[Target]:
    """Yield the reviewed samples of a split of the dataset."""
    names = [c.name for c in work.policy.pictured]
    reviewed = one_of("state", (State.REVIEWED, State.CONFIRMED_EMPTY))
    for sample in work.dataset.samples(both(f"split = {quoted(split)}", reviewed)):
        truth = sample.truth
        unasked = truth.unasked(names, PEOPLE)  # a model is not judged by a model
        labels = [c for c in truth.labels if c.category in names and c.category not in unasked]
        boxed = [c for c in labels if c.box_xyxy]
        yield Target(
            id=sample.id, file=str(sample.origin.get("source", sample.id)), image=sample.pixels(),
            categories=tuple(sorted({str(c.category) for c in labels})),
            boxes_xyxy=np.array([c.box_xyxy for c in boxed], float).reshape(-1, 4),
            box_categories=tuple(str(c.category) for c in boxed), unasked=unasked,
        )  # fmt: skip


def category_scores(predictions: Sequence[Prediction], categories: Sequence[str], about: About | None) -> Array:
    """Return the score of every category for every image, `(n, k)`; 0 for one that the classifier was not trained for.

    That is what such a model is worth when a policy has grown: it never says the new category.
    """
    boxes = np.array([[p.box_score(c) for c in categories] for p in predictions], float).reshape(-1, len(categories))
    if about is None:
        return boxes
    learned = np.array([c in about.labels for c in categories], bool)
    logits = np.array([[p.logits.get(c, 0.0) for c in categories] for p in predictions], float).reshape(boxes.shape)
    detects = any(p.boxes for p in predictions)
    return np.where(learned, fuse(logits, boxes if detects else None, fusions(about.calibration, categories)), 0.0)


def whole(scores: Array, truth: Array, sure: Array) -> tuple[Array, Array, Array]:
    """Judge images as a whole: their unsafe score, whether they are unsafe, and whether that is known, each `(n,)`.

    An image with nothing unsafe among what was looked for is safe only when everything was.

    Args:
        scores: By category, `(n, k)`.
        truth: What they show, `(n, k)`.
        sure: Where that is known, `(n, k)`.
    """
    unsafe = np.asarray((truth & sure).any(1))
    return np.where(sure, scores, 0.0).max(1), unsafe, np.asarray(unsafe | sure.all(1))


@step
class Tested:
    """Measure on a sealed test folder, or on a split of the dataset.

    Args:
        test: COCO folder with the sealed images; the dataset's `split` when None.
        split: Of the dataset.
        truth: JSON lines with `file` and `style` (or whatever `slice_by` names), to report by slice.
        slice_by: Field of `truth`.
    """

    test: Path | None = None
    split: str = "test"
    truth: Path | None = None
    slice_by: str = "style"

    def inputs(self) -> tuple[Path, ...]:
        """Name the sealed images."""
        return tuple(p for p in (self.test and self.test / "annotations.json", self.truth) if p)

    def judge(self, work: Work, predictor: Asked, about: About | None, *, has_boxes: bool) -> dict[str, Json]:
        """Predict, keep the predictions, and measure.

        Args:
            work: The surroundings.
            predictor: Says logits and boxes of images.
            about: What is known of the classifier; None for none.
            has_boxes: There is a detector.

        Raises:
            InputError: There is no image to judge by.
        """
        names = [c.name for c in work.policy.pictured]
        targets = coco_targets(self.test, names, self._parts()) if self.test else dataset_targets(work, self.split)
        path = work.folder / "predictions.jsonl"
        with work.events.progress(work.name, None) as advance:
            predictions = predict(predictor, targets, path, advance)
        if not predictions:
            raise InputError(
                f"{work.name}: no reviewed image in split {self.split!r}; add a split step or give a test folder"
            )
        work.publish(f"{work.name}.predictions", path)
        return measure(predictions, work.policy, about, has_boxes=has_boxes)

    def _parts(self) -> dict[str, str]:
        if self.truth is None:
            return {}
        rows = (json.loads(line) for line in self.truth.read_text().splitlines())
        return {row["file"]: str(row.get(self.slice_by, "")) for row in rows if row.get("split") == self.split}


@step
class Evaluate(Tested):
    """Measure models on a sealed test folder, or on a split of the dataset.

    Args:
        classifier: Name of the classifier artifact; empty for none.
        detector: Name of the detector artifact; empty for none.
    """

    classifier: str = ""
    detector: str = ""

    def __post_init__(self) -> None:
        """Check that there is something to judge."""
        if not self.classifier and not self.detector:
            raise ValueError("name a classifier or a detector to evaluate")

    def run(self, work: Work) -> Facts:
        """Predict, keep the predictions, and measure."""
        classifier = work.artifact(self.classifier) if self.classifier else None
        detector = work.artifact(self.detector) if self.detector else None
        predictor = Predictor(classifier, detector, work.device)
        return self.judge(
            work, predictor, read_about(classifier) if classifier else None, has_boxes=detector is not None
        )


@dataclass(frozen=True, kw_only=True, eq=False)
class Judged:
    """What n images score in k categories beside the truth; verbs take how often each image of `places` counts.

    Args:
        scores: `(n, k)`.
        truth: `(n, k)`.
        sure: Where the truth is known, as somebody looked, `(n, k)`.
        thresholds: A score of at least this says the category, `(k,)`.
        matches: Boxes of each category matched to the truth (`match_boxes`); empty without a detector.
        places: Of the images that are looked at.
        stricter: The same by larger least overlaps, for the whole of the images.
    """

    scores: Array
    truth: Array
    sure: Array
    thresholds: Array
    matches: Mapping[str, tuple[Array, Array, Array, Array]]
    places: Array
    stricter: Mapping[float, Mapping[str, tuple[Array, Array, Array, Array]]] = field(default_factory=dict)

    def among(self, inside: Array) -> "Judged":
        """Look at some of the n images only."""
        return replace(self, places=np.flatnonzero(inside))

    def of(self, place: int, category: str) -> "Judged":
        """Look at one category only."""
        kept = slice(place, place + 1)
        return replace(
            self,
            scores=self.scores[:, kept],
            truth=self.truth[:, kept],
            sure=self.sure[:, kept],
            thresholds=self.thresholds[kept],
            matches={category: self.matches[category]} if self.matches else {},
        )

    def _unsafe(self, counts: Array) -> tuple[Array, Array]:
        """Return the unsafe score of each image of which all is known, and whether it is."""
        rows = np.repeat(self.places, counts)
        scores, unsafe, judged = whole(self.scores[rows], self.truth[rows], self.sure[rows])
        return scores[judged], unsafe[judged]

    def recall(self, counts: Array, fpr: float = FPR) -> float:
        """Return the recall at a share of false positives."""
        return recall_at_fpr(*self._unsafe(counts), fpr)

    def curve(self) -> list[list[float | None]]:
        """Return rows of share of false positives, recall and precision, along the left of the ROC curve."""
        scores, unsafe = self._unsafe(np.ones(len(self.places), int))
        if not 0 < unsafe.sum() < len(unsafe):
            return []
        rows: list[list[float | None]] = []
        for fpr in CURVE:
            recall, n = recall_at_fpr(scores, unsafe, fpr), int(unsafe.sum())
            false = np.floor(fpr * (len(unsafe) - n))
            called = recall * n + false
            rows.append([fpr, round(recall, 4), round(recall * n / called, 4) if called else None])
        return rows

    def average_precision(self, counts: Array) -> float:
        """Return the area under the precision-recall curve of unsafe images; nan where all or none are."""
        from sklearn.metrics import average_precision_score

        scores, unsafe = self._unsafe(counts)
        return float(average_precision_score(unsafe, scores)) if 0 < unsafe.sum() < len(unsafe) else float("nan")

    def auroc(self, counts: Array) -> float:
        """Return the area under the ROC curve of unsafe images; nan where all or none are."""
        from sklearn.metrics import roc_auc_score

        scores, unsafe = self._unsafe(counts)
        return float(roc_auc_score(unsafe, scores)) if 0 < unsafe.sum() < len(unsafe) else float("nan")

    def ece(self, counts: Array) -> float:
        """Return how far scores are from being chances, the mean over categories."""
        rows = np.repeat(self.places, counts)
        scores, truth, sure = self.scores[rows], self.truth[rows], self.sure[rows]
        told = [(scores[known, k], truth[known, k]) for k, known in enumerate(sure.T) if known.any()]
        return _mean([expected_calibration_error(*one) for one in told])

    def macro_f1(self, counts: Array) -> float:
        """Return the mean F1 of the categories that are shown."""
        rows = np.repeat(self.places, counts)
        truth, said = self.truth[rows], (self.scores[rows] >= self.thresholds) & self.sure[rows]
        return _mean([f1(said[:, k], truth[:, k]) for k in np.flatnonzero(truth.any(0))])

    def map50(self, counts: Array) -> float:
        """Return the mean average precision at IoU 0.5 of the categories that have true boxes."""
        return self._map(counts, self.matches)

    def map(self, counts: Array) -> float:
        """Return the mean of that over IoU 0.5, 0.55, …, 0.95, as COCO has it."""
        return _mean([self._map(counts, matches) for matches in (self.matches, *self.stricter.values())])

    def _map(self, counts: Array, matches: Mapping[str, tuple[Array, Array, Array, Array]]) -> float:
        often = np.zeros(len(self.truth), int)
        often[self.places] = counts
        each = [
            average_precision(said, right, int((n_true * often).sum()), often[owner])
            for said, right, owner, n_true in matches.values()
        ]
        return _mean([value for value in each if not np.isnan(value)])

    def at_threshold(self, counts: Array, what: str) -> float:
        """Return what the threshold of the one category reaches: `recall`, `precision` or share of `false_positives`."""
        rows = np.repeat(self.places, counts)
        truth, said, sure = (a[:, 0] for a in (self.truth[rows], self.scores[rows] >= self.thresholds, self.sure[rows]))
        of = {"recall": truth & sure, "precision": said & sure, "false_positives": ~truth & sure}[what]
        right = truth if what == "precision" else said
        return float(right[of].mean()) if of.any() else float("nan")

    def numbers(self, resamples: int = RESAMPLES, resamples_ap: int = RESAMPLES_AP) -> dict[str, Json]:
        """Return all of these with their intervals."""
        n = len(self.places)
        told: dict[str, Json] = {
            "recall_at_fpr05": with_interval(self.recall, n, resamples=resamples),
            "f1": with_interval(self.macro_f1, n, resamples=resamples),
        }
        if self.matches:
            told["map50"] = with_interval(self.map50, n, resamples=resamples_ap)
        return told

    def more(self) -> dict[str, Json]:
        """Return what is told of all images alone, with intervals."""
        n = len(self.places)
        told: dict[str, Json] = {
            f"recall_at_fpr{round(100 * fpr):02d}": with_interval(partial(self.recall, fpr=fpr), n, resamples=RESAMPLES)
            for fpr in OTHER_FPRS
        }
        for name in ("average_precision", "auroc", "ece", *(["map"] if self.stricter else [])):
            told[name] = with_interval(getattr(self, name), n, resamples=RESAMPLES_AP if name != "map" else FEWER[1])
        return told


def _mean(values: Sequence[float]) -> float:
    return float(np.mean(values)) if values else float("nan")


def measure(
    predictions: Sequence[Prediction], policy: Policy, about: About | None, *, has_boxes: bool
) -> dict[str, Json]:
    """Return all numbers of an evaluation."""
    unsafe = [c.name for c in policy.pictured if c.name != TEXT_AREA]
    judged = Judged(
        scores=category_scores(predictions, unsafe, about),
        truth=np.array([[c in p.truth for c in unsafe] for p in predictions], bool).reshape(-1, len(unsafe)),
        sure=known(predictions, unsafe),
        thresholds=np.array([(about.thresholds if about else {}).get(c, 0.5) for c in unsafe]),
        matches={c: match_boxes(predictions, c) for c in unsafe} if has_boxes else {},
        places=np.arange(len(predictions)),
        stricter={at: {c: match_boxes(predictions, c, at) for c in unsafe} for at in STRICTER} if has_boxes else {},
    )
    parts = np.array([p.part for p in predictions])
    _, shown, told = whole(judged.scores, judged.truth, judged.sure)
    why = cannot_measure(int((shown & told).sum()), int((~shown & told).sum()))
    positives = [(judged.truth & judged.sure)[:, k].sum() for k in range(len(unsafe))]
    looked = judged.sure.sum(0)
    return {
        **judged.numbers(),
        **judged.more(),
        "curve": judged.curve(),
        # what a model scores that says everything of every image: nothing below means anything
        "always_unsafe": {
            "f1": round(_mean([2 * p / (p + n) for p, n in zip(positives, looked, strict=True) if p]), 4) if any(positives) else None,
            "precision": round(float(shown[told].mean()), 4) if told.any() else None,
        },
        "per_category": {
            category: {**judged.of(i, category).numbers(*FEWER), "positives": int(judged.truth[:, i].sum())}
            for i, category in enumerate(unsafe)
        },
        "per_slice": {
            str(part): {**judged.among(parts == part).numbers(*FEWER), "n_images": int((parts == part).sum())}
            for part in sorted(set(parts)) if part
        },
        "operating_points": {
            category: {
                "aim": about.aims[category], "threshold": round(float(judged.thresholds[i]), 4),
                **{
                    what: with_interval(partial(judged.of(i, category).at_threshold, what=what), len(predictions), resamples=FEWER[0])
                    for what in ("recall", "precision", "false_positives")
                },
            }
            for i, category in enumerate(unsafe) if about and category in about.aims
        },
        "nobody_looked": left_out(predictions, unsafe),
        "never_learned": [c for c in unsafe if about and c not in about.labels],
        "n_images": len(predictions), "n_unsafe": int(judged.truth.any(1).sum()),
        **({"cannot_measure": why} if why else {}),
        "thresholds": dict(zip(unsafe, judged.thresholds.tolist(), strict=True)),
    }  # fmt: skip
