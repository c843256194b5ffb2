"""Samples go to a real Label Studio, once each, and what people say there comes back, once each."""

import copy
import json
import os
import shutil
import signal
import socket
import threading
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import httpx
import label_studio
import pytest
from dagster_file import definitions
from faulty_proxy import proxying
from noise import noise_image
from review_desk import MODEL, Desk, auto, choice, fill, other_person

from tilth.annotate.grounding.thresholds import Thresholds
from tilth.annotate.labelstudio.client import Studio
from tilth.annotate.labelstudio.server import running
from tilth.annotate.labelstudio.tasks import EMPTY, ESCALATE, make_task
from tilth.annotate.review.review import Review
from tilth.annotate.review.status import status, status_text
from tilth.claims import Claim, State
from tilth.data.dataset import Dataset
from tilth.engine.work import Work
from tilth.errors import InputError, Unavailable
from tilth.policy import Category, Policy
from tilth.samples import NewSample

pytestmark = pytest.mark.timeout(900)  # the server's first start takes minutes on a busy machine


@pytest.fixture
def people(
    work: Work, server: label_studio.Server, monkeypatch: pytest.MonkeyPatch, request: pytest.FixtureRequest
) -> Work:
    """Five images with a knife each, and a server that people can be asked on."""
    monkeypatch.setenv("LABEL_STUDIO_API_KEY", server.token)
    work.name = request.node.name[-28:]
    fill(work, 5)
    return work


@pytest.fixture
def desk(people: Work, server: label_studio.Server) -> Desk:
    return Desk(people, server)


def test_a_run_asks_people_and_goes_on_when_they_have_answered(people: Work, server: label_studio.Server) -> None:
    people.options["review"] = "labelstudio"
    step = Review(url=server.url, files=server.files, audit_share=0)
    with pytest.raises(Unavailable, match="0 of 5 images are answered"):
        step.run(people)
    desk = Desk(people, server)
    desk.path = people.folder / "review.json"
    tasks = desk.tasks()
    shown = server.call("GET", f"/api/tasks/{tasks[0]['id']}")["data"]["image"]
    with httpx.Client(base_url=server.url, headers={"Authorization": f"Token {server.token}"}) as client:
        assert client.get(shown).content == people.dataset.read([tasks[0]["data"]["sample"]])[0].data
    results = [copy.deepcopy(t["predictions"][0]["result"]) for t in tasks]
    results[1][0]["value"]["width"] /= 2
    results[2] = [choice(EMPTY)]
    drawn = copy.deepcopy(results[3][0])
    drawn["id"], drawn["value"]["rectanglelabels"] = "mine", ["pill"]
    results[3].append(drawn)
    for n in range(5):
        desk.answer(tasks[n], results[n], was_cancelled=n == 4)
    facts: Any = step.run(people)
    assert facts["sent"] == 0, "nothing is pushed twice"
    assert facts["actions"] == {"accept": 2, "edit": 1, "relabel": 0, "draw": 1, "reject": 1, "confirm_empty": 1}
    assert facts["estimated_seconds"] == 5 * 9.5
    assert facts["notes"] == {"skipped": 1}
    assert facts["labels_before_review"]["all"] == {
        "images": 5, "right": 3, "shown": 4, "present": 4, "precision": 0.75, "recall": 0.75,
        "precision_ci95": [0.3006, 0.9544], "recall_ci95": [0.3006, 0.9544],
    }  # fmt: skip
    after = [desk.sample(t) for t in tasks]
    assert [s.state for s in after] == ["reviewed", "reviewed", "confirmed_empty", "reviewed", "auto"]
    assert after[1].truth.labels[0].box_xyxy == pytest.approx((4, 4, 12, 20))
    assert after[3].truth.categories == {"knife", "pill"}
    assert after[1].truth.labels[0].evidence["action"] == "edit"


