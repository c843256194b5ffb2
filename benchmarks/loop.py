"""What the loop gains, what people and each step add, and how much random labelling would cost for the same: seeds of worlds and training.

    python benchmarks/loop.py --left                                       # what there is to do, and how long it may take
    python benchmarks/loop.py --seeds 1-5 --jobs 2
    python benchmarks/loop.py --seeds 1,2 --worlds faithful --only loop random
    python benchmarks/loop.py --small --seeds 1 --runs runs/loop-small      # everything once with next to nothing, in minutes

Takes many hours on two cores. A world of `variants.py` is written once for each seed, a base run is made in it up to the step where its
variants part, and each variant is a run of its own that goes on from a copy of it, `runs/loop/<world>-<variant>-<seed>`. Whatever stops
this, the same command goes on: finished runs are not started again, finished steps are not repeated. Of a finished run stay its
summary, report, recipe and events, unless `--keep`.

Figures are of all finished runs of the seeds, and are written beside the runs. From five seeds on they are results: those of the variants
that have all seeds are written to `benchmarks/results/loop.json`, and to `starter.benchmark.json` beside the recipe, where the report of
the demo finds it; the others are named. What runs scored is kept in `benchmarks/results/loop_runs.jsonl`, so that seeds can come together
on several days and machines; a figure that no run at hand tells stays as it was, with the commit that it is of.
"""

import argparse
import contextlib
import hashlib
import json
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Sequence
from concurrent.futures import Future, ThreadPoolExecutor, as_completed
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import yaml
from figures import Figures, add_option, commit
from loop_figures import note_all, trimmed
from variants import PARTING, RECIPE, ROOT, SMALL, VARIANTS, WORLDS, needed, recipe_of

ENOUGH = 5  # seeds from which on results are results
HEAVY = ("dataset", "embeddings", "files", "downloads")  # of a run, not needed once it is done
HERE = Path(__file__).parent


class Failed(Exception):
    """A run did not end well; the others go on."""


@dataclass(frozen=True, kw_only=True)
class Bench:
    """Where and how runs are made.

    Args:
        runs: Folder of all runs.
        threads: Of each run.
        small: Next to no images and steps.
        keep: Keep the data of finished runs.
        commit: Of the code.
        fresh: Make anew what another commit made or began.
    """

    runs: Path
    threads: int
    small: bool
    keep: bool
    commit: str
    fresh: bool

    def world(self, name: str, seed: int) -> Path:
        """Return the folder of a world's files."""
        return self.runs / "worlds" / f"{name}-{seed}"

    def done(self, world: str, variant: str, seed: int) -> dict[str, Any] | None:
        """Return what a finished run left, with its `summary`; None when it is unfinished, or of another recipe."""
        folder = self.runs / f"{world}-{variant}-{seed}"
        with contextlib.suppress(OSError, ValueError):
            told = json.loads((folder / "done.json").read_text())
            same = not self.fresh or told["commit"] == self.commit
            if same and told["recipe"] == self.digest(world, variant, seed):
                return {**told, "summary": json.loads((folder / told["summary"]).read_text())}
        return None

    def document(self, world: str, variant: str, seed: int) -> dict[str, Any]:
        """Return the recipe of a run; of `find`, its settings."""
        if variant == "find":
            settings = {**WORLDS[world].settings, **({"corpus": "400", "prevalence": "0.05"} if self.small else {})}
            return {"find": settings, "seed": seed}
        return recipe_of(variant, world, seed, self.world(world, seed), small=self.small)

    def digest(self, world: str, variant: str, seed: int) -> str:
        """Return what tells a recipe from another."""
        about = [self.document(world, variant, seed), dict(WORLDS[world].settings), self.small]
        text = json.dumps(about, sort_keys=True)
        for here in (str(self.runs.resolve()), str(ROOT)):
            text = text.replace(here, "")  # a run is the same wherever it was made
        return hashlib.sha256(text.encode()).hexdigest()[:12]

    def write_world(self, world: str, seed: int) -> None:
        """Write a world's files, or leave them when they are there."""
        settings = {**WORLDS[world].settings, **(SMALL if self.small else {}), "seed": str(seed)}
        if self.small and "given" in settings:
            settings["given"] = "4"
        words = [word for name, value in settings.items() for word in (f"--{name}", value)]
        self.call(
            f"{world}-world-{seed}", "-m", "tilth.starter", "world", "--out", str(self.world(world, seed)), *words
        )

    def call(self, name: str, *words: str) -> None:
        """Run a program of ours.

        Raises:
            Failed: It says why in its log.
        """
        log = self.runs / "logs" / f"{name}.log"
        log.parent.mkdir(parents=True, exist_ok=True)
        with log.open("a") as stream:
            env = {"OMP_NUM_THREADS": str(self.threads), **os.environ}  # who says another number means it
            code = subprocess.run([sys.executable, *words], stdout=stream, stderr=stream, env=env).returncode
        if code:
            raise Failed(f"{name}: exit code {code}; see {log}")

    def recipe(self, world: str, variant: str, seed: int) -> Path:
        """Write the recipe of a run and return its path."""
        path = self.runs / "recipes" / f"{world}-{variant}-{seed}.yaml"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(yaml.safe_dump(self.document(world, variant, seed), sort_keys=False))
        return path

    def begin(self, folder: Path) -> None:
        """Make the folder of a run, or leave what was begun; clear what is of no use."""
        mark = folder / "commit"
        other = self.fresh and folder.exists() and not (mark.exists() and mark.read_text() == self.commit)
        if other or (folder / "done.json").exists():  # done by another recipe, and its data are gone
            shutil.rmtree(folder)
        folder.mkdir(parents=True, exist_ok=True)
        if not mark.exists():
            mark.write_text(self.commit)

    def base(self, world: str, seed: int, *, alone: bool) -> None:
        """Write a world and make the run up to where its variants part; `alone` the world."""
        self.write_world(world, seed)
        if not alone:
            path, name = self.recipe(world, "base", seed), f"{world}-base-{seed}"
            self.begin(self.runs / name)
            self.call(name, *RUN, str(path), "--runs", str(self.runs), "--name", name, "--until", PARTING)

    def run(self, world: str, variant: str, seed: int, base: "Future[None] | None") -> float:
        """Make one run, from a copy of its base, and return how long that took, in seconds."""
        if base:
            base.result()
        name, began = f"{world}-{variant}-{seed}", time.monotonic()
        folder, digest = self.runs / name, self.digest(world, variant, seed)
        self.begin(folder)
        if variant == "find":
            settings = self.document(world, variant, seed)["find"]
            about = {
                "--seed": str(seed),
                "--images": settings["corpus"],
                "--prevalence": settings["prevalence"],
                "--workers": str(self.threads),
                "--work": str(folder),
                "--results": str(folder),
            }
            self.call(name, str(HERE / "find.py"), *(word for pair in about.items() for word in pair))
        else:
            if variant != "random" and not (folder / "recipe.yaml").exists():
                partial = self.runs / f"{name}.partial"
                shutil.rmtree(partial, ignore_errors=True)
                shutil.copytree(self.runs / f"{world}-base-{seed}", partial)
                shutil.rmtree(folder)
                partial.rename(folder)
            path = self.recipe(world, variant, seed)
            self.call(name, *RUN, str(path), "--runs", str(self.runs), "--name", name)
        took = time.monotonic() - began
        told = {"recipe": digest, "commit": self.commit, "seconds": round(took, 1), "threads": self.threads}
        told["summary"] = "find.json" if variant == "find" else "summary.json"
        (folder / "done.json.partial").write_text(json.dumps(told))
        (folder / "done.json.partial").rename(folder / "done.json")
        for each in () if self.keep else HEAVY:
            shutil.rmtree(folder / each, ignore_errors=True)
        return took


