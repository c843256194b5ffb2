"""The commands `tilth review up|down|push|pull|status`: a Label Studio of one's own, and the loop through it."""

import json
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from tilth.pipeline.cli.settings import DatasetPath, existing, make_step
from tilth.pipeline.cli.steps import opened
from tilth.samples import IMAGE, TEXT

if TYPE_CHECKING:
    from tilth.annotate.review.ledger import Ledger
    from tilth.annotate.review.review import Review
    from tilth.engine.work import Work

PORT = 8081

PolicyPath = Annotated[Path, typer.Option(help="Policy file.")]
AsJson = Annotated[bool, typer.Option("--json", help="Print one JSON object for programs.")]


def up(
    port: Annotated[int, typer.Option(help="Port to listen on, on this machine alone.")] = PORT,
) -> None:
    """Start a Label Studio on this machine, with an account and a key; its environment is made the first time."""
    from tilth.annotate.labelstudio.server import default_home
    from tilth.annotate.labelstudio.server import up as start

    server = start(default_home(), port, lambda text: typer.echo(text, err=True))
    typer.echo(
        f"{server.url}\nuser, password and key: {server.login} (only you can read it)\n"
        "next: tilth review push <dataset> --policy <policy>\nstop it: tilth review down"
    )


def down() -> None:
    """Stop the Label Studio that `up` started; everything is kept."""
    from tilth.annotate.labelstudio.server import default_home
    from tilth.annotate.labelstudio.server import down as stop

    typer.echo("stopped" if stop(default_home()) else "none was running")


Texts = Annotated[bool, typer.Option("--texts", help="Of the texts of the dataset, and not of its images.")]


def _step(texts: bool) -> "type[Review]":
    from tilth.annotate.review.review import Review
    from tilth.annotate.texts.review import ReviewText

    return ReviewText if texts else Review


@contextmanager
def _desk(dataset: Path, policy: Path, texts: bool) -> "Iterator[tuple[Work, Ledger]]":
    from tilth.annotate.review.ledger import Ledger
    from tilth.annotate.review.people import NAMES

    existing(dataset)
    name, notes = NAMES[TEXT if texts else IMAGE]
    with opened(dataset, policy, name, lambda _: dataset / "files" / name) as work:
        work.dataset.only(_step(texts).media)
        yield work, Ledger.load(dataset / notes)


def push(
    dataset: DatasetPath,
    policy: PolicyPath,
    budget: Annotated[int, typer.Option(help="Images that should wait for people.")] = 200,
    url: Annotated[str, typer.Option(help="Of Label Studio; the one of `tilth review up` when empty.")] = "",
    images: Annotated[str, typer.Option(help="How people see images: folder, upload or origin.")] = "folder",
    files: Annotated[Path | None, typer.Option(help="Folder that a server of your own serves.")] = None,
    people: Annotated[int, typer.Option(help="How many look at each image.")] = 1,
    audit_share: Annotated[float, typer.Option(help="Part of the queue that is random.")] = 0.1,
    texts: Texts = False,
) -> None:
    """Put the images that matter most before people, until `budget` wait; running it again sends nothing twice."""
    from tilth.annotate.review.push import push as send

    chosen: dict[str, Any] = {"budget": budget, "url": url, "images": images, "files": files, "people": people}
    chosen |= {"audit_share": audit_share, "backend": "labelstudio"}
    review = make_step(_step(texts), "review push", chosen, "--")
    with _desk(dataset, policy, texts) as (work, ledger):
        _say(send(review, work, ledger))


def pull(
    dataset: DatasetPath,
    policy: PolicyPath,
    url: Annotated[str, typer.Option(help="Of Label Studio; where it was pushed to when empty.")] = "",
    texts: Texts = False,
) -> None:
    """Take in what people said since the last time; what they disagree on goes to one more of them."""
    from tilth.annotate.review.people import people_facts
    from tilth.annotate.review.pull import pull as take

    with _desk(dataset, policy, texts) as (work, ledger):
        facts = take(make_step(_step(texts), "review pull", {"backend": "labelstudio", "url": url}, "--"), work, ledger)
        if facts["changed"] or work.name not in work.facts:
            work.facts[work.name] = {"backend": "labelstudio", **facts, **people_facts(work, ledger.queue)}
        _say(facts)


def status(dataset: DatasetPath, policy: PolicyPath, as_json: AsJson = False, texts: Texts = False) -> None:
    """Say how a review stands: what waits, what each person did, and how far they agree."""
    from tilth.annotate.review.status import status as look
    from tilth.annotate.review.status import status_text

    with _desk(dataset, policy, texts) as (work, ledger):
        found = look(work, ledger)
    typer.echo(json.dumps(found) if as_json else status_text(found))


def _say(facts: Mapping[str, Any]) -> None:
    typer.echo(json.dumps(facts))


def add_to(app: typer.Typer) -> None:
    """Add these commands to the command line."""
    review = typer.Typer(no_args_is_help=True, help="Have people correct labels in Label Studio.")
    app.add_typer(review, name="review")
    for function in (up, down):
        review.command(epilog=f"Example: tilth review {function.__name__}")(function)
    for function in (push, pull, status):  # type: ignore[assignment]
        example = f"Example: tilth review {function.__name__} data/mine --policy configs/policies/starter.yaml"
        review.command(epilog=example)(function)
