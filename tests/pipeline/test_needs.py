"""What a step takes with a model of full size was measured once, and is said before a run takes it."""

import json
from pathlib import Path
from types import SimpleNamespace

import pytest
import yaml
from places import POLICY, ROOT

from tilth.engine.recipe import load_recipe
from tilth.engine.work import Step
from tilth.mining.search.mine import Mine
from tilth.pipeline import needs
from tilth.pipeline.foresight import foresee
from tilth.pipeline.plan import plan_tables, plan_text
from tilth.pipeline.steps.language import Asking
from tilth.pipeline.steps.package import Package
from tilth.pipeline.table import step_table
from tilth.policy import load_policy
from tilth.synth.draw.generate import Generate
from tilth.train.learn.detector import TrainDetector

HUB = ROOT / "configs" / "recipes" / "hub.yaml"
DFINE = "ustc-community/dfine-small-obj2coco@2b54"
DRAWS = "stable-diffusion-v1-5/stable-diffusion-v1-5@451f"
FIGURES = {
    "d_fine_small.train.peak_mb": 9000.0,
    "d_fine_small.train.core_s_an_image": 4.0,
    "stable_diffusion_1_5.draw.peak_mb": 7000.0,
    "stable_diffusion_1_5.draw.core_s_a_step": 20.0,
    "stable_diffusion_1_5.inpaint.peak_mb": 8000.0,
}


@pytest.fixture(autouse=True)
def measured(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(needs, "_figures", lambda: FIGURES)
    monkeypatch.setattr("tilth.models.device", lambda wanted="auto": "cpu")


def memory_of(monkeypatch: pytest.MonkeyPatch, mb: int) -> None:
    monkeypatch.setattr("psutil.virtual_memory", lambda: SimpleNamespace(total=mb * 10**6))


@pytest.mark.parametrize(
    ("step", "peak_mb", "is_measured"),
    [
        (TrainDetector(model=DFINE), 9000, True),
        (Generate(model=DRAWS), 8000, True),  # the most that any way of drawing took
        (Package(language_model="Qwen/Qwen2.5-7B-Instruct@a09a"), 71000, False),
        (Package(language_model="Qwen/Qwen2.5-7B-Instruct@a09a", asking=Asking(back_end="transformers")), 15500, False),
        (Mine(corpus="/corpus", model="facebook/dinov2-small@ed25"), 0, False),  # nobody measured this part
        (Package(language_model=""), 0, False),
        (TrainDetector(model="somebody/unknown@1"), 0, False),
    ],
)
def test_what_a_step_takes_is_what_was_measured_or_else_what_its_card_estimates(
    step: Step, peak_mb: float, is_measured: bool
) -> None:
    found = [(need.peak_mb, need.measured) for need in needs.needs(step)]
    assert found == ([(peak_mb, is_measured)] if peak_mb else [])


def test_a_plan_says_what_each_step_takes_and_what_does_not_fit(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    memory_of(monkeypatch, 12_000)
    settings = {name: str(tmp_path) for name in ("labelled", "corpus", "test")}
    tables = plan_tables(load_recipe(HUB, step_table(), settings, None), tmp_path)
    told = plan_text(tables)
    assert "at its peak 9,000 MB of memory, 4 s of one core an image" in told
    assert "at its peak 8,000 MB of memory, 600 s of one core an image" in told, "which is drawn in 30 steps"
    assert "at its peak about 15,500 MB of memory\n" in told
    assert "does not fit this machine\n  package: Qwen/Qwen2.5-7B-Instruct" in told
    assert "takes about 15,500 MB of memory at its peak, and this machine has 12,000; take a smaller model" in told
    rows = {row["step"]: row for row in tables["steps"]}
    assert rows["final.detector"]["peak_mb"] == 9000
    assert (rows["hash"]["peak_mb"], rows["hash"]["too_large"]) == (None, [])
    memory_of(monkeypatch, 96_000)
    assert "does not fit" not in plan_text(plan_tables(load_recipe(HUB, step_table(), settings, None), tmp_path))


def test_the_start_of_a_run_says_it_too_but_where_a_gpu_has_memory_of_its_own(monkeypatch: pytest.MonkeyPatch) -> None:
    memory_of(monkeypatch, 8_500)
    monkeypatch.setattr("tilth.models.check", lambda name: None)
    steps: dict[str, Step] = {"learn": TrainDetector(model=DFINE), "draw": Generate(model=DRAWS)}
    [note] = foresee(steps, load_policy(POLICY)).notes
    assert note.startswith(f"learn: {DFINE} takes 9,000 MB of memory at its peak, and this machine has 8,500;")
    monkeypatch.setattr("tilth.models.device", lambda wanted="auto": "cuda")
    assert foresee(steps, load_policy(POLICY)).notes == []
    large = Package(language_model="Qwen/Qwen2.5-7B-Instruct@a09a")
    assert needs.too_large("package", large), "models are packaged on the CPU, whatever else there is"


def test_cards_and_rehearsals_name_each_other(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(ROOT / "benchmarks"))
    from full_size_models import FAMILIES  # type: ignore[import-not-found]

    cards = [yaml.safe_load(path.read_text()) for path in (ROOT / "configs" / "models").glob("hub-*.card.yaml")]
    named = {card["full_size"]: card["location"].partition("@")[0] for card in cards if "full_size" in card}
    assert named == {name: family.hub for name, family in FAMILIES.items()}


def test_the_figures_are_the_benchmarks_own() -> None:
    path = ROOT / "configs" / "models" / "full_size.json"
    assert (ROOT / "benchmarks" / "results" / "full_size.json").resolve() == path
    assert json.loads(path.read_text())["command"].startswith("python benchmarks/full_size.py")
