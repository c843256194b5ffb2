"""Random views of a batch, the same for images and their boxes: mirrored, moved, turned, in other light, worn by copying."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from tilth.engine.steps import group

if TYPE_CHECKING:
    import torch

KEPT_SHARE = 0.35  # of a box's area that must stay in view, else the box is forgotten


@group
class Views:
    """How far a view of an image may be from the image.

    Args:
        flip: Chance to be mirrored; 0 where left and right matter, as for writing.
        zoom: Share by which things grow or shrink at most.
        shift: Share of the side by which they move at most.
        turn: Degrees by which they are turned at most, to either side; boxes grow around what is turned.
        colour: Strength of changes in light, contrast and saturation: 0 for none, 1 for what photographs differ by.
        grey: Chance to lose all colour.
        blur: Chance to be out of focus.
        jpeg: Chance to be compressed, as what is passed on many times is.
        erase: Chance that a rectangle of a fiftieth to a fifth of the image is grey.
    """

    flip: float = 0.5
    zoom: float = 0.2
    shift: float = 0.12
    turn: float = 0.0
    colour: float = 1.0
    grey: float = 0.0
    blur: float = 0.0
    jpeg: float = 0.0
    erase: float = 0.0

    def __post_init__(self) -> None:
        """Check the settings."""
        for name, value, most in (
            ("flip", self.flip, 1), ("zoom", self.zoom, 0.9), ("shift", self.shift, 0.9), ("turn", self.turn, 180),
            ("colour", self.colour, 2), ("grey", self.grey, 1), ("blur", self.blur, 1), ("jpeg", self.jpeg, 1), ("erase", self.erase, 1),
        ):  # fmt: skip
            if not 0 <= value <= most:
                raise ValueError(f"{name} must lie in [0, {most}], got {value}")


USUAL = Views()


def to_unit(images: npt.NDArray[np.uint8], device: str) -> "torch.Tensor":
    """Turn `(n, h, w, 3)` uint8 into `(n, 3, h, w)` float in [0, 1]."""
    import torch

    return torch.from_numpy(np.ascontiguousarray(images)).to(device).permute(0, 3, 1, 2).float() / 255


@dataclass(frozen=True, kw_only=True)
class Moves:
    """Where each of n images is moved to: mirrored, turned and scaled about its middle, shifted.

    Args:
        flips: Which are mirrored, `(n,)`.
        scales: `(n,)`; above 1 things grow.
        shifts: To the right and down, in parts of the side, `(n, 2)`.
        turns: Clockwise, in radians, `(n,)`.
    """

    flips: npt.NDArray[np.bool_]
    scales: npt.NDArray[np.float64]
    shifts: npt.NDArray[np.float64]
    turns: npt.NDArray[np.float64]

    def of(self, part: slice) -> "Moves":
        """Return the moves of some of the images."""
        return Moves(flips=self.flips[part], scales=self.scales[part], shifts=self.shifts[part], turns=self.turns[part])

    def image(self, x: "torch.Tensor", *, mode: str = "bilinear", padding: str = "reflection") -> "torch.Tensor":
        """Move images or maps `(n, c, h, w)`; `padding` is what lies beyond their edges: reflection, or zeros."""
        import torch
        from torch.nn import functional as F  # noqa: N812 - the name everybody knows

        theta = np.zeros((len(x), 2, 3), np.float32)
        mirror = np.where(self.flips, -1, 1)
        cos, sin = np.cos(self.turns) / self.scales, np.sin(self.turns) / self.scales
        # grid_sample looks up where each output pixel comes from, in coordinates of [-1, 1]
        theta[:, :, 0] = np.stack([mirror * cos, -sin], 1)
        theta[:, :, 1] = np.stack([mirror * sin, cos], 1)
        theta[:, :, 2] = -2 * (theta[:, :, :2] @ self.shifts[:, :, None])[..., 0]
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
            b -= 0.5
            if turn := self.turns[i]:
                middle, half = (b[:, :2] + b[:, 2:]) / 2, (b[:, 2:] - b[:, :2]) / 2
                spin = np.array([[np.cos(turn), -np.sin(turn)], [np.sin(turn), np.cos(turn)]], np.float32)
                middle, half = middle @ spin.T, half @ np.abs(spin).T
                b = np.concatenate([middle - half, middle + half], 1)
            b = b * self.scales[i] + 0.5 + np.tile(self.shifts[i], 2).astype(np.float32)
            whole = np.maximum((b[:, 2] - b[:, 0]) * (b[:, 3] - b[:, 1]), 1e-9)
            b = np.clip(b, 0, 1).astype(np.float32)
            seen.append((b[:, 2] - b[:, 0]) * (b[:, 3] - b[:, 1]) / whole > KEPT_SHARE)
            out.append(b)
        return out, seen


def draw_moves(n: int, rng: np.random.Generator, how: Views = USUAL) -> Moves:
    """Draw moves of n images."""
    flips, scales = rng.random(n) < how.flip, rng.uniform(1 - how.zoom, 1 + how.zoom, n)
    shifts = rng.uniform(-how.shift, how.shift, (n, 2))
    turns = np.deg2rad(rng.uniform(-how.turn, how.turn, n)) if how.turn else np.zeros(n)
    return Moves(flips=flips, scales=scales, shifts=shifts, turns=turns)


def views(
    x: "torch.Tensor",
    boxes: Sequence[npt.NDArray[np.float32]],
    rng: np.random.Generator,
    part: slice | None = None,
    n: int = 0,
    how: Views = USUAL,
) -> "tuple[torch.Tensor, list[npt.NDArray[np.float32]], list[npt.NDArray[np.bool_]]]":
    """Draw one view of each image.

    Args:
        x: `(n, 3, h, w)` in [0, 1].
        boxes: `(k, 4)` xyxy in parts of the image, for each image.
        rng: Decides the view.
        part: Which of `n` images these are; the views of all are drawn, so that each is the same wherever it is made.
        n: Number of all images.
        how: How far they are from their images.

    Returns:
        The views, their boxes cut at the edges, and which boxes are still in view.
    """
    part, n = part or slice(None), n or len(x)
    moves = draw_moves(n, rng, how).of(part)
    moved, seen = moves.boxes(boxes)
    made = worn(recolor(moves.image(x), rng, part, n, how.colour), rng, part, n, how)
    if how.erase:
        for i, hole in erase(made, rng, part, n, how.erase).items():
            seen[i] &= _covered(moved[i], hole) < 1 - KEPT_SHARE
    return made, moved, seen


def recolor(
    x: "torch.Tensor", rng: np.random.Generator, part: slice | None = None, n: int = 0, strength: float = 1.0
) -> "torch.Tensor":
    """Change saturation, contrast and light of each of n images in [0, 1], of which `x` may be a part."""
    import torch

    def draw(low: float, high: float) -> torch.Tensor:
        drawn = 1 + strength * (rng.uniform(low, high, (n or len(x), 1, 1, 1))[part or slice(None)] - 1)
        return torch.from_numpy(drawn.astype(np.float32)).to(x.device)

    grey = x.mean(1, keepdim=True)
    x = grey + (x - grey) * draw(0.5, 1.4)
    middle = x.mean((1, 2, 3), keepdim=True)
    x = (middle + (x - middle) * draw(0.7, 1.35)) * draw(0.75, 1.25)
    return x.clamp(0, 1)


def worn(x: "torch.Tensor", rng: np.random.Generator, part: slice, n: int, how: Views) -> "torch.Tensor":
    """Take colour, focus or detail away from some of n images in [0, 1], of which `x` is a part."""
    if not (how.grey or how.blur or how.jpeg):
        return x
    from torchvision.transforms.v2 import functional as tv

    side = max(x.shape[-2:])
    if how.grey:
        for i in np.flatnonzero(rng.random(n)[part] < how.grey):
            x[i] = tv.rgb_to_grayscale(x[i], num_output_channels=3)
    if how.blur:
        chosen, sigmas = rng.random(n)[part] < how.blur, rng.uniform(0.1, 0.2 + 0.01 * side, n)[part]
        for i in np.flatnonzero(chosen):
            x[i] = tv.gaussian_blur(x[i], [2 * int(np.ceil(2 * sigmas[i])) + 1] * 2, [float(sigmas[i])] * 2)
    if how.jpeg:
        chosen, qualities = rng.random(n)[part] < how.jpeg, rng.integers(15, 90, n)[part]
        for i in np.flatnonzero(chosen):
            packed = tv.jpeg((x[i] * 255).round().byte().cpu(), int(qualities[i]))
            x[i] = packed.to(x.device).float() / 255
    return x


def erase(
    x: "torch.Tensor", rng: np.random.Generator, part: slice, n: int, chance: float
) -> dict[int, npt.NDArray[Any]]:
    """Make a rectangle of some of n images grey, in `x`, which is a part of them.

    Returns:
        For each such image where, `(4,)` xyxy in parts of the image.
    """
    h, w = x.shape[-2:]
    chosen, drawn = rng.random(n)[part] < chance, rng.random((n, 4))[part]
    holes: dict[int, npt.NDArray[Any]] = {}
    for i in np.flatnonzero(chosen):
        area, stretch = 0.02 + 0.18 * drawn[i, 0], 3 ** (drawn[i, 1] - 0.5)
        wide, tall = max(1, round(w * area**0.5 * stretch)), max(1, round(h * area**0.5 / stretch))
        left, top = int(drawn[i, 2] * (w - wide + 1)), int(drawn[i, 3] * (h - tall + 1))
        x[i, :, top : top + tall, left : left + wide] = 0.5
        holes[int(i)] = np.array([left / w, top / h, (left + wide) / w, (top + tall) / h])
    return holes


def _covered(boxes: npt.NDArray[np.float32], hole: npt.NDArray[Any]) -> npt.NDArray[Any]:
    """Return the share of each box that a rectangle covers, all xyxy."""
    sides = np.minimum(boxes[:, 2:], hole[2:]) - np.maximum(boxes[:, :2], hole[:2])
    return np.asarray(sides.clip(0).prod(1) / (boxes[:, 2:] - boxes[:, :2]).prod(1).clip(1e-9))
