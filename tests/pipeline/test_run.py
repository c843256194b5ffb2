"""Runs: what is done is not done again, a kill loses nothing, and every mistake ends in one line with an exit code."""

import io
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from commands import tilth
from places import POLICY
from refusals import refusal

from tilth.data.dataset import Dataset
from tilth.events import Events
from tilth.pipeline.run import brief_facts
from tilth.starter.world.files import write_world

RECIPE = """
recipe: tiny
policy: {policy}
variables: {{world: {world}, distance: 31}}
steps:
  - import: {{path: "${{world}}/labelled", format: coco, empty_means: confirmed_empty}}
  - as: import.corpus
    import: {{path: "${{world}}/corpus", format: folder}}
  - hash
  - quality
  - dedup: {{max_distance: "${{distance}}"}}
  - leakage: {{sealed: ["${{world}}/test"]}}
  - split
  - tag: {{name: clean}}
"""


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("world") / "world"
    write_world(folder, labelled=20, corpus=220, test=20, workers=1)
    (folder / "corpus" / "broken.png").write_bytes(b"not an image")
    return folder


@pytest.fixture
def recipe(tmp_path: Path, world: Path) -> Path:
    path = tmp_path / "tiny.yaml"
    path.write_text(RECIPE.format(policy=POLICY, world=world))
    return path


def events(folder: Path, kind: str) -> list[dict[str, object]]:
    rows = map(json.loads, (folder / "events.jsonl").read_text().splitlines())
    return [row for row in rows if row["event"] == kind]


def contents(folder: Path) -> dict[str, tuple[object, ...]]:
    samples = Dataset(folder / "dataset").samples(images=False, dropped=True)
    return {s.id: (s.columns, s.drops, s.claims) for s in samples}


def test_a_second_run_does_nothing_and_is_quick(recipe: Path, tmp_path: Path) -> None:
    first = tilth("run", recipe, "--runs", tmp_path / "runs")
    assert first.returncode == 0, first.stderr
    folder = tmp_path / "runs" / "tiny"
    before = contents(folder)
    began = time.monotonic()
    second = tilth("run", recipe, "--runs", tmp_path / "runs")
    assert second.returncode == 0
    assert time.monotonic() - began < 10
    assert len(events(folder, "skipped")) == 8
    assert contents(folder) == before
    summary = json.loads((folder / "summary.json").read_text())
    assert set(summary["seconds"]) == {"import", "import.corpus", "hash", "quality", "dedup", "leakage", "split", "tag"}
    assert summary["peak_rss_mb"]["run"] > 50
    assert (folder / "report.html").stat().st_size > 2000
    assert Dataset(folder / "dataset", "clean").at.number == summary["version"]


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_the_numbers_of_a_run_and_the_curves_of_its_trainings_are_sent_to_a_tracker(
    world: Path, tmp_path: Path
) -> None:
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    path = tmp_path / "tracked.yaml"
    path.write_text(
        f"recipe: tracked\npolicy: {POLICY}\ntrack: tensorboard\nsteps:\n"
        f"  - import: {{path: {world}/labelled, format: coco, empty_means: confirmed_empty}}\n"
        "  - train.classifier: {steps: 4, batch_size: 4, image_side: 32, patience: 0}\n"
    )
    ran = tilth("run", path, "--runs", tmp_path / "runs")
    assert ran.returncode == 0, ran.stderr
    folder = tmp_path / "runs" / "tracked"
    kept = EventAccumulator(str(folder / "track" / "tracked")).Reload()
    assert {"train.classifier/best_step", "train.classifier/steps", "train.classifier/loss"} <= set(
        kept.Tags()["scalars"]
    )
    losses = kept.Scalars("train.classifier/loss")
    assert [event.step for event in losses] == [0, 1, 2, 3, 4]  # the end, and every check
    tilth("run", path, "--runs", tmp_path / "runs")
    assert len(events(folder, "tracked")) == 1  # nothing new to tell
    for given, told in (("mlflaw", "no such tracker"), ("dvclive", "pip install dvclive")):
        path.write_text(path.read_text().replace("track: tensorboard", f"track: {given}"))
        assert refusal(tilth("run", path, "--name", given, "--runs", tmp_path / "runs")).count(told) == 1
        path.write_text(path.read_text().replace(f"track: {given}", "track: tensorboard"))


def test_a_changed_setting_reruns_from_there_and_not_before(recipe: Path, tmp_path: Path) -> None:
    assert tilth("run", recipe, "--runs", tmp_path / "runs").returncode == 0
    assert tilth("run", recipe, "--runs", tmp_path / "runs", "--set", "distance=10").returncode == 0
    folder = tmp_path / "runs" / "tiny"
    assert [e["step"] for e in events(folder, "skipped")] == ["import", "import.corpus", "hash", "quality"]
    drops = [
        r for s in Dataset(folder / "dataset").samples(images=False, dropped=True) for r in s.drops if r[0] == "dedup"
    ]
    strict = len(drops)
    again = tilth("run", recipe, "--runs", tmp_path / "runs")
    assert again.returncode == 0
    drops = [
        r for s in Dataset(folder / "dataset").samples(images=False, dropped=True) for r in s.drops if r[0] == "dedup"
    ]
    assert len(drops) >= strict


