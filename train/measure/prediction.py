"""What models say of an image, beside what is known of it."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt

from tilth.images import Image


@dataclass(frozen=True, kw_only=True)
class Target:
    """An image with its truth: categories, boxes `(k, 4)` xyxy pixels with their category, and a slice such as a style.

    Whether it shows a category in `unasked` is not known, as nobody looked or it is in doubt; of a category in `chances`, which no
    person decided, models say how likely it is.
    """

    id: str
    file: str
    image: Image
    categories: tuple[str, ...]
    boxes_xyxy: npt.NDArray[np.floating[Any]]
    box_categories: tuple[str, ...]
    part: str = ""
    unasked: tuple[str, ...] = ()
    chances: Mapping[str, float] = field(default_factory=dict)


@dataclass(frozen=True, kw_only=True)
class Prediction:
    """What both models say of one image, beside its truth.

    `logits` and `scores` are by category; `boxes` are `[x0, y0, x1, y1, score, category]` in pixels. `unasked` are the categories
    of which nobody knows whether it shows them, as nobody looked or it is in doubt; `chances`, of categories that no person decided, how
    likely models take it to show them.
    """

    id: str
    file: str
    part: str
    truth: tuple[str, ...]
    truth_boxes: list[list[Any]]
    logits: dict[str, float]
    boxes: list[list[Any]]
    unasked: tuple[str, ...] = ()
    chances: Mapping[str, float] = field(default_factory=dict)

    def box_score(self, category: str) -> float:
        """Return the score of the best box of a category; 0 when there is none."""
        return max((b[4] for b in self.boxes if b[5] == category), default=0.0)


def known(predictions: Sequence[Prediction], categories: Sequence[str]) -> npt.NDArray[np.bool_]:
    """Return of which categories it is known whether each image shows them, `(n, k)`."""
    table = np.array([[c not in p.unasked for c in categories] for p in predictions], bool)
    return table.reshape(len(predictions), len(categories))


def left_out(predictions: Sequence[Prediction], categories: Sequence[str]) -> dict[str, int]:
    """Count for each category the images that say nothing about it, as nobody looked."""
    return dict(zip(categories, (~known(predictions, categories)).sum(0).tolist(), strict=True))
