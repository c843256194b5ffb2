"""From images to the pixels that models take, and how to roughen them for training."""

import numpy as np
import numpy.typing as npt
import torch
from torch.nn import functional

Channels = tuple[float, float, float]

IMAGENET: tuple[Channels, Channels] = ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))
CLIP: tuple[Channels, Channels] = ((0.48145466, 0.4578275, 0.40821073), (0.26862954, 0.26130258, 0.27577711))
"""Mean and deviation of red, green and blue in [0, 1]."""


def to_pixels(images: npt.NDArray[np.uint8], mean_std: tuple[Channels, Channels], device: torch.device) -> torch.Tensor:
    """Turn images `(n, side, side, 3)` into normalised pixels `(n, 3, side, side)`."""
    mean, std = (torch.tensor(values, device=device)[:, None, None] for values in mean_std)
    pixels = torch.from_numpy(np.array(images)).to(device).permute(0, 3, 1, 2).float() / 255
    return (pixels - mean) / std


def roughen(pixels: torch.Tensor, rng: np.random.Generator, *, smallest: float = 0.6) -> torch.Tensor:
    """Vary the light of each image and the sharpness of the batch, as in images that were generated or resized.

    Args:
        pixels: Normalised pixels `(n, 3, side, side)`.
        rng: Draws what to do.
        smallest: Least part of the side that a batch is shrunk to before it is enlarged again.
    """
    side = pixels.shape[-1]
    if rng.random() < 0.35:
        low = int(rng.integers(round(smallest * side), side))
        small = functional.interpolate(pixels, size=low, mode="bilinear", antialias=True)
        pixels = functional.interpolate(small, size=side, mode="bilinear")
    if rng.random() < 0.4:
        contrast, light = (0.1 * torch.randn((len(pixels), 1, 1, 1), device=pixels.device) for _ in range(2))
        pixels = pixels * (1 + contrast) + light
    return pixels
