"""Samples go to a real Label Studio and come back as what people said, counted action by action."""

import copy
import math
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import httpx
import label_studio
import numpy as np
import pytest
from conftest import noise_image
from hypothesis import given, settings
from hypothesis import strategies as st

from tilth.annotate.labelstudio import Studio
from tilth.annotate.labelstudio_answers import read_answers
from tilth.annotate.labelstudio_tasks import EMPTY, UNUSABLE, check_task, make_config, make_task
from tilth.annotate.review import Review
from tilth.claims import Claim, State
from tilth.errors import InputError, Unavailable
from tilth.policy import Category, Policy
from tilth.samples import NewSample, Sample
from tilth.work import Work

pytestmark = pytest.mark.timeout(600)  # the server's first start takes minutes on a busy machine
NAMES = ("knife", "pill")
MODEL = "model:starter:grounding@abc"
Row = dict[str, Any]


@pytest.fixture(scope="session")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[label_studio.Server]:
    if reason := label_studio.missing():
        pytest.skip(reason)
    with label_studio.serving(tmp_path_factory.mktemp("label-studio")) as running:
        yield running


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


def annotate(server: label_studio.Server, task_id: int, result: list[Row], **fields: object) -> None:
    """Do what the browser does when a person submits."""
    with httpx.Client(base_url=server.url, headers={"Authorization": f"Token {server.token}"}) as client:
        client.post(
            f"/api/tasks/{task_id}/annotations/", json={"result": result, "lead_time": 9.5, **fields}
        ).raise_for_status()


@pytest.fixture
def studio_work(
    work: Work, server: label_studio.Server, monkeypatch: pytest.MonkeyPatch, request: pytest.FixtureRequest
) -> Work:
    monkeypatch.setenv("LABEL_STUDIO_API_KEY", server.token)
    work.name = request.node.name[:30]
    work.options["review"] = "labelstudio"
    work.add(
        "images",
        [NewSample(data=noise_image(k, 40), origin={}, claims=(auto("knife", (4, 4, 20, 20)),)) for k in range(5)],
    )
    return work


def test_people_review_in_a_real_label_studio(studio_work: Work, server: label_studio.Server, policy: Policy) -> None:
    step = Review(url=server.url, files=server.files, audit_share=0)
    with pytest.raises(Unavailable, match="0 of 5 images are answered"):
        step.run(studio_work)
    (project,) = _projects(server, studio_work.name)
    with Studio(server.url, server.token, server.files, project["title"], policy) as studio:
        tasks = sorted(studio.tasks(whole=True), key=lambda t: int(t["id"]))
    with httpx.Client(base_url=server.url, headers={"Authorization": f"Token {server.token}"}) as client:
        shown = client.get(tasks[0]["data"]["image"])
        assert shown.status_code == 200
        assert shown.content == studio_work.dataset.read([tasks[0]["data"]["sample"]])[0].data
    results = [copy.deepcopy(t["predictions"][0]["result"]) for t in tasks]
    parents = [t["predictions"][0]["id"] for t in tasks]
    results[1][0]["value"]["width"] /= 2
    results[2] = [choice(EMPTY)]
    drawn = copy.deepcopy(results[3][0])
    drawn["id"], drawn["value"]["rectanglelabels"] = "mine", ["pill"]
    results[3].append(drawn)
    for n in range(5):
        annotate(server, tasks[n]["id"], results[n], parent_prediction=parents[n], was_cancelled=n == 4)
    facts = step.run(studio_work)
    assert facts["sent"] == 0, "nothing is pushed twice"
    assert facts["actions"] == {"accept": 2, "edit": 1, "relabel": 0, "draw": 1, "reject": 1, "confirm_empty": 1}
    assert facts["estimated_seconds"] == 5 * 9.5
    assert facts["notes"] == {"skipped": 1}
    after = [studio_work.dataset.read([t["data"]["sample"]])[0] for t in tasks]
    assert [s.state for s in after] == [
        State.REVIEWED,
        State.REVIEWED,
        State.CONFIRMED_EMPTY,
        State.REVIEWED,
        State.AUTO,
    ]
    assert after[1].truth.labels[0].box_xyxy == pytest.approx((4, 4, 12, 20))
    assert after[3].truth.categories == {"knife", "pill"}


def test_a_push_goes_on_where_it_stopped_and_a_bad_task_stops_its_batch(
    studio_work: Work, server: label_studio.Server, policy: Policy
) -> None:
    everything = list(studio_work.dataset.samples())
    bad = [make_task(everything[0], "a"), make_task(everything[1], "")]
    with Studio(server.url, server.token, server.files, "goes on", policy) as studio:
        assert studio.push(everything[:2]) == 2
        assert studio.push(everything) == 3
        assert len(studio.pushed()) == len(list(studio.tasks())) == 5
        with pytest.raises(InputError, match=r"tasks\[1\].data.image must be an address"):
            studio.send(bad)
        assert len(list(studio.tasks())) == 5


def test_a_wrong_key_and_a_silent_server_say_what_to_do(
    studio_work: Work, server: label_studio.Server, policy: Policy
) -> None:
    with pytest.raises(InputError, match="refuses the key; set LABEL_STUDIO_API_KEY"):
        Studio(server.url, "0" * 40, server.files, "x", policy)
    with pytest.raises(Unavailable, match="does not answer"):
        Studio("http://127.0.0.1:9", server.token, server.files, "x", policy)


def test_a_project_for_another_policy_is_not_touched(server: label_studio.Server, policy: Policy) -> None:
    with Studio(server.url, server.token, server.files, "taken", policy):
        pass
    other = Policy(policy="p", version=1, categories=(Category(name="vape", definition="", prompts=("vape",)),))
    with pytest.raises(InputError, match="asks for other categories"):
        Studio(server.url, server.token, server.files, "taken", other)


def test_the_key_and_the_folder_must_be_given(work: Work, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("LABEL_STUDIO_API_KEY", raising=False)
    with pytest.raises(InputError, match="environment variable LABEL_STUDIO_API_KEY"):
        Review(backend="labelstudio").run(work)
    monkeypatch.setenv("LABEL_STUDIO_API_KEY", "x")
    with pytest.raises(InputError, match="the setting files"):
        Review(backend="labelstudio").run(work)


def _projects(server: label_studio.Server, name: str) -> list[Row]:
    with httpx.Client(base_url=server.url, headers={"Authorization": f"Token {server.token}"}) as client:
        return [p for p in client.get("/api/projects").json()["results"] if name in p["title"]]
