"""A student overrules its teacher where the evidence is strong, says how likely each label is to be right, and can be taken back."""

from collections.abc import Callable, Sequence
from dataclasses import replace

import numpy as np
import pytest

from tilth.claims import Claim, Json, resolve
from tilth.engine.steps import step
from tilth.engine.work import Work
from tilth.images import encode_png
from tilth.samples import NewSample, Result, Sample
from tilth.train.artifacts.artifact import About, load_for_training, save_trained
from tilth.train.judge.answers import Answers
from tilth.train.judge.chances import KEPT_BEFORE, SEEN_BEFORE, Curve, Said, fit_curve
from tilth.train.judge.relabel import Decide, Relabel
from tilth.train.learn.examples import drawn, example

ALL = ("knife", "pill", "syringe")
BOX, OTHER = (10.0, 10.0, 40.0, 40.0), (60.0, 60.0, 90.0, 90.0)


def decide(digest: str = "1", name: str = "again", answers: int = 40) -> Decide:
    """One that believes scores as they are, and to which people have answered about half high and half low ones."""
    kept = fit_curve([], [], KEPT_BEFORE)
    told = [
        (Said(category=c, first=0.0, second=s, unasked=c == "syringe"), s > 0.5)
        for c in ("pill", "syringe")
        for s in (0.95, 0.3)
    ]
    some = told * answers
    seen = fit_curve([said for said, _ in some], [there for _, there in some], SEEN_BEFORE)
    settings = {
        "policy": "p@1",
        "categories": ALL,
        "sure": 0.8,
        "absent": 0.05,
    }
    return Decide(name=name, look=name, digest=digest, kept=kept, seen=seen, **settings)  # type: ignore[arg-type]


@step
class Say:
    """Somebody says the same of every image."""

    claim: Claim
    batch_size: int = 8

    def load(self) -> Callable[[Sequence[Sample]], list[Result]]:
        return lambda samples: [Result(claims=(self.claim,)) for _ in samples]


def sample(*teacher: Claim, sees: list[Json], name: str = "again") -> Sample:
    said = teacher or (Claim(says="empty", source="model:t@1", asked=("knife", "pill")),)
    return Sample(id="a", size_wh=(100, 100), claims=said, columns={f"{name}.again": sees})


def knife(score: float) -> Claim:
    return Claim(category="knife", score=score, box_xyxy=BOX, source="model:t@1", asked=("knife", "pill"))


def after(one: Sample, judge: Decide) -> Sample:
    found = judge.decide(one, f"round {judge.digest}")
    return replace(one, claims=(*one.claims, *found.claims), columns={**one.columns, **found.columns})


def test_what_teacher_and_student_doubt_goes_and_what_the_student_is_sure_of_comes() -> None:
    gone = after(sample(knife(0.05), sees=[]), decide())
    assert gone.truth.categories == frozenset()
    assert gone.truth.looked["knife"] == "model"
    come = after(sample(sees=[["pill", 0.97, *OTHER]]), decide())
    assert come.truth.categories == {"pill"}
    both = after(sample(knife(0.9), sees=[["knife", 0.9, *BOX], ["pill", 0.6, *OTHER]]), decide())
    assert both.truth.categories == {"knife"}
    assert 0.9 < both.chances["knife"] <= 1
    assert both.chances["pill"] < 0.95
    assert both.presence["knife"] > 0.9
    assert 0 < both.presence["pill"] < 0.5, "a doubt is a chance, too"
    assert both.truth.labels[0].source == "model:t@1", "what stays is still the teacher's word"


def test_of_what_no_teacher_was_asked_it_speaks_only_when_it_is_sure() -> None:
    def looked(score: float) -> object:
        return after(sample(sees=[["syringe", score, *OTHER]] if score else []), decide()).truth.of("syringe")

    assert [str(looked(score)) for score in (0.0, 0.5, 0.97)] == ["absent", "nobody looked", "present"]
    assert (
        str(after(sample(sees=[["syringe", 0.97, *OTHER]]), decide(answers=2)).truth.of("syringe")) == "nobody looked"
    ), "people have confirmed two"
    unanswered = decide(answers=0)
    assert str(after(sample(sees=[["syringe", 0.97, *OTHER]]), unanswered).truth.of("syringe")) == "nobody looked", (
        "nobody has answered"
    )
    silent = Sample(id="a", size_wh=(100, 100), claims=sample(sees=[]).claims)
    assert str(after(silent, decide()).truth.of("syringe")) == "nobody looked", "who has not looked says nothing"


