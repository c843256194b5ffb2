"""Search a million vectors: speed, memory and recall of every kind of index, and of autofaiss at equal memory.

    python benchmarks/search.py --autofaiss /envs/autofaiss/bin/python
    python benchmarks/search.py --rows 10000000 --kinds ivf

The vectors are made: 200 topics, 100 subjects in each, of power-law size, and images that differ from their subject in 24
directions and by a little noise in all 256, the way embeddings of images crowd. Questions are drawn like the vectors and are not
among them.
All run on one thread in one go; every kind is built and searched in a process of its own, whose peak memory is its own.
"""

import argparse
import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
from figures import Figures, add_option

WIDTH, HEAPS, FREE = 256, 20_000, 24
QUESTIONS, K = 1000, 10
BLOCK = 50_000

AUTOFAISS = """
import json, sys, time
import faiss, numpy as np
from autofaiss import build_index
folder, size, threads = sys.argv[1], sys.argv[2], 1
faiss.omp_set_num_threads(threads)
began = time.time()
index, about = build_index(
    embeddings=folder + "/npy", save_on_disk=False, metric_type="ip", max_index_memory_usage=size,
    current_memory_available="20GB", nb_cores=threads, verbose=40,
)
built = time.time() - began
asked = np.load(folder + "/asked.npy")
index.search(asked[:10], 10)
began = time.time()
found = index.search(asked, 10)[1]
seconds = time.time() - began
faiss.write_index(index, folder + "/autofaiss.index")
np.save(folder + "/autofaiss.npy", found)
print(json.dumps({"build_s": built, "per_s": len(asked) / seconds, "key": str(about.get("index_key", ""))}))
"""


def made(rng: np.random.Generator, heaps: np.ndarray, spans: np.ndarray, n: int) -> np.ndarray:
    which = np.minimum((HEAPS * rng.power(0.4, n)).astype(int), HEAPS - 1)
    free = np.einsum("nf,nfd->nd", rng.normal(size=(n, FREE)).astype(np.float32), spans[which % len(spans)])
    found = heaps[which] + 0.5 * free / np.sqrt(FREE) + 0.01 * rng.normal(size=(n, WIDTH)).astype(np.float32)
    return found / np.linalg.norm(found, axis=1, keepdims=True)


