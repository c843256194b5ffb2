"""The numbers that decide are right: held against pycocotools, scikit-learn, and cases with a known answer."""

import contextlib
import io
import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from noise import noise_image
from sklearn.metrics import average_precision_score

from tilth.encoders.fusion import fuse
from tilth.engine.work import Work
from tilth.errors import GateRefused
from tilth.policy import Policy
from tilth.train.artifacts.artifact import About, write_about
from tilth.train.judge.calibrate import best_box_threshold, fit_fusion
from tilth.train.judge.calibrate import calibrate as calibrate_columns
from tilth.train.judge.gate import Gate, decide
from tilth.train.judge.kept import read_predictions
from tilth.train.judge.measure import category_scores, unsafe_names
from tilth.train.judge.measure import measure as measure_columns
from tilth.train.judge.testsets import coco_targets
from tilth.train.measure.judged import whole
from tilth.train.measure.metrics import (
    average_precision,
    best_threshold,
    expected_calibration_error,
    f1,
    match_boxes,
    recall_at_fpr,
    with_interval,
)
from tilth.train.measure.prediction import Prediction, Predictions


def measure(rows: list[Prediction], policy: Policy, about: About | None, *, has_boxes: bool) -> dict[str, Any]:
    columns = Predictions.of(rows, unsafe_names(policy))
    return dict(measure_columns(columns, policy, about, box_threshold=0.5 if has_boxes else None))


def calibrate(rows: list[Prediction], about: About, aims: dict[str, tuple[str, float]] | None = None) -> dict[str, Any]:
    return dict(calibrate_columns(Predictions.of(rows, about.labels), about, aims))


def random_predictions(seed: int, n: int = 40) -> list[Prediction]:
    """Images of 100 px with true boxes and noisy, partly wrong predictions of two categories."""
    rng = np.random.default_rng(seed)
    made = []
    for i in range(n):
        truth, boxes = [], []
        for category in ("knife", "dice"):
            for _ in range(rng.integers(0, 3)):
                x, y = rng.uniform(0, 60, 2)
                w, h = rng.uniform(10, 40, 2)
                truth.append([x, y, x + w, y + h, category])
                if rng.random() < 0.8:
                    dx, dy = rng.normal(0, 4, 2)
                    boxes.append([x + dx, y + dy, x + w + dx, y + h + dy, float(rng.uniform(0.2, 1)), category])
            for _ in range(rng.integers(0, 3)):
                x, y = rng.uniform(0, 60, 2)
                boxes.append([x, y, x + 20, y + 20, float(rng.uniform(0, 0.7)), category])
        boxes.sort(key=lambda b: -b[4])
        shown = tuple(sorted({t[4] for t in truth}))
        made.append(Prediction(id=str(i), file="", part="", truth=shown, truth_boxes=truth, logits={}, boxes=boxes))
    return made


