"""Fine-tune a base model on the dataset: all that a classifier and a detector have in common, which is all but the loss."""

import contextlib
import io
import shutil
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np

from tilth import models
from tilth.claims import State
from tilth.data.dataset import Dataset
from tilth.engine.cluster import Cluster
from tilth.engine.fit import Alone
from tilth.engine.steps import Facts, step
from tilth.engine.views import USUAL, Views
from tilth.engine.work import Work
from tilth.errors import InputError
from tilth.events import Advance, Events
from tilth.train.artifacts.artifact import (
    About,
    keeps_aspect,
    load_for_training,
    preprocessing,
    read_about,
    save_trained,
)
from tilth.train.learn.enough import among, too_few
from tilth.train.learn.examples import Example, Examples, forget, gather, gathered
from tilth.train.learn.lesson import Batch, Lesson, counts
from tilth.train.learn.methods import Choice, freeze, groups, keep_less, merge
from tilth.train.measure.prediction import Prediction

if TYPE_CHECKING:
    import torch

    from tilth.engine.plateau import Plateau

CHECK_EVERY = 50  # steps
SLACK = 0.04  # how far below the best quality a later model may lie and still be kept: what a few hundred images say is no nearer
LAST = 20  # steps whose mean loss is told at the end
STATES = {"reviewed": State.REVIEWED, "confirmed_empty": State.CONFIRMED_EMPTY, "auto": State.AUTO}


def check_states(names: Sequence[str]) -> None:
    """Refuse states of samples that nobody can learn from.

    Raises:
        ValueError: One is not among them.
    """
    if unknown := set(names) - set(STATES):
        raise ValueError(f"states must be among {', '.join(STATES)}, got {', '.join(sorted(unknown))}")


@dataclass(frozen=True, kw_only=True)
class Learned:
    """What a training leaves.

    Args:
        model: Not yet merged, with all that only training needed.
        lesson: That it had.
        plateau: That decided its end.
        losses: Of the steps that this process did.
        learns: Number of weights that learned.
    """

    model: Any
    lesson: Lesson
    plateau: "Plateau"
    losses: Sequence[float]
    learns: int


