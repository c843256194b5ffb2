"""Samples become right tasks, and annotations what people said, counted action by action."""

import copy
import math
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tilth.annotate.labelstudio.answers import read_answers
from tilth.annotate.labelstudio.tasks import EMPTY, ESCALATE, SUSPECT, UNUSABLE, check_task, make_config, make_task
from tilth.claims import Claim
from tilth.policy import Category, Policy
from tilth.samples import Sample

pytestmark = pytest.mark.timeout(600)  # the server's first start takes minutes on a busy machine
NAMES = ("knife", "pill")
MODEL = "model:starter:grounding@abc"
Row = dict[str, Any]


def sample(*claims: Claim, size_wh: tuple[int, int] = (200, 100)) -> Sample:
    return Sample(id="ab" * 32, size_wh=size_wh, claims=claims)


def auto(category: str, box: tuple[float, float, float, float], score: float = 0.6) -> Claim:
    return Claim(category=category, box_xyxy=box, score=score, source=MODEL)


def task() -> Row:
    return make_task(
        sample(auto("knife", (20, 10, 60, 50)), auto("pill", (100, 50, 200, 100))), "/data/local-files/?d=a.png"
    )


def answer(regions: list[Row], **fields: Any) -> Row:
    made = task()
    made["predictions"][0]["id"] = 7
    annotation = {
        "id": 1,
        "completed_by": 3,
        "lead_time": 12.5,
        "was_cancelled": False,
        "parent_prediction": 7,
        "result": regions,
    }
    return {**made, "annotations": [{**annotation, **fields}]}


def regions() -> list[Row]:
    return copy.deepcopy(task()["predictions"][0]["result"])


def choice(value: str) -> Row:
    return {"id": "w", "type": "choices", "from_name": "whole", "to_name": "image", "value": {"choices": [value]}}


def test_a_task_that_we_make_is_right() -> None:
    assert check_task(task(), NAMES) == []
    assert task()["predictions"][0]["result"][0]["value"] == {
        "x": 10,
        "y": 10,
        "width": 20,
        "height": 40,
        "rotation": 0,
        "rectanglelabels": ["knife"],
    }


def at(path: str, value: object) -> Callable[[Row], None]:
    """Set one field of a task; the path is dotted, below the first prediction."""

    def change(whole: Row) -> None:
        *steps, last = path.split(".")
        place: Any = whole["predictions"][0]
        for step in steps:
            place = place[int(step)] if step.isdigit() else place[step]
        place[int(last) if last.isdigit() else last] = value

    return change


MALFORMED = [
    ("result.0.value.x", -5),
    ("result.0.value.x", 95),
    ("result.0.value.width", 0),
    ("result.0.value.height", -1),
    ("result.0.value.y", 200),
    ("result.0.value.x", math.nan),
    ("result.0.value.width", math.inf),
    ("result.0.value.x", "10"),
    ("result.0.value.x", True),
    ("result.0.value.rotation", 30),
    ("result.0.value.rectanglelabels", ["unicorn"]),
    ("result.0.value.rectanglelabels", []),
    ("result.0.value.rectanglelabels", "knife"),
    ("result.0.value.rectanglelabels", ["knife", "pill"]),
    ("result.0.type", "polygonlabels"),
    ("result.0.from_name", "label"),
    ("result.0.to_name", "img"),
    ("result.0.original_width", 100),
    ("result.1.id", None),
    ("result.0.value", None),
    ("result", {}),
    ("score", 1.7),
    ("model_version", ""),
]


def test_there_are_23_kinds_of_malformed_predictions() -> None:
    assert len(MALFORMED) == 23


@pytest.mark.parametrize(("path", "value"), MALFORMED)
def test_a_malformed_prediction_is_refused_before_it_is_sent(path: str, value: object) -> None:
    whole = task()
    at(path, value)(whole)
    assert check_task(whole, NAMES)


