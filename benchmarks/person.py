"""How much body, clothing and scene add to a face, on drawn people whom nothing was learned from.

    python benchmarks/person.py --seeds 0-4 --work …/person

A seed makes up its own people: 160 to learn from, 200 to calibrate with, 200 to measure with; each of the latter is known in two of four
lists of 100 and a stranger to the others. A seed that is done lies in the work folder and is not done again.

    over_face          points of recall at 98 % precision over the face alone, through the same kind of fusion
    over_zmean         over the plain mean of the z-scores of the same cues
    precision_holds    share of seeds in which the threshold that calibration chose for 98 % keeps 97 to 99 % on the test's people
    missing_cue_cost   points of recall that are lost when one cue is taken from every picture, the mean over the four
"""

import argparse
import json
import math
import shutil
import time
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
from figures import Figures
from loop_figures import interval

from tilth.data.files import write_beside
from tilth.starter.persons.files import People
from tilth.train.persons.calibrating import Group, group_of, learn_from, promised, turns, vectors_of
from tilth.train.persons.cues import CUES, Seen, see
from tilth.train.persons.embedder import Backbone, fresh
from tilth.train.persons.fusion import UNKNOWN, Fusion, decided
from tilth.train.persons.learning import Lessons, teach
from tilth.train.persons.scores import Compared, Pictures, mean_z

SIDE, WIDTH, ASKED = 32, 64, 0.98
LESSONS = Lessons(pretrain=40, steps=900)
WORLD = {"train": 160, "calibration": 200, "test": 200, "albums": 6, "references": 3, "queries": 6, "shots": 1}


def learned(seed: int, work: Path) -> tuple[Pictures, Pictures, list[dict[str, Any]], list[dict[str, Any]]]:
    """Draw a world, teach the four networks, and return the vectors and rows of calibration and test."""
    import torch

    torch.set_num_threads(1)
    rows, seen = [], list[Seen]()
    for row, shot in People(**WORLD, seed=seed).rows():
        rows.append({**row, "lies": shot.lies})
        seen.append(see(shot.image, shot.boxes, SIDE))
    networks = {}
    for number, cue in enumerate(CUES):
        own = [k for k, r in enumerate(rows) if r["split"] in ("train", "unlabelled") and cue in seen[k].crops]
        network = fresh(Backbone(), SIDE, WIDTH, seed)
        crops = np.stack([seen[k].crops[cue].image for k in own])
        checkpoints = work / f"checkpoints-{seed}"
        teach(
            network,
            cue,
            crops,
            [rows[k]["person"] for k in own],
            LESSONS,
            checkpoints,
            seed=seed * 7 + number,
            device="cpu",
            advance=lambda n, **k: None,
        )
        networks[cue] = network
    found: list[Any] = []
    for split in ("calibration", "test"):
        at = [k for k, r in enumerate(rows) if r["split"] == split]
        found.append((vectors_of([seen[k] for k in at], networks, WIDTH, "cpu"), [rows[k] for k in at]))
    shutil.rmtree(work / f"checkpoints-{seed}", ignore_errors=True)
    (calibration, its), (test, tests) = found
    return calibration, test, its, tests


def answers(group: Group, fusion: Fusion | None, seed: int, counted: Fusion) -> dict[str, np.ndarray[Any, Any]]:
    """Ask for every picture in turn; by the plain mean of z-scores where there is no fusion."""
    told: dict[str, list[Any]] = {"score": [], "right": [], "known": [], "person": []}
    for one in turns(group, seed):
        z = counted.strangers.z(one.compared)
        best, score = decided(fusion.chances(one.compared) if fusion else mean_z(z, one.compared.both))
        for name, value in zip(told, (score, best == one.who, one.who != UNKNOWN, group.who), strict=True):
            told[name].append(value)
    return {name: np.concatenate(values) for name, values in told.items()}


