"""Serve a bundle until told to end: load, listen, follow a champion, drain.

The server listens while the bundle is still being loaded, so that whoever asks whether it lives or is ready is answered. Told to end by
SIGTERM, it says that it is not ready, answers for a while what is sent nonetheless, finishes what is inside, and ends with 0.
"""

import asyncio
import logging
import signal
import socket
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tilth.errors import InputError, TilthError
from tilth.events import LogLines
from tilth.runtime.bundles.bundle import in_use, load_bundle, verify
from tilth.runtime.serving.admission import Limits, Tokens
from tilth.runtime.serving.app import make_app
from tilth.runtime.serving.desk import Batching, Desk
from tilth.runtime.serving.doubts import Doubts
from tilth.runtime.serving.refusals import protocol
from tilth.runtime.serving.remote import Remote
from tilth.runtime.stages.cascade import Moderator

if TYPE_CHECKING:
    from fastapi import FastAPI
    from uvicorn import Server

log = logging.getLogger("tilth.serve")
DRAIN_S = 2.0
KEEP_ALIVE_S = 75  # longer than balancers keep a connection, or they send a request into one that is just being closed


@dataclass(frozen=True, kw_only=True)
class Access:
    """Who may ask, and what may be fetched for them.

    Args:
        token_file: Holds a token a line; None lets anybody ask.
        allow_hosts: From which images may be fetched; see `Remote`.
    """

    token_file: Path | None = None
    allow_hosts: Sequence[str] = ()


def _check_port(host: str, port: int) -> None:
    """Miss the address before models are loaded."""
    try:
        found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)
        with socket.socket(found[0][0], socket.SOCK_STREAM) as listener:
            listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            listener.bind(found[0][4])
    except OSError as error:
        raise InputError(
            f"cannot listen on {host}:{port} ({error.strerror}); choose another --port or --host"
        ) from error


def on_the_wire() -> dict[str, Any]:
    """Return what uvicorn is told: answers of our shape alone, and nothing but HTTP.

    Its access log would carry addresses of clients; ours has one line a request.
    """
    told = {
        "http": protocol(),
        "loop": "asyncio",
        "ws": "none",
        "access_log": False,
        "server_header": False,
        "log_config": None,
    }
    return {**told, "timeout_keep_alive": KEEP_ALIVE_S}


def show_log() -> None:
    """Write the log to standard error: for a person on a terminal, as JSON lines elsewhere."""
    told = logging.StreamHandler()
    told.setFormatter(logging.Formatter("%(asctime)s %(name)s %(message)s") if sys.stderr.isatty() else LogLines())
    logging.basicConfig(level=logging.INFO, handlers=[told])
    logging.getLogger("python_multipart").setLevel(logging.ERROR)  # it would warn with bytes of what was sent
    logging.getLogger("httpx").setLevel(
        logging.WARNING
    )  # it would have a line for each question to a language model elsewhere


def draining(app: "FastAPI", desk: Desk, drain_s: float, **options: Any) -> "Server":
    """Return the server of an application; SIGTERM ends it without haste, a second signal at once.

    Args:
        app: The application.
        desk: Is told.
        drain_s: Seconds for which it is still answered what is sent, until balancers have heard that it is not ready.
        options: Of uvicorn.
    """
    import uvicorn

    class Draining(uvicorn.Server):
        ends_at, told = float("inf"), False

        def handle_exit(self, sig: int, frame: Any) -> None:
            if sig != signal.SIGTERM or desk.draining:
                return super().handle_exit(sig, frame)
            desk.draining, self.ends_at = True, time.monotonic() + drain_s

        async def on_tick(self, counter: int) -> bool:
            if desk.draining and not self.told:
                self.told = True  # here, as what handles a signal may break into the writing of a log
                log.info("told to end; requests are taken for another %g s, and what is inside is finished", drain_s)
            self.should_exit = self.should_exit or time.monotonic() >= self.ends_at
            return await super().on_tick(counter)

    finish_s = int(desk.limits.timeout_s) + 1  # no request takes longer
    return Draining(uvicorn.Config(app, timeout_graceful_shutdown=finish_s, **options, **on_the_wire()))


def serve(
    folder: Path,
    *,
    host: str = "127.0.0.1",
    port: int = 8080,
    threads: int = 0,
    limits: Limits | None = None,
    batching: Batching | None = None,
    access: Access | None = None,
    drain_s: float = DRAIN_S,
    keeping: Callable[[Moderator], Doubts] | None = None,
) -> None:
    """Verify a bundle and serve it until told to end; of a champion, the next bundle takes over when it is promoted.

    Args:
        folder: The bundle, or a champion.
        host: Address to listen on.
        port: Port to listen on.
        threads: Of each model; 0 lets onnxruntime choose.
        limits: Of a request, and of all inside.
        batching: How many are worked on together.
        access: Who may ask.
        drain_s: See `draining`.
        keeping: Makes what keeps the doubts of the bundle's moderator; None keeps none.

    Raises:
        InputError: The folder is no bundle, somebody else listens there, or a token or a host is none.
        ModelError: A file in it was changed, or a model in it says no numbers.
    """
    access, limits = access or Access(), limits or Limits()
    tokens = Tokens.read(access.token_file) if access.token_file else None
    remote = Remote(access.allow_hosts, max_bytes=limits.body_bytes) if access.allow_hosts else None
    desk = Desk(limits=limits, batching=batching, remote=remote)
    _check_port(host, port)
    show_log()
    served = in_use(folder)
    verify(served)  # what is none is said before anybody can ask
    failed: list[Exception] = []

    async def start() -> None:
        try:
            moderator = await asyncio.to_thread(load_bundle, served, threads=threads)
            desk.doubts = keeping(moderator) if keeping else None
        except Exception as error:  # noqa: BLE001  # it is raised again where the server has ended
            failed.append(error)
            server.should_exit = True
            return
        desk.change(moderator)
        log.info("%s is served on http://%s:%d", moderator.name, host, port)

    def newer() -> Moderator | None:
        nonlocal served
        if desk.moderator is None or (now := in_use(folder)) == served:
            return None
        try:
            found = load_bundle(now, threads=threads)
        except TilthError:
            served = now  # it is none, or was changed: no other try will help
            raise
        served = now
        return found

    app = make_app(desk, tokens=tokens, starting=start, newer=newer if served != folder else None)
    server = draining(app, desk, drain_s, host=host, port=port)
    server.run()
    if failed:
        raise failed[0]
