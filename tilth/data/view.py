"""The view of a version: one row a sample with all that its tables say, derived from them and asked in the place of them.

    view/rows.lance     the rows; each view is one Lance version of it
    view/<key>.json     which Lance version is the view of which tables, and what its measured columns are called
    view/.lock          one process at a time makes a view

A view is made from the nearest one that there is, by looking only at the samples that the tables between them touch. It may be
deleted and is made again. The file that names it is written last, so a killed run leaves rows that nobody reads.
"""

import fcntl
import hashlib
import json
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from datetime import timedelta
from itertools import chain
from pathlib import Path

import lance
import pyarrow as pa
import pyarrow.compute as pc

from tilth.claims import Json
from tilth.data.files import write_beside
from tilth.data.rows import Columns, Find, compose, fresh, samples_of
from tilth.data.table import INDEX_FROM_ROWS, SESSION, Table, TableRef, in_, read_columns
from tilth.data.where import both, quoted, translate
from tilth.errors import DatasetError, InputError
from tilth.samples import Sample

CHUNK_ROWS = 8192  # rows that are made, or read, at once
UPSERT_SHARE = 0.2  # of all rows: where more change, writing all again costs less …
UPSERT_ROWS = 100 * CHUNK_ROWS  # … as it does where so many change
WINDOWS = 64  # rows are put in order so many parts of the dataset at a time …
WINDOW_ROWS = 1 << 16  # … or so many rows
FILE_ROWS = 1 << 16  # of a file: its columns are held in memory until it is whole
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


