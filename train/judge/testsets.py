"""The images that models are judged on: a sealed folder, or a split of the dataset."""

import json
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np

from tilth.claims import PEOPLE, State
from tilth.data.files import write_beside
from tilth.data.where import both, one_of, quoted
from tilth.engine.work import Work
from tilth.errors import InputError
from tilth.geometry import xywh_to_xyxy
from tilth.images import decode
from tilth.policy import Policy
from tilth.train.measure.judged import FPR
from tilth.train.measure.prediction import Target

OPENED = "opened.jsonl"  # beside the dataset: each evaluation that looked at a sealed set


def coco_targets(folder: Path, wanted: Sequence[str], parts: dict[str, str]) -> Iterator[Target]:
    """Yield the images of a COCO folder (`annotations.json` and `images/`) one by one.

    Raises:
        InputError: The folder is not of this form, or an image is absent or damaged: a test set must be whole.
    """
    path = folder / "annotations.json"
    if not path.exists():
        raise InputError(f"{path}: no such file; a test set is a folder with annotations.json and images/")
    document = json.loads(path.read_text())
    names = {c["id"]: c["name"] for c in document["categories"]}
    unasked = tuple(name for name in wanted if name not in names.values())  # the set's list says what was looked for
    boxes: dict[int, list[tuple[list[float], str]]] = {}
    for annotation in document["annotations"]:
        if (name := names[annotation["category_id"]]) in wanted:
            boxes.setdefault(annotation["image_id"], []).append((annotation["bbox"], name))
    for image in document["images"]:
        file = folder / "images" / image["file_name"]
        try:
            pixels = decode(file.read_bytes())
        except (OSError, InputError) as error:
            raise InputError(f"{file}: {error}; a sealed test set must be whole") from error
        own = boxes.get(image["id"], [])
        xyxy = xywh_to_xyxy(np.array([b for b, _ in own], float).reshape(-1, 4))
        yield Target(
            id=image["file_name"], file=image["file_name"], image=pixels, categories=tuple(sorted({c for _, c in own})),
            boxes_xyxy=xyxy, box_categories=tuple(c for _, c in own), part=parts.get(image["file_name"], ""),
            unasked=unasked,
        )  # fmt: skip


def coco_counts(folder: Path, policy: Policy) -> tuple[int, int]:
    """Count the unsafe and the safe images of a COCO test folder by its list alone."""
    wanted = [c.name for c in policy.pictured if not c.is_signpost]
    document = json.loads((folder / "annotations.json").read_text())
    names = {c["id"]: c["name"] for c in document["categories"]}
    unsafe = {a["image_id"] for a in document["annotations"] if names.get(a["category_id"]) in wanted}
    looked = not set(wanted) - set(names.values())  # an image is safe when all was looked for
    images = {image["id"] for image in document["images"]}
    return len(images & unsafe), len(images - unsafe) if looked else 0


def cannot_measure(unsafe: int, safe: int) -> str:
    """Say what images can and cannot measure; nothing when there are enough of both.

    >>> cannot_measure(40, 0)
    'recall at 5% false positives cannot be measured, as there are 40 unsafe and 0 safe images of which all is known'
    >>> cannot_measure(40, 12)
    'with 12 safe images, recall at 5% false positives is recall without a single one; at least 20 would tell'
    """
    least = round(1 / FPR)
    if not unsafe or not safe:
        return (
            f"recall at {FPR:.0%} false positives cannot be measured, as there are {unsafe} unsafe and {safe} safe images "
            "of which all is known"
        )
    if safe < least:
        return f"with {safe} safe images, recall at {FPR:.0%} false positives is recall without a single one; at least {least} would tell"
    return ""


def dataset_targets(work: Work, split: str) -> Iterator[Target]:
    """Yield the reviewed samples of a split of the dataset."""
    names = [c.name for c in work.policy.pictured]
    reviewed = one_of("state", (State.REVIEWED, State.CONFIRMED_EMPTY))
    for sample in work.dataset.samples(both(f"split = {quoted(split)}", reviewed)):
        truth = sample.truth
        unasked = truth.unasked(names, PEOPLE)  # a model is not judged by a model
        labels = [c for c in truth.labels if c.category in names and c.category not in unasked]
        boxed = [c for c in labels if c.box_xyxy]
        yield Target(
            id=sample.id, file=str(sample.origin.get("source", sample.id)), image=sample.pixels(),
            categories=tuple(sorted({str(c.category) for c in labels})),
            boxes_xyxy=np.array([c.box_xyxy for c in boxed], float).reshape(-1, 4),
            box_categories=tuple(str(c.category) for c in boxed), unasked=unasked, part=str(sample.origin.get("step", "")),
        )  # fmt: skip


def opened(root: Path, sealed: str, by: str, now: str) -> int:
    """Note that an evaluation has opened a sealed set, and return how many have done so over a dataset; one that goes on counts once.

    Args:
        root: Folder of the dataset.
        sealed: Which set.
        by: Which evaluation.
        now: The time.
    """
    path = root / OPENED
    rows = [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []
    if not any((row["sealed"], row["by"]) == (sealed, by) for row in rows):
        rows.append({"sealed": sealed, "by": by, "time": now})
        write_beside(path, "".join(json.dumps(row) + "\n" for row in rows))
    return sum(row["sealed"] == sealed for row in rows)
