"""The commands that look at a dataset or run one step on it: `import`, `export`, `diff`, `mine`, `ground`, `train` and so on."""

import json
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import MISSING, fields
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
import yaml
from pydantic import TypeAdapter, ValidationError

from tilth.errors import InputError

if TYPE_CHECKING:
    from tilth.dataset import Dataset
    from tilth.work import Work

# command -> the step that it runs on a dataset
ONE_STEP = {
    "import": "import",
    "mine": "mine",
    "ground": "ground",
    "fuse": "fuse",
    "synth": "generate",
    "hash": "hash",
    "quality": "quality",
    "words": "words",
    "filter": "filter",
    "label-errors": "label_errors",
    "clean": "dedup",
    "split": "split",
    "thresholds": "thresholds",
    "gate": "gate",
    "package": "package",
    "eval": "evaluate",
    "calibrate": "calibrate",
}
TRAINED = ("classifier", "detector")  # `tilth train classifier` runs the step `train.classifier`

DatasetPath = Annotated[Path, typer.Argument(help="Dataset folder.")]


def _settings(texts: list[str] | None) -> dict[str, Any]:
    from tilth.pipeline.cli import pairs

    return {name: yaml.safe_load(value) for name, value in pairs(texts).items()}


@contextmanager
def opened(
    dataset: Path, policy: Path, name: str, folder: "Callable[[Dataset], Path]", device: str = "auto"
) -> "Iterator[Work]":
    """Open a dataset for one command, alone, after the images that a hash list has come to name were taken out.

    What the command publishes and reports is kept in `published.json` beside the dataset, where later commands find it.

    Args:
        dataset: Folder; made when absent.
        policy: Policy file.
        name: Of what the command leaves.
        folder: Says where its files go.
        device: `auto`, `cpu`, `cuda`, …
    """
    from tilth.dataset import Dataset, write_beside
    from tilth.events import Events
    from tilth.mining.listed import guard_of, sweep
    from tilth.pipeline.run import only_run
    from tilth.policy import load_policy
    from tilth.work import Work, utc_now

    with only_run(dataset):
        rules = load_policy(policy)
        guard = guard_of(rules)
        found = Dataset(dataset, guard=guard)
        sweep(found, guard, utc_now())
        place = folder(found)
        place.mkdir(parents=True, exist_ok=True)
        notes = dataset / "published.json"
        kept = json.loads(notes.read_text()) if notes.exists() else {"artifacts": {}, "facts": {}}
        work = Work(
            name=name,
            dataset=found,
            policy=rules,
            folder=place,
            events=Events(dataset / "events.jsonl"),
            device=device,
            artifacts={k: dataset / path for k, path in kept["artifacts"].items()},
            facts=kept["facts"],
        )
        yield work
        paths = {k: str(path.relative_to(dataset)) for k, path in work.artifacts.items()}
        write_beside(notes, json.dumps({"artifacts": paths, "facts": work.facts}, indent=1))


def run_one(
    dataset: Path, policy: Path, name: str, settings: dict[str, Any], device: str, label: str = ""
) -> dict[str, Any]:
    """Run one step on a dataset and return what it reports.

    Args:
        dataset: Folder; made when absent.
        policy: Policy file.
        name: Of the step.
        settings: Of the step.
        device: `auto`, `cpu`, `cuda`, …
        label: Other name for what the step leaves, so that it can run twice.

    Raises:
        InputError: A setting is wrong; all of them are listed.
    """
    from tilth.pipeline.steps import step_table
    from tilth.recipe import load_class
    from tilth.steps import fingerprint, inputs_digest

    cls = load_class(step_table(), name)
    step: Any = make_step(cls, name, settings)

    def folder(opened: "Dataset") -> Path:
        # a killed command goes on where it was; a finished one that changed the dataset would start afresh on what it made
        key = fingerprint(step, inputs_digest(step.inputs()), str(opened.at.number))
        return dataset / "files" / f"{label or name}-{key}"

    with opened(dataset, policy, label or name, folder, device) as work:
        facts = dict(step.run(work))
        work.facts[label or name] = facts
        return facts


