"""Prove that generated images help before they are kept: train with and without them, and let real images judge.

Each training is one of the recipe's own steps with another seed and another `max_made_ratio`; what each model says of the validation images
is kept, so that a killed step goes on with the next training. The sealed test is never opened.
"""

import shutil
from collections.abc import Iterator, Sequence
from dataclasses import field, replace
from pathlib import Path
from typing import ClassVar, Literal

import numpy as np

from tilth.claims import PEOPLE, Json, State
from tilth.data.where import STYLE, both
from tilth.engine.apply import Apply
from tilth.engine.job import batched
from tilth.engine.steps import Facts, step
from tilth.engine.work import Work
from tilth.mining.copies.hash import COLUMN, QUALITY, ensure_hashes, to_bytes
from tilth.mining.copies.listed import LEAST_QUALITY
from tilth.mining.copies.near import hash_index, neighbours
from tilth.samples import Result, Sample
from tilth.train.artifacts.artifact import About
from tilth.train.judge.calibrate import calibrate, target
from tilth.train.judge.kept import predict, read_columns
from tilth.train.judge.measure import judged, unsafe_names
from tilth.train.judge.predict import Predictor
from tilth.train.learn.classifier import TrainClassifier
from tilth.train.learn.detector import TrainDetector
from tilth.train.learn.examples import held_back, made_for, usable
from tilth.train.learn.fine_tune import STATES, FineTune, check_states
from tilth.train.measure.boxes import MIN_IOU
from tilth.train.measure.gains import Amount, choose, compare, score, too_few
from tilth.train.measure.judged import Judged
from tilth.train.measure.prediction import Target

LEAST_SEEDS = 3
COPY = 31  # bits of 256 up to which an image is a copy


