"""What finished runs of `loop.py` say: scores, gaps, what is saved and what each step adds, by mean and interval over seeds.

A figure is taken over the seeds that have all runs that it needs; it is left out where no seed has. Differences are taken seed by seed.
"""

import json
from collections.abc import Callable, Iterable, Mapping, Sequence
from datetime import datetime
from pathlib import Path
from typing import Any

import numpy as np
from figures import Figures
from variants import CURVE, NEW, WORLDS, point

METRICS = ("recall_at_fpr05", "f1", "map50")
SHORT = {"recall_at_fpr05": "recall", "f1": "f1", "map50": "map50"}
SAVED_IN = {  # world and variant
    "saved": ("faithful", "loop"),
    "known_saved": ("known", "loop"),
    "weak_saved": ("weak", "loop"),
    "few_saved": ("faithful", "few"),
    "known_few_saved": ("known", "few"),
}
STEPS = {  # world, with it, without it
    "clean": ("copies", "loop", "no-clean"),
    "generate": ("styles", "generate", "loop"),
    "verify": ("weak", "loop", "no-verify"),
    "rounds": ("faithful", "loop", "one-round"),
}
PLATEAU = 0.95  # of the best score

Found = Mapping[tuple[str, str, int], Mapping[str, Any]]
Summary = Mapping[str, Any]


def interval(values: Sequence[float]) -> tuple[float, list[float]]:
    """Return mean and 95 % t interval over seeds."""
    from scipy.stats import t

    n, mean = len(values), float(np.mean(values))
    half = float(t.ppf(0.975, n - 1) * np.std(values, ddof=1) / np.sqrt(n)) if n > 1 else float("nan")
    return mean, [mean - half, mean + half]


def note(figures: Figures, key: str, values: Iterable[float | None], unit: str = "share") -> None:
    """Note the mean of the seeds and its interval; of no seeds, nothing."""
    told = [value for value in values if value is not None and not np.isnan(value)]
    if told:
        mean, ends = interval(told)
        figures.add(key, mean, unit, ci95=ends, n=len(told))


class Runs:
    """Finished runs, asked seed by seed.

    Args:
        found: What they left, by world, variant and seed.
    """

    def __init__(self, found: Found) -> None:
        self.found = found
        self.seeds = sorted({seed for _, _, seed in found})

    def over(self, said: Callable[..., float | None], *runs: tuple[str, str]) -> list[float | None]:
        """Return what is said of the summaries of some runs, of each seed that has all of them."""
        keys = [[(*run, seed) for run in runs] for seed in self.seeds]
        return [said(*(self.found[k]["summary"] for k in some)) for some in keys if all(k in self.found for k in some)]


def score(summary: Summary, metric: str, of: str = "final") -> float:
    """Return a score of the sealed test."""
    return float(summary[of][metric]["mean"])


def of_new(summary: Summary, metric: str) -> float:
    """Return the mean score of the kinds that no model knew."""
    return float(np.mean([summary["final"]["per_category"][name][metric]["mean"] for name in NEW]))


def spent(summary: Summary, what: str) -> float:
    """Return the `human_actions` or `hours` of all reviews."""
    facts = {name: step["facts"] for name, step in summary["steps"].items() if not name.startswith("random")}
    return sum(float(told[what]) for told in facts.values() if "human_actions" in told)


def curve_of(summary: Summary, metric: str, what: str) -> dict[float, float]:
    """Return the score of random labelling by what it took."""
    names = [point(actions) for actions in CURVE]
    took = [summary["steps"][f"random.{name}"]["facts"][what] for name in names]
    return {float(t): score(summary, metric, f"random_{name}") for t, name in zip(took, names, strict=True)}


