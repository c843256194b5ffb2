"""Untrained miniatures of BLIP and BLIP-2 that write."""

from pathlib import Path
from typing import Any

import torch
from transformers import (
    Blip2Config,
    Blip2ForConditionalGeneration,
    Blip2Processor,
    BlipConfig,
    BlipForConditionalGeneration,
    BlipImageProcessor,
    BlipProcessor,
)

from tilth.starter.grounding.tokenizer import write_tokenizer

SIDE = 32
SHAPE = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 1, "num_attention_heads": 2}
VISION = {**SHAPE, "image_size": SIDE, "patch_size": 16, "initializer_range": 0.5}


def images() -> BlipImageProcessor:
    return BlipImageProcessor(size={"height": SIDE, "width": SIDE})


def blip(folder: Path) -> Path:
    torch.manual_seed(3)
    tokenizer = write_tokenizer(folder)
    size = len(tokenizer)
    text: dict[str, Any] = {
        **SHAPE, "vocab_size": size, "encoder_hidden_size": 32, "bos_token_id": tokenizer.cls_token_id, "initializer_range": 0.5,
        "sep_token_id": tokenizer.sep_token_id, "eos_token_id": tokenizer.sep_token_id, "pad_token_id": tokenizer.pad_token_id,
    }  # fmt: skip
    net = BlipForConditionalGeneration(BlipConfig(text_config=text, vision_config=VISION, projection_dim=16))
    net.save_pretrained(folder)
    BlipProcessor(images(), tokenizer).save_pretrained(folder)
    return folder


def blip2(folder: Path) -> Path:
    torch.manual_seed(4)
    processor = Blip2Processor(images(), write_tokenizer(folder), num_query_tokens=4)
    tokenizer = processor.tokenizer
    size = len(tokenizer)
    text: dict[str, Any] = {
        "model_type": "opt", "vocab_size": size, "hidden_size": 32, "num_hidden_layers": 1, "ffn_dim": 32, "num_attention_heads": 2,
        "word_embed_proj_dim": 32, "max_position_embeddings": 64, "init_std": 0.5, "bos_token_id": tokenizer.cls_token_id,
        "eos_token_id": tokenizer.sep_token_id, "pad_token_id": tokenizer.pad_token_id,
    }  # fmt: skip
    qformer = {**SHAPE, "vocab_size": size, "encoder_hidden_size": 32, "cross_attention_frequency": 1}
    config = Blip2Config(
        vision_config=VISION,
        qformer_config=qformer,
        text_config=text,
        num_query_tokens=4,
        image_token_index=tokenizer.convert_tokens_to_ids("<image>"),
    )
    net = Blip2ForConditionalGeneration(config)
    torch.nn.init.normal_(net.query_tokens, std=0.5)
    net.save_pretrained(folder)
    processor.save_pretrained(folder)
    return folder


CAPTIONERS = {"blip": blip, "blip2": blip2}
