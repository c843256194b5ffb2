"""Write a dataset in a format that other tools read, after saying what the format cannot hold."""

import json
import shutil
import sys
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from tilth.annotate.exchange.licences import licence_of, origins
from tilth.annotate.formats.parts.classes import taken_name
from tilth.annotate.formats.parts.files import Seen
from tilth.annotate.formats.parts.orientation import read_header
from tilth.annotate.formats.parts.records import Boxed, Entry, Shown, Writer
from tilth.annotate.formats.writing import (
    CARRIES_IMAGES,
    FORMATS,
    HOLDS_BOXES,
    HOLDS_SCORES,
    HOLDS_STATE,
    HOLDS_UNASKED,
    HOLDS_WHOLE,
    SPLIT_INSIDE,
    open_writer,
)
from tilth.claims import Json, State, Truth
from tilth.data.dataset import Dataset
from tilth.errors import InputError
from tilth.images import FORMATS as FILES
from tilth.images import HEAD_BYTES, SUFFIX_OF, SUFFIXES, kind_of
from tilth.origins.packet import png_of
from tilth.policy import FORBIDDEN
from tilth.samples import Sample
from tilth.sources.walk import stem_of, suffix_of

UNSAFE = set(FORBIDDEN) - {"/"}  # in a path
EXPORTED = (State.REVIEWED, State.CONFIRMED_EMPTY, State.AUTO)


@dataclass(kw_only=True)
class Survey:
    """What an export will write, and what it will leave out."""

    images: int = 0
    boxes: int = 0
    image_labels: int = 0
    splits: Counter[str] = field(default_factory=Counter)
    categories: Counter[str] = field(default_factory=Counter)
    left_out: Counter[str] = field(default_factory=Counter)
    lost: Counter[str] = field(default_factory=Counter)
    looked: Counter[frozenset[str]] = field(default_factory=Counter)

    def unasked(self, names: Sequence[str]) -> dict[str, int]:
        """Count for each category the images in which nobody looked for it."""
        counts = {name: sum(n for looked, n in self.looked.items() if name not in looked) for name in names}
        return {name: count for name, count in counts.items() if count}


def survey(dataset: Dataset, format_: str, where: str = "", *, unlabelled: bool = False) -> Survey:
    """Look at all samples, without their images, and count what the format can hold and what it cannot."""
    found = Survey()
    for sample in dataset.samples(where, images=False):
        if reason := _left_out(sample, sample.truth, unlabelled, format_):
            found.left_out[reason] += 1
            continue
        truth = sample.truth
        boxed = [label for label in truth.labels if label.box_xyxy is not None]
        whole = len(truth.labels) - len(boxed)
        found.images += 1
        found.looked[frozenset(truth.looked)] += 1
        found.splits[sample.split] += 1
        if format_ in HOLDS_BOXES:
            found.boxes += len(boxed)
        else:
            found.lost["where the boxes are"] += len(boxed)
        if format_ in HOLDS_WHOLE:
            found.image_labels += whole
        else:
            found.lost["labels of whole images"] += whole
        written = truth.labels if format_ in HOLDS_WHOLE else boxed
        found.categories.update(str(label.category) for label in written)
        if format_ not in HOLDS_SCORES:
            found.lost["scores below 1"] += sum(label.score < 1 for label in written)
        if format_ not in HOLDS_STATE:
            found.lost["whether an empty image was confirmed by a person"] += not truth.labels
        if format_ == "voc":
            found.lost["fractions of pixels, rounded"] += sum(
                any(v != round(v) for v in label.box_xyxy) for label in boxed if label.box_xyxy
            )
    found.lost = +found.lost
    return found


def _left_out(sample: Sample, truth: Truth, unlabelled: bool, format_: str) -> str:
    """Say why an image stays out: most tools take an image without boxes for one with nothing in it."""
    if truth.state not in EXPORTED and not (unlabelled and truth.state == State.UNLABELLED):
        return f"{truth.state}"
    if format_ not in HOLDS_WHOLE and truth.labels and all(label.box_xyxy is None for label in truth.labels):
        return "labels without boxes only"
    if format_ not in HOLDS_BOXES and len(truth.categories) > 1:
        return "labels of several categories"
    return ""


