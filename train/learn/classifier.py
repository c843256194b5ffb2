"""Fine-tune an image classifier on the dataset: which categories of the policy does an image show?

Paper: https://arxiv.org/abs/2010.11929 (ViT), or whatever the base model's card names
"""

import shutil
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from tilth import models
from tilth.claims import State
from tilth.engine.steps import Facts, step
from tilth.engine.work import Work
from tilth.train.artifacts.artifact import (
    About,
    any_size,
    load_for_training,
    normalise,
    preprocessing,
    read_about,
    save_trained,
)
from tilth.train.learn.examples import Example, Examples, gather

if TYPE_CHECKING:
    import torch

STATES = {"reviewed": State.REVIEWED, "confirmed_empty": State.CONFIRMED_EMPTY, "auto": State.AUTO}


def draw_weights(rows: Sequence[Example], indices: "np.ndarray[Any, Any]", n_labels: int) -> "np.ndarray[Any, Any]":
    """Return the chance of each image to be drawn: images of rare labels more often, at most as often as of common ones.

    An image without labels is as rare as images without labels are.
    """
    keys = [rows[i].labels or (n_labels,) for i in indices]
    counts = np.bincount([label for key in keys for label in set(key)], minlength=n_labels + 1)
    raw = np.array([max(1 / np.sqrt(counts[label]) for label in key) for key in keys])
    return np.asarray(raw / raw.sum())


def trust(row: Example, auto_weight: float, made_weight: float) -> float:
    """Return how much an example counts in the loss: less when no person looked, or when it was generated."""
    return (1.0 if row.reviewed else auto_weight) * (made_weight if row.made else 1.0)


@step
class TrainClassifier:
    """Fine-tune a classifier; one sigmoid output for each picture category of the policy.

    An image teaches nothing about a category that nobody looked for in it.

    Args:
        model: Base model: a starter model, a folder or a hub id at a commit.
        steps: Optimiser steps.
        batch_size: Images a step.
        lr: Peak learning rate.
        image_side: Side of the square that images are resized to; the base model's own when 0.
        states: Which samples to learn from: reviewed, confirmed_empty, auto.
        auto_weight: Weight of an example that no person looked at.
        made_weight: Weight of a generated example.
        max_made_ratio: Most generated images for one real image.
    """

    model: str = "starter:classifier"
    steps: int = 300
    batch_size: int = 32
    lr: float = 5e-4
    image_side: int = 0
    states: tuple[str, ...] = ("reviewed", "confirmed_empty", "auto")
    auto_weight: float = 0.5
    made_weight: float = 0.5
    max_made_ratio: float = 1.0

    def __post_init__(self) -> None:
        """Check the settings."""
        check_training(self.steps, self.batch_size, self.lr, self.states)

    def models(self) -> tuple[str, ...]:
        """Name the base model."""
        return (self.model,)

    def run(self, work: Work) -> Facts:
        """Train, or go on from the last checkpoint, and publish the model under the step's name."""
        done = work.folder / "model"
        if done.is_dir():  # a run that was killed between saving and reporting
            work.publish(work.name, done)
            return dict(read_about(done).trained)
        import torch
        from torch.nn import functional as F  # noqa: N812

        from tilth.train.learn.augment import to_unit, views
        from tilth.train.learn.loop import fit

        labels = [c.name for c in work.policy.pictured]
        side, mean, std = preprocessing(self.model)
        side = self.image_side or side
        states = [STATES[name] for name in self.states]
        data = gather(work, labels, side, states=states, max_made_ratio=self.max_made_ratio, boxes_only=False)
        about = About(kind="classifier", base=models.source(self.model), labels=labels, side=side, mean=mean, std=std)
        device = models.device(work.device)
        torch.manual_seed(work.seed)
        model = load_for_training("classifier", self.model, labels).to(device)
        train, present = data.indices(val=False), data.present(len(labels))
        chance = draw_weights(data.rows, train, len(labels))
        known = data.known(self.auto_weight)
        weights = np.array([trust(row, self.auto_weight, self.made_weight) for row in data.rows], np.float32)
        bf16 = models.precision(device) == "bfloat16"
        none = [np.zeros((0, 4), np.float32)] * self.batch_size

        def loss_at(step_: int) -> "torch.Tensor":
            rng = np.random.default_rng((work.seed, 1, step_))
            chosen = train[rng.choice(len(train), self.batch_size, p=chance)]
            x, _, _ = views(to_unit(data.images[chosen], device), none, rng)
            with torch.autocast(torch.device(device).type, torch.bfloat16, enabled=bf16):
                logits = model(pixel_values=normalise(x, about), **any_size(model, side)).logits
            truth = torch.from_numpy(present[chosen]).to(device)
            each = F.binary_cross_entropy_with_logits(logits.float(), truth, reduction="none")
            each = (each * torch.from_numpy(known[chosen]).to(device)).mean(1)  # times 1 is exact where all is known
            return (each * torch.from_numpy(weights[chosen]).to(device)).mean()

        with work.events.progress(f"{work.name}: train", self.steps, unit="steps") as advance:
            fit(
                "classifier",
                model,
                loss_at,
                steps=self.steps,
                lr=self.lr,
                work=work.folder / "checkpoint",
                ema=0.98,
                warmup=min(30, max(1, self.steps // 10)),
                weight_decay=0.05,
                seed=work.seed,
                save_every=100,
                advance=advance,
            )
        about.trained = counts(data, labels, self.steps)
        work.publish(work.name, save_trained(model.cpu(), about, work.folder / "model"))
        shutil.rmtree(work.folder / "checkpoint", ignore_errors=True)
        return dict(about.trained)


def check_training(steps: int, batch_size: int, lr: float, states: Sequence[str]) -> None:
    """Check what the training steps have in common.

    Raises:
        ValueError: A setting is out of its range.
    """
    if steps < 1 or batch_size < 1:
        raise ValueError(f"steps and batch_size must be at least 1, got {steps} and {batch_size}")
    if not 0 < lr < 1:
        raise ValueError(f"lr must lie in (0, 1), got {lr}")
    if unknown := set(states) - set(STATES):
        raise ValueError(f"states must be among {', '.join(STATES)}, got {', '.join(sorted(unknown))}")


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
