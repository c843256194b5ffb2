"""Model families at their published size with random weights, written as they lie on the hub.

Configurations are the classes' own defaults with what the published checkpoints have otherwise; preprocessors are the JSON that
stands there, older spellings included; weights are random numbers in the number format in which they are published.
"""

import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import full_size_drawing as drawing
import full_size_tokens as tokens

IMAGENET = {"image_mean": [0.485, 0.456, 0.406], "image_std": [0.229, 0.224, 0.225]}
CLIP = {
    "image_mean": [0.48145466, 0.4578275, 0.40821073],
    "image_std": [0.26862954, 0.26130258, 0.27577711],
}
HALVES = {"image_mean": [0.5, 0.5, 0.5], "image_std": [0.5, 0.5, 0.5]}
PLAIN = {"do_resize": True, "do_rescale": True, "do_normalize": True, "rescale_factor": 1 / 255, "resample": 3}


@dataclass(frozen=True, kw_only=True)
class Family:
    """What is rehearsed.

    Args:
        hub: Where it lies; what `tilth plan` knows of it stands in the card of this place.
        write: Writes its folder.
        steps: Which rehearsal of `full_size_steps.py` it takes.
    """

    hub: str
    write: Callable[[Path], None]
    steps: str


def square(side: int) -> dict[str, int]:
    return {"height": side, "width": side}


def save(model: Any, folder: Path, kind: str = "float32") -> None:
    """Save weights in the number format of the published ones."""
    import torch

    model.to(getattr(torch, kind)).save_pretrained(folder)


def processor(folder: Path, **told: Any) -> None:
    (folder / "preprocessor_config.json").write_text(json.dumps(told, indent=2))


def made(model: Callable[[], Any]) -> Any:
    """Make a model; twice the same."""
    import torch

    torch.manual_seed(0)
    return model()


def write_vit(folder: Path) -> None:
    import transformers as tf

    config = tf.ViTConfig(num_labels=1000)
    save(made(lambda: tf.ViTForImageClassification(config)), folder)
    processor(folder, do_normalize=True, do_resize=True, size=224, **HALVES)  # names no class, as there


def write_dinov2(folder: Path, width: int = 384, heads: int = 6) -> None:
    import transformers as tf

    config = tf.Dinov2Config(hidden_size=width, num_attention_heads=heads, image_size=518, patch_size=14)
    save(made(lambda: tf.Dinov2Model(config)), folder)
    sizes = {"size": {"shortest_edge": 256}, "crop_size": square(224), "do_center_crop": True}
    processor(folder, image_processor_type="BitImageProcessor", do_convert_rgb=True, **PLAIN, **sizes, **IMAGENET)


def write_dinov2_base(folder: Path) -> None:
    write_dinov2(folder, 768, 12)


def write_siglip(folder: Path, vocabulary: int = 32000) -> None:
    import transformers as tf

    config = tf.SiglipConfig(text_config={"vocab_size": vocabulary}, vision_config={"image_size": 224})
    save(made(lambda: tf.SiglipModel(config)), folder)
    told = {"size": square(224), "processor_class": "SiglipProcessor"}
    processor(folder, image_processor_type="SiglipImageProcessor", **PLAIN, **told, **HALVES)
    tokens.write_gemma(folder) if vocabulary > 32000 else tokens.write_unigram(folder)


def write_siglip2(folder: Path) -> None:
    write_siglip(folder, 256000)


def write_eva02(folder: Path) -> None:
    """Write it as timm does: weights under timm's names, and all that is known in `config.json`."""
    import timm
    from safetensors.torch import save_file

    name, tag = "eva02_small_patch14_336", "mim_in22k_ft_in1k"
    model = made(lambda: timm.create_model(name))
    folder.mkdir(parents=True)
    save_file({key: value.contiguous() for key, value in model.state_dict().items()}, folder / "model.safetensors")
    told = {"tag": tag, "custom_load": False, "input_size": [3, 336, 336], "fixed_input_size": True}
    told |= {"interpolation": "bicubic", "crop_pct": 1.0, "crop_mode": "center", "num_classes": 1000}
    told |= {"mean": CLIP["image_mean"], "std": CLIP["image_std"], "pool_size": None}
    told |= {"first_conv": "patch_embed.proj", "classifier": "head", "license": "mit"}
    config = {"architecture": name, "num_classes": 1000, "num_features": 384, "pretrained_cfg": told}
    (folder / "config.json").write_text(json.dumps(config, indent=2))


