"""What the loop gains, what each step adds, and how much random labelling would cost for the same: several seeds, resumable.

    python benchmarks/loop.py --seeds 3

Takes about two hours on two cores. Every variant is a run of `configs/recipes/starter.yaml` with some steps left out, in
`runs/loop/<variant>-<seed>`; all variants of a seed start from copies of one run, made up to the step where they part.
Finished steps are not repeated. Writes `loop.json` and `loop.png` beside the runs; when all variants of at least three seeds
are done, also `starter.benchmark.json` beside the recipe, which the report of the demo quotes.

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

RECIPE = Path(__file__).parents[1] / "configs" / "recipes" / "starter.yaml"
METRICS = ("recall_at_fpr05", "f1", "map50")
TITLES = {"recall_at_fpr05": "recall at 5 % false positives", "f1": "F1", "map50": "mAP at IoU 0.5"}
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


def interval(values: Sequence[float]) -> dict[str, Any]:
    """Return mean and 95 % t interval over seeds."""
    from scipy.stats import t

    n, mean = len(values), float(np.mean(values))
    half = float(t.ppf(0.975, n - 1) * np.std(values, ddof=1) / np.sqrt(n)) if n > 1 else float("nan")
    return {"mean": round(mean, 4), "ci95": [round(mean - half, 4), round(mean + half, 4)] if n > 1 else [None, None]}


def actions_for(curve: dict[int, float], wanted: float) -> float | None:
    """Interpolate how many random actions reach a score, on a logarithmic scale; None beyond the curve."""
    points = sorted(curve.items())
    best = np.maximum.accumulate([v for _, v in points])
    if wanted > best[-1]:
        return None
    return float(np.exp(np.interp(wanted, best, np.log([a for a, _ in points]))))


def of_variants(summaries: dict[str, list[dict[str, Any]]]) -> dict[str, Any]:
    """Tell each variant's scores and actions over the seeds, and what it lost against the whole loop, seed by seed."""
    told: dict[str, Any] = {}
    for name, of_seeds in summaries.items():
        told[name] = {metric: interval([s["final"][metric]["mean"] for s in of_seeds]) for metric in METRICS}
        told[name]["human_actions"] = interval([s["human_actions"] for s in of_seeds])
        if name != "whole" and "whole" in summaries:
            pairs = list(zip(summaries["whole"], of_seeds, strict=True))
            told[name]["lost"] = {
                metric: interval([whole["final"][metric]["mean"] - s["final"][metric]["mean"] for whole, s in pairs])
                for metric in METRICS
            }
    return told


def of_random(summaries: list[dict[str, Any]]) -> dict[str, Any]:
    """Tell the learning curve of random labelling."""
    return {
        str(actions): {m: interval([s[f"random_{actions}"][m]["mean"] for s in summaries]) for m in METRICS}
        for actions in CURVE
    }


def effort(whole: list[dict[str, Any]], random: list[dict[str, Any]]) -> dict[str, Any]:
    """Tell how many actions the loop took and what each of its scores would cost by random labelling, seed by seed.

    Where not even the most actions that were tried reach a score, those count, and `beyond_the_curve` counts the seeds.
    """
    told: dict[str, Any] = {"loop": interval([s["human_actions"] for s in whole])}
    for metric in METRICS if random else ():
        needed, beyond = [], 0
        for loop, other in zip(whole, random, strict=False):
            scores = {actions: other[f"random_{actions}"][metric]["mean"] for actions in CURVE}
            equal = actions_for(scores, loop["final"][metric]["mean"])
            beyond += equal is None
            needed.append((loop["human_actions"], equal or CURVE[-1]))
        told[f"random_at_equal_{metric}"] = interval([equal for _, equal in needed])
        told[f"saved_at_equal_{metric}"] = interval([1 - own / equal for own, equal in needed])
        told[f"beyond_the_curve_{metric}"] = beyond
    return told


def draw(told: dict[str, Any], path: Path) -> None:
    """Plot the learning curve of random labelling beside the loop."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot as plt

    figure, axes = plt.subplots(1, len(METRICS), figsize=(11, 3.4), layout="constrained")
    for axis, metric in zip(axes, METRICS, strict=True):
        curve = [(int(a), row[metric]) for a, row in told["random"].items()]
        whole = told["variants"]["whole"]
        for points, marker, label in (
            (curve, "o", "random labelling"),
            ([(whole["human_actions"]["mean"], whole[metric])], "s", "Tilth"),
        ):
            means = [p["mean"] for _, p in points]
            halves = [p["mean"] - (p["ci95"][0] if p["ci95"][0] is not None else p["mean"]) for _, p in points]
            axis.errorbar([a for a, _ in points], means, halves, marker=marker, capsize=3, label=label)
        axis.set(xscale="log", xlabel="human actions", title=TITLES[metric], ylim=(0, 1))
        axis.set_xticks(CURVE, [f"{a:,}" for a in CURVE])
        axis.minorticks_off()
        axis.grid(alpha=0.3)
    axes[0].legend()
    figure.savefig(path, dpi=110)


def main() -> None:
    """Run all variants for all seeds."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, default=3, help="number of seeds (default: %(default)s)")
    parser.add_argument(
        "--runs", type=Path, default=Path("runs/loop"), help="folder of the runs (default: %(default)s)"
    )
    parser.add_argument("--jobs", type=int, default=2, help="runs at a time, a core each (default: %(default)s)")
    parser.add_argument("--only", nargs="*", choices=[*ABLATIONS, "random"], help="variants to run; all when left out")
    arguments = parser.parse_args()
    document = yaml.safe_load(RECIPE.read_text())
    wanted = arguments.only or ["whole", "random", *ABLATIONS]
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
    told: dict[str, Any] = {
        "command": " ".join(["python", "benchmarks/loop.py", *sys.argv[1:]]),
        "seeds": arguments.seeds,
        "baseline": {m: interval([s["baseline"][m]["mean"] for s in whole]) for m in METRICS} if whole else {},
        "variants": of_variants(found),
        "random": of_random(random) if random else {},
        "human_actions": effort(whole, random) if whole else {},
    }
    text = json.dumps(told, indent=1) + "\n"
    (runs / "loop.json").write_text(text)
    print(text)
    if random and whole:
        draw(told, runs / "loop.png")
    if arguments.seeds >= 3 and {*ABLATIONS, "random"} <= {*wanted}:
        RECIPE.with_suffix(".benchmark.json").write_text(text)  # where the report of the demo finds and quotes it


if __name__ == "__main__":
    main()
