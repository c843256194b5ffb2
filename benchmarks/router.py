"""How many texts a router spares the language model, and what its decisions cost, beside rules, a few numbers, and asking about everything.

    python benchmarks/router.py --work /tmp/router --seeds 1-3

Each seed is a world of words of its own: 600 labelled texts, 4,000 that `judge` labels, and 1,000 sealed ones. `train.router` learns; the
dear model is `starter:verdict`, asked with the policy. Everything is counted on the sealed texts:

    dear_share   share of them that the dear model is asked about, where at a false-positive rate of 5 % as much as 98 % of the recall of
                 asking about all is to be kept. The cheap scores from which on it is asked, and from which on nobody needs to ask any
                 more, are chosen on one half of the sealed texts and counted on the other, and the other way round
    kept         the recall that was kept there
    recall       of asking about all (`all`), and of the router's chances alone (`cheap`), at 5 % false positives
    cost         of what the router decides by itself, with the prices that it was given: a missed text 100, a false alarm 20, an answer of
                 the dear model 1, a person's look 10; a text, in the mean

The same for cheap scores by chance (`random`), by how many of the words of the policy's definitions a text has (`rule`), and by logistic
regression over the six numbers of a text that the router reads beside its words (`numbers`). Costs are also of asking about all (`all`),
and of asking wherever the rule finds a word (`rule`); `cost_saved` is against the cheaper of these two. Means over seeds with 95 % t
intervals. Takes about two minutes a seed on a core; a finished seed is not run again.
"""

import argparse
import json
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import yaml
from figures import Figures, add_option
from loop import seeds_of
from loop_figures import note
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from tilth.data.dataset import Dataset
from tilth.pipeline.words.routing import PEOPLE, Prices
from tilth.policy import Policy, load_policy
from tilth.runtime.bundles.routing import read_router
from tilth.runtime.stages.route import UNSAFE, Way, read_text
from tilth.texts import bare

Floats = npt.NDArray[np.float64]
Flags = npt.NDArray[np.bool_]

ROOT = Path(__file__).parents[1]
POLICY = ROOT / "configs" / "policies" / "starter.yaml"
FALSE_POSITIVES, KEPT, FLAGGED = 0.05, 0.98, 0.5
LABELS = {"language": "language", "covers": ["gambling_ad", "illicit_sale", "threat"]}
COMMON = {
    "with",
    "that",
    "and",
    "the",
    "for",
    "who",
    "are",
    "not",
    "any",
    "its",
    "what",
    "such",
    "from",
    "into",
    "has",
    "have",
}


def run(work: Path, seed: int) -> Path:
    """Make a world and let a recipe learn in it, or leave what is there; return the run's folder."""
    folder, world = work / f"router-{seed}", work / f"world-{seed}"
    if not (folder / "summary.json").exists():
        call = lambda *words: subprocess.run([sys.executable, *words], check=True, cwd=ROOT)  # noqa: E731
        if not world.exists():
            call("-m", "tilth.starter", "words", "--out", str(world), "--labelled", "600", "--seed", str(seed))
        steps = [
            {"as": "labelled", "import.text": {**LABELS, "path": str(world / "labelled.jsonl")}},
            {"as": "sealed", "import.text": {**LABELS, "path": str(world / "test.jsonl"), "split": "test"}},
            {"as": "corpus", "import.text": {"path": str(world / "corpus.jsonl"), "language": "language"}},
            "dedup.text",
            {"split": {"val_share": 0.2}},
            {"judge": {}},
            {"train.router": {}},
            {"evaluate.text": {}},
        ]
        recipe = {"recipe": "router", "policy": str(POLICY), "seed": seed, "steps": steps}
        (work / f"router-{seed}.yaml").write_text(yaml.safe_dump(recipe, sort_keys=False))
        command = ("-m", "tilth.pipeline.cli.main", "run", str(work / f"router-{seed}.yaml"))
        call(*command, "--runs", str(work), "--name", f"router-{seed}")
    return folder


def recall(scores: Floats, harmful: Flags) -> float:
    """Return the recall at the fixed rate of false positives."""
    line = np.quantile(scores[~harmful], 1 - FALSE_POSITIVES, method="higher")
    return float((scores[harmful] > line).mean())


