"""A style that nobody labelled: what a detector makes of it before and after `configs/recipes/new-style.yaml`, beside random labelling.

    python benchmarks/style.py --seeds 2-4

A seed is a world of its own: 300 labelled photo-like images, 20 unlabelled blueprints, and 500 others, of which nobody knows but the test.
No miniature has ever seen a blueprint. Told are recall and precision over image and category, where the best box scores 0.5 or more, and
the average precision of images, by mean and 95 % t interval over seeds.

    before      the detector that all others go on from, taught by the labelled images
    photo       the same for as many steps more
    drawn       the recipe: these drawn anew along their edges by an adapter that learned the look of the 20
    random_N    instead, a person labels random blueprints, erring on 2 % of the things, until N actions are spent

`fewer_labels` is what the recipe saves of the actions that random
labelling needs for the same F1, where somebody who picks out an example is counted one action; `beyond` says in how many seeds not even the
most actions were enough, so that these count. What is finished in `--runs` is kept.
"""

import argparse
import json
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from figures import Figures, add_option
from loop import seeds_of
from loop_figures import cost, note
from sklearn.metrics import average_precision_score
from variants import ROOT

from tilth.annotate.exchange.importing import Import
from tilth.annotate.review.reviewer import label_by_truth, read_truth
from tilth.data.dataset import Dataset
from tilth.engine.work import Work
from tilth.events import Events
from tilth.images import decode, image_id
from tilth.mining.cleaning.split import Split
from tilth.policy import load_policy
from tilth.samples import NewSample
from tilth.sources.walk import images_in
from tilth.starter.world.files import write_world
from tilth.train.judge.evaluate import Evaluate
from tilth.train.judge.kept import read_columns
from tilth.train.judge.measure import judged, unsafe_names
from tilth.train.learn.detector import TrainDetector

RECIPE = ROOT / "configs" / "recipes" / "new-style.yaml"
POLICY = ROOT / "configs" / "policies" / "starter.yaml"
EXAMPLES = 20
CURVE = (100, 400)  # actions of random labelling
POOL = 600  # blueprints that may be drawn to be labelled
SIZES = {"labelled": 300, "corpus": 0, "test": 500}
SMALL = {"labelled": 40, "corpus": 0, "test": 20}


class Bench:
    """The runs of one seed.

    Args:
        runs: Folder of all seeds.
        seed: Of world and training.
        small: Try everything with next to nothing.
    """

    def __init__(self, runs: Path, seed: int, *, small: bool = False) -> None:
        self.folder, self.seed, self.steps = runs / f"seed-{seed}", seed, 2 if small else 150
        self.world, self.pool = self.folder / "world", self.folder / "pool"
        sizes = SMALL if small else SIZES
        only = {"styles": ("photo",), "test_styles": ("blueprint",), "examples": EXAMPLES}
        write_world(self.world, **sizes, **only, seed=seed, workers=1)
        nothing = {"labelled": 0, "test": 0, "copies": 0.0, "leaks": 0.0}
        write_world(self.pool, **nothing, corpus=POOL, styles=("blueprint",), seed=seed, workers=1)

    def recipe(self) -> Path:
        """Run the recipe, or go on with it, and return its folder."""
        words = [f"world={self.world}", f"steps={self.steps}"]
        told = [word for each in words for word in ("--set", each)]
        command = ["-m", "tilth.pipeline.cli.main", "run", str(self._seeded()), *told, "--runs", str(self.folder)]
        with (self.folder / "recipe.log").open("a") as log:
            subprocess.run([sys.executable, *command, "--name", "recipe"], check=True, stdout=log, stderr=log)
        return self.folder / "recipe"

    def _seeded(self) -> Path:
        """Write the recipe with this seed."""
        path = self.folder / "new-style.yaml"
        text = RECIPE.read_text().replace("\nseed: 0\n", f"\nseed: {self.seed}\n")
        path.write_text(text.replace("../policies/starter.yaml", str(POLICY)))
        return path

    def work(self, name: str) -> Work:
        """Return the surroundings of a training beside the recipe."""
        folder = self.folder / name
        (folder / "files").mkdir(parents=True, exist_ok=True)
        return Work(
            name="images",
            dataset=Dataset(folder / "dataset"),
            policy=load_policy(POLICY),
            folder=folder / "files",
            events=Events(folder / "events.jsonl"),
            seed=self.seed,
            artifacts={"photo.detector": self.model("photo.detector")},
        )

    def model(self, step: str) -> Path:
        """Return what a step of the recipe trained."""
        [path] = (self.folder / "recipe").glob(f"steps/*-{step}.json")
        return self.folder / "recipe" / str(json.loads(path.read_text())["artifacts"][step])

    def do(self, work: Work, name: str, step: Any) -> dict[str, Any]:
        """Run a step in a folder of its own."""
        folder = work.folder / name
        folder.mkdir(exist_ok=True)
        return dict(step.run(replace(work, name=name, folder=folder)))

    def photos(self, work: Work) -> None:
        """Take in the labelled images."""
        path = self.world / "labelled"
        self.do(work, "import", Import(path=path, format="coco", empty_means="confirmed_empty"))

    def taught(self, work: Work) -> dict[str, float]:
        """Split, let the detector of photo-like images go on, and judge it."""
        self.do(work, "split", Split(val_share=0.15))
        self.do(work, "detector", TrainDetector(steps=self.steps, start="photo.detector"))
        return self.judged(work, "detector")

    def judged(self, work: Work, detector: str) -> dict[str, float]:
        """Judge a detector on the sealed blueprints."""
        name = f"evaluate.{detector}"
        facts = self.do(work, name, Evaluate(test=self.world / "test", detector=detector))
        return {**scores(work, work.artifacts[f"{name}.predictions"]), "map50": facts["map50"]["mean"]}

    def random(self, work: Work, actions: int) -> dict[str, float]:
        """Label blueprints at random, beside the images that are labelled, until so many actions are spent."""
        self.photos(work)
        if actions:
            work.add("random", self._labelled(work, actions, []))
        return {**self.taught(work), "actions": actions}

    def _labelled(self, work: Work, wanted: int, spent: list[int]) -> Iterator[NewSample]:
        truth = read_truth(self.pool / "truth.jsonl")
        categories = tuple(category.name for category in work.policy.pictured)
        files = images_in(self.pool / "corpus")
        for place in np.random.default_rng((self.seed, 17)).permutation(len(files)):
            data = files[place].read_bytes()
            try:
                id_ = image_id(decode(data))
            except ValueError:
                continue  # a damaged file
            if id_ not in truth:
                continue
            boxes = [each for each in truth[id_] if each[0] in categories]
            told = label_by_truth(id_, boxes, categories=categories, seed=self.seed, policy=work.policy.tag)
            if sum(spent) + len(told.actions) > wanted:
                return
            spent.append(len(told.actions))
            yield NewSample(data=data, origin={"source": files[place].name}, claims=told.claims)

    @property
    def done(self) -> dict[str, dict[str, float]]:
        """What each way scores, of those that are finished."""
        path = self.folder / "scores.json"
        return dict(json.loads(path.read_text())) if path.exists() else {}

    def measure(self, way: str) -> dict[str, float]:
        """Return what a way scores; what is finished is read."""
        told = self.done
        if way not in told:
            self.recipe()
            work = self.work(way.replace("_", "-"))
            if step := {"before": "photo.detector", "drawn": "final.detector"}.get(way):
                work.artifacts[step] = self.model(step)
                told[way] = self.judged(work, step)
            else:
                told[way] = self.random(work, int(way.partition("_")[2] or 0))
            (self.folder / "scores.json").write_text(json.dumps(told))
            print(f"{self.seed} {way}: " + ", ".join(f"{k} {v:.3f}" for k, v in told[way].items()), flush=True)
        return told[way]