def make_step(cls: type, name: str, settings: dict[str, Any]) -> Any:
    """Make a step of its settings.

    Raises:
        InputError: A setting is wrong; all of them are listed.
    """
    try:
        return TypeAdapter(cls).validate_python(settings)
    except ValidationError as error:
        wrong = [
            f"--set {'.'.join(map(str, e['loc']))}: {e['msg'].removeprefix('Value error, ')}" for e in error.errors()
        ]
        raise InputError("\n".join([*wrong, f"settings of {name}: {', '.join(describe_fields(cls))}"])) from error


def describe_fields(cls: type) -> list[str]:
    """List the settings of a step with their defaults."""
    described = []
    for item in fields(cls):
        default = (
            item.default
            if item.default is not MISSING
            else (item.default_factory() if item.default_factory is not MISSING else "required")
        )
        described.append(f"{item.name}={default}")
    return described


def _one_step_command(app: typer.Typer, command: str, name: str, full: str = "") -> None:
    from tilth.pipeline.steps import step_table

    table = step_table()
    if name not in table:
        return

    def act(
        dataset: DatasetPath,
        policy: Annotated[Path, typer.Option(help="Policy file.")],
        settings: Annotated[
            list[str] | None, typer.Option("--set", help="A setting of the step: --set path=/data.")
        ] = None,
        device: Annotated[str, typer.Option(help="auto, cpu, cuda, …")] = "auto",
        label: Annotated[str, typer.Option("--as", help="Name for what it leaves; the step's own when empty.")] = "",
    ) -> None:
        typer.echo(json.dumps(run_one(dataset, policy, name, _settings(settings), device, label), indent=1))

    example = f"Example: tilth {full or command} data/mine --policy configs/policies/starter.yaml --set name=value"
    app.command(
        command, help=f"Run the step `{name}` on a dataset. Without --set it says what is missing.", epilog=example
    )(act)


def history(dataset: DatasetPath) -> None:
    """List the versions of a dataset, with their tags."""
    from tilth.dataset import Dataset

    opened = _open(dataset)
    tags = {number: tag for tag, number in opened.tags().items()}
    for version in Dataset(dataset).history():
        typer.echo(f"{version.number:>4}  {version.time}  {version.message}  {tags.get(version.number, '')}".rstrip())


def diff(
    dataset: DatasetPath,
    before: Annotated[str, typer.Argument(help="Version or tag.")],
    after: Annotated[str, typer.Argument(help="Version or tag; the newest when left out.")] = "",
) -> None:
    """Say which samples came, went or changed their labels between two versions."""
    from tilth.pipeline.versions import diff_versions

    for line in diff_versions(_open(dataset), before, after or None):
        typer.echo(json.dumps(line))


def tag(
    dataset: DatasetPath,
    name: str,
    version: Annotated[str, typer.Option(help="Version or tag; the newest when empty.")] = "",
) -> None:
    """Name a version."""
    opened = _open(dataset)
    (opened.checkout(version) if version else opened).tag(name)


def rollback(
    dataset: DatasetPath, version: Annotated[str, typer.Argument(help="Version or tag to go back to.")]
) -> None:
    """Make a new version that equals an earlier one; nothing is lost."""
    from tilth.work import utc_now

    made = _open(dataset).rollback(version, utc_now())
    typer.echo(f"version {made.number}: {made.message}")


def explain(
    dataset: DatasetPath,
    sample: Annotated[str, typer.Argument(help="Id of a sample, or its beginning.")],
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON object for programs.")] = False,
) -> None:
    """Say why an image is in a dataset, or out of it: where it is from, what found it, and what scored what."""
    opened = _open(dataset)
    found = [s for s in opened.samples(images=False, dropped=True) if s.id.startswith(sample)]
    if len(found) != 1:
        raise InputError(f"{dataset}: {len(found) or 'no'} samples begin with {sample!r}; give more of the id")
    one = found[0]
    rows: dict[str, Any] = {
        "id": one.id,
        "state": str(one.state),
        **{f"origin.{name}": value for name, value in one.origin.items()},
        **dict(sorted(one.columns.items())),
        **{f"claim {n}": _told(claim) for n, claim in enumerate(one.claims, 1)},
        **{f"dropped by {step}": why for step, why in one.drops},
    }
    if as_json:
        typer.echo(json.dumps(rows))
        return
    for name, value in rows.items():
        for part, inner in value.items() if isinstance(value, dict) else [("", value)]:
            typer.echo(f"{name + (f'.{part}' if part else ''):32} {inner}")


