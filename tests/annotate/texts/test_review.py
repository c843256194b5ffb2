"""Texts go to people, in a real Label Studio or as a reviewer who knows the truth, and what they say comes back as claims."""

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

import label_studio
import numpy as np
import pytest
from commands import tilth
from review_desk import Desk, log_in, other_person
from words_world import WORDS, jsonl

from tilth.annotate.labelstudio.tasks import EMPTY, ESCALATE
from tilth.annotate.labelstudio.texts import check_task, make_task
from tilth.annotate.texts.queue import weigh
from tilth.annotate.texts.review import ReviewText
from tilth.claims import Answer, Claim
from tilth.engine.work import Work
from tilth.errors import InputError, Unavailable
from tilth.samples import TEXT, NewSample, Sample

if TYPE_CHECKING:
    from playwright.sync_api import Page

pytestmark = pytest.mark.timeout(900)  # the server's first start takes minutes on a busy machine
MODEL = "model:judge@1"
NAMES = WORDS.names
Row = dict[str, Any]


@pytest.fixture
def words(work: Work, request: pytest.FixtureRequest) -> Work:
    work.policy = WORDS
    work.name = request.node.name[-28:]
    work.show_own(ReviewText())
    return work


def fill(work: Work, *texts: str, scores: tuple[dict[str, float], ...] = ()) -> None:
    """Texts that a judge has read; without scores it took the first half of them for gambling."""
    new = []
    for k, text in enumerate(texts):
        told = scores[k] if scores else {"gambling": 0.7 if k < len(texts) / 2 else 0.2, "threats": 0.1}
        found = [name for name, score in told.items() if score >= 0.5]
        say = [Claim(category=name, score=told[name], source=MODEL, asked=NAMES) for name in found]
        claims = tuple(say) or (Claim(says="empty", source=MODEL, asked=NAMES),)
        columns = {"judge.scores": told, "judge.doubt": 0.1}
        new.append(NewSample(media=TEXT, data=text.encode(), origin={"k": k}, claims=claims, columns=columns))
    work.add("texts", new)


def told(name: str, value: str, kind: str = "choices", **place: int) -> Row:
    return {
        "id": f"{name}{place}",
        "type": kind,
        "from_name": name,
        "to_name": "text",
        "value": {kind: [value], **place},
    }


def text_of(scores: dict[str, float], more: dict[str, Any] | None = None, characters: int = 40) -> Sample:
    found = tuple(Claim(category=name, score=s, source=MODEL) for name, s in scores.items() if s >= 0.5)
    columns = {"judge.scores": scores, **(more or {})}
    return Sample(id="a" * 64, media=TEXT, size_wh=(characters, 1), claims=found, columns=columns)


def test_what_lies_near_the_threshold_comes_first_and_a_long_text_has_to_be_worth_its_reading() -> None:
    urgency = [weigh(text_of({"gambling": score}), 0, {}).priority for score in (0.95, 0.05, 0.7, 0.35, 0.51)]
    assert np.argsort(urgency).tolist() == [0, 1, 2, 3, 4] or urgency[0] == pytest.approx(urgency[1])
    assert urgency[1] < urgency[2] < urgency[3] < urgency[4]
    long = weigh(text_of({"gambling": 0.51}, characters=4000), 0, {})
    assert long.priority < urgency[0]


def test_two_judges_who_disagree_and_a_judge_who_is_unsure_in_all_are_reasons() -> None:
    plain = weigh(text_of({"gambling": 0.9}), 0, {})
    assert (plain.why, plain.category) == ("doubt", "gambling")
    torn = weigh(text_of({"gambling": 0.9}, {"second.scores": {"gambling": 0.2}}), 0, {})
    assert torn.why == "disagreement"
    assert torn.priority > plain.priority
    unsure = weigh(text_of({"gambling": 0.9}, {"judge.doubt": 0.6}), 0, {})
    assert unsure.priority > plain.priority
    rare = weigh(text_of({"gambling": 0.9}), 0, {"gambling": 0.2})
    assert rare.priority < plain.priority


def test_what_people_decided_waits_for_nobody() -> None:
    sample = text_of({"gambling": 0.55})
    decided = Claim(category="gambling", source="human:ann", asked=("gambling",))
    settled = Sample(**{**vars(sample), "claims": (*sample.claims, decided)})
    assert weigh(settled, 0, {}).priority == 0


