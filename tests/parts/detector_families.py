"""Miniatures of the detector classes of transformers, with random weights and the labels of COCO, as their checkpoints have."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from transformers import (
    ConditionalDetrConfig,
    DeformableDetrConfig,
    DetrConfig,
    LwDetrConfig,
    ResNetConfig,
    RfDetrConfig,
    RTDetrV2Config,
    YolosConfig,
)

SIDE = 64  # of their images
SMALL = {
    "d_model": 32, "encoder_layers": 1, "decoder_layers": 2, "encoder_ffn_dim": 32, "decoder_ffn_dim": 32, "num_queries": 8,
    "encoder_attention_heads": 2, "decoder_attention_heads": 2,
}  # fmt: skip
GROUPS = {
    "d_model": 32, "decoder_layers": 2, "decoder_ffn_dim": 32, "decoder_self_attention_heads": 2,
    "decoder_cross_attention_heads": 2, "num_queries": 8, "group_detr": 3,
}  # fmt: skip


def resnet(*stages: str) -> dict[str, Any]:
    """Return a backbone."""
    config = ResNetConfig(
        embedding_size=8, hidden_sizes=[8, 16, 16, 32], depths=[1] * 4, layer_type="basic", out_features=list(stages)
    )
    return config.to_dict()


def vit(**more: Any) -> dict[str, Any]:
    """Return what the backbones of RF-DETR and LW-DETR are told."""
    told = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2, "image_size": SIDE, "patch_size": 8}
    return {**told, "out_features": ["stage1", "stage2"], **more}


STAGES = ("stage2", "stage3", "stage4")

FAMILIES: dict[str, Callable[[], Any]] = {
    "detr": lambda: DetrConfig(**SMALL, backbone_config=resnet("stage4")),
    "yolos": lambda: YolosConfig(
        hidden_size=32, num_hidden_layers=2, num_attention_heads=2, intermediate_size=32, image_size=[SIDE, SIDE],
        num_detection_tokens=8,
    ),
    "conditional_detr": lambda: ConditionalDetrConfig(**SMALL, backbone_config=resnet("stage4")),
    "deformable_detr": lambda: DeformableDetrConfig(**SMALL, backbone_config=resnet(*STAGES), num_feature_levels=3),
    "rf_detr": lambda: RfDetrConfig(
        **GROUPS,
        backbone_config=vit(model_type="rf_detr_dinov2", image_size=48, num_windows=2, window_block_indexes=[0]),
    ),
    "lw_detr": lambda: LwDetrConfig(
        **GROUPS, projector_scale_factors=[1.0], projector_in_channels=[32], num_feature_levels=1, projector_out_channels=32,
        backbone_config=vit(model_type="lw_detr_vit", num_windows=4, window_block_indices=[0], pretrain_image_size=SIDE),
    ),
    "rt_detr_v2": lambda: RTDetrV2Config(
        **{**SMALL, "num_queries": 40}, encoder_hidden_dim=32, num_denoising=4, encoder_in_channels=[16, 16, 32],
        decoder_in_channels=[32] * 3, backbone_config={**resnet(*STAGES), "model_type": "rt_detr_resnet"},
    ),
}  # fmt: skip
"""Of each family the configuration."""


def build(family: str, folder: Path) -> str:
    """Write a miniature as the hub has its kind, and return its path."""
    from transformers import AutoModelForObjectDetection

    torch.manual_seed(0)
    config = FAMILIES[family]()
    config.num_labels = 91
    model = AutoModelForObjectDetection.from_config(config)
    for part in model.modules():
        if isinstance(part, torch.nn.BatchNorm2d):
            torch.nn.init.ones_(
                part.weight
            )  # else they say the same of every place, and which of them comes first is chance
    model.save_pretrained(folder)
    return str(folder)