def test_a_run_that_is_killed_again_and_again_ends_like_an_unbroken_one(recipe: Path, tmp_path: Path) -> None:
    assert tilth("run", recipe, "--runs", tmp_path / "whole").returncode == 0
    command = [sys.executable, "-m", "tilth.pipeline.cli.main", "run", str(recipe), "--runs", str(tmp_path / "broken")]
    kills = 0
    for delay in (1.5, 2.0, 2.5, 3.0):
        process = subprocess.Popen(command, stderr=subprocess.DEVNULL)
        try:
            process.wait(delay)
        except subprocess.TimeoutExpired:
            os.kill(process.pid, signal.SIGKILL)
            process.wait()
            kills += 1
    assert kills > 0, "the run was never killed in mid-work"
    assert tilth("run", recipe, "--runs", tmp_path / "broken").returncode == 0
    assert contents(tmp_path / "broken" / "tiny") == contents(tmp_path / "whole" / "tiny")


def test_copies_of_sealed_images_never_reach_the_dataset(recipe: Path, tmp_path: Path, world: Path) -> None:
    truth = [json.loads(line) for line in (world / "truth.jsonl").read_text().splitlines()]
    sealed = {row["id"] for row in truth if row["split"] == "test"}
    test_file = next((world / "test" / "images").iterdir())
    (world / "corpus" / "leak.png").write_bytes(test_file.read_bytes())
    assert tilth("run", recipe, "--runs", tmp_path / "runs").returncode == 0
    (world / "corpus" / "leak.png").unlink()
    kept = {s.id for s in Dataset(tmp_path / "runs" / "tiny" / "dataset").samples(images=False)}
    assert not kept & sealed


def test_a_broken_image_is_a_row_and_not_the_end(recipe: Path, tmp_path: Path) -> None:
    assert tilth("run", recipe, "--runs", tmp_path / "runs").returncode == 0
    failed = events(tmp_path / "runs" / "tiny", "failed")
    assert any("broken.png" in str(e["source"]) and "not an image" in str(e["error"]) for e in failed)


def test_a_missing_folder_ends_in_a_line_each_and_exit_code_2(recipe: Path, tmp_path: Path) -> None:
    done = tilth("run", recipe, "--runs", tmp_path / "runs", "--set", "world=/nowhere")
    assert done.returncode == 2
    assert refusal(done).splitlines() == [
        "import: /nowhere/labelled: no such file or folder; give another with --set world=…",
        "import.corpus: /nowhere/corpus: no such file or folder; give another with --set world=…",
        "leakage: /nowhere/test: no such file or folder; give another with --set world=…",
    ]
    assert not (tmp_path / "runs").exists()


def test_two_runs_at_once_are_told_apart(recipe: Path, tmp_path: Path) -> None:
    from tilth.data.files import alone

    with alone(tmp_path / "runs" / "tiny"):
        done = tilth("run", recipe, "--runs", tmp_path / "runs")
    assert done.returncode == 75
    assert "another run is at work" in done.stderr


def test_ctrl_c_says_how_to_go_on(recipe: Path, tmp_path: Path) -> None:
    code = (  # a test run in the background passes on that it ignores Ctrl-C
        "import signal, sys; signal.signal(signal.SIGINT, signal.default_int_handler)\n"
        f"sys.argv = ['tilth', 'run', {str(recipe)!r}, '--runs', {str(tmp_path / 'runs')!r}]\n"
        "from tilth.pipeline.cli.main import main; main()"
    )
    command = [sys.executable, "-c", code]
    process = subprocess.Popen(command, stderr=subprocess.PIPE, text=True)
    log = tmp_path / "runs" / "tiny" / "events.jsonl"
    deadline = time.monotonic() + 60
    while not (log.exists() and "started" in log.read_text()) and time.monotonic() < deadline:
        time.sleep(0.05)
    told = ""
    for _ in range(20):  # as a person does: again, if it did not seem to help
        process.send_signal(signal.SIGINT)
        try:
            _, told = process.communicate(timeout=3)
            break
        except subprocess.TimeoutExpired:
            continue
    assert process.returncode == 130
    assert "run the same command to go on" in told
    assert tilth("run", recipe, "--runs", tmp_path / "runs").returncode == 0


