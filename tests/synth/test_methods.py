"""Things are drawn into scenes, put in each other's place, redrawn, and cut out and pasted; edited pairs differ in one place alone."""

from collections import defaultdict
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from diffusers import UNet2DConditionModel
from synth_models import FEW_STEPS, fast, fill, new_unet, new_work, real_sample, save_diffusion

from tilth.claims import Answer
from tilth.engine.work import Work
from tilth.errors import InputError, ModelError
from tilth.images import Image, decode
from tilth.origins.packet import COMPOSITE, MADE, PASTED
from tilth.origins.said import said
from tilth.policy import Category
from tilth.samples import RANK, NewSample, Sample
from tilth.synth.draw.cutting import CutOut, cut_out, paste
from tilth.synth.draw.generate import Generate
from tilth.synth.draw.pairs import grown_in
from tilth.synth.draw.pipelines import Studio
from tilth.synth.draw.settings import Drawing, Parts, Pasting
from tilth.synth.plan.prompts import Words, with_articles


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_diffusion(tmp_path_factory.mktemp("models") / "diffusion")


@pytest.fixture(scope="module")
def for_holes(tmp_path_factory: pytest.TempPathFactory, model: Path) -> Path:
    """A checkpoint with nine input channels, as those for inpainting have."""
    import shutil

    folder = Path(shutil.copytree(model, tmp_path_factory.mktemp("models") / "for-holes"))
    torch.manual_seed(3)
    config = {**new_unet().config, "in_channels": 9}
    UNet2DConditionModel.from_config(config).half().save_pretrained(folder / "unet", safe_serialization=True)
    return folder


@pytest.fixture
def filled(tmp_path: Path) -> Work:
    work = new_work(tmp_path)
    fill(work)
    return work


def made(work: Work) -> list[Sample]:
    return [s for s in work.dataset.samples() if s.made]


def in_pairs(samples: list[Sample]) -> list[tuple[Sample, Sample]]:
    """The thing first."""
    found = defaultdict(list)
    for sample in samples:
        found[sample.columns["pair"]].append(sample)
    return [tuple(sorted(two, key=lambda s: bool(s.origin["instead"]))) for two in found.values()]  # type: ignore[misc]


@pytest.mark.parametrize("method", ["insert", "replace"])
def test_an_edited_pair_is_one_scene_drawn_twice_that_differs_in_one_place(
    filled: Work, model: Path, method: str
) -> None:
    facts = fast(model, count=8, categories=("knife", "bottle"), methods={method: 1}).run(filled)
    assert facts["by_method"] == {method: 8}
    real = {s.id: s for s in filled.dataset.samples() if not s.made}
    pairs = in_pairs(made(filled))
    assert len(pairs) == 4
    look_alikes = {"knife": "spoon", "bottle": "cup"}
    for thing, harmless in pairs:
        category = str(thing.origin["category"])
        assert (thing.origin["instead"], harmless.origin["instead"]) == ("", look_alikes[category])
        for name in ("category", "parents", "seed", "hole_xyxy", "pair", "style", "size_wh"):
            assert thing.origin[name] == harmless.origin[name]
        assert thing.columns["pair"] == thing.origin["pair"]
        prompt = str(harmless.origin["prompt"])
        names = filled.policy[category].prompts
        assert prompt in {with_articles(str(thing.origin["prompt"]).replace(n, look_alikes[category])) for n in names}
        [parent] = thing.origin["parents"]
        shown = real[parent].truth.categories
        assert shown == (set() if method == "insert" else {category})
        assert thing.split == harmless.split == real[parent].split == "train"
        # both know of the category, one that it is here and where, one that it is not
        assert (thing.truth.of(category), harmless.truth.of(category)) == (Answer.PRESENT, Answer.ABSENT)
        assert thing.truth.labels[0].box_xyxy == tuple(thing.origin["hole_xyxy"])
        assert not harmless.truth.labels
        x0, y0, x1, y1 = (int(v) for v in thing.origin["hole_xyxy"])
        differ = np.abs(thing.pixels().astype(int) - harmless.pixels()).max(2) > 2
        assert differ[y0:y1, x0:x1].any()
        differ[max(0, y0 - 3) : y1 + 3, max(0, x0 - 3) : x1 + 3] = False
        assert not differ.any()
        assert thing.origin["digital_source_type"] == COMPOSITE
        assert said(harmless.data or b"").origin["pair"] == harmless.origin["pair"]


def test_the_thing_that_is_replaced_lies_in_the_hole(filled: Work, model: Path) -> None:
    fast(model, count=4, categories=("knife",), methods={"replace": 1}).run(filled)
    # parents are 48 x 40 with a thing at 10 to 30, of which the frame takes the left 40; 40 become 32 pixels, and there is a margin
    assert {tuple(s.origin["hole_xyxy"]) for s in made(filled)} == {(6.0, 6.0, 26.0, 26.0)}


