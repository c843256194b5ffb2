"""The miniature's autoencoder: 64 px pictures to 16 x 16 x 4 latents.

Paper: https://github.com/madebyollin/taesd (AutoencoderTiny has no paper of its own)
Differs: four times smaller each way instead of eight, and trained from nothing on L1, gradient and size of the latents.
"""

from pathlib import Path

import numpy as np
import numpy.typing as npt
import torch
from diffusers import AutoencoderTiny

from tilth.engine.fit import fit
from tilth.starter.world.sets import scene_set

SIDE = 64
STEPS = 1200


def to_signed(images: npt.NDArray[np.uint8]) -> torch.Tensor:
    """Turn `(n, h, w, 3)` uint8 into `(n, 3, h, w)` float in [-1, 1]."""
    return torch.from_numpy(np.array(images)).permute(0, 3, 1, 2).float() / 127.5 - 1


def new_autoencoder() -> AutoencoderTiny:
    """Return an untrained autoencoder of 0.3 million parameters."""
    return AutoencoderTiny(
        encoder_block_out_channels=(40, 40, 40),
        decoder_block_out_channels=(40, 40, 40),
        num_encoder_blocks=(1, 2, 2),
        num_decoder_blocks=(2, 2, 1),
        latent_channels=4,
    )


def _gradients(x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    return x[..., 1:, :] - x[..., :-1, :], x[..., 1:] - x[..., :-1]


def train_autoencoder(work: Path, device: torch.device, steps: int | None = None) -> AutoencoderTiny:
    """Train, and set `scaling_factor` so that latents have unit variance."""
    images = scene_set(work / "sets", "train", 3000, side=SIDE).images
    torch.manual_seed(0)
    model = new_autoencoder().to(device)
    bf16 = device.type != "mps"

    def loss_at(step: int) -> torch.Tensor:
        rng = np.random.default_rng((10, step))
        x = to_signed(images[np.sort(rng.integers(0, len(images), 16))]).to(device)
        x = x.flip(3) if step % 2 else x
        with torch.autocast(device.type, torch.bfloat16, enabled=bf16):
            latents = model.encode(x).latents
            y = model.decode(latents + 0.05 * torch.randn_like(latents)).sample
        y = y.float()
        sharp = sum((a - b).abs().mean() for a, b in zip(_gradients(y), _gradients(x), strict=True))
        loss: torch.Tensor = (y - x).abs().mean() + 0.3 * sharp + 1e-3 * latents.float().pow(2).mean()
        return loss

    fit("autoencoder", model, loss_at, steps=steps or STEPS, lr=1.5e-3, work=work, warmup=30, weight_decay=1e-4)
    with torch.no_grad():
        latents = model.encode(to_signed(images[:512]).to(device)).latents
    model.register_to_config(scaling_factor=1 / latents.std().item())
    return model.eval()
