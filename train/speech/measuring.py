"""The step `evaluate.sound`: what a speech model hears beside what people heard."""

import json
from typing import ClassVar

import numpy as np

from tilth import models
from tilth.claims import Answer
from tilth.data.where import both, one_of, quoted
from tilth.engine.steps import Facts, step
from tilth.engine.work import Work
from tilth.errors import InputError
from tilth.samples import SOUND
from tilth.train.judge.telling import Beside, tell
from tilth.train.speech.clips import cut
from tilth.train.speech.learning import heard_by, open_listener

BATCH = 32  # sounds


@step
class EvaluateSound:
    """Measure a speech model on sounds that people labelled, with intervals: recall at false-positive rates, F1, calibration.

    A sound counts as what its most suspicious clip is heard as. Scores lie beside what people said in `<step>.sounds`, a line a sound.

    Args:
        trained: A `train.speech` before this step.
        min_score: Least probability of a category that counts as said, in (0, 1].
        split: Of the dataset.
        where: Measures the samples that this condition holds for.
        slice_by: Columns by whose values it is measured again.
    """

    media: ClassVar[tuple[str, ...]] = (SOUND,)
    refers: ClassVar[tuple[str, ...]] = ("trained",)

    trained: str = "train.speech"
    min_score: float = 0.5
    split: str = "test"
    where: str = ""
    slice_by: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        """Check the threshold."""
        if not 0 < self.min_score <= 1:
            raise ValueError(f"min_score must lie in (0, 1], got {self.min_score}")

    def run(self, work: Work) -> Facts:
        """Listen to every sound of the split, and measure.

        Raises:
            InputError: No sound of the split was labelled by people, or the model hears other categories than the policy names.
        """
        import torch

        names, device = heard_by(work), models.device(work.device)
        listener, told = open_listener(work.artifact(self.trained), device)
        if tuple(told["categories"]) != names:
            raise InputError(
                f"{self.trained} hears {', '.join(told['categories'])}; the policy names {', '.join(names)}"
            )
        people = one_of("state", ("reviewed", "confirmed_empty"))
        where = both(both(f"split = {quoted(self.split)}", people), self.where)
        total = work.dataset.count(where)
        if not total:
            raise InputError(
                f"{work.name}: people labelled no sound of the split {self.split!r}; import some with split={self.split}"
            )
        work.folder.mkdir(parents=True, exist_ok=True)
        path = work.folder / "predictions.jsonl"
        beside = Beside(names=names, slice_by=self.slice_by)
        with (
            path.open("w", encoding="utf-8") as stream,
            work.events.progress(work.name, total, unit="sounds") as advance,
        ):
            for some in work.dataset.scan(where, batch_rows=BATCH):
                parts = [cut(sample, told["seconds"]) for sample in some]
                with torch.no_grad():
                    heard = torch.cat(
                        [listener(torch.tensor(np.stack(waves[i : i + BATCH]), device=device)).sigmoid().cpu()
                         for waves in ([wave for waves in parts for wave in waves],) for i in range(0, len(waves), BATCH)]
                    ).numpy()  # fmt: skip
                ends = np.cumsum([len(waves) for waves in parts])
                for sample, each in zip(some, np.split(heard, ends[:-1]), strict=True):
                    scores = dict(zip(names, map(float, each.max(0)), strict=True))
                    beside.note(sample, scores)
                    shown = sorted(sample.truth.categories)
                    line = {
                        "id": sample.id,
                        "scores": {name: round(score, 6) for name, score in scores.items()},
                        "shows": shown,
                    }
                    unasked = [name for name in names if sample.truth.of(name) is Answer.UNASKED]
                    stream.write(json.dumps({**line, **({"unasked": unasked} if unasked else {})}) + "\n")
                advance(len(some))
        work.publish(f"{work.name}.sounds", path)
        return tell(
            work,
            beside,
            self.min_score,
            sealed=f"sounds of {self.split}{' where ' * bool(self.where)}{self.where}",
            unit="sounds",
        )
