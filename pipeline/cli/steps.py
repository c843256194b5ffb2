"""The commands that run one step on a dataset: `tilth ground`, `tilth fuse`, `tilth train detector` and so on.

Their help is the step itself: what its docstring says, and every setting with its default.
"""

import inspect
import json
import re
from collections.abc import Callable, Iterator, Mapping
from contextlib import closing, contextmanager
from dataclasses import MISSING, dataclass, fields, is_dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, get_args

import typer
from typer.core import TyperCommand

from tilth.errors import GateRefused, InputError
from tilth.pipeline.cli import streams
from tilth.pipeline.cli.settings import DatasetPath, emptied, make_step, read_settings

if TYPE_CHECKING:
    from tilth.data.dataset import Dataset
    from tilth.engine.work import Work


@dataclass(frozen=True)
class OneStep:
    """A command: the step that it runs, what that does in a line, and the settings of an example."""

    step: str
    does: str
    example: str = ""
    begins: bool = False  # brings images in, so the dataset need not be there yet


Device = Annotated[str, typer.Option(help="auto, cpu, cuda, …")]
BOTH = "classifier=train.classifier --set detector=train.detector"  # as `tilth train` names what it leaves
GATED = (
    "old=evaluate.old --set new=evaluate.new --set old_classifier=old.classifier --set new_classifier=train.classifier"
)
LOOK = "images.categories=[knife] --set captions.trigger=photo --set learning.steps=300"
COMMANDS = {
    "import": OneStep("import", "Take in images, with labels of other tools.", "path=/photos", begins=True),
    "import-text": OneStep(
        "import.text", "Take in texts, with labels of other tools.", "path=/data/chats.jsonl", begins=True
    ),
    "import-sound": OneStep(
        "import.sound", "Take in sounds, with labels of other tools.", "path=/data/clips", begins=True
    ),
    "mine": OneStep("mine", "Search a corpus for every category.", "corpus=/corpus --set per_category=50", begins=True),
    "mine-text": OneStep(
        "mine.text", "Search tables of texts for every category.", "path=/data/chats --set per_category=50", begins=True
    ),
    "ground": OneStep("ground", "Find boxes of the policy's categories.", "threshold=0.35 --set tiles=2"),
    "second-opinion": OneStep("second_opinion", "Let a second model judge each box.", "min_match=0.2"),
    "fuse": OneStep("fuse", "Make one set of boxes from several looks.", "'of=[ground, tiled]'"),
    "thresholds": OneStep("thresholds", "Learn score thresholds from reviewed images.", "precision=0.9"),
    "synth": OneStep("generate", "Generate images of thin categories.", "count=100", begins=True),
    "judge": OneStep("adherence", "Drop generated images that are not what was asked for.", "min_score=0.35"),
    "prove": OneStep("prove", "Keep generated images only as far as they help.", "classifier.steps=300"),
    "face-swap": OneStep("face_swap", "Give persons the faces of others who consented.", "'consent=[form-17.yaml]'"),
    "forget": OneStep("forget", "Erase what was made with a consent that was taken back.", "'records=[form-17]'"),
    "hash": OneStep("hash", "Hash every image, to find copies."),
    "quality": OneStep("quality", "Measure the picture quality of every image."),
    "words": OneStep("words", "Measure the writing in every image."),
    "filter": OneStep("filter", "Drop the samples that break a rule.", "'rules=[\"quality.min_side >= 64\"]'"),
    "label-errors": OneStep("label_errors", "Name the labels that are probably wrong.", "folds=5"),
    "clean": OneStep("dedup", "Drop near-duplicates.", "max_distance=20"),
    "leakage": OneStep("leakage", "Drop copies of sealed test images.", "'sealed=[/data/test]'"),
    "split": OneStep("split", "Divide the samples into train and val.", "val_share=0.15"),
    "relabel": OneStep("relabel", "Let a student look at its teacher's labels again.", "detector=train.detector"),
    "calibrate": OneStep("calibrate", "Calibrate models and choose thresholds.", BOTH),
    "eval": OneStep("evaluate", "Measure models on sealed images.", f"test=/data/test --set {BOTH}"),
    "gate": OneStep("gate", "Refuse a model that lost recall.", GATED),
    "package": OneStep("package", "Make the bundle that is served.", BOTH),
}
ALSO_A_PROTOCOL = "eval"  # is added by bundle.py
TRAINED = {
    "classifier": OneStep("train.classifier", "Fine-tune a classifier on a dataset.", "steps=300"),
    "detector": OneStep("train.detector", "Fine-tune a detector on a dataset.", "steps=600"),
    "person": OneStep("train.person", "Learn to recognise people who asked for it.", "people=/people/people.jsonl"),
    "few-shot": OneStep("train.few_shot", "Fit a classifier to a few examples, in seconds.", "shots=16"),
    "lora": OneStep("train.lora", "Teach a text-to-image model a look or a thing.", LOOK),
}


