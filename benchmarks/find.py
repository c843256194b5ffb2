"""How many images must be looked at to find a category: Tilth's ranking, a single prompt against pooled vectors, and chance.

    python benchmarks/find.py --seeds 5
    python benchmarks/find.py --seed 1 --images 100000 --prevalence 0.001 --work runs/find   # rare positives, as `loop.py` asks for

A seed is a corpus of 6,000 images of the starter world that no model was trained on; each category is in about 4 %. Seven ways
to put the corpus into an order, each way adding to the one before it:

    random      as labelling at random does: the expected number of looks
    pooled      one prompt ("a knife") against the mean of an image's query vectors, as one-vector search engines do
    maximum     the same prompt against the most similar query vector, as BLIP-2 was trained
    policy      all prompts and counter-prompts of the policy
    matching    and the matching head on the first 1,500
    verified    and the detector on the first of these, three times as many as there are positives, as the step `verify` does
    deep        and the detector on all that the matching head judged

Prints, over all categories and seeds with 95 % t intervals over seeds: looks until half, four fifths and 95 % of the
positives are found, and recall when as many images are looked at as there are positives; `make figures` draws them. Takes about 3
minutes a seed on two cores. With `--work` what was drawn and embedded stays, and the same command goes on after a stop.
"""

import argparse
import contextlib
import functools
import json
import shutil
import tempfile
from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from pathlib import Path

import numpy as np
from figures import Figures, add_option

from tilth.annotate.grounding import phrases
from tilth.annotate.grounding.model import Finder
from tilth.data.dataset import Dataset
from tilth.encoders.families import open_encoder
from tilth.events import Events
from tilth.images import decode
from tilth.mining.copies.sealed import Sealed
from tilth.mining.corpora.corpus import FolderCorpus
from tilth.mining.search.examples import Examples
from tilth.mining.search.feedback import Feedback
from tilth.mining.search.rank import Question, Searcher, questions
from tilth.mining.search.verify import combined
from tilth.mining.vectors.embed import embed
from tilth.mining.vectors.index import Index
from tilth.mining.vectors.store import Store
from tilth.policy import load_policy
from tilth.starter.world.files import draw
from tilth.starter.world.settings import World

ROOT = Path(__file__).parents[1]
POLICY = ROOT / "configs" / "policies" / "starter.yaml"
IMAGES, DEPTH, CHUNK = 6000, 1500, 500
WAYS = ("random", "pooled", "maximum", "policy", "matching", "verified", "deep")
SHARES = (0.5, 0.8, 0.95)
RECALL = "recall_at_positives"  # when as many images are looked at as there are positives


def _write(job: tuple[Path, range, World]) -> None:
    """Draw images, then write down what they show: a stop between the two draws them again."""
    folder, indices, world = job
    truth = folder / "truth" / f"{indices.start}.json"
    if truth.exists():
        return
    shown = {}
    for index in indices:
        data, row = draw("corpus", index, world)
        (folder / "images" / f"{index}.png").write_bytes(data)
        shown[f"{index}.png"] = [label["category"] for label in row["labels"]]  # type: ignore[attr-defined]
    part = truth.with_suffix(".part")
    part.write_text(json.dumps(shown))
    part.rename(truth)


def write(folder: Path, first: int, count: int, world: World, workers: int) -> dict[str, set[str]]:
    """Draw a corpus, or what is left of it; return the categories of each image."""
    for name in ("images", "truth"):
        (folder / name).mkdir(parents=True, exist_ok=True)
    ends = range(first, first + count, CHUNK)
    jobs = [(folder, range(start, min(start + CHUNK, first + count)), world) for start in ends]
    with ProcessPoolExecutor(workers, mp_context=get_context("spawn")) as pool:
        list(pool.map(_write, jobs))
    shown = [json.loads((folder / "truth" / f"{start}.json").read_text()) for start in ends]
    return {name: set(categories) for part in shown for name, categories in part.items()}


