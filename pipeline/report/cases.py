"""Test images, one by one: what the new model catches that the one before missed, what it still gets wrong, and what it takes for what.

Both models are compared at the operating point of the headline, where 5 % of the safe images raise an alarm.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import yaml

from tilth.errors import DatasetError
from tilth.pipeline.report.pictures import MOST_IN_ROW, Album, Row, Wanted
from tilth.policy import Policy
from tilth.train.artifacts.artifact import read_about
from tilth.train.judge.kept import read_columns, read_predictions
from tilth.train.judge.measure import category_scores, unsafe_names
from tilth.train.measure.boxes import confusions
from tilth.train.measure.judged import FPR, whole
from tilth.train.measure.prediction import Array, Prediction, Predictions

SHOWN_SCORE = 0.3  # boxes below would only clutter a thumbnail
MOST_CELLS = 6  # of the confusion matrix, that pictures are shown of
SHOWN = ("evaluate.final", "evaluate.challenger")  # whose images are shown; of other recipes the last evaluation's
BEFORE = {"evaluate.baseline": "the baseline", "evaluate.champion": "the champion"}
KINDS = ("caught", "lost", "missed", "false_alarms")  # names in the summary


@dataclass(frozen=True, kw_only=True)
class Case:
    """A test image: what it shows, its slice, how far its score is above the operating point, and the category that has it."""

    id: str
    shows: tuple[str, ...]
    part: str
    alarm: float
    score: float
    said: str


@dataclass(frozen=True, kw_only=True)
class Crop:
    """A box of an image, there or seen, and the score of what is seen."""

    id: str
    xyxy: tuple[float, float, float, float]
    score: float


@dataclass(frozen=True, kw_only=True)
class Cases:
    """Test images by what became of them, most telling first.

    Args:
        found: By the names of `KINDS`.
        confused: By what is there and what is seen instead, empty for nothing; the most frequent first.
        path: Of the predictions.
        folder: Of the test images; None when they are samples of the dataset.
        before: Who the other model is; empty where there was none.
    """

    found: Mapping[str, Sequence[Case]]
    path: Path
    folder: Path | None
    before: str = ""
    confused: Mapping[tuple[str, str], Sequence[Crop]] = field(default_factory=dict)

    def counts(self) -> dict[str, int]:
        """Return the numbers for the summary."""
        return {name: len(rows) for name, rows in self.found.items()}

    def headings(self) -> dict[str, str]:
        """Say what the kinds are."""
        return {
            "caught": f"Missed by {self.before}, caught now",
            "lost": f"Caught by {self.before}, missed now",
            "missed": "Missed by both" if self.before else "Missed",
            "false_alarms": "False alarms now" if self.before else "False alarms",
        }

    def records(self, ids: Iterable[str]) -> dict[str, Prediction]:
        """Read what was said of a few images."""
        return {p.id: p for p in read_predictions(self.path, set(ids))}


@dataclass(frozen=True, kw_only=True)
class Side:
    """What one model said: its predictions, the score of each category, and the score above which an image raises an alarm."""

    path: Path
    said: Predictions
    scores: Array
    point: float

    def alarms(self) -> dict[str, float]:
        """Return how far the score of each image is above the operating point."""
        return dict(zip(self.said.ids, (self._worst() - self.point).tolist(), strict=True))

    def _worst(self) -> Array:
        return np.asarray(self.scores.max(1, initial=0))


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
    """Sort the test images by what the new model says of them, and the one before if there is one.

    Returns:
        None when the run kept no predictions that can be judged.
    """
    steps = summary.get("steps") or {}
    artifacts = {k: v for s in steps.values() for k, v in (s.get("artifacts") or {}).items()}
    settings, names = recipe_settings(run_folder), unsafe_names(policy)
    judged = [name for name in steps if f"{name}.predictions" in artifacts]
    step = next((name for name in SHOWN if name in judged), judged[-1] if judged else "")

    def side(name: str) -> Side | None:
        path = run_folder / artifacts.get(f"{name}.predictions", "absent")
        if not path.is_file():
            return None
        said = read_columns(path, names)
        classifier = artifacts.get(f"{name}.classifier") or artifacts.get(
            str(settings.get(name, {}).get("classifier") or "")
        )
        if not len(said) or (classifier is None and said.logits.any()):
            return None
        scores = category_scores(said, read_about(run_folder / classifier) if classifier else None)
        worst, unsafe, _ = whole(scores, said.truth, np.ones(said.known.shape, bool))
        return Side(path=path, said=said, scores=scores, point=operating_point(worst, unsafe))

    after = side(step)
    if after is None:
        return None
    facts = steps[step].get("facts") or {}
    other = str((facts.get("against") or {}).get("name") or next((n for n in BEFORE if n in judged and n != step), ""))
    before = side(other) if other else None
    folder = settings.get(step, {}).get("test")
    return Cases(
        found=sort_cases(before.alarms() if before else {}, after),
        path=after.path,
        folder=Path(folder) / "images" if folder else None,
        before=BEFORE.get(other, "the model before") if before else "",
        confused=most_confused(after.said, facts["box_threshold"]) if "box_threshold" in facts else {},
    )


def sort_cases(before: Mapping[str, float], after: Side) -> dict[str, list[Case]]:
    """Put each image where it belongs; with no model before, what is missed is missed by both."""
    found: dict[str, list[Case]] = {kind: [] for kind in KINDS}
    names = after.said.categories
    for place, (id_, alarm) in enumerate(after.alarms().items()):
        was, now = before.get(id_, 0.0) > 0, alarm > 0
        shows = tuple(names[k] for k in np.flatnonzero(after.said.truth[place]))
        if not shows:
            kind = "false_alarms" if now else ""
        elif now:
            kind = "caught" if before and not was else ""
        else:
            kind = "lost" if was else "missed"
        if kind:
            top = int(after.scores[place].argmax())
            score = float(after.scores[place, top])
            found[kind].append(
                Case(id=id_, shows=shows, part=after.said.parts[place], alarm=alarm, score=score, said=names[top])
            )
    for kind, rows in found.items():
        turn = -1 if kind in ("caught", "false_alarms") else 1
        rows.sort(key=lambda case: (turn * case.alarm, case.id))
    return found


def most_confused(said: Predictions, threshold: float) -> dict[tuple[str, str], list[Crop]]:
    """Return boxes of the largest cells of the confusion matrix off its diagonal, the surest or else the largest first."""
    names, cells = (*said.categories, ""), confusions(said, threshold)
    found: dict[tuple[str, str], list[Crop]] = {}
    size = (cells.xyxy[:, 2] - cells.xyxy[:, 0]) * (cells.xyxy[:, 3] - cells.xyxy[:, 1])
    for place in np.lexsort((-size, -cells.score)).tolist():
        pair = (names[cells.true[place]], names[cells.said[place]])
        if pair[0] != pair[1]:
            x0, y0, x1, y1 = cells.xyxy[place].tolist()
            id_ = said.ids[cells.owner[place]]
            found.setdefault(pair, []).append(Crop(id=id_, xyxy=(x0, y0, x1, y1), score=float(cells.score[place])))
    return dict(sorted(found.items(), key=lambda item: (-len(item[1]), item[0]))[:MOST_CELLS])


def spread(rows: Sequence[Case], most: int) -> list[Case]:
    """Pick some rows so that all categories and slices come to show, each with its most telling first."""
    groups: dict[tuple[str, ...], list[Case]] = {}
    for row in rows:
        groups.setdefault((row.shows[0] if row.shows else "", row.part), []).append(row)
    turns = [row for turn in range(most) for group in groups.values() for row in group[turn : turn + 1]]
    return turns[:most]


def picture_rows(cases: Cases, album: Album, kinds: Sequence[str]) -> tuple[Row, ...]:
    """Return a row of pictures of each of these kinds of cases."""
    headings = cases.headings()
    return _case_rows(cases, album, {headings[kind]: spread(cases.found.get(kind, ()), MOST_IN_ROW) for kind in kinds})


def category_rows(cases: Cases, album: Album, kind: str) -> tuple[Row, ...]:
    """Return a row of pictures of one kind of cases for each category."""
    groups: dict[str, list[Case]] = {}
    for case in cases.found.get(kind, ()):
        for name in case.shows:
            groups.setdefault(name.replace("_", " "), []).append(case)
    return _case_rows(cases, album, {name: spread(rows, 4) for name, rows in groups.items()})


def confused_rows(cases: Cases, album: Album) -> tuple[Row, ...]:
    """Return a row of cut-outs for each of the most frequent confusions."""
    records = cases.records(crop.id for crops in cases.confused.values() for crop in crops[:MOST_IN_ROW])
    rows = {}
    for (true, said), crops in cases.confused.items():
        title = f"{true or 'nothing'}, seen as {said or 'nothing'}".replace("_", " ")
        rows[title] = [
            _want(
                records[crop.id],
                f"{said.replace('_', ' ')} {crop.score:.2f}" if said else records[crop.id].part,
                crop.xyxy,
            )
            for crop in crops[:MOST_IN_ROW]
        ]
    return _rows(cases, album, rows)


def _case_rows(cases: Cases, album: Album, groups: Mapping[str, Sequence[Case]]) -> tuple[Row, ...]:
    records = cases.records(case.id for rows in groups.values() for case in rows)
    return _rows(
        cases,
        album,
        {title: [_want(records[case.id], _caption(case, title)) for case in rows] for title, rows in groups.items()},
    )


def _rows(cases: Cases, album: Album, groups: Mapping[str, Sequence[Wanted]]) -> tuple[Row, ...]:
    rows = []
    for title, wanted in groups.items():
        try:
            pictures = album.files(cases.folder, wanted) if cases.folder else album.pictures(wanted)
        except DatasetError:  # the test images are not in this dataset
            continue
        if pictures:
            rows.append(Row(title=title, pictures=pictures))
    return tuple(rows)


def _caption(case: Case, heading: str) -> str:
    what = (", ".join(case.shows) or "nothing unsafe").replace("_", " ")
    parts = (what if what != heading else "", case.part, f"{case.said.replace('_', ' ')} {case.score:.2f}")
    return " · ".join(part for part in parts if part)


def _want(prediction: Prediction, caption: str, around: tuple[float, float, float, float] | None = None) -> Wanted:
    marks = [{"box": b[:4], "css": "is-truth", "name": f"truth: {b[4]}"} for b in prediction.truth_boxes]
    shown = [b for b in prediction.boxes if b[4] >= SHOWN_SCORE][:5]
    wrong = "is-found" if prediction.truth else "is-wrong"
    marks += [{"box": b[:4], "css": wrong, "name": f"found: {b[5]}, {b[4]:.2f}"} for b in shown]
    return Wanted(
        id=prediction.id, file=prediction.file, caption=caption, marks=tuple(marks), categories=prediction.truth,
        around=around,
    )  # fmt: skip
