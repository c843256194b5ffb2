"""The console's process: it listens on this machine, behind its door, and keeps nothing: all that it shows lies in `runs/` and datasets.

door.py       who comes in
look.py       how pages look
begin.py      folder, policy, recipe, plan, start
watch.py      a run and its review; `pictures.py` looks through its dataset
use.py        compare, put into use, go back
commands.py   command lines, which is all that a click does; `runs.py` reads what they leave
"""

import secrets
import socket
import threading
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from tilth.errors import InputError

if TYPE_CHECKING:
    from tilth.pipeline.console.door import App
    from tilth.pipeline.console.runs import Console

PORT, SERVE_PORT = 8090, 8080


def listen(host: str, port: int) -> socket.socket:
    """Take the address before anything is loaded.

    Raises:
        InputError: Somebody else listens there, or it is none of this machine.
    """
    listener: socket.socket | None = None
    try:
        family, kind, proto, _, place = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
        listener = socket.socket(family, kind, proto)
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind(place)
        listener.listen(128)
    except OSError as error:
        if listener is not None:
            listener.close()
        why = error.strerror or error
        raise InputError(f"cannot listen on {host}:{port} ({why}); choose another --port or --host") from error
    return listener


def make_app(console: "Console") -> "App":
    """Return the application, behind its door."""
    from fastapi import FastAPI
    from nicegui import ui

    from tilth.pipeline.console import begin, pictures, use, watch
    from tilth.pipeline.console.door import Door
    from tilth.pipeline.console.uploads import ALL_BYTES

    app = FastAPI(openapi_url=None, docs_url=None, redoc_url=None)
    for part in (begin, watch, pictures, use):
        part.add_to(app, console)
    ui.run_with(
        app,
        title="Tilth",
        favicon="🌱",
        dark=None,  # as the browser is
        language="en-US",
        tailwind=False,
        show_welcome_message=False,
        reconnect_timeout=10.0,
        storage_secret=secrets.token_urlsafe(16),
    )
    return Door(app, console.token, f"tilth_console_{console.port}", ALL_BYTES)


def serve(console: "Console", listener: socket.socket) -> None:
    """Serve the console until told to end; what it started goes on."""
    import uvicorn

    from tilth.pipeline.console.pictures import warm

    threading.Thread(target=warm, args=(console,), daemon=True).start()
    settings = uvicorn.Config(
        make_app(console),
        log_level="warning",
        access_log=False,
        server_header=False,
        timeout_graceful_shutdown=1,
        ws_max_size=4 * 2**20,
    )
    uvicorn.Server(settings).run(sockets=[listener])


def console(
    port: Annotated[int, typer.Option(min=0, max=65535, help="Port to listen on; 0 takes a free one.")] = PORT,
    host: Annotated[
        str, typer.Option(help="Address to listen on; this machine alone unless another is named.")
    ] = "127.0.0.1",
    runs: Annotated[Path, typer.Option(help="Folder that holds all runs.")] = Path("runs"),
    token_file: Annotated[
        Path | None,
        typer.Option(help="File whose first line is the token; a new one is drawn at every start without it."),
    ] = None,
    serve_port: Annotated[
        int, typer.Option(min=1, max=65535, help="Port on which the model in use is served.")
    ] = SERVE_PORT,
) -> None:
    """Open a page in the browser that leads from a folder of images to a served model, each click a command of this program."""
    from tilth.extras import optional

    with optional():
        import nicegui  # noqa: F401  # told before anything else is loaded
    from tilth.pipeline.console.runs import Console

    listener = listen(host, port)
    chosen = Console(
        runs=runs, host=host, port=listener.getsockname()[1], token=read_token(token_file), serve_port=serve_port
    )
    if not chosen.is_local:
        typer.echo(
            f"note: {host} is not this machine alone: whoever reaches it and has the token starts programs as you do, and "
            "without TLS others on the way can read the token",
            err=True,
        )
    typer.echo(
        f"{chosen.url}\nopen it in a browser; what is started there goes on without this page, Ctrl-C ends the page"
    )
    serve(chosen, listener)


def read_token(path: Path | None) -> str:
    """Read the token from a file, or draw one.

    Raises:
        InputError: There is no such file, or what it says could be guessed.
    """
    from tilth.runtime.serving.admission import SHORTEST_TOKEN

    if path is None:
        return secrets.token_urlsafe(24)
    try:
        token = (path.read_text(encoding="utf-8").split() or [""])[0]
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(f"--token-file {path}: cannot be read ({getattr(error, 'strerror', '') or error})") from error
    if len(token) < SHORTEST_TOKEN:
        raise InputError(
            f"--token-file {path}: a token has at least {SHORTEST_TOKEN} characters, got {len(token)}; make one: openssl rand -hex 32"
        )
    return token


def add_to(app: typer.Typer) -> None:
    """Add this command to the command line."""
    app.command(epilog="Example: tilth console")(console)
