"""The local executor: one process, batch by batch, so that a kill loses one batch and a second run repeats nothing."""

from tilth.engine.job import FailRate, Job, Writer, batched, rows_of
from tilth.engine.steps import Function


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
        with job.events.progress(job.label, job.dataset.count(job.where)) as advance:
            for samples in job.dataset.scan(job.where, images=False):
                done = table.get([s.id for s in samples], ["status"])
                todo = [
                    s for s in samples if s.id not in done or (job.retry_failed and done[s.id]["status"] == "failed")
                ]
                earlier = sum(row["status"] == "failed" for row in done.values()) if not job.retry_failed else 0
                counted.add(len(samples) - len(todo), earlier)
                advance(len(samples) - len(todo))
                for batch in batched(todo, job.mapper.batch_size):
                    function = function or job.mapper.load()
                    rows = rows_of(function, job.dataset.read([s.id for s in batch]), job.now)
                    writer.add(rows)
                    counted.add(len(batch), sum(row["status"] == "failed" for row in rows))
                    advance(len(batch))
                    if counted.too_many():
                        writer.flush()
                        raise counted.error()
        writer.flush()
