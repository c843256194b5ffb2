"""A few examples and a frozen encoder: what is fitted, how it is chosen, and that it is a classifier like any other."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pytest
import torch
from mining_parts import saved

from tilth.claims import Claim
from tilth.encoders.families import max_similarity
from tilth.engine.work import Work
from tilth.errors import InputError, ModelError
from tilth.images import decode, encode_png
from tilth.samples import NewSample
from tilth.starter.world.scene import Spec, render
from tilth.train.artifacts.artifact import About, load_trained, preprocessing, read_about, save_trained
from tilth.train.artifacts.export import export_classifier
from tilth.train.artifacts.few_shot import around
from tilth.train.judge.calibrate import Calibrate
from tilth.train.judge.predict import Predictor
from tilth.train.learn.few_shot import FewShot, Shots, fill, fit_best, gaussian, quality, tip

pytestmark = pytest.mark.filterwarnings("ignore::UserWarning", "ignore::FutureWarning", "ignore::DeprecationWarning")

K, D = 3, 24


def drawn(n: int, seed: int, *, apart: float = 1.0, vectors: int = 2) -> Shots:
    """Draw n images, a quarter of each label and of none, whose vectors lie apart by label."""
    rng = np.random.default_rng(seed)
    kinds = np.arange(n) % (K + 1)
    truth = kinds[:, None] == np.arange(K)
    values = rng.normal(size=(n, vectors, D)) / D**0.5
    values[..., :K] += apart * truth[:, None]
    values[..., K] += 1
    unit = values / np.linalg.norm(values, axis=2, keepdims=True)
    return Shots(vectors=unit.astype(np.float32), truth=truth, sure=np.ones_like(truth))


def texts(*, known: tuple[int, ...] = (0, 1, 2)) -> npt.NDArray[np.float32]:
    """Return texts that name the labels, those not known by a word that means nothing."""
    rows = np.random.default_rng(9).normal(size=(K, D))
    for k in known:
        rows[k] = np.eye(D)[k]
    return np.asarray(rows / np.linalg.norm(rows, axis=1, keepdims=True), np.float32)


def test_the_gaussian_is_the_closed_form_by_either_matrix() -> None:
    for n in (16, 200):  # fewer images than dimensions, and more
        shots = drawn(n, 0)
        flat, yes = shots.flat.astype(float), shots.shown
        means = np.stack([flat[yes[:, k]].mean(0) for k in range(K)])
        others = np.stack([flat[~yes[:, k]].mean(0) for k in range(K)])
        own = np.where(yes.any(1)[:, None], means[yes.argmax(1)], flat[~yes.any(1)].mean(0))
        scatter = (flat - own).T @ (flat - own)
        d = flat.shape[1]
        inverse = d * np.linalg.inv(scatter + np.trace(scatter) / (n - 1) * np.eye(d))
        fitted = gaussian(shots)
        assert fitted.weight == pytest.approx((means - others) @ inverse, rel=2e-3, abs=2e-3)
        halves = ((others @ inverse) * others).sum(1) - ((means @ inverse) * means).sum(1)
        assert fitted.bias == pytest.approx(halves / 2, rel=2e-3, abs=2e-3)


def test_tip_compares_with_each_example_and_what_nobody_looked_for_is_no_example() -> None:
    shots = drawn(8, 0)
    fitted = tip(shots, 5.5)
    one = drawn(4, 1)
    alike = np.exp(-5.5 * (1 - one.flat @ shots.flat[shots.shown.any(1)].T))
    assert fitted(one.vectors, texts()) == pytest.approx(
        alike @ shots.shown[shots.shown.any(1)] / shots.shown.sum(0), rel=1e-4
    )
    unsure = replace(shots, sure=shots.sure & ~(np.arange(K) == 1))
    for fit in (gaussian, lambda some: tip(some, 5.5)):
        assert np.ptp(fit(unsure)(one.vectors, texts())[:, 1]) == 0, "of the second label nothing is known"
        assert np.ptp(fit(unsure)(one.vectors, texts())[:, 0]) > 0


def test_a_word_that_the_encoder_does_not_know_counts_less_and_examples_more_the_more_there_are() -> None:
    test, some = drawn(400, 1, apart=0.3), texts(known=(0, 1))
    told = {}
    for n in (4, 16, 64):
        fitted, best = fit_best("auto", drawn(n, 2, apart=0.3), some, 0)
        assert np.isnan(best) == (n == 4), "with one example of each nothing can be held out"
        told[n] = quality(fitted(test.vectors, some), test)
        assert fitted.words[2] < fitted.words[0] or n == 4
    alone = quality(max_similarity(test.vectors, some), test)
    assert told[4] > alone - 0.03
    assert told[64] > told[16] >= alone, "four examples of each may say nothing yet"


def test_examples_that_can_hardly_say_more_than_the_words_do_not_count() -> None:
    few, test, named = drawn(8, 5, apart=0.5), drawn(400, 6, apart=0.5), texts()
    alone = quality(max_similarity(test.vectors, named), test)
    assert alone > 0.7
    fitted, _ = fit_best("auto", few, named, 0)
    assert quality(fitted(test.vectors, named), test) == pytest.approx(alone, abs=0.001)
    assert quality(gaussian(few)(test.vectors, named), test) < alone, "which two examples of each would make worse"


@pytest.mark.parametrize("n", [4, 64])
def test_an_encoder_that_reads_nothing_has_the_examples_alone(n: int) -> None:
    silent, test = np.zeros((K, D), np.float32), drawn(400, 1)
    logits = fit_best("auto", drawn(n, 0), silent, 0)[0](test.vectors, silent)
    assert quality(logits, test) > 0.9
    assert 0.1 < logits.std() < 100, "calibration and thresholds need logits that are neither nothing nor everything"


def test_the_logit_of_what_may_as_well_be_there_is_about_nought() -> None:
    shots, test = drawn(64, 0), drawn(400, 1)
    logits = fit_best("auto", shots, texts(), 0)[0](test.vectors, texts())
    assert ((logits > 0) == test.truth).mean() > 0.95


def scene(seed: int, kind: str) -> NewSample:
    image = render(Spec(things=((kind, "red", ""),), surface="tile", style="photo"), np.random.default_rng(seed)).image
    asked = ("dice", "pill")
    claim = Claim(says="empty", source="human:test", asked=asked)
    if kind in asked:
        claim = replace(claim, says="label", category=kind)  # no box is needed
    return NewSample(data=encode_png(image), origin={"source": str(seed)}, claims=(claim,))


@pytest.mark.parametrize("how", [{}, {"method": "gaussian", "shots": 4}, {"tune": 3}])
def test_the_step_leaves_a_classifier_that_is_calibrated_exported_and_found_again(
    work: Work, tmp_path: Path, how: dict[str, object]
) -> None:
    work.add("a", [scene(i, ("dice", "pill", "book")[i % 3]) for i in range(60)])
    for name in ("few", "calibrate"):
        (tmp_path / name).mkdir()
    few = replace(work, name="few", folder=tmp_path / "few")
    step = FewShot(**how)  # type: ignore[arg-type]
    facts = step.run(few)
    counts = facts["images_per_label"]
    assert counts["dice"] == 4 if "shots" in how else counts["dice"] > 10  # type: ignore[index,call-overload,operator]
    assert facts["method"] == "gaussian" if "method" in how else facts["method"] in ("gaussian", "tip")
    assert {"knife", "bottle"} <= {*facts["never_shown"]}  # type: ignore[misc]
    again = step.run(few)  # killed before it could report
    assert again == {name: value for name, value in facts.items() if name in again}
    folder = few.artifact("few")
    Calibrate(classifier="few").run(replace(work, name="calibrate", folder=tmp_path / "calibrate"))
    predict = Predictor(folder, None, "cpu")
    tests = [scene(1000 + i, ("dice", "pill", "book")[i % 3]) for i in range(30)]
    said = [logits for logits, _ in predict([decode(one.data) for one in tests])]
    for place, kind in enumerate(("dice", "pill")):
        scores = np.array([row[kind] for row in said])
        right = np.arange(30) % 3 == place
        assert scores[right].mean() > scores[~right].mean()
    (tmp_path / "out").mkdir()
    export_classifier(folder, tmp_path / "out")  # which holds the graph to the model


@pytest.mark.parametrize("family", ["clip", "siglip", "dinov2"])
def test_every_family_is_saved_and_loaded_without_the_half_that_reads(family: str, tmp_path: Path) -> None:
    base = str(saved(family, tmp_path / "base"))
    side, mean, std = preprocessing(base)
    assert side == 32
    model = around(base, K).eval()
    values = np.random.default_rng(0).normal(size=(12, 1, model.config.width))
    unit = values / np.linalg.norm(values, axis=2, keepdims=True)
    shots = replace(drawn(12, 0), vectors=unit.astype(np.float32))
    named = np.random.default_rng(1).normal(size=(K, model.config.width)).astype(np.float32)
    for fitted in (tip(shots, 5.5), fit_best("tip", shots, named, 0)[0], gaussian(shots)):
        fill(model, fitted, named)
        said = model.say(torch.from_numpy(shots.vectors)).detach().numpy()
        assert said == pytest.approx(fitted(shots.vectors, named), abs=1e-3, rel=1e-3), "the model says what was fitted"
    about = About(kind="classifier", base=base, labels=["a", "b", "c"], side=side, mean=mean, std=std)
    folder = save_trained(model, about, tmp_path / "few")
    assert not any("text" in name and name != "texts" for name, _ in load_trained(folder, "cpu")[0].named_parameters())
    image = np.random.default_rng(0).integers(0, 255, (40, 50, 3), np.uint8)
    [(logits, _)] = Predictor(folder, None, "cpu")([image])
    assert len({*logits.values()}) == K
    (tmp_path / "out").mkdir()
    export_classifier(folder, tmp_path / "out")
    assert read_about(folder).labels == ["a", "b", "c"]


def test_bad_settings_and_a_set_without_examples_are_said(work: Work) -> None:
    for wrong in ({"tune": -1}, {"tune": 2, "method": "gaussian"}, {"states": ("guessed",)}):
        with pytest.raises(ValueError, match=r"tune|states"):
            FewShot(**wrong)  # type: ignore[arg-type]
    work.add("a", [scene(i, "book") for i in range(3)])
    with pytest.raises(InputError, match="no training image shows any of"):
        FewShot().run(work)
    with pytest.raises(ModelError, match="an encoder is of one of the families"):
        FewShot(model="starter:detector").run(work)