def test_what_nobody_looked_for_is_left_out_of_every_number(policy: Policy) -> None:
    names = [c.name for c in policy.pictured if c.name != "text_area"]
    others = dict.fromkeys(names, 0.0)
    rng = np.random.default_rng(0)

    def predictions(n: int, unasked: tuple[str, ...] = (), shift: int = 0) -> list[Prediction]:
        return [
            replace(p, id=str(i + shift), logits={**others, "knife": float(rng.normal())}, unasked=unasked)
            for i, p in enumerate(random_predictions(shift, n))
        ]

    clean = predictions(60)
    about = About(kind="classifier", base="x", labels=names, side=8, mean=[0.0], std=[1.0])
    alone: dict[str, Any] = measure(clean, policy, about, has_boxes=True)
    blank = [replace(p, truth=(), truth_boxes=[]) for p in predictions(40, tuple(names), 1000)]
    assert (
        measure([*clean, *blank], policy, about, has_boxes=True)["per_category"]["dice"]["f1"]["mean"]
        == (  # type: ignore[index, call-overload]
            alone["per_category"]["dice"]["f1"]["mean"]
        )
    )
    told: dict[str, Any] = measure([*clean, *blank], policy, about, has_boxes=True)
    for metric in ("recall_at_fpr01", "recall_at_fpr10", "average_precision", "auroc", "ece", "map"):
        assert told[metric]["mean"] == alone[metric]["mean"] is not None
    assert told["always_unsafe"] == alone["always_unsafe"]
    assert told["recall_at_fpr01"]["mean"] <= told["recall_at_fpr05"]["mean"] <= told["recall_at_fpr10"]["mean"]
    assert 0 < told["map"]["mean"] <= told["map50"]["mean"]
    rates, recalls, precisions = zip(*told["curve"], strict=True)
    assert dict(zip(rates, recalls, strict=True))[0.05] == told["recall_at_fpr05"]["mean"]
    assert list(recalls) == sorted(recalls)
    assert all(0 < p <= 1 for p in precisions if p is not None)
    for metric in ("recall_at_fpr05", "f1", "map50"):
        assert told[metric]["mean"] == alone[metric]["mean"]
        assert told["per_category"]["knife"][metric]["mean"] == alone["per_category"]["knife"][metric]["mean"]
    assert told["nobody_looked"] == dict.fromkeys(names, 40)
    assert alone["nobody_looked"] == dict.fromkeys(names, 0)
    a, b = (About(**vars(about)) for _ in range(2))
    one, two = calibrate(clean, a), calibrate([*clean, *blank], b)
    assert a == b
    assert one["ece_after"] == two["ece_after"]
    assert two["per_category"]["knife"]["nobody_looked"] == 40  # type: ignore[index, call-overload]


def test_an_image_is_safe_only_when_all_was_looked_for() -> None:
    scores = np.array([[0.2, 0.9], [0.2, 0.9], [0.2, 0.9], [0.2, 0.9]])
    truth = np.array([[0, 0], [0, 0], [1, 0], [1, 1]], bool)
    sure = np.array([[1, 1], [1, 0], [1, 0], [0, 0]], bool)
    worst, unsafe, judged = whole(scores, truth, sure)
    assert worst.tolist() == [0.9, 0.2, 0.2, 0.0]
    assert unsafe.tolist() == [False, False, True, False]
    assert judged.tolist() == [True, False, True, False]


def test_a_test_set_answers_for_its_own_list(tmp_path: Path) -> None:
    (tmp_path / "images").mkdir()
    (tmp_path / "images" / "a.png").write_bytes(noise_image(0))
    document = {
        "images": [{"id": 1, "file_name": "a.png"}],
        "annotations": [],
        "categories": [{"id": 1, "name": "knife"}],
    }
    (tmp_path / "annotations.json").write_text(json.dumps(document))
    [target] = coco_targets(tmp_path, ["knife", "pill"], {})
    assert target.unasked == ("pill",)


def coco_ap(predictions: list[Prediction], category: str, least: float) -> float:
    from pycocotools.coco import COCO
    from pycocotools.cocoeval import COCOeval

    annotations, results = [], []
    for i, p in enumerate(predictions, 1):
        for x0, y0, x1, y1, name in p.truth_boxes:
            if name == category:
                area = (x1 - x0) * (y1 - y0)
                annotations.append({
                    "id": len(annotations) + 1, "image_id": i, "category_id": 1, "bbox": [x0, y0, x1 - x0, y1 - y0],
                    "area": area, "iscrowd": 0,
                })  # fmt: skip
        results += [
            {"image_id": i, "category_id": 1, "bbox": [b[0], b[1], b[2] - b[0], b[3] - b[1]], "score": b[4]}
            for b in p.boxes if b[5] == category
        ]  # fmt: skip
    with contextlib.redirect_stdout(io.StringIO()):
        truth = COCO()
        truth.dataset = {
            "images": [{"id": i, "width": 100, "height": 100} for i in range(1, len(predictions) + 1)],
            "annotations": annotations, "categories": [{"id": 1, "name": category}],
        }  # fmt: skip
        truth.createIndex()
        judge = COCOeval(truth, truth.loadRes(results), "bbox")
        judge.params.iouThrs = np.array([least])
        judge.evaluate()
        judge.accumulate()
    return float(judge.eval["precision"][0, :, 0, 0, -1].mean())


