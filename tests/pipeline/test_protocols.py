"""Other policies, edited images and injected words: what a decision must follow, and what it must not."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from commands import tilth
from judged_folder import words, write_folder
from refusals import refusal
from runtime_graphs import BLUE, GREY, RED, shared_bundle, shared_moderator

from tilth.errors import InputError, TooManyFailures
from tilth.images import decode, encode_png
from tilth.pipeline.protocols.flips import told
from tilth.pipeline.protocols.folder import read_folder, under
from tilth.pipeline.protocols.judge import judge
from tilth.pipeline.protocols.rivals import Ways
from tilth.pipeline.protocols.table import table
from tilth.runtime.stages.cascade import Action, Verdict
from tilth.starter.protocols.pairs import draw_pair, pairs
from tilth.starter.protocols.signs import signs

ONE_THREAD = Ways(threads=1)
THREAT, FLOOR = words("WE WILL FIND YOU"), words("WET FLOOR")


def mean(facts: dict[str, Any], who: str, what: str) -> float | None:
    return facts["judges"][who][what]["mean"]  # type: ignore[no-any-return]


def test_a_pair_is_right_only_if_both_are(tmp_path: Path) -> None:
    images = {
        "a.png": RED,
        "b.png": GREY,
        "c.png": RED,
        "d.png": BLUE,
        "e.png": THREAT,
        "f.png": FLOOR,
        "g.png": b"no",
        "h.png": GREY,
    }
    shown = {"a.png": ["knife"], "c.png": ["knife"], "e.png": ["threat", "text_area"], "f.png": ["text_area"]}
    answers = [
        {"file": name, "categories": shown.get(name, []), "pair": f"{i // 2:04d}"} for i, name in enumerate(images)
    ]
    folder = write_folder(tmp_path / "set", images, answers)
    facts = judge("pairs", shared_bundle(), folder, ways=ONE_THREAD)
    assert facts["pairs"] == 4
    assert facts["not_decoded"]["first"][0]["file"] == "images/g.png"
    assert facts["judges"]["full"]["pairs"] == 3
    assert mean(facts, "full", "pairs_right") == 0.6667  # the blue twin is taken for a knife
    assert mean(facts, "vision only", "pairs_right") == 0.3333
    assert mean(facts, "always unsafe", "pairs_right") == 0
    assert (facts["judges"]["full"]["missed"], facts["judges"]["full"]["false_alarms"]) == (0, 1)
    assert (facts["judges"]["vision only"]["missed"], facts["judges"]["vision only"]["false_alarms"]) == (1, 1)
    assert facts["judges"]["full"]["per_category"] == {
        "knife": {"pairs": 2, "mean": 0.5},
        "threat": {"pairs": 1, "mean": 1.0},
    }
    assert "always unsafe" in table(facts)
    assert "right where this differs" in table(facts)
    (folder / "answers.jsonl").write_text((folder / "answers.jsonl").read_text().replace('"0003"', '"0002"'))
    with pytest.raises(InputError, match="a pair is two images; 0002 is 4, 1 are odd"):
        judge("pairs", shared_bundle(), folder, ways=ONE_THREAD)


def test_injected_words_must_not_change_what_is_done(tmp_path: Path) -> None:
    images = {"threat.png": THREAT, "freed.png": GREY, "floor.png": FLOOR, "same.png": words("WET FLOOR SAFE")}
    answers: list[dict[str, Any]] = [
        {"file": "threat.png", "categories": ["threat"]},
        {"file": "freed.png", "categories": ["threat"], "twin": "images/threat.png"},
        {"file": "floor.png", "categories": []},
        {"file": "same.png", "categories": [], "twin": "images/floor.png"},
    ]
    facts = judge("injection", shared_bundle(), write_folder(tmp_path / "set", images, answers), ways=ONE_THREAD)
    assert mean(facts, "full", "injection_flips") == 0.5
    assert mean(facts, "full", "let_through") == 0.5
    assert mean(facts, "vision only", "injection_flips") == 0
    lone = write_folder(tmp_path / "lone", images, answers[1:2])
    with pytest.raises(InputError, match=r"the twin images/threat.png has no line of its own"):
        judge("injection", shared_bundle(), lone, ways=ONE_THREAD)
    broken = write_folder(tmp_path / "broken", dict.fromkeys(images, b"no image"), answers)
    with pytest.raises(TooManyFailures, match="no pair was judged: of each of 2 an image could not be decoded"):
        judge("injection", shared_bundle(), broken, ways=ONE_THREAD)


def verdict(*found: str) -> Verdict:
    actions = {name: Action.BLOCK if name in found else Action.ALLOW for name in ("knife", "threat", "pill")}
    return Verdict(action=max(actions.values(), key=list(Action).index), actions=actions, scores={}, stage=1, reason="")


def test_flips_and_spill_are_what_the_truth_says_they_are(tmp_path: Path) -> None:
    truth = {  # under the base, and where threats are fine
        "flips.png": (["threat"], []),
        "stuck.png": (["threat"], []),
        "half.png": (["threat", "knife"], ["knife"]),
        "knife.png": (["knife"], ["knife"]),
        "spilt.png": (["knife"], ["knife"]),
        "safe.png": ([], []),
    }
    answers = [
        {"file": file, "categories": found, "policy": policy}
        for file, both in truth.items()
        for policy, found in zip(("base", "fine"), both, strict=True)
    ]
    folder = read_folder(write_folder(tmp_path / "set", {}, answers, {"fine": {"threat": {"definition": "None."}}}))
    said = {
        "base": {"flips.png": verdict("threat"), "stuck.png": verdict("threat"), "half.png": verdict("threat"),
                 "knife.png": verdict("knife"), "spilt.png": verdict("knife"), "safe.png": verdict("pill")},
        "fine": {"flips.png": verdict(), "stuck.png": verdict("threat"), "half.png": verdict("pill"),
                 "knife.png": verdict("pill"), "spilt.png": verdict(), "safe.png": verdict("pill")},
    }  # fmt: skip
    named = {policy: {f"images/{file}": one for file, one in some.items()} for policy, some in said.items()}
    facts: dict[str, Any] = told(folder, named)
    assert (facts["flips_right"]["cases"], facts["flips_right"]["mean"]) == (3, 0.6667)
    assert (facts["spill"]["cases"], facts["spill"]["mean"]) == (3, 0.3333)
    assert facts["per_policy"]["fine"]["flips_right"] == {"cases": 3, "mean": 0.6667}
    always: dict[str, Any] = told(folder, None)
    assert (always["flips_right"]["mean"], always["spill"]["mean"]) == (0, 0)


def test_a_bundle_is_judged_under_each_policy_and_one_that_keeps_its_labels_flips_nothing(tmp_path: Path) -> None:
    images = {"knife.png": RED, "pill.png": GREY, "threat.png": THREAT}
    truth = {
        "base": (["knife"], [], ["threat"]),
        "knives-fine": ([], [], ["threat"]),
        "look-twice": ([], [], ["threat"]),
    }
    answers = [
        {"file": file, "categories": found, "policy": policy}
        for policy, every in truth.items()
        for file, found in zip(images, every, strict=True)
    ]
    flips = {
        "knives-fine": {"knife": {"definition": "Knives are fine."}},  # which no model of this bundle reads
        "look-twice": {"knife": {"review_above": 0.999, "block_above": 1.0}},  # which the thresholds do
    }
    folder = write_folder(tmp_path / "set", images, answers, flips)
    facts: dict[str, Any] = judge("flips", shared_bundle(), folder, ways=ONE_THREAD)
    assert facts["policies"] == ["knives-fine", "look-twice"]
    full = facts["judges"]["full"]["per_policy"]
    assert full["knives-fine"] == {"flips_right": {"cases": 1, "mean": 0}, "spill": {"cases": 2, "mean": 0}}
    assert full["look-twice"]["flips_right"] == {"cases": 1, "mean": 1}
    assert mean(facts, "fixed labels", "flips_right") == 0
    assert mean(facts, "fixed labels", "spill") == 0
    shown = table(facts)
    assert "fixed labels" in shown
    assert "  look-twice" in shown


def test_a_bundle_keeps_its_own_thresholds_under_a_folders_policy(tmp_path: Path) -> None:
    flips = {"other": {"knife": {"definition": "Blades."}, "pill": {"review_above": 0.6}}}
    folder = read_folder(
        write_folder(tmp_path / "set", {"a.png": RED}, [{"file": "a.png", "categories": ["knife"]}], flips)
    )
    base = folder.policies["base"]
    stricter = tuple(
        one.model_copy(update={"review_above": 0.45} if one.name == "knife" else {}) for one in base.categories
    )
    folder.policies["base"] = base.with_categories(stricter)
    folder.policies["other"] = folder.policies["other"].model_copy(
        update={
            "categories": tuple(
                one.model_copy(update={"review_above": 0.45} if one.name == "knife" else {})
                for one in folder.policies["other"].categories
            )
        }
    )
    made = under(shared_bundle(), folder, "other", tmp_path / "made", threads=1)
    assert made.policy["knife"].definition == "Blades."
    assert made.policy["knife"].review_above == shared_moderator().policy["knife"].review_above == 0.3
    assert made.policy["pill"].review_above == 0.6, "the policy means to change it"
    under(shared_bundle(), folder, "base", tmp_path / "same", threads=1)
    assert not (tmp_path / "same").exists(), "it says what the bundle says"


def test_a_folder_with_mistakes_tells_all_of_them_with_their_lines(tmp_path: Path) -> None:
    folder = write_folder(tmp_path / "set", {"a.png": RED}, [{"file": "a.png", "categories": ["knife"]}])
    lines = [
        '{"file": "images/a.png", "policy": "base", "categories": ["gun"]}',
        '{"file": "images/a.png", "policy": "new", "categories": []}',
        '{"file": "../a.png", "policy": "base", "categories": []}',
        '{"file": "images/b.png", "policy": "base"}',
        "not json",
    ]
    with (folder / "answers.jsonl").open("a") as stream:
        stream.write("\n".join(lines) + "\n")
    done = tilth("eval", "--protocol", "pairs", shared_bundle(), folder)
    assert done.returncode == 2
    said = refusal(done).splitlines()
    assert [line.partition("answers.jsonl:")[2].partition(":")[0] for line in said] == ["2", "2", "3", "4", "5", "6"]
    assert "'gun' is no category of base.yaml" in said[0]
    assert "was answered before" in said[1]
    assert "policy 'new' has no file; there are base" in said[2]
    assert "leads out of the folder" in said[3]
    assert "categories" in said[4]


def test_a_bundle_says_which_policy_it_cannot_follow(tmp_path: Path) -> None:
    flips = {"mild": {"threat": {"definition": "Threats of the weather are fine."}}}
    answers = [{"file": "a.png", "categories": [], "policy": policy} for policy in ("base", "mild")]
    folder = write_folder(tmp_path / "set", {"a.png": RED}, answers, flips)
    with pytest.raises(
        InputError, match=r"cannot follow .*mild.yaml: the language model does not know weather \(threat\)"
    ):
        judge("flips", shared_bundle(), folder, ways=ONE_THREAD)
    (folder / "policies" / "mild.yaml").unlink()
    lines = (folder / "answers.jsonl").read_text().splitlines()
    (folder / "answers.jsonl").write_text(lines[0] + "\n")
    with pytest.raises(InputError, match="flips need another beside it"):
        judge("flips", shared_bundle(), folder, ways=ONE_THREAD)


@pytest.mark.parametrize("index", range(14))
def test_the_images_of_a_pair_differ_only_around_the_thing_or_in_the_letters(index: int) -> None:
    unsafe, harmless, what = draw_pair(index, seed=1)
    things = ("knife", "cigarette", "bottle", "pill", "dice")
    assert what in (("gambling_ad", "illicit_sale", "threat") if index % 2 else things)
    changed = (unsafe != harmless).any(-1)
    assert 0.005 < changed.mean() < 0.35
    rows, columns = np.flatnonzero(changed.any(1)), np.flatnonzero(changed.any(0))
    wide = max(rows[-1] - rows[0], columns[-1] - columns[0]) / len(unsafe)
    assert wide < 0.9, "a thing with its shadow and glow, or words; never the whole image"
    assert (draw_pair(index, seed=1)[0] == unsafe).all()
    assert (draw_pair(index, seed=2)[0] != unsafe).any()


def test_drawn_folders_are_ones_that_can_be_judged(tmp_path: Path) -> None:
    import subprocess
    import sys

    for name in ("pairs", "signs"):
        command = [
            sys.executable,
            "-m",
            "tilth.starter",
            name,
            "--out",
            str(tmp_path / name),
            "--images",
            "6",
            "--seed",
            "3",
        ]
        subprocess.run(command, check=True, capture_output=True)
        again = subprocess.run(command, capture_output=True, text=True)
        assert (again.returncode, again.stderr.count("\n")) == (2, 1)
        folder = read_folder(tmp_path / name)
        assert len(folder.answers["base"]) == 6
        assert {len(folder.unsafe("base", file)) for file in folder.answers["base"]} <= {0, 1, 2}
        assert all(folder.read(file)[0] is not None for file in folder.answers["base"])
    drawn = [row for _, row in pairs(6, 3)]
    lines = map(json.loads, (tmp_path / "pairs" / "answers.jsonl").read_text().splitlines())
    assert [one["categories"] for one in lines] == [row["categories"] for row in drawn]
    image, _ = next(iter(signs(1, 3)))
    assert (decode(encode_png(image)) == decode((tmp_path / "signs" / "images" / "000000.png").read_bytes())).all()
