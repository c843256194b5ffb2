"""A headless Chromium that a test steers: it opens pages, types, and moves the mouse as a person would.

It speaks the DevTools protocol over a pipe, so no port is open and no driver is needed.
"""

import contextlib
import fcntl
import json
import os
import shutil
import signal
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

WAIT_S = 90
FLAGS = (
    "--headless=new",
    "--remote-debugging-pipe",
    "--no-sandbox",
    "--disable-gpu",
    "--disable-dev-shm-usage",
    "--no-first-run",
    "--window-size=1400,1000",
)

# a place on an element that nothing lies over, such as a message that comes and goes
REACHABLE = """(() => {
    const element = ELEMENT, box = element?.getBoundingClientRect();
    for (const part of box ? [0.5, 0.9, 0.1] : []) {
        const x = box.x + part * box.width, y = box.y + box.height / 2;
        if (element.contains(document.elementFromPoint(x, y))) return [x, y];
    }
})()"""


def missing() -> str:
    """Say why no browser can be started; empty when one can."""
    return "" if shutil.which("chromium") else "there is no chromium"


class Page:
    """One tab."""

    def __init__(self, to_browser: int, from_browser: int) -> None:
        self._to, self._from = to_browser, from_browser
        self._buffer, self._number, self._session = b"", 0, ""
        target = self.send("Target.createTarget", url="about:blank")["targetId"]
        self._session = self.send("Target.attachToTarget", targetId=target, flatten=True)["sessionId"]

    def send(self, method: str, **parameters: Any) -> dict[str, Any]:
        """Send a command and wait for its answer."""
        self._number += 1
        command: dict[str, Any] = {"id": self._number, "method": method, "params": parameters}
        if self._session:
            command["sessionId"] = self._session
        os.write(self._to, json.dumps(command).encode() + b"\0")
        while True:
            while b"\0" not in self._buffer:
                if not (read := os.read(self._from, 1 << 16)):
                    raise RuntimeError("chromium has ended")
                self._buffer += read
            text, _, self._buffer = self._buffer.partition(b"\0")
            answer = json.loads(text)
            if answer.get("id") == self._number:
                if "error" in answer:
                    raise RuntimeError(f"{method}: {answer['error']['message']}")
                return dict(answer["result"])

    def ask(self, script: str) -> Any:
        """Return the value of an expression in the page."""
        answer = self.send("Runtime.evaluate", expression=script, returnByValue=True, awaitPromise=True)
        if "exceptionDetails" in answer:
            raise RuntimeError(f"{script}: {answer['exceptionDetails'].get('exception', {}).get('description')}")
        return answer["result"].get("value")

    def wait(self, script: str, limit_s: float = WAIT_S) -> Any:
        """Wait until an expression is true, and return its value."""
        deadline = time.monotonic() + limit_s
        while time.monotonic() < deadline:
            try:
                if value := self.ask(script):
                    return value
            except RuntimeError as error:  # the page is on its way to another
                if "ended" in str(error):
                    raise
            time.sleep(0.2)
        raise TimeoutError(
            f"not within {limit_s} s: {script}; the page says: {self.ask('document.body.innerText')[:800]}"
        )

    def open(self, url: str) -> None:
        """Go to a page."""
        self.send("Page.navigate", url=url)
        self.wait(f"document.readyState === 'complete' && location.href.startsWith({json.dumps(url.split('?')[0])})")

    def mouse(self, kind: str, x: float, y: float) -> None:
        """Move, press or release the left button."""
        self.send(
            "Input.dispatchMouseEvent",
            type=f"mouse{kind}",
            x=x,
            y=y,
            button="none" if kind == "Moved" else "left",
            buttons=0 if kind == "Released" else 1,
            clickCount=0 if kind == "Moved" else 1,
        )

    def click(self, x: float, y: float) -> None:
        """Click at a place."""
        self.send("Input.dispatchMouseEvent", type="mouseMoved", x=x, y=y)
        self.mouse("Pressed", x, y)
        self.mouse("Released", x, y)

    def drag(self, start: tuple[float, float], end: tuple[float, float], steps: int = 8) -> None:
        """Take something from one place to another."""
        self.send("Input.dispatchMouseEvent", type="mouseMoved", x=start[0], y=start[1])
        self.mouse("Pressed", *start)
        for step in range(1, steps + 1):
            part = step / steps
            self.mouse("Moved", start[0] + part * (end[0] - start[0]), start[1] + part * (end[1] - start[1]))
            time.sleep(0.03)
        self.mouse("Released", *end)

    def press(self, element: str, until: str) -> None:
        """Click on an element, again if need be, until an expression is true."""
        for _ in range(10):
            self.wait(f"!!({element}) || ({until})")
            if self.ask(until):
                return
            if spot := self.ask(REACHABLE.replace("ELEMENT", element)):
                self.click(*spot)
            with contextlib.suppress(TimeoutError):
                self.wait(until, 5)
                return
        raise TimeoutError(f"pressing {element} did not lead to {until}")

    def picture(self, path: Path) -> None:
        """Save what is seen."""
        import base64

        path.write_bytes(base64.b64decode(self.send("Page.captureScreenshot")["data"]))


@contextmanager
def browsing(folder: Path) -> Iterator[Page]:
    """Start a browser that keeps its files in a folder, and stop it."""
    to_browser, from_browser = os.pipe(), os.pipe()
    # out of the way of 3 and 4, where chromium expects its ends
    theirs = [fcntl.fcntl(fd, fcntl.F_DUPFD_CLOEXEC, 20) for fd in (to_browser[0], from_browser[1])]
    # spawned, not forked: a fork would copy the threads of the libraries that the tests use
    pid = os.posix_spawnp(
        "chromium",
        ["chromium", *FLAGS, f"--user-data-dir={folder}"],
        os.environ,
        file_actions=[
            (os.POSIX_SPAWN_DUP2, theirs[0], 3),
            (os.POSIX_SPAWN_DUP2, theirs[1], 4),
            *((os.POSIX_SPAWN_OPEN, fd, os.devnull, os.O_RDWR, 0) for fd in (0, 1, 2)),
        ],
    )
    for fd in (to_browser[0], from_browser[1], *theirs):
        os.close(fd)
    try:
        yield Page(to_browser[1], from_browser[0])
    finally:
        os.close(to_browser[1])
        os.close(from_browser[0])
        os.kill(pid, signal.SIGTERM)
        os.waitpid(pid, 0)
