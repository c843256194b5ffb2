"""Search among the query vectors of a store: FAISS finds candidates, the stored vectors decide their order.

Each query vector is an entry of the index, so that the best entry of an image is its maximum similarity. Whatever the kind
of index, the scores that come out are exact, of the half-precision vectors on disk; only which images are considered is
approximate, and how many of the true best they hold is measured when the index is built.

Papers: https://arxiv.org/abs/1702.08734 (FAISS), https://arxiv.org/abs/1704.07355 (fast scan of product-quantised codes),
https://arxiv.org/abs/2405.12497 (RaBitQ), https://arxiv.org/abs/1603.09320 (HNSW)
"""

import hashlib
import json
import math
import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import numpy.typing as npt

from tilth.data.files import write_beside
from tilth.encoders.families import max_similarity
from tilth.engine.job import batched
from tilth.errors import InputError, ModelError
from tilth.extras import optional
from tilth.mining.vectors.store import Rows, Store

EXACT_UP_TO = 1_000_000  # query vectors; beyond, comparing all takes longer than it is worth
BUDGET_MB = 4096
TRAIN_PER_LIST = 48  # vectors per list that k-means sees; FAISS warns below 39
GROWN = 2.0  # an index of more than so many times the vectors that it was trained on is built anew
MIN_LISTS = 16  # k-means of the codes needs 16 centroids, however few the lists
PROBES = 96  # stored vectors that an index is tuned with; half of them judge the result
TUNED_AT = 10  # images per answer that tuning looks at
DEPTHS = (8, 16, 32, 64, 128)  # entries looked up per image wanted
TEXTS_AT_ONCE = 64
SAMPLE_ROWS = 20_000  # images that recall is measured on

Kind = Literal["auto", "exact", "hnsw", "ivf", "rabitq"]
Texts = npt.NDArray[np.float32]


@dataclass(frozen=True, kw_only=True)
class Plan:
    """What kind of index to build: FAISS's name for it, its size in memory, and why."""

    kind: str
    factory: str
    bytes: int
    why: str


