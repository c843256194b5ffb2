"""A bundle is served whole and untouched, or not at all."""

import json
import shutil
from pathlib import Path

import pytest
from runtime_graphs import shared_bundle, spoil, write_classifier

from tilth.errors import InputError, ModelError
from tilth.runtime.bundles.bundle import load_bundle, seal, verify


@pytest.fixture
def bundle(tmp_path: Path) -> Path:
    return Path(shutil.copytree(shared_bundle(), tmp_path / "bundle"))


def change(path: Path, **settings: object) -> None:
    path.write_text(json.dumps({**json.loads(path.read_text()), **settings}))


def test_one_changed_byte_is_noticed(bundle: Path) -> None:
    data = bytearray((bundle / "verdict.onnx").read_bytes())
    data[len(data) // 2] ^= 1
    (bundle / "verdict.onnx").write_bytes(data)
    with pytest.raises(ModelError, match=r"verdict\.onnx was changed; this is not the bundle that was sealed"):
        load_bundle(bundle)


def test_a_loosened_policy_is_noticed(bundle: Path) -> None:
    policy = bundle / "policy.yaml"
    policy.write_text(policy.read_text().replace("block_above: 0.8", "block_above: 1.0"))
    with pytest.raises(ModelError, match=r"policy\.yaml was changed"):
        load_bundle(bundle)


def test_everything_wrong_is_said_at_once(bundle: Path) -> None:
    (bundle / "detector.onnx").unlink()
    (bundle / "extra.onnx").write_bytes(b"")
    (bundle / "classifier.json").unlink()
    (bundle / "classifier.json").symlink_to("/etc/hostname")
    with pytest.raises(
        ModelError, match=r"detector\.onnx is missing; extra\.onnx was added; classifier\.json is a link"
    ):
        verify(bundle)


def test_a_folder_that_is_no_bundle_is_named(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"is not a bundle: it has no bundle\.json; make one with: tilth package"):
        load_bundle(tmp_path)


def test_sealing_half_a_bundle_is_refused(bundle: Path) -> None:
    (bundle / "tokenizer.json").unlink()
    with pytest.raises(InputError, match=r"a bundle also needs tokenizer\.json"):
        seal(bundle)


def test_a_bundle_may_be_reached_by_a_link(bundle: Path) -> None:
    link = bundle.with_name("link")
    link.symlink_to(bundle)
    assert verify(link).clear_below == 0.1


def test_facts_are_kept_and_cannot_replace_the_digests(bundle: Path) -> None:
    told = json.loads(seal(bundle, facts={"made": "today", "files": {}}).read_text())
    assert told["made"] == "today"
    assert len(told["files"]) == 8


@pytest.mark.parametrize(
    ("name", "settings", "message"),
    [
        ("verdict.json", {"template_version": 99}, "template 99, this runtime writes 1"),
        ("verdict.json", {"label_token_ids": [1]}, "9 labels but 1 label_token_ids"),
        ("verdict.json", {"label_token_ids": [5] * 9}, "two labels have one label_token_id"),
        (
            "verdict.json",
            {"labels": ["safe", *(f"kind{n}" for n in range(300))], "label_token_ids": list(range(301))},
            "301 labels, but a verdict is one of 26 letters",
        ),
        ("verdict.json", {"padding": "middle"}, "padding: Input should be 'left' or 'right'"),
        (
            "classifier.json",
            {"labels": ["knife", "cigarette", "bottle", "pill", "dice", "pistol"]},
            "policy starter: pistol",
        ),
        ("classifier.json", {"std": [0, 1, 1]}, r"std\.0: Input should be greater than 0"),
        ("detector.json", {"mean": [float("nan"), 0, 0]}, r"mean\.0: Input should be a finite number"),
        ("detector.json", {"score_threshold": 2}, "score_threshold: Input should be less than or equal to 1"),
    ],
)
def test_settings_that_contradict_each_other_are_refused(
    bundle: Path, name: str, settings: dict[str, object], message: str
) -> None:
    change(bundle / name, **settings)
    seal(bundle)
    with pytest.raises(InputError, match=message):
        load_bundle(bundle)


def test_a_tokenizer_without_the_label_tokens_is_refused_in_one_line(bundle: Path) -> None:
    told = json.loads((bundle / "verdict.json").read_text())["label_token_ids"]
    change(bundle / "verdict.json", label_token_ids=[*told[:-1], 999_999])
    seal(bundle)
    with pytest.raises(ModelError, match=r"tokenizer\.json: lacks the label tokens 999999 of verdict\.json") as told_of:
        load_bundle(bundle, threads=1)
    assert "\n" not in str(told_of.value)
    (bundle / "tokenizer.json").write_text("{}")
    seal(bundle)
    with pytest.raises(ModelError, match=r"tokenizer\.json: not a tokenizer"):
        load_bundle(bundle, threads=1)


def test_a_graph_of_another_shape_is_refused(bundle: Path) -> None:
    shutil.copy(bundle / "verdict.onnx", bundle / "classifier.onnx")
    seal(bundle)
    with pytest.raises(
        ModelError,
        match=r"classifier\.onnx: expected inputs or outputs \['pixels'\], the graph has \['ids', 'mask', 'past'\]",
    ):
        load_bundle(bundle)
    (bundle / "classifier.onnx").write_bytes(b"not a graph")
    seal(bundle)
    with pytest.raises(ModelError, match=r"classifier\.onnx: not a graph that onnxruntime can run"):
        load_bundle(bundle)


@pytest.mark.parametrize("name", ["classifier.onnx", "detector.onnx", "verdict.onnx"])
def test_a_graph_that_says_no_numbers_is_never_served(bundle: Path, name: str) -> None:
    spoil(bundle / name)
    seal(bundle)
    with pytest.raises(ModelError, match=rf"bundle/{name}: \d+ of \d+ values that it says are no numbers"):
        load_bundle(bundle, threads=1)


def test_a_graph_that_cannot_be_asked_is_never_served(bundle: Path) -> None:
    change(bundle / "classifier.json", size_wh=[16, 16])
    seal(bundle)
    with pytest.raises(ModelError, match=r"its models cannot be asked: .*INVALID_ARGUMENT"):
        load_bundle(bundle, threads=1)


def test_a_new_seal_makes_a_changed_bundle_whole(bundle: Path) -> None:
    write_classifier(bundle, calibration={"knife": {"a": 2.0, "d": 0.0, "b": 0.0}})
    seal(bundle)
    assert "starter-v1@" in load_bundle(bundle, threads=1).name
