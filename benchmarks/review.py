"""What a review costs the machine: pushing a queue to a real Label Studio, pulling what changed, and what the server takes.

    TILTH_LABEL_STUDIO=…/bin/label-studio python benchmarks/review.py --images 10000 --changed 100

Images are of 64 x 64 pixels, so that the numbers are those of the tasks and not of the disk. People are played by requests
like those that the browser sends. On a machine that does other things too, the processor seconds say more than the clock.
"""

import argparse
import json
import os
import shutil
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import psutil
from figures import Figures, add_option, command_line

from tilth.annotate.labelstudio.client import Studio
from tilth.annotate.labelstudio.server import down, up
from tilth.annotate.review.ledger import Ledger
from tilth.annotate.review.pull import pull
from tilth.annotate.review.push import push
from tilth.annotate.review.review import Review
from tilth.claims import Claim
from tilth.data.dataset import Dataset
from tilth.engine.work import Work
from tilth.events import Events
from tilth.images import encode_png
from tilth.policy import load_policy
from tilth.samples import NewSample

POLICY = Path(__file__).parents[1] / "configs" / "policies" / "starter.yaml"
SIDE = 64


def timed(act: Callable[[], Any]) -> tuple[float, Any]:
    start = time.perf_counter()
    result = act()
    return round(time.perf_counter() - start, 2), result


def cpu_s(pid: int) -> float:
    spent = psutil.Process(pid).cpu_times()
    return float(spent.user + spent.system)


def samples(n: int) -> Iterator[NewSample]:
    rng = np.random.default_rng(0)
    for _ in range(n):
        boxes = [tuple(float(v) for v in (*rng.uniform(0, 30, 2), *rng.uniform(34, 64, 2))) for _ in range(2)]
        claims = tuple(
            Claim(category=c, box_xyxy=b, score=float(rng.uniform(0.1, 0.9)), source="model:bench@1")  # type: ignore[arg-type]
            for c, b in zip(("knife", "pill"), boxes, strict=True)
        )
        image = encode_png(rng.integers(0, 256, (SIDE, SIDE, 3), dtype=np.uint8))
        yield NewSample(data=image, origin={}, claims=claims)


def answer(url: str, key: str, tasks: list[dict[str, Any]]) -> None:
    """Submit the shown boxes of these tasks."""
    with httpx.Client(base_url=url, headers={"Authorization": f"Token {key}"}, timeout=120) as client:
        for task in tasks:
            shown = task["predictions"][0]
            body = {"result": shown["result"], "lead_time": 5.0, "parent_prediction": shown["id"]}
            client.post(f"/api/tasks/{task['id']}/annotations/", json=body).raise_for_status()


def measure(folder: Path, images: int, changed: int, port: int) -> dict[str, Any]:
    start_s, server = timed(lambda: up(folder / "server", port))
    work = Work(
        name="review",
        dataset=Dataset(folder / "dataset"),
        policy=load_policy(POLICY),
        folder=folder / "files",
        events=Events(folder / "events.jsonl"),
    )
    work.add("images", samples(images))
    os.environ["LABEL_STUDIO_API_KEY"] = server.key
    review = Review(backend="labelstudio", url=server.url, files=server.files, budget=images)
    path = work.dataset.root / "review.json"
    load = lambda: Ledger.load(path)  # noqa: E731
    before = {pid: cpu_s(pid) for pid in (os.getpid(), server.pid)}
    push_s, sent = timed(lambda: push(review, work, load()))
    client_cpu_s, server_cpu_s = (round(cpu_s(pid) - spent, 1) for pid, spent in before.items())
    again_s, again = timed(lambda: push(review, work, load()))
    with Studio(server.url, server.key, load().title, work.policy, make=False) as studio:
        tasks = list(studio.whole(sorted(load().tasks)[: 2 * changed]))
    idle_s, idle = timed(lambda: pull(review, work, load()))
    answer(server.url, server.key, tasks[:changed])
    first_s, first = timed(lambda: pull(review, work, load()))
    answer(server.url, server.key, tasks[changed:])
    second_s, second = timed(lambda: pull(review, work, load()))
    return {
        "images": images,
        "server_start_s": start_s,
        "push_s": push_s,
        "pushed": sent["sent"],
        "tasks_per_s": round(sent["sent"] / push_s),
        "client_cpu_s": client_cpu_s,
        "server_cpu_s": server_cpu_s,
        "load": round(os.getloadavg()[0], 1),
        "push_again_s": again_s,
        "pushed_again": again["sent"],
        "pull_of_nothing_s": idle_s,
        "pulled_of_nothing": idle["changed"],
        "first_pull_s": first_s,
        "first_pulled": first["changed"],
        "next_pull_s": second_s,
        "next_pulled": second["changed"],
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--images", type=int, default=10_000)
    parser.add_argument("--changed", type=int, default=100, help="images that are answered before each pull")
    parser.add_argument("--port", type=int, default=8089)
    add_option(parser)
    options = parser.parse_args()
    figures = Figures("review", seeds=[0], command=f"TILTH_LABEL_STUDIO=…/bin/label-studio {command_line()}")
    folder = Path(tempfile.mkdtemp(prefix="tilth-review-"))
    try:
        told = measure(folder, options.images, options.changed, options.port)
        print(json.dumps(told, indent=1))
        for name, value in told.items():
            unit = (
                "tasks/s"
                if name == "tasks_per_s"
                else "s"
                if name.endswith("_s")
                else ""
                if name == "load"
                else "images"
            )
            figures.add(name, value, unit)
        figures.write(options.results)
    finally:
        down(folder / "server")
        shutil.rmtree(folder)


if __name__ == "__main__":
    main()
