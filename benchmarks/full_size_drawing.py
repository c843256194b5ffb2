"""Stable Diffusion 1.5 and XL at their published size with random weights, and what is added to them; see `full_size_models.py`."""

import json
from pathlib import Path
from typing import Any

import full_size_tokens as tokens

LARGE = {"hidden_size": 768, "intermediate_size": 3072, "num_hidden_layers": 12, "num_attention_heads": 12}
HUGE = {"hidden_size": 1280, "intermediate_size": 5120, "num_hidden_layers": 32, "num_attention_heads": 20}
NOISE = {"beta_start": 0.00085, "beta_end": 0.012, "beta_schedule": "scaled_linear", "steps_offset": 1}
ATTENTION = ("to_q", "to_k", "to_v", "to_out.0")


def made(cls: Any, *settings: Any, **more: Any) -> Any:
    """Make a part; twice the same."""
    import torch

    torch.manual_seed(0)
    return cls(*settings, **more)


def save(part: Any, folder: Path, kind: str = "float32") -> Any:
    import torch

    part.to(getattr(torch, kind)).save_pretrained(folder, safe_serialization=True)


def write_tokenizer(folder: Path, pad: str = "<|endoftext|>") -> None:
    tokens.write_clip(folder, pad=pad)


def text_config(**size: Any) -> Any:
    import transformers as tf

    return tf.CLIPTextConfig(vocab_size=49408, max_position_embeddings=77, bos_token_id=0, eos_token_id=2, **size)


def autoencoder(side: int, factor: float) -> Any:
    """Make an autoencoder; untrained it would answer with one tone, which nobody takes for a picture."""
    import diffusers as df
    import torch

    blocks = 4
    vae = made(
        df.AutoencoderKL,
        sample_size=side,
        block_out_channels=(128, 256, 512, 512),
        down_block_types=("DownEncoderBlock2D",) * blocks,
        up_block_types=("UpDecoderBlock2D",) * blocks,
        layers_per_block=2,
        latent_channels=4,
        scaling_factor=factor,
    )
    torch.nn.init.normal_(vae.decoder.conv_out.weight, std=0.05)
    return vae


def unet_1_5() -> Any:
    import diffusers as df

    return made(df.UNet2DConditionModel, sample_size=64, cross_attention_dim=768, attention_head_dim=8)


def index(folder: Path, pipeline: str, **parts: tuple[str, str]) -> None:
    """Write `model_index.json`, by which the parts are found."""
    told = {"_class_name": pipeline, "_diffusers_version": "0.6.0", **{name: list(of) for name, of in parts.items()}}
    (folder / "model_index.json").write_text(json.dumps(told, indent=2))


def write_1_5(folder: Path) -> None:
    """Write the model with its safety checker, and beside it a ControlNet and an adapter in kohya's spelling."""
    import diffusers as df
    import transformers as tf
    from diffusers.pipelines.stable_diffusion import StableDiffusionSafetyChecker

    unet = unet_1_5()
    save_kohya(unet, folder.parent / "kohya.safetensors")
    save(made(df.ControlNetModel.from_unet, unet), folder.parent / "controlnet")
    save(unet, folder / "unet")
    del unet
    save(autoencoder(512, 0.18215), folder / "vae")
    save(made(tf.CLIPTextModel, text_config(**LARGE)), folder / "text_encoder")
    looks = {"hidden_size": 1024, "intermediate_size": 4096, "num_hidden_layers": 24, "num_attention_heads": 16}
    checker = tf.CLIPConfig(text_config=LARGE, vision_config={**looks, "patch_size": 14}, projection_dim=768)
    save(made(StableDiffusionSafetyChecker, checker), folder / "safety_checker")
    tf.CLIPImageProcessor().save_pretrained(folder / "feature_extractor")
    write_tokenizer(folder / "tokenizer")
    made(df.PNDMScheduler, skip_prk_steps=True, **NOISE).save_pretrained(folder / "scheduler")
    index(
        folder,
        "StableDiffusionPipeline",
        feature_extractor=("transformers", "CLIPImageProcessor"),
        safety_checker=("stable_diffusion", "StableDiffusionSafetyChecker"),
        scheduler=("diffusers", "PNDMScheduler"),
        text_encoder=("transformers", "CLIPTextModel"),
        tokenizer=("transformers", "CLIPTokenizer"),
        unet=("diffusers", "UNet2DConditionModel"),
        vae=("diffusers", "AutoencoderKL"),
    )


