"""A review takes the images that matter, costs what its actions cost, and is the same every time."""

import json
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from noise import noise_image

from tilth.annotate.review.effort import ACTIONS, SECONDS_PER_ACTION, seconds
from tilth.annotate.review.queue import choose, disagreement, doubt, entry
from tilth.annotate.review.review import Review
from tilth.annotate.review.reviewer import TruthBox, label_by_truth, label_made, read_truth
from tilth.claims import PEOPLE, Claim, State
from tilth.engine.work import Work
from tilth.errors import InputError
from tilth.geometry import Box, iou
from tilth.policy import Policy
from tilth.samples import SUSPECTED, NewSample, Sample

NAMES = ("knife", "pill", "dice")
MODEL = "model:starter:grounding@abc"


def auto(category: str, box: Box, score: float = 0.6) -> Claim:
    return Claim(category=category, box_xyxy=box, score=score, source=MODEL)


def labels(claims: Sequence[Claim]) -> list[TruthBox]:
    return [(str(c.category), c.box_xyxy) for c in claims if c.box_xyxy]


def perfect(truth: Sequence[TruthBox], shown: Sequence[Claim] = ()) -> tuple[list[TruthBox], tuple[str, ...]]:
    done = label_by_truth("a", truth, shown, categories=NAMES, error_rate=0)
    return labels(done.claims), done.actions


KNIFE: TruthBox = ("knife", (10.0, 10.0, 50.0, 50.0))


@pytest.mark.parametrize(
    ("shown", "expected", "actions"),
    [
        ([], [KNIFE], ("draw",)),
        ([auto("knife", (10, 10, 50, 48))], [("knife", (10, 10, 50, 48))], ("accept",)),
        ([auto("knife", (10, 10, 50, 35))], [KNIFE], ("edit",)),
        ([auto("knife", (10, 10, 50, 15))], [KNIFE], ("draw", "reject")),
        ([auto("pill", (10, 10, 50, 48))], [("knife", (10, 10, 50, 48))], ("relabel",)),
        ([auto("pill", (10, 10, 50, 35))], [KNIFE], ("relabel", "edit")),
        ([auto("dice", (60, 60, 90, 90))], [KNIFE], ("draw", "reject")),
        (
            [auto("knife", (10, 10, 50, 48)), auto("knife", (12, 10, 50, 50))],
            [("knife", (10, 10, 50, 48))],
            ("accept", "reject"),
        ),
    ],
)
def test_each_box_costs_the_action_that_mends_it(
    shown: list[Claim], expected: list[TruthBox], actions: tuple[str, ...]
) -> None:
    assert perfect([KNIFE], shown) == (expected, actions)


def test_an_empty_image_costs_a_look_and_a_reject_for_each_wrong_box() -> None:
    done = label_by_truth("a", [], [auto("knife", (1, 1, 9, 9))], categories=NAMES, error_rate=0)
    assert done.actions == ("reject", "confirm_empty")
    assert [c.says for c in done.claims] == ["empty"]
    assert done.claims[0].evidence["seconds"] == seconds(done.actions) == pytest.approx(1.6 + 7.8)


def test_a_box_that_was_suspected_is_accepted_instead_of_drawn_and_no_label_that_was_right() -> None:
    suspected = Claim(category="knife", box_xyxy=KNIFE[1], source=SUSPECTED)
    done = label_by_truth("a", [KNIFE], [suspected], categories=NAMES, error_rate=0)
    assert (labels(done.claims), done.actions) == ([KNIFE], ("accept",))
    assert (done.right, done.shown, done.present) == (0, 0, 1)


BOX = st.tuples(st.integers(0, 50), st.integers(0, 50), st.integers(5, 40), st.integers(5, 40)).map(
    lambda v: (float(v[0]), float(v[1]), float(v[0] + v[2]), float(v[1] + v[3]))
)
LABEL = st.tuples(st.sampled_from(NAMES), BOX)


