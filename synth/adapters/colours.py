"""Undo what an autoencoder does to the colours of a look that it was not trained on: drawings come out of it as its own pictures would.

Paper: https://arxiv.org/abs/2305.07015 (section 3.3, colour correction by the statistics of a reference)
Differs: what is corrected is measured once, on images of the look that went in and out, and is the same for all drawings.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from tilth.images import Image

GAINS = (0.5, 2.0)


@dataclass(frozen=True, kw_only=True)
class Colours:
    """What each channel is multiplied by, and what is added to it then, `(3,)` each."""

    gain: npt.NDArray[np.floating[Any]]
    offset: npt.NDArray[np.floating[Any]]

    def correct(self, image: Image) -> Image:
        """Return an image in the colours that it should have."""
        moved = image.astype(np.float32) * self.gain + self.offset
        return np.asarray(np.clip(moved, 0, 255).round(), np.uint8)


def colours_of(vae: Any, images: Sequence[Image]) -> Colours:
    """Send images of one size through an autoencoder, and return what gives each channel its mean and spread back.

    Args:
        vae: Of diffusers.
        images: Of the look, of a size that the model draws in.
    """
    import torch

    before, after = list[npt.NDArray[Any]](), list[npt.NDArray[Any]]()
    with torch.no_grad():
        for image in images:
            signed = torch.from_numpy(image.copy()).permute(2, 0, 1)[None].to(vae.device, vae.dtype) / 127.5 - 1
            coded = vae.encode(signed)
            # the small autoencoder gives latents, the large one a distribution of them
            latents = coded.latents if hasattr(coded, "latents") else coded.latent_dist.mode()
            decoded = vae.decode(latents).sample[0].permute(1, 2, 0).float().cpu().numpy()
            after.append((decoded.clip(-1, 1) + 1) * 127.5)
            before.append(image.astype(np.float32))
    own, came = (np.concatenate([each.reshape(-1, 3) for each in some]) for some in (before, after))
    gain = np.clip(own.std(0) / np.maximum(came.std(0), 1e-3), *GAINS)
    return Colours(gain=gain, offset=own.mean(0) - gain * came.mean(0))