def test_nobody_is_waited_for_where_the_dataset_outlives_the_run(people: Work, server: label_studio.Server) -> None:
    step = Review(backend="labelstudio", wait=False, url=server.url, files=server.files, audit_share=0, budget=2)
    facts: Any = step.run(people)
    assert (facts["sent"], facts["human_actions"]) == (2, 0)
    desk = Desk(people, server)
    desk.path = people.dataset.root / "review.json"  # as `tilth review push` keeps it
    desk.answer(desk.tasks()[0])
    tomorrow = replace(people, name="answers", folder=people.folder / "tomorrow")
    facts = replace(step, budget=0).run(tomorrow)
    assert (facts["changed"], facts["sent"], facts["human_actions"]) == (1, 0, 1)
    facts = step.run(people)
    assert (facts["changed"], facts["sent"], facts["human_actions"], len(desk.tasks())) == (0, 1, 0, 3)
    first, second, _ = desk.tasks()
    server.call("DELETE", f"/api/annotations/{first['annotations'][0]['id']}/")
    desk.answer(second)
    facts = replace(step, budget=0).run(tomorrow)
    assert desk.sample(first).state == "auto", "whoever took an answer in, it can be taken back"
    assert facts["changed"] == 2


def test_dagster_is_told_of_an_answer_until_a_night_or_a_pull_that_a_night_counted_took_it_in(
    people: Work, server: label_studio.Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    nights = definitions(monkeypatch).Nights(recipe="", dataset=str(people.dataset.root))
    step = Review(backend="labelstudio", wait=False, url=server.url, files=server.files, audit_share=0, budget=3)
    assert nights.answers() is None, "nothing was put before people"
    step.run(people)
    assert nights.answers() is None, "nobody has answered"
    desk = Desk(replace(people, name="review"), server)
    first, second, third = desk.tasks()
    made = desk.answer(first)
    one = nights.answers()
    assert one is not None
    assert abs(one[1].timestamp() - time.time()) < 60
    assert nights.answers() == one, "it does not take it in"
    server.call("PATCH", f"/api/annotations/{made['id']}/", {"result": [choice(EMPTY)]})
    changed = nights.answers()
    assert changed is not None
    assert changed != one
    step.run(people)
    assert nights.answers() is None
    desk.answer(second, [], was_cancelled=True)
    assert nights.answers() is not None, "a skip may take an answer back"
    desk.answer(third)
    desk.pull()
    pulled = nights.answers()
    assert pulled is not None
    assert "2 pulled" in pulled[0]
    step.run(people)
    assert nights.answers() is None


def test_pushing_again_sends_only_what_is_not_there_and_fills_up_what_was_worked_off(desk: Desk) -> None:
    desk.review = Review(url=desk.review.url, files=desk.review.files, audit_share=0, budget=2)
    assert (desk.push()["sent"], desk.push()["sent"], len(desk.tasks())) == (2, 0, 2)
    desk.answer(desk.tasks()[0])
    assert desk.pull()["changed"] == 1
    assert (desk.push()["sent"], desk.push()["sent"], len(desk.tasks())) == (1, 0, 3)
    assert len({t["data"]["sample"] for t in desk.tasks()}) == 3


def test_an_answer_is_taken_once_and_a_changed_one_replaces_it(desk: Desk) -> None:
    desk.push()
    first, second, *_ = desk.tasks()
    made = desk.answer(first)
    assert desk.pull()["changed"] == 1
    version = desk.work.dataset.at
    assert desk.pull()["changed"] == 0
    assert desk.work.dataset.at == version, "nothing new makes no version"
    ledger = desk.ledger
    ledger.seen_until = ""
    ledger.save()
    assert desk.pull()["changed"] == 0, "all of it again adds nothing"
    desk.server.call("PATCH", f"/api/annotations/{made['id']}/", {"result": [choice(EMPTY)]})
    desk.answer(second)
    assert desk.pull()["changed"] == 2
    people = [c for c in desk.sample(first).claims if c.kind == "human"]
    assert [(c.says, c.evidence["round"]) for c in people] == [("label", 1), ("empty", 2)]
    assert desk.sample(first).state is State.CONFIRMED_EMPTY
    desk.server.call("DELETE", f"/api/annotations/{made['id']}/")
    assert desk.pull()["changed"] == 1, "an answer that was deleted is withdrawn"
    assert desk.sample(first).state is State.AUTO
    assert desk.pull()["changed"] == 0


def test_what_is_escalated_or_disputed_is_offered_to_one_more_person(desk: Desk) -> None:
    desk.push()
    first, second, *_ = desk.tasks()
    desk.answer(first, [choice(ESCALATE)])
    assert desk.pull()["offered_to_another"] == 1
    assert desk.sample(first).state is State.DISPUTED
    now = desk.server.call("GET", f"/api/tasks/{first['id']}")
    assert (now["is_labeled"], now["overlap"]) == (False, 2)
    desk.answer(first, completed_by=other_person(desk.server))
    assert desk.server.call("GET", f"/api/tasks/{first['id']}")["is_labeled"]
    facts = desk.pull()
    assert (facts["changed"], facts["offered_to_another"]) == (1, 0)
    assert desk.sample(first).state is State.REVIEWED
    desk.answer(second)
    desk.answer(second, [choice(EMPTY)], completed_by=other_person(desk.server))
    assert desk.pull()["offered_to_another"] == 1
    assert desk.sample(second).state is State.DISPUTED
    assert desk.server.call("GET", f"/api/tasks/{second['id']}")["overlap"] == 3
    found: Any = status(desk.work, desk.ledger)
    assert found["states"] == {"reviewed": 1, "disputed": 1}
    assert sum(row["images"] for row in found["reviewers"].values()) == 4
    assert (found["answered"], found["waiting"], found["minutes"]) == (2, 3, round(4 * 9.5 / 60, 2))
    # of the second image one says knife, one nothing: no better than chance; the first was decided by one alone
    assert (found["agreement"]["images"], found["agreement"]["alpha_boxes"]) == (1, 0.0)
    assert "0.0 of boxes" in status_text(found)


def test_new_labels_replace_the_prediction_of_images_that_nobody_has_looked_at(desk: Desk) -> None:
    desk.push()
    looked, *rest = desk.tasks()
    desk.answer(looked)
    again = [
        NewSample(
            data=desk.work.dataset.read([t["data"]["sample"]])[0].data,
            origin={"k": 0},
            claims=(Claim(category="pill", box_xyxy=(1, 1, 9, 9), score=0.9, source=MODEL, evidence={"round": 2}),),
        )
        for t in (looked, *rest[:2])
    ]
    desk.work.add("second-round", again)
    facts = desk.push()
    assert (facts["sent"], facts["renewed"]) == (0, 2)
    assert desk.push()["renewed"] == 0
    after = desk.tasks()
    assert [len(t["predictions"]) for t in after] == [1] * 5
    names = [t["predictions"][0]["result"][0]["value"]["rectanglelabels"] for t in after]
    assert names == [["knife"], ["pill"], ["pill"], ["knife"], ["knife"]]


def test_what_people_say_of_the_random_part_teaches_thresholds(desk: Desk) -> None:
    seen = ["a knife", "knife", 0, 0.6, 4, 4, 20, 20]
    new = [
        NewSample(
            data=noise_image(500 + k, 40),
            origin={"k": k},
            claims=(auto(),),
            columns={"ground.seen": [seen], "ground.by": MODEL},
        )
        for k in range(4)
    ]
    desk.work.add("seen", new)
    desk.review = replace(desk.review, audit_share=1.0)
    desk.push()
    for task in desk.tasks():
        desk.answer(task)
    assert desk.pull()["changed"] == 9
    facts: Any = Thresholds(least=1).run(desk.work)
    assert facts["images"] == 4
    assert facts["categories"]["knife"]["why"] == "calibrated"
    assert facts["categories"]["knife"]["precision"]["mean"] == 1.0


def test_tasks_that_are_deleted_on_the_server_are_noticed_and_not_sent_again(desk: Desk) -> None:
    desk.push()
    first, second, *_ = desk.tasks()
    desk.answer(first)
    desk.server.call("DELETE", f"/api/tasks/{second['id']}/")
    facts = desk.pull()
    assert (facts["changed"], facts["deleted"]) == (1, 1)
    assert desk.push()["sent"] == 0
    assert len(desk.tasks()) == 4


def test_notes_that_were_lost_are_made_again_from_the_server(desk: Desk) -> None:
    desk.push()
    first, *_ = desk.tasks()
    desk.answer(first)
    title = desk.ledger.title
    desk.path.unlink()
    assert desk.push()["sent"] == 0
    assert (desk.ledger.title, len(desk.tasks())) == (title, 5)
    assert desk.pull()["changed"] == 1


def test_a_task_that_was_sent_twice_is_left_once(desk: Desk) -> None:
    desk.push()
    first, *_ = desk.tasks()
    # what a request that was cut off, and carried out after the second try, leaves
    with Studio(desk.server.url, desk.server.token, desk.ledger.title, desk.work.policy) as studio:
        studio.send([make_task(desk.sample(first), first["data"]["image"])])
    desk.answer(first)
    assert len(desk.tasks()) == 6
    assert desk.pull()["changed"] == 1
    assert len(desk.tasks()) == 5
    assert first["id"] in {t["id"] for t in desk.tasks()}


def test_images_are_uploaded_to_a_server_that_serves_no_folder(desk: Desk) -> None:
    desk.review = Review(url=desk.server.url, images="upload", audit_share=0)
    assert desk.push()["sent"] == 5
    task = desk.tasks()[0]
    with httpx.Client(base_url=desk.server.url, headers={"Authorization": f"Token {desk.server.token}"}) as client:
        assert client.get(task["data"]["image"]).content == desk.work.dataset.read([task["data"]["sample"]])[0].data


def test_images_of_a_store_are_shown_from_there_and_others_are_refused(
    desk: Desk, tmp_path: Path, policy: Policy
) -> None:
    desk.review = Review(url=desk.server.url, images="origin", audit_share=0)
    with pytest.raises(InputError, match="is no s3://"):
        desk.push()
    assert desk.tasks() == []
    shutil.rmtree(desk.work.dataset.root)
    desk.work.dataset = Dataset(desk.work.dataset.root)
    origin = {"source": "https://images.example/1.png"}
    desk.work.add("web", [NewSample(data=noise_image(77, 40), origin=origin, claims=(auto(),))])
    assert desk.push()["sent"] == 1
    assert desk.tasks()[0]["data"]["image"] == "https://images.example/1.png"


def test_a_bad_task_stops_its_batch(desk: Desk) -> None:
    samples = list(desk.work.dataset.samples())
    desk.push()
    with (
        Studio(desk.server.url, desk.server.token, desk.ledger.title, desk.work.policy) as studio,
        pytest.raises(InputError, match=r"tasks\[1\].data.image must be an address"),
    ):
        studio.send([make_task(samples[0], "a"), make_task(samples[1], "")])
    assert len(desk.tasks()) == 5


def test_a_server_that_dies_in_the_middle_of_a_push_ends_with_every_task_once(
    desk: Desk, server: label_studio.Server
) -> None:
    fill(desk.work, 2500, first=1000)
    desk.review = replace(desk.review, budget=3000)
    killed: list[int] = []

    def kill() -> None:
        # the first request is in the notes, the second on its way
        while not desk.path.exists() or not desk.ledger.tasks:
            time.sleep(0.01)
        time.sleep(0.2)
        process = running(server.home)
        assert process
        os.kill(process.pid, signal.SIGKILL)
        killed.append(process.pid)

    thread = threading.Thread(target=kill)
    thread.start()
    with pytest.raises(Unavailable, match="does not answer"):
        desk.push()
    thread.join()
    with pytest.raises(Unavailable, match="does not answer"):
        desk.pull()
    server.start()
    before = len(desk.ledger.tasks)
    facts = desk.push()
    assert 0 < before < 2505
    assert facts["sent"] <= 2505 - before
    with Studio(server.url, server.token, desk.ledger.title, desk.work.policy, make=False) as studio:
        there = [row["data"]["sample"] for row in studio.slim()]
    assert len(there) == len(set(there)) == len(desk.ledger.tasks) == 2505
    assert set(desk.ledger.tasks.values()) == set(there)


@pytest.mark.parametrize("answer", [500, 0])
def test_a_request_that_was_carried_out_but_answered_with_an_error_is_not_repeated(
    desk: Desk, server: label_studio.Server, answer: int
) -> None:
    with proxying(server.url) as proxy:
        desk.review = replace(desk.review, url=proxy.url)
        spoilt: list[str] = []

        def spoil(method: str, path: str) -> int | None:
            if method == "POST" and "/import" in path and not spoilt:
                spoilt.append(path)
                return answer
            return None

        proxy.spoil = spoil
        with pytest.raises(Unavailable, match="run again" if answer else "does not answer") as error:
            desk.push()
        assert (error.value.exit_code, "\n" in str(error.value)) == (75, False)
        assert desk.push()["sent"] == 0
        assert len(desk.tasks()) == 5
        desk.answer(desk.tasks()[0])
        proxy.spoil = lambda method, path: 502 if "tasks" in path else None
        with pytest.raises(Unavailable, match="answers 502; run again"):
            desk.pull()
        proxy.spoil = lambda method, path: None
        assert desk.pull()["changed"] == 1


def test_a_wrong_key_a_silent_server_and_a_foreign_project_say_what_to_do(
    desk: Desk, server: label_studio.Server, policy: Policy, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(InputError, match="refuses the key; set LABEL_STUDIO_API_KEY"):
        Studio(server.url, "0" * 40, "x", policy)
    with pytest.raises(Unavailable, match="does not answer"):
        Studio(f"http://127.0.0.1:{label_studio.free_port()}", server.token, "x", policy)
    with pytest.raises(InputError, match="nothing was pushed; run: tilth review push"):
        desk.pull()
    desk.push()
    other = Policy(policy="p", version=1, categories=(Category(name="vape", definition="", prompts=("vape",)),))
    with pytest.raises(InputError, match=r"asks for other categories than policy p \(in boxes, shows\)"):
        Studio(server.url, server.token, desk.ledger.title, other)
    server.call("DELETE", f"/api/projects/{desk.ledger.project}/")
    with pytest.raises(InputError, match="has no project"):
        desk.pull()
    with pytest.raises(InputError, match="was it deleted"):
        desk.push()
    desk.path.write_text(json.dumps({"tasks": 3}))
    with pytest.raises(InputError, match="not the notes of a review"):
        desk.push()


@pytest.mark.parametrize(
    ("url", "key"), [("ftp://x", "k"), ("server:8081", "k"), ("", "k"), ("http://", "k"), ("http://x", "k\n")]
)
def test_an_address_or_a_key_that_cannot_be_one_is_refused_before_anything_is_sent(
    url: str, key: str, policy: Policy
) -> None:
    with pytest.raises(InputError, match="must be"):
        Studio(url, key, "x", policy)


def test_the_key_and_the_folder_must_be_given(work: Work, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("LABEL_STUDIO_API_KEY", raising=False)
    monkeypatch.setenv("XDG_DATA_HOME", str(tmp_path))
    with pytest.raises(InputError, match="no Label Studio is known; start one with tilth review up"):
        Review(backend="labelstudio").run(work)
    with socket.create_server(("127.0.0.1", 0)) as somebody:
        url = f"http://127.0.0.1:{somebody.getsockname()[1]}"
        with pytest.raises(InputError, match=r"the setting files \(--files\)"):
            Review(backend="labelstudio", url=url).run(work)
        with pytest.raises(InputError, match="environment variable LABEL_STUDIO_API_KEY"):
            Review(backend="labelstudio", files=tmp_path, url=url).run(work)
    for files in (None, tmp_path):
        with pytest.raises(
            Unavailable, match=rf"at {url} does not answer; start it \(tilth review up --port \d+\), run"
        ):
            Review(backend="labelstudio", files=files, url=url).run(work)
