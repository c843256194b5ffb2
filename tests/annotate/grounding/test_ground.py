"""Boxes are found by words: each box gets one phrase of the policy, look-alikes compete, and a batch changes nothing."""

import json
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from noise import noise_image
from places import ROOT

from tilth import models
from tilth.annotate.boxes.decide import Decide, restore
from tilth.annotate.grounding.ground import Ground
from tilth.annotate.grounding.model import Finder
from tilth.annotate.grounding.phrases import Question, make_prompts, phrase_spans, questions
from tilth.claims import Answer, Claim, State
from tilth.engine.work import Work
from tilth.errors import InputError, ModelError
from tilth.policy import Category, Policy, load_policy
from tilth.samples import NewSample, Sample

WORDS = st.lists(st.sampled_from(["knife", "gun", "red", "playing", "card", "pill"]), min_size=1, max_size=3).map(
    " ".join
)


@pytest.fixture(scope="session")
def random_model(tmp_path_factory: pytest.TempPathFactory) -> str:
    """The starter's architecture with random weights: what must hold for every model can be tested on it."""
    import torch

    from tilth.starter.grounding.tokenizer import write_tokenizer
    from tilth.starter.grounding.train import build, processor

    folder = tmp_path_factory.mktemp("grounding")
    tokenizer = write_tokenizer(folder)
    torch.manual_seed(0)
    model = build()
    # untrained, words and boxes agree or disagree beyond all measure; this brings the scores into the middle
    torch.nn.init.constant_(model.model.encoder.layers[-1].text_enhancer_layer.layer_norm_after.weight, 0.02)
    model.save_pretrained(folder)
    processor(tokenizer).save_pretrained(folder)
    return str(folder)


@pytest.fixture(scope="session")
def trained() -> str:
    try:
        models.locate("starter:grounding")
    except ModelError as error:
        pytest.skip(str(error))
    return "starter:grounding"


def pictures(*sizes_wh: tuple[int, int]) -> list[np.ndarray]:
    return [np.random.default_rng(n).integers(0, 256, (h, w, 3), dtype=np.uint8) for n, (w, h) in enumerate(sizes_wh)]


def test_synonyms_and_look_alikes_of_a_category_share_a_prompt(policy: Policy) -> None:
    (prompt,) = make_prompts(questions(policy.pictured), lambda text: len(text.split()), 100)
    meaning = dict(zip(prompt.phrases, prompt.categories, strict=True))
    assert meaning["knife"] == meaning["blade"] == "knife"
    assert meaning["spoon"] == meaning["cup"] == ""
    assert prompt.text.startswith("knife . blade . spoon . cigarette .")


def test_categories_are_cut_into_prompts_that_the_model_can_read(policy: Policy) -> None:
    asked = questions(policy.pictured)
    prompts = make_prompts(asked, lambda text: len(text.split()), 12)
    assert len(prompts) > 1
    assert all(len(p.text.split()) <= 12 for p in prompts)
    together = {phrase for p in prompts for phrase in p.phrases}
    assert together == {phrase for q in asked for phrase in (*q.phrases, *q.counters)}
    for question in asked:
        home = [p for p in prompts if set(question.phrases) <= set(p.phrases)]
        assert len(home) == 1
        assert set(question.counters) <= set(home[0].phrases), "a look-alike in another text could not compete"
    with pytest.raises(InputError, match=r"prompts and counter_prompts of knife take 6 tokens, the model reads 5"):
        make_prompts(asked, lambda text: len(text.split()), 5)


@pytest.mark.parametrize(("first", "second"), [("kni.fe", "pill"), ("", "pill"), ("what?", "pill"), ("pill", "Pill ")])
def test_prompts_that_would_break_the_text_are_refused(first: str, second: str) -> None:
    categories = [
        Category(name="a", definition="", prompts=(first,)),
        Category(name="b", definition="", prompts=(second,)),
    ]
    with pytest.raises(InputError, match=r"must be words without|belongs to a and to b; leave it to one of them"):
        questions(categories)


@pytest.mark.parametrize("counter", ["spoon. pill", "", "  ", "what?"])
def test_look_alikes_that_would_break_the_text_are_refused(counter: str) -> None:
    with pytest.raises(InputError, match="of a must be words without"):
        questions([Category(name="a", definition="", prompts=("knife",), counter_prompts=(counter,))])


def test_prompts_that_the_model_was_not_taught_are_named(work: Work, trained: str) -> None:
    work.policy = Policy(
        policy="p",
        version=1,
        categories=(
            Category(name="card", definition="", prompts=("playing card",)),
            Category(name="knife", definition="", prompts=("knife",)),
        ),
    )
    work.add("one", [NewSample(data=noise_image(0), origin={"source": "0"})])
    Ground(model=trained).run(work)
    Ground(model=trained).run(work)  # has nothing to do, and nothing to say
    lines = [json.loads(line) for line in (work.dataset.root.parent / "events.jsonl").read_text().splitlines()]
    assert [row["words"] for row in lines if row["event"] == "unknown_words"] == [["playing card"]]


