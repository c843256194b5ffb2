"""Agreement between people is Krippendorff's, and what they disagree on is decided by a third."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tilth.annotate.review.agreement import alpha, box_units, category_units
from tilth.claims import Claim, State, resolve

# "Computing Krippendorff's Alpha-Reliability", 2011, section C: four observers, twelve units, nominal alpha 0.743
PUBLISHED = [
    [1, 2, 3, 3, 2, 1, 4, 1, 2, None, None, None],
    [1, 2, 3, 3, 2, 2, 4, 1, 2, 5, None, 3],
    [None, 3, 3, 3, 2, 3, 4, 2, 2, 5, 1, None],
    [1, 2, 3, 3, 2, 4, 4, 1, 2, 5, 1, None],
]


def test_the_published_example_comes_out_as_published() -> None:
    units = [[value for value in unit if value is not None] for unit in zip(*PUBLISHED, strict=True)]
    assert alpha(units) == pytest.approx(0.743, abs=5e-4)


@settings(deadline=None, max_examples=200)
@given(st.lists(st.lists(st.sampled_from([0.0, 1.0, 2.0, np.nan]), min_size=3, max_size=3), min_size=2, max_size=12))
def test_alpha_is_that_of_the_package_krippendorff(rows: list[list[float]]) -> None:
    krippendorff = pytest.importorskip(
        "krippendorff", reason="under the GPL, so not among what we install; pip install it"
    )
    ours = alpha([[v for v in row if not np.isnan(v)] for row in rows])
    pairable = [v for row in rows if np.isfinite(row).sum() > 1 for v in row if np.isfinite(v)]
    if len(set(pairable)) < 2:
        assert ours is None, "the package raises here"
        return
    theirs = krippendorff.alpha(
        reliability_data=np.array(rows).T, level_of_measurement="nominal", value_domain=[0.0, 1.0, 2.0]
    )
    assert ours == pytest.approx(float(theirs), abs=1e-9)


def label(who: str, category: str, *box: float) -> Claim:
    return Claim(category=category, box_xyxy=box or None, source=f"human:{who}")  # type: ignore[arg-type]


def test_boxes_of_several_people_that_overlap_are_one_unit() -> None:
    said = {
        "ann": [label("ann", "knife", 0, 0, 10, 10), label("ann", "pill", 50, 50, 60, 60)],
        "bob": [label("bob", "pill", 50, 50, 60, 61), label("bob", "gun", 1, 0, 10, 10)],
        "cat": [label("cat", "knife", 0, 0, 10, 9)],
    }
    assert sorted(box_units(said)) == [["knife", "gun", "knife"], ["pill", "pill", ""]]
    assert category_units(said, ["knife", "gun"]) == {"knife": [True, False, True], "gun": [False, True, False]}
    two_in_one = {"ann": [label("ann", "knife", 0, 0, 10, 10), label("ann", "pill", 0, 0, 10, 10)], "bob": []}
    assert sorted(box_units(two_in_one)) == [["knife", ""], ["pill", ""]]  # type: ignore[arg-type]


def test_a_third_person_settles_a_dispute() -> None:
    ann, bob = label("ann", "knife", 1, 1, 8, 8), Claim(says="empty", source="human:bob")
    assert resolve([ann, bob]).state is State.DISPUTED
    settled = resolve([ann, bob, label("cat", "knife", 1, 1, 8, 9)])
    assert (settled.state, settled.labels[0].source) == (State.REVIEWED, "human:cat")
    assert resolve([ann, bob, Claim(says="empty", source="human:cat")]).state is State.CONFIRMED_EMPTY
    assert resolve([ann, bob, label("cat", "pill", 1, 1, 8, 8)]).state is State.DISPUTED


def test_what_is_escalated_waits_for_another_and_what_is_withdrawn_was_never_said() -> None:
    model = Claim(category="knife", box_xyxy=(1, 1, 8, 8), source="model:a@1")
    up = Claim(says="escalate", source="human:ann", evidence={"round": 1})
    assert resolve([model, up]).state is State.DISPUTED
    assert resolve([model, up, label("bob", "knife", 1, 1, 8, 8)]).state is State.REVIEWED
    back = Claim(says="withdraw", source="human:ann", evidence={"round": 2})
    assert resolve([model, up, back]).state is State.AUTO
    again = Claim(says="empty", source="human:ann", evidence={"round": 3})
    assert resolve([model, up, back, again]).state is State.CONFIRMED_EMPTY
