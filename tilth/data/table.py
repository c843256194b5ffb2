"""A Lance table with one row an id, and the rows of a results table: what a step found out about one sample.

A row is appended whole, so its existence means that the work is done.
"""

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import timedelta
from functools import lru_cache
from pathlib import Path

import lance
import pyarrow as pa

from tilth.claims import Claim, Json
from tilth.samples import Result

POOL = pa.schema(
    [
        ("id", pa.string()),
        ("data", pa.large_binary()),
        ("width", pa.int32()),
        ("height", pa.int32()),
        ("origin", pa.string()),
        ("media", pa.string()),
    ]
)
CLAIM = pa.struct(
    [
        ("says", pa.string()),
        ("category", pa.string()),
        ("box", pa.list_(pa.float32())),
        ("score", pa.float32()),
        ("source", pa.string()),
        ("time", pa.string()),
        ("evidence", pa.string()),
        ("asked", pa.list_(pa.string())),
        ("policy", pa.string()),
    ]
)
CLAIM_FIELDS = tuple(field.name for field in CLAIM)
RESULT = pa.schema(
    [
        ("id", pa.string()),
        ("status", pa.string()),
        ("reason", pa.string()),
        ("claims", pa.list_(CLAIM)),
        ("columns", pa.string()),
        ("nested", pa.string()),
    ]
)
INDEX_FROM_ROWS = 50_000  # fewer rows without an index are scanned as fast
COMPACT_EVERY = 128  # appends, or as soon as there are …
FRAGMENT_ROWS = 8192  # … for a file that later compactions leave alone: all rows again would cost their square
READERS_HAVE = timedelta(hours=1)  # what a pool compacted away stays so long for those who read it
BATCH_ROWS = 256
READ_AHEAD = 4 << 20  # bytes of a table
QUARANTINED = "quarantined"  # in the origin of an image whose bytes were taken out
CARRIED = "carried-"  # how the names of tables begin that are made of others
HASH_GATE = "hash gate"  # the step that its drop names
SESSION = lance.Session(index_cache_size_bytes=1 << 28, metadata_cache_size_bytes=1 << 26)  # for all tables


@dataclass(frozen=True, kw_only=True)
class TableRef:
    """A results table as a version sees it; `adds` tables say which samples there are."""

    step: str
    name: str
    lance_version: int
    adds: bool = False

    @property
    def carried(self) -> bool:
        """Whether it is made of others; see `carrying.py`."""
        return self.name.startswith(CARRIED)

    @property
    def came(self) -> int:
        """How many tables that brought samples it is made of."""
        return int(self.name.rpartition("-")[2]) if self.carried and self.adds else 1


def claim_row(claim: Claim) -> dict[str, object]:
    """Write a claim as a row of a results table holds it."""
    return {
        "says": claim.says,
        "category": claim.category,
        "box": list(claim.box_xyxy or claim.span or ()) or None,  # four numbers of an image, two of a text
        "score": claim.score,
        "source": claim.source,
        "time": claim.time,
        "evidence": json.dumps(claim.evidence, sort_keys=True) if claim.evidence else "",
        "asked": list(claim.asked),
        "policy": claim.policy,
    }


@lru_cache(maxsize=4096)
def _evidence(text: str) -> Mapping[str, Json]:
    """Read evidence; claims of one round often have the same."""
    found: dict[str, Json] = json.loads(text)
    return found


def read_claim(row: Mapping[str, object]) -> Claim:
    """Read a claim as a row of a results table holds it."""
    place: tuple[float, ...] = tuple(row["box"] or ())  # type: ignore[arg-type]
    return Claim(
        says=row["says"],  # type: ignore[arg-type]  # the constructor checks it
        category=row["category"],  # type: ignore[arg-type]
        box_xyxy=place if len(place) == 4 else None,
        span=place if len(place) == 2 else None,
        score=min(1.0, float(row["score"])),  # type: ignore[arg-type]
        source=str(row["source"]),
        time=str(row["time"]),
        evidence=_evidence(str(row["evidence"])) if row["evidence"] else {},
        asked=tuple(row["asked"] or ()),  # type: ignore[arg-type]
        policy=str(row["policy"] or ""),
    )


