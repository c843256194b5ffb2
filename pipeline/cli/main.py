"""The `tilth` command: every error ends in one line with its cure and an exit code that a scheduler can act on."""

import json
import os
import signal
import sys
from pathlib import Path
from typing import Annotated

import typer
from typer.models import CommandInfo, TyperInfo

from tilth.errors import GateRefused, InputError, TilthError, TooManyFailures, code_of, is_full_disk, is_wrong_place
from tilth.pipeline.cli import streams
from tilth.pipeline.cli.keeping import KeepDoubts, KeepMost, ListPolicy, keeping
from tilth.pipeline.cli.recipes import (
    AsJson,
    Device,
    ExecutorName,
    Name,
    PolicyPath,
    RayAddress,
    RecipePath,
    RetryFailed,
    Reviewer,
    Runs,
    Setting,
    check_reviewer,
    choices_of,
    load,
    say,
)

app = typer.Typer(
    name="tilth",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode="rich",
    help="Turn a policy, a few labelled images and many unlabelled ones into a better moderation model.",
    epilog="Exit codes: 0 done, 1 failed, 2 wrong input or recipe, 3 the gate said no, 4 too many samples failed, "
    "75 try again, 130 stopped by Ctrl-C, 143 by SIGTERM.",
)

# Which heading of `tilth --help` a command stands under.
HEADINGS = {
    "Recipes": "console check plan run status report retrain promote doctor env",
    "Data": "import import-text import-sound count gallery explain export history diff tag rollback provenance",
    "Find and label": "policy mine mine-text ground second-opinion fuse thresholds review relabel",
    "Clean": "hash quality words filter label-errors clean leakage split",
    "Make images": "synth judge prove face-swap forget",
    "Train and judge": "train calibrate eval gate",
    "Serve": "package tune bundle serve moderate",
    "Persons": "person",
}


@app.command(epilog="Example: tilth check configs/recipes/starter.yaml")
def check(
    recipe: RecipePath,
    settings: Setting = None,
    policy: PolicyPath = None,
    review: Reviewer = "",
    runs: Runs = Path("runs"),
    name: Name = "",
    as_json: AsJson = False,
) -> None:
    """Say everything that is wrong with a recipe, or will be, without running it: files, models, people, images, test sets."""
    from tilth.data.dataset import Dataset
    from tilth.pipeline.foresight import foresee
    from tilth.pipeline.run import needed_inputs

    found = load(recipe, settings, policy)
    check_reviewer(review)
    if wrong := needed_inputs(found, review):
        raise InputError("\n".join(wrong))
    folder = found.dataset or runs / (name or found.name) / "dataset"
    ahead = foresee(found.steps, found.policy, review, Dataset(folder) if (folder / "versions").is_dir() else None)
    ahead.refuse()
    if as_json:
        steps = {n: type(s).__name__ for n, s in found.steps.items()}
        say(json.dumps({"recipe": found.name, "steps": steps, "notes": ahead.notes}))
        return
    for note in ahead.notes:
        say(f"note: {note}")
    say(f"{recipe}: {len(found.steps)} steps, policy {found.policy.policy} v{found.policy.version}: fine")


@app.command(
    epilog="Example: tilth plan configs/recipes/hub.yaml --set labelled=/photos --set corpus=/corpus --set test=/data/test"
)
def plan(
    recipe: RecipePath,
    settings: Setting = None,
    policy: PolicyPath = None,
    runs: Runs = Path("runs"),
    name: Name = "",
    as_json: AsJson = False,
) -> None:
    """Show what a run would do: steps, models with licence and size, and what is done already. Nothing is downloaded."""
    from tilth.pipeline.plan import plan_tables, plan_text

    tables = plan_tables(load(recipe, settings, policy), runs)
    say(json.dumps(tables, indent=1) if as_json else plan_text(tables))


