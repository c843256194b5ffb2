"""Thresholds are chosen for a stated cost, on validation images, and written into a bundle that says so."""

import json
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from commands import tilth
from judged_folder import words, write_folder
from refusals import refusal
from runtime_graphs import GREY, RED, plain, shared_bundle, shared_moderator

from tilth.errors import InputError
from tilth.pipeline.protocols.costs import Choice, Chooser, Cost, Seen, choose, read_cost, see, write
from tilth.pipeline.protocols.examples import open_source
from tilth.runtime.bundles.bundle import load_bundle, verify
from tilth.runtime.stages.stage1 import Screen

NAMES = shared_moderator().policy.names


def drawn(n: int = 600, *, knives: float = 0.1, signs: float = 0.3, seed: int = 0) -> Seen:
    """What a bundle might say: knives score higher than the rest, threats are seen only where words are read."""
    rng = np.random.default_rng(seed)
    knife, sign = rng.random(n) < knives, rng.random(n) < signs
    threat = sign & (rng.random(n) < 0.3)
    chances = 1 / (1 + np.exp(-rng.normal(np.where(knife, 1.5, -3.0), 1.2)))
    alone = np.zeros((n, len(NAMES)))
    alone[:, NAMES.index("knife")], alone[:, NAMES.index("text_area")] = chances, np.where(sign, 0.95, 0.02)
    read, shown = alone.copy(), np.zeros((n, len(NAMES)), bool)
    read[:, NAMES.index("threat")] = 1 / (1 + np.exp(-rng.normal(np.where(threat, 2.0, -3.0), 1.0)))
    shown[:, NAMES.index("knife")], shown[:, NAMES.index("threat")] = knife, threat
    known = shared_moderator().stage1.labels
    screens = [
        Screen(scores={name: float(s) for name, s in zip(NAMES, row, strict=True) if name in known}) for row in alone
    ]
    return Seen(
        screens=screens, alone=alone, read=read, shown=shown, unsafe=knife | threat, stage1_ms=np.full(n, 5.0),
        more_ms=np.full(n, 100.0), left_out=0,
    )  # fmt: skip


def chosen(cost: Cost, seen: Seen | None = None) -> tuple[Choice, dict[str, Any]]:
    choice, facts = choose(shared_moderator(), seen or drawn(), cost)
    return choice, dict(facts)


def test_the_dearer_a_miss_the_lower_the_threshold_and_never_dearer_than_before() -> None:
    found = [chosen(Cost(missed=missed))[0].review_above["knife"] for missed in (2, 20, 500)]
    assert found[0] > found[1] > found[2]
    for missed in (2, 20, 500):
        _, facts = chosen(Cost(missed=missed))
        assert facts["cost_after"]["mean"] <= facts["cost_before"]["mean"]
        assert facts["saved"]["mean"] == pytest.approx(
            facts["cost_before"]["mean"] - facts["cost_after"]["mean"], abs=2e-4
        )


def test_no_threshold_of_a_category_is_cheaper_than_the_one_that_was_chosen() -> None:
    cost = Cost(missed=30)
    choice, _ = chosen(cost)
    chooser = Chooser(shared_moderator(), drawn(), cost)
    best = np.array([choice.review_above[name] for name in NAMES])
    for name in ("knife", "threat"):
        for value in np.linspace(choice.clear_below, 0.8, 200):
            other = best.copy()
            other[NAMES.index(name)] = value
            assert chooser.costs(other, choice.clear_below).mean() >= choice.cost - 1e-9


def test_where_time_is_dear_fewer_images_are_read() -> None:
    seen = drawn()
    opened = []
    for ms in (0.0, 1.0):
        choice, _ = chosen(Cost(missed=5, ms=ms), seen)
        opened.append(int(Chooser(shared_moderator(), seen, Cost()).scores(choice.clear_below)[1].sum()))
    assert opened[1] < opened[0] / 2


def test_what_is_computed_is_what_the_cascade_does(tmp_path: Path) -> None:
    images = {
        "a.png": RED,
        "b.png": GREY,
        "c.png": words("WE WILL FIND YOU"),
        "d.png": words("WET FLOOR"),
        "e.png": plain((20, 20, 250)),
    }
    answers = [{"file": name, "categories": []} for name in images]
    folder = write_folder(tmp_path / "set", images, answers)
    moderator = load_bundle(shared_bundle(), threads=1)
    seen = see(moderator, open_source(folder, moderator.policy).read())
    for clear_below in (0.0, 0.02, 0.1):
        now = replace(moderator, clear_below=clear_below)
        chooser = Chooser(now, seen, Cost())
        scores, _ = chooser.scores(clear_below)
        flagged = (scores > chooser.now).any(1)
        assert flagged.tolist() == [one.flagged for one in now.moderate([*images.values()])]


def test_what_too_few_images_tell_stays_and_is_said() -> None:
    choice, facts = chosen(Cost(missed=500), drawn(knives=0.02))
    assert choice.review_above["knife"] == 0.3
    assert "at least 20 of each would tell" in facts["kept"]["knife"]
    assert facts["kept"]["text_area"] == "a signpost"
    assert "threat" not in facts["kept"]


def test_a_bundle_remembers_what_its_thresholds_were_chosen_for(tmp_path: Path) -> None:
    choice, facts = chosen(Cost(missed=50, review=2, ms=0.01))
    write(shared_bundle(), tmp_path / "made", choice, made="now", facts=facts)
    verify(tmp_path / "made")
    manifest = json.loads((tmp_path / "made" / "bundle.json").read_text())
    assert manifest["chosen_for"]["cost"] == {"missed": 50, "review": 2, "ms": 0.01}
    made = load_bundle(tmp_path / "made", threads=1)
    assert made.clear_below == pytest.approx(choice.clear_below)
    assert made.policy["knife"].review_above == pytest.approx(choice.review_above["knife"])
    assert made.policy["knife"].block_above == 0.8
    with pytest.raises(InputError, match="is there already"):
        write(shared_bundle(), tmp_path / "made", choice, made="now", facts=facts)


@pytest.mark.parametrize(
    ("text", "why"),
    [("missed", "expected missed=…,review=…,ms=…, got 'missed'"), ("harm=3", "there is no 'harm'; there are missed"),
     ("missed=-1", "at least 0"), ("missed=nan", "at least 0"), ("review=0", "a cost needs missed and review above 0")],
)  # fmt: skip
def test_a_cost_that_is_none_is_refused(text: str, why: str) -> None:
    with pytest.raises(InputError, match=why):
        read_cost(text)


def test_the_command_makes_a_bundle_by_validation_images(tmp_path: Path) -> None:
    images = {f"{i:02d}.png": plain((250 - i, 20, 20)) if i % 2 else plain((128, 128, 100 + i)) for i in range(44)}
    answers = [{"file": name, "categories": ["knife"] if i % 2 else []} for i, name in enumerate(images)]
    folder = write_folder(tmp_path / "set", images, answers)
    bundle = shutil.copytree(shared_bundle(), tmp_path / "bundle")
    given = (
        "bundle",
        "thresholds",
        bundle,
        folder,
        "--cost",
        "missed=100,review=1,ms=0",
        "--out",
        tmp_path / "new",
        "--threads",
        "1",
    )
    done = tilth(*given)
    assert done.returncode == 0, done.stderr
    assert "44 images, 22 of them unsafe, 0 left out" in done.stdout
    assert "pill stays: 0 images show it" in done.stdout
    assert load_bundle(tmp_path / "new", threads=1).moderate([RED])[0].flagged
    again = tilth(*given)
    assert again.returncode == 2
    assert "is there already; name another --out" in refusal(again)
