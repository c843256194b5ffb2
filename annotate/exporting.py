"""Write a dataset as COCO, YOLO or Pascal VOC, after saying what the format cannot hold."""

import json
import shutil
import sys
from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from tilth.annotate.formats.writing import WRITERS, Writer
from tilth.annotate.orientation import read_header
from tilth.claims import Json, State
from tilth.dataset import Dataset, Where
from tilth.errors import InputError
from tilth.images import encode_png
from tilth.samples import Sample

EXPORTED = (State.REVIEWED, State.CONFIRMED_EMPTY, State.AUTO)
SIGNATURES = {
    b"\xff\xd8": ".jpg",
    b"\x89P": ".png",
    b"RI": ".webp",
    b"BM": ".bmp",
    b"GI": ".gif",
    b"II": ".tif",
    b"MM": ".tif",
}


@dataclass(kw_only=True)
class Survey:
    """What an export will write, and what it will leave out."""

    images: int = 0
    boxes: int = 0
    splits: Counter[str] = field(default_factory=Counter)
    categories: Counter[str] = field(default_factory=Counter)
    left_out: Counter[str] = field(default_factory=Counter)
    lost: Counter[str] = field(default_factory=Counter)


def survey(dataset: Dataset, format_: str, where: Where | None = None) -> Survey:
    """Look at all samples, without their images, and count what the format can hold and what it cannot."""
    found = Survey()
    for sample in dataset.samples(where, images=False):
        if reason := _left_out(sample):
            found.left_out[reason] += 1
            continue
        truth = sample.truth
        boxed = [label for label in truth.labels if label.box_xyxy is not None]
        found.images += 1
        found.boxes += len(boxed)
        found.splits[sample.split] += 1
        found.categories.update(str(label.category) for label in boxed)
        found.lost["labels of whole images"] += len(truth.labels) - len(boxed)
        if format_ != "coco":
            found.lost["scores below 1"] += sum(label.score < 1 for label in boxed)
            found.lost["whether an empty image was confirmed by a person"] += not truth.labels
        if format_ == "voc":
            found.lost["fractions of pixels, rounded"] += sum(
                any(v != round(v) for v in label.box_xyxy) for label in boxed if label.box_xyxy
            )
    found.lost = +found.lost
    return found


def _left_out(sample: Sample) -> str:
    """Say why an image stays out: in all three formats an image without boxes says that nothing is there."""
    truth = sample.truth
    if truth.state not in EXPORTED:
        return f"{truth.state}"
    if truth.labels and all(label.box_xyxy is None for label in truth.labels):
        return "labels without boxes only"
    return ""


def _to_stderr(text: str) -> None:
    sys.stderr.write(text + "\n")


def export(
    dataset: Dataset,
    out: Path,
    format_: str,
    *,
    where: Where | None = None,
    categories: tuple[str, ...] = (),
    say: Callable[[str], None] = _to_stderr,
) -> Mapping[str, Json]:
    """Write the labelled samples of a dataset; what the format cannot hold goes to `samples.jsonl` beside it.

    Images keep their files, but for those that EXIF turns: tools differ in whether they turn them, so these are written
    upright as PNG.

    Args:
        dataset: Open at the version to write.
        out: Folder to make.
        format_: `coco`, `yolo` or `voc`.
        where: Keeps the samples it is true for.
        categories: Order of the categories; those that occur, by name, when empty.
        say: Told what is left out and lost, before anything is written.

    Returns:
        Counts of what was written, left out and lost.

    Raises:
        InputError: The format is unknown, the folder exists, or a sample has a category that is not in `categories`.
    """
    if format_ not in WRITERS:
        raise InputError(f"format must be one of {', '.join(WRITERS)}, got {format_!r}")
    if out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise InputError(f"{out}: is there already; give a new folder")
    found = survey(dataset, format_, where)
    names = categories or tuple(sorted(found.categories))
    if unknown := sorted(set(found.categories) - set(names)):
        raise InputError(f"categories {', '.join(unknown)} occur but are not among {', '.join(names)}")
    for what, count in found.left_out.items():
        say(f"left out: {count} images: {what}")
    for what, count in found.lost.items():
        say(f"{format_} cannot hold: {what} ({count}); samples.jsonl has them")
    partial = out.with_name(out.name + ".partial")
    shutil.rmtree(partial, ignore_errors=True)
    partial.mkdir(parents=True)
    turned = _write(dataset, partial, WRITERS[format_](partial, names, tuple(sorted(found.splits))), where)
    if out.exists():
        out.rmdir()
    partial.rename(out)  # renamed last, so its existence means that the export is whole
    return {
        "format": format_,
        "images": found.images,
        "boxes": found.boxes,
        "categories": list(names),
        "splits": dict(found.splits),
        "left_out": dict(found.left_out),
        "cannot_hold": dict(found.lost),
        "turned_upright": turned,
    }


def _write(dataset: Dataset, folder: Path, writer: Writer, where: Where | None) -> int:
    turned = 0
    with (folder / "samples.jsonl").open("w", encoding="utf-8") as stream:
        for sample in dataset.samples(where):
            if _left_out(sample):
                continue
            data = sample.data
            suffix = next((s for head, s in SIGNATURES.items() if data.startswith(head)), ".png")
            if read_header(data)[1] != 1:
                data, suffix = encode_png(sample.pixels()), ".png"
                turned += 1
            file = sample.id + suffix
            writer.add(sample, file, data)
            stream.write(json.dumps(_line(sample, file), sort_keys=True) + "\n")
    writer.close()
    return turned


def _line(sample: Sample, file: str) -> dict[str, Json]:
    truth = sample.truth
    labels = [
        {
            "category": label.category,
            "box_xyxy": list(label.box_xyxy) if label.box_xyxy else None,
            "score": label.score,
            "source": label.source,
        }
        for label in truth.labels
    ]
    return {
        "id": sample.id,
        "file": file,
        "state": str(truth.state),
        "split": sample.split,
        "made": sample.made,
        "origin": dict(sample.origin),
        "labels": labels,
    }
