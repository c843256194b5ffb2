"""From `tilth console` to the first served model, and how long the first page of a large dataset takes, both in a real Chromium.

    python benchmarks/console.py --work …/console

A drawn world with 120 labelled images and 300 sealed ones lies in a folder, with a policy beside it, as somebody would have them. Then a
Chromium that waits for nobody goes the way: folder, policy, recipe (few-shot), plan, start, compare, into use. `first_model_s` is counted
from the start of the console's process until the server has answered a request; what a person takes to read and to type is not in it.

`first_page_s` is the first page of sixty pictures of 100,000, from the home page of a console that has just been started, until all
pictures that are seen without scrolling are drawn; the dataset's view is there, as every run leaves it. It is the median of five consoles;
the same page again is `page_again_s`.
"""

import argparse
import base64
import json
import shutil
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from statistics import median
from typing import TYPE_CHECKING

import httpx
import numpy as np
import yaml
from figures import Figures, add_option

from tilth.claims import Claim
from tilth.data.dataset import Dataset
from tilth.engine.work import Work
from tilth.events import Events
from tilth.images import encode_png
from tilth.policy import Policy, load_policy
from tilth.samples import NewSample
from tilth.starter.world.files import write_world

if TYPE_CHECKING:
    from playwright.sync_api import Page

LABELLED, TEST = 120, 300
LARGE = 100_000
KINDS = ("knife", "cigarette", "bottle", "pill", "dice")
FRESH, AGAIN = 5, 5
WAIT_MS = 900_000
DRAWN = """() => [...document.querySelectorAll('.tile img')].length > 0 && [...document.querySelectorAll('.tile img')]
  .filter((e) => e.getBoundingClientRect().top < innerHeight).every((e) => e.complete && e.naturalWidth > 0)"""


def free_port() -> int:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return int(listener.getsockname()[1])


def write_policy(path: Path) -> Policy:
    rows = [{"name": name, "definition": f"Any {name}.", "prompts": [name]} for name in KINDS]
    path.write_text(yaml.safe_dump({"policy": "things", "version": 1, "categories": rows}, sort_keys=False))
    return load_policy(path)


def write_photos(folder: Path) -> None:
    """Write a world as somebody has it: train/ and test/ with their labels."""
    write_world(folder / "world", labelled=LABELLED, corpus=0, test=TEST, workers=1)
    (folder / "photos").mkdir(exist_ok=True)
    for part, of in (("train", "labelled"), ("test", "test")):
        if not (folder / "photos" / part).exists():
            (folder / "photos" / part).symlink_to(Path("..") / "world" / of)


def made(count: int) -> Iterator[NewSample]:
    """Make so many pictures of 48 pixels, each another pattern of 16 colours, and claim something of each."""
    rng = np.random.default_rng(0)
    for n in range(count):
        pixels = rng.integers(0, 255, (4, 4, 3), np.uint8).repeat(12, 0).repeat(12, 1)
        yield NewSample(
            data=encode_png(pixels),
            origin={"source": f"{n:06d}.png"},
            claims=(Claim(says="label", category=KINDS[n % len(KINDS)], source="import:made"),),
        )


def write_large(folder: Path, policy: Path, rules: Policy, count: int) -> None:
    """Write a run with so many small images, each with a claim, and make the view."""
    if (folder / "recipe.yaml").exists():
        return
    shutil.rmtree(folder, ignore_errors=True)
    (folder / "files").mkdir(parents=True)
    with closing(Events(folder / "made.jsonl")) as events:
        work = Work(
            name="import", dataset=Dataset(folder / "dataset"), policy=rules, folder=folder / "files", events=events
        )
        work.add("made", made(count), count)
        assert work.dataset.count() == count
    document = {"recipe": "large", "policy": str(policy.resolve()), "steps": ["import"]}
    (folder / "recipe.yaml").write_text(yaml.safe_dump(document))


