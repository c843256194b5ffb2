"""Peak memory of judging models with a thousand categories on ten thousand images, and of training on ever more images.

    python benchmarks/training_memory.py

What the models say is made: logits for every category, and boxes of a detector that sees 200 things an image. Evaluation is the whole step,
from tiny sealed images to its numbers; calibration is given the predictions of as many validation images. Training
learns twenty steps from 10,000 images and from 300,000, of which 0.02 GB may be kept decoded; the dataset is made by another process. Each
part runs in a process of its own, with torch loaded as it would be. `--only` takes some parts, and writes no file. About 20 minutes on
one core.
"""

import argparse
import io
import json
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from figures import Figures, add_option
from memory import peak_mb

CATEGORIES, IMAGES, BOXES, SIDE = 1000, 10_000, 200, 32
FEW = 6  # categories that are trained
SHOWN = 2  # categories an image; every fifth shows none


class Made:
    """A predictor that knows what the n-th image shows, and is often right."""

    def __init__(self, names: Sequence[str], truths: Sequence[Sequence[int]]) -> None:
        self.names, self._truths, self._asked = names, truths, 0
        self._rng = np.random.default_rng(1)

    def __call__(self, images: Sequence[Any]) -> list[tuple[dict[str, float], list[list[Any]]]]:
        told = []
        for shown in self._truths[self._asked : self._asked + len(images)]:
            logits = self._rng.normal(-5, 1.5, len(self.names))
            logits[list(shown)] += self._rng.normal(6, 2, len(shown))
            seen = np.concatenate([self._rng.integers(0, len(self.names), BOXES - len(shown)), np.array(shown, int)])
            scores = np.round(self._rng.beta(1, 6, BOXES) + 0.02, 5)
            scores[BOXES - len(shown) :] = np.round(self._rng.beta(5, 2, len(shown)), 5)
            places = self._rng.uniform(0, SIDE / 2, (BOXES, 2)).round(2)
            places[BOXES - len(shown) :] = 8.0
            boxes = [
                [float(x), float(y), float(x) + 12, float(y) + 12, float(score), self.names[label]]
                for (x, y), score, label in zip(places, scores, seen, strict=True)
            ]
            told.append((dict(zip(self.names, logits.tolist(), strict=True)), boxes))
        self._asked += len(images)
        return told


def truths() -> list[list[int]]:
    rng = np.random.default_rng(0)
    return [[] if i % 5 == 0 else rng.choice(CATEGORIES, SHOWN, replace=False).tolist() for i in range(IMAGES)]


def surroundings(folder: Path) -> Any:
    from tilth.data.dataset import Dataset
    from tilth.engine.work import Work
    from tilth.events import Events
    from tilth.policy import Category, Policy

    categories = tuple(
        Category(name=f"thing {i}", definition="", prompts=("thing",), severity=("high", "medium")[i % 2])
        for i in range(CATEGORIES)
    )
    return Work(
        name="judge",
        dataset=Dataset(folder / "dataset"),
        policy=Policy(policy="made", version=1, categories=categories),
        folder=folder,
        events=Events(folder / "events.jsonl", io.StringIO()),
    )


def about(names: Sequence[str]) -> Any:
    from tilth.train.artifacts.artifact import About

    return About(kind="classifier", base="made", labels=list(names), side=SIDE, mean=[0.5] * 3, std=[0.5] * 3)


def evaluate(folder: Path) -> dict[str, float]:
    """Measure on sealed images, all of the step but the models themselves."""
    from tilth.images import encode_png
    from tilth.train.judge.evaluate import Tested

    work, shown = surroundings(folder), truths()
    names = list(work.policy.names)
    (folder / "images").mkdir()
    rng = np.random.default_rng(2)
    for i in range(IMAGES):
        (folder / "images" / f"{i:06d}.png").write_bytes(encode_png(rng.integers(0, 255, (SIDE, SIDE, 3), np.uint8)))
    annotations = [
        {"image_id": i, "category_id": k, "bbox": [8.0, 8.0, 12.0, 12.0]} for i, some in enumerate(shown) for k in some
    ]
    document = {
        "images": [{"id": i, "file_name": f"{i:06d}.png"} for i in range(IMAGES)],
        "annotations": annotations,
        "categories": [{"id": k, "name": name} for k, name in enumerate(names)],
    }
    (folder / "annotations.json").write_text(json.dumps(document))
    began = time.monotonic()
    told: Any = Tested(test=folder).judge(work, Made(names, shown), about(names), 0.5)
    return {"s": time.monotonic() - began, "map50": told["map50"]["mean"]}