def recall_at(told: dict[str, np.ndarray[Any, Any]], precision: float) -> float:
    """Return the largest recall at which so many answers are right."""
    order = np.argsort(-told["score"], kind="stable")
    right = np.cumsum(told["right"][order])
    enough = np.flatnonzero(right / np.arange(1, len(order) + 1) >= precision)
    return float(right[enough[-1]] / told["known"].sum()) if len(enough) else 0.0


def outvoted(group: Group, fusion: Fusion, threshold: float, seed: int) -> tuple[int, int]:
    """Exchange a cue of pictures that two others are right about with somebody else's; count how often that person is then recognised."""
    rng, wrong, asked = np.random.default_rng((seed, 5)), 0, 0
    for one in turns(group, seed):
        z, of = fusion.strangers.z(one.compared), one.compared
        for n in np.flatnonzero(one.who != UNKNOWN):
            true = int(one.who[n])
            ok = [c for c in range(len(CUES)) if of.both[n, true, c] and z[n, true, c] >= 1.5]
            if len(ok) < 3:
                continue
            lie, other = int(rng.choice(ok)), int((true + rng.integers(1, z.shape[1])) % z.shape[1])
            cosines = of.cosines[n : n + 1].copy()
            cosines[0, [true, other], lie] = cosines[0, [other, true], lie]
            best, chance = decided(
                fusion.chances(Compared(cosines=cosines, both=of.both[n : n + 1], quality=of.quality[n : n + 1]))
            )
            asked, wrong = asked + 1, wrong + int(best[0] == other and chance[0] >= threshold)
    return wrong, asked


def measure(seed: int, work: Path) -> dict[str, Any]:
    """Measure one seed."""
    began = time.process_time()
    calibration, test, its, tests = learned(seed, work)
    trained_s = time.process_time() - began
    return {
        "seed": seed,
        "trained_s": trained_s,
        **judged(calibration, test, its, tests, seed),
        "cpu_s": time.process_time() - began,
    }


def judged(
    calibration: Pictures, test: Pictures, its: list[dict[str, Any]], tests: list[dict[str, Any]], seed: int
) -> dict[str, Any]:
    """Learn a fusion from calibration people, and measure it on the test's."""
    person, role = ([row[name] for row in its] for name in ("person", "role"))
    group = group_of(calibration, person, role)
    fusion, face = learn_from(group, seed), learn_from(group, seed, ("face",))
    told = promised(group, fusion, ASKED, seed)
    test_of = [[row[name] for row in tests] for name in ("person", "role")]
    there = group_of(test, *test_of)
    ours = answers(there, fusion, seed, fusion)
    recall = {"fusion": recall_at(ours, ASKED), "face": recall_at(answers(there, face, seed, fusion), ASKED),
              "zmean": recall_at(answers(there, None, seed, fusion), ASKED)}  # fmt: skip
    no_quality = answers(
        group_of(flat(test), *test_of), learn_from(group_of(flat(calibration), person, role), seed), seed, fusion
    )
    recall["without_quality"] = recall_at(no_quality, ASKED)
    missing = {}
    for cue in CUES:
        compared = there.compared
        both = compared.both.copy()
        both[..., CUES.index(cue)] = False
        less = Group(
            names=there.names,
            compared=Compared(cosines=compared.cosines, both=both, quality=compared.quality),
            who=there.who,
        )
        own = learn_from(group, seed, tuple(c for c in CUES if c != cue))
        missing[cue] = {
            "dropped": recall_at(answers(less, fusion, seed, fusion), ASKED),
            "never_had": recall_at(answers(less, own, seed, fusion), ASKED),
        }
    at = told.threshold if told.threshold is not None else math.inf
    taken = ours["score"] >= at
    wrong, asked = outvoted(there, fusion, at, seed)
    return {
        "recall": recall, "missing": missing, "promise": asdict(told), "limit": fusion.limit,
        "precision": float(ours["right"][taken].mean()) if taken.any() else None, "taken": int(taken.sum()),
        "recall_at_threshold": float((ours["right"] & taken).sum() / ours["known"].sum()),
        "strangers_taken": float((taken & ~ours["known"]).sum() / (~ours["known"]).sum()), "outvoted": [wrong, asked],
    }  # fmt: skip


