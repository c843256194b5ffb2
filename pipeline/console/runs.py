"""What lies in `runs/`: which runs there are, and how far each is. Read anew for every page; nothing is kept."""

import fcntl
import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from ipaddress import ip_address
from pathlib import Path
from typing import Any

import yaml

from tilth.engine.steps import NAME
from tilth.errors import InputError
from tilth.pipeline.console.commands import ENDS, LOG, NOTE, last_words, noted, running, tail
from tilth.pipeline.run import dataset_of

NUMBER = re.compile(r"\[(\d+)/(\d+)\] ")
SHOWN = 200  # lines of a log
OUTCOMES = {"done": "done", "stopped": "done", "until": "done", "refused": "refused"}
SAID = {
    "starting": "starting",
    "running": "at work",
    "done": "done",
    "refused": "the gate said no",
    "failed": "failed",
    "ended": "ended before it was done",
}


CHAMPION, SERVED = "champion", "served"  # folders in `runs/`
OTHERS = (CHAMPION, SERVED, "policies", "uploads")  # that are no runs


@dataclass(frozen=True, kw_only=True)
class Console:
    """What a console was started with.

    Args:
        runs: Folder that holds all runs.
        host: That it listens on.
        port: That it listens on.
        token: Without which nobody comes in.
        serve_port: Of the model in use.
    """

    runs: Path
    host: str
    port: int
    token: str
    serve_port: int

    @property
    def is_local(self) -> bool:
        """Whether it is reached from this machine alone."""
        try:
            return ip_address(self.host).is_loopback
        except ValueError:
            return self.host == "localhost"

    @property
    def url(self) -> str:
        """With the token, to be opened once."""
        host = f"[{self.host}]" if ":" in self.host else self.host
        return f"http://{host}:{self.port}/?token={self.token}"

    @property
    def champion(self) -> Path:
        """The model in use."""
        return self.runs / CHAMPION

    @property
    def served(self) -> Path:
        """Notes of the program that serves it."""
        return self.runs / SERVED


@dataclass(frozen=True, kw_only=True)
class Step:
    """One step of a run.

    Args:
        name: In the recipe.
        state: `done`, `now` or `ahead`.
        seconds: That it took; None until it is done.
        told: What it reported, in a line.
    """

    name: str
    state: str
    seconds: float | None = None
    told: str = ""


@dataclass(frozen=True, kw_only=True)
class Seen:
    """How far a run is.

    Args:
        name: Of its folder.
        folder: `runs/<name>`.
        state: A key of `SAID`.
        steps: In order.
        why: What went wrong, or why it ended; empty where nothing is to be said.
        progress: The last event of the step at work: `label`, `done`, `total`, `per_s`, `eta_s`; empty where none came.
        log: The last lines that it said, as `(time, text)`.
        document: Its recipe as resolved; empty before it began.
        command: The command line that began it; empty where that was not this console's.
    """

    name: str
    folder: Path
    state: str
    steps: tuple[Step, ...] = ()
    why: str = ""
    progress: Mapping[str, Any] = field(default_factory=dict)
    log: tuple[tuple[str, str], ...] = ()
    document: Mapping[str, Any] = field(default_factory=dict)
    command: str = ""

    @property
    def said(self) -> str:
        """The state in words."""
        return SAID[self.state]

    @property
    def share(self) -> float:
        """Part of the steps that is done, of the one at work as far as it tells."""
        if not self.steps:
            return 0.0
        done = sum(step.state == "done" for step in self.steps)
        total = self.progress.get("total")
        part = min(1.0, float(self.progress.get("done", 0)) / float(total)) if total else 0.0
        return min(1.0, (done + part) / len(self.steps))

    @property
    def is_at_work(self) -> bool:
        """Whether a process is at it."""
        return self.state in ("starting", "running")

    @property
    def policy(self) -> Path | None:
        """The policy file that it was run with."""
        return Path(str(self.document["policy"])) if self.document.get("policy") else None

    @property
    def dataset(self) -> Path | None:
        """Its dataset, once there is one."""
        root = dataset_of(self.folder)
        return root if (root / "versions").is_dir() else None

    @property
    def bundle(self) -> Path | None:
        """The bundle that it made, once it did."""
        return self.folder / "bundle" if (self.folder / "bundle" / "bundle.json").exists() else None

    @property
    def summary(self) -> dict[str, Any]:
        """All numbers of its report; nothing before it ended."""
        return _json(self.folder / "summary.json")


def all_runs(runs: Path) -> list[Seen]:
    """Return all runs, the newest first."""
    if not runs.is_dir():
        return []
    found = [path for path in runs.iterdir() if (path / "recipe.yaml").exists() or _begun_here(path)]
    return [look(runs, path.name) for path in sorted(found, key=_changed, reverse=True) if NAME.fullmatch(path.name)]


def _begun_here(path: Path) -> bool:
    return " run " in f" {noted(path).get('command', '')} "


def _changed(path: Path) -> float:
    return max((p.stat().st_mtime for p in (path / "events.jsonl", path / NOTE, path) if p.exists()), default=0.0)


