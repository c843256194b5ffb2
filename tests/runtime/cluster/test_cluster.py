"""A bundle on a real Ray cluster: by its door the verdicts that one process gives, whichever replica is killed meanwhile."""

import importlib.util
import json
import shutil
import subprocess
import sys
from typing import Any

import pytest
from runtime_graphs import shared_bundle
from typer.testing import CliRunner

from tilth.errors import InputError
from tilth.images import encode_png
from tilth.runtime.bundles.bundle import seal
from tilth.runtime.cluster.application import Replicas, read_replicas

pytestmark = pytest.mark.timeout(420)
WITH_SERVE = pytest.mark.skipif(
    importlib.util.find_spec("grpc_reflection") is None, reason="Ray Serve is not installed: tilth[serve]"
)

# in a process of its own, as Ray's workers and warnings are none of the tests'
ON_CLUSTER = """
import base64, json, os, signal, socket, sys, threading, time
from pathlib import Path
import httpx, psutil
from ray.cluster_utils import Cluster
from tilth.runtime.cluster.application import Replicas, serve_on_cluster
from tilth.runtime.serving.admission import Limits
from tilth.runtime.serving.server import Access

folder, bundle = Path(sys.argv[1]), Path(sys.argv[2])
asked = json.loads((folder / "asked.json").read_text())
with socket.socket() as free:
    free.bind(("127.0.0.1", 0))
    port = free.getsockname()[1]
cluster = None
for more in (2, 1, 0):  # Ray gives a part of itself 15 seconds to begin, which a busy machine may not have
    try:
        cluster = cluster or Cluster(initialize_head=True, head_node_args={"num_cpus": 8, "include_dashboard": False})
    except Exception:
        if not more:
            raise
raylets = [psutil.Process(one.process.pid) for one in cluster.head_node.all_processes["raylet"]]
base, headers = f"http://127.0.0.1:{port}", {"authorization": "Bearer " + "c0ffee" * 4}
said = {"alone": [], "load": [], "killed": {}}

def kill(part):
    ours = [child for raylet in raylets for child in raylet.children(recursive=True)]
    found = [one for one in ours if f"ServeReplica:tilth:{part}" in " ".join(one.cmdline())]
    found[0].suspend()  # so that it surely dies with questions that it has not answered
    time.sleep(1)
    said["killed"][part] = time.monotonic()
    found[0].kill()

def load(index, stop):
    with httpx.Client(base_url=base, headers=headers, trust_env=False, timeout=60) as client:
        while not stop.is_set():
            which = index % len(asked)
            index += 1
            began = time.monotonic()
            try:
                answer = client.post("/v1/moderations", json={"input": asked[which]})
            except httpx.HTTPError as error:
                said["load"].append([which, began, time.monotonic(), type(error).__name__, None])
                continue
            told = answer.json() if answer.status_code == 200 else None
            said["load"].append([which, began, time.monotonic(), answer.status_code, told])

def until():
    with httpx.Client(base_url=base, headers=headers, trust_env=False, timeout=60) as client:
        said["ready"] = client.get("/readyz").json()
        said["without_token"] = httpx.post(base + "/v1/moderations", json={"input": "x"}, trust_env=False).status_code
        said["wrong"] = client.post("/v1/moderations", json={"input": []}).json()
        said["metrics"] = client.get("/metrics").status_code
        for one in asked:
            said["alone"].append(client.post("/v1/moderations", json={"input": one}).json())
    stop = threading.Event()
    threads = [threading.Thread(target=load, args=(i, stop)) for i in range(4)]
    for thread in threads:
        thread.start()
    for part in ("stage1", "language", "door"):
        time.sleep(3)
        kill(part)
    time.sleep(3)
    said["waited"] = time.monotonic()
    while time.monotonic() < said["waited"] + 90 and not any(one[3] == 200 and one[1] > said["waited"] for one in said["load"]):
        time.sleep(0.2)
    stop.set()
    for thread in threads:
        thread.join()
    second.start()
    while not up.is_set():
        time.sleep(0.2)

def serve_(which, until):
    serve_on_cluster(
        which, cluster.address, port=port, replicas=Replicas(stage1=2), limits=Limits(timeout_s=40),
        access=Access(token_file=folder / "tokens"), until=until,
    )

def answered():
    up.set()
    ended.wait()

up, ended = threading.Event(), threading.Event()
second = threading.Thread(target=serve_, args=(folder / "next", answered))
serve_(bundle, until)
time.sleep(2)
said["after"] = httpx.get(base + "/v1/models", headers=headers, trust_env=False, timeout=60).json()
ended.set()
second.join()
said["ended"] = httpx.get(base + "/readyz", trust_env=False, timeout=60).status_code
(folder / "said.json").write_text(json.dumps(said))
import ray
ray.shutdown()
cluster.shutdown()
"""


