"""The other end of `streams.py`: a process of its own that makes everything written to standard error a JSON line.

It lives outside the command so that it outlives it: what a library says on its way down, or the system on killing it, is still
told, and a library that writes much while it holds Python's lock cannot block itself. Run by path, with the standard library alone.
"""

import json
import os
import re
import select
import time

MARK = '{"time": "'  # how a line of ours begins
END = b"\x00tilth: all is written\x00"
PAUSE_S = 0.05  # lines that come closer together are one thing that was said, such as a traceback
MOST_LINES, MOST_BYTES = 200, 2**20
CODES = re.compile(r"\x1b\[[0-9;?]*[A-Za-z]|\x1b\][^\x07]*\x07|[\x00-\x08\x0b-\x1f\x7f]")


def event_of(text: str) -> str:
    """Return the part of a line that is an event of ours; empty when none is.

    >>> event_of('half a bar{"time": "12:00", "event": "done"}')
    '{"time": "12:00", "event": "done"}'
    """
    found = text[text.find(MARK) :] if MARK in text else ""
    try:
        return found if found and "event" in json.loads(found) else ""
    except ValueError:
        return ""


def seen(text: str) -> str:
    r"""Return what a line would show on a terminal: the last of what was written over each other, without colours.

    >>> seen("10 %|#   |\r100 %|####|\x1b[0m\r")
    '100 %|####|'
    """
    return CODES.sub("", text.rstrip().rpartition("\r")[2]).rstrip()


class Wrapper:
    """Writes events of ours as they are, and anything else as an event that holds it."""

    def __init__(self, out: int) -> None:
        self.out = out
        self.held: list[str] = []

    def take(self, line: bytes) -> None:
        """Take a line that was written."""
        text = line.decode(errors="replace")
        event = event_of(text)
        if shown := seen(text.removesuffix(event)):
            self.held.append(shown)
        if event or len(self.held) >= MOST_LINES:
            self.flush()
        if event:
            self._write(event)

    def _write(self, event: str) -> None:
        data = f"{event}\n".encode()
        try:
            while data:
                data = data[os.write(self.out, data) :]
        except OSError:  # nobody listens any more, which is no reason for the command to end
            self.out = os.open(os.devnull, os.O_WRONLY)

    def flush(self) -> None:
        """Write what is held."""
        if self.held:
            now = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime())
            text, self.held = "\n".join(self.held), []
            self._write(json.dumps({"time": now, "event": "library", "text": text}))


def wrap(given: int, out: int, answers: int) -> None:
    """Wrap what is read from one file descriptor into another until nobody can write there any more.

    Args:
        given: What is read.
        out: Where lines are written.
        answers: Gets a byte for each `END` that is read, when all before it is written.
    """
    wrapper, rest = Wrapper(out), b""
    while True:
        if wrapper.held and not select.select([given], [], [], PAUSE_S)[0]:
            wrapper.flush()
        if not (chunk := os.read(given, 65536)):
            break
        *lines, rest = (rest + chunk).split(b"\n")
        for line in lines:
            before, ended, _ = line.partition(END)
            wrapper.take(before)
            if ended:
                wrapper.flush()
                os.write(answers, b".")
        if len(rest) > MOST_BYTES:
            rest = rest.rpartition(b"\r")[2][-MOST_BYTES:]
    wrapper.take(rest)
    wrapper.flush()


if __name__ == "__main__":
    wrap(0, 2, 1)
