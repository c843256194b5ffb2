"""Kill commands at random moments, give them again, and compare what is there in the end with a run that nobody disturbed.

    TILTH_LABEL_STUDIO=…/bin/label-studio python benchmarks/kills.py --kills 240     # `review pull` needs a real server

Every kill has a copy of its own of the dataset that the command begins with; an import and a mine begin with none. Half of the kills
fall anywhere, half soon after the dataset's folder first changes, where first writes are. Half are SIGTERM, half SIGKILL. Afterwards

- *broken*: a later command ends in a traceback, or the same command given again does not end well;
- *lost*: a sample, a claim, a measured column, a reason or a weight is not what it is without the kill;
- *twice*: a table holds an id more than once.
"""

import argparse
import hashlib
import json
import os
import random
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
from figures import Figures, add_option, command_line

from tilth.annotate.labelstudio.client import Studio
from tilth.annotate.labelstudio.server import Server, down, up
from tilth.annotate.labelstudio.tasks import EMPTY, IMAGE, WHOLE
from tilth.annotate.review.ledger import Ledger
from tilth.data.dataset import Dataset
from tilth.policy import load_policy
from tilth.starter.world.files import write_world

POLICY = Path(__file__).parents[1] / "configs" / "policies" / "starter.yaml"
SOON_S = 1.5  # after the first change
WAIT_S = 900


@dataclass(frozen=True, kw_only=True)
class Job:
    """A command to kill.

    Args:
        name: Of what it does.
        words: Of the command, `DATA` for the dataset.
        begins_with: Which prepared dataset; none when empty.
        leaves: Pattern of files that must be the same to the byte, below the dataset.
    """

    name: str
    words: tuple[str, ...]
    begins_with: str = ""
    leaves: str = ""


def jobs(world: Path) -> list[Job]:
    labelled = ("import", "DATA", "--set", f"path={world / 'labelled'}", "--set", "split=train")
    small = ("--set", "steps=16", "--set", "batch_size=8", "--set", "image_side=64")
    return [
        Job(name="import", words=("import", "DATA", "--set", f"path={world / 'corpus'}")),
        Job(name="import_labelled", words=labelled),
        Job(name="mine", words=("mine", "DATA", "--set", f"corpus={world / 'corpus'}", "--set", "per_category=6")),
        Job(name="ground", words=("ground", "DATA"), begins_with="import"),
        Job(name="clean", words=("clean", "DATA"), begins_with="import"),
        Job(
            name="train",
            words=("train", "classifier", "DATA", *small),
            begins_with="import_labelled",
            leaves="files/train.classifier-*/**/*.safetensors",
        ),
    ]


NOTHING = {"id": "w", "type": "choices", "from_name": WHOLE, "to_name": IMAGE, "value": {"choices": [EMPTY]}}
PULL = Job(name="pull", words=("review", "pull", "DATA"), begins_with="pushed", leaves="review.json")


def pushed(base: Path, data: Path, server: Server) -> Path:
    """Put images before people, and play the people."""
    shutil.copytree(base, data)
    words = ["review", "push", str(data), "--policy", str(POLICY), "--url", server.url, "--files", str(server.files)]
    done = run([sys.executable, "-m", "tilth.pipeline.cli.main", *words, "--budget", "40"])
    if done.returncode:
        sys.exit(f"review push fails without a kill: {done.stderr[-500:]}")
    ledger = Ledger.load(data / "review.json")
    with Studio(server.url, server.key, ledger.title, load_policy(POLICY), make=False) as studio:
        tasks = list(studio.whole(sorted(ledger.tasks)))
    with httpx.Client(base_url=server.url, headers={"Authorization": f"Token {server.key}"}, timeout=120) as client:
        for task in tasks:
            shown = (task["predictions"] or [{"result": [NOTHING], "id": None}])[0]
            body = {"result": shown["result"], "lead_time": 5.0, "parent_prediction": shown["id"]}
            client.post(f"/api/tasks/{task['id']}/annotations/", json=body).raise_for_status()
    return data


def command(job: Job, data: Path) -> list[str]:
    words = [str(data) if word == "DATA" else word for word in job.words]
    return [sys.executable, "-m", "tilth.pipeline.cli.main", *words, "--policy", str(POLICY)]


def run(words: list[str]) -> subprocess.CompletedProcess[str]:
    return subprocess.run(words, capture_output=True, text=True, check=False, timeout=WAIT_S)


def contents(data: Path, leaves: str) -> dict[str, Any]:
    """Read all that a dataset says, and the files that a job leaves."""
    found: dict[str, Any] = {}
    for s in Dataset(data).samples(images=True, dropped=True):
        claims = sorted((c.says, str(c.category), str(c.box_xyxy), round(c.score, 5), c.source) for c in s.claims)
        columns = sorted((name, json.dumps(value, sort_keys=True)) for name, value in s.columns.items())
        found[s.id] = (hashlib.sha256(s.data).hexdigest(), dict(s.origin), claims, columns, s.drops)
    for path in sorted(data.glob(leaves)) if leaves else ():
        found[path.name] = hashlib.sha256(path.read_bytes()).hexdigest()
    return found


def doubles(data: Path) -> int:
    """Count the rows whose id is in its table already."""
    dataset = Dataset(data)
    tables = [dataset.pool, *(dataset.table(path.stem) for path in (data / "results").glob("*.lance"))]
    return sum(len(ids) - len(set(ids)) for table in tables for ids in [[i for some in table.ids(8192) for i in some]])