def scores(work: Work, path: Path) -> dict[str, float]:
    """Return recall, precision and F1 over image and category of what was predicted, and the mean average precision of the categories."""
    ids = [str(json.loads(line)["id"]) for line in path.read_text().splitlines()]
    found = judged(read_columns(path, unsafe_names(work.policy), ids), None)
    said = found.scores >= found.thresholds
    right, shown, told = (float(each.sum()) for each in (said & found.truth, found.truth, said))
    recall, precision = right / shown, right / told if told else 0.0
    ap = float(np.mean([average_precision_score(*each) for each in zip(found.truth.T, found.scores.T, strict=True)]))
    return {"recall": recall, "precision": precision, "f1": 2 * right / (shown + told), "ap": ap}


def saved(told: dict[str, dict[str, float]]) -> tuple[float, float, bool]:
    """Return the actions of random labelling for the F1 of the recipe, what it saves of them, and whether the most were too few."""
    random = {one["actions"]: one["f1"] for way, one in told.items() if way.startswith("random_")}
    curve = {1: told["photo"]["f1"], **random}  # read over the logarithm, so what takes nothing stands at one action
    needed, beyond = cost(curve, told["drawn"]["f1"])
    return needed, 1 - EXAMPLES / needed, beyond


def main() -> None:
    """Measure, seed by seed."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=seeds_of, default="2-4", help="such as 2-4 or 1,3 (default: %(default)s)")
    parser.add_argument("--runs", type=Path, default=Path("runs/style"), help="what is finished (default: %(default)s)")
    parser.add_argument(
        "--curve", type=int, nargs="*", default=CURVE, help="actions of random labelling (default: %(default)s)"
    )
    parser.add_argument("--small", action="store_true", help="try everything with next to no images and steps")
    add_option(parser)
    asked = parser.parse_args()
    figures = Figures("style", seeds=asked.seeds)
    benches = [Bench(asked.runs, seed, small=asked.small) for seed in asked.seeds]
    ways = ("before", "drawn", "photo", *(f"random_{actions}" for actions in asked.curve))
    found: list[dict[str, dict[str, float]]] = [{} for _ in benches]
    for way in ways:  # of all seeds first what matters most
        for one, bench in zip(found, benches, strict=True):
            one[way] = bench.measure(way)
    figures.add("seeds", len(found), "seeds")
    for what in ("recall", "precision"):
        note(figures, what, [one["drawn"][what] for one in found])
    if asked.curve:
        note(figures, "fewer_labels", [saved(one)[1] for one in found])
        note(figures, "random_needs", [saved(one)[0] for one in found], "actions")
        figures.add("beyond", sum(saved(one)[2] for one in found), "seeds", n=len(found))
    for way in ways:
        for what in found[0][way]:
            unit = "actions" if what == "actions" else "share"
            note(figures, f"{way}.{what}", [one[way][what] for one in found], unit)
    for what in ("recall", "precision", "f1", "ap"):
        note(figures, f"{what}_gain", [one["drawn"][what] - one["photo"][what] for one in found])
    path = figures.write(asked.runs if asked.small else asked.results)
    print(path.read_text(), end="")


if __name__ == "__main__":
    main()
