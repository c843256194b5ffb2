"""How many labels of people a model of texts needs when the review queue chooses them, and when chance does, at equal F1.

    python benchmarks/word_labels.py --work /tmp/word-labels --seeds 1-3

Each seed is a world of its own (`tilth/starter/protocols/words.py`): 4,000 texts to choose from and a sealed test of 1,000 in wordings
that these do not have. A simulated person who errs on 2 % labels them. `random` takes texts by chance. `queue` takes 20 at a time as
`review.text` does, by what the zero-shot judge said and, from the second time on, what the student says that was taught by the labels so
far; a tenth are an audit. `queue_alone` has no judge: it begins with 20 random texts.

The students are linear (logistic regression): `words` on runs of two to five letters, which knows nothing beforehand, and `vectors` on
`starter:sentences`, which was trained on sayings about the same things. F1 is that of all three categories together at 0.5.
`fewer_labels` is of `words`, at the F1 that `random` has with 1,280 labels, and beside the fewest random ones that reach it; a number of
labels counts from two rounds in a row on, and where none is enough, one round more than all were.
`queue_alone` is told by its F1 alone, as 640 labels may not be enough for it.
Finished seeds in `--work` are kept. Takes about five minutes a seed on a busy machine.
"""

import argparse
import json
from collections.abc import Iterator, Sequence
from contextlib import closing
from dataclasses import replace
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
from figures import Figures, add_option
from scipy.stats import t
from sklearn.feature_extraction.text import TfidfVectorizer
from sklearn.linear_model import LogisticRegression

from tilth.annotate.review.queue import choose, worth_of
from tilth.annotate.texts.importing import ImportText
from tilth.annotate.texts.queue import weigh
from tilth.annotate.texts.review import label_text, read_truth
from tilth.data.dataset import Dataset
from tilth.data.files import write_beside
from tilth.encoders.sentences import Sentences
from tilth.engine.work import Work
from tilth.events import Events
from tilth.pipeline.words.judging import Judge
from tilth.policy import load_policy
from tilth.samples import Sample
from tilth.starter.protocols.words import CATEGORIES, write_words
from tilth.texts import bare

POLICY = Path(__file__).parents[1] / "configs" / "policies" / "starter.yaml"
NAMES = tuple(CATEGORIES)
ROUND, MOST = 20, 640
RANDOM = (40, 80, 160, 240, 320, 480, 640, 960, 1280, 1920, 2560)
TARGET = 1280
STUDENTS, ARMS = ("words", "vectors"), ("random", "queue", "queue_alone")

Curve = list[tuple[int, float]]


class World:
    """Texts to choose from, with what the judge said of them, and a sealed test; both as two kinds of vectors."""

    def __init__(self, folder: Path, seed: int) -> None:
        if not (folder / "world").exists():
            write_words(folder / "world", labelled=1, seed=seed)
        policy = load_policy(POLICY)
        with closing(Events(folder / "events.jsonl")) as events:
            work = Work(
                name="judge", dataset=Dataset(folder / "dataset"), policy=policy, folder=folder / "files", events=events
            )
            for name in ("test", "corpus"):
                ImportText(path=folder / "world" / f"{name}.jsonl").run(replace(work, name=name))
            work.dataset = Dataset(folder / "dataset")
            judge = Judge()
            work.show_own(judge)
            judge.run(work)
            pool, test = ([*work.dataset.samples(f"split {sign} 'test'")] for sign in ("!=", "="))
        self.policy, self.seed = policy, seed
        self.truth = {
            id_: {name for name, _ in said}
            for id_, said in read_truth(folder / "world" / "truth.jsonl", policy).items()
        }
        self.pool: list[Sample] = [replace(sample, data=b"") for sample in pool]
        self.goal = self.known([self.truth[sample.id] for sample in test])
        texts, tested = [s.text() for s in pool], [s.text() for s in test]
        letters = TfidfVectorizer(analyzer="char_wb", ngram_range=(2, 5), sublinear_tf=True)
        encoder = Sentences("starter:sentences")
        self.vectors: dict[str, tuple[Any, Any]] = {
            "words": (letters.fit_transform(map(bare, texts)), letters.transform(map(bare, tested))),
            "vectors": tuple(np.concatenate([encoder(some) for some in _parts(each)]) for each in (texts, tested)),
        }

    @staticmethod
    def known(said: Sequence[set[str]]) -> Any:
        """Return what texts show as booleans, `(n, 3)`."""
        return np.array([[name in shows for name in NAMES] for shows in said])

    def person(self, rows: Sequence[int]) -> list[set[str]]:
        """Return what the simulated person says of some texts."""
        found = []
        for row in rows:
            sample = self.pool[row]
            said = tuple((name, None) for name in sorted(self.truth[sample.id]))
            done = label_text(sample, said, categories=NAMES, seed=self.seed)
            found.append({str(claim.category) for claim in done.claims if claim.says == "label"})
        return found


def _parts(texts: Sequence[str]) -> Iterator[Sequence[str]]:
    yield from (texts[at : at + 256] for at in range(0, len(texts), 256))


