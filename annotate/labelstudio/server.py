"""A Label Studio of one's own: started on this machine for this machine alone, with an account, a key and a folder of images.

login.json   user, password and key; only its owner may read it
server.json  address and process of the server that runs
files/       the images that it serves
data/        its database
server.log   what it said
"""

import json
import os
import secrets
import socket
import subprocess
import time
import urllib.request
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from urllib.error import HTTPError

import psutil

from tilth.data.files import write_beside
from tilth.errors import InputError, Unavailable
from tilth.extras import folder_of, make

NAME = "label-studio"  # of the environment and of the program in it
HOST = "127.0.0.1"
USER = "reviewer@localhost"
START_S = 420  # the first start makes the database, which takes minutes on a busy machine
STOP_S = 20
KEPT = (
    "PATH",
    "LANG",
    "TMPDIR",
    "HOME",
    "SYSTEMROOT",
)  # of our environment; nothing else of it is the server's business


@dataclass(frozen=True, kw_only=True)
class Server:
    """A server that `up` started.

    Args:
        url: Its address.
        pid: Its process.
        started: When the process began, as the system counts; tells it from a later one of the same number.
        files: Folder of the images that it serves.
        login: File with user, password and key.
    """

    url: str
    pid: int
    started: float
    files: Path
    login: Path

    @property
    def key(self) -> str:
        """The access token."""
        return str(json.loads(self.login.read_text(encoding="utf-8"))["key"])


def default_home() -> Path:
    """Return where a server keeps its files unless told otherwise."""
    return Path(os.environ.get("XDG_DATA_HOME", Path.home() / ".local" / "share")) / "tilth" / "review"


def running(home: Path) -> Server | None:
    """Return the server of a folder, when it runs."""
    try:
        row = json.loads((home / "server.json").read_text(encoding="utf-8"))
        server = Server(files=home / "files", login=home / "login.json", **row)
        process = psutil.Process(server.pid)
        alive = process.create_time() == server.started and process.status() != psutil.STATUS_ZOMBIE
    except (OSError, ValueError, TypeError, psutil.Error):
        return None
    return server if alive else None


def up(home: Path, port: int, say: Callable[[str], None] = lambda text: None) -> Server:
    """Start a server, or return the one that runs; its environment is made when it is not there.

    Args:
        home: Folder for all that it keeps.
        port: To listen on, at the loopback address.
        say: Told when a server is about to be started, as that takes a while.

    Raises:
        InputError: The port is taken, or the server runs on another.
        Unavailable: It does not start.
    """
    home = home.resolve()
    url = f"http://{HOST}:{port}"
    if server := running(home):
        if server.url != url:
            raise InputError(
                f"the Label Studio of {home} runs at {server.url}; stop it with tilth review down, or use that"
            )
        return server
    _check_free(port)
    program = folder_of(NAME) / "bin" / NAME
    if not program.exists():
        make(NAME)
    home.mkdir(parents=True, exist_ok=True, mode=0o700)
    for name in ("files", "data"):
        (home / name).mkdir(exist_ok=True)
    login = _login(home / "login.json")
    say("starting Label Studio; the first time takes minutes, Ctrl-C stops it …")
    process = _start(program, home, port, login)
    try:
        row = {"url": url, "pid": process.pid, "started": psutil.Process(process.pid).create_time()}
        _wait(url, login["key"], process, home / "server.log")
        write_beside(home / "server.json", json.dumps(row))
        process.returncode = 0  # it is meant to outlive us; without this Python complains that nobody waited for it
    except BaseException:
        _end(process.pid)
        process.wait()
        raise
    return Server(files=home / "files", login=home / "login.json", **row)  # type: ignore[arg-type]


def down(home: Path) -> bool:
    """Stop the server of a folder; tell whether one ran."""
    server = running(home)
    if server is not None:
        _end(server.pid)
    (home / "server.json").unlink(missing_ok=True)
    return server is not None


