"""A ControlNet that makes the miniature Stable Diffusion follow the edges of a picture.

Paper: https://arxiv.org/abs/2302.05543
"""

import inspect
from pathlib import Path

import numpy as np
import numpy.typing as npt
import torch
from diffusers import ControlNetModel, StableDiffusionControlNetPipeline, StableDiffusionPipeline, UNet2DConditionModel
from PIL import Image

from tilth.engine.fit import fit
from tilth.starter.diffusion.autoencoder import SIDE
from tilth.starter.diffusion.judge import Asked, agreement
from tilth.starter.diffusion.train import (
    SCENES,
    STYLES,
    latents_of,
    noise_onto,
    noise_schedule,
    sample,
    short_caption,
    token_ids,
    weighted_v_loss,
)
from tilth.starter.world.scene import COLORS
from tilth.starter.world.sets import scene_set
from tilth.synth.draw.controls import edges_of

STEPS = 1200
BATCH = 24
HELD_OUT = 120
WORDLESS = 0.3  # share of images shown without caption, so that shapes are read off the edges (the paper has a half)


def new_controlnet(unet: UNet2DConditionModel) -> ControlNetModel:
    """Return a ControlNet that starts as the encoder of a U-Net and adds nothing yet.

    `ControlNetModel.from_unet` leaves out the number of heads that the text's part of the time embedding has.
    """
    known = set(inspect.signature(ControlNetModel.__init__).parameters)
    shared = {name: value for name, value in unet.config.items() if name in known}
    controlnet = ControlNetModel(
        **shared, conditioning_embedding_out_channels=(16, 32, 64)
    )  # as deep as the autoencoder
    for name in ("conv_in", "time_embedding", "add_embedding", "down_blocks", "mid_block"):
        getattr(controlnet, name).load_state_dict(getattr(unet, name).state_dict())
    return controlnet


def all_edges(images: npt.NDArray[np.uint8]) -> npt.NDArray[np.uint8]:
    """Return the edges of images, `(n, 64, 64)`: 255 on them, 0 elsewhere."""
    return np.stack([edges_of(image, (SIDE, SIDE))[..., 0] for image in images])


def edges_kept(images: npt.NDArray[np.uint8], wanted: npt.NDArray[np.uint8]) -> float:
    """Return the mean share of wanted edge pixels that have an edge within one pixel of the image's own."""
    shares = []
    for own, edge in zip(all_edges(images) > 127, wanted > 127, strict=True):
        near = np.pad(own, 1)
        near = np.any(
            [near[1 + dy : SIDE + 1 + dy, 1 + dx : SIDE + 1 + dx] for dy in (-1, 0, 1) for dx in (-1, 0, 1)], 0
        )
        shares.append(near[edge].mean() if edge.any() else 1.0)
    return round(float(np.mean(shares)), 3)


def train(out: Path, work: Path, device: torch.device, steps: int | None) -> dict[str, float]:
    """Train the ControlNet, save it as `out/controlnet`, and score held-out prompts with and without edges."""
    pipeline = StableDiffusionPipeline.from_pretrained(out / "diffusion", dtype=torch.float32).to(device)
    pipeline.set_progress_bar_config(disable=True)
    data = scene_set(work / "sets", "train", SCENES, side=SIDE, styles=STYLES, single=True)
    latents, edges = latents_of(pipeline.vae, data.images, device), all_edges(data.images)
    unet = pipeline.unet.requires_grad_(False)
    pipeline.text_encoder.requires_grad_(False)
    torch.manual_seed(5)
    controlnet = new_controlnet(unet).to(device)
    alphas = noise_schedule().alphas_cumprod.to(device)

    def loss_at(step: int) -> torch.Tensor:
        rng = np.random.default_rng((61, step))
        chosen, mirrored = rng.integers(0, len(latents), BATCH), rng.integers(0, 2, BATCH)
        texts = ["" if rng.random() < WORDLESS else short_caption(data.scenes[i], rng) for i in chosen]
        ids = token_ids(pipeline.tokenizer, texts, device)
        lines = np.stack([edges[i][:, ::-1] if m else edges[i] for i, m in zip(chosen, mirrored, strict=True)])
        along = torch.from_numpy(lines).float().div(255)[:, None].expand(-1, 3, -1, -1).to(device)
        noised = noise_onto(latents[chosen, mirrored].float().to(device), alphas)
        with torch.autocast(device.type, torch.bfloat16):
            with torch.no_grad():
                states = pipeline.text_encoder(ids)[0]
            down, middle = controlnet(noised.latents, noised.times, states, along, return_dict=False)
            predicted = unet(
                noised.latents,
                noised.times,
                states,
                down_block_additional_residuals=down,
                mid_block_additional_residual=middle,
            ).sample
        return weighted_v_loss(predicted, noised)

    fit("controlnet", controlnet, loss_at, steps=steps or STEPS, lr=5e-4, work=work, warmup=50, save_every=200)
    controlnet.eval().half().save_pretrained(out / "controlnet")
    return score(out, work, pipeline, controlnet.float())


def score(out: Path, work: Path, pipeline: StableDiffusionPipeline, controlnet: ControlNetModel) -> dict[str, float]:
    """Ask for held-out scenes in other colours, along their edges and from words alone."""
    held_out = scene_set(work / "sets", "held_out", HELD_OUT, side=SIDE, styles=STYLES, single=True)
    rng = np.random.default_rng(78)
    asked = [Asked(s.things[0].kind, str(rng.choice(list(COLORS))), s.surface, s.style) for s in held_out.scenes]
    wanted = all_edges(held_out.images)
    along = [Image.fromarray(edge).convert("RGB") for edge in wanted]
    controlled = StableDiffusionControlNetPipeline.from_pipe(pipeline, controlnet=controlnet, vae=pipeline.vae)
    controlled.set_progress_bar_config(disable=True)
    result: dict[str, float] = {}
    for name, images in {
        "words": sample(pipeline, asked),
        "edges": sample(controlled, asked, along=along),
    }.items():
        told = agreement(out, images, asked) | {"edges_kept": edges_kept(images, wanted)}
        result |= {f"{what}_{name}": value for what, value in told.items()}
    return result
