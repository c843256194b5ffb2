"""The worlds of `loop.py` and the variants of the loop in them, each a recipe made of `configs/recipes/starter.yaml`.

A variant is told by what it does to the recipe's steps, so that a recipe with other rounds or settings has the same variants.
"""

import copy
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml

ROOT = Path(__file__).parents[1]
RECIPE = ROOT / "configs" / "recipes" / "starter.yaml"
CURVE = (100, 400, 1600, 0)  # human actions of random labelling; 0 is the whole corpus
EVERYTHING = 10**9  # more actions than any corpus takes
NEW = ("syringe", "lighter")  # kinds that no model knows
SMALL = {"labelled": "24", "corpus": "120", "test": "60"}
PARTING = "split"  # the last step that the variants of a world share
# How the starter's model was told of things when it was taught: it knows no other words.
WORDS = {
    "template": "a {color} {thing} {surface}, {style} style",
    "inpaint_template": "a {color} {thing}, {style} style",
    "fillings": {
        "color": ["red", "orange", "yellow", "green", "blue", "purple", "pink"],
        "surface": ["on a wooden table", "on green grass", "against a brick wall", "on beach sand", "on white tiles"],
    },
    "things": {name: [name] for name in ("knife", "cigarette", "bottle", "pill", "dice")},
}
NOT_HERE = ("gate", "package", "moderate", "random_effort", "evaluate.random_same_effort")

Entry = Any
Steps = list[Entry]


@dataclass(frozen=True, kw_only=True)
class World:
    """A world that is written once for each seed.

    Args:
        settings: Of `python -m tilth.starter world`.
        policy: To judge by.
        baseline: Whether to train on the labelled images alone, too.
        teacher: Whether a weak teacher's labels take the place of grounding.
        curve: World whose random labelling is compared with: the corpus is the same whoever teaches.
    """

    settings: Mapping[str, str] = field(default_factory=dict)
    policy: str = "starter"
    baseline: bool = False
    teacher: bool = False
    curve: str = ""


FAITHFUL = {"kinds": "all", "given": "8"}
WORLDS = {
    "known": World(settings={"kinds": "known"}, baseline=True, curve="known"),
    "faithful": World(settings=FAITHFUL, policy="faithful", baseline=True, curve="faithful"),
    "weak": World(
        settings={"kinds": "known", "weak-teacher": "lost=0.33,added=0.1,renamed=0.1"}, teacher=True, curve="known"
    ),
    "copies": World(settings={**FAITHFUL, "copies": "0.3", "leaks": "0.03"}, policy="faithful"),
    "styles": World(settings={"kinds": "known", "rare": "knife:neon,pill:sketch,dice:cartoon"}),
    "rare": World(settings={"corpus": "100000", "prevalence": "0.001"}),  # of each of five kinds; see `find.py`
}


def name_of(entry: Entry) -> str:
    """Return the name of a recipe's entry; a block of rounds is called `rounds`."""
    if isinstance(entry, str):
        return entry
    return "rounds" if "rounds" in entry else str(entry.get("as") or next(iter(entry)))


def kind_of(entry: Entry) -> str:
    """Return which step an entry is, whatever it is called."""
    return entry if isinstance(entry, str) else "rounds" if "rounds" in entry else next(k for k in entry if k != "as")


def place(steps: Steps, name: str) -> int:
    """Return where a step is.

    Raises:
        SystemExit: The recipe has none of that name.
    """
    for index, entry in enumerate(steps):
        if name_of(entry) == name:
            return index
    raise SystemExit(f"{RECIPE} has no step {name!r}; adapt the variants of this benchmark")


def by_people(steps: Steps) -> slice:
    """Return where people and students are at work: after the split, before the final training."""
    return slice(place(steps, PARTING) + 1, place(steps, "final.classifier"))


def flat(steps: Steps) -> Steps:
    """Return all entries, those in rounds once."""
    return [one for entry in steps for one in (entry["steps"] if kind_of(entry) == "rounds" else [entry])]


