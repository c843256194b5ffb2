"""Boxes of several models become one where they agree; who went in is remembered."""

from collections.abc import Callable, Sequence
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from noise import noise_samples
from report_run import new

from tilth import models
from tilth.annotate.boxes.clean import CleanUp
from tilth.annotate.boxes.fuse import Fuse, Join
from tilth.annotate.boxes.weighted import fuse_boxes
from tilth.annotate.grounding.ground import Ground
from tilth.annotate.grounding.thresholds import Thresholds
from tilth.claims import Claim, State, standing
from tilth.engine.steps import step
from tilth.engine.work import Work
from tilth.errors import InputError, ModelError
from tilth.geometry import iou
from tilth.samples import Result, Sample


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
        overlaps = [round(float(iou(one[None], boxes[n][None])[0, 0]), 9) for one in middle]  # ties stay ties
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
    odd = np.array([[0, 0, 10, 10], [np.nan, 0, 10, 10], [0, 0, np.inf, 10], [0, 0, 10, 10]])
    whole = fuse_boxes(odd, np.array([0.9, 0.9, 0.9, np.nan]), list("aaaa"), np.zeros(4, int), np.zeros(4, int), [1.0])
    assert (whole.into.tolist(), whole.boxes_xyxy.tolist()) == ([0, -1, -1, -1], [[0, 0, 10, 10]])
    none = fuse_boxes(np.zeros((0, 4)), np.zeros(0), [], np.zeros(0, int), np.zeros(0, int), [1.0])
    assert none.boxes_xyxy.shape == (0, 4)
    for weights, limit in (([0.0], 0.5), ([], 0.5), ([1.0], 1.0)):
        with pytest.raises(ValueError, match=r"weights must be above 0 and iou in \(0, 1\), got"):
            fuse_boxes(boxes, scores, list("aaaaa"), np.zeros(5, int), np.zeros(5, int), weights, iou=limit)


SEEN = {
    "near": [["knife", "knife", "p", 0.8, 10, 10, 40, 40], ["spoon", "", "p", 0.5, 50, 50, 80, 80]],
    "far": [["blade", "knife", "q", 0.4, 13, 10, 43, 40], ["pill", "pill", "q", 0.9, 60, 10, 80, 30]],
}


@step
class Said:
    """Stands for a `ground` step: what its model saw."""

    name: str
    source: str
    batch_size: int = 8

    def load(self) -> Callable[[Sequence[Sample]], list[Result]]:
        """Say the same of every image."""
        claim = Claim(category="knife", box_xyxy=(0, 0, 9, 9), score=0.9, source=self.source, evidence={"round": "1"})
        columns = {f"{self.name}.seen": SEEN[self.name], f"{self.name}.by": self.source}
        return lambda samples: [Result(claims=(claim,), columns=columns) for _ in samples]


@pytest.fixture
def seen_twice(work: Work) -> Work:
    work.add("corpus", noise_samples(3, side=100))
    for name in SEEN:
        work.map(Said(name=name, source=f"model:{name}@1"))
    return work


def test_fused_boxes_replace_those_they_are_made_of_and_name_them(seen_twice: Work) -> None:
    work = seen_twice
    facts = Fuse(of=("near", "far"), threshold=0.2).run(replace(work, name="fuse"))
    assert facts == {
        "images": 3,
        "failed": 0,
        "threshold": 0.2,
        "thresholds": {},
        "boxes_seen": 12,
        "boxes": 6,
        "boxes_by_category": {"knife": 3, "pill": 3},
        "boxes_that_all_saw": 3,
    }
    for sample in work.dataset.samples(images=False):
        knife, pill = sorted(sample.truth.labels, key=lambda c: str(c.category))
        assert (knife.score, pill.score) == (pytest.approx(0.6), pytest.approx(0.45))
        assert knife.box_xyxy == pytest.approx((11, 10, 41, 40)), "a third of the way, as 0.8 is to 0.4"
        assert knife.evidence["of"] == [
            ["near", "knife", 0.8, 10, 10, 40, 40],
            ["far", "blade", 0.4, 13, 10, 43, 40],
        ]
        assert knife.source.startswith("model:fusion@")
        assert set(standing(sample.claims)) == {knife.source}, "the two models do not vote beside their own fusion"
        assert len(sample.claims) == 4, "and nothing that they said is lost"


