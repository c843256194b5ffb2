"""Every example that a help text gives is run as it stands, one after the other, by somebody who began with photographs."""

import re
import shlex
from pathlib import Path

import pytest
import typer
from places import ROOT
from typer.testing import CliRunner

from tilth.data.dataset import Dataset
from tilth.pipeline.cli import main as cli
from tilth.pipeline.cli import steps as cli_steps
from tilth.starter.world.files import write_world

# what an example needs besides the examples before it
BEFORE = {
    "fuse": [
        "tilth ground data/mine --policy configs/policies/starter.yaml --as tiled --set tiles=2 --set threshold=0.3"
    ],
    "judge": ["tilth ground data/mine --policy configs/policies/starter.yaml --set threshold=0.35 --set tiles=2"],
    "gate": [
        "tilth train classifier data/mine --policy configs/policies/starter.yaml --as old.classifier --set steps=4",
        "tilth calibrate data/mine --policy configs/policies/starter.yaml --as old --set classifier=old.classifier "
        "--set detector=train.detector",
        f"tilth eval data/mine --policy configs/policies/starter.yaml --as evaluate.old --set test=/data/test --set {cli_steps.BOTH}",
        f"tilth eval data/mine --policy configs/policies/starter.yaml --as evaluate.new --set test=/data/test --set {cli_steps.BOTH}",
    ],
}
ORDER = (
    "policy new", "policy check", "check", "plan", "doctor", "import", "mine", "ground", "second-opinion", "fuse", "thresholds",
    "hash", "quality", "words", "filter", "label-errors", "clean", "leakage", "split", "synth", "judge", "prove", "forget",
    "train classifier", "train detector", "train few-shot", "train lora", "calibrate", "eval", "gate", "relabel", "package",
    "bundle verify", "bundle policy", "tune", "moderate",
    "history", "diff", "tag", "rollback", "count", "explain", "export", "gallery",
)  # fmt: skip
ELSEWHERE = {
    "run": "by `make demo`, and with a small recipe in test_run.py",
    "status": "of a run, in test_run.py",
    "report": "of a run, in test_report.py",
    "serve": "in test_first_hour.py",
    "retrain": "in test_retrain.py",
    "train auto": "with fewer steps, in test_choose.py",
    "promote": "in tests/runtime/test_champion.py, and in test_retrain.py",
    "bundle thresholds": "in test_costs.py",
    "face-swap": "with a network and consents, in tests/synth/identity",
    "console": "in tests/pipeline/console",
    "env": "it would fetch gigabytes",
    "provenance": "in test_tell.py",
    "train person": "in tests/pipeline/persons",
    "person enrol": "the same",
    "person find": "the same",
    "person forget": "the same",
    "import-text": "in tests/annotate/texts",
    "import-sound": "in tests/annotate/sounds",
    "mine-text": "in test_mine_text.py",
    "review up": "with a real server, in tests/annotate/review",
    "review down": "the same",
    "review push": "the same",
    "review pull": "the same",
    "review status": "the same",
}


@pytest.fixture(scope="module")
def app() -> typer.Typer:
    app = typer.Typer()
    app.registered_commands = list(cli.app.registered_commands)
    cli.complete(app)
    return app


@pytest.fixture(scope="module")
def examples(app: typer.Typer) -> dict[str, str]:
    """Ask each command for its help, and return the example in it."""
    found: dict[str, str] = {}
    waiting = [((), typer.main.get_command(app))]
    while waiting:
        path, command = waiting.pop()
        if hasattr(command, "commands"):
            waiting += [((*path, name), each) for name, each in command.commands.items()]  # type: ignore[misc, attr-defined]
            continue
        shown = CliRunner().invoke(app, [*path, "--help"], env={"COLUMNS": "300"}).output
        example = re.search(r"Example: (tilth .*?)\s*$", shown, re.M)
        assert example, f"{' '.join(path)} --help gives no example"
        found[" ".join(path)] = example[1]
    return found


def test_every_command_gives_an_example_that_is_run_somewhere(examples: dict[str, str]) -> None:
    assert set(examples) == {*ORDER, *ELSEWHERE}


def test_every_command_stands_under_a_heading(app: typer.Typer) -> None:
    shown = CliRunner().invoke(app, ["--help"], env={"COLUMNS": "300"}).output
    headings = re.findall(r"╭─ (.*?) ─", shown)
    assert headings == ["Options", *cli.HEADINGS]
    named = " ".join(cli.HEADINGS.values()).split()
    assert sorted(named) == sorted({cli.called(one) for one in (*app.registered_commands, *app.registered_groups)})


def test_the_examples_run_one_after_the_other(
    app: typer.Typer, examples: dict[str, str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "configs").symlink_to(ROOT / "configs")
    world = tmp_path / "runs" / "faithful-world"
    write_world(world, labelled=40, corpus=24, test=24, workers=1)
    places = {"/photos": "labelled", "/corpus": "corpus", "/data/test": "test", "photo.jpg": "test/images"}

    def run(line: str) -> None:
        for there, here in places.items():
            line = line.replace(there, str(world / here))
        line = line.replace("runs/starter/dataset", "data/mine").replace("runs/starter/bundle", "data/mine/bundle")
        line = re.sub(r"\b(steps|count|per_category)=\d+", r"\1=4", line)
        if "explain" in line:
            line = line.replace("3f9a", next(Dataset(Path("data/mine")).ids())[0][:8])
        done = CliRunner().invoke(app, shlex.split(line)[1:], catch_exceptions=False)
        assert done.exit_code == 0, f"{line}\n{done.output[-1000:]}"

    for name in ORDER:
        for line in [*BEFORE.get(name, ()), examples[name]]:
            run(line)
