"""Sexual content and harm to minors are refused, however they are written; harmless words are not."""

import hashlib
import re
from collections import Counter

import pytest
from places import ROOT
from refusal_texts import harmless_texts, refused_texts

from tilth.errors import InputError
from tilth.policy import Category
from tilth.synth.safety.lists import VERSION
from tilth.synth.safety.refusals import INVERTED, MINOR, SEXUAL, examine, examine_category, refuse, version

SEXUAL_TEXTS = [
    "a nude person",
    "NUDE",
    "n u d e",
    "n.u.d.e",
    "n-u_d e statue",
    "nu de",
    "n\u200bude",
    "ｎｕｄｅ",
    "n\u00fcde",
    "nud3",
    "NuDe!",
    "sexual content",
    "s3xual",
    "$exual",
    "5EXY",
    "sеxual",
    "nudity",
    "p0rn",
    "pornographic",
    "erotic art",
    "(nude:1.4)",
    "a knife, nsfw",
    "style_of_hentai_v2",
    "desnuda",
    "nackte Person",
    "裸の写真",
    "голая",
]
HARMLESS = [
    "a red knife on a wooden table, photo style",
    "a minor scratch on a bottle",
    "a minor scratch on a knife blade",
    "a minor injury from a knife",
    "an accident with minor wounds and blood",
    "a chord in A minor on a guitar",
    "a child on green grass",
    "a child's toy on a wooden table",
    "kids in a park",
    "a pill bottle with a child-resistant cap",
    "a childproof cap on a bottle of pills",
    "a knife in a baby blue box",
    "a 30 year old with a cigarette",
    "Essex and Sussex by train",
    "a unisex coat",
    "a nutritious lunch",
    "a denuded hill",
    "cock a snook at the weathercock",
    "a kind of knife",
    "five dice on 17 tiles",
    "as exact as ever",
    "nuanced",
    "a sextant and a knife",
    "blood on a knife",
    "a person smoking a cigarette",
    "the explicit price of a gun",
]
MINOR_TEXTS = [
    "an injured child",
    "a minor who is hurt",
    "minors in danger of violence",
    "a child with a knife",
    "a teen smoking",
    "a 12 year old with a gun",
    "12-year-old, beaten",
    "a 16 y/o drinking beer",
    "ch1ld abuse",
    "c h i l d, blood",
    "a girl in a swimsuit",
    "an under-age victim of abuse, underage",
    "a wounded toddler",
    "kid\u200bs fighting, bleeding",
]


@pytest.mark.parametrize("text", SEXUAL_TEXTS)
def test_sexual_words_are_refused_however_they_are_written(text: str) -> None:
    found = examine({"prompt": text})
    assert found is not None
    assert found.reason == SEXUAL


@pytest.mark.parametrize("text", MINOR_TEXTS)
def test_harm_to_a_minor_is_refused(text: str) -> None:
    found = examine({"prompt": text})
    assert found is not None
    assert found.reason in (MINOR, SEXUAL)


@pytest.mark.parametrize("text", HARMLESS)
def test_harmless_texts_pass(text: str) -> None:
    assert examine({"prompt": text}) is None


@pytest.mark.parametrize("field", ["prompt", "negative prompt", "category", "caption of a reference", "adapter"])
def test_every_field_is_read(field: str) -> None:
    with pytest.raises(InputError, match=f"{SEXUAL} \\(in: {field}\\)"):
        refuse({"prompt": "a knife", field: "nude"})


def test_words_of_one_image_count_together_wherever_they_stand() -> None:
    assert examine({"prompt": "a schoolgirl", "category": "cup"}) is None
    found = examine({"prompt": "a schoolgirl", "category": "knife"})
    assert found is not None
    assert found.fields == ("prompt", "category")
    assert examine({"prompt": "blood on the floor", "adapter": "children-book-v1"}) is not None


def test_a_negative_prompt_may_keep_children_away_but_not_clothing() -> None:
    assert examine({"prompt": "a knife", "negative prompt": "children, blurry"}) is None
    found = examine({"prompt": "a person", "negative prompt": "clothes, blurry"})
    assert found is not None
    assert found.reason == INVERTED


def test_the_refusal_is_one_line_and_does_not_repeat_the_prompt() -> None:
    with pytest.raises(InputError) as caught:
        refuse({"prompt": "quixotic nude zebra"})
    text = str(caught.value)
    assert "\n" not in text
    assert not any(word in text for word in ("quixotic", "nude", "zebra"))
    assert caught.value.exit_code == 2


def test_two_thousand_ways_to_write_it_are_refused() -> None:
    missed, looked_at = Counter[str](), 0
    for each in refused_texts():
        looked_at += 1
        if examine({"prompt": each.text}) is None:
            missed[each.way] += 1
    assert looked_at >= 2000
    assert missed == {}


def test_of_two_thousand_harmless_texts_hardly_any_is_refused() -> None:
    texts = list(harmless_texts())
    refused = [text for text in texts if examine({"prompt": text}) is not None]
    assert len(texts) == 2000
    assert len(refused) <= 20, refused


@pytest.mark.parametrize(
    "text", ["Nude写真", "1girl, sword", "style_of_nudeGirl_v2", "n*de", "nude\n", "a\x0bnude", "chIld with a gun"]
)
def test_words_are_found_between_other_signs(text: str) -> None:
    assert examine({"prompt": text}) is not None


def category(**told: object) -> Category:
    return Category(**{"name": "thing", "definition": "A thing.", "prompts": ("thing",), **told})  # type: ignore[arg-type]


@pytest.mark.parametrize(
    "told",
    [
        {"name": "nudity"},
        {"also": ("nackte Person",)},
        {"definition": "People without clothes."},
        {"prompts": ("thing", "erotic drawing")},
        {"name": "smoking", "definition": "Children who smoke a cigarette."},
        {"definition": "Swimwear. Adults are not meant."},
    ],
)
def test_a_category_is_read_as_a_whole(told: dict[str, object]) -> None:
    assert examine_category(category(**told)) is not None


def test_what_a_definition_leaves_out_is_no_wish() -> None:
    assert examine_category(category(name="knife", definition="A knife. Toy knives of children are not meant.")) is None


def test_what_a_recipe_adds_to_a_category_counts_too() -> None:
    assert examine_category(category(), ("a nude person",)) is not None


def test_the_version_of_the_refusals_is_raised_with_their_words_and_readings() -> None:
    """Every generated file names it. When this fails: raise VERSION, and put the digest that is printed here."""
    names = ("synth/safety/lists", "synth/safety/readings", "synth/safety/refusals", "tilth/texts")
    code = "".join((ROOT / f"{name}.py").read_text() for name in names)
    digest = hashlib.sha256(re.sub(r"\s+", "", code).encode()).hexdigest()[:12]
    assert {VERSION: digest} == {3: "128ac200d8a9"}
    assert version() == f"tilth-refusals-{VERSION}"