def fill(folder: Path, rows: int) -> None:
    """Write the store, the questions and their true answers, block by block."""
    from tilth.mining.vectors.store import Store

    rng = np.random.default_rng(0)
    topics = rng.normal(size=(200, 1, WIDTH)).astype(np.float32)
    heaps = (topics + 0.7 * rng.normal(size=(200, HEAPS // 200, WIDTH)).astype(np.float32)).reshape(HEAPS, WIDTH)
    heaps = rng.permutation(heaps) / np.sqrt(WIDTH)
    spans = rng.normal(size=(500, FREE, WIDTH)).astype(np.float32) / np.sqrt(WIDTH)
    asked = made(rng, heaps, spans, QUESTIONS)
    np.save(folder / "asked.npy", asked)
    store = Store(folder / "store", model="made", digest="made", queries=1, width=WIDTH)
    (folder / "npy").mkdir()
    best = np.full((QUESTIONS, K), -np.inf, np.float32)
    for start in range(0, rows, BLOCK):
        block = made(rng, heaps, spans, min(BLOCK, rows - start)).astype(np.float16)
        store.append([(str(start + i), "") for i in range(len(block))], block[:, None])
        np.save(folder / "npy" / f"{start:09d}.npy", block)
        scores = asked @ block.astype(np.float32).T
        best = -np.sort(-np.concatenate([best, -np.partition(-scores, K, 1)[:, :K]], 1), 1)[:, :K]
    np.save(folder / "kth.npy", best[:, -1])


def ours(folder: Path, kind: str, recall: float) -> dict[str, object]:
    import faiss

    from tilth.mining.vectors.index import Index
    from tilth.mining.vectors.store import Store

    faiss.omp_set_num_threads(1)
    store = Store(folder / "store", model="made", digest="made", queries=1, width=WIDTH)
    asked, kth = np.load(folder / "asked.npy"), np.load(folder / "kth.npy")
    began = time.monotonic()
    index = Index(store, digest="made", kind=kind, memory_mb=16_000, recall=recall)  # type: ignore[arg-type]
    built = time.monotonic() - began
    index.search(asked[:50], K)
    count = 100 if kind == "exact" else QUESTIONS
    began = time.monotonic()
    answers = index.search(asked[:count], K)
    seconds = time.monotonic() - began
    found = np.mean([(scores >= limit - 1e-4).mean() for (_, scores), limit in zip(answers, kth, strict=False)])
    peak = (
        next(int(x.split()[1]) for x in Path("/proc/self/status").read_text().splitlines() if x.startswith("VmHWM"))
        / 1024
    )
    return {
        "build_s": built,
        "per_s": count / seconds,
        "recall": float(found),
        "says": index.found.get("vectors"),
        "bytes": index._path.stat().st_size / len(store),
        "peak_mb": peak,
    }


def rival(folder: Path, python: str, size: float) -> dict[str, object]:
    out = subprocess.run(
        [python, "-c", AUTOFAISS, str(folder), f"{size / 1e6:.0f}MB"], capture_output=True, text=True, check=False
    )
    if out.returncode:
        return {"error": out.stderr.strip().splitlines()[-1][:300]}
    told = json.loads(out.stdout.strip().splitlines()[-1])
    found, asked, kth = np.load(folder / "autofaiss.npy"), np.load(folder / "asked.npy"), np.load(folder / "kth.npy")
    from tilth.mining.vectors.store import Store

    store = Store(folder / "store", model="made", digest="made", queries=1, width=WIDTH)
    hits = []
    for question, rows, limit in zip(asked, found, kth, strict=True):
        rows = rows[rows >= 0]
        hits.append((store.take(rows)[:, 0].astype(np.float32) @ question >= limit - 1e-4).sum() / K)
    return {**told, "recall": float(np.mean(hits)), "bytes": (folder / "autofaiss.index").stat().st_size / len(store)}


def child(folder: Path, kind: str, recall: float) -> dict[str, object]:
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "MKL_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1"}
    command = [sys.executable, __file__, "--child", kind, "--work", str(folder), "--recall", str(recall)]
    return json.loads(subprocess.check_output(command, text=True, env=environment).strip().splitlines()[-1])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=int, default=1_000_000)
    parser.add_argument("--kinds", nargs="+", default=["exact", "ivf", "rabitq", "hnsw"])
    parser.add_argument("--recall", type=float, default=0.95)
    parser.add_argument("--autofaiss", help="Python of an environment with autofaiss")
    parser.add_argument("--work", type=Path, help="folder for the vectors; kept")
    parser.add_argument("--child", help=argparse.SUPPRESS)
    add_option(parser)
    args = parser.parse_args()
    if args.child:
        print(json.dumps(ours(args.work, args.child, args.recall)))
        return
    figures = Figures("search" if args.rows == 1_000_000 else f"search_{args.rows}", seeds=[0])
    figures.add("vectors", args.rows, "vectors")
    folder = args.work or Path(tempfile.mkdtemp(prefix="search-"))
    if not (folder / "kth.npy").exists():
        folder.mkdir(parents=True, exist_ok=True)
        fill(folder, args.rows)
    print(
        f"{args.rows:,} vectors of {WIDTH}, one thread, {QUESTIONS} questions, {K} answers; flat is {4 * WIDTH} bytes a vector"
    )
    print(f"{'index':28} {'build s':>8} {'questions/s':>12} {'recall@10':>10} {'bytes a vector':>15} {'peak MB':>8}")
    size = 0.0
    for kind in args.kinds:
        row = child(folder, kind, args.recall)
        if kind == "ivf":
            size = row["bytes"] * args.rows  # type: ignore[operator]
        say(kind, row)
        note(figures, kind, row)
    if args.autofaiss:
        for name, budget in (("autofaiss, equal memory", size), ("autofaiss, four times", 4 * size)):
            row = rival(folder, args.autofaiss, budget)
            say(name, row)
            if "error" not in row:
                note(figures, "autofaiss_equal" if budget == size else "autofaiss_four_times", row, "autofaiss")
    figures.write(args.results)
    if not args.work:
        shutil.rmtree(folder)


def note(figures: Figures, key: str, row: dict[str, object], rival: str = "") -> None:
    units = {"build_s": "s", "per_s": "questions/s", "recall": "share", "bytes": "bytes", "peak_mb": "MB"}
    for name, unit in units.items():
        if name in row:
            figures.add(f"{key}.{name}", float(row[name]), unit, rival=rival)  # type: ignore[arg-type]


def say(name: str, row: dict[str, object]) -> None:
    if "error" in row:
        print(f"{name:28} {row['error']}", flush=True)
        return
    peak = f"{row['peak_mb']:8,.0f}" if "peak_mb" in row else ""
    key = f"  {row['key']}" if row.get("key") else ""
    print(
        f"{name:28} {row['build_s']:8.0f} {row['per_s']:12,.0f} {row['recall']:10.3f} {row['bytes']:15.1f} {peak}{key}",
        flush=True,
    )


if __name__ == "__main__":
    main()
