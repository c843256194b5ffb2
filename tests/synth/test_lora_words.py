"""What an adapter is told of its images: by labels, by a captioner, and beside them images that keep what the model knew."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from captioners import CAPTIONERS
from synth_models import fill, new_work, real_image, real_sample, save_diffusion

from tilth.engine.work import Work
from tilth.errors import InputError, ModelError
from tilth.synth.adapters import prior
from tilth.synth.adapters.captioner import Captioner
from tilth.synth.adapters.captions import written
from tilth.synth.adapters.choosing import choose
from tilth.synth.adapters.lesson import Lesson
from tilth.synth.adapters.settings import Captions, Learning, Prior, Slice
from tilth.synth.adapters.training import TrainLora


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_diffusion(tmp_path_factory.mktemp("models") / "diffusion")


@pytest.fixture
def work(tmp_path: Path) -> Work:
    work = new_work(tmp_path)
    fill(work)
    return work


def fits(text: str) -> bool:
    return len(text.split()) <= 7


def test_captions_say_the_trigger_and_all_words_of_the_policy_and_only_the_trigger_of_what_is_empty(work: Work) -> None:
    chosen = choose(work, Slice(where="step is not null", style="neon"), Captions(trigger="zwx"), fits)
    told = {
        captions: sum(one.captions == captions for one in chosen.shown)
        for captions in {one.captions for one in chosen.shown}
    }
    assert told == {
        ("a zwx of a knife", "a zwx of a blade"): 12,
        ("a zwx of a bottle", "a zwx of a flask"): 6,
        ("a zwx",): 6,
    }
    assert sum(one.val for one in chosen.shown) == 4


def test_a_caption_that_the_model_would_not_read_to_its_end_loses_what_is_last() -> None:
    assert written("a knife, a bottle and a dice", "neon", Captions(), fits) == "a neon of a knife, a bottle"
    assert written("an " + "very " * 9, "neon", Captions(), lambda text: len(text) < 8) == "a neon"


@pytest.mark.parametrize("kind", CAPTIONERS)
def test_a_captioner_says_what_is_in_images_once_even_if_the_step_is_killed(
    work: Work, tmp_path: Path, kind: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    net = str(CAPTIONERS[kind](tmp_path / kind))
    notes = tmp_path / "captions.json"
    samples = list(work.dataset.samples("split = 'train'"))[:10]
    said = Captioner(net, "cpu", notes)(samples)
    assert len(said) == 10
    assert all(said)
    alone = Captioner(net, "cpu", tmp_path / "alone.json")(samples[9:])
    assert alone == said[9:]
    monkeypatch.setattr(Captioner, "_load", lambda self: pytest.fail("it was said already"))
    assert Captioner(net, "cpu", notes)(samples) == said
    with pytest.raises(ModelError, match="a captioner is a BLIP or BLIP-2 that writes; this is vit"):
        Captioner("starter:classifier", "cpu", notes)


def test_what_a_captioner_says_is_refused_like_any_words(work: Work) -> None:
    with pytest.raises(InputError, match="refused: sexual content"):
        choose(work, Slice(), Captions(), lambda text: True, lambda samples: ["a naked person"] * len(samples))


def test_real_images_keep_what_the_model_knew_and_are_none_that_it_learns_from(work: Work) -> None:
    taken = choose(work, Slice(where="array_has(categories, 'knife')", style="neon"), Captions(), fits).shown
    found = prior.real(work, Prior(count=8, where="state = 'reviewed'"), Captions(), fits, taken)
    assert {one.captions for one in found} == {("a photo of a bottle", "a photo of a flask")}
    assert len(found) == 6
    assert all(one.prior and not one.val for one in found)


def test_drawings_of_the_model_itself_keep_what_it_knew_and_are_drawn_once(
    model: Path, work: Work, monkeypatch: pytest.MonkeyPatch
) -> None:
    step = TrainLora(
        model=str(model),
        images=Slice(where="array_has(categories, 'bottle')", style="neon"),
        learning=Learning(steps=2, batch_size=4),
        prior=Prior(count=4, share=0.5),
    )
    of_prior = []
    own = Lesson._said
    monkeypatch.setattr(Lesson, "_said", lambda self, texts: of_prior.append(list(texts)) or own(self, texts))
    facts: Any = step.run(work)
    assert (facts["train_images"], facts["val_images"], facts["prior_images"]) == (5, 1, 4)
    assert any("a photo of a bottle" in texts for texts in of_prior)
    drawn = sorted((work.folder / "prior").glob("*.png"))
    assert len(drawn) == 4
    assert not any(sample.made for sample in work.dataset.samples())
    before = {path: path.stat().st_mtime_ns for path in drawn}
    chosen = choose(work, step.images, step.captions, fits)
    monkeypatch.setattr(prior, "Studio", lambda *_, **__: pytest.fail("they are there"))
    assert len(prior.drawn(work, str(model), step.prior, step.captions, fits, chosen.shown)) == 4
    assert {path: path.stat().st_mtime_ns for path in drawn} == before


def test_images_of_many_shapes_are_learned_in_a_few_sizes(model: Path, work: Work) -> None:
    shapes = {900: (96, 40), 901: (98, 40), 902: (40, 96)}
    work.add("shapes", [replace(real_sample(n, "pill"), data=real_image(n, size)) for n, size in shapes.items()])
    knives = Slice(where="array_has(categories, 'knife') or array_has(categories, 'pill')")
    facts: Any = TrainLora(model=str(model), images=knives, learning=Learning(steps=2, batch_size=2)).run(work)
    assert facts["sizes"] == {"8 × 8": 12, "10 × 6": 2, "6 × 10": 1}