def orders(folder: Path, truth: dict[str, set[str]], seed: int) -> dict[str, dict[str, np.ndarray]]:
    """Return, by way and category, whether the image at each rank shows the category."""
    encoder, corpus, events = open_encoder("starter:retrieval"), FolderCorpus(folder / "images"), Events()
    store = Store(
        folder / "store", model=encoder.name, digest=encoder.digest, queries=encoder.queries, width=encoder.width
    )
    embed(corpus, encoder, store, events)
    dataset = Dataset(folder / "dataset")
    searcher = Searcher(
        corpus,
        encoder,
        store,
        Index(store, digest=encoder.digest),
        Sealed((), 31, events),
        dataset,
        counter_weight=0.5,
        similarity_weight=10.0,
        feedback=Feedback(dataset, corpus, store),
        feedback_weight=10.0,
        examples=Examples(load_policy(POLICY), dataset, encoder, store, 0),
        example_weight=0.1,
        batch_size=64,
    )
    keys = [key for key, _ in store.items()]
    vectors = store.take(np.arange(len(store))).astype(np.float32)
    pooled = vectors.mean(1)
    pooled /= np.linalg.norm(pooled, axis=1, keepdims=True)
    found: dict[str, dict[str, np.ndarray]] = {way: {} for way in WAYS}
    for question in questions(load_policy(POLICY)):
        shown = np.array([question.category in truth[key] for key in keys])
        single = encoder.texts(question.prompts[:1])[0]
        found["random"][question.category] = np.random.default_rng(seed).permutation(shown)
        found["pooled"][question.category] = shown[np.argsort(-pooled @ single, kind="stable")]
        found["maximum"][question.category] = shown[np.argsort(-(vectors @ single).max(1), kind="stable")]
        likely = everything(searcher, question, len(store))
        found["policy"][question.category] = shown[likely]
        judged = searcher.judge(question, likely, DEPTH)
        ranked = np.array([candidate.row for candidate in judged], int)
        ranked = np.concatenate([ranked, likely[~np.isin(likely, ranked)]])
        found["matching"][question.category] = shown[ranked]
        seen = look([folder / "images" / keys[row] for row in ranked[: len(judged)]], question.category)
        scores = np.array([combined(c.order, s) for c, s in zip(judged, seen, strict=True)])
        for way, few in (("verified", min(3 * int(shown.sum()), len(judged))), ("deep", len(judged))):
            best = np.argsort(-scores[:few], kind="stable")
            found[way][question.category] = shown[np.concatenate([ranked[best], ranked[few:]])]
    return found


def look(paths: list[Path], category: str) -> list[float]:
    """Return the detector's best score of a category for each image."""
    best = []
    for start in range(0, len(paths), 16):
        for seen in finder().find([decode(path.read_bytes()) for path in paths[start : start + 16]]):
            best.append(max((one.score for one in seen if one.category == category), default=0.0))
    return best


@functools.cache
def finder() -> Finder:
    return Finder("starter:grounding", phrases.questions(load_policy(POLICY).pictured), floor=0.05)


def everything(searcher: Searcher, question: Question, rows: int) -> np.ndarray:
    return searcher.propose(question, rows, 0)[0]


def scores(hits: np.ndarray) -> dict[str, float]:
    positives = int(hits.sum())
    places = np.flatnonzero(hits) + 1
    looks = {f"looks_{share:g}": float(places[int(np.ceil(share * positives)) - 1]) for share in SHARES}
    return {**looks, RECALL: float(hits[:positives].sum() / positives), "positives": positives}


def one(seed: int, workers: int, count: int, world: World, work: Path | None) -> dict[str, dict[str, dict[str, float]]]:
    with contextlib.ExitStack() as stack:
        kept = work and work / f"find-{seed}"
        folder = kept or Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="find-")))
        truth = write(folder, 100_000 * (seed + 1), count, world, workers)  # beyond the demo's corpus
        found = orders(folder, truth, seed)
        if kept:
            shutil.rmtree(kept)
    by_way: dict[str, dict[str, dict[str, float]]] = {}
    for way, categories in found.items():
        by_way[way] = {category: scores(hits) for category, hits in categories.items()}
    for category, row in by_way["random"].items():  # the expected rank of the k-th of p hits among n
        for share in SHARES:
            k, p = int(np.ceil(share * row["positives"])), row["positives"]
            by_way["random"][category][f"looks_{share:g}"] = k * (count + 1) / (p + 1)
        by_way["random"][category][RECALL] = row["positives"] / count
    return by_way


