"""Adherence drops what was not asked for, and prompts are made of words that fit."""

import io

import numpy as np
import pytest
from PIL import Image

from tilth.claims import Claim
from tilth.engine.work import Work
from tilth.errors import InputError
from tilth.policy import Category
from tilth.samples import NewSample
from tilth.synth.check.adherence import Adherence
from tilth.synth.plan.prompts import Words, in_turn, shares

MODEL = "model:starter:grounding@0"


CLAIMS_ALONE = Adherence(encoder="")


def picture(number: int) -> bytes:
    """Draw 16 x 16 pixels of a few soft blots, like no other number's."""
    blots = np.random.default_rng(number).integers(0, 256, (4, 4, 3), np.uint8)
    data = io.BytesIO()
    Image.fromarray(blots).resize((16, 16), Image.Resampling.BICUBIC).save(data, "PNG")
    return data.getvalue()


def found(category: str, box: tuple[float, float, float, float] = (2, 2, 12, 12), score: float = 0.9) -> Claim:
    return Claim(category=category, box_xyxy=box, score=score, source=MODEL)


def generated(
    number: int, *claims: Claim, asked_at: tuple[float, float, float, float] | None = None, **columns: object
) -> NewSample:
    asked = Claim(category="knife", box_xyxy=asked_at, score=0.5, source="synth:generate")
    return NewSample(
        data=picture(number),
        origin={"prompt": "a knife", "category": "knife"},
        claims=(asked, *claims),
        columns=columns,  # type: ignore[arg-type]
    )


EMPTY = Claim(says="empty", source=MODEL)
LOOK_ALIKE = [{"phrase": "spoon", "category": None, "score": 0.8, "reason": "look-alike"}]
CASES = [
    (generated(1, found("knife")), ""),
    (generated(2, found("bottle")), "asked for knife, found bottle"),
    (generated(3, EMPTY), "asked for knife, nothing found"),
    (generated(4, EMPTY, **{"ground.removed": LOOK_ALIKE}), "asked for knife, found spoon"),
    (generated(5, found("knife", (0, 0, 16, 16))), "asked for knife, box covers everything"),
    (generated(6, found("knife", score=0.2)), "asked for knife, nothing found"),
    (generated(7, found("knife", (0, 0, 4, 4)), asked_at=(8, 8, 16, 16)), "asked for knife, found in another place"),
    (generated(8, found("knife", (9, 9, 15, 15)), asked_at=(8, 8, 16, 16)), ""),
    (generated(9), "no model has looked at it"),
]


def test_images_fall_for_the_reason_that_grounding_gives(work: Work) -> None:
    work.add("made", [sample for sample, _ in CASES])
    facts = CLAIMS_ALONE.run(work)
    reasons = {s.id: (s.drops[0][1] if s.drops else "") for s in work.dataset.samples(dropped=True)}
    for sample, reason in CASES:
        assert reasons[sample.identify()[0]] == reason
    assert (facts["kept"], facts["dropped"]) == (2, 7)
    assert facts["reasons"]["asked for knife, nothing found"] == 2
    assert facts["acceptance_by_category"] == {"knife": round(2 / 9, 4)}


def test_a_threshold_is_a_setting_and_the_measure_a_column(work: Work) -> None:
    work.add("made", [CASES[0][0], CASES[5][0]])
    assert Adherence(min_score=0.1, encoder="").run(work)["kept"] == 2
    scores = sorted(s.columns["adherence.score"] for s in work.dataset.samples())
    assert scores == pytest.approx([0.2, 0.9], abs=1e-3)


def test_real_images_and_those_that_people_labelled_are_left_alone(work: Work) -> None:
    real = NewSample(data=picture(20), origin={"source": "a.png"}, claims=(EMPTY,))
    person = Claim(category="bottle", box_xyxy=(1, 1, 9, 9), source="human:ann")
    work.add("made", [real, generated(21, found("bottle"), person), CASES[0][0]])
    assert CLAIMS_ALONE.run(work)["kept"] == 1
    assert work.dataset.count() == 3


