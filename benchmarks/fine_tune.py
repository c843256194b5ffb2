"""How fast, and how well, are a classifier and a detector fine-tuned: our steps beside transformers' Trainer.

    python benchmarks/fine_tune.py --photos /data/cards        # cards with `train` and `test`, photographs with Pascal VOC boxes
    python benchmarks/fine_tune.py --only classifier --seeds 2 --epochs 1

Same base model, images, epochs, batch, peak learning rate and threads. Trainer has the loop of transformers' own examples
(`run_image_classification`, `run_object_detection`): files are decoded anew each epoch, cropped and mirrored by torchvision, and rates
fall in a line; once as these have it, and once in bfloat16 with two workers that read ahead. What is compared with is the faster one.
Images a second are of the whole training, for ours with decoding once, and judging held-back images meanwhile. The order of the ways
turns from seed to seed. Told are means over seeds with 95 % t intervals.

    classifier   starter:classifier on 1,000 images of the drawn world of the seed; mean average precision of 1,000 others
    detector     starter:detector on the photographs; mAP at IoU 0.5 of the test photographs by pycocotools

Of the classifier ours learns from boxes, too, which Trainer's loop cannot; `no_boxes` is ours without them, and what `accuracy_gain`
compares.

Written to `classifier.json` and `detector.json`: `speedup`, `accuracy_gain` (share), and the numbers of each way.
"""

import argparse
import io
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from figures import Figures, add_option
from loop import seeds_of
from loop_figures import note
from PIL import Image
from torchvision.transforms import v2
from variants import ROOT

from tilth.annotate.exchange.importing import Import
from tilth.claims import Claim
from tilth.data.dataset import Dataset
from tilth.engine.work import Work
from tilth.events import Events
from tilth.policy import Policy, load_policy
from tilth.samples import NewSample, Sample
from tilth.starter.world.files import draw
from tilth.starter.world.settings import World
from tilth.train.artifacts.artifact import About, load_for_training, normalise, preprocessing, save_trained
from tilth.train.judge.predict import Predictor
from tilth.train.learn.classifier import TrainClassifier
from tilth.train.learn.detector import TrainDetector
from tilth.train.learn.examples import held_back

TRAIN, TEST = 1000, 1000  # images of the drawn world
CARD_SIDE = 192
WAYS = ("ours", "trainer", "trainer_bf16")
NO_BOXES = "no_boxes"


@dataclass(frozen=True, kw_only=True)
class Shown:
    """An image file and its boxes: category, xyxy in parts of the image."""

    path: Path
    boxes: Sequence[tuple[str, tuple[float, ...]]]


@dataclass(frozen=True, kw_only=True)
class Task:
    """What is learned.

    Args:
        kind: `classifier` or `detector`.
        work: With the dataset that ours learns from.
        train: The same images that ours learns from, as files.
        test: Others.
        about: Base model, labels and size.
        batch: Images a step.
        lr: Peak rate.
        epochs: Passes over the images.
    """

    kind: str
    work: Work
    train: Sequence[Shown]
    test: Sequence[Shown]
    about: About
    batch: int
    lr: float
    epochs: int

    @property
    def steps(self) -> int:
        """Return the steps of a training."""
        return self.epochs * len(self.train) // self.batch


def drawn(seed: int, folder: Path, epochs: int) -> Task:
    """Draw a world and take it in."""
    policy = load_policy(ROOT / "configs" / "policies" / "faithful.yaml")
    world = World(seed=seed, kinds="all")
    parts: dict[str, list[Shown]] = {"corpus": [], "test": []}
    for part, count in (("corpus", TRAIN), ("test", TEST)):
        for index in range(count):
            data, row = draw(part, index, world)
            path = folder / "files" / part / f"{index}.png"
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(data)
            width, height = Image.open(io.BytesIO(data)).size
            scale = (width, height, width, height)
            told = [(b["category"], tuple(np.array(b["box_xyxy"]) / scale)) for b in row["labels"]]  # type: ignore[attr-defined]
            parts[part].append(Shown(path=path, boxes=told))
    return _task("classifier", policy, parts["corpus"], parts["test"], folder, 32, 5e-4, epochs, seed)