def calibrate(folder: Path) -> dict[str, float]:
    """Fit calibration and thresholds on validation images, and the threshold of boxes."""
    from tilth.train.judge.calibrate import best_box_threshold
    from tilth.train.judge.calibrate import calibrate as fit
    from tilth.train.judge.kept import predict, read_columns
    from tilth.train.measure.prediction import Target

    work, shown = surroundings(folder), truths()
    names = list(work.policy.names)
    pixels = np.zeros((SIDE, SIDE, 3), np.uint8)
    targets = (
        Target(
            id=str(i), file="", image=pixels, categories=tuple(names[k] for k in some),
            boxes_xyxy=np.tile([8.0, 8.0, 20.0, 20.0], (len(some), 1)), box_categories=tuple(names[k] for k in some),
        )
        for i, some in enumerate(shown)
    )  # fmt: skip
    path, found = folder / "predictions.jsonl", about(names)
    began = time.monotonic()
    ids = predict(Made(names, shown), targets, path, lambda n: None)
    told: Any = fit(read_columns(path, names, ids), found)
    best_box_threshold(read_columns(path, names, ids))
    return {"s": time.monotonic() - began, "ece": told["ece_after"]}


def build(folder: Path, images: int) -> None:
    """Make a dataset of tiny images, each with a box that a person drew."""
    from tilth.claims import Claim
    from tilth.images import encode_png
    from tilth.samples import NewSample

    work, names = cards(folder), [f"thing {i}" for i in range(FEW)]

    def sample(i: int) -> NewSample:
        pixels = np.zeros((16, 16, 3), np.uint8)
        pixels[:2, :2] = np.frombuffer(np.array([i, i * 7, i * 13], np.uint32).tobytes(), np.uint8).reshape(2, 2, 3)
        claim = Claim(category=names[i % FEW], box_xyxy=(1, 1, 9, 9), source="human:made", asked=tuple(names))
        return NewSample(data=encode_png(pixels), origin={"source": str(i)}, claims=(claim,))

    work.add("images", map(sample, range(images)))
    work.dataset.count("split != 'test'")


def cards(folder: Path) -> Any:
    from dataclasses import replace

    from tilth.policy import Policy

    work = surroundings(folder)
    few = Policy(**{**work.policy.model_dump(), "categories": work.policy.categories[:FEW]})
    return replace(work, policy=few, name="train")


def train(images: int) -> Callable[[Path], dict[str, float]]:
    """Return what trains a classifier on so many images."""

    def learned(folder: Path) -> dict[str, float]:
        from tilth.train.learn.classifier import TrainClassifier

        subprocess.run([sys.executable, __file__, "--build", str(images), str(folder)], check=True)
        began = time.monotonic()
        TrainClassifier(steps=20, batch_size=16, image_side=SIDE, cache_gb=0.02).run(cards(folder))
        squares = sum(file.stat().st_size for file in (folder / "dataset" / "squares").iterdir())
        return {"s": time.monotonic() - began, "squares_mb": squares / 1e6}

    return learned


PARTS: dict[str, Callable[[Path], dict[str, float]]] = {
    "evaluate": evaluate, "calibrate": calibrate, "train_10000": train(10_000), "train_300000": train(300_000),
}  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", nargs="+", choices=PARTS, help="parts; with it, no file of figures is written")
    parser.add_argument("--build", nargs=2, help=argparse.SUPPRESS)
    parser.add_argument("--child", choices=PARTS, help=argparse.SUPPRESS)
    add_option(parser)
    args = parser.parse_args()
    if args.build:
        build(Path(args.build[1]), int(args.build[0]))
        return
    if args.child:
        import torch

        torch.set_num_threads(1)
        with tempfile.TemporaryDirectory(prefix="memory-") as name:
            print(json.dumps(PARTS[args.child](Path(name)) | {"peak_mb": peak_mb()}))
        return
    figures = Figures("training_memory", seeds=[0])
    for part in args.only or PARTS:
        answer = subprocess.check_output([sys.executable, __file__, "--child", part], text=True)
        told = json.loads(answer.strip().splitlines()[-1])
        print(part, "  ".join(f"{name} {value:,.4g}" for name, value in told.items()), flush=True)
        figures.add(f"{part}_peak_mb", told["peak_mb"], "MB")
        figures.add(f"{part}_s", told["s"], "s")
        if "squares_mb" in told:
            figures.add(f"{part}_squares_mb", told["squares_mb"], "MB")
    if not args.only:
        figures.write(args.results)


if __name__ == "__main__":
    main()
