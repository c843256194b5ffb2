"""The training loop that everything shares: warm-up and decay, moving average, checkpoints that a killed job resumes from."""

import copy
import json
import math
import os
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from tilth.data.files import write_beside
from tilth.errors import InputError
from tilth.events import Advance

if TYPE_CHECKING:
    import torch
    from torch import nn

    from tilth.engine.plateau import Plateau


@dataclass(frozen=True, kw_only=True)
class Alone:
    """A process that learns by itself; what learns with others overrides all of this.

    Args:
        rank: Which process this is, counted from 0. The first judges and keeps checkpoints.
    """

    rank: int = 0

    def part(self, n: int) -> slice:
        """Return which of n images of a batch this process takes."""
        return slice(0, n)

    def share(self, weights: "Sequence[torch.Tensor]") -> None:
        """Average the gradients of all processes."""

    def told(self, value: float) -> float:
        """Return the value of the first process."""
        return value

    def mean(self, value: "torch.Tensor") -> float:
        """Return the mean of all processes."""
        return value.item()


class Curve:
    """How a training goes, noted in a file, so that a killed one goes on with it.

    Args:
        path: The file, a line a point.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        lines = path.read_text().splitlines() if path.exists() else []
        self.points: list[dict[str, float]] = [json.loads(line) for line in lines]

    def note(self, step: int, **values: float) -> None:
        """Note where training is; what a killed one noted beyond its last checkpoint is noted anew."""
        self.points = [point for point in self.points if point["step"] < step]
        self.points.append({"step": step} | {name: round(value, 5) for name, value in values.items()})
        write_beside(self._path, "".join(json.dumps(point) + "\n" for point in self.points))


def learning_rate(step: int, steps: int, peak: float, *, warmup: int, flat: float) -> float:
    """Rise over `warmup` steps, stay until the share `flat` of all steps, then fall in a line to 3 % of the peak.

    >>> [round(learning_rate(s, 100, 1.0, warmup=10, flat=0.5), 2) for s in (0, 9, 50, 75, 99)]
    [0.1, 1.0, 1.0, 0.5, 0.03]
    """
    done = step / steps
    return peak * min(1.0, (step + 1) / warmup) * (1.0 if done <= flat else max(0.03, (1 - done) / (1 - flat)))


def cosine(step: int, steps: int, peak: float) -> float:
    """Fall from the peak to zero by half a cosine.

    >>> [round(cosine(s, 100, 1.0), 2) for s in (0, 25, 50, 99)]
    [1.0, 0.85, 0.5, 0.0]
    """
    return peak * (1 + math.cos(math.pi * step / steps)) / 2


def fit(
    name: str,
    model: "nn.Module",
    loss_at: "Callable[[int], torch.Tensor]",
    *,
    steps: int,
    lr: float,
    work: Path | None,
    groups: Sequence[dict[str, object]] | None = None,
    warmup: int = 100,
    flat: float = 0.5,
    every: int = 0,
    rate: Callable[[int], float] | None = None,
    weight_decay: float = 1e-3,
    betas: tuple[float, float] = (0.9, 0.99),
    clip: float = 1.0,
    ema: float | None = None,
    seed: int = 0,
    save_every: int = 500,
    accumulate: int = 1,
    watch: "Callable[[int, nn.Module], str] | None" = None,
    plateau: "Plateau | None" = None,
    judge: "Callable[[nn.Module], float] | None" = None,
    advance: Advance | None = None,
    place: Alone | None = None,
) -> list[float]:
    """Minimise `loss_at(step)` over the parameters of `model`, in place, resuming from the last checkpoint.

    The random state of a step depends on `seed` and the step alone, so a resumed job goes the way of an unbroken one.

    Args:
        name: Of the checkpoint file and the log lines.
        model: What is trained; wrap several modules in a `ModuleDict`.
        loss_at: Draws the batch of a step and returns its loss.
        steps: Number of optimiser steps.
        lr: Peak learning rate.
        work: Folder for the checkpoint; None for none.
        groups: Parameter groups with a factor `scale` on the learning rate each, and a `weight_decay` where they have their own; all
            parameters when None.
        warmup: Steps of rising rate.
        flat: Share of steps before the rate falls.
        every: Steps after which the rate rises and falls again (https://arxiv.org/abs/1608.03983); 0 for once.
        rate: Learning rate of a step, instead of what `lr`, `warmup` and `flat` make of it.
        weight_decay: Of AdamW.
        betas: Of AdamW.
        clip: Largest gradient norm.
        ema: Decay of the moving average that replaces the weights at the end; None for none.
        seed: Of the batches.
        save_every: Steps between checkpoints.
        accumulate: Batches whose mean gradient makes up one step; `loss_at` is then asked for so many times as many.
        watch: Called with the (averaged) model at every checkpoint; what it returns is logged.
        plateau: Decides rates and end instead of `steps`, by what `judge` says; the model that it picks is kept.
        judge: Called with the (averaged) model at every check of the plateau; scores it, larger is better.
        advance: Called with the number of steps just done and the loss of late, instead of log lines.
        place: Among processes that learn together; alone when None.

    Returns:
        The loss of each step that was done.

    Raises:
        InputError: The loss is no number any more, so that the weights would not be either.
    """
    import torch

    place = place or Alone()
    path = work / f"{name}.ckpt" if work is not None else None
    if work is not None:
        work.mkdir(parents=True, exist_ok=True)
    chosen = groups or [{"params": [p for p in model.parameters() if p.requires_grad], "scale": 1.0}]
    optimizer = torch.optim.AdamW([dict(g) for g in chosen], lr=lr, weight_decay=weight_decay, betas=betas)
    trained = [p for g in optimizer.param_groups for p in g["params"]]
    average = copy.deepcopy(model).eval().requires_grad_(False) if ema else None
    shown = average if average is not None else model
    best: dict[str, torch.Tensor] | None = None
    step = 0
    if path is not None and path.exists():
        state = torch.load(path, weights_only=True)
        put_back(model, state["model"])
        optimizer.load_state_dict(state["optimizer"])
        if average is not None:
            put_back(average, state["average"])
        if plateau is not None:
            plateau.go_on(state["plateau"])
            best = state["best"]
        step = state["step"]
        if advance is not None:
            advance(step)
        else:
            print(f"{name}: resumed at step {step}", flush=True)

    def rate_of(step: int) -> float:
        if plateau is not None:
            return lr * plateau.factor(step)
        go = every or steps
        return rate(step) if rate is not None else learning_rate(step % go, go, lr, warmup=warmup, flat=flat)

    first, began, smooth = step, time.monotonic(), None
    losses: list[float] = []
    model.train()
    while step < (plateau.ends_at if plateau is not None else steps):
        torch.manual_seed(seed * 1_000_003 + step)
        for group in optimizer.param_groups:
            group["lr"] = rate_of(step) * group["scale"]
        optimizer.zero_grad()
        losses.append(0.0)
        for part in range(accumulate):
            loss = loss_at(step * accumulate + part) / accumulate
            losses[-1] += place.mean(loss)
            loss.backward()
        if not math.isfinite(losses[-1]):
            cure = f"give a lower lr than {lr:g}" if step else "are all weights of the base model numbers?"
            raise InputError(f"{name}: the loss is {losses[-1]} at step {step + 1} of {steps}; {cure}")
        place.share(trained)
        torch.nn.utils.clip_grad_norm_(trained, clip)
        optimizer.step()
        if average is not None and ema is not None:
            with torch.no_grad():
                decay = min(ema, (1 + step) / (10 + step))
                torch._foreach_lerp_(list(average.parameters()), list(model.parameters()), 1 - decay)
                for mean, latest in zip(average.buffers(), model.buffers(), strict=True):
                    mean.copy_(latest)
        smooth = losses[-1] if smooth is None else 0.98 * smooth + 0.02 * losses[-1]
        step += 1
        if advance is not None:
            advance(1, loss=smooth)
        elif step % 50 == 0:
            per_s = (step - first) / (time.monotonic() - began)
            print(
                f"{name}: step {step}/{steps} loss {smooth:.4f} ETA {(steps - step) / per_s / 60:.0f} min", flush=True
            )
        ended = step >= (plateau.ends_at if plateau is not None else steps)
        if plateau is not None and judge is not None and (ended or step % plateau.every == 0):
            shown.eval()
            with torch.no_grad():
                if plateau.note(place.told(judge(shown) if place.rank == 0 else 0.0)):
                    best = {key: value.clone() for key, value in shown.state_dict().items()}
            model.train()
        if step % save_every == 0 or ended:
            if path is not None and place.rank == 0:
                state = {"model": model.state_dict(), "optimizer": optimizer.state_dict(), "step": step}
                if average is not None:
                    state["average"] = average.state_dict()
                if plateau is not None:
                    state |= {"plateau": plateau.state(), "best": best}
                torch.save(state, path.with_suffix(".partial"))
                os.replace(path.with_suffix(".partial"), path)
            if watch is not None:
                shown.eval()
                with torch.no_grad():
                    told = watch(step, shown)
                if advance is None:
                    print(f"{name}: step {step}: {told}", flush=True)
                model.train()
    if best is not None or average is not None:
        put_back(model, best if best is not None else shown.state_dict())
    model.eval()
    return losses


def put_back(model: "nn.Module", state: "dict[str, torch.Tensor]") -> None:
    """Give a model the weights that `state_dict` told of it; some classes rename what they are given, for checkpoints of others."""
    from torch import nn

    nn.Module.load_state_dict(model, state)