@step
class FineTune:
    """What every training step is made of.

    Args:
        model: Base model: a starter model, a folder or a hub id at a commit.
        steps: Optimiser steps at most; 0 for a number that fits the set. Training ends by itself when held-back images gain nothing any
            more, and keeps the last model that was not clearly worse than the best.
        start: Name of a trained model of an earlier step to go on from, which knows the same categories; `model` when empty.
        tune: Trainings of a third of the steps that look for a better rate, decay and method before the one that counts; 0 for none.
        patience: Checks without a gain, one every 50 steps, before the learning rate falls to its end; 0 takes all steps.
        batch_size: Images a step.
        lr: Peak learning rate; 0 for one that fits model and method.
        accumulate: Batches whose gradients make up one step, where memory holds no larger batch.
        processes: That learn together, each a part of every batch: one for each GPU of this machine, or of the cluster that the run is on.
        checkpointing: Compute what lies between layers twice instead of keeping it: less memory, a third more time.
        image_side: Side of the square that images are resized to; the base model's own when 0.
        aspect: Of images in that square: `stretch` them, or `keep` it, with grey beside them; `auto` as the base model was trained.
        multi_scale: Share by which that side differs from batch to batch, such as 0.25, so that things are learned in many sizes; 0 for one
            side. Takes what the model can.
        views: How far what is learned from may differ from the images.
        cache_gb: Most that decoded squares of all images may take on disk; images beyond are decoded each time they are shown.
        save_every: Steps between checkpoints, which a killed training goes on from.
        states: Which samples to learn from: reviewed, confirmed_empty, auto.
        max_made_ratio: Most generated images for one real image.
    """

    kind: ClassVar[str]
    stream: ClassVar[int]  # of random numbers, so that no two kinds draw the same batches
    weight_decay: ClassVar[float]
    clip: ClassVar[float] = 1.0
    boxes_only: ClassVar[bool] = False
    refers: ClassVar[tuple[str, ...]] = ("start",)

    model: str
    steps: int
    batch_size: int
    lr: float
    start: str = ""
    tune: int = 0
    patience: int = 4
    accumulate: int = 1
    checkpointing: bool = False
    processes: int = 1
    image_side: int = 0
    aspect: str = "auto"
    multi_scale: float = 0.0
    views: Views = USUAL
    cache_gb: float = 20.0
    save_every: int = 100
    states: tuple[str, ...] = ("reviewed", "confirmed_empty", "auto")
    max_made_ratio: float = 1.0

    def __post_init__(self) -> None:
        """Check the settings."""
        if self.steps < 0 or self.batch_size < 1 or self.accumulate < 1:
            told = f"{self.steps}, {self.batch_size} and {self.accumulate}"
            raise ValueError(f"steps must not be negative, batch_size and accumulate at least 1, got {told}")
        if self.processes < 1:
            raise ValueError(f"processes must be at least 1, got {self.processes}")
        if self.aspect not in ("auto", "keep", "stretch"):
            raise ValueError(f"aspect must be auto, keep or stretch, got {self.aspect}")
        if not 0 <= self.multi_scale <= 0.5:
            raise ValueError(f"multi_scale must lie in [0, 0.5], got {self.multi_scale}")
        if self.cache_gb < 0 or self.save_every < 1:
            told = f"{self.cache_gb} and {self.save_every}"
            raise ValueError(f"cache_gb must not be negative and save_every at least 1, got {told}")
        if self.tune < 0:
            raise ValueError(f"tune must not be negative, got {self.tune}")
        if self.patience < 0:
            raise ValueError(f"patience must not be negative, got {self.patience}")
        if not 0 <= self.lr < 1:
            raise ValueError(f"lr must lie in [0, 1), got {self.lr}")
        check_states(self.states)

    def models(self) -> tuple[str, ...]:
        """Name the base model."""
        return (self.model,)

    def choice(self) -> Choice:
        """Return what is said about how the model learns; the rest is chosen when the set is known."""
        return Choice(method="full", lr=self.lr, steps=self.steps, decay=self.weight_decay)

    def slower(self, model: Any, factor: float) -> Callable[[str], float]:
        """Return how much slower each weight learns, by its name."""
        raise NotImplementedError

    def choose(self, model: Any, rows: Sequence[Example], side: int) -> Sequence[bool]:
        """Make the model ready for what nobody looked for, and tell of each image whether it can be learned from."""
        return [True] * len(rows)

    def finish(self, model: Any) -> None:
        """Take away what only training needed."""

    def beside(self, model: Any, batch: Batch) -> dict[str, Any]:
        """Return what the model is given beside the pixels."""
        raise NotImplementedError

    def loss(self, model: Any, said: Any, batch: Batch) -> "torch.Tensor":
        """Return how wrong the model's answer to a batch is."""
        raise NotImplementedError

    def found(self, said: Any, batch: Batch, labels: Sequence[str]) -> list[Prediction]:
        """Return what the model says of a batch, beside what is known of it; boxes in parts of the view."""
        raise NotImplementedError

    def quality(self, predictions: Sequence[Prediction], labels: Sequence[str]) -> float:
        """Return how good predictions are, in [0, 1]; larger is better."""
        raise NotImplementedError

    def run(self, work: Work) -> Facts:
        """Train, or go on from the last checkpoint, and publish the model under the step's name."""
        done = work.folder / "model"
        if done.is_dir():  # a run that was killed between saving and reporting
            work.publish(work.name, done)
            return {"model": str(done), **read_about(done).trained}
        import torch

        labels = [c.name for c in work.policy.pictured]
        side, mean, std = preprocessing(self.model)
        side = self.image_side or side
        keep = keeps_aspect(self.model) if self.aspect == "auto" else self.aspect == "keep"
        states = [STATES[name] for name in self.states]
        data = gather(
            work, labels, side, states=states, max_made_ratio=self.max_made_ratio, boxes_only=self.boxes_only,
            cache_gb=self.cache_gb, keep_aspect=keep,
        )  # fmt: skip
        about = About(
            kind=self.kind,
            base=models.source(self.model),
            labels=labels,
            side=side,
            mean=mean,
            std=std,
            keep_aspect=keep,
        )
        fresh = self._fresh(work, labels)
        weights = sum(weight.numel() for weight in fresh.parameters())
        images, batch = len(data.indices(val=False)), self.batch_size * self.accumulate

        def settle(said: Choice) -> Choice:
            return said.settled(self.kind, weights, images, batch)

        thin = too_few(among((data.rows[i] for i in data.indices(val=False)), labels), negatives=not self.boxes_only)
        for label, why in thin.items():
            work.events.emit("too_few", step=work.name, category=label, message=f"  {label}: {why}")
        chosen, tuned = settle(self.choice()), dict[str, Any]()
        if self.tune:
            from tilth.train.learn.tune import tune

            if not len(data.indices(val=True)):
                raise InputError(f"{work.name}: no image is held back to judge by; add images, or set tune: 0")

            def short(how: Choice, folder: Path, noted: Callable[[int, float], None]) -> float:
                return max(self.learn(work, data, about, how, folder, noted).plateau.scores)

            chosen, tuned = tune(work, self.tune, self.choice(), settle, short)
            fresh = self._fresh(work, labels)  # drawn anew, as without a search
        learned = self.learn(work, data, about, chosen, work.folder, model=fresh)
        model, lesson, plateau, losses = learned.model, learned.lesson, learned.plateau, learned.losses
        told = {"loss": float(np.mean(losses[-LAST:])), **lesson.told} if losses else lesson.told
        ends = plateau.ends_at
        about.trained = {
            **{name: round(value, 4) for name, value in told.items()},
            **asdict(chosen),
            **counts(data, labels, ends),
            "weights": weights,
            "learns": learned.learns,
            "curve": lesson.curve,
            **tuned,
            "best_step": min(ends, (plateau.best + 1) * plateau.every) if len(lesson.val) else ends,
            **({"too_few": thin} if thin else {}),
        }
        self.finish(model)
        merge(model)
        model.to(memory_format=torch.contiguous_format)  # as files have it
        path = work.publish(work.name, save_trained(model.cpu(), about, work.folder / "model"))
        shutil.rmtree(work.folder / "checkpoint", ignore_errors=True)
        (work.folder / "curve.jsonl").unlink(missing_ok=True)
        forget(work)
        return {"model": str(path), **about.trained}

    def learn(
        self, work: Work, data: Examples, about: About, chosen: Choice, folder: Path,
        noted: Callable[[int, float], None] | None = None, model: Any = None,
    ) -> "Learned":  # fmt: skip
        """Train a fresh model, or go on from the last checkpoint.

        Args:
            work: Of the step.
            data: All examples.
            about: Of the model that will be.
            chosen: How.
            folder: Keeps checkpoint and curve.
            noted: Called at each check with the step and the score.
            model: The fresh model, where it is loaded already.
        """
        model = self.ready(work, about.labels, chosen, model)
        folder.mkdir(parents=True, exist_ok=True)
        lesson = Lesson(self, work, model, data, about, folder)
        named = [(name, weight) for name, weight in model.named_parameters() if not name.startswith("spots")]
        learns = sum(weight.numel() for _, weight in named if weight.requires_grad)
        message = "  " + chosen.told(sum(weight.numel() for _, weight in named), learns)
        work.events.emit("training", step=work.name, **asdict(chosen), message=message)
        with (
            work.events.progress(f"{work.name}: train", chosen.steps, unit="steps") as advance,
            contextlib.closing(lesson),
        ):
            if self.processes == 1:
                told = fitted(Alone(), self, lesson, chosen, folder, advance, noted)
            else:
                from tilth.train.learn.together import on_cluster, together

                about_work = {
                    "name": work.name, "policy": work.policy, "folder": work.folder, "artifacts": work.artifacts,
                    "seed": work.seed, "device": work.device,
                }  # fmt: skip
                given = (self, about_work, work.dataset.root, about, chosen, folder)
                if isinstance(work.executor, Cluster):
                    there = (self.processes, self.batch_size, fitted_there, given, folder)
                    on_cluster(work.executor.address, *there, advance)
                else:
                    together(self.processes, self.batch_size, fitted_there, given, advance)
                told = left_by(folder, model, lesson)
        return Learned(model=model, lesson=lesson, plateau=told[0], losses=told[1], learns=learns)

    def ready(self, work: Work, labels: Sequence[str], chosen: Choice, model: Any = None) -> Any:
        """Return a fresh model, loaded unless it is given, of which learns what is to learn."""
        model = model if model is not None else self._fresh(work, labels)
        freeze(model, chosen.method, labels=len(labels))
        if self.checkpointing:
            keep_less(model, self.model)
        return model

    def _fresh(self, work: Work, labels: Sequence[str]) -> Any:
        """Load the base model with a fresh head, the same each time."""
        import torch

        torch.manual_seed(work.seed)
        return load_for_training(self.kind, self._base(work, labels), labels)

    def _base(self, work: Work, labels: Sequence[str]) -> str:
        """Return where training starts: the base model, or a trained one of an earlier step.

        Raises:
            InputError: That one knows other categories.
        """
        if not self.start:
            return self.model
        folder = work.artifact(self.start)
        if read_about(folder).labels != labels:
            raise InputError(f"{work.name}: {self.start} was trained on other categories; leave start empty")
        return str(folder)


