"""Teach a network of one cue: first that two views of a crop are the same, then that two pictures of a person are.

Papers: SimCLR (https://arxiv.org/abs/2002.05709), batch-hard triplets (https://arxiv.org/abs/1703.07737)
Differs: the margin is soft, and only as much of the learning is batch-hard as is asked for; losses and miner are pytorch-metric-learning's.
"""

from collections import defaultdict
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from tilth.engine.fit import fit
from tilth.engine.steps import group
from tilth.events import Advance
from tilth.extras import optional
from tilth.train.persons.embedder import to_tensor

if TYPE_CHECKING:
    import torch

TEMPERATURE = 0.2
SCALE = 8.0  # of vectors before the soft margin, whose slope would be flat among vectors of length one
COLOURLESS = ("body",)  # cues whose colours belong to something else, which are shown in other colours each time


@group
class Lessons:
    """How much is learned.

    Args:
        pretrain: Steps of the self-supervised stage, on all crops.
        steps: Steps with triplets, on crops of known people: with all that there are in a batch, and
        hard: for this share of them, at the end, with the hardest of each picture alone. Small networks that learn for a minute lose by
            that what they had: who has changed clothes has no look in common with themselves, and all vectors fall together.
        people: In a batch of triplets.
        each: Pictures of each of them.
        lr: Peak learning rate.
        save_every: Steps between checkpoints, which a killed training goes on from.
    """

    pretrain: int = 80
    steps: int = 300
    people: int = 20
    each: int = 4
    hard: float = 0.0
    lr: float = 2e-3
    save_every: int = 100

    def __post_init__(self) -> None:
        """Check the numbers."""
        if self.people < 2 or self.each < 2:
            raise ValueError(f"people and each must be at least 2, got {self.people} and {self.each}")
        if not 0 <= self.hard <= 1:
            raise ValueError(f"hard must lie in [0, 1], got {self.hard}")
        if self.pretrain < 0 or self.steps < 1 or self.save_every < 1:
            raise ValueError("pretrain must not be negative, steps and save_every at least 1")


def varied(images: npt.NDArray[np.uint8], rng: np.random.Generator, cue: str, device: str) -> "torch.Tensor":
    """Return a random view of each crop: moved, scaled, mirrored, in other light, with a part covered."""
    import torch
    from torch.nn import functional

    x = to_tensor(images, device)
    n, _, side, _ = x.shape
    zoom, shift = rng.uniform(0.8, 1.1, n), rng.uniform(-0.12, 0.12, (n, 2))
    matrix = np.zeros((n, 2, 3), np.float32)
    matrix[:, 0, 0], matrix[:, 1, 1], matrix[:, :, 2] = zoom * rng.choice((-1, 1), n), zoom, shift
    grid = functional.affine_grid(torch.from_numpy(matrix).to(device), list(x.shape), align_corners=False)
    x = functional.grid_sample(x, grid, mode="bilinear", padding_mode="border", align_corners=False)
    spread = 0.5 if cue in COLOURLESS else 0.12
    gain = torch.from_numpy(rng.uniform(0.75, 1.2, (n, 1, 1, 1)).astype(np.float32)).to(device)
    tint = torch.from_numpy(rng.normal(0, spread, (n, 3, 1, 1)).astype(np.float32)).to(device)
    x = (x + 2) * gain - 2 + tint
    grey = torch.from_numpy(rng.random((n, 1, 1, 1)) < (0.5 if cue in COLOURLESS else 0.1)).to(device)
    x = torch.where(grey, x.mean(1, keepdim=True), x)
    for k in np.flatnonzero(rng.random(n) < 0.25):
        size = int(rng.integers(side // 6, side // 2))
        a, b = rng.integers(0, side - size, 2)
        x[k, :, a : a + size, b : b + size] = 0
    return x


def teach(
    network: Any, cue: str, crops: npt.NDArray[np.uint8], who: Sequence[str], lessons: Lessons, work: Path, *,
    seed: int, device: str, advance: Advance | None = None,
) -> dict[str, float]:  # fmt: skip
    """Teach a network one cue, or go on from its last checkpoint.

    Args:
        network: Learns in place.
        cue: Which.
        crops: `(n, side, side, 3)`.
        who: Whom each shows; empty where nobody said.
        lessons: How much.
        work: Folder of the checkpoints.
        seed: Of what is drawn.
        device: To learn on.
        advance: Called with each step.

    Returns:
        The mean loss at the end of each stage.
    """
    with optional():
        from pytorch_metric_learning import distances, losses, miners
    network.to(device)
    alike = losses.SelfSupervisedLoss(losses.NTXentLoss(temperature=TEMPERATURE))
    triplets = losses.TripletMarginLoss(
        margin=0, smooth_loss=True, distance=distances.LpDistance(normalize_embeddings=False)
    )
    hardest, first_hard = miners.BatchHardMiner(), round(lessons.steps * (1 - lessons.hard))
    size = lessons.people * lessons.each

    def views_at(step: int) -> "torch.Tensor":
        rng = np.random.default_rng((seed, 71, step))
        some = crops[rng.choice(len(crops), min(size, len(crops)), replace=False)]
        loss: torch.Tensor = alike(network(varied(some, rng, cue, device)), network(varied(some, rng, cue, device)))
        return loss

    places: dict[str, list[int]] = defaultdict(list)
    for at, name in enumerate(who):
        if name:
            places[name].append(at)
    several = sorted(name for name, own in places.items() if len(own) > 1)

    def triplets_at(step: int) -> "torch.Tensor":
        import torch

        rng = np.random.default_rng((seed, 72, step))
        names = rng.choice(several, min(lessons.people, len(several)), replace=False)
        drawn = [
            rng.choice(places[str(name)], lessons.each, replace=len(places[str(name)]) < lessons.each) for name in names
        ]
        vectors = network(varied(crops[np.concatenate(drawn)], rng, cue, device))
        labels = torch.arange(len(names), device=device).repeat_interleave(lessons.each)
        loss: torch.Tensor = triplets(vectors * SCALE, labels, hardest(vectors, labels) if step >= first_hard else None)
        return loss

    told = {}
    for name, loss_at, steps in (("views", views_at, lessons.pretrain), ("triplets", triplets_at, lessons.steps)):
        if steps:
            found = fit(
                f"{cue}-{name}", network, loss_at, steps=steps, lr=lessons.lr, work=work, warmup=max(1, steps // 10), ema=0.98, seed=seed,
                save_every=lessons.save_every, advance=advance,
            )  # fmt: skip
            if found:
                told[name] = float(np.mean(found[-20:]))
    return told