@contextmanager
def opened(
    dataset: Path,
    policy: Path,
    name: str,
    folder: "Callable[[Dataset], Path]",
    device: str = "auto",
    does: str = "",
    last: Callable[[], None] = lambda: None,
) -> "Iterator[Work]":
    """Open a dataset for one command, alone, after the images that a hash list has come to name were taken out.

    What the command publishes and reports is kept in `published.json` beside the dataset, where later commands find it. While it runs,
    `running.json` says from which version; when it was killed and is given again, it goes on from there, even if all of its work was done.

    Args:
        dataset: Folder; made when absent.
        policy: Policy file.
        name: Of what the command leaves.
        folder: Says where its files go.
        device: `auto`, `cpu`, `cuda`, …
        does: What it does with which settings, to know it again.
        last: Is called when all is kept; only then the command counts as done.
    """
    from tilth.data.files import alone, write_beside
    from tilth.engine.work import Work, utc_now
    from tilth.events import Events
    from tilth.mining.copies.listed import guard_of, sweep
    from tilth.pipeline.run import RUNNING, open_at_work
    from tilth.policy import load_policy

    rules = load_policy(policy)
    guard = guard_of(rules)
    with alone(dataset), closing(Events(dataset / "events.jsonl")) as events:
        running, found = dataset / RUNNING, open_at_work(dataset, name, does, guard)
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
            events=events,
            device=device,
            artifacts={k: dataset / path for k, path in kept["artifacts"].items()},
            facts=kept["facts"],
        )
        try:
            yield work
        except Exception:
            running.unlink()  # it was not killed: what it kept is found without this
            raise
        paths = {k: str(path.relative_to(dataset)) for k, path in work.artifacts.items()}
        write_beside(notes, json.dumps({"artifacts": paths, "facts": work.facts}, indent=1))
        last()
        running.unlink()


def run_one(
    dataset: Path,
    policy: Path,
    command: str,
    one: OneStep,
    settings: Mapping[str, Any],
    device: str,
    label: str = "",
    tell: Callable[[Mapping[str, Any]], None] = lambda facts: None,
) -> dict[str, Any]:
    """Run one step on a dataset and return what it reports.

    Args:
        dataset: Folder; made when absent and the step brings images in.
        policy: Policy file.
        command: That was given.
        one: The step.
        settings: Of the step.
        device: `auto`, `cpu`, `cuda`, …
        label: Other name for what the step leaves, so that it can run twice.
        tell: Is given what the step reports once all is kept, and before the command counts as done.

    Raises:
        InputError: A setting is wrong, of which all are listed; or the dataset or a file that the step reads is absent.
    """
    from tilth.engine.recipe import absent_inputs, load_class
    from tilth.engine.steps import NAME, fingerprint, inputs_digest, references
    from tilth.models import check_device
    from tilth.pipeline.table import step_table

    if label and not NAME.fullmatch(label):  # it becomes part of the names of folders
        raise InputError(f"--as: a name is letters, digits, '.', '-' and '_', got {label!r}")
    check_device(device)
    cls = load_class(step_table(), one.step)
    step = make_step(cls, command, emptied(cls, settings))
    name = label or one.step
    if wrong := absent_inputs({name: step}):
        raise InputError("\n".join(wrong))
    if not one.begins and not (dataset / "versions").is_dir():
        raise InputError(f"{dataset}: no dataset here; take images in first: tilth import {dataset} --set path=…")

    digest = inputs_digest(step.inputs())

    def folder(opened: "Dataset") -> Path:
        # a killed command goes on where it was; a finished one that changed the dataset would start afresh on what it made,
        # and so does one that names a model which was trained anew since
        notes = dataset / "published.json"
        there = json.loads(notes.read_text())["artifacts"] if notes.exists() else {}
        texts = [*(value for value in vars(step).values() if isinstance(value, str)), *(n for _, n in references(step))]
        named = [there[text] for text in texts if text in there]
        return dataset / "files" / f"{name}-{fingerprint(step, digest, str(opened.at.number), *named)}"

    facts: dict[str, Any] = {}
    with opened(dataset, policy, name, folder, device, fingerprint(step, digest), lambda: tell(facts)) as work:
        work.show_own(step)
        try:
            facts |= step.run(work)
        except GateRefused as refused:
            tell(refused.facts)
            raise
        if facts.get("looked_at_now") == 0:
            again = f"{name}: nothing was looked at now: all images have their answer from before, with these settings"
            work.events.emit("again", step=name, message=again)
        work.facts[name] = facts
    return facts


