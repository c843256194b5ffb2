"""The service for as long as anybody waits: at 80 % of its peak, beyond it, and under requests that no client should send.

    python benchmarks/soak.py --work runs/service --minutes 10 --fuzz 100000

1. Load: all images of the bundle's world, at random times, at 80 % of what 16 clients could have; the peak is measured anew every half
   minute, as others may use the machine, too. Memory is looked at every second, and its slope taken over the second half.
2. Overload: 256 clients at a server that takes 64; each must be answered, with a verdict or with 429 and when to come back.
3. Fuzzing: the application itself, without a socket, is given requests that were broken in many ways, by bytes and by structure; none may
   be answered with an internal error, late, or not at all, and its memory may not grow.

An error is a status that is none of those that the phase allows, an answer that takes longer than the server's own limit, or none.
"""

import argparse
import asyncio
import json
import random
import time
from collections import Counter
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import psutil
from figures import Figures, add_option
from service_parts import Line, Server, at_rate, back_to_back, make_bundle, ours, request_of, server

from tilth.runtime.bundles.bundle import load_bundle
from tilth.runtime.serving.admission import Limits, Tokens
from tilth.runtime.serving.app import make_app
from tilth.runtime.serving.desk import Desk

CLIENTS, OVERLOAD_CLIENTS, TAKEN = 16, 256, 64
PEAK_S, SEGMENT_S, OVERLOAD_S = 3.0, 27.0, 20.0
LOAD, LATE_S = 0.8, 35.0
AT_ONCE = 32
TOKEN = "a-token-of-the-soak"
ALLOWED = {200, 400, 401, 404, 405, 413, 429}
PATHS = ("/v1/moderations",) * 12 + ("/v1/models", "/healthz", "/readyz", "/metrics", "/openapi.json", "/", "/v1/\x00")
JSON_VALUES: Sequence[Any] = (
    None,
    True,
    0,
    -1e308,
    "",
    "a" * 5000,
    [],
    {},
    [[]],
    {"type": "image_url"},
    "\ud800",
    2**70,
)


def slope_mb(seconds: Sequence[float], memory_mb: Sequence[float]) -> float:
    """Return by how many MB an hour memory grows in the second half."""
    half = len(seconds) // 2
    return 3600 * float(np.polyfit(seconds[half:], memory_mb[half:], 1)[0])


def loaded(one: Server, requests: Sequence[bytes], minutes: float) -> tuple[Counter[int], list[float], list[float]]:
    """Return the statuses of all answers, how long the good ones took, and the server's memory second by second."""
    statuses, took, memory = Counter[int](), list[float](), list[float]()

    async def watch() -> None:
        while True:
            memory.append(one.memory_mb)
            await asyncio.sleep(1)

    async def soak() -> None:
        watching = asyncio.create_task(watch())
        ends = time.monotonic() + 60 * minutes
        while (left := ends - time.monotonic()) > 0:
            peak = await back_to_back(one.port, requests, clients=CLIENTS, seconds=PEAK_S)
            told = await at_rate(
                one.port, requests, per_s=LOAD * peak.per_s, seconds=min(SEGMENT_S, left), seed=len(took)
            )
            for each in (peak, told):
                statuses.update(each.statuses)
                took.extend(each.took)
        watching.cancel()

    asyncio.run(soak())
    return statuses, took, memory


