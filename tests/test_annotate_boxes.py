"""Boxes that go have a reason, and suppression is torchvision's."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from tilth.annotate.boxes import CleanUp, clean, suppress
from tilth.geometry import iou

OFF = CleanUp(
    min_side_px=0, max_aspect=0, whole_image=0, same_class_iou=0, group_cover=0, nested_cover=0, cross_class_iou=0
)
SIZE = (100, 100)


@st.composite
def scored(draw: st.DrawFn) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    n = draw(st.integers(0, 24))
    corners = draw(arrays(np.int64, (n, 2), elements=st.integers(0, 60)))
    sides = draw(arrays(np.int64, (n, 2), elements=st.integers(1, 40)))
    scores = draw(arrays(np.int64, n, elements=st.integers(0, 10_000), unique=True)) / 10_000
    classes = draw(arrays(np.int64, n, elements=st.integers(0, 2)))
    return np.concatenate([corners, corners + sides], 1).astype(np.float64), scores, classes


@settings(deadline=None)
@given(case=scored(), limit=st.sampled_from([0.3, 0.5, 0.7]))
def test_suppression_keeps_what_torchvision_keeps(
    case: tuple[np.ndarray, np.ndarray, np.ndarray], limit: float
) -> None:
    import torch
    from torchvision.ops import batched_nms, nms

    boxes, scores, classes = case
    kept = np.flatnonzero(suppress(iou(boxes, boxes), scores, limit) < 0)
    box, score = torch.from_numpy(boxes).reshape(-1, 4), torch.from_numpy(scores)
    assert kept.tolist() == sorted(nms(box, score, limit).tolist())
    rules = CleanUp(**{**vars(OFF), "same_class_iou": limit})
    by_class = sorted(batched_nms(box, score, torch.from_numpy(classes), limit).tolist())
    assert clean(boxes, scores, classes, SIZE, rules).kept == by_class


@settings(deadline=None)
@given(case=scored())
def test_every_box_is_kept_or_has_a_reason_and_order_does_not_matter(
    case: tuple[np.ndarray, np.ndarray, np.ndarray],
) -> None:
    boxes, scores, classes = case
    cleaned = clean(boxes, scores, classes, SIZE, CleanUp())
    assert len(cleaned.reasons) == len(cleaned.by) == len(boxes)
    assert all(by < 0 or reason for by, reason in zip(cleaned.by, cleaned.reasons, strict=True))
    back = clean(boxes[::-1], scores[::-1], classes[::-1], SIZE, CleanUp())
    assert sorted(len(boxes) - 1 - k for k in back.kept) == cleaned.kept
    again = clean(boxes[cleaned.kept], scores[cleaned.kept], classes[cleaned.kept], SIZE, CleanUp(group_cover=0))
    assert len(again.kept) == len(cleaned.kept), "cleaning what is clean changes nothing"


@pytest.mark.parametrize(
    ("boxes", "scores", "classes", "reasons"),
    [
        ([(0, 0, 1, 50), (0, 0, 3, 90), (0, 0, 10, 90)], [0.9, 0.9, 0.9], "abc", ["sliver", "sliver", ""]),
        ([(0, 0, 100, 99), (10, 10, 40, 40)], [0.9, 0.5], "aa", ["whole image", ""]),
        ([(10, 10, 40, 40), (11, 10, 41, 40)], [0.5, 0.9], "aa", ["same thing twice", ""]),
        ([(10, 10, 40, 40), (11, 10, 41, 40)], [0.5, 0.9], "ab", ["another class fits better", ""]),
        ([(10, 10, 80, 40), (11, 11, 40, 39), (45, 11, 79, 39)], [0.6, 0.5, 0.5], "aaa", ["group of others", "", ""]),
        (
            [(10, 10, 80, 40), (11, 11, 40, 39), (45, 11, 79, 39)],
            [0.9, 0.2, 0.2],
            "aaa",
            ["", "part of another", "part of another"],
        ),
        ([(10, 10, 80, 40), (11, 11, 40, 39), (45, 11, 79, 39)], [0.6, 0.5, 0.5], "abb", ["", "", ""]),
        ([(10, 10, 80, 80), (20, 20, 30, 30)], [0.6, 0.5], "aa", ["", "part of another"]),
        ([(10, 10, 80, 80), (20, 20, 30, 30)], [0.4, 0.5], "aa", ["part of another", ""]),
        ([(10, 10, 80, 80), (20, 20, 30, 30)], [0.4, 0.5], "ab", ["", ""]),
        ([], [], "", []),
    ],
)
def test_each_habit_of_detectors_has_its_rule(boxes: list, scores: list, classes: str, reasons: list[str]) -> None:  # type: ignore[type-arg]
    cleaned = clean(np.array(boxes, float).reshape(-1, 4), np.array(scores), list(classes), SIZE, CleanUp())
    assert list(cleaned.reasons) == reasons


def test_a_rule_that_is_off_removes_nothing() -> None:
    boxes = np.array([[0, 0, 100, 100], [0, 0, 100, 99], [0, 0, 1, 100], [5, 5, 6, 6]], float)
    assert clean(boxes, np.ones(4), list("aabb"), SIZE, OFF).kept == [0, 1, 2, 3]
