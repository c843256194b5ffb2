"""What the tests of mining share: a BLIP-2 with random weights, scenes of the starter world, and stores of random vectors."""

import functools
from pathlib import Path

import numpy as np

from tilth.images import Image
from tilth.mining.store import Store
from tilth.starter.data import scene_rng
from tilth.starter.world import Scene, Spec, draw_spec, render


def random_retrieval_model(folder: Path, seed: int = 0) -> Path:
    """Save the starter's BLIP-2 as it is before training, with weights so large that images look different to it."""
    import torch

    from tilth.starter.bert_tokenizer import write_tokenizer
    from tilth.starter.retrieval_model import build, processor

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
