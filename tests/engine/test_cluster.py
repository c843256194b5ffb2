"""A real Ray cluster of three nodes gives the rows that one machine gives, whoever dies in between."""

import importlib.util
import json
import os
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from mining_parts import scene
from places import POLICY

from tilth.annotate.grounding.ground import Ground
from tilth.data.dataset import Dataset
from tilth.encoders.families import open_encoder
from tilth.engine.work import Work
from tilth.events import Events
from tilth.images import encode_png
from tilth.mining.cleaning.quality import Quality
from tilth.mining.copies.hash import Hash
from tilth.mining.corpora.opening import open_corpus
from tilth.mining.vectors.embed import embed
from tilth.mining.vectors.store import Store
from tilth.policy import load_policy
from tilth.samples import NewSample

pytestmark = [
    pytest.mark.skipif(importlib.util.find_spec("lance_ray") is None, reason="Ray is not installed: tilth[cluster]"),
    pytest.mark.timeout(420),
]
IMAGES = 240

# what happens on the cluster, in a process of its own: its workers and warnings stay out of the tests'
ON_CLUSTER = """
import json, sys, threading, time
from dataclasses import replace
from pathlib import Path
import ray
from ray.cluster_utils import Cluster
from tilth.engine import job as engine
from tilth.annotate.grounding.ground import Ground
from tilth.data.dataset import Dataset
from tilth.events import Events
from tilth.mining.corpora.opening import open_corpus
from tilth.mining.vectors.embed import embed
from tilth.encoders.families import open_encoder
from tilth.mining.copies.hash import Hash
from tilth.mining.cleaning.quality import Quality
from tilth.mining.vectors.spread import on_cluster
from tilth.mining.vectors.store import Store
from tilth.policy import load_policy
from tilth.engine.work import Work

folder, what = Path(sys.argv[1]), sys.argv[2]
engine.COMMIT_ROWS = 64  # so that a kill leaves something done and something to do
cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 1})
nodes = [cluster.add_node(num_cpus=1) for _ in range(2)]
ray.init(address=cluster.address, log_to_driver=False)
from tilth.engine.cluster import Cluster as Ray, connect
connect(cluster.address)
killed = []

def kill():
    while not any((folder / "dataset" / "results").glob("x-*.lance/data/*")):
        time.sleep(0.05)
    here = ray.get_runtime_context().get_node_id()  # the driver hangs on the node that it joined
    cluster.remove_node(next(n for n in nodes if n.node_id != here), allow_graceful=False)
    killed.append(len(list((folder / "dataset" / "results").glob("x-*.lance/data/*"))))

class Slow(Hash):  # so that the kill comes in mid-run however fast the machine is
    def load(self):
        function = super().load()
        return lambda samples: time.sleep(0.02 * len(samples)) or function(samples)

Slow.__name__ = Slow.__qualname__ = "Hash"  # the same step to the dataset

work = Work(
    name="x", dataset=Dataset(folder / "dataset"), policy=load_policy(Path(sys.argv[3])), folder=folder / "files",
    events=Events(folder / "events.jsonl"), executor=Ray(cluster.address, folder / "files"),
)
if what == "kill":
    thread = threading.Thread(target=kill)
    thread.start()
counts = {"hash": work.map((Slow if what == "kill" else Hash)(batch_size=4))}
if what == "kill":
    thread.join()
    waited = time.monotonic()
    while sum(n["Alive"] for n in ray.nodes()) > 2 and time.monotonic() - waited < 60:
        time.sleep(0.5)  # Ray notices a death by its health check
else:
    counts["quality"] = work.map(Quality(batch_size=8))
    counts["ground"] = Ground(model="starter:grounding").run(replace(work, name="ground"))
    images, downloads = folder / "images", folder / "downloads"
    encoder = open_encoder("starter:retrieval", "cpu")
    spread = on_cluster(
        cluster.address, folder / "embed.todo.lance", encoder, location=str(images), downloads=downloads,
        backend="transformers", device="cpu", batch_size=8,
    )
    store = Store(folder / "vectors", model=encoder.name, digest=encoder.digest, queries=encoder.queries, width=encoder.width)
    counts["embed"] = embed(open_corpus(str(images)), encoder, store, work.events, spread=spread)
print(json.dumps({"counts": counts, "killed": killed, "alive": sum(n["Alive"] for n in ray.nodes())}), flush=True)
ray.shutdown()  # before the cluster under it goes
"""


def work_in(folder: Path, name: str = "x") -> Work:
    return Work(
        name=name,
        dataset=Dataset(folder / "dataset"),
        policy=load_policy(POLICY),
        folder=folder / "files",
        events=Events(),
    )


def fill(folder: Path) -> Work:
    work = work_in(folder, "add")
    images = (scene(i, 160).image for i in range(IMAGES))
    work.add("drawn", [NewSample(data=encode_png(image), origin={"source": str(i)}) for i, image in enumerate(images)])
    ids = [i for some in work.dataset.ids() for i in some]
    work.dataset.pool.replace([{**row(work, ids[7]), "data": b"no image"}])  # one that fails in every mapper
    return work_in(folder)


def row(work: Work, id_: str) -> dict[str, object]:
    return {"id": id_, **work.dataset.pool.get([id_], ["data", "width", "height", "origin"])[id_]}


