"""Several processes learn what one would have, on one machine and as workers of a cluster of which one dies."""

import importlib.util
import json
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import pytest
import torch
from places import POLICY, ROOT

from tilth.claims import Claim
from tilth.data.dataset import Dataset
from tilth.engine.work import Work
from tilth.errors import InputError
from tilth.events import Events
from tilth.images import encode_png
from tilth.policy import load_policy
from tilth.samples import NewSample
from tilth.starter.world.scene import Spec, render
from tilth.train.artifacts.artifact import load_trained, read_about, save_trained
from tilth.train.learn.classifier import TrainClassifier

pytestmark = [
    pytest.mark.filterwarnings("ignore::UserWarning", "ignore::FutureWarning", "ignore::DeprecationWarning"),
    pytest.mark.skipif(
        not (ROOT / "starter/models/classifier").is_dir(), reason="starter:classifier is not trained yet"
    ),
    pytest.mark.timeout(420),
]

# on a cluster of two nodes, in a process of its own: its workers and warnings stay out of the tests'
ON_CLUSTER = """
import json, sys, threading, time
from pathlib import Path
import psutil
import ray
from ray.cluster_utils import Cluster as Nodes
from tilth.data.dataset import Dataset
from tilth.engine.cluster import Cluster
from tilth.engine.work import Work
from tilth.events import Events
from tilth.policy import load_policy
from tilth.train.learn.classifier import TrainClassifier

folder, policy, settings = Path(sys.argv[1]), Path(sys.argv[2]), json.loads(sys.argv[3])
nodes = Nodes(initialize_head=True, head_node_args={"num_cpus": 1, "object_store_memory": 80_000_000, "include_dashboard": False})
nodes.add_node(num_cpus=1, object_store_memory=80_000_000)
work = Work(
    name="there", dataset=Dataset(folder / "dataset"), policy=load_policy(policy), folder=folder / "there", device="cpu",
    events=Events(folder / "there.jsonl"), executor=Cluster(nodes.address, folder / "lists"),
)
killed = []

def kill():
    while not (work.folder / "checkpoint" / "classifier.ckpt").exists():
        time.sleep(0.05)
    workers = [p for p in psutil.process_iter(["cmdline"]) if "RayTrainWorker" in " ".join(p.info["cmdline"] or [])]
    workers[-1].kill()
    killed.append(len(workers))

threading.Thread(target=kill, daemon=True).start()
told = TrainClassifier(**settings).run(work)
print(json.dumps({"workers": killed, **told}), flush=True)
ray.shutdown()  # before the cluster under it goes
"""
# on this machine, in a process of its own that can be killed
ON_MACHINE = """
import json, sys
from pathlib import Path
from tilth.data.dataset import Dataset
from tilth.engine.work import Work
from tilth.events import Events
from tilth.policy import load_policy
from tilth.train.learn.classifier import TrainClassifier

if __name__ == "__main__":
    folder, policy, settings = Path(sys.argv[1]), Path(sys.argv[2]), json.loads(sys.argv[3])
    work = Work(
        name="there", dataset=Dataset(folder / "dataset"), policy=load_policy(policy), folder=folder / "there", device="cpu",
        events=Events(folder / "there.jsonl"),
    )
    print(json.dumps(TrainClassifier(**settings).run(work)), flush=True)
"""
SETTINGS: dict[str, Any] = {"steps": 12, "batch_size": 8, "image_side": 48, "spots": 0, "save_every": 3}


@pytest.fixture
def labelled(tmp_path: Path) -> Iterator[Work]:
    """45 images of dice, knives and books."""
    events = Events(tmp_path / "events.jsonl")
    dataset, policy = Dataset(tmp_path / "dataset"), load_policy(POLICY)
    work = Work(name="one", dataset=dataset, policy=policy, folder=tmp_path / "one", events=events, device="cpu")
    asked = tuple(category.name for category in policy.pictured)

    def sample(i: int) -> NewSample:
        kind = ("dice", "knife", "book")[i % 3]
        scene = render(Spec(things=((kind, "red", ""),), surface="tile", style="photo"), np.random.default_rng(i))
        box = (
            {"says": "label", "category": kind, "box_xyxy": scene.things[0].box_xyxy}
            if kind in asked
            else {"says": "empty"}
        )
        claim = Claim(source="human:test", asked=asked, **box)
        return NewSample(data=encode_png(scene.image), origin={"source": str(i)}, claims=(claim,))

    work.add("a", map(sample, range(45)))
    yield work
    events.close()


