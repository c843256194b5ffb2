"""A real Label Studio server for the tests, from an environment of its own, started as `tilth review up` does.

Its database is made once a session (a minute, for the migrations). Nothing leaves the machine.
"""

import json
import os
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from unittest.mock import patch

import httpx

from tilth.annotate.labelstudio.server import Server as Started
from tilth.annotate.labelstudio.server import down, up

EXECUTABLE = "TILTH_LABEL_STUDIO"


@dataclass(frozen=True, kw_only=True)
class Server:
    """A running server: its address, its token, the folder it serves local files from, where it keeps its own, and the port of this
    machine at which it looks for S3."""

    url: str
    token: str
    files: Path
    home: Path
    store_port: int

    @property
    def port(self) -> int:
        return int(self.url.rpartition(":")[2])

    @property
    def login(self) -> dict[str, str]:
        return dict(json.loads((self.home / "login.json").read_text()))

    def start(self) -> None:
        """Start it where it was, after it was killed."""
        _start(self.home, self.port, self.store_port)

    def call(self, method: str, path: str, body: object = None, **more: Any) -> Any:
        """Do what a browser does, as the first user."""
        with httpx.Client(base_url=self.url, headers={"Authorization": f"Token {self.token}"}, timeout=60) as client:
            answer = client.request(method, path, json=body, **more)
        answer.raise_for_status()
        return answer.json() if answer.content else None


def missing() -> str:
    """Say why no server can be started; empty when one can."""
    executable = os.environ.get(EXECUTABLE, "")
    if not executable:
        return f"{EXECUTABLE} does not name a label-studio executable; pip install label-studio in an environment of its own"
    return "" if os.access(executable, os.X_OK) else f"{EXECUTABLE}={executable} cannot be run"


def free_port() -> int:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return int(listener.getsockname()[1])


def _start(home: Path, port: int, store_port: int) -> Started:
    with patch.dict(os.environ, {"AWS_ENDPOINT_URL": f"http://127.0.0.1:{store_port}"}):
        return up(home, port)


@contextmanager
def serving(home: Path) -> Iterator[Server]:
    """Start a server whose every file lies under a folder, and stop it."""
    store_port = free_port()
    server = _start(home, free_port(), store_port)
    try:
        yield Server(url=server.url, token=server.key, files=server.files, home=home, store_port=store_port)
    finally:
        down(home)