class View:
    """The view of some tables, made when absent.

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
        found = self._entry(folder / f"{key_of(refs)}.json")
        if found is None or found.swept != len(swept):
            with self._lock():
                found = self._entry(folder / f"{key_of(refs)}.json")  # another process may have made it meanwhile
                if found is None or found.swept != len(swept):
                    found = self._make()
        self.columns, self._rows = found.columns, found.rows
        self._data = self._open(found.lance_version) if found.rows else None

    # asking

    def _condition(self, where: str, dropped: bool) -> str | None:
        return both("" if dropped else "dropped is null", translate(where, self.columns.names())) or None

    def _asked(self, columns: list[str], condition: str | None, where: str) -> pa.Table:
        assert self._data is not None
        try:
            return self._data.to_table(columns=columns, filter=condition)
        except (ValueError, OSError) as error:
            raise InputError(_wrong(where, error, self.columns)) from error

    def count(self, where: str = "", *, dropped: bool = False) -> int:
        """Count the samples that a condition holds for."""
        if self._data is None:
            return 0
        try:
            return int(self._data.count_rows(filter=self._condition(where, dropped)))
        except (ValueError, OSError) as error:
            raise InputError(_wrong(where, error, self.columns)) from error

    def tally(self, names: Sequence[str], where: str = "", *, dropped: bool = False) -> dict[tuple[Json, ...], int]:
        """Count the samples by the values of columns, most frequent first."""
        if self._data is None:
            return {}
        known = self.columns.names()
        parts = [f'"{known[name]}"' if name in known else "NULL" for name in names]
        condition = self._condition(where, dropped)
        text = f"SELECT {', '.join(f'{part} AS c{n}' for n, part in enumerate(parts))}, count(*) AS n FROM dataset"
        text += f" WHERE {condition}" if condition else ""
        text += f" GROUP BY {', '.join(f'c{n}' for n in range(len(parts)))}"
        try:
            batches = self._data.sql(text).build().to_batch_records()
        except (ValueError, OSError) as error:
            raise InputError(_wrong(where, error, self.columns)) from error
        rows = [tuple(row.values()) for batch in batches for row in batch.to_pylist()]
        return {row[:-1]: row[-1] for row in sorted(rows, key=lambda row: (-row[-1], str(row)))}

    def _windows(
        self, columns: list[str], where: str, dropped: bool, among: Iterable[str] | None = None
    ) -> Iterator[pa.Table]:
        """Yield what a condition holds for in the order in which samples came, a part of the dataset at a time."""
        if self._data is None:
            return
        condition = self._condition(where, dropped)
        chosen = None if among is None else pa.array(among, pa.string())
        if chosen is not None and len(chosen) <= CHUNK_ROWS:
            if not len(chosen):
                return
            condition, chosen = both(in_(chosen.to_pylist()), condition or ""), None
        columns = ["place", *columns, *(["id"] if chosen is not None and "id" not in columns else [])]
        size = max(WINDOW_ROWS, -(-self._rows // WINDOWS))
        for start in range(0, self._rows, size):
            here = f"place >= {start} and place < {start + size}" if self._rows > size else ""
            found = self._asked(columns, both(here, condition or "") or None, where)
            if chosen is not None:
                found = found.filter(pc.is_in(found["id"], value_set=chosen))
            if len(found):
                yield found.sort_by("place")

    def ids(
        self,
        where: str = "",
        *,
        among: Iterable[str] | None = None,
        dropped: bool = False,
        batch_rows: int = CHUNK_ROWS,
    ) -> Iterator[list[str]]:
        """Yield the ids of the samples that a condition holds for, in the order in which they came."""
        for found in self._windows(["id"], where, dropped, among):
            for start in range(0, len(found), batch_rows):
                yield found["id"].slice(start, batch_rows).to_pylist()

    def cells(self, names: Sequence[str], where: str = "", *, dropped: bool = False) -> Iterator[tuple[Json, ...]]:
        """Yield the values of columns, None where there is none, of the samples that a condition holds for, in order."""
        known = self.columns.names()
        wanted = list(dict.fromkeys(known[name] for name in names if name in known))
        for found in self._windows(wanted, where, dropped):
            for start in range(0, len(found), CHUNK_ROWS):
                part = found.slice(start, CHUNK_ROWS)
                lists = [part[known[n]].to_pylist() if n in known else [None] * len(part) for n in names]
                yield from zip(*lists, strict=True)

    def scan(
        self, where: str = "", *, among: Iterable[str] | None = None, dropped: bool = False, batch_rows: int = 256
    ) -> Iterator[list[Sample]]:
        """Yield the samples that a condition holds for, and whose ids are `among` some, in order, without images."""
        for rows in self._rows_in_order(where, dropped, among):
            for begin in range(0, len(rows), batch_rows):
                yield samples_of(rows.slice(begin, batch_rows), self.columns, self._load)

    def _rows_in_order(
        self, where: str = "", dropped: bool = False, among: Iterable[str] | None = None
    ) -> Iterator[pa.Table]:
        """Yield whole rows, `CHUNK_ROWS` at once."""
        for found in self._windows(["_rowoffset"], where, dropped, among):
            places = found["_rowoffset"].to_pylist()
            for start in range(0, len(places), CHUNK_ROWS):
                assert self._data is not None
                yield self._data.take(places[start : start + CHUNK_ROWS])

    def _found(self, ids: Sequence[str], columns: list[str]) -> pa.Table | None:
        if self._data is None or not ids:
            return None
        offsets = self._data.to_table(columns=["_rowoffset"], filter=in_(ids))["_rowoffset"].to_pylist()
        return self._data.take(offsets, columns=columns) if offsets else None

    def contains(self, ids: Sequence[str]) -> set[str]:
        """Return those of the ids that have a row."""
        found = self._found(ids, ["id"])
        return set() if found is None else set(found["id"].to_pylist())

    def beginning(self, text: str, limit: int) -> list[str]:
        """Return ids that begin with a text, `limit` at most."""
        if self._data is None:
            return []
        condition = f"starts_with(id, {quoted(text)})"
        return list(self._data.to_table(columns=["id"], filter=condition, limit=limit)["id"].to_pylist())

    def read(self, ids: Sequence[str]) -> list[Sample]:
        """Return these samples in this order, without images.

        Raises:
            DatasetError: One has no row.
        """
        found = self._found(list(dict.fromkeys(ids)), self.columns.schema().names)
        known = {} if found is None else {s.id: s for s in samples_of(found, self.columns, self._load)}
        if missing := [i for i in ids if i not in known]:
            raise DatasetError(
                f"{self._folder.parent}: no sample {missing[0][:12]} in this version ({len(missing)} missing)"
            )
        return [known[i] for i in ids]

    def _load(self, ids: list[str]) -> dict[str, dict[str, Json]]:
        """Read all measured columns of samples from the tables that hold lists and mappings."""
        found: dict[str, dict[str, Json]] = {i: {} for i in ids}
        for ref in self._refs:
            if self.columns.nested.get(ref.name):
                for id_, row in self._find(ref).get(ids, ["columns", "nested"]).items():
                    found[id_] |= read_columns(row)
        return found

    # making

    @contextmanager
    def _lock(self) -> Iterator[None]:
        self._folder.mkdir(parents=True, exist_ok=True)
        with (self._folder / ".lock").open("w") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            yield

    @property
    def _place(self) -> Path:
        return self._folder / "rows.lance"

    def _open(self, version: int | None = None) -> lance.LanceDataset:
        return lance.dataset(str(self._place), version=version, session=SESSION)

    def _entry(self, path: Path) -> Entry | None:
        """Read what a view's file says; None when there is none, or what it names is gone."""
        try:
            told = json.loads(path.read_text())
        except (FileNotFoundError, ValueError):
            return None
        refs, columns = tuple(TableRef(**ref) for ref in told["refs"]), Columns(**told["columns"])
        entry = Entry(**{**told, "refs": refs, "columns": columns})
        if entry.rows:
            try:
                self._open(entry.lance_version)
            except (ValueError, OSError):  # deleted, or cleaned up
                return None
        return entry

    def _make(self) -> Entry:
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
        write_beside(self._folder / f"{key_of(self._refs)}.json", json.dumps(asdict(entry)))
        return entry

    def _nearest(self) -> Entry | None:
        """Return the view to start from: the one with the fewest rows of tables that it lacks or has too many."""
        best, least = None, self._rows_of(self._refs)
        for path in self._folder.glob("*.json"):
            entry = self._entry(path)
            if entry is None or not entry.rows or not self._grows_from(entry.refs):
                continue
            cost = self._rows_of([r for r in self._refs if r not in entry.refs])
            cost += self._rows_of([r for r in entry.refs if r not in self._refs])
            if cost < least:
                best, least = entry, cost
        return best

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
            old = _by_id(data, ids, columns)
            there = old["id"].to_pylist()
            new = [i for i in self._members(ids, more) if i not in set(there)]
            grown = (
                compose(old, more, self._find, columns)
                if appended
                else self._anew(there, old["place"].to_pylist(), columns)
            )
            data = self._upsert(data, pa.concat_tables([grown, self._anew(new, range(rows, rows + len(new)), columns)]))
            rows += len(new)
        gone = _by_id(data, self._swept[base.swept :], columns)
        anew = self._anew(gone["id"].to_pylist(), gone["place"].to_pylist(), columns)
        return self._tidy(self._upsert(data, anew)), rows

    def _anew(self, ids: Sequence[str], places: Sequence[int], columns: Columns) -> pa.Table:
        """Make rows from all tables."""
        return compose(fresh(ids, places, self._pool, columns), self._refs, self._find, columns)

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
        mode = "overwrite" if self._place.exists() else "create"
        reader = pa.RecordBatchReader.from_batches(schema, chain([first], stream))
        lance.write_dataset(
            reader, str(self._place), mode=mode, max_rows_per_file=FILE_ROWS, data_storage_version="stable"
        )
        return self._tidy(self._open()), count

    def _all(self, columns: Columns, base: Entry | None) -> Iterator[pa.Table]:
        known = base.refs if base else ()
        more = [ref for ref in self._refs if ref not in known]
        count = 0
        if base:
            there = View(self._folder, base.refs, find=self._find, pool=self._pool, swept=self._swept[: base.swept])
            gone = pa.array(self._swept[base.swept :], pa.string())
            for part in there._rows_in_order(dropped=True):
                rows = _aligned(part, columns)
                swept = pc.is_in(rows["id"], value_set=gone)
                yield compose(rows.filter(pc.invert(swept)), more, self._find, columns)
                if pc.any(swept).as_py():
                    rows = rows.filter(swept)
                    yield self._anew(rows["id"].to_pylist(), rows["place"].to_pylist(), columns)
                count += len(part)
        earlier = [ref for ref in known if ref.adds]
        for ref in (ref for ref in more if ref.adds):
            for ids in self._find(ref).ids(CHUNK_ROWS, where="status = 'ok'"):
                here = set(self._members(ids, earlier))
                new = [i for i in dict.fromkeys(ids) if i not in here]
                yield self._anew(new, range(count, count + len(new)), columns)
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


def _by_id(data: lance.LanceDataset, ids: Sequence[str], columns: Columns) -> pa.Table:
    """Return the rows of ids, in no order."""
    offsets = data.to_table(columns=["_rowoffset"], filter=in_(ids))["_rowoffset"].to_pylist() if ids else []
    return _aligned(data.take(offsets), columns) if offsets else columns.schema().empty_table()


def _aligned(rows: pa.Table, columns: Columns) -> pa.Table:
    """Give rows the columns that a view has by now."""
    schema, there = columns.schema(), set(rows.schema.names)
    cells = [rows[f.name].cast(f.type) if f.name in there else pa.nulls(len(rows), f.type) for f in schema]
    return pa.table(cells, schema=schema)


def _wrong(where: str, error: Exception, columns: Columns) -> str:
    text = str(error).partition(", /")[0].partition(". Valid fields")[0].splitlines()[0]
    return f"cannot ask for {where!r}: {text[:200]}; there are: {', '.join(sorted(columns.names()))}"
