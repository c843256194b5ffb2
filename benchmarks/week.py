"""A simulated week of `tilth retrain`: seven nights, a policy that grows, a style that comes, a service that is down, and a bad batch.

    python benchmarks/week.py --kills 20
    python benchmarks/week.py --small --runs runs/week-small       # with next to no images and steps, in minutes

The recipe is `configs/recipes/nightly.yaml` over one dataset. Every night images come into the corpus; on the third the policy has two
kinds more, which no model knows; from the fifth on they come in a style more; on the fourth the service that people label with is down
(exit code 75, and the next night does its work); on the sixth somebody hands in a thousand images with wrong labels as a person's, which
the gate must refuse: the operator rolls the dataset back. Beside it the same nights without people, and the first night's model for ever.
Every night's champion is judged by the whole policy on one sealed test with all kinds and styles, which is what the figures are of.

The same command goes on after the nights that are over. Kills fall anywhere, half SIGTERM and half SIGKILL, and the night's command is
given again. *Lost* is an image of which a person said something, by any table that was ever written, and of which the last version does
not know it, but for what was rolled back.
"""

import argparse
import json
import os
import random
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml
from figures import Figures, add_option

from tilth.data.dataset import Dataset
from tilth.data.files import write_beside
from tilth.engine.work import Work, utc_now
from tilth.events import Events
from tilth.pipeline.steps.retraining import EvaluateBundle
from tilth.policy import load_policy
from tilth.runtime.bundles.champion import Champion

ROOT = Path(__file__).parents[1]
RECIPE = ROOT / "configs" / "recipes" / "nightly.yaml"
POLICY = ROOT / "configs" / "policies" / "faithful.yaml"
NEW = ("syringe", "lighter")  # are not in the policy before GROWS
NIGHTS, GROWS, DOWN, STYLE, BAD = 7, 3, 4, 5, 6
METRICS = ("recall_at_fpr05", "f1", "map50")
WAIT_S = 3600
NEVER = "never retrained"


@dataclass(frozen=True, kw_only=True)
class Size:
    """How much of everything.

    Args:
        a_night: Images that come each night.
        test: Sealed images.
        bad: Images of the bad batch.
        steps: Of trainings, instead of the recipe's; 0 leaves them.
    """

    a_night: int = 700
    test: int = 1000
    bad: int = 1000
    steps: int = 0


SMALL = Size(a_night=60, test=60, bad=60, steps=8)


@dataclass(kw_only=True)
class Course:
    """One way to go through the week.

    Args:
        folder: Of its data and runs.
        people: Whether people are asked.
        scores: Of the champion after each night.
        outcomes: Of each night.
        kills: So many.
    """

    folder: Path
    people: bool
    scores: list[dict[str, Any]] = field(default_factory=list)
    outcomes: list[dict[str, Any]] = field(default_factory=list)
    kills: int = 0

    def load(self) -> None:
        """Go on after the nights that are over."""
        path = self.folder / "course.json"
        if path.exists():
            told = json.loads(path.read_text())
            self.scores, self.outcomes, self.kills = told["scores"], told["outcomes"], told["kills"]

    def save(self) -> None:
        """Note the nights that are over."""
        told = {"scores": self.scores, "outcomes": self.outcomes, "kills": self.kills}
        write_beside(self.folder / "course.json", json.dumps(told))


