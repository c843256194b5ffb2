"""Both stages together, in the real onnxruntime, with the real reader and the real language model."""

import json
import shutil
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml
from runtime_graphs import BLUE, GREEN, GREY, RED, plain, shared_bundle, shared_moderator, write_classifier

from tilth.errors import InputError, ModelError
from tilth.images import resize
from tilth.runtime.bundles.bundle import load_bundle, seal
from tilth.runtime.bundles.settings import STAGE2
from tilth.runtime.stages import stage1
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


def test_what_shows_writing_reaches_stage_2() -> None:
    with pytest.raises(AssertionError, match="Stage 2 was called"):
        deaf(shared_moderator()).moderate([GREEN])


def test_a_doubtful_image_without_writing_is_not_read_and_not_blocked_by_one_model() -> None:
    [knife] = deaf(shared_moderator()).moderate([BLUE])
    assert (knife.stage, knife.reason) == (1, "doubtful, without writing")
    assert knife.action is not Action.BLOCK


def test_writing_without_words_is_allowed() -> None:
    [writing] = shared_moderator().moderate([GREEN])
    assert (writing.stage, writing.reason, writing.action, writing.text) == (2, "writing", Action.ALLOW, "")
    assert set(writing.timings_ms) == {"stage1", "ocr", "language", "total"}
    parts = sum(writing.timings_ms[part] for part in ("stage1", "ocr", "language"))
    assert writing.timings_ms["total"] == pytest.approx(parts)


def test_which_label_says_that_reading_is_worth_it_is_the_policys_to_say(tmp_path: Path) -> None:
    folder = shutil.copytree(shared_bundle(), tmp_path / "bundle")
    for name in ("policy.yaml", "classifier.json", "detector.json"):
        (folder / name).write_text((folder / name).read_text().replace("text_area", "poster"))
    seal(folder)
    [written, knife] = load_bundle(folder, threads=1).moderate([GREEN, BLUE])
    assert (written.stage, written.reason) == (2, "writing")
    assert knife.stage == 1


def test_where_no_label_says_it_all_that_is_not_blocked_is_read(tmp_path: Path) -> None:
    folder = shutil.copytree(shared_bundle(), tmp_path / "bundle")
    policy = yaml.safe_load((folder / "policy.yaml").read_text())
    policy["categories"][-1] |= {"review_above": 0.9}  # a verdict of its own now, and no signpost any more
    (folder / "policy.yaml").write_text(yaml.safe_dump(policy))
    seal(folder)
    moderator = load_bundle(folder, threads=1)
    [threat, plain_grey, knife] = moderator.moderate([sign("WE WILL FIND YOU"), GREY, RED])
    assert threat.stage == 2
    assert threat.actions["threat"] is not Action.ALLOW
    assert (plain_grey.stage, plain_grey.reason) == (2, "may hold words")
    assert (knife.stage, knife.action) == (1, Action.BLOCK)


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
            said = getattr(whole.stage1, part).graph.run(names, inputs)
            said[-1].flat[0] = value
            return list(said)

    whole = shared_moderator()
    spoilt = replace(whole.stage1, **{part: replace(getattr(whole.stage1, part), graph=Broken())})
    with pytest.raises(ModelError, match=rf"{part}\.onnx: 1 of \d+ values that it says are no numbers"):
        replace(whole, stage1=spoilt).moderate([RED, GREY])


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
    for name in STAGE2["onnx"]:
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


@pytest.mark.parametrize("same", [True, False])
def test_what_two_models_share_is_prepared_once(same: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    counted = {"into": 0, "scaled": 0}

    def count(name: str, real: Any) -> Any:
        def counting(*arguments: Any, **named: Any) -> Any:
            counted[name] += 1
            return real(*arguments, **named)

        return counting

    monkeypatch.setattr(stage1, "into", count("into", stage1.into))
    monkeypatch.setattr(stage1.Prepare, "scaled", count("scaled", stage1.Prepare.scaled))
    one = stage1.Prepare(size_wh=(32, 32), mean=(0.5, 0.4, 0.3), std=(0.5, 0.4, 0.3))
    other = one if same else replace(one, mean=(0.0, 0.0, 0.0))
    images = [sign("BOOK CLUB"), RED]
    pixels = stage1.prepared(images, [one, other])
    assert counted == {"into": 2, "scaled": 1 if same else 2}
    for way, found in zip([one, other], pixels, strict=True):
        small = np.stack([resize(image, (32, 32)) for image in images]).astype(np.float32) / 255
        expected = (small - np.array(way.mean, np.float32)) / np.array(way.std, np.float32)
        assert (found == expected.transpose(0, 3, 1, 2)).all()