def rows(folder: Path) -> dict[str, dict[str, dict[str, object]]]:
    """Return everything that the results tables say, but when."""
    found = {}
    for path in sorted((folder / "dataset" / "results").glob("x-*.lance")):
        table = Dataset(folder / "dataset").table(path.stem)
        ids = [i for some in table.ids() for i in some]
        assert len(ids) == len(set(ids)), "a row came twice"
        found[path.stem] = table.get(ids, ["status", "reason", "columns"])
    return found


def vectors(folder: Path) -> dict[str, np.ndarray]:
    encoder = open_encoder("starter:retrieval", "cpu")
    store = Store(folder, model=encoder.name, digest=encoder.digest, queries=encoder.queries, width=encoder.width)
    blocks = np.concatenate([np.array(block) for _, block in store.blocks()])
    return {key: blocks[row] for row, (key, _) in enumerate(store.items())}


def command(folder: Path, what: str) -> list[str]:
    return [sys.executable, "-W", "ignore", "-c", ON_CLUSTER, str(folder), what, str(POLICY)]


def environment() -> dict[str, str]:
    return {**os.environ, "OMP_NUM_THREADS": "1", "RAY_USAGE_STATS_ENABLED": "0"}


def run(line: list[str]) -> dict[str, Any]:
    done = subprocess.run(line, capture_output=True, text=True, env=environment(), timeout=300, check=False)
    assert done.returncode == 0, done.stderr[-2000:]
    # the cluster prints the last words of a node that died after ours
    return dict(json.loads(next(text for text in done.stdout.splitlines() if text.startswith('{"counts"'))))


@pytest.fixture(scope="module")
def alone(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of the same work on one machine."""
    folder = tmp_path_factory.mktemp("local")
    work = fill(folder)
    work.map(Hash(batch_size=4))
    work.map(Quality(batch_size=8))
    Ground(model="starter:grounding").run(replace(work, name="ground"))
    return folder


@pytest.fixture(scope="module")
def expected(alone: Path) -> dict[str, dict[str, dict[str, object]]]:
    return rows(alone)


def seen(folder: Path) -> dict[str, list[list[Any]]]:
    samples = Dataset(folder / "dataset").samples(images=False)
    return {s.id: s.columns["ground.seen"] for s in samples if "ground.seen" in s.columns}  # type: ignore[misc]


def test_a_cluster_gives_the_rows_that_one_machine_gives(
    tmp_path: Path, alone: Path, expected: dict[str, dict[str, dict[str, object]]]
) -> None:
    fill(tmp_path)
    (tmp_path / "images").mkdir()
    for number in range(40):
        (tmp_path / "images" / f"{number:02d}.png").write_bytes(encode_png(scene(number, 64).image))
    (tmp_path / "images" / "broken.png").write_bytes(b"no image")
    told = run(command(tmp_path, "all"))
    assert {name: told["counts"][name] for name in ("hash", "quality")} == {
        name: {"ok": IMAGES - 1, "failed": 1} for name in ("hash", "quality")
    }
    assert rows(tmp_path) == expected
    assert told["counts"]["ground"]["failed"] == 1
    boxes = seen(alone)
    assert len(boxes) == IMAGES - 1
    assert sum(map(len, boxes.values())) > IMAGES
    assert seen(tmp_path).keys() == boxes.keys()
    for id_, found in seen(tmp_path).items():
        for there, here in zip(found, boxes[id_], strict=True):
            assert there[:3] == here[:3]
            np.testing.assert_allclose(there[3:], here[3:], atol=0.01)  # the last digits differ with the batch
    assert (told["counts"]["embed"]["embedded"], told["counts"]["embed"]["failed"]) == (40, 1)
    there = vectors(tmp_path / "vectors")
    encoder = open_encoder("starter:retrieval", "cpu")
    store = Store(
        tmp_path / "local", model=encoder.name, digest=encoder.digest, queries=encoder.queries, width=encoder.width
    )
    embed(open_corpus(str(tmp_path / "images")), encoder, store, Events())
    here = vectors(tmp_path / "local")
    assert here.keys() == there.keys()
    assert len(here) == 40
    for key, vector in here.items():  # products in bfloat16 differ a little with the batch
        assert float((vector.astype(float) * there[key]).sum(-1).min()) > 0.999


def test_a_node_that_is_killed_costs_nothing(tmp_path: Path, expected: dict[str, dict[str, dict[str, object]]]) -> None:
    fill(tmp_path)
    told = run(command(tmp_path, "kill"))
    assert told["alive"] == 2
    assert told["killed"][0] >= 1
    (name,) = rows(tmp_path)
    assert rows(tmp_path)[name] == expected[name]


def test_a_killed_driver_goes_on_where_it_was_on_a_single_machine(
    tmp_path: Path, expected: dict[str, dict[str, dict[str, object]]]
) -> None:
    fill(tmp_path)
    process = subprocess.Popen(
        command(tmp_path, "all"), env=environment(), stdout=subprocess.DEVNULL, start_new_session=True
    )
    results = tmp_path / "dataset" / "results"
    while not any(results.glob("x-*.lance/_versions/*.manifest")):
        assert process.poll() is None, "it ended before it could be killed"
        time.sleep(0.02)
    os.killpg(process.pid, signal.SIGKILL)  # the driver and the cluster that it started
    process.wait()
    (name,) = [path.stem for path in results.glob("x-*.lance")][:1]
    survived = len(Dataset(tmp_path / "dataset").table(name))
    assert 0 < survived < IMAGES
    work = work_in(tmp_path)
    assert work.map(Hash(batch_size=4)) == {"ok": IMAGES - 1, "failed": 1}
    assert rows(tmp_path)[name] == expected[name]