def world(folder: Path, size: Size, seed: int) -> None:
    """Write what comes night by night, the sealed test, what the simulated people know, and the bad batch."""
    if (folder / "truth.jsonl").exists():
        return
    before, after = (STYLE - 1) * size.a_night, (NIGHTS - STYLE + 1) * size.a_night
    common = ["--kinds", "all", "--given", "8" if size.steps == 0 else "4"]
    parts = {
        "first": [*common, "--labelled", "60", "--corpus", str(before), "--test", "1", "--styles", "photo,cartoon,sketch"],
        "later": [*common, "--labelled", "16", "--corpus", str(after), "--test", str(size.test)],
        "bad": [*common, "--labelled", "16", "--corpus", str(size.bad), "--test", "1"],
    }  # fmt: skip
    for number, (name, words) in enumerate(parts.items()):
        run = ["-m", "tilth.starter", "world", "--out", str(folder / name), *words, "--seed", str(1000 * seed + number)]
        subprocess.run([sys.executable, *run], check=True, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    (folder / "labelled").symlink_to("first/labelled")
    (folder / "test").symlink_to("later/test")
    night = 1
    for name, nights in (("first", STYLE - 1), ("later", NIGHTS - STYLE + 1)):
        files = sorted((folder / name / "corpus").iterdir())
        for i in range(nights):
            place = folder / "nights" / str(night)
            place.mkdir(parents=True)
            for path in files[i::nights]:
                (place / f"{name}-{path.name}").symlink_to(path)
            night += 1
    write_bad(folder / "bad", folder / "batch")
    rows = [
        line for name in ("first", "later", "bad") for line in (folder / name / "truth.jsonl").read_text().splitlines()
    ]
    seen = {name: [r for r in map(json.loads, rows) if r["split"] == name] for name in ("labelled", "corpus", "test")}
    kept = [*seen["corpus"], *seen["labelled"], *seen["test"][-size.test - 1 :]]
    (folder / "truth.jsonl").write_text("".join(json.dumps(row) + "\n" for row in kept))


def write_bad(source: Path, place: Path) -> None:
    """Write images with the labels of somebody who took every kind for the next one, and half of all things for nothing."""
    rows = [
        row for row in map(json.loads, (source / "truth.jsonl").read_text().splitlines()) if row["split"] == "corpus"
    ]
    names = [c.name for c in load_policy(POLICY).pictured if c.name != "text_area"]
    (place / "images").mkdir(parents=True)
    images: list[dict[str, Any]] = []
    annotations: list[dict[str, Any]] = []
    for number, row in enumerate(rows, 1):
        shutil.copy(source / "corpus" / row["file"], place / "images" / row["file"])
        images.append({"id": number, "file_name": row["file"], "width": row["side"], "height": row["side"]})
        for label in row["labels"]:
            if label["category"] not in names or len(annotations) % 2:
                annotations += [{}] if label["category"] in names else []
                continue
            x0, y0, x1, y1 = label["box_xyxy"]
            wrong = 1 + (names.index(label["category"]) + 1) % len(names)
            box = {"bbox": [x0, y0, x1 - x0, y1 - y0], "area": (x1 - x0) * (y1 - y0), "iscrowd": 0}
            annotations.append({"id": len(annotations) + 1, "image_id": number, "category_id": wrong, **box})
    document = {
        "images": images,
        "annotations": [one for one in annotations if one],
        "categories": [{"id": number, "name": name} for number, name in enumerate(names, 1)],
    }
    (place / "annotations.json").write_text(json.dumps(document))


def recipe_for(course: Course, source: Path, night: int, size: Size) -> Path:
    """Write tonight's recipe and policy; what differs from `nightly.yaml` is said here."""
    policy = yaml.safe_load(POLICY.read_text())
    if night < GROWS:
        policy["categories"] = [c for c in policy["categories"] if c["name"] not in NEW]
    policy["version"] = 1 if night < GROWS else 2
    (course.folder / "policy.yaml").write_text(yaml.safe_dump(policy, sort_keys=False))
    document = yaml.safe_load(RECIPE.read_text())
    document["policy"] = "policy.yaml"
    document["variables"] |= {
        "world": str(source), "data": str(course.folder / "data"), "champion": str(course.folder / "champion"),
        "doubts": str(course.folder / "doubts"),
    }  # fmt: skip
    batch = {"path": str(course.folder / "batch"), "format": "coco", "empty_means": "confirmed_empty", "optional": True}
    steps: list[Any] = []
    for entry in document["steps"]:
        match entry:
            case {"mine": settings}:
                # each night looks at everything: what was rolled back is to come again
                settings |= {"corpus": str(course.folder / "corpus"), "pool": 10**6, "since": ""}
                steps.append({"as": "import.batch", "import": batch})
            case {"review": settings} if not course.people:
                settings["budget"] = 0
        for name in ("train.classifier", "train.detector"):
            if isinstance(entry, dict) and name in entry and size.steps:
                entry[name]["steps"] = size.steps
        steps.append(entry)
    document["steps"] = steps
    path = course.folder / "nightly.yaml"
    path.write_text(yaml.safe_dump(document, sort_keys=False))
    return path


def tilth(*words: object, kill_after_s: float | None = None, how: int = 0) -> tuple[int, dict[str, Any]]:
    """Give a command, and kill it if it takes too long; return its exit code and the JSON object that it prints."""
    command = [sys.executable, "-m", "tilth.pipeline.cli.main", *map(str, words)]
    env = {"OMP_NUM_THREADS": "1", **os.environ}
    process = subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True, start_new_session=True, env=env
    )
    try:
        said, _ = process.communicate(timeout=kill_after_s or WAIT_S)
    except subprocess.TimeoutExpired:
        if kill_after_s is None:
            raise
        os.killpg(process.pid, how)
        said, _ = process.communicate(timeout=WAIT_S)
    return process.returncode, json.loads(said) if said.startswith("{") else {}