def test_two_regions_of_one_name_are_refused_as_one_would_replace_the_other() -> None:
    whole = task()
    whole["predictions"][0]["result"][1]["id"] = whole["predictions"][0]["result"][0]["id"]
    assert any("occurs twice" in what for what in check_task(whole, NAMES))


@settings(deadline=None)
@given(data=st.data())
def test_boxes_survive_the_way_there_and_back(data: st.DataObject) -> None:
    width, height = data.draw(st.integers(1, 5000)), data.draw(st.integers(1, 5000))
    xs, ys = (sorted(data.draw(st.lists(st.floats(0, side), min_size=2, max_size=2))) for side in (width, height))
    if xs[1] - xs[0] < 0.01 or ys[1] - ys[0] < 0.01:
        return
    box = (xs[0], ys[0], xs[1], ys[1])
    made = make_task(sample(auto("knife", box), size_wh=(width, height)), "a")
    assert check_task(made, NAMES) == []
    made["annotations"] = [{"id": 1, "completed_by": 3, "result": made["predictions"][0]["result"]}]
    (back,) = read_answers(made, NAMES, 1)
    np.testing.assert_allclose(back.claims[0].box_xyxy or (), box, atol=1e-6)
    assert back.actions == ("accept",)


def test_what_a_person_did_is_told_by_the_regions() -> None:
    kept, moved, renamed, drawn = regions()[0], regions()[1], regions()[1], regions()[0]
    moved["value"]["x"] -= 10
    renamed["value"]["rectanglelabels"] = ["knife"]
    drawn["id"] = "new"
    said = lambda *rows: read_answers(answer(list(rows)), NAMES, 4)[0]  # noqa: E731
    assert said(kept, moved).actions == ("accept", "edit")
    assert said(kept, renamed).actions == ("accept", "relabel")
    assert said(kept, drawn).actions == ("accept", "draw", "reject")
    assert said(moved).removed == (("knife", (20.0, 10.0, 60.0, 50.0)),)
    assert said(choice(EMPTY)).actions == ("reject", "reject", "confirm_empty")
    claim = said(kept).claims[0]
    assert (claim.source, claim.score, claim.evidence["round"]) == ("human:labelstudio-3", 1.0, 4)
    assert claim.evidence["seconds"] == 12.5


def test_a_skip_is_no_label_and_neither_is_silence_or_contradiction() -> None:
    skipped = read_answers(answer(regions(), was_cancelled=True), NAMES, 1)[0]
    assert (skipped.claims, skipped.actions, skipped.note) == ((), (), "skipped")
    assert read_answers(answer([]), NAMES, 1)[0].note == "says nothing"
    assert read_answers(answer([*regions(), choice(EMPTY)]), NAMES, 1)[0].note == "contradicts itself"
    assert read_answers(answer([choice(UNUSABLE)]), NAMES, 1)[0].claims[0].says == "reject"
    assert read_answers(answer([choice(EMPTY)]), NAMES, 1)[0].claims[0].says == "empty"


@pytest.mark.parametrize(
    "fields",
    [
        {"result": 3},
        {"result": ["a box"]},
        {"result": [{"type": "choices", "value": 3}]},
        {"result": [{"type": "rectanglelabels", "value": {"rectanglelabels": 7}}]},
        {"result": [], "lead_time": "long"},
    ],
)
def test_what_no_browser_sends_is_no_label_and_stops_nothing(fields: Row) -> None:
    whole = answer(regions(), updated_at="2026-01-02")
    whole["annotations"].append({"id": 2, "completed_by": 4, **fields})
    good, bad = read_answers(whole, NAMES, 1)
    assert (good.actions, bad.note, bad.claims) == (("accept", "accept"), "cannot be read", ())


