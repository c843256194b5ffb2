"""Pre-train the image half of the miniature BLIP-2 on dense truth: kind and colour by patch, surface and style.

Differs: the published model starts from EVA-CLIP; from scratch, contrast and matching alone learn nothing in an hour.
The first weights are mimetic (https://arxiv.org/abs/2305.09828) behind a whitening patch embedding, since a small
transformer otherwise spends most of a short training on finding attention patterns.
"""

import math
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import numpy.typing as npt
import torch
from torch import nn
from torch.nn import functional
from transformers import Blip2VisionModel

from tilth.engine.fit import fit
from tilth.starter.world.pixels import CLIP, roughen, to_pixels
from tilth.starter.world.scene import STYLES, Scene
from tilth.starter.world.sets import COLOR_NAMES, KIND_NAMES
from tilth.starter.world.surfaces import SURFACES

PATCH = 8
_KINDS = len(KIND_NAMES)


@torch.no_grad()
def initialise_vision(vision: Blip2VisionModel, pixels: torch.Tensor) -> None:
    """Set the first weights: patches that whiten `(n, 3, side, side)` pixels, sine positions, mimetic attention."""
    embeddings = vision.embeddings
    width = embeddings.embed_dim
    patches = pixels.unfold(2, PATCH, PATCH).unfold(3, PATCH, PATCH).permute(0, 2, 3, 1, 4, 5).flatten(0, 2).flatten(1)
    patches = patches - patches.mean(0)
    values, vectors = torch.linalg.eigh(patches.T @ patches / len(patches))
    values, vectors = values.flip(0), vectors.flip(1)
    whitening = (vectors / (values + values[0] * 1e-3).sqrt()).T[:width] * 0.25
    embeddings.patch_embedding.weight.copy_(whitening.reshape(width, 3, PATCH, PATCH))
    embeddings.patch_embedding.bias.zero_()

    cells = pixels.shape[-1] // PATCH
    waves = torch.exp(-math.log(100.0) * torch.arange(width // 4) / (width // 4))
    y, x = torch.meshgrid(torch.arange(cells).float(), torch.arange(cells).float(), indexing="ij")
    positions = [wave(axis.reshape(-1, 1) * waves) for axis in (x, y) for wave in (torch.sin, torch.cos)]
    embeddings.position_embedding.zero_()
    embeddings.position_embedding[0, 1:] = 0.3 * torch.cat(positions, 1).to(pixels.device)
    nn.init.normal_(embeddings.class_embedding, std=0.02)
    for layer in vision.encoder.layers:
        attention = layer.self_attn
        _mimetic_attention(attention.qkv.weight, attention.projection.weight, attention.num_heads)


def _mimetic_attention(fused: torch.Tensor, projection: torch.Tensor, heads: int) -> None:
    """Make each head's query-key product near the identity, and the value-output product near its negative."""
    width = len(projection)
    head = width // heads
    eye = torch.eye(width, device=fused.device)

    def noise() -> torch.Tensor:
        return torch.randn(width, width, device=fused.device) / math.sqrt(width)

    for i in range(heads):
        left, size, right = torch.linalg.svd(0.7 * noise() + 0.7 * eye)
        root = size[:head].sqrt()
        fused[i * head : (i + 1) * head] = (left[:, :head] * root).T
        fused[width + i * head : width + (i + 1) * head] = right[:head] * root[:, None]
    left, size, right = torch.linalg.svd(0.4 * noise() - 0.4 * eye)
    fused[2 * width :] = right * size.sqrt()[:, None]
    projection.copy_(left * size.sqrt())


def _patch_loss(answers: torch.Tensor, kinds: torch.Tensor, colors: torch.Tensor) -> torch.Tensor:
    """Cross-entropy of kind (or nothing) and colour; answers `(n, patches, kinds + 1 + colours)`, -1 for none."""
    thing = kinds >= 0
    wanted = torch.where(thing, kinds, _KINDS)
    kind = functional.cross_entropy(
        answers[..., : _KINDS + 1].flatten(0, 1), wanted.flatten(), reduction="none"
    ).reshape(wanted.shape)
    color = functional.cross_entropy(answers[..., _KINDS + 1 :][thing], colors[thing])
    return kind[thing].mean() + 0.5 * kind[~thing].mean() + color


def pretrain_vision(
    vision: Blip2VisionModel,
    images: npt.NDArray[np.uint8],
    patches: npt.NDArray[np.int8],
    scenes: Sequence[Scene],
    work: Path,
    device: torch.device,
    steps: int,
) -> None:
    """Train the vision model in place under throw-away linear heads, on images with patch labels `(n, 2, 8, 8)`."""
    initialise_vision(vision, to_pixels(images[:400], CLIP, device))
    width = vision.config.hidden_size
    head = nn.Linear(width, _KINDS + 1 + len(COLOR_NAMES)).to(device)
    place = nn.Linear(width, len(SURFACES) + len(STYLES)).to(device)  # reads the class token
    labels = torch.from_numpy(patches).long()
    surfaces = torch.tensor([list(SURFACES).index(scene.surface) for scene in scenes])
    styles = torch.tensor([STYLES.index(scene.style) for scene in scenes])

    def loss_at(step: int) -> torch.Tensor:
        rng = np.random.default_rng((21, step))
        chosen = rng.integers(0, len(images), 48)
        pixels, wanted = roughen(to_pixels(images[chosen], CLIP, device), rng), labels[chosen].to(device)
        if step % 2:
            pixels, wanted = pixels.flip(3), wanted.flip(3)
        with torch.autocast(device.type, torch.bfloat16):
            states = vision(pixel_values=pixels)[0]
            things, whole = head(states[:, 1:]).float(), place(states[:, 0]).float()
        surface = functional.cross_entropy(whole[:, : len(SURFACES)], surfaces[chosen].to(device))
        style = functional.cross_entropy(whole[:, len(SURFACES) :], styles[chosen].to(device))
        return _patch_loss(things, wanted[:, 0].flatten(1), wanted[:, 1].flatten(1)) + 0.3 * (surface + style)

    both = nn.ModuleDict({"vision": vision, "head": head, "place": place})
    fit(
        "retrieval-vision",
        both,
        loss_at,
        steps=steps,
        lr=1e-3,
        work=work,
        flat=0.6,
        weight_decay=0.03,
        betas=(0.9, 0.98),
    )