def changed(data: Path) -> int:
    return sum(1 for _ in data.rglob("*")) if data.exists() else 0


def kill(job: Job, data: Path, took_s: float, draw: random.Random) -> bool:
    """Start the command and kill it; tell whether it was still at work: one that has said its result only had to go."""
    early = draw.random() < 0.5
    before = changed(data)
    said = data.with_name(data.name + ".out")
    with said.open("w") as out:
        process = subprocess.Popen(command(job, data), stdout=out, stderr=subprocess.DEVNULL, start_new_session=True)
    if early:
        while process.poll() is None and changed(data) == before:
            time.sleep(0.005)
    time.sleep(draw.uniform(0, SOON_S if early else took_s))
    alive = process.poll() is None
    os.killpg(process.pid, draw.choice([signal.SIGTERM, signal.SIGKILL])) if alive else None
    process.wait(WAIT_S)
    return alive and not said.read_text()


@dataclass(frozen=True, kw_only=True)
class Whole:
    """A job that nobody disturbed."""

    job: Job
    base: Path | None
    contents: dict[str, Any]
    took_s: float


def prepare(world: Path, folder: Path, server: Server | None) -> Iterator[Whole]:
    """Run each job in peace."""
    made: dict[str, Path] = {}
    for job in [*jobs(world), *([PULL] if server else [])]:
        if job is PULL and server:
            made["pushed"] = pushed(made["ground"], folder / "pushed", server)
        base = made.get(job.begins_with)
        data = folder / job.name
        if base:
            shutil.copytree(base, data)
        began = time.perf_counter()
        done = run(command(job, data))
        if done.returncode:
            sys.exit(f"{job.name} fails without a kill: {done.stderr[-500:]}")
        made[job.name] = data
        yield Whole(job=job, base=base, contents=contents(data, job.leaves), took_s=time.perf_counter() - began)


def attempt(whole: Whole, data: Path, draw: random.Random) -> Counter[str]:
    """Kill a job once, and give it again."""
    found: Counter[str] = Counter()
    while True:  # until it was killed and had not ended before
        shutil.rmtree(data, ignore_errors=True)
        if whole.base:
            shutil.copytree(whole.base, data)
        if kill(whole.job, data, whole.took_s, draw):
            break
    found["kills"] += 1
    words = [sys.executable, "-m", "tilth.pipeline.cli.main", "count", str(data)]
    looks = [run(words), run(command(whole.job, data)), run(words)]
    wrong = [look for look in looks if "Traceback" in look.stderr or look.returncode not in (0, 2)]
    if wrong or looks[1].returncode or looks[2].returncode:
        told = (wrong or looks)[-1]
        print(f"{whole.job.name}: {told.returncode} {told.stderr[-400:]}", file=sys.stderr, flush=True)
        found["broken"] += 1
        return found
    again = contents(data, whole.job.leaves)
    if different := [key for key in whole.contents.keys() | again.keys() if whole.contents.get(key) != again.get(key)]:
        more, less = len(again.keys() - whole.contents.keys()), len(whole.contents.keys() - again.keys())
        print(
            f"{whole.job.name}: {len(different)} differ ({more} more, {less} less), such as {different[0]}",
            file=sys.stderr,
            flush=True,
        )
        found["lost"] += 1
    found["twice"] += doubles(data) > 0
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--kills", type=int, default=240)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--at-once", type=int, default=max(1, (os.cpu_count() or 2) // 2))
    parser.add_argument("--port", type=int, default=8089)
    parser.add_argument("--only", default="", help="one job")
    add_option(parser)
    args = parser.parse_args()
    os.environ |= {"OMP_NUM_THREADS": "1"}
    executable = "TILTH_LABEL_STUDIO=…/bin/label-studio " if "TILTH_LABEL_STUDIO" in os.environ else ""
    figures = Figures("kills", seeds=[args.seed], command=executable + command_line())
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        write_world(folder / "world", labelled=24, corpus=48, test=8, workers=1)
        server = up(folder / "server", args.port) if executable else None
        if server:
            os.environ["LABEL_STUDIO_API_KEY"] = server.key
        wholes = [whole for whole in prepare(folder / "world", folder, server) if args.only in ("", whole.job.name)]
        found: dict[str, Counter[str]] = {whole.job.name: Counter() for whole in wholes}
        with ThreadPoolExecutor(args.at_once) as pool:
            tries = {
                pool.submit(attempt, wholes[n % len(wholes)], folder / f"try-{n}", random.Random(f"{args.seed}.{n}")): (
                    wholes[n % len(wholes)].job.name,
                    folder / f"try-{n}",
                )
                for n in range(args.kills)
            }
            for done, (name, data) in tries.items():
                found[name] += done.result()
                shutil.rmtree(data, ignore_errors=True)
                print({k: dict(v) for k, v in found.items()}, flush=True)
        if server:
            down(folder / "server")
    for key in ("kills", "broken", "lost", "twice"):
        figures.add(key, sum(counts[key] for counts in found.values()), "")
        for name, counts in found.items():
            figures.add(f"{name}.{key}", counts[key], "")
    figures.write(args.results)


if __name__ == "__main__":
    main()
