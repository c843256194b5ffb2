"""Adapters for models of every family: taught, written, read in both spellings, drawn with alone and together, refused for another base."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from diffusion_families import FAMILIES
from safetensors.torch import load_file, save_file
from synth_models import fill, new_work, save_diffusion

from tilth.errors import ModelError
from tilth.synth.adapters.denoiser import Denoiser
from tilth.synth.adapters.settings import Layers, Learning, Slice
from tilth.synth.adapters.training import TrainLora
from tilth.synth.draw.pipelines import Studio
from tilth.synth.draw.settings import Drawing, Parts

TWO = Drawing(steps=2)


@pytest.fixture(scope="module")
def family(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    root = tmp_path_factory.mktemp("families")
    return {name: save(root / name) for name, save in FAMILIES.items()}


@pytest.fixture(scope="module")
def taught(family: dict[str, Path], tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """Teach each family, its text encoders as well."""
    found = {}
    for name, model in family.items():
        work = new_work(tmp_path_factory.mktemp(name))
        fill(work)
        step = TrainLora(
            model=str(model),
            images=Slice(categories=("bottle",)),
            layers=Layers(rank=2, text_encoder=True),
            learning=Learning(steps=4, batch_size=2, lr=0.05),
        )
        found[name] = step.run(work)
    return found


def drawn(model: Path, parts: Parts, *styles: str) -> list[np.ndarray]:
    studio = Studio(str(model), parts, device="cpu")
    images = [studio.from_text(["a bottle"], [3], TWO, style)[0] for style in styles]
    assert not any(isinstance(image, str) for image in images), images
    return [image.astype(int) for image in images]  # type: ignore[union-attr]


def layers_in(adapter: str) -> set[str]:
    [path] = Path(adapter).glob("*.safetensors")
    return {key.partition(".")[0] for key in load_file(path)}


@pytest.mark.parametrize("name", FAMILIES)
def test_every_family_is_taught_and_draws_otherwise_with_what_it_learned(
    family: dict[str, Path], taught: dict[str, Any], name: str
) -> None:
    facts = taught[name]
    core = "transformer" if name == "sd3" else "unet"
    more = {"text_encoder"} if name == "sd15" else {"text_encoder", "text_encoder_2"}
    assert layers_in(facts["adapter"]) == {core} | more
    assert facts["val_loss_before"] > 0
    plain, other, again = drawn(family[name], Parts(loras={"look": facts["adapter"]}), "", "look", "")
    assert np.abs(plain - other).mean() > 1
    assert np.array_equal(plain, again)  # what was fused is taken out to the last bit


def test_a_file_in_the_spelling_of_kohya_draws_as_that_of_diffusers(
    family: dict[str, Path], taught: dict[str, Any], tmp_path: Path
) -> None:
    [path] = Path(taught["sd15"]["adapter"]).glob("*.safetensors")
    spelt = {}
    for key, weight in load_file(path).items():
        part, _, layer = key.partition(".")
        layer, _, side = layer.removesuffix(".weight").rpartition(".")
        prefix = "lora_te" if part == "text_encoder" else "lora_unet"
        if part == "text_encoder" and not layer.startswith("text_model."):
            layer = f"text_model.{layer}"
        name = f"{prefix}_{layer.replace('.', '_')}"
        spelt[f"{name}.lora_{'down' if side.endswith('A') else 'up'}.weight"] = weight
        spelt[f"{name}.alpha"] = torch.tensor(2.0)
    save_file(spelt, tmp_path / "kohya.safetensors")
    parts = Parts(loras={"own": taught["sd15"]["adapter"], "kohya": str(tmp_path / "kohya.safetensors")})
    own, kohya = drawn(family["sd15"], parts, "own", "kohya")
    assert np.abs(own - kohya).max() <= 1


def test_several_adapters_draw_one_style_each_as_strongly_as_its_weight(
    family: dict[str, Path], taught: dict[str, Any], tmp_path: Path
) -> None:
    one = taught["sd15"]["adapter"]
    [path] = Path(one).glob("*.safetensors")
    weights = {key: (-weight if "lora_B" in key else weight) for key, weight in load_file(path).items()}
    save_file(weights, tmp_path / "against.safetensors")
    both = (one, str(tmp_path / "against.safetensors"))
    parts = Parts(
        loras={"one": one, "cancel": both, "half": both}, lora_weights={"cancel": (1.0, 1.0), "half": (1.0, 0.5)}
    )
    plain, whole, cancelled, half = drawn(family["sd15"], parts, "", "one", "cancel", "half")
    assert np.abs(cancelled - plain).mean() < 0.5
    assert 0 < np.abs(half - plain).mean() < np.abs(whole - plain).mean()


@pytest.mark.parametrize(("made_for", "put_on"), [("sd15", "sdxl"), ("sdxl", "sd15"), ("sd3", "sd15"), ("sd15", "sd3")])
def test_an_adapter_for_another_base_is_refused_in_a_line_that_names_its_own(
    family: dict[str, Path], taught: dict[str, Any], made_for: str, put_on: str
) -> None:
    with pytest.raises(ModelError) as caught:
        Studio(str(family[put_on]), Parts(loras={"look": taught[made_for]["adapter"]}), device="cpu")
    told = str(caught.value)
    assert "\n" not in told
    assert len(told) < 1000
    assert f"its metadata says that it was made for {family[made_for]}" in told


def test_a_model_for_inpainting_is_not_taught(tmp_path: Path) -> None:
    from diffusers import StableDiffusionPipeline, UNet2DConditionModel

    folder = save_diffusion(tmp_path / "inpainting")
    pipeline = StableDiffusionPipeline.from_pretrained(folder)
    pipeline.unet = UNet2DConditionModel.from_config({**pipeline.unet.config, "in_channels": 9})
    pipeline.save_pretrained(folder)
    with pytest.raises(ModelError, match="takes 9 channels instead of 4, as for inpainting; train on its base"):
        Denoiser(str(folder), "cpu")