def like_one(work: Work, there: Work, told: Any) -> None:
    """Compare what several processes learned with what one learns."""
    alone: Any = TrainClassifier(**SETTINGS).run(work)
    weights = []
    for own in (work, there):
        state = load_trained(own.folder / "model", "cpu")[0].state_dict()
        weights.append(torch.cat([part.flatten() for _, part in sorted(state.items())]))
    # a single weight may be a step apart: the sign of a gradient of next to nothing is chance
    assert (weights[0] - weights[1]).abs().mean() < 1e-4
    assert [point["step"] for point in alone["curve"]] == [point["step"] for point in told["curve"]]
    assert [p["val_loss"] for p in alone["curve"]] == pytest.approx([p["val_loss"] for p in told["curve"]], abs=0.01)


def test_two_processes_learn_what_one_would_have(labelled: Work) -> None:
    two = replace(labelled, name="two", folder=labelled.folder.with_name("two"))
    step = TrainClassifier(**SETTINGS, processes=2)
    like_one(labelled, two, step.run(two))
    with pytest.raises(InputError, match="choose a multiple"):
        replace(step, batch_size=9).run(replace(labelled, name="odd", folder=labelled.folder / "odd"))
    broken, _ = load_trained(two.artifact("two"), "cpu")
    torch.nn.init.constant_(broken.get_submodule("classifier").weight, float("nan"))
    labelled.artifacts["broken"] = save_trained(broken, read_about(two.artifact("two")), labelled.folder / "broken")
    with pytest.raises(InputError, match="the loss is nan"):  # said by a process that did not end well
        replace(step, start="broken").run(replace(labelled, name="wild", folder=labelled.folder / "wild"))


def test_one_of_several_processes_and_the_one_that_started_them_are_killed(labelled: Work, tmp_path: Path) -> None:
    (tmp_path / "learn.py").write_text(ON_MACHINE)
    command = [sys.executable, "-W", "ignore", str(tmp_path / "learn.py"), str(tmp_path), str(POLICY)]
    command.append(json.dumps({**SETTINGS, "processes": 2}))
    kept = tmp_path / "there" / "checkpoint" / "classifier.ckpt"

    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    while process.poll() is None and not kept.exists():
        time.sleep(0.01)
    workers = [p for p in psutil.Process(process.pid).children() if "spawn_main" in " ".join(p.cmdline())]
    assert len(workers) == 2
    workers[1].kill()
    process.kill()
    process.wait(60)
    assert not psutil.wait_procs(workers, timeout=60)[1], "nobody is left who would write checkpoints"
    assert not (tmp_path / "there" / "model").exists()
    done = subprocess.run(command, capture_output=True, text=True, timeout=200, check=False)
    assert done.returncode == 0, done.stderr[-2000:]
    told = json.loads(done.stdout.strip().splitlines()[-1])
    like_one(labelled, replace(labelled, name="there", folder=tmp_path / "there"), told)


@pytest.mark.skipif(importlib.util.find_spec("ray") is None, reason="Ray is not installed: tilth[cluster]")
def test_workers_of_a_cluster_learn_what_one_process_would_have_though_one_dies(labelled: Work, tmp_path: Path) -> None:
    settings = json.dumps({**SETTINGS, "processes": 2})
    command = [sys.executable, "-W", "ignore", "-c", ON_CLUSTER, str(tmp_path), str(POLICY), settings]
    done = subprocess.run(command, capture_output=True, text=True, timeout=400, check=False)
    assert done.returncode == 0, done.stderr[-2000:]
    told = json.loads(done.stdout.strip().splitlines()[-1])
    assert told["workers"][0] >= 2  # and one of them was killed
    like_one(labelled, replace(labelled, name="there", folder=tmp_path / "there"), told)