def test_a_later_round_takes_the_place_of_an_earlier_one_even_to_agree_with_the_teacher_again() -> None:
    first = after(sample(knife(0.3), sees=[]), decide("1"))
    assert not first.truth.labels
    again = replace(first, columns={**first.columns, "later.again": [["knife", 0.95, *BOX]]})
    second = after(again, decide("2", "later"))
    assert second.truth.categories == {"knife"}
    assert second.columns["later.turn"] == 2
    assert second.chances["knife"] > 0.5, "the last turn's word counts"
    unsure = replace(second, columns={**second.columns, "last.again": [["syringe", 0.6, *OTHER]]})
    assert str(second.truth.of("syringe")) == "absent"
    third = after(unsure, decide("3", "last"))
    assert str(third.truth.of("syringe")) == "nobody looked", "what an earlier student was sure of does not outlive it"
    back = [
        *second.claims,
        Claim(says="withdraw", source="model:student@2"),
        Claim(says="withdraw", source="model:student@1"),
    ]
    assert resolve(back).state != "disputed"


def test_what_is_in_doubt_is_there_in_as_many_views_as_it_is_likely() -> None:
    said = ["knife", 0.45, *BOX], ["syringe", 0.8, *OTHER]
    taken = after(sample(knife(0.4), sees=list(said)), decide())
    assert not taken.truth.labels
    assert {c.category: round(c.score, 1) for c in taken.doubts} == {"knife": 0.2, "syringe": 0.7}
    row = example(taken, ALL)
    rng = np.random.default_rng(0)
    views = [drawn(row, rng) for _ in range(500)]
    share = np.mean([ALL.index("syringe") in view.labels for view in views])
    assert abs(share - taken.presence["syringe"]) < 0.1
    assert {view.looked for view in views} == {("model", "model", "model")}, "nothing is hidden from the loss"
    decided = replace(taken, claims=(*taken.claims, Claim(says="empty", source="human:a", asked=ALL)))
    assert not drawn(example(decided, ALL), rng).labels
    assert drawn(example(decided, ALL), rng).looked == ("human", "human", "human")


@pytest.mark.parametrize("category", ["bottle", "knife"])
def test_a_category_that_is_often_wrong_is_believed_less(category: str) -> None:
    said = [Said(category=name, first=0.5, second=float("nan")) for name in ("bottle", "knife")] * 20
    curve: Curve = fit_curve(said, [one.category != category for one in said], KEPT_BEFORE)
    chances = dict(zip(("bottle", "knife"), curve(said[:2]), strict=True))
    assert chances.pop(category) < 0.3
    assert min(chances.values()) > 0.7


def test_given_images_tell_less_of_mined_ones_until_people_answer_about_these() -> None:
    """Who gives labelled images gives such as show something; people who then say the same of mined ones are believed."""

    def chance(mined: int) -> float:
        answers = Answers(ALL)
        for number in range(10 + mined):
            known = [Claim(says="label", category="knife", box_xyxy=BOX, source="human:a", asked=("knife",))]
            one = sample(knife(0.5), *known, sees=[["knife", 0.5, *BOX]])
            answers.take(one if number < 10 else replace(one, columns={**one.columns, "again.turn": 1}), "again")
        return answers.curves()[0]([Said(category="knife", first=0.5, second=0.5)])[0]

    given = fit_curve([Said(category="knife", first=0.5, second=0.5)] * 10, [True] * 10, KEPT_BEFORE)
    same = given([Said(category="knife", first=0.5, second=0.5)])[0]
    assert chance(0) < same - 0.1
    assert chance(10) > 0.9


