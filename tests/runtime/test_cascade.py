"""Both stages together, in the real onnxruntime, with the real reader and the real language model."""

import json
import shutil
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import yaml
from runtime_graphs import BLUE, GREEN, GREY, RED, plain, shared_bundle, shared_moderator, write_classifier

from tilth.errors import InputError, ModelError
from tilth.runtime.bundles.bundle import STAGE2, load_bundle, seal
from tilth.runtime.stages.cascade import Action, Moderator
from tilth.starter.world.scene import Spec, render


def sign(text: str, style: str = "photo") -> np.ndarray:
    spec = Spec(things=(("cup", "blue", ""), ("sign", "yellow", text)), surface="wood", style=style)
    return render(spec, np.random.default_rng(3), side=320).image


def suspicious() -> Moderator:
    """A moderator whose Stage 1 clears nothing."""
    return replace(shared_moderator(), clear_below=0.0)


def deaf(moderator: Moderator) -> Moderator:
    """A moderator that fails as soon as Stage 2 is asked about an image."""

    def refuse(*_: object) -> str:
        raise AssertionError("Stage 2 was called")

    return replace(moderator, reader=refuse, stage2=lambda screens, texts: [refuse() for _ in screens])


def test_the_runtime_works_where_torch_does_not_exist() -> None:
    code = """
import importlib, pkgutil, sys
sys.modules["torch"] = sys.modules["transformers"] = None
import numpy as np, tilth.runtime
for module in pkgutil.iter_modules(tilth.runtime.__path__):
    importlib.import_module(f"tilth.runtime.{module.name}")
before = {"onnxruntime", "rapidocr", "fastapi", "uvicorn", "tokenizers"} & set(sys.modules)
from tilth.runtime.bundles.bundle import load_bundle
[verdict] = load_bundle(sys.argv[1], threads=1).moderate([np.full((48, 64, 3), (20, 250, 20), np.uint8)])
print(sorted(before), verdict.stage, sys.modules["torch"])
"""
    done = subprocess.run(
        [sys.executable, "-c", code, str(shared_bundle())], capture_output=True, text=True, check=False
    )
    assert done.stdout.strip() == "[] 2 None", done.stderr


def test_a_clear_image_never_reaches_stage_2() -> None:
    [nothing, knife] = deaf(shared_moderator()).moderate([GREY, RED])
    assert (nothing.action, nothing.stage, nothing.flagged) == (Action.ALLOW, 1, False)
    assert (knife.action, knife.stage, knife.actions["knife"]) == (Action.BLOCK, 1, Action.BLOCK)
    assert set(nothing.timings_ms) == {"stage1", "total"}


@pytest.mark.parametrize("image", [BLUE, GREEN], ids=["a knife that only the classifier sees", "writing"])
def test_an_open_case_reaches_stage_2(image: np.ndarray) -> None:
    with pytest.raises(AssertionError, match="Stage 2 was called"):
        deaf(shared_moderator()).moderate([image])


def test_writing_without_words_is_allowed_and_a_doubtful_knife_is_not_blocked_by_one_model() -> None:
    [writing, knife] = shared_moderator().moderate([GREEN, BLUE])
    assert (writing.stage, writing.reason, writing.action, writing.text) == (2, "writing", Action.ALLOW, "")
    assert (knife.stage, knife.reason) == (2, "doubtful")
    assert knife.action is not Action.BLOCK
    assert set(knife.timings_ms) == {"stage1", "ocr", "language", "total"}
    assert knife.timings_ms["total"] == pytest.approx(sum(knife.timings_ms[p] for p in ("stage1", "ocr", "language")))


def test_a_batch_gives_what_its_images_give_one_by_one() -> None:
    images = [GREY, sign("BOOK CLUB 7PM"), RED, plain((20, 20, 250), (33, 91)), GREEN]
    together = shared_moderator().moderate(images)
    for image, verdict in zip(images, together, strict=True):
        [alone] = shared_moderator().moderate([image])
        assert (alone.action, alone.stage, alone.reason, alone.text) == (
            verdict.action,
            verdict.stage,
            verdict.reason,
            verdict.text,
        )
        assert alone.scores == pytest.approx(verdict.scores, abs=1e-4)
        assert [b.category for b in alone.boxes] == [b.category for b in verdict.boxes]


@pytest.mark.parametrize("value", [np.nan, np.inf])
@pytest.mark.parametrize("part", ["classifier", "detector"])
def test_what_is_no_number_is_an_error_and_never_a_verdict(part: str, value: float) -> None:
    class Broken:
        def run(self, names: list[str], inputs: dict[str, np.ndarray]) -> list[np.ndarray]:
            said = getattr(whole.stage1, part).session.run(names, inputs)
            said[-1].flat[0] = value
            return list(said)

    whole = shared_moderator()
    stage1 = replace(whole.stage1, **{part: replace(getattr(whole.stage1, part), session=Broken())})
    with pytest.raises(ModelError, match=rf"{part}\.onnx: 1 of \d+ values that it says are no numbers"):
        replace(whole, stage1=stage1).moderate([RED, GREY])


def test_no_images_give_no_verdicts() -> None:
    assert shared_moderator().moderate([]) == []