def _check_free(port: int) -> None:
    with socket.socket() as listener:
        listener.setsockopt(
            socket.SOL_SOCKET, socket.SO_REUSEADDR, 1
        )  # a server that has just ended still holds the port
        try:
            listener.bind((HOST, port))
        except OSError as error:
            raise InputError(f"port {port} is taken ({error.strerror}); choose another with --port") from error


def _start(program: Path, home: Path, port: int, login: dict[str, str]) -> "subprocess.Popen[bytes]":
    with (home / "server.log").open("ab") as log:
        command = [str(program), "start", "--no-browser", "--internal-host", HOST, "--port", str(port)]
        return subprocess.Popen(
            [*command, "--log-level", "WARNING"],
            env=_environment(home, login),
            cwd=home,
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=subprocess.STDOUT,
            start_new_session=True,  # Ctrl-C in this terminal is not meant for it once it runs
        )


def _end(pid: int) -> None:
    try:
        family = [psutil.Process(pid), *psutil.Process(pid).children(recursive=True)]
    except psutil.NoSuchProcess:
        return
    for each in family:
        each.terminate()
    for each in psutil.wait_procs(family, STOP_S)[1]:
        each.kill()


def _login(path: Path) -> dict[str, str]:
    if not path.exists():
        made = {"user": USER, "password": secrets.token_urlsafe(12), "key": secrets.token_hex(20)}
        partial = path.with_suffix(".partial")
        partial.unlink(missing_ok=True)
        with os.fdopen(os.open(partial, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w", encoding="utf-8") as stream:
            json.dump(made, stream, indent=1)
        os.replace(partial, path)
    return dict(json.loads(path.read_text(encoding="utf-8")))


def _environment(home: Path, login: dict[str, str]) -> dict[str, str]:
    settings = {
        "BASE_DATA_DIR": str(home / "data"),
        "USERNAME": login["user"],
        "PASSWORD": login["password"],
        "USER_TOKEN": login["key"],
        "ENABLE_LEGACY_API_TOKEN": "true",
        "DISABLE_SIGNUP_WITHOUT_LINK": "true",
        "ALLOWED_HOSTS": f"{HOST},localhost",  # or a page of another site could reach it under a name of its own
        "COLLECT_ANALYTICS": "false",
        "LATEST_VERSION_CHECK": "false",
        "LOCAL_FILES_SERVING_ENABLED": "true",
        "LOCAL_FILES_DOCUMENT_ROOT": str(home / "files"),
    }
    # a store in one's own network: the server refuses such an address from its users, but trusts that of who starts it
    if store := os.environ.get("AWS_ENDPOINT_URL_S3") or os.environ.get("AWS_ENDPOINT_URL"):
        settings["S3_ENDPOINT"] = store
    kept = {name: value for name, value in os.environ.items() if name in KEPT}
    return (
        kept
        | {f"LABEL_STUDIO_{name}": value for name, value in settings.items()}
        | {"SENTRY_DSN": "", "FRONTEND_SENTRY_DSN": ""}
    )


def _wait(url: str, key: str, process: "subprocess.Popen[bytes]", log: Path) -> None:
    # healthy is not enough: on a busy port the server silently takes the next, and another one answers here
    request = urllib.request.Request(f"{url}/api/current-user/whoami", headers={"Authorization": f"Token {key}"})
    deadline = time.monotonic() + START_S
    while time.monotonic() < deadline:
        if process.poll() is not None:
            raise Unavailable(f"label-studio ended with {process.returncode} while it started; {log} says why")
        try:
            with urllib.request.urlopen(request, timeout=5) as answer:
                if USER in answer.read().decode():
                    return
        except HTTPError as error:
            if error.code in (401, 403):
                raise InputError(
                    f"the server at {url} does not know the key of {log.parent / 'login.json'}: "
                    "another program took the port, or the account was changed by hand"
                ) from error
        except OSError:
            pass
        time.sleep(0.3)
    raise Unavailable(f"label-studio did not answer within {START_S} s; {log} says why")
