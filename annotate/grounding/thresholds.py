"""The step `thresholds`: a score threshold for every category, learned from what people reviewed, and applied to the rest.

Grounding keeps all that it saw above a floor, so every threshold can be tried on the reviewed images without the model.
"""

import json
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, cast

import numpy as np
import numpy.typing as npt

from tilth.annotate.boxes.clean import CleanUp, clean
from tilth.annotate.boxes.decide import FLOOR, Decide
from tilth.claims import PEOPLE, Json, State
from tilth.data.dataset import Dataset
from tilth.data.files import write_beside
from tilth.data.where import both, one_of, open_to_models, quoted
from tilth.engine.steps import Facts, step
from tilth.engine.work import Work
from tilth.errors import InputError
from tilth.geometry import iou
from tilth.samples import Sample

Array = npt.NDArray[Any]
RESAMPLES = 200
RIGHT_IOU = 0.5
USUAL = 0.3  # where nothing tells what the detector's step had


@dataclass(frozen=True, kw_only=True)
class Boxes:
    """Automatic boxes of one category in reviewed images.

    Args:
        scores: `(n,)`.
        right: Whether each has a true box of its own, `(n,)`.
        image: Which image each is of, `(n,)`.
        true: True boxes of each image, `(images,)`.
        left_out: Images of which people were not asked for it; they have no box here.
    """

    scores: Array
    right: Array
    image: Array
    true: Array
    left_out: int = 0

    def drawn(self, times: Array) -> tuple[Array, Array, Array, float]:
        """Return scores, hits and weights of the boxes, and the number of true ones, when images count so often."""
        return self.scores, self.right, times[self.image].astype(float), float((self.true * times).sum())


def choose(scores: Array, right: Array, weight: Array, n_true: float, precision: float) -> float | None:
    """Return the threshold of best F1; or, asked for a precision, the lowest that reaches it; None when none does.

    >>> scores, right = np.array([0.9, 0.8, 0.4, 0.3]), np.array([True, True, False, True])
    >>> choose(scores, right, np.ones(4), 3, 0.0), choose(scores, right, np.ones(4), 3, 0.9)
    (0.3, 0.8)
    """
    order = np.argsort(-scores, kind="stable")
    kept = np.cumsum(weight[order])
    hits = np.cumsum((right * weight)[order])
    last = np.append(np.diff(scores[order]) != 0, True)  # equal scores stand or fall together
    good = last & (kept > 0)
    if not good.any() or n_true == 0:
        return None
    values = np.where(good, 2 * hits / np.maximum(kept + n_true, 1e-9), -1.0)
    if precision:
        reaches = good & (hits >= precision * kept)
        return float(scores[order][np.flatnonzero(reaches)[-1]]) if reaches.any() else None
    return float(scores[order][int(values.argmax())])


def judged(boxes: Boxes, threshold: float, times: Array) -> tuple[float, float]:
    """Return precision and recall at a threshold; nan where nothing can be said."""
    scores, right, weight, n_true = boxes.drawn(times)
    kept = weight * (scores >= threshold)
    hits = float((kept * right).sum())
    return hits / kept.sum() if kept.sum() else float("nan"), hits / n_true if n_true else float("nan")


