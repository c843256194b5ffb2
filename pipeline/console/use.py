"""Is a model better than the one in use, by how much and how surely; into use, and back."""

import asyncio
import json
import time
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from fastapi import FastAPI
from nicegui import ui

from tilth.data.files import write_beside
from tilth.errors import TilthError
from tilth.pipeline.console.commands import LOG as SERVE_LOG
from tilth.pipeline.console.commands import Command, ask, begin, end, last_words, running, tail
from tilth.pipeline.console.look import block, frame, problem, run_at, same
from tilth.pipeline.console.runs import Seen, all_runs
from tilth.pipeline.console.watch import found
from tilth.pipeline.protocols.said import FULL
from tilth.runtime.bundles.champion import Champion, is_champion

if TYPE_CHECKING:
    from tilth.pipeline.console.runs import Console

COMPARED = "compared.json"  # in a run's folder: the last comparison, and when
NUMBERS = {
    "balanced_accuracy": "Right, of unsafe and of safe ones alike",
    "recall": "Unsafe ones found",
    "fpr": "Safe ones flagged",
    "precision": "Right, of those flagged",
}
DECIDES = "balanced_accuracy"
MEASURED = {
    "recall_at_fpr05": "Unsafe ones found at 5 % false alarms",
    "average_precision": "Average precision",
    "f1": "F1 at the thresholds that are served",
    "ece": "Calibration error",
}


def add_to(app: FastAPI, console: "Console") -> None:
    """Add these pages to the application."""

    @ui.page("/run/{name}/model", response_timeout=30)
    async def model(name: str) -> None:
        with frame("Compare", at="model", run=name):
            seen = await found(console, name)
            if seen is not None and seen.bundle is None:
                why = "Its recipe packs none." if seen.state == "done" else "The run has packed none so far."
                block("empty", what="No model to compare", why=why, link=run_at(name), go="Back to the run")
            elif seen is not None:
                await _model_page(console, seen)

    @ui.page("/use")
    async def use() -> None:
        with frame("In use", at="use"):
            await _use_page(console)


def verdict(difference: Mapping[str, Any], images: int) -> tuple[str, str]:
    """Say plainly whether a model is better, by the 95 % interval of a difference; also as `good`, `bad` or `plain`.

    >>> verdict({"mean": 0.05, "ci95": [-0.01, 0.11]}, 58)
    ('Not better: 58 images cannot tell them apart', 'plain')
    >>> verdict({"mean": 0.0, "ci95": [0.0, 0.0]}, 58)
    ('Not better: both say the same of these 58 images', 'plain')
    >>> verdict({"mean": 0.05, "ci95": [0.02, 0.08]}, 900)[1]
    'good'
    """
    low, high = difference.get("ci95") or (None, None)
    if low is None or high is None:
        return f"Not better: these {images:,} images hold no unsafe or no safe ones, so nobody can tell", "plain"
    if low > 0:
        return f"Better, by {100 * low:.1f} to {100 * high:.1f} points", "good"
    if high < 0:
        return f"Not better: worse, by {-100 * high:.1f} to {-100 * low:.1f} points", "bad"
    if low == high == 0:
        return f"Not better: both say the same of these {images:,} images", "plain"
    return f"Not better: {images:,} images cannot tell them apart", "plain"


def compared(facts: Mapping[str, Any], rival: str) -> dict[str, Any]:
    """Read a comparison of two bundles, as `tilth eval --protocol two-stage --json` prints it, for the page."""
    subset = facts["subsets"]["all"]
    other = next(name for name in subset["judges"] if name.startswith(rival) and name.endswith(FULL))
    minus = subset["full_minus"][other]
    said, tone = verdict(minus[DECIDES], int(minus["images"]))
    rows = [
        (title, subset["judges"][FULL][key], subset["judges"][other][key], minus[key]) for key, title in NUMBERS.items()
    ]
    return {
        "said": said, "tone": tone, "rows": rows, "images": minus["images"], "unsafe": subset["unsafe"],
        "opened": facts.get("test_opened"),
    }  # fmt: skip


def _rivals(console: "Console", seen: Seen) -> dict[str, str]:
    """Return what a run's bundle can be compared with, and how it is called."""
    found = {str(console.champion): "the model in use"} if is_champion(console.champion) else {}
    others = [one for one in all_runs(console.runs) if one.name != seen.name and one.bundle is not None]
    return found | {str(one.bundle): f"the model of run {one.name}" for one in others}


