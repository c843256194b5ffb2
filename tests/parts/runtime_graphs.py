"""A bundle for the tests: Stage 1 that judges colours, so that its answers are known, and the real language model.

The mean colour of an image decides: red is a knife, green is writing, grey is nothing; blue is a knife to the classifier
alone. All graphs run in the real onnxruntime.
"""

import atexit
import functools
import json
import shutil
import tempfile
from pathlib import Path

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper
from places import POLICY

from tilth import models
from tilth.runtime.bundles.bundle import load_bundle, seal
from tilth.runtime.stages.cascade import Moderator
from tilth.runtime.stages.template import DEFINED
from tilth.starter.verdict.cases import LABELS as VERDICTS
from tilth.train.artifacts.export import export_language_model, verdict_settings

LABELS = ["knife", "cigarette", "bottle", "pill", "dice", "text_area"]
PIXELS = {"labels": LABELS, "size_wh": [32, 32], "mean": [0.5, 0.5, 0.5], "std": [0.5, 0.5, 0.5]}


def _colour_weights(red: int, green: int, blue: int | None) -> np.ndarray:
    """Weights (3, 6) that turn mean R, G, B in [-1, 1] into logits."""
    weights = np.zeros((3, 6), np.float32)
    weights[:, red] += (6, -3, -3)
    weights[:, green] += (-3, 6, -3)
    if blue is not None:
        weights[:, blue] += (-3, -3, 6)
    return weights


def _graph(
    nodes: list[onnx.NodeProto], constants: dict[str, np.ndarray], outputs: dict[str, list[int | str]], path: Path
) -> None:
    graph = helper.make_graph(
        nodes,
        "colours",
        [helper.make_tensor_value_info("pixels", TensorProto.FLOAT, ["n", 3, 32, 32])],
        [helper.make_tensor_value_info(name, TensorProto.FLOAT, shape) for name, shape in outputs.items()],
        [numpy_helper.from_array(value, name) for name, value in constants.items()],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=10)
    onnx.checker.check_model(model)
    onnx.save(model, path)


def write_classifier(folder: Path, *, calibration: dict[str, dict[str, float]] | None = None) -> None:
    weights = _colour_weights(0, 5, 0)
    nodes = [
        helper.make_node("ReduceMean", ["pixels", "axes"], ["mean"], keepdims=0),
        helper.make_node("Gemm", ["mean", "weights", "bias"], ["logits"]),
    ]
    constants = {"axes": np.array([2, 3]), "weights": weights, "bias": np.full(6, -4, np.float32)}
    _graph(nodes, constants, {"logits": ["n", 6]}, folder / "classifier.onnx")
    (folder / "classifier.json").write_text(json.dumps({**PIXELS, "calibration": calibration or {}}))


def write_detector(folder: Path) -> None:
    """Three queries of fixed boxes; the second repeats the first a little to the side, the third is always low."""
    boxes = np.array([[[0.5, 0.5, 0.5, 0.25], [0.51, 0.5, 0.5, 0.25], [0.1, 0.1, 0.1, 0.1]]], np.float32)
    nodes = [
        helper.make_node("ReduceMean", ["pixels", "axes"], ["mean"], keepdims=0),
        helper.make_node("Gemm", ["mean", "weights", "bias"], ["flat"]),
        helper.make_node("Unsqueeze", ["flat", "one"], ["single"]),
        helper.make_node("Add", ["single", "offsets"], ["logits"]),
        helper.make_node("ReduceMean", ["single", "last"], ["level"], keepdims=1),
        helper.make_node("Mul", ["level", "zero"], ["nothing"]),
        helper.make_node("Add", ["nothing", "places"], ["boxes"]),
    ]
    constants = {
        "axes": np.array([2, 3]),
        "weights": _colour_weights(0, 5, None),
        "bias": np.full(6, -4, np.float32),
        "one": np.array([1]),
        "last": np.array([2]),
        "zero": np.zeros(1, np.float32),
        "places": boxes,
        "offsets": np.array([[[0], [-0.2], [-20]]], np.float32),
    }
    _graph(nodes, constants, {"logits": ["n", 3, 6], "boxes": ["n", 3, 4]}, folder / "detector.onnx")
    (folder / "detector.json").write_text(json.dumps({**PIXELS, "score_threshold": 0.3}))


def write_bundle(folder: Path) -> Path:
    """Write a sealed bundle with the starter's policy and language model."""
    folder.mkdir(parents=True)
    write_classifier(folder)
    write_detector(folder)
    language_model = models.locate("starter:verdict")
    export_language_model(language_model, folder, verdict_settings(language_model, VERDICTS, DEFINED))
    shutil.copy(POLICY, folder / "policy.yaml")
    seal(folder)
    return folder


def spoil(graph: Path) -> None:
    """Make the first value of each row of a graph's largest matrix no number."""
    model = onnx.load(graph)
    held = max((t for t in model.graph.initializer if t.data_type == TensorProto.FLOAT), key=lambda t: sum(t.dims))
    values = numpy_helper.to_array(held).copy()
    values.reshape(len(values), -1)[:, 0] = np.nan
    held.CopyFrom(numpy_helper.from_array(values, held.name))
    onnx.save(model, graph)


def plain(rgb: tuple[int, int, int], size_wh: tuple[int, int] = (64, 48)) -> np.ndarray:
    """An image of one colour."""
    return np.full((size_wh[1], size_wh[0], 3), rgb, np.uint8)


RED, GREEN, BLUE, GREY = plain((250, 20, 20)), plain((20, 250, 20)), plain((20, 20, 250)), plain((128, 128, 128))


@functools.cache
def shared_bundle() -> Path:
    """One bundle for all tests of a session; those that spoil it take a copy."""
    folder = Path(tempfile.mkdtemp(prefix="tilth-bundle-"))
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    return write_bundle(folder / "bundle")


@functools.cache
def shared_moderator() -> Moderator:
    return load_bundle(shared_bundle(), threads=1)
