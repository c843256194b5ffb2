"""An adapter on a model: a fresh one that learns, and the file that it becomes.

Paper: https://arxiv.org/abs/2106.09685 (LoRA)
"""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tilth.data.files import folder_beside
from tilth.extras import optional

if TYPE_CHECKING:
    import torch

ATTENTION = ("to_q", "to_k", "to_v", "to_out.0")
CONVOLUTIONS = ("conv1", "conv2", "conv_in", "conv_out", "proj_in", "proj_out")
OF_TEXT = ("q_proj", "k_proj", "v_proj", "out_proj")


def add_adapter(part: Any, *, rank: int, targets: Sequence[str], seed: int) -> None:
    """Give a network a fresh adapter, which says nothing yet and is the only part that learns.

    Args:
        part: A U-Net, transformer or text encoder.
        rank: Of the adapter's matrices.
        targets: Layers that get one, by the end of their names.
        seed: Of the adapter's weights.
    """
    import torch

    with optional():
        from peft import LoraConfig
    part.requires_grad_(False)
    torch.manual_seed(seed)
    part.add_adapter(LoraConfig(r=rank, lora_alpha=rank, init_lora_weights="gaussian", target_modules=list(targets)))


def with_adapter(pipeline: Any, *, rank: int, targets: Sequence[str], seed: int) -> Any:
    """Freeze a Stable Diffusion and return its U-Net with a fresh adapter; see `add_adapter`."""
    for part in (pipeline.vae, pipeline.text_encoder):
        part.requires_grad_(False)
    add_adapter(pipeline.unet, rank=rank, targets=targets, seed=seed)
    return pipeline.unet


def adapter_of(part: Any) -> "dict[str, torch.Tensor]":
    """Return the weights of the adapter, as peft spells them.

    diffusers' converter would rename attention layers only, and then its loader skips those.
    """
    from peft import get_peft_model_state_dict

    return dict(get_peft_model_state_dict(part))


def save_adapter(
    weights: "Mapping[str, torch.Tensor]",
    out: Path,
    *,
    pipeline: Any = None,
    more: "Mapping[str, Mapping[str, torch.Tensor]] | None" = None,
    metadata: Mapping[str, str] | None = None,
) -> None:
    """Write the weights of an adapter to a folder, in the place of an older one; it appears when it is whole.

    Args:
        weights: Of what draws.
        out: The folder.
        pipeline: Of the model; a Stable Diffusion with a U-Net when None.
        more: Weights for text encoders, by the encoder's name.
        metadata: What the file says of itself.
    """
    from diffusers import StableDiffusionPipeline
    from safetensors.torch import load_file, save_file

    core = "transformer" if getattr(pipeline, "transformer", None) is not None else "unet"
    layers = {f"{name}_lora_layers": dict(part) for name, part in {core: weights, **(more or {})}.items()}
    with folder_beside(out) as partial:
        (pipeline or StableDiffusionPipeline).save_lora_weights(partial, safe_serialization=True, **layers)
        if metadata:
            [path] = partial.glob("*.safetensors")
            save_file(load_file(path), path, metadata={"format": "pt", **metadata})
