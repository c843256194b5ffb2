"""Damage label files, lists and archives at random, and hold their readers to it; `imports.py` is the benchmark that does so.

Whatever a file has become, its reader ends in an `InputError` or counts a failure; nothing else is raised, nothing hangs, and nothing
takes memory without measure. Where a set has several files, the good one beside the damaged one still comes in with its box.
"""

import random
import re
import resource
import signal
import tempfile
import time
import traceback
import warnings
from collections.abc import Iterator
from dataclasses import dataclass, field
from multiprocessing import get_context
from multiprocessing.connection import Connection
from pathlib import Path
from types import FrameType

from fuzz_targets import TARGETS, Fault

SECONDS, MEGABYTES = 20, 1500  # that one input may take
LIMIT = 16 << 30  # bytes of address space, so that the machine outlives what is found
TOKENS = [
    b"null", b"true", b"NaN", b"-1e999", b"1e400", b"{}", b"[]", b"[", b"}", b"\0", b'"', b"'", b"<", b">", b"]]>", b"&amp;", b"&x;",
    b"<!DOCTYPE a>", b"<!--", b"\\ud800", b"\\u0000", b"../", b"/etc/passwd", b"\xff\xfe", b"\xe9", b"\xf0\x9f\x94\xaa",
    b"\r", b"\n", b"\t",
    b";", b",", b" ", b"http://", b"\xef\xbb\xbf", b"*a", b"&a ", b"!!python/object:os.system", b"9" * 5000,
]  # fmt: skip
NUMBERS = [b"0", b"-1", b"1e308", b"1e400", b"-1e999", b"nan", b"inf", b"9" * 400, b"9" * 5000, b"2147483648", b"0.5", b"1_0", b"0x10",
    b'"7"', b"null", b"[1]", b"18446744073709551616", "\u0663".encode()]  # fmt: skip
ENCODINGS = ["utf-16", "utf-16-le", "utf-32", "utf-8-sig", "gb18030", "shift_jis", "utf-7", "unicode_escape", "cp037"]
NUMBER = re.compile(rb"-?\d+(\.\d+)?")
DECLARED = re.compile(rb"(encoding=.)([\w-]+)")


@dataclass
class Found:
    """What came of the inputs of a kind."""

    inputs: int = 0
    seconds: float = 0.0
    crashes: list[str] = field(default_factory=list)


def damage(rng: random.Random, data: bytes) -> bytes:
    """Return a file with one to four things wrong."""
    for _ in range(rng.choice((1, 1, 1, 2, 4))):
        at = rng.randrange(len(data)) if data else 0
        upto = at + rng.choice((1, 2, 8, 40, 600))
        way = rng.randrange(12)
        if way == 0 and data:
            data = data[:at] + bytes([data[at] ^ 1 << rng.randrange(8)]) + data[at + 1 :]
        elif way == 1:
            data = data[:at] + rng.randbytes(upto - at) + data[upto:]
        elif way == 2:
            data = data[:at]
        elif way == 3:
            data = data[:at] + data[upto:]
        elif way == 4:
            data = data[:upto] + data[at:]
        elif way == 5:
            data = data[:at] + rng.choice(TOKENS) + data[at:]
        elif way == 6:
            data = data[:at] + rng.choice(TOKENS) + data[upto:]
        elif way in (7, 8) and (found := list(NUMBER.finditer(data[:65536]))):
            one = rng.choice(found)
            data = data[: one.start()] + rng.choice(NUMBERS) + data[one.end() :]
        elif way == 9 and rng.random() < 0.5:
            data = data.decode("utf-8", "replace").encode(rng.choice(ENCODINGS), "replace")
        elif way == 10:
            data = DECLARED.sub(lambda m: m[1] + rng.choice([*ENCODINGS, "klingon", "zip", "", "idna"]).encode(), data)
        elif way == 11 and rng.random() < 0.05:
            data = data[:at] + rng.choice((b"[", b'{"a":', b"<a>", b"- ", b"(")) * 50_000 + data[at:]
    return data


def run(name: str, seeds: range, keep: Path | None = None) -> Found:
    """Damage a target once for each seed, here.

    Args:
        name: Of the target.
        seeds: Each is one damaged input, always the same.
        keep: Folder for the inputs that a reader did not bear.
    """
    found, began = Found(), time.monotonic()
    with tempfile.TemporaryDirectory() as place:
        for seed, fault in _faults(name, seeds, Path(place), keep):
            found.inputs += 1
            if fault:
                found.crashes.append(f"{name} {seed}: {fault}")
    found.seconds = time.monotonic() - began
    return found


def _faults(name: str, seeds: range, folder: Path, keep: Path | None) -> Iterator[tuple[int, str]]:
    target = TARGETS[name]
    files = target.make(folder)
    whole = {path: path.read_bytes() for path in files}
    for seed in seeds:
        rng = random.Random(f"{name} {seed}")
        path = rng.choice(files)
        wrong = damage(rng, whole[path])
        path.write_bytes(wrong)
        before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        signal.setitimer(signal.ITIMER_REAL, SECONDS)
        try:
            target.use(folder, path, rng)
            grown = (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) // 1024
            fault = f"took {grown} MB" if grown > MEGABYTES else ""
        except Fault as error:
            fault = str(error)
        except BaseException as error:
            if isinstance(error, KeyboardInterrupt):
                raise
            fault = "".join(traceback.format_exception(error)[-3:]).strip().replace("\n", " | ")
        finally:
            signal.setitimer(signal.ITIMER_REAL, 0)
        if fault and keep:
            keep.mkdir(parents=True, exist_ok=True)
            (keep / f"{name}-{seed}{path.suffix}").write_bytes(wrong)
        path.write_bytes(whole[path])
        yield seed, fault


def _late(_: int, __: FrameType | None) -> None:
    raise Fault(f"took more than {SECONDS} s")


def _work(name: str, seeds: range, keep: Path | None, sink: Connection) -> None:
    signal.signal(signal.SIGALRM, _late)
    warnings.simplefilter("error")  # a library that grumbles was given what nobody had looked at
    resource.setrlimit(resource.RLIMIT_AS, (LIMIT, LIMIT))
    with tempfile.TemporaryDirectory() as place:
        for outcome in _faults(name, seeds, Path(place), keep):
            sink.send(outcome)
    sink.send(None)


def run_apart(name: str, count: int, keep: Path | None = None) -> Found:
    """Damage a target so many times in a process of its own; one that dies or hangs is a crash, and the others go on."""
    found, began = Found(), time.monotonic()
    while found.inputs < count:
        source, sink = get_context("spawn").Pipe(duplex=False)
        worker = get_context("spawn").Process(target=_work, args=(name, range(found.inputs, count), keep, sink))
        worker.start()
        sink.close()
        try:
            while source.poll(3 * SECONDS) and (outcome := source.recv()) is not None:
                found.inputs += 1
                if outcome[1]:
                    found.crashes.append(f"{name} {outcome[0]}: {outcome[1]}")
            if found.inputs < count:
                raise EOFError
        except EOFError:
            worker.kill()
            worker.join()
            found.crashes.append(f"{name} {found.inputs}: the process ended with {worker.exitcode}")
            found.inputs += 1
        worker.join()
    found.seconds = time.monotonic() - began
    return found
