"""A small real HTTP proxy that carries a request to the server and then, when told so, answers 500 or not at all."""

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import httpx

PASSED = ("Authorization", "Content-Type")


@dataclass
class Proxy:
    """`spoil` sees method and path of each request, after it was carried out, and says what the client gets instead: 500, or 0
    for a closed connection."""

    url: str
    spoil: Callable[[str, str], int | None] = lambda method, path: None


@contextmanager
def proxying(target: str) -> Iterator[Proxy]:
    """Stand before a server."""
    proxy = Proxy(url="")

    class Handler(BaseHTTPRequestHandler):
        def carry(self) -> None:
            body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
            headers = {name: self.headers[name] for name in PASSED if name in self.headers}
            answer = httpx.request(self.command, target + self.path, headers=headers, content=body, timeout=120)
            code = proxy.spoil(self.command, self.path)
            if code == 0:
                self.close_connection = True
                return
            self.send_response(code or answer.status_code)
            text = b"<h1>no</h1>" if code else answer.content
            self.send_header("Content-Type", answer.headers.get("Content-Type", "text/html"))
            self.send_header("Content-Length", str(len(text)))
            self.end_headers()
            self.wfile.write(text)

        do_GET = do_POST = do_PATCH = do_DELETE = carry  # noqa: N815 - the names that http.server looks for

        def log_message(self, *_: object) -> None:
            pass

    listener = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    listener.daemon_threads = True
    thread = threading.Thread(target=listener.serve_forever)
    thread.start()
    proxy.url = f"http://127.0.0.1:{listener.server_address[1]}"
    try:
        yield proxy
    finally:
        listener.shutdown()
        thread.join()
        listener.server_close()
