"""A second model looks at each box alone: what does not match goes, with both scores, and comes back when asked."""

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tilth.claims import Claim, State
from tilth.encoders.blip2 import Blip2
from tilth.engine.work import Work
from tilth.errors import InputError
from tilth.images import encode_png
from tilth.mining.cleaning.second_opinion import Judge, Match, SecondOpinion, crop_of
from tilth.samples import NewSample, Sample
from tilth.starter.world.scene import Spec, render

MODEL = "model:starter:grounding@1"


def boxed(kind: str, says: str, seed: int) -> NewSample:
    """An image of a thing, and a model's claim that it is a `says`."""
    scene = render(
        Spec(things=((kind, "red", ""),), surface="wood", style="photo"), np.random.default_rng(seed), side=96
    )
    claim = Claim(
        category=says,
        box_xyxy=scene.things[0].box_xyxy,
        score=0.5,
        source=MODEL,
        evidence={"round": "g", "phrase": says},
    )
    return NewSample(data=encode_png(scene.image), origin={"kind": kind, "seed": seed}, claims=(claim,))


@pytest.fixture
def grounded(work: Work) -> Work:
    rows = [boxed("knife", "knife", n) for n in range(8)] + [boxed("cup", "knife", 100 + n) for n in range(8)]
    work.add("grounded", rows)
    work.name, work.device = "second_opinion", "cpu"
    return work


def test_boxes_on_other_things_are_rejected_and_boxes_on_the_thing_stay(grounded: Work) -> None:
    facts = SecondOpinion().run(grounded)
    assert facts["boxes_before"] == 16
    kept = dict.fromkeys(("knife", "cup"), 0)
    for sample in grounded.dataset.samples(images=False):
        kept[str(sample.origin["kind"])] += len(sample.truth.labels)
        assert sample.state is State.AUTO, "a model looked and found nothing: that is not the same as nobody looked"
    assert kept["knife"] >= 7
    assert kept["cup"] <= 1


def test_both_scores_are_kept_for_what_stays_and_for_what_goes(grounded: Work) -> None:
    SecondOpinion().run(grounded)
    for sample in grounded.dataset.samples(images=False):
        first = sample.claims[0]
        assert (first.score, first.evidence["round"]) == (0.5, "g"), "the first claim is not overwritten"
        for label in sample.truth.labels:
            assert label.score == 0.5
            assert label.evidence["match"] >= 0.2  # type: ignore[operator]
            assert label.evidence["phrase"] == "knife"
            assert str(label.evidence["second_opinion"]).startswith("model:starter:retrieval@")
        for row in sample.columns["second_opinion.removed"]:  # type: ignore[union-attr]
            assert (row["score"], row["reason"]) == (0.5, "does not match")  # type: ignore[index, call-overload]
            assert row["match"] < 0.2  # type: ignore[index, call-overload, operator]


def test_a_rejected_box_comes_back_without_asking_the_model_again(
    grounded: Work, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = grounded.dataset.at.number
    strict = SecondOpinion(min_match=1.0).run(grounded)
    assert strict["boxes_kept"] == 0
    grounded.dataset = grounded.dataset.checkout(before)
    monkeypatch.setattr(Blip2, "match", None)
    again = SecondOpinion(min_match=0.0).run(grounded)
    assert again["boxes_kept"] == 16
    assert again["failed"] == 0


def test_a_category_can_have_its_own_threshold_and_look_alikes_can_count() -> None:
    box = (1.0, 2.0, 3.0, 4.0)
    claims = tuple(
        Claim(category=c, box_xyxy=box, score=0.5, source=MODEL, evidence={"round": "g"}) for c in ("knife", "pill")
    )
    rows = [
        {"source": MODEL, "category": c, "box_xyxy": list(box), "match": 0.4, "counter_match": 0.9}
        for c in ("knife", "pill")
    ]
    sample = Sample(id="0" * 64, size_wh=(9, 9), claims=claims, columns={"so.match": rows})

    def kept(counter_weight: float, **least: float) -> list[str | None]:
        judge = Judge(
            name="so", by="model:m@1", min_match={"knife": 0.1, "pill": 0.1, **least}, counter_weight=counter_weight
        )
        (result,) = judge.load()([sample])
        return [c.category for c in result.claims]

    assert kept(0.0) == ["knife", "pill"]
    assert kept(0.0, knife=0.5) == ["pill"]
    assert kept(1.0) == [None], "nothing left is said as empty"


def test_people_have_the_last_word(work: Work) -> None:
    wrong = boxed("cup", "knife", 1)
    label = replace(wrong.claims[0], source="human:ann", score=1.0, evidence={})
    work.add("reviewed", [replace(wrong, claims=(*wrong.claims, label))])
    assert SecondOpinion().run(work)["images"] == 0
    (sample,) = work.dataset.samples(images=False)
    assert len(sample.truth.labels) == 1


def test_a_batch_is_judged_as_its_images_alone(grounded: Work) -> None:
    from tilth.mining.search.rank import questions

    match = Match(
        name="so", model="starter:retrieval", questions=tuple(questions(grounded.policy)), margin=0.5, device="cpu"
    )
    look = match.load()
    samples = list(grounded.dataset.samples())
    for sample, together in zip(samples, look(samples), strict=True):
        (alone,) = look([sample])
        a, b = (r.columns["so.match"][0]["match"] for r in (alone, together))  # type: ignore[index, call-overload]
        assert a == pytest.approx(b, abs=0.02)  # bfloat16 products, where the machine has them


@given(x=st.floats(-5, 90), y=st.floats(-5, 60), w=st.floats(0.1, 120), h=st.floats(0.1, 120), margin=st.floats(0, 3))
def test_a_crop_lies_in_the_image_and_holds_its_box(x: float, y: float, w: float, h: float, margin: float) -> None:
    rows, columns = np.mgrid[0:70, 0:100]
    image = np.stack([columns, rows, rows], 2).astype(np.uint8)
    crop = crop_of(image, (x, y, x + w, y + h), margin)
    assert crop.shape[0] > 0
    assert crop.shape[1] > 0
    assert crop[..., 0].min() <= max(0, np.floor(max(x, 0)))
    assert crop[..., 0].max() >= min(99, np.ceil(min(x + w, 100)) - 1)


def test_settings_that_cannot_be_are_refused(work: Work) -> None:
    with pytest.raises(ValueError, match=r"min_match must lie in \[0, 1\], got 2"):
        SecondOpinion(min_match=2)
    with pytest.raises(ValueError, match=r"margin must not be negative"):
        SecondOpinion(margin=-1)
    with pytest.raises(InputError, match="no pictured category threat"):
        SecondOpinion(thresholds={"threat": 0.5}).run(work)
