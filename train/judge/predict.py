"""What the trained models say about images, kept on disk so that thresholds can change without running them again."""

import json
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt

from tilth import models
from tilth.engine.job import batched
from tilth.fusion import finite, sigmoid
from tilth.geometry import clip, cxcywh_to_xyxy
from tilth.images import Image, resize
from tilth.train.artifacts.artifact import any_size, box_logits, load_trained, normalise
from tilth.train.measure.prediction import Prediction, Target

BATCH = 32
MIN_SCORE = 0.02  # boxes below are not kept: they change no average precision that anybody reports


Asked: TypeAlias = Callable[[Sequence[Image]], list[tuple[dict[str, float], list[list[Any]]]]]
"""Returns logits by category, and boxes as `[x0, y0, x1, y1, score, category]`, of each image."""


def boxes_of(
    scores: npt.NDArray[Any], boxes_cxcywh: npt.NDArray[Any], labels: Sequence[str], size_wh: tuple[int, int]
) -> list[list[Any]]:
    """Write what a detector says of an image as predictions do, best first.

    Args:
        scores: `(q, k)` in [0, 1].
        boxes_cxcywh: `(q, 4)` in [0, 1].
        labels: The k names.
        size_wh: Of the image, in pixels.
    """
    xyxy = clip(cxcywh_to_xyxy(boxes_cxcywh) * np.array([*size_wh] * 2), size_wh)
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
                boxes[i] = boxes_of(scores[i], places[i], self.detector[1].labels, (image.shape[1], image.shape[0]))
        return list(zip(logits, boxes, strict=True))

    def _forward(self, pair: Any, images: Sequence[Image]) -> Any:
        import torch

        from tilth.engine.views import to_unit

        model, about = pair
        square = np.stack([resize(image, (about.side, about.side)) for image in images])
        kind = torch.device(self.device).type
        with torch.inference_mode(), torch.autocast(kind, torch.bfloat16, enabled=self.bf16):
            return model(pixel_values=normalise(to_unit(square, self.device), about), **any_size(model, about.side))


def predict(predictor: Asked, targets: Iterable[Target], path: Path, advance: Any) -> list[Prediction]:
    """Predict whatever `path` lacks, append it there, and return all predictions in the order of the targets."""
    done = {p.id: p for p in read_predictions(path)}
    order = []
    with path.open("a") as stream:
        for batch in batched(targets, BATCH):
            todo = [t for t in batch if t.id not in done]
            for target, (logits, boxes) in zip(todo, predictor([t.image for t in todo]) if todo else [], strict=True):
                truth_boxes = [
                    [*map(float, b), c] for b, c in zip(target.boxes_xyxy, target.box_categories, strict=True)
                ]
                row = Prediction(
                    id=target.id, file=target.file, part=target.part, truth=target.categories, truth_boxes=truth_boxes,
                    logits=logits, boxes=boxes, unasked=target.unasked, chances=dict(target.chances),
                )  # fmt: skip
                stream.write(json.dumps(vars(row)) + "\n")
                done[target.id] = row
            stream.flush()
            order += [t.id for t in batch]
            advance(len(batch))
    return [done[i] for i in order]


def read_predictions(path: Path) -> Iterator[Prediction]:
    """Read predictions; a torn last line, left by a kill, is cut off."""
    if not path.exists():
        return
    text = path.read_text()
    whole = text[: text.rfind("\n") + 1]
    if whole != text:
        path.write_text(whole)
    for line in whole.splitlines():
        row = json.loads(line)
        yield Prediction(**{**row, "truth": tuple(row["truth"]), "unasked": tuple(row.get("unasked", ()))})
