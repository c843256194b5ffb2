"""What the benchmarks of the service share: a bundle of the starter world, servers of it, and clients that cost next to nothing.

Clients speak HTTP over sockets that stay open, with requests that were written beforehand: on a machine with few cores a real client
would take more of them than the server does.
"""

import asyncio
import base64
import json
import random
import socket
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import psutil

from tilth.images import decode
from tilth.runtime.bundles.bundle import load_bundle

ROOT = Path(__file__).parents[1]
RECIPE = """
recipe: service-bundle
policy: {root}/configs/policies/starter.yaml
seed: 0
steps:
  - import: {{path: {world}/labelled, format: coco, empty_means: confirmed_empty, licence: Apache-2.0}}
  - split: {{val_share: 0.2}}
  - train.classifier: {{steps: 150, lr: 0.0008}}
  - train.detector: {{steps: 200}}
  - calibrate: {{classifier: train.classifier, detector: train.detector}}
  - package: {{classifier: train.classifier, detector: train.detector, language_model: "starter:verdict"}}
"""
SERVE = """
import sys; from pathlib import Path
from tilth.runtime.serving.admission import Limits
from tilth.runtime.serving.desk import Batching
from tilth.runtime.serving.server import serve
most = int(sys.argv[3])
serve(Path(sys.argv[1]), port=int(sys.argv[2]), threads=1, limits=Limits(requests=int(sys.argv[4])),
      batching=Batching(stage1=most, language=min(most, Batching.language)))
"""


def make_bundle(work: Path) -> tuple[Path, list[bytes]]:
    """Return a bundle that was trained on the starter world for two minutes, and the files of images that it has not seen."""
    work.mkdir(parents=True, exist_ok=True)
    world, bundle = work / "world", work / "runs" / "service-bundle" / "bundle"
    if not bundle.exists():
        styles = "photo,cartoon,sketch,neon"
        drawn = [
            "--labelled",
            "400",
            "--corpus",
            "20",
            "--test",
            "300",
            "--labelled-styles",
            styles,
            "--out",
            str(world),
        ]
        if not world.exists():
            subprocess.run([sys.executable, "-m", "tilth.starter", "world", *drawn], check=True, cwd=ROOT)
        (work / "bundle.yaml").write_text(RECIPE.format(root=ROOT, world=world.resolve()))
        command = [sys.executable, "-m", "tilth.pipeline.cli.main", "run", str((work / "bundle.yaml").resolve())]
        subprocess.run(command, check=True, cwd=work)
    return bundle.resolve(), [path.read_bytes() for path in sorted((world / "test" / "images").iterdir())]


def cleared(bundle: Path, files: Sequence[bytes]) -> list[bool]:
    """Tell of each image whether Stage 1 alone decides about it."""
    moderator = load_bundle(bundle, threads=1)
    return [moderator.moderate([decode(data)])[0].stage == 1 for data in files]


def request_of(*files: bytes, path: str = "/v1/moderations") -> bytes:
    """Write a request about some images."""
    urls = ["data:image/png;base64," + base64.b64encode(data).decode() for data in files]
    body = json.dumps({"input": [{"type": "image_url", "image_url": {"url": url}} for url in urls]}).encode()
    head = f"POST {path} HTTP/1.1\r\nhost: x\r\ncontent-type: application/json\r\ncontent-length: {len(body)}\r\n\r\n"
    return head.encode() + body


@dataclass
class Server:
    """A server in a process of its own."""

    port: int
    process: "subprocess.Popen[bytes]"

    @property
    def memory_mb(self) -> float:
        """What it holds, with its children."""
        mine = psutil.Process(self.process.pid)
        return sum(one.memory_info().rss for one in [mine, *mine.children(recursive=True)]) / 2**20

    @property
    def cpu_s(self) -> float:
        """Processor time that it has taken, with its children."""
        mine = psutil.Process(self.process.pid)
        return sum(sum(one.cpu_times()[:2]) for one in [mine, *mine.children(recursive=True)])

    def _each(self, verb: str) -> None:
        mine = psutil.Process(self.process.pid)
        for one in [mine, *mine.children(recursive=True)]:
            with suppress(psutil.NoSuchProcess):
                getattr(one, verb)()

    def pause(self) -> None:
        """Let it take no time while another is measured."""
        self._each("suspend")

    def go_on(self) -> None:
        """Let it work again."""
        self._each("resume")

    def end(self) -> None:
        """End it and its children."""
        self.go_on()
        children = psutil.Process(self.process.pid).children(recursive=True)
        self.process.terminate()
        with suppress(subprocess.TimeoutExpired):
            self.process.wait(20)
        for one in children:
            with suppress(psutil.NoSuchProcess):
                one.kill()
        self.process.kill()
        self.process.wait()


