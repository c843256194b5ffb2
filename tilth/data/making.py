"""How a view is made: from the nearest one there is, by looking only at samples that the tables between them touch.

Few are put in the place of their rows; many are written again, all in order, as a stream. Each view is a Lance version of its own, so
readers of an old one keep it. The file that names a view is written last, so a killed run leaves rows that nobody reads.
"""

import hashlib
import json
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass
from datetime import timedelta
from itertools import chain
from pathlib import Path

import lance
import pyarrow as pa
import pyarrow.compute as pc

from tilth.data.ahead import Ahead
from tilth.data.files import write_beside
from tilth.data.rows import BASE, Columns, Find, Look, Rows, compose, fresh
from tilth.data.stored import CHUNK_ROWS, Stored, place_in
from tilth.data.table import INDEX_FROM_ROWS, Table, TableRef

UPSERT_SHARE = 0.2  # of all rows: where more change, writing all again costs less …
UPSERT_ROWS = 100 * CHUNK_ROWS  # … as it does where so many change
FILE_ROWS = 1 << 15  # of a file: its columns are held in memory until it is whole
MOST_FILES = 32  # beside those: each update adds one
READERS_HAVE = timedelta(days=1)  # what views no longer need stays so long for those who read it


@dataclass(frozen=True, kw_only=True)
class Entry:
    """What a view's file says.

    Args:
        refs: The tables that it is of.
        lance_version: Of `rows.lance`.
        rows: How many it has.
        swept: How many samples the hash gate had taken out when it was made.
        columns: Its measured names.
    """

    refs: tuple[TableRef, ...]
    lance_version: int
    rows: int
    swept: int
    columns: Columns


def key_of(refs: Sequence[TableRef]) -> str:
    """Name the view of these tables."""
    return hashlib.sha256(json.dumps([vars(ref) for ref in refs]).encode()).hexdigest()[:16]


def path_of(folder: Path, refs: Sequence[TableRef]) -> Path:
    """Return where the file of the view of these tables lies."""
    return folder / f"{key_of(refs)}.json"


def entry_at(path: Path) -> Entry | None:
    """Read what a view's file says; None when there is none, or what it names is gone."""
    entry = _told(path)
    if entry is not None and entry.rows:
        try:
            there = Stored(path.parent, entry.lance_version, entry.rows).data.schema.names
            return entry if {*BASE.names} <= {*there} else None  # an earlier Tilth made it
        except (ValueError, OSError):  # deleted, or cleaned up
            return None
    return entry


def _told(path: Path) -> Entry | None:
    try:
        told = json.loads(path.read_text())
        refs, columns = tuple(TableRef(**ref) for ref in told["refs"]), Columns(**told["columns"])
        return Entry(**{**told, "refs": refs, "columns": columns})
    except (FileNotFoundError, ValueError, KeyError, TypeError):  # absent, or not what we wrote: the view is made again
        return None


