"""The policy: picked from a file, filled into a form, or typed as text; checked with every letter by what reads policies everywhere."""

import tempfile
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import yaml
from nicegui import ui

from tilth.data.files import write_beside
from tilth.engine.steps import NAME
from tilth.errors import InputError
from tilth.pipeline.console.commands import Command, ask
from tilth.pipeline.console.look import block, problem, same, to
from tilth.pipeline.console.ways import CONFIGS, near, policies
from tilth.policy import Policy, load_policy

if TYPE_CHECKING:
    from tilth.pipeline.console.runs import Console

SEVERITIES = ("low", "medium", "high")
OWN, TEXT = "A new one, in a form", "A new one, as text"
DEFAULTS: Mapping[str, Any] = {
    "name": "", "definition": "", "severity": "medium", "prompts": "", "counter_prompts": "", "review_above": 0.3, "block_above": 0.8,
}  # fmt: skip
LISTS = ("prompts", "counter_prompts")


def policy_text(name: str, version: int, categories: Sequence[Mapping[str, Any]]) -> str:
    """Write a policy file as the form says it; what is wrong with it is for `load_policy` to say, with its line.

    >>> print(policy_text("things", 1, [{"name": "knife", "definition": "Any.", "prompts": "knife, blade"}]), end="")
    policy: things
    version: 1
    categories:
      - name: knife
        definition: Any.
        prompts: [knife, blade]
    """

    def plain(value: object) -> str:
        text: str = yaml.safe_dump(value, default_flow_style=True, allow_unicode=True, width=10_000)
        return text.removesuffix("\n").removesuffix("\n...").strip()

    lines = [f"policy: {plain(name)}", f"version: {version}", "categories:" if categories else "categories: []"]
    for each in categories:
        told = {k: [p.strip() for p in str(v).split(",") if p.strip()] if k in LISTS else v for k, v in each.items()}
        kept = {k: v for k, v in told.items() if k == "name" or v not in ("", [], None)}
        lines += [f"  {'-' if n == 0 else ' '} {key}: {plain(value)}" for n, (key, value) in enumerate(kept.items())]
    return "\n".join(lines) + "\n"


