"""Fine-tune a base model on the dataset: all that a classifier and a detector have in common, which is all but the loss."""

import json
import shutil
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np

from tilth import models
from tilth.claims import PEOPLE, State
from tilth.data.files import write_beside
from tilth.engine.steps import Facts, step
from tilth.engine.work import Work
from tilth.errors import InputError
from tilth.events import Advance
from tilth.train.artifacts.artifact import (
    About,
    any_size,
    load_for_training,
    normalise,
    preprocessing,
    read_about,
    save_trained,
)
from tilth.train.learn.enough import among, too_few
from tilth.train.learn.examples import Example, Examples, doubtful, drawn, gather
from tilth.train.learn.methods import Choice, freeze, groups, keep_less, merge
from tilth.train.measure.prediction import Prediction

if TYPE_CHECKING:
    import torch

MOST_VAL = 256  # held-back images that are looked at while training
CHECK_EVERY = 50  # steps
ENOUGH = 20  # labels on held-back images, from which on what the model finds says more than its loss
PEOPLE_DRAWN = 4.0  # times as often as others are images drawn that people looked at
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
class Batch:
    """What one step learns from: a random view of each of n images.

    Args:
        pixels: `(n, 3, h, w)`, as the model takes them.
        rows: What is known of each image.
        boxes: Its boxes in the view, `(k, 4)` xyxy in parts of its side.
        seen: Which of them are still in view.
    """

    pixels: "torch.Tensor"
    rows: Sequence[Example]
    boxes: "Sequence[np.ndarray[Any, Any]]"
    seen: "Sequence[np.ndarray[Any, Any]]"


