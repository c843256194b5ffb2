"""Search among the query vectors of a store: FAISS finds candidates, the stored vectors decide their order.

Each query vector is an entry of the index, so that the best entry of an image is its maximum similarity. A small corpus
gets an exact index; a large one an inverted file of 8-bit vectors, whose answers are ranked again by exact similarity.
Either way the scores that come out are exact; only which images are considered is approximate; `recall` measures that.
"""

import json
import math
import os
from pathlib import Path
from typing import Any, Literal

import numpy as np
import numpy.typing as npt

from tilth.dataset import write_beside
from tilth.errors import ModelError
from tilth.extras import optional
from tilth.mining.encode import max_similarity
from tilth.mining.store import Store

EXACT_UP_TO = 1_000_000  # query vectors; 1 GB at 256 dimensions
TRAIN_PER_LIST = 64  # vectors per list that k-means sees
SAMPLE_ROWS = 20_000  # images that recall is measured on

Rows = npt.NDArray[np.int64]
Texts = npt.NDArray[np.float32]


class Index:
    """An index over all vectors of a store.

    Args:
        store: What to search.
        digest: Of the model whose texts will be asked.
        kind: `exact`, `ivf`, or `auto` to choose by size.

    Raises:
        ModelError: The store holds vectors of another model.
    """

    def __init__(self, store: Store, *, digest: str, kind: Literal["auto", "exact", "ivf"] = "auto") -> None:
        refuse_other_model(store.digest, digest, store.folder)
        with optional():
            import faiss
        self._faiss: Any = faiss
        self._store = store
        vectors = len(store) * store.queries
        self.kind = kind if kind != "auto" else ("exact" if vectors <= EXACT_UP_TO else "ivf")
        self._path = store.folder / f"{self.kind}.faiss"
        self._index: Any = self._read(digest) or self._build(digest)

    def _read(self, digest: str) -> Any:
        about = self._path.with_suffix(".json")
        if not about.exists() or not self._path.exists():
            return None
        found = json.loads(about.read_text())
        refuse_other_model(found["digest"], digest, self._path)
        # Rows are only ever appended, so a shorter index is one that the store has outgrown.
        return self._faiss.read_index(str(self._path)) if found["rows"] == len(self._store) else None

    def _build(self, digest: str) -> Any:
        faiss, store = self._faiss, self._store
        if self.kind == "exact":
            index = faiss.IndexFlatIP(store.width)
        else:
            lists = max(1, min(65_536, round(4 * math.sqrt(len(store) * store.queries))))
            index = faiss.index_factory(store.width, f"IVF{lists},SQ8", faiss.METRIC_INNER_PRODUCT)
            index.train(self._sample(max(1, TRAIN_PER_LIST * lists // store.queries)).reshape(-1, store.width))
            index.nprobe = max(1, min(lists, round(2 * math.sqrt(lists))))
        for _, block in store.blocks():
            index.add(block.reshape(-1, store.width).astype(np.float32))
        partial = self._path.with_suffix(".partial")
        faiss.write_index(index, str(partial))
        os.replace(partial, self._path)
        about = {"digest": digest, "rows": len(store), "kind": self.kind}
        write_beside(self._path.with_suffix(".json"), json.dumps(about))
        return index

    def _sample(self, rows: int) -> Texts:
        chosen = np.random.default_rng(0).permutation(len(self._store))[:rows]
        found: Texts = self._store.take(np.sort(chosen)).astype(np.float32)
        return found

    def search(self, texts: Texts, k: int, among: Rows | None = None) -> list[tuple[Rows, npt.NDArray[np.float32]]]:
        """Find the images most similar to each text.

        Args:
            texts: Unit vectors `(t, d)` of the model that the index was made with.
            k: Images wanted per text.
            among: Sorted rows to search among; all when None.

        Returns:
            For each text, rows and their exact similarities, best first; fewer than `k` when there are no more.
        """
        have = len(self._store) if among is None else len(among)
        return [self._one(text[None], min(k, have), have, self._only(among)) for text in texts]

    def _only(self, among: Rows | None) -> Any:
        if among is None:
            return None
        q = self._store.queries
        entries = (among[:, None] * q + np.arange(q)).ravel()
        selector = self._faiss.IDSelectorBatch(entries)
        if self.kind == "exact":
            return self._faiss.SearchParameters(sel=selector)
        return self._faiss.SearchParametersIVF(sel=selector, nprobe=self._index.nprobe)

    def _one(self, text: Texts, k: int, have: int, only: Any) -> tuple[Rows, npt.NDArray[np.float32]]:
        if k == 0:
            return np.empty(0, np.int64), np.empty(0, np.float32)
        q = self._store.queries
        entries = min(4 * k, have * q)
        while True:
            _, found = self._index.search(text, entries, **({"params": only} if only is not None else {}))
            found = found[0][found[0] >= 0]
            rows = np.unique(found // q)
            # Several entries of an image may answer: ask for more until enough images did.
            if len(rows) >= k or entries >= have * q or len(found) < entries:
                break
            entries = min(4 * entries, have * q)
        exact = self.similarity(rows, text)[:, 0]
        best = np.lexsort((rows, -exact))[:k]  # the lower row first among equals, so that two runs agree
        return rows[best], exact[best]

    def similarity(self, rows: Rows, texts: Texts) -> npt.NDArray[np.float32]:
        """Return the exact similarity of some images and texts, `(n, t)`."""
        return max_similarity(self._store.take(rows), texts)

    def recall(self, texts: Texts, k: int = 10, sample: int = SAMPLE_ROWS) -> float:
        """Return the share of the true `k` nearest images that search finds, on at most `sample` random images."""
        rows = np.sort(np.random.default_rng(1).permutation(len(self._store))[:sample])
        if len(rows) == 0 or len(texts) == 0:
            return 1.0
        exact = np.concatenate([self.similarity(part, texts) for part in np.array_split(rows, len(rows) // 4096 + 1)])
        answers = self.search(texts, k, None if len(rows) == len(self._store) else rows)
        shares = []
        for column, (found, scores) in enumerate(answers):
            threshold = np.sort(exact[:, column])[-min(k, len(rows))]
            shares.append((scores[: min(k, len(found))] >= threshold - 1e-6).sum() / min(k, len(rows)))
        return float(np.mean(shares))

    def __len__(self) -> int:
        """Count the entries, query vectors of images."""
        return int(self._index.ntotal)


def refuse_other_model(found: str, wanted: str, place: Path) -> None:
    """Stop before vectors of two models are compared.

    Raises:
        ModelError: The digests differ.
    """
    if found != wanted:
        raise ModelError(
            f"{place}: made with model weights {found}, but the texts come from {wanted}; index the corpus again"
        )
