"""A miniature Stable Diffusion that draws one thing of the world at 64 px.

Paper: https://arxiv.org/abs/2112.10752 (latent diffusion), https://arxiv.org/abs/2202.00512 (v-prediction),
    https://arxiv.org/abs/2303.09556 (min-SNR weighting)
Differs: the U-Net also gets the pooled text with the time (`addition_embed_type="text"`), as in Stable Diffusion XL. With
    cross-attention on a 4 x 4 grid alone it learns colours long before kinds.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from diffusers import (
    AutoencoderTiny,
    DDPMScheduler,
    DPMSolverMultistepScheduler,
    StableDiffusionPipeline,
    UNet2DConditionModel,
)
from PIL import Image
from torch import nn
from transformers import CLIPTextConfig, CLIPTextModel, CLIPTokenizer

from tilth.data.files import folder_beside
from tilth.engine.fit import fit
from tilth.starter.diffusion.autoencoder import SIDE, to_signed, train_autoencoder
from tilth.starter.diffusion.judge import Asked, agreement
from tilth.starter.diffusion.tokenizer import MAX_TOKENS, make_tokenizer
from tilth.starter.world.scene import COLORS, KINDS, Scene, Spec, article, caption
from tilth.starter.world.sets import scene_set
from tilth.starter.world.surfaces import SURFACES

STYLES = ("photo", "cartoon", "sketch")  # neon is left for a LoRA
STEPS = 5000
BATCH = 32
SCENES = 8000


def new_text_encoder(tokenizer: CLIPTokenizer) -> CLIPTextModel:
    """Return an untrained text encoder that starts as a bag of distinct words."""
    config = CLIPTextConfig(
        vocab_size=len(tokenizer),
        hidden_size=128,
        intermediate_size=256,
        num_hidden_layers=2,
        num_attention_heads=4,
        max_position_embeddings=MAX_TOKENS,
        bos_token_id=tokenizer.bos_token_id,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
        projection_dim=128,
    )
    model = CLIPTextModel(config)
    for name, parameter in model.named_parameters():
        if "token_embedding" in name:
            nn.init.normal_(parameter, std=0.2)
        elif "position_embedding" in name:
            nn.init.normal_(parameter, std=0.04)
        elif name.endswith(("out_proj.weight", "fc2.weight")):
            parameter.data.mul_(0.2)
    return model


def new_unet() -> UNet2DConditionModel:
    """Return an untrained U-Net for 16 x 16 x 4 latents."""
    return UNet2DConditionModel(
        sample_size=SIDE // 4,
        in_channels=4,
        out_channels=4,
        layers_per_block=1,
        block_out_channels=(48, 96, 160),
        down_block_types=("DownBlock2D", "DownBlock2D", "CrossAttnDownBlock2D"),
        up_block_types=("CrossAttnUpBlock2D", "UpBlock2D", "UpBlock2D"),
        cross_attention_dim=128,
        attention_head_dim=4,
        norm_num_groups=8,
        addition_embed_type="text",
        addition_embed_type_num_heads=4,
        resnet_time_scale_shift="scale_shift",
    )


def noise_schedule() -> DDPMScheduler:
    """Return the schedule that all of the family is trained with."""
    return DDPMScheduler(
        num_train_timesteps=1000, beta_schedule="squaredcos_cap_v2", prediction_type="v_prediction", clip_sample=False
    )


def assemble(
    vae: AutoencoderTiny, text_encoder: CLIPTextModel, tokenizer: CLIPTokenizer, unet: UNet2DConditionModel
) -> StableDiffusionPipeline:
    """Put the parts into the pipeline that users load; the words are checked before it, in `synth`."""
    scheduler = DPMSolverMultistepScheduler.from_config(
        noise_schedule().config, algorithm_type="dpmsolver++", lower_order_final=True
    )
    pipeline = StableDiffusionPipeline(
        vae=vae,
        text_encoder=text_encoder,
        tokenizer=tokenizer,
        unet=unet,
        scheduler=scheduler,
        safety_checker=None,
        feature_extractor=None,
        requires_safety_checker=False,
    )
    pipeline.set_progress_bar_config(disable=True)
    return pipeline


def short_caption(scene: Scene, rng: np.random.Generator) -> str:
    """Say a scene of one thing, often leaving out its colour, ground or style; sometimes nothing at all.

    The empty caption is what guidance compares with.
    """
    thing = scene.things[0]
    chance = rng.random(4)
    if chance[0] < 0.1:
        return ""
    text = article(thing.kind if chance[1] < 0.15 else f"{thing.color} {thing.kind}")
    if chance[2] > 0.2:
        text += f" {SURFACES[scene.surface]}"
    return text + (f", {scene.style} style" if chance[3] > 0.15 else "")


def held_out_prompts(n: int, styles: tuple[str, ...] = STYLES) -> list[Asked]:
    """Draw prompts for scoring: every kind equally often."""
    rng = np.random.default_rng(77)
    return [
        Asked(
            KINDS[i % len(KINDS)],
            str(rng.choice(list(COLORS))),
            str(rng.choice(list(SURFACES))),
            str(rng.choice(styles)),
        )
        for i in range(n)
    ]


def prompt(asked: Asked) -> str:
    """Write the full caption of what is asked for."""
    return caption(Spec(things=((asked.kind, asked.color, ""),), surface=asked.surface, style=asked.style))


def sample(
    pipeline: StableDiffusionPipeline,
    asked: Sequence[Asked],
    *,
    steps: int = 20,
    guidance: float = 3.0,
    batch: int = 40,
    along: Sequence[Image.Image] = (),
) -> npt.NDArray[np.uint8]:
    """Generate `(n, 64, 64, 3)` images, along an image of edges each when the pipeline has a ControlNet."""
    images = []
    for start in range(0, len(asked), batch):
        extra = {"image": list(along[start : start + batch])} if along else {}
        with torch.autocast(pipeline.device.type, torch.bfloat16):
            made = pipeline(
                [prompt(a) for a in asked[start : start + batch]],
                height=SIDE,
                width=SIDE,
                num_inference_steps=steps,
                guidance_scale=guidance,
                generator=torch.Generator().manual_seed(start),
                output_type="np",
                **extra,
            )
        images.append(made.images)
    return np.asarray((np.concatenate(images) * 255).round(), np.uint8)


@torch.no_grad()
def latents_of(vae: AutoencoderTiny, images: npt.NDArray[np.uint8], device: torch.device) -> torch.Tensor:
    """Encode images and their mirror images: `(n, 2, 4, 16, 16)` float16, scaled to unit variance."""
    out = []
    for start in range(0, len(images), 64):
        x = to_signed(images[start : start + 64]).to(device)
        both = [vae.encode(view).latents * vae.config.scaling_factor for view in (x, x.flip(3))]
        out.append(torch.stack(both, 1).half().cpu())
    return torch.cat(out)


def token_ids(tokenizer: CLIPTokenizer, texts: list[str], device: torch.device) -> torch.Tensor:
    """Return token ids `(n, MAX_TOKENS)`."""
    tokens = tokenizer(texts, padding="max_length", max_length=MAX_TOKENS, truncation=True, return_tensors="pt")
    ids: torch.Tensor = tokens.input_ids.to(device)
    return ids


@dataclass(frozen=True, kw_only=True)
class Noised:
    """Latents with noise `(n, 4, h, w)`, the times `(n,)` they stand for, what is to be predicted, and the signal's share."""

    latents: torch.Tensor
    times: torch.Tensor
    velocity: torch.Tensor
    alphas: torch.Tensor


