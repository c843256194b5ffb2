"""What a cluster costs and gives: the same hashing and the same embedding here and on Ray nodes of one processor each.

    python benchmarks/cluster.py --images runs/starter-world/corpus

Each job runs on a fresh dataset or store, on a few and on all images, and its rate is that of the difference, so that starting
does not count; what starting took is printed beside it. A Ray node here is a process with one processor of the same machine
(one more hands out the work), so two nodes need three processors to be twice as fast; what is measured is the share that Ray
takes. Also prints the rates that `docs/plan-a-billion.md` counts with: reading and decoding, hashing, bytes.
"""

import argparse
import json
import os
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

from figures import Figures, add_option

JOB = """
import itertools, json, os, sys, time
from pathlib import Path
os.environ["RAY_USAGE_STATS_ENABLED"] = "0"
import torch
torch.set_num_threads(1)
from tilth.annotate.exchange.importing import Import
from tilth.data.dataset import Dataset
from tilth.events import Events
from tilth.mining.corpora.opening import open_corpus
from tilth.mining.vectors.embed import embed
from tilth.encoders.families import open_encoder
from tilth.mining.copies.hash import Hash
from tilth.mining.vectors.store import Store
from tilth.policy import load_policy
from tilth.engine.work import Work
job, where, folder, images, policy = sys.argv[1], sys.argv[2], Path(sys.argv[3]), sys.argv[4], Path(sys.argv[5])
there = {}
nodes = int(where) if where.isdigit() else 0
if nodes:
    import ray
    from ray.cluster_utils import Cluster
    cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 1})
    for _ in range(nodes):
        cluster.add_node(num_cpus=1)
    ray.init(address=cluster.address, log_to_driver=False)
    from tilth.engine.cluster import Cluster as Ray
    there = {"executor": Ray(cluster.address, folder / "files")}
work = Work(name="x", dataset=Dataset(folder / "dataset"), policy=load_policy(policy), folder=folder / "files",
            events=Events(folder / "events.jsonl"), **there)
if job == "hash":
    Import(path=Path(images)).run(Work(name="import", dataset=work.dataset, policy=work.policy, folder=folder / "import",
                                       events=work.events))
    began = time.monotonic()
    counts = work.map(Hash())
    count = counts["ok"]
else:
    encoder, corpus = open_encoder("starter:retrieval", "cpu"), open_corpus(images)
    store = Store(folder / "vectors", model=encoder.name, digest=encoder.digest, queries=encoder.queries, width=encoder.width)
    spread = None
    if nodes:
        from tilth.mining.vectors.spread import on_cluster
        spread = on_cluster(cluster.address, folder / "todo.lance", encoder, location=images, downloads=folder,
                            backend="transformers", device="cpu", batch_size=32)
    began = time.monotonic()
    count = embed(corpus, encoder, store, work.events, spread=spread, batch_size=32)["embedded"]
print(json.dumps({"seconds": time.monotonic() - began, "count": count}), flush=True)
if nodes:
    ray.shutdown()
"""

POLICY = Path(__file__).parents[1] / "configs" / "policies" / "starter.yaml"


def some(images: Path, folder: Path, count: int) -> Path:
    folder.mkdir()
    for path in sorted(images.rglob("*.png"))[:count]:
        shutil.copy(path, folder / path.name)
    return folder


def run(job: str, where: str, images: Path) -> dict[str, float]:
    with tempfile.TemporaryDirectory(prefix="cluster-") as name:
        line = [sys.executable, "-W", "ignore", "-c", JOB, job, where, name, str(images), str(POLICY)]
        environment = {**os.environ, "OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": ""}
        done = subprocess.run(line, capture_output=True, text=True, env=environment, check=False)
        if done.returncode:
            raise SystemExit(done.stderr[-2000:])
        return dict(json.loads(next(text for text in done.stdout.splitlines() if text.startswith('{"seconds"'))))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--images", type=Path, required=True, help="folder of PNG files")
    parser.add_argument("--few", type=int, default=300)
    parser.add_argument("--many", type=int, default=3000)
    add_option(parser)
    args = parser.parse_args()
    figures = Figures("cluster")
    with tempfile.TemporaryDirectory(prefix="images-") as name:
        few = some(args.images, Path(name) / "few", args.few)
        many = some(args.images, Path(name) / "many", args.many)
        print(f"{'job':8} {'where':12} {'images/s':>9} {'of here':>8} {'to start, s':>12}")
        for job in ("hash", "embed"):
            here = 0.0
            for where in ("here", "1", "2"):
                first, second = run(job, where, few), run(job, where, many)
                rate = (second["count"] - first["count"]) / (second["seconds"] - first["seconds"])
                start = max(0.0, first["seconds"] - first["count"] / rate)
                here = here or rate
                label = where if where == "here" else f"{where} Ray node{'s' * (where != '1')}"
                print(f"{job:8} {label:12} {rate:9.1f} {rate / here:8.2f} {start:12.1f}", flush=True)
                key = f"{job}.{where if where == 'here' else f'nodes_{where}'}"
                figures.add(f"{key}.images_per_s", rate, "images/s")
                figures.add(f"{key}.times_here", rate / here, "times")
                figures.add(f"{key}.start_s", start, "s")
    figures.write(args.results)


if __name__ == "__main__":
    main()
