"""What the loop gains, what each step adds, and how much random labelling would cost for the same: several seeds, resumable.

    python benchmarks/loop.py --seeds 3

Takes an hour or two on two cores. Every variant is a run of `configs/recipes/starter.yaml` with some steps left out or some
settings changed, in `runs/loop/<variant>-<seed>`; finished runs are not repeated. Prints a table and writes
`runs/loop/loop.json`.
"""

import argparse
import copy
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import yaml

RECIPE = Path(__file__).parents[1] / "configs" / "recipes" / "starter.yaml"
METRICS = ("recall_at_fpr05", "f1", "map50")
CURVE = (100, 200, 400, 800, 1600)  # human actions of random labelling

# variant -> names of steps that it leaves out
ABLATIONS = {
    "whole": (),
    "no-generate": ("generate", "ground.made", "adherence", "label_made"),
    "no-review": ("label_made", "review"),
    "no-dedup": ("dedup",),
}
ALWAYS_OUT = ("gate", "package", "moderate", "random_effort", "evaluate.random_same_effort")


def name_of(entry: Any) -> str:
    """Return the name of a recipe's entry."""
    if isinstance(entry, str):
        return entry
    return str(entry.get("as") or next(iter(entry)))


def variant(document: dict[str, Any], seed: int, out: tuple[str, ...]) -> dict[str, Any]:
    """Return the recipe with a seed and without some steps."""
    made = copy.deepcopy(document)
    made["seed"] = seed
    made["policy"] = str((RECIPE.parent / made["policy"]).resolve())
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


def run(name: str, document: dict[str, Any], runs: Path) -> dict[str, Any]:
    """Run a variant in a process of its own and return its summary."""
    path = runs / f"{name}.yaml"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(yaml.safe_dump(document, sort_keys=False))
    command = [sys.executable, "-m", "tilth.pipeline.cli", "run", str(path), "--runs", str(runs), "--name", name]
    subprocess.run(command, check=True)
    return dict(json.loads((runs / name / "summary.json").read_text()))


def interval(values: list[float]) -> dict[str, float]:
    """Return mean and the half-width of a t interval over seeds."""
    from scipy.stats import t

    n = len(values)
    half = float(t.ppf(0.975, n - 1) * np.std(values, ddof=1) / np.sqrt(n)) if n > 1 else float("nan")
    return {"mean": round(float(np.mean(values)), 4), "half_width": round(half, 4), "seeds": n}


def actions_for(curve: dict[int, float], wanted: float) -> float | None:
    """Interpolate how many random actions reach a score, on a logarithmic scale; None beyond the curve."""
    points = sorted(curve.items())
    best = np.maximum.accumulate([v for _, v in points])
    if wanted > best[-1]:
        return None
    return float(np.exp(np.interp(wanted, best, np.log([a for a, _ in points]))))


def main() -> None:
    """Run all variants for all seeds."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--runs", type=Path, default=Path("runs/loop"))
    parser.add_argument("--only", nargs="*", choices=[*ABLATIONS, "random"], help="variants to run; all when left out")
    arguments = parser.parse_args()
    document = yaml.safe_load(RECIPE.read_text())
    wanted = arguments.only or [*ABLATIONS, "random"]
    told: dict[str, Any] = {"command": " ".join(["python", *sys.argv]), "variants": {}, "human_actions": {}}
    for name, out in ABLATIONS.items():
        if name not in wanted:
            continue
        summaries = [
            run(f"{name}-{s}", variant(document, s, (*out, *ALWAYS_OUT)), arguments.runs)
            for s in range(arguments.seeds)
        ]
        for part in ("baseline", "final"):
            told["variants"][f"{name}.{part}"] = {
                metric: interval([s[part][metric]["mean"] for s in summaries]) for metric in METRICS
            }
        told["human_actions"][name] = interval([s["human_actions"] for s in summaries])
    if "random" in wanted:
        told["random"] = curve(document, arguments, told)
    arguments.runs.mkdir(parents=True, exist_ok=True)
    (arguments.runs / "loop.json").write_text(json.dumps(told, indent=1))
    print(json.dumps(told, indent=1))


def curve(document: dict[str, Any], arguments: argparse.Namespace, told: dict[str, Any]) -> dict[str, Any]:
    """Run the learning curve of random labelling and say what the loop's F1 would cost there."""
    summaries = [run(f"random-{s}", random_curve(document, s), arguments.runs) for s in range(arguments.seeds)]
    table = {
        str(actions): {m: interval([s[f"random_{actions}"][m]["mean"] for s in summaries]) for m in METRICS}
        for actions in CURVE
    }
    if whole := told["variants"].get("whole.final"):
        means = {int(a): row["f1"]["mean"] for a, row in table.items()}
        equal = actions_for(means, whole["f1"]["mean"])
        told["human_actions"]["random_at_equal_f1"] = round(equal) if equal else f"more than {max(CURVE)}"
        if equal:
            told["human_actions"]["saved_share"] = round(1 - told["human_actions"]["whole"]["mean"] / equal, 4)
    return table


if __name__ == "__main__":
    main()