@settings(deadline=None)
@given(truth=st.lists(LABEL, max_size=4, unique_by=lambda label: label[1]), shown=st.lists(LABEL, max_size=5))
def test_a_flawless_reviewer_ends_at_the_truth_whatever_is_shown(truth: list[TruthBox], shown: list[TruthBox]) -> None:
    done = label_by_truth("a", truth, [auto(*label) for label in shown], categories=NAMES, error_rate=0)
    result = labels(done.claims)
    assert sorted(c for c, _ in result) == sorted(c for c, _ in truth)
    for (category, box), (expected, true_box) in zip(result, sorted(truth), strict=True):
        assert category == expected
        assert iou(np.array([box]), np.array([true_box]))[0, 0] >= 0.8
    # every shown box and every thing is dealt with once; moving and renaming one box are two actions
    both = sum("+" in str(c.evidence.get("action")) for c in done.claims)
    drawn = done.actions.count("draw")
    assert len(done.actions) == len(shown) + drawn + both + (not truth)
    assert set(done.actions) <= set(ACTIONS)
    assert done.right <= min(done.shown, done.present)


def test_errors_strike_at_their_rate_and_do_not_depend_on_what_is_shown() -> None:
    def wrong(shown: bool) -> list[bool]:
        results = []
        for n in range(3000):
            claims = label_by_truth(
                f"{n}",
                [KNIFE],
                [auto("knife", (10, 10, 50, 35))] if shown else [],
                categories=NAMES,
                error_rate=0.1,
                seed=3,
            ).claims
            results.append(labels(claims) != [KNIFE])
        return results

    from_nothing, corrected = wrong(shown=False), wrong(shown=True)
    assert from_nothing == corrected
    assert 0.08 < np.mean(from_nothing) < 0.12


def test_the_reviewer_is_the_same_every_time_and_another_seed_is_another_reviewer() -> None:
    first, second, third = (
        [label_by_truth(f"{n}", [KNIFE], categories=NAMES, error_rate=0.5, seed=seed).claims for n in range(50)]
        for seed in (1, 1, 2)
    )
    assert first == second != third


def test_a_made_image_keeps_its_best_box_or_goes() -> None:
    boxes = [auto("knife", (1, 1, 9, 9), 0.5), auto("knife", (20, 20, 40, 40), 0.9), auto("pill", (5, 5, 9, 9), 0.95)]
    good = label_made("a", "knife", boxes, error_rate=0)
    assert labels(good.claims) == [("knife", (20, 20, 40, 40))]
    assert good.actions == ("reject", "accept", "reject")
    assert [c.says for c in label_made("a", "", boxes, error_rate=0).claims] == ["empty"]
    assert [c.says for c in label_made("a", "dice", boxes, error_rate=0).claims] == ["reject"]


def candidate(n: int, score: float, category: str = "knife", **columns: str) -> Sample:
    return Sample(id=f"{n:04d}", size_wh=(100, 100), claims=(auto(category, (1, 1, 9, 9), score),), columns=columns)


def test_the_queue_prefers_doubt_and_contradiction() -> None:
    samples = [
        candidate(1, 0.95),
        candidate(2, 0.31),
        candidate(3, 0.9, **{"mine.category": "pill"}),
        candidate(4, 0.99),
    ]
    assert choose(samples, 2, audit_share=0) == {"0002": "doubt", "0003": "contradiction"}


def test_what_was_kept_with_a_low_score_comes_before_what_was_rightly_left_out() -> None:
    seen = Sample(
        id="seen", size_wh=(99, 99), claims=(Claim(says="empty", source=MODEL),), columns={"ground.top": {"pill": 0.29}}
    )
    much = replace(seen, id="much", columns={"ground.top": dict.fromkeys(NAMES, 0.29)})
    samples = [seen, much, candidate(1, 0.6), candidate(2, 0.97), candidate(3, 0.35)]
    assert sorted(samples, key=doubt, reverse=True) == [samples[n] for n in (4, 2, 1, 0, 3)]
    settled = Claim(category="knife", score=1.0, source="human:ann", asked=("knife",))
    decided = replace(candidate(4, 0.3), claims=(*candidate(4, 0.3).claims, settled))
    assert doubt(decided) == 0, "people have decided the only category that there is a score of"