def save_kohya(unet: Any, path: Path, rank: int = 16) -> None:
    """Save an adapter as kohya's scripts do: for the U-Net and the text encoder, in float16, with the strength of each layer."""
    import torch
    from safetensors.torch import save_file

    sizes = {
        f"lora_unet_{name.replace('.', '_')}": module.weight.shape
        for name, module in unet.named_modules()
        if name.endswith(ATTENTION)
    }
    for n in range(LARGE["num_hidden_layers"]):
        for layer in ("q_proj", "k_proj", "v_proj", "out_proj"):
            sizes[f"lora_te_text_model_encoder_layers_{n}_self_attn_{layer}"] = torch.Size([768, 768])
    torch.manual_seed(0)
    weights = {}
    for name, (out, into) in sizes.items():
        weights[f"{name}.alpha"] = torch.tensor(rank / 2)
        weights[f"{name}.lora_down.weight"] = torch.randn(rank, into).half() / into
        weights[f"{name}.lora_up.weight"] = torch.randn(out, rank).half() / rank
    path.parent.mkdir(parents=True, exist_ok=True)
    save_file(weights, path, metadata={"ss_base_model_version": "sd_v1", "ss_network_dim": str(rank)})


def write_xl(folder: Path) -> None:
    """Write it in float16, of which the hub has a variant: in float32 it takes 14 GB of disk."""
    import diffusers as df
    import torch
    import transformers as tf

    torch.set_default_dtype(torch.float16)  # or 10 GB would be made to be halved
    unet = made(
        df.UNet2DConditionModel,
        sample_size=128,
        block_out_channels=(320, 640, 1280),
        down_block_types=("DownBlock2D", "CrossAttnDownBlock2D", "CrossAttnDownBlock2D"),
        up_block_types=("CrossAttnUpBlock2D", "CrossAttnUpBlock2D", "UpBlock2D"),
        transformer_layers_per_block=(1, 2, 10),
        attention_head_dim=(5, 10, 20),
        cross_attention_dim=2048,
        addition_embed_type="text_time",
        addition_time_embed_dim=256,
        projection_class_embeddings_input_dim=2816,
        use_linear_projection=True,
    )
    save(unet, folder / "unet", "float16")
    del unet
    save(autoencoder(1024, 0.13025), folder / "vae", "float16")
    save(made(tf.CLIPTextModel, text_config(**LARGE)), folder / "text_encoder", "float16")
    large = text_config(**HUGE, projection_dim=1280, hidden_act="gelu")
    save(made(tf.CLIPTextModelWithProjection, large), folder / "text_encoder_2", "float16")
    write_tokenizer(folder / "tokenizer")
    write_tokenizer(folder / "tokenizer_2", "!")
    made(df.EulerDiscreteScheduler, timestep_spacing="leading", **NOISE).save_pretrained(folder / "scheduler")
    index(
        folder,
        "StableDiffusionXLPipeline",
        scheduler=("diffusers", "EulerDiscreteScheduler"),
        text_encoder=("transformers", "CLIPTextModel"),
        text_encoder_2=("transformers", "CLIPTextModelWithProjection"),
        tokenizer=("transformers", "CLIPTokenizer"),
        tokenizer_2=("transformers", "CLIPTokenizer"),
        unet=("diffusers", "UNet2DConditionModel"),
        vae=("diffusers", "AutoencoderKL"),
    )
