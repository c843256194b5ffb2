"""`tilth serve --cluster`: the application of one server as a Ray Serve application, its stages as deployments with replicas of their own.

    door       the HTTP application, admission, decoding, micro-batches and the cascade, as in one process
    stage1     classifier and detector
    reading    OCR
    language   the language model

Images go from the door to a stage as pixels, and what comes back is scores, boxes and words. Each replica verifies the bundle and opens
its own part of it, so all nodes must see its folder. What a replica was asked when it died is asked of another.
"""

import logging
import signal
import threading
import uuid
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tilth.engine.cluster import connect
from tilth.errors import InputError, ModelError
from tilth.extras import optional
from tilth.images import Image
from tilth.runtime.bundles.bundle import Bundle, in_use, load_stage1, load_stage2, read_bundle
from tilth.runtime.cluster.there import Ask, spread
from tilth.runtime.serving.admission import Limits, Tokens
from tilth.runtime.serving.app import make_app
from tilth.runtime.serving.desk import Batching, Desk
from tilth.runtime.serving.server import Access, show_log
from tilth.runtime.stages.reading import Reader
from tilth.runtime.stages.stage1 import Screen
from tilth.runtime.stages.stage2 import Unjudged

if TYPE_CHECKING:
    from fastapi import FastAPI

NAME = "tilth"  # of the application, and so of what another `tilth serve --cluster` takes the place of
AT_ONCE = 2  # questions that a replica has: one is worked on while the next one travels
ANSWER_S = 20.0  # until a stage has answered

log = logging.getLogger("tilth.serve")


@dataclass(frozen=True, kw_only=True)
class Replicas:
    """How many processes there are of each part.

    Args:
        door: Of the HTTP application; each has its own limits and its own metrics.
        stage1: Of classifier and detector.
        reading: Of OCR.
        language: Of the language model.
    """

    door: int = 1
    stage1: int = 2
    reading: int = 1
    language: int = 1

    def __post_init__(self) -> None:
        """Check the numbers.

        Raises:
            InputError: One is none.
        """
        if none := [name for name, number in asdict(self).items() if number < 1]:
            raise InputError(f"replicas of {', '.join(none)} must be at least 1")


def read_replicas(told: Sequence[str]) -> Replicas:
    """Read how many there are of each part, written as `stage1=4`.

    Raises:
        InputError: There is no such part, or a number is none.
    """
    parts, numbers = [field.name for field in fields(Replicas)], {}
    for one in told:
        name, _, number = one.partition("=")
        if name not in parts or not number.isdecimal():
            raise InputError(
                f"--replicas {one}: expected a part and a number, such as stage1=4; parts are {', '.join(parts)}"
            )
        numbers[name] = int(number)
    return Replicas(**numbers)


class Stage1Replica:
    """Stage 1 of a bundle.

    Args:
        folder: The bundle.
        threads: To compute with.
    """

    def __init__(self, folder: str, threads: int) -> None:
        self._stage1 = load_stage1(read_bundle(Path(folder)), threads=threads)

    def __call__(self, images: Sequence[Image]) -> list[Screen]:
        """Screen images."""
        return self._stage1(images)


class ReadingReplica:
    """OCR.

    Args:
        threads: To compute with.
    """

    def __init__(self, threads: int) -> None:
        self._reader = Reader(threads=threads)

    def __call__(self, image: Image) -> str:
        """Read an image."""
        return self._reader(image)


class LanguageReplica:
    """The language model of a bundle.

    Args:
        folder: The bundle, which has one.
        threads: To compute with.
    """

    def __init__(self, folder: str, threads: int) -> None:
        self._stage2 = load_stage2(read_bundle(Path(folder)), threads=threads)

    def __call__(self, screens: Sequence[Screen], texts: Sequence[str]) -> list[dict[str, float] | Unjudged]:
        """Judge words."""
        assert self._stage2 is not None
        return self._stage2(screens, texts)


class DoorReplica:
    """The HTTP application.

    Args:
        folder: The bundle.
        stages: Handles of `stage1`, and of `reading` and `language` where the bundle has a language model.
        limits: Of this replica.
        batching: Of this replica.
        tokens: Of those who may ask.
        workers: Batches that the language model is asked about at once.
        begun_by: Who began it.
    """

    def __init__(
        self,
        folder: str,
        stages: dict[str, Any],
        limits: Limits,
        batching: Batching,
        tokens: Tokens | None,
        workers: int,
        begun_by: str,
    ) -> None:
        def asks(name: str) -> Ask:
            return lambda *given: stages[name].remote(*given).result(timeout_s=ANSWER_S)

        moderator = spread(
            read_bundle(Path(folder)), see=asks("stage1"), read=asks("reading"), judge=asks("language"), workers=workers
        )
        self._begun_by = begun_by
        self._app = make_app(Desk(moderator, limits=limits, batching=batching), tokens=tokens)

    def begun_by(self) -> str:
        """Tell who began it."""
        return self._begun_by

    def __serve_build_asgi_app__(self) -> "FastAPI":  # which Ray Serve asks for
        return self._app


