"""What a few-shot classifier says of the images of a corpus: it takes the place of words and examples for the categories that it knows.

`train.few_shot` fits it to vectors of the same model, so no image is looked at again, and how much words and examples count is known for
each category from examples that were held out. Tried on two drawn worlds, the matching head adds nothing to it; how much more it finds than
words and examples do, `benchmarks/few_shot.py` says.
"""

from collections.abc import Mapping
from pathlib import Path

import numpy as np
import numpy.typing as npt

from tilth import models
from tilth.encoders.few_shot import FewShotScores
from tilth.errors import InputError
from tilth.mining.vectors.store import Rows, Store

Floats = npt.NDArray[np.float32]


def load_scores(folder: Path, model: str) -> FewShotScores:
    """Read a classifier that was fitted to vectors of a model.

    Raises:
        InputError: It was fitted to those of another.
        ModelError: It is no few-shot classifier.
    """
    scores, ours = FewShotScores.load(folder), models.source(model)
    if scores.base.rpartition("@")[2] != ours.rpartition("@")[2]:
        raise InputError(
            f"classifier {folder}: fitted to vectors of {scores.base}, and these are of {ours}; fit one to this model"
        )
    return scores


class Scored:
    """The best images of a corpus for each category, found in one pass over their vectors.

    Args:
        scores: The classifier.
        store: Vectors of the corpus.
        most: How many to know of each category.
        first: Row of the store from which on images are looked for.
    """

    def __init__(self, scores: FewShotScores, store: Store, most: int, first: int = 0) -> None:
        self._scores, self._store = scores, store
        self._places: Mapping[str, int] = {label: k for k, label in enumerate(scores.labels)}
        rows: npt.NDArray[np.int64] = np.empty((len(scores.labels), 0), np.int64)
        best: Floats = np.empty((len(scores.labels), 0), np.float32)
        for start, vectors in store.blocks():
            some = np.setdiff1d(np.arange(max(start, first), start + len(vectors)), store.forgotten)
            if not len(some):
                continue
            best = np.concatenate([best, scores(vectors[some - start]).T], 1)
            rows = np.concatenate([rows, np.broadcast_to(some, (len(rows), len(some)))], 1)
            order = np.lexsort((rows, -best), axis=1)[:, :most]
            rows, best = np.take_along_axis(rows, order, 1), np.take_along_axis(best, order, 1)
        self._rows = rows

    def __contains__(self, category: str) -> bool:
        """Tell whether it knows a category."""
        return category in self._places

    def best(self, category: str) -> Rows:
        """Return the rows that most likely show a category, the best first."""
        found: Rows = self._rows[self._places[category]]
        return found

    def __call__(self, category: str, rows: Rows) -> Floats:
        """Return the logits of some rows, `(n,)`."""
        return np.asarray(self._scores(self._store.take(rows))[:, self._places[category]], np.float32)
