"""A miniature real-time detector that knows the harmless things of the world, as a COCO checkpoint knows everyday ones.

Users fine-tune it on their own categories; it has never seen one of the starter policy's.

Paper: https://arxiv.org/abs/2410.13842 (D-FINE)
"""

from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn
from transformers import DFineConfig, DFineForObjectDetection, HGNetV2Config, RTDetrImageProcessor

from tilth.data.files import folder_beside
from tilth.engine.fit import fit
from tilth.engine.views import to_unit, views
from tilth.geometry import cxcywh_to_xyxy, iou, xyxy_to_cxcywh
from tilth.starter.world.scene import BASE_KINDS, Scene
from tilth.starter.world.sets import scene_set

SIDE = 96
SCENES = 36_000
STEPS, GO = 12_000, 6000  # the rate rises and falls in each go
BATCH = 16


def new_detector(labels: tuple[str, ...]) -> DFineForObjectDetection:
    """Return an untrained D-FINE of 1.1 million parameters."""
    backbone = HGNetV2Config(
        embedding_size=32, hidden_sizes=[32, 64, 96, 128], depths=[1, 1, 1, 1], stem_channels=[3, 16, 24],
        stage_in_channels=[24, 32, 64, 96], stage_mid_channels=[16, 16, 24, 32], stage_out_channels=[32, 64, 96, 128],
        stage_num_blocks=[1, 1, 1, 1], stage_downsample=[False, True, True, True],
        stage_light_block=[False, False, True, True], stage_kernel_size=[3, 3, 5, 5], stage_numb_of_layers=[3, 3, 3, 3],
        out_features=["stage2", "stage3", "stage4"], use_learnable_affine_block=True,
    )  # fmt: skip
    config = DFineConfig(
        backbone_config=backbone, freeze_backbone_batch_norms=False, encoder_hidden_dim=96,
        encoder_in_channels=[64, 96, 128], encoder_ffn_dim=192, encoder_attention_heads=4, d_model=96,
        decoder_in_channels=[96, 96, 96], decoder_ffn_dim=192, decoder_attention_heads=4, decoder_layers=3,
        num_queries=20, num_denoising=5, eval_size=None, hidden_expansion=0.5, depth_mult=0.34, max_num_bins=32,
        id2label=dict(enumerate(labels)), label2id={name: i for i, name in enumerate(labels)},
    )  # fmt: skip
    return DFineForObjectDetection(config)


def _things(scene: Scene) -> tuple[np.ndarray[Any, Any], np.ndarray[Any, Any]]:
    """Return the class of each thing that can be seen, and its box, `(k, 4)` xyxy in parts of the image."""
    things = [t for t in scene.things if t.visible > 0.2]
    boxes = np.array([t.box_xyxy for t in things], np.float32).reshape(-1, 4) / SIDE
    return np.array([BASE_KINDS.index(t.kind) for t in things], np.int64), boxes


def train(out: Path, work: Path, device: torch.device, steps: int | None) -> dict[str, float]:
    """Train on harmless things, save as `out/detector`, score the top box of held-out scenes."""
    data = scene_set(work / "sets", "train", SCENES, side=SIDE, kinds=BASE_KINDS)
    torch.manual_seed(2)
    model = new_detector(BASE_KINDS).to(device)

    def loss_at(step: int) -> torch.Tensor:
        rng = np.random.default_rng((40, step))
        chosen = np.sort(rng.integers(0, len(data.images), BATCH))
        shown = [_things(data.scenes[index]) for index in chosen]
        x, boxes, seen = views(to_unit(data.images[chosen], str(device)), [own for _, own in shown], rng)
        labels = [
            {
                "class_labels": torch.from_numpy(kinds[there]).to(device),
                "boxes": torch.from_numpy(xyxy_to_cxcywh(own[there]).astype(np.float32)).to(device),
            }
            for (kinds, _), own, there in zip(shown, boxes, seen, strict=True)
        ]
        with torch.autocast(device.type, torch.bfloat16):
            loss: torch.Tensor = model(pixel_values=x, labels=labels).loss
        return loss

    fit(
        "detector",
        model,
        loss_at,
        steps=steps or STEPS,
        lr=6e-4,
        every=min(GO, steps or STEPS),
        work=work,
        weight_decay=1e-4,
        clip=0.5,
        ema=0.998,
    )
    with folder_beside(out / "detector") as partial:
        model.cpu().half().save_pretrained(partial)
        RTDetrImageProcessor(size={"height": SIDE, "width": SIDE}, do_normalize=False).save_pretrained(partial)
    return score(model.float(), work)


@torch.no_grad()
def score(model: nn.Module, work: Path) -> dict[str, float]:
    """Return how often the best box of a held-out scene of one thing is right in class, and its mean overlap."""
    data = scene_set(work / "sets", "held_out", 300, side=SIDE, kinds=BASE_KINDS, single=True)
    right, overlaps = [], []
    for start in range(0, len(data.images), 50):
        x = torch.from_numpy(data.images[start : start + 50]).permute(0, 3, 1, 2).float() / 255
        said = model(pixel_values=x)
        for logits, boxes, scene in zip(said.logits, said.pred_boxes, data.scenes[start : start + 50], strict=True):
            query, label = divmod(int(logits.argmax()), logits.shape[1])
            thing = scene.things[0]
            right.append(BASE_KINDS[label] == thing.kind)
            box = cxcywh_to_xyxy(boxes[query : query + 1].numpy() * SIDE)
            overlaps.append(float(iou(box, np.array([thing.box_xyxy]))[0, 0]))
    return {"top1_class": round(float(np.mean(right)), 3), "top1_iou": round(float(np.mean(overlaps)), 3)}