def flat(pictures: Pictures) -> Pictures:
    """Return pictures of which nobody knows how good they are."""
    return Pictures(vectors=pictures.vectors, seen=pictures.seen, quality=np.ones_like(pictures.quality))


def note(rows: list[dict[str, Any]], seeds: list[int]) -> None:
    """Write the figures."""
    figures = Figures("person", seeds=seeds)

    def add(key: str, values: list[float], unit: str = "share") -> None:
        mean, ends = interval(values)
        figures.add(key, mean, unit, ci95=ends or None, n=len(values))

    recall = {name: [row["recall"][name] for row in rows] for name in rows[0]["recall"]}
    for name, values in recall.items():
        add(f"recall.{name}", values)
    for key, name in (("over_face", "face"), ("over_zmean", "zmean"), ("over_no_quality", "without_quality")):
        add(key, [a - b for a, b in zip(recall["fusion"], recall[name], strict=True)])
    precisions = [row["precision"] for row in rows]
    figures.add(
        "precision_holds",
        float(np.mean([p is not None and 0.97 <= p <= 0.99 for p in precisions])),
        "share",
        n=len(rows),
    )
    figures.add(
        "precision_at_least", float(np.mean([p is not None and p >= 0.97 for p in precisions])), "share", n=len(rows)
    )
    figures.add(
        "promised", float(np.mean([row["promise"]["threshold"] is not None for row in rows])), "share", n=len(rows)
    )
    if kept := [p for p in precisions if p is not None]:
        add("precision", kept)
        figures.add("precision_lowest", min(kept), "share", n=len(kept))
        figures.add("precision_highest", max(kept), "share", n=len(kept))
        add("recall_at_threshold", [row["recall_at_threshold"] for row in rows])
        add("strangers_taken", [row["strangers_taken"] for row in rows])
    cost = {cue: [row["recall"]["fusion"] - row["missing"][cue]["dropped"] for row in rows] for cue in CUES}
    for cue, values in cost.items():
        add(f"missing.{cue}", values)
        add(
            f"missing_beyond.{cue}", [row["missing"][cue]["never_had"] - row["missing"][cue]["dropped"] for row in rows]
        )
    add("missing_cue_cost", [float(np.mean(some)) for some in zip(*cost.values(), strict=True)])
    add(
        "missing_beyond.all",
        [float(np.mean([m["never_had"] - m["dropped"] for m in row["missing"].values()])) for row in rows],
    )
    figures.add(
        "outvoted",
        sum(r["outvoted"][0] for r in rows) / max(1, sum(r["outvoted"][1] for r in rows)),
        "share",
        n=sum(r["outvoted"][1] for r in rows),
    )
    add("cpu_s", [row["cpu_s"] for row in rows], "s")
    figures.write()


def main() -> None:
    """Measure what is not measured yet, and write the figures."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", default="0-4", help="such as 0-4 (default: %(default)s)")
    parser.add_argument("--work", type=Path, required=True, help="where finished seeds lie")
    parser.add_argument(
        "--dry", action="store_true", help="print, and write no figures; for seeds that things are tuned on"
    )
    arguments = parser.parse_args()
    first, _, last = arguments.seeds.partition("-")
    seeds = list(range(int(first), int(last or first) + 1))
    arguments.work.mkdir(parents=True, exist_ok=True)
    rows = []
    for seed in seeds:
        path = arguments.work / f"seed-{seed}.json"
        if not path.exists():
            write_beside(path, json.dumps(measure(seed, arguments.work)))
        rows.append(json.loads(path.read_text()))
        print(json.dumps(rows[-1]), flush=True)
    if not arguments.dry:
        note(rows, seeds)


if __name__ == "__main__":
    main()
