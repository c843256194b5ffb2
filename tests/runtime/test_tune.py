"""The fastest right back end is found by measuring, and chosen without breaking the seal."""

import json
import logging
import shutil
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from runtime_graphs import BLUE, GREEN, GREY, RED, shared_bundle, shared_moderator

from tilth.errors import InputError, ModelError
from tilth.runtime.bundles import bundle as bundles
from tilth.runtime.bundles import tune as tuning
from tilth.runtime.bundles.bundle import digest_of, load_bundle, verify
from tilth.runtime.bundles.tune import table, tune
from tilth.runtime.bundles.tuned import TUNED, Part, Tuned, machine, write_tuned
from tilth.runtime.stages import graphs
from tilth.runtime.stages.graphs import BACK_ENDS, Graph, container_limit, open_graph

openvino = pytest.importorskip("openvino", reason="OpenVINO is not installed")
IMAGES = [RED, GREEN, BLUE, GREY]


@pytest.fixture
def bundle(tmp_path: Path) -> Path:
    return Path(shutil.copytree(shared_bundle(), tmp_path / "bundle"))


def choose(bundle: Path, back_end: Any, **other: Any) -> None:
    """Write what a tuning would that found this back end fastest for both graphs."""
    parts = {name: Part(back_end=back_end, measured=()) for name in ("classifier", "detector")}
    known = {"bundle": digest_of(bundle), "machine": machine(), "made": "", "images": 1, "batch": 8, "graphs": parts}
    write_tuned(bundle, Tuned(**{**known, **other}))


@pytest.fixture
def raced(monkeypatch: pytest.MonkeyPatch) -> dict[str, float]:
    """Back ends of a bundle that take as many seconds as the test says, by a clock of its own; and `shift` of bf16's logits."""
    takes = {"onnxruntime": 5.0, "openvino-f32": 4.0, "openvino-bf16": 3.0, "now": 0.0, "shift": 0.0}
    real = bundles.open_part

    class Timed:
        def __init__(self, graph: Graph) -> None:
            self.graph, self.back_end = graph, graph.back_end

        def run(self, names: Sequence[str], inputs: Mapping[str, Any]) -> list[Any]:
            takes["now"] += takes[self.back_end]
            first, *rest = self.graph.run(names, inputs)
            return [first + (takes["shift"] if self.back_end == "openvino-bf16" else 0), *rest]

    def opened(*where: Any, **how: Any) -> Timed:
        return Timed(real(*where, **how))

    monkeypatch.setattr(bundles, "open_part", opened)
    monkeypatch.setattr(tuning, "open_part", opened)
    return takes


@pytest.mark.parametrize("back_end", BACK_ENDS)
def test_every_back_end_answers_as_the_reference_does_one_by_one_and_in_batches(bundle: Path, back_end: str) -> None:
    choose(bundle, back_end)
    stage1 = load_bundle(bundle, threads=1).stage1
    assert stage1.back_ends == {"classifier": back_end, "detector": back_end}
    expected = shared_moderator().stage1(IMAGES)
    for said in (stage1(IMAGES), [stage1([image])[0] for image in IMAGES]):
        for one, other in zip(said, expected, strict=True):
            assert one.scores == pytest.approx(other.scores, abs=0.02)
            assert [b.category for b in one.boxes] == [b.category for b in other.boxes]


def test_the_fastest_is_taken_and_the_seal_stays_true(bundle: Path, raced: dict[str, float]) -> None:
    before = digest_of(bundle)
    tuned = tune(bundle, IMAGES, clock=lambda: raced["now"])
    assert {name: part.back_end for name, part in tuned.graphs.items()} == {
        "classifier": "openvino-bf16", "detector": "openvino-bf16"
    }  # fmt: skip
    assert [row.ms_one for row in tuned.graphs["classifier"].measured] == [5000, 4000, 3000]
    verify(bundle)
    assert digest_of(bundle) == before
    assert load_bundle(bundle, threads=1).stage1.back_ends["detector"] == "openvino-bf16"
    assert load_bundle(bundle, threads=1, tuned=False).stage1.back_ends["detector"] == "onnxruntime"
    assert "openvino-bf16  *" in table(tuned)


def test_one_that_gives_other_scores_is_not_taken_however_fast(bundle: Path, raced: dict[str, float]) -> None:
    raced["shift"] = 0.5
    tuned = tune(bundle, IMAGES, clock=lambda: raced["now"])
    assert tuned.graphs["classifier"].back_end == "openvino-f32"
    [row] = [row for row in tuned.graphs["classifier"].measured if row.back_end == "openvino-bf16"]
    assert row.score_gap > 0.05
    assert "a score differs from onnxruntime's by" in row.refused
    assert row.refused in table(tuned)