@pytest.mark.parametrize("seed", range(5))
@pytest.mark.parametrize("least", [0.5, 0.75, 0.95])
def test_average_precision_is_that_of_pycocotools(seed: int, least: float) -> None:
    predictions = random_predictions(seed)
    for category in ("knife", "dice"):
        scores, right, _, truths = match_boxes(predictions, category, least)
        assert average_precision(scores, right, int(truths.sum())) == pytest.approx(
            coco_ap(predictions, category, least), abs=1e-6
        )


def test_a_bootstrap_sample_counts_an_image_as_often_as_it_was_drawn() -> None:
    predictions = random_predictions(9)
    scores, right, owner, truths = match_boxes(predictions, "knife")
    often = np.ones(len(predictions), int)
    often[0], often[1] = 3, 0
    copies = [predictions[0]] * 2 + [p for i, p in enumerate(predictions) if i != 1]
    expected = coco_ap(copies, "knife", 0.5)
    assert average_precision(scores, right, int((truths * often).sum()), often[owner]) == pytest.approx(
        expected, abs=0.02
    )


def test_recall_at_a_false_positive_rate_lets_no_more_negatives_through() -> None:
    rng = np.random.default_rng(0)
    positive = rng.random(2000) < 0.3
    scores = rng.normal(positive.astype(float), 1)
    got = recall_at_fpr(scores, positive, 0.05)
    from sklearn.metrics import roc_curve

    fpr, tpr, _ = roc_curve(positive, scores)
    assert got == pytest.approx(tpr[fpr <= 0.05].max(), abs=1e-9)


def test_the_best_threshold_has_the_best_f1() -> None:
    rng = np.random.default_rng(1)
    positive = rng.random(300) < 0.2
    scores = np.clip(rng.normal(0.3 + 0.3 * positive, 0.15), 0, 1)
    chosen = best_threshold(scores, positive)
    assert chosen is not None
    best = max(f1(scores >= t, positive) for t in scores)
    assert f1(scores >= chosen, positive) == pytest.approx(best)
    assert best_threshold(scores[:5], np.zeros(5, bool)) is None


def test_an_interval_covers_the_number_and_shrinks_with_more_images() -> None:
    rng = np.random.default_rng(2)

    def width(n: int) -> float:
        hits = rng.random(n) < 0.6
        told = with_interval(lambda counts: float(np.repeat(hits, counts).mean()), n, resamples=300)
        low, high = told["ci95"]
        assert low <= told["mean"] <= high
        return high - low

    assert width(1600) < width(100) / 2


def test_calibration_mends_scores_that_are_too_sure() -> None:
    rng = np.random.default_rng(3)
    rows = []
    for i in range(600):
        honest = rng.normal(-1, 1.5)
        shown = ("knife",) if rng.random() < 1 / (1 + np.exp(-honest)) else ()
        rows.append(Prediction(
            id=str(i), file="", part="", truth=shown, truth_boxes=[], logits={"knife": 4 * honest + 1}, boxes=[]
        ))  # fmt: skip
    about = About(kind="classifier", base="x", labels=["knife"], side=8, mean=[0] * 3, std=[1] * 3)
    told = calibrate(rows, about)
    assert told["ece_after"] < told["ece_before"] / 2
    assert about.calibration["knife"]["a"] == pytest.approx(0.25, abs=0.08)
    assert about.calibration["knife"]["d"] == 0  # there is no detector
    assert 0 < about.thresholds["knife"] < 1
    assert about.clear_below is not None
    assert 0.01 <= np.mean([_chance(p, about) < about.clear_below for p in rows if p.truth]) <= 0.03


def _chance(prediction: Prediction, about: About) -> float:
    return float(category_scores(Predictions.of([prediction], ["knife"]), about)[0, 0])


