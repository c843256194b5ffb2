"""Write the texts of a dataset with what is true of them, as tables that other tools read."""

import csv
import json
import shutil
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack, suppress
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from tilth.claims import Answer, Claim, Json, State
from tilth.data.dataset import Dataset
from tilth.data.where import both, one_of
from tilth.errors import InputError
from tilth.samples import TEXT, Sample

FORMATS = ("jsonl", "parquet", "csv", "labelstudio")
EXPORTED = (State.REVIEWED, State.CONFIRMED_EMPTY, State.AUTO)
GROUP_ROWS = 1000
FORMULAS = ("=", "+", "-", "@")  # what a spreadsheet that opens a CSV file would compute
SPLITS = {"val": "validation"}  # as `datasets` calls it; a text without a split is for training
SCHEMA = pa.schema(
    [
        ("id", pa.string()),
        ("text", pa.string()),
        ("state", pa.string()),
        ("split", pa.string()),
        (
            "labels",
            pa.list_(
                pa.struct(
                    [
                        ("category", pa.string()),
                        ("start", pa.int64()),
                        ("end", pa.int64()),
                        ("score", pa.float64()),
                        ("source", pa.string()),
                    ]
                )
            ),
        ),
        ("looked", pa.list_(pa.string())),
        ("language", pa.string()),
        ("licence", pa.string()),
        ("source", pa.string()),
    ]
)


def export_texts(
    dataset: Dataset,
    out: Path,
    format_: str,
    *,
    where: str = "",
    unlabelled: bool = False,
    categories: Sequence[str] = (),
    say: Callable[[str], None],
) -> Mapping[str, Json]:
    """Write the labelled texts of a dataset into a new folder, one table a split; nothing of it is held in memory.

    Args:
        dataset: Open at the version to write.
        out: Folder to make.
        format_: One of `FORMATS`; the folder of `parquet` is one that `datasets.load_dataset` opens.
        where: Keeps the samples that this condition holds for.
        unlabelled: Write texts that nobody has labelled too.
        categories: The columns of `csv`, in order; those that occur when empty.
        say: Told what is left out and lost, before anything is written.

    Returns:
        Counts of what was written, left out and lost.

    Raises:
        InputError: The format is unknown, the folder exists, or there is no text to write.
    """
    if format_ not in FORMATS:
        raise InputError(f"format of texts must be one of {', '.join(FORMATS)}, got {format_!r}")
    if out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise InputError(f"{out}: is there already; give a new folder")
    texts = both(f"media = '{TEXT}'", where)
    states = [str(state) for state in (*EXPORTED, *((State.UNLABELLED,) if unlabelled else ()))]
    chosen = both(texts, one_of("state", states))
    left = {str(state): n for (state,), n in dataset.tally("state", where=texts).items() if state not in states}
    for state, count in left.items():
        say(f"left out: {count} texts: {state}")
    known, looked, spans = Counter[str](), set[str](), 0
    for sample in dataset.samples(chosen, images=False):
        known.update(str(label.category) for label in sample.truth.labels)
        looked |= {*sample.truth.looked}
        spans += sum(label.span is not None for label in sample.truth.labels)
    if format_ == "csv" and spans:
        say(f"csv cannot hold: where in a text ({spans}); jsonl, parquet and labelstudio can")
    names = tuple(categories) or tuple(sorted({*known, *looked}))
    partial = out.with_name(out.name + ".partial")
    shutil.rmtree(partial, ignore_errors=True)
    partial.mkdir(parents=True)
    counts: Counter[str] = Counter()
    formulas = 0
    with ExitStack() as held:
        files: dict[str, Any] = {}
        for sample in dataset.samples(chosen):
            split = sample.split
            if split not in files:
                files[split] = held.enter_context(
                    _OPEN[format_](partial / (SPLITS.get(split, split) or "train"), names)
                )
            files[split].add(sample)
            counts[split] += 1
            formulas += format_ == "csv" and sample.text().startswith(FORMULAS)
    if not counts:
        shutil.rmtree(partial)
        raise InputError(f"{dataset.root}: no labelled text to write")
    if out.exists():
        out.rmdir()
    if formulas:
        say(
            f"{formulas} texts begin as formulas do; let a spreadsheet import the column `text` as text, never open the file"
        )
    partial.rename(out)  # renamed last, so its existence means that the export is whole
    return {
        "format": format_,
        "texts": counts.total(),
        "labels": dict(known),
        "categories": list(names),
        "splits": dict(counts),
        "left_out": left,
    }


def _row(sample: Sample) -> dict[str, Any]:
    """Return what is true of a text, as all formats but CSV have it."""
    truth = sample.truth
    return {
        "id": sample.id,
        "text": sample.text(),
        "state": str(truth.state),
        "split": sample.split,
        "labels": [_label(label) for label in truth.labels],
        "looked": list(truth.looked),
        "language": str(sample.columns.get("text.language") or ""),
        "licence": str(sample.origin.get("licence") or ""),
        "source": str(sample.origin.get("source") or ""),
    }


