"""The Ray executor: the same mappers, run by the actors of a cluster; the same rows in the same tables as the local one.

The driver writes the ids that are still to be done beside the dataset, Ray Data hands them out, each actor loads the mapper
once, opens the dataset at the step's version and reads the images itself, and the driver appends what comes back. Only rows
travel, never pixels, and only the driver writes, so "its row is there" means done here, too: a run that was begun on one machine
goes on on a cluster, and the other way round. All nodes must see the dataset's folder.

`mining/vectors/spread.py` spreads the embedding of a corpus in the same way.

A node that dies costs what it was working on; Ray Data does that again elsewhere. Rows that come twice are kept once.
"""

import logging
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import pyarrow as pa

from tilth.data.dataset import Dataset
from tilth.data.table import RESULT
from tilth.engine.job import FailRate, Job, Writer, rows_of
from tilth.engine.steps import Mapper
from tilth.errors import TilthError, Unavailable
from tilth.extras import optional
from tilth.samples import Result, Sample

IDS = pa.schema([("id", pa.string())])


class _Worker:
    """An actor: one mapper, loaded once.

    What it needs are attributes of a class made for the job and not arguments, which Ray would keep as an object that a dying
    node takes with it.
    """

    mapper: Mapper
    root: Path
    version: int
    now: str

    def __init__(self) -> None:
        self._function: Callable[[Sequence[Sample]], list[Result]] = self.mapper.load()
        self._dataset = Dataset(self.root, self.version)

    def __call__(self, batch: pa.Table) -> pa.Table:
        samples = self._dataset.read(batch.column("id").to_pylist())
        return pa.Table.from_pylist(rows_of(self._function, samples, lambda: self.now), schema=RESULT)


def connect(address: str) -> None:
    """Join a Ray cluster, or start one on this machine when the address is empty.

    Raises:
        MissingExtra: Ray is not installed.
        Unavailable: Nothing answers at the address.
    """
    with optional():
        import ray
    if not ray.is_initialized():
        try:
            ray.init(address=address or None, logging_level=logging.ERROR, log_to_driver=False)
        except ConnectionError as error:
            raise Unavailable(f"no Ray cluster at {address}; start one with: ray start --head") from error
    logging.getLogger("ray.data").setLevel(logging.WARNING)  # our own bar says how far we are
    context = ray.data.DataContext.get_current()
    context.enable_progress_bars = False
    context.print_on_execution_start = False
    context.op_resource_reservation_enabled = False  # on a small cluster it leaves the reader nothing to run on


class Cluster:
    """Runs jobs on a Ray cluster.

    Args:
        address: Of the cluster; one is started on this machine when empty.
        folder: For lists of what is to be done, where all nodes see it.
    """

    def __init__(self, address: str, folder: Path) -> None:
        self.address, self._folder = address, folder

    def run(self, job: Job) -> None:
        """Fill the table of a job.

        Raises:
            TooManyFailures: More than `max_fail_rate` of at least 50 samples failed, or all of any number.
        """
        connect(self.address)
        table, retry = job.table, job.retry_failed
        path = self._folder / f"{table.path.stem}.todo.lance"
        total = write_todo(path, (pa.record_batch([pa.array(ids)], schema=IDS) for ids in _todo(job)), IDS)
        writer, counted = Writer(table, replace=retry), FailRate(job.name, table, job.max_fail_rate)
        counted.add(len(table) - (total if retry else 0), 0 if retry else table.counts().get("failed", 0))
        settings = {
            "mapper": job.mapper,
            "root": job.dataset.root.resolve(),
            "version": job.dataset.at.number,
            "now": job.now(),
        }
        worker = type("Worker", (_Worker,), settings)
        learned = bool(job.mapper.models())
        results = run_actors(worker, path, batch_size=job.mapper.batch_size, learned=learned) if total else ()
        with job.events.progress(job.label, total, unit=job.unit) as advance:
            for rows in (found.to_pylist() for found in results):
                there = {} if retry else table.get([str(row["id"]) for row in rows], ["status"])
                new = [row for row in rows if row["id"] not in there]
                writer.add(new)
                advance(len(new))
                counted.add(len(new), sum(row["status"] == "failed" for row in new))
                if counted.too_many():
                    writer.flush()
                    raise counted.error()
        writer.flush()
        if counted.all_of_them():
            raise counted.error()


def run_actors(worker: type, todo: Path, *, batch_size: int, learned: bool) -> Iterator[pa.Table]:
    """Hand the rows of a Lance table to actors and yield what they make of them as it comes, in no order.

    Args:
        worker: Class of the actors; called with a table of at most `batch_size` rows, it returns a table.
        todo: The Lance table, where all nodes see it.
        batch_size: Rows per call.
        learned: Whether the actors run a model, which then gets a GPU each where there are some.
    """
    import lance_ray
    import ray

    cpus, gpus = int(ray.cluster_resources().get("CPU", 1)), int(ray.cluster_resources().get("GPU", 0))
    on_gpu = bool(gpus and learned)
    # one processor stays free to read and to hand out, or Ray Data waits for ever
    most = gpus if on_gpu else max(1, cpus - 1)
    tables = lance_ray.read_lance(str(todo), ray_remote_args={"num_cpus": 0.1}).map_batches(
        worker,
        batch_size=batch_size,
        batch_format="pyarrow",
        compute=ray.data.ActorPoolStrategy(min_size=1, max_size=most),
        num_gpus=1 if on_gpu else None,
        num_cpus=None if on_gpu else 1,
    )
    try:
        yield from tables.iter_batches(batch_size=None, batch_format="pyarrow")
    except ray.exceptions.RayError as error:
        raise _ours(error) from error


def write_todo(path: Path, batches: Iterator[pa.RecordBatch], schema: pa.Schema) -> int:
    """Write what is to be done as a Lance table and return its number of rows."""
    import lance

    path.parent.mkdir(parents=True, exist_ok=True)
    lance.write_dataset(pa.RecordBatchReader.from_batches(schema, batches), str(path), mode="overwrite")
    return int(lance.dataset(str(path)).count_rows())


def _todo(job: Job) -> Iterator[list[str]]:
    """Yield the ids that a table has no row of, or with `retry_failed` those whose row is a failure, too."""
    for samples in job.chosen():
        done = job.table.get([s.id for s in samples], ["status"])
        ids = [s.id for s in samples if s.id not in done or (job.retry_failed and done[s.id]["status"] == "failed")]
        if ids:
            yield ids


def _ours(error: BaseException) -> BaseException:
    """Return what a mapper raised on another machine as what it would have been here."""
    cause: BaseException | None = error
    while cause is not None:
        if isinstance(cause, TilthError | MemoryError):
            return cause
        cause = getattr(cause, "cause", None) or cause.__cause__
    return error
