"""`tilth synth --dry-run` shows what would be drawn, and draws nothing."""

from pathlib import Path

import pytest
import typer
from places import POLICY
from synth_models import fill, new_work
from typer.testing import CliRunner

from tilth.errors import InputError
from tilth.pipeline.cli import steps as cli_steps
from tilth.synth.draw.pipelines import Studio


def asked(dataset: Path, *more: str) -> str:
    app = typer.Typer()
    cli_steps.add_to(app)
    done = CliRunner().invoke(app, ["synth", str(dataset), "--policy", str(POLICY), "--dry-run", *more])
    if done.exception is not None:
        raise done.exception
    return done.stdout


def test_a_dry_run_shows_the_plan_and_leaves_the_dataset_as_it_is(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Studio, "__init__", lambda *_, **__: pytest.fail("the model was loaded"))
    work = new_work(tmp_path)
    fill(work)
    there = sorted(path.relative_to(tmp_path) for path in tmp_path.rglob("*") if "view" not in path.parts)
    shown = asked(tmp_path / "dataset", "--set", "count=10")
    assert "10 images, beside 24 real ones" in shown
    assert "10 by text" in shown
    assert "10 of 10 prompts" in shown
    assert sorted(path.relative_to(tmp_path) for path in tmp_path.rglob("*") if "view" not in path.parts) == there


def test_a_dry_run_needs_a_dataset_and_right_settings(tmp_path: Path) -> None:
    with pytest.raises(InputError):
        asked(tmp_path / "absent")
    fill(new_work(tmp_path))
    with pytest.raises(InputError, match="count must be at least 1"):
        asked(tmp_path / "dataset", "--set", "count=0")
