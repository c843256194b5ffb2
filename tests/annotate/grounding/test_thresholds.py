"""Thresholds are learned from what people reviewed, and change what stands without asking a model."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tilth.annotate.grounding.ground import Ground
from tilth.annotate.grounding.model import Finder
from tilth.annotate.grounding.thresholds import Boxes, Thresholds, calibrate, choose, judged, read_thresholds
from tilth.annotate.review.review import Review
from tilth.claims import State
from tilth.engine.work import Work
from tilth.errors import InputError
from tilth.samples import NewSample
from tilth.starter.world.files import draw

SCORED = st.lists(st.tuples(st.integers(1, 20), st.booleans()), min_size=1, max_size=30)


@settings(deadline=None)
@given(rows=SCORED, missed=st.integers(0, 5), precision=st.sampled_from([0.0, 0.5, 0.8, 1.0]))
def test_the_threshold_is_the_best_of_all_that_could_be_tried(
    rows: list[tuple[int, bool]], missed: int, precision: float
) -> None:
    scores, right = np.array([s / 20 for s, _ in rows]), np.array([r for _, r in rows])
    n_true = int(right.sum()) + missed

    def quality(threshold: float) -> tuple[float, float]:
        kept = scores >= threshold
        return float(right[kept].mean()), 2 * right[kept].sum() / (kept.sum() + n_true)

    chosen = choose(scores, right, np.ones(len(rows)), n_true, precision)
    tried = {float(t): quality(t) for t in np.unique(scores)}
    if n_true == 0:
        assert chosen is None
    elif precision:
        reaching = [t for t, (p, _) in tried.items() if p >= precision - 1e-12]
        assert chosen == (min(reaching) if reaching else None)
    else:
        assert chosen is not None
        assert quality(chosen)[1] == pytest.approx(max(f1 for _, f1 in tried.values()))


def boxes(rng: np.random.Generator, n: int) -> Boxes:
    right = rng.random(n) < 0.6
    scores = np.clip(rng.normal(np.where(right, 0.7, 0.4), 0.1), 0.1, 1)
    return Boxes(scores=scores, right=right, image=np.arange(n), true=right.astype(int))


def test_a_precision_that_is_asked_for_is_reached_on_images_that_were_not_learned_from() -> None:
    rng = np.random.default_rng(0)
    known, fresh = boxes(rng, 400), boxes(rng, 5000)
    told: dict[str, Any] = calibrate(known, precision=0.95, default=0.3, least=10, seed=0)
    assert told["why"] == "calibrated"
    low, high = told["threshold_ci95"]
    assert low <= told["threshold"] <= high
    precision, recall = judged(fresh, told["threshold"], np.ones(5000, int))
    assert precision == pytest.approx(0.95, abs=0.03)
    assert told["precision"]["ci95"][0] - 0.02 <= precision <= told["precision"]["ci95"][1] + 0.02
    assert recall > 0.85


@pytest.mark.parametrize(
    ("n", "precision", "why"),
    [(5, 0.0, "default: fewer than 10 boxes"), (60, 1.0, "default: no threshold reaches precision 1")],
)
def test_where_too_little_is_known_the_default_stands_and_says_so(n: int, precision: float, why: str) -> None:
    known = boxes(np.random.default_rng(1), n)
    if precision:
        scores, right = np.append(known.scores, 1.0), np.append(known.right, False)
        known = Boxes(scores=scores, right=right, image=np.append(known.image, 0), true=known.true)
    told = calibrate(known, precision=precision, default=0.33, least=10, seed=0)
    assert (told["threshold"], told["why"]) == (0.33, why)


@pytest.fixture
def reviewed(work: Work, tmp_path: Path) -> Work:
    """Images with truth, grounded; half of them reviewed."""
    drawn = [draw("test", n) for n in range(90)]
    rows = [row for _, row in drawn]
    images = [NewSample(data=data, origin={"n": n}) for n, (data, _) in enumerate(drawn)]
    truth = tmp_path / "truth.jsonl"
    truth.write_text("".join(json.dumps(row) + "\n" for row in rows))
    work.add("scenes", images)
    work.name, work.device = "ground", "cpu"
    Ground(threshold=0.1).run(work)
    work.name = "review"
    Review(truth=truth, budget=45, error_rate=0.0).run(work)
    work.name = "thresholds"
    return work


def test_reviews_move_the_thresholds_and_the_rest_is_decided_again_without_the_model(
    reviewed: Work, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Finder, "find", None)
    people = {s.id: s.truth for s in reviewed.dataset.samples(images=False) if s.state is not State.AUTO}
    facts: dict[str, Any] = dict(Thresholds(least=2, audit_only=False).run(reviewed))
    assert facts["images"] == len(people) == 45
    learned = read_thresholds(reviewed.artifact("thresholds"))
    assert sum(row["why"] == "calibrated" for row in facts["categories"].values()) >= 4
    for sample in reviewed.dataset.samples(images=False):
        if sample.id in people:
            assert sample.truth == people[sample.id]
        else:
            assert all(label.score >= learned[str(label.category)] - 1e-6 for label in sample.truth.labels)
    assert facts["boxes_after"] > 0
    alone: dict[str, Any] = dict(Thresholds(apply=False).run(reviewed))
    assert alone["images"] == 5, "the audit, a tenth of the review"
    assert all("fewer than 10 boxes" in row["why"] for row in alone["categories"].values())
    reviewed.facts["ground"] = {"threshold": 0.6, "thresholds": {"knife": 0.8}}
    kept: dict[str, Any] = dict(Thresholds(least=10_000, apply=False).run(reviewed))
    had = {category: row["threshold"] for category, row in kept["categories"].items()}
    assert had == dict.fromkeys(had, 0.6) | {"knife": 0.8}, "of which too little is known, what ground had stays"
    strict = Thresholds(least=10_000, default=1.0).run(reviewed)
    assert (strict["boxes_before"], strict["boxes_after"]) == (facts["boxes_after"], 0)


def test_a_later_ground_takes_the_learned_thresholds_from_the_step_or_its_file(reviewed: Work) -> None:
    Thresholds(least=2, audit_only=False, apply=False).run(reviewed)
    path = reviewed.artifact("thresholds")
    found = []
    start = reviewed.dataset.at.number
    for calibrated in ("thresholds", str(path)):
        reviewed.dataset = reviewed.dataset.checkout(start)
        reviewed.name = "again"
        found.append(Ground(calibrated=calibrated).run(reviewed)["boxes_by_category"])
    assert found[0] == found[1]
    assert Ground(calibrated=str(path)).inputs() == (path,)


def test_a_step_that_saw_nothing_and_a_file_of_another_kind_are_refused(work: Work, tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"no image has a column grund.seen; name the ground step in 'of'"):
        Thresholds(of="grund").run(work)
    (tmp_path / "x.json").write_text("[]")
    with pytest.raises(InputError, match=r"not a file that the step 'thresholds' wrote"):
        read_thresholds(tmp_path / "x.json")
    with pytest.raises(ValueError, match=r"precision must lie in \[0, 1\], got 95"):
        Thresholds(precision=95)


def test_before_anybody_has_reviewed_nothing_is_changed_and_it_is_said(work: Work) -> None:
    work.add("scenes", [NewSample(data=draw("test", n)[0], origin={"n": n}) for n in range(12)])
    work.name, work.device = "ground", "cpu"
    assert Ground(threshold=0.6).run(work)["boxes"]
    work.name = "thresholds"
    before = {s.id: s.truth for s in work.dataset.samples(images=False)}
    facts = Thresholds().run(work)
    assert (facts["images"], "boxes_after" in facts) == (0, False)
    assert {s.id: s.truth for s in work.dataset.samples(images=False)} == before
    last = json.loads((work.dataset.root.parent / "events.jsonl").read_text().splitlines()[-1])
    assert last["event"] == "no_reviews"
    assert "people have labelled no image of the random part" in last["message"]