def write_dfine(folder: Path) -> None:
    import transformers as tf

    stages = {
        "stem_channels": [3, 16, 16],
        "hidden_sizes": [64, 256, 512, 1024],
        "stage_in_channels": [16, 64, 256, 512],
        "stage_mid_channels": [16, 32, 64, 128],
        "stage_out_channels": [64, 256, 512, 1024],
        "stage_num_blocks": [1, 1, 2, 1],
        "stage_downsample": [False, True, True, True],
        "stage_light_block": [False, False, True, True],
        "stage_kernel_size": [3, 3, 5, 5],
        "stage_numb_of_layers": [3, 3, 3, 3],
        "return_idx": [1, 2, 3],
        "out_features": ["stage2", "stage3", "stage4"],
        "use_learnable_affine_block": True,
    }
    config = tf.DFineConfig(
        num_labels=80,
        backbone_config=tf.HGNetV2Config(**stages),
        encoder_in_channels=[256, 512, 1024],
        decoder_layers=3,
        decoder_n_points=[3, 6, 3],
        hidden_expansion=0.5,
        depth_mult=0.34,
    )
    save(made(lambda: tf.DFineForObjectDetection(config)), folder)
    rt_detr_processor(folder)


def rt_detr_processor(folder: Path) -> None:
    told = {**PLAIN, "do_normalize": False, "do_pad": False, "resample": 2, "size": square(640)}
    processor(folder, image_processor_type="RTDetrImageProcessor", format="coco_detection", **told, **IMAGENET)


def write_rt_detr(folder: Path, **settings: Any) -> None:
    import transformers as tf

    config = tf.RTDetrV2Config(num_labels=80, **settings)
    save(made(lambda: tf.RTDetrV2ForObjectDetection(config)), folder)
    rt_detr_processor(folder)


def write_rt_detr_r18(folder: Path) -> None:
    import transformers as tf

    backbone = tf.RTDetrResNetConfig(
        depths=[2, 2, 2, 2],
        hidden_sizes=[64, 128, 256, 512],
        layer_type="basic",
        out_features=["stage2", "stage3", "stage4"],
    )
    settings = {"encoder_in_channels": [128, 256, 512], "hidden_expansion": 0.5, "decoder_layers": 3}
    write_rt_detr(folder, backbone_config=backbone, **settings)


def write_rf_detr(folder: Path) -> None:
    import transformers as tf

    backbone = tf.RfDetrDinov2Config(
        hidden_size=384,
        num_attention_heads=6,
        image_size=512,
        patch_size=16,
        num_windows=2,
        out_features=["stage3", "stage6", "stage9", "stage12"],
    )
    config = tf.RfDetrConfig(num_labels=91, backbone_config=backbone, decoder_layers=3, decoder_n_points=2)
    save(made(lambda: tf.RfDetrForObjectDetection(config)), folder)
    told = {**PLAIN, "do_pad": False, "resample": 2, "size": square(512)}
    processor(folder, image_processor_type="DetrImageProcessor", format="coco_detection", **told, **IMAGENET)


def grounding_processor(folder: Path) -> None:
    told = {**PLAIN, "do_pad": True, "resample": 2, "size": {"shortest_edge": 800, "longest_edge": 1333}}
    names = {"image_processor_type": "GroundingDinoImageProcessor", "processor_class": "GroundingDinoProcessor"}
    processor(folder, format="coco_detection", pad_size=None, **names, **told, **IMAGENET)
    tokens.write_bert(folder)


def write_grounding_dino(folder: Path) -> None:
    import transformers as tf

    save(made(lambda: tf.GroundingDinoForObjectDetection(tf.GroundingDinoConfig())), folder)
    grounding_processor(folder)


def write_mm_grounding_dino(folder: Path) -> None:
    import transformers as tf

    save(made(lambda: tf.MMGroundingDinoForObjectDetection(tf.MMGroundingDinoConfig())), folder)
    grounding_processor(folder)


def write_clip(folder: Path) -> None:
    import transformers as tf

    text = {"bos_token_id": 0, "eos_token_id": 2}  # as the published configuration has them, wrongly
    config = tf.CLIPConfig(text_config=text, vision_config={}, projection_dim=512)
    save(made(lambda: tf.CLIPModel(config)), folder)
    old = {"crop_size": 224, "do_center_crop": True, "do_normalize": True, "do_resize": True, "resample": 3}
    processor(folder, feature_extractor_type="CLIPFeatureExtractor", size=224, **old, **CLIP)
    tokens.write_clip(folder)


