"""A server in OpenAI's protocol with the starter's verdict model behind it, over a real socket; it can be slow, wrong, or killed.

    python model_server.py BUNDLE PORT

How it behaves is told with `POST /how`: `{"sleep_s": 0, "status": 200, "told": 20, "body": null}`.
"""

import json
import math
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import httpx


@dataclass
class Seen:
    """What a server was asked."""

    how: dict[str, Any] = field(default_factory=dict)
    bodies: list[dict[str, Any]] = field(default_factory=list)
    paths: list[str] = field(default_factory=list)
    tokens: list[str] = field(default_factory=list)


def logprobs_of(bundle: Path) -> Any:
    """Return what gives the letters' log-probabilities after a prompt, as the model of a bundle has them."""
    import numpy as np
    from tokenizers import Tokenizer

    from tilth.runtime.stages.graphs import open_graph
    from tilth.runtime.stages.template import LETTERS

    told = json.loads((bundle / "verdict.json").read_text())
    layers, heads, width = told["past_shape"]
    tokenizer = Tokenizer.from_file(str(bundle / "tokenizer.json"))
    graph = open_graph(bundle / "verdict.onnx", set(), set(), threads=1)

    def ask(prompt: str) -> dict[str, float]:
        ids = np.array([tokenizer.encode(prompt).ids])
        past = np.zeros((layers, heads, 0, width), np.float32)
        logits = graph.run(["logits"], {"ids": ids, "mask": np.ones_like(ids), "past": past})[0][0].astype(np.float64)
        logits -= logits.max() + math.log(np.exp(logits - logits.max()).sum())
        return dict(zip(LETTERS, logits, strict=False))

    return ask


def handler(ask: Any, seen: Seen) -> type[BaseHTTPRequestHandler]:
    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def log_message(self, *_: object) -> None: ...

        def do_POST(self) -> None:
            body = json.loads(self.rfile.read(int(self.headers["content-length"])))
            if self.path == "/how":
                seen.how = body
                return self._send(200, b"{}")
            how = seen.how
            seen.bodies.append(body)
            seen.paths.append(self.path)
            seen.tokens.append(self.headers.get("authorization", ""))
            time.sleep(how.get("sleep_s", 0))
            status = how.get("status", 200)
            if status == 200 and how.get("body") is None:
                answer = self._answer(body, how.get("told", 20))
            else:
                answer = how.get("body") or {"error": {"message": "no"}}
            return self._send(status, answer.encode() if isinstance(answer, str) else json.dumps(answer).encode())

        def _answer(self, body: dict[str, Any], told: int) -> dict[str, Any]:
            chat = self.path == "/v1/chat/completions"
            said = ask(body["messages"][0]["content"] if chat else body["prompt"])
            asked = body["top_logprobs"] if chat else body["logprobs"]
            best = sorted(said.items(), key=lambda pair: -pair[1])[: min(told, asked)]
            if chat:
                top = [{"token": f" {letter}", "logprob": value} for letter, value in best]
                return {
                    "choices": [
                        {"message": {"content": best[0][0]}, "logprobs": {"content": [{**top[0], "top_logprobs": top}]}}
                    ]
                }
            return {"choices": [{"text": best[0][0], "logprobs": {"top_logprobs": [dict(best)]}}]}

        def _send(self, status: int, data: bytes) -> None:
            self.send_response(status)
            self.send_header("content-length", str(len(data)))
            self.end_headers()
            self.wfile.write(data)

    return Handler


class Quiet(ThreadingHTTPServer):
    daemon_threads = True
    request_queue_size = 128

    def handle_error(self, *_: object) -> None: ...  # who gave up waiting closed the connection


@contextmanager
def answering(bundle: Path) -> Iterator[tuple[str, Seen]]:
    """A server in a thread; yields its address and what it was asked."""
    seen = Seen()
    server = Quiet(("127.0.0.1", 0), handler(logprobs_of(bundle), seen))
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_port}/v1", seen
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


class Process:
    """A server in a process of its own, which can be killed and begun again at the same port."""

    def __init__(self, bundle: Path, port: int) -> None:
        self._command = [sys.executable, __file__, str(bundle), str(port)]
        self.url = f"http://127.0.0.1:{port}/v1"
        self._child: subprocess.Popen[bytes] | None = None

    def begin(self) -> None:
        self._child = subprocess.Popen(self._command)
        for _ in range(600):
            try:
                httpx.post(f"{self.url.removesuffix('/v1')}/how", json={}, trust_env=False)
                return
            except httpx.HTTPError:
                time.sleep(0.05)
        raise AssertionError("the model's server does not begin")

    def kill(self) -> None:
        if self._child is not None:
            self._child.send_signal(signal.SIGKILL)
            self._child.wait()
            self._child = None


if __name__ == "__main__":
    Quiet(("127.0.0.1", int(sys.argv[2])), handler(logprobs_of(Path(sys.argv[1])), Seen())).serve_forever()