def test_one_that_says_no_numbers_is_not_taken(bundle: Path, raced: dict[str, float]) -> None:
    raced["shift"] = float("nan")
    tuned = tune(bundle, IMAGES, clock=lambda: raced["now"])
    [row] = [row for row in tuned.graphs["detector"].measured if row.back_end == "openvino-bf16"]
    assert "are no numbers" in row.refused
    assert tuned.graphs["detector"].back_end == "openvino-f32"


def test_a_gain_too_small_to_be_more_than_chance_changes_nothing(bundle: Path, raced: dict[str, float]) -> None:
    raced["openvino-f32"] = raced["openvino-bf16"] = 4.9
    tuned = tune(bundle, IMAGES, clock=lambda: raced["now"])
    assert {part.back_end for part in tuned.graphs.values()} == {"onnxruntime"}


def test_without_openvino_all_is_measured_that_there_is(bundle: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "openvino", None)
    tuned = tune(bundle, IMAGES)
    assert {part.back_end for part in tuned.graphs.values()} == {"onnxruntime"}
    told = {row.refused for row in tuned.graphs["classifier"].measured if row.back_end != "onnxruntime"}
    assert told == {"openvino is not installed; run: pip install 'tilth[openvino]'"}


def test_a_back_end_that_is_not_there_any_more_is_replaced_with_one_line(
    bundle: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    choose(bundle, "openvino-f32")
    monkeypatch.setitem(sys.modules, "openvino", None)
    with caplog.at_level(logging.WARNING, "tilth.bundles"):
        moderator = load_bundle(bundle, threads=1)
    assert moderator.stage1.back_ends == {"classifier": "onnxruntime", "detector": "onnxruntime"}
    assert [line.count("\n") for line in caplog.messages] == [0, 0]
    assert "classifier.onnx: openvino-f32 fails, onnxruntime runs it: openvino is not installed" in caplog.messages[0]
    assert moderator.moderate([RED])[0].flagged


def test_a_back_end_that_breaks_is_replaced(
    bundle: Path, raced: dict[str, float], caplog: pytest.LogCaptureFixture
) -> None:
    choose(bundle, "openvino-bf16")
    raced["shift"] = float("nan")
    assert set(load_bundle(bundle, threads=1).stage1.back_ends.values()) == {"onnxruntime"}
    assert "openvino-bf16: 6 of 6 values that it says are no numbers" in caplog.messages[0]


@pytest.mark.parametrize(
    ("changed", "why"),
    [
        ({"bundle": "0123456789ab"}, "it is of another bundle"),
        ({"machine": {"processor": "another"}}, "it was made on another machine"),
        ({"images": "many"}, "images: Input should be a valid integer"),
        ({"graphs": {"classifier": {"back_end": "/tmp/evil.so", "measured": []}}}, "back_end: Input should be 'onnx"),
        ({"library": "evil"}, "library: Extra inputs are not permitted"),
    ],
)
def test_a_file_that_does_not_fit_chooses_nothing(
    bundle: Path, changed: dict[str, Any], why: str, caplog: pytest.LogCaptureFixture
) -> None:
    choose(bundle, "openvino-f32")
    told = json.loads((bundle / TUNED).read_text())
    (bundle / TUNED).write_text(json.dumps({**told, **changed}))
    assert set(load_bundle(bundle, threads=1).stage1.back_ends.values()) == {"onnxruntime"}
    assert why in caplog.text


def test_a_link_in_its_place_is_no_part_of_a_bundle(bundle: Path) -> None:
    (bundle / TUNED).symlink_to("/etc/hostname")
    with pytest.raises(ModelError, match=r"tuned\.json was added"):
        verify(bundle)


def test_it_takes_images_to_measure(bundle: Path) -> None:
    with pytest.raises(InputError, match="takes images like those that will come"):
        tune(bundle, [])


def test_one_graph_may_be_asked_by_many_threads_at_once(bundle: Path) -> None:
    from concurrent.futures import ThreadPoolExecutor

    for back_end in BACK_ENDS:
        graph = open_graph(bundle / "classifier.onnx", {"pixels"}, {"logits"}, threads=1, back_end=back_end)
        inputs = [np.full((1, 3, 32, 32), value, np.float32) for value in np.linspace(-1, 1, 40)]
        with ThreadPoolExecutor(4) as pool:
            said = list(pool.map(lambda x: graph.run(["logits"], {"pixels": x})[0], inputs))  # noqa: B023
        for x, logits in zip(inputs, said, strict=True):
            assert logits == pytest.approx(graph.run(["logits"], {"pixels": x})[0])


@pytest.mark.parametrize(
    ("text", "cores"), [("200000 100000\n", [2]), ("150000 100000", [2]), ("max 100000", []), ("", [])]
)
def test_a_container_has_as_many_cores_as_it_may_use(tmp_path: Path, text: str, cores: list[int]) -> None:
    (tmp_path / "cpu.max").write_text(text)
    assert container_limit(tmp_path / "cpu.max") == cores
    assert container_limit(tmp_path / "none") == []
    assert graphs.usable_cores() >= 1