def test_an_image_that_was_asked_for_nothing_stays(work: Work) -> None:
    asked = generated(1, EMPTY)
    work.add("made", [NewSample(data=asked.data, origin={"parents": ["0" * 64], "category": ""}, claims=(EMPTY,))])
    assert Adherence().run(work)["kept"] == 1


def test_without_grounding_adherence_says_what_is_missing(work: Work) -> None:
    work.add("made", [generated(1), generated(2)])
    with pytest.raises(InputError, match="put 'ground' before this step"):
        Adherence().run(work)


def test_prompts_come_from_the_template_or_from_the_user() -> None:
    knife = Category(name="knife", definition="", prompts=("knife", "blade"))
    words = Words(
        template="a {color} {thing}, {style} style",
        inpaint_template="a {thing}",
        fillings={"color": ("orange",)},
        prompts={"pill": ("two pills",)},
        things={"knife": ("knife",)},
    )
    rng = np.random.default_rng(0)
    assert words.write(knife, "photo", rng) == ("an orange knife, photo style", False)
    assert words.write(knife, "photo", rng, inpaint=True) == ("a knife", False)
    assert words.write(Category(name="pill", definition="", prompts=("pill",)), "photo", rng) == ("two pills", False)
    with pytest.raises(ValueError, match=r"nothing fills \{size\} of the template"):
        Words(template="a {size} {thing}")
    with pytest.raises(ValueError, match="got none for knife"):
        Words(things={"knife": ()})


def test_all_prompts_and_synonyms_of_a_category_are_asked_for() -> None:
    cell = Category(name="WBC", definition="", prompts=("white cell", "leukocyte"), also=("White_Cell", "wbc"))
    written = {Words().write(cell, "photo", np.random.default_rng(i))[0] for i in range(60)}
    for name in ("white cell", "leukocyte", "wbc"):
        assert any(name in prompt for prompt in written)
    assert len(written) > 50, "hardly two are the same"


def test_what_a_model_would_not_read_is_left_out_in_the_order_of_importance() -> None:
    knife = Category(name="knife", definition="", prompts=("knife",))

    def written(most: int) -> tuple[str, bool]:
        return Words().write(knife, "photo", np.random.default_rng(1), fits=lambda prompt: len(prompt.split()) <= most)

    whole, cut = written(99)
    assert not cut
    for most in range(5, len(whole.split())):
        prompt, cut = written(most)
        assert cut
        assert whole.startswith(prompt) or most < 7, "the end goes first"
        assert len(prompt.split()) <= most
    assert written(1) == ("a photo of a knife", True), (
        "what is asked for always stays, and is refused if it is too long"
    )


def test_each_category_and_style_can_have_its_own_negative_prompt() -> None:
    words = Words(negatives={"knife": "spoon", "neon": "daylight"})
    assert words.negative("knife", "neon", "blurry") == "blurry, spoon, daylight"
    assert words.negative("pill", "photo", "") == ""


def test_shares_even_out_what_is_there() -> None:
    cells = [("knife", "photo"), ("knife", "neon"), ("pill", "photo"), ("pill", "neon")]
    have = {("knife", "photo"): 9, ("knife", "neon"): 1, ("pill", "neon"): 2}
    given = shares(14, have, cells)
    total = {cell: have.get(cell, 0) + given[cell] for cell in cells}
    assert (
        total[("knife", "photo")] + total[("knife", "neon")] == total[("pill", "photo")] + total[("pill", "neon")] == 13
    )
    assert given[("knife", "photo")] == 0
    assert abs(total[("pill", "photo")] - total[("pill", "neon")]) <= 1
    assert sum(given.values()) == len(list(in_turn(given))) == 14
    assert not shares(5, {}, [])
