"""What the loop gains, what each step adds, and how much random labelling would cost for the same: several seeds, resumable.

    python benchmarks/loop.py --seeds 3

Takes hours on two cores. Every variant is a run of `configs/recipes/starter.yaml` with some steps left out, in
`runs/loop/<variant>-<seed>`; all variants of a seed start from copies of one run, made up to the step where they part.
Finished steps are not repeated. Writes its figures beside the runs; when all variants of at least three seeds are done, to
`benchmarks/results/loop.json`, which is a link to `starter.benchmark.json` beside the recipe: there the report of the demo finds it.

All seeds share the files of the starter world; a seed decides what is mined, generated, reviewed and learned.
"""

import argparse
import copy
import json
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import yaml
from figures import Figures, add_option

RECIPE = Path(__file__).parents[1] / "configs" / "recipes" / "starter.yaml"
METRICS = ("recall_at_fpr05", "f1", "map50")
CURVE = (200, 400, 800, 1600)  # human actions of random labelling
PARTING = "ground"  # the last step that all variants share

# variant -> names of steps that it leaves out
ABLATIONS = {
    "whole": (),
    "no-generate": ("generate", "ground.made", "adherence", "label_made"),
    "no-review": ("label_made", "review"),
    "no-clean": ("filter", "dedup"),
}
ALWAYS_OUT = ("gate", "package", "moderate", "random_effort", "evaluate.random_same_effort")


def name_of(entry: Any) -> str:
    """Return the name of a recipe's entry."""
    if isinstance(entry, str):
        return entry
    return str(entry.get("as") or next(iter(entry)))


def variant(document: dict[str, Any], seed: int, out: Sequence[str]) -> dict[str, Any]:
    """Return the recipe with a seed and without some steps."""
    made = copy.deepcopy(document)
    made["seed"] = seed
    made["policy"] = str((RECIPE.parent / made["policy"]).resolve())
    missing = {*out} - {name_of(entry) for entry in made["steps"]}
    if missing:
        raise SystemExit(f"{RECIPE} has no step {', '.join(sorted(missing))}; adapt the variants of this benchmark")
    made["steps"] = [entry for entry in made["steps"] if name_of(entry) not in out]
    return made


def random_curve(document: dict[str, Any], seed: int) -> dict[str, Any]:
    """Return a recipe that trains on random labels of growing number."""
    made = variant(document, seed, ())
    steps = {name_of(entry): entry for entry in made["steps"]}
    effort, test = steps["random_effort"]["random_effort"], steps["evaluate.random_same_effort"]["evaluate"]
    made["steps"] = []
    for actions in CURVE:
        made["steps"] += [
            {"as": f"random.{actions}", "random_effort": {**effort, "actions": actions}},
            {"as": f"evaluate.random_{actions}", "evaluate": test},
        ]
    return made


def run(name: str, document: dict[str, Any], runs: Path, *, until: str = "", start: str = "") -> dict[str, Any]:
    """Run a variant on one core in a process of its own, from a copy of another run if named, and return its summary."""
    path, log = runs / f"{name}.yaml", runs / f"{name}.log"
    path.write_text(yaml.safe_dump(document, sort_keys=False))
    if start and not (runs / name).exists():
        shutil.copytree(runs / start, runs / f"{name}.partial", dirs_exist_ok=True)
        (runs / f"{name}.partial").rename(runs / name)
    command = [sys.executable, "-m", "tilth.pipeline.cli.main", "run", str(path), "--runs", str(runs), "--name", name]
    command += ["--until", until] if until else []
    began = time.monotonic()
    with log.open("a") as stream:
        done = subprocess.run(command, stdout=stream, stderr=stream, env={**os.environ, "OMP_NUM_THREADS": "1"})
    if done.returncode:
        raise SystemExit(f"{name} failed with exit code {done.returncode}; see {log}")
    print(f"{name}: {(time.monotonic() - began) / 60:.1f} min", flush=True)
    return dict(json.loads((runs / name / "summary.json").read_text()))


def interval(values: Sequence[float]) -> tuple[float, list[float]]:
    """Return mean and 95 % t interval over seeds."""
    from scipy.stats import t

    n, mean = len(values), float(np.mean(values))
    half = float(t.ppf(0.975, n - 1) * np.std(values, ddof=1) / np.sqrt(n)) if n > 1 else float("nan")
    return mean, [mean - half, mean + half]


def actions_for(curve: dict[int, float], wanted: float) -> float | None:
    """Interpolate how many random actions reach a score, on a logarithmic scale; None beyond the curve."""
    points = sorted(curve.items())
    best = np.maximum.accumulate([v for _, v in points])
    if wanted > best[-1]:
        return None
    return float(np.exp(np.interp(wanted, best, np.log([a for a, _ in points]))))


