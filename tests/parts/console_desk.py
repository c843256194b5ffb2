"""A console of its own process, to be killed and begun again, and a keyboard to walk through its pages with."""

import os
import socket
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from playwright.sync_api import Page

NAME = """() => { const e = document.activeElement;
  return e.getAttribute('aria-label') || (e.labels && e.labels.length ? e.labels[0].innerText : '') || e.innerText || ''; }"""
TABS = 150  # until something must have been reached


def free_port() -> int:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return int(listener.getsockname()[1])


class Desk:
    """A console in a folder, always on the same ports."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.port, self.serve_port = folder, free_port(), free_port()
        self.url, self._process = "", None

    @property
    def runs(self) -> Path:
        return self.folder / "runs"

    def start(self) -> str:
        """Begin, and return the address with the token."""
        words = ["console", "--port", str(self.port), "--serve-port", str(self.serve_port)]
        own = {**os.environ, "LABEL_STUDIO_API_KEY": "", "XDG_DATA_HOME": str(self.folder)}
        with (self.folder / "console.log").open("ab") as log:
            self._process = subprocess.Popen(  # type: ignore[assignment]
                [sys.executable, "-m", "tilth.pipeline.cli.main", *words],
                cwd=self.folder, stdout=subprocess.PIPE, stderr=log, text=True, env=own,
            )  # fmt: skip
        self.url = self._process.stdout.readline().strip()  # type: ignore[attr-defined]
        assert self.url.startswith("http://127.0.0.1:"), (self.folder / "console.log").read_text()
        return self.url

    def at(self, path: str) -> str:
        return f"http://127.0.0.1:{self.port}{path}"

    def end(self, *, kill: bool = False) -> int:
        if self._process is None:
            return 0
        self._process.kill() if kill else self._process.terminate()  # type: ignore[attr-defined]
        code = int(self._process.wait(20))
        self._process.stdout.close()  # type: ignore[attr-defined]
        self._process = None
        return code


def reach(tab: "Page", name: str) -> None:
    """Go with the Tab key alone to what is called so, by its beginning."""
    for _ in range(TABS):
        tab.keyboard.press("Tab")
        if str(tab.evaluate(NAME)).strip().startswith(name):
            return
    raise AssertionError(f"{name!r} cannot be reached with the Tab key on {tab.url}")


def press(tab: "Page", name: str, key: str = "Enter") -> None:
    """Reach something and press a key on it."""
    reach(tab, name)
    tab.keyboard.press(key)


def fill(tab: "Page", name: str, text: str) -> None:
    """Reach a field and type over what is in it."""
    reach(tab, name)
    tab.keyboard.press("Control+A")
    tab.keyboard.insert_text(text)