def test_a_model_that_looks_again_after_the_fusion_is_heard_again(seen_twice: Work) -> None:
    Fuse(of=("near", "far"), threshold=0.2).run(replace(seen_twice, name="fuse"))
    sample = next(iter(seen_twice.dataset.samples(images=False)))
    again = Claim(says="empty", source="model:near@1", evidence={"round": "2"})
    assert set(standing((*sample.claims, again))) == {sample.truth.labels[0].source, "model:near@1"}
    person = Claim(says="empty", source="human:ann", evidence={"round": "1"})
    foul = Claim(says="empty", source="model:x@1", evidence={"round": "1", "instead_of": ["human:ann"]})
    assert set(standing((person, foul))) == {"human:ann", "model:x@1"}, "no model takes the place of a person"


def test_learned_thresholds_move_the_fusion_and_do_not_wake_its_models(seen_twice: Work) -> None:
    Fuse(of=("near", "far"), threshold=0.2).run(replace(seen_twice, name="fuse"))
    facts = Thresholds(of="fuse", default=0.5).run(replace(seen_twice, name="thresholds"))
    assert (facts["boxes_before"], facts["boxes_after"]) == (6, 3)
    for sample in seen_twice.dataset.samples(images=False):
        assert [(c.category, c.source.split("@")[0]) for c in sample.truth.labels] == [("knife", "model:fusion")]


def test_weights_thresholds_and_mistakes(seen_twice: Work) -> None:
    start = seen_twice.dataset.at.number
    facts = Fuse(of=("near", "far"), weights={"far": 3}, threshold=0.5).run(replace(seen_twice, name="fuse"))
    assert facts["boxes_by_category"] == {"knife": 3, "pill": 3}, "(0.8 + 1.2) / 2 · 2 / 4, and 2.7 / 4"
    seen_twice.dataset = seen_twice.dataset.checkout(start)
    facts = Fuse(of=("near", "far"), threshold=0.9).run(replace(seen_twice, name="fuse"))
    assert facts["boxes"] == 0
    assert all(s.state is State.AUTO and not s.truth.labels for s in seen_twice.dataset.samples(images=False)), (
        "nothing is strong enough, so the models' own boxes must not come back"
    )
    with pytest.raises(InputError, match="no image without people's labels was seen by all of near, elsewhere"):
        Fuse(of=("near", "elsewhere")).run(replace(seen_twice, name="fuse"))
    for settings_, words in (
        ({"of": ("a",)}, "at least two"),
        ({"of": ("a", "b"), "weights": {"c": 1}}, "weights name steps"),
        ({"of": ("a", "b"), "weights": {"a": 0}}, "weights must be above 0"),
        ({"of": ("a", "b"), "iou": 1.0}, "iou must lie"),
        ({"of": ("a", "b"), "threshold": 0.0}, "threshold must lie"),
    ):
        with pytest.raises(ValueError, match=words):
            Fuse(**settings_)  # type: ignore[arg-type]


def test_two_looks_of_a_real_model_are_fused_image_by_image_and_all_at_once(work: Work) -> None:
    try:
        models.locate("starter:grounding")
    except ModelError as error:
        pytest.skip(str(error))
    scenes = [(0, "knife", "photo"), (3, "pill", "neon"), (5, "flower", "photo")]
    work.add("corpus", [new(*scene, {"source": f"{scene[0]}.png"}) for scene in scenes])
    looks = {"whole": Ground(), "plain": Ground(counter_prompts=False)}
    for name, look in looks.items():
        look.run(replace(work, name=name))
    facts = Fuse(of=tuple(looks), threshold=0.2).run(replace(work, name="fuse"))
    assert facts["images"] == 3
    assert facts["boxes_that_all_saw"] > 0
    for sample in work.dataset.samples(images=False):
        alone = Join(name="fuse", of=tuple(looks), weights=(1.0, 1.0), iou=0.55, source="model:x@1", rules=CleanUp())
        assert alone.load()([sample])[0].columns["fuse.seen"] == sample.columns["fuse.seen"], "a batch is its images"
        for label in sample.truth.labels:
            seen = [[name, row[0], *row[3:8]] for name in looks for row in sample.columns[f"{name}.seen"]]  # type: ignore[union-attr, index]
            assert all(member in seen for member in label.evidence["of"])  # type: ignore[union-attr]
            assert len({member[0] for member in label.evidence["of"]}) == len(label.evidence["of"]), "one box a look"  # type: ignore[union-attr, index, arg-type]