def application(
    bundle: Bundle,
    replicas: Replicas,
    *,
    begun_by: str,
    threads: int,
    limits: Limits,
    batching: Batching,
    tokens: Tokens | None,
) -> Any:
    """Bind the parts of a bundle together, as Ray Serve runs them.

    Args:
        bundle: It.
        replicas: Of each part.
        begun_by: Tells it from one that takes its place.
        threads: Of a replica; it takes so many of the cluster's processors, too.
        limits: Of each door.
        batching: Of each door.
        tokens: Of those who may ask.
    """
    with optional():
        from ray import serve

    def bound(kind: type, number: int, at_once: int, cpus: float, *given: Any) -> Any:
        options = {"num_cpus": cpus, **({"num_gpus": 1} if _gpus(kind, bundle) else {})}
        made = serve.deployment(
            serve.ingress()(kind) if kind is DoorReplica else kind, name=kind.__name__.removesuffix("Replica").lower(),
            num_replicas=number, max_ongoing_requests=at_once, ray_actor_options=options,
            graceful_shutdown_timeout_s=limits.timeout_s + 1, health_check_period_s=2,
        )  # fmt: skip
        return made.bind(*given)

    folder = str(bundle.folder.resolve())
    stages = {"stage1": bound(Stage1Replica, replicas.stage1, AT_ONCE, threads, folder, threads)}
    workers = 1
    if bundle.verdict is not None:
        workers = AT_ONCE * replicas.language
        stages["reading"] = bound(ReadingReplica, replicas.reading, AT_ONCE, threads, threads)
        stages["language"] = bound(LanguageReplica, replicas.language, AT_ONCE, threads, folder, threads)
    spread_out = Batching(
        stage1=batching.stage1, language=batching.language, workers=AT_ONCE * replicas.stage1, readers=AT_ONCE * replicas.reading
    )  # fmt: skip
    # more than its limit, so that it is the door that sends away what is too much, and says when to come back
    at_once = 2 * limits.requests + 16
    return bound(DoorReplica, replicas.door, at_once, 1, folder, stages, limits, spread_out, tokens, workers, begun_by)


def _gpus(kind: type, bundle: Bundle) -> bool:
    import ray

    asked = kind is LanguageReplica and bundle.verdict is not None and bundle.verdict.back_end == "transformers"
    return asked and ray.cluster_resources().get("GPU", 0) >= 1


def serve_on_cluster(
    folder: Path,
    address: str,
    *,
    host: str = "127.0.0.1",
    port: int = 8080,
    threads: int = 0,
    replicas: Replicas | None = None,
    limits: Limits | None = None,
    batching: Batching | None = None,
    access: Access | None = None,
    until: Callable[[], None] | None = None,
) -> None:
    """Serve a bundle on a Ray cluster until told to end.

    Args:
        folder: The bundle, or a champion: then what is in use now.
        address: Of the cluster; one is started on this machine when empty.
        host: Address to listen on, on every node that has a proxy.
        port: Port to listen on.
        threads: Of a replica of a stage; 0 for one.
        replicas: Of each part.
        limits: Of each door.
        batching: Of each door.
        access: Who may ask; images from elsewhere are not fetched.
        until: Returns when it is to end; when a signal says so by default.

    Raises:
        InputError: The folder is no bundle, a token is none, or hosts are allowed.
        ModelError: A file in it was changed, or a replica cannot open its part.
        Unavailable: Nothing answers at the address.
    """
    access = access or Access()
    if access.allow_hosts:
        raise InputError("--allow-host is for one server; on a cluster, send images themselves")
    tokens = Tokens.read(access.token_file) if access.token_file else None
    bundle = read_bundle(in_use(folder))
    with optional():
        from ray import serve
    show_log()
    connect(address)
    ours = uuid.uuid4().hex
    made = application(
        bundle, replicas or Replicas(), begun_by=ours, threads=threads or 1, limits=limits or Limits(),
        batching=batching or Batching(), tokens=tokens,
    )  # fmt: skip
    serve.start(http_options={"host": host, "port": port})
    before = serve.status().applications.keys()
    try:
        serve.run(made, name=NAME, route_prefix="/")
    except RuntimeError as error:
        if NAME not in before:
            serve.delete(NAME)
        told = next((line for line in reversed(str(error).splitlines()) if line.strip()), "no reason is told")
        raise ModelError(f"{bundle.folder}: the cluster cannot serve it: {told.strip()[:300]}") from error
    log.info("%s is served on http://%s:%d by a cluster", bundle.name, host, port)
    try:
        (until or _told_to_end)()
    finally:
        if _begun_by() in ("", ours):  # not what has taken its place meanwhile
            serve.delete(NAME)
    log.info("ended; what was inside is answered")


def _begun_by() -> str:
    """Return who began the application that is served now; empty where there is none, or nobody answers."""
    from ray import serve

    if NAME not in serve.status().applications:
        return ""
    try:
        return str(serve.get_app_handle(NAME).begun_by.remote().result(timeout_s=ANSWER_S))
    except Exception as error:  # noqa: BLE001  # whatever is wrong with it, it is not known to be another's
        log.warning("the door does not say who began it: %s", type(error).__name__)
        return ""


def _told_to_end() -> None:
    told = threading.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: told.set())
    told.wait()
