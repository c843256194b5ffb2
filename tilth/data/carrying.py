"""A dataset that outlives many nights carries what old tables say forward into few, and lets go of old versions.

Neighbours in the list of a version become one table, in their order, so nothing is understood otherwise than before:

    carried-<key>         one row a sample: what is said of it, less what nothing depends on any more (`spent.py`), and of each measured
                          column the last value
    carried-<key>-came-7  the samples that came with seven of them, in their order; `reason` is the number of the one in which each came
    carried-<key>-<step>  why the step left samples out, or failed on them

Each is written whole or not at all, and the version that names them last, so a kill leaves the dataset as it was.
"""

import hashlib
import json
import shutil
from collections.abc import Collection, Iterable, Iterator, Sequence
from itertools import chain, groupby
from pathlib import Path

import lance
import pyarrow as pa

from tilth.claims import Json
from tilth.data.ahead import Ahead
from tilth.data.dataset import Dataset, Version
from tilth.data.files import write_beside
from tilth.data.making import path_of
from tilth.data.spent import spent
from tilth.data.stored import CHUNK_ROWS
from tilth.data.table import (
    BATCH_ROWS,
    CARRIED,
    RESULT,
    Table,
    TableRef,
    finished,
    read_claim,
    read_columns,
    write_columns,
)

SEVERAL = "carried"  # the step of a table of several steps
LETTING_GO = "letting_go.json"  # which tables are being deleted; beside the versions

Row = dict[str, object]


def carry(dataset: Dataset, old: Collection[str], time: str) -> int:
    """Put few tables in the place of old ones, and return of how many.

    Args:
        dataset: Open at its newest version; it is moved on.
        old: Names of tables that nobody will write into any more.
        time: Of the new version.
    """
    whole = dataset.at.tables
    runs = [(may, list(refs)) for may, refs in groupby(whole, lambda ref: ref.carried or ref.name in old)]
    parts = [
        _Part(dataset, refs) if may and not all(ref.carried for ref in refs) and len(refs) > 1 else refs
        for may, refs in runs
    ]
    tables = [part.made() if isinstance(part, _Part) else part for part in parts]
    gone = sum(len(part.refs) for part in parts if isinstance(part, _Part))
    if gone:
        dataset.commit(f"carry {gone} tables forward", time, chain(*tables))
    return gone


class _Part:
    """Neighbours in the list of a version.

    Args:
        dataset: Open at that version.
        refs: The neighbours.
    """

    def __init__(self, dataset: Dataset, refs: Sequence[TableRef]) -> None:
        self.refs, self._dataset = refs, dataset
        told = json.dumps([vars(ref) for ref in dataset.at.tables] + [vars(ref) for ref in refs])
        self._key = f"{CARRIED}{hashlib.sha256(told.encode()).hexdigest()[:12]}"

    def made(self) -> list[TableRef]:
        """Write the tables, and return them."""
        found = [
            self._write(f"-came-{sum(ref.came for ref in self.refs if ref.adds)}", SEVERAL, self._came(), adds=True),
            self._write("", SEVERAL, self._said()),
            *(self._write(f"-{step}", step, self._rejected(step)) for step in dict.fromkeys(r.step for r in self.refs)),
        ]
        return [ref for ref in found if ref is not None]

    def _write(self, end: str, step: str, rows: Iterator[Row], *, adds: bool = False) -> TableRef | None:
        """Write a table, unless it is there; None when it has no rows."""
        path = self._dataset.root / "results" / f"{self._key}{end}.lance"
        if not finished(path):
            batches = (pa.RecordBatch.from_pylist(some, schema=RESULT) for some in _batched(rows))
            first = next(batches, None)
            if first is None:
                return None
            shutil.rmtree(path, ignore_errors=True)
            reader = pa.RecordBatchReader.from_batches(RESULT, chain([first], batches))
            lance.write_dataset(reader, str(path), mode="create", data_storage_version="stable")
        table = self._dataset.table(path.stem)
        table.optimize()
        return TableRef(step=step, name=path.stem, lance_version=table.lance_version, adds=adds)

    def _came(self) -> Iterator[Row]:
        """Yield the samples that came, each once, in the order in which they did."""
        adds = [ref for ref in self.refs if ref.adds]
        earlier_refs = self._dataset.at.tables[: self._dataset.at.tables.index(self.refs[0])]
        first = sum(ref.came for ref in earlier_refs if ref.adds)
        for n, ref in enumerate(adds):
            for ids in self._open(ref).ids(CHUNK_ROWS, where="status = 'ok'"):
                for earlier in adds[:n]:
                    known = self._open(earlier).get(ids, ["status"])
                    ids = [i for i in ids if i not in known or known[i]["status"] != "ok"]
                came = self._dataset.came_with(ids)
                # one that had come before them is no news
                yield from (_row(i, reason=str(came[i] - first)) for i in dict.fromkeys(ids) if came[i] >= first)

    def _said(self) -> Iterator[Row]:
        """Yield what is said of each sample."""
        ahead = [(Ahead(self._open(ref)), ref in self.refs) for ref in self._dataset.at.tables]
        for ids in self._dataset.ids(batch_rows=BATCH_ROWS):
            # of all tables, as what is spent in these depends on what others say
            found = [rows.get(ids, ["claims", "columns", "nested"] if ours else ["claims"]) for rows, ours in ahead]
            for id_ in ids:
                rows = [(rows[id_], ours) for rows, (_, ours) in zip(found, ahead, strict=True) if id_ in rows]
                if any(ours for _, ours in rows):
                    row = _joined(id_, [row for row, _ in rows], [n for n, (_, ours) in enumerate(rows) if ours])
                    if row["claims"] or row["columns"]:
                        yield row

    def _rejected(self, step: str) -> Iterator[Row]:
        """Yield what a step left out, and what it failed on and has not done since."""
        refs = [ref for ref in self.refs if ref.step == step]
        for n, ref in enumerate(refs):
            for ids in self._open(ref).ids(CHUNK_ROWS, where="status != 'ok'"):
                rows = self._open(ref).get(ids, ["status", "reason"])
                for later in refs[n + 1 :]:
                    for id_, row in self._open(later).get(list(rows), ["status"]).items():
                        if row["status"] == "dropped" or rows[id_]["status"] != "dropped":
                            del rows[id_]
                yield from (_row(i, str(rows[i]["status"]), str(rows[i]["reason"])) for i in ids if i in rows)

    def _open(self, ref: TableRef) -> Table:
        return self._dataset.table(ref.name, ref.lance_version)


