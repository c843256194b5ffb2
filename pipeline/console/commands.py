"""The command lines that clicks stand for: shown beside each of them, and run as programs of their own.

A program that may take long is begun in a session of its own, so that it goes on when the browser or the console ends. Two files in its
folder are all that is known of it, so a console that comes later finds it:

    console.json     the command line, its process, and when that began
    console.jsonl    what it said on standard error, a JSON line each
"""

import asyncio
import json
import os
import shlex
import signal
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import psutil

from tilth.data.files import write_beside
from tilth.errors import Unavailable

NOTE, LOG = "console.json", "console.jsonl"
TAIL_BYTES = 200_000  # of a log, that are looked at
ENDS = ("error", "crash", "stopped")

_begun: list[subprocess.Popen[bytes]] = []  # children of this process, which leave no zombie when they are asked about


@dataclass(frozen=True)
class Command:
    """A command line of `tilth`.

    Args:
        words: After the name of the program.
    """

    words: tuple[str, ...]

    @classmethod
    def of(cls, *words: object) -> "Command":
        """Make one; every word becomes text."""
        return cls(tuple(map(str, words)))

    @property
    def line(self) -> str:
        """As a person would type it."""
        return shlex.join(("tilth", *self.words))

    @property
    def argv(self) -> tuple[str, ...]:
        """As it is started here, by the Python that runs this."""
        return (sys.executable, "-m", "tilth.pipeline.cli.main", *self.words)


@dataclass(frozen=True, kw_only=True)
class Said:
    """What a command that has ended said: exit code, standard output, and what went wrong in its words, empty where nothing did."""

    code: int
    out: str
    wrong: str


async def ask(command: Command) -> Said:
    """Run a command that takes seconds, and return what it said."""
    process = await asyncio.create_subprocess_exec(
        *command.argv, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.PIPE
    )
    out, told = await process.communicate()
    events = events_in(told.decode("utf-8", "replace"))
    wrong = last_words(events) if process.returncode else ""
    return Said(
        code=process.returncode or 0,
        out=out.decode("utf-8", "replace"),
        wrong=wrong or (f"it ended with {process.returncode} and said nothing" if process.returncode else ""),
    )


def begin(command: Command, folder: Path) -> None:
    """Start a command in a session of its own; its notes lie in a folder.

    Raises:
        Unavailable: What was begun here is still at work.
    """
    if running(folder):
        raise Unavailable(f"{folder}: is at work already; wait for it or stop it")
    folder.mkdir(parents=True, exist_ok=True)
    with (folder / LOG).open("wb") as log:
        child = subprocess.Popen(
            command.argv, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=log, start_new_session=True
        )
    _begun.append(child)
    note = {"command": command.line, "pid": child.pid, "began": psutil.Process(child.pid).create_time()}
    write_beside(folder / NOTE, json.dumps(note))


def noted(folder: Path) -> dict[str, object]:
    """Return what is noted of the command that was last begun here; nothing where none was."""
    try:
        return dict(json.loads((folder / NOTE).read_text()))
    except (FileNotFoundError, NotADirectoryError, ValueError):
        return {}


def running(folder: Path) -> int:
    """Return the process that was begun here and is at work, 0 for none; a number that another process has by now does not count."""
    for child in [*_begun]:
        if child.poll() is not None:
            _begun.remove(child)
    note = noted(folder)
    try:
        process = psutil.Process(int(str(note["pid"])))
        same = abs(process.create_time() - float(str(note["began"]))) < 1
        return process.pid if same and process.status() != psutil.STATUS_ZOMBIE else 0
    except (KeyError, ValueError, psutil.Error):
        return 0


def end(folder: Path) -> bool:
    """Ask what is at work to end cleanly, as Ctrl-C does; tell whether there was anything."""
    pid = running(folder)
    if pid:
        os.kill(pid, signal.SIGTERM)
    return bool(pid)


def tail(path: Path) -> list[dict[str, object]]:
    """Return the last events of a file of JSON lines; none where there is no file."""
    try:
        with path.open("rb") as stream:
            size = stream.seek(0, os.SEEK_END)
            stream.seek(max(0, size - TAIL_BYTES))
            text = stream.read().decode("utf-8", "replace")
    except (FileNotFoundError, NotADirectoryError):
        return []
    return events_in(text.partition("\n")[2] if size > TAIL_BYTES else text)


def events_in(text: str) -> list[dict[str, object]]:
    """Read JSON lines; what is none is a line of text that some library wrote."""
    events: list[dict[str, object]] = []
    for line in text.splitlines():
        try:
            found = json.loads(line)
        except ValueError:
            found = {"event": "library", "text": line}
        events.append(found if isinstance(found, dict) else {"event": "library", "text": line})
    return events


def last_words(events: Sequence[dict[str, object]]) -> str:
    """Return how a command that did not end well said why; empty where it said nothing."""
    for event in reversed(events):
        if event.get("event") in ENDS:
            told = str(event.get("message") or event.get("traceback") or "")
            return (
                told.strip()
                if event["event"] != "crash"
                else told.strip().splitlines()[-1]
                if told.strip()
                else "crashed"
            )
    return ""