def _to_stderr(text: str) -> None:
    sys.stderr.write(text + "\n")


def export(
    dataset: Dataset,
    out: Path,
    format_: str,
    *,
    images: str = "copy",
    unlabelled: bool = False,
    where: str = "",
    categories: tuple[str, ...] = (),
    say: Callable[[str], None] = _to_stderr,
) -> Mapping[str, Json]:
    """Write the labelled samples of a dataset; what the format cannot hold goes to `samples.jsonl` beside it.

    Images keep their files, but for those that EXIF turns: tools differ in whether they turn them, so these are written
    upright as PNG. Labels that are written alone name the images as they were called when they were taken in.

    Args:
        dataset: Open at the version to write.
        out: Folder to make.
        format_: One of `FORMATS`.
        images: `copy` them, or `none`: write the labels alone.
        unlabelled: Write images that nobody has labelled too, where the format can tell them from empty ones.
        where: Keeps the samples that this condition holds for.
        categories: Order of the categories; those that occur, by name, when empty.
        say: Told what is left out and lost, before anything is written.

    Returns:
        Counts of what was written, left out and lost.

    Raises:
        InputError: The format is unknown or cannot do what is asked, the folder exists, or a sample has a category that
            is not in `categories`.
    """
    _check(out, format_, images, unlabelled)
    found = survey(dataset, format_, where, unlabelled=unlabelled)
    names = categories or tuple(sorted(found.categories))
    if unknown := sorted(set(found.categories) - set(names)):
        raise InputError(f"categories {', '.join(unknown)} occur but are not among {', '.join(names)}")
    if odd := [name for name in names if not name.isprintable() or not name.strip()]:
        raise InputError(
            f"no label file can hold the categories {odd}; give them other names by `categories` on import"
        )
    if format_ not in HOLDS_BOXES and (odd := [name for name in names if taken_name(name)]):
        raise InputError(
            f"no folder of a class can be called {', '.join(odd)}; give other names by `categories` on import"
        )
    unasked = found.unasked(names)
    if unasked and format_ not in HOLDS_UNASKED:
        found.lost["that nobody looked for a category of the set"] = sum(unasked.values())
    for what, count in found.left_out.items():
        say(f"left out: {count} images: {what}")
    for what, count in found.lost.items():
        say(f"{format_} cannot hold: {what} ({count}); samples.jsonl has them")
    partial = out.with_name(out.name + ".partial")
    shutil.rmtree(partial, ignore_errors=True)
    partial.mkdir(parents=True)
    writer = open_writer(format_, partial, names, tuple(sorted(found.splits)))
    entries = _entries(dataset, where, images, unlabelled, names, format_)
    turned = _write(entries, partial, writer)
    if out.exists():
        out.rmdir()
    partial.rename(out)  # renamed last, so its existence means that the export is whole
    return {
        "format": format_,
        "images": found.images,
        "boxes": found.boxes,
        "image_labels": found.image_labels,
        "categories": list(names),
        "splits": dict(found.splits),
        "left_out": dict(found.left_out),
        "cannot_hold": dict(found.lost),
        "nobody_looked": unasked,
        "turned_upright": turned,
    }


def _check(out: Path, format_: str, images: str, unlabelled: bool) -> None:
    if format_ not in FORMATS:
        raise InputError(f"format must be one of {', '.join(FORMATS)}, got {format_!r}")
    if images not in ("copy", "none"):
        raise InputError(f"images must be copy or none, got {images!r}")
    if images == "none" and format_ in CARRIES_IMAGES:
        raise InputError(f"{format_} carries the images; give images copy, or one of the other formats")
    if unlabelled and format_ not in HOLDS_STATE:
        raise InputError(f"{format_} cannot tell an unlabelled image from an empty one; {', '.join(HOLDS_STATE)} can")
    if out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise InputError(f"{out}: is there already; give a new folder")


