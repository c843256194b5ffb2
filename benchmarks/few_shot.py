"""How good is a classifier of 1 to 16 examples of each category: `train.few_shot` beside Tip-Adapter's formula and a linear probe.

    python benchmarks/few_shot.py --seeds 2-6

A seed is a world that no model was trained on, of known kinds alone, or with two that the encoder has never seen nor their words.
Examples are drawn from its corpus, as many without anything as of each category; all ways see the vectors of `starter:retrieval`. Told
are, on 1,000 other images and with 95 % t intervals over seeds, the mean average precision; how many must be looked at to find half of each
category; and the recall at a precision of 87.6 %: by category, of things alone in their image and of others, and for a probe that was told
of all 2,000 images. About a minute and a half a seed.

    words       the similarity to the prompts, without an example
    policy      the same as `mine` asks: prompts less counter-prompts
    examples    and likeness to the examples, as `mine` adds it with `few_shot`
    tip         Tip-Adapter by its formula, 100 · words + 1.0 · Σ exp(-5.5 · (1 - cos)), as its authors begin their search
    probe       logistic regression for each category on standardised vectors, at the best of three strengths on all of these worlds
    few_shot    the step as it is
"""

import argparse

import numpy as np
import numpy.typing as npt
from figures import Figures, add_option
from loop import seeds_of
from loop_figures import note
from sklearn.linear_model import LogisticRegression
from variants import ROOT

from tilth.encoders.families import Encoder, max_similarity, open_encoder
from tilth.engine.views import to_unit
from tilth.images import decode, resize
from tilth.mining.search.mine import Mine
from tilth.mining.search.rank import questions
from tilth.policy import Policy, load_policy
from tilth.starter.world.files import draw
from tilth.starter.world.settings import World
from tilth.train.artifacts.artifact import About, normalise, preprocessing
from tilth.train.artifacts.few_shot import FewShotClassifier, around
from tilth.train.learn.few_shot import Floats, Shots, fit_best, quality, words_of

ENCODER = "starter:retrieval"
SHOTS = (1, 2, 4, 8, 16)
WORLDS = {"known": ("known", "starter"), "faithful": ("all", "faithful")}  # kinds of the world, and policy
WAYS = ("words", "policy", "examples", "tip", "probe", "few_shot")
CORPUS, TEST, BATCH = 2000, 1000, 64
STRENGTH = 0.01  # of the probe; 0.1 and 1 were worse
PRECISION = 0.876


def encode(model: FewShotClassifier, about: About, part: str, count: int, world: World) -> tuple[Shots, list[str]]:
    """Draw images of a world and return their vectors, and captions."""
    import torch

    vectors, truth, captions = [], [], []
    for start in range(0, count, BATCH):
        rows = [draw(part, index, world) for index in range(start, min(count, start + BATCH))]
        squares = np.stack([resize(decode(data), (about.side, about.side)) for data, _ in rows])
        with torch.inference_mode():
            vectors.append(model.vectors(normalise(to_unit(squares, "cpu"), about)).numpy())
        shown = [{label["category"] for label in row["labels"]} for _, row in rows]  # type: ignore[attr-defined]
        captions += [str(row["caption"]) for _, row in rows]
        truth += [[name in some for name in about.labels] for some in shown]
    table = np.array(truth, bool)
    return Shots(vectors=np.concatenate(vectors), truth=table, sure=np.ones_like(table)), captions


def drawn(corpus: Shots, shots: int, seed: int) -> Shots:
    """Draw so many examples of each category, and of nothing."""
    rng, truth = np.random.default_rng((seed, shots)), corpus.truth
    pools = [np.flatnonzero(truth[:, k]) for k in range(truth.shape[1])] + [np.flatnonzero(truth.sum(1) == 0)]
    return corpus.of(np.unique(np.concatenate([rng.choice(pool, shots, replace=False) for pool in pools])))


def tip_adapter(some: Shots, test: Shots, texts: Floats) -> Floats:
    """Return the logits of Tip-Adapter's formula."""
    cache = np.exp(-5.5 * (1 - test.flat @ some.flat.T)) @ some.truth.astype(np.float32)
    return np.asarray(100 * max_similarity(test.vectors, texts) + cache, np.float32)


def probe(some: Shots, test: Shots) -> Floats:
    """Return the logits of a logistic regression for each category."""
    mean, spread = some.flat.mean(0), some.flat.std(0).mean()
    found = [
        LogisticRegression(C=STRENGTH, max_iter=2000)
        .fit((some.flat - mean) / spread, right)
        .decision_function((test.flat - mean) / spread)
        for right in some.truth.T
    ]
    return np.asarray(np.stack(found, 1), np.float32)


def mined(encoder: Encoder, policy: Policy, some: Shots, test: Shots) -> tuple[Floats, Floats]:
    """Return what `mine` goes by without a classifier, and with likeness to the examples, with its weights."""
    centre = test.vectors.mean(0)
    own, words, alike = unit(test.vectors - centre), [], []
    for k, question in enumerate(questions(policy)):
        ours, theirs = (
            max_similarity(test.vectors, encoder.texts(said)).max(1) for said in (question.prompts, question.counters)
        )
        words.append(ours - Mine.counter_weight * np.maximum(0, theirs - ours))
        prototype = unit((some.vectors[some.shown[:, k]] - centre).mean(0))
        alike.append(np.einsum("nqd,qd->n", own, prototype) / own.shape[1])
    return np.stack(words, 1), np.stack(words, 1) + Mine.example_weight * np.stack(alike, 1)


