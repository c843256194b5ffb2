"""A job: one mapper over chosen samples into one table; and the pieces that every executor makes a run of it from."""

import time
from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import islice
from typing import TypeVar

from tilth.data.dataset import Dataset
from tilth.data.table import Table, failure_row, result_row
from tilth.engine.steps import Function, Mapper
from tilth.errors import InputError, MissingExtra, ModelError, TooManyFailures, Unavailable
from tilth.events import Events
from tilth.samples import Result, Sample, taken_by

COMMIT_ROWS = 4096  # what is done is written when there is so much …
SCAN_ROWS = 1024  # samples that are looked at at once, without their images
COMMIT_S = 10.0  # … or the oldest has waited so long, which is the most that a kill loses
FEW = 50  # a share of failures means nothing below
FATAL = (MissingExtra, ModelError, Unavailable, MemoryError)  # the whole step is wrong, not one sample

T = TypeVar("T")


@dataclass(frozen=True, kw_only=True)
class Job:
    """What an executor gets.

    Args:
        name: Of the step.
        label: Shown beside the bar.
        dataset: Open at the version that the step starts from.
        mapper: What to run.
        where: Keeps the samples that this condition holds for.
        ids: Keeps the samples of these ids; all when None.
        table: Where rows go; those that are there are done.
        retry_failed: Take samples whose row is a failure again.
        max_fail_rate: Share of failures at which to stop.
        events: Where progress goes.
        now: The clock.
    """

    name: str
    label: str
    dataset: Dataset
    mapper: Mapper
    where: str
    ids: Collection[str] | None
    table: Table
    retry_failed: bool
    max_fail_rate: float
    events: Events
    now: Callable[[], str]

    @property
    def unit(self) -> str:
        """What is counted: images, texts, or samples of several kinds."""
        media = taken_by(self.mapper)
        return f"{media[0]}s" if len(media) == 1 else "samples"

    def chosen(self) -> Iterator[list[Sample]]:
        """Yield the samples that the mapper is to see, without images."""
        return self.dataset.scan(self.where, ids=self.ids, images=False, batch_rows=SCAN_ROWS)

    def total(self) -> int:
        """Count them; at most, when their ids are given."""
        return self.dataset.count(self.where) if self.ids is None else len(self.ids)


def batched(items: Iterable[T], size: int) -> Iterator[list[T]]:
    """Cut a stream into lists of at most `size`."""
    stream = iter(items)
    while batch := list(islice(stream, size)):
        yield batch


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


def _say(error: Exception) -> str:
    return str(error)[:300] if isinstance(error, InputError) else f"{type(error).__name__}: {str(error)[:300]}"


class FailRate:
    """Watches the share of failures in a table that is being filled."""

    def __init__(self, name: str, table: Table, max_fail_rate: float) -> None:
        self._name, self._table, self._most = name, table, max_fail_rate
        self.seen = self.failed = 0

    def add(self, seen: int, failed: int) -> None:
        """Count samples and the failures among them."""
        self.seen, self.failed = self.seen + seen, self.failed + failed

    def too_many(self) -> bool:
        """Tell whether the work should stop."""
        return self.seen >= FEW and self.failed > self._most * self.seen

    def all_of_them(self) -> bool:
        """Tell whether nothing at all came of it, which means something at any number; to be called at the end."""
        return 0 < self.seen == self.failed

    def error(self, cure: str = "run again with --retry-failed") -> TooManyFailures:
        """Say so; to be called once everything is written."""
        why = self._table.failures(1)
        example = f"; for example {why[0][0][:12]}: {why[0][1]}" if why else ""
        many = f"{self.failed} of {self.seen} samples failed, more than max_fail_rate {self._most:g}"
        if self.failed == self.seen:
            many = f"all {self.seen} samples failed"
        return TooManyFailures(f"{self._name}: {many}{example}. Everything done is kept; mend the cause and {cure}")
