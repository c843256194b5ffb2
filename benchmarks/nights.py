"""Many small nights over one dataset: how many tables a version lists, what lies on disk, and how long a night takes.

    python benchmarks/nights.py --nights 30

The same nights twice, in turns: with old tables carried forward into few, and as they would be without. Each night images come, a
grounding model decides anew about all of them, its labels are weighed before and after people answer about ten. Nights are small and
nothing is trained, so that what grows with their number is seen. What is understood must be the same: the states, and the curves that
people's answers teach.
"""

import argparse
import json
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any
from unittest import mock

from figures import Figures, add_option

from tilth.data.dataset import Dataset
from tilth.data.view import View
from tilth.engine.recipe import load_recipe
from tilth.pipeline import run
from tilth.pipeline.table import step_table

POLICY = Path(__file__).parents[1] / "configs" / "policies" / "starter.yaml"
RECIPE = """
recipe: nights
policy: {policy}
dataset: {here}/data
seed: 0
steps:
  - import: {{path: {world}/labelled, format: coco, empty_means: confirmed_empty}}
  - mine: {{corpus: {here}/corpus, since: last, pool: 1000, per_category: 1}}
  - ground: {{threshold: 0.3, relabel: true}}
  - hash
  - quality
  - filter: {{rules: ["quality.contrast >= 0.05"]}}
  - dedup
  - split
  - as: scores
    relabel: {{}}
  - review: {{backend: simulated, truth: {world}/truth.jsonl, budget: 10, wait: false}}
  - as: weigh
    relabel: {{}}
"""


def size_mb(*folders: Path) -> float:
    return sum(p.stat().st_size for folder in folders for p in folder.rglob("*") if p.is_file()) / 2**20


def night(here: Path, world: Path, number: int, images: list[Path], *, forward: bool) -> dict[str, Any]:
    """Run one night, and measure the dataset after it."""
    (here / "corpus").mkdir(parents=True, exist_ok=True)
    for path in images:
        shutil.copy(path, here / "corpus" / path.name)
    recipe = here / "nights.yaml"
    recipe.write_text(RECIPE.format(policy=POLICY, here=here, world=world))
    began = time.perf_counter()
    with mock.patch.object(run, "forget", run.forget if forward else lambda *_: (0, 0)):
        folder = run.Run(load_recipe(recipe, step_table()), here / "runs" / str(number)).execute()
    took = time.perf_counter() - began
    data = Dataset(here / "data")
    steps = json.loads((folder / "summary.json").read_text())["steps"]
    curves = [[steps[name]["facts"][what] for what in ("curves", "learned_from")] for name in ("scores", "weigh")]
    said = {"states": sorted((str(k), v) for k, v in data.tally("state", "labels").items()), "curves": curves}
    began = time.perf_counter()
    with tempfile.TemporaryDirectory() as fresh:
        find = lambda ref: data.table(ref.name, ref.lance_version)  # noqa: E731
        View(Path(fresh), data.at.tables, find=find, pool=data.pool, swept=[]).count()
    view_s = time.perf_counter() - began
    return {
        "view_s": view_s,
        "tables": len(data.at.tables),
        "claims": max(len(s.claims) for s in data.samples(images=False, dropped=True)),
        "versions": len(data.history()),
        "results_mb": size_mb(data.root / "results"),
        "night_s": took,
        "said": said,
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--nights", type=int, default=30)
    parser.add_argument("--images", type=int, default=12, help="that come each night (default: 12)")
    parser.add_argument("--seed", type=int, default=0)
    add_option(parser)
    asked = parser.parse_args()
    figures = Figures("nights", seeds=[asked.seed])
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        world = folder / "world"
        sizes = [
            "--labelled",
            "40",
            "--corpus",
            str(asked.nights * asked.images),
            "--test",
            "1",
            "--seed",
            str(asked.seed),
        ]
        subprocess.run(
            [sys.executable, "-m", "tilth.starter", "world", "--out", str(world), *sizes],
            check=True,
            capture_output=True,
        )
        files = sorted((world / "corpus").iterdir())
        differ = 0
        last: dict[str, dict[str, Any]] = {}
        for number in range(1, asked.nights + 1):
            came = files[(number - 1) * asked.images : number * asked.images]
            last = {
                key: night(folder / key, world, number, came, forward=key == "carried") for key in ("carried", "grown")
            }
            said = [found.pop("said") for found in last.values()]
            differ += said[0] != said[1]
            for key, found in last.items():
                for what, value in found.items():
                    if number in (1, asked.nights // 2, asked.nights):
                        figures.add(f"{key}.night{number}.{what}", value, what.partition("_")[2])
            print(number, differ, {k: {w: round(v, 2) for w, v in f.items()} for k, f in last.items()}, flush=True)
    figures.add("differ", differ, "nights")
    print(figures.write(asked.results).read_text(), end="")


if __name__ == "__main__":
    main()