def without(steps: Steps, out: Callable[[Entry], bool]) -> Steps:
    """Leave entries out, in rounds as well; rounds of nothing go with them."""
    kept: Steps = []
    for entry in steps:
        if kind_of(entry) == "rounds":
            inner = [one for one in entry["steps"] if not out(one)]
            kept += [{**entry, "steps": inner}] if inner else []
        elif not out(entry):
            kept.append(entry)
    return kept


def loop(steps: Steps) -> Steps:
    """Return the recipe as it is."""
    return steps


def alone(steps: Steps) -> Steps:
    """Nobody looks: automatic labels only."""
    part = by_people(steps)
    return [*steps[: part.start], *steps[part.stop :]]


def perfect(steps: Steps) -> Steps:
    """Somebody who never errs looks at everything, and nobody counts; boxes that fit well stay as they are, as in every review."""
    review = next(one["review"] for one in flat(steps) if kind_of(one) == "review")
    every = {**review, "share": 1.0, "audit_share": 1.0, "error_rate": 0.0}
    part = by_people(steps)
    return [*steps[: part.start], {"as": "perfect", "review": every}, *steps[part.stop :]]


def few(steps: Steps) -> Steps:
    """People look at a fifth as many images in each round."""
    made = copy.deepcopy(steps)
    for one in flat(made):
        if kind_of(one) == "review":
            one["review"]["budget"] = math.ceil(one["review"]["budget"] / 5)
    return made


def one_round(steps: Steps) -> Steps:
    """People look at as many images, all at once."""
    total, made = 0, list[Entry]()
    for entry in steps:
        times, inner = (entry["rounds"], entry["steps"]) if kind_of(entry) == "rounds" else (1, [entry])
        total += times * sum(one["review"]["budget"] for one in inner if kind_of(one) == "review")
    for entry in steps:
        if kind_of(entry) == "rounds":
            inner = [
                {**one, "review": {**one["review"], "budget": total}} if kind_of(one) == "review" else one
                for one in entry["steps"]
            ]
            made.append({"rounds": 1, "steps": inner})
        elif kind_of(entry) != "review":
            made.append(entry)
    return made


def no_verify(steps: Steps) -> Steps:
    """No student looks at the teacher's labels again; people ask the teacher's scores alone."""
    part = by_people(steps)
    between = without(steps[part], lambda one: kind_of(one) == "relabel" or kind_of(one).startswith("train."))
    return [*steps[: part.start], *between, *steps[part.stop :]]


def no_clean(steps: Steps) -> Steps:
    """Bad images and copies stay. Copies of the sealed test do not: what they add to a score is a lie."""
    return without(steps, lambda one: kind_of(one) in ("filter", "dedup"))


def generate(steps: Steps) -> Steps:
    """Images are made, too, and people may see them."""
    made = [
        {
            "generate": {
                "count": 200,
                "max_ratio": 1.0,
                "methods": {"text": 0.5, "edges": 0.3, "inpaint": 0.2},
                "styles": ["photo", "cartoon", "sketch", "neon"],
                "words": WORDS,
                "parts": {"controlnet": "starter:controlnet", "loras": {"neon": "starter:lora-neon"}},
            }
        },
        {"as": "ground.made", "ground": {"threshold": 0.3}},
        {"adherence": {"min_score": 0.35}},
        "label_made",
    ]
    at = place(steps, "ground") + 1
    return [*steps[:at], *made, *steps[at:]]


VARIANTS: dict[str, tuple[Callable[[Steps], Steps], tuple[str, ...]]] = {
    "loop": (loop, ("known", "faithful", "weak", "copies", "styles")),
    "few": (few, ("known", "faithful")),
    "alone": (alone, ("faithful",)),
    "perfect": (perfect, ("known", "faithful")),
    "one-round": (one_round, ("faithful",)),
    "no-verify": (no_verify, ("weak",)),
    "no-clean": (no_clean, ("copies",)),
    "generate": (generate, ("styles",)),
    "random": (loop, ("known", "faithful")),
    "find": (loop, ("rare",)),  # no training; `find.py` does it
}


