"""What an evaluation tells beyond its numbers: against another model, by part, what is taken for what, and how often the set was opened."""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from noise import noise_image
from scipy.stats import binomtest
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import average_precision_score, roc_auc_score

from tilth.claims import Claim
from tilth.engine.work import Work
from tilth.errors import InputError
from tilth.policy import Policy
from tilth.samples import NewSample
from tilth.train.artifacts.artifact import About, write_about
from tilth.train.judge import evaluate
from tilth.train.judge.calibrate import fit_slopes
from tilth.train.judge.compare import Pair
from tilth.train.judge.gate import Gate
from tilth.train.judge.kept import read_predictions
from tilth.train.judge.measure import confused, measure, unsafe_names
from tilth.train.judge.testsets import dataset_targets
from tilth.train.measure.prediction import Prediction, Predictions
from tilth.train.measure.ranked import Ranked


@pytest.mark.parametrize("seed", range(4))
def test_a_ranking_says_what_scikit_learn_says_of_any_bootstrap_sample(seed: int) -> None:
    rng = np.random.default_rng(seed)
    positive = rng.random(300) < 0.3
    scores = np.round(rng.normal(positive, 1), 1)  # many are equal
    counts = np.bincount(rng.integers(0, 300, 300), minlength=300)
    ranked = Ranked(scores, positive)
    assert ranked.average_precision(counts) == pytest.approx(
        average_precision_score(positive, scores, sample_weight=counts)
    )
    assert ranked.auroc(counts) == pytest.approx(roc_auc_score(positive, scores, sample_weight=counts))
    assert ranked.recall(0.05, counts) == Ranked(np.repeat(scores, counts), np.repeat(positive, counts)).recall(0.05)
    recalls, precisions = np.array(ranked.precisions()).T
    assert recalls[-1] == 1
    assert (np.diff(recalls) > 0).all()
    assert precisions[-1] >= positive.mean() - 1e-4


def test_calibration_of_many_labels_is_the_regression_of_scikit_learn() -> None:
    rng = np.random.default_rng(0)
    truth, sure = rng.random((1100, 6)) < 0.1, rng.random((1100, 6)) < 0.8
    columns = [rng.normal(2.0 * truth - 1, 1) + rng.normal(size=6), rng.normal(truth, 1)]
    steep, shared, own = fit_slopes(columns, truth.astype(float), sure)
    wide = np.column_stack([*(c.ravel() for c in columns), np.tile(np.eye(6), (1100, 1))])[sure.ravel()]
    theirs = LogisticRegression(C=1.0, max_iter=5000, tol=1e-9).fit(wide, truth[sure])
    assert [*steep, *(shared + own)] == pytest.approx(
        [*theirs.coef_[0, :2], *(theirs.intercept_[0] + theirs.coef_[0, 2:])], abs=1e-4
    )


