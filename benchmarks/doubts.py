"""Which labels are wrong: what our own rankings find, and what cleanlab finds from the same scores, where truth is known.

    pip install 'tilth[clean]'
    python -m tilth.starter world --kinds all --given 8 --out runs/faithful-world
    tilth run configs/recipes/starter.yaml
    python benchmarks/doubts.py --run runs/starter --world runs/faithful-world

Automatic labels: after each `relabel` of the run, all images that no person has seen. An image is wrong when a box has no true one
of its category at IoU 0.5, or a true one of a category that was looked for has no box. All rankings are given the same: the labels that
stand then, the boxes that the student saw, and the vectors of the retrieval model. Ties are in the order of the ids, which are hashes.

Reviewed labels: of freshly drawn scenes, the true categories, a share of one category swapped; both are given the same probabilities,
cross-validated as `label_errors` does. Vectors of the run's images are kept beside its dataset, as that step keeps them.
"""

import argparse
import itertools
import json
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from figures import Figures, add_option

from tilth.annotate.review.reviewer import TruthBox, read_truth
from tilth.claims import Claim, shared
from tilth.data.dataset import Dataset
from tilth.encoders.families import open_encoder
from tilth.engine.work import Work
from tilth.events import Events
from tilth.extras import optional
from tilth.images import encode_png
from tilth.mining.cleaning.label_errors import doubtful, features, predict_unseen
from tilth.mining.search.rank import phrase
from tilth.mining.vectors.alike import sample_vectors
from tilth.mining.vectors.store import Vectors
from tilth.policy import Policy, load_policy
from tilth.samples import Sample
from tilth.starter.world.scene import KINDS, draw_spec, render
from tilth.starter.world.sets import scene_rng

FIRST = (100, 200, 400)
FOLDS = 5
MODEL = "starter:retrieval"
RATES = (0.05, 0.1)  # of swapped labels
DRAWN = 400  # images of a drawn set
FILTERS = (
    "confident_learning",
    "prune_by_noise_rate",
    "prune_by_class",
    "both",
)  # cleanlab's; the second is its default
LEAST = 20  # that show a category, or it is not judged

Floats = npt.NDArray[np.float64]
Bools = npt.NDArray[np.bool_]


@dataclass(frozen=True, kw_only=True)
class Round:
    """What is known after one `relabel`: the images that no person has seen, and what is true of them."""

    name: str
    samples: Sequence[Sample]
    truth: Mapping[str, tuple[TruthBox, ...]]
    categories: tuple[str, ...]

    def kept(self, sample: Sample) -> list[Claim]:
        return [c for c in sample.truth.labels if c.box_xyxy and c.category in self.categories]

    def wrong(self) -> Bools:
        return np.array([self._wrong(sample) for sample in self.samples], bool)

    def _wrong(self, sample: Sample) -> bool:
        kept, looked = self.kept(sample), sample.truth.looked
        there = [Claim(category=c, box_xyxy=b, source="human:truth") for c, b in self.truth[sample.id] if c in looked]
        return not len(kept) == len(there) == shared(kept, there)

    def seen(self, sample: Sample) -> list[tuple[str, float, list[float]]]:
        """Return the student's boxes of what was looked for: category, score, corners."""
        rows: Any = sample.columns.get(f"{self.name}.again") or ()
        return [(str(r[0]), float(r[1]), [float(v) for v in r[2:6]]) for r in rows if r[0] in sample.truth.looked]

    def by_right(self) -> Floats:
        """Return the chance that all is right, of what was looked for, as `relabel` says."""
        return np.array([math.prod(p for name, p in s.chances.items() if name in s.truth.looked) for s in self.samples])

    def by_lowest_score(self) -> Floats:
        return np.array([min((c.score for c in self.kept(s)), default=1.0) for s in self.samples])

    def by_category(self) -> Floats:
        """Return the chance of each category to be there which gives each label the chance that `relabel` leaves."""
        right = np.ones((len(self.samples), len(self.categories)))
        for row, sample in enumerate(self.samples):
            for place, name in enumerate(self.categories):
                right[row, place] = sample.chances.get(name, 1.0) if name in sample.truth.looked else 1.0
        there = np.array([[place in row for place in range(len(self.categories))] for row in self.labels()], bool)
        return np.where(there, right, 1 - right)

    def labels(self) -> list[list[int]]:
        return [sorted({self.categories.index(str(c.category)) for c in self.kept(s)}) for s in self.samples]

    def chances(self) -> Floats:
        """Return the student's best score of each category in each image."""
        best = np.zeros((len(self.samples), len(self.categories)))
        for row, sample in enumerate(self.samples):
            for category, score, _ in self.seen(sample):
                place = self.categories.index(category)
                best[row, place] = max(best[row, place], min(score, 1.0))
        return best

    def boxes(self) -> tuple[list[dict[str, Any]], list[Any]]:
        """Return labels and predictions as cleanlab's object detection takes them."""
        labels, predictions = [], []
        for sample in self.samples:
            kept = self.kept(sample)
            corners = np.array([c.box_xyxy for c in kept], float).reshape(-1, 4)
            named = np.array([self.categories.index(str(c.category)) for c in kept], int)
            labels.append({"bboxes": corners, "labels": named})
            rows = {name: list[list[float]]() for name in self.categories}
            for category, score, box in self.seen(sample):
                rows[category].append([*box, min(score, 1.0)])
            each = np.empty(len(rows), object)
            each[:] = [np.array(found, float).reshape(-1, 5) for found in rows.values()]
            predictions.append(each)
        return labels, predictions


