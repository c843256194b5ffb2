"""A LoRA that teaches the miniature Stable Diffusion the style that it was never shown, from 120 images.

Paper: https://arxiv.org/abs/2106.09685 (LoRA), https://arxiv.org/abs/2208.12242 (section 3.2, prior preservation)
Differs: the images that preserve what the model knew are rendered ones of the styles it was trained on, not its own.
"""

from pathlib import Path

import numpy as np
import torch
from diffusers import StableDiffusionPipeline

from tilth.engine.fit import fit
from tilth.starter.diffusion.autoencoder import SIDE
from tilth.starter.diffusion.judge import agreement
from tilth.starter.diffusion.train import (
    SCENES,
    STYLES,
    held_out_prompts,
    latents_of,
    noise_onto,
    noise_schedule,
    sample,
    short_caption,
    token_ids,
    weighted_v_loss,
)
from tilth.starter.world.sets import scene_set
from tilth.synth.adapters.lora import adapter_of, save_adapter, with_adapter

STYLE = "neon"
IMAGES, KEPT = 120, 600
STEPS = 700
BATCH, OF_STYLE = 24, 20
LAYERS = ["to_q", "to_k", "to_v", "to_out.0", "conv1", "conv2", "conv_in", "conv_out", "proj_in", "proj_out"]


def train(out: Path, work: Path, device: torch.device, steps: int | None) -> dict[str, float]:
    """Train the adapter, save it as `out/lora-neon`, and score neon prompts before and after."""
    pipeline = StableDiffusionPipeline.from_pretrained(out / "diffusion", dtype=torch.float32).to(device)
    pipeline.set_progress_bar_config(disable=True)
    asked = held_out_prompts(120, (STYLE,))
    before = agreement(out, sample(pipeline, asked), asked)
    new = scene_set(work / "sets", "train", IMAGES, side=SIDE, styles=(STYLE,), single=True)
    known = scene_set(work / "sets", "train", SCENES, side=SIDE, styles=STYLES, single=True)
    scenes = new.scenes + known.scenes[:KEPT]
    latents = latents_of(pipeline.vae, np.concatenate([new.images, known.images[:KEPT]]), device)
    unet = with_adapter(pipeline, rank=12, targets=LAYERS, seed=4)
    alphas = noise_schedule().alphas_cumprod.to(device)

    def loss_at(step: int) -> torch.Tensor:
        rng = np.random.default_rng((60, step))
        chosen = np.append(rng.integers(0, IMAGES, OF_STYLE), IMAGES + rng.integers(0, KEPT, BATCH - OF_STYLE))
        chosen = rng.permutation(chosen)  # times rise along the batch
        ids = token_ids(pipeline.tokenizer, [short_caption(scenes[i], rng) for i in chosen], device)
        noised = noise_onto(latents[chosen, rng.integers(0, 2, BATCH)].float().to(device), alphas)
        with torch.no_grad():
            states = pipeline.text_encoder(ids)[0]
        with torch.autocast(device.type, torch.bfloat16):
            predicted = unet(noised.latents, noised.times, states).sample
        return weighted_v_loss(predicted, noised)

    fit("lora-neon", unet, loss_at, steps=steps or STEPS, lr=2e-3, work=work, warmup=20, save_every=250)
    save_adapter({name: weight.half() for name, weight in adapter_of(unet).items()}, out / "lora-neon")
    after = agreement(out, sample(pipeline, asked), asked)
    return {f"{name}_before": value for name, value in before.items()} | {f"{n}_after": v for n, v in after.items()}