def test_what_a_served_model_was_unsure_about_is_asked_about_until_people_have_said() -> None:
    empty = Claim(says="empty", source=MODEL, asked=NAMES)
    doubtful = Sample(id="d", size_wh=(99, 99), claims=(empty,), columns={"served.scores": {"knife": 0.4, "pill": 0.2}})
    decided = Claim(category="knife", source="human:ann", asked=("knife",))
    samples = [candidate(1, 0.95), candidate(2, 0.7), doubtful]
    assert choose(samples, 1, audit_share=0) == {"d": "served"}
    assert (entry(doubtful, 0).category, entry(doubtful, 0).priority) == ("knife", pytest.approx(0.4))
    assert entry(replace(doubtful, claims=(empty, decided)), 0).priority == pytest.approx(0.2)
    found = replace(doubtful, claims=(auto("knife", (1, 1, 9, 9), 1.0), auto("pill", (20, 20, 40, 40), 1.0)))
    assert entry(found, 0).priority == 0, "what it was unsure about has been found"


def test_the_queue_takes_all_categories_alike_and_one_of_a_group_of_copies() -> None:
    many = [candidate(n, 0.3) for n in range(50)] + [candidate(100 + n, 0.8, "pill") for n in range(50)]
    chosen = choose(many, 20, audit_share=0)
    assert sum(id_ < "0100" for id_ in chosen) == 15, "half is shared alike, the rest goes by urgency"
    copies = [candidate(n, 0.3, **{"dedup.group": "g"}) for n in range(5)] + [candidate(9, 0.9)]
    assert len(choose(copies, 6, audit_share=0)) == 2


def test_the_audit_is_a_random_part_that_a_seed_fixes() -> None:
    samples = [candidate(n, 0.3 if n < 100 else 0.9) for n in range(1000)]
    first, again, other = (choose(samples, 100, audit_share=0.4, seed=s) for s in (1, 1, 2))
    assert first == again != other
    audit = [id_ for id_, why in first.items() if why == "audit"]
    assert len(first) == 100
    assert len(audit) == 40
    assert sum(id_ >= "0100" for id_ in audit) > 25, "an audit that avoids the sure ones would be no audit"
    assert choose(samples, 0) == {}
    assert len(choose(samples[:3], 100)) == 3


def prepare(work: Work, tmp_path: Path, n: int = 30) -> Path:
    """Ground `n` images by hand: every third has a right box, every third a wrong one, every third none."""
    new = []
    for k in range(n):
        claims = [(auto("knife", (2, 2, 9, 9)),), (auto("pill", (2, 2, 9, 9)),), (Claim(says="empty", source=MODEL),)][
            k % 3
        ]
        new.append(NewSample(data=noise_image(k), origin={"k": k}, claims=claims))
    work.add("images", new)
    rows = []
    for sample in work.dataset.samples(images=False):
        k = int(str(sample.origin["k"]))
        boxes = [{"category": "knife", "box_xyxy": [2, 2, 9, 9]}] if k % 3 == 0 else []
        rows.append({"id": sample.id, "labels": boxes})
    truth = tmp_path / "truth.jsonl"
    truth.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return truth


def test_the_sources_disagreement_is_a_reason_of_its_own() -> None:
    box, apart = (1.0, 1.0, 9.0, 9.0), (40.0, 40.0, 60.0, 60.0)
    sure = [auto("knife", box, 0.99), Claim(category="knife", box_xyxy=box, score=0.99, source="model:other@1")]
    split = [auto("knife", box, 0.99), Claim(category="knife", box_xyxy=apart, score=0.99, source="model:other@1")]
    refused = Sample(
        id="refused",
        size_wh=(99, 99),
        claims=(sure[0],),
        columns={"opinion.removed": [{"category": "pill", "match": 0.1}] * 3},
    )
    doubles = [{"category": "knife", "reason": "same thing twice"}] * 3
    tidied = Sample(id="tidied", size_wh=(99, 99), claims=(sure[0],), columns={"ground.removed": doubles})
    samples = [
        Sample(id="sure", size_wh=(99, 99), claims=tuple(sure)),
        Sample(id="split", size_wh=(99, 99), claims=tuple(split)),
        refused,
        tidied,
    ]
    assert [disagreement(s) for s in samples] == [0, 1, 0.75, 0]
    assert choose(samples, 2, audit_share=0) == {"split": "disagreement", "refused": "disagreement"}