def settings_of(cls: type, inside: str = "") -> list[tuple[str, str, str]]:
    """List the settings of a step: name, default, and what its docstring, or that of what it is made of, says of it.

    A group is followed by what is in it, `drawing.steps`; so is a list of groups, of which each item needs what is "in each".
    """
    said: dict[str, str] = {}
    for each in reversed(cls.__mro__):
        told = inspect.cleandoc(each.__doc__ or "").partition("\nArgs:")[2].rstrip()
        items = (item.strip().partition(": ") for item in re.split(r"\n {4}(?=\w+: )", "\n" + told))
        said |= {name: " ".join(text.split()) for name, _, text in items}
    rows = []
    for item in fields(cls):
        name, needed = inside + item.name, item.default is MISSING and item.default_factory is MISSING
        plain = item.default if item.default_factory is MISSING else item.default_factory()
        kinds = [kind for kind in (item.type, *get_args(item.type)) if isinstance(kind, type) and is_dataclass(kind)]
        if kinds and plain is not None:
            inner = settings_of(kinds[0], f"{name}.")
            if isinstance(plain, tuple):  # a list of groups, which may be empty
                inner = [(of, "in each" if default == "required" else default, text) for of, default, text in inner]
            rows += [(name, "[{…}, …]" if isinstance(plain, tuple) else "{…}", said.get(item.name, "")), *inner]
            continue
        rows.append((name, "required" if needed else _spelt(plain), said.get(item.name, "")))
    return rows


def _spelt(value: Any) -> str:
    """Write a default as a recipe would; nothing where there is nothing."""
    if isinstance(value, tuple):
        return f"[{', '.join(map(_spelt, value))}]"
    if isinstance(value, dict):
        return f"{{{', '.join(f'{key}: {_spelt(each)}' for key, each in value.items())}}}" if value else ""
    return "" if value is None else str(value)


class StepCommand(TyperCommand):
    """A command whose help is read from its step; the step is imported for that alone."""

    one: OneStep
    full: str

    def format_help(self, ctx: Any, formatter: Any) -> None:
        """Show usage, options, settings and an example; the types are those of typer's own copy of click."""
        from rich.console import Console
        from rich.panel import Panel
        from rich.table import Table
        from rich.text import Text

        from tilth.engine.recipe import load_class
        from tilth.pipeline.table import step_table

        cls = load_class(step_table(), self.one.step)
        self.help = (inspect.getdoc(cls) or "").partition("\nArgs:")[0].strip().replace("[", r"\[")
        super().format_help(ctx, formatter)
        table = Table.grid(padding=(0, 2), expand=True)
        for column in ({"no_wrap": True}, {"max_width": 20}, {"ratio": 1}):
            table.add_column(**column)
        for name, default, text in settings_of(cls):
            table.add_row(Text(name, "bold cyan"), Text(default, "dim"), Text(text))
        console = Console()
        console.print(Panel(table, title="Settings: --set name=value", title_align="left", border_style="dim"))
        setting = f" --set {self.one.example}" if self.one.example else ""
        example = f"tilth {self.full} data/mine --policy configs/policies/starter.yaml{setting}"
        console.print(Text(f" Example: {example}"), soft_wrap=True)  # in one line, to be copied


def _add(app: typer.Typer, command: str, one: OneStep, full: str) -> None:
    def act(
        dataset: DatasetPath,
        policy: Annotated[Path, typer.Option(help="Policy file.")],
        settings: Annotated[list[str] | None, typer.Option("--set", help="A setting of the step; see below.")] = None,
        device: Device = "auto",
        label: Annotated[str, typer.Option("--as", help="Name for what it leaves; the step's own when empty.")] = "",
    ) -> None:
        def tell(facts: Mapping[str, Any]) -> None:
            streams.settle()
            typer.echo(json.dumps(facts, indent=1))

        run_one(dataset, policy, full, one, read_settings(settings), device, label, tell)

    def act_or_show(
        dataset: DatasetPath,
        policy: Annotated[Path, typer.Option(help="Policy file.")],
        settings: Annotated[list[str] | None, typer.Option("--set", help="A setting of the step; see below.")] = None,
        device: Annotated[str, typer.Option(help="auto, cpu, cuda, …")] = "auto",
        label: Annotated[str, typer.Option("--as", help="Name for what it leaves; the step's own when empty.")] = "",
        dry_run: Annotated[
            bool, typer.Option("--dry-run", help="Print the plan and 20 prompts, and draw nothing.")
        ] = False,
    ) -> None:
        if dry_run:
            _show_plan(dataset, policy, full, read_settings(settings))
        else:
            act(dataset, policy, settings, device, label)

    does: Callable[..., None] = act_or_show if one.step == "generate" else act
    app.command(command, short_help=one.does, cls=type("StepCommand", (StepCommand,), {"one": one, "full": full}))(does)


