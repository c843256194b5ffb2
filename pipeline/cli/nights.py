"""The commands of a model that is retrained every night: `tilth retrain` and `tilth promote`; `tilth rollback` takes a promotion back."""

import contextlib
import json
import time
from pathlib import Path
from typing import Annotated

import typer

from tilth.pipeline.cli.recipes import (
    Device,
    ExecutorName,
    PolicyPath,
    RayAddress,
    RecipePath,
    RetryFailed,
    Reviewer,
    Runs,
    Setting,
    choices_of,
    load,
    say,
)


def retrain(
    recipe: RecipePath,
    settings: Setting = None,
    policy: PolicyPath = None,
    runs: Runs = Path("runs"),
    night: Annotated[str, typer.Option(help="Name of a new night; the date when empty.")] = "",
    device: Device = "auto",
    review: Reviewer = "",
    retry_failed: RetryFailed = False,
    executor: ExecutorName = "local",
    ray_address: RayAddress = "",
) -> None:
    """Run a recipe for tonight over its one dataset, or go on with a night that did not end; one that ended today is not begun again.

    Prints one JSON object whatever happens: how it ended, what the gate said, what is in use now.
    """
    from tilth.pipeline.retrain import home_of, note, retrain, told, tonight

    home: Path | None = None
    began, raised, ran = time.monotonic(), None, True
    try:
        loaded = load(recipe, settings, policy)
        home = home_of(loaded, runs)
        choices = choices_of(home / "files", device, review, retry_failed, "", executor, ray_address)
        ran = retrain(loaded, home, choices, night=night)
    except BaseException as error:
        raised = error
        raise
    finally:
        facts = told(home, began, raised, ended="" if ran else night or tonight())
        say(json.dumps(facts))
        if home is not None:
            with contextlib.suppress(OSError):  # it was said
                note(home, facts)


def promote(
    bundle: Annotated[Path, typer.Argument(help="Folder that `package` made.")],
    champion: Annotated[Path, typer.Argument(help="Folder of the champion; made with the first bundle.")],
    why: Annotated[str, typer.Option(help="In a sentence, for the history.")] = "",
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON object for programs.")] = False,
) -> None:
    """Put a bundle into use by one rename, whatever a gate would say; `tilth serve` of the champion follows."""
    from tilth.engine.work import utc_now
    from tilth.runtime.bundles.bundle import in_use
    from tilth.runtime.bundles.champion import Champion

    made = Champion(champion).promote(in_use(bundle).resolve(), time=utc_now(), why=why or "promoted by hand")
    if as_json:
        say(json.dumps(vars(made)))
        return
    before = f"; to go back: tilth rollback {champion}" if made.instead_of else ""
    say(f"{made.bundle} is in use in {champion}{before}")


def add_to(app: typer.Typer) -> None:
    """Add these commands to the command line."""
    app.command(epilog="Example: tilth retrain nightly.yaml")(retrain)
    app.command(epilog="Example: tilth promote runs/starter/bundle champion")(promote)