def _row(id_: str, status: str = "ok", reason: str = "") -> Row:
    return {"id": id_, "status": status, "reason": reason, "claims": [], "columns": "", "nested": ""}


def _joined(id_: str, rows: Sequence[Row], ours: Sequence[int]) -> Row:
    """Make one row of what some of all rows of a sample say."""
    claims: list[list[Row]] = [list(row["claims"] or ()) for row in rows]  # type: ignore[call-overload]
    gone = spent([[read_claim(claim) for claim in some] for some in claims], ours)
    columns: dict[str, Json] = {}
    for n in ours:
        columns |= {name: value for name, value in read_columns(rows[n]).items() if value is not None}
    said = [claim for n in ours for claim in claims[n] if (n, claim["source"]) not in gone]
    return {**_row(id_), "claims": said, **write_columns(columns)}


def _batched(rows: Iterator[Row]) -> Iterator[list[Row]]:
    held: list[Row] = []
    for row in rows:
        held.append(row)
        if len(held) == CHUNK_ROWS:
            yield held
            held = []
    if held:
        yield held


def let_go(dataset: Dataset, before: int, but: Collection[int] = ()) -> int:
    """Delete the versions before a number, but tagged ones, and the tables and views that no other names; return how many versions.

    A kill leaves tables that the next call deletes.

    Args:
        dataset: Open at its newest version.
        before: A number.
        but: Numbers of others that stay.
    """
    kept, gone = list[Version](), list[Version]()
    wanted = {*dataset.tags().values(), *but, dataset.at.number}
    for version in dataset.history():
        (gone if version.number < before and version.number not in wanted else kept).append(version)
    note = dataset.root / LETTING_GO
    names = {str(name) for name in json.loads(note.read_text())} if note.exists() else set[str]()
    names |= {ref.name for version in gone for ref in version.tables}
    names -= {ref.name for version in kept for ref in version.tables}
    if not gone and not names:
        return 0
    write_beside(note, json.dumps(sorted(names)))  # before the versions go: they alone say which tables were theirs
    for version in gone:
        (dataset.root / "versions" / f"{version.number:06d}.json").unlink(missing_ok=True)
    views = dataset.root / "view"
    _delete(views.glob("*.json"), {path_of(views, version.tables) for version in kept})
    for name in names:
        shutil.rmtree(dataset.root / "results" / f"{name}.lance", ignore_errors=True)
    note.unlink()
    return len(gone)


def _delete(paths: Iterable[Path], but: set[Path]) -> None:
    for path in paths:
        if path not in but:
            path.unlink(missing_ok=True)
