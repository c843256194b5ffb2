"""Untrained miniatures in the shape of Stable Diffusion 1.5, XL and 3, with the parts and schedules that these have."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from diffusers import (
    AutoencoderKL,
    EulerDiscreteScheduler,
    FlowMatchEulerDiscreteScheduler,
    PNDMScheduler,
    SD3Transformer2DModel,
    StableDiffusion3Pipeline,
    StableDiffusionPipeline,
    StableDiffusionXLPipeline,
    UNet2DConditionModel,
)
from transformers import (
    CLIPTextConfig,
    CLIPTextModel,
    CLIPTextModelWithProjection,
    T5Config,
    T5EncoderModel,
    T5Tokenizer,
)

from tilth.starter.diffusion.tokenizer import MAX_TOKENS, make_tokenizer

NOISE = {"beta_start": 0.00085, "beta_end": 0.012, "beta_schedule": "scaled_linear", "num_train_timesteps": 1000}


def text_encoder(tokenizer: Any, kind: type, width: int = 32) -> Any:
    return kind(
        CLIPTextConfig(
            vocab_size=len(tokenizer),
            hidden_size=width,
            intermediate_size=2 * width,
            num_hidden_layers=2,
            num_attention_heads=2,
            max_position_embeddings=MAX_TOKENS,
            bos_token_id=tokenizer.bos_token_id,
            eos_token_id=tokenizer.eos_token_id,
            pad_token_id=tokenizer.pad_token_id,
            projection_dim=width,
        )
    )


def autoencoder(**more: float) -> AutoencoderKL:
    """Return one that halves three times, as the large one."""
    return AutoencoderKL(
        block_out_channels=(8, 8, 8, 8),
        down_block_types=("DownEncoderBlock2D",) * 4,
        up_block_types=("UpDecoderBlock2D",) * 4,
        layers_per_block=1,
        latent_channels=4,
        norm_num_groups=4,
        **more,  # type: ignore[arg-type]
    )


def unet(**more: Any) -> UNet2DConditionModel:
    shape: dict[str, Any] = {
        "sample_size": 8,
        "layers_per_block": 1,
        "block_out_channels": (16, 32),
        "down_block_types": ("CrossAttnDownBlock2D", "DownBlock2D"),
        "up_block_types": ("UpBlock2D", "CrossAttnUpBlock2D"),
        "cross_attention_dim": 32,
        "attention_head_dim": 2,
        "norm_num_groups": 8,
    }
    return UNet2DConditionModel(**{**shape, **more})


def sd15(folder: Path) -> Path:
    torch.manual_seed(0)
    tokenizer = make_tokenizer(folder.with_name(f"{folder.name}-tokenizer"))
    StableDiffusionPipeline(
        vae=autoencoder(),
        text_encoder=text_encoder(tokenizer, CLIPTextModel),
        tokenizer=tokenizer,
        unet=unet(),
        scheduler=PNDMScheduler(**NOISE, skip_prk_steps=True, steps_offset=1),
        safety_checker=None,
        feature_extractor=None,
        requires_safety_checker=False,
    ).save_pretrained(folder)
    return folder


def sdxl(folder: Path) -> Path:
    torch.manual_seed(1)
    tokenizer = make_tokenizer(folder.with_name(f"{folder.name}-tokenizer"))
    StableDiffusionXLPipeline(
        vae=autoencoder(),
        text_encoder=text_encoder(tokenizer, CLIPTextModel),
        text_encoder_2=text_encoder(tokenizer, CLIPTextModelWithProjection),
        tokenizer=tokenizer,
        tokenizer_2=tokenizer,
        unet=unet(
            cross_attention_dim=64,
            addition_embed_type="text_time",
            addition_time_embed_dim=8,
            projection_class_embeddings_input_dim=6 * 8 + 32,
            use_linear_projection=True,
        ),
        scheduler=EulerDiscreteScheduler(**NOISE),
        force_zeros_for_empty_prompt=True,
        add_watermarker=False,
    ).save_pretrained(folder)
    return folder


def sd3(folder: Path) -> Path:
    torch.manual_seed(2)
    words = ["<pad>", "</s>", "<unk>", *"\u2581abcdefghijklmnopqrstuvwxyz,"]
    reads = T5Tokenizer(vocab=[(word, -float(n)) for n, word in enumerate(words)], extra_ids=0)
    t5 = T5Config(vocab_size=len(reads), d_model=64, d_kv=8, d_ff=64, num_layers=1, num_heads=2)
    tokenizer = make_tokenizer(folder.with_name(f"{folder.name}-tokenizer"))
    StableDiffusion3Pipeline(
        vae=autoencoder(shift_factor=0.06, scaling_factor=1.5),
        transformer=SD3Transformer2DModel(
            sample_size=8,
            patch_size=2,
            in_channels=4,
            out_channels=4,
            num_layers=2,
            attention_head_dim=8,
            num_attention_heads=4,
            joint_attention_dim=64,
            caption_projection_dim=32,
            pooled_projection_dim=64,
            pos_embed_max_size=16,
        ),
        text_encoder=text_encoder(tokenizer, CLIPTextModelWithProjection),
        text_encoder_2=text_encoder(tokenizer, CLIPTextModelWithProjection),
        text_encoder_3=T5EncoderModel(t5),
        tokenizer=tokenizer,
        tokenizer_2=tokenizer,
        tokenizer_3=reads,
        scheduler=FlowMatchEulerDiscreteScheduler(shift=3.0),
    ).save_pretrained(folder)
    return folder


FAMILIES: dict[str, Callable[[Path], Path]] = {"sd15": sd15, "sdxl": sdxl, "sd3": sd3}