def teach(world: World, student: str, rows: Sequence[int]) -> tuple[float, Any]:
    """Teach a student by the labels of some texts; return its F1 on the test, and its scores of all texts to choose from."""
    own, test = world.vectors[student]
    labels = world.known(world.person(rows))
    scores, tested = (np.zeros((part.shape[0], len(NAMES))) for part in (own, test))
    for k in range(len(NAMES)):
        if labels[:, k].any() and not labels[:, k].all():
            model = LogisticRegression(C=100.0, max_iter=300).fit(own[list(rows)], labels[:, k])
            scores[:, k], tested[:, k] = (model.predict_proba(part)[:, 1] for part in (own, test))
    hit = tested >= 0.5
    return 2 * float((hit & world.goal).sum()) / max(1, int(hit.sum() + world.goal.sum())), scores


def by_chance(world: World, student: str) -> Curve:
    """Return numbers of random labels, each with the F1 that they lead to."""
    order = np.random.default_rng((world.seed, 5)).permutation(len(world.pool)).tolist()
    return [(n, teach(world, student, order[:n])[0]) for n in RANDOM]


def by_queue(world: World, student: str, *, judged: bool) -> Curve:
    """Return the same for labels that the review queue chooses."""
    places = {sample.id: row for row, sample in enumerate(world.pool)}
    rows: list[int] = []
    if not judged:
        rows = np.random.default_rng((world.seed, 5)).permutation(len(world.pool)).tolist()[:ROUND]
    curve: Curve = []
    scores: Any = None
    while len(rows) < MOST:
        if rows:
            f1, scores = teach(world, student, rows)
            curve.append((len(rows), f1))
        taken, shown = set(rows), world.known(world.person(rows)).reshape(-1, len(NAMES)).sum(0)
        left = (
            _seen(sample, None if scores is None else scores[row], judged)
            for row, sample in enumerate(world.pool)
            if row not in taken
        )
        worth = worth_of({name: int(n) for name, n in zip(NAMES, shown, strict=True)})
        why = choose(left, ROUND, audit_share=0.1, seed=world.seed + len(rows), worth=worth, weigh=weigh)
        rows += [places[id_] for id_ in why]
    return [*curve, (len(rows), teach(world, student, rows)[0])]


def _seen(sample: Sample, scores: Any, judged: bool) -> Sample:
    """Return a text as the queue sees it."""
    columns = dict(sample.columns) if judged else {}
    claims = sample.claims if judged else ()
    if scores is not None:
        columns["student.scores"] = {name: float(score) for name, score in zip(NAMES, scores, strict=True)}
    return replace(sample, columns=columns, claims=claims, resolved=None)


def needed(curve: Curve, f1: float) -> int:
    """Return how many labels reach an F1, twice in a row; more than all when none do."""
    for (n, first), (_, second) in pairwise(curve):
        if min(first, second) >= f1:
            return n
    return curve[-1][0] + ROUND


def run(work: Path, seed: int) -> dict[str, dict[str, Curve]]:
    """Measure one seed, or read what was measured."""
    path = work / f"curves-{seed}.json"
    if not path.exists():
        (work / f"seed-{seed}").mkdir(parents=True, exist_ok=True)
        world = World(work / f"seed-{seed}", seed)
        found: dict[str, dict[str, Curve]] = {}
        for student in STUDENTS:
            found[student] = {
                "random": by_chance(world, student),
                "queue": by_queue(world, student, judged=True),
                "queue_alone": by_queue(world, student, judged=False),
            }
            print(seed, student, json.dumps(found[student]), flush=True)
        write_beside(path, json.dumps(found))
    curves: dict[str, dict[str, Curve]] = json.loads(path.read_text())
    return curves


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--work", type=Path, required=True, help="folder of worlds and curves")
    parser.add_argument("--seeds", default="1-3", help="such as 1-3 (default: %(default)s)")
    add_option(parser)
    args = parser.parse_args()
    first, _, last = args.seeds.partition("-")
    seeds = range(int(first), int(last or first) + 1)
    figures = Figures("word_labels", seeds=seeds)
    every = [run(args.work, seed) for seed in seeds]
    found: dict[str, list[float]] = {}
    for student in STUDENTS:
        for curves in every:
            goal = dict(map(tuple, curves[student]["random"]))[TARGET]
            found.setdefault(f"{student}.f1", []).append(goal)
            by_random = min(TARGET, needed(curves[student]["random"], goal))  # fewer may do as well
            found.setdefault(f"{student}.random.labels", []).append(by_random)
            labels = needed(curves[student]["queue"], goal)
            found.setdefault(f"{student}.queue.labels", []).append(labels)
            found.setdefault(f"{student}.queue.fewer_labels", []).append(1 - labels / by_random)
            for arm in ARMS:
                found.setdefault(f"{student}.{arm}.f1_at_320", []).append(dict(map(tuple, curves[student][arm]))[320])
    found["fewer_labels"] = found["words.queue.fewer_labels"]
    for name, values in found.items():
        middle, n = float(np.mean(values)), len(values)
        half = float(t.ppf(0.975, n - 1) * np.std(values, ddof=1) / np.sqrt(n)) if n > 1 else float("nan")
        unit = "labels" if name.endswith(".labels") else "share"
        figures.add(name, middle, unit, ci95=(middle - half, middle + half), n=n)
        print(f"{name:32} {middle:.4f} ({middle - half:.4f} to {middle + half:.4f}) of {n}")
    figures.write(args.results)


if __name__ == "__main__":
    main()
