"""A category that comes on the third day: what it costs the other three, and what asking for it alone is worth.

    python -m tilth.starter world --out runs/starter-world
    python benchmarks/asked.py --world runs/starter-world --seeds 0 1 2

A policy of three categories gets a fourth. Random images of the corpus were labelled for the three; then images that show the
fourth, and as many that do not, are found and labelled for the fourth alone. The same images, the same settings and the same sealed
test images judge four ways of training on them:

- `complete`: every image was labelled for all four from the start.
- `asked`: images say what they were labelled for, and teach nothing about the rest.
- `grounded`: as `asked`, and then `ground` answers what people were not asked, as it does in a recipe.
- `unasked`: they do not say it, so what has no label counts as absent: before claims said what was asked.

People's labels are the truth, so what differs is what was asked and nothing else. Finished work in `--out` is kept.
"""

import argparse
import json
from collections.abc import Iterator, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from figures import Figures, add_option

from tilth.annotate.grounding.ground import Ground
from tilth.annotate.review.reviewer import TruthBox, read_truth
from tilth.claims import Claim
from tilth.data.dataset import Dataset
from tilth.engine.work import Work
from tilth.errors import InputError
from tilth.events import Events
from tilth.images import decode, image_id
from tilth.policy import Policy, load_policy
from tilth.samples import NewSample
from tilth.train.artifacts.artifact import read_about
from tilth.train.judge.calibrate import Calibrate
from tilth.train.judge.evaluate import Evaluate
from tilth.train.judge.kept import read_columns
from tilth.train.judge.measure import category_scores
from tilth.train.learn.classifier import TrainClassifier
from tilth.train.learn.detector import TrainDetector
from tilth.train.measure.metrics import average_precision

POLICY = Path(__file__).parents[1] / "configs" / "policies" / "starter.yaml"
THREE, FOURTH = ("cigarette", "bottle", "dice"), "knife"
WAYS = ("complete", "asked", "grounded", "unasked")
METRICS = {
    "recall_at_fpr05": "recall at 5 % false positives",
    "ap": "average precision of images",
    "map50": "AP of boxes at IoU 0.5",
}

Truth = dict[str, tuple[TruthBox, ...]]
Chosen = list[tuple[Path, str, tuple[str, ...]]]
"""Image, id, and what people were asked about it."""


def choose(world: Path, truth: Truth, count: int, found: int, seed: int) -> Chosen:
    """Draw `count` images for the first day, and for the third `found` with the fourth category and as many without."""
    first: Chosen = []
    third: dict[bool, Chosen] = {True: [], False: []}
    files = sorted((world / "corpus").iterdir())
    for place in np.random.default_rng((seed, 31)).permutation(len(files)):
        try:
            id_ = image_id(decode(files[place].read_bytes()))
        except InputError:
            continue  # the corpus has damaged files
        if id_ not in truth:
            continue
        side = third[any(category == FOURTH for category, _ in truth[id_])]
        if len(first) < count:
            first.append((files[place], id_, THREE))
        elif len(side) < found:
            side.append((files[place], id_, (FOURTH,)))
        if len(first) == count and all(len(each) == found for each in third.values()):
            break
    return [*first, *third[True], *third[False]]


def labelled(chosen: Chosen, truth: Truth, way: str) -> Iterator[NewSample]:
    """Yield the images with the labels that people gave when they were asked."""
    everything = (*THREE, FOURTH)
    for path, id_, asked in chosen:
        seen = everything if way == "complete" else asked
        say = partial(Claim, source="human:truth", asked=everything if way == "unasked" else seen)
        claims = tuple(say(category=c, box_xyxy=box) for c, box in truth[id_] if c in seen)
        yield NewSample(data=path.read_bytes(), origin={"source": path.name}, claims=claims or (say(says="empty"),))


def one_way(work: Work, world: Path, steps: int, detector: str) -> dict[str, Any]:
    """Train the models, calibrate them, and return the numbers of each category on the sealed images."""
    parts: list[tuple[str, Any]] = [
        ("classifier", TrainClassifier(steps=steps, lr=8e-4)),
        *([(detector, TrainDetector(steps=steps))] if detector else []),
        ("calibrate", Calibrate(classifier="classifier", detector=detector)),
        ("evaluate", Evaluate(test=world / "test", classifier="classifier", detector=detector)),
    ]
    facts: dict[str, Any] = {}
    for name, step in parts:
        folder = work.folder / name
        folder.mkdir(parents=True, exist_ok=True)
        facts[name] = step.run(replace(work, name=name, folder=folder))
    each = facts["evaluate"]["per_category"]
    for name, value in image_precision(work).items():
        each[name]["ap"] = {"mean": value}
    numbers = {
        f"{metric}/{name}": row[metric]["mean"] for name, row in each.items() for metric in METRICS if metric in row
    }
    return {**numbers, "nobody_looked": facts["classifier"]["nobody_looked"]}


