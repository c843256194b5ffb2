"""Wrong labels are found, writing is measured, and what looks alike is joined without holding all vectors."""

import importlib.util
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import cv2
import numpy as np
import pytest
from hypothesis import assume, example, given, settings
from hypothesis import strategies as st
from mining_parts import add, new_store, scene, unit

from tilth.claims import Claim
from tilth.engine.apply import Apply
from tilth.engine.work import Work
from tilth.errors import InputError
from tilth.images import encode_png
from tilth.mining.cleaning.filter import Filter
from tilth.mining.cleaning.label_errors import LabelErrors, doubtful, fewest_groups, predict_unseen
from tilth.mining.cleaning.words import Words, measure
from tilth.mining.vectors.alike import alike_pairs
from tilth.samples import NewSample, Result

IMAGES, WRONG = 400, 30


EMPTY = Claim(says="empty", source="human:a", asked=("bottle", "dice", "knife"))


def label(category: str) -> Claim:
    return replace(EMPTY, says="label", category=category, box_xyxy=(1, 1, 30, 30))


def test_labels_that_were_swapped_are_named(work: Work) -> None:
    rng = np.random.default_rng(0)
    shown = [{t.kind for t in scene(i).things} & {"bottle", "dice"} for i in range(IMAGES)]
    swapped = set(rng.choice(IMAGES, WRONG, replace=False).tolist())
    new = []
    for i, kinds in enumerate(shown):
        said = kinds ^ {"bottle"} if i in swapped else kinds
        claims = tuple(label(kind) for kind in sorted(said)) or (EMPTY,)
        new.append(NewSample(data=encode_png(scene(i).image), origin={"source": str(i)}, claims=claims))
    work.add("labelled", new)
    facts = LabelErrors().run(work)
    assert facts["judged"] == IMAGES
    found = {
        int(str(s.origin["source"])): s.columns for s in work.dataset.samples(images=False)
        if s.columns.get("label_errors.category") == "bottle"
    }  # fmt: skip
    hits = swapped & found.keys()
    assert len(hits) >= 0.5 * WRONG, "most of what was swapped is found"
    assert len(hits) / len(found) >= 4 * WRONG / IMAGES, "and a look at a candidate pays four times a look at random"
    for i in hits:
        assert found[i]["label_errors.says"] == ("missing" if "bottle" in shown[i] else "wrong")
        assert 0 <= float(str(found[i]["label_errors.score"])) <= 0.5
    assert "knife" in facts["too_few_images"]  # type: ignore[operator]
    again = LabelErrors().run(work)
    assert again == facts


def test_too_few_labels_give_no_verdict(work: Work) -> None:
    work.add("one", [NewSample(data=encode_png(scene(0).image), origin={"source": "0"}, claims=(label("bottle"),))])
    facts = LabelErrors().run(work)
    assert (facts["judged"], facts["candidates"]) == (1, 0)
    with pytest.raises(ValueError, match="min_images must be at least folds"):
        LabelErrors(min_images=3)


def test_what_nobody_looked_for_is_neither_wrong_nor_missing(work: Work) -> None:
    def add(name: str, first: int, asked: tuple[str, ...]) -> None:
        new = []
        for i in range(first, first + 60):
            kinds = {t.kind for t in scene(i).things} & set(asked)
            claims = tuple(replace(label(kind), asked=asked) for kind in sorted(kinds)) or (
                replace(EMPTY, asked=asked),
            )
            new.append(NewSample(data=encode_png(scene(i).image), origin={"source": str(i)}, claims=claims))
        work.add(name, new)

    add("first day", 0, ("dice",))
    add("third day", 100, ("bottle",))
    facts = LabelErrors(min_images=5).run(work)
    assert facts["nobody_looked"] == dict.fromkeys(work.policy.names, 120) | {"dice": 60, "bottle": 60}
    for sample in work.dataset.samples(images=False):
        day = "dice" if int(str(sample.origin["source"])) < 100 else "bottle"
        assert sample.columns.get("label_errors.category", day) == day