class Broken:
    """Requests that no client should send, drawn at random."""

    def __init__(self, files: Sequence[bytes], seed: int) -> None:
        self._draw, self._files = random.Random(seed), files

    def __call__(self) -> tuple[str, str, dict[str, str], bytes]:
        """Return method, path, headers and body."""
        draw = self._draw
        body = request_of(*draw.choices(self._files, k=draw.choice((1, 1, 1, 2, 3)))).partition(b"\r\n\r\n")[2]
        headers = {"content-type": "application/json", "authorization": f"Bearer {TOKEN}"}
        ways: Sequence[Callable[[bytes, dict[str, str]], bytes]] = (
            self._bytes, self._bytes, self._image, self._image, self._structure, self._structure, self._form, self._headers, self._whole,
        )  # fmt: skip
        body = draw.choice(ways)(body, headers)
        method = "POST" if draw.random() < 0.95 else draw.choice(("GET", "PUT", "DELETE", "HEAD", "OPTIONS", "BREW"))
        return method, draw.choice(PATHS), headers, body

    def _spoilt(self, data: bytes) -> bytes:
        draw, spoilt = self._draw, bytearray(data)
        for _ in range(draw.choice((1, 1, 3, 20))):
            at = draw.randrange(len(spoilt)) if spoilt else 0
            what = draw.randrange(4)
            if what == 0 and spoilt:
                spoilt[at] = draw.randrange(256)
            elif what == 1:
                del spoilt[at : at + draw.choice((1, 10, 1000))]
            elif what == 2:
                spoilt[at:at] = draw.randbytes(draw.choice((1, 10, 1000)))
            else:
                del spoilt[at:]
        return bytes(spoilt)

    def _bytes(self, body: bytes, _: dict[str, str]) -> bytes:
        return self._spoilt(body)

    def _image(self, _: bytes, __: dict[str, str]) -> bytes:
        return request_of(self._spoilt(self._draw.choice(self._files))).partition(b"\r\n\r\n")[2]

    def _structure(self, body: bytes, _: dict[str, str]) -> bytes:
        told = json.loads(body)
        place, key = told, "input"
        for _ in range(self._draw.randrange(4)):
            inside = place[key]
            if isinstance(inside, list) and inside:
                place, key = inside, self._draw.randrange(len(inside))  # type: ignore[assignment]
            elif isinstance(inside, dict) and inside:
                place, key = inside, self._draw.choice([*inside])
        place[key] = self._draw.choice(JSON_VALUES)
        return json.dumps(told).encode()

    def _form(self, _: bytes, headers: dict[str, str]) -> bytes:
        headers["content-type"] = "multipart/form-data; boundary=x"
        part = b'--x\r\ncontent-disposition: form-data; name="input"; filename="a"\r\n\r\n'
        body = part + self._draw.choice(self._files) + b"\r\n--x--\r\n"
        return body if self._draw.random() < 0.1 else self._spoilt(body)

    def _headers(self, body: bytes, headers: dict[str, str]) -> bytes:
        name = self._draw.choice(
            ("content-length", "content-type", "content-encoding", "authorization", "x-request-id")
        )
        values = (
            "",
            "-1",
            "9" * 30,
            "99999999",
            "gzip",
            "multipart/form-data",
            "multipart/form-data; boundary=" + "y" * 400,
            "Bearer",
            "é",
        )
        headers[name] = self._draw.choice(values)
        return body

    def _whole(self, body: bytes, _: dict[str, str]) -> bytes:
        return body