def noise_onto(clean: torch.Tensor, alphas: torch.Tensor) -> Noised:
    """Add noise of times spread evenly over the batch; `alphas` holds the signal's share of all 1,000 times."""
    n = len(clean)
    noise = torch.randn_like(clean)
    times = ((torch.rand(n) + torch.arange(n)) / n * 1000).long().to(clean.device)
    signal, spread = (v.sqrt()[:, None, None, None] for v in (alphas[times], 1 - alphas[times]))
    return Noised(
        latents=signal * clean + spread * noise,
        times=times,
        velocity=signal * noise - spread * clean,
        alphas=alphas[times],
    )


def weighted_v_loss(predicted: torch.Tensor, noised: Noised) -> torch.Tensor:
    """Min-SNR-5 for v-prediction, with a floor at the noisy end, where shapes are decided."""
    snr = noised.alphas / (1 - noised.alphas)
    weight = snr.clamp(max=5) / (snr + 1) + 0.15
    return (weight * (predicted.float() - noised.velocity).pow(2).mean((1, 2, 3))).mean()


def train(out: Path, work: Path, device: torch.device, steps: int | None) -> dict[str, float]:
    """Train autoencoder, text encoder and U-Net; save the pipeline as `out/diffusion`; score it with the judge."""
    vae = train_autoencoder(work, device)
    tokenizer = make_tokenizer(work / "clip-tokenizer")
    data = scene_set(work / "sets", "train", SCENES, side=SIDE, styles=STYLES, single=True)
    latents = latents_of(vae, data.images, device)
    torch.manual_seed(0)
    parts = nn.ModuleDict({"unet": new_unet(), "text": new_text_encoder(tokenizer)}).to(device)
    alphas = noise_schedule().alphas_cumprod.to(device)

    def loss_at(step: int) -> torch.Tensor:
        rng = np.random.default_rng((20, step))
        chosen = rng.integers(0, len(latents), BATCH)
        ids = token_ids(tokenizer, [short_caption(data.scenes[i], rng) for i in chosen], device)
        noised = noise_onto(latents[chosen, rng.integers(0, 2, BATCH)].float().to(device), alphas)
        with torch.autocast(device.type, torch.bfloat16):
            states = parts["text"](ids)[0]
            predicted = parts["unet"](noised.latents, noised.times, states).sample
        return weighted_v_loss(predicted, noised)

    def save(model: Any) -> StableDiffusionPipeline:
        pipeline = assemble(vae, model["text"].eval(), tokenizer, model["unet"].eval())
        with folder_beside(out / "diffusion") as partial:
            pipeline.save_pretrained(partial)
            _halve(partial)
        return pipeline

    def watch(step: int, model: nn.Module) -> str:
        return str(agreement(out, sample(save(model), held_out_prompts(48)), held_out_prompts(48)))

    fit(
        "diffusion",
        parts,
        loss_at,
        steps=steps or STEPS,
        lr=1e-3,
        work=work,
        warmup=150,
        ema=0.998,
        save_every=500,
        watch=watch,
        flat=0.6,
    )
    asked = held_out_prompts(240)
    return agreement(out, sample(save(parts), asked), asked)


def _halve(folder: Path) -> None:
    """Store all weights of a saved pipeline as float16."""
    from safetensors.torch import load_file, save_file

    for path in folder.rglob("*.safetensors"):
        save_file({k: v.half().contiguous() for k, v in load_file(path).items()}, path, metadata={"format": "pt"})