def in_(ids: Sequence[str]) -> str:
    """Write the condition that an id is one of these."""
    return "id IN (" + ",".join(f"'{i}'" for i in ids) + ")"


def finished(path: Path) -> bool:
    """Tell whether a table was ever written to its end: a killed first write leaves files, but no version."""
    return any((path / "_versions").glob("*.manifest"))


def rows_at(data: lance.LanceDataset, row_ids: Sequence[int], columns: list[str] | None = None) -> pa.Table:
    """Return rows by Lance's row ids, in the order in which they lie."""
    # not `take`: it counts offsets past deleted rows one by one, 20 times as slow after a few thousand were replaced
    return data.to_table(columns=columns, filter=f"_rowid IN ({','.join(map(str, row_ids))})")


class Table:
    """A Lance table with one row an id, made when the first rows arrive.

    Args:
        path: The table's folder.
        schema: Its columns.
        version: The Lance version to read; the newest when None.
        pinned: Versions of the dataset name Lance versions of this table, so none may go.
    """

    def __init__(self, path: Path, schema: pa.Schema, version: int | None = None, *, pinned: bool = True) -> None:
        self.path, self.schema = path, schema
        self._pinned = pinned
        self._data: lance.LanceDataset | None = None
        self._appends = self._appended = 0  # since the last compaction
        if finished(path):
            self._open(version)

    def _open(self, version: int | None = None) -> lance.LanceDataset:
        self._data = lance.dataset(str(self.path), version=version, session=SESSION)
        return self._data

    @property
    def lance_version(self) -> int:
        """The version that the next reader should pin; 0 while the table is empty."""
        return int(self._data.version) if self._data is not None else 0

    def __len__(self) -> int:
        """Count the rows."""
        return int(self._data.count_rows()) if self._data is not None else 0

    def append(self, rows: Sequence[Mapping[str, object]]) -> None:
        """Append rows, all or none."""
        if not rows:
            return
        batch = pa.Table.from_pylist([dict(row) for row in rows], schema=self.schema)
        if self._data is None:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            lance.write_dataset(batch, str(self.path), mode="create", data_storage_version="stable")
            self._open()
        else:
            self._grow()
            self._data = lance.write_dataset(batch, self._data, mode="append")
        self._appends, self._appended = self._appends + 1, self._appended + len(rows)
        if self._appends >= COMPACT_EVERY or self._appended >= FRAGMENT_ROWS:  # each small file slows every look-up
            self.optimize()

    def _grow(self) -> None:
        """Give a table of an earlier Tilth the columns that it lacks; they are empty in the rows that are there."""
        if self._data is not None and (new := [f for f in self.schema if f.name not in self._data.schema.names]):
            self._data.add_columns(pa.schema(new))
            self._open()

    def _there(self, columns: list[str]) -> list[str]:
        """Return those of the columns that the table has."""
        return [name for name in columns if self._data is not None and name in self._data.schema.names]

    def optimize(self) -> None:
        """Merge the small files that appends leave, and index the ids of a large table."""
        if self._data is None:
            return
        self._appends = self._appended = 0
        # copied as they are, since decoding a file of images takes its size in memory
        self._data.optimize.compact_files(target_rows_per_fragment=FRAGMENT_ROWS, compaction_mode="try_binary_copy")
        data = self._open()
        indexed = sum(index.num_rows_indexed for index in data.describe_indices())
        if len(self) - indexed >= INDEX_FROM_ROWS:
            if indexed:
                data.optimize.optimize_indices(num_indices_to_merge=0)  # merging would write the whole index again
            else:
                data.create_scalar_index("id", "BTREE")
            self._open()
        if not self._pinned:
            data.cleanup_old_versions(older_than=READERS_HAVE)

    def replace(self, rows: Sequence[Mapping[str, object]]) -> None:
        """Put rows in the place of those with the same id."""
        if self._data is None:
            self.append(rows)
            return
        self._grow()
        batch = pa.Table.from_pylist([dict(row) for row in rows], schema=self.schema)
        self._data.merge_insert("id").when_matched_update_all().when_not_matched_insert_all().execute(batch)
        self._open()

    def forget(self) -> None:
        """Delete what earlier versions of this table still hold."""
        if self._data is not None:
            self._data.optimize.compact_files(target_rows_per_fragment=FRAGMENT_ROWS, materialize_deletions_threshold=0)
            self._open().cleanup_old_versions(older_than=timedelta(0), delete_unverified=True)

    def get(self, ids: Sequence[str], columns: list[str]) -> dict[str, dict[str, object]]:
        """Return the rows of these ids, by id."""
        if self._data is None or not ids:
            return {}
        # row ids first: with an index, a search that asks for columns reads them of every row that the index does not cover yet
        row_ids = self._data.to_table(columns=["_rowid"], filter=in_(ids))["_rowid"]
        there = ["id", *self._there(columns)]
        rows = rows_at(self._data, row_ids.to_pylist(), there).to_pylist() if len(row_ids) else []
        absent: dict[str, object] = dict.fromkeys(name for name in columns if name not in there)
        return {row["id"]: row | absent for row in rows}

    def ids(self, batch_rows: int = BATCH_ROWS, where: str | None = None) -> Iterator[list[str]]:
        """Yield all ids in the order they came."""
        if self._data is None:
            return
        for batch in self._data.to_batches(columns=["id"], batch_size=batch_rows, filter=where):
            if batch.num_rows:
                yield batch.column("id").to_pylist()

    def batches(self, columns: list[str]) -> Iterator[pa.RecordBatch]:
        """Yield columns of all rows in the order they came; a table of an earlier Tilth may lack some."""
        if self._data is not None:
            # a buffer of its own size would be gigabytes, and many tables are read at once
            yield from self._data.scanner(
                columns=self._there(columns),
                batch_size=BATCH_ROWS,
                batch_readahead=1,
                fragment_readahead=1,
                io_buffer_size=READ_AHEAD,
            ).to_batches()

    def texts(self, column: str) -> Iterator[str]:
        """Yield the texts of a column that are not empty."""
        if self._data is None:
            return
        for batch in self._data.to_batches(columns=[column], batch_size=BATCH_ROWS, filter=f"{column} != ''"):
            yield from batch.column(column).to_pylist()

    def counts(self) -> dict[str, int]:
        """Count the rows by status."""
        if self._data is None:
            return {}
        values = ("ok", "dropped", "failed", "quarantined")
        return {value: n for value in values if (n := self._data.count_rows(filter=f"status = '{value}'"))}

    def failures(self, limit: int = 10_000) -> list[tuple[str, str]]:
        """Return `(id, error)` of failed rows."""
        if self._data is None:
            return []
        rows = self._data.to_table(columns=["id", "reason"], filter="status = 'failed'", limit=limit).to_pylist()
        return [(row["id"], row["reason"]) for row in rows]


