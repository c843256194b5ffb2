"""Taking in images: each once, in the order of their source, so that a second run goes on where the first was killed."""

import hashlib
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import islice

from tilth.data.dataset import Dataset
from tilth.data.table import Table, failure_row, result_row, write_columns
from tilth.engine.copies import LOST, merge
from tilth.engine.job import COMMIT_S, FailRate
from tilth.errors import Quarantined
from tilth.events import Events
from tilth.samples import NewSample, Result

COMMIT_ROWS = 512  # what came is written when there is so much …
COMMIT_BYTES = 16 << 20  # … or it is so heavy, or so old


@dataclass(frozen=True, kw_only=True)
class Failed:
    """Something that could not become a sample: `name` is its path or key, `error` says why."""

    name: str
    error: str


def _gathered(samples: Iterable[NewSample | Failed], rows: int) -> Iterator[list[NewSample | Failed]]:
    """Cut a stream of images into what is written at once."""
    held: list[NewSample | Failed] = []
    heavy, since = 0, time.monotonic()
    for sample in samples:
        held.append(sample)
        heavy += len(sample.data) if isinstance(sample, NewSample) else 0
        if len(held) >= rows or heavy >= COMMIT_BYTES or time.monotonic() - since > COMMIT_S:
            yield held
            held, heavy, since = [], 0, time.monotonic()
    if held:
        yield held


def quarantine_row(name: str, why: str) -> dict[str, object]:
    """Write that an image was kept out as a row that holds nothing of it."""
    row = failure_row("quarantined:" + hashlib.sha256(name.encode()).hexdigest()[:24], why)
    return {**row, "status": "quarantined"}


class _Copies:
    """Keeps one row a picture in a table that is being added to; it holds the labels of all its copies."""

    def __init__(self, table: Table, ids: Sequence[str]) -> None:
        self._table = table
        self._earlier = table.get(ids, ["status", "reason", "claims", "columns", "nested"])
        self._first = dict(self._earlier)
        self._changed: dict[str, dict[str, object]] = {}

    def row(self, row: dict[str, object], name: str, place: int) -> dict[str, object]:
        """Return the row of a new picture, whose file is called `name`; for one that is there, a dropped row that names it."""
        id_ = str(row["id"])
        first = self._first.setdefault(id_, row)
        if first is row:
            return row
        if merge(first, row, name) and id_ in self._earlier:
            self._changed[id_] = first
        return {
            **row,
            "id": "copy:" + hashlib.sha256(f"{id_} {place}".encode()).hexdigest()[:24],
            "status": "dropped",
            "reason": f"the same picture as {id_[:12]}",
            "claims": [],
            "columns": "",
            "nested": "",
        }

    def write(self) -> None:
        """Write the rows of earlier batches that got labels from a copy; doing that twice changes nothing."""
        if self._changed:
            self._table.replace(list(self._changed.values()))


@dataclass(frozen=True, kw_only=True)
class Intake:
    """Takes images into a table of a dataset.

    Args:
        step: Name of the step.
        table: Where a row goes for each image of the source, in its order; what is there is a prefix of it.
        dataset: Whose pool keeps the images.
        events: Where progress and failures go.
        max_fail_rate: Share of failures at which to stop.
        commit_rows: Images that are written at once, or fewer when they are heavy or slow.
        now: The clock.
    """

    step: str
    table: Table
    dataset: Dataset
    events: Events
    max_fail_rate: float
    commit_rows: int
    now: Callable[[], str]

    def take(self, samples: Iterable[NewSample | Failed], total: int | None, starts_at: int) -> None:
        """Take in images.

        Args:
            samples: The images, or why one could not be had.
            total: Their number, if known.
            starts_at: Number of images that the iterable leaves out at its beginning.

        Raises:
            TooManyFailures: More than `max_fail_rate` of at least 50 images failed, or all of any number.
        """
        before = len(self.table)
        counted = FailRate(self.step, self.table, self.max_fail_rate)
        counted.add(before, 0)
        with self.events.progress(self.step, total) as advance:
            advance(before)
            for batch in _gathered(islice(samples, max(0, before - starts_at), None), self.commit_rows):
                failed = self._write(batch)
                advance(len(batch))
                counted.add(len(batch), failed)
                if counted.too_many():
                    raise counted.error("run again")
        if set(self.table.counts()) == {"failed"}:
            counted.failed = counted.seen
            raise counted.error("run again")

    def _write(self, batch: Sequence[NewSample | Failed]) -> int:
        """Keep a batch, write its rows, and return how many failed."""
        new = [item for item in batch if isinstance(item, NewSample)]
        ids = self.dataset.put(new)
        kept = iter(zip(new, ids, strict=True))
        copies = _Copies(self.table, [id_ for id_ in ids if isinstance(id_, str)])
        rows: list[dict[str, object]] = []
        failed = 0
        for item in batch:
            if isinstance(item, Failed):
                failed += 1
                rows.append(self._failure(item.name, item.error))
                continue
            sample, id_ = next(kept)
            name = str(sample.origin.get("source", ""))
            if isinstance(id_, str):
                row = result_row(id_, Result(claims=sample.claims, columns=sample.columns), self.now())
                rows.append(copies.row(row, name, len(self.table) + len(rows)))
            elif isinstance(id_, Quarantined):
                self.dataset.quarantine(str(id_), self.now(), step=self.step, source=name)
                self.events.emit("quarantined", step=self.step, source=name)
                rows.append(quarantine_row(name, str(id_)))
            else:
                failed += 1
                rows.append(self._failure(name, str(id_)))
            if not isinstance(id_, str) and (lost := sum(claim.says == "label" for claim in sample.claims)):
                rows[-1] |= write_columns({LOST: lost})
        copies.write()
        self.table.append(rows)
        return failed

    def _failure(self, name: str, error: str) -> dict[str, object]:
        self.events.emit("failed", step=self.step, source=name, error=error)
        return failure_row("failed:" + hashlib.sha256(name.encode()).hexdigest()[:24], f"{name}: {error}")