def _label(label: Claim) -> dict[str, Any]:
    start, end = map(int, label.span) if label.span else (None, None)
    return {
        "category": label.category,
        "start": start,
        "end": end,
        "score": round(label.score, 6),
        "source": label.source,
    }


class _Jsonl:
    """A line a text."""

    def __init__(self, stem: Path, names: Sequence[str]) -> None:
        self._stream = stem.with_suffix(".jsonl").open("w", encoding="utf-8")

    def __enter__(self) -> "_Jsonl":
        return self

    def add(self, sample: Sample) -> None:
        """Write a text."""
        self._stream.write(json.dumps(_row(sample), ensure_ascii=False) + "\n")

    def __exit__(self, *error: object) -> None:
        self._stream.close()


class _Parquet:
    """Groups of rows."""

    def __init__(self, stem: Path, names: Sequence[str]) -> None:
        self._file = pq.ParquetWriter(stem.with_suffix(".parquet"), SCHEMA)
        self._rows: list[dict[str, Any]] = []

    def __enter__(self) -> "_Parquet":
        return self

    def add(self, sample: Sample) -> None:
        """Write a text, when there are enough."""
        self._rows.append(_row(sample))
        if len(self._rows) >= GROUP_ROWS:
            self._flush()

    def _flush(self) -> None:
        self._file.write_table(pa.Table.from_pylist(self._rows, schema=SCHEMA))
        self._rows = []

    def __exit__(self, *error: object) -> None:
        with suppress(ValueError) if error[0] else ExitStack():
            self._flush()
        self._file.close()


class _Csv:
    """A column a category: 1, 0, or nothing where nobody looked."""

    def __init__(self, stem: Path, names: Sequence[str]) -> None:
        self._names = names
        self._stream = stem.with_suffix(".csv").open("w", encoding="utf-8", newline="")
        self._table = csv.writer(self._stream)
        self._table.writerow(["id", "text", "state", *names, "licence", "source"])

    def __enter__(self) -> "_Csv":
        return self

    def add(self, sample: Sample) -> None:
        """Write a text."""
        row, truth = _row(sample), sample.truth
        said = {Answer.PRESENT: "1", Answer.ABSENT: "0", Answer.UNASKED: ""}
        cells = [said[truth.of(name)] for name in self._names]
        self._table.writerow([row["id"], row["text"], row["state"], *cells, row["licence"], row["source"]])

    def __exit__(self, *error: object) -> None:
        self._stream.close()


class _LabelStudio:
    """A list of tasks, written item by item, and the labelling interface that they are for."""

    def __init__(self, stem: Path, names: Sequence[str]) -> None:
        (stem.parent / "interface.xml").write_text(interface(names), encoding="utf-8")
        self._stream = stem.with_suffix(".json").open("w", encoding="utf-8")
        self._stream.write("[")
        self._first = True

    def __enter__(self) -> "_LabelStudio":
        return self

    def add(self, sample: Sample) -> None:
        """Write a text."""
        row = _row(sample)
        task = {
            "data": {"text": row["text"], "id": row["id"]},
            "annotations": [{"result": regions(sample)}],
            "meta": {"state": row["state"], "licence": row["licence"]},
        }
        self._stream.write(("" if self._first else ",\n") + json.dumps(task, ensure_ascii=False))
        self._first = False

    def __exit__(self, *error: object) -> None:
        self._stream.write("]\n")
        self._stream.close()


_OPEN: Mapping[str, Callable[[Path, Sequence[str]], Any]] = {
    "jsonl": _Jsonl,
    "parquet": _Parquet,
    "csv": _Csv,
    "labelstudio": _LabelStudio,
}


def interface(names: Sequence[str]) -> str:
    """Return a labelling interface for texts: categories of the whole text, and of parts of it."""
    from xml.sax.saxutils import quoteattr

    whole = "".join(f"    <Choice value={quoteattr(name)}/>\n" for name in names)
    parts = "".join(f"    <Label value={quoteattr(name)}/>\n" for name in names)
    return (
        '<View>\n  <Text name="text" value="$text"/>\n'
        f'  <Choices name="shows" toName="text" choice="multiple">\n{whole}  </Choices>\n'
        f'  <Labels name="where" toName="text">\n{parts}  </Labels>\n</View>\n'
    )


def regions(sample: Sample) -> list[dict[str, Any]]:
    """Return the labels of a text as regions of Label Studio."""
    text, labels = sample.text(), sample.truth.labels
    found: list[dict[str, Any]] = []
    whole = list(dict.fromkeys(str(label.category) for label in labels if label.span is None))
    if whole:
        found.append({"from_name": "shows", "to_name": "text", "type": "choices", "value": {"choices": whole}})
    for label in labels:
        if label.span:
            start, end = map(int, label.span)
            value = {"start": start, "end": end, "text": text[start:end], "labels": [label.category]}
            found.append({"from_name": "where", "to_name": "text", "type": "labels", "value": value})
    return found