def spared(cheap: Floats, dear: Floats, harmful: Flags, rng: np.random.Generator) -> tuple[float, float]:
    """Return the share of texts that the dear model is asked about, and the share of its recall that is kept."""
    halves = np.zeros(len(cheap), bool)
    for kind in (harmful, ~harmful):
        halves[rng.permutation(np.flatnonzero(kind))[: int(kind.sum()) // 2]] = True
    shares, kept = [], []
    for learn in (halves, ~halves):
        top = cheap[learn & ~harmful].max()  # above all that is harmless, nobody needs to ask
        told = lambda at, where: np.where(cheap[where] > top, 2.0, np.where(cheap[where] >= at, dear[where], -1.0))  # noqa: B023, E731
        aim = KEPT * recall(dear[learn], harmful[learn])
        enough = [at for at in np.unique(cheap[learn]) if recall(told(at, learn), harmful[learn]) >= aim]
        at = max(enough, default=-np.inf)
        shares.append(((cheap[~learn] >= at) & (cheap[~learn] <= top)).mean())
        kept.append(recall(told(at, ~learn), harmful[~learn]) / recall(dear[~learn], harmful[~learn]))
    return float(np.mean(shares)), float(np.mean(kept))


def cost(ways: list[Way], dear: Floats, harmful: Flags) -> float:
    """Return what a text costs in the mean that goes these ways."""
    p = Prices()
    checked = (
        p.check
        + np.where(harmful & (dear < FLAGGED), p.missed, 0)
        + np.where(~harmful & (dear >= FLAGGED), p.false_alarm, 0)
    )
    of = {
        Way.CLEAR: np.where(harmful, p.missed, 0.0),
        Way.BLOCK: np.where(harmful, 0.0, p.false_alarm),
        Way.PERSON: np.full(len(harmful), p.review),
        Way.CHECK: checked,
    }
    return float(np.mean([of[way][i] for i, way in enumerate(ways)]))


def rule(policy: Policy) -> set[str]:
    """Return the telling words of the definitions of what words decide."""
    told = " ".join(category.definition for category in policy.written)
    return {word for word in re.findall(r"[a-z]{3,}", told.lower()) if word not in COMMON}


def measure(folder: Path, seed: int) -> dict[str, float]:
    """Return the figures of one seed."""
    steps: dict[str, Any] = json.loads((folder / "summary.json").read_text())["steps"]
    policy, rng = load_policy(POLICY), np.random.default_rng(seed)
    router = read_router(folder / steps["train.router"]["artifacts"]["train.router"], policy)
    assert router is not None
    assert router.text is not None
    dataset = Dataset(folder / "dataset")
    rows = map(json.loads, (folder / steps["evaluate.text"]["artifacts"]["evaluate.text.texts"]).open())
    scores = {row["id"]: max(row["scores"].values()) for row in rows}
    sealed = [sample for sample in dataset.samples("split = 'test'") if sample.id in scores]
    texts = [sample.text() for sample in sealed]
    harmful = np.array([bool(sample.truth.categories) for sample in sealed])
    dear = np.array([scores[sample.id] for sample in sealed])
    people = " or ".join(f"state = '{state}'" for state in PEOPLE)
    known = list(dataset.samples(f"split != 'test' and ({people})"))
    words = rule(policy)
    linear = make_pipeline(StandardScaler(), LogisticRegression(max_iter=1000))
    linear.fit([read_text(one.text())[1] for one in known], [bool(one.truth.categories) for one in known])
    hits = np.array([len(words & set(bare(text).split())) for text in texts], float)
    read = [read_text(text) for text in texts]
    cheap = {
        "": np.array([router.text.chances(*one)[UNSAFE] for one in read]),
        "rule.": hits + rng.random(len(texts)) * 0.01,  # those with as many words in any order
        "numbers.": linear.predict_proba([numbers for _, numbers in read])[:, 1],
        "random.": rng.random(len(texts)),
    }
    found: dict[str, float] = {
        "texts": len(texts),
        "harmful": float(harmful.mean()),
        "recall.all": recall(dear, harmful),
    }
    found["recall.cheap"] = recall(cheap[""], harmful)
    for name, each in cheap.items():
        found[f"{name}dear_share"], found[f"{name}kept"] = spared(each, dear, harmful, rng)
    said = [router.of_text(text) for text in texts]
    ways = [one.way if one else Way.CHECK for one in said]
    found |= {f"way.{way}": float(np.mean([one is way for one in ways])) for way in Way}
    found["unread"] = float(np.mean([bool(one and one.why) for one in said]))
    found["missed"] = float(np.mean([way is Way.CLEAR for way, bad in zip(ways, harmful, strict=True) if bad]))
    found["cost"] = cost(ways, dear, harmful)
    found["cost.all"] = cost([Way.CHECK] * len(texts), dear, harmful)
    found["cost.rule"] = cost([Way.CHECK if hit >= 1 else Way.CLEAR for hit in hits], dear, harmful)
    found["cost_saved"] = 1 - found["cost"] / min(found["cost.all"], found["cost.rule"])
    print(f"seed {seed}: " + ", ".join(f"{name} {value:.3f}" for name, value in found.items()), flush=True)
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--work", type=Path, required=True, help="folder of worlds and runs")
    parser.add_argument("--seeds", type=seeds_of, default=[1, 2, 3], help="such as 1-3 (default: 1-3)")
    add_option(parser)
    args = parser.parse_args()
    args.work.mkdir(parents=True, exist_ok=True)
    figures = Figures("router", seeds=args.seeds)
    rows = [measure(run(args.work, seed), seed) for seed in args.seeds]
    for name in rows[0]:
        unit = "texts" if name == "texts" else "cost" if name in ("cost", "cost.all", "cost.rule") else "share"
        note(figures, name, [row[name] for row in rows], unit)
    figures.write(args.results)


if __name__ == "__main__":
    main()
