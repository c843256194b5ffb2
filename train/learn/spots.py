"""Boxes teach a classifier where to look: every place of its last feature map learns what lies there, beside the image as a whole.

A transformer that is only told what an image shows must find out by itself which patches matter, and needs many images for it. Where
boxes are known, each patch gets their labels through a head of its own, which is thrown away after training.

Paper: https://arxiv.org/abs/2104.10858 (token labeling)
Differs: labels come from boxes and not from a teacher's score map.
"""

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch import nn
from torch.nn import functional as F  # noqa: N812 - the name everybody knows

from tilth.train.artifacts.artifact import any_size
from tilth.train.learn.examples import Example

EMPTY_WEIGHT = 0.5  # of all places where nothing lies, against all where something does


class Spots(nn.Module):
    """The head: scores of the labels at every place.

    Args:
        width: Of the features.
        labels: Number of labels.
        patches: Places that the model's tokens stand for; tokens before them (class, registers) are skipped.
    """

    def __init__(self, width: int, labels: int, patches: int) -> None:
        super().__init__()
        self.patches = patches
        self.norm, self.head = nn.LayerNorm(width), nn.Linear(width, labels)

    def forward(self, features: torch.Tensor) -> torch.Tensor:
        """Turn tokens `(n, t, d)` or a map `(n, d, h, w)` into logits `(n, places, labels)`."""
        if features.ndim == 4:
            features = features.flatten(2).transpose(1, 2)
        logits: torch.Tensor = self.head(self.norm(features[:, features.shape[1] - self.patches :].float()))
        return logits


def spots_of(model: Any, side: int, labels: int) -> Spots | None:
    """Return a head for a model's last feature map; None when it has none that is square."""
    model.eval()
    with torch.no_grad():
        told = model(pixel_values=torch.zeros(1, 3, side, side), output_hidden_states=True, **any_size(model, side))
    model.train()
    features = told.hidden_states[-1] if told.hidden_states else None
    if features is None or features.ndim not in (3, 4):
        return None
    tokens = features.shape[1] if features.ndim == 3 else features[0, 0].numel()
    edge = int(np.sqrt(tokens))
    return Spots(features.shape[2 if features.ndim == 3 else 1], labels, edge * edge)


def spots_loss(
    logits: torch.Tensor, rows: Sequence[Example], boxes: Sequence[Any], seen: Sequence[Any], weights: torch.Tensor
) -> torch.Tensor:
    """Compare every place with the boxes over it.

    Args:
        logits: `(n, places, labels)`.
        rows: What is known of each image.
        boxes: `(k, 4)` xyxy in parts of the view, for the labels that have one.
        seen: Which of them are in view.
        weights: How much each label of each image counts, `(n, labels)`.
    """
    n, places, labels = logits.shape
    edge = int(np.sqrt(places))
    centres = (np.arange(edge) + 0.5) / edge
    truth = np.zeros((n, edge, edge, labels), np.float32)
    unplaced = np.zeros((n, labels), np.float32)
    for i, row in enumerate(rows):
        unplaced[i, [label for label, box in zip(row.labels, row.boxes, strict=True) if box is None]] = 1
        placed = [label for label, box in zip(row.labels, row.boxes, strict=True) if box is not None]
        for label, (x0, y0, x1, y1), there in zip(placed, boxes[i], seen[i], strict=True):
            if there:
                across, down = (centres >= x0) & (centres <= x1), (centres >= y0) & (centres <= y1)
                truth[i, :, :, label][np.ix_(down, across)] = 1
    target = torch.from_numpy(truth.reshape(n, places, labels)).to(logits.device)
    counted = weights[:, None] * (1 - torch.from_numpy(unplaced).to(logits.device))[:, None]
    each = F.binary_cross_entropy_with_logits(logits, target, reduction="none") * counted
    there, empty = (counted * target).sum(), (counted * (1 - target)).sum()
    return (each * target).sum() / there.clamp(min=1) + EMPTY_WEIGHT * (each * (1 - target)).sum() / empty.clamp(min=1)
