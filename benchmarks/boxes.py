"""Box clean-up and fusion: how many images a second, and what mAP comes out, beside ensemble-boxes and torchvision.

    python -m tilth.starter world --out runs/starter-world
    python benchmarks/boxes.py --world runs/starter-world --rival-python <python of an environment with ensemble-boxes>

Three made-up detectors see the true boxes of the world's test images: each finds nine of ten, off by a few per cent of the
thing's size, names one in twenty wrongly, and adds false positives with low scores. Images are repeated with other mistakes
until there are `--images`. Everybody gets the same boxes, on one thread, and time is the processor's, so that other programs
on the machine count little. ensemble-boxes and torchvision take one image at a time, as their functions do; the time to make
their argument lists is not counted.
"""

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from itertools import pairwise
from pathlib import Path
from typing import Any

os.environ.setdefault("OMP_NUM_THREADS", "1")

import numpy as np
from figures import Figures, add_option

IOU = 0.55
MODELS = 3
Batch = dict[str, np.ndarray]
KEYS = {  # of the figures, and the rival that they are of
    "Tilth, weighted fusion": ("fusion", ""),
    "Tilth, same-class rule alone": ("same_class", ""),
    "Tilth, all rules": ("all_rules", ""),
    "torchvision batched_nms": ("torchvision", "torchvision batched_nms"),
    "ensemble-boxes weighted fusion": ("ensemble_boxes", "ensemble-boxes"),
}


def detections(truth: list[list[tuple[int, Any]]], sizes: np.ndarray, seed: int) -> Batch:
    """Return what the detectors say, image after image."""
    rng = np.random.default_rng(seed)
    image = np.repeat(np.arange(len(truth)), [len(boxes) for boxes in truth])
    kind = np.array([k for boxes in truth for k, _ in boxes])
    box = np.array([b for boxes in truth for _, b in boxes], float).reshape(-1, 4)
    side = np.maximum(box[:, 2:] - box[:, :2], 4)
    parts = []
    for model in range(MODELS):
        seen = rng.random(len(box)) < 0.9
        off = rng.normal(0, 0.05, box.shape) * np.tile(side, 2)
        named = np.where(rng.random(len(box)) < 0.05, rng.integers(0, kind.max() + 1, len(box)), kind)
        score = rng.beta(6, 2.5, len(box))
        parts.append((box[seen] + off[seen], score[seen], named[seen], image[seen], model))
        n = rng.poisson(2.5, len(truth))
        at = np.repeat(np.arange(len(truth)), n)
        wh = rng.uniform(0.08, 0.5, (len(at), 2)) * sizes[at]
        corner = rng.random((len(at), 2)) * (sizes[at] - wh)
        false = np.concatenate([corner, corner + wh], 1)
        parts.append((false, rng.beta(1.6, 5, len(at)), rng.integers(0, kind.max() + 1, len(at)), at, model))
    out = {
        "boxes": np.concatenate([p[0] for p in parts]),
        "scores": np.concatenate([p[1] for p in parts]),
        "classes": np.concatenate([p[2] for p in parts]),
        "images": np.concatenate([p[3] for p in parts]),
        "models": np.concatenate([np.full(len(p[0]), p[4]) for p in parts]),
    }
    order = np.lexsort((out["models"], out["images"]))
    out = {name: values[order] for name, values in out.items()}
    out["boxes"] = np.clip(out["boxes"], 0, np.tile(sizes, 2)[out["images"]])
    good = (out["boxes"][:, 2:] - out["boxes"][:, :2]).min(1) > 1
    return {name: values[good] for name, values in out.items()} | {"sizes": sizes}


def repeated(world: Path, images: int) -> tuple[list[list[tuple[int, Any]]], np.ndarray]:
    """Return truth and sizes of so many images of the test split."""
    document = json.loads((world / "test" / "annotations.json").read_text())
    kinds = {c["id"]: n for n, c in enumerate(document["categories"])}
    found: dict[int, list[tuple[int, Any]]] = {row["id"]: [] for row in document["images"]}
    for row in document["annotations"]:
        x, y, w, h = row["bbox"]
        found[row["image_id"]].append((kinds[row["category_id"]], (x, y, x + w, y + h)))
    size = {r["id"]: (r["width"], r["height"]) for r in document["images"]}
    ids = [id_ for id_ in found if found[id_]]
    chosen = [ids[n % len(ids)] for n in range(images)]
    return [found[i] for i in chosen], np.array([size[i] for i in chosen], float)


def timed(act: Callable[[], Any]) -> tuple[float, Any]:
    began = time.process_time()
    made = act()
    return time.process_time() - began, made