def _entries(
    dataset: Dataset, where: str, images: str, unlabelled: bool, names: Sequence[str], format_: str
) -> Iterator[tuple[Sample, Truth, Entry, bool]]:
    """Yield each sample to write, what is true of it, how a format sees it, and whether it was turned upright."""
    taken, find = Seen(), origins(dataset)
    # of formats with a label file an image, two images that differ in their suffix alone would share it
    key = stem_of if format_ in SPLIT_INSIDE else str
    shared = _shared_names(dataset, where)
    for sample in dataset.samples(where, images=images == "copy"):
        truth = sample.truth
        if _left_out(sample, truth, unlabelled, format_):
            continue
        data, file, turned = None, "", False
        if images == "copy":
            data, file, turned = _upright(sample)
            own = _own_stem(sample)
            if format_ != "webdataset" and own and own.lower() not in shared:  # whose keys end at a dot
                file = own + file.removeprefix(sample.id)
        else:
            file = _known_as(sample, taken, key)
        labels = tuple(
            Boxed(str(label.category), label.box_xyxy, label.score, label.source)
            for label in truth.labels
            if label.box_xyxy is not None
        )
        shown = tuple(
            Shown(str(label.category), label.score, label.source)
            for label in truth.labels
            if label.box_xyxy is None and format_ in HOLDS_WHOLE
        )
        entry = Entry(
            id=sample.id,
            file=file,
            data=data,
            size_wh=sample.size_wh,
            split=sample.split,
            state=str(truth.state),
            licence=licence_of(sample.origin, find),
            labels=labels,
            shown=shown,
            unasked=truth.unasked(names),
        )
        yield sample, truth, entry, turned


def _upright(sample: Sample) -> tuple[bytes, str, bool]:
    kind = kind_of(sample.data[:HEAD_BYTES])
    if kind not in FILES or read_header(sample.data)[1] != 1:
        return png_of(sample.pixels(), sample.origin), sample.id + ".png", True
    return sample.data, sample.id + SUFFIX_OF[kind], False


def _own_stem(sample: Sample) -> str:
    """Return what the image was called where it came from, without its suffix; empty when that can name no file."""
    source = str(sample.origin.get("source") or "")
    name = source.rpartition("/")[2]
    stem = stem_of(name) if suffix_of(name) in SUFFIXES else ""
    fit = stem.isprintable() and len(stem.encode()) < 200 and not stem.startswith(".") and stem == stem.strip()
    return stem if fit and not set(stem) & UNSAFE else ""


def _shared_names(dataset: Dataset, where: str) -> Seen:
    """Return the names that several images have, case aside: these go by their ids."""
    once, several = Seen(), Seen()
    for (source,) in dataset.cells("source", where=where):
        stem = stem_of(str(source or "").rpartition("/")[2]).lower()
        if not once.add(stem):
            several.add(stem)
    return several


def _known_as(sample: Sample, taken: Seen, key: Callable[[str], str]) -> str:
    """Return the path that an image came from, if it is one that a label file may name and no other image has it."""
    source = str(sample.origin.get("source") or "")
    parts = source.split("/")
    clean = source.isprintable() and not set(parts) & {"", ".", ".."} and not set(source) & UNSAFE
    fit = suffix_of(source) in SUFFIXES or not parts[-1].isdigit()  # the number of a row is no name
    if clean and fit and 0 < len(source) < 512 and taken.add(key(source).lower()):
        return source
    return sample.id + ".png"


def _write(entries: Iterable[tuple[Sample, Truth, Entry, bool]], folder: Path, writer: Writer) -> int:
    count = 0
    with (folder / "samples.jsonl").open("w", encoding="utf-8") as stream:
        for sample, truth, entry, turned in entries:
            writer.add(entry)
            stream.write(json.dumps(_line(sample, truth, entry), sort_keys=True) + "\n")
            count += turned
    writer.close()
    return count


def _line(sample: Sample, truth: Truth, entry: Entry) -> dict[str, Json]:
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
        "file": entry.file,
        "licence": entry.licence,
        "state": str(truth.state),
        "split": sample.split,
        "made": sample.made,
        "origin": dict(sample.origin),
        "labels": labels,
        "looked": dict(truth.looked),
    }