@contextmanager
def console(folder: Path, serve_port: int) -> Iterator[str]:
    words = ["console", "--port", str(free_port()), "--serve-port", str(serve_port)]
    command = [sys.executable, "-m", "tilth.pipeline.cli.main", *words]
    with subprocess.Popen(command, cwd=folder, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True) as process:
        assert process.stdout
        try:
            yield process.stdout.readline().strip()
        finally:
            process.terminate()


def to_a_served_model(tab: "Page", url: str, folder: Path, serve_port: int) -> None:
    tab.goto(url)
    tab.get_by_role("link", name="New").click()
    tab.get_by_label("Folder on this machine").fill("photos")
    tab.get_by_text("images, with train and test").wait_for()
    tab.get_by_role("button", name="Next: the policy").click()
    tab.wait_for_url("**/policy?*")
    tab.goto(tab.url + "&policy=policy.yaml")
    tab.get_by_text("Fine: things v1").wait_for()
    tab.get_by_role("button", name="Next: the recipe").click()
    tab.get_by_role("button", name="Next: the plan").click()
    tab.get_by_role("button", name="Start").click()
    tab.get_by_role("link", name="Compare and put into use").click()
    tab.get_by_role("button", name="Put it into use").click()
    tab.get_by_text("served", exact=True).wait_for()
    image = base64.b64encode(next((folder / "photos" / "test" / "images").iterdir()).read_bytes()).decode()
    body = {"input": [{"type": "image_url", "image_url": {"url": f"data:image/png;base64,{image}"}}]}
    httpx.post(f"http://127.0.0.1:{serve_port}/v1/moderations", json=body, timeout=60).raise_for_status()


def page_s(tab: "Page", address: str) -> float:
    began = time.monotonic()
    tab.goto(address, wait_until="commit")
    tab.wait_for_function(DRAWN, polling="raf")
    return time.monotonic() - began


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--work", type=Path, default=Path("runs/console"), help="Folder for worlds and runs.")
    parser.add_argument("--samples", type=int, default=LARGE, help="Pictures of the large dataset.")
    add_option(parser)
    asked = parser.parse_args()
    from playwright.sync_api import sync_playwright

    figures, folder, port = Figures("console"), asked.work.resolve(), free_port()
    folder.mkdir(parents=True, exist_ok=True)
    rules = write_policy(folder / "policy.yaml")
    write_photos(folder)
    for name in ("photos", "champion", "served"):
        shutil.rmtree(folder / "runs" / name, ignore_errors=True)
    write_large(folder / "runs" / "large", folder / "policy.yaml", rules, asked.samples)
    with (
        sync_playwright() as playwright,
        playwright.chromium.launch(executable_path=shutil.which("chromium")) as browser,
    ):
        tab = browser.new_page(viewport={"width": 1280, "height": 900})
        tab.set_default_timeout(WAIT_MS)
        began = time.monotonic()
        with console(folder, port) as url:
            to_a_served_model(tab, url, folder, port)
            figures.add("first_model_s", time.monotonic() - began, "s")
            tab.get_by_role("button", name="Stop serving").click()
            tab.get_by_text("not served").wait_for()
        first, again = list[float](), list[float]()
        for _ in range(FRESH):
            with console(folder, port) as url:
                tab.goto(url)  # its cookie
                tab.get_by_role("link", name="large").wait_for()
                address = url.partition("/?")[0] + "/run/large/pictures"
                first.append(page_s(tab, address))
                again += [page_s(tab, address) for _ in range(AGAIN)]
    figures.add("first_page_s", median(first), "s", n=FRESH)
    figures.add("page_again_s", median(again), "s", n=FRESH * AGAIN)
    figures.add("samples", asked.samples, "")
    events = [json.loads(line) for line in (folder / "runs" / "photos" / "events.jsonl").read_text().splitlines()]
    figures.add("run_s", sum(float(e["seconds"]) for e in events if e["event"] == "finished"), "s")
    print(figures.write(asked.results).read_text(), end="")


if __name__ == "__main__":
    main()