def test_answers_about_an_earlier_student_count_less_of_what_the_next_one_suspects() -> None:
    """The same score of another student means something else; what people said of the teacher's boxes stays true."""

    def chances(turn: int) -> list[float]:
        answers = Answers(ALL, turn)
        no = Claim(says="empty", source="human:a", asked=("knife",))
        for one in (sample(knife(0.7), no, sees=[]), sample(no, sees=[["knife", 0.7, *BOX]])) * 5:
            answers.take(replace(one, columns={**one.columns, "again.turn": 2}), "again")
        said = Said(category="knife", first=0.7, second=0.7)
        return [curve([said])[0] for curve in answers.curves()]

    now, later = chances(3), chances(9)
    assert now[0] == later[0]
    assert now[1] < later[1] - 0.1, "its suspicions were wrong; of another's nobody has said so"


@pytest.mark.parametrize(("errs", "label"), [(0, True), (6, True), (6, False)])
def test_people_who_contradict_what_is_nearly_sure_are_noticed(errs: int, label: bool) -> None:
    """A suspicion that nobody dared to make a label is nothing to be contradicted."""
    answers = Answers(ALL)
    for number in range(20):
        shown = replace(
            sample(knife(0.97), sees=[]),
            columns={
                "again.again": [["knife", 0.97, *BOX]],
                "again.turn": 1,
                "again.present": {"knife": 0.98, "pill": 0.01, "syringe": 0.3},
                "again.right": {"knife": 0.98 if label else 0.02, "pill": 0.99},
            },
        )
        said = Claim(says="empty", source="human:a", asked=ALL)
        if number >= errs:
            said = replace(said, says="label", category="knife", box_xyxy=BOX)
        answers.take(replace(shown, claims=(*shown.claims, said)), "again")
    told = answers.contradicted()
    expected = (40, 0.6, errs, errs > 0) if label else (20, 0.2, 0, False)
    assert (told["answers"], told["expected"], told["contradicted"], told["surprising"]) == expected


def test_what_a_student_saw_is_weighed_anew_without_a_look_once_people_have_said_more(work: Work) -> None:
    rng = np.random.default_rng(0)
    seen = Claim(category="knife", score=0.6, box_xyxy=BOX, source="model:t@1", asked=tuple(work.policy.names))
    pixels = [encode_png(rng.integers(0, 255, (96, 96, 3), np.uint8)) for _ in range(6)]
    work.add("a", [NewSample(data=data, origin={"source": "x"}, claims=(seen,)) for data in pixels])
    labels = [category.name for category in work.policy.pictured]
    about = About(kind="detector", base="x", labels=labels, side=96, mean=[0.0] * 3, std=[1.0] * 3)
    model = load_for_training("detector", "starter:detector", labels)
    work.publish("student", save_trained(model, about, work.folder / "model"))
    facts = Relabel(detector="student").run(replace(work, name="relabel"))
    assert facts["images"] == 6
    [first, *_] = ids = [sample.id for sample in work.dataset.samples(images=False)]
    empty = Claim(says="empty", source="human:a", asked=tuple(labels))
    replace(work, name="people").map(Say(claim=empty), ids={first})
    again = Relabel(detector="student").run(replace(work, name="weigh", facts={"relabel": facts}))
    assert (again["images"], again["judged"]) == (0, len(ids) - 1)
    assert again["learned_from"]["kept"] == 1 > facts["learned_from"]["kept"]  # type: ignore[index,call-overload,operator]
    for one in work.dataset.samples(images=False):
        assert one.last_turn == ("relabel" if one.id == first else "weigh")
        assert one.columns.get("weigh.again") == (None if one.id == first else one.columns["relabel.again"])
    more = encode_png(rng.integers(0, 255, (96, 96, 3), np.uint8))
    work.add("b", [NewSample(data=more, origin={"source": "y"}, claims=(seen,))])
    late = Relabel(detector="student").run(replace(work, name="late", facts={"relabel": facts}))
    assert late["images"] == len(ids), "images have come since, and all are looked at"