def unit(values: Floats) -> Floats:
    return np.asarray(values / np.maximum(np.linalg.norm(values, axis=-1, keepdims=True), 1e-6), np.float32)


def looks(logits: Floats, test: Shots) -> float:
    """Return how many images are looked at until half of what there is is found, the mean over categories."""
    found = []
    for said, right in zip(logits.T, test.truth.T, strict=True):
        places = np.flatnonzero(right[np.argsort(-said, kind="stable")]) + 1
        found.append(places[-(-len(places) // 2) - 1])
    return float(np.mean(found))


def found_at(logits: Floats, test: Shots, precision: float) -> npt.NDArray[np.bool_]:
    """Return what is found of what there is, `(n, k)`, where the most is found of each category at a precision."""
    found = np.zeros_like(test.truth)
    for k, (said, right) in enumerate(zip(logits.T, test.truth.T, strict=True)):
        order = np.argsort(-said, kind="stable")
        hits = np.cumsum(right[order])
        fine = np.flatnonzero(hits / np.arange(1, len(hits) + 1) >= precision)
        found[order[: fine.max() + 1 if len(fine) else 0], k] = True
    return np.asarray(found & test.truth)


def recall_at(logits: Floats, test: Shots, precision: float) -> float:
    """Return the mean over categories of the largest recall at a precision."""
    return float((found_at(logits, test, precision).sum(0) / test.truth.sum(0)).mean())


def measure(world: str, seed: int) -> dict[str, float]:
    """Return the figures of one world of one seed."""
    kinds, name = WORLDS[world]
    policy = load_policy(ROOT / "configs" / "policies" / f"{name}.yaml")
    pictured = Policy(**{**policy.model_dump(), "categories": [c for c in policy.pictured if not c.is_signpost]})
    labels = [category.name for category in pictured.pictured]
    side, mean, std = preprocessing(ENCODER)
    about = About(kind="classifier", base=ENCODER, labels=labels, side=side, mean=mean, std=std)
    model, settings = around(ENCODER, len(labels)).eval(), World(seed=seed, kinds=kinds)
    corpus, _ = encode(model, about, "corpus", CORPUS, settings)
    test, captions = encode(model, about, "test", TEST, settings)
    texts = words_of(ENCODER, pictured, "cpu")
    assert texts is not None, "this encoder reads"
    told: dict[str, float] = {}
    encoder = open_encoder(ENCODER, "cpu")
    for shots in SHOTS:
        some = drawn(corpus, shots, seed)
        by_policy, by_examples = mined(encoder, pictured, some, test)
        logits = {
            "policy": by_policy,
            "examples": by_examples,
            "words": max_similarity(test.vectors, texts),
            "tip": tip_adapter(some, test, texts),
            "probe": probe(some, test),
            "few_shot": fit_best("auto", some, texts, seed)[0](test.vectors, texts),
        }
        told |= {f"{way}.{shots}": quality(logits[way], test) for way in WAYS}
        told |= {f"{way}.looks_{shots}": looks(logits[way], test) for way in ("policy", "examples", "few_shot")}
        told |= {f"{way}.recall_{shots}": recall_at(logits[way], test, PRECISION) for way in WAYS}
    # what is missed with the most examples, and with a label on every image of the corpus
    found, company = found_at(logits["few_shot"], test, PRECISION), np.array([" and " in one for one in captions])
    for k, label in enumerate(labels):
        told[f"missed.{label}"] = 1 - float(found[:, k].sum() / test.truth[:, k].sum())
    for key, some_ in (("alone", ~company), ("in_company", company)):
        told[f"missed.{key}"] = 1 - float(found[some_].sum() / test.truth[some_].sum())
    told["probe.recall_all"] = recall_at(probe(corpus, test), test, PRECISION)
    for rival in ("tip", "probe"):
        told[f"over_{rival}"] = float(np.mean([told[f"few_shot.{n}"] - told[f"{rival}.{n}"] for n in SHOTS]))
    return told


def main() -> None:
    """Measure, seed by seed."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=seeds_of, default="2-6", help="such as 2-6 or 1,3 (default: %(default)s)")
    add_option(parser)
    asked = parser.parse_args()
    figures = Figures("few_shot", seeds=asked.seeds)
    for world in WORLDS:
        found = []
        for seed in asked.seeds:
            found.append(measure(world, seed))
            print(f"{world} {seed}: " + ", ".join(f"{k} {v:.3f}" for k, v in found[-1].items()), flush=True)
        for key in found[0]:
            note(figures, f"{world}.{key}", [one[key] for one in found], "images" if ".looks_" in key else "share")
        if world == "faithful":
            for rival in ("tip", "probe"):
                note(figures, f"over_{rival}", [one[f"over_{rival}"] for one in found])
        else:
            note(figures, "recall_at_p876", [one[f"few_shot.recall_{SHOTS[-1]}"] for one in found])
    print(figures.write(asked.results).read_text(), end="")


if __name__ == "__main__":
    main()
