"""The independent judge of generated images: a small network that names kind, colour and style of a single thing.

It is trained on scenes of its own seeds, which the generator never sees, and is used for scores only.
"""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
import torch
from safetensors.torch import load_file, save_file
from torch import nn
from torch.nn import functional as F  # noqa: N812 - the name everybody knows

from tilth.engine.fit import fit
from tilth.starter.world.scene import COLORS, KINDS, STYLES
from tilth.starter.world.sets import scene_set

SIDE = 64
STEPS = 1500
HEADS = (len(KINDS), len(COLORS), len(STYLES))


class Asked(NamedTuple):
    """What an image was asked to show."""

    kind: str
    color: str
    surface: str
    style: str


def new_judge() -> nn.Sequential:
    """Return an untrained judge; its output is the logits of all kinds, colours and styles, side by side."""

    def block(inner: int, outer: int, stride: int) -> nn.Sequential:
        return nn.Sequential(nn.Conv2d(inner, outer, 3, stride, 1, bias=False), nn.BatchNorm2d(outer), nn.ReLU())

    return nn.Sequential(
        block(3, 24, 2),
        block(24, 48, 2),
        block(48, 64, 1),
        block(64, 96, 2),
        block(96, 96, 1),
        block(96, 128, 2),
        nn.Flatten(),
        nn.Dropout(0.2),
        nn.Linear(2048, sum(HEADS)),
    )


def _pixels(images: npt.NDArray[np.uint8]) -> torch.Tensor:
    return torch.from_numpy(np.array(images)).permute(0, 3, 1, 2).float() / 127.5 - 1


def load_judge(out: Path) -> nn.Sequential:
    """Load the judge that lies in `out/judge`."""
    model = new_judge()
    model.load_state_dict(
        {
            k: v.float() if v.is_floating_point() else v
            for k, v in load_file(out / "judge" / "model.safetensors").items()
        }
    )
    return model.eval()


@torch.no_grad()
def judge(model: nn.Module, images: npt.NDArray[np.uint8]) -> tuple[list[str], list[str], list[str]]:
    """Name kind, colour and style of `(n, 64, 64, 3)` images."""
    logits = torch.cat([model(_pixels(images[i : i + 64])) for i in range(0, len(images), 64)])
    kinds, colors, styles = (part.argmax(1).tolist() for part in logits.split(HEADS, 1))
    return [KINDS[k] for k in kinds], [tuple(COLORS)[c] for c in colors], [STYLES[s] for s in styles]


def agreement(out: Path, images: npt.NDArray[np.uint8], asked: Sequence[Asked]) -> dict[str, float]:
    """Return the shares of images whose kind, colour and style are what was asked for."""
    kinds, colors, styles = judge(load_judge(out), images)
    pairs = {
        "kind": [k == a.kind for k, a in zip(kinds, asked, strict=True)],
        "color": [c == a.color for c, a in zip(colors, asked, strict=True)],
        "style": [s == a.style for s, a in zip(styles, asked, strict=True)],
    }
    return {name: round(float(np.mean(right)), 3) for name, right in pairs.items()}


def train(out: Path, work: Path, device: torch.device, steps: int | None) -> dict[str, float]:
    """Train the judge, save it as `out/judge` and score it on held-out scenes."""
    data = scene_set(work / "sets", "judge", 6000, side=SIDE, single=True)
    truth = torch.tensor(
        [
            (KINDS.index(s.things[0].kind), tuple(COLORS).index(s.things[0].color), STYLES.index(s.style))
            for s in data.scenes
        ]
    )
    torch.manual_seed(1)
    model = new_judge().to(device)

    def loss_at(step: int) -> torch.Tensor:
        rng = np.random.default_rng((30, step))
        chosen = rng.integers(0, len(data.images), 64)
        x = _pixels(data.images[chosen]).to(device)
        x = x.flip(3) if step % 2 else x
        x = torch.roll(x, tuple(int(v) for v in rng.integers(-5, 6, 2)), (2, 3))
        x = x + 0.1 * torch.rand(1, device=device) * torch.randn_like(x)
        x = F.avg_pool2d(x, 3, 1, 1) if step % 3 == 0 else x  # generated images are a little soft
        parts = model(x).split(HEADS, 1)
        return sum((F.cross_entropy(p, truth[chosen, i].to(device)) for i, p in enumerate(parts)), torch.zeros(()))

    fit("judge", model, loss_at, steps=steps or STEPS, lr=2e-3, work=work, weight_decay=0.02, flat=0.1)
    folder = out / "judge"
    folder.mkdir(parents=True, exist_ok=True)
    weights = {k: v.half() if v.is_floating_point() else v for k, v in model.cpu().state_dict().items()}
    save_file(weights, folder / "model.safetensors")
    (folder / "config.json").write_text(
        json.dumps({"kinds": KINDS, "colors": list(COLORS), "styles": STYLES, "side": SIDE})
    )
    held_out = scene_set(work / "sets", "judge_held_out", 600, side=SIDE, single=True)
    asked = [Asked(s.things[0].kind, s.things[0].color, s.surface, s.style) for s in held_out.scenes]
    return agreement(out, np.asarray(held_out.images), asked)