def test_a_category_of_which_the_model_knows_no_word_stays_unasked_and_is_named(work: Work, trained: str) -> None:
    from tilth.starter.world.files import draw
    from tilth.starter.world.settings import World

    work.device = "cpu"
    work.policy = load_policy(ROOT / "configs" / "policies" / "faithful.yaml")
    world = World(kinds="all", given=6, labelled=12)
    work.add("drawn", [NewSample(data=draw("labelled", n, world)[0], origin={"n": n}) for n in range(12)])
    facts = Ground(model=trained).run(work)
    assert facts["unknown"] == ["syringe", "lighter"]
    answers = [{c.name: s.truth.of(c.name) for c in work.policy.pictured} for s in work.dataset.samples(images=False)]
    assert {a[name] for a in answers for name in ("syringe", "lighter")} == {Answer.UNASKED}
    assert Answer.UNASKED not in {a[name] for a in answers for name in ("knife", "text_area")}
    [told] = [
        line for line in (work.dataset.root.parent / "events.jsonl").read_text().splitlines() if "unknown_words" in line
    ]
    assert json.loads(told)["categories"] == ["syringe", "lighter"]
    assert "it is not asked for syringe, lighter" in json.loads(told)["message"]
    syringe = tuple(c for c in work.policy.categories if c.name == "syringe")
    work.policy = Policy(policy="p", version=1, categories=syringe)
    with pytest.raises(InputError, match="was not taught any of the policy's prompts, syringe"):
        Ground(model=trained).run(work)


def test_three_hundred_categories_are_cut_and_three_hundred_words_are_refused() -> None:
    many = [Category(name=f"c{n}", definition="", prompts=(f"thing {n}", f"Thing  {n}")) for n in range(300)]
    prompts = make_prompts(questions(many), lambda text: len(text.split()), 62)
    assert len(prompts) == 15
    assert [phrase for p in prompts for phrase in p.phrases] == [f"thing {n}" for n in range(300)], "each once"
    long = [Category(name="long", definition="", prompts=(" ".join(["word"] * 300),))]
    with pytest.raises(InputError, match=r"prompts and counter_prompts of long take 301 tokens, the model reads 62"):
        make_prompts(questions(long), lambda text: len(text.split()), 62)


def test_a_phrase_of_one_category_competes_as_such_when_another_counters_it() -> None:
    asked = (
        Question(category="bottle", phrases=("bottle",), counters=("cup", "knife")),
        Question(category="knife", phrases=("knife",)),
    )
    (prompt,) = make_prompts(asked, len, 1000)
    assert dict(zip(prompt.phrases, prompt.categories, strict=True)) == {
        "bottle": "bottle",
        "cup": "",
        "knife": "knife",
    }


@settings(deadline=None)
@given(phrases=st.lists(WORDS, min_size=1, max_size=6, unique=True))
def test_every_token_belongs_to_one_phrase_and_no_phrase_reaches_into_the_next(
    random_model: str, phrases: list[str]
) -> None:
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(random_model)
    (prompt,) = make_prompts([Question(category="x", phrases=tuple(phrases))], len, 10_000)
    read = tokenizer(prompt.text, return_offsets_mapping=True)
    spans = phrase_spans(prompt, read.offset_mapping)
    taken = [position for span in spans for position in span]
    assert len(taken) == len(set(taken))
    for phrase, span in zip(phrases, spans, strict=True):
        pieces = tokenizer.convert_ids_to_tokens([read.input_ids[position] for position in span])
        assert "".join(piece.removeprefix("##") for piece in pieces) == phrase.replace(" ", "")


def test_a_batch_sees_what_its_images_see_alone_whatever_their_sizes(random_model: str, policy: Policy) -> None:
    finder = Finder(random_model, questions(policy.pictured), device="cpu", floor=0.0)
    images = pictures((96, 96), (64, 64), (200, 100), (96, 96), (100, 200), (30, 400))
    together = finder.find(images)
    for image, seen in zip(images, together, strict=True):
        (alone,) = finder.find([image])
        assert len(alone) == len(seen) > 0
        assert [one.phrase for one in alone] == [one.phrase for one in seen]
        np.testing.assert_allclose([one.score for one in alone], [one.score for one in seen], atol=2e-5)
        np.testing.assert_allclose([one.box_xyxy for one in alone], [one.box_xyxy for one in seen], atol=2e-2)