@pytest.mark.parametrize(
    ("text", "style", "category"),
    [
        ("WE WILL FIND YOU", "photo", "threat"),
        ("BET NOW WIN BIG", "neon", "gambling_ad"),
        ("VAPES NO ID", "sketch", "illicit_sale"),
        ("WE WILL FIND A SEAT", "cartoon", None),
    ],
)
def test_the_words_on_a_sign_are_read_and_judged(text: str, style: str, category: str | None) -> None:
    [verdict] = suspicious().moderate([sign(text, style)])
    assert verdict.text.replace(" ", "").upper() == text.replace(" ", "")
    assert verdict.stage == 2
    assert {name for name, action in verdict.actions.items() if action is not Action.ALLOW} == (
        {category} if category else set()
    )


def test_boxes_lie_in_the_full_image_and_repeat_nothing() -> None:
    [verdict] = shared_moderator().moderate([plain((250, 20, 20), (640, 480))])
    [box] = verdict.boxes
    assert box.category == "knife"
    assert box.box_xyxy == pytest.approx((160, 180, 480, 300))


def test_calibration_bends_the_scores(tmp_path: Path) -> None:
    folder = shutil.copytree(shared_bundle(), tmp_path / "bundle")
    [before] = shared_moderator().stage1([GREY])
    write_classifier(folder, calibration={"knife": {"a": 1.0, "d": 1.0, "b": 1.0}})
    seal(folder)
    [after] = load_bundle(folder, threads=1).stage1([GREY])
    half = np.log(
        before.scores["knife"] / (1 - before.scores["knife"])
    )  # what is not calibrated counts both models half
    assert after.scores["knife"] == pytest.approx(1 / (1 + np.exp(-(2 * half + 1))), rel=1e-4)
    assert after.scores["dice"] == pytest.approx(before.scores["dice"])


def test_a_box_raises_the_score_of_its_label_only(tmp_path: Path) -> None:
    folder = shutil.copytree(shared_bundle(), tmp_path / "bundle")
    write_classifier(folder, calibration={name: {"a": 0.0, "d": 1.0, "b": 0.0} for name in ("knife", "dice")})
    seal(folder)
    [boxed, empty] = load_bundle(folder, threads=1).stage1([RED, GREY])
    assert boxed.boxes[0].score > 0.995 == pytest.approx(boxed.scores["knife"])
    assert boxed.scores["dice"] == empty.scores["dice"] == empty.scores["knife"] == pytest.approx(0.05)


def test_what_the_policy_wants_reviewed_cannot_be_cleared() -> None:
    with pytest.raises(InputError, match=r"must not exceed the lowest review_above, 0\.3, got 0\.5"):
        replace(shared_moderator(), clear_below=0.5)


def test_the_policy_and_not_the_code_decides_the_action(tmp_path: Path) -> None:
    folder = shutil.copytree(shared_bundle(), tmp_path / "bundle")
    policy = (folder / "policy.yaml").read_text().replace("block_above: 0.8", "block_above: 1.0")
    (folder / "policy.yaml").write_text(policy)
    manifest = json.loads(seal(folder).read_text())
    assert manifest["files"]["policy.yaml"]
    [verdict] = load_bundle(folder, threads=1).moderate([RED])
    assert verdict.stage == 2
    assert verdict.actions["knife"] is Action.REVIEW


def test_without_a_detector_the_classifier_decides_alone(tmp_path: Path) -> None:
    folder = shutil.copytree(shared_bundle(), tmp_path / "bundle")
    (folder / "detector.onnx").unlink()
    with pytest.raises(InputError, match=r"a bundle also needs detector\.onnx"):
        seal(folder)
    (folder / "detector.json").unlink()
    write_classifier(folder, calibration={"knife": {"a": 1.0, "d": 0.0, "b": 0.0}})
    seal(folder)
    [knife, nothing] = load_bundle(folder, threads=1).moderate([BLUE, GREY])
    assert (knife.action, knife.reason, knife.boxes) == (Action.BLOCK, "clear: knife", ())
    assert nothing.action is Action.ALLOW


def test_without_a_second_stage_the_first_decides_alone(tmp_path: Path) -> None:
    folder = shutil.copytree(shared_bundle(), tmp_path / "bundle")
    for name in STAGE2:
        (folder / name).unlink()
    seal(folder)
    with pytest.raises(InputError, match="no model scores gambling_ad"):
        load_bundle(folder)
    policy = yaml.safe_load((folder / "policy.yaml").read_text())
    policy["categories"] = [c for c in policy["categories"] if c.get("evidence") != "text"]
    (folder / "policy.yaml").write_text(yaml.safe_dump(policy))
    seal(folder)
    [knife, doubtful, nothing] = load_bundle(folder, threads=1).moderate([RED, BLUE, GREY])
    assert {v.stage for v in (knife, doubtful, nothing)} == {1}
    assert [v.action for v in (knife, nothing)] == [Action.BLOCK, Action.ALLOW]
    assert doubtful.flagged
    shutil.copy(shared_bundle() / "verdict.json", folder)
    with pytest.raises(InputError, match=r"also needs verdict\.onnx, tokenizer\.json"):
        seal(folder)