def test_a_look_alike_that_grounding_put_aside_is_replaced_too(tmp_path: Path, model: Path) -> None:
    work = new_work(tmp_path)
    seen = {
        "phrase": "spoon",
        "category": None,
        "score": 0.8,
        "box_xyxy": [10, 10, 30, 30],
        "reason": "look-alike",
        "by": "",
    }
    other = {**seen, "phrase": "cup"}
    samples = [real_sample(1), real_sample(2)]
    work.add(
        "real",
        [
            replace(one, columns={**one.columns, "ground.removed": [row]})
            for one, row in zip(samples, (seen, other), strict=True)
        ],
    )
    facts = fast(model, count=2, categories=("knife",), methods={"replace": 1}).run(work)
    assert facts["by_method"] == {"replace": 2}
    assert {parent for s in made(work) for parent in s.origin["parents"]} == {samples[0].identify()[0]}


def test_what_is_too_small_or_fills_the_image_is_not_replaced() -> None:
    assert grown_in((100, 100), (40, 40, 44, 60)) is None
    assert grown_in((100, 100), (5, 5, 95, 95)) is None
    assert grown_in((100, 200), (0, 0, 40, 20)) == (0, 0, 46, 23)


def test_a_pair_counts_as_two_images_and_none_is_left_over(filled: Work, model: Path) -> None:
    plan = fast(model, count=7, categories=("knife",), methods={"insert": 1, "text": 1}).plan(filled)
    assert len(plan.requests) in (6, 7)
    assert not plan.capped
    numbers = [request.number for request in plan.requests]
    assert len(set(numbers)) == len(numbers)
    assert max(numbers) < 7
    for request in plan.requests:
        assert bool(request.pair) == (request.method == "insert")
    alone = fast(model, count=5, categories=("knife",), methods={"replace": 1}).plan(filled)
    assert len(alone.requests) == 4


@pytest.mark.parametrize("method", ["insert", "paste"])
def test_things_are_put_where_there_is_room(tmp_path: Path, model: Path, method: str) -> None:
    work = new_work(tmp_path)
    scenes = [
        real_sample(i) for i in range(6)
    ]  # with something bright at 10 to 30 of 48 x 40, which nobody calls a thing
    work.add("real", [*scenes, *(real_sample(10 + i, "knife") for i in range(6))])
    step = fast(model, count=12, categories=("knife",), methods={method: 1}, pasting=Pasting(sides=(0.3, 0.4)))
    holes = np.array([request.hole for request in step.plan(work).requests])
    middle = (holes[:, 0] + holes[:, 2]) / 2
    there = 20 / 48 if method == "paste" else 16 / 40  # the frame of the other is the middle 40
    assert (middle > there).mean() > 0.9, "there is more room to its right"


def test_pairs_are_asked_for_again_in_words_that_were_accepted_and_both_in_the_same(filled: Work, model: Path) -> None:
    def judged(number: int, place: str, instead: str = "") -> NewSample:
        columns = {"adherence.asked": "knife"} | ({RANK: number} if place == "on a table" or instead else {})
        origin = {
            "category": "knife",
            "style": "photo",
            "step": "generate",
            "prompt": f"a {instead or 'knife'} {place}",
        }
        return replace(real_sample(900 + number), origin=origin | {"instead": instead}, columns=columns)

    filled.add("judged", [judged(i, ("on a table", "on grass")[i % 2]) for i in range(10)])
    filled.add("harmless", [judged(10 + i, "on grass", "spoon") for i in range(20)])
    words = Words(
        template="a {thing} {place}", inpaint_template="a {thing} {place}", fillings={"place": ("on a table", "on grass")},
        things={"knife": ("knife",)}, look_alikes={"knife": ("spoon",)},
    )  # fmt: skip
    step = fast(
        model, count=20, categories=("knife",), methods={"insert": 1}, words=words, again="generate", max_ratio=9
    )
    plan = step.plan(filled)
    assert len(plan.requests) == 4, "five were rejected, and a pair makes two"
    assert {r.prompt for r in plan.requests} == {"a knife on a table", "a spoon on a table"}