def result_row(id_: str, result: Result, time: str) -> dict[str, object]:
    """Write the outcome of one sample as a row of a results table."""
    return {
        "id": id_,
        "status": "dropped" if result.dropped else "ok",
        "reason": result.dropped,
        "claims": [claim_row(replace(claim, time=claim.time or time)) for claim in result.claims],
        **write_columns(result.columns),
    }


def failure_row(id_: str, error: str) -> dict[str, object]:
    """Write a failure as a row of a results table."""
    return {"id": id_, "status": "failed", "reason": error, "claims": [], "columns": "", "nested": ""}


def write_columns(columns: Mapping[str, Json]) -> dict[str, str]:
    """Write measured columns as two texts: `columns` for what is asked often, `nested` for the lists and mappings among them.

    Of a nested one `columns` holds the number of items, as `{"items": n}`, so that asking for it reads nothing large.
    """
    nested = {name: value for name, value in columns.items() if isinstance(value, list | tuple | Mapping)}
    brief = {name: {"items": len(nested[name])} if name in nested else value for name, value in columns.items()}
    return {
        "columns": json.dumps(brief, sort_keys=True) if brief else "",
        "nested": json.dumps(nested, sort_keys=True) if nested else "",
    }


def read_columns(row: Mapping[str, object]) -> dict[str, Json]:
    """Read all measured columns of a row."""
    brief = json.loads(str(row["columns"])) if row["columns"] else {}
    return brief | (json.loads(str(row["nested"])) if row["nested"] else {})
