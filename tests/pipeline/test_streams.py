"""Without a terminal, standard error is JSON lines and nothing else, whoever writes there and however the command ends."""

import io
import json
import os
import pty
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from noise import noise_image
from places import POLICY, RECIPE
from refusals import refusal

from tilth.events import Events
from tilth.pipeline.cli.wrapping import Wrapper

MAIN = [sys.executable, "-m", "tilth.pipeline.cli.main"]
HASH = "policy: {policy}\nrecipe: r\nsteps:\n  - import: {{path: {images}}}\n  - hash\n"
# The second step does what a library might; the first has told events of ours before.
ODD = """
import ctypes, os, signal, subprocess, sys, threading, warnings
from tilth.mining.copies.hash import Hash
import tilth.pipeline.cli.main as cli

def run(self, work):
    {does}
    return {{}}

Hash.run = run
sys.argv[0] = "tilth"
cli.main()
"""
TALKS = """
    print("of Python", file=sys.stderr)
    warnings.warn("a warning"); os.write(2, b"half a line")
    work.events.emit("said", message="ours, \\u00fc")
    subprocess.run(["sh", "-c", "echo of a child >&2; printf ' 10 %%\\\\r 50 %%\\\\r\\\\033[32m100 %%\\\\033[0m\\\\n' >&2"])
    from tqdm import tqdm
    [None for _ in tqdm(range(3))]
    thread = threading.Thread(target=lambda: [][0]); thread.start(); thread.join()
    os.write(2, b"x" * 3_000_000 + b"\\n")
"""


@pytest.fixture
def arguments(tmp_path: Path) -> list[str]:
    (tmp_path / "images").mkdir()
    (tmp_path / "images" / "a.png").write_bytes(noise_image(0))
    recipe = tmp_path / "r.yaml"
    recipe.write_text(HASH.format(policy=POLICY, images=tmp_path / "images"))
    return ["run", str(recipe), "--runs", str(tmp_path / "runs")]


def told(text: str) -> list[dict[str, Any]]:
    """Read all lines; each must be an event."""
    events = [json.loads(line) for line in text.splitlines()]
    assert all({"time", "event"} <= event.keys() for event in events)
    return events


def odd(does: str, arguments: list[str]) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-c", ODD.format(does=does), *arguments]
    return subprocess.run(command, capture_output=True, text=True, timeout=120, check=False)


def test_every_line_of_a_whole_run_is_an_event_and_nothing_is_printed_beside(tmp_path: Path) -> None:
    """With the libraries that talk most: models are loaded, trained and drawn with."""
    (tmp_path / "images").mkdir()
    for i in range(6):
        (tmp_path / "images" / f"{i}.png").write_bytes(noise_image(i))
    recipe = tmp_path / "whole.yaml"
    steps = [
        {"import": {"path": str(tmp_path / "images"), "split": "train"}},
        "ground",
        {"generate": {"count": 1, "max_ratio": 100, "categories": ["knife"], "drawing": {"steps": 1}}},
    ]
    recipe.write_text(json.dumps({"recipe": "whole", "policy": str(POLICY), "max_fail_rate": 1, "steps": steps}))
    plain = {name: value for name, value in os.environ.items() if not name.startswith(("HF_", "TRANSFORMERS_", "TQDM"))}
    done = subprocess.run(
        [*MAIN, "run", str(recipe), "--runs", str(tmp_path / "runs")],
        capture_output=True, text=True, timeout=240, check=False, env={**plain, "HF_HUB_OFFLINE": "1", "FORCE_COLOR": "1"},
    )  # fmt: skip
    events = told(done.stderr)
    assert done.returncode == 0, done.stderr
    assert done.stdout == ""
    assert [e["step"] for e in events if e["event"] == "finished"] == ["import", "ground", "generate"]
    assert [e for e in events if e["event"] == "library"] == []


def test_what_libraries_children_and_threads_write_becomes_events_in_its_place(arguments: list[str]) -> None:
    done = odd(TALKS, arguments)
    events = told(done.stderr)
    assert done.returncode == 0
    kinds = [e["event"] for e in events]
    foreign = "\n".join(e["text"] for e in events if e["event"] == "library")
    assert [e["message"] for e in events if e["event"] == "said"] == ["ours, ü"]
    assert kinds.index("library") < kinds.index("said") < kinds.index("done")
    assert foreign.splitlines()[:4] == ["of Python", "half a line", "of a child", "100 %"]
    assert "IndexError: list index out of range" in foreign  # one thing that was said, in one event
    assert any("Exception in thread" in e["text"] and "IndexError" in e["text"] for e in events if "text" in e)
    assert "a warning" not in foreign
    assert "| 3/3" not in foreign
    assert "\x1b" not in foreign