def note(figures: Figures, key: str, values: Sequence[float], unit: str = "share") -> None:
    """Note the mean of the seeds and its interval."""
    mean, ends = interval(values)
    figures.add(key, mean, unit, ci95=ends, n=len(values))


def of_variants(summaries: dict[str, list[dict[str, Any]]], figures: Figures) -> None:
    """Tell each variant's scores and actions over the seeds, and what it lost against the whole loop, seed by seed."""
    for name, of_seeds in summaries.items():
        key = name.replace("-", "_")
        for metric in METRICS:
            note(figures, f"{key}.{metric}", [s["final"][metric]["mean"] for s in of_seeds])
        note(figures, f"{key}.human_actions", [s["human_actions"] for s in of_seeds], "actions")
        if name != "whole" and "whole" in summaries:
            for metric in METRICS:
                pairs = zip(summaries["whole"], of_seeds, strict=True)
                lost = [whole["final"][metric]["mean"] - s["final"][metric]["mean"] for whole, s in pairs]
                note(figures, f"lost.{key}.{metric}", lost)


def of_random(summaries: list[dict[str, Any]], figures: Figures) -> None:
    """Tell the learning curve of random labelling."""
    for actions in CURVE:
        for metric in METRICS:
            scores = [s[f"random_{actions}"][metric]["mean"] for s in summaries]
            note(figures, f"random.{actions}.{metric}", scores)


def effort(whole: list[dict[str, Any]], random: list[dict[str, Any]], figures: Figures) -> None:
    """Tell what each score of the loop would cost by random labelling, seed by seed.

    Where not even the most actions that were tried reach a score, those count, and `seeds_beyond_the_curve` counts the seeds.
    """
    for metric in METRICS:
        needed, beyond = [], 0
        for loop, other in zip(whole, random, strict=False):
            scores = {actions: other[f"random_{actions}"][metric]["mean"] for actions in CURVE}
            equal = actions_for(scores, loop["final"][metric]["mean"])
            beyond += equal is None
            needed.append((loop["human_actions"], equal or CURVE[-1]))
        note(figures, f"equal.{metric}.random_actions", [equal for _, equal in needed], "actions")
        note(figures, f"equal.{metric}.saved", [1 - own / equal for own, equal in needed])
        figures.add(f"equal.{metric}.seeds_beyond_the_curve", beyond, "seeds", n=len(needed))


def main() -> None:
    """Run all variants for all seeds."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, default=3, help="number of seeds (default: %(default)s)")
    parser.add_argument(
        "--runs", type=Path, default=Path("runs/loop"), help="folder of the runs (default: %(default)s)"
    )
    parser.add_argument("--jobs", type=int, default=2, help="runs at a time, a core each (default: %(default)s)")
    parser.add_argument("--only", nargs="*", choices=[*ABLATIONS, "random"], help="variants to run; all when left out")
    add_option(parser)
    arguments = parser.parse_args()
    document = yaml.safe_load(RECIPE.read_text())
    wanted = arguments.only or ["whole", "random", *ABLATIONS]
    figures = Figures("loop", seeds=range(arguments.seeds))
    runs, seeds = arguments.runs, range(arguments.seeds)
    runs.mkdir(parents=True, exist_ok=True)
    with ThreadPoolExecutor(arguments.jobs) as pool:
        bases = [pool.submit(run, f"base-{s}", variant(document, s, ALWAYS_OUT), runs, until=PARTING) for s in seeds]
        for base in bases:
            base.result()
        jobs = {}
        for name in dict.fromkeys(wanted):
            for s in seeds:
                if name == "random":
                    jobs[name, s] = pool.submit(run, f"random-{s}", random_curve(document, s), runs)
                else:
                    out = (*ABLATIONS[name], *ALWAYS_OUT)
                    jobs[name, s] = pool.submit(run, f"{name}-{s}", variant(document, s, out), runs, start=f"base-{s}")
        found = {name: [jobs[name, s].result() for s in seeds] for name in dict.fromkeys(wanted)}
    random = found.pop("random", [])
    whole = found.get("whole", [])
    for metric in METRICS if whole else ():
        note(figures, f"baseline.{metric}", [s["baseline"][metric]["mean"] for s in whole])
    of_variants(found, figures)
    if random:
        of_random(random, figures)
    if random and whole:
        effort(whole, random, figures)
    complete = arguments.seeds >= 3 and {*ABLATIONS, "random"} <= {*wanted}
    print(figures.write(arguments.results if complete else runs).read_text())


if __name__ == "__main__":
    main()
