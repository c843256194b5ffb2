"""Teach a model a look or a thing from a few dozen samples, as an adapter of a few hundred kilobytes.

Paper: https://arxiv.org/abs/2106.09685 (LoRA)
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from tilth import models
from tilth.data.files import folder_beside
from tilth.engine.fit import cosine, fit
from tilth.errors import InputError, ModelError
from tilth.extras import optional
from tilth.images import resize
from tilth.samples import Sample
from tilth.synth.draw.lengths import encoders, refuse_long
from tilth.synth.draw.pipelines import quiet
from tilth.synth.plan.survey import frame_around, said_of
from tilth.synth.safety.refusals import refuse

if TYPE_CHECKING:
    import torch

ATTENTION = ("to_q", "to_k", "to_v", "to_out.0")


@dataclass(frozen=True, kw_only=True)
class Lesson:
    """How to train.

    Args:
        steps: Optimiser steps.
        batch_size: Images a step.
        lr: Learning rate at its peak; it falls to zero by a cosine.
        rank: Of the adapter's matrices.
        targets: Layers that get one, by the end of their names.
        drop_caption: Share of images shown without caption, for guidance.
        seed: Of everything random.
    """

    steps: int = 400
    batch_size: int = 8
    lr: float = 1e-3
    rank: int = 8
    targets: tuple[str, ...] = ATTENTION
    drop_caption: float = 0.1
    seed: int = 0


def train_lora(
    model: str, samples: Sequence[Sample], captions: Sequence[str], out: Path, lesson: Lesson, *, device: str = "auto"
) -> list[float]:
    """Train an adapter for a Stable Diffusion and write it to `out`, where `Studio` finds it.

    Args:
        model: Name of the checkpoint.
        samples: With their images; real ones of the training split.
        captions: One for each.
        out: Folder to make; it appears when the adapter is whole.
        lesson: How to train.
        device: `auto`, `cpu`, `cuda`, …

    Returns:
        The loss of each step.

    Raises:
        InputError: There are no samples, one is not for training, a caption asks for what is never generated, or is too long
            for the model.
        ModelError: The model has no U-Net.
    """
    _check(samples, captions)
    refuse_long({"captions": captions}, encoders(model), model)
    import torch

    with optional():
        from diffusers import StableDiffusionPipeline
    on = models.device(device)
    with quiet():
        pipeline = StableDiffusionPipeline.from_pretrained(
            models.locate(model), dtype=torch.float32, use_safetensors=True, local_files_only=True
        ).to(on)
    if getattr(pipeline, "unet", None) is None:
        raise ModelError(f"{model}: adapters are trained for models with a U-Net only")
    unet = with_adapter(pipeline, rank=lesson.rank, targets=lesson.targets, seed=lesson.seed)
    losses = fit(
        "lora",
        unet,
        _loss_at(pipeline, samples, captions, lesson, on),
        steps=lesson.steps,
        lr=lesson.lr,
        rate=lambda step: cosine(step, lesson.steps, lesson.lr),
        betas=(0.9, 0.999),
        work=None,
        seed=lesson.seed,
        advance=lambda n=1, /, **shown: None,
    )
    save_adapter(adapter_of(unet), out)
    return losses


def with_adapter(pipeline: Any, *, rank: int, targets: Sequence[str], seed: int) -> Any:
    """Freeze a Stable Diffusion and return its U-Net with a fresh adapter, the only part that learns.

    Args:
        pipeline: With its U-Net.
        rank: Of the adapter's matrices.
        targets: Layers that get one, by the end of their names.
        seed: Of the adapter's weights.
    """
    import torch

    with optional():
        from peft import LoraConfig
    for part in (pipeline.vae, pipeline.text_encoder, pipeline.unet):
        part.requires_grad_(False)
    torch.manual_seed(seed)
    pipeline.unet.add_adapter(
        LoraConfig(r=rank, lora_alpha=rank, init_lora_weights="gaussian", target_modules=list(targets))
    )
    return pipeline.unet


def adapter_of(unet: Any) -> "dict[str, torch.Tensor]":
    """Return the weights of the adapter, as peft spells them.

    diffusers' converter would rename attention layers only, and then its loader skips those.
    """
    from peft import get_peft_model_state_dict

    return dict(get_peft_model_state_dict(unet))


def save_adapter(weights: "Mapping[str, torch.Tensor]", out: Path) -> None:
    """Write the weights of an adapter to a folder, in the place of an older one; it appears when it is whole."""
    from diffusers import StableDiffusionPipeline

    with folder_beside(out) as partial:
        StableDiffusionPipeline.save_lora_weights(partial, unet_lora_layers=dict(weights), safe_serialization=True)


def _check(samples: Sequence[Sample], captions: Sequence[str]) -> None:
    if not samples or len(samples) != len(captions):
        raise InputError(f"an adapter needs samples and a caption for each, got {len(samples)} and {len(captions)}")
    for sample, caption in zip(samples, captions, strict=True):
        if sample.split not in ("", "train") or sample.made:
            raise InputError(
                f"sample {sample.id[:12]} is generated or not of the training split; adapters learn from real ones"
            )
        refuse({"caption": caption, "reference": said_of(sample)})


def _loss_at(
    pipeline: Any, samples: Sequence[Sample], captions: Sequence[str], lesson: Lesson, on: str
) -> "Callable[[int], torch.Tensor]":
    import torch
    from diffusers import DDPMScheduler

    schedule = DDPMScheduler.from_config(pipeline.scheduler.config)
    latents = _latents(pipeline, samples, on)
    states, nothing = _states(pipeline, captions, on), _states(pipeline, [""], on)
    rng = np.random.default_rng(lesson.seed)
    bf16 = models.precision(on) == "bfloat16"
    going_on = torch.Generator().set_state(torch.get_rng_state())  # after the adapter's weights were drawn

    def loss_at(_: int) -> torch.Tensor:
        chosen = torch.from_numpy(rng.integers(0, len(latents), lesson.batch_size)).to(on)
        told = states[chosen].clone()
        told[torch.from_numpy(rng.random(lesson.batch_size) < lesson.drop_caption).to(on)] = nothing
        clean = latents[chosen]
        noise = torch.randn(clean.shape, generator=going_on).to(on)
        times = torch.randint(0, schedule.config.num_train_timesteps, (lesson.batch_size,), generator=going_on).to(on)
        noisy = schedule.add_noise(clean, noise, times)
        v = schedule.config.prediction_type == "v_prediction"
        wanted = schedule.get_velocity(clean, noise, times) if v else noise
        with torch.autocast(torch.device(on).type, torch.bfloat16, enabled=bf16):
            predicted = pipeline.unet(noisy, times, told).sample
        loss: torch.Tensor = (predicted.float() - wanted).pow(2).mean()
        return loss

    return loss_at


def _latents(pipeline: Any, samples: Sequence[Sample], on: str) -> Any:
    """Encode the middle squares of images as the model sees them, `(n, channels, h, w)`."""
    import torch

    side = int(pipeline.unet.config.sample_size * pipeline.vae_scale_factor)
    found = []
    with torch.no_grad():
        for sample in samples:
            left, top, edge, _ = frame_around(sample.size_wh, None)
            square = resize(sample.pixels()[top : top + edge, left : left + edge], (side, side))
            signed = torch.tensor(square).permute(2, 0, 1)[None].float().to(on) / 127.5 - 1
            coded = pipeline.vae.encode(signed)
            # the small autoencoder gives latents, the large one a distribution of them
            latent = coded.latents if hasattr(coded, "latents") else coded.latent_dist.mode()
            found.append(latent * pipeline.vae.config.scaling_factor)
    return torch.cat(found)


def _states(pipeline: Any, texts: Sequence[str], on: str) -> Any:
    import torch

    ids = pipeline.tokenizer(
        list(texts),
        padding="max_length",
        truncation=True,
        max_length=pipeline.tokenizer.model_max_length,
        return_tensors="pt",
    ).input_ids
    with torch.no_grad():
        return pipeline.text_encoder(ids.to(on))[0]
