"""The local executor: runs mappers and takes in images so that a kill loses one batch and a second run repeats nothing."""

import hashlib
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from itertools import islice
from typing import TYPE_CHECKING, TypeVar

from tilth.dataset import Table, Where, failure_row, result_row
from tilth.errors import InputError, MissingExtra, ModelError, Quarantined, TooManyFailures, Unavailable
from tilth.samples import NewSample, Result, Sample
from tilth.steps import Mapper, fingerprint

if TYPE_CHECKING:
    from tilth.work import Failed, Work

COMMIT_ROWS = 512  # what is done is written when there is so much …
COMMIT_BYTES = 16 << 20  # … or images are so heavy …
COMMIT_S = 10.0  # … or the oldest has waited so long, which is the most that a kill loses
FEW = 50  # a share of failures means nothing below
FATAL = (MissingExtra, ModelError, Unavailable, MemoryError)  # the whole step is wrong, not one sample

T = TypeVar("T")
Function = Callable[[Sequence[Sample]], list[Result]]


def batched(items: Iterable[T], size: int) -> Iterator[list[T]]:
    """Cut a stream into lists of at most `size`."""
    stream = iter(items)
    while batch := list(islice(stream, size)):
        yield batch


def _gathered(samples: Iterable[T], rows: int) -> Iterator[list[T]]:
    """Cut a stream of images into what is written at once."""
    held: list[T] = []
    heavy, since = 0, time.monotonic()
    for sample in samples:
        held.append(sample)
        heavy += len(sample.data) if isinstance(sample, NewSample) else 0
        if len(held) >= rows or heavy >= COMMIT_BYTES or time.monotonic() - since > COMMIT_S:
            yield held
            held, heavy, since = [], 0, time.monotonic()
    if held:
        yield held


class Writer:
    """Collects rows and appends them to a table in batches."""

    def __init__(self, table: Table, *, replace: bool = False) -> None:
        self._table, self._replace = table, replace
        self._rows: list[dict[str, object]] = []
        self._since = time.monotonic()

    def add(self, rows: Sequence[dict[str, object]]) -> None:
        """Take rows, and write when enough wait."""
        self._rows += rows
        if len(self._rows) >= COMMIT_ROWS or time.monotonic() - self._since > COMMIT_S:
            self.flush()

    def flush(self) -> None:
        """Write whatever waits."""
        (self._table.replace if self._replace else self._table.append)(self._rows) if self._rows else None
        self._rows = []
        self._since = time.monotonic()


def _one_by_one(function: Function, batch: Sequence[Sample]) -> list[Result | Exception]:
    """Run a batch; when it raises, run its samples alone, so that only the guilty ones fail."""
    try:
        return list(function(batch))
    except FATAL:
        raise
    except Exception as error:  # noqa: BLE001 - any error of one image must not cost the others
        if len(batch) == 1:
            return [error]
    outcomes: list[Result | Exception] = []
    for sample in batch:
        outcomes += _one_by_one(function, [sample])
    return outcomes


def rows_of(function: Function, samples: Sequence[Sample], now: Callable[[], str]) -> list[dict[str, object]]:
    """Run a batch and return its rows, a failure among them for each sample that raised."""
    outcomes = zip(samples, _one_by_one(function, samples), strict=True)
    return [
        failure_row(sample.id, _say(outcome))
        if isinstance(outcome, Exception)
        else result_row(sample.id, outcome, now())
        for sample, outcome in outcomes
    ]


class FailRate:
    """Watches the share of failures in a table that is being filled."""

    def __init__(self, work: "Work", table: Table) -> None:
        self._work, self._table = work, table
        self._seen = self._failed = 0

    def add(self, seen: int, failed: int) -> None:
        """Count samples and the failures among them."""
        self._seen, self._failed = self._seen + seen, self._failed + failed

    def too_many(self) -> bool:
        """Tell whether the work should stop."""
        return self._seen >= FEW and self._failed > self._work.max_fail_rate * self._seen

    def error(self) -> TooManyFailures:
        """Say so; to be called once everything is written."""
        return TooManyFailures(_too_many(self._work, self._failed, self._seen, self._table))


def map_samples(work: "Work", mapper: Mapper, where: Where | None, *, on: str, label: str) -> dict[str, int]:
    """Run a mapper; see `Work.map`."""
    dataset = work.dataset
    upstream = [str(vars(ref)) for ref in dataset.at.tables] if on == "claims" else []
    table = dataset.table(f"{work.name}-{fingerprint(mapper, *upstream)}")
    if work.options.get("executor") == "ray" and not getattr(mapper, "local", False):
        from tilth.cluster import map_on_cluster

        map_on_cluster(work, mapper, where, table, label)
    else:
        _map_here(work, mapper, where, table, label)
    dataset.attach(work.name, table, f"{work.name}: {type(mapper).__name__}", work.now())
    return table.counts()


