"""Run a recipe every night over one dataset: go on with a night that did not end, begin another where it did.

runs/<recipe>/2026-11-30/     a night: a run like any other
runs/<recipe>/last.txt        which of them began last
runs/<recipe>/nights.jsonl    how each call ended
"""

import hashlib
import json
import time
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from tilth.claims import Json
from tilth.data.files import alone, write_beside
from tilth.engine.recipe import Recipe
from tilth.engine.work import utc_now
from tilth.errors import GateRefused, InputError, code_of
from tilth.pipeline.run import Choices, Run

NIGHTS, LAST = "nights.jsonl", "last.txt"
ENDED = ("done", "stopped", "refused")  # outcomes after which another night begins
OUTCOMES = {
    2: "wrong input",
    3: "refused",
    4: "too many failed",
    75: "try again",
    130: "interrupted",
    143: "interrupted",
}


def home_of(recipe: Recipe, runs: Path) -> Path:
    """Return the folder of a recipe's nights.

    Raises:
        InputError: The recipe has no dataset of its own.
    """
    if recipe.dataset is None:
        raise InputError(
            f"{recipe.path}: what people say tonight must be there tomorrow; give the recipe a dataset that outlives its runs, as in "
            "'dataset: data/nightly'"
        )
    return runs / recipe.name


def retrain(recipe: Recipe, home: Path, choices: Choices, *, night: str = "") -> bool:
    """Run tonight's run, or the one that did not end; a night of this name that ended is left as it is.

    Args:
        recipe: Names a dataset that outlives runs.
        home: Folder of its nights.
        choices: Decisions of the person.
        night: Name of a new run; the date when empty.

    Returns:
        Whether there was anything to run.

    Raises:
        Unavailable: Another process is at it, or the disk is full.
        TilthError: Whatever a run raises; what is done is kept, and the next call goes on.
    """
    with alone(home):
        folder = open_night(home) or home / (night or tonight())
        if outcome_of(folder) in ENDED:
            return False
        told = json.dumps(recipe.document, sort_keys=True, default=str)
        options = {**choices.options, "recipe": hashlib.sha256(told.encode()).hexdigest()[:12]}
        write_beside(home / LAST, folder.name)
        Run(recipe, folder, replace(choices, options=options)).execute()
        return True


def tonight() -> str:
    """Return the date of where this machine stands, as a night is called."""
    return time.strftime("%Y-%m-%d")


def newest(home: Path) -> Path | None:
    """Return the run that began last; None before the first."""
    last = home / LAST
    return home / last.read_text() if last.exists() else None


def open_night(home: Path) -> Path | None:
    """Return the newest run, if it did not end."""
    folder = newest(home)
    return folder if folder is not None and outcome_of(folder) not in ENDED else None


def outcome_of(folder: Path) -> str:
    """Return how a run ended; empty when it did not."""
    path = folder / "summary.json"
    return str(json.loads(path.read_text()).get("outcome", "")) if path.exists() else ""


def told(home: Path | None, began: float, error: BaseException | None, *, ended: str = "") -> dict[str, Json]:
    """Say how a night ended, for a scheduler.

    Args:
        home: Folder of the recipe's nights; None when it came to none.
        began: When, by `time.monotonic`.
        error: What was raised; None when all went well.
        ended: Name of the night that had ended before; empty when one was run.
    """
    folder = (home / ended if ended else newest(home)) if home else None
    code = code_of(error)
    facts: dict[str, Json] = {
        "outcome": OUTCOMES.get(code, "failed") if error else outcome_of(folder) if folder else "",
        "exit_code": code,
        "time": utc_now(),
        "run": str(folder) if folder else None,
        "seconds": round(time.monotonic() - began, 1),
    }
    if error is not None:
        facts["message"] = str(error) or "stopped; the same command goes on"
    summary = folder / "summary.json" if folder else None
    if summary is None or not summary.exists() or not (error is None or isinstance(error, GateRefused)):
        return facts
    if ended:
        message = f"this night ended already: {facts['outcome']}; another --night begins one"
        return {**facts, "outcome": "ended before", "message": message}
    return facts | _brief(json.loads(summary.read_text()))


def _brief(summary: Mapping[str, Any]) -> dict[str, Json]:
    """Pick from a summary what a scheduler acts on."""
    steps: Mapping[str, Any] = summary["steps"]
    brief: dict[str, Json] = {"promoted": None, "human_actions": summary["human_actions"]}
    for one in steps.values():
        match one["kind"]:
            case "Promote":
                brief["promoted"] = one["facts"].get("bundle")
            case "Gate":
                kept = ("passed", "reason", "old", "new", "difference", "worse")
                brief["gate"] = {name: one["facts"][name] for name in kept if name in one["facts"]}
            case "Drift" if "drifted" in one["facts"]:
                brief["drifted"] = one["facts"]["drifted"]
            case "Changed" if "enough" in one["facts"]:
                brief["message"] = one["facts"]["enough"]
    return brief


def night_line(facts: Mapping[str, Any]) -> str:
    """Write how a call ended in a line for a person.

    >>> night_line({"time": "2026-11-30T02:31:00Z", "outcome": "done", "seconds": 620.4, "run": "runs/nightly/2026-11-30",
    ...             "promoted": "0002-3f9a", "gate": {"passed": True, "old": 0.901, "new": 0.923}})
    '2026-11-30T02:31:00Z  done               620 s  2026-11-30      recall 0.901 to 0.923, 0002-3f9a is in use'
    """
    gate = facts.get("gate") or {}
    parts = (
        [f"recall {gate['old']:.3f} to {gate['new']:.3f}"] if gate.get("passed") and gate.get("old") is not None else []
    )
    parts += [f"{facts['promoted']} is in use"] if facts.get("promoted") else []
    parts += [f"drifted: {', '.join(facts['drifted'])}"] if facts.get("drifted") else []
    parts += [str(facts["message"]).splitlines()[0]] if facts.get("message") and facts["outcome"] != "done" else []
    name = Path(str(facts.get("run") or "")).name
    return f"{facts['time']}  {facts['outcome']:14} {facts['seconds']:>7.0f} s  {name:14}  {', '.join(parts)}".rstrip()


def note(home: Path, facts: Mapping[str, Json]) -> None:
    """Add a line to the nights."""
    home.mkdir(parents=True, exist_ok=True)
    with (home / NIGHTS).open("a", encoding="utf-8") as stream:
        stream.write(json.dumps(facts) + "\n")
