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
from tilth.runtime.serving.doubts import Doubts
from tilth.runtime.serving.server import make_app, on_the_wire
from tilth.runtime.stages.cascade import Moderator


@contextmanager
def running(moderator: Moderator, doubts: Doubts | None = None, **options: int) -> Iterator[httpx.Client]:
    config = uvicorn.Config(
        make_app(moderator, doubts, **options), host="127.0.0.1", port=0, log_level="warning", **on_the_wire()
    )
    server = uvicorn.Server(config)
    thread = threading.Thread(target=server.run)
    thread.start()
    try:
        while not server.started:
            time.sleep(0.02)
        port = server.servers[0].sockets[0].getsockname()[1]
        with httpx.Client(base_url=f"http://127.0.0.1:{port}", timeout=120, trust_env=False) as client:
            yield client
    finally:
        server.should_exit = True
        thread.join()


def asked(image: np.ndarray | bytes) -> dict[str, object]:
    data = image if isinstance(image, bytes) else encode_png(image)
    return {"type": "image_url", "image_url": {"url": "data:image/png;base64," + base64.b64encode(data).decode()}}
