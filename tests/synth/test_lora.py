"""An adapter learns a look from a few samples of the training split."""

from pathlib import Path

import numpy as np
import pytest
from synth_models import fill, new_work, save_diffusion

from tilth.errors import InputError
from tilth.samples import Sample
from tilth.synth.adapters.lora import Lesson, train_lora
from tilth.synth.draw.pipelines import Studio
from tilth.synth.draw.settings import Drawing, Parts


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_diffusion(tmp_path_factory.mktemp("models") / "diffusion")


def samples_of(root: Path, split: str) -> list[Sample]:
    work = new_work(root)
    fill(work)
    return [s for s in work.dataset.samples() if s.split == split][:8]


def test_an_adapter_learns_its_samples_and_loads_again(model: Path, tmp_path: Path) -> None:
    samples = samples_of(tmp_path, "train")
    out = tmp_path / "adapter"
    lesson = Lesson(
        steps=80, lr=2e-2, rank=4, targets=("to_q", "to_k", "to_v", "to_out.0", "conv1", "conv2", "conv_out")
    )
    losses = train_lora(str(model), samples, ["a knife"] * len(samples), out, lesson, device="cpu")
    assert len(losses) == 80
    assert np.mean(losses[-10:]) < 0.8 * np.mean(losses[:10])
    assert [p.name for p in out.iterdir()] == ["pytorch_lora_weights.safetensors"]
    studio = Studio(str(model), Parts(loras={"look": str(out)}), device="cpu")
    plain, taught = (studio.from_text(["a knife"], [3], Drawing(steps=2), adapter)[0] for adapter in ("", "look"))
    assert np.abs(plain.astype(int) - taught).mean() > 1


def test_an_adapter_learns_neither_from_the_test_split_nor_from_what_is_refused(model: Path, tmp_path: Path) -> None:
    sealed, free = samples_of(tmp_path / "a", "test"), samples_of(tmp_path / "b", "train")
    out = tmp_path / "adapter"
    with pytest.raises(InputError, match="not of the training split"):
        train_lora(str(model), sealed, ["a knife"] * len(sealed), out, Lesson())
    with pytest.raises(InputError, match="refused: sexual content"):
        train_lora(str(model), free, ["a nude person"] * len(free), out, Lesson())
    with pytest.raises(InputError, match=r"captions: 1 of 1 texts are too long .* of which 20 are read"):
        train_lora(str(model), free, ["a knife on a table, " * 9] * len(free), out, Lesson())
    with pytest.raises(InputError, match="got 8 and 1"):
        train_lora(str(model), free, ["a knife"], out, Lesson())
    assert not out.exists()