def plan_index(vectors: int, width: int, *, kind: Kind = "auto", memory_mb: int = BUDGET_MB) -> Plan:
    """Choose an index for a number of vectors.

    Exact while that is quick and fits; otherwise an inverted file of product-quantised codes, 4 bits for every 4
    dimensions, which is 1/32 of the floats, and 8 bytes for the number. `hnsw` (a graph of 8-bit vectors) and `rabitq`
    (an inverted file of one bit a dimension) are there to be asked for; `docs/mining-at-scale.md` compares them.

    Args:
        vectors: Number of vectors.
        width: Dimensions.
        kind: Other than `auto` to choose yourself.
        memory_mb: What the index may take in memory.

    Raises:
        InputError: No index, or not the one asked for, fits the memory.

    >>> plan_index(10_000, 256).factory, plan_index(10_000_000, 256).factory
    ('Flat', 'IVF6325,PQ64x4fs')
    """
    lists = max(1, min(65_536, round(2 * math.sqrt(vectors))))
    codes = max(1, width // 4 // 2 * 2)
    kinds = {
        "exact": ("Flat", 4 * width),
        "hnsw": ("HNSW32,SQ8", width + 276),
        "ivf": (f"IVF{lists},PQ{codes}x4fs", codes // 2 + 8),
        "rabitq": (f"IVF{lists},RaBitQfs", width // 8 + 16),
    }
    if kind != "auto" and kind not in kinds:
        raise InputError(f"index must be auto, {', '.join(kinds)}, got {kind!r}")
    sizes = {
        name: vectors * each + (0 if name in ("exact", "hnsw") else lists * width * 4)
        for name, (_, each) in kinds.items()
    }
    budget = memory_mb * 2**20
    if kind == "auto":
        chosen = "exact" if vectors <= EXACT_UP_TO and sizes["exact"] <= budget else "ivf"
        why = (
            f"{vectors:,} vectors, few enough to compare all"
            if chosen == "exact"
            else f"{vectors:,} vectors are {sizes['exact'] / 1e6:,.0f} MB as they are and {sizes['ivf'] / 1e6:,.0f} MB as codes"
        )
    else:
        chosen, why = kind, "asked for"
    if sizes[chosen] > budget:
        least = min(sizes.values()) // 2**20 + 1
        raise InputError(
            f"index: {chosen} takes {sizes[chosen] // 2**20 + 1:,} MB and index_memory_mb is {memory_mb:,}; "
            f"give it more, or take the smallest ({least:,} MB) with index: ivf"
        )
    return Plan(kind=chosen, factory=kinds[chosen][0], bytes=sizes[chosen], why=why)


class Index:
    """An index over all vectors of a store.

    It lies beside the store, whole or absent, with its digest; a damaged one is built again. Rows that the store has gained
    are added, those that it has forgotten are left out.

    Args:
        store: What to search.
        digest: Of the model whose texts will be asked.
        kind: See `plan_index`.
        memory_mb: See `plan_index`.
        recall: Share of the true best images that answers should hold; search is tuned to reach it.
        texts: Questions to tune with, `(t, d)`; they lie elsewhere than images, so they are the ones that count.

    Attributes:
        plan: What was chosen.
        found: Measured recall@10, by kind of question: `texts` and `vectors`.
        note: What happened on opening: `built`, `extended`, `read`, or why it was built again.

    Raises:
        ModelError: The store holds vectors of another model.
        InputError: Nothing fits the memory.
    """

    def __init__(
        self,
        store: Store,
        *,
        digest: str,
        kind: Kind = "auto",
        memory_mb: int = BUDGET_MB,
        recall: float = 0.95,
        texts: Texts | None = None,
    ) -> None:
        refuse_other_model(store.digest, digest, store.folder)
        with optional():
            import faiss
        self._faiss: Any = faiss
        self._store, self._wanted = store, recall
        self._q = store.queries
        self.plan = plan_index(len(store) * self._q, store.width, kind=kind, memory_mb=memory_mb)
        self.kind = self.plan.kind
        self._path = store.folder / f"{self.kind}.faiss"
        self.found: dict[str, float] = {}
        self._effort, self._depth = 0, DEPTHS[0]
        about, self.note = self._state(digest)
        if self.note == "read":
            self._effort, self._depth, self.found = about["effort"], about["depth"], about["recall"]
            self._index = self._read(mapped=about["rows"] == len(store))
            if about["rows"] < len(store):
                self._add_from(self._index, about["rows"])
                self._write(self._index, digest, about["trained_rows"])
                self.note = "extended"
        else:
            self._index = self._build(texts)
            self._write(self._index, digest, len(store))
        self._set_effort(self._effort)

    def _state(self, digest: str) -> tuple[dict[str, Any], str]:
        """Return what is written of the index file, and `read` when it can be used or else why it cannot."""
        about = self._path.with_suffix(".json")
        if not about.exists() or not self._path.exists():
            return {}, "built"
        kept: dict[str, Any] = json.loads(about.read_text())
        refuse_other_model(kept["digest"], digest, self._path)
        if _checksum(self._path) != kept.get("checksum"):
            return {}, f"built again, {self._path.name} was damaged"
        if not kept["rows"] <= len(self._store) <= GROWN * kept["trained_rows"]:
            return (
                {},
                f"built again, it was made for {kept['trained_rows']:,} images and there are {len(self._store):,}",
            )
        return kept, "read"

    def _read(self, *, mapped: bool) -> Any:
        # Only what is looked at comes into memory; what is added to must lie there whole.
        return self._faiss.read_index(str(self._path), self._faiss.IO_FLAG_MMAP_IFC if mapped else 0)

    def _build(self, texts: Texts | None) -> Any:
        faiss, store = self._faiss, self._store
        index = faiss.index_factory(store.width, self.plan.factory, faiss.METRIC_INNER_PRODUCT)
        if not index.is_trained:
            if self.kind in ("ivf", "rabitq"):
                index.cp.max_points_per_centroid = TRAIN_PER_LIST
            wanted = TRAIN_PER_LIST * max(MIN_LISTS, getattr(index, "nlist", 1))
            index.train(self._sample(max(1, wanted // self._q)).reshape(-1, store.width))
        if self.kind in ("exact", "hnsw"):
            index = faiss.IndexIDMap2(index)  # an inverted file keeps numbers of its own
        if self.kind == "exact":
            self._add_from(index, 0)
            return index
        probes = self._probes(texts)
        truth = _Best(probes.asked, TUNED_AT + 1)
        self._add_from(index, 0, truth)
        self._index = index
        self._tune(probes, truth)
        return index

    def _add_from(self, index: Any, first: int, truth: "_Best | None" = None) -> None:
        for rows, block in self._fresh(first):
            entries = (rows[:, None] * self._q + np.arange(self._q)).ravel()
            index.add_with_ids(block.reshape(-1, self._store.width), entries)
            if truth is not None:
                truth.look(rows, block)

    def _fresh(self, first: int) -> Iterator[tuple[Rows, npt.NDArray[np.float32]]]:
        """Yield the rows from `first` on, with their vectors `(n, q, d)`."""
        for start, block in self._store.blocks():
            skipped = max(0, first - start)
            if skipped < len(block):
                yield np.arange(start + skipped, start + len(block)), block[skipped:].astype(np.float32)

    def _write(self, index: Any, digest: str, trained_rows: int) -> None:
        partial, about = self._path.with_suffix(".partial"), self._path.with_suffix(".json")
        about.unlink(
            missing_ok=True
        )  # without it the index file counts for nothing, so a kill from here on costs a rebuild
        self._faiss.write_index(index, str(partial))
        kept = {
            "digest": digest,
            "rows": len(self._store),
            "trained_rows": trained_rows,
            "effort": self._effort,
            "depth": self._depth,
            "recall": self.found,
            "checksum": _checksum(partial),
        }
        os.replace(partial, self._path)
        write_beside(about, json.dumps(kept))
        for other in self._store.folder.glob("*.faiss"):
            if other != self._path:
                other.with_suffix(".json").unlink(missing_ok=True)
                other.unlink()

    def _sample(self, rows: int) -> Texts:
        chosen = np.random.default_rng(0).permutation(len(self._store))[:rows]
        found: Texts = self._store.take(np.sort(chosen)).astype(np.float32)
        return found

    def _probes(self, texts: Texts | None) -> "_Probes":
        rows = np.sort(np.random.default_rng(2).permutation(len(self._store))[:PROBES])
        stored = self._store.take(rows)[:, 0].astype(np.float32)
        if texts is None or not len(texts):
            return _Probes(asked=stored, own=rows)
        return _Probes(asked=np.concatenate([stored, texts]), own=np.concatenate([rows, np.full(len(texts), -1)]))

    def _tune(self, probes: "_Probes", truth: "_Best") -> None:
        """Raise the effort until every second question of either kind is answered well; then look up no more than needed."""
        self._depth = DEPTHS[-1]
        for effort in self._efforts():
            self._set_effort(effort)
            if self._reached(shares := self._shares(probes, truth)):
                break
        for depth in DEPTHS[:-1]:
            self._depth = depth
            if self._reached(fewer := self._shares(probes, truth)):
                shares = fewer
                break
        else:
            self._depth = DEPTHS[-1]
        # The other half, which tuning never saw, says what was reached.
        self.found = {name: round(float(kind[1::2].mean()), 4) for name, kind in shares.items() if len(kind) > 1}

    def _reached(self, shares: dict[str, npt.NDArray[np.float64]]) -> bool:
        return bool(min(kind[::2].mean() for kind in shares.values()) >= self._wanted)

    def _shares(self, probes: "_Probes", truth: "_Best") -> dict[str, npt.NDArray[np.float64]]:
        """Return which share of the true best each question finds, its own row apart."""
        found = []
        answers = self.search(probes.asked, TUNED_AT + 1)
        for number, (rows, _) in enumerate(answers):
            best = truth.rows[number][truth.rows[number] != probes.own[number]][:TUNED_AT]
            found.append(np.isin(best, rows).mean() if len(best) else 1.0)
        shares = np.array(found)
        own = probes.own >= 0
        return {"vectors": shares[own], **({"texts": shares[~own]} if (~own).any() else {})}

    def _efforts(self) -> list[int]:
        if self.kind == "hnsw":
            return [64, 128, 256, 512, 1024]
        lists = int(self._index.nlist)
        steps = 2 ** np.arange(3, max(4, math.ceil(math.log2(lists)) + 1))
        return [int(n) for n in np.unique(np.minimum(steps, max(1, lists // 2)))]

    def _set_effort(self, effort: int) -> None:
        self._effort = effort
        if self.kind == "hnsw":
            self._faiss.downcast_index(self._index.index).hnsw.efSearch = max(effort, 16)
        elif self.kind != "exact":
            self._index.nprobe = max(1, effort)

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
        k = min(k, have)
        if k == 0 or not len(texts):
            return [(np.empty(0, np.int64), np.empty(0, np.float32)) for _ in texts]
        texts = np.ascontiguousarray(texts, np.float32)
        return [
            answer for part in batched(texts, TEXTS_AT_ONCE) for answer in self._answer(np.stack(part), k, have, among)
        ]

    def _answer(
        self, texts: Texts, k: int, have: int, among: Rows | None
    ) -> list[tuple[Rows, npt.NDArray[np.float32]]]:
        # Several entries of an image may answer, and codes blur their order: look up more than are wanted.
        entries = min((4 if self.kind == "exact" else self._depth) * k, have * self._q)
        more = {} if among is None else {"params": self._only(among)}
        while True:
            found = self._index.search(texts, entries, **more)[1]
            owner, rows = self._images(found)
            short = np.bincount(owner, minlength=len(texts)) < k
            if entries >= have * self._q or not (short & (found[:, -1] >= 0)).any():
                break
            entries = min(4 * entries, have * self._q)
        exact = np.einsum("nqd,nd->nq", self._store.take(rows).astype(np.float32), texts[owner], optimize=True).max(1)
        order = np.lexsort((rows, -exact, owner))  # the lower row first among equals, so that two runs agree
        ends = np.searchsorted(owner, np.arange(1, len(texts)))
        return [(rows[best[:k]], exact[best[:k]]) for best in np.split(order, ends)]

    def _images(self, found: Rows) -> tuple[Rows, Rows]:
        """Return the images that entries `(t, n)` belong to, each once a question: number of the question, and row."""
        total = len(self._store)
        owner = np.repeat(np.arange(len(found)), found.shape[1])
        pairs = np.unique(owner[found.ravel() >= 0] * total + found.ravel()[found.ravel() >= 0] // self._q)
        owner, rows = pairs // total, pairs % total
        if len(self._store.forgotten):
            kept = ~np.isin(rows, self._store.forgotten)
            owner, rows = owner[kept], rows[kept]
        return owner, rows

    def _only(self, among: Rows) -> Any:
        entries = (among[:, None] * self._q + np.arange(self._q)).ravel()
        selector = self._faiss.IDSelectorBatch(entries)
        if self.kind == "exact":
            return self._faiss.SearchParameters(sel=selector)
        if self.kind == "hnsw":
            return self._faiss.SearchParametersHNSW(sel=selector, efSearch=max(self._effort, 16))
        return self._faiss.SearchParametersIVF(sel=selector, nprobe=max(1, self._effort))

    def similarity(self, rows: Rows, texts: Texts) -> npt.NDArray[np.float32]:
        """Return the exact similarity of some images and texts, `(n, t)`."""
        return max_similarity(self._store.take(rows), texts)

    def recall(self, texts: Texts, k: int = 10, sample: int = SAMPLE_ROWS) -> float:
        """Return the share of the true `k` nearest images that search finds, on at most `sample` random images."""
        rows = np.sort(np.random.default_rng(1).permutation(len(self._store))[:sample])
        rows = rows[~np.isin(rows, self._store.forgotten)]
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


@dataclass(frozen=True)
class _Probes:
    """Questions `(n, d)`, and the row that each was taken from; -1 for a text."""

    asked: Texts
    own: Rows


class _Best:
    """The rows most similar to each of some questions, kept while all vectors pass by."""

    def __init__(self, asked: Texts, k: int) -> None:
        self._asked = asked
        self.rows: Rows = np.full((len(asked), k), -1, np.int64)
        self._scores: Texts = np.full((len(asked), k), -np.inf, np.float32)

    def look(self, rows: Rows, block: npt.NDArray[np.float32]) -> None:
        """Compare a block of vectors `(n, q, d)`."""
        scores = np.concatenate([self._scores, max_similarity(block, self._asked).T], 1)
        every = np.concatenate([self.rows, np.broadcast_to(rows, (len(self._asked), len(rows)))], 1)
        best = np.argsort(-scores, 1, kind="stable")[:, : self.rows.shape[1]]
        self._scores, self.rows = np.take_along_axis(scores, best, 1), np.take_along_axis(every, best, 1)


def _checksum(path: Path) -> str:
    with path.open("rb") as stream:
        return hashlib.file_digest(stream, "blake2b").hexdigest()[:32]


def refuse_other_model(found: str, wanted: str, place: Path) -> None:
    """Stop before vectors of two models are compared.

    Raises:
        ModelError: The digests differ.
    """
    if found != wanted:
        raise ModelError(
            f"{place}: made with model weights {found}, but the texts come from {wanted}; index the corpus again"
        )