def test_two_models_together_are_better_than_either_and_a_misleading_one_is_left_out() -> None:
    rng = np.random.default_rng(6)
    truth = rng.random((800, 2)) < 0.2
    logits = rng.normal(2.0 * truth - 1, 1)
    boxes = 1 / (1 + np.exp(-rng.normal(2.0 * truth - 1, 1)))
    both = fit_fusion(logits, boxes, truth)
    assert both is not None
    assert both[0].a > 0.5
    assert both[0].d > 0.5

    def quality(scores: np.ndarray) -> float:
        return float(average_precision_score(truth.ravel(), scores.ravel()))

    assert quality(fuse(logits, boxes, both)) > max(quality(logits), quality(boxes)) + 0.05
    alone = fit_fusion(logits, 1 - boxes, truth)
    assert alone is not None
    assert alone[0].d == 0
    assert alone[0].a > 0.5
    assert fit_fusion(logits[:3], boxes[:3], truth[:3]) is None


def test_labels_that_are_in_doubt_count_for_as_much_as_they_are_likely() -> None:
    rng = np.random.default_rng(8)
    logits = rng.normal(0, 2, (6000, 1))
    chances = 1 / (1 + np.exp(-(1.5 * logits - 1)))
    truth = rng.random(chances.shape) < chances
    told, sure = fit_fusion(logits, None, chances), fit_fusion(logits, None, truth)
    assert told is not None
    assert sure is not None
    assert told[0].a == pytest.approx(1.5, abs=0.05)
    assert (told[0].a, told[0].b) == pytest.approx((sure[0].a, sure[0].b), abs=0.2), "chances say what the truth says"
    cut = fit_fusion(logits, None, chances > 0.5)
    assert cut is not None
    assert cut[0].a > 3, "and likelier answers taken for the truth do not"
    rows = [
        Prediction(
            id=str(i), file="", part="", truth=(), truth_boxes=[], logits={"knife": float(logit)}, boxes=[], unasked=("knife",),
            chances={"knife": float(chance)},
        )
        for i, (logit, chance) in enumerate(zip(logits[:, 0], chances[:, 0], strict=True))
    ]  # fmt: skip
    about = About(kind="classifier", base="", labels=["knife"], side=8, mean=[0.5] * 3, std=[0.5] * 3)
    told_of: Any = calibrate(rows, about)["per_category"]
    assert told_of["knife"]["positives"] == pytest.approx(chances.sum(), abs=0.1)
    assert told_of["knife"]["nobody_looked"] == 0
    assert about.calibration["knife"]["a"] == pytest.approx(1.5, abs=0.05)


def test_the_threshold_of_boxes_keeps_the_right_ones() -> None:
    rows = []
    for i in range(20):
        right, wrong = [10, 10, 20, 20, 0.6 + i / 100, "knife"], [40, 40, 50, 50, 0.1 + i / 100, "knife"]
        rows.append(Prediction(
            id=str(i), file="", part="", truth=("knife",), truth_boxes=[[10, 10, 20, 20, "knife"]], logits={"knife": 0},
            boxes=[right, wrong],
        ))  # fmt: skip
    assert best_box_threshold(Predictions.of(rows, ["knife"])) == pytest.approx(0.6)
    assert best_box_threshold(Predictions.of(rows[:3], ["knife"])) is None


def test_expected_calibration_error_is_zero_for_honest_scores_and_large_for_liars() -> None:
    rng = np.random.default_rng(4)
    chances = rng.random(20000)
    positive = rng.random(20000) < chances
    assert expected_calibration_error(chances, positive) < 0.02
    assert expected_calibration_error(np.ones(100), np.zeros(100, bool)) == 1


def test_the_gate_lets_a_better_model_through_and_stops_a_worse_one() -> None:
    rng = np.random.default_rng(5)
    truth = rng.random(800) < 0.3
    good, bad = rng.normal(truth * 3.0, 1), rng.normal(truth * 1.0, 1)
    assert decide(bad, good, truth, 0.02, 0)["passed"] is True
    worse = decide(good, bad, truth, 0.02, 0)
    assert worse["passed"] is False
    assert "fell" in str(worse["reason"])


