"""Judge a classifier and a detector together on images with known truth.

An image is unsafe when its truth names a picture category of the policy that is no signpost. Its score for a category is
the probability that calibration makes of the classifier and the detector's best box, as the runtime does; when only one of
them is there, it alone counts. Its unsafe score is the largest over categories.

What nobody looked for is left out: an image counts for the categories that somebody looked for, and as a safe one only when that
were all of them.
"""

import json
from pathlib import Path
from typing import ClassVar

from tilth.claims import Json
from tilth.engine.steps import Facts, inputs_digest, step
from tilth.engine.work import Work
from tilth.errors import InputError
from tilth.train.artifacts.artifact import About, read_about
from tilth.train.judge.compare import Pair
from tilth.train.judge.kept import predict, read_columns
from tilth.train.judge.measure import measure, unsafe_names
from tilth.train.judge.predict import Asked, Predictor
from tilth.train.judge.testsets import coco_targets, dataset_targets, opened
from tilth.train.measure.boxes import MIN_IOU

ANY_BOX = 0.5  # score from which on boxes are shown, of a detector of which calibration did not say


@step
class Tested:
    """Measure on a sealed test folder, or on a split of the dataset.

    Args:
        test: COCO folder with the sealed images; the dataset's `split` when None.
        split: Of the dataset.
        truth: JSON lines with `file` and `style` (or whatever `slice_by` names), to report by slice; images of the dataset are reported by
            the step that brought them in.
        slice_by: Field of `truth`.
        against: Name of an earlier evaluation, to be compared with on the images that both judge; empty for none.
    """

    test: Path | None = None
    split: str = "test"
    truth: Path | None = None
    slice_by: str = "style"
    against: str = ""

    def inputs(self) -> tuple[Path, ...]:
        """Name the sealed images."""
        return tuple(p for p in (self.test and self.test / "annotations.json", self.truth) if p)

    def judge(self, work: Work, predictor: Asked, about: About | None, box_threshold: float | None) -> dict[str, Json]:
        """Predict, keep the predictions, and measure.

        Args:
            work: The surroundings.
            predictor: Says logits and boxes of images.
            about: What is known of the classifier, which is published as `<step>.classifier`; None for none.
            box_threshold: Score from which on boxes are shown; None without a detector.

        Raises:
            InputError: There is no image to judge by.
        """
        names = [c.name for c in work.policy.pictured]
        if self.against and self._there(work):
            work.artifact(f"{self.against}.predictions")  # missed now and not when all is predicted
        targets = coco_targets(self.test, names, self._parts()) if self.test else dataset_targets(work, self.split)
        path = work.folder / "predictions.jsonl"
        with work.events.progress(work.name, None) as advance:
            ids = predict(predictor, targets, path, advance)
        if not ids:
            raise InputError(
                f"{work.name}: no reviewed image in split {self.split!r}; add a split step or give a test folder"
            )
        work.publish(f"{work.name}.predictions", path)
        sealed = inputs_digest([self.test / "annotations.json"]) if self.test else f"split {self.split}"
        times = opened(work.dataset.root, sealed, "/".join(work.folder.resolve().parts[-4:]), work.now())
        predictions = read_columns(path, unsafe_names(work.policy), ids)
        facts = measure(predictions, work.policy, about, box_threshold=box_threshold)
        facts |= {"sliced_by": self.slice_by if self.test else "source", "test_opened": times}
        return {**facts, **({"against": self._compared(work, about is not None)} if self.against else {})}

    def _there(self, work: Work) -> bool:
        """Whether what it is compared with was judged, and not a champion that there is not yet."""
        return work.facts.get(self.against, {}).get("bundle", "") is not None

    def _compared(self, work: Work, classifies: bool) -> dict[str, Json]:
        if not self._there(work):
            return {"name": self.against, "said": "nothing was in use yet to be compared with"}
        before, now = f"{self.against}.classifier", f"{work.name}.classifier"
        old = (self.against, before if before in work.artifacts else "")
        pair = Pair.read(work, old, (work.name, now if classifies else ""), (MIN_IOU,))
        return {"name": self.against, **pair.told(work.seed)}

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

    refers: ClassVar[tuple[str, ...]] = ("classifier", "detector", "against")

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
        threshold = None if detector is None else read_about(detector).score_threshold or ANY_BOX
        work.artifacts.pop(f"{work.name}.classifier", None)  # of an evaluation of this name before
        if classifier:
            work.publish(f"{work.name}.classifier", classifier)
        return self.judge(work, predictor, read_about(classifier) if classifier else None, threshold)