def write_blip2(folder: Path) -> None:
    import transformers as tf

    qformer = {"vocab_size": 30523, "use_qformer_text_input": True}
    config = tf.Blip2Config(qformer_config=qformer, image_text_hidden_size=256, num_query_tokens=32)
    save(made(lambda: tf.Blip2ForImageTextRetrieval(config)), folder)
    names = {"image_processor_type": "BlipImageProcessor", "processor_class": "Blip2Processor"}
    processor(folder, do_convert_rgb=True, size=square(224), **names, **PLAIN, **CLIP)
    tokens.write_bert(folder, more=["[DEC]"])


def write_qwen(folder: Path, **size: Any) -> None:
    import transformers as tf

    half = {"hidden_size": 896, "intermediate_size": 4864, "num_hidden_layers": 24, "num_attention_heads": 14}
    half |= {"num_key_value_heads": 2, "tie_word_embeddings": True}
    config = tf.Qwen2Config(
        **{**half, **size},
        max_position_embeddings=32768,
        rope_theta=1_000_000.0,
        rms_norm_eps=1e-6,
        bos_token_id=151643,
        eos_token_id=151645,
    )
    save(made(lambda: tf.Qwen2ForCausalLM(config)), folder, "bfloat16")
    tokens.write_qwen(folder)


def write_qwen_7b(folder: Path) -> None:
    large = {"hidden_size": 3584, "intermediate_size": 18944, "num_hidden_layers": 28, "num_attention_heads": 28}
    write_qwen(folder, **large, num_key_value_heads=4, vocab_size=152064, tie_word_embeddings=False)


FAMILIES = {
    "vit_base": Family(hub="google/vit-base-patch16-224", write=write_vit, steps="classify"),
    "dinov2_small": Family(hub="facebook/dinov2-small", write=write_dinov2, steps="classify"),
    "dinov2_base": Family(hub="facebook/dinov2-base", write=write_dinov2_base, steps="classify"),
    "siglip2_base": Family(hub="google/siglip2-base-patch16-224", write=write_siglip2, steps="classify_and_mine"),
    "eva02_small": Family(hub="timm/eva02_small_patch14_336.mim_in22k_ft_in1k", write=write_eva02, steps="classify"),
    "d_fine_small": Family(hub="ustc-community/dfine-small-obj2coco", write=write_dfine, steps="detect"),
    "rt_detr_v2_r18": Family(hub="PekingU/rtdetr_v2_r18vd", write=write_rt_detr_r18, steps="detect"),
    "rt_detr_v2_r50": Family(hub="PekingU/rtdetr_v2_r50vd", write=write_rt_detr, steps="detect"),
    "rf_detr_small": Family(hub="Roboflow/rf-detr-small", write=write_rf_detr, steps="detect"),
    "grounding_dino_tiny": Family(
        hub="IDEA-Research/grounding-dino-tiny", write=write_grounding_dino, steps="find_boxes"
    ),
    "mm_grounding_dino_tiny": Family(
        hub="openmmlab-community/mm_grounding_dino_tiny_o365v1_goldg", write=write_mm_grounding_dino, steps="find_boxes"
    ),
    "llmdet_tiny": Family(hub="iSEE-Laboratory/llmdet_tiny", write=write_mm_grounding_dino, steps="find_boxes"),
    "clip_vit_b32": Family(hub="openai/clip-vit-base-patch32", write=write_clip, steps="mine"),
    "siglip_base": Family(hub="google/siglip-base-patch16-224", write=write_siglip, steps="mine"),
    "blip2_itm_vit_g": Family(hub="Salesforce/blip2-itm-vit-g", write=write_blip2, steps="mine"),
    "qwen2_5_half_b": Family(hub="Qwen/Qwen2.5-0.5B-Instruct", write=write_qwen, steps="judge_words"),
    "qwen2_5_7b": Family(hub="Qwen/Qwen2.5-7B-Instruct", write=write_qwen_7b, steps="judge_words"),
    "stable_diffusion_1_5": Family(
        hub="stable-diffusion-v1-5/stable-diffusion-v1-5", write=drawing.write_1_5, steps="draw_and_add"
    ),
    "stable_diffusion_xl": Family(hub="stabilityai/stable-diffusion-xl-base-1.0", write=drawing.write_xl, steps="draw"),
}