def _told(claim: Any) -> str:
    box = f" at {', '.join(f'{v:.0f}' for v in claim.box_xyxy)}" if claim.box_xyxy else ""
    return f"{claim.source} says {claim.category or claim.says}{box}, score {claim.score:.2f}"


def export(
    dataset: DatasetPath,
    out: Annotated[Path, typer.Argument(help="Folder to write.")],
    format_: Annotated[
        str,
        typer.Option(
            "--format",
            help="coco, yolo, voc, labelstudio, cvat, imagefolder (Hugging Face), webdataset, parquet or csv.",
        ),
    ] = "coco",
    images: Annotated[
        str, typer.Option(help="copy them, or none: labels alone, which name the images as they were taken in.")
    ] = "copy",
    unlabelled: Annotated[
        bool,
        typer.Option("--unlabelled", help="Images that nobody has labelled too, where the format tells them apart."),
    ] = False,
    version: Annotated[str, typer.Option(help="Version or tag; the newest when empty.")] = "",
) -> None:
    """Write a dataset in a format that other tools read; says first what the format cannot hold."""
    from tilth.annotate.exporting import export as write

    opened = _open(dataset)
    chosen = opened.checkout(version) if version else opened
    typer.echo(json.dumps(write(chosen, out, format_, images=images, unlabelled=unlabelled)))


def gallery(
    dataset: DatasetPath,
    out: Annotated[Path, typer.Option(help="Folder to write, or one file that ends in .html.")] = Path("gallery"),
    policy: Annotated[
        Path | None,
        typer.Option(help="Policy file, which says what needs no veil; without it all pictures are veiled."),
    ] = None,
    version: Annotated[str, typer.Option(help="Version or tag; the newest when empty.")] = "",
    side: Annotated[int, typer.Option(min=32, max=4096, help="Longer side of a picture, in pixels.")] = 640,
    sheet: Annotated[Path | None, typer.Option(help="Write a contact sheet instead: a PNG of 48 images.")] = None,
    unveiled: Annotated[bool, typer.Option("--unveiled", help="Show unsafe pictures on the sheet.")] = False,
) -> None:
    """Write pages to look through a dataset in a browser: every box, who says so, and what the clean-up took."""
    from tilth.mining.listed import guard_of
    from tilth.pipeline.gallery import Gallery
    from tilth.policy import load_policy

    opened, rules = _open(dataset), load_policy(policy) if policy else None
    opened.guard = guard_of(rules) if rules else None
    shown = Gallery(dataset=opened.checkout(version) if version else opened, policy=rules, side=side)
    typer.echo(
        json.dumps({"sheet": str(sheet), **shown.sheet(sheet, unveiled=unveiled)} if sheet else shown.write(out))
    )


def _open(path: Path) -> Any:
    from tilth.dataset import Dataset

    if not (path / "versions").is_dir():
        raise InputError(f"{path}: no dataset here; a run keeps its own in runs/<name>/dataset")
    return Dataset(path)


def add_to(app: typer.Typer) -> None:
    """Add these commands to the command line."""
    for command, name in ONE_STEP.items():
        _one_step_command(app, command, name)
    train = typer.Typer(no_args_is_help=True, help="Fine-tune a classifier or a detector on a dataset.")
    app.add_typer(train, name="train")
    for kind in TRAINED:
        _one_step_command(train, kind, f"train.{kind}", f"train {kind}")
    for function in (history, diff, tag, rollback, explain, export, gallery):
        app.command(epilog=f"Example: tilth {function.__name__} runs/starter/dataset …")(function)
