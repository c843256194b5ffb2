"""Peak memory of mining from 10 thousand to 1 million images: fill a store, index it, search it, look keys up.

    python benchmarks/memory.py

Vectors are made, 256 numbers an image; each size runs in a process of its own. Prints a table, which `make figures` draws. About 4
minutes on one core. `--sizes 10000000` is the large one: it needs 6 GB of disk and half an hour, and has a file of figures of its own.
"""

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
from figures import Figures, add_option

WIDTH, BLOCK = 256, 20_000


def peak_mb() -> float:
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith("VmHWM")) / 1024


def anonymous_mb() -> float:
    """Memory that is not a file mapped from disk, which the system takes back when it needs it."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith("RssAnon")) / 1024


def work(folder: Path, rows: int) -> dict[str, float]:
    import faiss

    from tilth.mining.vectors.index import Index
    from tilth.mining.vectors.store import Store

    faiss.omp_set_num_threads(int(os.environ.get("OMP_NUM_THREADS", "1")))
    store = Store(folder, model="made", digest="made", queries=1, width=WIDTH)
    rng = np.random.default_rng(0)
    heaps = rng.normal(size=(5000, WIDTH)).astype(np.float32)
    began = time.monotonic()
    for start in range(len(store), rows, BLOCK):
        n = min(BLOCK, rows - start)
        block = heaps[rng.integers(0, len(heaps), n)] + 0.5 * rng.standard_normal((n, WIDTH), np.float32)
        block /= np.linalg.norm(block, axis=1, keepdims=True)
        store.append([(f"shard/{start + i:09d}.jpg", "12345-1700000000000000000") for i in range(n)], block[:, None])
    filled = time.monotonic()
    told = {"rows": rows, "fill_s": filled - began, "fill_mb": peak_mb()}
    index = Index(store, digest="made", kind="ivf", memory_mb=16_000)
    told |= {"index_s": time.monotonic() - filled, "index_mb": peak_mb(), "recall": index.found["vectors"]}
    asked = store.take(rng.integers(0, rows, 1000))[:, 0].astype(np.float32)
    began = time.monotonic()
    answers = index.search(asked, 10)
    told |= {"per_s": 1000 / (time.monotonic() - began)}
    store.lookup({int(row) for found, _ in answers for row in found})
    known = store.has()
    assert known("shard/000000001.jpg", "12345-1700000000000000000")
    size = sum(path.stat().st_size for path in folder.glob("*.faiss"))
    return told | {"peak_mb": peak_mb(), "anonymous_mb": anonymous_mb(), "index_bytes": size / rows}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--sizes", type=int, nargs="+", default=[10_000, 30_000, 100_000, 300_000, 1_000_000])
    parser.add_argument("--work", type=Path, help="folder for the vectors; kept, so that a stopped run goes on")
    parser.add_argument("--child", type=int, help=argparse.SUPPRESS)
    add_option(parser)
    args = parser.parse_args()
    if args.child:
        print(json.dumps(work(args.work, args.child)))
        return
    figures = Figures("memory" if len(args.sizes) > 1 else f"memory_{args.sizes[0]}", seeds=[0])
    figures.add("floats_bytes_a_vector", 4 * WIDTH, "bytes")
    heads = ("images", "fill s", "index s", "recall@10", "searches/s", "peak MB", "not mapped MB", "index bytes")
    print("  ".join(f"{head:>13}" for head in heads))
    for size in args.sizes:
        with tempfile.TemporaryDirectory(prefix="memory-") as name:
            folder = args.work or Path(name)
            command = [sys.executable, __file__, "--child", str(size), "--work", str(folder)]
            row = json.loads(subprocess.check_output(command, text=True).strip().splitlines()[-1])
        for name, told, unit in (
            ("fill_s", row["fill_s"], "s"),
            ("index_s", row["index_s"], "s"),
            ("recall_at_10", row["recall"], "share"),
            ("searches_per_s", row["per_s"], "searches/s"),
            ("peak_mb", row["peak_mb"], "MB"),
            ("not_mapped_mb", row["anonymous_mb"], "MB"),
            ("index_bytes_a_vector", row["index_bytes"], "bytes"),
        ):
            figures.add(f"{size}.{name}", told, unit)
        cells = (f"{size:,}", f"{row['fill_s']:.0f}", f"{row['index_s']:.0f}", f"{row['recall']:.3f}")
        more = (
            f"{row['per_s']:,.0f}",
            f"{row['peak_mb']:,.0f}",
            f"{row['anonymous_mb']:,.0f}",
            f"{row['index_bytes']:.1f}",
        )
        print("  ".join(f"{cell:>13}" for cell in (*cells, *more)), flush=True)
    figures.write(args.results)


if __name__ == "__main__":
    main()
