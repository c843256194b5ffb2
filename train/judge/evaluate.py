"""Judge a classifier and a detector together on images with known truth.

An image is unsafe when its truth names a picture category of the policy other than `text_area`. Its score for a category is
the probability that calibration makes of the classifier and the detector's best box, as the runtime does; when only one of
them is there, it alone counts. Its unsafe score is the largest over categories.

What nobody looked for is left out: an image counts for the categories that somebody looked for, and as a safe one only when that
were all of them.
"""

import json
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from tilth.claims import PEOPLE, Json
from tilth.engine.steps import Facts, step
from tilth.engine.work import Work
from tilth.errors import InputError
from tilth.fusion import fuse, fusions
from tilth.geometry import xywh_to_xyxy
from tilth.images import decode
from tilth.policy import Policy
from tilth.train.artifacts.artifact import About, read_about
from tilth.train.judge.metrics import (
    average_precision,
    f1,
    match_boxes,
    recall_at_fpr,
    with_interval,
)
from tilth.train.judge.predict import Prediction, Predictor, Target, known, left_out, predict

TEXT_AREA = "text_area"
FPR = 0.05
RESAMPLES, RESAMPLES_AP = 1000, 100


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


def dataset_targets(work: Work, split: str) -> Iterator[Target]:
    """Yield the reviewed samples of a split of the dataset."""
    names = [c.name for c in work.policy.pictured]
    for sample in work.dataset.samples(lambda s: s.split == split and s.state in ("reviewed", "confirmed_empty")):
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


def category_scores(
    predictions: Sequence[Prediction], categories: Sequence[str], about: About | None
) -> np.ndarray[Any, Any]:
    """Return the score of every category for every image, `(n, k)`."""
    boxes = np.array([[p.box_score(c) for c in categories] for p in predictions], float).reshape(-1, len(categories))
    if about is None:
        return boxes
    logits = np.array([[p.logits[c] for c in categories] for p in predictions], float).reshape(boxes.shape)
    detects = any(p.boxes for p in predictions)
    return fuse(logits, boxes if detects else None, fusions(about.calibration, categories))


def whole(
    scores: np.ndarray[Any, Any], truth: np.ndarray[Any, Any], sure: np.ndarray[Any, Any]
) -> tuple[np.ndarray[Any, Any], np.ndarray[Any, Any], np.ndarray[Any, Any]]:
    """Judge images as a whole: their unsafe score, whether they are unsafe, and whether that is known, each `(n,)`.

    An image with nothing unsafe among what was looked for is safe only when everything was.

    Args:
        scores: By category, `(n, k)`.
        truth: What they show, `(n, k)`.
        sure: Where that is known, `(n, k)`.
    """
    unsafe = (truth & sure).any(1)
    return np.where(sure, scores, 0.0).max(1), unsafe, unsafe | sure.all(1)


@step
class Evaluate:
    """Measure models on a sealed test folder, or on a split of the dataset.

    Args:
        test: COCO folder with the sealed images; the dataset's `split` when None.
        split: Of the dataset.
        truth: JSON lines with `file` and `style` (or whatever `slice_by` names), to report by slice.
        slice_by: Field of `truth`.
        classifier: Name of the classifier artifact; empty for none.
        detector: Name of the detector artifact; empty for none.
    """

    test: Path | None = None
    split: str = "test"
    truth: Path | None = None
    slice_by: str = "style"
    classifier: str = ""
    detector: str = ""

    def __post_init__(self) -> None:
        """Check that there is something to judge."""
        if not self.classifier and not self.detector:
            raise ValueError("name a classifier or a detector to evaluate")

    def inputs(self) -> tuple[Path, ...]:
        """Name the sealed images."""
        return tuple(p for p in (self.test and self.test / "annotations.json", self.truth) if p)

    def run(self, work: Work) -> Facts:
        """Predict, keep the predictions, and measure."""
        classifier = work.artifact(self.classifier) if self.classifier else None
        detector = work.artifact(self.detector) if self.detector else None
        names = [c.name for c in work.policy.pictured]
        targets = coco_targets(self.test, names, self._parts()) if self.test else dataset_targets(work, self.split)
        path = work.folder / "predictions.jsonl"
        with work.events.progress(work.name, None) as advance:
            predictions = predict(Predictor(classifier, detector, work.device), targets, path, advance)
        if not predictions:
            raise InputError(
                f"{work.name}: no reviewed image in split {self.split!r}; add a split step or give a test folder"
            )
        work.publish(f"{work.name}.predictions", path)
        return measure(
            predictions, work.policy, read_about(classifier) if classifier else None, has_boxes=detector is not None
        )

    def _parts(self) -> dict[str, str]:
        if self.truth is None:
            return {}
        rows = (json.loads(line) for line in self.truth.read_text().splitlines())
        return {row["file"]: str(row.get(self.slice_by, "")) for row in rows if row.get("split") == self.split}