@pytest.mark.parametrize(
    ("does", "code", "event", "says"),
    [
        ("raise RuntimeError('unforeseen\\nin two lines')", 1, "crash", "in two lines"),
        ("raise MemoryError", 1, "crash", "MemoryError"),
        ("raise OSError(5, 'broken')", 1, "crash", "OSError: [Errno 5] broken"),
        ("raise KeyboardInterrupt", 130, "stopped", "run the same command to go on"),
        ("os.write(2, b'last words'); ctypes.string_at(0)", -11, "library", "last words"),
        ("os.write(2, b'last words'); os.kill(os.getpid(), signal.SIGKILL)", -9, "library", "last words"),
        ("os.write(2, b'last words'); os._exit(7)", 7, "library", "last words"),
    ],
)
def test_the_end_of_a_command_is_told_whatever_ends_it(
    arguments: list[str], does: str, code: int, event: str, says: str
) -> None:
    done = odd(does, arguments)
    assert done.returncode == code
    *_, last = told(done.stderr)
    assert last["event"] == event
    assert says in last.get("message", last.get("text"))
    if event == "crash":
        assert last["traceback"].startswith("Traceback (most recent call last):\n")
        assert "in run\n" in last["traceback"]


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (["run", "nowhere.yaml"], "nowhere.yaml: no such file"),
        (["run", "--foo"], "No such option: --foo; see: "),
        (["nonsense"], "No such command 'nonsense'; see: "),
        (["count"], "Missing argument 'dataset'; see: "),
        (["gallery", "x", "--side", "wide"], "Invalid value for '--side': "),
        (["run", str(RECIPE), "--review", "nobody"], "--review must be simulated or labelstudio, got 'nobody'"),
        (["train"], "needs a command; see: "),
    ],
)
def test_a_command_that_does_not_begin_says_why_in_one_event(words: list[str], says: str) -> None:
    done = subprocess.run([*MAIN, *words], capture_output=True, text=True, check=False)
    assert done.returncode == 2
    assert refusal(done).startswith(says)


def test_a_command_that_is_refused_late_says_so_in_its_last_event(arguments: list[str]) -> None:
    late = odd("from tilth.errors import InputError; raise InputError('too late for that')", arguments)
    assert told(late.stderr)[-1]["message"] == "too late for that"
    assert told(late.stderr)[-1]["exit_code"] == late.returncode == 2


def shown(arguments: list[str]) -> tuple[int, str]:
    """Run a command as on a terminal; return its exit code and what is seen of standard error."""
    ours, theirs = pty.openpty()
    process = subprocess.Popen(
        [*MAIN, *arguments], stderr=theirs, stdout=subprocess.DEVNULL, env={**os.environ, "TERM": "xterm"}
    )
    os.close(theirs)
    seen = b""
    while True:
        try:
            seen += os.read(ours, 65536)
        except OSError:  # the other end is closed
            break
    return process.wait(60), re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", seen.decode())


def test_a_terminal_shows_bars_and_messages_and_no_json(arguments: list[str]) -> None:
    code, text = shown(arguments)
    assert code == 0
    assert "[2/2] hash" in text
    assert "1/1 images" in text
    assert '"event"' not in text
    assert shown(["run", "nowhere.yaml"]) == (2, "tilth: nowhere.yaml: no such file\r\n")


def test_a_bar_that_was_overwritten_is_told_once_and_an_event_behind_it_is_found() -> None:
    read, write = os.pipe()
    wrapper = Wrapper(write)
    wrapper.take(b'1 %\r2 %\r3 %{"time": "t", "event": "e"}')
    wrapper.take(b'{"time": "t", "event": torn')
    wrapper.flush()
    os.close(write)
    with os.fdopen(read) as stream:
        bar, event, torn = map(json.loads, stream)
    assert (bar["text"], event, torn["text"]) == ("3 %", {"time": "t", "event": "e"}, '{"time": "t", "event": torn')


def test_progress_tells_what_is_left_by_the_last_minute_and_what_is_shown_beside_it(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    now = [0.0]
    monkeypatch.setattr("tilth.events.time.monotonic", lambda: now[0])
    stream = io.StringIO()
    with Events(stream=stream).progress("train", 1000, unit="steps") as advance:
        advance(500)  # by a run that was killed
        for _ in range(30):
            now[0] += 10
            advance(1 if now[0] <= 200 else 10, loss=1 / now[0])
    first, *_, last = map(json.loads, stream.getvalue().splitlines())
    assert (first["per_s"], first["eta_s"], first["loss"]) == (0.1, 4990, 0.1)
    assert (last["done"], last["per_s"], last["eta_s"]) == (620, 1.0, 380)


def test_a_command_goes_on_when_nobody_listens_any_more(arguments: list[str], tmp_path: Path) -> None:
    read, write = os.pipe()
    os.close(read)
    with os.fdopen(write, "w") as deaf:
        done = subprocess.run([*MAIN, *arguments], stderr=deaf, timeout=120, check=False)
    assert done.returncode == 0
    assert (tmp_path / "runs" / "r" / "report.html").exists()


def test_what_is_printed_comes_after_what_was_said_where_both_go_to_one_place(arguments: list[str]) -> None:
    done = subprocess.run([*MAIN, *arguments, "--json"], stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    said, _, summary = done.stdout.partition("\n{\n")
    assert told(said)[-1]["event"] == "done"
    assert json.loads("{" + summary)["run"] == "r"
