"""What the tests of grounding share: small models of each family with random weights."""

from pathlib import Path
from typing import Any

import numpy as np


def pictures(*sizes_wh: tuple[int, int]) -> list[np.ndarray]:
    return [np.random.default_rng(n).integers(0, 256, (h, w, 3), dtype=np.uint8) for n, (w, h) in enumerate(sizes_wh)]


def random_model(folder: Path, family: str = "GroundingDino") -> str:
    """Save a model as wide as the published ones, with their kind of backbone, and little else."""
    import torch
    import transformers
    from transformers import BertConfig, SwinConfig

    from tilth.starter.grounding.tokenizer import write_tokenizer
    from tilth.starter.grounding.train import processor

    torch.manual_seed(0)
    tokenizer = write_tokenizer(folder)
    backbone = SwinConfig(
        embed_dim=24, depths=[1, 1, 2, 1], num_heads=[1, 2, 4, 8], out_indices=[2, 3, 4], drop_path_rate=0.0
    )
    text = BertConfig(
        vocab_size=1032,
        hidden_size=32,
        num_hidden_layers=1,
        num_attention_heads=2,
        intermediate_size=64,
        max_position_embeddings=64,
    )
    config: Any = getattr(transformers, f"{family}Config")(
        backbone_config=backbone,
        text_config=text,
        encoder_layers=2,
        decoder_layers=2,
        num_queries=20,
        encoder_ffn_dim=64,
        decoder_ffn_dim=64,
        max_text_len=64,
        disable_custom_kernels=True,
    )
    model = getattr(transformers, f"{family}ForObjectDetection")(config)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            # zeros and ones would hide a weight that went to the wrong place
            if parameter.ndim == 1 or "sampling_offsets" in name or "bbox_embed" in name:
                parameter += 0.05 * torch.randn_like(parameter)
            if "text_enhancer_layer.layer_norm_after.weight" in name:
                parameter *= 0.02  # or untrained scores would be 0 or 1
    model.save_pretrained(folder)
    processor(tokenizer).save_pretrained(folder)
    return str(folder)