async def _model_page(console: "Console", seen: Seen) -> None:
    evaluated = [step["facts"] for step in seen.summary.get("steps", {}).values() if step["kind"] == "Evaluate"]
    rows = [(title, evaluated[-1][key]) for key, title in MEASURED.items() if key in evaluated[-1]] if evaluated else []
    block("measured", rows=rows, facts=evaluated[-1] if evaluated else {}, bundle=str(seen.bundle))
    rivals = await asyncio.to_thread(_rivals, console, seen)
    commands = ui.element("div")
    if not rivals:
        with commands:
            block("nothing_before")
    else:
        with ui.element("section").classes("card"):
            with ui.element("fieldset").classes("choice"):
                ui.html("Compare with", tag="legend", sanitize=True)
                rival = ui.radio(rivals, value=next(iter(rivals)))
            go = ui.button("Compare on the sealed test pictures", color=None).props("flat no-caps")
            said = ui.element("div").props("role=status")
        kept = _kept(seen)
        if kept and kept["rival"] in rivals:
            with said:
                block("compared", told=kept["told"], when=kept["when"], rival=rivals[kept["rival"]])

        async def compare() -> None:
            against = str(rival.value)
            command = Command.of(
                "eval", seen.bundle, seen.dataset, "--protocol", "two-stage", "--rival", against, "--json"
            )
            go.disable()
            said.clear()
            with said:
                ui.label("Both models look at the same pictures …").classes("said")
            answer = await ask(command)
            said.clear()
            with said:
                if answer.code:
                    problem(answer.wrong)
                else:
                    told, when = compared(json.loads(answer.out), against), f"{time.strftime('%Y-%m-%d %H:%M')}"
                    write_beside(seen.folder / COMPARED, json.dumps({"rival": against, "told": told, "when": when}))
                    block("compared", told=told, when=when, rival=rivals[against])
            go.enable()

        go.on_click(compare)
    promote = Command.of("promote", seen.bundle, console.champion, "--why", f"run {seen.name}")
    serve = Command.of("serve", console.champion, "--port", console.serve_port)
    wrong = ui.element("div").props("role=status")

    async def deploy() -> None:
        put.disable()
        answer = await ask(promote)
        wrong.clear()
        try:
            if not answer.code and not running(console.served):
                begin(serve, console.served)
        except TilthError:  # somebody else has begun it meanwhile
            pass
        if answer.code:
            with wrong:
                problem(answer.wrong)
            put.enable()
            return
        ui.navigate.to("/use")

    put = ui.button("Put it into use", on_click=deploy, color=None).props("flat no-caps").classes("go")
    compare_lines = [
        Command.of("eval", seen.bundle, seen.dataset, "--protocol", "two-stage", "--rival", each, "--json")
        for each in list(rivals)[:1]
    ]
    same(*compare_lines, promote, serve)


def _kept(seen: Seen) -> dict[str, Any]:
    try:
        return dict(json.loads((seen.folder / COMPARED).read_text()))
    except (FileNotFoundError, ValueError):
        return {}


async def _use_page(console: "Console") -> None:
    top = ui.element("div").props("role=status")
    with ui.element("div").classes("actions"):
        back = ui.button("Go back to the one before", color=None).props("flat no-caps")
        start = ui.button("Serve it", color=None).props("flat no-caps").classes("go")
        stop = ui.button("Stop serving", color=None).props("flat no-caps")
    wrong = ui.element("div").props("role=status")
    rollback = Command.of("rollback", console.champion)
    serve = Command.of("serve", console.champion, "--port", console.serve_port)
    shown: list[object] = [None]

    async def refresh() -> None:
        state = await asyncio.to_thread(_in_use, console)
        if state == shown[0]:
            return
        shown[0] = state
        top.clear()
        with top:
            block("use", **state)
        there = bool(state["history"])
        back.set_visibility(there)
        back.set_enabled(len(state["history"]) > 1)
        start.set_visibility(there and not state["serving"])
        stop.set_visibility(bool(state["serving"]))

    async def go_back() -> None:
        answer = await ask(rollback)
        wrong.clear()
        if answer.code:
            with wrong:
                problem(answer.wrong)
        await refresh()

    async def begin_serving() -> None:
        wrong.clear()
        try:
            begin(serve, console.served)
        except TilthError as error:
            with wrong:
                problem(str(error))
        await refresh()

    async def end_serving() -> None:
        end(console.served)
        await refresh()

    back.on_click(go_back)
    start.on_click(begin_serving)
    stop.on_click(end_serving)
    await refresh()
    ui.timer(1.0, refresh)
    if is_champion(console.champion):
        same(serve, rollback)


def _in_use(console: "Console") -> dict[str, Any]:
    """Say what is in use, what was, and whether it is served; it answers once its log says where."""
    champion = Champion(console.champion)
    history = [vars(one) for one in reversed(champion.history())]
    serving = bool(running(console.served))
    said = tail(console.served / SERVE_LOG)
    ready = [str(event.get("message")) for event in said if " is served on " in str(event.get("message", ""))]
    why = "" if serving else last_words(said)
    address = ready[-1].rpartition(" ")[2] if serving and ready else ""
    now = history[0]["bundle"] if history else ""
    return {
        "history": history,
        "now": now,
        "serving": serving,
        "address": address,
        "why": why,
        "port": console.serve_port,
    }
