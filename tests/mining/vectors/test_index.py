"""The index: what it finds, what it measures of itself, and what it makes of growth, loss, damage and kills."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from mining_parts import filled_store, new_store, unit

from tilth.encoders.families import max_similarity
from tilth.errors import InputError, ModelError
from tilth.mining.vectors.index import Index, plan_index
from tilth.mining.vectors.store import Store

KINDS = ["exact", "hnsw", "ivf", "rabitq"]


def clustered_store(folder: Path, rows: int, queries: int = 2, width: int = 64, spread: float = 0.7) -> Store:
    """Fill a store with images whose vectors lie in loose heaps, as embeddings do."""
    rng = np.random.default_rng(0)
    heaps = rng.normal(size=(max(4, rows // 40), width))
    store = new_store(folder, queries, width)
    for start in range(0, rows, 1000):
        n = min(1000, rows - start)
        vectors = heaps[rng.integers(0, len(heaps), (n, queries))] + spread * rng.normal(size=(n, queries, width))
        vectors /= np.linalg.norm(vectors, axis=-1, keepdims=True)
        store.append([(str(start + i), "s") for i in range(n)], vectors.astype(np.float16))
    return store


def texts_near(store: Store, count: int, seed: int = 7) -> np.ndarray:
    rows = np.random.default_rng(seed).permutation(len(store))[:count]
    near = store.take(rows)[:, 0].astype(np.float32) + 0.05 * np.random.default_rng(seed).normal(
        size=(count, store.width)
    )
    return (near / np.linalg.norm(near, axis=-1, keepdims=True)).astype(np.float32)


@pytest.mark.parametrize(
    ("vectors", "memory_mb", "kind"),
    [(1000, 4096, "exact"), (1_000_000, 4096, "exact"), (1_000_000, 500, "ivf"), (1_000_001, 4096, "ivf")],
)
def test_the_kind_follows_from_size_and_memory(vectors: int, memory_mb: int, kind: str) -> None:
    plan = plan_index(vectors, 256, memory_mb=memory_mb)
    assert plan.kind == kind
    assert plan.bytes <= memory_mb * 2**20


def test_what_does_not_fit_is_refused_with_the_way_out() -> None:
    with pytest.raises(
        InputError, match=r"index: hnsw takes 5,074 MB and index_memory_mb is 1,000.*\(388 MB\) with index: ivf"
    ):
        plan_index(10_000_000, 256, kind="hnsw", memory_mb=1000)
    with pytest.raises(InputError, match="index must be auto, exact, hnsw, ivf, rabitq, got 'lsh'"):
        plan_index(10, 256, kind="lsh")  # type: ignore[arg-type]


@settings(max_examples=30, deadline=None)
@given(rows=st.integers(1, 150), k=st.integers(1, 40), seed=st.integers(0, 1000))
def test_the_exact_index_answers_as_comparing_everything_does(
    tmp_path_factory: pytest.TempPathFactory, rows: int, k: int, seed: int
) -> None:
    store, vectors = filled_store(tmp_path_factory.mktemp("store"), rows, seed)
    texts = unit(np.random.default_rng(seed + 1), 3, 16).astype(np.float32)
    similar = max_similarity(vectors, texts)
    for column, (found, scores) in enumerate(Index(store, digest="d1").search(texts, k)):
        assert len(set(found.tolist())) == min(k, rows)
        np.testing.assert_allclose(scores, np.sort(similar[:, column])[::-1][:k], atol=1e-6)
        np.testing.assert_allclose(scores, similar[found, column], atol=1e-6)


@pytest.mark.parametrize("kind", ["hnsw", "ivf", "rabitq"])
def test_approximate_kinds_reach_the_recall_that_was_asked_for_and_say_what_they_reached(
    tmp_path: Path, kind: str
) -> None:
    store = clustered_store(tmp_path, 4000)
    texts = texts_near(store, 24)
    index = Index(store, digest="d1", kind=kind, recall=0.9, texts=texts[:12])  # type: ignore[arg-type]
    similar = max_similarity(store.take(np.arange(len(store))), texts)
    true = np.argsort(-similar, axis=0, kind="stable")[:10].T
    shares = []
    for column, (rows, scores) in enumerate(index.search(texts[12:], 10), 12):
        np.testing.assert_allclose(scores, similar[rows, column], atol=1e-6)  # ranked by the exact similarity
        shares.append(np.isin(true[column], rows).mean())
    assert np.mean(shares) > 0.85
    assert index.found["texts"] == pytest.approx(np.mean(shares), abs=0.15)
    assert index.recall(texts, 10) > 0.85


def test_more_recall_costs_more_effort(tmp_path: Path) -> None:
    store = clustered_store(tmp_path, 4000, spread=3)
    careless = Index(store, digest="d1", kind="ivf", recall=0.3)
    for path in tmp_path.glob("ivf.*"):
        path.unlink()
    careful = Index(store, digest="d1", kind="ivf", recall=0.9)
    assert careful._effort * careful._depth > careless._effort * careless._depth
    assert careful.found["vectors"] > careless.found["vectors"]


@pytest.mark.parametrize("kind", KINDS)
def test_what_the_corpus_gained_is_added_and_found(tmp_path: Path, kind: str) -> None:
    store = clustered_store(tmp_path, 1500)
    assert Index(store, digest="d1", kind=kind).note == "built"  # type: ignore[arg-type]
    new = unit(np.random.default_rng(9), 3, 2, 64)
    store.append([(f"new{i}", "s") for i in range(3)], new)
    index = Index(store, digest="d1", kind=kind)  # type: ignore[arg-type]
    assert (index.note, len(index)) == ("extended", 3006)
    assert [int(rows[0]) for rows, _ in index.search(new[:, 0].astype(np.float32), 1)] == [1500, 1501, 1502]
    again = Index(store, digest="d1", kind=kind)  # type: ignore[arg-type]
    assert again.note == "read"
    assert again._effort == index._effort
    np.testing.assert_array_equal(
        again.search(new[:, 1].astype(np.float32), 5)[0][0], index.search(new[:, 1].astype(np.float32), 5)[0][0]
    )


def test_an_index_that_its_corpus_has_outgrown_is_built_again(tmp_path: Path) -> None:
    store, vectors = filled_store(tmp_path, 50)
    Index(store, digest="d1")
    store.append([(f"new{i}", "s") for i in range(51)], np.concatenate([vectors, vectors[:1]]))
    assert Index(store, digest="d1").note == "built again, it was made for 50 images and there are 101"


@pytest.mark.parametrize("kind", KINDS)
def test_what_left_the_corpus_is_not_found_until_it_is_back(tmp_path: Path, kind: str) -> None:
    store = clustered_store(tmp_path, 1000)
    every = list(store.items())
    asked = store.take(np.array([10]))[:, 0].astype(np.float32)
    index = Index(store, digest="d1", kind=kind)  # type: ignore[arg-type]
    assert index.search(asked, 3)[0][0][0] == 10
    assert store.forget_all_but(item for item in every if item[0] != "10") == 1
    assert 10 not in index.search(asked, 3)[0][0]
    assert len(index.search(asked, 3)[0][0]) == 3
    assert new_store(tmp_path, 2, 64).forgotten.tolist() == [10]
    assert store.forget_all_but(every) == 0
    assert index.search(asked, 3)[0][0][0] == 10


def test_a_damaged_index_is_noticed_and_built_again(tmp_path: Path) -> None:
    store = clustered_store(tmp_path, 1000)
    before = Index(store, digest="d1", kind="ivf").search(texts_near(store, 4), 5)
    data = bytearray((tmp_path / "ivf.faiss").read_bytes())
    data[len(data) // 2] ^= 1
    (tmp_path / "ivf.faiss").write_bytes(data)
    index = Index(store, digest="d1", kind="ivf")
    assert index.note == "built again, ivf.faiss was damaged"
    for (rows, _), (was, _) in zip(index.search(texts_near(store, 4), 5), before, strict=True):
        np.testing.assert_array_equal(rows, was)


def test_an_index_of_another_model_is_refused(tmp_path: Path) -> None:
    store, _ = filled_store(tmp_path, 10)
    Index(store, digest="d1")
    with pytest.raises(ModelError, match="made with model weights d1, but the texts come from d2"):
        Index(store, digest="d2")
    (tmp_path / "exact.json").write_text((tmp_path / "exact.json").read_text().replace("d1", "d0"))
    with pytest.raises(ModelError, match=r"exact\.faiss: made with model weights d0"):
        Index(store, digest="d1")


BUILD = """
import sys, time
from pathlib import Path
from tilth.mining.vectors import index
from tilth.mining.vectors.index import Index
from tilth.mining.vectors.store import Store
index._checksum = lambda path: time.sleep(60)  # waits for the kill with the new index written beside the old one
Index(Store(Path(sys.argv[1]), model="m", digest="d1", queries=2, width=64), digest="d1", kind="ivf")
"""


def test_a_kill_in_the_middle_of_a_build_leaves_nothing_half(tmp_path: Path) -> None:
    store = clustered_store(tmp_path, 20_000)
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    process = subprocess.Popen([sys.executable, "-c", BUILD, str(tmp_path)], env=environment)
    while not (tmp_path / "ivf.partial").exists():
        assert process.poll() is None, "it ended before it could be killed"
        time.sleep(0.001)
    process.send_signal(signal.SIGKILL)
    process.wait()
    index = Index(store, digest="d1", kind="ivf")
    assert index.note.startswith("built")
    assert len(index) == 40_000
    assert not (tmp_path / "ivf.partial").exists()


def test_the_index_is_mapped_and_not_read(tmp_path: Path) -> None:
    store = clustered_store(tmp_path, 60_000, queries=1, width=256)
    Index(store, digest="d1", kind="exact")
    code = (
        "import psutil, sys; from pathlib import Path; import faiss, numpy as np; from tilth.mining.vectors.index import Index; "
        "from tilth.mining.vectors.store import Store; s = Store(Path(sys.argv[1]), model='m', digest='d1', queries=1, width=256); "
        "b = psutil.Process().memory_info(); i = Index(s, digest='d1', kind='exact'); a = psutil.Process().memory_info(); "
        "print(i.note, (a.rss - a.shared - b.rss + b.shared) / 1e6)"
    )
    note, private_mb = subprocess.check_output([sys.executable, "-c", code, str(tmp_path)], text=True).split()
    assert note == "read"
    assert float(private_mb) < 30  # of 61 MB
