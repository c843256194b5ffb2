"""The service at 16 clients: with batches over requests, one by one, and the same function behind LitServe; interleaved, in one run.

    python benchmarks/service.py --work runs/service [--litserve …/bin/python]

A bundle is trained on the starter world for two minutes, once. All servers run it with one thread a model, and two batches of Stage 1
at a time at most; the one without batches has `--max-batch 1` and is otherwise the same. Clients ask about one image each, as soon as
they have their answer: those that Stage 1 decides alone, then all, of which Stage 2 reads one in eight. In each round each server has a
turn while the others are halted. Where others use the machine too, images a second say as much about them; processor time an image does
not, so it is noted beside.

Then the load is 80 % of what clients could have just before, at random times; latency counts from when a request was due. Where others
take the machine meanwhile, the load is beyond what is left: p99 over p50 is given of all answers, and as the median over rounds.

LitServe is asked twice, too: with its own batches of 16, and as it is when nothing is said.
"""

import argparse
import asyncio
import json
import subprocess
import sys
from collections.abc import Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import numpy as np
from figures import Figures, add_option
from service_parts import (
    Line,
    Server,
    Told,
    at_rate,
    back_to_back,
    cleared,
    make_bundle,
    ours,
    request_of,
    server,
)

from tilth.images import decode
from tilth.runtime.bundles.bundle import load_bundle

CLIENTS = 16
WARM_S, ROUND_S, LOAD_S = 0.5, 1.5, 3.0
LOAD = 0.8


class Turns:
    """What one server did in its turns."""

    def __init__(self, one: Server) -> None:
        self.server = one
        self.rates: list[float] = []
        self.cpu_s, self.images = 0.0, 0
        self.took: list[float] = []

    def turn(self, requests: Sequence[bytes], seconds: float) -> Told:
        asyncio.run(back_to_back(self.server.port, requests, clients=CLIENTS, seconds=WARM_S))
        before = self.server.cpu_s
        told = asyncio.run(back_to_back(self.server.port, requests, clients=CLIENTS, seconds=seconds))
        if set(told.statuses) != {200}:
            raise RuntimeError(f"answers other than 200: {dict(told.statuses)}")
        self.cpu_s += self.server.cpu_s - before
        self.images += told.statuses[200]
        self.rates.append(told.per_s)
        self.took += told.took
        return told

    @property
    def per_s(self) -> float:
        return float(np.mean(self.rates))

    @property
    def cpu_ms(self) -> float:
        return 1000 * self.cpu_s / self.images

    def ms(self, share: float) -> float:
        return 1000 * float(np.quantile(self.took, share))


def speedup(one: Turns, other: Turns) -> tuple[float, tuple[float, float]]:
    """Return how many times as many images a second one server takes, and the 95 % interval over rounds."""
    rates, rng = np.array([one.rates, other.rates]), np.random.default_rng(0)
    drawn = rates[:, rng.integers(0, rates.shape[1], (2000, rates.shape[1]))].sum(2)
    low, high = np.quantile(drawn[0] / drawn[1], (0.025, 0.975))
    return one.per_s / other.per_s, (float(low), float(high))


def compared(servers: dict[str, Server], requests: Sequence[bytes], rounds: int) -> dict[str, Turns]:
    turns = {name: Turns(one) for name, one in servers.items()}
    for number in range(rounds):
        for name, each in turns.items():
            each.server.go_on()
            told = each.turn(requests, ROUND_S)
            each.server.pause()
            print(f"{number} {name}: {told.per_s:.0f} images/s, p50 {told.quantile_ms(0.5):.0f} ms", file=sys.stderr)
    return turns


def note(figures: Figures, turns: dict[str, Turns], of: str, rival: str) -> None:
    for name, each in turns.items():
        told = {"rival": rival} if name.startswith("litserve") else {}
        figures.add(f"{of}{name}.images_per_s", each.per_s, "images/s", n=len(each.rates), **told)
        figures.add(f"{of}{name}.cpu_ms", each.cpu_ms, "ms", **told)
        figures.add(f"{of}{name}.p50_ms", each.ms(0.5), "ms", **told)
        figures.add(f"{of}{name}.p99_ms", each.ms(0.99), "ms", **told)
        if name != "batches":
            value, interval = speedup(turns["batches"], each)
            key = f"{of}speedup" if name == "single" else f"{of}{name}.speedup"
            figures.add(key, value, "", ci95=interval, n=len(each.rates), **told)
            figures.add(f"{key}_cpu", each.cpu_ms / turns["batches"].cpu_ms, "", **told)


