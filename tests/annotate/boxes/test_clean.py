"""Boxes that go have a reason, suppression is torchvision's, and a batch is its images one by one."""

import time

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from tilth.annotate.boxes.clean import MEMBERS_APART_IOU, CleanUp, clean, clean_batch
from tilth.geometry import areas, intersections, iou

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
    rules = CleanUp(**{**vars(OFF), "same_class_iou": limit})
    box, score = torch.from_numpy(boxes).reshape(-1, 4), torch.from_numpy(scores)
    alike = clean(boxes, scores, np.zeros(len(boxes), int), SIZE, rules)
    assert alike.kept == sorted(nms(box, score, limit).tolist())
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


def test_boxes_without_numbers_or_turned_inside_out_never_stay() -> None:
    odd = np.array([[0, 0, 10, 10], [np.nan, 0, 30, 30], [20, 20, np.inf, 30], [40, 40, 30, 30], [-np.inf, 0, 5, 5]])
    for rules in (CleanUp(), OFF):
        cleaned = clean(odd, np.full(5, 0.5), list("abcde"), SIZE, rules)
        assert cleaned.reasons == ("", "sliver", "sliver", "sliver", "sliver") or rules is OFF
        assert cleaned.kept in ([0], [0, 3]), "with the rule off, only what is no box at all goes"


def one_by_one(boxes: np.ndarray, scores: np.ndarray, classes: np.ndarray, rules: CleanUp) -> list[tuple[str, int]]:
    """The rules as a person would write them down: box after box, over the full table of overlaps."""
    said: list[tuple[str, int]] = [("", -1)] * len(boxes)
    left = lambda: [n for n, (reason, _) in enumerate(said) if not reason]  # noqa: E731
    overlap, size = iou(boxes, boxes), areas(boxes)
    inside = intersections(boxes, boxes) / np.maximum(size, 1e-9)[None, :] * (size[:, None] > size[None, :])
    for n, box in enumerate(boxes):
        short, long = sorted((box[2] - box[0], box[3] - box[1]))
        if short < rules.min_side_px or long > rules.max_aspect * max(short, 1e-9):
            said[n] = ("sliver", -1)
        elif size[n] > rules.whole_image * SIZE[0] * SIZE[1]:
            said[n] = ("whole image", -1)

    def compete(reason: str, beats: np.ndarray) -> None:
        standing: list[int] = []
        for n in sorted(left(), key=lambda n: -scores[n]):
            by = next((k for k in standing if beats[k, n]), -1)
            said[n] = (reason, by) if by >= 0 else ("", -1)
            standing += [n] if by < 0 else []

    same = classes[:, None] == classes[None, :]
    compete("same thing twice", same & (overlap > rules.same_class_iou))
    remaining = left()
    for n in remaining:
        inner = [k for k in remaining if same[n, k] and inside[n, k] > rules.group_cover]
        apart = any(overlap[a, b] < MEMBERS_APART_IOU for a in inner for b in inner if a < b)
        if apart and sum(scores[inner]) / len(inner) >= scores[n] / 2:
            said[n] = ("group of others", max(inner, key=lambda k: scores[k]))
    compete("part of another", same & (np.maximum(inside, inside.T) > rules.nested_cover))
    compete("another class fits better", ~same & (overlap > rules.cross_class_iou))
    return said


LAX = CleanUp(whole_image=0.3, same_class_iou=0.2, group_cover=0.4, nested_cover=0.5, cross_class_iou=0.2)


@settings(deadline=None, max_examples=300)
@given(cases=st.lists(scored(), max_size=5), rules=st.sampled_from([CleanUp(), LAX]), seed=st.integers(0, 99))
def test_a_batch_says_what_a_loop_over_each_image_says(
    cases: list[tuple[np.ndarray, np.ndarray, np.ndarray]], rules: CleanUp, seed: int
) -> None:
    images = np.repeat(np.arange(len(cases)), [len(case[0]) for case in cases])
    shuffled = np.random.default_rng(seed).permutation(len(images))  # boxes of an image need not lie together
    boxes, scores, classes = (
        np.concatenate([case[k] for case in cases] or [np.zeros((0, 4) if k == 0 else 0)])[shuffled] for k in range(3)
    )
    cleaned = clean_batch(boxes, scores, classes, images[shuffled], np.array([SIZE] * len(cases)), rules)
    for image in range(len(cases)):
        mine = np.flatnonzero(images[shuffled] == image)
        expected = one_by_one(boxes[mine], scores[mine], classes[mine], rules)
        assert [(cleaned.reasons[n], int(cleaned.by[n])) for n in mine] == [
            (reason, int(mine[by]) if by >= 0 else -1) for reason, by in expected
        ]


def test_parts_of_a_large_batch_change_nothing_and_it_is_quick() -> None:
    rng = np.random.default_rng(3)
    boxes = rng.uniform(0, 70, (200_000, 4))
    boxes[:, 2:] = boxes[:, :2] + rng.uniform(3, 30, (200_000, 2))
    scores, classes, images = rng.random(200_000), rng.integers(0, 6, 200_000), rng.integers(0, 10_000, 200_000)
    sizes = np.full((10_000, 2), 100)
    began = time.perf_counter()
    together = clean_batch(boxes, scores, classes, images, sizes, CleanUp())
    assert time.perf_counter() - began < 10, "it took 0.6 s where this was written"
    for image in (0, 4_999, 9_999):
        mine = np.flatnonzero(images == image)
        alone = clean(boxes[mine], scores[mine], classes[mine], SIZE, CleanUp())
        assert together.codes[mine].tolist() == alone.codes.tolist()
        assert together.by[mine].tolist() == [int(mine[by]) if by >= 0 else -1 for by in alone.by]
