"""The first half of the way: a folder, a policy, a recipe, the plan, and the start."""

import asyncio
import contextlib
import json
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

from fastapi import FastAPI, Form, Query, UploadFile
from fastapi.responses import RedirectResponse
from nicegui import ui

from tilth.engine.steps import NAME
from tilth.errors import InputError, Unavailable
from tilth.pipeline.console import runs as told
from tilth.pipeline.console.commands import Command, ask, begin
from tilth.pipeline.console.form import policy_form
from tilth.pipeline.console.look import block, frame, problem, run_at, same, to
from tilth.pipeline.console.uploads import Taken, place_of, take, write_note
from tilth.pipeline.console.ways import CONFIGS, WAYS, holds, lacks, near, variables

if TYPE_CHECKING:
    from tilth.pipeline.console.runs import Console

Values = Annotated[list[str] | None, Query()]


def add_to(app: FastAPI, console: "Console") -> None:
    """Add these pages to the application."""

    @ui.page("/")
    async def home() -> None:
        found = await asyncio.to_thread(told.all_runs, console.runs)
        with frame("Runs"):
            block("home", runs=found, folder=str(console.runs))

    @ui.page("/new")
    async def new(folder: str = "", upload: str = "", problem_: Annotated[str, Query(alias="problem")] = "") -> None:
        _folder_page(console, folder, upload, problem_)

    @ui.page("/policy")
    async def policy(folder: str = "", policy: str = "") -> None:
        with frame("Policy", at="policy", asked={"folder": folder}):
            policy_form(console, folder, policy)

    @ui.page("/recipe")
    async def recipe(folder: str = "", policy: str = "", recipe: str = "") -> None:
        held = await asyncio.to_thread(holds, folder)
        with frame("Recipe", at="recipe", asked={"folder": folder, "policy": policy}):
            rows = [(key, way, lacks(way, held)) for key, way in WAYS.items()]
            chosen = recipe if recipe in WAYS else next((key for key, _, lack in rows if not lack), "label")
            values = variables(WAYS[chosen], held)
            name = _free_name(console.runs, Path(folder).name or "run")
            block("recipe", rows=rows, chosen=chosen, values=values, folder=folder, policy=policy, held=held, name=name)

    @ui.page("/plan")
    async def plan(
        folder: str = "", policy: str = "", recipe: str = "", name: str = "", review: str = "", values: Values = None
    ) -> None:
        asked = {"folder": folder, "policy": policy, "recipe": recipe}
        with frame("Plan", at="plan", asked=asked):
            place = ui.element("div").props("role=status")
            with place:
                ui.label("Reading the recipe, its models and their licences …").classes("lead")

        async def fill() -> None:  # after the page is there, as it takes seconds
            tables = await _planned(console, asked, name, review, values or [])
            place.clear()
            with place:
                tables()

        ui.timer(0.01, fill, once=True)

    @app.post("/upload")
    async def upload(name: Annotated[str, Form()], files: list[UploadFile]) -> RedirectResponse:
        try:
            place = place_of(console.runs / "uploads", name.strip())
        except InputError as error:
            return RedirectResponse(to("/new", problem=str(error)), status_code=303)
        taken = Taken(folder=place)
        for each in files:
            await asyncio.to_thread(take, taken, each.filename or "", each.file)
        write_note(taken)
        folder = str(place) if taken.images else ""
        return RedirectResponse(to("/new", folder=folder, upload=place.name), status_code=303)