def test_labels_of_models_are_judged_when_they_are_asked_for(work: Work) -> None:
    empty = Claim(says="empty", source="model:teacher@1", score=0.9, asked=("bottle",))
    there = {i: "bottle" in {thing.kind for thing in scene(i).things} for i in range(120)}
    swapped = {i for i in there if i % 12 == 0}
    new = []
    for i, shown in there.items():
        said = (
            replace(empty, says="label", category="bottle", box_xyxy=(1, 1, 30, 30))
            if shown ^ (i in swapped)
            else empty
        )
        new.append(NewSample(data=encode_png(scene(i).image), origin={"source": str(i)}, claims=(said,)))
    work.add("automatic", new)
    assert LabelErrors().run(work)["judged"] == 0
    assert LabelErrors(states=("auto",)).run(work)["judged"] == len(there)
    found = {
        int(str(s.origin["source"])) for s in work.dataset.samples(images=False) if s.columns.get("label_errors.says")
    }
    assert len(swapped & found) >= 0.5 * len(swapped)
    assert len(swapped & found) / len(found) >= 2 * len(swapped) / len(there), "twice what a look at random pays"
    with pytest.raises(ValueError, match="states must be some of reviewed, confirmed_empty, auto, got rejected"):
        LabelErrors(states=("rejected",))


def groups_of(work: Work, group: Callable[[int], str]) -> None:
    rows = {s.id: {"dedup.group": group(int(str(s.origin["source"])))} for s in work.dataset.samples(images=False)}
    Apply.to(work, {id_: Result(columns=dict(columns)) for id_, columns in rows.items()})


def test_copies_of_too_few_pictures_give_no_verdict_and_say_what_to_do(work: Work) -> None:
    bottle, empty = label("bottle"), EMPTY
    work.add(
        "copies",
        [
            NewSample(data=encode_png(scene(i).image), origin={"source": str(i)}, claims=(empty if i % 2 else bottle,))
            for i in range(48)
        ],
    )
    groups_of(work, lambda i: f"burst {i % 8}")
    with pytest.raises(
        InputError,
        match=r"the 48 images that are reviewed or confirmed_empty are copies of too few pictures: bottle of 4, and fol",
    ):
        LabelErrors().run(work)
    assert LabelErrors(folds=4).run(work)["share_doubted"], "as many groups as folds are enough"
    groups_of(work, lambda i: f"{i % 2} {i if i % 2 else 0}")  # one burst shows the bottle, all others are apart
    with pytest.raises(InputError, match="bottle of 1, and folds is 2; review more images, or set folds lower"):
        LabelErrors(folds=2).run(work)


@st.composite
def divided(draw: st.DrawFn) -> tuple[list[bool], list[str]]:
    labels = draw(st.lists(st.booleans(), min_size=4, max_size=40))
    return labels, draw(st.lists(st.sampled_from("abcdefghijkl"), min_size=len(labels), max_size=len(labels)))


@settings(deadline=None, max_examples=30)
@given(division=divided(), folds=st.integers(2, 5))
@example(division=([False, False, True, True], list("abac")), folds=2)  # one half has all that show it
def test_every_division_by_enough_groups_tells_something(division: tuple[list[bool], list[str]], folds: int) -> None:
    labels, groups = np.array(division[0]), division[1]
    assume(fewest_groups(labels, groups) >= folds)
    features = np.random.default_rng(0).normal(size=(len(labels), 3)).astype(np.float32)
    chance = predict_unseen(features, labels, groups, folds, 0)
    assert chance.shape == labels.shape
    assert np.isfinite(chance).all()


