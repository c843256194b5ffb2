"""The nearest rival's recipe beside ours: draw from words and let an open-set detector label, or draw labelled images anew.

    python benchmarks/style.py --seeds 2-4          # makes the runs that this goes on from
    python benchmarks/rival_recipe.py --seeds 2-4

The world, the 20 examples, the photo-like labels and the detector that goes on from them are those of `style.py`, and so are the model that
draws, the number of images and the steps of all trainings.

    ours     `configs/recipes/new-style.yaml`
    rival    as DataDreamer does it: the look is learned as an adapter is usually trained, images are drawn from words alone, and all that
             grounding finds in them is their labels; nobody judges, and no share is kept

Told is F1 over image and category of the sealed blueprints, and what ours is ahead, by mean and 95 % t interval over seeds.
"""

import argparse
import json
from pathlib import Path

import yaml
from figures import Figures, add_option
from loop import seeds_of
from loop_figures import note
from pydantic import TypeAdapter
from style import RECIPE, Bench
from variants import WORDS

from tilth.annotate.exchange.importing import Import
from tilth.annotate.grounding.ground import Ground
from tilth.synth.adapters.training import TrainLora
from tilth.synth.draw.generate import Generate

PROMPT = "a blueprint of a {color} {thing}"


def step_of(name: str) -> dict[str, object]:
    """Return the settings of a step of our recipe."""
    return dict(next(one[name] for one in yaml.safe_load(RECIPE.read_text())["steps"] if name in one))


def rival(bench: Bench, count: int) -> dict[str, float]:
    """Make as many images as the rival does, label them as it does, and train."""
    work = bench.work("rival")
    bench.photos(work)
    bench.do(work, "examples", Import(path=bench.world / "examples", format="folder"))
    lora = step_of("train.lora")
    lora["learning"] = {"steps": bench.steps, "snr_gamma": 5}
    bench.do(work, "train.lora", TypeAdapter(TrainLora).validate_python(lora))
    drawn = {
        "count": count,
        "max_ratio": 2.0,
        "styles": ["blueprint"],
        "words": {**WORDS, "template": PROMPT},
        "parts": {"loras": {"blueprint": "train.lora"}},
        "drawing": {"size": lora["images"]["side"], "steps": 10},  # type: ignore[index]
    }
    bench.do(work, "generate", TypeAdapter(Generate).validate_python(drawn))
    bench.do(work, "ground", Ground())
    return bench.taught(work)


def main() -> None:
    """Measure, seed by seed."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=seeds_of, default="2-4", help="such as 2-4 or 1,3 (default: %(default)s)")
    parser.add_argument(
        "--runs", type=Path, default=Path("runs/style"), help="those of style.py (default: %(default)s)"
    )
    parser.add_argument("--small", action="store_true", help="try everything with next to no images and steps")
    add_option(parser)
    asked = parser.parse_args()
    figures = Figures("rival_recipe", seeds=asked.seeds)
    found = []
    for seed in asked.seeds:
        bench = Bench(asked.runs, seed, small=asked.small)
        told = {way: bench.measure(way) for way in ("photo", "drawn")}
        done = bench.folder / "rival.json"
        if not done.exists():
            summary = json.loads((bench.folder / "recipe" / "summary.json").read_text())
            done.write_text(json.dumps(rival(bench, summary["steps"]["restyle"]["facts"]["made"])))
        found.append({"ours": told["drawn"], "photo": told["photo"], "rival": json.loads(done.read_text())})
        print(f"{seed}: " + ", ".join(f"{way} {one['f1']:.3f}" for way, one in found[-1].items()), flush=True)
    note(figures, "f1_gain", [one["ours"]["f1"] - one["rival"]["f1"] for one in found])
    for way in ("ours", "rival", "photo"):
        for what in ("f1", "recall", "precision"):
            note(figures, f"{way}.{what}", [one[way][what] for one in found])
    path = figures.write(asked.runs if asked.small else asked.results)
    print(path.read_text(), end="")


if __name__ == "__main__":
    main()