@contextmanager
def server(command: Sequence[str], ready: bytes, log: Path) -> Iterator[Server]:
    """Start a server and wait until it answers a request with 200; `PORT` in the command stands for its port."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    with log.open("wb") as stream:
        process = subprocess.Popen(
            [w.replace("PORT", str(port)) for w in command], cwd=ROOT, stdout=stream, stderr=stream
        )
    one = Server(port, process)
    try:
        for _ in range(300):
            if process.poll() is not None:
                raise RuntimeError(f"{command[0]} ended: {log.read_text()[-500:]}")
            with suppress(OSError, asyncio.IncompleteReadError):
                if asyncio.run(_once(port, ready))[0] == 200:
                    break
            time.sleep(0.2)
        else:
            raise RuntimeError(f"no answer: {log.read_text()[-500:]}")
        yield one
    finally:
        one.end()


def ours(bundle: Path, *, most: int = 32, requests: int = 1024) -> list[str]:
    """Return the command of our server: images of a batch, and requests that it takes in."""
    return [sys.executable, "-c", SERVE, str(bundle), "PORT", str(most), str(requests)]


@dataclass
class Told:
    """What clients were told: by status, 0 for nothing at all, and how long the good answers took, in seconds."""

    seconds: float = 0.0
    statuses: Counter[int] = field(default_factory=Counter)
    took: list[float] = field(default_factory=list)

    @property
    def per_s(self) -> float:
        """Good answers a second."""
        return self.statuses[200] / self.seconds

    def quantile_ms(self, share: float) -> float:
        """Milliseconds within which that share of the good answers came."""
        return 1000 * float(np.quantile(self.took, share))


class Line:
    """A connection that stays open."""

    def __init__(self, port: int) -> None:
        self._port = port
        self._ends: tuple[asyncio.StreamReader, asyncio.StreamWriter] | None = None

    async def ask(self, request: bytes) -> tuple[int, bytes]:
        """Return status and body of the answer; status 0 where none came."""
        try:
            if self._ends is None:
                self._ends = await asyncio.open_connection("127.0.0.1", self._port)
            reader, writer = self._ends
            writer.write(request)
            head = (await reader.readuntil(b"\r\n\r\n")).lower()
            length = int(head.partition(b"content-length:")[2].partition(b"\r")[0] or b"0")
            body = await reader.readexactly(length)
            if b"connection: close" in head:
                self.close()
            return int(head[9:12]), body
        except (OSError, asyncio.IncompleteReadError):
            self.close()
            return 0, b""

    def close(self) -> None:
        """Hang up."""
        if self._ends is not None:
            self._ends[1].close()
            self._ends = None


async def _once(port: int, request: bytes) -> tuple[int, bytes]:
    line = Line(port)
    try:
        return await line.ask(request)
    finally:
        line.close()


async def back_to_back(port: int, requests: Sequence[bytes], *, clients: int, seconds: float) -> Told:
    """Let so many clients ask, each as soon as it has its answer."""
    told, ends = Told(), time.perf_counter() + seconds

    async def client(number: int) -> None:
        line, chosen = Line(port), random.Random(number)
        while time.perf_counter() < ends:
            began = time.perf_counter()
            status, _ = await line.ask(chosen.choice(requests))
            told.statuses[status] += 1
            if status == 200:
                told.took.append(time.perf_counter() - began)
            elif status:  # as a client would that was told to come back
                await asyncio.sleep(0.05)
        line.close()

    began = time.perf_counter()
    await asyncio.gather(*map(client, range(clients)))
    told.seconds = time.perf_counter() - began
    return told


async def at_rate(port: int, requests: Sequence[bytes], *, per_s: float, seconds: float, seed: int = 0) -> Told:
    """Ask so often on average, at random times, however long the answers take; their time counts from when they were due."""
    told, chosen, free, asked = Told(), random.Random(seed), list[Line](), set[asyncio.Task[None]]()

    async def one(due: float) -> None:
        line = free.pop() if free else Line(port)
        status, _ = await line.ask(chosen.choice(requests))
        told.statuses[status] += 1
        if status == 200:
            told.took.append(time.perf_counter() - due)
        free.append(line)

    began = due = time.perf_counter()
    while due < began + seconds:
        due += chosen.expovariate(per_s)
        if (early := due - time.perf_counter()) > 0:
            await asyncio.sleep(early)
        task = asyncio.create_task(one(due))
        asked.add(task)
        task.add_done_callback(asked.discard)
    await asyncio.gather(*asked)
    told.seconds = time.perf_counter() - began
    for line in free:
        line.close()
    return told