def look(runs: Path, name: str) -> Seen:
    """Look at one run.

    Raises:
        InputError: There is none of this name.
    """
    folder = runs / name
    if not NAME.fullmatch(name) or not ((folder / "recipe.yaml").exists() or _begun_here(folder)):
        raise InputError(f"no run {name[:80]!r} in {runs}; it may have been removed")
    document = _yaml(folder / "recipe.yaml")
    events = _of_this_time(tail(folder / "events.jsonl"))
    log = tail(folder / LOG)
    state, why = _state(folder, events, log)
    steps = _steps(folder, document, events, state)
    return Seen(
        name=name,
        folder=folder,
        state=state,
        steps=steps,
        why=why,
        progress=_progress(events) if state == "running" else {},
        log=_lines(events, log),
        document=document,
        command=str(noted(folder).get("command", "")),
    )


def _of_this_time(events: list[dict[str, object]]) -> list[dict[str, object]]:
    """Keep what was said since the run was last begun."""
    last = max((n for n, event in enumerate(events) if event.get("event") == "run"), default=0)
    return events[last:]


def _state(folder: Path, events: Sequence[Mapping[str, object]], log: list[dict[str, object]]) -> tuple[str, str]:
    if running(folder) or _is_held(folder):
        return ("running" if any(e.get("event") in ("started", "skipped") for e in events) else "starting"), ""
    if why := last_words(
        log
    ):  # of the time that it was begun here; another console, or a person, may have begun it since
        begun = max((str(e["time"]) for e in log if "time" in e), default="")
        if not any(e.get("event") in ("done", "refused") and str(e.get("time")) > begun for e in events):
            kinds = {str(e.get("event")) for e in events} | {str(e.get("event")) for e in log if e.get("event") in ENDS}
            return ("refused" if "refused" in kinds else "ended" if "stopped" in kinds else "failed"), why
    if any(e.get("event") == "done" for e in events):
        return OUTCOMES.get(str(_json(folder / "summary.json").get("outcome")), "done"), ""
    if refused := next((str(e.get("message")).strip() for e in events if e.get("event") == "refused"), ""):
        return "refused", refused
    return "ended", "nobody is at work on it; go on with it, and it begins where it stopped"


def _is_held(folder: Path) -> bool:
    """Tell whether somebody holds the run, perhaps a person on a terminal; held here for a moment only, and beside others who ask."""
    try:
        with (folder / ".lock").open() as lock:
            fcntl.flock(lock, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    except OSError:
        return False
    return False


def _names(document: Mapping[str, Any]) -> list[str]:
    """Name the steps of a recipe, those of rounds once for each round."""
    names: list[str] = []
    for entry in document.get("steps") or ():
        if isinstance(entry, dict) and "rounds" in entry:
            inner = [_name(one) for one in entry.get("steps") or ()]
            names += [f"{name}.{n}" for n in range(1, int(entry["rounds"]) + 1) for name in inner]
        else:
            names.append(_name(entry))
    return names


def _name(entry: Any) -> str:
    if isinstance(entry, dict):
        return str(entry.get("as") or next((key for key in entry if key != "as"), ""))
    return str(entry)


def _steps(
    folder: Path, document: Mapping[str, Any], events: Sequence[Mapping[str, object]], state: str
) -> tuple[Step, ...]:
    seen: dict[str, str] = {}
    for event in events:
        if event.get("event") in ("started", "skipped", "finished", "refused") and "step" in event:
            seen[str(event["step"])] = str(event["event"])
    steps = []
    for number, name in enumerate(_names(document), 1):
        record = _json(folder / "steps" / f"{number:02d}-{name}.json")
        now = seen.get(name)
        if now == "started" and state in ("starting", "running"):
            steps.append(Step(name=name, state="now"))
        elif record and (now in ("skipped", "finished") or not seen):
            brief = ", ".join(f"{k} {v}" for k, v in _brief(record.get("facts", {})).items())
            steps.append(Step(name=name, state="done", seconds=record.get("seconds"), told=brief))
        else:
            steps.append(Step(name=name, state="ahead"))
    return tuple(steps)


def _brief(facts: Mapping[str, Any]) -> dict[str, Any]:
    from tilth.pipeline.run import brief_facts

    return {k: v for k, v in brief_facts(facts).items() if len(str(v)) < 60}


def _progress(events: Sequence[Mapping[str, object]]) -> dict[str, Any]:
    for event in reversed(events):
        if event.get("event") == "progress":
            return dict(event)
        if event.get("event") in ("started", "finished"):
            return {}
    return {}


def _lines(events: Sequence[Mapping[str, object]], log: Sequence[Mapping[str, object]]) -> tuple[tuple[str, str], ...]:
    """Return what a person may want to read: all of the run's own events, and of its other output what is no progress."""
    told = [*(log or events)]
    rows = []
    for event in told:
        text = str(event.get("message") or event.get("text") or event.get("traceback") or "").rstrip()
        if event.get("event") == "progress":
            text = f"  {event.get('label')}: {event.get('done')} of {event.get('total') or '?'} {event.get('unit', '')}".rstrip()
        if text:
            rows.append((str(event.get("time", ""))[11:19], text))
    return tuple(rows[-SHOWN:])


def _json(path: Path) -> dict[str, Any]:
    try:
        return dict(json.loads(path.read_text()))
    except (FileNotFoundError, NotADirectoryError, ValueError):
        return {}


def _yaml(path: Path) -> dict[str, Any]:
    try:
        found = yaml.safe_load(path.read_text())
    except (FileNotFoundError, NotADirectoryError, ValueError, yaml.YAMLError):
        return {}
    return found if isinstance(found, dict) else {}
