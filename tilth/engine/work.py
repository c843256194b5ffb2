"""What a step is and what it gets to work with: the dataset, the policy, a folder, earlier artifacts, and an executor."""

from collections.abc import Callable, Collection, Iterable
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Protocol

from tilth.claims import Json
from tilth.data.dataset import Dataset
from tilth.data.where import both, lacks, one_of
from tilth.engine.intake import COMMIT_ROWS, Failed, Intake
from tilth.engine.job import Job
from tilth.engine.local import Local
from tilth.engine.steps import Facts, Mapper, fingerprint
from tilth.errors import InputError
from tilth.events import Events
from tilth.policy import Policy
from tilth.samples import MEDIA, NewSample, taken_by


def utc_now() -> str:
    """Return the time as claims and versions write it."""
    return datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


class Executor(Protocol):
    """Where mappers run: `Local` here, `cluster.Cluster` on many machines; the same rows come out."""

    def run(self, job: Job) -> None:
        """Fill the table of a job, leaving out what is done."""
        ...


@dataclass(kw_only=True)
class Work:
    """The surroundings of one step.

    Args:
        name: Of the step in its recipe; unique there.
        dataset: Open at the version that the step starts from; the engine moves it on.
        policy: The policy of the recipe.
        folder: For files that outlive the step; kept over a kill, new when the step's key changes.
        artifacts: Files and folders that earlier steps published, by name.
        facts: What earlier steps reported, by step name.
        events: Where progress and messages go.
        seed: Of everything random.
        device: `auto`, `cpu`, `cuda`, …
        retry_failed: Take failed samples again.
        max_fail_rate: Share of failed samples at which a mapper stops.
        executor: Where mappers run.
        options: Choices of this run that a recipe leaves open, such as `review: labelstudio`.
        now: The clock.
    """

    name: str
    dataset: Dataset
    policy: Policy
    folder: Path
    events: Events
    artifacts: dict[str, Path] = field(default_factory=dict)
    facts: dict[str, dict[str, Json]] = field(default_factory=dict)
    seed: int = 0
    device: str = "auto"
    retry_failed: bool = False
    max_fail_rate: float = 0.2
    executor: Executor = field(default_factory=Local)
    options: dict[str, str] = field(default_factory=dict)
    now: Callable[[], str] = utc_now

    def show_own(self, step: "Step") -> None:
        """Let a step find samples of the kinds that it takes alone, and say how many there are beside them."""
        media = taken_by(step)
        if others := self.dataset.only(media):
            told = f"  {others:,} samples are no {' and no '.join(media)}, and left alone"
            self.events.emit("other_media", step=self.name, samples=others, message=told)

    def map(
        self,
        mapper: Mapper,
        where: str = "",
        *,
        ids: Collection[str] | None = None,
        on: str = "pixels",
        label: str = "",
    ) -> dict[str, int]:
        """Run a mapper over the samples of the dataset and attach its results.

        Args:
            mapper: What to run.
            where: Keeps the samples that this condition holds for; `tilth/data/where.py` says how to write one. Samples of a kind that the
                mapper does not take are never among them.
            ids: Keeps the samples of these ids; all when None.
            on: `pixels` when results depend on the image alone, `claims` when also on what earlier steps said.
            label: Shown beside the bar; the step's name when empty.

        Returns:
            Number of samples by outcome: `ok`, `dropped`, `failed`.

        Raises:
            TooManyFailures: More than `max_fail_rate` of at least 50 samples failed, or all of any number.
        """
        dataset = self.dataset
        media = taken_by(mapper)
        if set(dataset.media or MEDIA) - set(media):
            where = both(where, one_of("media", media))
        upstream = [str(vars(ref)) for ref in dataset.at.tables] if on == "claims" else []
        table = dataset.table(f"{self.name}-{fingerprint(mapper, *upstream)}")
        job = Job(
            name=self.name,
            label=label or self.name,
            dataset=dataset,
            mapper=mapper,
            where=where,
            ids=ids,
            table=table,
            retry_failed=self.retry_failed,
            max_fail_rate=self.max_fail_rate,
            events=self.events,
            now=self.now,
        )
        (Local() if getattr(mapper, "local", False) else self.executor).run(job)
        dataset.attach(self.name, table, f"{self.name}: {type(mapper).__name__}", self.now())
        return table.counts()

    def unasked(self, categories: Iterable[str], where: str = "") -> dict[str, int]:
        """Count for each category the samples for which nobody at all has looked for it."""
        return {name: self.dataset.count(both(where, lacks("looked", [name]))) for name in categories}

    def added(self, key: str) -> int:
        """Return how many images of this source `add` has finished, so that a costly source can start after them."""
        return len(self.dataset.table(f"{self.name}-{key}"))

    def add(
        self,
        key: str,
        samples: Iterable[NewSample | Failed],
        total: int | None = None,
        *,
        starts_at: int = 0,
        commit_rows: int = COMMIT_ROWS,
    ) -> dict[str, int]:
        """Add images to the dataset; those already there are recognised by their pixels.

        Args:
            key: Names this source; the same key goes on where a killed run stopped.
            samples: The images, or why one could not be had.
            total: Their number, if known.
            starts_at: Number of images that the iterable leaves out at its beginning, because they were added before.
            commit_rows: Images that are written at once, or fewer when they are heavy or slow; the most that a kill can lose.

        Returns:
            Number of samples by outcome: `ok`, `failed`.
        """
        table = self.dataset.table(f"{self.name}-{key}")
        Intake(
            step=self.name,
            table=table,
            dataset=self.dataset,
            events=self.events,
            max_fail_rate=self.max_fail_rate,
            commit_rows=commit_rows,
            now=self.now,
        ).take(samples, total, starts_at)
        self.dataset.attach(self.name, table, f"{self.name}: add", self.now(), adds=True)
        return table.counts()

    def publish(self, name: str, path: Path) -> Path:
        """Offer a file or folder to later steps under a name."""
        self.artifacts[name] = path
        return path

    def artifact(self, name: str) -> Path:
        """Return what an earlier step published.

        Raises:
            InputError: Nobody did.
        """
        if name not in self.artifacts:
            raise InputError(
                f"step {self.name}: no artifact {name!r}; there are: {', '.join(sorted(self.artifacts)) or 'none'}"
            )
        return self.artifacts[name]


class Step(Protocol):
    """One operation of a recipe."""

    def models(self) -> tuple[str, ...]:
        """Name the models that it loads; their digests are part of the key of its work."""
        ...

    def inputs(self) -> tuple[Path, ...]:
        """Name the files and folders that it reads from outside the dataset."""
        ...

    def run(self, work: Work, /) -> Facts:
        """Do it. Called again after a kill, it goes on where it stopped."""
        ...