def cost(curve: Mapping[float, float], wanted: float) -> tuple[float, bool]:
    """Return what it takes at random to reach a score, by a straight line over the logarithm, and whether even everything was too little.

    What is less than the curve's first point costs as much as that.

    >>> cost({100: 0.2, 400: 0.4}, 0.3), cost({100: 0.2, 400: 0.4}, 0.5)
    ((200.0, False), (400, True))
    """
    points = sorted(curve.items())
    best = np.maximum.accumulate([v for _, v in points])
    if wanted > best[-1]:
        return points[-1][0], True
    # a score that several reach is reached with the least
    first = [i for i in range(len(best)) if i == 0 or best[i] > best[i - 1]]
    return round(float(np.exp(np.interp(wanted, best[first], np.log([points[i][0] for i in first])))), 6), False


def note_all(found: Found, figures: Figures) -> None:
    """Note everything that is known."""
    runs = Runs(found)
    headline(runs, figures)
    for prefix in SAVED_IN:
        saved(runs, prefix, figures)
    added(runs, figures)
    rare(runs, figures)
    learning(found, figures)
    tables(runs, figures)
    if found:
        figures.add("commits", len({told["commit"] for told in found.values()}), "commits", n=len(found))


def headline(runs: Runs, figures: Figures) -> None:
    """Tell the scores of the known world, and how far perfect labels are ahead in the faithful one."""
    for metric in METRICS:
        note(figures, metric, runs.over(lambda s, m=metric: score(s, m), ("known", "loop")))
    both = (("faithful", "loop"), ("faithful", "perfect"))
    for metric, short in SHORT.items():
        gap = runs.over(lambda own, best, m=metric: score(best, m) - score(own, m), *both)
        note(figures, f"faithful_{short}_gap", gap)
        gap = runs.over(lambda own, best, m=metric: of_new(best, m) - of_new(own, m), *both)
        note(figures, f"new_kinds_{short}_gap", gap)


def saved(runs: Runs, prefix: str, figures: Figures) -> None:
    """Tell which share of random labelling the loop saves at equal score; where not even all of the corpus reaches it, all counts."""
    world, variant = SAVED_IN[prefix]
    pair, name = (
        ((world, variant), (WORLDS[world].curve, "random")),
        world if variant == "loop" else f"{world}.{variant}",
    )
    for what, middle in (("human_actions", ""), ("hours", "hours_")):
        for metric in METRICS:

            def share(own: Summary, other: Summary, m: str = metric, w: str = what) -> float:
                return 1 - spent(own, w) / cost(curve_of(other, m, w), score(own, m))[0]

            note(figures, f"{prefix}_{middle}{metric}", runs.over(share, *pair))
    for metric in METRICS:
        needs = runs.over(
            lambda own, other, m=metric: cost(curve_of(other, m, "human_actions"), score(own, m))[0], *pair
        )
        note(figures, f"{name}.equal.{metric}", needs, "actions")
        beyond = runs.over(
            lambda own, other, m=metric: cost(curve_of(other, m, "human_actions"), score(own, m))[1], *pair
        )
        if beyond:
            figures.add(f"{name}.beyond.{metric}", sum(map(bool, beyond)), "seeds", n=len(beyond))


def added(runs: Runs, figures: Figures) -> None:
    """Tell what people add, and what each step adds in its world."""
    for metric, short in SHORT.items():
        pair = (("faithful", "loop"), ("faithful", "alone"))
        note(figures, f"people_add_{short}", runs.over(lambda a, b, m=metric: score(a, m) - score(b, m), *pair))
        for step, (world, whole, less) in STEPS.items():
            gain = runs.over(lambda a, b, m=metric: score(a, m) - score(b, m), (world, whole), (world, less))
            note(figures, f"step_{step}" if short == "recall" else f"step_{step}_{short}", gain)


def rare(runs: Runs, figures: Figures) -> None:
    """Tell how many looks finding saves where positives are rare, and what it finds beyond one prompt on pooled vectors."""
    for key, theirs in (("rare_fewer", "fewer_looks_than_random"), ("rare_recall_gain", "recall_above_pooled")):
        note(figures, key, runs.over(lambda s, t=theirs: float(s["figures"][t]["value"]), ("rare", "find")))