def measure(
    predictions: Sequence[Prediction], policy: Policy, about: About | None, *, has_boxes: bool
) -> dict[str, Json]:
    """Return all numbers of an evaluation."""
    unsafe = [c.name for c in policy.pictured if c.name != TEXT_AREA]
    scores = category_scores(predictions, unsafe, about)
    truth = np.array([[c in p.truth for c in unsafe] for p in predictions], bool).reshape(-1, len(unsafe))
    sure = known(predictions, unsafe)
    thresholds = np.array([(about.thresholds if about else {}).get(c, 0.5) for c in unsafe])
    parts = np.array([p.part for p in predictions])
    matches = {c: match_boxes(predictions, c) for c in unsafe} if has_boxes else {}

    def numbers(
        inside: np.ndarray[Any, Any], resamples: int = RESAMPLES, resamples_ap: int = RESAMPLES_AP
    ) -> dict[str, Json]:
        return _numbers(scores, truth, sure, thresholds, matches, inside.astype(int), resamples, resamples_ap)

    everything = np.ones(len(predictions), bool)
    per_category: dict[str, Json] = {}
    for i, category in enumerate(unsafe):
        own = {category: matches[category]} if matches else {}
        kept = slice(i, i + 1)
        per_category[category] = {
            **_numbers(
                scores[:, kept], truth[:, kept], sure[:, kept], thresholds[kept], own, everything.astype(int), 200, 50
            ),
            "positives": int(truth[:, i].sum()),
        }
    return {
        **numbers(everything), "per_category": per_category,
        "per_slice": {
            str(part): {**numbers(parts == part, 200, 50), "n_images": int((parts == part).sum())}
            for part in sorted(set(parts)) if part
        },
        "nobody_looked": left_out(predictions, unsafe),
        "n_images": len(predictions), "n_unsafe": int(truth.any(1).sum()),
        "thresholds": dict(zip(unsafe, thresholds.tolist(), strict=True)),
    }  # fmt: skip


def _numbers(
    scores: np.ndarray[Any, Any], truth: np.ndarray[Any, Any], sure: np.ndarray[Any, Any], thresholds: np.ndarray[Any, Any],
    matches: dict[str, Any], inside: np.ndarray[Any, Any], resamples: int, resamples_ap: int,
) -> dict[str, Json]:  # fmt: skip
    """Return recall at 5 % false positives, macro F1 and mAP50 of the images inside, with intervals."""
    places = np.flatnonzero(inside)
    worst, unsafe, judged = whole(scores, truth, sure)

    def spread(counts: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
        return np.repeat(places, counts)

    def recall(counts: np.ndarray[Any, Any]) -> float:
        rows = spread(counts)
        rows = rows[judged[rows]]
        return recall_at_fpr(worst[rows], unsafe[rows], FPR)

    def macro_f1(counts: np.ndarray[Any, Any]) -> float:
        rows = spread(counts)
        shown = [k for k in range(truth.shape[1]) if truth[rows, k].any()]
        each = [f1((scores[rows, k] >= thresholds[k]) & sure[rows, k], truth[rows, k]) for k in shown]
        return float(np.mean(each)) if each else float("nan")

    def map50(counts: np.ndarray[Any, Any]) -> float:
        often = np.zeros(len(truth), int)
        often[places] = counts
        each = [
            average_precision(said, right, int((n_true * often).sum()), often[owner])
            for said, right, owner, n_true in matches.values()
        ]
        each = [v for v in each if not np.isnan(v)]
        return float(np.mean(each)) if each else float("nan")

    told: dict[str, Json] = {
        "recall_at_fpr05": with_interval(recall, len(places), resamples=resamples),
        "f1": with_interval(macro_f1, len(places), resamples=resamples),
    }
    if matches:
        told["map50"] = with_interval(map50, len(places), resamples=resamples_ap)
    return told