def go(course: Course, source: Path, night: int, size: Size, kills: list[float], draw: random.Random) -> dict[str, Any]:
    """Run a night, killed after these many seconds, one after the other."""
    data, corpus = course.folder / "data" / "dataset", course.folder / "corpus"
    corpus.mkdir(parents=True, exist_ok=True)
    for path in (source / "nights" / str(night)).iterdir():
        shutil.copy(path, corpus / path.name)
    if night == BAD:
        (course.folder / "batch").symlink_to(source / "batch")
        tilth("tag", data, "before")
    words = [
        "retrain",
        recipe_for(course, source, night, size),
        "--runs",
        course.folder / "runs",
        "--night",
        f"night-{night}",
    ]
    if night == DOWN and course.people:
        words += ["--review", "labelstudio"]  # where none runs
    took = 0.0
    for after_s in kills:
        began = time.monotonic()
        code, told = tilth(*words, kill_after_s=after_s, how=draw.choice([signal.SIGTERM, signal.SIGKILL]))
        took += time.monotonic() - began
        if code in (0, 3):
            break
        course.kills += code in (143, -signal.SIGKILL, -signal.SIGTERM)
    else:
        began = time.monotonic()
        code, told = tilth(*words)
        took += time.monotonic() - began
    if not told:
        sys.exit(f"night {night} in {course.folder}: exit code {code} and no answer")
    if night == BAD:
        (course.folder / "batch").unlink()
        if code == 3:
            tilth("rollback", data, "before")
    return {**told, "night": night, "code": code, "seconds": round(took, 1)}


def judge(course: Course, source: Path, folder: Path) -> dict[str, Any]:
    """Judge the champion by the whole policy, each once."""
    bundle = Champion(course.folder / "champion").bundle
    if bundle is None:
        return dict.fromkeys(METRICS, 0.0)
    place = folder / bundle.name
    if not (place / "scores.json").exists():
        place.mkdir(parents=True, exist_ok=True)
        work = Work(
            name="week", dataset=Dataset(place / "none"), policy=load_policy(POLICY), folder=place, events=Events()
        )
        facts: Any = EvaluateBundle(bundle=bundle, test=source / "test").run(work)
        write_beside(place / "scores.json", json.dumps({metric: facts[metric]["mean"] for metric in METRICS}))
    return dict(json.loads((place / "scores.json").read_text()))


