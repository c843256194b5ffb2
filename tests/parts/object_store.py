"""A real S3 server for the tests: moto behind real HTTP, which counts what it sends and fails when told so."""

import os
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import cache
from typing import Any
from unittest.mock import patch

import httpx
from werkzeug.serving import BaseWSGIServer, WSGIRequestHandler, make_server

KEYS = {"AWS_ACCESS_KEY_ID": "test", "AWS_SECRET_ACCESS_KEY": "test", "AWS_DEFAULT_REGION": "us-east-1"}
REFUSED = {
    403: ("ExpiredToken", "The provided token has expired."),
    500: ("InternalError", "We encountered an internal error. Please try again."),
    503: ("SlowDown", "Please reduce your request rate."),
}
CUT = -1  # the connection ends in the middle of the object
DEATH = -2  # the server ends, and answers nobody from then on


class _Quiet(WSGIRequestHandler):
    def log(self, *_: object) -> None:
        pass


@dataclass(frozen=True)
class Sent:
    """What was asked of an object, and how many bytes of it went out."""

    key: str
    range: str
    size: int


@dataclass(eq=False)
class Bucket:
    """A bucket, its server, and what was read from it; `spoil` says of a GET of an object what
    becomes of it: 403, 500, 503, CUT or DEATH."""

    name: str
    port: int = 0
    sent: list[Sent] = field(default_factory=list)
    spoil: Callable[[str], int] = lambda key: 0
    server: BaseWSGIServer | None = None
    thread: threading.Thread | None = None

    @property
    def endpoint(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def url(self, below: str = "") -> str:
        return f"s3://{self.name}/{below}".rstrip("/")

    def put(self, key: str, data: bytes) -> None:
        self.client().put_object(Bucket=self.name, Key=key, Body=data)

    @cache  # noqa: B019 - a bucket lives as long as a test
    def client(self, service: str = "s3") -> Any:
        import boto3

        return boto3.client(service, endpoint_url=self.endpoint)

    def check_keys(self) -> None:
        """From here on refuse whom no account allows."""
        httpx.post(f"{self.endpoint}/moto-api/reset-auth", content=b"0").raise_for_status()

    def let_in_all(self) -> None:
        """Take any key, as at first."""
        httpx.post(f"{self.endpoint}/moto-api/reset-auth", content=b"inf").raise_for_status()

    def start(self) -> None:
        """Listen; again at the same address after a stop, with all objects."""
        from moto.moto_server.werkzeug_app import DomainDispatcherApplication, create_backend_app

        moto = DomainDispatcherApplication(create_backend_app)
        self.server = make_server("127.0.0.1", self.port, self._watched(moto), threaded=True, request_handler=_Quiet)
        self.port = self.server.port
        self.thread = threading.Thread(target=self.server.serve_forever)
        self.thread.start()

    def stop(self) -> None:
        """Die."""
        assert self.server
        assert self.thread
        self.server.shutdown()
        self.thread.join()
        self.server.server_close()

    def _watched(self, moto: Callable[..., Any]) -> Callable[..., Any]:
        def answer(environ: dict[str, Any], begin: Callable[..., Any]) -> Any:
            def start(status: str, headers: list[tuple[str, str]], *more: Any) -> Any:
                # the server below names itself, too, and clients refuse two names
                return begin(status, [pair for pair in headers if pair[0].lower() != "server"], *more)

            bucket, _, key = environ["PATH_INFO"].lstrip("/").partition("/")
            if environ["REQUEST_METHOD"] != "GET" or bucket != self.name or not key:
                return moto(environ, start)
            kind = self.spoil(key)
            if kind == DEATH:
                self.stop()
                kind = CUT
            if kind > 0:
                code, message = REFUSED[kind]
                start(f"{kind} {code}", [("Content-Type", "application/xml")])
                return [f"<?xml version='1.0'?><Error><Code>{code}</Code><Message>{message}</Message></Error>".encode()]
            body = b"".join(moto(environ, start))
            self.sent.append(Sent(key, environ.get("HTTP_RANGE", ""), len(body)))
            # fewer bytes than were announced, and then the end of the connection
            return [body[: len(body) // 2] if kind == CUT else body]

        return answer


@contextmanager
def serving(name: str, port: int = 0) -> Iterator[Bucket]:
    """Serve an empty bucket to this process and to those that it starts."""
    bucket = Bucket(name, port)
    bucket.start()
    # the clients try everything several times and wait in between; once is enough to see what becomes of it
    fast = {"AWS_MAX_ATTEMPTS": "1", "AWS_EC2_METADATA_DISABLED": "true", "AWS_CONFIG_FILE": os.devnull}
    fast["AWS_ALLOW_HTTP"] = "true"  # Lance has a client of its own, which insists on https
    with patch.dict(os.environ, {**KEYS, **fast, "AWS_ENDPOINT_URL": bucket.endpoint}):
        try:
            bucket.client().create_bucket(Bucket=name)
            yield bucket
        finally:
            # in this process the server's memory outlives it
            bucket.let_in_all()
            httpx.post(f"{bucket.endpoint}/moto-api/reset").raise_for_status()
            bucket.stop()