RUN = ("-m", "tilth.pipeline.cli.main", "run")
Job = tuple[str, str, int]  # world, variant, seed


def estimate(left: Sequence[Job], bench: Bench, at_once: int) -> str:
    """Say how long runs may take, by the finished ones of the same variant and world, or variant, or of all."""
    seconds: dict[tuple[str, ...], list[float]] = {}
    for path in bench.runs.glob("*-*-*/done.json"):
        world, _, rest = path.parent.name.partition("-")
        told = json.loads(path.read_text())["seconds"]
        for key in ((world, rest.rpartition("-")[0]), (rest.rpartition("-")[0],), ()):
            seconds.setdefault(key, []).append(told)
    if () not in seconds:
        return "nobody knows yet how long"
    each = (next(float(np.mean(seconds[k])) for k in ((w, v), (v,), ()) if k in seconds) for w, v, _ in left)
    return f"about {sum(each) / at_once / 3600:.1f} h"


def seeds_of(text: str) -> list[int]:
    """Read `1-5`, `1,3` or `7`.

    >>> seeds_of("1-3,7")
    [1, 2, 3, 7]
    """
    ends = [part.partition("-") for part in text.split(",")]
    return [seed for first, _, last in ends for seed in range(int(first), int(last or first) + 1)]


def make(left: Sequence[Job], bench: Bench, at_once: int) -> list[str]:
    """Make runs, those of the first seeds first, and return what went wrong."""
    wrong: list[str] = []
    with ThreadPoolExecutor(at_once) as pool:
        bases: dict[tuple[str, int], Future[None]] = {}
        jobs: dict[Job, Future[float]] = {}
        for seed in dict.fromkeys(seed for _, _, seed in left):
            own = [job for job in left if job[2] == seed]
            for world in dict.fromkeys(world for world, variant, _ in own if variant != "find"):
                alone = all(variant in ("random", "find") for w, variant, _ in own if w == world)
                bases[world, seed] = pool.submit(bench.base, world, seed, alone=alone)
            for world, variant, _ in own:
                jobs[world, variant, seed] = pool.submit(bench.run, world, variant, seed, bases.get((world, seed)))
        names = {future: job for job, future in jobs.items()}
        for result in as_completed(names):
            try:
                took, name = result.result(), "-".join(map(str, names[result]))
                rest = [job for job, future in jobs.items() if not future.done()]
                print(
                    f"{name}: {took / 60:.1f} min; left: {len(rest)} runs, {estimate(rest, bench, at_once)}", flush=True
                )
            except Failed as error:
                print(error, file=sys.stderr, flush=True)
                wrong.append(str(error))
    return list(dict.fromkeys(wrong))


