"""What a second opinion, thresholds learned from reviews, and fusion are worth: precision and recall where truth is known.

    python benchmarks/opinion.py --world runs/starter-world --images 1500 --seed 5
    python benchmarks/opinion.py --world runs/starter-world --images 1500 --seed 5 --thresholds
    python benchmarks/opinion.py --world runs/starter-world --images 1500 --seed 5 --fuse

`ground` labels random images of the corpus; then `second_opinion` looks at each box, or some of the images are reviewed and
`thresholds` learns from them; or it looks a second time in tiles, and `fuse` makes one of both. A box is right when it has the
category of a true box and IoU at least 0.5 with it. Numbers are of images that nobody reviewed; intervals are bootstraps over
images.
"""

import argparse
import json
import shutil
import tempfile
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from figures import Figures, add_option
from labels import POLICY, new_work, samples

from tilth.annotate.boxes.fuse import Fuse
from tilth.annotate.grounding.ground import Ground
from tilth.annotate.grounding.thresholds import Thresholds
from tilth.annotate.review.review import Review
from tilth.annotate.review.reviewer import TruthBox, read_truth
from tilth.claims import Claim
from tilth.engine.work import Work
from tilth.geometry import iou
from tilth.mining.cleaning.second_opinion import SecondOpinion
from tilth.policy import load_policy


def right(labels: Sequence[Claim], truth: Sequence[TruthBox]) -> int:
    """Return how many boxes have a true box of their own."""
    free, hits = list(truth), 0
    for label in sorted(labels, key=lambda c: -c.score):
        for one in free:
            if one[0] == label.category and iou(np.array([label.box_xyxy]), np.array([one[1]]))[0, 0] >= 0.5:
                free.remove(one)
                hits += 1
                break
    return hits


def judged(work: Work, truth: dict[str, tuple[TruthBox, ...]], figures: Figures, key: str) -> dict[str, object]:
    """Return precision, recall and F1 of the boxes that stand now, and note them."""
    counts = np.array(
        [
            (right(s.truth.labels, truth[s.id]), len(s.truth.labels), len(truth[s.id]))
            for s in work.dataset.samples("state = 'auto'", images=False)
        ]
    )
    rng = np.random.default_rng(0)
    drawn = np.array([counts[rng.integers(0, len(counts), len(counts))].sum(0) for _ in range(1000)])
    told: dict[str, object] = {"boxes": int(counts[:, 1].sum()), "true_boxes": int(counts[:, 2].sum())}
    for name, value in (
        ("precision", lambda c: c[..., 0] / c[..., 1]),
        ("recall", lambda c: c[..., 0] / c[..., 2]),
        ("f1", lambda c: 2 * c[..., 0] / (c[..., 1] + c[..., 2])),
    ):
        middle, *ends = (round(float(v), 4) for v in (value(counts.sum(0)), *np.percentile(value(drawn), [2.5, 97.5])))
        told[name] = [middle, *ends]
        figures.add(f"{key}.{name}", middle, "", ci95=ends, n=len(counts))
    figures.add(f"{key}.true_boxes", int(counts[:, 2].sum()), "boxes")
    return told


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--world", type=Path, default=Path("runs/starter-world"))
    parser.add_argument("--images", type=int, default=1500)
    parser.add_argument("--seed", type=int, default=5)
    parser.add_argument("--thresholds", action="store_true")
    parser.add_argument("--fuse", action="store_true")
    add_option(parser)
    asked = parser.parse_args()
    mode = "opinion_thresholds" if asked.thresholds else "opinion_fuse" if asked.fuse else "opinion"
    figures = Figures(mode, seeds=[asked.seed])
    policy = load_policy(POLICY)
    names = {c.name for c in policy.pictured}
    truth = {k: tuple(b for b in v if b[0] in names) for k, v in read_truth(asked.world / "truth.jsonl").items()}
    folder = Path(tempfile.mkdtemp())
    work = new_work(folder, policy, asked.seed)
    work.add("corpus", samples(asked.world, asked.images, asked.seed, truth, labelled=False))
    if asked.thresholds:
        learned(work, asked.world, truth, figures)
    elif asked.fuse:
        fused(work, truth, figures)
    else:
        opinions(work, truth, figures)
    figures.write(asked.results)
    work.events.close()
    shutil.rmtree(folder)


