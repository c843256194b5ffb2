"""Fine-tune a detector on the dataset: where are the things that the policy names?

Paper: https://arxiv.org/abs/2410.13842 (D-FINE), https://arxiv.org/abs/2407.17140 (RT-DETRv2)
"""

from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np

from tilth.engine.steps import step
from tilth.geometry import xyxy_to_cxcywh
from tilth.train.learn.fine_tune import Batch, FineTune

if TYPE_CHECKING:
    import torch


@step
class TrainDetector(FineTune):
    """Fine-tune a detector of the DETR family on the boxes of the dataset.

    An image that shows a category without a box for it is left out: it is neither an example nor a counter-example.
    """

    kind: ClassVar[str] = "detector"
    stream: ClassVar[int] = 2
    weight_decay: ClassVar[float] = 1e-4
    clip: ClassVar[float] = 0.5
    boxes_only: ClassVar[bool] = True

    model: str = "starter:detector"
    steps: int = 250
    batch_size: int = 16
    lr: float = 6e-4

    def beside(self, model: Any, batch: Batch) -> dict[str, Any]:
        """Give the model the boxes in view; it computes its loss itself."""
        import torch

        device = batch.pixels.device
        labels = [
            {
                "class_labels": torch.tensor(np.array(row.labels, np.int64)[keep], device=device),
                "boxes": torch.from_numpy(xyxy_to_cxcywh(boxes)[keep].astype(np.float32)).to(device),
            }
            for row, boxes, keep in zip(batch.rows, batch.boxes, batch.seen, strict=True)
        ]
        return {"labels": labels}

    def loss(self, said: Any, batch: Batch) -> "torch.Tensor":
        """Return what the model made of them."""
        loss: torch.Tensor = said.loss
        return loss
