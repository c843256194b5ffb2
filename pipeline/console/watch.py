"""A run while it goes: its steps, what it says, stop and go on; then people who look at what is doubtful, and the report."""

import asyncio
import json
import shlex
from typing import TYPE_CHECKING

from fastapi import FastAPI, HTTPException
from fastapi.responses import FileResponse
from nicegui import ui

from tilth.errors import InputError, TilthError
from tilth.pipeline.console.commands import Command, ask, begin, end, running
from tilth.pipeline.console.look import block, frame, problem, render, run_at, same
from tilth.pipeline.console.runs import Seen, look

if TYPE_CHECKING:
    from tilth.pipeline.console.runs import Console

EVERY_S = 1.0


def add_to(app: FastAPI, console: "Console") -> None:
    """Add these pages to the application."""

    @app.get("/run/{name}/report.html")
    async def report(name: str) -> FileResponse:
        try:
            seen = look(console.runs, name)
        except InputError as error:
            raise HTTPException(404, str(error)) from error
        if not (seen.folder / "report.html").exists():
            raise HTTPException(404, f"{name} has no report yet; it is written when the run ends")
        return FileResponse(seen.folder / "report.html", headers={"content-security-policy": "sandbox allow-scripts"})

    @ui.page("/run/{name}")
    async def run(name: str) -> None:
        with frame(f"Run {name}", at="run", run=name):
            seen = await found(console, name)
            if seen:
                _run_page(console, seen)

    @ui.page("/run/{name}/review")
    async def review(name: str) -> None:
        with frame("Review", at="review", run=name):
            seen = await found(console, name)
            if seen:
                _review_page(seen)


async def found(console: "Console", name: str) -> Seen | None:
    """Look at a run; where there is none, say so on the page."""
    try:
        return await asyncio.to_thread(look, console.runs, name)
    except InputError as error:
        problem(str(error))
        return None


def _run_page(console: "Console", first: Seen) -> None:
    live = ui.html(render("run", seen=first), sanitize=False)
    with ui.element("div").classes("actions"):
        stop = ui.button("Stop", color=None).props("flat no-caps")
        again = ui.button("Go on", color=None).props("flat no-caps").classes("go")
    after = ui.element("div")
    log = ui.html(render("log", seen=first), sanitize=False)
    commands = ui.element("div")
    shown: dict[str, object] = {}

    def command(seen: Seen) -> Command | None:
        words = shlex.split(seen.command)[1:]
        return Command(tuple(words)) if words[:1] == ["run"] else None

    def update(seen: Seen) -> None:
        for name, element in (("run", live), ("log", log)):
            text = render(name, seen=seen)
            if shown.get(name) != text:
                shown[name] = text
                element.set_content(text)
        stop.set_visibility(bool(running(seen.folder)))
        again.set_visibility(
            not seen.is_at_work and seen.state in ("ended", "failed", "refused") and command(seen) is not None
        )
        where = (seen.dataset is not None, seen.bundle is not None, (seen.folder / "report.html").exists(), seen.state)
        if shown.get("where") != where:
            shown["where"] = where
            after.clear()
            with after:
                block("after", seen=seen, report=where[2])
            commands.clear()
            with commands:
                same(*([begun] if (begun := command(seen)) else []), Command.of("status", seen.folder))

    async def refresh() -> None:
        try:
            seen = await asyncio.to_thread(look, console.runs, first.name)
        except InputError:
            return
        update(seen)

    async def go_on() -> None:
        begun = command(look(console.runs, first.name))
        try:
            if begun:
                begin(begun, first.folder)
        except TilthError as error:
            ui.notify(str(error), type="negative")
        await refresh()

    async def halt() -> None:
        if end(first.folder):
            ui.notify("told to stop; what is finished is kept")
        await refresh()

    stop.on_click(halt)
    again.on_click(go_on)
    update(first)
    ui.timer(EVERY_S, refresh)


def _review_page(seen: Seen) -> None:
    if seen.dataset is None or seen.policy is None:
        block(
            "empty",
            what="Nobody can be asked yet",
            why="The run has no dataset so far.",
            link=run_at(seen.name),
            go="Back to the run",
        )
        return
    push = Command.of("review", "push", seen.dataset, "--policy", seen.policy, "--budget", 50)
    pull = Command.of("review", "pull", seen.dataset, "--policy", seen.policy)
    block("review_intro")
    said = ui.element("div").props("role=status")
    with ui.element("div").classes("actions"):
        send = ui.button("Put 50 pictures before people", color=None).props("flat no-caps").classes("go")
        take = ui.button("Take in what they said", color=None).props("flat no-caps")
        block("review_next", link=run_at(seen.name, "model"))

    async def do(command: Command) -> None:
        for button in (send, take):
            button.disable()
        told = await ask(command)
        said.clear()
        with said:
            if told.code:
                problem(told.wrong)
            else:
                block("reviewed", facts=json.loads(told.out.splitlines()[-1]))
        for button in (send, take):
            button.enable()

    send.on_click(lambda: do(push))
    take.on_click(lambda: do(pull))
    same(push, pull)
