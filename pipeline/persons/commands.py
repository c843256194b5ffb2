"""The commands `tilth person enrol`, `find` and `forget`."""

import json
from contextlib import closing
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

if TYPE_CHECKING:
    from tilth.data.dataset import Dataset

RegisterPath = Annotated[Path, typer.Argument(help="Folder of the register.")]

app = typer.Typer(no_args_is_help=True, help="Recognise people who asked to be protected: enrol, find, forget.")


def add_to(parent: typer.Typer) -> None:
    """Add these commands to the command line."""
    parent.add_typer(app, name="person")


def _existing(path: Path) -> "Dataset":
    """Open a dataset that is there.

    Raises:
        InputError: There is none.
    """
    from tilth.data.dataset import Dataset
    from tilth.errors import InputError

    if not (path / "versions").is_dir():
        raise InputError(f"{path}: no dataset here; take images in first: tilth import {path} --set path=…")
    return Dataset(path)


def _tell(facts: Any) -> None:
    typer.echo(json.dumps(facts, indent=1))


@app.command(epilog="Example: tilth person enrol data/register form-17.yaml --model data/mine/files/train.person/model")
def enrol(
    register: RegisterPath,
    record: Annotated[Path, typer.Argument(help="Consent record; docs/persons.md says what it needs.")],
    model: Annotated[
        Path | None, typer.Option(help="Folder that train.person left; needed for the first record.")
    ] = None,
    dataset: Annotated[Path | None, typer.Option(help="Dataset that has boxes of the references.")] = None,
    detector: Annotated[str, typer.Option(help="YuNet's ONNX file; OpenCV's own cascade when empty.")] = "",
    backup: Annotated[list[Path] | None, typer.Option(help="Folder in which copies are kept; may be repeated.")] = None,
) -> None:
    """Take somebody in who agreed to be recognised, by their consent record. Without one nobody is."""
    from tilth.data.files import alone
    from tilth.pipeline.persons.register import Register
    from tilth.synth.safety.consent import load_consents

    load_consents([record])  # before anything is made
    known = _existing(dataset) if dataset else None
    opened = Register(register) if model is None else Register.begin(register, model, backup or ())
    with alone(register):
        _tell(opened.enrol(record, known, detector))


@app.command(epilog="Example: tilth person find data/register data/mine")
def find(
    register: RegisterPath,
    dataset: Annotated[Path, typer.Argument(help="Dataset to look through; its people are boxed.")],
    where: Annotated[str, typer.Option(help="Look at these samples alone; docs/formats.md says how to write it.")] = "",
    device: Annotated[str, typer.Option(help="auto, cpu, cuda, …")] = "auto",
) -> None:
    """Look through a dataset for enrolled people; each match waits in the register's queue.jsonl for a person to look at."""
    from tilth import models
    from tilth.data.files import alone
    from tilth.engine.work import utc_now
    from tilth.events import Events
    from tilth.pipeline.persons.finding import find as look
    from tilth.pipeline.persons.register import Register

    opened, data = Register(register), _existing(dataset)
    with alone(register), closing(Events()) as events:
        _tell(look(opened, data, where, utc_now(), events, models.device(device)))


@app.command(epilog="Example: tilth person forget data/register form-17")
def forget(
    register: RegisterPath,
    records: Annotated[list[str], typer.Argument(help="Names of records, as they say under `record`.")],
) -> None:
    """Erase people: their vectors, every copy of these, and what waits because of them."""
    from tilth.data.files import alone
    from tilth.pipeline.persons.register import Register

    opened = Register(register)
    with alone(register):
        _tell(opened.forget(records))
