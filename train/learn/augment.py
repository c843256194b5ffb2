"""Random views of a batch, the same for images and their boxes: flip, zoom, shift, light and colour."""

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt
import torch
from torch.nn import functional as F  # noqa: N812 - the name everybody knows

KEPT_SHARE = 0.35  # of a box's area that must stay in view, else the box is forgotten


def to_unit(images: npt.NDArray[np.uint8], device: str) -> torch.Tensor:
    """Turn `(n, h, w, 3)` uint8 into `(n, 3, h, w)` float in [0, 1]."""
    return torch.from_numpy(np.ascontiguousarray(images)).to(device).permute(0, 3, 1, 2).float() / 255


def views(
    x: torch.Tensor,
    boxes: Sequence[npt.NDArray[np.float32]],
    rng: np.random.Generator,
    *,
    zoom: tuple[float, float] = (0.8, 1.2),
) -> tuple[torch.Tensor, list[npt.NDArray[np.float32]], list[npt.NDArray[np.bool_]]]:
    """Draw one view of each image.

    Args:
        x: `(n, 3, h, w)` in [0, 1].
        boxes: `(k, 4)` xyxy in parts of the image, for each image.
        rng: Decides the view.
        zoom: Range of the scale.

    Returns:
        The views, their boxes cut at the edges, and which boxes are still in view.
    """
    n = len(x)
    flips = rng.random(n) < 0.5
    scales = rng.uniform(*zoom, n)
    shifts = rng.uniform(-0.12, 0.12, (n, 2))
    theta = np.zeros((n, 2, 3), np.float32)
    theta[:, 0, 0] = np.where(flips, -1, 1) / scales
    theta[:, 1, 1] = 1 / scales
    # grid_sample looks up where each output pixel comes from, in coordinates of [-1, 1]
    theta[:, 0, 2] = -2 * shifts[:, 0] / scales * np.where(flips, -1, 1)
    theta[:, 1, 2] = -2 * shifts[:, 1] / scales
    grid = F.affine_grid(torch.from_numpy(theta).to(x.device), list(x.shape), align_corners=False)
    moved = F.grid_sample(x, grid, mode="bilinear", padding_mode="reflection", align_corners=False)
    out, seen = [], []
    for i, own in enumerate(boxes):
        b = own.copy()
        if flips[i]:
            b[:, [0, 2]] = 1 - b[:, [2, 0]]
        b = (b - 0.5) * scales[i] + 0.5 + np.tile(shifts[i], 2).astype(np.float32)
        whole = np.maximum((b[:, 2] - b[:, 0]) * (b[:, 3] - b[:, 1]), 1e-9)
        b = np.clip(b, 0, 1).astype(np.float32)
        seen.append((b[:, 2] - b[:, 0]) * (b[:, 3] - b[:, 1]) / whole > KEPT_SHARE)
        out.append(b)
    return _colors(moved, rng), out, seen


def _colors(x: torch.Tensor, rng: np.random.Generator) -> torch.Tensor:
    def draw(low: float, high: float) -> torch.Tensor:
        return torch.from_numpy(rng.uniform(low, high, (len(x), 1, 1, 1)).astype(np.float32)).to(x.device)

    grey = x.mean(1, keepdim=True)
    x = grey + (x - grey) * draw(0.5, 1.4)
    middle = x.mean((1, 2, 3), keepdim=True)
    x = (middle + (x - middle) * draw(0.7, 1.35)) * draw(0.75, 1.25)
    return x.clamp(0, 1)
