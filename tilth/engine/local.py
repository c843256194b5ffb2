"""The local executor: one process, batch by batch, so that a kill loses one batch and a second run repeats nothing."""

from collections.abc import Iterator, Sequence

from tilth.engine.job import FailRate, Job, Writer, batched, rows_of
from tilth.engine.steps import Function
from tilth.samples import Sample

READ_BYTES = 8 << 20  # of image files that are read at once: one look-up for many small images


class Local:
    """Runs jobs in this process."""

    def run(self, job: Job) -> None:
        """Fill the table of a job.

        Raises:
            TooManyFailures: More than `max_fail_rate` of at least 50 samples failed.
        """
        function: Function | None = None
        table = job.table
        writer = Writer(table, replace=job.retry_failed)
        counted = FailRate(job.name, table, job.max_fail_rate)
        with job.events.progress(job.label, job.total(), unit=job.unit) as advance:
            for samples in job.chosen():
                done = table.get([s.id for s in samples], ["status"])
                todo = [
                    s for s in samples if s.id not in done or (job.retry_failed and done[s.id]["status"] == "failed")
                ]
                earlier = sum(row["status"] == "failed" for row in done.values()) if not job.retry_failed else 0
                counted.add(len(samples) - len(todo), earlier)
                advance(len(samples) - len(todo))
                for batch in _read(job, todo):
                    function = function or job.mapper.load()
                    rows = rows_of(function, batch, job.now)
                    writer.add(rows)
                    counted.add(len(batch), sum(row["status"] == "failed" for row in rows))
                    advance(len(batch))
                    if counted.too_many():
                        writer.flush()
                        raise counted.error()
        writer.flush()
        if counted.all_of_them():
            raise counted.error()


def _read(job: Job, todo: Sequence[Sample]) -> Iterator[list[Sample]]:
    """Yield batches with their images, the first alone to learn how heavy they are."""
    size = at = 0
    while at < len(todo):
        size = max(1, size) * job.mapper.batch_size
        read = job.dataset.with_images(todo[at : at + size])
        at += len(read)
        yield from batched(read, job.mapper.batch_size)
        size = READ_BYTES // max(1, sum(len(s.data) for s in read) // len(read)) // job.mapper.batch_size
