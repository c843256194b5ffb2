"""A category of which there are five images: they alone with strong views, beside the same and images that are made.

    python benchmarks/rare.py --seeds 2-6

A seed is a world of its own. Its 80 labelled images, in all styles, show one of the five kinds five times, another kind for another seed;
what else they show is taken out. Both ways train the same detector for as many steps, and are judged on 500 others, by the average
precision of images that show the kind, by mean and 95 % t interval over seeds.

    alone    the labelled images, with views that are turned, grey, blurred, worn and partly hidden as well
    made     and 60 that the starter's model draws of the kind in words and grounding boxes, of those in which it finds the kind
"""

import argparse
import json
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

from figures import Figures, add_option
from loop import seeds_of
from loop_figures import note
from sklearn.metrics import average_precision_score
from variants import ROOT, WORDS

from tilth.annotate.grounding.ground import Ground
from tilth.claims import Claim
from tilth.data.dataset import Dataset
from tilth.engine.views import Views
from tilth.engine.work import Work
from tilth.events import Events
from tilth.mining.cleaning.split import Split
from tilth.policy import load_policy
from tilth.samples import NewSample
from tilth.starter.world.files import draw, write_world
from tilth.starter.world.scene import STYLES, UNSAFE_KINDS
from tilth.starter.world.settings import World
from tilth.synth.check.adherence import Adherence
from tilth.synth.draw.generate import Generate
from tilth.synth.draw.settings import Drawing, Parts
from tilth.synth.plan.prompts import Words
from tilth.train.judge.evaluate import Evaluate
from tilth.train.learn.detector import TrainDetector

POLICY = ROOT / "configs" / "policies" / "starter.yaml"
REAL, OTHERS, MADE, TEST, STEPS = 5, 75, 60, 500, 150
STRONG = Views(flip=0.5, turn=20, grey=0.2, blur=0.3, jpeg=0.3, erase=0.3)


def real_images(world: World, kind: str, asked: tuple[str, ...]) -> Iterator[NewSample]:
    """Yield images with the kind and others without anything unsafe, until there are enough of both."""
    have = {True: 0, False: 0}
    for index in range(world.corpus):
        data, row = draw("corpus", index, world)
        labels: Any = row["labels"]
        shown = {label["category"] for label in labels}
        rare = kind in shown
        if not shown <= {kind} or have[rare] >= (REAL if rare else OTHERS):
            continue
        have[rare] += 1
        say = {"source": "human:truth", "asked": asked}
        claims = [Claim(category=one["category"], box_xyxy=tuple(one["box_xyxy"]), **say) for one in labels]
        yield NewSample(data=data, origin={"source": str(index)}, claims=tuple(claims) or (Claim(says="empty", **say),))
        if have == {True: REAL, False: OTHERS}:
            return


class Bench:
    """The two ways of one seed."""

    def __init__(self, runs: Path, seed: int) -> None:
        self.folder, self.seed, self.kind = runs / f"seed-{seed}", seed, UNSAFE_KINDS[seed % len(UNSAFE_KINDS)]
        self.world = self.folder / "world"
        write_world(self.world, labelled=0, corpus=0, test=TEST, seed=seed, workers=1)

    def work(self, name: str) -> Work:
        """Return the surroundings of a way, with its real images."""
        folder = self.folder / name
        (folder / "files").mkdir(parents=True, exist_ok=True)
        whole = load_policy(POLICY)
        policy = whole.model_copy(update={"categories": [whole[self.kind]]})
        work = Work(
            name="images", dataset=Dataset(folder / "dataset"), policy=policy, folder=folder / "files",
            events=Events(folder / "events.jsonl"), seed=self.seed,
        )  # fmt: skip
        work.add("real", real_images(World(seed=self.seed), self.kind, (self.kind,)))
        self.do(work, "split", Split(val_share=0.0))
        return work

    def do(self, work: Work, name: str, step: Any) -> dict[str, Any]:
        """Run a step in a folder of its own."""
        folder = work.folder / name
        folder.mkdir(exist_ok=True)
        return dict(step.run(replace(work, name=name, folder=folder)))

    def made(self, work: Work) -> int:
        """Make images, and leave out those in which grounding does not find the kind; return how many stay."""
        generate = Generate(
            count=MADE, max_ratio=10.0, styles=STYLES, words=Words(**WORDS), drawing=Drawing(),
            categories=(self.kind,), parts=Parts(loras={"neon": "starter:lora-neon"}),
        )  # fmt: skip
        self.do(work, "generate", generate)
        self.do(work, "ground", Ground())
        return int(self.do(work, "adherence", Adherence(min_score=0.35))["kept"])

    def taught(self, work: Work, views: Views) -> float:
        """Train and judge."""
        self.do(work, "detector", TrainDetector(steps=STEPS, views=views, patience=0, max_made_ratio=10.0))
        self.do(work, "evaluate", Evaluate(test=self.world / "test", detector="detector"))
        rows = [json.loads(line) for line in work.artifacts["evaluate.predictions"].read_text().splitlines()]
        best = [max((box[4] for box in row["boxes"] if box[5] == self.kind), default=0.0) for row in rows]
        return float(average_precision_score([self.kind in row["truth"] for row in rows], best))

    def measure(self) -> dict[str, float]:
        """Return the figures of the seed; what is finished is read."""
        done = self.folder / "scores.json"
        if not done.exists():
            alone = self.taught(self.work("alone"), STRONG)
            usual = self.work("made")
            kept = self.made(usual)
            told = {"alone": alone, "made": self.taught(usual, STRONG), "kept": kept / MADE}
            done.write_text(json.dumps(told | {"ap_gain": told["made"] - told["alone"]}))
        told = json.loads(done.read_text())
        print(f"{self.seed} {self.kind}: " + ", ".join(f"{k} {v:.3f}" for k, v in told.items()), flush=True)
        return dict(told)


def main() -> None:
    """Measure, seed by seed."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=seeds_of, default="2-6", help="such as 2-6 or 1,3 (default: %(default)s)")
    parser.add_argument("--runs", type=Path, default=Path("runs/rare"), help="what is finished (default: %(default)s)")
    add_option(parser)
    asked = parser.parse_args()
    figures = Figures("rare", seeds=asked.seeds)
    found = [Bench(asked.runs, seed).measure() for seed in asked.seeds]
    for key in ("ap_gain", "alone", "made", "kept"):
        note(figures, key, [one[key] for one in found])
    print(figures.write(asked.results).read_text(), end="")


if __name__ == "__main__":
    main()