def image_precision(work: Work) -> dict[str, float]:
    """Return how well the score of each category ranks the sealed images, as average precision."""
    names = work.policy.names
    predictions = read_columns(work.artifact("evaluate.predictions"), names)
    scores, shown = category_scores(predictions, read_about(work.artifact("classifier"))), predictions.truth
    return {name: average_precision(scores[:, i], shown[:, i], int(shown[:, i].sum())) for i, name in enumerate(names)}


def one_seed(world: Path, policy: Policy, seed: int, given: argparse.Namespace) -> dict[str, Any]:
    """Train in all ways on the images of a seed."""
    truth = read_truth(world / "truth.jsonl")
    chosen = choose(world, truth, given.images, given.found, seed)
    told: dict[str, Any] = {"seed": seed, "images": len(chosen)}
    for way in WAYS:
        folder = given.out / f"{way}-{seed}"
        folder.mkdir(parents=True, exist_ok=True)
        work = Work(
            name="images",
            dataset=Dataset(folder / "dataset"),
            policy=policy,
            folder=folder / "files",
            events=Events(folder / "events.jsonl"),
            seed=seed,
        )
        work.add("corpus", labelled(chosen, truth, way))
        if way == "grounded":
            Ground().run(replace(work, name="ground"))
        told[way] = one_way(work, world, given.steps, "" if given.no_detector else "detector")
        work.events.close()
    return told


def interval(values: Sequence[float]) -> tuple[float, list[float] | None]:
    """Return mean and 95 % t interval over seeds; none of a single seed."""
    from scipy.stats import t

    n, mean = len(values), float(np.mean(values))
    if n < 2:
        return mean, None
    half = float(t.ppf(0.975, n - 1) * np.std(values, ddof=1) / np.sqrt(n))
    return mean, [mean - half, mean + half]


def tell(rows: Sequence[dict[str, Any]], seeds: Sequence[int]) -> Figures:
    """Return every number: each way's, and what the others differ from complete labels, seed by seed."""
    figures = Figures("asked", seeds=seeds)
    for metric, unit in METRICS.items():
        for name in (FOURTH, *THREE) if f"{metric}/{FOURTH}" in rows[0][WAYS[0]] else ():
            by_way = {way: [row[way][f"{metric}/{name}"] for row in rows] for way in WAYS}
            complete = np.array(by_way["complete"])
            by_way |= {f"{way}_less_complete": list(np.array(by_way[way]) - complete) for way in WAYS[1:]}
            for way, values in by_way.items():
                value, ci95 = interval(values)
                figures.add(f"{metric}.{name}.{way}", value, "share", ci95=ci95, n=len(rows))
                told = f" [{ci95[0]:.3f}, {ci95[1]:.3f}]" if ci95 else ""
                print(f"{name:10} {unit:30} {way:24} {value:.3f}{told}")
    return figures


def main() -> None:
    """Run what is not done yet, print all figures, and write them."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--world", type=Path, default=Path("runs/starter-world"))
    parser.add_argument("--out", type=Path, default=Path("runs/asked"))
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--images", type=int, default=900, help="labelled on the first day")
    parser.add_argument("--found", type=int, default=40, help="images with the fourth category on the third day")
    parser.add_argument("--steps", type=int, default=300)
    parser.add_argument("--no-detector", action="store_true", help="train and judge the classifier alone")
    add_option(parser)
    given = parser.parse_args()
    whole = load_policy(POLICY)
    policy = Policy(policy="asked", version=2, categories=tuple(whole[name] for name in (*THREE, FOURTH)))
    rows = []
    for seed in given.seeds:
        done = given.out / f"seed-{seed}.json"
        if not done.exists():
            done.parent.mkdir(parents=True, exist_ok=True)
            done.write_text(json.dumps(one_seed(given.world, policy, seed, given), indent=1))
        rows.append(json.loads(done.read_text()))
    figures = tell(rows, given.seeds)
    figures.write(given.results)


if __name__ == "__main__":
    main()