class Pictures:
    """The vectors of the run's images, for classifiers that have not seen the image which they judge."""

    def __init__(self, run: Path, policy: Policy, samples: Sequence[Sample]) -> None:
        self.policy, self.encoder = policy, open_encoder(MODEL, "cpu")
        work = Work(
            name="doubts", dataset=Dataset(run / "dataset"), policy=policy, folder=run / "files",
            events=Events(run / "doubts.jsonl"),
        )  # fmt: skip
        self.store = sample_vectors(work, [sample.id for sample in samples], self.encoder)
        work.events.close()
        self.rows = {key: row for row, (key, _) in enumerate(self.store.items())}

    def unseen(self, samples: Sequence[Sample], category: str, labels: Bools) -> Floats:
        vectors = self.store.take(np.array([self.rows[sample.id] for sample in samples]))
        groups = [str(s.columns.get("dedup.group") or s.id) for s in samples]
        return self.judge(vectors, category, labels, groups, 0)

    def judge(self, vectors: Vectors, category: str, labels: Bools, groups: list[str], seed: int) -> Floats:
        texts = self.encoder.texts(list(map(phrase, self.policy[category].prompts)))
        return predict_unseen(features(vectors, texts), labels, groups, FOLDS, seed)


def confident(round_: Round, pictures: Pictures) -> tuple[Floats, Bools]:
    """Return the lowest probability of a label to be right, by our own cross-validation, and which are candidates."""
    lowest, named = np.ones(len(round_.samples)), np.zeros(len(round_.samples), bool)
    for category in round_.categories:
        asked = np.array([category in s.truth.looked for s in round_.samples])
        some = [s for s, told in zip(round_.samples, asked, strict=True) if told]
        labels = np.array([category in s.truth.categories for s in some], bool)
        if min(labels.sum(), (~labels).sum()) < LEAST:
            continue
        chance = pictures.unseen(some, category, labels)
        lowest[asked] = np.minimum(lowest[asked], np.where(labels, chance, 1 - chance))
        named[asked] |= doubtful(chance, labels)
    return lowest, named