def test_look_alikes_may_be_named_and_what_is_refused_is_never_one(filled: Work, model: Path) -> None:
    words = Words(look_alikes={"knife": ("toy knife of a child", "ruler")})
    plan = fast(
        model, count=8, categories=("knife",), methods={"insert": 1}, words=Words(look_alikes={"knife": ("ruler",)})
    ).plan(filled)
    assert {request.instead for request in plan.requests} == {"", "ruler"}
    with pytest.raises(ValueError, match="refused: sexualising or harming a minor"):
        fast(model, methods={"insert": 1}, words=words)
    gun = Category(
        name="gun", definition="A gun.", prompts=("gun",), counter_prompts=("water gun for kids", "hair dryer")
    )
    filled.policy = filled.policy.with_categories((*filled.policy.categories, gun))
    plan = fast(model, count=8, categories=("gun",), methods={"insert": 1}).plan(filled)
    assert {request.instead for request in plan.requests} == {"", "hair dryer"}


def test_a_category_without_look_alikes_is_one_line_before_anything_runs(filled: Work, model: Path) -> None:
    plain = Category(name="vape", definition="A vape.", prompts=("vape",))
    filled.policy = filled.policy.with_categories((*filled.policy.categories, plain))
    step = fast(model, categories=("knife", "vape"), methods={"replace": 1})
    for ask in (lambda: step.left_out(filled.policy), lambda: step.plan(filled)):
        with pytest.raises(
            InputError, match="none that may be drawn of vape; name some: counter_prompts in the policy"
        ) as caught:
            ask()
        assert "\n" not in str(caught.value)
    assert fast(model, categories=("vape",)).left_out(filled.policy) == {}


def test_an_image_is_redrawn_and_less_strength_leaves_more_of_it(model: Path) -> None:
    studio = Studio(str(model), device="cpu")
    reference = decode(real_sample(1).data)[:32, :32]

    def redrawn(strength: float | None) -> np.ndarray:
        return studio.from_images(["a red knife"], [5], [reference], Drawing(steps=10, strength=strength))[0].astype(
            int
        )

    def changed(strength: float | None) -> float:
        return float(np.abs(redrawn(strength) - reference).mean())

    assert changed(0.1) < changed(0.9)
    assert np.array_equal(redrawn(None), redrawn(0.6))
    with pytest.raises(InputError, match=r"2 steps at strength 0\.3 are none; take at least 4"):
        studio.from_images(["a red knife"], [5], [reference], Drawing(steps=2, strength=0.3))


def test_a_redrawn_image_keeps_the_box_of_the_real_one_it_is_of(filled: Work, model: Path) -> None:
    drawing = replace(FEW_STEPS, scheduler="LCMScheduler", strength=0.5)
    facts = fast(model, count=4, categories=("knife",), methods={"image": 1}, drawing=drawing).run(filled)
    assert facts["by_method"] == {"image": 4}
    for sample in made(filled):
        assert sample.claims[0].box_xyxy == pytest.approx((8, 8, 24, 24), abs=1)
        assert (sample.origin["strength"], sample.origin["scheduler"]) == (0.5, "LCMScheduler")
        assert sample.origin["digital_source_type"] == MADE
        assert sample.origin["licence"].endswith("CC0-1.0")


def test_a_checkpoint_of_nine_channels_draws_into_holes_and_nothing_else(
    filled: Work, model: Path, for_holes: Path
) -> None:
    with pytest.raises(ModelError, match="has 9 input channels and draws into holes only, not by 'text'"):
        Studio(str(for_holes), device="cpu").from_text(["a knife"], [5], Drawing(steps=2))
    parts = Parts(inpainting=str(for_holes))
    fast(model, count=8, categories=("knife",), methods={"inpaint": 1, "text": 1}, parts=parts).run(filled)
    by = {str(s.origin["method"]): s.origin["model"] for s in made(filled)}
    assert by == {"inpaint": str(for_holes), "text": str(model)}
    assert len({s.origin["model_digest"] for s in made(filled)}) == 2


def scene_with(colour: tuple[int, int, int], side: int = 80) -> Image:
    """A disc on a ground of another colour."""
    image = np.full((side, side, 3), (40, 90, 60), np.uint8)
    y, x = np.mgrid[:side, :side]
    image[(x - 40) ** 2 + (y - 40) ** 2 < 18**2] = colour
    return image


def test_what_is_cut_out_is_the_thing_and_not_its_box() -> None:
    thing = cut_out(scene_with((220, 60, 40)), (20, 20, 60, 60))
    assert thing.by == "grabcut"
    inner = thing.alpha[thing.rim : -thing.rim, thing.rim : -thing.rim]
    assert inner.mean() == pytest.approx(np.pi / 4, abs=0.08)
    assert thing.alpha.sum() == inner.sum()
    assert (np.abs(thing.image[thing.alpha > 0.9].astype(int) - (220, 60, 40)).max(1) < 30).mean() > 0.95
    flat = cut_out(np.full((80, 80, 3), 90, np.uint8), (20, 20, 60, 60))
    assert flat.by == "box", "nothing stands out"