def image(pixels: Any) -> dict[str, object]:
    import base64

    url = "data:image/png;base64," + base64.b64encode(encode_png(pixels)).decode()
    return {"type": "image_url", "image_url": {"url": url}}


@pytest.fixture(scope="module")
def said(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """What the cluster answered, and beside each what one process answers."""
    import cv2
    from runtime_graphs import BLUE, GREY, RED, plain, shared_moderator

    folder = tmp_path_factory.mktemp("cluster")
    board = plain((20, 250, 20), (480, 120))
    cv2.putText(board, "WE WILL FIND YOU", (20, 75), cv2.FONT_HERSHEY_SIMPLEX, 1.2, (0, 0, 0), 3, cv2.LINE_AA)
    images, texts = [RED, GREY, BLUE, board], ["WE WILL FIND YOU", "FRESH BREAD"]
    asked = [[image(one)] for one in images] + [[{"type": "text", "text": one}] for one in texts]
    (folder / "asked.json").write_text(json.dumps(asked))
    (folder / "tokens").write_text("c0ffee" * 4 + "\n")
    shutil.copytree(shared_bundle(), folder / "next")
    policy = folder / "next" / "policy.yaml"
    policy.write_text(policy.read_text().replace("version: 1", "version: 2", 1))
    seal(folder / "next")
    done = subprocess.run(
        [sys.executable, "-c", ON_CLUSTER, str(folder), str(shared_bundle())],
        capture_output=True,
        text=True,
        check=False,
    )
    assert (folder / "said.json").exists(), done.stderr[-3000:]
    here = shared_moderator()
    expected = [*here.moderate(images), *here.moderate_texts(texts)]
    return {**json.loads((folder / "said.json").read_text()), "expected": expected, "name": here.name}


@WITH_SERVE
def test_both_doors_give_the_same_verdicts(said: dict[str, Any]) -> None:
    assert said["ready"] == {"status": "ready", "model": said["name"]}
    assert (said["without_token"], said["metrics"]) == (401, 200)
    assert said["wrong"]["error"]["message"].startswith("input: it is an empty list")
    for answer, verdict in zip(said["alone"], said["expected"], strict=True):
        [result] = answer["results"]
        assert result["tilth"]["actions"] == {name: action.value for name, action in verdict.actions.items()}
        assert (result["tilth"]["stage"], result["tilth"]["reason"]) == (verdict.stage, verdict.reason)
        assert (result["tilth"]["text"], result["tilth"]["degraded"]) == (verdict.text, None)
        assert result["category_scores"] == pytest.approx(dict(verdict.scores), abs=1e-4)
        assert len(result["tilth"]["boxes"]) == len(verdict.boxes)


@WITH_SERVE
def test_a_replica_killed_under_load_costs_no_wrong_answer(said: dict[str, Any]) -> None:
    killed, answered, failed = said["killed"], 0, []
    for which, began, ended, status, told in said["load"]:
        if status != 200:
            failed.append((began, ended, status))
            continue
        answered += 1
        [result] = told["results"]
        verdict = said["expected"][which]
        if result["tilth"]["degraded"]:
            assert verdict.stage == 2, "only words wait for the language model"
            assert result["tilth"]["action"] == "review"
            assert ended > killed["language"]
        else:
            assert result["tilth"]["action"] == verdict.action.value
    assert answered > 20
    assert all(ended > killed["door"] for _, ended, _ in failed), "a stage that dies costs no request"
    assert any(status == 200 and began > said["waited"] for _, began, _, status, _ in said["load"]), "a new door opens"


@WITH_SERVE
def test_another_bundle_takes_its_place_and_stays_when_the_first_command_ends(said: dict[str, Any]) -> None:
    assert said["after"]["data"][0]["policy_version"] == 2
    assert said["ended"] == 404


@pytest.mark.parametrize("told", ["stage1", "stage1=0", "stage1=x", "vision=2", "=1"])
def test_replicas_that_cannot_be_are_refused_in_one_line(told: str) -> None:
    with pytest.raises(InputError, match="stage1") as wrong:
        read_replicas([told])
    assert "\n" not in str(wrong.value)
    assert read_replicas(["stage1=4", "language=2"]) == Replicas(stage1=4, language=2)


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--replicas", "stage1=2"], "--replicas are of a cluster"),
        (["--cluster", "local", "--keep-doubts", "x"], "--keep-doubts is for one server"),
        (["--cluster", "local", "--allow-host", "example.org"], "--allow-host is for one server"),
    ],
)
def test_what_is_of_one_server_is_refused_on_a_cluster(words: list[str], message: str) -> None:
    from tilth.pipeline.cli.main import app

    done = CliRunner().invoke(app, ["serve", str(shared_bundle()), *words])
    assert isinstance(done.exception, InputError)
    assert message in str(done.exception)
