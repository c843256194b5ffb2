"""A moderator behind a real socket, and what a client sends to it."""

import base64
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager

import httpx
import numpy as np
import uvicorn

from tilth.images import encode_png
from tilth.runtime.serving.admission import Limits, Tokens
from tilth.runtime.serving.app import make_app
from tilth.runtime.serving.desk import Batching, Desk
from tilth.runtime.serving.doubts import Doubts
from tilth.runtime.serving.remote import Remote
from tilth.runtime.serving.server import on_the_wire
from tilth.runtime.stages.cascade import Moderator


@contextmanager
def running(
    moderator: Moderator | None,
    doubts: Doubts | None = None,
    *,
    batching: Batching | None = None,
    tokens: Tokens | None = None,
    remote: Remote | None = None,
    **limits: float,
) -> Iterator[httpx.Client]:
    """A server in a thread, and a client of it; `client.desk` is what works inside."""
    desk = Desk(moderator, doubts, limits=Limits(**limits), batching=batching, remote=remote)  # type: ignore[arg-type]
    config = uvicorn.Config(
        make_app(desk, tokens=tokens), host="127.0.0.1", port=0, log_level="warning", **on_the_wire()
    )
    server = uvicorn.Server(config)
    thread = threading.Thread(target=server.run)
    thread.start()
    try:
        while not server.started:
            time.sleep(0.02)
        port = server.servers[0].sockets[0].getsockname()[1]
        with httpx.Client(base_url=f"http://127.0.0.1:{port}", timeout=120, trust_env=False) as client:
            client.desk = desk  # type: ignore[attr-defined]
            yield client
    finally:
        server.should_exit = True
        thread.join()


def asked(image: np.ndarray | bytes) -> dict[str, object]:
    data = image if isinstance(image, bytes) else encode_png(image)
    return {"type": "image_url", "image_url": {"url": "data:image/png;base64," + base64.b64encode(data).decode()}}