@app.command(epilog="Example: tilth run configs/recipes/starter.yaml")
def run(
    recipe: RecipePath,
    settings: Setting = None,
    policy: PolicyPath = None,
    runs: Runs = Path("runs"),
    name: Name = "",
    device: Device = "auto",
    review: Reviewer = "",
    retry_failed: RetryFailed = False,
    executor: ExecutorName = "local",
    ray_address: RayAddress = "",
    until: Annotated[str, typer.Option(help="Stop after this step.")] = "",
    as_json: AsJson = False,
) -> None:
    """Run a recipe, or go on where an earlier run of it stopped."""
    from tilth.pipeline.run import Run

    loaded = load(recipe, settings, policy)
    if until and until not in loaded.steps:
        raise InputError(f"--until {until}: no such step; there are: {', '.join(loaded.steps)}")
    folder = runs / (name or loaded.name)
    choices = choices_of(folder / "files", device, review, retry_failed, until, executor, ray_address)
    try:
        Run(loaded, folder, choices).execute()
    except GateRefused:  # a result, too
        if as_json:
            say((folder / "summary.json").read_text())
        raise
    if as_json:
        say((folder / "summary.json").read_text())


@app.command(epilog="Example: tilth status runs/starter")
def status(
    folder: Annotated[Path, typer.Argument(help="A run's folder, or that of the nights of a recipe.")],
    as_json: AsJson = False,
) -> None:
    """Say how far a run is, or how the nights of `tilth retrain` ended."""
    import yaml

    from tilth.data.dataset import Dataset
    from tilth.pipeline.retrain import NIGHTS, night_line
    from tilth.pipeline.run import dataset_of, read_record

    if (folder / NIGHTS).exists() and not (folder / "recipe.yaml").exists():
        nights = [json.loads(line) for line in (folder / NIGHTS).read_text().splitlines()]
        say(json.dumps(nights) if as_json else "\n".join(map(night_line, nights)))
        return
    if not (folder / "recipe.yaml").exists():
        raise InputError(f"{folder}: no run here; start one with: tilth run <recipe>")
    records = {path.stem: read_record(path) for path in sorted((folder / "steps").glob("*.json"))}
    lines = {
        n: {"seconds": r.seconds, "peak_rss_mb": r.peak_rss_mb, "finished": r.finished} for n, r in records.items() if r
    }
    if as_json:
        say(json.dumps(lines))
        return
    for step, row in lines.items():
        say(f"{step:32} {row['seconds']:>8} s  {row['peak_rss_mb']:>8} MB  {row['finished']}")
    steps = yaml.safe_load((folder / "recipe.yaml").read_text())["steps"]
    say(f"{len(lines)} of {len(steps)} steps are done")
    if any(row for row in records.values()):
        states = Dataset(dataset_of(folder), max(r.version for r in records.values() if r)).tally("state")
        say("samples: " + (", ".join(f"{state} {count}" for (state,), count in states.items()) or "none yet"))
    events = folder / "events.jsonl"
    if events.exists() and (last := events.read_text().splitlines()[-1:]):
        say(f"last event: {last[0]}")


@app.command(epilog="Example: tilth report runs/starter")
def report(folder: Annotated[Path, typer.Argument(help="A run's folder.")]) -> None:
    """Write a run's report again, from its summary and dataset."""
    from tilth.data.dataset import Dataset
    from tilth.mining.copies.listed import guard_of
    from tilth.pipeline.report.page import write_report
    from tilth.pipeline.run import dataset_of
    from tilth.policy import load_policy

    summary = folder / "summary.json"
    if not summary.exists():
        raise InputError(f"{folder}: no summary.json; finish the run first: tilth run <recipe>")
    import yaml

    document = yaml.safe_load((folder / "recipe.yaml").read_text())
    version = json.loads(summary.read_text())["version"]
    policy = load_policy(Path(document["policy"]))
    say(str(write_report(folder, Dataset(dataset_of(folder), version, guard_of(policy)), policy)))


