"""Rehearse at full size: every family of models that recipes and docs name, with random weights, through the real steps.

    python benchmarks/full_size.py --photos /data/photos --only dinov2_small d_fine_small

Each family is written to a folder as it lies on the hub (`full_size_models.py`) and taken through its steps on photographs at its own
resolution (`full_size_steps.py`), in a process of its own. Told is of each part its seconds, by the clock (`s`) and added up over the
processors (`core_s`), which other work on the machine hardly changes, and the peak of memory. What weights say is not looked at. A family
that takes longer than `--minutes`, or more memory than `--memory-gb`, is stopped and said to be so; one of which it is known that it does
not fit is not begun. One that has figures of this commit is not done again; those of families that are not asked for stay, with their
commit. All families take about two hours of two cores, and at most 20 GB of memory and 16 GB of disk.
"""

import argparse
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import psutil
from figures import Figures, add_option, commit
from full_size_models import FAMILIES

from tilth.pipeline.needs import most

LAST = "TOLD "  # before the line of a child that counts


def write(name: str, folder: Path) -> None:
    """Write the folder of a family, whole or not at all."""
    partial = folder.with_name(f"{folder.name}.partial")
    shutil.rmtree(partial, ignore_errors=True)
    FAMILIES[name].write(partial)
    partial.replace(folder)


def rehearse(name: str, folder: Path, photos: Path) -> None:
    """Take a family through its steps, and print what they took."""
    from full_size_steps import REHEARSALS, Rehearsal

    made = Rehearsal(folder / "model", photos, folder / "run")
    try:
        REHEARSALS[FAMILIES[name].steps](made)
    finally:
        print(LAST + json.dumps(made.told), flush=True)


def child(words: list[str], log: Path, seconds: float, memory_gb: float) -> tuple[str, float]:
    """Run a part of this program in a process of its own; return why it did not end well, and the most memory it held."""
    with log.open("a") as stream:
        process = subprocess.Popen(
            [sys.executable, "-W", "ignore", __file__, *words],
            stdout=stream,
            stderr=subprocess.STDOUT,
            start_new_session=True,
            env={**os.environ, "HF_HUB_OFFLINE": "1", "TQDM_DISABLE": "1"},
        )
    end, most = time.monotonic() + seconds, 0.0
    while process.poll() is None:
        held = held_gb(process.pid)
        most = max(most, held)
        why = f"takes more than {memory_gb:g} GB" if held > memory_gb else ""
        why = why or (f"takes longer than {seconds / 60:.0f} minutes" if time.monotonic() > end else "")
        if why:
            os.killpg(process.pid, signal.SIGKILL)
            process.wait()
            return why, most
        time.sleep(0.2)
    last = log.read_text().strip().splitlines()
    told = [line for line in last if not line.startswith(LAST)]
    return ("" if process.returncode == 0 else (told or ["ended without a word"])[-1][:300]), most


def held_gb(pid: int) -> float:
    """Return what a process and its children hold in memory."""
    try:
        whole = psutil.Process(pid)
        return sum(one.memory_info().rss for one in (whole, *whole.children(recursive=True))) / 1e9
    except psutil.Error:
        return 0.0


def told_in(log: Path) -> dict[str, float]:
    lines = [line for line in log.read_text().splitlines() if line.startswith(LAST)]
    return dict(json.loads(lines[-1].removeprefix(LAST))) if lines else {}


def one(name: str, asked: argparse.Namespace) -> tuple[str, dict[str, float]]:
    """Write a family and rehearse it; return why it did not go well, and what it took."""
    folder, log = asked.work / name, asked.work / f"{name}.log"
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    log.unlink(missing_ok=True)
    words = ["--family", name, "--work", str(folder), "--photos", str(asked.photos)]
    seconds = 60 * asked.minutes
    why, most = child([*words, "--part", "write"], log, seconds, asked.memory_gb)
    weights = sum(path.stat().st_size for path in folder.rglob("*.safetensors")) / 1e6
    if not why:
        why, most = child([*words, "--part", "rehearse"], log, seconds, asked.memory_gb)
    took = {"weights_mb": weights, **told_in(log), "most_gb": most}
    if not asked.keep:
        shutil.rmtree(folder)
    return why, took


def works_already(path: Path) -> set[str]:
    """Name the families that this very code has rehearsed before."""
    document = json.loads(path.read_text()) if path.exists() else {"figures": {}}
    made = {key: told.get("commit", document["commit"]) for key, told in document["figures"].items() if told["value"]}
    return {key.removesuffix(".works") for key, by in made.items() if key.endswith(".works") and by == commit()}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--photos", type=Path, required=True, help="folder of photographs, 24 at least")
    parser.add_argument("--work", type=Path, default=Path("full-size"), help="folder for models and logs")
    parser.add_argument("--only", nargs="+", choices=list(FAMILIES), metavar="NAME", help=", ".join(FAMILIES))
    parser.add_argument("--minutes", type=float, default=20, help="of a family at most (default: %(default)s)")
    parser.add_argument("--memory-gb", type=float, default=20, help="of a family at most (default: %(default)s)")
    parser.add_argument("--keep", action="store_true", help="keep the models and what was made with them")
    parser.add_argument("--family", choices=list(FAMILIES), help=argparse.SUPPRESS)
    parser.add_argument("--part", choices=("write", "rehearse"), help=argparse.SUPPRESS)
    add_option(parser)
    asked = parser.parse_args()
    if asked.part == "write":
        write(asked.family, asked.work / "model")
        return
    if asked.part:
        rehearse(asked.family, asked.work, asked.photos)
        return
    asked.work = asked.work.resolve()
    done = works_already(asked.results / "full_size.json")
    figures = Figures("full_size", seeds=[0])
    for name in (wanted := asked.only or FAMILIES):
        if name in done:
            print(f"{name}: done before", flush=True)
    left = [name for name in wanted if name not in done]
    figures.carry(asked.results, but=left)
    for name in left:
        here, needed = psutil.virtual_memory().total / 1e6, most(FAMILIES[name].hub)
        if needed > here:  # as `tilth plan` says it
            figures.add(f"{name}.works", 0, "")
            print(f"{name}: does not fit: takes {needed:,.0f} MB of memory, this machine has {here:,.0f}", flush=True)
            continue
        why, took = one(name, asked)
        figures.add(f"{name}.works", not why, "")
        for key, value in took.items():
            figures.add(f"{name}.{key}", value, unit_of(key))
        parts = ", ".join(f"{key} {value:,.1f}" for key, value in took.items())
        print(f"{name}: {why or 'ok'}; {parts}", flush=True)
        figures.write(asked.results)


def unit_of(key: str) -> str:
    """Read the unit off the end of a key."""
    last = key.rpartition(".")[2]
    if last == "s" or "core_s" in last:
        return "s"
    return {"ms": "ms", "mb": "MB", "gb": "GB"}.get(last.rpartition("_")[2], "")


if __name__ == "__main__":
    main()
