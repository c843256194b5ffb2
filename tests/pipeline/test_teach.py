"""A recipe that teaches a model a look and then draws with it, killed in the middle of both."""

import io
import json
import os
import signal
import subprocess
import time
from pathlib import Path
from typing import Any

import pytest
from commands import command
from places import POLICY
from safetensors.torch import load_file
from synth_models import save_diffusion

from tilth.data.dataset import Dataset
from tilth.engine.recipe import load_recipe
from tilth.errors import RecipeError
from tilth.events import Events
from tilth.pipeline.foresight import foresee
from tilth.pipeline.report.numbers import Numbers
from tilth.pipeline.report.store import training
from tilth.pipeline.run import Run
from tilth.pipeline.table import step_table
from tilth.policy import Category, load_policy
from tilth.starter.world.files import write_world
from tilth.synth.adapters.settings import Slice
from tilth.synth.adapters.training import TrainLora

RECIPE = """
recipe: taught
policy: {policy}
steps:
  - import: {{path: {world}/labelled, format: coco, empty_means: confirmed_empty, licence: CC0-1.0}}
  - as: neon
    train.lora:
      model: {model}
      images: {{where: "step = 'import'", style: neon}}
      learning: {{steps: 40, batch_size: 2, save_every: 5, patience: 0}}
  - generate:
      model: {model}
      count: 4
      styles: [neon]
      drawing: {{steps: 2, batch_size: 2}}
      parts: {{loras: {{neon: {lora}}}}}
"""


@pytest.fixture(scope="module")
def recipe(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("taught")
    write_world(root / "world", labelled=24, corpus=0, test=4, workers=1)
    model = save_diffusion(root / "diffusion")
    path = root / "taught.yaml"
    path.write_text(RECIPE.format(policy=POLICY, world=root / "world", model=model, lora="neon"))
    (root / "wrong.yaml").write_text(RECIPE.format(policy=POLICY, world=root / "world", model=model, lora="neom"))
    return path


def test_a_recipe_that_is_killed_while_it_teaches_ends_with_the_same_weights_and_the_same_drawings(
    recipe: Path, tmp_path: Path
) -> None:
    def run(name: str) -> None:
        folder = tmp_path / name / "taught"
        folder.mkdir(parents=True, exist_ok=True)
        Run(load_recipe(recipe, step_table()), folder, events=Events(folder / "events.jsonl", io.StringIO())).execute()

    run("whole")
    killed = subprocess.Popen(command("run", recipe, "--runs", tmp_path / "broken"), stderr=subprocess.DEVNULL)
    files = tmp_path / "broken" / "taught" / "files"
    deadline = time.monotonic() + 200
    while not list(files.glob("neon-*/checkpoint/adapter.ckpt")) and time.monotonic() < deadline:
        time.sleep(0.02)
    os.kill(killed.pid, signal.SIGKILL)
    assert killed.wait() == -signal.SIGKILL
    assert not list(files.glob("neon-*/adapter"))
    run("broken")

    def left(name: str) -> tuple[Any, list[str], dict[str, Any]]:
        folder = tmp_path / name / "taught"
        [path] = folder.glob("files/neon-*/adapter/*.safetensors")
        made = [sample.id for sample in Dataset(folder / "dataset").samples("made", images=False)]
        return load_file(path), made, json.loads((folder / "summary.json").read_text())

    (weights, made, summary), (again, made_again, other) = left("whole"), left("broken")
    assert all((weights[name] == again[name]).all() for name in weights)
    assert len(made) == 4
    assert made == made_again

    def judged(told: dict[str, Any]) -> list[tuple[int, float]]:
        return [(point["step"], point["val_loss"]) for point in told["steps"]["neon"]["facts"]["curve"]]

    assert [step for step, _ in judged(summary)] == [10, 20, 30, 40]
    assert judged(summary) == judged(other)
    shown = str(training(Numbers(summary)).blocks)
    assert "neon: loss" in shown
    assert "held-back images" in shown


def test_a_step_that_no_step_before_it_is_called_is_a_mistake_of_the_recipe(recipe: Path) -> None:
    with pytest.raises(
        RecipeError, match=r"parts\.loras: no step before this one is called 'neom'; did you mean 'neon'"
    ):
        load_recipe(recipe.with_name("wrong.yaml"), step_table())


def test_what_is_never_generated_is_never_taught_and_check_says_so() -> None:
    policy = load_policy(POLICY)
    bare = Category(name="bare", definition="A nude person.", prompts=("a nude person",))
    policy = policy.model_copy(update={"categories": (*policy.categories, bare)})
    step = TrainLora(images=Slice(categories=("bare",)))
    assert foresee({"teach": step}, policy).wrong == [
        "teach: bare is never generated, so no model is taught it; no setting allows it"
    ]
    assert foresee({"teach": TrainLora(images=Slice(categories=("unicorn",)))}, policy).wrong
