"""What a language model tells of texts without training and after it learned from people's labels, on worlds of words.

    python benchmarks/words.py --work /tmp/words --seeds 1-3

Each seed is a world of its own (`python -m tilth.starter words`), with 600 labelled texts, 4,000 that nobody labelled, a sealed test of
sayings that neither these nor the verdict model's own training show, and a training seed; `configs/recipes/words.yaml` is run as it is.
Printed are means over seeds with 95 % t intervals: recall at 5 % false positives, F1, area under the precision-recall curve and
calibration error of both models on the test, recall by language and trick at 0.5, and the share of harmless twins, such as free games
beside gambling, in which the trained model still finds harm. Takes about two minutes a seed on two cores; a finished seed is not run again.
"""

import argparse
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import yaml
from figures import Figures, add_option
from scipy.stats import t

from tilth.data.dataset import Dataset
from tilth.policy import SAFE
from tilth.starter.protocols.words import NEAR

ROOT = Path(__file__).parents[1]
RECIPE = ROOT / "configs" / "recipes" / "words.yaml"
MODELS = ("zero_shot", "trained")
TOLD = ("recall_at_fpr05", "f1", "average_precision", "ece")
TWINS = {topic for topics in NEAR.values() for topic in topics}


def run(work: Path, seed: int) -> Path:
    """Run the recipe on a world of its own, or leave what is there; return the run's folder."""
    folder, world = work / f"words-{seed}", work / f"world-{seed}"
    if not (folder / "summary.json").exists():
        call = lambda *words: subprocess.run([sys.executable, *words], check=True, cwd=ROOT)  # noqa: E731
        if not world.exists():
            call("-m", "tilth.starter", "words", "--out", str(world), "--labelled", "600", "--seed", str(seed))
        document = yaml.safe_load(RECIPE.read_text())
        document |= {
            "seed": seed,
            "policy": str(ROOT / "configs" / "policies" / "starter.yaml"),
            "variables": {"world": str(world)},
        }
        (work / f"words-{seed}.yaml").write_text(yaml.safe_dump(document, sort_keys=False))
        command = ("-m", "tilth.pipeline.cli.main", "run", str(work / f"words-{seed}.yaml"))
        call(*command, "--runs", str(work), "--name", f"words-{seed}")
    return folder


def read(work: Path, folder: Path, seed: int) -> dict[str, float]:
    """Return the figures of one seed."""
    steps: dict[str, Any] = json.loads((folder / "summary.json").read_text())["steps"]
    found: dict[str, float] = {}
    for model in MODELS:
        facts = steps[f"evaluate.{model}"]["facts"]
        found |= {f"{model}.{name}": facts[name]["mean"] for name in TOLD}
    truth = {row["id"]: row for row in map(json.loads, (work / f"world-{seed}" / "truth.jsonl").open())}
    sources = dict(Dataset(folder / "dataset").cells("id", "source", where="split = 'test'"))
    for model in MODELS:
        place = folder / steps[f"evaluate.{model}"]["artifacts"][f"evaluate.{model}.texts"]
        flagged: dict[str, list[bool]] = {}
        for row in map(json.loads, place.open()):
            about, harm = truth[str(sources[row["id"]]).rpartition("#")[2]], max(row["scores"].values()) >= 0.5
            if about["label"] != SAFE:
                flagged.setdefault(f"recall.{about['language']}", []).append(harm)
                flagged.setdefault(f"recall.{about['trick'].replace('-', '_') or 'plain'}", []).append(harm)
            elif about["topic"] in TWINS:
                flagged.setdefault("over_refusal", []).append(harm)
        found |= {f"{model}.{name}": float(np.mean(values)) for name, values in flagged.items()}
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--work", type=Path, required=True, help="folder of worlds and runs")
    parser.add_argument("--seeds", default="1-3", help="such as 1-3 (default: %(default)s)")
    add_option(parser)
    args = parser.parse_args()
    first, _, last = args.seeds.partition("-")
    seeds = range(int(first), int(last or first) + 1)
    args.work.mkdir(parents=True, exist_ok=True)
    figures = Figures("words", seeds=seeds)
    rows = [read(args.work, run(args.work, seed), seed) for seed in seeds]
    rows = [{**row, "gain": row["trained.recall_at_fpr05"] - row["zero_shot.recall_at_fpr05"]} for row in rows]
    short = {"trained.ece": "ece", "trained.over_refusal": "over_refusal"}
    for name in rows[0]:
        values = [row[name] for row in rows if name in row]
        middle, n = float(np.mean(values)), len(values)
        half = float(t.ppf(0.975, n - 1) * np.std(values, ddof=1) / np.sqrt(n)) if n > 1 else float("nan")
        figures.add(short.get(name, name), middle, "share", ci95=(middle - half, middle + half), n=n)
        print(f"{short.get(name, name):32} {middle:.4f} ({middle - half:.4f} to {middle + half:.4f}) of {n}")
    figures.write(args.results)


if __name__ == "__main__":
    main()