async def fuzzed(bundle: Path, files: Sequence[bytes], count: int) -> tuple[Counter[int], list[float]]:
    """Return the statuses of the answers, 0 for none, and this process's memory, every so many requests."""
    desk = Desk(load_bundle(bundle, threads=1), limits=Limits(requests=2 * AT_ONCE, timeout_s=LATE_S))
    app, broken, statuses = make_app(desk, tokens=Tokens([TOKEN])), Broken(files, 0), Counter[int]()
    memory, mine = list[float](), psutil.Process()
    left = count

    async def one(method: str, path: str, headers: dict[str, str], body: bytes) -> int:
        raw = [(name.encode(), value.encode("latin-1")) for name, value in headers.items()]
        scope = {
            "type": "http", "http_version": "1.1", "method": method, "path": path, "raw_path": path.encode(), "query_string": b"",
            "root_path": "", "scheme": "http", "headers": raw, "client": ("127.0.0.1", 1), "server": ("127.0.0.1", 2),
        }  # fmt: skip
        chunks = [body[i : i + 65536] for i in range(0, len(body), 65536)] or [b""]
        status = 0

        async def receive() -> dict[str, Any]:
            if not chunks:
                return {"type": "http.disconnect"}
            return {"type": "http.request", "body": chunks.pop(0), "more_body": bool(chunks)}

        async def send(message: dict[str, Any]) -> None:
            nonlocal status
            status = message.get("status", status)

        await app(scope, receive, send)  # type: ignore[arg-type]
        return status

    async def client() -> None:
        nonlocal left
        while left > 0:
            left -= 1
            if left % 500 == 0:
                memory.append(mine.memory_info().rss / 2**20)
            try:
                statuses[await asyncio.wait_for(one(*broken()), LATE_S)] += 1
            except Exception as error:  # noqa: BLE001  # whatever it is, it is an error
                print(f"fuzzing: {type(error).__name__}: {error}")
                statuses[0] += 1

    await asyncio.gather(*(client() for _ in range(AT_ONCE)))
    await desk.close()
    return statuses, memory


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument(
        "--work", type=Path, required=True, help="folder for the world and the bundle, made when absent"
    )
    parser.add_argument("--minutes", type=float, default=3.0, help="of load")
    parser.add_argument("--fuzz", type=int, default=20_000, help="requests")
    add_option(parser)
    args = parser.parse_args()
    figures = Figures("soak", seeds=[0])
    bundle, files = make_bundle(args.work)
    requests = [request_of(data) for data in files]
    with server(ours(bundle), requests[0], args.work / "soak.log") as one:
        statuses, took, memory = loaded(one, requests, args.minutes)
    with server(ours(bundle, requests=TAKEN), requests[0], args.work / "overload.log") as one:
        over = asyncio.run(back_to_back(one.port, requests, clients=OVERLOAD_CLIENTS, seconds=OVERLOAD_S))
        alive, _ = asyncio.run(Line(one.port).ask(b"GET /readyz HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n"))
    fuzz, held = asyncio.run(fuzzed(bundle, files, args.fuzz))
    wrong = {
        "load": sum(n for status, n in statuses.items() if status != 200) + sum(s > LATE_S for s in took),
        "overload": sum(n for status, n in over.statuses.items() if status not in (200, 429)) + (alive != 200),
        "fuzz": sum(n for status, n in fuzz.items() if status not in ALLOWED),
    }
    print(
        "memory by half minute, MB:",
        [round(mb) for mb in memory[::30]],
        "while fuzzing:",
        [round(mb) for mb in held[::4]],
    )
    for phase, told in (("load", statuses), ("overload", over.statuses), ("fuzz", fuzz)):
        print(phase, dict(sorted(told.items())), "wrong:", wrong[phase])
    figures.add("errors", sum(wrong.values()), "requests")
    figures.add("requests", sum(statuses.values()) + sum(over.statuses.values()) + sum(fuzz.values()), "requests")
    figures.add("load.minutes", args.minutes, "min")
    figures.add("load.requests", sum(statuses.values()), "requests")
    figures.add("load.p99_ms", 1000 * float(np.quantile(took, 0.99)), "ms")
    figures.add("load.memory_mb", memory[-1], "MB")
    figures.add("load.memory_mb_per_h", slope_mb(range(len(memory)), memory), "MB/h")
    figures.add("overload.answered", over.statuses[200], "requests")
    figures.add("overload.sent_away", over.statuses[429], "requests")
    figures.add("overload.slowest_s", max(over.took), "s")
    figures.add("fuzz.requests", sum(fuzz.values()), "requests")
    figures.add("fuzz.refused", sum(n for status, n in fuzz.items() if status != 200), "requests")
    figures.add("fuzz.memory_mb", held[-1], "MB")
    figures.add("fuzz.grown_mb", held[-1] - held[len(held) // 2], "MB")
    figures.write(args.results)


if __name__ == "__main__":
    main()