def test_a_doubt_needs_what_is_usual_for_the_opposite() -> None:
    labels = np.array([1, 1, 1, 1, 0, 0, 0, 0], bool)
    chance = np.array([0.9, 0.8, 0.55, 0.1, 0.1, 0.2, 0.45, 0.9])
    # the mean of `present` among the labelled is .5875, that of `absent` among the others .5875
    assert doubtful(chance, labels).tolist() == [False, False, False, True, False, False, False, True]


def test_the_places_of_text_are_measured() -> None:
    image = np.full((100, 200, 3), 230, np.uint8)
    middle = np.array([[[50, 40], [150, 40], [150, 60], [50, 60]]], float)
    below = np.array([[[50, 92], [150, 92], [150, 99], [50, 99]]], float)
    assert measure(image, np.empty((0, 4, 2))) == {"lines": 0, "area": 0, "edge": 0, "only": 0}
    told = measure(image, middle)
    assert (told["lines"], told["edge"], told["only"]) == (1, 0, 1)
    assert told["area"] == pytest.approx(0.1, abs=0.01)
    assert measure(image, below)["edge"] == 1
    noise = np.random.default_rng(0).integers(0, 256, image.shape, dtype=np.uint8)
    assert measure(noise, middle)["only"] < 0.15


@pytest.mark.skipif(importlib.util.find_spec("rapidocr") is None, reason="rapidocr is not installed: tilth[runtime]")
def test_text_only_images_are_told_from_pictures(work: Work) -> None:
    page = np.full((480, 640, 3), 250, np.uint8)
    for line in range(7):
        place = (30, 60 + 55 * line)
        cv2.putText(page, "the quick brown fox jumps", place, cv2.FONT_HERSHEY_SIMPLEX, 1.1, (10, 10, 10), 2)
    picture = cv2.GaussianBlur(np.random.default_rng(0).integers(0, 256, (480, 640, 3), dtype=np.uint8), (0, 0), 25)
    picture = cv2.normalize(picture, None, 0, 255, cv2.NORM_MINMAX)
    marked = picture.copy()
    cv2.putText(marked, "(c) example.org", (330, 470), cv2.FONT_HERSHEY_SIMPLEX, 1.1, (255, 255, 255), 3)
    add(work, "page", [encode_png(page)])
    add(work, "picture", [encode_png(picture)])
    add(work, "marked", [encode_png(marked)])
    assert Words().run(work) == {"ok": 3}
    columns = {str(s.origin["source"]): s.columns for s in work.dataset.samples(images=False)}
    assert columns["page-0"]["words.lines"] == 7
    assert float(str(columns["page-0"]["words.only"])) > 0.9
    assert columns["picture-0"]["words.lines"] == 0
    assert columns["marked-0"]["words.lines"] == 1
    assert float(str(columns["marked-0"]["words.edge"])) > 0.8 > float(str(columns["marked-0"]["words.only"]))
    facts = Filter(rules=("words.only <= 0.9", "words.edge <= 0.8")).run(work)
    assert facts["dropped"] == 2


def test_alike_is_decided_by_whole_vectors_and_grows_with_them(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    vectors = unit(rng, 300, 4, 16).astype(np.float32)
    for a, b, noise in ((3, 250, 0.02), (10, 11, 0.05), (70, 299, 0.01)):
        vectors[b] = vectors[a] + noise * rng.standard_normal((4, 16))
    vectors /= np.linalg.norm(vectors, axis=-1, keepdims=True)
    store = new_store(tmp_path)
    store.append([(str(i), "") for i in range(280)], vectors[:280].astype(np.float16))
    assert set(alike_pairs(store, 0.9)) == {(3, 250), (10, 11)}
    store.append([(str(i), "") for i in range(280, 300)], vectors[280:].astype(np.float16))
    flat = store.take(np.arange(300)).astype(np.float32).reshape(300, -1)
    cosine = np.triu(flat @ flat.T / 4, 1)
    for least in (0.9, 0.55):
        assert set(alike_pairs(store, least)) == set(
            zip(*(x.tolist() for x in np.nonzero(cosine >= least)), strict=True)
        )
