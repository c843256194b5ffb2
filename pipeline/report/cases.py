"""Test images, one by one: what the final model catches that the baseline missed, and what it still gets wrong.

Both models are compared at the operating point of the headline, where 5 % of the safe images raise an alarm.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import yaml

from tilth.errors import DatasetError
from tilth.pipeline.report.pictures import MOST_IN_ROW, Album, Row, Wanted
from tilth.policy import Policy
from tilth.train.artifacts.artifact import read_about
from tilth.train.judge.evaluate import FPR, TEXT_AREA, category_scores
from tilth.train.judge.predict import read_predictions
from tilth.train.measure.prediction import Prediction

SHOWN_SCORE = 0.3  # boxes below would only clutter a thumbnail
KINDS = {  # name in the summary -> heading
    "caught": "Missed by the baseline, caught now",
    "lost": "Caught by the baseline, missed now",
    "missed": "Missed by both",
    "false_alarms": "False alarms now",
}


@dataclass(frozen=True, kw_only=True)
class Cases:
    """Predictions of the final model by what became of their image, most telling first.

    Args:
        found: By the names of `KINDS`.
        folder: Of the test images; None when they are samples of the dataset.
        compared: Whether there was a baseline.
    """

    found: Mapping[str, Sequence[Prediction]]
    folder: Path | None
    compared: bool = True

    def counts(self) -> dict[str, int]:
        """Return the numbers for the summary."""
        return {name: len(rows) for name, rows in self.found.items()}


@dataclass(frozen=True, kw_only=True)
class Side:
    """What one model said: `alarm` is how far the score of an image is above the operating point."""

    rows: Mapping[str, Prediction]
    alarm: Mapping[str, float]


def operating_point(scores: npt.NDArray[Any], unsafe: npt.NDArray[Any]) -> float:
    """Return the score above which an image raises an alarm, as `recall_at_fpr` draws it."""
    safe = np.sort(scores[~unsafe])[::-1]
    allowed = int(np.floor(FPR * len(safe)))
    return float(safe[allowed]) if allowed < len(safe) else -np.inf


def recipe_settings(run_folder: Path) -> dict[str, dict[str, Any]]:
    """Return the settings of each step by its name in the recipe."""
    path = run_folder / "recipe.yaml"
    document = yaml.safe_load(path.read_text(encoding="utf-8")) if path.exists() else {}
    found: dict[str, dict[str, Any]] = {}
    for entry in document.get("steps") or []:
        for name, settings in entry.items() if isinstance(entry, dict) else [(entry, {})]:
            if name != "as":
                found[str(entry.get("as", name)) if isinstance(entry, dict) else str(name)] = settings or {}
    return found


def read_cases(run_folder: Path, summary: Mapping[str, Any], policy: Policy) -> Cases | None:
    """Sort the test images by what the final model says of them, and the baseline if there is one.

    Returns:
        None when the run kept no predictions of a final model.
    """
    artifacts = {k: v for s in (summary.get("steps") or {}).values() for k, v in (s.get("artifacts") or {}).items()}
    settings = recipe_settings(run_folder)
    names = [c.name for c in policy.pictured if c.name != TEXT_AREA]

    def side(step: str) -> Side | None:
        path = run_folder / artifacts.get(f"{step}.predictions", "absent")
        if not path.is_file():
            return None
        predictions = list(read_predictions(path))
        classifier = artifacts.get(str(settings.get(step, {}).get("classifier") or ""))
        if not predictions or (classifier is None and any(p.logits for p in predictions)):
            return None
        about = read_about(run_folder / classifier) if classifier else None
        scores = category_scores(predictions, names, about).max(1, initial=0)
        unsafe = np.array([bool(set(p.truth) & set(names)) for p in predictions])
        above = scores - operating_point(scores, unsafe)
        return Side(
            rows={p.id: p for p in predictions}, alarm={p.id: float(a) for p, a in zip(predictions, above, strict=True)}
        )

    after = side("evaluate.final")
    if after is None:
        return None
    folder = settings.get("evaluate.final", {}).get("test")
    before = side("evaluate.baseline")
    found = sort_cases(before, after, names)
    return Cases(found=found, folder=Path(folder) / "images" if folder else None, compared=before is not None)


def sort_cases(before: Side | None, after: Side, names: Sequence[str]) -> dict[str, list[Prediction]]:
    """Put each image where it belongs; with no baseline, what is missed is missed by both."""
    found: dict[str, list[Prediction]] = {kind: [] for kind in KINDS}
    for id_, prediction in after.rows.items():
        was, now = before is not None and before.alarm.get(id_, 0.0) > 0, after.alarm[id_] > 0
        if not set(prediction.truth) & set(names):
            kind = "false_alarms" if now else ""
        elif now:
            kind = "caught" if before is not None and not was else ""
        else:
            kind = "lost" if was else "missed"
        if kind:
            found[kind].append(prediction)
    for kind, rows in found.items():
        turn = -1 if kind in ("caught", "false_alarms") else 1
        rows.sort(key=lambda p: (turn * after.alarm[p.id], p.id))
    return found


def spread(rows: Sequence[Prediction], most: int) -> list[Prediction]:
    """Pick some rows so that all categories and slices come to show, each with its most telling first."""
    groups: dict[tuple[str, ...], list[Prediction]] = {}
    for row in rows:
        groups.setdefault((row.truth[0] if row.truth else "", row.part), []).append(row)
    turns = [row for turn in range(most) for group in groups.values() for row in group[turn : turn + 1]]
    return turns[:most]


def picture_rows(cases: Cases, album: Album, kinds: Sequence[str]) -> tuple[Row, ...]:
    """Return a row of pictures of each of these kinds of cases."""
    headings = KINDS if cases.compared else {**KINDS, "missed": "Missed"}
    groups = {headings[kind]: spread(cases.found.get(kind, ()), MOST_IN_ROW) for kind in kinds}
    return _rows(cases, album, groups)


def category_rows(cases: Cases, album: Album, kind: str, names: Sequence[str]) -> tuple[Row, ...]:
    """Return a row of pictures of one kind of cases for each category."""
    groups = {name: [p for p in cases.found.get(kind, ()) if name in p.truth] for name in names}
    return _rows(cases, album, {name.replace("_", " "): spread(rows, 4) for name, rows in groups.items()})


def _rows(cases: Cases, album: Album, groups: Mapping[str, Sequence[Prediction]]) -> tuple[Row, ...]:
    rows = []
    for title, predictions in groups.items():
        wanted = [_want(p, title) for p in predictions]
        try:
            pictures = album.files(cases.folder, wanted) if cases.folder else album.pictures(wanted)
        except DatasetError:  # the test images are not in this dataset
            continue
        if pictures:
            rows.append(Row(title=title, pictures=pictures))
    return tuple(rows)


def _want(prediction: Prediction, heading: str) -> Wanted:
    marks = [{"box": b[:4], "css": "is-truth", "name": f"truth: {b[4]}"} for b in prediction.truth_boxes]
    shown = [b for b in prediction.boxes if b[4] >= SHOWN_SCORE][:5]
    wrong = "is-found" if prediction.truth else "is-wrong"
    marks += [{"box": b[:4], "css": wrong, "name": f"found: {b[5]}, {b[4]:.2f}"} for b in shown]
    what = (", ".join(prediction.truth) or "nothing unsafe").replace("_", " ")
    caption = " · ".join(part for part in (what if what != heading else "", prediction.part) if part)
    return Wanted(
        id=prediction.id, file=prediction.file, caption=caption, marks=tuple(marks), categories=prediction.truth
    )
