"""`tilth train auto`: what is chosen follows from the set and the machine, is said, and is a recipe that can be run again."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml
from commands import tilth
from places import POLICY, ROOT
from refusals import refusal

from tilth.claims import Claim
from tilth.engine.work import Work
from tilth.images import encode_png
from tilth.pipeline.choose import There, choose
from tilth.samples import NewSample

MANY = There(shown={"knife": (40, 100), "pill": (400, 500)}, boxed=1.0, small=0.5, val=30, test=20)


def names(steps: Any) -> list[str]:
    return [next(key for key in step if key != "as") for step in steps]


def of(steps: Any, name: str) -> dict[str, Any]:
    return next(dict(step[name]) for step in steps if name in step)


def test_a_set_with_enough_of_everything_gets_two_models_at_their_own_size() -> None:
    told = choose(MANY, 0, {})
    assert names(told.steps) == ["train.classifier", "train.detector", "calibrate", "evaluate", "package"]
    assert of(told.steps, "train.detector") == {"model": "starter:detector", "batch_size": 8, "image_side": 96}
    assert "as 40 images show knife, the rarest" in told.reasons[0]


@pytest.mark.parametrize(
    ("there", "gpus", "steps", "why"),
    [
        ({"shown": {"knife": (8, 100), "pill": (400, 500)}}, 0, ["train.few_shot"], "few-shot, as only 8 images show knife"),
        ({"boxed": 0.2}, 0, ["train.classifier"], "no detector: 20 % of the images that show something have all boxes"),
        ({"boxed": float("nan"), "small": float("nan")}, 0, ["train.classifier"], "no detector: 0 %"),
        ({"test": 0}, 0, ["train.classifier", "train.detector"], "no evaluation: there are no sealed images"),
        ({"val": 0}, 0, ["split", "train.classifier", "train.detector"], "split: no image is held back yet"),
        ({"small": 0.2}, 0, ["train.classifier", "train.detector"], "192 pixels a side, as one box in ten takes less than 20 %"),
        ({}, 4, ["train.classifier", "train.detector"], "batches of 64 on 4 GPUs"),
    ],
)  # fmt: skip
def test_what_a_set_lacks_is_left_out_and_said(there: dict[str, Any], gpus: int, steps: list[str], why: str) -> None:
    told = choose(replace(MANY, **there), gpus, {})
    made = names(told.steps)
    assert made[: len(steps)] == steps
    assert ("evaluate" in made) == ("test" not in there)
    assert any(why in reason for reason in told.reasons), told.reasons
    assert of(told.steps, "package")["detector"] == ("detector" if "train.detector" in made else "")
    if gpus:
        assert of(told.steps, "train.detector")["processes"] == 4


def test_what_a_person_says_counts() -> None:
    told = choose(MANY, 0, {"detector": {"image_side": 64, "steps": 9}, "package": {"clear_below": 0.2}})
    assert of(told.steps, "train.detector")["image_side"] == 64
    assert of(told.steps, "train.detector")["steps"] == 9
    assert of(told.steps, "package")["clear_below"] == 0.2


def test_a_category_is_trained_measured_and_packaged_by_one_command(work: Work, tmp_path: Path) -> None:
    rng, asked = np.random.default_rng(0), ("knife", "pill")
    samples = []
    for i in range(60):
        image = rng.integers(90, 160, (48, 48, 3), np.uint8)
        claims = [Claim(says="empty", source="human:test", asked=asked)]
        if i % 2:
            image[10:30, 10:30] = (230, 20, 20)
            claims = [
                Claim(says="label", source="human:test", asked=asked, category="knife", box_xyxy=(10, 10, 30, 30))
            ]
        split = ("train", "train", "train", "train", "val", "test")[i // 2 % 6]
        samples.append(
            NewSample(data=encode_png(image), origin={"source": str(i)}, claims=tuple(claims), columns={"split": split})
        )
    work.add("made", samples)
    command = ("train", "auto", "dataset", "--policy", POLICY)
    assert "no such category; there are" in refusal(tilth(*command, "--category", "spoon", cwd=tmp_path))
    assert "nowhere: no dataset here" in refusal(tilth("train", "auto", "nowhere", "--policy", POLICY, cwd=tmp_path))
    assert "no image shows pill" in refusal(tilth(*command, "--category", "pill", cwd=tmp_path))
    assert "name a part and its setting" in refusal(tilth(*command, "--set", "steps=3", cwd=tmp_path))
    assert "no such part; there are classifier" in refusal(tilth(*command, "--set", "detecter.steps=3", cwd=tmp_path))
    assert not (tmp_path / "runs").exists()
    short = (
        "--category",
        "knife",
        "--set",
        "classifier.steps=4",
        "--set",
        "detector.steps=4",
        "--set",
        "detector.image_side=48",
    )
    done = tilth(*command, *short, cwd=tmp_path)
    assert done.returncode == 2
    assert "set image_side to a multiple of its patches and windows" in done.stderr
    done = tilth(*command, "--category", "knife", "--set", "detector.image_side=64", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert "classifier: done before" in done.stderr
    assert "bundle: runs/train-starter-knife/version-1/bundle" in done.stdout
    home = tmp_path / "runs" / "train-starter-knife"
    assert (home / "version-1" / "bundle" / "detector.onnx").exists()
    assert (home / "version-1" / "report.html").exists()
    recipe = yaml.safe_load((home / "recipe-chosen.yaml").read_text())
    assert of(recipe["steps"], "train.detector")["image_side"] == 64
    assert [c["name"] for c in yaml.safe_load((home / "policy.yaml").read_text())["categories"]] == ["knife"]
    assert tilth("check", home / "recipe-chosen.yaml", cwd=ROOT).returncode == 0