class Making:
    """Makes the view of some tables.

    Args:
        folder: Where views lie.
        refs: The tables of a version, in order.
        find: Opens one of them.
        pool: Where images and origins lie.
        swept: Ids of all samples that the hash gate ever took out, in that order.
    """

    def __init__(
        self, folder: Path, refs: Sequence[TableRef], *, find: Find, pool: Table, swept: Sequence[str]
    ) -> None:
        self._folder, self._refs, self._find, self._pool, self._swept = folder, tuple(refs), find, pool, list(swept)

    def _open(self, version: int | None = None) -> lance.LanceDataset:
        return Stored(self._folder, version, 0).data

    def make(self) -> Entry:
        """Make the view, and the file that names it last.

        The lock must be held.
        """
        base = self._nearest()
        columns = Columns(**json.loads(json.dumps(asdict(base.columns)))) if base else Columns()
        before = base.refs if base else ()
        fits = [not columns.learn(ref, self._find(ref)) for ref in self._refs if ref not in before]
        if not all(fits):  # a column is of another kind now
            base, columns = None, Columns(kinds=columns.kinds)
            for ref in self._refs:
                columns.learn(ref, self._find(ref))
        version, rows = self._update(base, columns) if base else self._write_all(columns)
        entry = Entry(refs=self._refs, lance_version=version, rows=rows, swept=len(self._swept), columns=columns)
        write_beside(path_of(self._folder, self._refs), json.dumps(asdict(entry)))
        return entry

    def _nearest(self) -> Entry | None:
        """Return the view to start from: the one with the fewest rows of tables that it lacks or has too many."""
        most = self._rows_of(self._refs)
        costs: list[tuple[int, Path]] = []
        for path in self._folder.glob("*.json"):
            entry = _told(path)
            if entry is not None and entry.rows and self._grows_from(entry.refs):
                cost = self._rows_of([r for r in self._refs if r not in entry.refs])
                costs.append((cost + self._rows_of([r for r in entry.refs if r not in self._refs]), path))
        usable = (entry_at(path) for cost, path in sorted(costs) if cost < most)
        return next((entry for entry in usable if entry is not None), None)

    def _grows_from(self, refs: tuple[TableRef, ...]) -> bool:
        """Tell whether the samples of these tables come first, in the same order, among those of this view."""
        theirs, ours = ([ref for ref in each if ref.adds] for each in (refs, self._refs))
        return theirs == ours[: len(theirs)]

    def _rows_of(self, refs: Iterable[TableRef]) -> int:
        return sum(len(self._find(ref)) for ref in refs)

    def _update(self, base: Entry, columns: Columns) -> tuple[int, int]:
        more = [ref for ref in self._refs if ref not in base.refs]
        less = [ref for ref in base.refs if ref not in self._refs]
        appended = base.refs == self._refs[: len(base.refs)]
        touched = self._rows_of([*more, *less])
        if touched > UPSERT_ROWS or touched > max(CHUNK_ROWS, UPSERT_SHARE * base.rows):
            return self._write_all(columns, base if appended else None)
        data = self._open(base.lance_version)
        if data.version != self._open().version:
            data.restore()  # the base is not the newest: go on from it
            data = self._open()
        new = [field for field in columns.schema() if field.name not in data.schema.names]
        if new:
            data.add_columns(pa.schema(new))
            data = self._open()
        rows = base.rows
        for ids in self._touched([*more, *less]):
            old = self._rows_of_ids(data, ids, columns)
            there = old["id"].to_pylist()
            new = [i for i in self._members(ids, more) if i not in set(there)]
            grown = (
                compose(old, more, self._find, columns)
                if appended
                else self._anew(there, old["place"].to_pylist(), columns)
            )
            data = self._upsert(data, pa.concat_tables([grown, self._anew(new, range(rows, rows + len(new)), columns)]))
            rows += len(new)
        gone = self._rows_of_ids(data, self._swept[base.swept :], columns)
        anew = self._anew(gone["id"].to_pylist(), gone["place"].to_pylist(), columns)
        return self._tidy(self._upsert(data, anew)), rows

    def _anew(
        self,
        ids: Sequence[str],
        places: Sequence[int],
        columns: Columns,
        look: Look | None = None,
        pool: Rows | None = None,
    ) -> pa.Table:
        """Make rows from all tables."""
        return compose(fresh(ids, places, pool or self._pool, columns), self._refs, look or self._find, columns)

    def _upsert(self, data: lance.LanceDataset, rows: pa.Table) -> lance.LanceDataset:
        if not len(rows):
            return data
        rows = rows.select([name for name in rows.schema.names if name in set(data.schema.names)])
        data.merge_insert("id").when_matched_update_all().when_not_matched_insert_all().execute(rows)
        return self._open()

    def _touched(self, refs: Sequence[TableRef]) -> Iterator[list[str]]:
        """Yield the ids that tables have rows of, each once; those that bring samples in go first, in their order."""
        refs = sorted(refs, key=lambda ref: not ref.adds)
        for n, ref in enumerate(refs):
            for ids in self._find(ref).ids(CHUNK_ROWS):
                for earlier in refs[:n]:
                    known = self._find(earlier).get(ids, [])
                    ids = [i for i in ids if i not in known]
                if ids:
                    yield list(dict.fromkeys(ids))

    def _members(self, ids: Sequence[str], refs: Sequence[TableRef]) -> list[str]:
        """Return those of the ids that tables bring in, in this order."""
        found: set[str] = set()
        for ref in refs:
            if ref.adds:
                found |= {i for i, row in self._find(ref).get(ids, ["status"]).items() if row["status"] == "ok"}
        return [i for i in dict.fromkeys(ids) if i in found]

    def _write_all(self, columns: Columns, base: Entry | None = None) -> tuple[int, int]:
        """Write all rows in order: those of a view with what later tables add, then the samples that are new."""
        count, schema = 0, columns.schema()

        def batches() -> Iterator[pa.RecordBatch]:
            nonlocal count
            for rows in self._all(columns, base):
                count += len(rows)
                yield from rows.to_batches()

        stream = batches()
        first = next(stream, None)
        if first is None:
            return 0, 0
        mode = "overwrite" if place_in(self._folder).exists() else "create"
        reader = pa.RecordBatchReader.from_batches(schema, chain([first], stream))
        lance.write_dataset(
            reader, str(place_in(self._folder)), mode=mode, max_rows_per_file=FILE_ROWS, data_storage_version="stable"
        )
        return self._tidy(self._open()), count

    def _all(self, columns: Columns, base: Entry | None) -> Iterator[pa.Table]:
        known = base.refs if base else ()
        more = [ref for ref in self._refs if ref not in known]
        count = 0
        ahead = {ref.name: Ahead(self._find(ref)) for ref in self._refs}
        pool = Ahead(self._pool)
        if base:
            gone = pa.array(self._swept[base.swept :], pa.string())
            stored = Stored(self._folder, base.lance_version, base.rows)
            for part in stored.in_order(stored.data.schema.names):
                rows = _aligned(part.rows, columns)
                swept = pc.is_in(rows["id"], value_set=gone)
                yield compose(rows.filter(pc.invert(swept)), more, lambda ref: ahead[ref.name], columns)
                if pc.any(swept).as_py():
                    rows = rows.filter(swept)
                    yield self._anew(rows["id"].to_pylist(), rows["place"].to_pylist(), columns)
                count += len(part)
        earlier = [ref for ref in known if ref.adds]
        for ref in (ref for ref in more if ref.adds):
            for ids in self._find(ref).ids(CHUNK_ROWS, where="status = 'ok'"):
                here = set(self._members(ids, earlier))
                new = [i for i in dict.fromkeys(ids) if i not in here]
                yield self._anew(new, range(count, count + len(new)), columns, lambda ref: ahead[ref.name], pool)
                count += len(new)
            earlier.append(ref)

    def _tidy(self, data: lance.LanceDataset) -> int:
        """Keep ids quick to find and files few, let go of what nobody needs, and return the version."""
        if len(data.get_fragments()) > MOST_FILES + data.count_rows() // FILE_ROWS:
            data.optimize.compact_files(target_rows_per_fragment=FILE_ROWS)
            data = self._open()
        indexed = sum(index.num_rows_indexed for index in data.describe_indices())
        if data.count_rows() - indexed >= INDEX_FROM_ROWS:
            data.create_scalar_index("id", "BTREE", replace=True)
            data = self._open()
        data.cleanup_old_versions(older_than=READERS_HAVE)
        return int(data.version)

    def _rows_of_ids(self, data: lance.LanceDataset, ids: Sequence[str], columns: Columns) -> pa.Table:
        return _aligned(Stored(self._folder, int(data.version), 0).of(ids, data.schema.names).rows, columns)


def _aligned(rows: pa.Table, columns: Columns) -> pa.Table:
    """Give rows the columns that a view has by now."""
    schema, there = columns.schema(), set(rows.schema.names)
    cells = [rows[f.name].cast(f.type) if f.name in there else pa.nulls(len(rows), f.type) for f in schema]
    return pa.table(cells, schema=schema)
