"""What is told of a model that was asked about samples of any kind, texts or sounds: all numbers, by category and by slice."""

from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np

from tilth.claims import Answer
from tilth.engine.steps import Facts
from tilth.engine.work import Work
from tilth.samples import Sample
from tilth.train.judge.testsets import cannot_measure, opened
from tilth.train.measure.judged import Judged, whole


@dataclass(kw_only=True)
class Beside:
    """Scores beside what people said, gathered sample by sample.

    Args:
        names: Of the categories.
        slice_by: Columns by whose values it is told again.
    """

    names: tuple[str, ...]
    slice_by: tuple[str, ...]
    scores: list[list[float]] = field(default_factory=list)
    truth: list[list[bool]] = field(default_factory=list)
    sure: list[list[bool]] = field(default_factory=list)
    slices: list[list[str]] = field(default_factory=list)

    def note(self, sample: Sample, scores: Mapping[str, object]) -> None:
        """Note what a model scores a sample by category, beside its truth."""
        answers = [sample.truth.of(name) for name in self.names]
        self.scores.append([float(str(scores.get(name, 0.0))) for name in self.names])
        self.truth.append([answer is Answer.PRESENT for answer in answers])
        self.sure.append([answer is not Answer.UNASKED for answer in answers])
        self.slices.append([str(sample.columns.get(column) or "") for column in self.slice_by])


def tell(work: Work, beside: Beside, min_score: float, *, sealed: str, unit: str) -> Facts:
    """Return every number of what was gathered, and note that the sealed set was opened.

    Args:
        work: Of the step.
        beside: What was gathered; at least one sample.
        min_score: A score of at least this says a category.
        sealed: Which set it was.
        unit: What the samples are called, such as `texts`.
    """
    names, slice_by = beside.names, beside.slice_by
    judged = Judged(
        scores=np.array(beside.scores),
        truth=np.array(beside.truth),
        sure=np.array(beside.sure),
        thresholds=np.full(len(names), min_score),
    )
    _, unsafe, known = whole(judged.scores, judged.truth, judged.sure)
    why = cannot_measure(int((unsafe & known).sum()), int((~unsafe & known).sum()))
    parts = np.array(beside.slices, object).reshape(len(beside.slices), len(slice_by))
    times = opened(work.dataset.root, sealed, "/".join(work.folder.resolve().parts[-4:]), work.now())
    return {
        **judged.all_numbers(),
        "curve": judged.curve(),
        "pr_curve": judged.precisions(),
        "per_category": {
            name: {**one.numbers(), "pr_curve": one.precisions(), "positives": one.positives}
            for k, name in enumerate(names)
            if (one := judged.of(k))
        },
        "per_slice": {
            f"{column}: {value or 'not said'}": {**one.numbers(), f"n_{unit}": one.n, "positives": one.positives}
            for n, column in enumerate(slice_by)
            for value in sorted(set(parts[:, n]))
            if (one := judged.among(np.array(parts[:, n] == value, bool))) and len(set(parts[:, n])) > 1
        },
        f"n_{unit}": len(beside.scores),
        "n_unsafe": int(unsafe.sum()),
        "test_opened": times,
        **({"cannot_measure": why} if why else {}),
    }
