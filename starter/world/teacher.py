"""What a weak model would say of the corpus: the truth with boxes lost, added and renamed, and scores that do not tell them well."""

from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np

from tilth.geometry import Box, iou_of
from tilth.starter.world.settings import World

RIGHT, WRONG = (7.0, 3.0), (5.0, 5.0)  # Beta distributions of the scores: means of 0.7 and 0.5, which overlap
JITTER = 0.03  # of a side, by which an edge is off
ON_A_THING = 0.5  # of the added boxes lie on a thing of another kind, where there is one; the others on nothing
FREE_IOU = 0.1


def said_of(world: World, index: int, row: dict[str, Any]) -> list[dict[str, Any]]:
    """Return the labels of image `index` as the teacher gives them, each with its `score`."""
    rng = np.random.default_rng((60, index, world.seed))
    said = [*_seen(world, rng, row["labels"])]
    said += [*_added(world, rng, row)]
    side = float(row["side"])
    return [{**label, "box_xyxy": _jittered(rng, label["box_xyxy"], side)} for label in said]


def _seen(world: World, rng: np.random.Generator, labels: Sequence[dict[str, Any]]) -> Iterator[dict[str, Any]]:
    for label in labels:
        lost, renamed, score = rng.random(), rng.random(), rng.beta(*RIGHT)
        category = str(label["category"])
        if lost < world.weakness(category, "lost"):
            continue
        if renamed < world.weakness(category, "renamed"):
            category = str(rng.choice([name for name in world.categories if name != category]))
            score = rng.beta(*WRONG)
        yield {"category": category, "box_xyxy": label["box_xyxy"], "score": round(float(score), 4)}


def _added(world: World, rng: np.random.Generator, row: dict[str, Any]) -> Iterator[dict[str, Any]]:
    for category in world.categories:
        for _ in range(int(rng.poisson(world.weakness(category, "added")))):
            others = [(kind, box) for kind, box in row["things"] if kind not in (category, "sign")]
            alike = [box for kind, box in others if kind == world.look_alikes.get(category)]
            boxes = alike or [box for _, box in others]
            if boxes and rng.random() < ON_A_THING:
                box = boxes[int(rng.integers(len(boxes)))]
            else:
                box = _nowhere(rng, float(row["side"]), [box for _, box in row["things"]])
            yield {"category": category, "box_xyxy": box, "score": round(float(rng.beta(*WRONG)), 4)}


def _nowhere(rng: np.random.Generator, side: float, things: Sequence[Box]) -> Box:
    """Draw a box that is hardly on anything, or the last of some tries."""
    box: Box = (0.0, 0.0, side, side)
    for _ in range(20):
        width, height = rng.uniform(0.2, 0.5, 2) * side
        x, y = rng.uniform(0, side - width), rng.uniform(0, side - height)
        box = (x, y, x + width, y + height)
        if all(iou_of(box, thing) < FREE_IOU for thing in things):
            break
    return box


def _jittered(rng: np.random.Generator, box: Box, side: float) -> Box:
    x0, y0, x1, y1 = box
    width, height = x1 - x0, y1 - y0
    off = rng.normal(0, JITTER, 4).clip(-3 * JITTER, 3 * JITTER) * (width, height, width, height)
    a, b, c, d = (round(float(v), 2) for v in (np.array(box) + off).clip(0, side))
    return (a, b, c, d)
