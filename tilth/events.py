"""What a run says while it works: bars for a person, one JSON object a line for a program, and always `events.jsonl`."""

import json
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Protocol, TextIO

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn
from rich.text import Text

from tilth.claims import Json


class Advance(Protocol):
    """Report that `n` more units are done."""

    def __call__(self, n: int = 1, /) -> None: ...


class _RateColumn(TextColumn):
    def render(self, task: object) -> Text:
        speed = getattr(task, "finished_speed", None) or getattr(task, "speed", None)
        return Text(f"{speed:,.1f}/s" if speed else "", style="cyan")


class Events:
    """Writes events to a file and to the terminal.

    Args:
        path: The `events.jsonl` to append to; none when None.
        stream: Where people or programs look; standard error when None.
        every_s: Seconds between two progress events when nobody watches a bar.
    """

    def __init__(self, path: Path | None = None, stream: TextIO | None = None, every_s: float = 10.0) -> None:
        self._stream = stream or sys.stderr
        self._console = Console(file=self._stream)
        self._every_s = every_s
        self._file = path.open("a", encoding="utf-8") if path else None
        self.live = self._console.is_terminal

    def emit(self, event: str, **fields: Json) -> None:
        """Write one event; `message` is the part that a person reads."""
        line = json.dumps({"time": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()), "event": event, **fields})
        if self._file:
            self._file.write(line + "\n")
            self._file.flush()
        if self.live:
            if message := fields.get("message"):
                self._console.print(str(message), highlight=False, markup=False)
        else:
            print(line, file=self._stream, flush=True)

    @contextmanager
    def progress(self, label: str, total: int | None, *, unit: str = "images") -> Iterator[Advance]:
        """Show how far a piece of work is, with its rate and the time left."""
        if self.live and total == 0:
            yield lambda n=1: None  # a bar of nothing says nothing
            return
        if self.live:
            columns = (
                TextColumn("  {task.description}"),
                BarColumn(),
                MofNCompleteColumn(),
                TextColumn(unit),
                _RateColumn(""),
                TimeElapsedColumn(),
                TextColumn("ETA"),
                TimeRemainingColumn(),
            )
            with Progress(*columns, console=self._console, transient=False) as bar:
                task = bar.add_task(label, total=total)
                yield lambda n=1: bar.advance(task, n)
            return
        yield self._quiet(label, total, unit)

    def _quiet(self, label: str, total: int | None, unit: str) -> Callable[..., None]:
        began = last = time.monotonic()
        done = 0

        def advance(n: int = 1, /) -> None:
            nonlocal done, last
            done += n
            now = time.monotonic()
            if now - last < self._every_s:
                return
            last = now
            rate = done / max(1e-9, now - began)
            left = round((total - done) / rate) if total and rate else None
            self.emit("progress", label=label, done=done, total=total, unit=unit, per_s=round(rate, 2), eta_s=left)

        return advance

    def close(self) -> None:
        """Close the file."""
        if self._file:
            self._file.close()