def test_what_may_well_be_missing_is_drawn_already_and_is_nobodys_label() -> None:
    rows = [["knife", 0.3, 20, 10, 60, 50], ["knife", 0.1, 1, 1, 9, 9], ["pill", 0.9, 100, 50, 200, 100]]
    columns = {"student.turn": 1, "student.suspected": rows}
    seen = replace(sample(auto("pill", (100, 50, 180, 100))), columns=columns)
    made = make_task(seen, "a")
    assert check_task(made, NAMES) == []
    (prediction,) = made["predictions"]
    label, knife, pill = prediction["result"]
    assert [region["id"].startswith(SUSPECT) for region in (label, knife, pill)] == [False, True, True]
    annotation = {"id": 1, "completed_by": 3, "parent_prediction": 7, "result": [label, knife]}
    prediction["id"] = 7
    (said,) = read_answers({**made, "annotations": [annotation]}, NAMES, 1)
    assert said.actions == ("accept", "accept", "reject")
    assert {(claim.category, claim.source) for claim in said.claims} == {
        ("pill", "human:labelstudio-3"),
        ("knife", "human:labelstudio-3"),
    }
    assert said.before == (1, 1, 2), "the audit judges labels, and not what was only suspected"
    decided = replace(seen, claims=(*seen.claims, *said.claims))
    assert not decided.suspected, "what people have decided is suspected no more"


def test_a_category_that_is_shown_without_a_box_is_a_label_without_one() -> None:
    shows = {"id": "s", "type": "choices", "from_name": "shows", "to_name": "image"}
    knife, threat = ({**shows, "value": {"choices": chosen}} for chosen in (["knife", "threat"], ["unicorn"]))
    said = read_answers(answer([*regions()[:1], knife]), NAMES, 1, ("knife", "threat"))[0]
    assert [(c.category, c.box_xyxy is None) for c in said.claims] == [("knife", False), ("threat", True)]
    assert read_answers(answer([threat]), NAMES, 1, ("threat",))[0].odd == ("category that the policy does not have",)
    shown = make_task(sample(auto("knife", (20, 10, 60, 50)), Claim(category="threat", source=MODEL)), "a")
    assert check_task(shown, NAMES, ("knife", "threat")) == []
    assert check_task(shown, NAMES, ("knife",)), "a category that the policy does not have"
    assert read_answers(answer([choice(EMPTY), knife]), NAMES, 1, ("knife",))[0].note == "contradicts itself"
    up = read_answers(answer([*regions(), choice(ESCALATE)]), NAMES, 1)[0]
    assert [c.says for c in up.claims] == ["escalate"]


def test_an_answer_is_about_all_that_the_interface_offers() -> None:
    (said,) = read_answers(answer(regions()), NAMES, 1, (*NAMES, "threat"), "starter@1")
    assert {(claim.asked, claim.policy) for claim in said.claims} == {((*NAMES, "threat"), "starter@1")}


def test_the_newest_word_of_each_person_counts() -> None:
    whole = answer(regions(), updated_at="2026-01-02")
    whole["annotations"] += [
        {"id": 2, "completed_by": {"id": 3}, "updated_at": "2026-01-03", "result": [choice(EMPTY)]},
        {"id": 3, "completed_by": 9, "updated_at": "2026-01-01", "result": regions()},
    ]
    first, second = read_answers(whole, NAMES, 1)
    assert (first.who, first.claims[0].says) == ("3", "empty")
    assert (second.who, len(second.claims)) == ("9", 2)


def test_a_turned_box_becomes_the_upright_box_around_it() -> None:
    (region, _) = regions()
    region["value"] |= {"x": 50, "y": 10, "width": 10, "height": 20, "rotation": 90}
    said = read_answers(answer([region]), NAMES, 1)[0]
    np.testing.assert_allclose(said.claims[0].box_xyxy or (), (80, 10, 100, 30), atol=1e-6)
    assert said.odd


def test_the_interface_asks_for_the_pictured_categories_whatever_their_definition() -> None:
    from label_studio_sdk.label_interface import LabelInterface

    policy = Policy(
        policy="p",
        version=1,
        categories=(
            Category(name="knife", definition='Blades "<&>"', prompts=("knife",)),
            Category(name="threat", definition="", evidence="text"),
        ),
    )
    interface = LabelInterface(make_config(policy))
    interface.validate()
    assert list(interface.get_control("boxes").labels) == ["knife"]