def test_labels_are_phrases_of_the_policy_and_never_joined_words(random_model: str, policy: Policy) -> None:
    finder = Finder(random_model, questions(policy.pictured), device="cpu", floor=0.0)
    meaning = {phrase: q.category for q in questions(policy.pictured) for phrase in q.phrases}
    seen = [one for found in finder.find(pictures((96, 96), (96, 96))) for one in found]
    assert len({one.phrase for one in seen}) > 1
    assert all(one.category == meaning.get(one.phrase, "") for one in seen)


def test_scores_are_means_over_a_phrases_own_tokens_as_the_library_counts_them(
    random_model: str, policy: Policy
) -> None:
    import torch
    from transformers import AutoProcessor, GroundingDinoForObjectDetection
    from transformers.models.grounding_dino.modeling_grounding_dino import build_label_maps

    finder = Finder(random_model, questions(policy.pictured), device="cpu", floor=0.0)
    (image,) = pictures((96, 96))
    model = GroundingDinoForObjectDetection.from_pretrained(random_model).eval()
    inputs = AutoProcessor.from_pretrained(random_model)(images=image, text=finder.prompts[0].text, return_tensors="pt")
    with torch.no_grad():
        output = model(**inputs)
    spans = torch.stack(build_label_maps(output.logits, inputs["input_ids"]))[0].float()
    tokens = output.logits.sigmoid()[0].nan_to_num(0)
    scores = (tokens @ spans.T) / spans.sum(1)
    best = scores.max(1)
    expected = sorted(
        zip(best.values.tolist(), [finder.prompts[0].phrases[k] for k in best.indices], strict=True), reverse=True
    )
    seen = finder.find([image])[0]
    np.testing.assert_allclose([one.score for one in seen], [score for score, _ in expected], atol=1e-4)
    assert [one.phrase for one in seen] == [phrase for _, phrase in expected]


def seen_sample(*rows: tuple[str, str, float, tuple[float, float, float, float]]) -> Sample:
    seen = [[phrase, category, "p", score, *box] for phrase, category, score, box in rows]
    return Sample(id="0" * 64, size_wh=(100, 100), columns={"ground.seen": seen})


def decide(sample: Sample, **settings: object) -> tuple[tuple[Claim, ...], Sample]:
    settings = {"name": "ground", "source": "model:m@1", "asked": "", "threshold": 0.3, **settings}
    (result,) = Decide(**settings).load()([sample])  # type: ignore[arg-type]
    return result.claims, Sample(id=sample.id, size_wh=sample.size_wh, columns={**sample.columns, **result.columns})


def test_a_box_that_looks_more_like_something_harmless_is_not_claimed() -> None:
    here, there = (10.0, 10.0, 40.0, 40.0), (50.0, 50.0, 90.0, 90.0)
    sample = seen_sample(
        ("spoon", "", 0.8, here), ("knife", "knife", 0.5, (11.0, 10.0, 40.0, 40.0)), ("blade", "knife", 0.6, there)
    )
    claims, after = decide(sample)
    assert [(c.box_xyxy, c.evidence["phrase"], c.evidence["raw_score"]) for c in claims] == [(there, "blade", 0.6)]
    assert restore(after, "ground") == [("knife", (11.0, 10.0, 40.0, 40.0), 0.5)]


def test_each_category_has_its_threshold_and_nothing_found_is_said() -> None:
    sample = seen_sample(
        ("knife", "knife", 0.5, (10.0, 10.0, 40.0, 40.0)), ("pill", "pill", 0.35, (50.0, 50.0, 90.0, 90.0))
    )
    assert [c.category for c in decide(sample)[0]] == ["knife", "pill"]
    assert [c.category for c in decide(sample, thresholds={"knife": 0.6})[0]] == ["pill"]
    (claim,), after = decide(sample, threshold=0.9)
    assert (claim.says, claim.source) == ("empty", "model:m@1")
    assert after.columns["ground.top"] == {"knife": 0.5, "pill": 0.35}, "near misses are kept for the review queue"


def test_settings_that_cannot_be_are_refused(work: Work) -> None:
    with pytest.raises(ValueError, match=r"threshold must lie in \[0.1, 1\], got 1.7"):
        Ground(threshold=1.7)
    with pytest.raises(InputError, match="no pictured category threat"):
        Ground(thresholds={"threat": 0.5}).run(work)


def test_a_model_that_is_no_grounding_model_is_refused(tmp_path: Path, policy: Policy) -> None:
    (tmp_path / "config.json").write_text('{"model_type": "vit"}')
    (tmp_path / "model.safetensors").write_bytes(b"")
    with pytest.raises(ModelError, match="a 'vit'; grounding needs one of grounding-dino"):
        Finder(str(tmp_path), questions(policy.pictured))


