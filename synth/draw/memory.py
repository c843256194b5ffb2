"""What is held where: parts that a GPU has no room for, an autoencoder that works by tiles, and batches that are halved."""

import re
from typing import Any

from tilth.synth.draw.settings import Memory

# How torch's allocators put it; on a CPU it is a plain RuntimeError.
FULL = re.compile(r"out of memory|can't allocate memory|not enough memory|failed to allocate", re.IGNORECASE)
SLICED = 4_000_000  # pixels of a batch from which the autoencoder takes image by image: it holds about 1 kB for each
TILED = 2_000_000  # pixels of an image from which it takes tile by tile
SPARE = 1.3  # memory that drawing takes beside the weights


def is_full(error: BaseException) -> bool:
    """Tell whether an error says that there is no memory left."""
    return isinstance(error, MemoryError) or (isinstance(error, RuntimeError) and bool(FULL.search(str(error))))


def let_go() -> None:
    """Give back what a failed batch held."""
    import gc

    import torch

    gc.collect()
    if torch.cuda.is_available():
        torch.cuda.empty_cache()


def offload(memory: Memory, device: str, weights: int, free: int) -> str:
    """Choose how the parts of a pipeline are held: `none`, `model` or `layers`.

    Args:
        memory: What the recipe says.
        device: Where it draws; a CPU has nowhere to put anything.
        weights: Bytes of all parts.
        free: Bytes that are free on the device.

    >>> offload(Memory(), "cuda", 8 * 10**9, 6 * 10**9), offload(Memory(), "cuda", 4 * 10**9, 6 * 10**9)
    ('model', 'none')
    >>> offload(Memory(offload="layers"), "cuda", 1, 10), offload(Memory(offload="layers"), "cpu", 1, 10)
    ('layers', 'none')
    """
    if not device.startswith("cuda"):
        return "none"
    if memory.offload != "auto":
        return memory.offload
    return "model" if weights * SPARE > free else "none"


def settle(pipeline: Any, memory: Memory, device: str, size_wh: tuple[int, int], batch: int) -> None:
    """Put a pipeline onto its device, and let its autoencoder work in parts where that saves much."""
    import torch

    parts = [part for part in pipeline.components.values() if isinstance(part, torch.nn.Module)]
    weights = sum(p.numel() * p.element_size() for part in parts for p in part.parameters())
    free = torch.cuda.mem_get_info(device)[0] if device.startswith("cuda") and memory.offload == "auto" else 0
    here = all(p.device.type == torch.device(device).type for part in parts for p in part.parameters())
    held = offload(memory, device, 0 if here else weights, free)
    if held == "model":
        pipeline.enable_model_cpu_offload(device=device)
    elif held == "layers":
        pipeline.enable_sequential_cpu_offload(device=device)
    else:
        pipeline.to(device)
    vae, pixels = pipeline.vae, size_wh[0] * size_wh[1]
    # a small autoencoder of other than eight pixels a latent miscounts its tiles
    tiles = getattr(vae, "spatial_scale_factor", pipeline.vae_scale_factor) == pipeline.vae_scale_factor
    for wanted, method in (
        (memory.tiling == "on" or (memory.tiling == "auto" and pixels * batch > SLICED), "enable_slicing"),
        (tiles and (memory.tiling == "on" or (memory.tiling == "auto" and pixels > TILED)), "enable_tiling"),
    ):
        if wanted and hasattr(vae, method):
            getattr(vae, method)()