def _folder_page(console: "Console", folder: str, upload: str, wrong: str) -> None:
    with frame("Folder", at="folder", asked={"folder": folder}):
        if wrong:
            problem(wrong)
        if upload and (note := console.runs / "uploads" / f"{Path(upload).name}.json").exists():
            block("uploaded", name=upload, **json.loads(note.read_text()))
        block("folder_intro")
        with ui.element("section").classes("card"):
            field = ui.input("Folder on this machine", value=folder, placeholder="/data/cards").props("outlined")
            said = ui.label().classes("said").props("role=status")
            around = ui.row().classes("around")
            go = ui.button("Next: the policy", color=None).props("flat no-caps").classes("go")

        async def look() -> None:
            text = str(field.value or "")
            held = await asyncio.to_thread(holds, text) if text else holds("")
            if text != str(field.value or ""):  # somebody typed on meanwhile
                return
            said.set_text(held.said if text else "Name a folder of images, or send some below.")
            said.classes(replace=f"said {'' if not text else 'bad' if held.wrong else 'good'}")
            go.set_enabled(not held.wrong)
            around.clear()
            with around:
                for name in held.folders[:24]:
                    inside = ui.button(f"{name}/", color=None).props("flat dense no-caps")
                    inside.on_click(lambda name=name: field.set_value(str(held.path / name)))

        field.on_value_change(look)
        go.on_click(lambda: ui.navigate.to(to("/policy", folder=str(field.value))))
        ui.timer(0.01, look, once=True)
        block("upload")


def _free_name(runs: Path, wanted: str) -> str:
    """Return a name for a run that there is not yet."""
    plain = "".join(c if (c.isalnum() and c.isascii()) or c in "-_." else "-" for c in wanted).strip("-._") or "run"
    plain = plain if plain[0].isalpha() else f"run-{plain}"
    tries = (plain if n == 1 else f"{plain}-{n}" for n in range(1, 10_000))
    return next(name for name in tries if name not in told.OTHERS and not (runs / name).exists())


def run_command(console: "Console", asked: dict[str, str], name: str, review: str, values: Sequence[str]) -> Command:
    """Return the command that starts a run.

    Args:
        console: Where.
        asked: Recipe and policy.
        name: Of the run.
        review: Who reviews; what the recipe says when empty.
        values: Of the recipe's variables, `name=value`.

    Raises:
        InputError: Recipe or name are none.
    """
    if asked["recipe"] not in WAYS:
        raise InputError(f"no recipe {asked['recipe'][:80]!r}; there are: {', '.join(WAYS)}")
    if not NAME.fullmatch(name) or len(name) > 64:
        raise InputError(f"a run is named by a letter, then letters, digits, '.', '-' and '_', got {name[:80]!r}")
    if name in told.OTHERS:
        raise InputError(f"runs/{name} is where the console keeps something else; give the run another name")
    recipe = CONFIGS / "recipes" / WAYS[asked["recipe"]].file
    words: list[object] = [near(recipe)]
    for value in values:
        if value.partition("=")[2]:
            words += ["--set", value]
    if asked["policy"]:
        words += ["--policy", near(Path(asked["policy"]))]
    words += ["--runs", console.runs, "--name", name]
    return Command.of("run", *words, *(["--review", review] if review else []))


async def _planned(
    console: "Console", asked: dict[str, str], name: str, review: str, values: Sequence[str]
) -> Callable[[], object]:
    """Ask what a run would do, and return what draws the answer."""
    try:
        start = run_command(console, asked, name, review, values)
    except InputError as error:
        return partial(problem, str(error))
    kept = start.words[1:]
    check = Command.of("check", *kept)
    plan = Command.of("plan", *(kept[: kept.index("--review")] if "--review" in kept else kept), "--json")
    checked, planned = await asyncio.gather(ask(check), ask(plan))

    def draw() -> None:
        tables: dict[str, Any] = json.loads(planned.out) if not planned.code else {"steps": [], "models": []}
        wrong = checked.wrong or planned.wrong
        notes = [line.removeprefix("note: ") for line in checked.out.splitlines() if line.startswith("note: ")]
        there, back = (console.runs / name).exists(), to("/recipe", **asked)
        block("plan", tables=tables, wrong=wrong.splitlines(), notes=notes, name=name, there=there, back=back)
        if not wrong:
            go = ui.button("Go on with this run" if there else "Start", color=None).props("flat no-caps").classes("go")
            go.on_click(lambda: _start(start, console.runs / name))
        same(check, plan, *([] if wrong else [start]))

    return draw


def _start(command: Command, folder: Path) -> None:
    with contextlib.suppress(Unavailable):  # begun in another browser a moment ago: look on together
        begin(command, folder)
    ui.navigate.to(run_at(folder.name))