def _map_here(work: "Work", mapper: Mapper, where: Where | None, table: Table, label: str) -> None:
    dataset = work.dataset
    function: Function | None = None
    writer, counted = Writer(table, replace=work.retry_failed), FailRate(work, table)
    total = dataset.count(where)
    with work.events.progress(label or work.name, total) as advance:
        for samples in dataset.scan(where, images=False):
            done = table.get([s.id for s in samples], ["status"])
            todo = [s for s in samples if s.id not in done or (work.retry_failed and done[s.id]["status"] == "failed")]
            earlier = sum(row["status"] == "failed" for row in done.values()) if not work.retry_failed else 0
            counted.add(len(samples) - len(todo), earlier)
            advance(len(samples) - len(todo))
            for batch in batched(todo, mapper.batch_size):
                function = function or mapper.load()
                rows = rows_of(function, dataset.read([s.id for s in batch]), work.now)
                writer.add(rows)
                counted.add(len(batch), sum(row["status"] == "failed" for row in rows))
                advance(len(batch))
                if counted.too_many():
                    writer.flush()
                    raise counted.error()
    writer.flush()


def _say(error: Exception) -> str:
    return str(error)[:300] if isinstance(error, InputError) else f"{type(error).__name__}: {str(error)[:300]}"


def _too_many(work: "Work", failed: int, seen: int, table: Table) -> str:
    why = table.failures(1)
    example = f"; for example {why[0][0][:12]}: {why[0][1]}" if why else ""
    return (
        f"{work.name}: {failed} of {seen} samples failed, more than max_fail_rate {work.max_fail_rate:g}{example}. "
        "Everything done is kept; mend the cause and run again with --retry-failed"
    )


def quarantine_row(name: str, why: str) -> dict[str, object]:
    """Write that an image was kept out as a row that holds nothing of it."""
    row = failure_row("quarantined:" + hashlib.sha256(name.encode()).hexdigest()[:24], why)
    return {**row, "status": "quarantined"}


class _Copies:
    """Keeps one row a picture in a table that is being added to; the first copy with labels speaks for all."""

    def __init__(self, table: Table, ids: Sequence[str]) -> None:
        self._table = table
        self._earlier = table.get(ids, ["status", "reason", "claims", "columns"])
        self._first = dict(self._earlier)
        self._changed: dict[str, dict[str, object]] = {}

    def row(self, row: dict[str, object], place: int) -> dict[str, object]:
        """Return the row of a new picture; for one that is there, a dropped row that names it."""
        id_ = str(row["id"])
        first = self._first.setdefault(id_, row)
        if first is row:
            return row
        if row["claims"] and not first["claims"]:
            first["claims"] = row["claims"]
            if id_ in self._earlier:
                self._changed[id_] = first
        return {
            **row,
            "id": "copy:" + hashlib.sha256(f"{id_} {place}".encode()).hexdigest()[:24],
            "status": "dropped",
            "reason": f"the same picture as {id_[:12]}",
            "claims": [],
            "columns": "",
        }

    def write(self) -> None:
        """Write the rows of earlier batches that got their labels from a copy."""
        if self._changed:
            self._table.replace(list(self._changed.values()))


def add_samples(
    work: "Work",
    key: str,
    samples: Iterable["NewSample | Failed"],
    total: int | None,
    starts_at: int = 0,
    commit_rows: int = COMMIT_ROWS,
) -> dict[str, int]:
    """Take in images; see `Work.add`."""
    dataset = work.dataset
    table = dataset.table(f"{work.name}-{key}")
    before = len(table)  # rows come in the order of the source, so what is there is a prefix of it
    failed = 0
    with work.events.progress(work.name, total) as advance:
        advance(before)
        for batch in _gathered(islice(samples, max(0, before - starts_at), None), commit_rows):
            new = [item for item in batch if isinstance(item, NewSample)]
            ids = dataset.put(new)
            kept = iter(zip(new, ids, strict=True))
            copies = _Copies(table, [id_ for id_ in ids if isinstance(id_, str)])
            rows: list[dict[str, object]] = []
            for item in batch:
                if isinstance(item, NewSample):
                    sample, id_ = next(kept)
                    if not isinstance(id_, InputError):
                        row = result_row(id_, Result(claims=sample.claims, columns=sample.columns), work.now())
                        rows.append(copies.row(row, len(table) + len(rows)))
                        continue
                    name, error = str(sample.origin.get("source", "")), str(id_)
                else:
                    name, error = item.name, item.error
                if isinstance(item, NewSample) and isinstance(id_, Quarantined):
                    dataset.quarantine(error, work.now(), step=work.name, source=name)
                    work.events.emit("quarantined", step=work.name, source=name)
                    rows.append(quarantine_row(name, error))
                    continue
                failed += 1
                work.events.emit("failed", step=work.name, source=name, error=error)
                rows.append(failure_row("failed:" + hashlib.sha256(name.encode()).hexdigest()[:24], f"{name}: {error}"))
            copies.write()
            table.append(rows)
            advance(len(batch))
            if len(table) >= FEW and failed > work.max_fail_rate * len(table):
                raise TooManyFailures(_too_many(work, failed, len(table), table))
    dataset.attach(work.name, table, f"{work.name}: add", work.now(), adds=True)
    return table.counts()
