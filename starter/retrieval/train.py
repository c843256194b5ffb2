"""Train the miniature BLIP-2: image-text contrast for search, image-text matching for re-ranking.

Paper: https://arxiv.org/abs/2301.12597 (section 3.2)
Differs: no captioning loss, no language model, 64 px. Negatives that happen to be true are masked, since the captions
of this small world collide. The image half is pre-trained on dense truth instead of being CLIP's.
"""

from pathlib import Path

import numpy as np
import numpy.typing as npt
import torch
from PIL import Image
from torch import nn
from torch.nn import functional
from transformers import BertTokenizer, Blip2ForImageTextRetrieval

from tilth.engine.fit import fit
from tilth.starter.grounding.tokenizer import write_tokenizer
from tilth.starter.retrieval.captions import draw_request, near_miss, say
from tilth.starter.retrieval.model import (
    SIDE,
    build,
    image_vectors,
    match_logits,
    processor,
    text_vectors,
    tokenize,
    vision_states,
)
from tilth.starter.retrieval.score import score
from tilth.starter.retrieval.vision import pretrain_vision
from tilth.starter.world.pixels import CLIP, roughen, to_pixels
from tilth.starter.world.scene import Scene
from tilth.starter.world.sets import scene_set

SMALL_SCENES, LARGE_SCENES, HELD_OUT_SCENES = 16000, 8000, 2000
VISION_STEPS, STEPS, BATCH = 1000, 2600, 64
_LOWEST_TEMPERATURE = 1 / 50


def shrink(images: npt.NDArray[np.uint8]) -> npt.NDArray[np.uint8]:
    """Resize images to 64 px the way the processor does."""
    return np.stack(
        [np.asarray(Image.fromarray(image).resize((SIDE, SIDE), Image.Resampling.BICUBIC)) for image in images]
    )


def _training_set(work: Path) -> tuple[npt.NDArray[np.uint8], npt.NDArray[np.int8], list[Scene]]:
    """Scenes drawn at 64 px and scenes shrunk from 96 px, so that both look familiar."""
    small = scene_set(work / "sets", "train", SMALL_SCENES, side=SIDE, sign_share=0.1)
    large = scene_set(work / "sets", "train", LARGE_SCENES, side=96, sign_share=0.15)
    images = np.concatenate([small.images, shrink(large.images)])
    return images, np.concatenate([small.patches, large.patches]), small.scenes + large.scenes


def _contrast(similarity: torch.Tensor, true: torch.Tensor) -> torch.Tensor:
    """Contrastive loss of similarities `(images, texts)` both ways; true pairs off the diagonal count neither way."""
    own = torch.eye(len(similarity), dtype=torch.bool, device=similarity.device)
    masked = similarity.masked_fill(true & ~own, -1e4)
    diagonal = torch.arange(len(similarity), device=similarity.device)
    return (functional.cross_entropy(masked, diagonal) + functional.cross_entropy(masked.T, diagonal)) / 2