def test_a_reviewer_who_knows_the_truth_mends_labels_and_the_reading_is_counted(words: Work, tmp_path: Path) -> None:
    fill(words, "win money tonight", "a free game night", "you will regret it", "the fair is on sunday")
    rows = [
        {"text": "win money tonight", "labels": [{"category": "gambling", "start": 0, "end": 9}]},
        {"text": "a free game night", "label": "safe"},
        {"text": "you will regret it", "label": "threats"},
        {"text": "of another set", "label": "safe"},
    ]
    step = ReviewText(truth=jsonl(tmp_path / "truth.jsonl", *rows), error_rate=0, budget=10)
    facts: Any = step.run(words)
    assert (facts["candidates"], facts["unknown_to_reviewer"], facts["images_reviewed"]) == (4, 1, 3)
    assert facts["actions"] == {"accept": 1, "edit": 0, "relabel": 1, "draw": 0, "reject": 1, "confirm_empty": 1}
    won, free, threat, unknown = words.dataset.samples(images=False)
    assert won.truth.labels[0].span == (0, 9)
    assert [s.state for s in (won, free, threat, unknown)] == ["reviewed", "confirmed_empty", "reviewed", "auto"]
    assert threat.truth.of("gambling") is Answer.ABSENT
    spent = sum(float(str(s.columns[f"{words.name}.seconds"])) for s in (won, free, threat))
    assert facts["estimated_seconds"] == pytest.approx(spent, abs=0.1)
    assert spent > 52 / 23.8 + 1.6 * 3 + 2.4 - 0.1
    assert "238 words a minute" in facts["seconds_source"]
    assert facts["labels_before_review"]["all"]["right"] == 1
    before = words.dataset.at.number
    assert step.run(words)["images_reviewed"] == 0, "what is settled is not asked again"
    assert words.dataset.at.number >= before


def test_the_simulated_reviewer_errs_as_often_as_it_is_told_to(words: Work, tmp_path: Path) -> None:
    texts = [f"text number {n}" for n in range(300)]
    fill(words, *texts)
    rows = [{"text": text, "label": "threats" if n % 2 else "safe"} for n, text in enumerate(texts)]
    ReviewText(truth=jsonl(tmp_path / "t.jsonl", *rows), error_rate=0.2, budget=300, audit_share=1.0).run(words)
    truth = {text: {"threats"} if n % 2 else set() for n, text in enumerate(texts)}
    wrong = sum(sample.truth.categories != truth[sample.text()] for sample in words.dataset.samples())
    assert 0.08 < wrong / 300 < 0.35


def test_a_truth_that_leaves_a_text_open_is_refused_without_its_words(words: Work, tmp_path: Path) -> None:
    fill(words, "secret words")
    path = jsonl(tmp_path / "t.jsonl", {"text": "secret words"})
    with pytest.raises(InputError, match=r"row 1 of t\.jsonl does not say what its text shows") as caught:
        ReviewText(truth=path).run(words)
    assert "secret" not in str(caught.value)
    with pytest.raises(InputError, match="what each text shows"):
        ReviewText().run(words)


def test_a_task_that_the_server_would_show_wrongly_is_not_sent() -> None:
    text, label = "win money", Claim(category="gambling", span=(4, 9), source=MODEL)
    sample = Sample(id="a" * 64, media=TEXT, size_wh=(9, 1), data=text.encode(), claims=(label,))
    task = make_task(sample, "audit")
    assert check_task(task, NAMES) == []
    region = task["predictions"][0]["result"][0]
    region["value"]["end"] = 10
    assert "must lie in the text" in check_task(task, NAMES)[0]
    region["value"] |= {"end": 9, "labels": ["casino"]}
    assert "categories of the policy" in check_task(task, NAMES)[0]


def test_the_commands_ask_about_texts_or_about_images_and_never_mix_them(work: Work, tmp_path: Path) -> None:
    policy = tmp_path / "p.yaml"
    policy.write_text(
        "policy: p\nversion: 1\ncategories: [{name: gambling, evidence: text, definition: bets},"
        " {name: knife, definition: a knife, prompts: [knife]}]\n"
    )
    fill(work, "win money")
    told = tilth("review", "status", work.dataset.root, "--policy", policy, "--texts", "--json")
    assert json.loads(told.stdout)["queue"] == 0
    refused = tilth("review", "pull", work.dataset.root, "--policy", policy, "--texts")
    assert (refused.returncode, "nothing was pushed" in refused.stderr) == (2, True)


