"""Labels without people: a detector taught by automatic labels with few reviews, against one taught by people who draw all.

    python -m tilth.starter world --out runs/starter-world
    python benchmarks/labels.py --world runs/starter-world --seeds 0 1 2

Both detectors see the same random images of the corpus, train by the same settings and are judged on the sealed test images.

- `loop`: `ground` labels all images, `second_opinion` looks again, and a simulated person reviews the tenth that is most
  doubtful, erring on 2 % of the things.
- `truth`: every image has its true boxes. Its price is that of a person who draws each of them.

Hours are published seconds an action (`annotate/review/effort.py`); nobody was timed here. Finished work in `--out` is kept.
"""

import argparse
import json
from collections.abc import Iterator
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from figures import Figures, add_option

from tilth.annotate.grounding.ground import Ground
from tilth.annotate.review.effort import SECONDS_SOURCE, seconds
from tilth.annotate.review.review import Review
from tilth.annotate.review.reviewer import TruthBox, label_by_truth, read_truth
from tilth.claims import Claim
from tilth.data.dataset import Dataset
from tilth.engine.work import Work
from tilth.errors import InputError
from tilth.events import Events
from tilth.images import decode, image_id
from tilth.policy import Policy, load_policy
from tilth.samples import NewSample
from tilth.train.judge.evaluate import Evaluate
from tilth.train.learn.detector import TrainDetector

POLICY = Path(__file__).parents[1] / "configs" / "policies" / "starter.yaml"
SHARE = 0.1


def samples(
    world: Path, count: int, seed: int, truth: dict[str, tuple[TruthBox, ...]], names: tuple[str, ...] | None
) -> Iterator[NewSample]:
    files = sorted((world / "corpus").iterdir())
    taken = 0
    for place in np.random.default_rng((seed, 23)).permutation(len(files)):
        data = files[place].read_bytes()
        try:
            id_ = image_id(decode(data))
        except InputError:
            continue  # the corpus has damaged files
        if id_ not in truth or taken == count:
            continue
        taken += 1
        say = partial(Claim, source="human:truth", asked=names or ())
        claims = tuple(say(category=c, box_xyxy=box) for c, box in truth[id_])
        yield NewSample(
            data=data,
            origin={"source": files[place].name},
            claims=(claims or (say(says="empty"),)) if names else (),
        )


def student(work: Work, world: Path, steps: int) -> float:
    """Train a detector on what the dataset says and return its mAP50 on the sealed images."""
    TrainDetector(steps=steps).run(replace(work, name="detector", folder=work.folder / "detector"))
    judged = Evaluate(test=world / "test", detector="detector").run(
        replace(work, name="evaluate", folder=work.folder / "evaluate")
    )
    return float(judged["map50"]["mean"])  # type: ignore[index, call-overload]


def new_work(folder: Path, policy: Policy, seed: int) -> Work:
    for part in ("detector", "evaluate"):
        (folder / "files" / part).mkdir(parents=True, exist_ok=True)
    return Work(
        name="images",
        dataset=Dataset(folder / "dataset"),
        policy=policy,
        folder=folder / "files",
        events=Events(folder / "events.jsonl"),
        seed=seed,
    )


def one_seed(out: Path, world: Path, seed: int, count: int, steps: int, opinion: bool) -> dict[str, Any]:
    policy = load_policy(POLICY)
    names = tuple(c.name for c in policy.pictured)
    truth = {id_: tuple(b for b in boxes if b[0] in names) for id_, boxes in read_truth(world / "truth.jsonl").items()}
    told: dict[str, Any] = {"seed": seed}
    for name in ("loop", "truth"):
        work = new_work(out / f"{name}-{seed}", policy, seed)
        work.add("corpus", samples(world, count, seed, truth, names if name == "truth" else None))
        if name == "loop":
            Ground().run(replace(work, name="ground"))
            if opinion:
                from tilth.mining.cleaning.second_opinion import SecondOpinion

                SecondOpinion().run(replace(work, name="second_opinion"))
            review = Review(truth=world / "truth.jsonl", share=SHARE)
            facts = review.run(replace(work, name="review"))
            told["images_reviewed"] = facts["images_reviewed"]
            told["hours_loop"] = facts["hours"]
            told["labels_before_review"] = facts["labels_before_review"]
        else:
            drawn = [
                seconds(label_by_truth(s.id, truth[s.id], categories=names, error_rate=0.0).actions)
                for s in work.dataset.samples(images=False)
            ]
            told["images"] = len(drawn)
            told["hours_truth"] = round(sum(drawn) / 3600, 3)
        told[f"map50_{name}"] = student(work, world, steps)
        work.events.close()
    told["ratio"] = round(told["map50_loop"] / told["map50_truth"], 4)
    told["hours_saved"] = round(1 - told["hours_loop"] / told["hours_truth"], 4)
    return told


def interval(values: list[float]) -> dict[str, Any]:
    """Return mean and 95 % t interval over seeds."""
    from scipy.stats import t

    n, mean = len(values), float(np.mean(values))
    half = float(t.ppf(0.975, n - 1) * np.std(values, ddof=1) / np.sqrt(n)) if n > 1 else float("nan")
    return {"mean": round(mean, 4), "ci95": [round(mean - half, 4), round(mean + half, 4)] if n > 1 else [None, None]}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--world", type=Path, default=Path("runs/starter-world"))
    parser.add_argument("--out", type=Path, default=Path("runs/labels"))
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--images", type=int, default=2000)
    parser.add_argument("--steps", type=int, default=400)
    parser.add_argument("--no-second-opinion", action="store_true")
    add_option(parser)
    asked = parser.parse_args()
    figures = Figures("labels", seeds=asked.seeds)
    rows = []
    for seed in asked.seeds:
        done = asked.out / f"seed-{seed}.json"
        if not done.exists():
            told = one_seed(asked.out, asked.world, seed, asked.images, asked.steps, not asked.no_second_opinion)
            done.write_text(json.dumps(told, indent=1))
        rows.append(json.loads(done.read_text()))
        print(json.dumps(rows[-1]), flush=True)
        for name, unit in (("map50_loop", ""), ("map50_truth", ""), ("ratio", "share"), ("hours_saved", "share")):
            figures.add(f"seed_{seed}.{name}", rows[-1][name], unit)
        figures.add(f"seed_{seed}.hours_loop", rows[-1]["hours_loop"], "hours")
        figures.add(f"seed_{seed}.hours_truth", rows[-1]["hours_truth"], "hours")
    summary = {
        "images": rows[0]["images"],
        "share_reviewed": SHARE,
        "ratio": interval([row["ratio"] for row in rows]),
        "hours_saved": interval([row["hours_saved"] for row in rows]),
        "hours_source": SECONDS_SOURCE,
    }
    (asked.out / "labels.json").write_text(json.dumps(summary, indent=1))
    print(json.dumps(summary, indent=1))
    figures.add("images", rows[0]["images"], "images")
    figures.add("share_reviewed", SHARE, "share")
    for name in ("ratio", "hours_saved"):
        figures.add(name, summary[name]["mean"], "share", ci95=summary[name]["ci95"], n=len(rows))
    figures.write(asked.results)


if __name__ == "__main__":
    main()