def rankings(round_: Round, pictures: Pictures) -> dict[str, tuple[Floats, Bools | None]]:
    """Return for each way how good it finds each image, and which images it names when it decides by itself."""
    from cleanlab.multilabel_classification import filter as image_filter
    from cleanlab.multilabel_classification import rank as image_rank
    from cleanlab.object_detection import filter as box_filter
    from cleanlab.object_detection import rank as box_rank

    found: dict[str, tuple[Floats, Bools | None]] = {"lowest_score": (round_.by_lowest_score(), None)}
    labels, chances = round_.labels(), {"cleanlab_right": round_.by_category()}
    if any(f"{round_.name}.again" in s.columns for s in round_.samples):
        chances["cleanlab_images"] = round_.chances()
        given, said = round_.boxes()
        mask = box_filter.find_label_issues(given, said)
        found["cleanlab_boxes"] = (box_rank.get_label_quality_scores(given, said, verbose=False), mask)
    for way, chance in chances.items():
        mask = image_filter.find_label_issues(labels, chance, n_jobs=1)
        found[way] = (image_rank.get_label_quality_scores(labels, chance), mask)
    found["confident_vectors"] = confident(round_, pictures)
    return {"right": (round_.by_right(), None), **found}


def average_precision(quality: Floats, wrong: Bools) -> float:
    from sklearn.metrics import average_precision_score

    return float(average_precision_score(wrong, -quality))


def automatic(run: Path, pictures: Pictures, truth: Mapping[str, tuple[TruthBox, ...]], figures: Figures) -> None:
    """Rank the automatic labels after each `relabel`."""
    categories = tuple(category.name for category in pictures.policy.pictured)
    for record in sorted((run / "steps").glob("*.json")):
        done = json.loads(record.read_text())
        if done["kind"] != "Relabel":
            continue
        name = record.stem.partition("-")[2]
        kept = Dataset(run / "dataset", done["version"]).samples("state = 'auto' and split != 'test'", images=False)
        samples = sorted((s for s in kept if s.id in truth and s.chances), key=lambda s: s.id)
        round_ = Round(name=name, samples=samples, truth=truth, categories=categories)
        wrong, key = round_.wrong(), name.replace(".", "_")
        figures.add(f"{key}.images", len(samples), "images")
        figures.add(f"{key}.wrong", int(wrong.sum()), "images")
        print(json.dumps({"after": name, "images": len(samples), "wrong": int(wrong.sum())}), flush=True)
        for way, (quality, named) in rankings(round_, pictures).items():
            order = np.argsort(quality, kind="stable")
            told: dict[str, float] = {f"first_{n}": int(wrong[order[:n]].sum()) for n in FIRST}
            told["ap"] = round(average_precision(quality, wrong), 4)
            if named is not None:
                told |= {"named": int(named.sum()), "named_wrong": int(wrong[named].sum())}
            for what, value in told.items():
                figures.add(f"{key}.{way}.{what}", value, "" if what == "ap" else "images")
            print(json.dumps({"by": way, **told}), flush=True)


def swaps(pictures: Pictures, seeds: Sequence[int]) -> Iterator[tuple[float, Bools, Bools, Floats]]:
    """Yield for each share, set and category: the share, what was swapped, the labels, and the chance of the category."""
    kinds = [c.name for c in pictures.policy.pictured if c.name in KINDS]
    for seed in seeds:
        drawn = [scene_rng("judge_held_out", DRAWN * seed + i) for i in range(DRAWN)]
        scenes = [render(draw_spec(rng), rng, side=96) for rng in drawn]
        vectors = pictures.encoder.images([pictures.encoder.inputs.load(encode_png(one.image)) for one in scenes])
        for rate, kind in itertools.product(RATES, kinds):
            there = np.array([kind in {thing.kind for thing in one.things} for one in scenes], bool)
            rng = np.random.default_rng((seed, kinds.index(kind), 71))
            swapped = np.zeros(DRAWN, bool)
            swapped[rng.choice(DRAWN, round(rate * DRAWN), replace=False)] = True
            labels = there ^ swapped
            yield rate, swapped, labels, pictures.judge(vectors, kind, labels, [*map(str, range(DRAWN))], seed)


