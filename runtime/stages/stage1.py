"""Stage 1: a classifier and a detector look at the pixels; out come scores and boxes, and nothing else goes on."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import TypeAlias

import cv2
import numpy as np
import numpy.typing as npt

from tilth.encoders.fusion import Fusion, finite, fuse, sigmoid
from tilth.geometry import Box, clip, iou
from tilth.images import Image, frame, into
from tilth.runtime.stages.graphs import Graph

SAME_BOX_IOU = 0.7  # two boxes of a category that share more than this are one
MAX_BATCH = 32

Floats: TypeAlias = npt.NDArray[np.float32]


@dataclass(frozen=True, kw_only=True)
class Found:
    """One box of the detector: category, `box_xyxy` in pixels of the full image, score in [0, 1]."""

    category: str
    box_xyxy: Box
    score: float


@dataclass(frozen=True, kw_only=True)
class Screen:
    """What Stage 1 says of one image.

    Args:
        scores: Calibrated probability of each label of the classifier, from both models.
        boxes: What the detector found, best first.
        size_wh: Of the image, in pixels.
    """

    scores: Mapping[str, float]
    boxes: tuple[Found, ...] = ()
    size_wh: tuple[int, int] = (1, 1)


@dataclass(frozen=True, kw_only=True)
class Prepare:
    """How pixels become a model's input.

    Args:
        size_wh: Width and height of the input.
        mean: Subtracted from each of R, G and B in [0, 1].
        std: Then divides them.
        keep_aspect: Whether grey lies beside an image, instead of the image being stretched.
    """

    size_wh: tuple[int, int]
    mean: tuple[float, float, float]
    std: tuple[float, float, float]
    keep_aspect: bool = False

    def frame_wh(self, size_wh: tuple[int, int]) -> tuple[float, float]:
        """Return width and height of what the model sees, in pixels of an image of a size."""
        return frame(size_wh, self.size_wh, keep_aspect=self.keep_aspect)

    def __call__(self, images: Sequence[Image]) -> Floats:
        """Return images of any size as `(n, 3, height, width)`."""
        return self.scaled([self.placed(image) for image in images])

    def placed(self, image: Image) -> Image:
        """Bring an image to this size."""
        return into(image, self.size_wh, keep_aspect=self.keep_aspect)

    def scaled(self, images: Sequence[Image]) -> Floats:
        """Return images of this size as `(n, 3, height, width)`, in one pass: each of 256 values stands in a table."""
        width, height = self.size_wh
        pixels = np.empty((len(images), 3, height, width), np.float32)
        for image, planes in zip(images, pixels, strict=True):
            for channel, table, plane in zip(cv2.split(image), self._tables, planes, strict=True):
                cv2.LUT(channel, table, dst=plane)
        return pixels

    @cached_property
    def _tables(self) -> Floats:
        """What becomes of each value of R, G and B, `(3, 256)`."""
        values = np.arange(256, dtype=np.float32)[None] / 255
        scaled = (values - np.array(self.mean, np.float32)[:, None]) / np.array(self.std, np.float32)[:, None]
        return np.asarray(scaled, np.float32)


def prepared(images: Sequence[Image], ways: Sequence[Prepare]) -> list[Floats]:
    """Prepare images in several ways, doing once what these share: each size, and each input."""
    resized: dict[tuple[tuple[int, int], bool], list[Image]] = {}
    pixels: dict[Prepare, Floats] = {}
    for way in ways:
        size = way.size_wh, way.keep_aspect
        if size not in resized:
            resized[size] = [way.placed(image) for image in images]
        if way not in pixels:
            pixels[way] = way.scaled(resized[size])
    return [pixels[way] for way in ways]


@dataclass(frozen=True, kw_only=True, eq=False)
class Classifier:
    """An ONNX graph `pixels (n, 3, h, w) -> logits (n, k)`, a sigmoid for each label.

    Args:
        graph: Open.
        labels: Names of the outputs.
        prepare: How pixels become input.
        fusions: How each label's logit and the detector's best box become a probability, `k` of them.
    """

    graph: Graph
    labels: tuple[str, ...]
    prepare: Prepare
    fusions: tuple[Fusion, ...]

    def __call__(self, pixels: Floats) -> Floats:
        """Return logits `(n, k)` of prepared images.

        Raises:
            ModelError: One is not a number.
        """
        (logits,) = self.graph.run(["logits"], {"pixels": pixels})
        return np.asarray(finite(logits, "classifier.onnx"), np.float32)


@dataclass(frozen=True, kw_only=True, eq=False)
class Detector:
    """An ONNX graph `pixels (n, 3, h, w) -> logits (n, q, k), boxes (n, q, 4)`, boxes as cx, cy, w, h in [0, 1].

    Args:
        graph: Open.
        labels: Names of the k outputs.
        prepare: How pixels become input.
        score_threshold: Boxes below it are left out.
    """

    graph: Graph
    labels: tuple[str, ...]
    prepare: Prepare
    score_threshold: float

    def __call__(self, pixels: Floats, sizes_wh: Sequence[tuple[int, int]]) -> tuple[list[tuple[Found, ...]], Floats]:
        """Return the boxes of each image, best first, and the best score of each label, however low, `(n, k)`.

        Args:
            pixels: Prepared images.
            sizes_wh: Of the images before, in which the boxes are given.

        Raises:
            ModelError: A logit or a box is not a number.
        """
        scores, boxes = self.said(pixels)
        return [self._found(*one) for one in zip(scores, boxes, sizes_wh, strict=True)], scores.max(1)

    def said(self, pixels: Floats) -> tuple[Floats, Floats]:
        """Return all that the graph says of prepared images: scores in [0, 1] `(n, q, k)` and boxes as cx, cy, w, h in [0, 1] `(n, q, 4)`.

        Raises:
            ModelError: A logit or a box is not a number.
        """
        logits, boxes = self.graph.run(["logits", "boxes"], {"pixels": pixels})
        return sigmoid(finite(logits, "detector.onnx")), finite(boxes, "detector.onnx")

    def _found(self, scores: Floats, boxes_cxcywh: Floats, size_wh: tuple[int, int]) -> tuple[Found, ...]:
        half = boxes_cxcywh[:, 2:] / 2
        corners = np.concatenate([boxes_cxcywh[:, :2] - half, boxes_cxcywh[:, :2] + half], 1)
        xyxy = clip(corners * np.array([*self.prepare.frame_wh(size_wh)] * 2, np.float32), size_wh)
        kept: list[Found] = []
        for i in np.argsort(-scores.max(1), kind="stable"):
            label = int(scores[i].argmax())
            x0, y0, x1, y1 = map(float, xyxy[i])
            if scores[i, label] < self.score_threshold or x1 - x0 < 1 or y1 - y0 < 1:
                continue
            found = Found(category=self.labels[label], box_xyxy=(x0, y0, x1, y1), score=float(scores[i, label]))
            rivals = [other.box_xyxy for other in kept if other.category == found.category]
            if not rivals or iou(np.array([found.box_xyxy]), np.array(rivals)).max() < SAME_BOX_IOU:
                kept.append(found)
        return tuple(kept)


@dataclass(frozen=True, kw_only=True)
class Stage1:
    """Classifier and detector, if there is one, together; a batch gives what its images give one by one, up to rounding."""

    classifier: Classifier
    detector: Detector | None
    labels: tuple[str, ...] = field(init=False)
    boxed: tuple[str, ...] = field(init=False)

    def __post_init__(self) -> None:
        """Note every label that either model knows, and those that are found with a box."""
        boxed = self.detector.labels if self.detector else ()
        object.__setattr__(self, "boxed", boxed)
        object.__setattr__(self, "labels", tuple(dict.fromkeys([*self.classifier.labels, *boxed])))

    @property
    def back_ends(self) -> dict[str, str]:
        """What runs each of its graphs."""
        models = {"classifier": self.classifier, "detector": self.detector}
        return {name: model.graph.back_end for name, model in models.items() if model}

    def __call__(self, images: Sequence[Image]) -> list[Screen]:
        """Screen images of any size."""
        screens: list[Screen] = []
        for start in range(0, len(images), MAX_BATCH):
            some = images[start : start + MAX_BATCH]
            sizes_wh = [(image.shape[1], image.shape[0]) for image in some]
            ways = [model.prepare for model in (self.classifier, self.detector) if model]
            pixels = prepared(some, ways)
            found, best = self._boxes(pixels[-1], sizes_wh)
            probabilities = fuse(self.classifier(pixels[0]), best, self.classifier.fusions)
            for size_wh, boxes, row in zip(sizes_wh, found, probabilities, strict=True):
                scores = dict(zip(self.classifier.labels, map(float, row), strict=True))
                screens.append(Screen(scores=scores, boxes=boxes, size_wh=size_wh))
        return screens

    def _boxes(
        self, pixels: Floats, sizes_wh: Sequence[tuple[int, int]]
    ) -> tuple[list[tuple[Found, ...]], Floats | None]:
        """Return the boxes of each image, and the best score of each of the classifier's labels; None without a detector."""
        if self.detector is None:
            return [()] * len(pixels), None
        found, best = self.detector(pixels, sizes_wh)
        boxed = np.zeros((len(pixels), len(self.classifier.labels)), np.float32)
        for column, label in enumerate(self.classifier.labels):
            if label in self.boxed:
                boxed[:, column] = best[:, self.boxed.index(label)]
        return found, boxed