def _match(
    model: Blip2ForImageTextRetrieval,
    states: torch.Tensor,
    right: tuple[torch.Tensor, torch.Tensor],
    missed: tuple[torch.Tensor, torch.Tensor],
    similarity: torch.Tensor,
    true: torch.Tensor,
) -> torch.Tensor:
    """Matching loss over half the batch.

    Pairs are the true ones, the wrong texts and images that contrast finds most alike (as in the paper), and texts that
    are wrong in one word: in a world this small, those are what re-ranking has to tell apart.
    """
    wrong = similarity.detach().masked_fill(true, -1e4)
    half = torch.randperm(len(states), device=states.device)[: len(states) // 2]
    text = torch.multinomial(wrong.softmax(1) + 1e-9, 1)[:, 0][half]
    image = torch.multinomial(wrong.softmax(0).T + 1e-9, 1)[:, 0][half]
    ids = torch.cat([right[0][half], right[0][text], right[0][half], missed[0][half]])
    mask = torch.cat([right[1][half], right[1][text], right[1][half], missed[1][half]])
    with torch.autocast(states.device.type, torch.bfloat16):
        logits = match_logits(model, states[torch.cat([half, half, image, half])], ids, mask)
    wanted = (torch.arange(len(logits), device=states.device) < len(half)).long()
    return functional.cross_entropy(logits, wanted, weight=torch.tensor([1.0, 3.0], device=states.device))


def _fit_retrieval(
    model: Blip2ForImageTextRetrieval,
    images: npt.NDArray[np.uint8],
    scenes: list[Scene],
    tokenizer: BertTokenizer,
    work: Path,
    device: torch.device,
    steps: int,
) -> None:
    model.vision_model.requires_grad_(False)  # frozen, as in the paper
    both = nn.ModuleDict({"model": model})
    log_scale = nn.Parameter(torch.tensor(np.log(10.0), dtype=torch.float32, device=device))
    both.register_parameter("log_scale", log_scale)

    def loss_at(step: int) -> torch.Tensor:
        rng = np.random.default_rng((22, step))
        chosen = rng.integers(0, len(images), BATCH)
        pixels = roughen(to_pixels(images[chosen], CLIP, device), rng)
        requests = [draw_request(scenes[i], rng) for i in chosen]
        wrong = [near_miss(request, scenes[i], rng) for request, i in zip(requests, chosen, strict=True)]
        ids, mask = tokenize(tokenizer, [say(request, rng) for request in requests + wrong], device)
        right, missed = (ids[:BATCH], mask[:BATCH]), (ids[BATCH:], mask[BATCH:])
        true = torch.tensor([[request.holds(scenes[i]) for request in requests] for i in chosen], device=device)
        with torch.autocast(device.type, torch.bfloat16):
            with torch.no_grad():
                states = vision_states(model, pixels.flip(3) if step % 2 else pixels)
            seen, read = image_vectors(model, states), text_vectors(model, *right)
        scale = log_scale.exp().clamp(max=1 / _LOWEST_TEMPERATURE)
        similarity = torch.einsum("iqd,td->iqt", seen, read).amax(1) * scale
        return _contrast(similarity, true) + _match(model, states, right, missed, similarity, true)

    held_out = scene_set(work / "sets", "held_out", HELD_OUT_SCENES, side=SIDE, sign_share=0.1)

    def watch(step: int, shown: nn.Module) -> str:
        part = slice(0, 1000)
        return str(
            score(model, tokenizer, held_out.images[part], held_out.scenes[part], device, groups=["kind", "color_kind"])
        )

    fit(
        "retrieval",
        both,
        loss_at,
        steps=steps,
        lr=1e-3,
        work=work,
        weight_decay=0.01,
        betas=(0.9, 0.98),
        watch=watch,
    )


def train(out: Path, work: Path, device: torch.device, steps: int | None) -> dict[str, float]:
    """Train on rendered scenes, save to `out/retrieval` in half precision, and return scores on held-out scenes."""
    torch.manual_seed(0)
    folder = out / "retrieval"
    tokenizer = write_tokenizer(folder)
    images, patches, scenes = _training_set(work)
    model = build().to(device)
    pretrain_vision(model.vision_model, images, patches, scenes, work, device, min(steps or VISION_STEPS, VISION_STEPS))
    _fit_retrieval(model, images, scenes, tokenizer, work, device, steps or STEPS)
    model.half().save_pretrained(folder)
    processor(tokenizer).save_pretrained(folder)
    loaded = Blip2ForImageTextRetrieval.from_pretrained(folder, dtype=torch.float32).to(device)
    held_out = scene_set(work / "sets", "held_out", HELD_OUT_SCENES, side=SIDE, sign_share=0.1)
    larger = scene_set(work / "sets", "held_out", 600, side=96, sign_share=0.15)
    result = score(loaded, tokenizer, held_out.images, held_out.scenes, device)
    shrunk = score(loaded, tokenizer, shrink(larger.images), larger.scenes, device, groups=["kind"])
    return result | {f"{name}_shrunk_from_96": value for name, value in shrunk.items()}
