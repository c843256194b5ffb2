"""Boxes of several models become one where they agree; who went in is remembered."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from tilth.annotate.weighted_boxes import fuse_boxes
from tilth.geometry import iou


@st.composite
def claimed(draw: st.DrawFn) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    n = draw(st.integers(0, 30))
    corners = draw(arrays(np.int64, (n, 2), elements=st.integers(0, 40)))
    sides = draw(arrays(np.int64, (n, 2), elements=st.integers(5, 50)))
    scores = draw(arrays(np.int64, n, elements=st.integers(1, 10_000), unique=True)) / 10_000
    classes, images, models = (draw(arrays(np.int64, n, elements=st.integers(0, k))) for k in (1, 2, 2))
    return np.concatenate([corners, corners + sides], 1).astype(np.float64), scores, classes, images, models


def by_the_paper(
    boxes: np.ndarray, strengths: np.ndarray, limit: float, weights: list[float]
) -> list[tuple[float, list[int], np.ndarray]]:
    """Section 3.2 of the paper, box after box, for one class of one image: (score, members, box)."""
    clusters: list[list[int]] = []
    middle: list[np.ndarray] = []
    for n in np.argsort(-strengths, kind="stable"):
        overlaps = [float(iou(one[None], boxes[n][None])[0, 0]) for one in middle]
        best = int(np.argmax(overlaps)) if overlaps else -1
        if best >= 0 and overlaps[best] > limit:
            clusters[best].append(int(n))
            middle[best] = np.average(boxes[clusters[best]], axis=0, weights=strengths[clusters[best]])
        else:
            clusters.append([int(n)])
            middle.append(boxes[n])
    return [
        (float(strengths[who].mean()) * min(len(who), len(weights)) / sum(weights), who, box)
        for who, box in zip(clusters, middle, strict=True)
    ]


@settings(deadline=None, max_examples=300)
@given(case=claimed(), limit=st.sampled_from([0.3, 0.55]), weights=st.sampled_from([[1.0, 1.0, 1.0], [2.0, 1.0, 0.5]]))
def test_many_images_at_once_are_fused_as_the_paper_says(
    case: tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray, np.ndarray], limit: float, weights: list[float]
) -> None:
    boxes, scores, classes, images, models = case
    fused = fuse_boxes(boxes, scores, classes, images, models, weights, iou=limit)
    strengths = scores * np.array(weights)[models]
    expected = []
    for image, kind in sorted(set(zip(images.tolist(), classes.tolist(), strict=True))):
        mine = np.flatnonzero((images == image) & (classes == kind))
        for score, members, box in by_the_paper(boxes[mine], strengths[mine], limit, weights):
            expected.append((image, kind, sorted(mine[members].tolist()), score, box))
    members = {k: np.flatnonzero(fused.into == k).tolist() for k in range(len(fused.scores))}
    found = {(int(fused.images[k]), int(fused.classes[k]), tuple(who)): k for k, who in members.items()}
    assert set(found) == {(image, kind, tuple(who)) for image, kind, who, _, _ in expected}
    for image, kind, who, score, box in expected:
        place = found[(image, kind, tuple(who))]
        assert fused.scores[place] == pytest.approx(score)
        assert fused.boxes_xyxy[place] == pytest.approx(box)
    assert all(np.diff(fused.scores[fused.images == image]).max(initial=-1) <= 0 for image in range(3)), (
        "strongest first"
    )


@pytest.mark.parametrize("seed", range(20))
def test_one_image_is_fused_as_by_ensemble_boxes(seed: int) -> None:
    rival = pytest.importorskip("ensemble_boxes")
    rng = np.random.default_rng(seed)  # not whole numbers: of two equal overlaps, rounding would choose
    things = rng.uniform(0, 0.6, (8, 2)).repeat(9, 0)
    corners = things + rng.normal(0, 0.02, (72, 2)).clip(-0.05, 0.05) + 0.06
    boxes = np.concatenate([corners, corners + rng.uniform(0.1, 0.25, (72, 2))], 1)
    scores, classes, models = rng.uniform(0.01, 1, 72), rng.integers(0, 2, 72), rng.integers(0, 3, 72)
    fused = fuse_boxes(boxes * 100, scores, classes, np.zeros(72, int), models, [1, 2, 1])
    theirs = rival.weighted_boxes_fusion(
        *([part[models == model].tolist() for model in range(3)] for part in (boxes, scores, classes)), [1, 2, 1]
    )
    order = np.argsort(-theirs[1], kind="stable")
    assert 10 < len(fused.scores) < 70
    assert fused.scores == pytest.approx(theirs[1][order], abs=1e-6)
    assert fused.boxes_xyxy == pytest.approx(theirs[0][order] * 100, abs=1e-3)
    assert fused.classes.tolist() == theirs[2][order].tolist()


def test_what_cannot_be_fused_takes_no_part() -> None:
    boxes = np.array([[0, 0, 10, 10], [5, 5, 5, 9], [9, 9, 2, 2], [0, 0, 10, 10], [1, 0, 11, 10]], float)
    scores = np.array([0.9, 0.9, 0.9, 0.0, 0.1])
    fused = fuse_boxes(boxes, scores, list("aaaaa"), np.zeros(5, int), np.zeros(5, int), [1.0], min_score=0.2)
    assert fused.into.tolist() == [0, -1, -1, -1, -1]
    assert fused.classes.tolist() == ["a"]
    none = fuse_boxes(np.zeros((0, 4)), np.zeros(0), [], np.zeros(0, int), np.zeros(0, int), [1.0])
    assert none.boxes_xyxy.shape == (0, 4)
    for weights, limit in (([0.0], 0.5), ([], 0.5), ([1.0], 1.0)):
        with pytest.raises(ValueError, match=r"weights must be above 0 and iou in \(0, 1\), got"):
            fuse_boxes(boxes, scores, list("aaaaa"), np.zeros(5, int), np.zeros(5, int), weights, iou=limit)