def starts(batch: Batch) -> list[slice]:
    edges = np.searchsorted(batch["images"], np.arange(len(batch["sizes"]) + 1))
    return [slice(a, b) for a, b in pairwise(edges.tolist())]


def ours_fused(batch: Batch) -> tuple[float, Batch]:
    from tilth.annotate.boxes.weighted import fuse_boxes

    names = ("boxes", "scores", "classes", "images", "models")
    seconds, made = timed(lambda: fuse_boxes(*(batch[n] for n in names), [1.0] * MODELS, iou=IOU))
    return seconds, {
        "boxes": made.boxes_xyxy,
        "scores": made.scores,
        "classes": made.classes,
        "images": made.images,
    }


def ours_cleaned(batch: Batch, **rules: float) -> tuple[float, Batch]:
    from tilth.annotate.boxes.clean import CleanUp, clean_batch

    names = ("boxes", "scores", "classes", "images")
    seconds, made = timed(lambda: clean_batch(*(batch[n] for n in names), batch["sizes"], CleanUp(**rules)))
    kept = made.codes == 0
    return seconds, {name: batch[name][kept] for name in names}


def one_by_one(batch: Batch, system: Callable[[Batch], tuple[float, Batch]]) -> float:
    """Return the seconds that a system takes when it is called for every image alone."""
    total = 0.0
    for image, part in enumerate(starts(batch)):
        alone = {name: values[part] for name, values in batch.items() if name != "sizes"}
        alone |= {"images": np.zeros_like(alone["images"]), "sizes": batch["sizes"][image : image + 1]}
        total += system(alone)[0]
    return total


def torchvision_nms(batch: Batch) -> tuple[float, Batch]:
    import torch
    from torchvision.ops import batched_nms

    torch.set_num_threads(1)
    tensors = [torch.from_numpy(np.ascontiguousarray(batch[n])) for n in ("boxes", "scores", "classes")]
    parts = [(part.start, *(t[part] for t in tensors)) for part in starts(batch)]
    seconds, kept = timed(
        lambda: [batched_nms(boxes, scores, classes, 0.5) + start for start, boxes, scores, classes in parts]
    )
    chosen = torch.cat(kept).numpy()
    return seconds, {name: batch[name][chosen] for name in ("boxes", "scores", "classes", "images")}


def ensemble_boxes(batch: Batch, python: str) -> tuple[float, Batch]:
    with tempfile.TemporaryDirectory() as folder:
        given, made = Path(folder) / "in.npz", Path(folder) / "out.npz"
        np.savez(given, **batch)
        subprocess.run([python, __file__, "--as-rival", str(given), str(made)], check=True)
        with np.load(made) as found:
            return float(found["seconds"]), {n: found[n] for n in ("boxes", "scores", "classes", "images")}


def as_rival(given: Path, made: Path) -> None:
    """Run in the environment of ensemble-boxes."""
    from ensemble_boxes import weighted_boxes_fusion

    with np.load(given) as found:
        batch = {name: found[name] for name in found.files}
    scale = np.tile(batch["sizes"], 2)[batch["images"]]
    unit = np.clip(batch["boxes"] / scale, 0, 1)
    asked = []
    for part in starts(batch):
        which = [batch["models"][part] == model for model in range(MODELS)]
        asked.append(
            [[values[part][w] for w in which] for values in (unit, batch["scores"], batch["classes"].astype(float))]
        )
    seconds, said = timed(lambda: [weighted_boxes_fusion(*lists, iou_thr=IOU) for lists in asked])
    images = np.repeat(np.arange(len(said)), [len(one[1]) for one in said])
    boxes = np.concatenate([one[0] for one in said]) * np.tile(batch["sizes"], 2)[images]
    scores, classes = (np.concatenate([one[k] for one in said]) for k in (1, 2))
    np.savez(made, seconds=seconds, boxes=boxes, scores=scores, classes=classes.astype(int), images=images)