def under_load(one: Server, requests: Sequence[bytes], rounds: int) -> tuple[list[float], list[float], float]:
    """Load a server with a share of the peak that it had just before.

    Returns:
        The seconds that answers took, p99 over p50 of each round, and the mean load in images a second.
    """
    took: list[float] = []
    ratios, rates = [], []
    one.go_on()
    for number in range(rounds):
        peak = asyncio.run(back_to_back(one.port, requests, clients=CLIENTS, seconds=ROUND_S)).per_s
        told = asyncio.run(at_rate(one.port, requests, per_s=LOAD * peak, seconds=LOAD_S, seed=number))
        if set(told.statuses) != {200}:
            raise RuntimeError(f"answers other than 200: {dict(told.statuses)}")
        took += told.took
        ratios.append(told.quantile_ms(0.99) / told.quantile_ms(0.5))
        rates.append(LOAD * peak)
        print(
            f"{number} load {LOAD * peak:.0f}: p50 {told.quantile_ms(0.5):.0f} p99 {told.quantile_ms(0.99):.0f} ms",
            file=sys.stderr,
        )
    one.pause()
    return took, ratios, float(np.mean(rates))


async def same(port: int, files: Sequence[bytes], alone: Sequence[str]) -> float:
    """Return the share of images that get the action which they get alone, asked about by many clients at once."""
    waiting = list(enumerate(files))
    right = []

    async def client() -> None:
        line = Line(port)
        while waiting:
            i, data = waiting.pop()
            _, body = await line.ask(request_of(data))
            told: Any = json.loads(body)["results"][0]["tilth"]
            right.append(told["action"] == alone[i])
        line.close()

    await asyncio.gather(*(client() for _ in range(CLIENTS)))
    return sum(right) / len(right)


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument(
        "--work", type=Path, required=True, help="folder for the world and the bundle, made when absent"
    )
    parser.add_argument("--litserve", type=Path, help="Python of an environment that has LitServe beside the runtime")
    parser.add_argument("--rounds", type=int, default=16)
    add_option(parser)
    args = parser.parse_args()
    figures = Figures("service", seeds=[0])
    bundle, files = make_bundle(args.work)
    stage1 = cleared(bundle, files)
    every = [request_of(data) for data in files]
    clear = [request for request, alone in zip(every, stage1, strict=True) if alone]
    moderator = load_bundle(bundle, threads=1)
    actions = [moderator.moderate([decode(data)])[0].action.value for data in files]
    commands = {"batches": ours(bundle), "single": ours(bundle, most=1)}
    rival = ""
    if args.litserve:
        rival = version(args.litserve)
        for name, most in (("litserve", 16), ("litserve_single", 1)):
            command = [str(args.litserve), "benchmarks/service_litserve.py", str(bundle), "PORT", str(most)]
            commands[name] = command
    with ExitStack() as stack:
        servers = {}
        for name, command in commands.items():
            servers[name] = stack.enter_context(server(command, clear[0], args.work / f"{name}.log"))
            servers[name].pause()
        clear_turns = compared(servers, clear, args.rounds)
        mixed_turns = compared(servers, every, max(2, args.rounds // 3))
        took, ratios, load = under_load(servers["batches"], clear, args.rounds // 2)
        servers["batches"].go_on()
        share = asyncio.run(same(servers["batches"].port, files, actions))
    note(figures, clear_turns, "", rival)
    note(figures, mixed_turns, "mixed.", rival)
    p50, p99 = np.quantile(took, (0.5, 0.99))
    figures.add("p99_over_p50", float(p99 / p50), "", n=len(took))
    figures.add("load.round.p99_over_p50", float(np.median(ratios)), "", n=len(ratios))
    figures.add("load.images_per_s", load, "images/s")
    figures.add("load.p50_ms", 1000 * float(p50), "ms", n=len(took))
    figures.add("load.p99_ms", 1000 * float(p99), "ms", n=len(took))
    figures.add("same", share, "share", n=len(files))
    figures.add("stage1_share", sum(stage1) / len(stage1), "share", n=len(files))
    figures.write(args.results)


def version(python: Path) -> str:
    code = "import importlib.metadata as m; print('LitServe', m.version('litserve'))"
    return subprocess.check_output([str(python), "-c", code], text=True).strip()


if __name__ == "__main__":
    main()
