"""A miniature vision transformer that knows harmless things, colours, grounds and styles, as an ImageNet one knows its classes.

Users fine-tune it on their own categories; it has never seen one of the starter policy's.

Paper: https://arxiv.org/abs/2010.11929 (ViT)
Differs: trained on a label a patch as well as on labels of the image; from nothing, the whole image alone teaches it little.
"""

from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn
from torch.nn import functional as F  # noqa: N812 - the name everybody knows
from transformers import ViTConfig, ViTForImageClassification, ViTImageProcessor

from tilth.data.files import folder_beside
from tilth.engine.fit import fit
from tilth.engine.views import draw_moves, recolor, to_unit
from tilth.starter.world.scene import BASE_KINDS, COLORS, STYLES
from tilth.starter.world.sets import PATCH_NAMES, scene_set
from tilth.starter.world.surfaces import SURFACES

SIDE, PATCH = 96, 8
SCENES = 36_000
STEPS, GO = 12_000, 6000  # the rate rises and falls in each go
BATCH = 32


def new_classifier(labels: tuple[str, ...]) -> ViTForImageClassification:
    """Return an untrained ViT of 0.8 million parameters."""
    return ViTForImageClassification(ViTConfig(
        hidden_size=128, num_hidden_layers=4, num_attention_heads=4, intermediate_size=384, image_size=SIDE,
        patch_size=PATCH, hidden_dropout_prob=0.0, attention_probs_dropout_prob=0.0,
        id2label=dict(enumerate(labels)), label2id={name: i for i, name in enumerate(labels)},
        problem_type="multi_label_classification",
    ))  # fmt: skip


def _pixels(images: np.ndarray) -> torch.Tensor:  # type: ignore[type-arg]
    return torch.from_numpy(np.array(images)).permute(0, 3, 1, 2).float() / 127.5 - 1


def train(out: Path, work: Path, device: torch.device, steps: int | None) -> dict[str, float]:
    """Train on harmless things, save as `out/classifier`, score which kinds held-out scenes show."""
    data = scene_set(work / "sets", "train", SCENES, side=SIDE, kinds=BASE_KINDS)
    boxes = [np.array([t.box_xyxy for t in s.things], np.float32).reshape(-1, 4) / SIDE for s in data.scenes]
    patches = torch.from_numpy(data.patches).long()
    grounds = torch.tensor([[tuple(SURFACES).index(s.surface), STYLES.index(s.style)] for s in data.scenes])
    torch.manual_seed(3)
    model = new_classifier(BASE_KINDS)
    model.set_attn_implementation("eager")  # torch's own attention learns a third slower on a CPU
    parts: Any = nn.ModuleDict({
        "vit": model, "dense": nn.Linear(128, len(PATCH_NAMES) + 1 + len(COLORS)), "ground": nn.Linear(128, len(SURFACES) + len(STYLES)),
    }).to(device)  # fmt: skip
    none = len(PATCH_NAMES)

    def loss_at(step: int) -> torch.Tensor:
        rng = np.random.default_rng((50, step))
        chosen = np.sort(rng.integers(0, len(data.images), BATCH))
        moves = draw_moves(BATCH, rng)
        x = 2 * recolor(moves.image(to_unit(data.images[chosen], str(device))), rng) - 1
        none_is_0 = patches[chosen].to(device).float() + 1  # as what lies beyond an image is
        dense = moves.image(none_is_0, mode="nearest", padding="zeros").long() - 1
        with torch.autocast(device.type, torch.bfloat16):
            tokens = parts["vit"].vit(x).last_hidden_state
            logits = parts["vit"].classifier(tokens[:, 0]).float()
            spots = tokens[:, 1:].transpose(1, 2).unflatten(2, (SIDE // PATCH, SIDE // PATCH))
            spots = F.interpolate(spots.float(), size=(8, 8), mode="bilinear").flatten(2).transpose(1, 2)
            local = parts["dense"](spots).float()
            whole = parts["ground"](tokens[:, 0]).float()
        kind, color = dense[:, 0].flatten(), dense[:, 1].flatten()
        thing = kind >= 0
        weight = torch.where(thing, 1.0 / thing.sum().clamp(min=1), 0.5 / (~thing).sum().clamp(min=1))
        by_patch = F.cross_entropy(
            local[..., : none + 1].flatten(0, 1), torch.where(thing, kind, none), reduction="none"
        )
        loss = (by_patch * weight).sum() + F.cross_entropy(local[..., none + 1 :].flatten(0, 1)[thing], color[thing])
        truth = grounds[chosen].to(device)
        loss = loss + 0.3 * F.cross_entropy(whole[:, : len(SURFACES)], truth[:, 0])
        loss = loss + 0.3 * F.cross_entropy(whole[:, len(SURFACES) :], truth[:, 1])
        present = torch.zeros_like(logits)
        for i, (index, seen) in enumerate(zip(chosen, moves.boxes([boxes[index] for index in chosen])[1], strict=True)):
            things = data.scenes[index].things
            present[i, [BASE_KINDS.index(thing.kind) for thing, there in zip(things, seen, strict=True) if there]] = 1
        return loss + 3 * F.binary_cross_entropy_with_logits(logits, present)

    fit(
        "classifier",
        parts,
        loss_at,
        steps=steps or STEPS,
        lr=1e-3,
        every=min(GO, steps or STEPS),
        work=work,
        weight_decay=0.03,
        betas=(0.9, 0.98),
        ema=0.998,
    )
    with folder_beside(out / "classifier") as partial:
        model.cpu().half().save_pretrained(partial)
        ViTImageProcessor(size={"height": SIDE, "width": SIDE}).save_pretrained(partial)
    return score(model.float(), work)


@torch.no_grad()
def score(model: ViTForImageClassification, work: Path) -> dict[str, float]:
    """Return the mean average precision over kinds on held-out scenes."""
    from sklearn.metrics import average_precision_score

    data = scene_set(work / "sets", "held_out", 400, side=SIDE, kinds=BASE_KINDS)
    truth = np.array([[kind in {t.kind for t in s.things} for kind in BASE_KINDS] for s in data.scenes])
    chances = torch.cat([model(_pixels(data.images[i : i + 50])).logits for i in range(0, len(truth), 50)]).numpy()
    return {"map_kinds": round(float(average_precision_score(truth, chances, average="macro")), 3)}
