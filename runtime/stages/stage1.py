"""Stage 1: a classifier and a detector look at the pixels; out come scores and boxes, and nothing else goes on."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, TypeAlias

import numpy as np
import numpy.typing as npt

from tilth.fusion import Fusion, finite, fuse, sigmoid
from tilth.geometry import Box, clip, iou
from tilth.images import Image, frame, into

if TYPE_CHECKING:
    from onnxruntime import InferenceSession

TEXT_AREA = "text_area"  # the label of boards with writing
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
        """Return `(n, 3, height, width)`."""
        stacked = (
            np.stack([into(image, self.size_wh, keep_aspect=self.keep_aspect) for image in images]).astype(np.float32)
            / 255
        )
        scaled = (stacked - np.array(self.mean, np.float32)) / np.array(self.std, np.float32)
        return np.ascontiguousarray(scaled.transpose(0, 3, 1, 2))


@dataclass(frozen=True, kw_only=True, eq=False)
class Classifier:
    """An ONNX graph `pixels (n, 3, h, w) -> logits (n, k)`, a sigmoid for each label.

    Args:
        session: The graph.
        labels: Names of the outputs.
        prepare: How pixels become input.
        fusions: How each label's logit and the detector's best box become a probability, `k` of them.
    """

    session: "InferenceSession"
    labels: tuple[str, ...]
    prepare: Prepare
    fusions: tuple[Fusion, ...]

    def __call__(self, images: Sequence[Image]) -> Floats:
        """Return logits `(n, k)`.

        Raises:
            ModelError: One is not a number.
        """
        (logits,) = self.session.run(["logits"], {"pixels": self.prepare(images)})
        return np.asarray(finite(logits, "classifier.onnx"), np.float32)


@dataclass(frozen=True, kw_only=True, eq=False)
class Detector:
    """An ONNX graph `pixels (n, 3, h, w) -> logits (n, q, k), boxes (n, q, 4)`, boxes as cx, cy, w, h in [0, 1].

    Args:
        session: The graph.
        labels: Names of the k outputs.
        prepare: How pixels become input.
        score_threshold: Boxes below it are left out.
    """

    session: "InferenceSession"
    labels: tuple[str, ...]
    prepare: Prepare
    score_threshold: float

    def __call__(self, images: Sequence[Image]) -> tuple[list[tuple[Found, ...]], Floats]:
        """Return the boxes of each image, best first, and the best score of each label, however low, `(n, k)`.

        Raises:
            ModelError: A logit or a box is not a number.
        """
        scores, boxes = self.said(images)
        sizes = [(image.shape[1], image.shape[0]) for image in images]
        return [self._found(*one) for one in zip(scores, boxes, sizes, strict=True)], scores.max(1)

    def said(self, images: Sequence[Image]) -> tuple[Floats, Floats]:
        """Return all that the graph says: scores in [0, 1] `(n, q, k)` and boxes as cx, cy, w, h in [0, 1] `(n, q, 4)`.

        Raises:
            ModelError: A logit or a box is not a number.
        """
        logits, boxes = self.session.run(["logits", "boxes"], {"pixels": self.prepare(images)})
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

    def __call__(self, images: Sequence[Image]) -> list[Screen]:
        """Screen images of any size."""
        screens: list[Screen] = []
        for start in range(0, len(images), MAX_BATCH):
            some = images[start : start + MAX_BATCH]
            found, best = self._boxes(some)
            probabilities = fuse(self.classifier(some), best, self.classifier.fusions)
            for image, boxes, row in zip(some, found, probabilities, strict=True):
                scores = dict(zip(self.classifier.labels, map(float, row), strict=True))
                screens.append(Screen(scores=scores, boxes=boxes, size_wh=(image.shape[1], image.shape[0])))
        return screens

    def _boxes(self, images: Sequence[Image]) -> tuple[list[tuple[Found, ...]], Floats | None]:
        """Return the boxes of each image, and the best score of each of the classifier's labels; None without a detector."""
        if self.detector is None:
            return [()] * len(images), None
        found, best = self.detector(images)
        boxed = np.zeros((len(images), len(self.classifier.labels)), np.float32)
        for column, label in enumerate(self.classifier.labels):
            if label in self.boxed:
                boxed[:, column] = best[:, self.boxed.index(label)]
        return found, boxed