@pytest.mark.parametrize("case", ["as good", "one category lost", "one style lost", "few lost", "badly calibrated"])
def test_the_gate_refuses_what_is_worse_on_a_part_and_no_chance_loss(work: Work, tmp_path: Path, case: str) -> None:
    """A model that gains as much on the rest as it loses on a part is as good on the whole."""
    rng = np.random.default_rng(0)
    names = [c.name for c in work.policy.pictured if c.name != "text_area"]
    for side in ("old", "new"):
        rows = []
        for n in range(1200):
            shown = names[n % 10] if n % 10 < len(names) else ""
            style = ("photo", "neon")[n % 3 == 0]
            logits = {name: float(rng.normal(4.0 if name == shown else -4.0, 1)) for name in names}
            lost = {"one category lost": shown == "knife", "one style lost": style == "neon", "few lost": n in (0, 10)}
            if side == "new" and lost.get(case):
                logits[shown] = -9.0
            if side == "new" and case == "badly calibrated":
                logits = {name: value + 3 for name, value in logits.items()}
            truth = (shown,) if shown else ()
            rows.append(
                Prediction(id=str(n), file="", part=style, truth=truth, truth_boxes=[], logits=logits, boxes=[])
            )
        path = tmp_path / f"{side}.jsonl"
        path.write_text("".join(json.dumps(vars(p)) + "\n" for p in rows))
        work.publish(f"{side}.predictions", path)
        about = About(kind="classifier", base="x", labels=names, side=8, mean=[0.0], std=[1.0])
        about.calibration = {name: {"a": 1.0, "d": 0.0, "b": 0.0} for name in names}
        (tmp_path / side).mkdir()
        write_about(tmp_path / side, about)
        work.publish(f"{side}.classifier", tmp_path / side)
    sides = {"old_classifier": "old.classifier", "new_classifier": "new.classifier"}
    gate = Gate(old="old", new="new", max_drop=1.0, max_ece=0.05, **sides)
    told = {"one category lost": ["category knife"], "one style lost": ["slice neon"]}.get(case, [])
    facts = gate._compare(work)
    assert {"category knife", "slice photo"} <= {*facts["groups"]}
    named = [worse.partition(" (")[0] for worse in facts["worse"]]
    assert {*told} <= {*named}
    assert told or not named
    assert facts["passed"] is (case in ("as good", "few lost"))
    if not facts["passed"]:
        with pytest.raises(
            GateRefused, match="chances are off" if case == "badly calibrated" else "worse on"
        ) as caught:
            gate.run(work)
        assert caught.value.facts == facts


@pytest.mark.parametrize(
    "case", ["other images", "nothing unsafe", "nothing safe", "nobody looked", "partly other images"]
)
def test_the_gate_says_in_words_what_it_cannot_compare_and_keeps_the_old_model(
    work: Work, policy: Policy, tmp_path: Path, case: str
) -> None:
    names = tuple(c.name for c in policy.pictured)
    for side in ("old", "new"):
        rows = random_predictions(1)
        if side == "new" and "other images" in case:
            rows = [replace(p, id=f"{int(p.id) + (20 if 'partly' in case else 100)}") for p in rows]
        if case == "nothing unsafe":
            rows = [replace(p, truth=()) for p in rows]
        if case == "nothing safe":
            rows = [replace(p, truth=("knife",)) for p in rows]
        if case == "nobody looked":
            rows = [replace(p, unasked=names) for p in rows]
        path = tmp_path / f"{side}.jsonl"
        path.write_text("".join(json.dumps(vars(p)) + "\n" for p in rows))
        work.publish(f"{side}.predictions", path)
    gate = Gate(old="old", new="new", old_classifier="", new_classifier="")
    told = gate._compare(work)
    assert "nan" not in json.dumps(told).lower()
    if case == "partly other images":
        assert "compared were 20 of the 40 images of old and 20 of the 40 images of new" in told["reason"]
        return
    unsafe, safe = {"nothing unsafe": (0, 40), "nothing safe": (40, 0)}.get(case, (0, 0))
    with pytest.raises(
        GateRefused,
        match=f"nothing to compare: .* there are {unsafe} unsafe and {safe} safe ones; .*the old model stays",
    ):
        gate.run(work)


def test_a_category_that_a_model_never_learned_scores_nothing_and_is_named(policy: Policy) -> None:
    rows = [replace(p, logits={"dice": 3.0}) for p in random_predictions(1)]
    about = About(kind="classifier", base="x", labels=["dice"], side=8, mean=[0.0], std=[1.0])
    assert category_scores(Predictions.of(rows, ["knife", "dice"]), about).max(0).round(2).tolist() == [0, 0.97]
    told = measure(rows, policy, about, has_boxes=False)
    assert "knife" in told["never_learned"]  # type: ignore[operator]
    assert "dice" not in told["never_learned"]  # type: ignore[operator]