@app.command(epilog="Example: tilth serve runs/starter/bundle --port 8080")
def serve(
    bundle: Annotated[Path, typer.Argument(help="Folder that `package` made, or a champion.")],
    host: Annotated[str, typer.Option(help="Address to listen on.")] = "127.0.0.1",
    port: Annotated[int, typer.Option(help="Port to listen on.")] = 8080,
    threads: Annotated[int, typer.Option(min=0, help="Threads of each model; 0 lets onnxruntime choose.")] = 0,
    token_file: Annotated[
        Path | None, typer.Option(help="File with a token a line; only who sends one may ask. Without it, anybody may.")
    ] = None,
    allow_host: Annotated[
        list[str] | None,
        typer.Option(help="Host from which images may be fetched by URL, such as images.example.org; may be repeated."),
    ] = None,
    max_batch: Annotated[
        int, typer.Option(help="Images of different requests that Stage 1 sees at once; 1 for one by one.")
    ] = 32,
    timeout_s: Annotated[float, typer.Option(help="Seconds until a request has its answer.")] = 30.0,
    max_requests: Annotated[
        int, typer.Option(help="Requests that are inside, at work or waiting; more are told when to come back.")
    ] = 64,
    drain_s: Annotated[
        float, typer.Option(min=0, help="Seconds for which requests are still taken after SIGTERM.")
    ] = 2.0,
    cluster: Annotated[
        str | None, typer.Option(help="Address of a Ray cluster that serves it; 'local' starts one on this machine.")
    ] = None,
    replicas: Annotated[
        list[str] | None,
        typer.Option(
            help="On a cluster, processes of a part: door=1, stage1=2, reading=1, language=1; may be repeated."
        ),
    ] = None,
    keep_doubts: KeepDoubts = None,
    keep_most: KeepMost = 10_000,
    policy: ListPolicy = None,
) -> None:
    """Serve a bundle: POST /v1/moderations; see docs/serve.md."""
    from tilth.runtime.serving.admission import Limits
    from tilth.runtime.serving.desk import Batching
    from tilth.runtime.serving.server import Access
    from tilth.runtime.serving.server import serve as serve_bundle

    limits = Limits(timeout_s=timeout_s, requests=max_requests)
    batching = Batching(stage1=max_batch, language=min(max_batch, Batching.language))
    access = Access(token_file=token_file, allow_hosts=tuple(allow_host or ()))
    if cluster is not None:
        from tilth.runtime.cluster.application import read_replicas, serve_on_cluster

        if keep_doubts is not None:
            raise InputError("--keep-doubts is for one server, whose folder it is; on a cluster, leave it out")
        serve_on_cluster(
            bundle, "" if cluster == "local" else cluster, host=host, port=port, threads=threads, limits=limits, batching=batching,
            access=access, replicas=read_replicas(replicas or []),
        )  # fmt: skip
        return
    if replicas:
        raise InputError("--replicas are of a cluster; give --cluster as well")
    serve_bundle(
        bundle, host=host, port=port, threads=threads, drain_s=drain_s, limits=limits, batching=batching, access=access,
        keeping=keeping(keep_doubts, keep_most, policy),
    )  # fmt: skip


@app.command(epilog="Example: tilth moderate runs/starter/bundle photo.jpg")
def moderate(
    bundle: Annotated[Path, typer.Argument(help="Folder that `package` made.")],
    images: Annotated[list[Path], typer.Argument(help="Image files or folders.")],
    keep_doubts: KeepDoubts = None,
    keep_most: KeepMost = 10_000,
    policy: ListPolicy = None,
) -> None:
    """Moderate images with a bundle; prints one JSON object a line."""
    from tilth.pipeline.steps.moderate import moderate_files

    if keep_doubts is not None:
        from tilth.runtime.serving.server import show_log

        show_log()
    judged = failed = 0
    for row in moderate_files(bundle, images, keeping(keep_doubts, keep_most, policy)):
        judged, failed = judged + 1, failed + ("error" in row)
        say(json.dumps(row))
    if not judged:
        raise InputError(f"{', '.join(map(str, images))}: no image here")
    if failed == judged:
        raise TooManyFailures(f"no image was judged: {failed} of {judged} files failed, each with its reason")


@app.command(epilog="Example: tilth doctor")
def doctor(as_json: AsJson = False) -> None:
    """Say what this installation can do and what is missing."""
    from tilth.pipeline.plan import doctor_tables, doctor_text

    tables = doctor_tables()
    say(json.dumps(tables, indent=1) if as_json else doctor_text(tables))


