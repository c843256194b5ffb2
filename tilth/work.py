"""What a step gets to work with: the dataset, the policy, a folder, earlier artifacts, and the engine."""

from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING

from tilth.claims import Json
from tilth.dataset import Dataset, Where
from tilth.errors import InputError
from tilth.events import Events
from tilth.policy import Policy
from tilth.samples import NewSample

if TYPE_CHECKING:
    from tilth.steps import Mapper


def utc_now() -> str:
    """Return the time as claims and versions write it."""
    return datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


@dataclass(frozen=True, kw_only=True)
class Failed:
    """Something that could not become a sample: `name` is its path or key, `error` says why."""

    name: str
    error: str


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
    options: dict[str, str] = field(default_factory=dict)
    now: Callable[[], str] = utc_now

    def map(
        self, mapper: "Mapper", where: Where | None = None, *, on: str = "pixels", label: str = ""
    ) -> dict[str, int]:
        """Run a mapper over the samples of the dataset and attach its results.

        Args:
            mapper: What to run.
            where: Keeps the samples it is true for.
            on: `pixels` when results depend on the image alone, `claims` when also on what earlier steps said.
            label: Shown beside the bar; the step's name when empty.

        Returns:
            Number of samples by outcome: `ok`, `dropped`, `failed`.

        Raises:
            TooManyFailures: More than `max_fail_rate` of at least 50 samples failed.
        """
        from tilth.engine import map_samples

        return map_samples(self, mapper, where, on=on, label=label)

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
        commit_rows: int = 512,
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
        from tilth.engine import add_samples

        return add_samples(self, key, samples, total, starts_at, commit_rows)

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
