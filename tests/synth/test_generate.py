"""Images are generated where the dataset is thin, each once, each from where it says."""

import io
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from collections import Counter
from dataclasses import replace
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pytest
from PIL import Image as PilImage
from places import PARTS
from pydantic import TypeAdapter, ValidationError
from synth_models import (
    FEW_STEPS,
    as_kohya,
    fast,
    fill,
    new_work,
    real_sample,
    respelt,
    save_controlnet,
    save_diffusion,
    save_lora,
    wider,
)

from tilth import models
from tilth.data.dataset import Dataset
from tilth.engine.work import Work
from tilth.errors import InputError, ModelError
from tilth.events import Events
from tilth.images import decode, kind_of
from tilth.origins.packet import COMPOSITE, MADE
from tilth.origins.said import said
from tilth.origins.signed import signature_in
from tilth.policy import Category
from tilth.samples import Sample
from tilth.synth.draw.generate import Generate
from tilth.synth.draw.lengths import encoders, refuse_long
from tilth.synth.draw.pipelines import Studio, finished
from tilth.synth.draw.settings import Drawing, Files, Parts
from tilth.synth.plan.prompts import Words
from tilth.synth.safety.refusals import version


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_diffusion(tmp_path_factory.mktemp("models") / "diffusion")


@pytest.fixture(scope="module")
def controlnet(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_controlnet(tmp_path_factory.mktemp("models") / "controlnet")


@pytest.fixture(scope="module")
def studio(model: Path, controlnet: Path) -> Studio:
    return Studio(str(model), Parts(controlnet=str(controlnet)), device="cpu")


@pytest.fixture
def filled(tmp_path: Path) -> Work:
    work = new_work(tmp_path)
    fill(work)
    return work


def made(dataset: Dataset) -> list[Sample]:
    return [s for s in dataset.samples() if s.made]


COLOUR_ALONE = {"template": "a {color} {thing}", "inpaint_template": "a {thing}"}
PROMPTS = ["a red knife on a wooden table, photo style", "a blue bottle on green grass, photo style", "a pink pill"]
SEEDS = [5, 6, 7]


def test_the_same_seed_gives_the_same_image_and_another_another(studio: Studio) -> None:
    first, again = (studio.from_text(PROMPTS[:1], [5], Drawing(steps=2))[0] for _ in range(2))
    other = studio.from_text(PROMPTS[:1], [6], Drawing(steps=2))[0]
    assert np.array_equal(first, again)
    assert not np.array_equal(first, other)


def test_drawing_on_a_cpu_holds_no_second_copy_of_the_weights(studio: Studio, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(studio, "_autocast", True)
    import torch

    kept: set[bool] = set()
    hook = studio.pipeline.unet.register_forward_hook(lambda *_: kept.add(torch.is_autocast_cache_enabled()))
    studio.from_text(PROMPTS[:1], SEEDS[:1], Drawing(steps=2))
    hook.remove()
    assert kept == {False}


@pytest.mark.parametrize("verb", ["text", "edges", "inpaint"])
def test_a_batch_gives_the_same_as_its_images_one_by_one(studio: Studio, verb: str) -> None:
    references = [decode(real_sample(i).data)[:40, :40] for i in range(3)]
    hole = np.zeros((32, 32), np.uint8)
    hole[8:24, 8:24] = 255

    def draw(which: slice) -> list[np.ndarray | str]:
        prompts, seeds, chosen = PROMPTS[which], SEEDS[which], references[which]
        if verb == "text":
            return studio.from_text(prompts, seeds, Drawing(steps=2))
        if verb == "edges":
            return studio.along_edges(prompts, seeds, chosen, Drawing(steps=2))
        return studio.into_holes(prompts, seeds, chosen, [hole] * len(prompts), Drawing(steps=2))

    together = draw(slice(None))
    for number in range(3):
        [alone] = draw(slice(number, number + 1))
        difference = np.abs(together[number].astype(int) - alone.astype(int))
        assert difference.mean() < 1  # of 255: bfloat16 sums in another order


def test_edges_change_the_image_and_a_hole_changes_nothing_around_it(studio: Studio) -> None:
    reference = decode(real_sample(1).data)[:32, :32]
    words = studio.from_text(PROMPTS[:1], [5], Drawing(steps=2))[0]
    edges = studio.along_edges(PROMPTS[:1], [5], [reference], Drawing(steps=2))[0]
    assert np.abs(words.astype(int) - edges).mean() > 1
    hole = np.zeros((32, 32), np.uint8)
    hole[12:20, 12:20] = 255
    drawn = studio.into_holes(PROMPTS[:1], [5], [reference], [hole], Drawing(steps=2))[0]
    changed = np.abs(drawn.astype(int) - reference).max(2) > 2
    assert changed[13:19, 13:19].mean() > 0.5
    assert not changed[:8].any()
    assert not changed[:, 25:].any()


def test_an_adapter_changes_the_image_as_much_as_its_weight_says(model: Path, tmp_path: Path) -> None:
    lora = str(save_lora(tmp_path / "neon"))

    def draw(weight: float, adapter: str) -> np.ndarray:
        studio = Studio(str(model), Parts(loras={"neon": lora}, lora_weights={"neon": weight}), device="cpu")
        return studio.from_text(PROMPTS[:1], [5], Drawing(steps=2), adapter)[0].astype(int)

    plain = draw(1, "")
    assert np.array_equal(draw(0, "neon"), plain)
    weak, strong = (np.abs(draw(weight, "neon") - plain).mean() for weight in (0.2, 1.0))
    assert 0 < weak < strong


def test_an_adapter_with_two_spellings_of_its_layers_is_loaded_whole(model: Path, tmp_path: Path) -> None:
    whole = save_lora(tmp_path / "whole", conv=True, mixed=False)
    mixed = save_lora(tmp_path / "mixed", conv=True, mixed=True)

    def draw(lora: Path) -> np.ndarray:
        return Studio(str(model), Parts(loras={"neon": str(lora)}), device="cpu").from_text(
            PROMPTS[:1], [5], Drawing(steps=2), "neon"
        )[0]

    assert np.array_equal(draw(whole), draw(mixed))


def test_a_file_of_kohyas_tools_draws_what_its_adapter_draws(model: Path, tmp_path: Path) -> None:
    whole = save_lora(tmp_path / "whole", mixed=False)
    file = respelt(whole, as_kohya, ss_base_model_version="sd_v1")

    def draw(lora: Path) -> np.ndarray:
        parts = Parts(loras={"neon": str(lora)})
        return Studio(str(model), parts, device="cpu").from_text(PROMPTS[:1], [5], Drawing(steps=2), "neon")[0]

    assert np.array_equal(draw(whole), draw(file))
    assert models.digest(str(file)) != models.digest(str(whole))
    with pytest.raises(ModelError, match="a single file is an adapter; a model is a folder"):
        Studio(str(file), device="cpu")


@pytest.mark.parametrize(
    ("spell", "metadata", "says"),
    [
        (
            wider,
            {"ss_base_model_version": "sdxl_base_v1-0"},
            r"48 of its weights are of another size, .* made for sdxl_base_v1-0",
        ),
        (
            lambda key, value: (key.replace("unet.", "transformer."), value),
            {"modelspec.architecture": "flux-1-dev/lora"},
            "24 of its 24 layers have no place in it; .* made for flux-1-dev/lora",
        ),
        (
            lambda key, value: (key.replace("attn2", "attn9"), value),
            {},
            "12 of its 24 layers have no place in it; its metadata does not say for which model it was made",
        ),
        (lambda key, value: (key.replace("lora_", "hada_"), value), {}, "Invalid LoRA checkpoint"),
    ],
    ids=["of another size", "for another family", "a part of it", "of another kind"],
)
def test_an_adapter_that_does_not_fit_is_one_line_and_nothing_else(
    model: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str], spell: Any, metadata: dict[str, str], says: str
) -> None:
    file = respelt(save_lora(tmp_path / "lora", mixed=False), spell, **metadata)
    capfd.readouterr()
    with pytest.raises(ModelError, match=says) as caught:
        Studio(str(model), Parts(loras={"neon": str(file)}), device="cpu")
    said = str(caught.value)
    assert said.startswith(f"{file}: does not fit {model}: ")
    assert "\n" not in said
    assert len(said) < 500
    assert capfd.readouterr().err == ""


def test_an_adapter_is_one_whole_file(model: Path, tmp_path: Path) -> None:
    folder = save_lora(tmp_path / "lora")
    held = next(folder.glob("*.safetensors"))
    (folder / "second.safetensors").write_bytes(held.read_bytes())
    with pytest.raises(ModelError, match=r"2 here: pytorch_lora_weights\.safetensors, second\.safetensors"):
        Studio(str(model), Parts(loras={"neon": str(folder)}), device="cpu")
    (folder / "second.safetensors").write_bytes(held.read_bytes()[:500])
    with pytest.raises(ModelError, match=r"not a whole \.safetensors file: .*download it again"):
        Studio(str(model), Parts(loras={"neon": str(folder / "second.safetensors")}), device="cpu")


LONG = "a red knife on a wooden table, " * 3 + "photo style"


def test_a_prompt_that_the_model_would_not_read_to_its_end_is_refused_before_anything_is_drawn(
    filled: Work, model: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Studio, "__init__", lambda *_, **__: pytest.fail("the model was loaded"))
    words, drawing = {"prompts": {"knife": (LONG, "a knife")}}, replace(FEW_STEPS, negative_prompt="blurry " * 30)
    step = fast(
        model,
        categories=("knife",),
        per_category=8,
        words=TypeAdapter(Words).validate_python(words),
        drawing=drawing,
    )
    with pytest.raises(InputError) as caught:
        step.run(filled)
    negative, prompts, cure = str(caught.value).splitlines()
    assert "negative prompt: 1 of 1 texts are too long" in negative
    assert "prompts of knife: 1 of 2 texts are too long" in prompts
    assert "the longest has 34 tokens, of which 20 are read" in prompts
    assert "shorten" in cure
    assert "wooden" not in str(caught.value)
    assert not made(filled.dataset)


def test_every_tokenizer_of_a_model_is_asked_and_one_with_room_for_a_prompt_is_enough(
    model: Path, tmp_path: Path
) -> None:
    """SDXL has two text encoders; in others a large one reads what CLIP cuts off."""
    two = Path(shutil.copytree(model, tmp_path / "two"))
    for part in ("tokenizer", "text_encoder"):
        shutil.copytree(two / part, two / f"{part}_2")
    with pytest.raises(InputError, match="34 tokens, of which 20 are read"):
        refuse_long({"prompt": [LONG]}, encoders(str(two)), "two")
    for file, key in (
        ("tokenizer_2/tokenizer_config.json", "model_max_length"),
        ("text_encoder_2/config.json", "max_position_embeddings"),
    ):
        told = json.loads((two / file).read_text())
        with pytest.raises(InputError, match="34 tokens, of which 20 are read"):
            refuse_long({"prompt": [LONG]}, encoders(str(two)), "two")
        (two / file).write_text(json.dumps({**told, key: 40}))
    refuse_long({"prompt": [LONG]}, encoders(str(two)), "two")
    with pytest.raises(InputError, match="66 tokens, of which 20 are read and 66 tokens, of which 40 are read"):
        refuse_long({"prompt": [f"{LONG} {LONG}"]}, encoders(str(two)), "two")


def test_the_studio_itself_draws_nothing_from_half_a_prompt(studio: Studio) -> None:
    with pytest.raises(InputError, match="prompts: 1 of 2 texts are too long"):
        studio.from_text([LONG, "a knife"], [5, 6], Drawing(steps=2))


def test_black_empty_and_broken_images_are_no_images() -> None:
    assert finished(np.zeros((4, 4, 3))) == "black image, as a safety checker leaves it"
    assert finished(np.full((4, 4, 3), 0.5)) == "image of one tone"
    assert "not a number" in str(finished(np.full((4, 4, 3), np.nan)))
    assert not isinstance(finished(np.random.default_rng(0).random((4, 4, 3))), str)


def test_the_thinnest_categories_are_filled_first(filled: Work, model: Path) -> None:
    # there are 12 knives and 6 bottles, and none of the others
    facts = fast(model, count=12, categories=("knife", "bottle", "pill")).run(filled)
    assert facts["by_category"] == {"bottle": 3, "pill": 9}
    assert facts["made"] == facts["planned"] == 12
    assert facts["failed"] == 0


def test_each_category_gets_its_number_when_that_is_asked_for(filled: Work, model: Path) -> None:
    facts = fast(model, per_category=2, categories=("knife", "bottle", "pill"), styles=("photo", "cartoon")).run(filled)
    assert facts["by_category"] == {"bottle": 2, "knife": 2, "pill": 2}
    assert facts["by_style"] == {"cartoon": 3, "photo": 3}


def test_generated_images_never_outnumber_real_ones_more_than_allowed(filled: Work, model: Path) -> None:
    facts = fast(model, count=100, max_ratio=0.5).run(filled)
    assert facts["real_images"] == 24
    assert facts["made"] == 12
    other = new_work(filled.folder.parent)
    other.name, other.folder = "more", filled.folder / "more"
    assert fast(model, count=100, max_ratio=0.75).run(other)["made"] == 6  # the 12 there are count


def test_every_image_says_where_it_comes_from(filled: Work, model: Path, controlnet: Path, tmp_path: Path) -> None:
    lora = str(save_lora(tmp_path / "neon"))
    step = fast(
        model,
        parts=Parts(controlnet=str(controlnet), loras={"neon": lora}, lora_weights={"neon": 0.5}),
        styles=("photo", "neon"),
        methods={"text": 1, "edges": 1, "inpaint": 1},
        count=18,
        categories=("knife", "bottle"),
        drawing=replace(FEW_STEPS, negative_prompt="blurry"),
        licence="CC-BY-4.0",
    )
    facts = step.run(filled)
    assert set(facts["by_method"]) == {"text", "edges", "inpaint"}
    samples = made(filled.dataset)
    assert len(samples) == facts["made"] == 18
    splits = {s.id: s.split for s in filled.dataset.samples(images=False)}
    for sample in samples:
        origin = sample.origin
        assert {
            "step",
            "model",
            "model_digest",
            "prompt",
            "negative_prompt",
            "seed",
            "category",
            "method",
        } <= origin.keys()
        assert origin["refusals"] == version()
        assert len(str(origin["model_digest"])) == 12
        assert origin["licence"] == ("CC-BY-4.0" if origin["method"] == "text" else "CC-BY-4.0 AND CC0-1.0")
        assert bool(origin["adapters"]) == (origin["style"] == "neon")
        assert origin["digital_source_type"] == (COMPOSITE if origin["method"] == "inpaint" else MADE)
        assert str(origin["digital_source_type"]).encode() in sample.data  # in the file itself
        [claim] = [c for c in sample.claims if c.kind == "synth"]
        assert claim.category == origin["category"]
        assert (claim.box_xyxy is None) == (origin["method"] == "text")
        assert len(origin["parents"]) == (origin["method"] != "text")
        assert all(splits[parent] == "train" for parent in origin["parents"])
        assert sample.split == "train"
    rows = [json.loads(line) for line in (filled.folder / "manifest.jsonl").read_text().splitlines()]
    assert {row["id"]: {**row, "id": None} for row in rows} == {s.id: {**s.origin, "id": None} for s in samples}


@pytest.mark.parametrize("kind", ["webp", "jpeg"])
def test_files_of_other_kinds_say_the_same_and_can_be_signed(
    filled: Work, model: Path, kind: Literal["webp", "jpeg"]
) -> None:
    fast(model, count=2, files=Files(kind=kind, certificate="test")).run(filled)
    for sample in made(filled.dataset):
        assert kind_of(sample.data) == kind.upper()
        told, signature = said(sample.data), signature_in(sample.data)
        assert told.origin.items() <= sample.origin.items()
        assert signature is not None
        assert (signature.state, signature.origin) == ("Valid", told.origin)


def test_a_certificate_that_cannot_sign_is_refused_before_anything_is_drawn(
    filled: Work, model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Studio, "__init__", lambda *_, **__: pytest.fail("the model was loaded"))
    with pytest.raises(InputError, match=r"absent\.pem: a PEM file .* was expected"):
        fast(model, files=Files(certificate=str(tmp_path / "absent.pem"))).run(filled)
    (tmp_path / "odd.pem").write_text("-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n")
    with pytest.raises(InputError, match="expected a chain of certificates and one private key, got 1 and 0"):
        fast(model, files=Files(certificate=str(tmp_path / "odd.pem"))).run(filled)


def test_a_child_of_a_photograph_of_unknown_licence_says_so(tmp_path: Path, model: Path) -> None:
    work = new_work(tmp_path)
    work.add("real", [real_sample(i, licence="") for i in range(6)])
    fast(model, methods={"inpaint": 1}, count=2, licence="CC-BY-4.0").run(work)
    assert {s.origin["licence"] for s in made(work.dataset)} == {"CC-BY-4.0 AND unknown"}


def test_an_image_can_be_drawn_again_from_what_it_says(filled: Work, model: Path) -> None:
    fast(model, count=5).run(filled)
    studio = Studio(str(model), device="cpu")
    for sample in made(filled.dataset):
        origin = sample.origin
        drawing = Drawing(steps=origin["steps"], guidance=origin["guidance"], negative_prompt=origin["negative_prompt"])
        [again] = studio.from_text([str(origin["prompt"])], [origin["seed"]], drawing)
        assert np.abs(again.astype(int) - sample.pixels()).mean() < 1


def test_nothing_is_made_from_images_of_test_or_validation(tmp_path: Path, model: Path, controlnet: Path) -> None:
    work = new_work(tmp_path)
    work.add("real", [real_sample(i, "knife" if i % 2 else "", "val" if i % 3 else "test") for i in range(12)])
    work.add("train", [real_sample(50 + i, "bottle") for i in range(6)])
    step = fast(
        model,
        parts=Parts(controlnet=str(controlnet)),
        methods={"edges": 1, "inpaint": 1},
        categories=("knife",),
        count=6,
    )
    facts = step.run(work)
    assert facts["by_method"] == {"text": 6}
    assert facts["from_words_for_want_of_parents"] == 6
    assert not any(s.origin["parents"] for s in made(work.dataset))


def test_an_image_whose_own_words_are_refused_is_no_parent(tmp_path: Path, model: Path) -> None:
    work = new_work(tmp_path)
    work.add("real", [real_sample(i, "", caption="a nude person") for i in range(6)])
    facts = fast(model, methods={"inpaint": 1}, count=2).run(work)
    assert facts["by_method"] == {"text": 2}
    assert facts["parents_refused"] > 0


@pytest.mark.parametrize(
    "settings",
    [
        {"words": {"template": "a nude {thing}"}},
        {"styles": ("erotic",)},
        {"drawing": {"negative_prompt": "clothes"}},
        {"words": {"fillings": {"color": ("red", "n u d e")}, **COLOUR_ALONE}},
        {"words": {"negatives": {"photo": "clothes"}}},
        {"words": {"things": {"knife": ("a nude",)}}},
        {"words": {"prompts": {"knife": ("a child, a knife",)}}},
        {"parts": {"loras": {"photo": "some/nude-adapter@1"}}},
        {"parts": {"controlnet": "some/porn-edges@1"}},
        {"model": "some/nsfw-drawing@1"},
        {"words": {"template": "a {thing}, bleeding"}, "styles": ("child",)},
    ],
)
def test_a_recipe_that_asks_for_what_is_never_made_is_refused_before_anything_loads(
    settings: dict[str, object],
) -> None:
    with pytest.raises(ValidationError, match=r"refused: .*no setting allows it"):
        TypeAdapter(Generate).validate_python(settings)


def test_the_plan_is_shown_without_a_model_and_nothing_is_written(
    filled: Work, model: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Studio, "__init__", lambda *_, **__: pytest.fail("the model was loaded"))
    before = filled.dataset.at.number
    words = TypeAdapter(Words).validate_python({"negatives": {"knife": "spoon"}})
    step = fast(
        model, count=30, max_ratio=1, categories=("knife", "bottle"), words=words, methods={"text": 1, "inpaint": 1}
    )
    plan = step.plan(filled)
    shown = plan.shown()
    assert "24 of 30 images: max_ratio 1 of 24 real ones" in shown
    rows = dict(re.findall(r"^  (knife|bottle) +photo +\d+ +(\d+)$", shown, re.M))
    assert {name: int(n) for name, n in rows.items()} == Counter(r.category for r in plan.requests)
    assert len(re.findall(r"^ +\d+  (?:knife|bottle) +(?:text|inpaint) +an? ", shown, re.M)) == 20
    assert "; not: spoon" in shown
    assert plan.shortened, "20 tokens are too few for all of the grammar"
    assert filled.dataset.at.number == before
    assert not (filled.folder / "plan.json").exists()


def test_every_image_has_its_own_negative_prompt(filled: Work, model: Path) -> None:
    words = TypeAdapter(Words).validate_python({"negatives": {"knife": "spoon"}})
    fast(model, count=4, per_category=2, categories=("knife", "bottle"), words=words).run(filled)
    told = {(s.origin["category"], s.origin["negative_prompt"]) for s in made(filled.dataset)}
    assert told == {("knife", "spoon"), ("bottle", "")}


def test_negatives_change_the_images_that_have_them_and_no_others(studio: Studio) -> None:
    plain = studio.from_text(PROMPTS[:2], SEEDS[:2], Drawing(steps=2))
    told = studio.from_text(PROMPTS[:2], SEEDS[:2], Drawing(steps=2), "", ["", "a red pill"])
    moved = [np.abs(a.astype(int) - b.astype(int)).mean() for a, b in zip(plain, told, strict=True)]
    assert moved[0] < 1 < moved[1]


def test_the_metadata_of_an_adapter_is_read(filled: Work, model: Path, tmp_path: Path) -> None:
    lora = str(save_lora(tmp_path / "style", {"ss_tag_frequency": '{"nude": 300}'}))
    with pytest.raises(InputError, match="refused: sexual content"):
        fast(model, parts=Parts(loras={"photo": lora})).run(filled)
    assert not made(filled.dataset)


def test_the_metadata_of_the_model_is_read_as_well(filled: Work, model: Path, tmp_path: Path) -> None:
    from safetensors.torch import load_file, save_file

    told = Path(shutil.copytree(model, tmp_path / "told"))
    weights = next(told.rglob("*.safetensors"))
    save_file(load_file(weights), weights, metadata={"modelspec.trigger_phrase": "n u d e"})
    with pytest.raises(InputError, match=r"refused: sexual content \(in: model\)"):
        fast(told).run(filled)


def test_a_category_that_is_never_generated_is_left_out_and_that_is_said(
    filled: Work, model: Path, tmp_path: Path
) -> None:
    bare = Category(name="bare", definition="People without clothes.", prompts=("person",))
    filled.policy = filled.policy.with_categories((*filled.policy.categories, bare))
    filled.events = Events(tmp_path / "events.jsonl")
    facts = fast(model, count=4, categories=("knife", "bare")).run(filled)
    assert facts["by_category"] == {"knife": 4}
    assert facts["left_out"] == {"bare": "sexual content"}
    assert "bare is left out: sexual content is never generated" in (tmp_path / "events.jsonl").read_text()
    filled.events.close()
    with pytest.raises(InputError, match="no category is left to generate"):
        fast(model, categories=("bare",)).left_out(filled.policy)


def test_what_the_file_of_a_parent_says_is_read_too(tmp_path: Path, model: Path) -> None:
    work = new_work(tmp_path)
    exif = PilImage.Exif()
    exif[0x010E] = "a nude person"
    out = io.BytesIO()
    PilImage.open(io.BytesIO(real_sample(1).data)).save(out, "PNG", exif=exif)
    work.add("real", [replace(real_sample(1), data=out.getvalue())])
    assert fast(model, methods={"inpaint": 1}, count=1).run(work)["by_method"] == {"text": 1}


def test_a_parent_is_read_with_all_its_tags(tmp_path: Path, model: Path) -> None:
    work = new_work(tmp_path)
    tagged = [
        replace(real_sample(i), columns={"split": "train", "tags": ["sky", {"seen": ["nude"]}]}) for i in range(4)
    ]
    work.add("real", tagged)
    assert fast(model, methods={"inpaint": 1}, count=2).run(work)["by_method"] == {"text": 2}


@pytest.mark.parametrize(
    ("settings", "says"),
    [
        (
            {"methods": {"magic": 1}},
            "methods must be among text, edges, inpaint, image, insert, replace, paste, got magic",
        ),
        ({"methods": {"edges": 1}}, "needs a controlnet"),
        ({"words": {"fillings": {}}}, "nothing fills {attribute}, {camera}, {light}, {place}"),
        ({"max_ratio": -1}, r"max_ratio must lie in \[0, 100\]"),
        ({"parts": {"loras": {"neon": "x"}}}, "there is no style neon"),
        ({"parts": {"lora_weights": {"neon": 0.5}}}, "there is no adapter neon"),
        ({"count": 0}, "count must be at least 1, got 0"),
        ({"drawing": {"steps": 0}}, "steps and batch_size must be at least 1, got 0 and 16"),
        ({"drawing": {"guidance": 51}}, r"guidance must lie in \[0, 50\], got 51"),
    ],
)
def test_wrong_settings_say_what_is_right(settings: dict[str, object], says: str) -> None:
    with pytest.raises(ValidationError, match=says):
        TypeAdapter(Generate).validate_python(settings)


def test_an_unknown_category_and_an_absent_model_are_named(filled: Work, model: Path) -> None:
    with pytest.raises(InputError, match="no pictured category unicorn; there are knife"):
        fast(model, categories=("unicorn",)).run(filled)
    with pytest.raises(ModelError, match="no such folder"):
        fast(model.with_name("absent")).run(filled)


def test_a_finished_step_draws_nothing_again(filled: Work, model: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    fast(model).run(filled)
    before = {s.id for s in made(filled.dataset)}
    monkeypatch.setattr(Studio, "__init__", lambda *_, **__: pytest.fail("the model was loaded again"))
    assert fast(model).run(filled)["made"] == 12
    assert {s.id for s in made(filled.dataset)} == before


JOB = """
import sys, time
from pathlib import Path
sys.path.insert(0, {tests!r})
from synth_models import fast, fill, new_work
from tilth.synth.draw.pipelines import Studio
draw = Studio.from_text
def slow(self, *a):
    time.sleep(0.4)
    return draw(self, *a)
Studio.from_text = slow
work = new_work(Path(sys.argv[1]))
fast(Path({model!r}), count=22).run(work)
"""


@pytest.mark.timeout(600)  # a busy machine takes minutes to import diffusers
def test_a_killed_run_goes_on_without_drawing_again(
    tmp_path: Path, model: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for root in ("killed", "whole"):
        work = new_work(tmp_path / root)
        fill(work)
    code = JOB.format(tests=str(PARTS), model=str(model))
    job = subprocess.Popen(
        [sys.executable, "-c", code, str(tmp_path / "killed")],
        env={**os.environ, "OMP_NUM_THREADS": "1"},
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    results = tmp_path / "killed" / "dataset" / "results"

    def rows() -> int:
        tables = [t for t in results.glob("generate-*.lance") if not t.name.startswith("generate-real")]
        try:
            return len(new_work(tmp_path / "killed").dataset.table(tables[0].stem)) if tables else 0
        except (OSError, ValueError):  # its folder is there, and nothing in it yet
            return 0

    deadline = time.monotonic() + 480
    while rows() < 6 and time.monotonic() < deadline and job.poll() is None:
        time.sleep(0.05)
    os.kill(job.pid, signal.SIGKILL)
    assert job.wait() == -signal.SIGKILL
    done = rows()
    assert 6 <= done < 22

    drawn: list[int] = []
    draw = Studio.from_text

    def counting(self: Studio, prompts: list[str], seeds: list[int], *rest: object) -> object:
        drawn.extend(seeds)
        return draw(self, prompts, seeds, *rest)  # type: ignore[arg-type]

    monkeypatch.setattr(Studio, "from_text", counting)
    work = new_work(tmp_path / "killed")
    facts = fast(model, count=22).run(work)
    assert facts["made"] == 22
    assert len(drawn) == len(set(drawn)) == 22 - done // 4 * 4  # whole batches of four are never drawn twice
    whole = new_work(tmp_path / "whole")
    fast(model, count=22).run(whole)
    assert [s.id for s in made(work.dataset)] == [s.id for s in made(whole.dataset)]