def test_a_full_disk_is_told_and_can_be_mended(recipe: Path, tmp_path: Path) -> None:
    code = (
        "import errno, sys; from tilth.data.table import Table\n"
        "def full(self, rows): raise OSError(errno.ENOSPC, 'No space left on device')\n"
        "Table.append = full\n"
        f"sys.argv = ['tilth', 'run', {str(recipe)!r}, '--runs', {str(tmp_path / 'runs')!r}]\n"
        "from tilth.pipeline.cli.main import main; main()"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 75
    assert "the disk is full" in done.stderr.splitlines()[-1]
    assert tilth("run", recipe, "--runs", tmp_path / "runs").returncode == 0


def test_status_and_history_say_how_far_a_run_is(recipe: Path, tmp_path: Path) -> None:
    assert tilth("run", recipe, "--runs", tmp_path / "runs", "--until", "hash").returncode == 0
    folder = tmp_path / "runs" / "tiny"
    rows = json.loads(tilth("status", folder, "--json").stdout)
    assert list(rows) == ["01-import", "02-import.corpus", "03-hash"]
    assert "add" in tilth("history", folder / "dataset").stdout
    changes = [json.loads(line)["change"] for line in tilth("diff", folder / "dataset", "1", "2").stdout.splitlines()]
    assert set(changes) == {"added"}
    assert tilth("rollback", folder / "dataset", "1").returncode == 0
    assert Dataset(folder / "dataset").count() == 20
    assert tilth("diff", folder / "dataset", "nope").returncode == 2


def test_a_refusal_of_the_gate_is_a_result_that_is_told_and_asked_again(world: Path, tmp_path: Path) -> None:
    judge = {"test": str(world / "test"), "classifier": "few"}
    steps = [
        {"import": {"path": str(world / "labelled"), "format": "coco", "empty_means": "confirmed_empty"}},
        {"as": "few", "train.few_shot": {}},
        {"as": "evaluate.old", "evaluate": judge},
        {"as": "evaluate.new", "evaluate": judge},
        {
            "gate": {
                "old": "evaluate.old",
                "new": "evaluate.new",
                "old_classifier": "few",
                "new_classifier": "few",
                "max_ece": 0.0,
            }
        },
        {"tag": {"name": "never"}},
    ]
    path, folder = tmp_path / "gated.yaml", tmp_path / "runs" / "gated"
    path.write_text(json.dumps({"recipe": "gated", "policy": str(POLICY), "steps": steps}))
    for _ in range(2):
        done = tilth("run", path, "--runs", tmp_path / "runs", "--json")
        assert done.returncode == 3, done.stderr
        told = json.loads(done.stdout)["steps"]["gate"]["facts"]
        assert told["passed"] is False
        assert "its chances are off by" in told["reason"]
        assert told["reason"] in done.stderr.splitlines()[-1]
        assert "kept the old model" in (folder / "report.html").read_text()
        assert "05-gate" not in json.loads(tilth("status", folder, "--json").stdout), "a refused step is not done"
        assert "refused" in tilth("status", folder).stdout


def test_single_commands_hand_what_they_made_to_the_next(world: Path, tmp_path: Path) -> None:
    data, policy = tmp_path / "data", POLICY

    def one(*arguments: object) -> dict[str, object]:
        done = tilth(*arguments, "--policy", policy)
        assert done.returncode == 0, done.stderr
        return dict(json.loads(done.stdout))

    one(
        "import",
        data,
        "--set",
        f"path={world}/labelled",
        "--set",
        "format=coco",
        "--set",
        "empty_means=confirmed_empty",
    )
    assert one("train", "classifier", data, "--set", "steps=4", "--as", "first")["train_images"]
    test = ("--set", f"test={world}/test", "--set", "classifier=first")
    assert one("eval", data, *test, "--as", "evaluate.first")["n_images"] == 20
    published = json.loads((data / "published.json").read_text())["artifacts"]
    assert set(published) == {"first", "evaluate.first.predictions", "evaluate.first.classifier"}
    assert one("train", "few-shot", data, "--as", "first")["train_images"]
    again = one("eval", data, *test, "--as", "evaluate.first")
    assert again["test_opened"] == 2, "the model that is named is another one now, and its predictions are"
    refused = tilth("eval", data, "--policy", policy, "--set", "classifier=second")
    assert refused.returncode == 2
    assert (
        "no artifact 'second'; there are: evaluate.first.classifier, evaluate.first.predictions, first"
        in refused.stderr
    )


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def test_a_terminal_shows_bars_of_something_and_the_numbers_that_matter() -> None:
    stream = Terminal()
    events = Events(stream=stream)
    for label, total in (("empty", 0), ("full", 2), ("unknown", None)):
        with events.progress(label, total) as advance:
            advance()
    shown = stream.getvalue()
    assert "full" in shown
    assert "unknown" in shown
    assert "empty" not in shown
    facts = {"images": 3, "failed": 0, "seconds": 9.5, "images_per_s": 0.31579, "boxes": 7, "list": [1]}
    assert brief_facts(facts) == {"images": 3, "images_per_s": 0.316, "boxes": 7}
    assert brief_facts({"failed": 2}) == {"failed": 2}