def coco_map(truth: list[list[tuple[int, Any]]], found: Batch) -> float:
    """Return mAP at IoU 0.5 to 0.95, as pycocotools measures it."""
    import contextlib
    import io

    from pycocotools.coco import COCO
    from pycocotools.cocoeval import COCOeval

    rows = []
    for image, boxes in enumerate(truth):
        for kind, (x0, y0, x1, y1) in boxes:
            area = (x1 - x0) * (y1 - y0)
            rows.append({"id": len(rows) + 1, "image_id": image, "category_id": kind, "area": area, "iscrowd": 0,
                         "bbox": [x0, y0, x1 - x0, y1 - y0]})  # fmt: skip
    kinds = sorted({row["category_id"] for row in rows})
    coco = COCO()
    coco.dataset = {
        "images": [{"id": n} for n in range(len(truth))],
        "categories": [{"id": k} for k in kinds],
        "annotations": rows,
    }
    with contextlib.redirect_stdout(io.StringIO()):
        coco.createIndex()
        xywh = np.concatenate([found["boxes"][:, :2], found["boxes"][:, 2:] - found["boxes"][:, :2]], 1)
        said = np.column_stack([found["images"], xywh, found["scores"], found["classes"]])
        judged = COCOeval(coco, coco.loadRes(said), "bbox")
        judged.evaluate()
        judged.accumulate()
        judged.summarize()
    return float(judged.stats[0])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--world", type=Path, default=Path("runs/starter-world"))
    parser.add_argument("--images", type=int, default=5000)
    parser.add_argument("--boxes", type=int, default=1_000_000, help="of the second table")
    parser.add_argument("--rival-python", default="", help="python of an environment with ensemble-boxes")
    parser.add_argument("--as-rival", nargs=2, type=Path, help=argparse.SUPPRESS)
    add_option(parser)
    asked = parser.parse_args()
    if asked.as_rival:
        as_rival(*asked.as_rival)
        return
    figures = Figures("boxes", seeds=[0, 1])
    truth, sizes = repeated(asked.world, asked.images)
    batch = detections(truth, sizes, seed=0)
    figures.add("images", len(sizes), "images")
    figures.add("boxes", len(batch["scores"]), "boxes")
    print(f"{len(sizes)} images, {len(batch['scores'])} boxes of {MODELS} detectors\n")
    systems: dict[str, Callable[[Batch], tuple[float, Batch]]] = {
        "Tilth, weighted fusion": ours_fused,
        "Tilth, same-class rule alone": lambda b: ours_cleaned(
            b, min_side_px=0, max_aspect=0, whole_image=0, group_cover=0, nested_cover=0, cross_class_iou=0
        ),
        "Tilth, all rules": ours_cleaned,
        "torchvision batched_nms": torchvision_nms,
    }
    if asked.rival_python:
        systems["ensemble-boxes weighted fusion"] = lambda b: ensemble_boxes(b, asked.rival_python)
    print("| | images/s | boxes left | mAP |\n|---|---|---|---|")
    rates: dict[str, float] = {}
    for name, system in systems.items():
        tries = [system(batch) for _ in range(3 if name.startswith("Tilth") else 1)]
        seconds = sorted(t for t, _ in tries)[len(tries) // 2]
        left = tries[0][1]
        rate, reached = len(sizes) / seconds, coco_map(truth, left)
        print(f"| {name} | {rate:,.0f} | {len(left['scores']):,} | {reached:.4f} |", flush=True)
        rates[name] = rate
        key, rival = KEYS[name]
        figures.add(f"{key}.images_per_s", rate, "images/s", n=len(tries), rival=rival)
        figures.add(f"{key}.boxes_left", len(left["scores"]), "boxes", rival=rival)
        figures.add(f"{key}.map", reached, "", rival=rival)
    if asked.rival_python:
        times = rates["Tilth, weighted fusion"] / rates["ensemble-boxes weighted fusion"]
        figures.add("fusion.times_ensemble_boxes", times, "times", rival=KEYS["ensemble-boxes weighted fusion"][1])
    print("\n| called for one image at a time | images/s |\n|---|---|")
    for name in ("Tilth, all rules", "Tilth, weighted fusion"):
        tries = sorted(one_by_one(batch, systems[name]) for _ in range(3))
        print(f"| {name} | {len(sizes) / tries[1]:,.0f} |", flush=True)
        figures.add(f"{KEYS[name][0]}.one_by_one_per_s", len(sizes) / tries[1], "images/s", n=len(tries))
    print(f"\n| {asked.boxes:,} boxes | seconds |\n|---|---|")
    each = asked.boxes * len(sizes) // len(batch["scores"]) + 1
    truth, sizes = repeated(asked.world, each)
    batch = detections(truth, sizes, seed=1)
    batch = {name: values if name == "sizes" else values[: asked.boxes] for name, values in batch.items()}
    for name, system in systems.items():
        if name != "ensemble-boxes weighted fusion":
            spent = system(batch)[0]
            print(f"| {name} | {spent:.2f} |", flush=True)
            figures.add(f"{KEYS[name][0]}.many_boxes_s", spent, "s", rival=KEYS[name][1])
    figures.add("many_boxes", asked.boxes, "boxes")
    figures.write(asked.results)


if __name__ == "__main__":
    sys.exit(main())
