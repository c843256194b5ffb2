"""Fine-tune a detector on the dataset: where are the things that the policy names?

Paper: https://arxiv.org/abs/2410.13842 (D-FINE), https://arxiv.org/abs/2407.17140 (RT-DETRv2)
"""

import inspect
import shutil
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import numpy as np

from tilth import models
from tilth.engine.steps import Facts, step
from tilth.engine.work import Work
from tilth.errors import InputError
from tilth.geometry import xyxy_to_cxcywh
from tilth.train.artifacts.artifact import About, load_for_training, normalise, preprocessing, read_about, save_trained
from tilth.train.learn.classifier import STATES, check_training, counts, draw_weights
from tilth.train.learn.examples import Example, gather

if TYPE_CHECKING:
    import torch


@step
class TrainDetector:
    """Fine-tune a detector of the DETR family on the boxes of the dataset.

    An image that shows a category without a box for it is left out: it is neither an example nor a counter-example. Of a
    category that nobody looked for in an image, the loss does not see the scores there; a model whose loss cannot be made blind so
    learns only from images in which everything was looked for.

    Args:
        model: Base model: a starter model, a folder or a hub id at a commit.
        steps: Optimiser steps.
        batch_size: Images a step.
        lr: Peak learning rate.
        image_side: Side of the square that images are resized to; the base model's own when 0.
        states: Which samples to learn from: reviewed, confirmed_empty, auto.
        max_made_ratio: Most generated images for one real image.
    """

    model: str = "starter:detector"
    steps: int = 250
    batch_size: int = 16
    lr: float = 6e-4
    image_side: int = 0
    states: tuple[str, ...] = ("reviewed", "confirmed_empty", "auto")
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

        from tilth.train.learn.augment import to_unit, views
        from tilth.train.learn.loop import fit

        labels = [c.name for c in work.policy.pictured]
        side, mean, std = preprocessing(self.model)
        side = self.image_side or side
        states = [STATES[name] for name in self.states]
        data = gather(work, labels, side, states=states, max_made_ratio=self.max_made_ratio, boxes_only=True)
        about = About(kind="detector", base=models.source(self.model), labels=labels, side=side, mean=mean, std=std)
        device = models.device(work.device)
        torch.manual_seed(work.seed)
        model: Any = load_for_training("detector", self.model, labels).to(device)
        train, known = data.indices(val=False), data.known() > 0
        blind = Blind(model.loss_function)
        if blind.fits:
            model.loss_function = blind
        else:
            train = train[known[train].all(1)]
            if not len(train):
                raise InputError(
                    f"{work.name}: no image was looked at for all of {', '.join(labels)}; {self.model} needs that"
                )
        chance = draw_weights(data.rows, train, len(labels))
        bf16 = models.precision(device) == "bfloat16"

        def loss_at(step_: int) -> "torch.Tensor":
            rng = np.random.default_rng((work.seed, 2, step_))
            chosen = train[rng.choice(len(train), self.batch_size, p=chance)]
            own = [boxes_of(data.rows[i]) for i in chosen]
            x, boxes, seen = views(to_unit(data.images[chosen], device), own, rng)
            targets = [
                {
                    "class_labels": torch.tensor(np.array(data.rows[i].labels, np.int64)[keep], device=device),
                    "boxes": torch.from_numpy(xyxy_to_cxcywh(b)[keep].astype(np.float32)).to(device),
                }
                for i, b, keep in zip(chosen, boxes, seen, strict=True)
            ]
            blind.unasked = None if known[chosen].all() else torch.from_numpy(~known[chosen]).to(device)
            with torch.autocast(torch.device(device).type, torch.bfloat16, enabled=bf16):
                loss: torch.Tensor = model(pixel_values=normalise(x, about), labels=targets).loss
            return loss

        with work.events.progress(f"{work.name}: train", self.steps, unit="steps") as advance:
            fit(
                "detector",
                model,
                loss_at,
                steps=self.steps,
                lr=self.lr,
                work=work.folder / "checkpoint",
                ema=0.98,
                warmup=min(30, max(1, self.steps // 10)),
                weight_decay=1e-4,
                clip=0.5,
                seed=work.seed,
                save_every=100,
                advance=advance,
            )
        about.trained = counts(data, labels, self.steps)
        work.publish(work.name, save_trained(model.cpu(), about, work.folder / "model"))
        shutil.rmtree(work.folder / "checkpoint", ignore_errors=True)
        return dict(about.trained)


class Blind:
    """A loss of the DETR family that does not see the scores of categories that nobody looked for in an image.

    Their logits are replaced by one so low that neither the matching, nor the loss, nor its gradient has anything of them. Where
    everything was looked for, it is the model's own loss, untouched.

    Args:
        loss: Of the model; it gets logits of shape `(n, queries, labels)`, and of all layers `(n, layers, queries, labels)`.
    """

    LOW = -1e4  # its sigmoid is 0 in every precision
    LOGITS = ("logits", "outputs_class", "enc_topk_logits")  # as the losses of D-FINE and RT-DETR call them

    def __init__(self, loss: "Callable[..., Any]") -> None:
        self.loss, self._signature = loss, inspect.signature(loss)
        self.fits = {*self.LOGITS} <= {*self._signature.parameters}
        self.unasked: torch.Tensor | None = None  # `(n, labels)`, of the batch at hand

    def __call__(self, *args: Any, **more: Any) -> Any:
        """Return what the loss returns."""
        if self.unasked is None:
            return self.loss(*args, **more)
        given = self._signature.bind(*args, **more)
        for name in self.LOGITS:
            if (logits := given.arguments.get(name)) is not None:
                hidden = self.unasked.reshape(len(logits), *[1] * (logits.ndim - 2), -1)
                given.arguments[name] = logits.masked_fill(hidden, self.LOW)
        return self.loss(*given.args, **given.kwargs)


def boxes_of(row: Example) -> "np.ndarray[Any, Any]":
    """Return the boxes of an example, `(k, 4)` xyxy in parts of the image."""
    return np.array([b for b in row.boxes if b is not None], np.float32).reshape(-1, 4)
