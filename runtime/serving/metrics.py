"""What `/metrics` tells Prometheus: counts, times and room; never a word of a client, not even as a label."""

import time
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING

from tilth.extras import optional
from tilth.runtime.serving.admission import Door
from tilth.runtime.stages.cascade import Moderator, Verdict

if TYPE_CHECKING:
    from starlette.types import ASGIApp, Message, Receive, Scope, Send

SECONDS = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30)
SIZES = (1, 2, 4, 8, 16, 32, 64)
ROUTES = ("/v1/moderations", "/v1/models", "/healthz", "/readyz", "/metrics", "/openapi.json")
METHODS = ("GET", "HEAD", "POST")


class Metrics:
    """Counters of one application, in a registry of its own."""

    def __init__(self) -> None:
        with optional():
            from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, Info
            from prometheus_client.gc_collector import GCCollector
            from prometheus_client.platform_collector import PlatformCollector
            from prometheus_client.process_collector import ProcessCollector
        self._registry = of = CollectorRegistry()
        for collect in (ProcessCollector, PlatformCollector, GCCollector):
            collect(registry=of)
        labels = ("method", "route")
        self._requests = Counter(
            "tilth_http_requests", "Requests that were answered.", (*labels, "status"), registry=of
        )
        self._seconds = Histogram(
            "tilth_http_request_duration_seconds", "From a request's head to its whole answer.", labels, registry=of,
            buckets=SECONDS,
        )  # fmt: skip
        self._refused = Counter("tilth_requests_refused", "Requests that were not judged.", ("reason",), registry=of)
        self._judged = Counter(
            "tilth_judged", "Images and texts that were judged.", ("of", "action", "stage"), registry=of
        )
        self._routed = Counter(
            "tilth_routed", "Images and texts that the router sent a way.", ("of", "way"), registry=of
        )
        self._degraded = Counter(
            "tilth_degraded", "Images and texts whose words the language model did not judge.", ("reason",), registry=of
        )
        self._sizes = Histogram(
            "tilth_batch_size", "Items that were worked on at once.", ("part",), registry=of, buckets=SIZES
        )
        self._inside = Gauge("tilth_requests_in_flight", "Requests that are at work or wait.", registry=of)
        self._bytes = Gauge("tilth_request_bytes_in_flight", "Bytes of their bodies.", registry=of)
        self._pixels = Gauge("tilth_request_pixels_in_flight", "Pixels of their images.", registry=of)
        self._waiting = Gauge("tilth_queue_length", "Items that wait for a batch.", ("part",), registry=of)
        self._ready = Gauge("tilth_ready", "1 while requests are answered, 0 while loading or draining.", registry=of)
        self._bundle = Info("tilth_bundle", "The bundle that is served.", registry=of)

    def watch(self, door: Door, waiting: Callable[[], Mapping[str, int]], ready: Callable[[], bool]) -> None:
        """Read how things stand whenever somebody asks.

        Args:
            door: Counts what is inside.
            waiting: Returns the items that wait, by part.
            ready: Tells whether requests are answered.
        """
        self._inside.set_function(lambda: door.requests)
        self._bytes.set_function(lambda: door.bytes)
        self._pixels.set_function(lambda: door.pixels)
        self._ready.set_function(lambda: float(ready()))
        self._queues = waiting

    def serves(self, moderator: Moderator) -> None:
        """Note which bundle is served."""
        policy = moderator.policy
        self._bundle.info({"name": moderator.name, "policy": policy.policy, "policy_version": str(policy.version)})

    def batch(self, part: str) -> Callable[[int], None]:
        """Return what is told the size of each batch of a part of the work."""
        observe: Callable[[int], None] = self._sizes.labels(part).observe
        return observe

    def judged(self, verdicts: Sequence[Verdict]) -> None:
        """Count verdicts."""
        for verdict in verdicts:
            self._judged.labels(verdict.of, verdict.action.value, str(verdict.stage)).inc()
            if verdict.route:
                self._routed.labels(verdict.of, verdict.route).inc()
            if verdict.degraded:
                self._degraded.labels(verdict.degraded).inc()

    def refused(self, reason: str) -> None:
        """Count a request that was not judged, by one of our own words."""
        self._refused.labels(reason).inc()

    def answered(self, method: str, route: str, status: int, seconds: float) -> None:
        """Count an answer."""
        known = (method if method in METHODS else "other", route if route in ROUTES else "other")
        self._requests.labels(*known, str(status)).inc()
        self._seconds.labels(*known).observe(seconds)

    def page(self) -> tuple[bytes, str]:
        """Return the text for Prometheus, and what it is called."""
        from prometheus_client.exposition import CONTENT_TYPE_PLAIN_0_0_4, generate_latest

        for part, items in self._queues().items():
            self._waiting.labels(part).set(items)
        return generate_latest(self._registry), CONTENT_TYPE_PLAIN_0_0_4


class Counted:
    """An application whose answers are counted.

    Args:
        app: The application.
        metrics: Count.
    """

    def __init__(self, app: "ASGIApp", metrics: Metrics) -> None:
        self._app, self._metrics = app, metrics

    async def __call__(self, scope: "Scope", receive: "Receive", send: "Send") -> None:
        """Pass a request on, and note how it was answered."""
        if scope["type"] != "http":
            return await self._app(scope, receive, send)
        began, status = time.perf_counter(), 500

        async def noted(message: "Message") -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = int(message["status"])
            await send(message)

        try:
            await self._app(scope, receive, noted)
        finally:
            self._metrics.answered(scope["method"], scope["path"], status, time.perf_counter() - began)