def fitted(
    place: Alone, step: FineTune, lesson: Lesson, chosen: Choice, folder: Path, advance: Advance,
    noted: Callable[[int, float], None] | None = None,
) -> "tuple[Plateau, list[float]]":  # fmt: skip
    """Let the model of a lesson learn; return what decided the end, and the losses."""
    from tilth.engine.fit import fit
    from tilth.engine.plateau import Plateau

    plateau = Plateau(
        most=chosen.steps,
        every=min(CHECK_EVERY, max(1, chosen.steps // 4)),
        patience=step.patience,
        slack=SLACK if lesson.measures else 0.0,  # a loss has no scale of its own
        warmup=min(30, max(1, chosen.steps // 10)),
    )

    def judge(averaged: "torch.nn.Module") -> float:
        score = lesson.judge(averaged, advance)
        if noted is not None:
            noted(int(lesson.curve[-1]["step"]), score)
        return score

    losses = fit(
        step.kind,
        lesson.model,
        lesson.loss_at,
        steps=chosen.steps,
        lr=chosen.lr,
        groups=groups(lesson.model, chosen.decay, step.slower(lesson.model, chosen.slower)),
        accumulate=step.accumulate,
        work=folder / "checkpoint",
        ema=0.98,
        clip=step.clip,
        seed=lesson.seed,
        save_every=step.save_every,
        plateau=plateau,
        judge=judge if len(lesson.val) else None,
        advance=advance,
        place=place,
    )
    return plateau, losses


def fitted_there(
    place: Alone, step: FineTune, about_work: Mapping[str, Any], dataset: Path, about: About, chosen: Choice, folder: Path,
    advance: Advance,
) -> None:  # fmt: skip
    """Learn in a process of its own, among others; the first leaves what it learned in `folder`."""
    import torch

    work = Work(**about_work, dataset=Dataset(dataset), events=Events(stream=io.StringIO()))

    model = step.ready(work, about.labels, chosen)
    lesson = Lesson(step, work, model, gathered(work, about.side, keep_aspect=about.keep_aspect), about, folder, place)
    with contextlib.closing(lesson):
        plateau, losses = fitted(place, step, lesson, chosen, folder, advance)
    if place.rank == 0:
        told = {"plateau": plateau.state(), "curve": lesson.curve, "told": lesson.told, "losses": losses}
        partial = folder / "learned.partial"
        torch.save({"model": model.state_dict(), "most": chosen.steps, "every": plateau.every, **told}, partial)
        partial.replace(folder / "learned.pt")


def left_by(folder: Path, model: Any, lesson: Lesson) -> "tuple[Plateau, list[float]]":
    """Take over what processes that learned together left."""
    import torch

    from tilth.engine.fit import put_back
    from tilth.engine.plateau import Plateau

    told = torch.load(folder / "learned.pt", weights_only=True)
    put_back(model, told["model"])
    plateau = Plateau(most=told["most"], every=told["every"], patience=0)
    plateau.go_on(told["plateau"])
    lesson.curve, lesson.told = told["curve"], told["told"]
    (folder / "learned.pt").unlink()
    return plateau, told["losses"]