def aimed(n: int, seed: int) -> list[Prediction]:
    """Images of which a third show dice, with scores that tell them from the others more or less."""
    rng, rows = np.random.default_rng(seed), []
    for i in range(n):
        shows = i % 3 == 0
        truth = ("dice",) if shows else ()
        logit = float(rng.normal(1.5 if shows else -1.5, 1.5))
        rows.append(Prediction(
            id=str(i), file="", part="", truth=truth, truth_boxes=[], logits={"dice": logit, "knife": -3.0}, boxes=[]
        ))  # fmt: skip
    return rows


@pytest.mark.parametrize("aim", [("recall", 0.95), ("precision", 0.9), ("false_positives", 0.02)])
def test_a_threshold_reaches_what_the_policy_aims_at_also_on_other_images(
    aim: tuple[str, float], policy: Policy
) -> None:
    about = About(kind="classifier", base="x", labels=["knife", "dice"], side=8, mean=[0.0], std=[1.0])
    calibrate(aimed(1500, 1), about, {"dice": aim, "knife": ("recall", 0.9)})
    assert about.aims == {"dice": dict([aim])}, "no image shows a knife, so nothing is reached there"
    told: dict[str, Any] = measure(aimed(1500, 2), policy, about, has_boxes=False)
    [(category, point)] = told["operating_points"].items()
    assert (category, point["aim"]) == ("dice", dict([aim]))
    assert point[aim[0]]["mean"] == pytest.approx(aim[1], abs=0.03)
    assert told["per_category"]["dice"]["f1"]["mean"] < 0.99
    few = About(kind="classifier", base="x", labels=["dice"], side=8, mean=[0.0], std=[1.0])
    calibrate(aimed(45, 1), few, {"dice": ("recall", 0.95)})
    assert few.aims == {}, "fifteen images cannot tell 0.95 from 1"


def test_a_bundle_serves_the_threshold_that_reaches_the_aim(tmp_path: Path, policy: Policy) -> None:
    from tilth.pipeline.steps.package import Package

    about = About(
        kind="classifier", base="x", labels=["dice"], side=8, mean=[0.0], std=[1.0],
        thresholds={"dice": 0.9, "knife": 0.2}, aims={"dice": {"recall": 0.95}},
    )  # fmt: skip
    (tmp_path / "c").mkdir()
    write_about(tmp_path / "c", about)
    work: Any = type("W", (), {"policy": policy, "artifact": lambda self, name: tmp_path / "c"})()
    served = Package(classifier="c", detector="")._served(work)
    assert (served["dice"].review_above, served["dice"].block_above) == (0.9, 0.9)
    assert served["knife"] == policy["knife"]
    for wrong in ({}, {"recall": 0.9, "precision": 0.9}, {"recall": 1.0}, {"f1": 0.5}):
        with pytest.raises(ValueError, match="review_at"):
            type(served["dice"]).model_validate({**policy["dice"].model_dump(), "review_at": wrong})
    with pytest.raises(ValueError, match="words and sounds are judged without"):
        type(served["dice"]).model_validate({**policy["threat"].model_dump(), "review_at": {"recall": 0.9}})


def test_a_refusal_of_the_gate_has_exit_code_3(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Gate, "_compare", lambda self, work: {"passed": False, "reason": "recall fell"})
    with pytest.raises(GateRefused) as caught:
        Gate().run(type("W", (), {"name": "gate", "facts": {}})())  # type: ignore[arg-type]
    assert caught.value.exit_code == 3


def test_a_torn_line_of_predictions_is_forgotten(tmp_path: Path) -> None:
    import json

    path = tmp_path / "predictions.jsonl"
    row = random_predictions(0, 1)[0]
    path.write_text(json.dumps(vars(row)) + "\n" + '{"id": "half')
    assert [p.id for p in read_predictions(path)] == ["0"]
    assert path.read_text().endswith("\n")