@step
class FineTune:
    """What every training step is made of.

    Args:
        model: Base model: a starter model, a folder or a hub id at a commit.
        steps: Optimiser steps at most; 0 for a number that fits the set. Training ends by itself when held-back images gain nothing any
            more, and keeps the last model that was not clearly worse than the best.
        start: Name of a trained model of an earlier step to go on from, which knows the same categories; `model` when empty.
        patience: Checks without a gain, one every 50 steps, before the learning rate falls to its end; 0 takes all steps.
        batch_size: Images a step.
        lr: Peak learning rate; 0 for one that fits model and method.
        accumulate: Batches whose gradients make up one step, where memory holds no larger batch.
        checkpointing: Compute what lies between layers twice instead of keeping it: less memory, a third more time.
        image_side: Side of the square that images are resized to; the base model's own when 0.
        states: Which samples to learn from: reviewed, confirmed_empty, auto.
        max_made_ratio: Most generated images for one real image.
    """

    kind: ClassVar[str]
    stream: ClassVar[int]  # of random numbers, so that no two kinds draw the same batches
    weight_decay: ClassVar[float]
    clip: ClassVar[float] = 1.0
    boxes_only: ClassVar[bool] = False

    model: str
    steps: int
    batch_size: int
    lr: float
    start: str = ""
    patience: int = 4
    accumulate: int = 1
    checkpointing: bool = False
    image_side: int = 0
    states: tuple[str, ...] = ("reviewed", "confirmed_empty", "auto")
    max_made_ratio: float = 1.0

    def __post_init__(self) -> None:
        """Check the settings."""
        if self.steps < 0 or self.batch_size < 1 or self.accumulate < 1:
            told = f"{self.steps}, {self.batch_size} and {self.accumulate}"
            raise ValueError(f"steps must not be negative, batch_size and accumulate at least 1, got {told}")
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
        return Choice(method="full", lr=self.lr, steps=self.steps)

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

        from tilth.engine.fit import fit
        from tilth.engine.plateau import Plateau

        labels = [c.name for c in work.policy.pictured]
        side, mean, std = preprocessing(self.model)
        side = self.image_side or side
        states = [STATES[name] for name in self.states]
        data = gather(work, labels, side, states=states, max_made_ratio=self.max_made_ratio, boxes_only=self.boxes_only)
        about = About(kind=self.kind, base=models.source(self.model), labels=labels, side=side, mean=mean, std=std)
        torch.manual_seed(work.seed)
        model = load_for_training(self.kind, self._base(work, labels), labels)
        weights = sum(weight.numel() for weight in model.parameters())
        chosen = self.choice().settled(
            self.kind, weights, len(data.indices(val=False)), self.batch_size * self.accumulate
        )
        freeze(model, chosen.method, labels=len(labels))
        if self.checkpointing:
            keep_less(model, self.model)
        lesson = Lesson(self, work, model, data, about)
        thin = too_few(among([data.rows[i] for i in lesson.train], labels), negatives=not self.boxes_only)
        for label, why in thin.items():
            work.events.emit("too_few", step=work.name, category=label, message=f"  {label}: {why}")
        learns = sum(
            w.numel() for name, w in model.named_parameters() if w.requires_grad and not name.startswith("spots")
        )
        told_how = {**asdict(chosen), "weights": weights, "learns": learns}
        work.events.emit("training", step=work.name, **told_how, message="  " + chosen.told(weights, learns))
        plateau = Plateau(
            most=chosen.steps,
            every=min(CHECK_EVERY, max(1, chosen.steps // 4)),
            patience=self.patience,
            slack=SLACK if lesson.measures else 0.0,  # a loss has no scale of its own
            warmup=min(30, max(1, chosen.steps // 10)),
        )
        with work.events.progress(f"{work.name}: train", chosen.steps, unit="steps") as advance:
            losses = fit(
                self.kind,
                model,
                lesson.loss_at,
                steps=chosen.steps,
                lr=chosen.lr,
                groups=groups(model, self.weight_decay, self.slower(model, chosen.slower)),
                accumulate=self.accumulate,
                work=work.folder / "checkpoint",
                ema=0.98,
                clip=self.clip,
                seed=work.seed,
                save_every=100,
                plateau=plateau,
                judge=(lambda averaged: lesson.judge(averaged, advance)) if len(lesson.val) else None,
                advance=advance,
            )
        told = {"loss": float(np.mean(losses[-LAST:])), **lesson.told} if losses else lesson.told
        ends = plateau.ends_at
        about.trained = {
            **{name: round(value, 4) for name, value in told.items()},
            **counts(data, labels, ends),
            **told_how,
            "steps": ends,
            "curve": lesson.curve,
            "best_step": min(ends, (plateau.best + 1) * plateau.every) if len(lesson.val) else ends,
            **({"too_few": thin} if thin else {}),
        }
        self.finish(model)
        merge(model)
        model.to(memory_format=torch.contiguous_format)  # as files have it
        path = work.publish(work.name, save_trained(model.cpu(), about, work.folder / "model"))
        shutil.rmtree(work.folder / "checkpoint", ignore_errors=True)
        return {"model": str(path), **about.trained}

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


class Lesson:
    """What one training learns from, batch by batch, and what it is judged by meanwhile.

    Args:
        step: What is trained, and how.
        work: Of the step.
        model: Is moved to the device.
        data: All examples.
        about: Of the model that will be.

    Raises:
        InputError: The model can learn from none of them.
    """

    def __init__(self, step: FineTune, work: Work, model: Any, data: Examples, about: About) -> None:
        import torch

        self.step, self.model, self.data, self.about, self.seed = step, model, data, about, work.seed
        self.device = models.device(work.device)
        self._try_size()
        fits = np.array(step.choose(model, data.rows, about.side), bool)
        model.to(self.device).to(memory_format=torch.channels_last)  # convolutions are faster so
        self.train, val = (places[fits[places]] for places in (data.indices(val=False), data.indices(val=True)))
        self.val = val[:MOST_VAL]
        if not len(self.train):
            missing = f"no image was looked at for all of {', '.join(about.labels)}, and {step.model} needs that"
            raise InputError(f"{work.name}: {missing}")
        self._chance = draw_weights(data.rows, self.train, len(about.labels))
        told = [shown(data.rows[i], about.labels) for i in self.val]
        self.measures = sum(label not in one.unasked for one in told for label in one.truth) >= ENOUGH
        self._bf16 = models.precision(self.device) == "bfloat16"
        if self._bf16 and self.device == "cpu":
            model.set_attn_implementation("eager")  # torch's own attention learns a third slower there
        self.told: dict[str, float] = {}
        self._curve = work.folder / "curve.jsonl"
        told_before = self._curve.read_text().splitlines() if self._curve.exists() else []
        self.curve: list[dict[str, float]] = [json.loads(line) for line in told_before]
        self._step, self._losses = 0, list[float]()

    def _try_size(self) -> None:
        """Show the model an image of the size that it will get.

        Raises:
            InputError: It cannot take one, as sides have to be a multiple of its patches or windows.
        """
        import torch

        side = self.about.side
        try:
            with torch.no_grad():
                self.model.eval()(pixel_values=torch.zeros(1, 3, side, side), **any_size(self.model, side))
        except (ValueError, RuntimeError, AssertionError) as error:
            why = str(error).splitlines()[0] if str(error) else type(error).__name__
            cure = "set image_side to a multiple of its patches and windows, or to 0 for its own"
            raise InputError(f"{self.step.model} takes no images of {side} × {side} pixels ({why}); {cure}") from error

    def answer(
        self, net: Any, chosen: "np.ndarray[Any, Any]", rng: np.random.Generator, *, draw: bool = False
    ) -> "tuple[Any, Batch]":
        """Show a model a random view of each of some examples; return what it says, and the views.

        Args:
            net: The model.
            chosen: Places of the examples.
            rng: Of the views.
            draw: Whether what is in doubt is there in as many views as it is likely.
        """
        import torch

        from tilth.engine.views import to_unit, views

        rows = [drawn(self.data.rows[i], rng) if draw else self.data.rows[i] for i in chosen]
        images = to_unit(self.data.images(chosen), self.device)
        x, boxes, seen = views(images, [boxes_of(row) for row in rows], rng)
        batch = Batch(pixels=normalise(x, self.about), rows=rows, boxes=boxes, seen=seen)
        beside = self.step.beside(net, batch)
        with torch.autocast(torch.device(self.device).type, torch.bfloat16, enabled=self._bf16):
            return net(pixel_values=batch.pixels, **beside), batch

    def loss_at(self, step: int) -> "torch.Tensor":
        """Return the loss of the batch of a step."""
        rng = np.random.default_rng((self.seed, self.step.stream, step))
        chosen = self.train[rng.choice(len(self.train), self.step.batch_size, p=self._chance)]
        loss = self.step.loss(self.model, *self.answer(self.model, chosen, rng, draw=True))
        self._step = step // self.step.accumulate + 1
        self._losses.append(loss.item())
        return loss

    def judge(self, averaged: "torch.nn.Module", advance: Advance) -> float:
        """Score a model on held-back images, the same views of them each time; larger is better."""
        rng = np.random.default_rng(self.step.stream)
        loss, found = 0.0, list[Prediction]()
        for start in range(0, len(self.val), self.step.batch_size):
            said, batch = self.answer(averaged, self.val[start : start + self.step.batch_size], rng)
            loss += float(self.step.loss(averaged, said, batch)) * len(batch.rows) / len(self.val)
            found += self.step.found(said, batch, self.about.labels)
        self.told["val_loss"] = loss
        if self.measures:
            self.told["val_quality"] = self.step.quality(found, self.about.labels)
        advance(0, **self.told)
        self._draw_curve()
        return self.told.get("val_quality", -loss)

    def _draw_curve(self) -> None:
        """Note where training is; what a killed one noted beyond its last checkpoint is noted anew."""
        point = {"step": self._step, "loss": float(np.mean(self._losses)), **self.told}
        self.curve = [p for p in self.curve if p["step"] < self._step]
        self.curve.append({name: round(value, 5) for name, value in point.items()})
        write_beside(self._curve, "".join(json.dumps(p) + "\n" for p in self.curve))
        self._losses = []


def draw_weights(rows: Sequence[Example], indices: "np.ndarray[Any, Any]", n_labels: int) -> "np.ndarray[Any, Any]":
    """Return the chance of each image to be drawn: images of rare labels more often, at most as often as of common ones.

    An image without labels is as rare as images without labels are. What people looked at comes more often than what only models did: it is
    what models were unsure of, and all that is known of a category that none of them was asked for.
    """
    keys = [rows[i].labels or (n_labels,) for i in indices]
    counts = np.bincount([label for key in keys for label in set(key)], minlength=n_labels + 1)
    raw = np.array([max(1 / np.sqrt(counts[label]) for label in key) for key in keys])
    raw *= np.array([PEOPLE_DRAWN if rows[i].reviewed else 1.0 for i in indices])
    return np.asarray(raw / raw.sum())


def boxes_of(row: Example) -> "np.ndarray[Any, Any]":
    """Return the boxes of an example, `(k, 4)` xyxy in parts of the image."""
    return np.array([b for b in row.boxes if b is not None], np.float32).reshape(-1, 4)


def counts(data: Examples, labels: Sequence[str], steps: int) -> dict[str, Any]:
    """Report what a model was trained on."""
    train, val = ([data.rows[i] for i in data.indices(val=part)] for part in (False, True))
    asked = [row.looked for row in data.rows if not row.val]
    return {
        "train_images": len(train), "val_images": len(val), "steps": steps,
        "made_images": sum(row.made for row in train), "reviewed_images": sum(row.reviewed for row in train),
        "images_per_label": {name: sum(i in row.labels for row in train) for i, name in enumerate(labels)},
        "nobody_looked": {name: sum(not looked[i] for looked in asked) for i, name in enumerate(labels)},
    }  # fmt: skip


def shown(row: Example, labels: Sequence[str], **said: Any) -> Prediction:
    """Return what a model says of a view of an example, beside what is known of it; what is in doubt judges no model."""
    chances = row.likely or [float("nan")] * len(labels)
    unasked = [
        not by or (by not in PEOPLE and doubtful(chance, k in row.labels))
        for k, (by, chance) in enumerate(zip(row.looked, chances, strict=True))
    ]
    return Prediction(
        id=row.id, file="", part="", truth=tuple(labels[label] for label in row.labels),
        truth_boxes=said.get("true_boxes", []), logits=said.get("logits", {}), boxes=said.get("boxes", []),
        unasked=tuple(label for label, unknown in zip(labels, unasked, strict=True) if unknown),
    )  # fmt: skip