@app.command(epilog="Example: tilth env lavis")
def env(name: Annotated[str, typer.Argument(help="Which one; all are listed when left out.")] = "") -> None:
    """Make the environment of a library that cannot live beside the others."""
    from tilth.extras import ENVIRONMENTS, folder_of, make

    if name:
        say(f"ready: {make(name)}")
        return
    for each, about in ENVIRONMENTS.items():
        state = "ready" if (folder_of(each) / "bin" / "python").exists() else f"not made, {about.size_gb:g} GB"
        say(f"{each:14} {state:20} {folder_of(each)}  ({about.why})")


def complete(app: typer.Typer) -> None:
    """Add the commands of the other files, and put every one under its heading, in the order in which they stand there."""
    from tilth.pipeline.cli import bundle as cli_bundle
    from tilth.pipeline.cli import data as cli_data
    from tilth.pipeline.cli import nights as cli_nights
    from tilth.pipeline.cli import policy as cli_policy
    from tilth.pipeline.cli import review as cli_review
    from tilth.pipeline.cli import steps as cli_steps
    from tilth.pipeline.console import server as console
    from tilth.pipeline.persons import commands as persons

    cli_steps.add_to(app)
    cli_data.add_to(app)
    cli_review.add_to(app)
    cli_policy.add_to(app)
    cli_nights.add_to(app)
    cli_bundle.add_to(app)
    console.add_to(app)
    persons.add_to(app)
    under = {name: heading for heading, names in HEADINGS.items() for name in names.split()}
    places = list(under)
    for kept in (app.registered_commands, app.registered_groups):
        for one in kept:
            one.rich_help_panel = under.get(called(one), "More")
        kept.sort(key=lambda one: [*places, called(one)].index(called(one)))


def called(one: CommandInfo | TyperInfo) -> str:
    """Return how a command, or a group of them, is called on the command line."""
    return str(one.name or getattr(one.callback, "__name__", ""))


class Terminated(KeyboardInterrupt):
    """SIGTERM came, which schedulers send: as clean an end as Ctrl-C."""

    exit_code = 143


_terminated: list[Terminated] = []


def _terminate(*_: object) -> None:
    _terminated.append(Terminated())
    raise _terminated[0]


def main() -> None:
    """Run the command line and turn errors into one line and an exit code."""
    complete(app)
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")  # its threads and our worker processes do not mix
    signal.signal(signal.SIGTERM, _terminate)
    os.register_at_fork(after_in_child=lambda: signal.signal(signal.SIGTERM, signal.SIG_DFL))
    streams.quiet_libraries()
    streams.wrap_stderr()
    code = _code()
    streams.settle()
    sys.exit(code)


def _code() -> int:
    """Run the command that was given, say what went wrong, and return the exit code."""
    try:
        code = app(standalone_mode=False)
        if code == 130:  # typer turns Ctrl-C into this number
            raise KeyboardInterrupt
    except TilthError as error:
        streams.tell("error", str(error), exit_code=error.exit_code)
        return error.exit_code
    except OSError as error:
        if is_full_disk(error):
            streams.tell(
                "error", "the disk is full; free some space and run the same command again", exit_code=code_of(error)
            )
            return code_of(error)
        if not is_wrong_place(error):
            streams.tell_crash(error)
            return 1
        streams.tell("error", f"{error.filename}: {error.strerror}; name another place", exit_code=InputError.exit_code)
        return InputError.exit_code
    except (KeyboardInterrupt, typer.Abort):
        streams.tell("stopped", "stopped; everything finished is kept, run the same command to go on")
        return _terminated[0].exit_code if _terminated else 130
    except Exception as error:  # noqa: BLE001  # it is told, with its traceback
        # click's usage errors know how to show themselves
        if not hasattr(error, "show"):
            streams.tell_crash(error)
            return 1
        code = getattr(error, "exit_code", 2)
        if streams.wrapped() and hasattr(error, "format_message"):
            command = getattr(getattr(error, "ctx", None), "command_path", "tilth")
            why = error.format_message().rstrip(". ") or "needs a command"
            streams.tell("error", f"{why}; see: {command} --help", exit_code=code)
        else:
            error.show()
    return code if isinstance(code, int) else 0


if __name__ == "__main__":
    main()
