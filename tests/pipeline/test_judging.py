"""The language model that labels texts by the policy, on the world of words."""

import json
from pathlib import Path
from typing import Any

import pytest
from commands import tilth

from tilth.annotate.texts.importing import ImportText
from tilth.claims import Claim, State
from tilth.engine.work import Work
from tilth.errors import InputError, Unavailable
from tilth.pipeline.steps.language import Asking
from tilth.pipeline.words.judging import EvaluateText, Judge
from tilth.policy import SAFE, Policy
from tilth.samples import TEXT, NewSample
from tilth.starter.protocols.words import CATEGORIES, draw_words, write_words


def judge(work: Work, **settings: object) -> dict[str, object]:
    step = Judge(**settings)  # type: ignore[arg-type]
    work.show_own(step)
    return dict(step.run(work))


def test_a_world_of_words_is_the_same_every_time_and_its_test_shows_what_its_corpus_does_not(tmp_path: Path) -> None:
    for name in ("a", "b"):
        write_words(tmp_path / name, corpus=300, labelled=20, test=300)
    files = {p.name: p.read_bytes() for p in (tmp_path / "a").iterdir()}
    assert files == {p.name: p.read_bytes() for p in (tmp_path / "b").iterdir()}
    assert b"label" not in files["corpus.jsonl"]
    shown = {
        name: {json.loads(line)["text"] for line in files[f"{name}.jsonl"].splitlines()} for name in ("corpus", "test")
    }
    assert not shown["corpus"] & shown["test"]
    truth = [json.loads(line) for line in files["truth.jsonl"].splitlines()]
    assert len(truth) == 620
    assert {row["text"] for row in truth} >= shown["corpus"] | shown["test"]  # a simulated reviewer reads it
    assert {row["label"] for row in truth} == {SAFE, *CATEGORIES}
    with pytest.raises(InputError, match="is there already"):
        write_words(tmp_path / "a")
    assert draw_words(5, 0) != draw_words(5, 1)


def test_most_of_what_is_said_plainly_is_labelled_right_without_training(work: Work, tmp_path: Path) -> None:
    rows = [row for n in range(600) if (row := draw_words(n, 3))["language"] == "en" and not row["trick"]]
    table = tmp_path / "texts.jsonl"
    table.write_text("".join(json.dumps({"id": str(n), "text": row["text"]}) + "\n" for n, row in enumerate(rows)))
    ImportText(path=table).run(work)
    facts = judge(work)
    assert (facts["ok"], set(facts["shown"])) == (work.dataset.count(), set(CATEGORIES))  # type: ignore[call-overload]
    samples = list(work.dataset.samples())
    right = [
        s.truth.categories == {rows[int(str(s.origin["source"]).rpartition("#")[2])]["label"]} - {SAFE} for s in samples
    ]
    assert sum(right) / len(right) > 0.9
    assert {str(s.state) for s in samples} == {"auto"}
    for sample in samples[:20]:
        assert set(sample.columns["test.scores"]) == set(CATEGORIES)  # type: ignore[arg-type]
        assert 0 <= float(str(sample.columns["test.doubt"])) <= 1
        assert {claim.asked for claim in sample.claims} == {tuple(CATEGORIES)}
    before = work.dataset.at
    judge(work)
    assert work.dataset.at == before  # nothing is read twice


def test_what_people_decided_and_what_is_sealed_is_not_judged(work: Work) -> None:
    decided = Claim(says="empty", source="human:a", asked=tuple(CATEGORIES))
    texts = [
        ("BETS FOR CASH", (decided,), {}),
        ("PLAY POKER FOR CASH", (), {"split": "test"}),
        ("LUNCH IS FREE", (), {}),
    ]
    work.add(
        "k", [NewSample(media=TEXT, data=t.encode(), origin={"source": t}, claims=c, columns=x) for t, c, x in texts]
    )
    assert judge(work)["ok"] == 1
    assert [s.state for s in work.dataset.samples()] == [State.CONFIRMED_EMPTY, State.UNLABELLED, State.AUTO]