def test_changing_a_threshold_does_not_ask_the_model_again(
    work: Work, random_model: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    work.device = "cpu"
    work.add("images", [NewSample(data=noise_image(n, 64), origin={}) for n in range(4)])
    version = work.dataset.at.number
    first = Ground(model=random_model, threshold=0.2).run(work)
    assert first["boxes"]
    work.dataset = work.dataset.checkout(version)
    monkeypatch.setattr(Finder, "find", None)
    second = Ground(model=random_model, threshold=1.0).run(work)
    assert first["images"] == second["images"] == 4
    assert second["images_without_boxes"] == 4
    assert all(s.state == State.AUTO for s in work.dataset.samples(images=False))


def test_labelled_images_and_the_test_split_are_left_alone(work: Work, random_model: str) -> None:
    work.device = "cpu"
    human = (Claim(says="empty", source="human:ann"),)
    work.add(
        "images",
        [
            NewSample(data=noise_image(1, 64), origin={}, claims=human),
            NewSample(data=noise_image(2, 64), origin={}, columns={"split": "test"}),
            NewSample(data=noise_image(3, 64), origin={}),
        ],
    )
    assert Ground(model=random_model).run(work)["images"] == 1
    work.name = "again"
    assert Ground(model=random_model, relabel=True).run(work)["images"] == 2


def test_images_that_people_were_asked_less_about_are_looked_at_for_the_rest(work: Work, trained: str) -> None:
    from tilth.starter.world.files import draw

    work.device = "cpu"
    names = tuple(category.name for category in work.policy.pictured)
    drawn = [draw("test", n) for n in range(12)]
    shown = [{label["category"] for label in row["labels"]} for _, row in drawn]
    for n, asked in enumerate((names, names[:3])):
        human = (Claim(says="empty", source="human:ann", asked=asked),)
        work.add(
            f"{n}",
            [NewSample(data=data, origin={"n": k}, claims=human) for k, (data, _) in enumerate(drawn) if k % 2 == n],
        )
    facts = Ground(model=trained).run(work)
    assert (facts["images"], facts["unasked_before"]) == (6, dict.fromkeys(names[:3], 0) | dict.fromkeys(names[3:], 6))
    for sample in work.dataset.samples(images=False):
        n = int(str(sample.origin["n"]))
        assert sample.truth.unasked(names) == ()
        assert not sample.truth.categories & set(names[:3]), "people said that there are none"
        if n % 2:
            assert {sample.truth.looked[name] for name in names[3:]} == {"model"}
            assert sample.truth.categories <= shown[n] | {"pill", "dice", "text_area"}
        else:
            assert sample.state is State.CONFIRMED_EMPTY
    assert any(sample.truth.categories for sample in work.dataset.samples(images=False))


def test_a_second_step_asks_only_for_images_that_are_new(work: Work, random_model: str) -> None:
    work.device = "cpu"
    work.add("first", [NewSample(data=noise_image(n, 64), origin={}) for n in range(3)])
    assert Ground(model=random_model).run(work)["looked_at_now"] == 3
    work.name = "ground.made"
    work.add("second", [NewSample(data=noise_image(9, 64), origin={})])
    facts = Ground(model=random_model).run(work)
    assert (facts["images"], facts["looked_at_now"]) == (1, 1)
    work.name = "other"
    assert Ground(model=random_model, threshold=0.5).run(work)["looked_at_now"] == 4


def test_the_starter_model_finds_what_is_drawn(work: Work, trained: str) -> None:
    from tilth.geometry import iou
    from tilth.images import encode_png
    from tilth.starter.world.scene import UNSAFE_KINDS, Spec, render
    from tilth.starter.world.sets import scene_rng

    rng = scene_rng("held_out", 123_456)
    truth: list[tuple[str, tuple[float, ...]]] = []
    for n in range(40):
        kinds = [UNSAFE_KINDS[n % len(UNSAFE_KINDS)], ("spoon", "pen", "cup", "candy", "gift")[n % 5]]
        scene = render(Spec(things=tuple((k, "red", "") for k in kinds), surface="wood", style="photo"), rng, side=96)
        work.add(f"{n}", [NewSample(data=encode_png(scene.image), origin={"n": n})])
        truth.append((kinds[0], next(t.box_xyxy for t in scene.things if t.kind == kinds[0])))
    facts = Ground(model=trained).run(work)
    hits = claimed = 0
    for sample in work.dataset.samples(images=False):
        kind, box = truth[int(str(sample.origin["n"]))]
        claimed += len(sample.truth.labels)
        hits += any(
            c.category == kind and iou(np.array([c.box_xyxy]), np.array([box]))[0, 0] >= 0.5
            for c in sample.truth.labels
        )
    assert facts["failed"] == 0
    assert hits >= 24, f"{hits} of 40 found"
    assert hits / claimed >= 0.7, f"{hits} of {claimed} boxes right"