def test_an_image_that_looks_like_a_chosen_one_waits_and_a_copy_is_left_out() -> None:
    def hashed(id_: str, bits: int, score: float, quality: int = 80) -> Sample:
        number = (1 << bits) - 1  # this many bits from the one with none
        return Sample(
            id=id_,
            size_wh=(9, 9),
            claims=(auto("knife", (1, 1, 8, 8), score),),
            columns={"hash.pdq": f"{number:064x}", "hash.pdq_quality": quality},
        )

    samples = [hashed("best", 0, 0.3), hashed("copy", 20, 0.31), hashed("like", 50, 0.32), hashed("other", 128, 0.4)]
    assert list(choose(samples, 2, audit_share=0)) == ["best", "other"]
    assert set(choose(samples, 4, audit_share=0)) == {"best", "other", "like"}
    plain = [hashed(f"plain {n}", n, 0.3, quality=20) for n in range(4)]
    assert len(choose(plain, 4, audit_share=0)) == 4, "the hash of a plain image says nothing"
    many = [hashed(f"{n:04}", n % 200, 0.3 + n / 1000) for n in range(400)]
    kept = choose(many, 50, audit_share=0)
    numbers = [int(id_) % 200 for id_ in kept]
    assert min(abs(a - b) for a in numbers for b in numbers if a != b) > 31
    assert len(set(numbers)) == len(numbers)


def test_a_review_counts_every_action_and_makes_claims_that_stand(work: Work, tmp_path: Path) -> None:
    truth = prepare(work, tmp_path)
    facts = Review(truth=truth, budget=100, error_rate=0, audit_share=0.2).run(work)
    assert facts["actions"] == {"accept": 10, "edit": 0, "relabel": 0, "draw": 0, "reject": 10, "confirm_empty": 20}
    assert facts["human_actions"] == 40
    assert facts["images_reviewed"] == 30
    assert facts["states"] == {"reviewed": 10, "confirmed_empty": 20}
    assert facts["estimated_seconds"] == pytest.approx(
        20 * SECONDS_PER_ACTION["accept"] + 20 * SECONDS_PER_ACTION["confirm_empty"]
    )
    assert facts["labels_before_review"]["all"] == {  # type: ignore[index, call-overload]
        "images": 30,
        "right": 10,
        "shown": 20,
        "present": 10,
        "precision": 0.5,
        "precision_ci95": [0.2993, 0.7007],
        "recall": 1.0,
        "recall_ci95": [0.7225, 1.0],
    }
    for sample in work.dataset.samples(images=False):
        human = [c for c in sample.claims if c.source == "human:simulated"]
        assert sample.state in (State.REVIEWED, State.CONFIRMED_EMPTY)
        assert human[0].evidence["round"] == 1
        assert human[0].evidence["actions"] == sample.columns["test.actions"]


def test_nobody_is_asked_once_the_audits_say_that_labels_are_good_enough(work: Work, tmp_path: Path) -> None:
    truth = prepare(work, tmp_path)
    audit = {"images": 90, "right": 98, "shown": 99, "present": 100}
    work.facts["review.1"] = {"labels_before_review": {"audit": audit}}
    enough = Review(truth=truth, budget=12, good_enough=0.92).run(work)
    assert enough["enough"]
    assert (enough["images_reviewed"], enough["human_actions"]) == (0, 0)
    assert Review(truth=truth, budget=12, good_enough=0.96).run(work)["images_reviewed"] == 12