def finished(jobs: Sequence[Job], bench: Bench, kept: Path) -> dict[Job, dict[str, Any]]:
    """Return what finished runs scored, here or wherever they were made before, and keep it.

    Args:
        jobs: The runs that are asked for.
        bench: Where runs are made.
        kept: File of those that were made before; one of another recipe is none.
    """
    rows = [json.loads(line) for line in kept.read_text().splitlines()] if kept.exists() and not bench.small else []
    all_told = {tuple(row["job"]): row for row in rows}
    for job in jobs:
        if told := bench.done(*job):
            scores = trimmed(told["summary"], bench.runs / "-".join(map(str, job)) / "events.jsonl")
            all_told[job] = {"job": job, **told, "summary": scores}
    if not bench.small:
        kept.write_text("".join(json.dumps(all_told[job]) + "\n" for job in sorted(all_told)))
    return {
        job: all_told[job]
        for job in jobs
        if job in all_told and all_told[job]["recipe"] == bench.digest(*job)
        if not bench.fresh or all_told[job]["commit"] == bench.commit
    }


def main() -> int:
    """Make what is wanted, and tell what there is."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=seeds_of, default="1-5", help="such as 1-5 or 1,3 (default: %(default)s)")
    parser.add_argument("--worlds", nargs="+", choices=WORLDS, default=list(WORLDS), help="all when left out")
    parser.add_argument("--only", nargs="+", choices=VARIANTS, default=[], metavar="VARIANT", help="all when left out")
    parser.add_argument(
        "--runs", type=Path, default=Path("runs/loop"), help="folder of the runs (default: %(default)s)"
    )
    parser.add_argument("--jobs", type=int, default=2, help="runs at a time, which share the cores (default: 2)")
    parser.add_argument("--left", action="store_true", help="make nothing; say what is left, and the figures so far")
    parser.add_argument("--keep", action="store_true", help="keep dataset and models of finished runs")
    parser.add_argument(
        "--fresh", action="store_true", help="make anew, and leave out of the figures, what another commit made"
    )
    parser.add_argument("--small", action="store_true", help="try everything with next to no images and steps")
    add_option(parser)
    asked = parser.parse_args()
    threads = max(1, (os.cpu_count() or 1) // asked.jobs)
    choices = {"small": asked.small, "keep": asked.keep, "fresh": asked.fresh}
    bench = Bench(runs=asked.runs, threads=threads, commit=commit(), **choices)
    figures = Figures("loop", seeds=asked.seeds)
    asked.runs.mkdir(parents=True, exist_ok=True)
    wanted = [(w, v, s) for s in asked.seeds for w, v in needed(asked.worlds, asked.only)]
    kept = asked.results / "loop_runs.jsonl"
    there = finished(wanted, bench, kept)
    left = [job for job in wanted if job not in there]
    print(f"{len(wanted)} runs, left: {len(left)}, {estimate(left, bench, asked.jobs) if left else 'nothing to do'}")
    if asked.left:
        print("\n".join("  " + "-".join(map(str, job)) for job in left))
    wrong = [] if asked.left else make(left, bench, asked.jobs)
    pairs = needed(list(WORLDS), [])
    found = finished([(w, v, s) for s in asked.seeds for w, v in pairs], bench, kept)
    print(f"{len(found)} of {len(pairs) * len(asked.seeds)} runs are there")
    enough = len(asked.seeds) >= ENOUGH and not asked.small
    if enough:  # what has all seeds is a result; the rest is not said at all
        whole = [pair for pair in pairs if all((*pair, seed) in found for seed in asked.seeds)]
        found = {job: told for job, told in found.items() if job[:2] in whole}
        print(
            f"without all seeds, and left out: {', '.join(f'{w}-{v}' for w, v in pairs if (w, v) not in whole) or 'nothing'}"
        )
        enough = bool(whole)
    note_all(found, figures)
    if len(commits := {told["commit"] for told in found.values()}) > 1:
        print(
            f"the runs were made by {len(commits)} commits: {', '.join(sorted(commits))}; --fresh makes all by this one"
        )
        for each in commits:
            alone = Figures("loop")
            note_all({job: told for job, told in found.items() if told["commit"] == each}, alone)
            figures.credit(each, alone)
    elif found:
        figures.made_by(*commits)
    if enough and not asked.fresh:
        figures.carry(asked.results)
    path = figures.write(asked.results if enough else asked.runs)
    if enough:
        shutil.copy(path, RECIPE.with_suffix(".benchmark.json"))
    print(path.read_text(), end="")
    for line in wrong:
        print(f"failed: {line}", file=sys.stderr)
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main())