def learned(work: Work, world: Path, truth: dict[str, tuple[TruthBox, ...]], figures: Figures) -> None:
    """Review some, at random or the doubtful first, and learn thresholds from them for several aims."""
    start = work.dataset.at.number
    for share, audit in ((0.3, 1.0), (0.1, 1.0), (0.1, 0.1)):
        work.dataset = work.dataset.checkout(start)
        Ground().run(replace(work, name="ground"))
        Review(truth=world / "truth.jsonl", share=share, audit_share=audit).run(replace(work, name="review"))
        how = {"reviewed": f"{share:.0%}, {'at random' if audit == 1 else 'the doubtful first'}"}
        key = f"{'random' if audit == 1 else 'doubtful'}_{100 * share:.0f}"
        told = judged(work, truth, figures, f"{key}.fixed")
        print(json.dumps({**how, "thresholds": "0.3 for all", **told}), flush=True)
        before = work.dataset.at.number
        for aim in (0.0, 0.9):
            work.dataset = work.dataset.checkout(before)
            facts: Any = Thresholds(precision=aim, audit_only=False).run(replace(work, name="thresholds"))
            chosen = {name: (row["threshold"], row["why"]) for name, row in facts["categories"].items()}
            aimed = f"precision {aim:g}" if aim else "best F1"
            told = judged(work, truth, figures, f"{key}.{'precision_90' if aim else 'best_f1'}")
            print(json.dumps({**how, "thresholds": aimed, **told, "chosen": chosen}), flush=True)


def fused(work: Work, truth: dict[str, tuple[TruthBox, ...]], figures: Figures) -> None:
    """Ground the whole image, then without look-alikes, then tiles of it, then fuse the first with the others."""
    start = work.dataset.at.number
    looks = {"whole": {}, "plain": {"counter_prompts": False}, "tiled": {"tiles": 2}}
    for name, settings in looks.items():
        for threshold in (0.2, 0.3, 0.4, 0.5):
            work.dataset = work.dataset.checkout(start)
            Ground(threshold=threshold, **settings).run(replace(work, name=name))  # type: ignore[arg-type]
            told = judged(work, truth, figures, f"{name}.{100 * threshold:.0f}")
            print(json.dumps({"look": name, "threshold": threshold, **told}), flush=True)
    work.dataset = work.dataset.checkout(start)
    for name, settings in looks.items():
        Ground(**settings).run(replace(work, name=name))  # type: ignore[arg-type]
    before = work.dataset.at.number
    for others, weights in ((("plain",), {}), (("tiled",), {}), (("tiled",), {"whole": 2.0}), (("plain", "tiled"), {})):
        for threshold in (0.2, 0.3, 0.4, 0.5):
            work.dataset = work.dataset.checkout(before)
            Fuse(of=("whole", *others), weights=weights, threshold=threshold).run(replace(work, name="fuse"))
            how = {"look": "whole fused with " + " and ".join(others), "weights": weights, "threshold": threshold}
            key = "_".join(("whole", "twice") if weights else ("whole",)) + "_" + "_".join(others)
            told = judged(work, truth, figures, f"{key}.{100 * threshold:.0f}")
            print(json.dumps({**how, **told}), flush=True)


def opinions(work: Work, truth: dict[str, tuple[TruthBox, ...]], figures: Figures) -> None:
    """Try several thresholds of both models."""
    start = work.dataset.at.number
    for threshold in (0.2, 0.3, 0.4):
        work.dataset = work.dataset.checkout(start)
        Ground(threshold=threshold).run(replace(work, name="ground"))
        key = f"threshold_{100 * threshold:.0f}"
        print(json.dumps({"threshold": threshold, **judged(work, truth, figures, f"{key}.alone")}), flush=True)
        before = work.dataset.at.number
        for least in (0.02, 0.1, 0.2, 0.3):
            work.dataset = work.dataset.checkout(before)
            SecondOpinion(min_match=least).run(replace(work, name="second_opinion"))
            told = judged(work, truth, figures, f"{key}.match_{100 * least:.0f}")
            print(json.dumps({"threshold": threshold, "min_match": least, **told}), flush=True)


if __name__ == "__main__":
    main()
