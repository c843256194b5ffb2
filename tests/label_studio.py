"""A real Label Studio server for the tests, from an environment of its own; see the fixture `server`.

Its database is made once a session (a minute, for the migrations). Nothing leaves the machine.
"""

import os
import socket
import subprocess
import time
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

EXECUTABLE = "TILTH_LABEL_STUDIO"
TOKEN = "0123456789abcdef0123456789abcdef01234567"
USER = "tester@example.com"
START_S = 420


@dataclass(frozen=True, kw_only=True)
class Server:
    """A running server: its address, its token, and the folder it serves local files from."""

    url: str
    token: str
    files: Path


def missing() -> str:
    """Say why no server can be started; empty when one can."""
    executable = os.environ.get(EXECUTABLE, "")
    if not executable:
        return f"{EXECUTABLE} does not name a label-studio executable; pip install label-studio in an environment of its own"
    return "" if os.access(executable, os.X_OK) else f"{EXECUTABLE}={executable} cannot be run"


def _free_port() -> int:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return int(listener.getsockname()[1])


def _environment(folder: Path, files: Path) -> dict[str, str]:
    kept = {name: value for name, value in os.environ.items() if name in ("PATH", "LANG", "TMPDIR")}
    return kept | {
        "HOME": str(folder),
        "LABEL_STUDIO_BASE_DATA_DIR": str(folder / "data"),
        "LABEL_STUDIO_USERNAME": USER,
        "LABEL_STUDIO_PASSWORD": "only-for-tests-1",
        "LABEL_STUDIO_USER_TOKEN": TOKEN,
        "LABEL_STUDIO_ENABLE_LEGACY_API_TOKEN": "true",
        "LABEL_STUDIO_DISABLE_SIGNUP_WITHOUT_LINK": "true",
        "LABEL_STUDIO_COLLECT_ANALYTICS": "false",
        "LABEL_STUDIO_LATEST_VERSION_CHECK": "false",
        "SENTRY_DSN": "",
        "FRONTEND_SENTRY_DSN": "",
        "LABEL_STUDIO_LOCAL_FILES_SERVING_ENABLED": "true",
        "LABEL_STUDIO_LOCAL_FILES_DOCUMENT_ROOT": str(files),
    }


@contextmanager
def serving(folder: Path) -> Iterator[Server]:
    """Start a server whose every file lies under a folder, and stop it."""
    files = folder / "files"
    files.mkdir(parents=True)
    (folder / "data").mkdir()
    port = _free_port()
    command = [
        os.environ[EXECUTABLE],
        "start",
        "--no-browser",
        "--internal-host",
        "127.0.0.1",
        "--port",
        str(port),
        "--log-level",
        "WARNING",
    ]
    with (folder / "server.log").open("wb") as log:
        process = subprocess.Popen(
            command,
            env=_environment(folder, files),
            cwd=folder,
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=subprocess.STDOUT,
        )
        try:
            _wait(f"http://127.0.0.1:{port}", process, folder / "server.log")
            yield Server(url=f"http://127.0.0.1:{port}", token=TOKEN, files=files)
        finally:
            process.terminate()
            try:
                process.wait(20)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()


def _wait(url: str, process: "subprocess.Popen[bytes]", log: Path) -> None:
    # healthy is not enough: on a busy port the server silently takes the next, and another one answers here
    request = urllib.request.Request(f"{url}/api/current-user/whoami", headers={"Authorization": f"Token {TOKEN}"})
    deadline = time.monotonic() + START_S
    while time.monotonic() < deadline:
        if process.poll() is not None:
            raise RuntimeError(f"label-studio ended with {process.returncode}:\n{log.read_text()[-2000:]}")
        try:
            with urllib.request.urlopen(request, timeout=5) as answer:
                if USER in answer.read().decode():
                    return
        except OSError:
            time.sleep(0.5)
    raise TimeoutError(f"label-studio did not start in {START_S} s:\n{log.read_text()[-2000:]}")
