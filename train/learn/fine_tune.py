"""Fine-tune a base model on the dataset: all that a classifier and a detector have in common, which is all but the loss."""

import shutil
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np

from tilth import models
from tilth.claims import PEOPLE, State
from tilth.engine.steps import Facts, step
from tilth.engine.work import Work
from tilth.errors import InputError
from tilth.train.artifacts.artifact import About, load_for_training, normalise, preprocessing, read_about, save_trained
from tilth.train.learn.enough import among, too_few
from tilth.train.learn.examples import Example, Examples, gather
from tilth.train.measure.prediction import Prediction

if TYPE_CHECKING:
    import torch

MOST_VAL = 256  # held-back images that are looked at while training
CHECK_EVERY = 50  # steps
ENOUGH = 20  # labels on held-back images, from which on what the model finds says more than its loss
PEOPLE_DRAWN = 4.0  # times as often as others are images drawn that people looked at
DOUBT = 0.1  # a chance farther than this from 0 and 1 is no truth to judge a model by
LAST = 20  # steps whose mean loss is told at the end
STATES = {"reviewed": State.REVIEWED, "confirmed_empty": State.CONFIRMED_EMPTY, "auto": State.AUTO}


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
        steps: Optimiser steps at most. Training ends by itself when held-back images gain nothing any more, and keeps the best model.
        start: Name of a trained model of an earlier step to go on from, which knows the same categories; `model` when empty.
        patience: Checks without a gain, one every 50 steps, before the learning rate falls to its end; 0 takes all steps.
        batch_size: Images a step.
        lr: Peak learning rate.
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
    image_side: int = 0
    states: tuple[str, ...] = ("reviewed", "confirmed_empty", "auto")
    max_made_ratio: float = 1.0

    def __post_init__(self) -> None:
        """Check the settings."""
        if self.steps < 1 or self.batch_size < 1:
            raise ValueError(f"steps and batch_size must be at least 1, got {self.steps} and {self.batch_size}")
        if self.patience < 0:
            raise ValueError(f"patience must not be negative, got {self.patience}")
        if not 0 < self.lr < 1:
            raise ValueError(f"lr must lie in (0, 1), got {self.lr}")
        if unknown := set(self.states) - set(STATES):
            raise ValueError(f"states must be among {', '.join(STATES)}, got {', '.join(sorted(unknown))}")

    def models(self) -> tuple[str, ...]:
        """Name the base model."""
        return (self.model,)

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
        from tilth.train.learn.augment import to_unit, views

        labels = [c.name for c in work.policy.pictured]
        side, mean, std = preprocessing(self.model)
        side = self.image_side or side
        states = [STATES[name] for name in self.states]
        data = gather(work, labels, side, states=states, max_made_ratio=self.max_made_ratio, boxes_only=self.boxes_only)
        about = About(kind=self.kind, base=models.source(self.model), labels=labels, side=side, mean=mean, std=std)
        squares = np.array(data.places)
        device = models.device(work.device)
        torch.manual_seed(work.seed)
        base = str(work.artifact(self.start)) if self.start else self.model
        if self.start and read_about(Path(base)).labels != labels:
            raise InputError(f"{work.name}: {self.start} was trained on other categories; leave start empty")
        model = load_for_training(self.kind, base, labels)
        fits = np.array(self.choose(model, data.rows, side), bool)
        model.to(device).to(memory_format=torch.channels_last)  # convolutions are faster so
        train, val = (places[fits[places]] for places in (data.indices(val=False), data.indices(val=True)))
        val = val[:MOST_VAL]
        if not len(train):
            raise InputError(
                f"{work.name}: no image was looked at for all of {', '.join(labels)}, and {self.model} needs that"
            )
        thin = too_few(among([data.rows[i] for i in train], labels), negatives=not self.boxes_only)
        for label, why in thin.items():
            work.events.emit("too_few", step=work.name, category=label, message=f"  {label}: {why}")
        chance = draw_weights(data.rows, train, len(labels))
        bf16 = models.precision(device) == "bfloat16"

        def answer(net: Any, chosen: "np.ndarray[Any, Any]", rng: np.random.Generator) -> "tuple[Any, Batch]":
            rows = [data.rows[i] for i in chosen]
            x, boxes, seen = views(to_unit(data.images[squares[chosen]], device), [boxes_of(row) for row in rows], rng)
            batch = Batch(pixels=normalise(x, about), rows=rows, boxes=boxes, seen=seen)
            beside = self.beside(net, batch)
            with torch.autocast(torch.device(device).type, torch.bfloat16, enabled=bf16):
                return net(pixel_values=batch.pixels, **beside), batch

        def loss_at(step_: int) -> "torch.Tensor":
            rng = np.random.default_rng((work.seed, self.stream, step_))
            return self.loss(model, *answer(model, train[rng.choice(len(train), self.batch_size, p=chance)], rng))

        told: dict[str, float] = {}
        shown = sum(len(data.rows[i].labels) for i in val)

        def judge(averaged: "torch.nn.Module") -> float:
            rng = np.random.default_rng(self.stream)  # the same views of the held-back images each time
            loss, found = 0.0, list[Prediction]()
            for start in range(0, len(val), self.batch_size):
                said, batch = answer(averaged, val[start : start + self.batch_size], rng)
                loss += float(self.loss(averaged, said, batch)) * len(batch.rows) / len(val)
                found += self.found(said, batch, labels)
            told["val_loss"] = loss
            if shown >= ENOUGH:
                told["val_quality"] = self.quality(found, labels)
            advance(0, **told)
            return told.get("val_quality", -loss)

        plateau = Plateau(
            most=self.steps,
            every=min(CHECK_EVERY, max(1, self.steps // 4)),
            patience=self.patience,
            warmup=min(30, max(1, self.steps // 10)),
        )
        with work.events.progress(f"{work.name}: train", self.steps, unit="steps") as advance:
            losses = fit(
                self.kind,
                model,
                loss_at,
                steps=self.steps,
                lr=self.lr,
                work=work.folder / "checkpoint",
                ema=0.98,
                weight_decay=self.weight_decay,
                clip=self.clip,
                seed=work.seed,
                save_every=100,
                plateau=plateau,
                judge=judge if len(val) else None,
                advance=advance,
            )
        told = {"loss": float(np.mean(losses[-LAST:])), **told} if losses else told
        about.trained = {
            **{name: round(value, 4) for name, value in told.items()},
            **counts(data, labels, plateau.ends_at),
            "best_step": min(plateau.ends_at, (plateau.best + 1) * plateau.every) if len(val) else plateau.ends_at,
            **({"too_few": thin} if thin else {}),
        }
        self.finish(model)
        model.to(memory_format=torch.contiguous_format)  # as files have it
        path = work.publish(work.name, save_trained(model.cpu(), about, work.folder / "model"))
        shutil.rmtree(work.folder / "checkpoint", ignore_errors=True)
        return {"model": str(path), **about.trained}


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
    doubtful = [
        DOUBT < chance < 1 - DOUBT and by not in PEOPLE for chance, by in zip(row.likely, row.looked, strict=False)
    ]
    unasked = [not by or bool(doubtful and doubtful[k]) for k, by in enumerate(row.looked)]
    return Prediction(
        id=row.id, file="", part="", truth=tuple(labels[label] for label in row.labels),
        truth_boxes=said.get("true_boxes", []), logits=said.get("logits", {}), boxes=said.get("boxes", []),
        unasked=tuple(label for label, unknown in zip(labels, unasked, strict=True) if unknown),
    )  # fmt: skip
