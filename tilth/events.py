"""What a run says while it works: bars for a person, one JSON object a line for a program, and always `events.jsonl`."""

import json
import logging
import sys
import time
import traceback
from collections import deque
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Protocol, TextIO

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn
from rich.text import Text

from tilth.claims import Json


class Advance(Protocol):
    """Report that `n` more units are done, and what else is worth showing beside that, such as a loss."""

    def __call__(self, n: int = 1, /, **shown: float) -> None: ...


def spelt(shown: Mapping[str, float]) -> str:
    """Write figures for a bar.

    >>> spelt({"loss": 0.123456, "val_loss": 2})
    'loss 0.1235, val_loss 2'
    """
    return ", ".join(f"{name} {value:.4g}" for name, value in shown.items())


def stamp() -> str:
    """Return the time as all lines have it."""
    return time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime())


class LogLines(logging.Formatter):
    """Writes what goes through `logging` as one JSON object a line, like any other event."""

    def format(self, record: logging.LogRecord) -> str:
        """Write one record."""
        told = {"time": stamp(), "event": "log", "logger": record.name, "level": record.levelname.lower()}
        broken = {"traceback": "".join(traceback.format_exception(*record.exc_info))} if record.exc_info else {}
        return json.dumps({**told, "message": record.getMessage(), **broken})


class Rate:
    """How fast something goes, by the last minute: what came before says little of what is left.

    Args:
        over_s: Seconds that are looked at.
        clock: Seconds.
    """

    def __init__(self, over_s: float = 60.0, clock: Callable[[], float] | None = None) -> None:
        self._over_s, self._clock = over_s, clock or time.monotonic
        self._marks: deque[tuple[float, float]] = deque()

    def at(self, done: float) -> float:
        """Note that so much is done, and return units per second; 0 while nobody can tell.

        What is done at the first call was done before, perhaps by a run that was killed, and says nothing of speed.

        >>> seconds = iter((0, 10, 20, 40))
        >>> rate = Rate(over_s=20, clock=lambda: next(seconds))
        >>> [rate.at(done) for done in (500, 510, 540, 560)]
        [0.0, 1.0, 2.0, 1.0]
        """
        now = self._clock()
        self._marks.append((now, done))
        while len(self._marks) > 2 and now - self._marks[1][0] >= self._over_s:
            self._marks.popleft()
        since, before = self._marks[0]
        return (done - before) / (now - since) if now > since else 0.0


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
        self.live = self._stream.isatty()  # and not what a variable such as FORCE_COLOR makes of it

    def emit(self, event: str, **fields: Json) -> None:
        """Write one event; `message` is the part that a person reads."""
        line = json.dumps({"time": stamp(), "event": event, **fields})
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
            yield lambda n=1, **shown: None  # a bar of nothing says nothing
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
                TextColumn("{task.fields[shown]}"),
            )
            with Progress(*columns, console=self._console, transient=False, speed_estimate_period=60) as bar:
                task = bar.add_task(label, total=total, shown="")

                def advance(n: int = 1, /, **shown: float) -> None:
                    if shown:
                        bar.update(task, shown=spelt(shown))
                    bar.update(task, advance=n)

                yield advance
            return
        yield self._quiet(label, total, unit)

    def _quiet(self, label: str, total: int | None, unit: str) -> Callable[..., None]:
        last = time.monotonic()
        done, lately = 0, Rate()
        known: dict[str, Json] = {}

        def advance(n: int = 1, /, **shown: float) -> None:
            nonlocal done, last
            if not done:
                lately.at(done + n)
            done += n
            known.update({name: round(value, 6) for name, value in shown.items()})
            now = time.monotonic()
            if now - last < self._every_s:
                return
            last, rate = now, lately.at(done)
            left = round((total - done) / rate) if total and rate else None
            about: dict[str, Json] = {"label": label, "done": done, "total": total, "unit": unit}
            self.emit("progress", **about, per_s=round(rate, 2), eta_s=left, **known)

        return advance

    def close(self) -> None:
        """Close the file."""
        if self._file:
            self._file.close()
