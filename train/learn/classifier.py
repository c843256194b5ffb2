"""Fine-tune an image classifier on the dataset: which categories of the policy does an image show?

Paper: https://arxiv.org/abs/2010.11929 (ViT), or whatever the base model's card names
"""

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np

from tilth.engine.steps import step
from tilth.train.artifacts.artifact import any_size
from tilth.train.learn.examples import Example, known, likely
from tilth.train.learn.fine_tune import FineTune
from tilth.train.learn.lesson import Batch, shown
from tilth.train.learn.methods import METHODS, Choice, by_layer
from tilth.train.measure.metrics import average_precision
from tilth.train.measure.prediction import Prediction

if TYPE_CHECKING:
    import torch


@step
class TrainClassifier(FineTune):
    """Fine-tune a classifier; one sigmoid output for each picture category of the policy.

    An image teaches nothing about a category that nobody looked for in it, and of what only models said, as much as is likely.

    Args:
        method: How much of the base model learns: full, lora (adapters, which are merged in at the end), probe (the last layer alone); auto
            takes full for a small model or 5,000 images, a probe below 200, lora between.
        layer_decay: Factor on the learning rate from each layer to the one before it, in [0, 1]; 0 for one that fits the model.
        auto_weight: Weight of an example that no person looked at.
        made_weight: Weight of a generated example.
        spots: Weight of what boxes teach about places, beside what images are taught as a whole; 0 for none.
    """

    kind: ClassVar[str] = "classifier"
    stream: ClassVar[int] = 1
    weight_decay: ClassVar[float] = 0.05

    model: str = "starter:classifier"
    steps: int = 0
    batch_size: int = 32
    lr: float = 0
    method: str = "auto"
    layer_decay: float = 0
    auto_weight: float = 0.5
    made_weight: float = 0.5
    spots: float = 0.5

    def __post_init__(self) -> None:
        """Check the settings."""
        super().__post_init__()
        if self.method not in METHODS:
            raise ValueError(f"method must be one of {', '.join(METHODS)}, got {self.method}")
        if not 0 <= self.layer_decay <= 1:
            raise ValueError(f"layer_decay must lie in [0, 1], got {self.layer_decay}")

    def choice(self) -> Choice:
        """Return what is said about how the model learns."""
        return Choice(
            method=self.method, lr=self.lr, steps=self.steps, slower=self.layer_decay, decay=self.weight_decay
        )

    def slower(self, model: Any, factor: float) -> Callable[[str], float]:
        """Let what lies deeper learn slower."""
        return by_layer(model, factor)

    def trust(self, row: Example) -> float:
        """Return how much an example counts in the loss.

        Less when it was generated, and when no person looked and nobody can tell how likely it is to be right.
        """
        return (1.0 if row.reviewed or row.sure else self.auto_weight) * (self.made_weight if row.made else 1.0)

    def choose(self, model: Any, rows: Sequence[Example], side: int) -> Sequence[bool]:
        """Give the model a second head, for places, where boxes can teach it."""
        from tilth.train.learn.spots import spots_of

        if self.spots and any(box is not None for row in rows for box in row.boxes):
            model.spots = spots_of(model, side, model.config.num_labels)
        return [True] * len(rows)

    def finish(self, model: Any) -> None:
        """Take the second head away."""
        if hasattr(model, "spots"):
            del model.spots

    def beside(self, model: Any, batch: Batch) -> dict[str, Any]:
        """Let the model take images of their size, and show its features."""
        more = {"output_hidden_states": True} if getattr(model, "spots", None) is not None else {}
        return {**any_size(model, batch.pixels.shape[-1]), **more}

    def loss(self, model: Any, said: Any, batch: Batch) -> "torch.Tensor":
        """Compare every label with the truth; what is trusted less counts less."""
        import torch
        from torch.nn import functional as F  # noqa: N812

        logits = said.logits.float()
        truth, told = likely(batch.rows, self.auto_weight)
        weights = np.array([self.trust(r) for r in batch.rows], np.float32)
        each = F.binary_cross_entropy_with_logits(logits, torch.from_numpy(truth).to(logits.device), reduction="none")
        counts = torch.from_numpy(weights).to(logits.device)
        loss: torch.Tensor = (
            (each * torch.from_numpy(told).to(logits.device)).mean(1) * counts
        ).mean()  # times 1 is exact
        if (head := getattr(model, "spots", None)) is not None:
            from tilth.train.learn.spots import spots_loss

            sure = torch.from_numpy(known(batch.rows, self.auto_weight)).to(logits.device)
            places = head(said.hidden_states[-1])
            loss = loss + self.spots * spots_loss(places, batch.rows, batch.boxes, batch.seen, sure * counts[:, None])
        return loss

    def found(self, said: Any, batch: Batch, labels: Sequence[str]) -> list[Prediction]:
        """Return the logits."""
        return [
            shown(row, labels, logits=dict(zip(labels, logits, strict=True)))
            for row, logits in zip(batch.rows, said.logits.float().tolist(), strict=True)
        ]

    def quality(self, predictions: Sequence[Prediction], labels: Sequence[str]) -> float:
        """Return the mean average precision of the categories that held-back images show."""
        each = []
        for label in labels:
            told = [p for p in predictions if label not in p.unasked]
            right = np.array([label in p.truth for p in told], bool)
            each.append(average_precision(np.array([p.logits[label] for p in told]), right, int(right.sum())))
        return float(np.nanmean(each))