def seconds_to_plateau(events: Path, step: str) -> float | None:
    """Return the seconds of a training step until held-back images scored 95 % of the best; None where nobody looked."""
    began, seen = None, list[tuple[float, float]]()
    for row in map(json.loads, events.read_text().splitlines()):
        at = datetime.fromisoformat(row["time"]).timestamp()
        if row.get("event") == "started" and row.get("step") == step:
            began, seen = at, []
        elif row.get("event") == "progress" and row.get("label") == f"{step}: train" and "val_quality" in row:
            seen.append((at, float(row["val_quality"])))
    if began is None or not seen:
        return None
    best = max(quality for _, quality in seen)
    return next(at for at, quality in seen if quality >= PLATEAU * best) - began


def trimmed(summary: Summary, events: Path) -> dict[str, Any]:
    """Return what the figures ask of a run, which is little enough to be kept for good.

    Args:
        summary: That the run left.
        events: Of the run, which tell when it had learned.
    """
    if "figures" in summary:
        return {"figures": summary["figures"]}
    names = ("final", "baseline", *(f"random_{point(actions)}" for actions in CURVE))
    told: dict[str, Any] = {name: _scores(summary[name]) for name in names if name in summary}
    for name in told:
        each = summary[name].get("per_category", {})
        told[name]["per_category"] = {new: _scores(each[new]) for new in NEW if new in each}
    facts = {name: step.get("facts", {}) for name, step in summary["steps"].items()}
    told["steps"] = {
        name: {"facts": {what: own[what] for what in ("human_actions", "hours") if what in own}}
        for name, own in facts.items()
        if "human_actions" in own
    }
    took = [seconds_to_plateau(events, f"final.{model}") for model in ("classifier", "detector")]
    return {**told, "seconds_to_plateau": None if None in took else sum(s for s in took if s is not None)}


def _scores(told: Mapping[str, Any]) -> dict[str, Any]:
    return {metric: {"mean": told[metric]["mean"]} for metric in METRICS}


def learning(found: Found, figures: Figures) -> None:
    """Tell how long both models take to learn perfect labels, which no student has begun: gathering the images counts."""
    took = [
        told["summary"]["seconds_to_plateau"]
        for (world, variant, _), told in found.items()
        if (world, variant) == ("known", "perfect")
    ]
    note(figures, "train_to_plateau_s", took, "s")


def tables(runs: Runs, figures: Figures) -> None:
    """Tell the scores and the cost of each variant, and the curves."""
    for world, variant in dict.fromkeys((world, variant) for world, variant, _ in runs.found):
        if variant == "find":
            continue
        if variant == "random":
            for name in map(point, CURVE):
                at = f"{world}.random.{name}"
                for metric in METRICS:
                    told = runs.over(lambda s, m=metric, n=name: score(s, m, f"random_{n}"), (world, variant))
                    note(figures, f"{at}.{metric}", told)
                for what, unit in (("human_actions", "actions"), ("hours", "hours")):
                    told = runs.over(lambda s, w=what, n=name: s["steps"][f"random.{n}"]["facts"][w], (world, variant))
                    note(figures, f"{at}.{what}", told, unit)
            continue
        key = f"{world}.{variant.replace('-', '_')}"
        for metric in METRICS:
            note(figures, f"{key}.{metric}", runs.over(lambda s, m=metric: score(s, m), (world, variant)))
            if variant == "loop" and WORLDS[world].baseline:
                told = runs.over(lambda s, m=metric: score(s, m, "baseline"), (world, variant))
                note(figures, f"{world}.baseline.{metric}", told)
            if world == "faithful":
                told = runs.over(lambda s, m=metric: of_new(s, m), (world, variant))
                note(figures, f"{key}.new_kinds.{metric}", told)
        if variant not in ("alone", "perfect"):
            for what, unit in (("human_actions", "actions"), ("hours", "hours")):
                note(figures, f"{key}.{what}", runs.over(lambda s, w=what: spent(s, w), (world, variant)), unit)