@pytest.mark.parametrize("blend", ["feather", "seamless"])
def test_a_cut_out_is_pasted_where_it_is_said_to_be(blend: Any) -> None:
    scene = np.random.default_rng(0).integers(90, 110, (100, 120, 3)).astype(np.uint8)
    thing = cut_out(scene_with((220, 60, 40)), (20, 20, 60, 60))
    image, box = paste(scene, thing, (30, 20, 80, 60), blend)
    assert image.shape == scene.shape
    x0, y0, x1, y1 = (int(v) for v in box)
    assert (x1 - x0, y1 - y0) == pytest.approx((40, 40), abs=3)
    assert 30 <= x0 < x1 <= 80
    assert 20 <= y0 < y1 <= 60
    changed = np.abs(image.astype(int) - scene).max(2) > 12
    assert changed[(y0 + y1) // 2, (x0 + x1) // 2]
    changed[y0 - 2 : y1 + 2, x0 - 2 : x1 + 2] = False
    assert not changed.any()


def test_a_cut_out_of_two_real_images_names_both_and_is_bound_by_both_licences(
    tmp_path: Path, model: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Studio, "__init__", lambda *_, **__: pytest.fail("the model was loaded"))
    work = new_work(tmp_path)
    work.add(
        "real", [real_sample(i, "knife" if i % 2 else "", licence="CC-BY-4.0" if i % 2 else "MIT") for i in range(12)]
    )
    splits = {s.id: s.truth.categories for s in work.dataset.samples()}
    facts = fast(model, count=6, categories=("knife",), methods={"paste": 1}, pasting=Pasting(blend="feather")).run(
        work
    )
    assert facts["by_method"] == {"paste": 6}
    for sample in made(work):
        scene, donor = sample.origin["parents"]
        assert (splits[scene], splits[donor]) == (set(), {"knife"})
        assert sample.origin["licence"] == sample.origin["licence_of_parent"] == "MIT AND CC-BY-4.0"
        assert sample.origin["digital_source_type"] == PASTED
        assert said(sample.data or b"").origin["parents"] == [scene, donor]
        assert "model" not in sample.origin
        assert sample.size_wh == (48, 40)
        [claim] = sample.claims
        assert claim.box_xyxy is not None


def test_what_came_with_the_donor_of_a_cut_out_is_read(tmp_path: Path, model: Path) -> None:
    work = new_work(tmp_path)
    work.add(
        "real", [real_sample(i, "knife" if i % 2 else "", caption="a nude person" if i % 2 else "") for i in range(8)]
    )
    facts = fast(model, count=2, categories=("knife",), methods={"paste": 1}).run(work)
    assert facts["by_method"] == {"text": 2}
    assert facts["parents_refused"] > 0


def test_a_mask_of_another_size_is_one_line(model: Path) -> None:
    studio = Studio(str(model), device="cpu")
    reference, hole = decode(real_sample(1).data), np.full((16, 32), 255, np.uint8)
    with pytest.raises(InputError, match="a mask has the size of the drawing, 32 x 32; got 32 x 16"):
        studio.into_holes(["a knife"], [5], [reference], [hole], Drawing(steps=2))


def test_a_step_of_all_methods_goes_on_where_it_was_stopped(filled: Work, model: Path, tmp_path: Path) -> None:
    methods = {"text": 1, "image": 1, "insert": 1, "replace": 1, "paste": 1}

    def step() -> Generate:
        return fast(
            model, count=20, categories=("knife", "bottle"), methods=methods, drawing=replace(FEW_STEPS, steps=4)
        )

    whole = new_work(tmp_path / "whole")
    fill(whole)
    assert set(step().run(whole)["by_method"]) == set(methods)
    from tilth.synth.draw.making import Maker

    real, taken = Maker.make, 0

    def stopping(self: Maker, done: int) -> Any:
        nonlocal taken
        for sample in real(self, done):
            taken += 1
            if taken == 10:
                raise KeyboardInterrupt
            yield sample

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Maker, "make", stopping)
        with pytest.raises(KeyboardInterrupt):
            step().run(filled)
    step().run(filled)
    assert [s.id for s in made(filled)] == [s.id for s in made(whole)]


def test_a_cut_out_keeps_its_shape() -> None:
    tall = CutOut(image=np.full((40, 10, 3), 200, np.uint8), alpha=np.ones((40, 10), np.float32), rim=0, by="box")
    _, box = paste(np.zeros((100, 100, 3), np.uint8), tall, (10, 10, 60, 60))
    assert (box[2] - box[0]) / (box[3] - box[1]) == pytest.approx(0.25, abs=0.03)