@pytest.fixture
def desk(words: Work, server: label_studio.Server, monkeypatch: pytest.MonkeyPatch) -> Desk:
    """Five texts before people; the first three were taken for gambling."""
    monkeypatch.setenv("LABEL_STUDIO_API_KEY", server.token)
    fill(words, "win \U0001f3b2 money", "a free game", "<b>bets</b> & more", "see you there", "sunday fair")
    return Desk(words, server, ReviewText)


def test_people_read_texts_in_label_studio_and_their_spans_choices_and_nothing_here_come_back(
    desk: Desk, server: label_studio.Server
) -> None:
    step = ReviewText(backend="labelstudio", url=server.url, audit_share=0)
    with pytest.raises(Unavailable, match="0 of 5 texts are answered"):
        step.run(desk.work)
    desk.path = desk.work.folder / "review.json"
    tasks = sorted(desk.tasks(), key=lambda task: str(desk.sample(task).origin["k"]))
    assert [task["data"]["text"] for task in tasks][2] == "<b>bets</b> & more"
    shown = tasks[0]["predictions"][0]["result"]
    assert shown[0]["value"] == {"choices": ["gambling"]}
    answer = lambda task, result, **more: server.call(  # noqa: E731
        "POST", f"/api/tasks/{task['id']}/annotations/", {"result": result, "lead_time": 4.5, **more}
    )
    answer(tasks[0], [told("where", "gambling", "labels", start=6, end=11), told("shows", "threats")])
    answer(tasks[1], [told("whole", EMPTY)])
    answer(tasks[2], shown)
    answer(tasks[3], [told("where", "threats", "labels", start=4, end=99)])
    answer(tasks[4], [], was_cancelled=True)
    facts: Any = step.run(desk.work)
    first, free, bets, fair, sunday = (desk.sample(task) for task in tasks)
    assert {(label.category, label.span) for label in first.truth.labels} == {("gambling", (6, 11)), ("threats", None)}
    assert [s.state for s in (first, free, bets, fair, sunday)] == [
        "reviewed", "confirmed_empty", "reviewed", "auto", "auto"
    ]  # fmt: skip
    assert free.truth.of("threats") is Answer.ABSENT
    assert facts["estimated_seconds"] == 5 * 4.5, "the seconds are Label Studio's"
    assert facts["actions"]["accept"] == 1
    assert facts["actions"]["draw"] == 1
    assert facts["notes"] == {"skipped": 1, "cannot be read": 1, "part that is not within the text": 1}


def test_what_two_people_disagree_on_goes_to_a_third(desk: Desk, server: label_studio.Server) -> None:
    desk.push()
    (task, *_) = desk.tasks()
    desk.answer(task)
    desk.answer(task, [told("whole", EMPTY)], completed_by=other_person(server))
    assert desk.pull()["offered_to_another"] == 1
    assert desk.sample(task).state == "disputed"
    desk.answer(desk.tasks()[1], [told("whole", ESCALATE)])
    desk.pull()
    assert desk.sample(desk.tasks()[1]).state == "disputed"


def test_a_text_is_hidden_until_it_is_opened_and_marked_words_are_found_again(
    desk: Desk, server: label_studio.Server, tab: "Page"
) -> None:
    """In a browser, with a character before the words that JavaScript counts twice."""
    project = desk.push()["project"]
    task = next(task for task in desk.tasks() if "\U0001f3b2" in task["data"]["text"])
    tab.set_default_timeout(90_000)
    log_in(tab, server)
    tab.goto(f"{project}/data?task={task['id']}")
    words = tab.locator("[class*=htx-richtext]")
    tab.get_by_text("The text").first.wait_for()
    words.first.wait_for(state="attached")
    assert not [one for one in tab.get_by_text("money").all() if one.is_visible()], (
        "neither here nor in the list of tasks"
    )
    tab.get_by_text("The text").first.click()
    words.first.wait_for()
    tab.get_by_text("threats").last.click()
    words.get_by_text("money").first.dblclick()
    tab.get_by_test_id("bottombar-submit-button").click()
    done = "p => p.total_annotations_number === 1"
    number = project.rpartition("/")[2]
    tab.wait_for_function(f"fetch('/api/projects/{number}/').then(r => r.json()).then({done})", polling=500)
    desk.pull()
    (label,) = [label for label in desk.sample(task).truth.labels if label.category == "threats"]
    start, end = map(int, label.span or (0, 0))
    assert "win \U0001f3b2 money"[start:end] == "money"
    assert json.dumps(desk.tasks()).count("money") == 1 + ("money" in label.source), "no answer repeats the words"