def photographed(photos: Path, seed: int, folder: Path, epochs: int) -> Task:
    """Take photographs in, by their own step."""
    policy = load_policy(ROOT / "configs" / "policies" / "cards.yaml")
    work = _work(policy, folder / "read", seed)
    sets = {}
    for part in ("train", "test"):
        Import(path=photos / part, split=part, empty_means="confirmed_empty").run(replace(work, name=part))
        sets[part] = [_shown(sample, photos) for sample in work.dataset.samples(f"split = '{part}'", images=False)]
    return _task("detector", policy, sets["train"], sets["test"], folder, 8, 6e-4, epochs, seed)


def _shown(sample: Sample, photos: Path) -> Shown:
    scale = np.array([*sample.size_wh] * 2)
    boxes = [(str(c.category), tuple(np.array(c.box_xyxy) / scale)) for c in sample.truth.labels if c.box_xyxy]
    return Shown(path=photos / str(sample.origin["source"]), boxes=boxes)


def _work(policy: Policy, folder: Path, seed: int) -> Work:
    folder.mkdir(parents=True, exist_ok=True)
    events = Events(folder / "events.jsonl")
    return Work(name="a", dataset=Dataset(folder / "dataset"), policy=policy, folder=folder, events=events, seed=seed)


def _task(
    kind: str, policy: Policy, train: Sequence[Shown], test: Sequence[Shown], folder: Path, batch: int, lr: float, epochs: int,
    seed: int,
) -> Task:  # fmt: skip
    """Put training images into a dataset; those that it holds back are taken from both ways."""
    work = _work(policy, folder / "work", seed)
    labels = [category.name for category in policy.pictured]

    def sample(shown: Shown) -> NewSample:
        data = shown.path.read_bytes()
        size = Image.open(io.BytesIO(data)).size
        claims = [
            Claim(category=name, box_xyxy=tuple(np.array(box) * np.array([*size] * 2)), source="human:truth", asked=tuple(labels))
            for name, box in shown.boxes if name in labels
        ]  # fmt: skip
        empty = Claim(says="empty", source="human:truth", asked=tuple(labels))
        return NewSample(data=data, origin={"source": str(shown.path)}, claims=tuple(claims) or (empty,))

    work.add("images", map(sample, train))
    back = {str(s.origin["source"]) for s in work.dataset.samples(images=False) if held_back(s)}
    side, mean, std = preprocessing(f"starter:{kind}")
    side = side if kind == "classifier" else CARD_SIDE
    about = About(kind=kind, base=f"starter:{kind}", labels=labels, side=side, mean=mean, std=std)
    learned = [shown for shown in train if str(shown.path) not in back]
    return Task(kind=kind, work=work, train=learned, test=test, about=about, batch=batch, lr=lr, epochs=epochs)


def ours(task: Task, folder: Path, **more: Any) -> Path:
    """Train by our step."""
    more |= {
        "steps": task.steps,
        "batch_size": task.batch,
        "lr": task.lr,
        "patience": 0,
        "image_side": task.about.side,
    }
    step = TrainClassifier(**more) if task.kind == "classifier" else TrainDetector(**more)
    own = replace(task.work, name="ours", folder=folder)
    step.run(own)
    return own.artifact("ours")


