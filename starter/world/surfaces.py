"""The grounds that the things of the starter world lie on, painted from noise and arithmetic."""

from functools import lru_cache
from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt
from PIL import Image

Canvas: TypeAlias = npt.NDArray[np.floating[Any]]

SURFACES = {
    "wood": "on a wooden table",
    "grass": "on green grass",
    "sky": "in a blue sky",
    "brick": "against a brick wall",
    "sand": "on beach sand",
    "tile": "on white tiles",
}
"""Surface name -> how a caption says it."""


@lru_cache(maxsize=8)
def grid(side: int) -> tuple[Canvas, Canvas]:
    """Return x and y of every pixel of a square canvas, each `(side, side)` in [0, 1)."""
    y, x = np.mgrid[0:side, 0:side].astype(np.float32) / side
    return x, y


def _noise(rng: np.random.Generator, cells: int, side: int) -> Canvas:
    """Smooth noise in [0, 1], `(side, side)`, from `cells` x `cells` random values."""
    coarse = Image.fromarray((rng.random((cells, cells)) * 255).astype(np.uint8))
    return np.asarray(coarse.resize((side, side), Image.Resampling.BILINEAR), np.float32) / 255


def _wood(rng: np.random.Generator, side: int) -> Canvas:
    _, y = grid(side)
    phase, planks = rng.uniform(0, 9), rng.integers(3, 6)
    grain = 0.5 + 0.5 * np.sin(40 * y + 6 * _noise(rng, 6, side) + phase)
    shade = 0.85 + 0.2 * grain + 0.12 * (np.floor(y * planks + phase) % 2)
    shade *= np.where((y * planks + phase) % 1 < 0.04, 0.6, 1)
    return np.asarray(shade[..., None] * np.array([165, 110, 62], np.float32))


def _grass(rng: np.random.Generator, side: int) -> Canvas:
    shade = 0.65 + 0.3 * _noise(rng, 6, side) + 0.5 * (_noise(rng, 70, side) - 0.3)
    return np.asarray(shade[..., None] * np.array([95, 150, 55], np.float32))


def _sky(rng: np.random.Generator, side: int) -> Canvas:
    _, y = grid(side)
    y = y[..., None]
    blue = np.array([110, 170, 235], np.float32) * (1 - y) + np.array([200, 225, 245], np.float32) * y
    cloud = np.clip((_noise(rng, 5, side) - 0.55) * 5, 0, 1)[..., None]
    return np.asarray(blue * (1 - cloud) + 250 * cloud)


def _brick(rng: np.random.Generator, side: int) -> Canvas:
    x, y = grid(side)
    shift = rng.uniform(0, 1)
    row = np.floor(y * 8 + shift)
    along = x * 4 + 0.5 * (row % 2)
    tint = ((np.floor(along) * 7 + row * 13) % 5) / 5
    wall = (0.8 + 0.3 * tint)[..., None] * np.array([168, 82, 62], np.float32)
    wall[((y * 8 + shift) % 1 < 0.12) | (along % 1 < 0.06)] = (200, 190, 180)
    return np.asarray(wall)


def _sand(rng: np.random.Generator, side: int) -> Canvas:
    _, y = grid(side)
    soft = _noise(rng, 6, side)
    shade = 0.85 + 0.15 * soft + 0.12 * (_noise(rng, 90, side) - 0.5)
    shade *= 1 + 0.06 * np.sin(30 * (y + 0.3 * soft))
    return shade[..., None] * np.array([226, 200, 150], np.float32)


def _tile(rng: np.random.Generator, side: int) -> Canvas:
    x, y = grid(side)
    left, top = rng.uniform(0, 1, 2)
    floor = (0.92 + 0.1 * _noise(rng, 6, side))[..., None] * np.full(3, 232, np.float32)
    floor[((x * 5 + left) % 1 < 0.05) | ((y * 5 + top) % 1 < 0.05)] = (165, 170, 175)
    return floor


_PAINTERS = {"wood": _wood, "grass": _grass, "sky": _sky, "brick": _brick, "sand": _sand, "tile": _tile}


def paint(surface: str, style: str, rng: np.random.Generator, side: int) -> npt.NDArray[np.uint8]:
    """Paint one ground, `(side, side, 3)`."""
    ground = _PAINTERS[surface](rng, side) * np.float32(rng.uniform(0.85, 1.1))
    if style == "photo":  # light from one side
        x, y = grid(side)
        ground *= (1.1 - 0.35 * ((x - rng.random()) ** 2 + (y - rng.random()) ** 2))[..., None]
    elif style == "cartoon":  # few tones
        ground = np.round(ground / 48) * 48 + 12
    elif style == "sketch":  # pale paper
        grey = ground.mean(-1, keepdims=True)
        ground = 0.09 * ground + 179.5 + 0.18 * grey
    elif style == "neon":  # night
        ground = ground * 0.16 + np.array([8, 4, 22], np.float32)
    elif style == "blueprint":  # blue paper, ruled in squares
        ground = np.array([20, 54, 126], np.float32) + ground.mean(-1, keepdims=True) * np.float32(0.12)
        x, y = grid(side)
        left, top = rng.random(2)
        ground[((x * 10 + left) % 1 < 0.06) | ((y * 10 + top) % 1 < 0.06)] += (16, 20, 24)
    return np.clip(ground, 0, 255).astype(np.uint8)