def read_recipe() -> dict[str, Any]:
    """Read the recipe that all variants are made of."""
    return dict(yaml.safe_load(RECIPE.read_text()))


def recipe_of(variant: str, world: str, seed: int, folder: Path, *, small: bool = False) -> dict[str, Any]:
    """Return the recipe of a variant; `base` is the loop.

    Args:
        variant: Its name.
        world: Name of the world.
        seed: Of the training; the world's files have been written with the same.
        folder: Of the world's files.
        small: Try everything with next to no images and steps.
    """
    about, made = WORLDS[world], copy.deepcopy(read_recipe())
    made["seed"] = seed
    made["policy"] = str(ROOT / "configs" / "policies" / f"{about.policy}.yaml")
    made["variables"] = {**made["variables"], "world": str(folder.resolve())}
    steps = made["steps"]
    if variant == "random":
        made["steps"] = random_curve(steps)
    else:
        steps = [one for one in steps if name_of(one) not in NOT_HERE]
        if not about.baseline:
            steps = [one for one in steps if "baseline" not in name_of(one)]
        steps = VARIANTS["loop" if variant == "base" else variant][0](steps)
        made["steps"] = taught(steps) if about.teacher else steps
    names = {name_of(one) for one in flat(made["steps"])}
    for one in flat(made["steps"]):
        settings = one[kind_of(one)] if isinstance(one, dict) else {}
        for name in ("start", "against"):  # there is no student to go on from, or no baseline to compare with
            if settings.get(name, "") not in names:
                settings.pop(name, None)
    if small:
        _shrink(made["steps"])
    return made


def taught(steps: Steps) -> Steps:
    """Take a weak teacher's labels instead of grounding."""
    at = place(steps, "ground")
    labels = {"path": "${world}/teacher/annotations.json", "images": "${world}/corpus"}
    teacher = {"as": "teacher", "import": {**labels, "format": "coco", "by": "model:weak"}}
    return [*steps[:at], teacher, *steps[at + 1 :]]


def random_curve(steps: Steps) -> Steps:
    """Train on random labels of growing number."""
    effort = steps[place(steps, "random_effort")]["random_effort"]
    test = steps[place(steps, "evaluate.random_same_effort")]["evaluate"]
    made: Steps = []
    for actions in CURVE:
        name = point(actions)
        made += [
            {"as": f"random.{name}", "random_effort": {**effort, "actions": actions or EVERYTHING}},
            {"as": f"evaluate.random_{name}", "evaluate": test},
        ]
    return made


def point(actions: int) -> str:
    """Return what a point of the random curve is called."""
    return str(actions) if actions else "whole"


def _shrink(steps: Steps) -> None:
    """Let every step do next to nothing."""
    for entry in steps:
        if kind_of(entry) == "rounds":
            entry["rounds"] = min(entry["rounds"], 2)
    for one in flat(steps):
        kind, settings = kind_of(one), one[kind_of(one)] if isinstance(one, dict) else {}
        if kind.startswith("train."):
            settings["steps"] = 4
        elif kind == "random_effort":
            settings.update(
                classifier={"steps": 4}, detector={"steps": 4}, actions=min(settings["actions"], EVERYTHING)
            )
            if settings["actions"] < EVERYTHING:
                settings["actions"] = max(10, settings["actions"] // 20)
        elif kind == "review":
            settings["budget"] = min(settings["budget"], 8)
        elif kind == "mine":
            settings.update(per_category=6, pool=80)
        elif kind == "generate":
            settings["count"] = 4


def needed(worlds: Sequence[str], only: Sequence[str]) -> list[tuple[str, str]]:
    """Return which variants belong to which worlds, the most telling first."""
    return [(w, v) for v, (_, of) in VARIANTS.items() for w in of if w in worlds and (not only or v in only)]
