"""Tiny untrained checkpoints of the real classes, and a dataset to generate for."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from diffusers import (
    AutoencoderKL,
    AutoencoderTiny,
    ControlNetModel,
    DDPMScheduler,
    DPMSolverMultistepScheduler,
    EulerDiscreteScheduler,
    StableDiffusionPipeline,
    StableDiffusionXLPipeline,
    UNet2DConditionModel,
)
from places import POLICY
from transformers import CLIPTextConfig, CLIPTextModel, CLIPTextModelWithProjection

from tilth.claims import Claim
from tilth.data.dataset import Dataset
from tilth.engine.work import Work
from tilth.events import Events
from tilth.images import encode_png
from tilth.policy import load_policy
from tilth.samples import NewSample
from tilth.starter.diffusion.tokenizer import MAX_TOKENS, make_tokenizer
from tilth.synth.draw.generate import Generate
from tilth.synth.draw.settings import Drawing


def save_diffusion(folder: Path) -> Path:
    """Save a Stable Diffusion of 32 px with random weights, in float16."""
    torch.manual_seed(0)
    tokenizer = make_tokenizer(folder.with_name(f"{folder.name}-tokenizer"))
    text = CLIPTextModel(
        CLIPTextConfig(
            vocab_size=len(tokenizer),
            hidden_size=32,
            intermediate_size=64,
            num_hidden_layers=1,
            num_attention_heads=2,
            max_position_embeddings=MAX_TOKENS,
            bos_token_id=tokenizer.bos_token_id,
            eos_token_id=tokenizer.eos_token_id,
            pad_token_id=tokenizer.pad_token_id,
            projection_dim=32,
        )
    )
    vae = AutoencoderTiny(
        encoder_block_out_channels=(16, 16, 16),
        decoder_block_out_channels=(16, 16, 16),
        num_encoder_blocks=(1, 1, 1),
        num_decoder_blocks=(1, 1, 1),
        latent_channels=4,
    )
    last = vae.decoder.layers[-1]  # untrained, it answers with black
    torch.nn.init.normal_(last.weight, std=0.5)
    torch.nn.init.constant_(last.bias, 0.5)
    schedule = DDPMScheduler(
        beta_schedule="squaredcos_cap_v2", prediction_type="v_prediction", clip_sample=False, steps_offset=1
    )
    pipeline = StableDiffusionPipeline(
        vae=vae,
        text_encoder=text,
        tokenizer=tokenizer,
        unet=new_unet(),
        scheduler=DPMSolverMultistepScheduler.from_config(schedule.config, lower_order_final=True),
        safety_checker=None,
        feature_extractor=None,
        requires_safety_checker=False,
    )
    for part in (vae, text, pipeline.unet):
        part.half()
    pipeline.save_pretrained(folder, safe_serialization=True)
    return folder


def new_unet() -> UNet2DConditionModel:
    return UNet2DConditionModel(
        sample_size=8,
        in_channels=4,
        out_channels=4,
        layers_per_block=1,
        block_out_channels=(16, 32),
        down_block_types=("DownBlock2D", "CrossAttnDownBlock2D"),
        up_block_types=("CrossAttnUpBlock2D", "UpBlock2D"),
        cross_attention_dim=32,
        attention_head_dim=2,
        norm_num_groups=8,
    )


def save_controlnet(folder: Path) -> Path:
    """Save a ControlNet for `new_unet` whose pull is not zero, as that of a fresh one is."""
    torch.manual_seed(1)
    net = ControlNetModel.from_unet(new_unet(), conditioning_embedding_out_channels=(8, 8, 8))
    for name, parameter in net.named_parameters():
        if name.startswith(("controlnet_down", "controlnet_mid", "controlnet_cond_embedding.conv_out")):
            torch.nn.init.normal_(parameter, std=0.3)
    net.half().save_pretrained(folder, safe_serialization=True)
    return folder


def save_lora(folder: Path, metadata: dict[str, str] | None = None, *, conv: bool = False, mixed: bool = True) -> Path:
    """Save an adapter for `new_unet`; with `conv`, `mixed` spells its layers as diffusers' converter does."""
    from diffusers.utils import convert_state_dict_to_diffusers
    from peft import LoraConfig, get_peft_model_state_dict
    from safetensors.torch import load_file, save_file

    torch.manual_seed(2)
    unet = new_unet()
    targets = ["to_q", "to_k", "to_v", *(["conv1", "conv_in"] if conv else [])]
    unet.add_adapter(LoraConfig(r=4, lora_alpha=4, init_lora_weights=False, target_modules=targets))
    layers = get_peft_model_state_dict(unet)
    layers = convert_state_dict_to_diffusers(layers) if mixed else layers
    StableDiffusionPipeline.save_lora_weights(folder, unet_lora_layers=layers)
    if metadata:
        path = folder / "pytorch_lora_weights.safetensors"
        save_file(load_file(path), path, metadata=metadata)
    return folder


def respelt(folder: Path, spell: "Callable[[str, torch.Tensor], tuple[str, torch.Tensor]]", **metadata: str) -> Path:
    """Write the adapter of a folder again as one file, its weights in another spelling or of another size."""
    from safetensors.torch import load_file, save_file

    held = load_file(next(folder.glob("*.safetensors")))
    path = folder / "again" / "style.safetensors"
    path.parent.mkdir()
    save_file({k: v.contiguous() for k, v in (spell(*item) for item in held.items())}, path, metadata=metadata)
    return path