@step
class Prove:
    """Keep generated images only as far as they surely help, as models that are trained with and without them say.

    Models are trained without any, and with each ratio of generated to real images, over several seeds. The ratio that gains most on the
    real validation images is kept, if the lower end of the interval of its gain is above zero, it is worse on no category and no style
    beyond noise, and hardly any image is a copy of a real one. All other generated images are dropped: all of them where nothing helps,
    or where too few labels of people could tell. Of many, those go that were judged worst. Dropped images stay in the dataset, with the
    reason.

    Args:
        classifier: How to train the classifier; null for none.
        detector: How to train the detector; null for none.
        ratios: Generated images for one real one that are tried, beside none.
        seeds: Trainings of each ratio, at least 3.
        metric: What is compared: mean_ap, the mean average precision of finding the images of each category; recall_at_fpr05;
            average_precision of unsafe images; map50, of boxes.
        states: Which real validation images judge: reviewed, confirmed_empty, auto.
        where: Condition on these images, where some matter alone, as in `style = 'neon'`; all when empty.
        max_copies: Most copies of real images among the generated ones, as a share.
    """

    decides: ClassVar[bool] = True  # anew each time where the dataset outlives runs

    classifier: TrainClassifier | None = field(default_factory=TrainClassifier)
    detector: TrainDetector | None = None
    ratios: tuple[float, ...] = (0.25, 0.5, 1.0)
    seeds: int = LEAST_SEEDS
    metric: Literal["mean_ap", "recall_at_fpr05", "average_precision", "map50"] = "mean_ap"
    states: tuple[str, ...] = ("reviewed", "confirmed_empty")
    where: str = ""
    max_copies: float = 0.001

    def __post_init__(self) -> None:
        """Check the settings."""
        if self.classifier is None and self.detector is None:
            raise ValueError("name a classifier or a detector to train")
        if self.metric == "map50" and self.detector is None:
            raise ValueError("the metric map50 needs a detector")
        if not self.ratios or min(self.ratios) <= 0 or len({*self.ratios}) < len(self.ratios):
            raise ValueError(f"ratios need at least one, each above 0 and once, got {list(self.ratios)}")
        if self.seeds < LEAST_SEEDS:
            raise ValueError(f"seeds must be at least {LEAST_SEEDS}, as fewer tell nothing of chance, got {self.seeds}")
        if not 0 <= self.max_copies <= 1:
            raise ValueError(f"max_copies must lie in [0, 1], got {self.max_copies}")
        check_states(self.states)

    def models(self) -> tuple[str, ...]:
        """Name the base models."""
        return tuple(dict.fromkeys(name for _, each in self._trained for name in each.models()))

    @property
    def _trained(self) -> list[tuple[str, FineTune]]:
        return [(kind, each) for kind, each in (("classifier", self.classifier), ("detector", self.detector)) if each]

    def run(self, work: Work) -> Facts:
        """Train what is not trained yet, compare, and decide."""
        states = [STATES[name] for name in self._trained[0][1].states]
        every = made_for(work, states)
        facts: dict[str, Json] = {"made": len(every), "metric": self.metric, "seeds": self.seeds}
        if not every:
            return {
                "kept": 0,
                "dropped": 0,
                "ratio": 0.0,
                "reason": "there is no generated image to learn from",
                **facts,
            }
        copies = self._copies(work, every)
        facts["copies"] = {"images": copies, "share": round(copies / len(every), 5), "allowed": self.max_copies}
        names = tuple(unsafe_names(work.policy))
        truth = self._truth(work, names)
        facts |= {"val_images": truth.n, "val_shown": int((truth.truth & truth.sure).any(1).sum())}
        why = too_few(truth, names, self.metric)
        if copies > self.max_copies * len(every):
            share = f"{copies / len(every):.2%}, allowed {self.max_copies:.2%}"
            why = f"{copies} of {len(every)} generated images are copies of real ones, {share}; drop them first, with adherence or dedup"
        chosen: Amount | None = None
        if not why:
            amounts, told = self._compared(work, states, names)
            chosen, why = choose(amounts, self.metric)
            facts |= told
        kept = set(every[: chosen.images] if chosen else [])
        reason = why if chosen is None else f"more than {chosen.ratio:g} for one real image helps no more"
        gone = {id_: Result(dropped=reason) for id_ in every if id_ not in kept}
        Apply.to(work, gone)
        work.events.emit("proved", step=work.name, kept=len(kept), dropped=len(gone), message=f"  {why}")
        decided: dict[str, Json] = {
            "kept": len(kept),
            "dropped": len(gone),
            "ratio": chosen.ratio if chosen else 0.0,
            "reason": why,
        }
        return {**decided, **facts}

    def _untold(self, names: Sequence[str], sample: Sample) -> tuple[str, ...]:
        """Return the categories of which nobody who counts has told whether a validation image shows them."""
        if "auto" in self.states:
            return tuple(name for name in names if not sample.truth.looked.get(name))
        return sample.truth.unasked(names, PEOPLE)  # a model is not judged by a model

    @property
    def _judges(self) -> str:
        return both(usable([STATES[name] for name in self.states]), "not made", self.where)

    def _truth(self, work: Work, names: Sequence[str]) -> Judged:
        """Return what is known of the validation images, before any model has seen them."""
        truth, sure = [], []
        for sample in work.dataset.samples(self._judges, images=False, keep=held_back):
            unknown = self._untold(names, sample)
            truth.append([name in sample.truth.categories for name in names])
            sure.append([name not in unknown for name in names])
        table = [np.array(rows, bool).reshape(-1, len(names)) for rows in (truth, sure)]
        return Judged(
            scores=np.zeros(table[0].shape), truth=table[0], sure=table[1], thresholds=np.full(len(names), 0.5)
        )

    def _targets(self, work: Work) -> Iterator[Target]:
        names = [category.name for category in work.policy.pictured]
        for sample in work.dataset.samples(self._judges, keep=held_back):
            known = target(sample, names)
            style = sample.columns.get(STYLE) or sample.origin.get("style") or sample.origin.get("step") or ""
            unasked = tuple({*known.unasked, *self._untold(names, sample)})
            yield replace(known, unasked=unasked, chances={}, part=str(style))

    def _said(self, work: Work, ratio: float, seed: int) -> Path:
        """Train with a ratio and a seed, if that is not done yet, and return what the models say of the validation images."""
        name = f"{ratio:g}-{seed}"
        folder = work.folder / name
        said = folder / "predictions.jsonl"
        if said.exists():
            return said
        own = replace(work, seed=work.seed + seed, artifacts=dict(work.artifacts))
        found: dict[str, Path] = {}
        for kind, each in self._trained:
            place = folder / kind
            place.mkdir(parents=True, exist_ok=True)
            inner = replace(own, name=f"{work.name}.{name}.{kind}", folder=place)
            replace(each, max_made_ratio=ratio).run(inner)
            found[kind] = inner.artifacts[inner.name]
        predictor = Predictor(found.get("classifier"), found.get("detector"), work.device)
        partial = folder / "predictions.partial"
        with work.events.progress(f"{work.name}.{name}: judge", None) as advance:
            predict(predictor, self._targets(work), partial, advance)
        partial.rename(said)
        for path in found.values():
            shutil.rmtree(path)  # what it says is kept, and all that is needed of it
        return said

    def _judged(self, work: Work, path: Path, names: Sequence[str]) -> tuple[Judged, list[str]]:
        """Return the scores of trained models beside the truth, calibrated as they would be served, and the style of each image."""
        about = None
        if self.classifier:
            labels = [category.name for category in work.policy.pictured]
            about = About(kind="classifier", base=self.classifier.model, labels=labels, side=0, mean=[], std=[])
            calibrate(read_columns(path, labels), about)
        said = read_columns(path, names)
        return judged(said, about, (MIN_IOU,) if self.detector else ()), said.parts

    def _compared(
        self, work: Work, states: Sequence[State], names: Sequence[str]
    ) -> tuple[list[Amount], dict[str, Json]]:
        images = {ratio: len(made_for(work, states, ratio)) for ratio in sorted(self.ratios, reverse=True)}
        tried = sorted(
            {number: ratio for ratio, number in images.items() if number}.values()
        )  # where more are not there, the least
        models: dict[float, list[Judged]] = {ratio: [] for ratio in (0.0, *tried)}
        parts: list[str] = []
        for seed in range(self.seeds):
            for ratio, each in models.items():
                one, parts = self._judged(work, self._said(work, ratio, seed), names)
                each.append(one)
        amounts = compare(models, images, names, parts, self.metric, seed=work.seed)
        scores = {f"{ratio:g}": score(each, self.metric) for ratio, each in models.items()}
        told: dict[str, Json] = {
            "tried": [0.0, *tried],
            "score_by_ratio": {ratio: round(float(np.mean(each)), 4) for ratio, each in scores.items()},
            "score_by_seed": scores,
            "images_by_ratio": {"0": 0, **{f"{one.ratio:g}": one.images for one in amounts}},
            "gain_by_ratio": {f"{one.ratio:g}": one.gain.told() for one in amounts},
            "slices_by_ratio": {f"{one.ratio:g}": {n: g.told() for n, g in one.slices.items()} for one in amounts},
        }
        return amounts, told

    @staticmethod
    def _copies(work: Work, every: Sequence[str]) -> int:
        """Count the generated images that are copies of real ones; to look like its own parent makes none."""
        ensure_hashes(work)
        clear = f"`{COLUMN}` is not null and {QUALITY} >= {LEAST_QUALITY}"
        real = [(str(a), str(b)) for a, b in work.dataset.cells("id", COLUMN, where=both(clear, "not made"))]
        if not real:
            return 0
        index, found = hash_index(to_bytes([text for _, text in real]), COPY), set[str]()
        for some in batched(work.dataset.samples(clear, ids=every, images=False), 1024):
            hashes = to_bytes([str(sample.columns[COLUMN]) for sample in some])
            for query, entry, _ in neighbours(index, hashes, COPY):
                parents = some[query].origin.get("parents")
                if not (isinstance(parents, list | tuple) and real[entry][0] in parents):
                    found.add(some[query].id)
        return len(found)
