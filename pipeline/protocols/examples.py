"""The images that a bundle is judged on as a whole, with what is true of them, one by one.

They come from a dataset, by default its sealed test split; from a folder with answers (`folder.py`); or from Parquet files in the layout of
UnsafeBench, `image` and `safety_label` (Safe, Unsafe), which users bring themselves: https://huggingface.co/datasets/yiting/UnsafeBench
"""

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from tilth.claims import PEOPLE, Json, State
from tilth.data.dataset import Dataset
from tilth.data.where import both, one_of, quoted
from tilth.errors import InputError
from tilth.images import Image, decode
from tilth.pipeline.protocols.folder import BASE, Folder, is_folder, read_folder
from tilth.policy import Policy

LABELS = {"safe": False, "unsafe": True}  # of `safety_label`, whatever the case
READ_AT_ONCE = 16  # rows of a Parquet file


@dataclass(frozen=True, kw_only=True)
class Example:
    """An image and what it shows.

    Args:
        file: What it is called.
        image: `(h, w, 3)`; None where it could not be decoded.
        why: Why not.
        unsafe: Whether somebody should look at it; None where nobody looked for all categories.
        categories: That make it unsafe.
        pictured: Whether one of these shows without reading; None where the set does not say.
        words: Whether it holds words; None where the set does not say.
    """

    file: str
    image: Image | None
    why: str = ""
    unsafe: bool | None
    categories: tuple[str, ...] = ()
    pictured: bool | None = None
    words: bool | None = None


@dataclass(frozen=True, kw_only=True)
class Source:
    """Where examples come from.

    Args:
        path: For people.
        read: Yields them.
        total: Their number.
        folder: Whose base policy their truth is of; None where it is that of the bundle.
        sealed: What of a dataset is opened; empty for nothing.
        told: What is worth telling of it.
    """

    path: Path
    read: Callable[[], Iterator[Example]]
    total: int
    folder: Folder | None = None
    sealed: str = ""
    told: Mapping[str, Json] = field(default_factory=dict)


def open_source(path: Path, policy: Policy, split: str = "test") -> Source:
    """Find out what lies at a path.

    Args:
        path: A dataset, a folder with answers, or Parquet files.
        policy: Of the bundle, whose categories make an image of a dataset unsafe.
        split: Of a dataset, or the beginning of the names of Parquet files.

    Raises:
        InputError: None of these.
    """
    if is_folder(path):
        folder = read_folder(path)
        return Source(
            path=path, read=lambda: _of_folder(folder), total=len(folder.answers[BASE]), folder=folder
        )  # fmt: skip
    if (path / "versions").is_dir():
        dataset = Dataset(path)
        reviewed = one_of("state", (State.REVIEWED, State.CONFIRMED_EMPTY))
        wanted = both(f"split = {quoted(split)}", reviewed)
        if not (total := dataset.count(wanted)):
            raise InputError(f"{path}: no reviewed image in split {split!r}; name another with --split")
        told: dict[str, Json] = {"version": dataset.at.number, "split": split}
        return Source(
            path=path,
            read=lambda: _of_dataset(dataset, wanted, policy),
            total=total,
            sealed=f"split {split}",
            told=told,
        )
    if files := _parquet_files(path, split):
        return _of_parquet_files(path, files)
    raise InputError(
        f"{path}: neither a dataset, nor a folder with answers.jsonl, nor Parquet files with image and safety_label; "
        "see docs/two-stage.md"
    )


def _of_folder(folder: Folder) -> Iterator[Example]:
    policy = folder.policies[BASE]
    # a set that names signposts names them everywhere, so where there is none there are no words
    tells = any({*policy.signposts} & {*one.categories} for one in folder.answers[BASE].values())
    for file, answer in folder.answers[BASE].items():
        image, why = folder.read(file)
        yield _example(file, image, why, policy, {*answer.categories}, tells, known=True)


def _of_dataset(dataset: Dataset, wanted: str, policy: Policy) -> Iterator[Example]:
    harm = [name for name in policy.names if name not in policy.signposts]
    for sample in dataset.samples(wanted):
        said = sample.truth
        unasked = said.unasked(policy.names, PEOPLE)  # a model is not judged by a model
        shown = {name for name in said.categories if name not in unasked}
        try:
            image, why = sample.pixels(), ""
        except InputError as error:
            image, why = None, str(error)
        tells = bool(policy.signposts) and not {*policy.signposts} & {*unasked}
        known = not {*unasked} & {*harm}
        yield _example(str(sample.origin.get("source", sample.id)), image, why, policy, shown, tells, known=known)


def _example(
    file: str, image: Image | None, why: str, policy: Policy, shown: set[str], tells: bool, *, known: bool
) -> Example:
    """Make an example; one in which nothing unsafe is known is safe only where all was looked for."""
    pictured = {category.name for category in policy.pictured}
    harm = tuple(name for name in policy.names if name in shown and name not in policy.signposts)
    words = bool({*policy.signposts} & shown) or any(name not in pictured for name in harm)
    seen = any(name in pictured for name in harm)
    return Example(
        file=file,
        image=image,
        why=why,
        unsafe=True if harm else False if known else None,
        categories=harm,
        pictured=True if seen else False if known else None,
        words=True if words else False if tells else None,
    )


def _parquet_files(path: Path, split: str) -> list[Path]:
    """List the Parquet files at a path, those of the split where names begin with splits, as on the hub."""
    files = [path] if path.suffix == ".parquet" and path.is_file() else sorted(path.rglob("*.parquet"))
    return [file for file in files if file.name.startswith(split)] or files


def _of_parquet_files(path: Path, files: list[Path]) -> Source:
    """Open files in the layout of UnsafeBench.

    Raises:
        InputError: They lack a column, or cannot be read.
    """
    import pyarrow as pa
    import pyarrow.parquet as pq

    total = 0
    for file in files:
        try:
            head = pq.ParquetFile(file)
        except (pa.ArrowInvalid, OSError) as error:
            raise InputError(f"{file}: not a Parquet file that can be read: {str(error).splitlines()[0]}") from error
        if lacking := [name for name in ("image", "safety_label") if name not in head.schema_arrow.names]:
            there = ", ".join(head.schema_arrow.names)
            raise InputError(f"{file}: no column {' and '.join(lacking)}; there are {there}")
        total += head.metadata.num_rows
    told: dict[str, Json] = {"files": [file.name for file in files]}
    return Source(path=path, read=lambda: _of_parquet(files), total=total, told=told)


def _of_parquet(files: list[Path]) -> Iterator[Example]:
    import pyarrow.parquet as pq

    for file in files:
        reader, number = pq.ParquetFile(file), 0
        columns = [name for name in ("image", "safety_label", "category") if name in reader.schema_arrow.names]
        for batch in reader.iter_batches(batch_size=READ_AT_ONCE, columns=columns):
            for row in batch.to_pylist():
                yield _of_row(f"{file.name}:{number}", row)
                number += 1


def _of_row(name: str, row: Mapping[str, object]) -> Example:
    """Make an example of a row. A safe one names the category that it was looked up by, and does not show it."""
    unsafe = LABELS.get(str(row["safety_label"]).strip().lower())
    held = row["image"]
    data = held.get("bytes") if isinstance(held, Mapping) else held
    image, why = None, "the row holds no image"
    if isinstance(data, bytes):
        try:
            image, why = decode(data), ""
        except InputError as error:
            why = str(error)
    category = str(row.get("category") or "")
    return Example(
        file=name, image=image, why=why, unsafe=unsafe, categories=(category,) if unsafe and category else ()
    )