def _show_plan(dataset: Path, policy: Path, command: str, settings: Mapping[str, Any]) -> None:
    """Print what `generate` would draw from a dataset as it is; nothing is written."""
    from tilth.engine.work import Work
    from tilth.events import Events
    from tilth.pipeline.cli.settings import existing
    from tilth.policy import load_policy
    from tilth.synth.draw.generate import Generate

    step = make_step(Generate, command, emptied(Generate, settings))
    with closing(Events()) as events:
        work = Work(
            name="generate",
            dataset=existing(dataset),
            policy=load_policy(policy),
            folder=dataset / "files",
            events=events,
        )
        shown = step.plan(work).shown()
    streams.settle()
    typer.echo(shown)


def auto(
    dataset: DatasetPath,
    policy: Annotated[Path, typer.Option(help="Policy file.")],
    category: Annotated[list[str] | None, typer.Option(help="Learn this one alone; may be given again.")] = None,
    settings: Annotated[
        list[str] | None,
        typer.Option("--set", help="A setting of a part instead of what is chosen: --set classifier.steps=600."),
    ] = None,
    device: Device = "auto",
    runs: Annotated[Path, typer.Option(help="Folder that holds all runs.")] = Path("runs"),
    name: Annotated[str, typer.Option(help="Of the run; made of policy and categories when empty.")] = "",
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Write and print the recipe, and train nothing.")] = False,
) -> None:
    """Train, calibrate, measure and package with settings chosen by the set and the machine; the same command goes on where it stopped."""
    import yaml

    from tilth.engine.recipe import load_recipe
    from tilth.engine.steps import NAME
    from tilth.models import check_device
    from tilth.pipeline.choose import change, write
    from tilth.pipeline.cli.settings import existing
    from tilth.pipeline.retrain import newest, open_night, retrain
    from tilth.pipeline.run import Choices
    from tilth.pipeline.table import step_table
    from tilth.policy import load_policy

    check_device(device)
    existing(dataset)
    name = name or "-".join(["train", load_policy(policy).policy, *(one.replace(" ", "_") for one in category or ())])
    if not NAME.fullmatch(name):
        raise InputError(f"--name: a name is letters, digits, '.', '-' and '_', got {name!r}")
    given = read_settings(settings)
    if wrong := [key for key, value in given.items() if not isinstance(value, dict)]:
        raise InputError(f"--set {wrong[0]}: name a part and its setting, as in --set classifier.steps=600")
    given = {part: {key: yaml.safe_load(str(one)) for key, one in own.items()} for part, own in given.items()}
    home = runs / name
    began = open_night(home)
    if began is None:
        path, chosen = write(home, dataset, policy, category or [], device, given)
        streams.settle()
        typer.echo("\n".join(() if dry_run else chosen.reasons))
    else:
        path = home / "recipe-chosen.yaml"
        change(path, given)
        typer.echo(f"goes on with {began}; remove it to choose anew")
    recipe = load_recipe(path, step_table())
    if dry_run:
        typer.echo(path.read_text(), nl=False)
        return
    retrain(recipe, home, Choices(device=device), night=f"version-{existing(dataset).at.number}")
    folder = newest(home)
    streams.settle()
    typer.echo(f"report: {folder}/report.html\nbundle: {folder}/bundle\nto change how it learns: {path}")


def add_to(app: typer.Typer) -> None:
    """Add these commands to the command line."""
    for command, one in COMMANDS.items():
        if command != ALSO_A_PROTOCOL:
            _add(app, command, one, command)
    train = typer.Typer(
        no_args_is_help=True, help="Train a classifier, a detector or an adapter for drawing on a dataset."
    )
    app.add_typer(train, name="train")
    train.command(epilog="Example: tilth train auto data/mine --policy configs/policies/starter.yaml --category knife")(
        auto
    )
    for command, one in TRAINED.items():
        _add(train, command, one, f"train {command}")
