"""An adapter learns a slice of the dataset, goes on after a kill, says what it is, and is drawn with."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from pydantic import TypeAdapter, ValidationError
from safetensors import safe_open
from safetensors.torch import load_file
from synth_models import fast, fill, new_work, real_sample, save_diffusion

from tilth import models
from tilth.engine.work import Work
from tilth.errors import InputError
from tilth.policy import Category
from tilth.synth.adapters.choosing import choose
from tilth.synth.adapters.lesson import Lesson
from tilth.synth.adapters.settings import Captions, Layers, Learning, Slice
from tilth.synth.adapters.training import TrainLora
from tilth.synth.draw.pipelines import Studio
from tilth.synth.draw.settings import Drawing, Parts
from tilth.synth.safety.refusals import version

ALL = ("to_q", "to_k", "to_v", "to_out.0", "conv1", "conv2", "conv_out")
KNIVES = Slice(categories=("knife",), style="neon", where="source is not null")


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_diffusion(tmp_path_factory.mktemp("models") / "diffusion")


def lora_work(root: Path) -> Work:
    work = new_work(root)
    work.name = "train.lora"
    fill(work)
    return work


def quick(model: Path, steps: int = 4, **settings: Any) -> TrainLora:
    learning = Learning(steps=steps, batch_size=4, lr=2e-2, save_every=2)
    chosen = {"images": KNIVES, "learning": learning, "layers": Layers(rank=4, targets=ALL), **settings}
    return TrainLora(model=str(model), **chosen)


def weights_of(facts: Any) -> dict[str, np.ndarray]:
    return {k: v.numpy() for k, v in load_file(Path(facts["adapter"]) / "pytorch_lora_weights.safetensors").items()}


def test_an_adapter_learns_its_slice_and_says_what_it_is(model: Path, tmp_path: Path) -> None:
    work = lora_work(tmp_path)
    facts: Any = quick(model, steps=80).run(work)
    assert (facts["train_images"], facts["val_images"], facts["matched"]) == (10, 2, 12)
    assert facts["val_loss"] < 0.9 * facts["val_loss_before"]
    assert [point["step"] for point in facts["curve"]] == [20, 40, 60, 80]
    assert facts["captions"] == ["a neon of a blade", "a neon of a knife"]
    assert work.artifacts["train.lora"] == Path(facts["adapter"])
    [path] = work.artifacts["train.lora"].iterdir()
    with safe_open(path, framework="np") as file:
        told = file.metadata()
    assert told["base_model"] == str(model)
    assert told["base_model_digest"] == models.digest(str(model))
    assert (told["rank"], told["trigger"], told["images"]) == ("4", "neon", "12")
    assert told["licence"] == "unknown AND CC0-1.0"
    assert told["refusals"] == version()
    assert len(told["data_digest"]) == 12
    studio = Studio(str(model), Parts(loras={"look": str(path.parent)}), device="cpu")
    plain, taught = (studio.from_text(["a knife"], [3], Drawing(steps=2), adapter)[0] for adapter in ("", "look"))
    assert np.abs(plain.astype(int) - taught).mean() > 1


def test_a_step_draws_with_the_adapter_of_an_earlier_one_and_its_images_say_so(model: Path, tmp_path: Path) -> None:
    work = lora_work(tmp_path)
    facts: Any = quick(model).run(work)
    work.name, work.folder = "generate", tmp_path / "drawn"
    step = fast(model, categories=("knife",), count=4, styles=("neon",), parts=Parts(loras={"neon": "train.lora"}))
    assert step.models() == (str(model),)
    step.run(work)
    made = [sample for sample in work.dataset.samples() if sample.made]
    assert len(made) == 4
    for sample in made:
        digest = models.digest(facts["adapter"])
        assert sample.origin["adapters"] == [{"name": "train.lora", "digest": digest, "weight": 1.0}]


@pytest.mark.parametrize("layers", [Layers(rank=2), Layers(rank=2, text_encoder=True)])
def test_a_training_that_is_killed_goes_on_to_the_same_weights(model: Path, tmp_path: Path, layers: Layers) -> None:
    step = quick(model, steps=9, layers=layers)
    whole = weights_of(step.run(lora_work(tmp_path / "whole")))
    work = lora_work(tmp_path / "killed")
    own = Lesson.loss_at

    class Killed(BaseException):
        pass

    def until_seven(lesson: Lesson, at: int) -> Any:
        if at == 7:
            raise Killed
        return own(lesson, at)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Lesson, "loss_at", until_seven)
        with pytest.raises(Killed):
            step.run(work)
    facts: Any = step.run(work)
    again = weights_of(facts)
    assert whole.keys() == again.keys()
    assert all(np.array_equal(whole[name], again[name]) for name in whole)
    assert [point["step"] for point in facts["curve"]] == [2, 4, 6, 8, 9]


def test_an_adapter_learns_neither_from_other_splits_nor_from_what_was_made(model: Path, tmp_path: Path) -> None:
    work = lora_work(tmp_path)
    work.add("more", [real_sample(900, "knife", made="yes", digital_source_type="trainedAlgorithmicMedia")])
    chosen = choose(work, KNIVES, Captions(), lambda text: True)
    samples = [one.sample for one in chosen.shown]
    assert len(samples) == 12
    assert {(s.split, s.made) for s in samples} == {("train", False)}
    with pytest.raises(
        InputError, match=r"at least 5 real images of the training split, and 0 are in the slice; the slice is: "
    ):
        choose(work, Slice(where="split = 'test'"), Captions(), lambda text: True)


def test_what_is_refused_teaches_nothing(model: Path, tmp_path: Path) -> None:
    work = lora_work(tmp_path)
    bare = Category(name="bare", definition="A nude person.", prompts=("a nude person",))
    work.policy = work.policy.model_copy(update={"categories": (*work.policy.categories, bare)})
    work.add("more", [real_sample(n, "bare") for n in range(900, 906)])
    work.add("words", [real_sample(n, "knife", caption="a naked man with a knife") for n in range(910, 913)])
    chosen = choose(work, Slice(), Captions(), lambda text: True)
    assert chosen.refused == 9
    assert len(chosen.shown) == 24
    with pytest.raises(InputError, match="bare is never generated, so no model is taught it"):
        choose(work, Slice(categories=("bare",)), Captions(), lambda text: True)


@pytest.mark.parametrize(
    ("settings", "says"),
    [
        ({"captions": {"trigger": "nude"}}, "refused: sexual content"),
        ({"images": {"style": "porn"}}, "refused: sexual content"),
        ({"captions": {"template": "a naked {style}"}}, "refused: sexual content"),
        ({"captions": {"template": "a {colour} {style}"}}, r"nothing fills \{colour\}"),
        ({"captions": {"trigger": "zwx", "template": "a {content}"}}, "the trigger 'zwx' is nowhere in 'a {content}'"),
        ({"images": {"most": 4}}, "most must be at least 5, got 4"),
        ({"images": {"val_share": 0}}, r"val_share must lie in \(0, 0.5\], got 0"),
        ({"layers": {"rank": 0}}, r"rank must lie in \[1, 1024\], got 0"),
        ({"learning": {"steps": 0}}, "steps must be at least 1, got 0"),
        ({"prior": {"share": 1}}, r"share must lie in \(0, 0.9\], got 1"),
    ],
)
def test_wrong_settings_say_what_is_right(settings: dict[str, Any], says: str) -> None:
    with pytest.raises(ValidationError, match=says):
        TypeAdapter(TrainLora).validate_python(settings)
