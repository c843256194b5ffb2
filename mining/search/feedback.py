"""What people said of images mined before: what they accepted raises images like it, what they rejected lowers them.

The likeness of two images is that of late interaction over their query vectors: for each vector of the example, the most
similar one of the candidate, then the mean. A candidate's feedback is its likeness to the examples that were accepted for a
category, less that to the rejected ones; the mean of the nearest few on either side, so that one odd example decides nothing.

Paper: https://arxiv.org/abs/2004.12832 (late interaction)
"""

from collections import defaultdict
from typing import cast

import numpy as np
import numpy.typing as npt

from tilth.claims import State
from tilth.data.dataset import Dataset
from tilth.data.where import both, one_of, quoted
from tilth.mining.corpora.corpus import Corpus
from tilth.mining.vectors.store import Store, Vectors

NEAREST = 3  # examples that count on either side
MOST = 256  # examples of a category and a side; the newest
CATEGORY = "mine.category"

Scores = npt.NDArray[np.float32]


def likeness(candidates: Vectors, examples: Vectors) -> Scores:
    """Return how alike images are, `(n, m)` in [-1, 1].

    Args:
        candidates: Unit query vectors `(n, q, d)`.
        examples: Unit query vectors `(m, q, d)`.

    >>> a = np.eye(2, dtype=np.float16)[None]
    >>> likeness(a, np.concatenate([a, -a])).tolist()
    [[1.0, 0.0]]
    """
    found = np.empty((len(candidates), len(examples)), np.float32)
    right = examples.astype(np.float32)
    for i, one in enumerate(candidates.astype(np.float32)):
        found[i] = np.einsum("qd,mpd->mpq", one, right, optimize=True).max(2).mean(1)
    return found


class Feedback:
    """The judged images of a corpus.

    Args:
        dataset: With what people said.
        corpus: That they were mined from.
        store: Its vectors.
    """

    def __init__(self, dataset: Dataset, corpus: Corpus, store: Store) -> None:
        self._store = store
        judged: dict[str, tuple[set[str], str]] = {}
        start = f"{corpus.name}/"
        known = both(f"starts_with(source, {quoted(start)})", one_of("state", (State.REVIEWED, State.CONFIRMED_EMPTY)))
        for source, mined_for, *lists in dataset.cells("source", CATEGORY, "categories", "looked", where=known):
            shown, looked = (set(cast("list[str]", names)) for names in lists)
            absent = str(mined_for) if mined_for in looked - shown else ""
            judged[str(source).removeprefix(start)] = shown, absent
        self.accepted: dict[str, list[int]] = defaultdict(list)
        self.rejected: dict[str, list[int]] = defaultdict(list)
        if judged:
            for row, (key, _) in enumerate(store.items()):
                if key in judged:
                    shown, absent = judged[key]
                    for category in shown:
                        self.accepted[category].append(row)
                    if absent:
                        self.rejected[absent].append(row)

    def __call__(self, category: str, rows: npt.NDArray[np.int64]) -> Scores:
        """Return the feedback of some rows for a category, `(n,)` in [-2, 2]; 0 where there is nothing to compare with."""
        found = np.zeros(len(rows), np.float32)
        vectors = self._store.take(rows)
        for sign, examples in ((1, self.accepted[category]), (-1, self.rejected[category])):
            if examples:
                near = likeness(vectors, self._store.take(np.array(examples[-MOST:])))
                found += sign * np.sort(near, 1)[:, -NEAREST:].mean(1)
        return found
