"""Choose how to train on a dataset, by what it holds and by the machine: a recipe like any other, to be read, changed and run again."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import yaml

from tilth.claims import State
from tilth.data.dataset import Dataset
from tilth.data.files import write_beside
from tilth.data.where import both, one_of
from tilth.errors import InputError
from tilth.models import device, is_here
from tilth.policy import Policy, load_policy
from tilth.train.artifacts.artifact import preprocessing
from tilth.train.learn.enough import in_dataset
from tilth.train.learn.examples import KNOWN, usable

FEW = 20  # images of the rarest category, below which examples are compared instead of a network being trained
MOST = 20_000  # images whose boxes are looked at
SMALL = 0.1  # quantile of the sizes of boxes that must still be seen
SEEN = {"classifier": 32, "detector": 48}  # pixels that such a box must fill
GROWS = {False: 2.0, True: 1.5}  # times the side that a base model was trained with at most, by whether there is a GPU
USUAL = {"classifier": 224, "detector": 640}  # sides
STEP = 32  # sides are a multiple of it
PEOPLE = (State.REVIEWED, State.CONFIRMED_EMPTY)
MODELS = {  # by whether there is a GPU
    False: {"few_shot": "starter:retrieval", "classifier": "starter:classifier", "detector": "starter:detector"},
    True: {
        "few_shot": "Salesforce/blip2-itm-vit-g@520bf73fd0ef6ccce791cd3f06908040aef2d8cc",
        "classifier": "facebook/dinov2-small@ed25f3a31f01632728cabb09d1542f84ab7b0056",
        "detector": "ustc-community/dfine-small-obj2coco@2b548d12a7623d674bb2aa2bf24022ce090b7736",
    },
}
BATCH = {False: {"classifier": 32, "detector": 8}, True: {"classifier": 64, "detector": 16}}
PARTS = ("classifier", "detector", "split", "calibrate", "evaluate", "package")


@dataclass(frozen=True, kw_only=True)
class There:
    """What a dataset holds.

    Args:
        shown: Of each category, images that show it and images in which somebody looked, those for training alone.
        boxed: Of the images that show anything, the share in which all of it has a box; nan when nothing is shown.
        small: The tenth part of all boxes is smaller: its side as a share of the image's; nan without boxes.
        val: Images that are held back.
        test: Sealed images.
    """

    shown: Mapping[str, tuple[int, int]]
    boxed: float
    small: float
    val: int
    test: int


@dataclass(frozen=True, kw_only=True)
class Chosen:
    """How to train.

    Args:
        steps: Of the recipe.
        reasons: Why, a line each.
    """

    steps: Sequence[Any]
    reasons: Sequence[str]


def look(dataset: Dataset, policy: Policy) -> There:
    """Count what there is to learn from.

    Raises:
        InputError: Nobody has looked for any of the categories, or none is to be seen.
    """
    labels = [category.name for category in policy.pictured]
    shown = in_dataset(dataset, labels, KNOWN)
    if not any(count for count, _ in shown.values()):
        raise InputError(
            f"{dataset.root}: no image shows {', '.join(labels)}; import, ground or review some first, or name another --category"
        )
    whole, seen, sizes = 0, 0, list[float]()
    for sample in islice(dataset.samples(usable(), images=False), MOST):
        claims = [claim for claim in sample.truth.labels if claim.category in labels]
        boxes = [claim.box_xyxy for claim in claims if claim.box_xyxy]
        seen, whole = seen + bool(claims), whole + bool(claims and len(boxes) == len(claims))
        sizes += [float(np.sqrt((x1 - x0) * (y1 - y0) / np.prod(sample.size_wh))) for x0, y0, x1, y1 in boxes]
    return There(
        shown=shown,
        boxed=whole / seen if seen else float("nan"),
        small=float(np.quantile(sizes, SMALL)) if sizes else float("nan"),
        val=dataset.count(both(usable(), "split = 'val'")),
        test=dataset.count(both("split = 'test'", one_of("state", PEOPLE))),
    )


def choose(there: There, gpus: int, given: Mapping[str, Mapping[str, Any]]) -> Chosen:
    """Choose steps and settings.

    Args:
        there: What the dataset holds.
        gpus: Of this machine.
        given: Settings that a person chose, by part: classifier, detector, split, calibrate, evaluate, package.
    """
    rarest = min((name for name, (count, _) in there.shown.items() if count), key=lambda name: there.shown[name][0])
    least, models = there.shown[rarest][0], MODELS[bool(gpus)]
    boxed = 0.0 if np.isnan(there.boxed) else 100 * there.boxed
    steps, reasons = list[Any](), list[str]()
    if not there.val:
        steps.append({"split": {"val_share": 0.15, **given.get("split", {})}})
        reasons.append("split: no image is held back yet; 15 % of them will be, relatives together")
    if few := least < FEW:
        steps.append(
            {"as": "classifier", "train.few_shot": {"model": models["few_shot"], **given.get("classifier", {})}}
        )
        why = f"and fewer than {FEW} examples teach more by comparison than by training"
        reasons.append(f"classifier: few-shot, as only {least} images show {rarest}, {why}")
    else:
        settings, why = _training("classifier", there, gpus, given.get("classifier", {}))
        steps.append({"as": "classifier", "train.classifier": settings})
        reasons.append(f"classifier: {settings['model']}, as {least} images show {rarest}, the rarest; {why}")
    if few:
        reasons.append(f"no detector: {least} images of {rarest} are too few for one")
    elif boxed < 50:
        reasons.append(
            f"no detector: {boxed:.0f} % of the images that show something have all boxes; tilth ground finds some"
        )
    else:
        settings, why = _training("detector", there, gpus, given.get("detector", {}))
        steps.append({"as": "detector", "train.detector": settings})
        reasons.append(
            f"detector: {settings['model']}, as {boxed:.0f} % of the images that show something have all boxes; {why}"
        )
    both_ = {"classifier": "classifier", "detector": "" if few or boxed < 50 else "detector"}
    steps.append({"calibrate": {**both_, **given.get("calibrate", {})}})
    if there.test:
        steps.append({"evaluate": {**both_, "split": "test", **given.get("evaluate", {})}})
    else:
        reasons.append(
            "no evaluation: there are no sealed images that people looked at; import some with --set split=test"
        )
    steps.append({"package": {**both_, **given.get("package", {})}})
    return Chosen(steps=steps, reasons=reasons)


def _training(kind: str, there: There, gpus: int, given: Mapping[str, Any]) -> tuple[dict[str, Any], str]:
    """Choose the settings of a training, and say why in a few words."""
    gpu = bool(gpus)
    model = str(given.get("model", MODELS[gpu][kind]))
    told = {"model": model, "batch_size": BATCH[gpu][kind] * max(1, gpus), **({"processes": gpus} if gpus > 1 else {})}
    on = f"batches of {told['batch_size']} on {f'{gpus} GPU' if gpu else 'a CPU'}{'s' * (gpus > 1)}"
    if np.isnan(there.small):
        return told | {**given}, on
    own, wanted = _own(model, kind), SEEN[kind] / there.small
    told["image_side"] = int(np.ceil(min(max(wanted, own), GROWS[gpu] * own) / STEP) * STEP)
    small = f"one box in ten takes less than {100 * there.small:.0f} % of the side"
    return told | {**given}, f"{on}; {told['image_side']} pixels a side, as {small} and the model's own is {own}"


def _own(model: str, kind: str) -> int:
    """Return the side that a base model was trained with; of one that is not here yet, what is usual of its kind."""
    return preprocessing(model)[0] if is_here(model) else USUAL[kind]


def gpus_of(wanted: str) -> int:
    """Count the GPUs that `--device` lets a training use."""
    import torch

    used = device(wanted)
    return 0 if not used.startswith("cuda") else 1 if ":" in used else torch.cuda.device_count()


def check(given: Mapping[str, Mapping[str, Any]]) -> None:
    """Refuse settings of what there is not.

    Raises:
        InputError: There is no such part.
    """
    if unknown := [name for name in given if name not in PARTS]:
        raise InputError(
            f"--set {unknown[0]}: no such part; there are {', '.join(PARTS)}, as in --set classifier.steps=600"
        )


def change(path: Path, given: Mapping[str, Mapping[str, Any]]) -> None:
    """Change settings in a recipe that was chosen before, and leave the rest as it is.

    Args:
        path: Of the recipe.
        given: Settings that a person chose, by part.
    """
    check(given)
    text = path.read_text()
    document = yaml.safe_load(text)
    for step in document["steps"]:
        kind = next(key for key in step if key != "as")
        step[kind] |= given.get(step.get("as", kind), {})
    head = "".join(line for line in text.splitlines(keepends=True) if line.startswith("#"))
    write_beside(path, head + yaml.safe_dump(document, sort_keys=False))


def write(
    home: Path,
    dataset: Path,
    policy: Path,
    categories: Sequence[str],
    wanted: str,
    given: Mapping[str, Mapping[str, Any]],
) -> tuple[Path, Chosen]:
    """Write a recipe that trains on a dataset.

    Args:
        home: Folder of the recipe and its runs; its name is the recipe's.
        dataset: Its folder.
        policy: Policy file.
        categories: Names of those to learn; all when there are none.
        wanted: Device to train on.
        given: Settings that a person chose, by part.

    Returns:
        The recipe, and what it says.

    Raises:
        InputError: There is no such category or part, or nothing to learn from.
    """
    rules = load_policy(policy.resolve())  # what it names lies beside it, wherever the copy will lie
    check(given)
    if categories:
        asked = dict.fromkeys(name if (found := rules.find(name)) is None else found for name in categories)
        if wrong := [name for name in asked if name not in rules.names]:
            raise InputError(
                f"--category {wrong[0]}: {policy} has no such category; there are {', '.join(rules.names)}"
            )
        rules = rules.with_categories(c for c in rules.categories if c.name in asked)
        if not rules.pictured:
            raise InputError(f"--category {categories[0]}: words decide it, and no picture model can learn it")
    chosen = choose(look(Dataset(dataset), rules), gpus_of(wanted), given)
    home.mkdir(parents=True, exist_ok=True)
    if categories:
        policy = home / "policy.yaml"
        write_beside(policy, yaml.safe_dump(rules.model_dump(mode="json", exclude_defaults=True), sort_keys=False))
    document = {
        "recipe": home.name,
        "policy": str(policy.resolve()),
        "dataset": str(dataset.resolve()),
        "steps": [*chosen.steps],
    }
    path = home / "recipe-chosen.yaml"
    head = "".join(f"# {line}\n" for line in (f"tilth run {path}", "", *chosen.reasons))
    write_beside(path, head + yaml.safe_dump(document, sort_keys=False))
    return path, chosen
