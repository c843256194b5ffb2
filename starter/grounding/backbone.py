"""Pre-train the image backbone of the miniature GroundingDINO on dense truth: kind, colour and box at every cell.

Differs: the published model starts from a Swin Transformer trained on ImageNet; this one is a small ConvNeXt that has
seen the starter world only. From random weights GroundingDINO needs many times as long to find the things at all.
"""

from pathlib import Path

import numpy as np
import numpy.typing as npt
import torch
import torchvision
from torch import nn
from torch.nn import functional
from transformers import ConvNextBackbone

from tilth.engine.fit import fit
from tilth.starter.world.pixels import IMAGENET, to_pixels
from tilth.starter.world.scene import Scene
from tilth.starter.world.sets import COLOR_NAMES, KIND_NAMES, SceneSet

CELLS = 12  # a side, on the finer of the two maps of a 96 px image
_CLASSES = len(KIND_NAMES) + len(COLOR_NAMES)


def dense_targets(scene: Scene) -> tuple[npt.NDArray[np.float32], npt.NDArray[np.float32], npt.NDArray[np.bool_]]:
    """Say what the cells near the middle of each thing should answer.

    Returns:
        Kind and colour `(kinds + colours, 12, 12)` in {0, 1}; distances `(4, 12, 12)` from the cell's centre to the
        left, top, right and bottom of the box, in parts of the image; and which cells answer `(12, 12)`.
    """
    side = scene.image.shape[0]
    y, x = np.mgrid[0:CELLS, 0:CELLS] / CELLS + 0.5 / CELLS
    classes = np.zeros((_CLASSES, CELLS, CELLS), np.float32)
    distances = np.zeros((4, CELLS, CELLS), np.float32)
    answers = np.zeros((CELLS, CELLS), bool)
    for thing in scene.things:
        x0, y0, x1, y1 = (v / side for v in thing.box_xyxy)
        near = (abs(x - (x0 + x1) / 2) < max(0.25 * (x1 - x0), 0.05)) & (
            abs(y - (y0 + y1) / 2) < max(0.25 * (y1 - y0), 0.05)
        )
        classes[:, near] = 0
        classes[KIND_NAMES.index(thing.kind), near] = 1
        classes[len(KIND_NAMES) + COLOR_NAMES.index(thing.color), near] = 1
        distances[:, near] = np.stack([x - x0, y - y0, x1 - x, y1 - y])[:, near]
        answers |= near
    return classes, distances, answers


def pretrain_backbone(
    backbone: ConvNextBackbone, world: SceneSet, work: Path, device: torch.device, steps: int
) -> None:
    """Train the backbone in place under a throw-away head; about 6 minutes for 2,000 steps on one core."""
    channels = sum(backbone.channels)
    answer = nn.Conv2d(128, _CLASSES + 4, 1)
    answer.bias = nn.Parameter(torch.tensor([-3.0] * _CLASSES + [0.0] * 4))  # most cells show nothing
    head = nn.Sequential(nn.Conv2d(channels, 128, 1), nn.GELU(), answer).to(device)
    targets = [dense_targets(scene) for scene in world.scenes]
    ticks = (torch.arange(CELLS, device=device) + 0.5) / CELLS
    centres = torch.stack(torch.meshgrid(ticks, ticks, indexing="xy"), -1)

    def loss_at(step: int) -> torch.Tensor:
        rng = np.random.default_rng((11, step))
        chosen = rng.choice(len(world.scenes), 32, replace=False)
        classes, distances, answers = (
            torch.from_numpy(np.stack(part)).to(device) for part in zip(*(targets[i] for i in chosen), strict=True)
        )
        with torch.autocast(device.type, torch.bfloat16):
            fine, coarse = backbone(to_pixels(world.images[chosen], IMAGENET, device)).feature_maps
            maps = head(torch.cat([fine, functional.interpolate(coarse, size=fine.shape[-2:])], 1)).float()
        count = answers.sum().clamp(min=1)
        focal: torch.Tensor = (
            torchvision.ops.sigmoid_focal_loss(maps[:, :_CLASSES], classes, alpha=0.5, gamma=1.5, reduction="sum")
            / count
        )
        found = functional.softplus(maps[:, _CLASSES:].permute(0, 2, 3, 1)[answers]) * 0.25
        true = distances.permute(0, 2, 3, 1)[answers]
        centre = centres.expand(len(chosen), -1, -1, -1)[answers]
        boxes = [torch.cat([centre - d[:, :2], centre + d[:, 2:]], 1) for d in (found, true)]
        overlap: torch.Tensor = torchvision.ops.generalized_box_iou_loss(*boxes, reduction="mean")
        return focal + 2 * overlap

    both = nn.ModuleDict({"backbone": backbone, "head": head})
    fit(
        "grounding-backbone",
        both,
        loss_at,
        steps=steps,
        lr=1e-3,
        work=work,
        warmup=50,
        flat=0.6,
        weight_decay=0.02,
        clip=2.0,
    )