def as_kohya(key: str, value: torch.Tensor) -> tuple[str, torch.Tensor]:
    layer, _, rest = key.removeprefix("unet.").rpartition(".lora_")
    return f"lora_unet_{layer.replace('.', '_')}.lora_{'down' if rest.startswith('A') else 'up'}.weight", value


def wider(key: str, value: torch.Tensor) -> tuple[str, torch.Tensor]:
    return key, value.repeat((1, 2) if "lora_A" in key else (2, 1))


def real_image(number: int, size_wh: tuple[int, int] = (48, 40)) -> bytes:
    """A bright square on a ground that no other number has."""
    rng = np.random.default_rng(number)
    image = np.full((size_wh[1], size_wh[0], 3), rng.integers(20, 120, 3), np.uint8)
    image[10:30, 10:30] = rng.integers(150, 255, 3)
    return encode_png(image + rng.integers(0, 4, image.shape, dtype=np.uint8))


def real_sample(number: int, category: str = "", split: str = "train", **origin: str) -> NewSample:
    claim = (
        Claim(category=category, box_xyxy=(10, 10, 30, 30), source="human:ann")
        if category
        else Claim(says="empty", source="human:ann")
    )
    return NewSample(
        data=real_image(number),
        origin={"source": f"{number}.png", "licence": "CC0-1.0", **origin},
        claims=(claim,),
        columns={"split": split} if split else {},
    )


def new_work(root: Path, seed: int = 0) -> Work:
    folder = root / "files"
    folder.mkdir(parents=True, exist_ok=True)
    return Work(
        name="generate",
        dataset=Dataset(root / "dataset"),
        policy=load_policy(POLICY),
        folder=folder,
        events=Events(),
        seed=seed,
        device="cpu",
    )


def fill(work: Work) -> None:
    """Add 24 training images, 8 of validation and 8 of the test split: knives, bottles and empty ones."""
    kinds = ("knife", "knife", "bottle", "")
    samples = [real_sample(i, kinds[i % 4]) for i in range(24)]
    samples += [real_sample(100 + i, kinds[i % 4], "val") for i in range(8)]
    samples += [real_sample(200 + i, kinds[i % 4], "test") for i in range(8)]
    work.add("real", samples)


FEW_STEPS = Drawing(steps=2, batch_size=4)


def fast(model: Path, **settings: object) -> Generate:
    """The step with few denoising steps."""
    return Generate(**{"model": str(model), "count": 12, "drawing": FEW_STEPS, **settings})  # type: ignore[arg-type]


def save_xl(folder: Path) -> tuple[Path, Path]:
    """Save a Stable Diffusion XL of 32 px with random weights, and a ControlNet for it."""
    torch.manual_seed(0)
    tokenizer = make_tokenizer(folder.with_name(f"{folder.name}-tokenizer"))
    ends = {name: getattr(tokenizer, name) for name in ("bos_token_id", "eos_token_id", "pad_token_id")}
    text = CLIPTextConfig(
        vocab_size=len(tokenizer),
        hidden_size=32,
        intermediate_size=64,
        num_hidden_layers=2,
        num_attention_heads=2,
        max_position_embeddings=MAX_TOKENS,
        projection_dim=32,
        **ends,
    )
    unet = UNet2DConditionModel(
        sample_size=16,
        layers_per_block=1,
        block_out_channels=(16, 32),
        down_block_types=("DownBlock2D", "CrossAttnDownBlock2D"),
        up_block_types=("CrossAttnUpBlock2D", "UpBlock2D"),
        attention_head_dim=(2, 4),
        use_linear_projection=True,
        addition_embed_type="text_time",
        addition_time_embed_dim=8,
        transformer_layers_per_block=(1, 2),
        projection_class_embeddings_input_dim=32 + 6 * 8,
        cross_attention_dim=64,
        norm_num_groups=8,
    )
    vae = AutoencoderKL(
        block_out_channels=(16, 16),
        down_block_types=("DownEncoderBlock2D",) * 2,
        up_block_types=("UpDecoderBlock2D",) * 2,
        norm_num_groups=8,
        latent_channels=4,
    )
    torch.nn.init.normal_(vae.decoder.conv_out.weight, std=0.1)  # untrained, it answers with one tone
    pipeline = StableDiffusionXLPipeline(
        vae=vae,
        text_encoder=CLIPTextModel(text),
        text_encoder_2=CLIPTextModelWithProjection(text),
        tokenizer=tokenizer,
        tokenizer_2=tokenizer,
        unet=unet,
        scheduler=EulerDiscreteScheduler(),
        add_watermarker=False,
    )
    pipeline.save_pretrained(folder, safe_serialization=True)
    net = ControlNetModel.from_unet(unet, conditioning_embedding_out_channels=(8, 8))
    for name, parameter in net.named_parameters():
        if name.startswith("controlnet_"):
            torch.nn.init.normal_(parameter, std=0.3)
    net.save_pretrained(folder.with_name(f"{folder.name}-net"), safe_serialization=True)
    return folder, folder.with_name(f"{folder.name}-net")