class Files(torch.utils.data.Dataset[dict[str, Any]]):
    """Images as transformers' examples read them: decoded each time, cropped and mirrored."""

    def __init__(self, task: Task) -> None:
        self.task = task
        from torchvision import tv_tensors

        self.boxes = tv_tensors.BoundingBoxes
        side = task.about.side
        crop: list[Any] = [
            v2.RandomResizedCrop(side, scale=(0.5, 1.0)) if task.kind == "classifier" else v2.Resize((side, side))
        ]
        self.moves = v2.Compose([*crop, v2.RandomHorizontalFlip()])

    def __len__(self) -> int:
        return len(self.task.train)

    def __getitem__(self, index: int) -> dict[str, Any]:
        shown, about = self.task.train[index], self.task.about
        image = Image.open(shown.path).convert("RGB")
        size = (image.height, image.width)
        kept = [(about.labels.index(name), box) for name, box in shown.boxes if name in about.labels]
        boxes = self.boxes(
            np.array([box for _, box in kept]).reshape(-1, 4) * np.array([size[1], size[0]] * 2),
            format="XYXY",
            canvas_size=size,
        )
        image, boxes = self.moves(image, boxes)
        x = normalise(v2.functional.to_dtype(v2.functional.to_image(image), torch.float32, scale=True)[None], about)[0]
        if self.task.kind == "classifier":
            truth = torch.zeros(len(about.labels))
            truth[[label for label, _ in kept]] = 1.0
            return {"pixel_values": x, "labels": truth}
        xyxy = boxes.as_subclass(torch.Tensor) / about.side  # type: ignore[attr-defined]
        centred = torch.cat([(xyxy[:, :2] + xyxy[:, 2:]) / 2, xyxy[:, 2:] - xyxy[:, :2]], 1).float()
        return {
            "pixel_values": x,
            "labels": {"class_labels": torch.tensor([k for k, _ in kept], dtype=torch.long), "boxes": centred},
        }


