"""Versions, tags and rollback."""

import pytest
from conftest import noise_samples

from tilth.claims import Claim, State, resolve
from tilth.errors import InputError
from tilth.pipeline.versions import diff_versions
from tilth.work import Work

KNIFE = Claim(category="knife", box_xyxy=(1, 1, 8, 8), score=0.9, source="model:a@1")


def test_a_version_stays_what_it_was(work: Work) -> None:
    work.add("a", noise_samples(3))
    work.dataset.tag("three")
    work.add("b", noise_samples(5))
    assert work.dataset.count() == 5
    assert work.dataset.checkout("three").count() == 3


def test_rollback_forgets_nothing(work: Work) -> None:
    work.add("a", noise_samples(3))
    work.add("b", noise_samples(5))
    work.dataset.rollback(1, work.now())
    assert work.dataset.count() == 3
    assert work.dataset.checkout(2).count() == 5


def test_diff_says_what_came(work: Work) -> None:
    work.add("a", noise_samples(3))
    work.add("b", noise_samples(5))
    assert [row["change"] for row in diff_versions(work.dataset, 1)] == ["added", "added"]
    assert [row["change"] for row in diff_versions(work.dataset, 2, 1)] == ["removed", "removed"]


def test_an_unknown_tag_is_refused_with_the_known_ones(work: Work) -> None:
    work.add("a", noise_samples(1))
    work.dataset.tag("good")
    with pytest.raises(InputError, match="known: good"):
        work.dataset.checkout("bad")


def test_human_over_consensus_over_one_model() -> None:
    other = Claim(category="knife", box_xyxy=(1, 1, 8, 9), score=0.8, source="model:b@1")
    alone = Claim(category="dice", box_xyxy=(20, 20, 30, 30), score=0.9, source="model:b@1")
    assert resolve([KNIFE]).state is State.AUTO
    assert {c.category for c in resolve([KNIFE, other, alone]).labels} == {"knife"}
    assert resolve([KNIFE, Claim(says="empty", source="human:ann")]).state is State.CONFIRMED_EMPTY


def test_looked_and_found_nothing_is_not_nobody_looked() -> None:
    assert resolve([]).state is State.UNLABELLED
    assert resolve([Claim(says="empty", source="model:a@1")]).state is State.AUTO
    assert resolve([Claim(says="empty", source="import:coco.json")]).state is State.CONFIRMED_EMPTY


def test_people_who_disagree_make_a_dispute_and_a_later_round_replaces_an_earlier_one() -> None:
    ann = Claim(category="knife", box_xyxy=(1, 1, 8, 8), source="human:ann", evidence={"round": 1})
    bob = Claim(says="empty", source="human:bob")
    assert resolve([ann, bob]).state is State.DISPUTED
    assert (
        resolve([ann, bob, Claim(says="empty", source="human:ann", evidence={"round": 2})]).state
        is State.CONFIRMED_EMPTY
    )