def test_a_review_stays_within_its_budget_and_never_asks_twice(work: Work, tmp_path: Path) -> None:
    truth = prepare(work, tmp_path)
    first = Review(truth=truth, budget=12).run(work)
    assert first["images_reviewed"] == 12
    work.name = "more"
    second = Review(truth=truth, share=0.5).run(work)
    assert (second["candidates"], second["images_reviewed"]) == (18, 9)


def test_people_are_asked_again_for_a_category_that_the_policy_did_not_have_and_for_that_alone(
    work: Work, tmp_path: Path
) -> None:
    whole, truth = work.policy, prepare(work, tmp_path)
    others = tuple(category for category in whole.categories if category.name != "knife")
    work.policy = Policy(policy="starter", version=0, categories=others)
    first = Review(truth=truth, budget=100, error_rate=0).run(work)
    assert (first["candidates"], first["actions"]["draw"]) == (30, 0)  # type: ignore[index, call-overload]
    work.policy, work.name = whole, "third_day"
    names = [category.name for category in whole.pictured]
    assert all(s.to_ask(names) == ("knife",) for s in work.dataset.samples(images=False))
    second = Review(truth=truth, budget=100, error_rate=0).run(work)
    assert second["unasked"] == dict.fromkeys(names, 0) | {"knife": 30}
    assert (second["candidates"], second["images_reviewed"]) == (30, 30)
    for sample in work.dataset.samples(images=False):
        last = [c for c in sample.claims if c.source == "human:simulated" and c.evidence["round"] == 2]
        assert {claim.asked for claim in last} == {("knife",)}
        assert sample.truth.unasked(names, PEOPLE) == sample.to_ask(names) == ()
    work.name = "done"
    assert Review(truth=truth, budget=100).run(work)["candidates"] == 0


def test_running_again_changes_nothing(work: Work, tmp_path: Path) -> None:
    truth = prepare(work, tmp_path)
    version = work.dataset.at.number
    first = Review(truth=truth, budget=12).run(work)
    claims = {s.id: s.claims for s in work.dataset.samples(images=False)}
    work.dataset = work.dataset.checkout(version)
    assert Review(truth=truth, budget=12).run(work) == first
    assert claims == {s.id: s.claims for s in work.dataset.samples(images=False)}


def test_made_images_are_judged_by_their_own_file_and_the_unknown_are_left_out(work: Work, tmp_path: Path) -> None:
    truth = prepare(work, tmp_path, 3)
    claims = (auto("knife", (1, 1, 9, 9)),)
    made = [NewSample(data=noise_image(90 + k), origin={"prompt": "a knife", "k": k}, claims=claims) for k in range(3)]
    work.add("made", made)
    ids = [s.id for s in work.dataset.samples(images=False) if s.made]
    path = tmp_path / "made.jsonl"
    path.write_text(
        "".join(json.dumps({"id": i, "category": c}) + "\n" for i, c in zip(ids, ["knife", None], strict=False))
    )
    work.publish("made_truth", path)
    facts = Review(truth=truth, only="made", error_rate=0).run(work)
    assert (facts["images_reviewed"], facts["unknown_to_reviewer"]) == (2, 1)
    assert facts["states"] == {"reviewed": 1, "confirmed_empty": 1}


def test_a_run_can_choose_who_reviews_and_the_truth_must_be_there(work: Work, tmp_path: Path) -> None:
    work.options["review"] = "oracle"
    with pytest.raises(InputError, match="must be simulated or labelstudio, got 'oracle'"):
        Review().run(work)
    work.options.clear()
    with pytest.raises(InputError, match="needs the setting truth"):
        Review().run(work)
    (tmp_path / "bad.jsonl").write_text('{"id": "a", "labels": [{"category": "knife"}]}\n')
    with pytest.raises(InputError, match=r"bad.jsonl:1: needs id and labels"):
        read_truth(tmp_path / "bad.jsonl")
    with pytest.raises(ValueError, match=r"audit_share must lie in \[0, 1\], got 2"):
        Review(audit_share=2)