def interval(values: list[float]) -> tuple[float, float, float]:
    from scipy.stats import t

    mean, n = float(np.mean(values)), len(values)
    half = float(t.ppf(0.975, n - 1) * np.std(values, ddof=1) / np.sqrt(n)) if n > 1 else float("nan")
    return mean, mean - half, mean + half


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--seed", type=int, help="this one only")
    parser.add_argument("--images", type=int, default=IMAGES, help="size of the corpus (default: %(default)s)")
    parser.add_argument("--prevalence", type=float, help="of each kind in it, as of `python -m tilth.starter world`")
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--work", type=Path, help="keep an unfinished seed's images and vectors here")
    add_option(parser)
    args = parser.parse_args()
    seeds: Sequence[int] = range(args.seeds) if args.seed is None else [args.seed]
    world = World() if args.prevalence is None else World(prevalence=args.prevalence)
    figures = Figures("find", seeds=seeds)
    runs = [one(seed, args.workers, args.images, world, args.work) for seed in seeds]
    names = [*[f"looks_{share:g}" for share in SHARES], RECALL]
    table = {
        way: {n: interval([float(np.mean([row[n] for row in run[way].values()])) for run in runs]) for n in names}
        for way in WAYS
    }
    saved, over_pooled = {}, {}
    for way in ("verified", "deep"):
        shares = [[run[way][c]["looks_0.8"] / run["random"][c]["looks_0.8"] for c in run[way]] for run in runs]
        saved[way] = interval([1 - float(np.mean(each)) for each in shares])
        gains = [[run[way][c][RECALL] - run["pooled"][c][RECALL] for c in run[way]] for run in runs]
        over_pooled[way] = interval([float(np.mean(each)) for each in gains])
    by_category = {
        way: {c: float(np.mean([run[way][c][RECALL] for run in runs])) for c in runs[0][way]} for way in WAYS
    }
    print(
        f"{len(seeds)} seeds of {args.images:,} images, {len(runs[0]['verified'])} categories; mean (95 % t interval over seeds)"
    )
    for way, row in table.items():
        print(f"{way:8} " + "  ".join(f"{n} {m:.3g} ({a:.3g} to {b:.3g})" for n, (m, a, b) in row.items()))
    for way in saved:
        (few, *few_ends), (gain, *gain_ends) = saved[way], over_pooled[way]
        print(
            f"{way}: {few:.1%} ({few_ends[0]:.1%} to {few_ends[1]:.1%}) fewer looks than at random for four fifths of the positives"
        )
        print(
            f"{way}: {gain:+.3f} ({gain_ends[0]:+.3f} to {gain_ends[1]:+.3f}) recall above that of the pooled single prompt"
        )
    for way, categories in by_category.items():
        print(
            f"{way:8} recall when as many are looked at as there are: "
            + ", ".join(f"{c} {v:.3f}" for c, v in categories.items())
        )
    for way, row in table.items():
        for name, (middle, *ends) in row.items():
            key = f"looks_{float(name.removeprefix('looks_')):.0%}".rstrip("%") if name != RECALL else RECALL
            unit = "share" if name == RECALL else "images"
            figures.add(f"{way}.{key}", middle, unit, ci95=ends, n=len(seeds))
        for category, value in by_category[way].items():
            figures.add(f"{way}.{RECALL}.{category}", value, "share", n=len(seeds))
    for way, before in (("verified", ""), ("deep", "deep.")):
        figures.add(f"{before}fewer_looks_than_random", saved[way][0], "share", ci95=saved[way][1:], n=len(seeds))
        figures.add(
            f"{before}recall_above_pooled", over_pooled[way][0], "share", ci95=over_pooled[way][1:], n=len(seeds)
        )
    figures.write(args.results)


if __name__ == "__main__":
    main()
