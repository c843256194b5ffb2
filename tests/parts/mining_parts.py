"""What the tests of mining share: a BLIP-2 with random weights, scenes of the starter world, and stores of random vectors."""

import functools
from collections.abc import Mapping
from pathlib import Path

import numpy as np

from tilth.claims import Json
from tilth.engine.work import Work
from tilth.images import Image
from tilth.mining.vectors.store import Store
from tilth.samples import NewSample
from tilth.starter.world.scene import Scene, Spec, draw_spec, render
from tilth.starter.world.sets import scene_rng


def random_retrieval_model(folder: Path, seed: int = 0) -> Path:
    """Save the starter's BLIP-2 as it is before training, with weights so large that images look different to it."""
    import torch

    from tilth.starter.grounding.tokenizer import write_tokenizer
    from tilth.starter.retrieval.model import build, processor

    torch.manual_seed(seed)
    tokenizer = write_tokenizer(folder)
    model = build()
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.ndim == 2:
                parameter *= 4
    model.save_pretrained(folder)
    processor(tokenizer).save_pretrained(folder)
    return folder


@functools.cache
def scene(index: int, side: int = 96) -> Scene:
    rng = scene_rng("judge_held_out", index)
    return render(draw_spec(rng), rng, side=side)


def scenes(count: int, side: int = 96) -> list[Image]:
    return [scene(i, side).image for i in range(count)]


def knife_scene(seed: int) -> Image:
    spec = Spec(things=(("knife", "red", ""),), surface="wood", style="photo")
    return render(spec, np.random.default_rng(seed), side=96).image


def new_store(folder: Path, queries: int = 4, width: int = 16, digest: str = "d1", **more: int) -> Store:
    return Store(folder, model="m", digest=digest, queries=queries, width=width, **more)


def unit(rng: np.random.Generator, *shape: int) -> np.ndarray:
    values = rng.normal(size=shape)
    return (values / np.linalg.norm(values, axis=-1, keepdims=True)).astype(np.float16)


def filled_store(folder: Path, rows: int, seed: int = 0) -> tuple[Store, np.ndarray]:
    vectors = unit(np.random.default_rng(seed), rows, 4, 16)
    store = new_store(folder, shard_rows=100)
    for start in range(0, rows, 60):
        part = vectors[start : start + 60]
        store.append([(f"{start + i}", "s") for i in range(len(part))], part)
    return store, vectors


def add(work: Work, key: str, files: list[bytes], columns: Mapping[str, Json] | None = None, **origin: Json) -> None:
    new = (
        NewSample(data=d, origin={"source": f"{key}-{i}", **origin}, columns=columns or {}) for i, d in enumerate(files)
    )
    work.add(key, new)


VISION = {
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "image_size": 32,
    "patch_size": 8,
}
WORDS = {
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "vocab_size": 1033,
    "max_position_embeddings": 20,
}


def saved(family: str, folder: Path) -> Path:
    """Save a small model of the real class, with random weights, and what goes before it."""
    import torch
    import transformers as tf

    from tilth.starter.grounding.tokenizer import write_tokenizer

    torch.manual_seed(0)
    size = {"height": 32, "width": 32}
    plain = {"size": size, "crop_size": size, "do_center_crop": False}
    if family == "clip":
        config = tf.CLIPConfig(text_config={**WORDS, "eos_token_id": 3}, vision_config=VISION, projection_dim=24)
        model, images = tf.CLIPModel(config), tf.CLIPImageProcessor(**plain)
    elif family == "siglip":
        config = tf.SiglipConfig(text_config={**WORDS, "projection_size": 32}, vision_config=VISION)
        model, images = tf.SiglipModel(config), tf.SiglipImageProcessor(size=size)
    elif family == "dinov2":
        model = tf.Dinov2Model(tf.Dinov2Config(**{**VISION, "mlp_ratio": 2}))
        images = tf.BitImageProcessor(**plain)
    else:
        model = tf.DINOv3ViTModel(tf.DINOv3ViTConfig(**VISION))
        images = tf.BitImageProcessor(**plain)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.data = torch.randn_like(parameter) * (0.3 if parameter.ndim > 1 else 0.5)
    model.save_pretrained(folder)
    images.save_pretrained(folder)
    if family in ("clip", "siglip"):
        write_tokenizer(folder)
    return folder