def collate(rows: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """Stack images, and labels where they stack."""
    labels = [row["labels"] for row in rows]
    stacked = torch.stack(labels) if isinstance(labels[0], torch.Tensor) else labels
    return {"pixel_values": torch.stack([row["pixel_values"] for row in rows]), "labels": stacked}


def trainer(task: Task, folder: Path, *, bf16: bool) -> Path:
    """Train by transformers' Trainer."""
    from transformers import Trainer, TrainingArguments, logging

    logging.set_verbosity_error()
    torch.manual_seed(task.work.seed)
    model = load_for_training(task.kind, task.about.base, task.about.labels)
    arguments = TrainingArguments(
        output_dir=str(folder), max_steps=task.steps, per_device_train_batch_size=task.batch, learning_rate=task.lr, use_cpu=True,
        bf16=bf16, dataloader_num_workers=2 if bf16 else 0, seed=task.work.seed, save_strategy="no", report_to=[], disable_tqdm=True,
        remove_unused_columns=False, logging_strategy="no",
    )  # fmt: skip
    Trainer(model=model, args=arguments, train_dataset=Files(task), data_collator=collate).train()
    return save_trained(model.float(), task.about, folder / "model")


def quality(task: Task, model: Path) -> float:
    """Return mean average precision of the classifier, or mAP at IoU 0.5 of the detector, on the test images."""
    classify = task.kind == "classifier"
    predictor = Predictor(model if classify else None, None if classify else model, "cpu")
    said: list[Any] = []
    for start in range(0, len(task.test), 32):
        some = [np.asarray(Image.open(shown.path).convert("RGB")) for shown in task.test[start : start + 32]]
        said += predictor(some)
    return _mean_ap(task, said) if classify else _coco_map(task, said)


def _mean_ap(task: Task, said: Sequence[Any]) -> float:
    from sklearn.metrics import average_precision_score

    each = []
    for name in task.about.labels:
        right = np.array([any(name == shown for shown, _ in image.boxes) for image in task.test])
        if right.any():
            each.append(average_precision_score(right, [logits[name] for logits, _ in said]))
    return float(np.mean(each))


def _coco_map(task: Task, said: Sequence[Any]) -> float:
    import contextlib

    from pycocotools.coco import COCO
    from pycocotools.cocoeval import COCOeval

    labels, truths, found, images = task.about.labels, [], [], []
    for number, (image, (_, boxes)) in enumerate(zip(task.test, said, strict=True)):
        width, height = Image.open(image.path).size
        images.append({"id": number, "width": width, "height": height})
        for name, box in image.boxes:
            x0, y0, x1, y1 = np.array(box) * [width, height, width, height]
            truths.append({"id": len(truths) + 1, "image_id": number, "category_id": labels.index(name) + 1, "iscrowd": 0,
                           "bbox": [x0, y0, x1 - x0, y1 - y0], "area": (x1 - x0) * (y1 - y0)})  # fmt: skip
        found += [
            {
                "image_id": number,
                "category_id": labels.index(name) + 1,
                "bbox": [x0, y0, x1 - x0, y1 - y0],
                "score": score,
            }
            for x0, y0, x1, y1, score, name in boxes
        ]
    with contextlib.redirect_stdout(io.StringIO()):
        truth = COCO()
        truth.dataset = {
            "images": images,
            "annotations": truths,
            "categories": [{"id": k + 1, "name": n} for k, n in enumerate(labels)],
        }
        truth.createIndex()
        judged = COCOeval(truth, truth.loadRes(found), "bbox")
        judged.evaluate()
        judged.accumulate()
        judged.summarize()
    return float(judged.stats[1])


def measure(task: Task, folder: Path, turn: int) -> dict[str, float]:
    """Train in each way and return images a second and quality of each."""
    how: dict[str, Callable[[Path], Path]] = {
        "ours": lambda own: ours(task, own),
        NO_BOXES: lambda own: ours(task, own, spots=0),
        "trainer": lambda own: trainer(task, own, bf16=False),
        "trainer_bf16": lambda own: trainer(task, own, bf16=True),
    }
    told: dict[str, float] = {}
    fair = NO_BOXES if task.kind == "classifier" else "ours"
    for way in (*WAYS[turn % 3 :], *WAYS[: turn % 3], *([NO_BOXES] if fair == NO_BOXES else [])):
        own = folder / way
        own.mkdir(parents=True)
        began = time.perf_counter()
        model = how[way](own)
        told[f"{way}.per_s"] = task.steps * task.batch / (time.perf_counter() - began)
        told[f"{way}.quality"] = quality(task, model)
    fastest = max(WAYS[1:], key=lambda way: told[f"{way}.per_s"])
    best = max(WAYS[1:], key=lambda way: told[f"{way}.quality"])
    told["speedup"] = told["ours.per_s"] / told[f"{fastest}.per_s"]
    told["accuracy_gain"] = told[f"{fair}.quality"] - told[f"{best}.quality"]
    return told


def main() -> None:
    """Measure, seed by seed."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", nargs="+", choices=("classifier", "detector"), default=["classifier", "detector"])
    parser.add_argument(
        "--photos", type=Path, help="folder with `train` and `test`; without it, no detector is measured"
    )
    parser.add_argument("--seeds", type=seeds_of, default="2-6", help="such as 2-6 or 1,3 (default: %(default)s)")
    parser.add_argument("--epochs", type=int, default=6, help="passes over the training images (default: %(default)s)")
    add_option(parser)
    asked = parser.parse_args()
    for kind in asked.only:
        if kind == "detector" and not asked.photos:
            print("detector: no --photos, so it is left out")
            continue
        figures, found = Figures(kind, seeds=asked.seeds), []
        for turn, seed in enumerate(asked.seeds):
            with tempfile.TemporaryDirectory() as scratch:
                folder = Path(scratch)
                task = (
                    drawn(seed, folder, asked.epochs)
                    if kind == "classifier"
                    else photographed(asked.photos, seed, folder, asked.epochs)
                )
                found.append(measure(task, folder / "trained", turn))
            print(f"{kind} {seed}: " + ", ".join(f"{k} {v:.3f}" for k, v in found[-1].items()), flush=True)
        for key in found[0]:
            unit = "times" if key == "speedup" else "images/s" if key.endswith("per_s") else "share"
            note(figures, key, [one[key] for one in found], unit)
        print(figures.write(asked.results).read_text(), end="")


if __name__ == "__main__":
    main()
