"""What trained models say about images: a classifier and a detector, asked together."""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt

from tilth import models
from tilth.encoders.fusion import finite, sigmoid
from tilth.geometry import clip, cxcywh_to_xyxy
from tilth.images import Image, frame, into
from tilth.train.artifacts.artifact import any_size, box_logits, load_trained, normalise

BATCH = 32
MIN_SCORE = 0.02  # boxes below are not kept: they change no average precision that anybody reports


Asked: TypeAlias = Callable[[Sequence[Image]], list[tuple[dict[str, float], list[list[Any]]]]]
"""Returns logits by category, and boxes as `[x0, y0, x1, y1, score, category]`, of each image."""


def boxes_of(
    scores: npt.NDArray[Any],
    boxes_cxcywh: npt.NDArray[Any],
    labels: Sequence[str],
    size_wh: tuple[int, int],
    frame_wh: tuple[float, float],
) -> list[list[Any]]:
    """Write what a detector says of an image as predictions do, best first.

    Args:
        scores: `(q, k)` in [0, 1].
        boxes_cxcywh: `(q, 4)` in [0, 1].
        labels: The k names.
        size_wh: Of the image, in pixels.
        frame_wh: Of what the model saw, in pixels of the image.
    """
    xyxy = clip(cxcywh_to_xyxy(boxes_cxcywh) * np.array([*frame_wh] * 2), size_wh)
    found = []
    for query, label in np.argwhere(scores >= MIN_SCORE):
        x0, y0, x1, y1 = (round(float(v), 2) for v in xyxy[query])
        if x1 > x0 and y1 > y0:
            found.append([x0, y0, x1, y1, round(float(scores[query, label]), 5), labels[label]])
    return sorted(found, key=lambda b: -b[4])


class Predictor:
    """A classifier and a detector, either of which may be missing.

    Args:
        classifier: Its folder.
        detector: Its folder.
        device: To run on.
        quick: Multiply in bfloat16 where the hardware does; scores move by hundredths then, so models are measured and served without.
    """

    def __init__(self, classifier: Path | None, detector: Path | None, device: str, *, quick: bool = False) -> None:
        self.device = models.device(device)
        self.bf16 = quick and models.precision(self.device) == "bfloat16"
        self.classifier = load_trained(classifier, self.device) if classifier else None
        self.detector = load_trained(detector, self.device) if detector else None

    def __call__(self, images: Sequence[Image]) -> list[tuple[dict[str, float], list[list[Any]]]]:
        """Return logits by category, and boxes, of each image.

        Raises:
            ModelError: A model says what is no number: nothing can be measured by it.
        """
        logits: list[dict[str, float]] = [{} for _ in images]
        boxes: list[list[list[Any]]] = [[] for _ in images]
        if self.classifier:
            said = finite(self._forward(self.classifier, images).logits.float().cpu().numpy(), "the classifier")
            labels = self.classifier[1].labels
            logits = [dict(zip(labels, map(float, row), strict=True)) for row in said]
        if self.detector:
            out = self._forward(self.detector, images)
            logits_of = box_logits(out.logits, len(self.detector[1].labels))
            scores = sigmoid(finite(logits_of.cpu().numpy(), "the detector"))
            places = finite(out.pred_boxes.float().cpu().numpy(), "the detector")
            for i, image in enumerate(images):
                about, size_wh = self.detector[1], (image.shape[1], image.shape[0])
                seen_wh = frame(size_wh, (about.side, about.side), keep_aspect=about.keep_aspect)
                boxes[i] = boxes_of(scores[i], places[i], about.labels, size_wh, seen_wh)
        return list(zip(logits, boxes, strict=True))

    def _forward(self, pair: Any, images: Sequence[Image]) -> Any:
        import torch

        from tilth.engine.views import to_unit

        model, about = pair
        square = np.stack([into(image, (about.side, about.side), keep_aspect=about.keep_aspect) for image in images])
        kind = torch.device(self.device).type
        with torch.inference_mode(), torch.autocast(kind, torch.bfloat16, enabled=self.bf16):
            return model(pixel_values=normalise(to_unit(square, self.device), about), **any_size(model, about.side))
