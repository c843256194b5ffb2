"""The baseline that every loop must beat: random images, labelled by the same person with the same number of actions.

Its dataset lies in the step's own folder, so that nothing of it can leak into the loop.
"""

import json
import re
from collections.abc import Iterator
from dataclasses import field, replace
from pathlib import Path
from typing import Any, ClassVar

import numpy as np

from tilth.annotate.exchange.importing import Import
from tilth.annotate.review.reviewer import label_by_truth, read_truth
from tilth.data.dataset import Dataset
from tilth.engine.intake import Failed
from tilth.engine.steps import Facts, step
from tilth.engine.work import Work
from tilth.errors import InputError
from tilth.images import decode, image_id
from tilth.mining.cleaning.split import Split
from tilth.samples import NewSample
from tilth.sources.walk import images_in
from tilth.train.judge.calibrate import Calibrate
from tilth.train.learn.classifier import TrainClassifier
from tilth.train.learn.detector import TrainDetector


@step
class RandomEffort:
    """Label random images of the corpus from nothing until the loop's number of human actions is used up, and train.

    The person, the errors, the price of an action, the models and their settings are those of the loop; what differs is which
    images the person sees, and that no box is there to begin with.

    Args:
        labelled: The labelled images that both start from, as COCO.
        corpus: Folder that the loop mined.
        truth: What the images show.
        effort_of: Step whose human actions are matched; in rounds, those of all.
        actions: Number of actions, instead of those of a step; 0 to take the step's.
        error_rate: How often the person errs.
        classifier: How to train the classifier.
        detector: How to train the detector.
    """

    leaves: ClassVar[tuple[str, ...]] = ("random.classifier", "random.detector")

    labelled: Path
    corpus: Path
    truth: Path
    effort_of: str = "review"
    actions: int = 0
    error_rate: float = 0.02
    classifier: TrainClassifier = field(default_factory=TrainClassifier)
    detector: TrainDetector = field(default_factory=TrainDetector)

    def models(self) -> tuple[str, ...]:
        """Name the base models."""
        return (*self.classifier.models(), *self.detector.models())

    def inputs(self) -> tuple[Path, ...]:
        """Name the images and the truth."""
        return (self.labelled, self.corpus, self.truth)

    def run(self, work: Work) -> Facts:
        """Label, train and calibrate; publishes `random.classifier` and `random.detector`.

        Raises:
            InputError: Nobody counted the actions that should be matched.
        """
        told = (
            f
            for n, f in work.facts.items()
            if n == self.effort_of or re.fullmatch(rf"{re.escape(self.effort_of)}\.\d+", n)
        )
        wanted = self.actions or sum(int(str(facts.get("human_actions", 0))) for facts in told)
        if wanted < 1:
            raise InputError(
                f"{work.name}: step {self.effort_of!r} counted no human actions; name another in effort_of"
            )
        used = _Used()
        own = replace(work, dataset=Dataset(work.folder / "dataset", guard=work.dataset.guard), artifacts={}, facts={})
        import_ = Import(path=self.labelled, format="coco", empty_means="confirmed_empty")
        self._do("random.import", import_, own)
        inner = replace(own, name="random.label", folder=work.folder / "random.label")
        key = f"{self.error_rate}-{wanted}-{work.seed}"
        inner.add(key, self._labelled(inner, wanted, used))
        if not used.images:  # a resumed run labelled them before
            used = _Used(**json.loads((work.folder / "used.json").read_text()))
        (work.folder / "used.json").write_text(json.dumps(vars(used)))
        self._do("random.split", Split(), own)
        trained: dict[str, Any] = {}
        for name, each in (("random.classifier", self.classifier), ("random.detector", self.detector)):
            trained[name] = dict(self._do(name, each, own))
            work.publish(name, own.artifacts[name])
        calibration = Calibrate(classifier="random.classifier", detector="random.detector")
        trained["calibration"] = dict(self._do("random.calibrate", calibration, own))
        return {
            "human_actions": used.actions,
            "images_labelled": used.images,
            "hours": round(used.seconds / 3600, 4),
            **trained,
        }

    @staticmethod
    def _do(name: str, each: Any, own: Work) -> Facts:
        """Run a step on the dataset of this baseline."""
        folder = own.dataset.root.parent / name
        folder.mkdir(parents=True, exist_ok=True)
        # `dataset` and `artifacts` are shared, so what a step attaches or publishes is there for the next
        return dict(each.run(replace(own, name=name, folder=folder)))

    def _labelled(self, work: Work, wanted: int, used: "_Used") -> Iterator[NewSample | Failed]:
        truth = read_truth(self.truth)
        categories = tuple(c.name for c in work.policy.pictured)
        files = images_in(self.corpus)
        for place in np.random.default_rng((work.seed, 17)).permutation(len(files)):
            path = files[place]
            data = path.read_bytes()
            try:
                id_ = image_id(decode(data))
            except InputError as error:
                yield Failed(name=path.name, error=str(error))
                continue
            if id_ not in truth:
                continue
            boxes = [(category, box) for category, box in truth[id_] if category in categories]
            about = {"categories": categories, "policy": work.policy.tag}
            done = label_by_truth(id_, boxes, **about, error_rate=self.error_rate, seed=work.seed)  # type: ignore[arg-type]
            if used.actions + len(done.actions) > wanted:
                return
            used.add(len(done.actions), done.seconds)
            yield NewSample(
                data=data, origin={"source": f"{self.corpus.name}/{path.name}", "step": work.name}, claims=done.claims
            )


class _Used:
    """Counts what the person did."""

    def __init__(self, images: int = 0, actions: int = 0, seconds: float = 0.0) -> None:
        self.images, self.actions, self.seconds = images, actions, seconds

    def add(self, actions: int, seconds: float) -> None:
        """Count one image."""
        self.images += 1
        self.actions += actions
        self.seconds += seconds