def drawn(policy: Policy, n: int, *, gain: float = 4.0, seed: int = 0, boxes: bool = True) -> list[Prediction]:
    """Images of which half show one category each, in a box of one of three sizes, and a model that tells them by so much."""
    rng, names, rows = np.random.default_rng(seed), unsafe_names(policy), []
    for i in range(n):
        shown = names[i % len(names)] if i % 2 else ""
        side = (8, 25, 60)[i % 3]
        true = [[10, 10, 10 + side, 10 + side, shown]] if shown else []
        logits = {name: float(rng.normal(gain / 2 if name == shown else -gain / 2)) for name in names}
        seen = [[10, 10, 10 + side, 11 + side, 0.9, shown]] if shown and boxes and rng.random() < gain / 5 else []
        rows.append(Prediction(
            id=f"{i:04d}", file=f"{i:04d}.png", part=("photo", "neon")[i % 4 // 2], truth=(shown,) if shown else (), truth_boxes=true,
            logits=logits, boxes=seen, size_wh=(100, 100),
        ))  # fmt: skip
    return rows


def about(policy: Policy) -> About:
    names = unsafe_names(policy)
    made = About(kind="classifier", base="x", labels=names, side=8, mean=[0.0], std=[1.0])
    made.calibration = {name: {"a": 1.0, "d": 0.0, "b": 0.0} for name in names}
    return made


def judged(work: Work, name: str, rows: list[Prediction]) -> None:
    """Leave what an evaluation leaves."""
    folder = work.folder / name
    folder.mkdir(parents=True)
    (folder / "predictions.jsonl").write_text("".join(json.dumps(vars(p)) + "\n" for p in rows))
    write_about(folder, about(work.policy))
    work.publish(f"{name}.predictions", folder / "predictions.jsonl")
    work.publish(f"{name}.classifier", folder)


def told(work: Work) -> dict[str, Any]:
    return Pair.read(work, ("old", "old.classifier"), ("new", "new.classifier"), (0.5,)).told(0)


@pytest.mark.parametrize(
    ("n", "before", "after", "says"),
    [
        (600, 2.0, 4.0, "better, by "),
        (600, 4.0, 2.0, "worse, by "),
        (600, 9.0, 9.0, "not worse by more than "),
        (40, 3.0, 3.0, "cannot tell: 20 unsafe and 20 safe images are too few"),
    ],
)
def test_two_models_on_the_same_images_are_told_apart_as_far_as_these_can_tell(
    work: Work, n: int, before: float, after: float, says: str
) -> None:
    old, new = drawn(work.policy, n, gain=before), drawn(work.policy, n, gain=after, seed=1)
    judged(work, "old", old)
    judged(work, "new", new[::-1])  # in whatever order
    found = told(work)
    assert found["said"].startswith(says)
    gate = Gate(old="old", new="new", old_classifier="old.classifier", new_classifier="new.classifier")._compare(work)
    assert found["recall_at_fpr05"]["difference"] == gate["difference"], "the gate sees the same"
    assert {"f1", "average_precision", "map50"} <= {*found}
    right = [{p.id: any(v >= 0 for v in p.logits.values()) == bool(p.truth) for p in rows} for rows in (old, new)]
    better = sum(right[1][i] and not right[0][i] for i in right[0])
    worse = sum(right[0][i] and not right[1][i] for i in right[0])
    assert (found["right_only_now"], found["right_only_before"], found["images"]) == (better, worse, n)
    assert found["p"] == pytest.approx(binomtest(better, better + worse).pvalue if better + worse else 1, rel=0.1)
    assert {*found["per_category"]} == {*unsafe_names(work.policy)}
    assert "nan" not in json.dumps(found).lower()


def test_images_that_only_one_of_two_judged_are_not_compared(work: Work) -> None:
    rows = drawn(work.policy, 120)
    judged(work, "old", rows[:80])
    judged(work, "new", rows[40:])
    assert told(work)["images"] == 40
    judged(work, "other", [replace(p, id=f"x{p.id}") for p in rows])
    pair = Pair.read(work, ("old", "old.classifier"), ("other", "other.classifier"), (0.5,))
    assert str(pair.told(0)["said"]).startswith("cannot tell")
    with pytest.raises(InputError, match="old judged a classifier, of which nothing is known here; evaluate it again"):
        Pair.read(work, ("old", ""), ("new", "new.classifier"))


def test_what_calls_everything_unsafe_scores_what_is_written_beside_every_number(policy: Policy) -> None:
    rows = [replace(p, logits=dict.fromkeys(p.logits, 9.0), boxes=[]) for p in drawn(policy, 120)]
    found: Any = measure(Predictions.of(rows, unsafe_names(policy)), policy, about(policy), box_threshold=0.5)
    tables = [
        found,
        *(part for name in ("per_category", "per_slice", "per_severity", "per_size") for part in found[name].values()),
    ]
    assert len(tables) > 10
    for part in tables:
        for metric in ("recall_at_fpr05", "f1", "average_precision"):
            assert part[metric]["mean"] == pytest.approx(part["always_unsafe"][metric], abs=1e-4), metric
    assert found["auroc"]["mean"] == found["always_unsafe"]["auroc"] == 0.5
    assert found["recall_at_fpr01"]["mean"] == found["always_unsafe"]["recall_at_fpr01"] == 0


def test_parts_of_the_test_set_are_those_of_severity_size_and_slice(policy: Policy) -> None:
    rows = drawn(policy, 240)
    small = [
        replace(p, logits=dict.fromkeys(p.logits, -9.0)) if p.truth and i % 3 == 0 else p for i, p in enumerate(rows)
    ]
    found: Any = measure(Predictions.of(small, unsafe_names(policy)), policy, about(policy), box_threshold=0.5)
    assert {*found["per_severity"]} == {c.severity for c in policy.pictured if c.name != "text_area"}
    assert {*found["per_slice"]} == {"photo", "neon"}
    sizes = found["per_size"]
    assert {name: part["positives"] for name, part in sizes.items()} == {"small": 40, "medium": 40, "large": 40}
    assert sizes["small"]["n_images"] == 40 + 120
    assert sizes["small"]["recall_at_fpr05"]["mean"] == 0 < sizes["large"]["recall_at_fpr05"]["mean"]
    knives = [p for p in rows if not p.truth or p.truth == ("knife",)]
    high: Any = measure(Predictions.of(knives, unsafe_names(policy)), policy, about(policy), box_threshold=None)
    assert high["per_severity"]["high"]["positives"] == len([p for p in knives if p.truth])
    assert high["per_severity"]["medium"]["recall_at_fpr05"]["mean"] is None, "nothing of it is shown"
    unknown = [replace(p, size_wh=(0, 0)) for p in rows]
    told: Any = measure(Predictions.of(unknown, unsafe_names(policy)), policy, about(policy), box_threshold=None)
    assert "per_size" not in told


def test_boxes_are_counted_by_what_is_there_and_what_is_seen() -> None:
    thing = [10.0, 10.0, 30.0, 30.0]
    seen = [
        [11.0, 11.0, 30.0, 30.0, 0.9, "knife"],
        [10.0, 10.0, 29.0, 30.0, 0.8, "knife"],  # once more
        [11.0, 10.0, 30.0, 29.0, 0.7, "dice"],  # and as something else
        [60.0, 60.0, 80.0, 80.0, 0.6, "dice"],  # where nothing is
        [10.0, 10.0, 30.0, 30.0, 0.3, "pill"],  # below the threshold
    ]
    blank = {"file": "", "part": "", "logits": {}, "boxes": []}
    rows = [
        Prediction(**{**blank, "boxes": seen}, id="a", truth=("knife",), truth_boxes=[[*thing, "knife"]]),
        Prediction(**blank, id="b", truth=("pill",), truth_boxes=[[*thing, "pill"], [50.0, 50.0, 70.0, 70.0, "pill"]]),
        Prediction(**{**blank, "boxes": seen}, id="c", truth=(), truth_boxes=[], unasked=("knife", "dice")),
    ]
    counts = confused(Predictions.of(rows, ["knife", "dice", "pill"]), 0.5)
    assert counts == {"knife": {"knife": 1, "dice": 1}, "pill": {"safe": 2}, "safe": {"dice": 1}}


@pytest.fixture
def sealed(tmp_path: Path, policy: Policy) -> Path:
    folder = tmp_path / "sealed"
    (folder / "images").mkdir(parents=True)
    names = [c.name for c in policy.pictured]
    for i in range(6):
        (folder / "images" / f"{i}.png").write_bytes(noise_image(i))
    document = {
        "images": [{"id": i, "file_name": f"{i}.png"} for i in range(6)],
        "annotations": [{"image_id": i, "category_id": 0, "bbox": [1, 1, 9, 9]} for i in range(3)],
        "categories": [{"id": k, "name": name} for k, name in enumerate(names)],
    }
    (folder / "annotations.json").write_text(json.dumps(document))
    return folder


def test_an_evaluation_counts_how_often_the_sealed_set_was_opened_and_names_another_one(
    work: Work, sealed: Path
) -> None:
    def run(name: str, step: evaluate.Tested) -> dict[str, Any]:
        now = replace(work, name=name, folder=work.folder / f"{name}-key")
        now.folder.mkdir(parents=True, exist_ok=True)
        return dict(step.judge(now, lambda images: [({"knife": 1.0}, [])] * len(images), about(work.policy), None))

    assert run("first", evaluate.Tested(test=sealed))["test_opened"] == 1
    assert run("first", evaluate.Tested(test=sealed))["test_opened"] == 1, "it went on, and looked no second time"
    [prediction, *_] = read_predictions(work.artifacts["first.predictions"])
    assert min(prediction.size_wh) > 0
    write_about(work.folder / "first-key", about(work.policy))
    for name in ("first", "second"):
        work.publish(f"{name}.classifier", work.folder / "first-key")
    second = run("second", evaluate.Tested(test=sealed, against="first"))
    assert second["test_opened"] == 2
    assert second["against"]["name"] == "first"
    assert second["against"]["recall_at_fpr05"]["difference"]["mean"] == 0
    with pytest.raises(InputError, match=r"no artifact 'nobody\.predictions'; there are: .*first\.predictions"):
        run("third", evaluate.Tested(test=sealed, against="nobody"))
    assert not (work.folder / "third-key" / "predictions.jsonl").exists(), "said before anything is predicted"
    work.facts["champion"] = {"bundle": None}
    assert (
        "nothing was in use yet" in run("fourth", evaluate.Tested(test=sealed, against="champion"))["against"]["said"]
    )


def test_images_of_the_dataset_are_parts_by_who_brought_them_in(work: Work) -> None:
    for step, seeds in (("import.shop", (0, 1)), ("mine", (2, 3))):
        empty = Claim(says="empty", source="human:ana")
        samples = [
            NewSample(data=noise_image(seed), origin={"step": step}, claims=(empty,), columns={"split": "test"})
            for seed in seeds
        ]
        replace(work, name=step).add("a", samples)
    parts = [target.part for target in dataset_targets(work, "test")]
    assert sorted(parts) == ["import.shop", "import.shop", "mine", "mine"]