def by_hand(chance: Floats, labels: Bools) -> Bools:
    """Tell which labels are candidates by equation 2 of https://arxiv.org/abs/1911.00068, as this project did without cleanlab."""
    own = np.where(labels, chance, 1 - chance)
    usual = {side: float(own[labels == side].mean()) for side in (True, False)}
    opposite, mine = (np.where(labels, usual[side], usual[not side]) for side in (False, True))
    return np.asarray((1 - own >= opposite) & (own < mine))


def reviewed(pictures: Pictures, seeds: Sequence[int], figures: Figures) -> None:
    """Swap some labels of what people would have said, and let both say which."""
    from cleanlab.filter import find_label_issues
    from cleanlab.rank import get_label_quality_scores

    counts: dict[str, list[tuple[int, int, int]]] = {}
    precisions: dict[str, list[float]] = {}
    for rate, swapped, labels, chance in swaps(pictures, seeds):
        given, both = labels.astype(int), np.column_stack([1 - chance, chance])
        named = {"by_hand": by_hand(chance, labels)}
        for way in FILTERS:
            named[f"cleanlab_{way}"] = find_label_issues(given, both, filter_by=way, n_jobs=1)
        quality = {
            "by_hand": np.where(labels, chance, 1 - chance),
            "cleanlab": get_label_quality_scores(given, both),
            "cleanlab_adjusted": get_label_quality_scores(given, both, adjust_pred_probs=True),
        }
        key = f"swapped_{100 * rate:.0f}"
        for way, mask in named.items():
            counts.setdefault(f"{key}.{way}", []).append(
                (int((mask & swapped).sum()), int(mask.sum()), int(swapped.sum()))
            )
        for way, scores in quality.items():
            precisions.setdefault(f"{key}.{way}.ap", []).append(average_precision(scores, swapped))
    for key, rows in counts.items():
        shown(key, np.array(rows, float), figures)
    for key, values in precisions.items():
        figures.add(key, round(float(np.mean(values)), 4), "", n=len(values))
        print(json.dumps({"ranking": key, "ap": round(float(np.mean(values)), 4)}), flush=True)


def shown(key: str, rows: Floats, figures: Figures) -> None:
    """Note precision, recall and F1 of candidates over all sets; intervals are bootstraps over sets."""
    rng = np.random.default_rng(0)
    drawn = np.array([rows[rng.integers(0, len(rows), len(rows))].sum(0) for _ in range(1000)])
    told: dict[str, Any] = {}
    for name, value in (
        ("precision", lambda c: c[..., 0] / np.maximum(c[..., 1], 1)),
        ("recall", lambda c: c[..., 0] / c[..., 2]),
        ("f1", lambda c: 2 * c[..., 0] / (c[..., 1] + c[..., 2])),
    ):
        middle, *ends = (round(float(v), 4) for v in (value(rows.sum(0)), *np.percentile(value(drawn), [2.5, 97.5])))
        told[name] = [middle, *ends]
        figures.add(f"{key}.{name}", middle, "", ci95=ends, n=len(rows))
    print(json.dumps({"candidates": key, **told}), flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--run", type=Path, default=Path("runs/starter"), help="a run with `relabel` in its recipe")
    parser.add_argument("--world", type=Path, default=Path("runs/faithful-world"), help="the world that it mined")
    parser.add_argument("--policy", type=Path, default=Path("configs/policies/faithful.yaml"))
    parser.add_argument("--seeds", type=int, nargs="*", default=[0, 1, 2, 3, 4], help="of the sets with swapped labels")
    add_option(parser)
    asked = parser.parse_args()
    with optional():
        import cleanlab
    figures = Figures("doubts", seeds=asked.seeds)
    policy = load_policy(asked.policy)
    truth = read_truth(asked.world / "truth.jsonl")
    everything = [s for s in Dataset(asked.run / "dataset").samples("split != 'test'", images=False) if s.id in truth]
    everything.sort(key=lambda s: s.id)
    pictures = Pictures(asked.run, policy, everything)
    print(json.dumps({"cleanlab": cleanlab.__version__}), flush=True)
    automatic(asked.run, pictures, truth, figures)
    reviewed(pictures, asked.seeds, figures)
    figures.write(asked.results)


if __name__ == "__main__":
    main()
