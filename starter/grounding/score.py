"""Score the miniature GroundingDINO on held-out scenes: AP50 by kind, and how often absent kinds get a box."""

import contextlib
import io

import numpy as np
import numpy.typing as npt
import torch
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval
from transformers import BertTokenizer, GroundingDinoForObjectDetection
from transformers.models.grounding_dino.modeling_grounding_dino import build_label_maps

from tilth.starter.grounding.prompts import join
from tilth.starter.world.pixels import IMAGENET, to_pixels
from tilth.starter.world.sets import KIND_NAMES, SceneSet

CONFIDENT = 0.3
_LEAST_VISIBLE = 0.2


@torch.no_grad()
def ground(
    model: GroundingDinoForObjectDetection,
    tokenizer: BertTokenizer,
    images: npt.NDArray[np.uint8],
    phrases: list[str],
    device: torch.device,
) -> tuple[npt.NDArray[np.float32], npt.NDArray[np.float32]]:
    """Find all phrases in images `(n, side, side, 3)` at once.

    Returns:
        Boxes `(n, queries, 4)` as xyxy in pixels and scores `(n, queries, phrases)`: the mean over a phrase's tokens.
    """
    text = tokenizer([join(phrases)] * len(images), return_tensors="pt").to(device)
    output = model(pixel_values=to_pixels(images, IMAGENET, device), **text)
    spans = torch.stack(build_label_maps(output.logits, text["input_ids"])).float()  # (n, phrases, max_text_len)
    tokens = output.logits.float().sigmoid()
    scores = torch.einsum("nqt,npt->nqp", tokens, spans) / spans.sum(2)[:, None]
    middle, size = output.pred_boxes.float().split(2, dim=2)
    boxes = torch.cat([middle - size / 2, middle + size / 2], 2).clamp(0, 1) * images.shape[1]
    return boxes.cpu().numpy(), scores.cpu().numpy()


def _coco_truth(world: SceneSet, count: int) -> COCO:
    annotations: list[dict[str, object]] = []
    for i, scene in enumerate(world.scenes[:count]):
        for thing in scene.things:
            x0, y0, x1, y1 = thing.box_xyxy
            annotations.append(
                {
                    "id": len(annotations) + 1,
                    "image_id": i,
                    "category_id": KIND_NAMES.index(thing.kind),
                    "bbox": [x0, y0, x1 - x0, y1 - y0],
                    "area": (x1 - x0) * (y1 - y0),
                    "iscrowd": int(thing.visible <= _LEAST_VISIBLE),  # neither a hit nor a miss
                }
            )
    truth = COCO()
    truth.dataset = {
        "info": {},
        "images": [{"id": i} for i in range(count)],
        "annotations": annotations,
        "categories": [{"id": k, "name": name} for k, name in enumerate(KIND_NAMES)],
    }
    truth.createIndex()
    return truth


def score(
    model: GroundingDinoForObjectDetection,
    tokenizer: BertTokenizer,
    world: SceneSet,
    device: torch.device,
    *,
    limit: int | None = None,
) -> dict[str, float]:
    """Ask for all kinds at once in every scene.

    Returns:
        `ap50` and `ap75` over kinds, `ap50_<kind>`, and `absent_with_box`: the share of (scene, absent kind) pairs
        in which some box scores above 0.3 for that kind.
    """
    count = min(limit or len(world.scenes), len(world.scenes))
    rows, absent = [], []
    for start in range(0, count, 50):
        index = range(start, min(start + 50, count))
        boxes, scores = ground(model, tokenizer, world.images[index.start : index.stop], list(KIND_NAMES), device)
        for i, box, points in zip(index, boxes, scores, strict=True):
            present = {thing.kind for thing in world.scenes[i].things}
            absent += [points[:, k].max() > CONFIDENT for k, kind in enumerate(KIND_NAMES) if kind not in present]
            sizes = np.concatenate([box[:, :2], box[:, 2:] - box[:, :2]], 1)
            rows += [
                {"image_id": i, "category_id": k, "bbox": sizes[q].tolist(), "score": float(points[q, k])}
                for q in range(len(box))
                for k in range(len(KIND_NAMES))
                if points[q, k] > 0.02
            ]
    if not rows:
        return {"ap50": 0.0, "ap75": 0.0, "absent_with_box": float(np.mean(absent))}
    with contextlib.redirect_stdout(io.StringIO()):  # pycocotools prints a table
        truth = _coco_truth(world, count)
        judged = COCOeval(truth, truth.loadRes(rows), "bbox")
        judged.evaluate()
        judged.accumulate()
    precision = judged.eval["precision"][:, :, :, 0, 2]  # (IoU, recall, kind), all sizes, 100 boxes an image
    by_kind = [float(precision[0, :, k].mean()) for k in range(len(KIND_NAMES))]
    result = {
        "ap50": float(np.mean(by_kind)),
        "ap75": float(precision[5].mean()),
        "absent_with_box": float(np.mean(absent)),
        **{f"ap50_{kind}": value for kind, value in zip(KIND_NAMES, by_kind, strict=True)},
    }
    return {name: round(value, 4) for name, value in result.items()}