def test_a_server_that_is_not_there_costs_no_text_its_place_and_is_named(work: Work) -> None:
    work.add("k", [NewSample(media=TEXT, data=b"BETS", origin={"source": "t"})])
    asking = Asking(back_end="server", url="http://127.0.0.1:9/v1", timeout_s=0.2)
    with pytest.raises(Unavailable, match="server of any is not there"):
        judge(work, model="any", asking=asking)
    (sample,) = work.dataset.samples()
    assert sample.state is State.UNLABELLED


def test_a_policy_whose_words_decide_nothing_and_a_threshold_out_of_range_are_refused(
    work: Work, policy: Policy
) -> None:
    work.policy = policy.with_categories(policy.pictured)
    with pytest.raises(InputError, match="words decide none of its categories"):
        judge(work)
    with pytest.raises(ValueError, match="min_score must lie in"):
        Judge(min_score=0)


def test_the_world_is_written_by_a_command_that_says_what_is_wrong(tmp_path: Path) -> None:
    import subprocess
    import sys

    command = [
        sys.executable,
        "-m",
        "tilth.starter",
        "words",
        "--out",
        str(tmp_path / "w"),
        "--corpus",
        "5",
        "--test",
        "5",
    ]
    assert subprocess.run(command, check=False, capture_output=True).returncode == 0
    again = subprocess.run(command, check=False, capture_output=True, text=True)
    assert (again.returncode, again.stderr.count("\n")) == (2, 1)
    recipe = tmp_path / "r.yaml"
    recipe.write_text("recipe: w\npolicy: p.yaml\nsteps:\n  - judge: {min_score: 2}\n")
    (tmp_path / "p.yaml").write_text(
        "policy: p\nversion: 1\ncategories: [{name: a, evidence: text, definition: bets}]\n"
    )
    ran = tilth("check", recipe)
    assert ran.returncode == 2
    assert "min_score must lie in (0, 1], got 2" in ran.stderr


def test_a_model_is_measured_on_what_people_said_of_the_sealed_texts(work: Work, tmp_path: Path) -> None:
    rows = [draw_words(n, 4) for n in range(160)]
    table = tmp_path / "test.jsonl"
    said = [{"text": row["text"], "label": row["label"], "language": row["language"]} for row in rows]
    said.append({"text": "a text that nobody has labelled", "label": None, "language": "en"})
    table.write_text("".join(json.dumps(row) + "\n" for row in said))
    ImportText(path=table, covers=tuple(CATEGORIES), language="language").run(work)
    step = EvaluateText()
    work.show_own(step)
    facts: dict[str, Any] = dict(step.run(work))
    assert facts["n_texts"] == work.dataset.count("state != 'unlabelled'") < 161
    assert facts["n_unsafe"] == work.dataset.count("labels > 0")
    assert facts["recall_at_fpr05"]["mean"] > 0.8 > facts["always_unsafe"]["f1"]
    assert facts["ece"]["mean"] < 0.1
    assert set(facts["per_category"]) == set(CATEGORIES)
    assert sum(one["n_texts"] for one in facts["per_slice"].values()) == facts["n_texts"]
    assert facts["test_opened"] == 1
    assert {claim.kind for sample in work.dataset.samples() for claim in sample.claims} == {"import"}
    lines = work.artifact("test.texts").read_text().splitlines()
    assert len(lines) == facts["n_texts"]
    with pytest.raises(InputError, match="people labelled no text of the split 'val'"):
        EvaluateText(split="val").run(work)


@pytest.mark.parametrize(
    "hidden", ["PL\u0430Y P\u041eKER F\u041eR C\u0410SH", "PL@Y P0KER F0R C@5H", "PLAY P\u200bOKER FOR CA\u200bSH"]
)
def test_a_disguised_text_is_judged_by_what_it_means_and_a_plain_one_once(work: Work, hidden: str) -> None:
    texts = [hidden, "MIND THE STEPS", "CALL 555 1234"]
    work.add("k", [NewSample(media=TEXT, data=text.encode(), origin={"source": "t"}) for text in texts])
    judge(work)
    first, *others = (sample.truth.categories for sample in work.dataset.samples())
    assert "gambling_ad" in first
    assert others == [set(), set()]