def check_policy(text: str) -> tuple[list[str], Policy | None]:
    """Say what is wrong with the text of a policy, a line each, and return the policy, None where it is none."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "policy.yaml"
        path.write_text(text, encoding="utf-8", errors="replace")
        try:
            return [], load_policy(path)
        except InputError as error:
            said = str(error).splitlines()
            return [line.replace(f"{path}:", "line ").replace(str(path), "the policy") for line in said], None


def keep(runs: Path, name: str, text: str) -> Path:
    """Keep a policy that was written here, in `runs/policies`.

    Raises:
        InputError: The name could be no file, or another policy has it.
    """
    if not NAME.fullmatch(name) or len(name) > 64:
        raise InputError(f"a policy is named by a letter, then letters, digits, '.', '-' and '_', got {name[:80]!r}")
    path = runs / "policies" / f"{name}.yaml"
    if path.exists() and path.read_text(encoding="utf-8") != text:
        raise InputError(f"{path}: another policy has this name; give this one another, or pick that one")
    path.parent.mkdir(parents=True, exist_ok=True)
    write_beside(path, text)
    return path


def policy_form(console: "Console", folder: str, chosen: str) -> None:
    """Put the page's content together.

    Args:
        console: Whose `runs/` keep what is written.
        folder: That was chosen before.
        chosen: Policy file that is picked already; empty for none.
    """
    block("policy_intro")
    names = {OWN: OWN, TEXT: TEXT, **({chosen: chosen} if chosen else {})}
    for path in policies(console.runs):
        names[near(path)] = f"{path.stem}, {'which comes along' if path.is_relative_to(CONFIGS) else 'written here'}"
    with ui.element("section").classes("card"), ui.element("fieldset").classes("choice"):
        ui.html("Which policy?", tag="legend", sanitize=True)
        pick = ui.radio(names, value=chosen or OWN)
    picked = ui.element("section").classes("card")
    form = _Form()
    with picked:
        shown = ui.element("div")
    verdict = ui.element("section").classes("verdict").props("role=status")
    go = ui.button("Next: the recipe", color=None).props("flat no-caps").classes("go")
    commands = ui.element("div")

    def changed() -> None:
        """Check what is there now, and say so."""
        verdict.clear()
        wrong, policy = check_policy(form.text)
        with verdict:
            block(
                "verdict", wrong=wrong, policy=policy, text=form.text if pick.value == OWN else "", fresh=form.is_fresh
            )
        go.set_enabled(not wrong)
        commands.clear()
        path = (
            pick.value
            if pick.value not in (OWN, TEXT)
            else str(console.runs / "policies" / f"{form.name or 'policy'}.yaml")
        )
        with commands:
            same(Command.of("policy", "check", path))

    def show() -> None:
        shown.clear()
        with shown:
            if pick.value == OWN:
                form.show(changed)
            elif pick.value == TEXT:
                form.show_text(changed)
            else:
                form.read(Path(str(pick.value)))
                block("file", path=str(pick.value), text=form.text)
        changed()

    async def next_page() -> None:
        try:
            own = pick.value in (OWN, TEXT)
            path = near(keep(console.runs, form.name, form.text)) if own else str(pick.value)
        except InputError as error:
            ui.notify(str(error), type="negative", multi_line=True)
            return
        said = await ask(Command.of("policy", "check", path))
        if said.code:
            with verdict:
                problem(said.wrong)
            return
        ui.navigate.to(to("/recipe", folder=folder, policy=path))

    pick.on_value_change(show)
    go.on_click(next_page)
    show()


class _Form:
    """What is typed on one page; gone with it."""

    def __init__(self) -> None:
        self.text = ""
        self._name, self._version = "mine", 1
        self._rows: list[dict[str, Any]] = [dict(DEFAULTS)]

    @property
    def name(self) -> str:
        """Of the policy."""
        try:
            return str(yaml.safe_load(self.text)["policy"])
        except (yaml.YAMLError, TypeError, KeyError):
            return ""

    @property
    def is_fresh(self) -> bool:
        """Whether nothing was filled in yet, so that what is missing is no mistake."""
        return self.text == policy_text(self._name, self._version, [DEFAULTS])

    def read(self, path: Path) -> None:
        """Show a file as it is."""
        try:
            self.text = path.read_text(encoding="utf-8")
        except (OSError, UnicodeDecodeError) as error:
            self.text = f"# {path}: cannot be read ({error})\n"

    def show_text(self, changed: Callable[[], None]) -> None:
        """Let somebody type; begin with what the form said."""
        self.text = self.text or policy_text(self._name, self._version, self._rows)

        def typed(value: str) -> None:
            self.text = value
            changed()

        ui.textarea("The policy, as YAML", value=self.text, on_change=lambda e: typed(str(e.value or ""))).props(
            "outlined autogrow spellcheck=false"
        ).classes("code")

    def show(self, changed: Callable[[], None]) -> None:
        """Show fields for the policy and each of its categories."""

        def typed() -> None:
            self.text = policy_text(self._name, self._version, self._rows)
            changed()

        def named(value: str) -> None:
            self._name = value
            typed()

        ui.input("Name of the policy", value=self._name, on_change=lambda e: named(str(e.value or ""))).props(
            "outlined"
        )
        rows = ui.element("div").classes("categories")

        def draw() -> None:
            rows.clear()
            with rows:
                for number, row in enumerate(self._rows, 1):
                    self._category(number, row, typed, draw)
            typed()

        def add() -> None:
            self._rows.append(dict(DEFAULTS))
            draw()

        ui.button("Add a category", on_click=add, color=None).props("flat no-caps")
        draw()

    def _category(self, number: int, row: dict[str, Any], typed: Callable[[], None], draw: Callable[[], None]) -> None:
        def put(key: str, value: Any) -> None:
            row[key] = value
            typed()

        def drop() -> None:
            self._rows.remove(row)
            draw()

        def field(key: str, label: str, hint: str) -> None:
            ui.input(label, value=row[key], on_change=lambda e: put(key, str(e.value or ""))).props(
                f'outlined hint="{hint}"'
            )

        with ui.element("fieldset").classes("category"):
            ui.html(f"Category {number}", tag="legend", sanitize=True)
            field("name", "Name", "As your labels call it: knife")
            field("definition", "Definition", "What counts, and what does not")
            field("prompts", "Looks for", "Short nouns, commas between: knife, blade")
            field("counter_prompts", "Harmless look-alikes", "Such as: spoon")
            with ui.element("div").classes("numbers"):
                ui.radio(list(SEVERITIES), value=row["severity"], on_change=lambda e: put("severity", e.value)).props(
                    'inline aria-label="Severity"'
                )
                for key, label in (("review_above", "A person looks from"), ("block_above", "Blocked from")):
                    number_of = ui.number(label, value=row[key], min=0, max=1, step=0.05).props("outlined")
                    number_of.on_value_change(lambda e, key=key: put(key, e.value))
                if len(self._rows) > 1:
                    ui.button("Remove", on_click=drop, color=None).props(
                        f'flat no-caps aria-label="Remove category {number}"'
                    )