def calibrate(boxes: Boxes, *, precision: float, default: float, least: int, seed: int) -> dict[str, Json]:
    """Choose the threshold of one category, with 95 % intervals from bootstraps over images.

    Args:
        boxes: What is known of it.
        precision: Asked for; 0 for best F1.
        default: Used when there are fewer than `least` true or automatic boxes, or no threshold reaches the precision.
        least: See above.
        seed: Of the bootstraps.
    """
    ones = np.ones(len(boxes.true), int)
    n_true, n_boxes = int(boxes.true.sum()), len(boxes.scores)
    told: dict[str, Json] = {"true_boxes": n_true, "boxes": n_boxes, "images_left_out": boxes.left_out}
    told |= {"threshold": default, "why": "calibrated"}
    if min(n_true, n_boxes) < least:
        return {**told, "why": f"default: fewer than {least} boxes"}
    chosen = choose(*boxes.drawn(ones), precision)
    if chosen is None:
        return {**told, "why": f"default: no threshold reaches precision {precision:g}"}
    # rounded down, or the box that set it would fall below it
    chosen = float(np.floor(max(FLOOR, chosen) * 1e4) / 1e4)
    rng = np.random.default_rng(seed)
    rows = []
    for _ in range(RESAMPLES):
        times = np.bincount(rng.integers(0, len(ones), len(ones)), minlength=len(ones))
        again = choose(*boxes.drawn(times), precision)
        rows.append((np.nan if again is None else again, *judged(boxes, chosen, times)))
    low, high = np.nanpercentile(np.array(rows), [2.5, 97.5], axis=0).round(4).tolist()
    value = judged(boxes, chosen, ones)
    told |= {"threshold": chosen, "threshold_ci95": [low[0], high[0]]}
    for place, name in ((0, "precision"), (1, "recall")):
        told[name] = {"mean": round(value[place], 4), "ci95": [low[place + 1], high[place + 1]]}
    return told


def gather(samples: Iterable[Sample], name: str, categories: Sequence[str], rules: CleanUp) -> dict[str, Boxes]:
    """Compare what step `name` saw in reviewed images with what people said of the categories that they were asked for."""
    rows: dict[str, list[tuple[float, bool, int]]] = {category: [] for category in categories}
    true: dict[str, list[int]] = {category: [] for category in categories}
    left_out = Counter[str]()
    for place, sample in enumerate(samples):
        truth = sample.truth
        unasked = truth.unasked(categories, PEOPLE)
        left_out.update(unasked)
        labels = [label for label in truth.labels if label.box_xyxy is not None and label.category not in unasked]
        for category in categories:
            true[category].append(sum(label.category == category for label in labels))
        seen = cast("list[list[Any]]", sample.columns[f"{name}.seen"])
        boxes = np.array([row[4:8] for row in seen], np.float64).reshape(-1, 4)
        classes = [row[1] or f"not: {row[0]}" for row in seen]
        free = list(labels)
        for index in clean(boxes, np.array([row[3] for row in seen]), classes, sample.size_wh, rules).kept:
            if classes[index] not in rows or classes[index] in unasked:
                continue
            same = [label for label in free if label.category == classes[index]]
            overlaps = iou(boxes[index : index + 1], np.array([label.box_xyxy for label in same]).reshape(-1, 4))[0]
            hit = len(same) > 0 and bool(overlaps.max() >= RIGHT_IOU)
            if hit:
                free.remove(same[int(overlaps.argmax())])
            rows[classes[index]].append((float(seen[index][3]), hit, place))
    return {
        category: Boxes(
            scores=np.array([row[0] for row in found]),
            right=np.array([row[1] for row in found], bool),
            image=np.array([row[2] for row in found], int),
            true=np.array(true[category], int),
            left_out=left_out[category],
        )
        for category, found in rows.items()
    }


def read_thresholds(path: Path) -> dict[str, float]:
    """Read the thresholds that an earlier run learned.

    Raises:
        InputError: The file is not of this step.
    """
    try:
        rows = json.loads(path.read_text(encoding="utf-8"))["categories"]
        return {str(name): float(row["threshold"]) for name, row in rows.items()}
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise InputError(f"{path}: not a file that the step 'thresholds' wrote: {error!r}") from error


