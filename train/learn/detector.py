"""Fine-tune a detector on the dataset: where are the things that the policy names?

Paper: https://arxiv.org/abs/2410.13842 (D-FINE), https://arxiv.org/abs/2407.17140 (RT-DETRv2), https://arxiv.org/abs/2511.09554 (RF-DETR),
https://arxiv.org/abs/2005.12872 (DETR), https://arxiv.org/abs/2106.00666 (YOLOS)
"""

import inspect
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np

from tilth.engine.steps import step
from tilth.geometry import cxcywh_to_xyxy, xyxy_to_cxcywh
from tilth.train.artifacts.artifact import box_logits
from tilth.train.learn.examples import Example, known
from tilth.train.learn.fine_tune import FineTune
from tilth.train.learn.lesson import Batch, shown
from tilth.train.learn.methods import Choice
from tilth.train.measure.metrics import average_precision, match_boxes
from tilth.train.measure.prediction import Prediction

if TYPE_CHECKING:
    import torch

DOUBTFUL = 0.6  # below, which is a chance of 0.8 to be right, a box is not learned: this loss cannot weigh boxes
MIN_SCORE = 0.02  # of a box that is looked at on held-back images


@step
class TrainDetector(FineTune):
    """Fine-tune a detector of the DETR family on the boxes of the dataset: D-FINE, RT-DETR, RF-DETR, LW-DETR, DETR and its heirs, YOLOS.

    An image that shows a category without a box for it is left out: it is neither an example nor a counter-example. Of a
    category that nobody looked for in an image, the loss does not see the scores there; a model whose loss cannot be made blind so
    learns only from images in which everything was looked for.

    Args:
        backbone_rate: Factor on the learning rate of the backbone, in [0, 1]; 0 for one that fits the model.
    """

    kind: ClassVar[str] = "detector"
    stream: ClassVar[int] = 2
    weight_decay: ClassVar[float] = 1e-4
    clip: ClassVar[float] = 0.5
    boxes_only: ClassVar[bool] = True

    model: str = "starter:detector"
    steps: int = 0
    batch_size: int = 16
    lr: float = 0
    backbone_rate: float = 0

    def __post_init__(self) -> None:
        """Check the settings."""
        super().__post_init__()
        if not 0 <= self.backbone_rate <= 1:
            raise ValueError(f"backbone_rate must lie in [0, 1], got {self.backbone_rate}")

    def choice(self) -> Choice:
        """Return what is said about how the model learns."""
        return Choice(method="full", lr=self.lr, steps=self.steps, slower=self.backbone_rate, decay=self.weight_decay)

    def slower(self, model: Any, factor: float) -> Callable[[str], float]:
        """Let the backbone learn slower."""
        return lambda name: factor if "backbone." in name else 1.0

    def choose(self, model: Any, rows: Sequence[Example], side: int) -> Sequence[bool]:
        """Make the loss blind for what nobody looked for; where it cannot be, take the images in which everything was."""
        blind = Blind(model.loss_function)
        if blind.fits:
            model.loss_function = blind
            return [True] * len(rows)
        return [all(row.looked) for row in rows]

    def beside(self, model: Any, batch: Batch) -> dict[str, Any]:
        """Give the model the boxes in view; it computes its loss itself."""
        import torch

        device = batch.pixels.device
        unasked = np.zeros((len(batch.rows), model.config.num_labels), bool)
        if isinstance(model.loss_function, Blind):
            unasked = known(batch.rows) < DOUBTFUL
            model.loss_function.unasked = torch.from_numpy(unasked).to(device) if unasked.any() else None
        batch = replace(batch, seen=[  # a box whose score is not seen would be found missing
            keep & ~unasked[i, list(row.labels)] for i, (row, keep) in enumerate(zip(batch.rows, batch.seen, strict=True))
        ])  # fmt: skip
        labels = [
            {
                "class_labels": torch.tensor(np.array(row.labels, np.int64)[keep], device=device),
                "boxes": torch.from_numpy(xyxy_to_cxcywh(boxes)[keep].astype(np.float32)).to(device),
            }
            for row, boxes, keep in zip(batch.rows, batch.boxes, batch.seen, strict=True)
        ]
        return {"labels": labels}

    def loss(self, model: Any, said: Any, batch: Batch) -> "torch.Tensor":
        """Return what the model made of them."""
        loss: torch.Tensor = said.loss
        return loss

    def found(self, said: Any, batch: Batch, labels: Sequence[str]) -> list[Prediction]:
        """Return the boxes."""
        logits, boxes = box_logits(said.logits, len(labels)), said.pred_boxes.float().numpy(force=True)
        scores = logits.sigmoid().numpy(force=True)
        told = []
        for i, row in enumerate(batch.rows):
            true = [
                [*box, labels[label]]
                for box, label, keep in zip(batch.boxes[i], row.labels, batch.seen[i], strict=True) if keep
            ]  # fmt: skip
            places = np.argwhere(scores[i] >= MIN_SCORE)
            said_boxes = [
                [*box, float(scores[i, q, k]), labels[k]]
                for (q, k), box in zip(places, cxcywh_to_xyxy(boxes[i])[places[:, 0]].tolist(), strict=True)
            ]
            told.append(shown(row, labels, true_boxes=true, boxes=said_boxes))
        return told

    def quality(self, predictions: Sequence[Prediction], labels: Sequence[str]) -> float:
        """Return the mean average precision at IoU 0.5 of the categories that held-back images show."""
        each = []
        for label in labels:
            scores, right, _, truths = match_boxes(predictions, label)
            each.append(average_precision(scores, right, int(truths.sum())))
        return float(np.nanmean(each))


