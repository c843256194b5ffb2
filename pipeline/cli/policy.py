"""The commands that begin and check a policy: `tilth policy new`, `tilth policy check`."""

from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from tilth.errors import InputError

if TYPE_CHECKING:
    from tilth.policy import Policy

BEGINNING = """\
# A policy: what to look for, how to ask for it, and what to do when it is found. Every field: docs/policy.md
policy: {policy}
version: 1  # raise it whenever the meaning of a category changes; labels remember the version that they were made under
categories:
"""
CATEGORY = """\
  - name: {name}
    definition: {definition}  # annotators read this; say what does not count, too
    severity: medium  # low, medium or high; pictures of low ones are shown without blurring
    prompts: {prompts}  # what a picture is searched and boxed by: short, concrete nouns
    # counter_prompts: []  # harmless look-alikes, as in: [spoon]
    # also: []  # what labels of other tools call it, as in: [Knives, bladed weapon]
    review_above: 0.3  # score from which a person should look …
    block_above: 0.8  # … and from which nobody needs to
"""

MANY_WORDS = 5

app = typer.Typer(no_args_is_help=True, help="Begin a policy, or check one.")


def add_to(parent: typer.Typer) -> None:
    """Add these commands to the command line."""
    parent.add_typer(app, name="policy")


@app.command(epilog="Example: tilth policy new policy.yaml knife 'white cell'")
def new(
    path: Annotated[Path, typer.Argument(help="File to write; it must not be there yet.")],
    categories: Annotated[list[str], typer.Argument(help="Names of the categories, as your data has them.")],
) -> None:
    """Write a policy with these categories, every field explained, for you to fill in."""
    import yaml

    from tilth.policy import load_policy

    if path.exists():
        raise InputError(f"{path}: is there already; give another name, or edit it and run: tilth policy check {path}")

    def text(value: object) -> str:
        return (
            yaml.safe_dump(value, default_flow_style=True, allow_unicode=True, width=1000).removesuffix("...\n").strip()
        )

    parts = [BEGINNING.format(policy=text(path.stem))]
    parts += [
        CATEGORY.format(name=text(n), definition=text(f"Any {n}, whole or in part."), prompts=text([n.lower()]))
        for n in categories
    ]
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(parts), encoding="utf-8")
    try:
        load_policy(path)
    except InputError:
        path.unlink()
        raise
    typer.echo(f"{path}: {len(categories)} categories; now edit it, then: tilth policy check {path}")


@app.command(epilog="Example: tilth policy check configs/policies/starter.yaml")
def check(path: Annotated[Path, typer.Argument(help="Policy file.")]) -> None:
    """Say what is wrong with a policy, what each category does, and what is worth a second look."""
    from rich.console import Console
    from rich.table import Table

    from tilth.policy import load_policy

    policy = load_policy(path)
    table = Table(box=None, pad_edge=False)
    for title in ("category", "severity", "decided by", "asked for as", "review from", "block from"):
        table.add_column(title, justify="right" if title.endswith("from") else "left", overflow="fold")
    for each in policy.categories:
        asked = ", ".join(each.prompts) or "the words themselves"
        table.add_row(each.name, each.severity, each.evidence, asked, f"{each.review_above:g}", f"{each.block_above:g}")
    Console().print(table)
    for remark in remarks(policy):
        typer.echo(f"note: {remark}")
    typer.echo(f"{path}: policy {policy.tag}, {len(policy.categories)} categories: fine")


def remarks(policy: "Policy") -> Iterable[str]:
    """Yield what is allowed but seldom meant."""
    from tilth.policy import fold

    for each in policy.categories:
        if each.examples and (absent := [str(path) for path in each.examples if not path.exists()]):
            yield f"{each.name}: no such example: {', '.join(absent)}"
        if long := [prompt for prompt in each.prompts if len(prompt.split()) > MANY_WORDS]:
            yield f"{each.name}: short nouns find more than sentences do: {long[0]!r}"
        if both := {fold(p) for p in each.prompts} & {fold(p) for p in each.counter_prompts}:
            yield f"{each.name}: asked for and against: {', '.join(sorted(both))}"
        if each.severity == "high" and each.block_above >= 1:
            yield f"{each.name}: of high severity, but block_above {each.block_above:g} never blocks"
    asked: dict[str, str] = {}
    for each in policy.categories:
        for prompt in each.prompts:
            if (other := asked.setdefault(fold(prompt), each.name)) != each.name:
                yield f"{other} and {each.name} are both asked for as {prompt!r}; boxes of it go to the better match"
    for path in policy.hash_lists:
        if not path.exists():
            yield f"hash list {path}: no such file; nothing can be kept out until it is there"