def lost(data: Path) -> tuple[int, int]:
    """Count the images of which people said something, and those of these of which the last version does not know it."""
    dataset, said = Dataset(data), set[str]()
    back = [v.number for v in dataset.history() if v.message.startswith("roll back")]
    gone = range(Dataset(data, "before").at.number + 1, back[-1]) if back else ()
    ours = {ref.name for version in dataset.history() if version.number not in gone for ref in version.tables}
    for table in map(dataset.table, sorted(ours)):
        for ids in table.ids(2048):
            for id_, row in table.get(ids, ["claims"]).items():
                if any(str(claim["source"]).startswith("human:") for claim in row["claims"] or ()):  # type: ignore[attr-defined, call-overload]
                    said.add(id_)
    known = {s.id for s in dataset.samples(images=False, dropped=True) if any(c.kind == "human" for c in s.claims)}
    return len(said), len(said - known)


def spread(kills: int, nights: list[int], typical_s: float, draw: random.Random) -> Iterator[tuple[int, list[float]]]:
    """Divide the kills among nights."""
    for place, night in enumerate(nights):
        number = kills // len(nights) + (place < kills % len(nights))
        yield night, [draw.uniform(2, typical_s) for _ in range(number)]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seed", type=int, default=1, help="of worlds and kills (default: 1)")
    parser.add_argument("--kills", type=int, default=0, help="random kills over the nights with people (default: none)")
    parser.add_argument("--typical", type=float, default=120, help="a kill falls within so many seconds (default: 120)")
    parser.add_argument(
        "--runs", type=Path, default=Path("runs/week"), help="folder of everything (default: %(default)s)"
    )
    parser.add_argument("--small", action="store_true", help="next to no images and steps")
    add_option(parser)
    asked = parser.parse_args()
    size, draw, runs = SMALL if asked.small else Size(), random.Random(asked.seed), asked.runs.resolve()
    figures = Figures("week", seeds=[asked.seed])
    source = runs / "world"
    world(source, size, asked.seed)
    courses = {  # each on one core
        "tilth retrain": Course(folder=runs / "people", people=True),
        "without people": Course(folder=runs / "alone", people=False),
    }
    at_work = [night for night in range(1, NIGHTS + 1) if night not in (DOWN, BAD)]
    kills = dict(spread(asked.kills, at_work, asked.typical, draw))

    def through(name: str) -> None:
        course = courses[name]
        course.load()
        for night in range(len(course.outcomes) + 1, NIGHTS + 1):
            told = go(course, source, night, size, kills.get(night, []) if course.people else [], draw)
            course.outcomes.append(told)
            course.scores.append(judge(course, source, runs / "judged" / course.folder.name))
            course.save()
            score = ", ".join(f"{value:.3f}" for value in course.scores[-1].values())
            print(
                f"{utc_now()} {name}: night {night}: {told['outcome']} ({told['seconds']:.0f} s), champion {score}",
                flush=True,
            )

    with ThreadPoolExecutor(len(courses)) as pool:
        list(pool.map(through, courses))
    ours, alone = courses.values()
    said, gone = lost(ours.folder / "data" / "dataset")
    first, last = ours.scores[0], ours.scores[-1]
    figures.add("gain", last["recall_at_fpr05"] - first["recall_at_fpr05"], "share")
    figures.add("gain_alone", alone.scores[-1]["recall_at_fpr05"] - alone.scores[0]["recall_at_fpr05"], "share")
    figures.add("labels", said, "images")
    figures.add("labels_lost", gone, "images")
    figures.add("kills", ours.kills, "kills")
    figures.add("bad_night_refused", float(ours.outcomes[BAD - 1]["code"] == 3), "share")
    figures.add("broken_night_code", ours.outcomes[DOWN - 1]["code"], "exit code")
    figures.add("human_actions", sum(int(told.get("human_actions") or 0) for told in ours.outcomes), "actions")
    for key, course in (("people", ours), ("alone", alone)):
        for night, (scores, told) in enumerate(zip(course.scores, course.outcomes, strict=True), 1):
            for metric in METRICS:
                figures.add(f"{key}.night{night}.{metric}", scores[metric], "share")
            figures.add(f"{key}.night{night}.seconds", told["seconds"], "s")
            figures.add(f"{key}.night{night}.exit_code", told["code"], "exit code")
    print(figures.write(runs if asked.small else asked.results).read_text(), end="")


if __name__ == "__main__":
    main()