class Blind:
    """A loss of the DETR family that does not see the scores of categories that nobody looked for in an image.

    Their logits are replaced by one so low that neither the matching, nor the loss, nor its gradient has anything of them. Where
    everything was looked for, it is the model's own loss, untouched. A column for "no object" is always seen.

    Args:
        loss: Of the model; it gets logits of shape `(n, queries, labels)`, and of all layers
            `(n, layers, queries, labels)` or `(layers, n, queries, labels)`.
    """

    LOW = -60.0  # its sigmoid is next to 0, and still has a logarithm, in single precision and in bfloat16
    LOGITS = (
        "logits",
        "outputs_class",
        "enc_topk_logits",
        "enc_outputs_class",
    )  # as the losses of the family call them

    def __init__(self, loss: "Callable[..., Any]") -> None:
        self.loss, self._signature = loss, inspect.signature(loss)
        scores = {name for name in self._signature.parameters if "logit" in name or "class" in name}
        self.fits = "logits" in scores <= {*self.LOGITS}
        self.unasked: torch.Tensor | None = None  # `(n, labels)`, of the batch at hand

    def __call__(self, *args: Any, **more: Any) -> Any:
        """Return what the loss returns."""
        if self.unasked is None:
            return self.loss(*args, **more)
        from torch.nn import functional as F  # noqa: N812

        given = self._signature.bind(*args, **more)
        last = given.arguments["logits"]
        for name in self.LOGITS:
            if (logits := given.arguments.get(name)) is not None:
                hidden = F.pad(self.unasked, (0, logits.shape[-1] - self.unasked.shape[1]))[:, None]
                if logits.ndim == 4:  # of all layers, which come before the images or after them
                    hidden = hidden[None] if layers_first(logits, last) else hidden[:, None]
                given.arguments[name] = logits.masked_fill(hidden, self.LOW)
        return self.loss(*given.args, **given.kwargs)


def layers_first(logits: "torch.Tensor", last: "torch.Tensor") -> bool:
    """Tell whether logits of all layers are `(layers, n, queries, labels)`, or `(n, layers, queries, labels)`.

    Where there are as many layers as images, the logits of the last layer tell.
    """
    if logits.shape[0] != logits.shape[1]:
        return logits.shape[0] != len(last)
    first, second = logits[-1], logits[:, -1]
    return bool((first - last).abs().sum() < (second - last).abs().sum())
