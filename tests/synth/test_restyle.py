"""Labelled images are drawn anew in a look that nobody has labelled, and their labels go along."""

from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from pydantic import ValidationError
from synth_models import FEW_STEPS, new_work, real_sample, save_controlnet, save_diffusion

from tilth.claims import Claim, State
from tilth.engine.work import Work
from tilth.errors import InputError, ModelError
from tilth.samples import NewSample, Sample
from tilth.synth.adapters import restyle
from tilth.synth.adapters.colours import colours_of
from tilth.synth.adapters.denoiser import Denoiser
from tilth.synth.adapters.lesson import edges
from tilth.synth.adapters.restyle import Restyle
from tilth.synth.adapters.settings import Layers, Learning, Slice
from tilth.synth.adapters.training import TrainLora
from tilth.synth.draw.settings import Parts


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_diffusion(tmp_path_factory.mktemp("models") / "diffusion")


@pytest.fixture(scope="module")
def controlnet(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_controlnet(tmp_path_factory.mktemp("models") / "controlnet")


@pytest.fixture
def work(tmp_path: Path) -> Work:
    work = new_work(tmp_path)
    work.name = "restyle"
    work.add("real", labelled())
    return work


def labelled(asked: tuple[str, ...] = ("knife", "bottle")) -> list[NewSample]:
    """Two thirds of 12 images show a knife or a bottle, and people looked for both in all."""
    rows = [real_sample(i, ("knife", "bottle", "")[i % 3]) for i in range(12)]
    return [replace(row, claims=tuple(replace(claim, asked=asked) for claim in row.claims)) for row in rows]


def anew(model: Path, controlnet: Path, **settings: Any) -> Restyle:
    parts = settings.pop("loras", {})
    told = {"drawing": FEW_STEPS, "style": "blueprint", "parts": Parts(controlnet=str(controlnet), loras=parts)}
    return Restyle(model=str(model), **{**told, **settings})


def made_in(work: Work) -> list[Sample]:
    return [sample for sample in work.dataset.samples() if sample.made]


def test_a_drawing_has_the_labels_of_its_parent_and_a_harmless_one_is_known_to_be_empty(
    work: Work, model: Path, controlnet: Path
) -> None:
    facts = anew(model, controlnet).run(work)
    assert (facts["made"], facts["failed"], facts["parents"]) == (12, 0, 12)
    real = {sample.id: sample for sample in work.dataset.samples() if not sample.made}
    for child in made_in(work):
        [id_] = child.origin["parents"]  # type: ignore[misc]
        parent = real[str(id_)]
        assert parent.split == child.split == "train"
        assert child.state is State.AUTO
        assert [label.category for label in child.truth.labels] == [label.category for label in parent.truth.labels]
        assert set(child.truth.looked) == {"knife", "bottle"}
        for label in child.truth.labels:  # 48 x 40, of which the middle 40 x 40 became 32 x 32
            assert label.box_xyxy == pytest.approx((4.8, 8.0, 20.8, 24.0))
    assert {child.columns["style"] for child in made_in(work)} == {"blueprint"}


def test_a_drawing_says_how_it_was_made_and_under_which_licences(work: Work, model: Path, controlnet: Path) -> None:
    anew(model, controlnet, most=4, licence="CC-BY-4.0").run(work)
    for child in made_in(work):
        told = child.origin
        assert (told["method"], told["prompt"], told["licence"]) == ("restyle", "a blueprint", "CC-BY-4.0 AND CC0-1.0")
        assert told["digital_source_type"]
        assert told["controlnet"]["name"] == str(controlnet)  # type: ignore[index, call-overload]


def test_a_killed_run_goes_on_with_the_same_pixels(work: Work, model: Path, controlnet: Path, tmp_path: Path) -> None:
    step = anew(model, controlnet)
    other = new_work(tmp_path / "other")
    other.name = "restyle"
    other.add("real", labelled())
    step.run(other)

    class Killed(BaseException):
        pass

    own, looked = restyle._framed, list[str]()

    def until_ten(parent: Sample, size_wh: tuple[int, int]) -> Any:
        looked.append(parent.id)
        if len(looked) == 10:
            raise Killed
        return own(parent, size_wh)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(restyle, "_framed", until_ten)
        with pytest.raises(Killed):
            step.run(work)
    facts = step.run(work)
    assert facts["made"] == 12
    assert {sample.id for sample in made_in(work)} == {sample.id for sample in made_in(other)}


def test_what_the_frame_cuts_fails_with_its_reason_and_what_has_no_box_is_left_out(
    tmp_path: Path, model: Path, controlnet: Path
) -> None:
    work = new_work(tmp_path)
    first, second, third = (real_sample(number, "knife") for number in range(3))
    at_the_edge = Claim(category="knife", box_xyxy=(0, 0, 6, 40), source="human:ann")
    nowhere = Claim(category="knife", source="human:ann")
    rows = [first, replace(second, claims=(at_the_edge,)), replace(third, claims=(nowhere,)), real_sample(3)]
    work.add("real", rows)
    facts = anew(model, controlnet).run(work)
    assert (facts["made"], facts["failed"]) == (1, 1)
    assert facts["failures"] == {"the frame cuts a box": 1}
    assert facts["left_out"] == {"a label has no box": 1, "nobody said what is not there": 1}


def test_neither_unlabelled_images_nor_those_of_other_splits_are_drawn_anew(
    tmp_path: Path, model: Path, controlnet: Path
) -> None:
    work = new_work(tmp_path)
    sealed, unknown = real_sample(1, "knife", split="test"), real_sample(2)
    work.add("real", [sealed, replace(unknown, claims=())])
    with pytest.raises(InputError, match="no labelled training image to draw anew"):
        anew(model, controlnet).run(work)


def test_the_colours_that_an_autoencoder_changes_are_given_back() -> None:
    import torch

    class Purple(torch.nn.Module):
        """An autoencoder that takes half of the contrast and adds red."""

        device, dtype = torch.device("cpu"), torch.float32

        def encode(self, x: torch.Tensor) -> Any:
            return SimpleNamespace(latents=x)

        def decode(self, x: torch.Tensor) -> Any:
            return SimpleNamespace(sample=0.5 * x + torch.tensor([0.2, 0.0, -0.1]).view(1, 3, 1, 1))

    rng = np.random.default_rng(0)
    images = [rng.integers(40, 200, (16, 16, 3), dtype=np.uint8) for _ in range(3)]
    found = colours_of(Purple(), images)
    assert found.gain == pytest.approx([2, 2, 2], abs=0.05)
    spoilt = Purple().decode(torch.from_numpy(images[0]).permute(2, 0, 1)[None] / 127.5 - 1).sample
    image = ((spoilt[0].permute(1, 2, 0).numpy() + 1) * 127.5).round().astype(np.uint8)
    assert np.abs(found.correct(image).astype(int) - images[0]).max() <= 3


@pytest.mark.parametrize(
    ("wrong", "why"),
    [
        ({"style": ""}, "name the style"),
        ({"parts": Parts()}, "a controlnet whose edges"),
        ({"style": "porn"}, "refused"),
        ({"prompt": "a {look}"}, "look"),
        ({"views": 0}, "views must be at least 1"),
        ({"loras": {"neon": "starter:lora-neon"}}, "no style neon"),
    ],
)
def test_a_wrong_setting_is_told_at_once(wrong: dict[str, Any], why: str, model: Path, controlnet: Path) -> None:
    with pytest.raises((ValueError, ValidationError), match=why):
        anew(model, controlnet, **wrong)


def test_an_adapter_that_learns_along_edges_is_pulled_by_them_and_draws_later(
    work: Work, model: Path, controlnet: Path
) -> None:
    images = Slice(style="blueprint", where="source is not null", aspect="square", side=64)
    learning = Learning(steps=6, batch_size=4, lr=2e-2, controlnet=str(controlnet))
    lesson = TrainLora(model=str(model), images=images, learning=learning, layers=Layers(rank=2))
    assert lesson.models() == (str(model), str(controlnet))
    (folder := work.folder / "lora").mkdir()
    facts: Any = lesson.run(replace(work, name="train.lora", folder=folder))
    assert facts["sizes"] == {"16 × 16": 12}  # latents of 64 px
    step = anew(model, controlnet, most=4, loras={"blueprint": "train.lora"})
    step.run(work)
    [adapter] = {str(child.origin["adapters"]) for child in made_in(work)}
    assert "'name': 'train.lora'" in adapter


def test_edges_pull_at_what_the_model_says(model: Path, controlnet: Path) -> None:
    import torch

    denoiser = Denoiser(str(model), "cpu", str(controlnet))
    clean, told = torch.zeros((1, 4, 8, 8)), denoiser.texts(["a blueprint"])
    square = np.zeros((32, 32, 3), np.uint8)
    square[8:24, 8:24] = 255
    with_, without = (
        denoiser.losses(clean, torch.ones_like(clean), torch.tensor([500]), told, along=along)
        for along in (edges([square]), None)
    )
    assert float(with_) != float(without)


def test_a_controlnet_of_another_model_is_refused_in_a_line(model: Path) -> None:
    with pytest.raises(ModelError, match="was made for another model than"):
        Denoiser(str(model), "cpu", "starter:controlnet")
