"""The recipe for a style that nobody labelled goes through, with next to nothing."""

import json
from pathlib import Path
from typing import Any

import pytest
import typer
from places import ROOT
from typer.testing import CliRunner

from tilth.data.dataset import Dataset
from tilth.pipeline.cli import main as cli
from tilth.starter.world.files import write_world

RECIPE = ROOT / "configs" / "recipes" / "new-style.yaml"


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("style")
    only: dict[str, Any] = {"styles": ("photo",), "test_styles": ("blueprint",), "examples": 6}
    write_world(folder / "world", labelled=30, corpus=0, test=6, workers=1, **only)
    app = typer.Typer()
    app.registered_commands = list(cli.app.registered_commands)
    told = ["run", str(RECIPE), "--set", f"world={folder / 'world'}", "--set", "steps=2", "--runs", str(folder)]
    done = CliRunner().invoke(app, told)
    assert done.exception is None, done.output
    return folder / "new-style"


def facts(run: Path, step: str) -> Any:
    return json.loads((run / "summary.json").read_text())["steps"][step]["facts"]


def test_drawings_have_the_labels_of_photo_like_images_and_examples_have_none(run: Path) -> None:
    samples = list(Dataset(run / "dataset").samples(images=False))
    real = {sample.id: sample for sample in samples if not sample.made}
    unlabelled = [sample for sample in real.values() if sample.state == "unlabelled"]
    made = [sample for sample in samples if sample.made]
    assert len(unlabelled) == 6
    assert len(made) == facts(run, "restyle")["made"] > 20
    for child in made:
        [parent] = [real[str(id_)] for id_ in child.origin["parents"]]  # type: ignore[union-attr]
        assert parent.split != "val"
        assert child.truth.categories == parent.truth.categories


def test_the_look_is_learned_from_the_examples_alone_and_the_detector_from_both(run: Path) -> None:
    learned = facts(run, "train.lora")
    assert learned["train_images"] + learned["val_images"] == 6
    assert learned["captions"] == ["a blueprint"]
    real = facts(run, "photo.detector")["train_images"]
    assert facts(run, "final.detector")["train_images"] == real + facts(run, "restyle")["made"]
    assert facts(run, "evaluate.final")["against"]["name"] == "evaluate.photo"
