"""Scheduler, strength and size are settings; what does not fit the model is one line."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from pydantic import TypeAdapter, ValidationError
from synth_models import FEW_STEPS, fast, fill, new_work, real_sample, save_controlnet, save_diffusion

from tilth.errors import InputError, ModelError
from tilth.images import decode
from tilth.synth.draw.pipelines import Studio
from tilth.synth.draw.settings import Drawing, Parts

PROMPTS = ["a red knife", "a blue bottle"]
SEEDS = [5, 6]


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_diffusion(tmp_path_factory.mktemp("models") / "diffusion")


@pytest.mark.parametrize(
    ("settings", "says"),
    [
        (
            {"scheduler": "EulerDiscreteSchedular"},
            r"scheduler must be one of DDIMScheduler, .*, got 'EulerDiscreteSchedular'; did you mean 'EulerDiscreteScheduler'\?",
        ),
        ({"strength": 0}, r"strength must lie in \(0, 1\], got 0"),
        ({"size": [64, 4]}, r"size must be at least 8 pixels, or 0 for the model's own, got \(64, 4\)"),
        ({"size": [64]}, "size"),
    ],
)
def test_wrong_settings_of_a_drawing_say_what_is_right(settings: dict[str, Any], says: str) -> None:
    with pytest.raises(ValidationError, match=says):
        TypeAdapter(Drawing).validate_python(settings)


@pytest.mark.parametrize("name", ["EulerDiscreteScheduler", "DDPMScheduler", "LCMScheduler"])
def test_another_scheduler_draws_other_images_and_each_from_its_own_seed(model: Path, name: str) -> None:
    drawing = Drawing(steps=2, scheduler=name)
    own, other = Studio(str(model), device="cpu"), Studio(str(model), drawing=drawing, device="cpu")
    assert (own.scheduler, other.scheduler) == ("DPMSolverMultistepScheduler", name)
    plain, drawn = own.from_text(PROMPTS, SEEDS, drawing), other.from_text(PROMPTS, SEEDS, drawing)
    assert np.abs(plain[0].astype(int) - drawn[0]).mean() > 1
    [alone] = other.from_text(PROMPTS[1:], SEEDS[1:], drawing)
    assert np.abs(drawn[1].astype(int) - alone).mean() < 1


def test_a_scheduler_for_other_noise_and_a_size_between_steps_are_one_line(model: Path) -> None:
    with pytest.raises(
        ModelError, match="its noise is not that of FlowMatchEulerDiscreteScheduler; schedulers that fit it: DDIM"
    ) as caught:
        Studio(str(model), drawing=Drawing(scheduler="FlowMatchEulerDiscreteScheduler"), device="cpu")
    assert "\n" not in str(caught.value)
    with pytest.raises(InputError, match="draws in steps of 4 pixels, got a size of 30; take 32"):
        Studio(str(model), drawing=Drawing(size=(64, 30)), device="cpu")


def test_images_need_not_be_square(model: Path, tmp_path: Path) -> None:
    work = new_work(tmp_path)
    fill(work)
    step = fast(
        model,
        count=9,
        categories=("knife",),
        methods={"text": 1, "edges": 1, "inpaint": 1},
        parts=Parts(controlnet=str(save_controlnet(tmp_path / "controlnet"))),
        drawing=replace(FEW_STEPS, size=(48, 32), scheduler="DDIMScheduler"),
    )
    facts = step.run(work)
    assert facts["failures"] == {}
    assert set(facts["by_method"]) == {"text", "edges", "inpaint"}
    samples = [s for s in work.dataset.samples() if s.made]
    assert {s.size_wh for s in samples} == {(48, 32)}
    for sample in samples:
        assert sample.origin["size_wh"] == [48, 32]
        assert sample.origin["scheduler"] == "DDIMScheduler"
        if box := sample.claims[0].box_xyxy:
            assert 0 <= box[0] < box[2] <= 48
            assert 0 <= box[1] < box[3] <= 32
    # parents are 48 x 40 with a thing at 10 to 30: the frame is as wide as they are, and cuts four rows above and below
    [edges] = {s.claims[0].box_xyxy for s in samples if s.origin["method"] == "edges"}
    assert edges == pytest.approx((10, 6, 30, 26), abs=0.1)


def test_less_strength_leaves_more_of_what_is_in_the_hole(model: Path) -> None:
    studio = Studio(str(model), device="cpu")
    reference = decode(real_sample(1).data)[:32, :32]
    hole = np.zeros((32, 32), np.uint8)
    hole[8:24, 8:24] = 255

    def changed(strength: float) -> float:
        [drawn] = studio.into_holes(PROMPTS[:1], SEEDS[:1], [reference], [hole], Drawing(steps=10, strength=strength))
        return float(np.abs(drawn.astype(int) - reference)[10:22, 10:22].mean())

    assert changed(0.1) < changed(1.0)
