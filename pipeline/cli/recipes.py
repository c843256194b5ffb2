"""What the commands that take a recipe share: their options, reading it, and what a person chooses for a run."""

from pathlib import Path
from typing import Annotated, Any

import typer

from tilth.errors import InputError
from tilth.pipeline.cli import streams
from tilth.pipeline.cli.settings import pairs

RecipePath = Annotated[Path, typer.Argument(help="Recipe file, as in configs/recipes/starter.yaml.")]
Setting = Annotated[
    list[str] | None, typer.Option("--set", help="Value of a recipe variable: --set photos=/data/cards.")
]
PolicyPath = Annotated[Path | None, typer.Option("--policy", help="Policy file instead of the recipe's own.")]
Runs = Annotated[Path, typer.Option(help="Folder that holds all runs.")]
Name = Annotated[str, typer.Option(help="Name of the run; the recipe's own name when empty.")]
Device = Annotated[str, typer.Option(help="auto, cpu, cuda, cuda:1, mps.")]
RetryFailed = Annotated[bool, typer.Option("--retry-failed", help="Take failed samples again, and only those.")]
ExecutorName = Annotated[str, typer.Option(help="local, or ray for a cluster.")]
RayAddress = Annotated[
    str, typer.Option(help="Of the cluster, as in auto or 10.0.0.1:6379; one is started here when empty.")
]
AsJson = Annotated[bool, typer.Option("--json", help="Print one JSON object for programs.")]


Reviewer = Annotated[
    str, typer.Option("--review", help="Who reviews: simulated or labelstudio; what the recipe says when empty.")
]


def check_reviewer(review: str) -> None:
    """Refuse whom there is not.

    Raises:
        InputError: Always when the name is not known.
    """
    if review not in ("", "simulated", "labelstudio"):
        raise InputError(f"--review must be simulated or labelstudio, got {review!r}")


def say(text: str) -> None:
    """Print to standard output, after what was said on the other stream."""
    streams.settle()
    typer.echo(text)


def load(path: Path, settings: list[str] | None, policy: Path | None) -> Any:
    """Read a recipe.

    Raises:
        RecipeError: Lists every mistake.
    """
    from tilth.engine.recipe import load_recipe
    from tilth.pipeline.table import step_table

    return load_recipe(path, step_table(), pairs(settings), policy)


def choices_of(
    files: Path, device: str, review: str, retry_failed: bool, until: str, executor: str, ray_address: str
) -> Any:
    """Read what a person chose for a run.

    Args:
        files: Folder for what a cluster leaves.
        device: Of `--device`; the others are options, too.
        review: Who reviews.
        retry_failed: Take failed samples again.
        until: Stop after this step.
        executor: `local` or `ray`.
        ray_address: Of the cluster.

    Raises:
        InputError: One of them is none that there is.
    """
    from tilth.engine.cluster import Cluster
    from tilth.engine.local import Local
    from tilth.models import check_device
    from tilth.pipeline.run import Choices

    check_reviewer(review)
    if executor not in ("local", "ray"):
        raise InputError(f"--executor must be local or ray, got {executor!r}")
    if executor == "local":  # the machines of a cluster may have what this one lacks
        check_device(device)
    return Choices(
        device=device,
        retry_failed=retry_failed,
        until=until,
        executor=Cluster(ray_address, files) if executor == "ray" else Local(),
        options={"review": review} if review else {},
    )
