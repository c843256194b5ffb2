"""A versioned dataset on Lance: a pool of images, and tables of what each step found out about them.

    pool.lance           every image once, under its id
    results/<name>.lance one row a sample that a step has finished: its claims, columns, drop reason or error
    versions/000007.json which tables, at which Lance version, make up version 7 of the dataset
    tags.json            names of versions
    quarantine.jsonl     what a hash list kept out: when, from where, on which list; never the image

A row of a table is appended whole, so its existence means that the work is done: the tables are the journal that a killed
run resumes from. A version is a short list of tables, so a commit is one renamed file, `rollback` forgets nothing, and two
versions share whatever they agree on.
"""

import json
import os
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import timedelta
from pathlib import Path

import lance
import pyarrow as pa

from tilth.claims import Claim, Json
from tilth.errors import DatasetError, InputError, Quarantined
from tilth.images import Image, decode
from tilth.samples import NewSample, Result, Sample, origin_text

POOL = pa.schema(
    [
        ("id", pa.string()),
        ("data", pa.large_binary()),
        ("width", pa.int32()),
        ("height", pa.int32()),
        ("origin", pa.string()),
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
RESULT = pa.schema(
    [
        ("id", pa.string()),
        ("status", pa.string()),
        ("reason", pa.string()),
        ("claims", pa.list_(CLAIM)),
        ("columns", pa.string()),
    ]
)
INDEX_FROM_ROWS = 50_000  # fewer rows without an index are scanned as fast
COMPACT_EVERY = 128  # appends, or as soon as there are …
FRAGMENT_ROWS = 8192  # … for a file that later compactions leave alone: all rows again would cost their square
READERS_HAVE = timedelta(hours=1)  # what a pool compacted away stays so long for those who read it
BATCH_ROWS = 256
SESSION = lance.Session(index_cache_size_bytes=1 << 30, metadata_cache_size_bytes=1 << 26)  # for all tables

Where = Callable[[Sample], bool]
Guard = Callable[[Image], str | None]
"""Says why an image may not be kept or shown, or None."""
QUARANTINED = "quarantined"  # in the origin of an image whose bytes were taken out
HASH_GATE = "hash gate"  # the step that its drop names


@dataclass(frozen=True, kw_only=True)
class TableRef:
    """A results table as a version sees it; `adds` tables say which samples there are."""

    step: str
    name: str
    lance_version: int
    adds: bool = False


@dataclass(frozen=True, kw_only=True)
class Version:
    """One state of a dataset."""

    number: int
    parent: int
    message: str
    time: str
    tables: tuple[TableRef, ...] = ()


def _claim_row(claim: Claim) -> dict[str, object]:
    return {
        "says": claim.says,
        "category": claim.category,
        "box": list(claim.box_xyxy) if claim.box_xyxy else None,
        "score": claim.score,
        "source": claim.source,
        "time": claim.time,
        "evidence": json.dumps(claim.evidence, sort_keys=True) if claim.evidence else "",
        "asked": list(claim.asked),
        "policy": claim.policy,
    }


def read_claim(row: Mapping[str, object]) -> Claim:
    """Read a claim as a row of a results table holds it."""
    box = row["box"]
    return Claim(
        says=row["says"],  # type: ignore[arg-type]  # the constructor checks it
        category=row["category"],  # type: ignore[arg-type]
        box_xyxy=tuple(box) if box else None,  # type: ignore[arg-type]
        score=min(1.0, float(row["score"])),  # type: ignore[arg-type]
        source=str(row["source"]),
        time=str(row["time"]),
        evidence=json.loads(str(row["evidence"])) if row["evidence"] else {},
        asked=tuple(row.get("asked") or ()),  # type: ignore[arg-type]  # tables of earlier versions do not have it
        policy=str(row.get("policy") or ""),
    )


def _in(ids: Sequence[str]) -> str:
    return "id IN (" + ",".join(f"'{i}'" for i in ids) + ")"


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
        if path.exists():
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
            self._data = lance.write_dataset(batch, self._data, mode="append")
        self._appends, self._appended = self._appends + 1, self._appended + len(rows)
        if self._appends >= COMPACT_EVERY or self._appended >= FRAGMENT_ROWS:  # each small file slows every look-up
            self.optimize()

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
        # places first: with an index, a search that asks for columns reads them of every row that the index does not cover yet
        places = self._data.to_table(columns=["_rowoffset"], filter=_in(ids))["_rowoffset"]
        rows = self._data.take(places.to_pylist(), columns=["id", *columns]).to_pylist() if len(places) else []
        return {row["id"]: row for row in rows}

    def ids(self, batch_rows: int = BATCH_ROWS, where: str | None = None) -> Iterator[list[str]]:
        """Yield all ids in the order they came."""
        if self._data is None:
            return
        for batch in self._data.to_batches(columns=["id"], batch_size=batch_rows, filter=where):
            if batch.num_rows:
                yield batch.column("id").to_pylist()

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
        "claims": [_claim_row(replace(claim, time=claim.time or time)) for claim in result.claims],
        "columns": json.dumps(result.columns, sort_keys=True) if result.columns else "",
    }


def failure_row(id_: str, error: str) -> dict[str, object]:
    """Write a failure as a row of a results table."""
    return {"id": id_, "status": "failed", "reason": error, "claims": [], "columns": ""}


class Dataset:
    """A folder that holds a dataset, opened at one version.

    Args:
        root: The folder; made when absent.
        version: Number or tag of the version to open; the newest when None.
        guard: Looks at every image before it is kept, and before a file from elsewhere is shown beside this dataset.

    Raises:
        InputError: There is no such version or tag.
    """

    def __init__(self, root: Path, version: int | str | None = None, guard: Guard | None = None) -> None:
        self.root, self.guard = root, guard
        (root / "versions").mkdir(parents=True, exist_ok=True)
        self.pool = Table(root / "pool.lance", POOL, pinned=False)
        self._tables: dict[tuple[str, int], Table] = {}
        self.at = self._load(version)

    # versions

    def _path(self, number: int) -> Path:
        return self.root / "versions" / f"{number:06d}.json"

    def history(self) -> list[Version]:
        """Return all versions, oldest first."""
        return [self._read(int(path.stem)) for path in sorted((self.root / "versions").glob("*.json"))]

    def _read(self, number: int) -> Version:
        try:
            document = json.loads(self._path(number).read_text())
        except FileNotFoundError as error:
            raise InputError(f"{self.root}: no version {number}") from error
        except ValueError as error:
            raise DatasetError(f"{self._path(number)}: not a version file: {error}") from error
        return Version(**{**document, "tables": tuple(TableRef(**table) for table in document["tables"])})

    def _load(self, version: int | str | None) -> Version:
        if isinstance(version, str) and not version.isdigit():
            tags = self.tags()
            if version not in tags:
                raise InputError(f"{self.root}: no tag {version!r}; known: {', '.join(sorted(tags)) or 'none'}")
            version = tags[version]
        if version is not None and int(version) > 0:
            return self._read(int(version))
        newest = max((int(path.stem) for path in (self.root / "versions").glob("*.json")), default=0)
        if newest == 0 or version is not None:
            return Version(number=0, parent=0, message="empty", time="")
        return self._read(newest)

    def checkout(self, version: int | str) -> "Dataset":
        """Return the dataset at another version, for reading or to go on from there."""
        return Dataset(self.root, version, self.guard)

    def commit(self, message: str, time: str, tables: Iterable[TableRef]) -> Version:
        """Make a new version of these tables and move to it."""
        newest = max((int(path.stem) for path in (self.root / "versions").glob("*.json")), default=0)
        version = Version(number=newest + 1, parent=self.at.number, message=message, time=time, tables=tuple(tables))
        document = {**vars(version), "tables": [vars(table) for table in version.tables]}
        write_beside(self._path(version.number), json.dumps(document, indent=1))
        self.at = version
        return version

    def rollback(self, version: int | str, time: str) -> Version:
        """Make a new version that equals an earlier one."""
        earlier = self._load(version)
        return self.commit(f"roll back to version {earlier.number}", time, earlier.tables)

    def tags(self) -> dict[str, int]:
        """Return version numbers by tag."""
        path = self.root / "tags.json"
        return dict(json.loads(path.read_text())) if path.exists() else {}

    def tag(self, name: str) -> None:
        """Name the version that is open; a name can be moved.

        Raises:
            InputError: The name could be taken for a number.
        """
        if not name or name.isdigit():
            raise InputError(f"a tag needs a name that is not a number, got {name!r}")
        write_beside(
            self.root / "tags.json", json.dumps(self.tags() | {name: self.at.number}, indent=1, sort_keys=True)
        )

    # tables

    def table(self, name: str, lance_version: int | None = None) -> Table:
        """Open a results table, at its newest state unless a version is given."""
        if lance_version is None:
            return Table(self.root / "results" / f"{name}.lance", RESULT)
        key = (name, lance_version)
        if key not in self._tables:
            self._tables[key] = Table(self.root / "results" / f"{name}.lance", RESULT, lance_version or None)
        return self._tables[key]

    def attach(self, step: str, table: Table, message: str, time: str, *, adds: bool = False) -> Version:
        """Make a version with this table in it; an earlier state of the same table gives way."""
        ref = TableRef(step=step, name=table.path.stem, lance_version=table.lance_version, adds=adds)
        if ref in self.at.tables:
            return self.at
        kept = [t for t in self.at.tables if t.name != ref.name]
        return self.commit(message, time, [*kept, ref])

    def put(self, samples: Sequence[NewSample]) -> list[str | InputError]:
        """Keep images in the pool, each once; return their ids, or why an image cannot be kept."""
        known: list[str | InputError] = []
        rows: dict[str, dict[str, object]] = {}
        for sample in samples:
            try:
                id_, (width, height) = sample.identify()
                if self.guard and (why := self.guard(decode(sample.data))):
                    raise Quarantined(why)
            except InputError as error:
                known.append(error)
                continue
            known.append(id_)
            rows[id_] = {
                "id": id_,
                "data": sample.data,
                "width": width,
                "height": height,
                "origin": origin_text(sample.origin),
            }
        present = self.pool.get(list(rows), [])
        self.pool.append([row for id_, row in rows.items() if id_ not in present])
        return known

    def quarantine(self, why: str, time: str, **where: Json) -> None:
        """Write into the audit log that an image was kept out or taken out."""
        with (self.root / "quarantine.jsonl").open("a", encoding="utf-8") as stream:
            stream.write(json.dumps({"time": time, "why": why, **where}) + "\n")

    def sweep(self, time: str) -> list[str]:
        """Show every kept image to the guard, take the bytes of those it refuses out of the pool, and return their ids.

        They stay as dropped samples of every version, without image and without origin.
        """
        refused: list[str] = []
        for ids in self.pool.ids():
            rows = self.pool.get(ids, ["data", "width", "height"])
            gone = []
            for id_, row in rows.items():
                why = self.guard(decode(bytes(row["data"]))) if self.guard and row["data"] else None  # type: ignore[call-overload]
                if why:
                    self.quarantine(why, time, id=id_)
                    gone.append({**row, "data": b"", "origin": origin_text({QUARANTINED: why})})
            refused += [str(row["id"]) for row in gone]
            if gone:
                self.pool.replace(gone)
        if refused:
            self.pool.forget()
        return refused

    # reading

    def ids(self, batch_rows: int = BATCH_ROWS) -> Iterator[list[str]]:
        """Yield the ids of all samples of this version, each once, in the order they were added."""
        earlier: list[Table] = []
        for ref in self.at.tables:
            if not ref.adds:
                continue
            table = self.table(ref.name, ref.lance_version)
            for ids in table.ids(batch_rows, where="status = 'ok'"):
                fresh = list(dict.fromkeys(ids))
                for other in earlier:
                    taken = other.get(fresh, ["status"])
                    fresh = [i for i in fresh if i not in taken or taken[i]["status"] == "failed"]
                if fresh:
                    yield fresh
            earlier.append(table)

    def contains(self, ids: Sequence[str]) -> set[str]:
        """Return those of the ids that are samples of this version."""
        found: set[str] = set()
        for ref in self.at.tables:
            if ref.adds:
                rows = self.table(ref.name, ref.lance_version).get(ids, ["status"])
                found |= {i for i, row in rows.items() if row["status"] == "ok"}
        return found

    def read(self, ids: Sequence[str], *, images: bool = True) -> list[Sample]:
        """Return these samples in this order, with everything that this version says of them.

        Raises:
            DatasetError: The pool lacks an id.
        """
        columns = ["width", "height", "origin", *(["data"] if images else [])]
        pool = self.pool.get(ids, columns)
        if missing := [i for i in ids if i not in pool]:
            raise DatasetError(f"{self.root}: {len(missing)} samples are not in the pool, {missing[0][:12]} among them")
        claims: dict[str, list[Claim]] = {i: [] for i in ids}
        measured: dict[str, dict[str, Json]] = {i: {} for i in ids}
        drops: dict[str, list[tuple[str, str]]] = {i: [] for i in ids}
        for ref in self.at.tables:
            for id_, row in (
                self.table(ref.name, ref.lance_version).get(ids, ["status", "reason", "claims", "columns"]).items()
            ):
                claims[id_] += [read_claim(c) for c in row["claims"]]  # type: ignore[attr-defined]
                if row["columns"]:
                    measured[id_] |= json.loads(str(row["columns"]))
                if row["status"] == "dropped":
                    drops[id_].append((ref.step, str(row["reason"])))
        origins = {i: json.loads(str(pool[i]["origin"])) for i in ids}
        for i, origin in origins.items():
            if QUARANTINED in origin:
                drops[i].append((HASH_GATE, str(origin[QUARANTINED])))
        return [
            Sample(
                id=i,
                size_wh=(pool[i]["width"], pool[i]["height"]),  # type: ignore[arg-type]
                data=pool[i]["data"] if images else b"",  # type: ignore[arg-type]
                origin=origins[i],
                claims=tuple(claims[i]),
                columns=measured[i],
                drops=tuple(drops[i]),
            )
            for i in ids
        ]

    def scan(
        self, where: Where | None = None, *, images: bool = True, dropped: bool = False, batch_rows: int = BATCH_ROWS
    ) -> Iterator[list[Sample]]:
        """Yield all samples in batches; dropped ones only when asked for.

        Args:
            where: Keeps the samples it is true for; it sees everything but the image.
            images: Read the image files too.
            dropped: Yield dropped samples as well.
            batch_rows: Largest size of a batch.
        """
        for ids in self.ids(batch_rows):
            chosen = [
                s for s in self.read(ids, images=False) if (dropped or not s.drops) and (where is None or where(s))
            ]
            if not chosen:
                continue
            if images:
                data = self.pool.get([s.id for s in chosen], ["data"])
                chosen = [replace(s, data=data[s.id]["data"]) for s in chosen]  # type: ignore[arg-type]
            yield chosen

    def samples(self, where: Where | None = None, *, images: bool = True, dropped: bool = False) -> Iterator[Sample]:
        """Yield all samples one by one."""
        for batch in self.scan(where, images=images, dropped=dropped):
            yield from batch

    def count(self, where: Where | None = None, *, dropped: bool = False) -> int:
        """Count the samples for which `where` is true."""
        return sum(len(batch) for batch in self.scan(where, images=False, dropped=dropped))


def write_beside(path: Path, text: str) -> None:
    """Write a file so that a reader finds it whole or not at all."""
    partial = path.with_suffix(path.suffix + ".partial")
    with partial.open("w", encoding="utf-8") as stream:
        stream.write(text)
        stream.flush()
        os.fsync(stream.fileno())
    os.replace(partial, path)
