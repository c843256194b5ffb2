"""Random views of a batch, the same for images and their boxes: flip, zoom, shift, light and colour."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch
from torch.nn import functional as F  # noqa: N812 - the name everybody knows

KEPT_SHARE = 0.35  # of a box's area that must stay in view, else the box is forgotten


def to_unit(images: npt.NDArray[np.uint8], device: str) -> torch.Tensor:
    """Turn `(n, h, w, 3)` uint8 into `(n, 3, h, w)` float in [0, 1]."""
    return torch.from_numpy(np.ascontiguousarray(images)).to(device).permute(0, 3, 1, 2).float() / 255


@dataclass(frozen=True, kw_only=True)
class Moves:
    """Where each of n images is moved to: mirrored, scaled about its middle, shifted.

    Args:
        flips: Which are mirrored, `(n,)`.
        scales: `(n,)`; above 1 things grow.
        shifts: To the right and down, in parts of the side, `(n, 2)`.
    """

    flips: npt.NDArray[np.bool_]
    scales: npt.NDArray[np.float64]
    shifts: npt.NDArray[np.float64]

    def of(self, part: slice) -> "Moves":
        """Return the moves of some of the images."""
        return Moves(flips=self.flips[part], scales=self.scales[part], shifts=self.shifts[part])

    def image(self, x: torch.Tensor, *, mode: str = "bilinear", padding: str = "reflection") -> torch.Tensor:
        """Move images or maps `(n, c, h, w)`; `padding` is what lies beyond their edges: reflection, or zeros."""
        theta = np.zeros((len(x), 2, 3), np.float32)
        mirror = np.where(self.flips, -1, 1)
        theta[:, 0, 0] = mirror / self.scales
        theta[:, 1, 1] = 1 / self.scales
        # grid_sample looks up where each output pixel comes from, in coordinates of [-1, 1]
        theta[:, 0, 2] = -2 * self.shifts[:, 0] / self.scales * mirror
        theta[:, 1, 2] = -2 * self.shifts[:, 1] / self.scales
        grid = F.affine_grid(torch.from_numpy(theta).to(x.device), list(x.shape), align_corners=False)
        return F.grid_sample(x, grid, mode=mode, padding_mode=padding, align_corners=False)

    def boxes(
        self, boxes: Sequence[npt.NDArray[np.float32]]
    ) -> tuple[list[npt.NDArray[np.float32]], list[npt.NDArray[np.bool_]]]:
        """Move the boxes of each image, `(k, 4)` xyxy in parts of it; return them cut at the edges, and which are still in view."""
        out, seen = [], []
        for i, own in enumerate(boxes):
            b = own.copy()
            if self.flips[i]:
                b[:, [0, 2]] = 1 - b[:, [2, 0]]
            b = (b - 0.5) * self.scales[i] + 0.5 + np.tile(self.shifts[i], 2).astype(np.float32)
            whole = np.maximum((b[:, 2] - b[:, 0]) * (b[:, 3] - b[:, 1]), 1e-9)
            b = np.clip(b, 0, 1).astype(np.float32)
            seen.append((b[:, 2] - b[:, 0]) * (b[:, 3] - b[:, 1]) / whole > KEPT_SHARE)
            out.append(b)
        return out, seen


def draw_moves(n: int, rng: np.random.Generator) -> Moves:
    """Draw moves of n images."""
    return Moves(flips=rng.random(n) < 0.5, scales=rng.uniform(0.8, 1.2, n), shifts=rng.uniform(-0.12, 0.12, (n, 2)))


def views(
    x: torch.Tensor,
    boxes: Sequence[npt.NDArray[np.float32]],
    rng: np.random.Generator,
    part: slice | None = None,
    n: int = 0,
) -> tuple[torch.Tensor, list[npt.NDArray[np.float32]], list[npt.NDArray[np.bool_]]]:
    """Draw one view of each image.

    Args:
        x: `(n, 3, h, w)` in [0, 1].
        boxes: `(k, 4)` xyxy in parts of the image, for each image.
        rng: Decides the view.
        part: Which of `n` images these are; the views of all are drawn, so that each is the same wherever it is made.
        n: Number of all images.

    Returns:
        The views, their boxes cut at the edges, and which boxes are still in view.
    """
    part, n = part or slice(None), n or len(x)
    moves = draw_moves(n, rng).of(part)
    moved, seen = moves.boxes(boxes)
    return recolor(moves.image(x), rng, part, n), moved, seen


def recolor(x: torch.Tensor, rng: np.random.Generator, part: slice | None = None, n: int = 0) -> torch.Tensor:
    """Change saturation, contrast and light of each of n images in [0, 1], of which `x` may be a part."""

    def draw(low: float, high: float) -> torch.Tensor:
        drawn = rng.uniform(low, high, (n or len(x), 1, 1, 1))[part or slice(None)]
        return torch.from_numpy(drawn.astype(np.float32)).to(x.device)

    grey = x.mean(1, keepdim=True)
    x = grey + (x - grey) * draw(0.5, 1.4)
    middle = x.mean((1, 2, 3), keepdim=True)
    x = (middle + (x - middle) * draw(0.7, 1.35)) * draw(0.75, 1.25)
    return x.clamp(0, 1)