@step
class Thresholds:
    """Choose a score threshold for every category from reviewed images, and apply them to what nobody reviewed.

    Put it after `review`. The thresholds are published under the step's name as `thresholds.json`, which a later `ground`
    takes as `calibrated`. No model runs.

    Args:
        of: The `ground` step whose scores are judged.
        precision: Asked for; the lowest threshold that reaches it is taken. 0 takes the best F1.
        default: Threshold of a category of which too little is known; what the `ground` step had when None.
        least: True and automatic boxes that a category needs.
        audit_only: Learn from the random part of the review alone. The rest was reviewed for being doubtful, and thresholds
            that fit it are too strict for what is left.
        apply: Decide again about the images that nobody reviewed.
        clean_up: Rules for boxes, as in `ground`.
    """

    of: str = "ground"
    precision: float = 0.0
    default: float | None = None
    least: int = 10
    audit_only: bool = True
    apply: bool = True
    clean_up: CleanUp = field(default_factory=CleanUp)

    def __post_init__(self) -> None:
        """Check the numbers."""
        if not 0 <= self.precision <= 1:
            raise ValueError(f"precision must lie in [0, 1], got {self.precision}")
        if self.default is not None and not FLOOR <= self.default <= 1:
            raise ValueError(f"default must lie in [{FLOOR}, 1], got {self.default}")

    def run(self, work: Work) -> Facts:
        """Learn, publish, and decide.

        Raises:
            InputError: No step of that name has seen any image.
        """
        categories = [category.name for category in work.policy.pictured]
        asked = work.dataset.count(f"`{self.of}.seen` is not null")
        if not asked:
            raise InputError(f"{work.name}: no image has a column {self.of}.seen; name the ground step in 'of'")
        found = gather(
            work.dataset.samples(self._reviewed(work.dataset), images=False), self.of, categories, self.clean_up
        )
        base, single = self._had(work)
        rows: dict[str, Mapping[str, Json]] = {
            category: calibrate(
                boxes,
                precision=self.precision,
                default=single.get(category, base),
                least=self.least,
                seed=work.seed,
            )
            for category, boxes in found.items()
        }
        path = work.folder / "thresholds.json"
        path.parent.mkdir(parents=True, exist_ok=True)
        write_beside(path, json.dumps({"of": self.of, "precision": self.precision, "categories": rows}, indent=1))
        work.publish(work.name, path)
        images = max((len(b.true) for b in found.values()), default=0)
        facts: dict[str, Json] = {"images": images, "categories": rows}
        if not images and self.default is None:  # to decide again would undo a second opinion, and for nothing
            which = "the random part of a review (see audit_only)" if self.audit_only else "a review"
            message = f"  nothing to learn from: people have labelled no image of {which}; all boxes stay as they are"
            work.events.emit("no_reviews", step=work.name, message=message)
        elif self.apply:
            facts |= self._apply(work, read_thresholds(path), base)
        return facts

    def _reviewed(self, dataset: Dataset) -> str:
        """Return the condition on images that people have labelled."""
        audits = [f"`{name}` = 'audit'" for name in dataset.measured() if name.endswith(".why")]
        return both(
            f"`{self.of}.seen` is not null and array_has(kinds, 'human') and split != 'test'",
            one_of("state", (State.REVIEWED, State.CONFIRMED_EMPTY)),
            (" or ".join(audits) or "false") if self.audit_only else "",
        )

    def _had(self, work: Work) -> tuple[float, dict[str, float]]:
        """Return the threshold for what too little is known of, and those of single categories."""
        if self.default is not None:
            return self.default, {}
        told = cast("dict[str, Any]", work.facts.get(self.of, {}))
        return float(told.get("threshold", USUAL)), dict(told.get("thresholds", {}))

    def _apply(self, work: Work, thresholds: dict[str, float], base: float) -> dict[str, Json]:
        by = f"{self.of}.by"
        wanted = both(f"`{by}` is not null and split != 'test'", open_to_models(thresholds))
        before = _labels(work.dataset, wanted)
        for source in sorted(str(source) for (source,) in work.dataset.tally(by, where=wanted)):
            decide = Decide(
                name=self.of,
                source=source,
                asked="",
                threshold=base,
                thresholds=thresholds,
                rules=self.clean_up,
            )
            work.map(decide, both(wanted, f"`{by}` = {quoted(source)}"), on="claims")
        return {"boxes_before": before, "boxes_after": _labels(work.dataset, wanted)}


def _labels(dataset: Dataset, where: str) -> int:
    return sum(int(str(labels)) * count for (labels,), count in dataset.tally("labels", where=where).items())
