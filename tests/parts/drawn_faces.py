"""Drawn faces of nobody, networks that swap them, and consents of people who are not."""

import hashlib
import json
from collections.abc import Sequence
from datetime import date, timedelta
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from tilth.images import Image, encode_png

GROUND = (120, 150, 180)
FAIR, DARK, GREEN = (224, 190, 160), (150, 110, 80), (120, 200, 120)
SWAPPED, EMBEDDED, LENGTH = 32, 16, 8  # sides of the crops, and numbers of an embedding
LICENCES = {"code": "MIT", "weights": "CC-BY-NC-4.0", "data": "unknown"}


def draw_face(image: Image, at: tuple[int, int], radius: int, skin: Sequence[int] = FAIR) -> Image:
    """Draw a face that OpenCV's cascade finds; no person looks like it."""
    x, y = at
    shade = [tuple(int(v * part) for v in skin) for part in (0.55, 0.8)]
    hair = (70, 45, 30)

    def oval(dx: float, dy: float, width: float, height: float, colour: Sequence[int]) -> None:
        middle = (x + int(dx * radius), y + int(dy * radius))
        cv2.ellipse(image, middle, (int(width * radius), int(height * radius)), 0, 0, 360, colour, -1, cv2.LINE_AA)

    def line(a: tuple[float, float], b: tuple[float, float], wide: float, colour: Sequence[int]) -> None:
        ends = [(x + int(dx * radius), y + int(dy * radius)) for dx, dy in (a, b)]
        cv2.line(image, *ends, colour, max(2, int(wide * radius)), cv2.LINE_AA)

    oval(0, -0.15, 0.95, 1.2, hair)
    oval(0, 0, 0.8, 1.05, skin)
    for side in (-0.33, 0.33):
        oval(side, -0.2, 0.24, 0.17, shade[0])
        oval(side, -0.2, 0.16, 0.09, (245, 245, 245))
        oval(side, -0.2, 0.08, 0.08, (30, 20, 20))
        line((side - 0.2, -0.4), (side + 0.2, -0.42), 0.08, hair)
    line((0, -0.1), (-0.08, 0.2), 0.1, shade[1])
    oval(0, 0.22, 0.15, 0.06, shade[0])
    oval(0, 0.5, 0.28, 0.1, (140, 60, 60))
    return image


def picture(
    *faces: tuple[tuple[int, int], int, Sequence[int]], size_wh: tuple[int, int] = (160, 160), seed: int = 0
) -> Image:
    """A plain ground, which no other seed has, with faces."""
    image = np.full((size_wh[1], size_wh[0], 3), GROUND, np.uint8)
    for at, radius, skin in faces:
        draw_face(image, at, radius, skin)
    image = cv2.GaussianBlur(image, (0, 0), 1.0)
    image[:4, :4] = np.random.default_rng(seed).integers(0, 256, 3)
    return np.asarray(image, np.uint8)


def portrait(seed: int, skin: Sequence[int] = FAIR) -> Image:
    return picture(((80, 84), 44, skin), seed=seed)


def _save(
    path: Path, nodes: list[Any], inputs: dict[str, list[Any]], outputs: dict[str, list[Any]], values: dict[str, Any]
) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    told = [
        [helper.make_tensor_value_info(n, TensorProto.FLOAT, s) for n, s in some.items()] for some in (inputs, outputs)
    ]
    held = [numpy_helper.from_array(np.asarray(v), name) for name, v in values.items()]
    model = helper.make_model(
        helper.make_graph(nodes, "drawn", *told, held), opset_imports=[helper.make_opsetid("", 13)], ir_version=8
    )
    onnx.checker.check_model(model)
    onnx.save(model, str(path))
    return path


def save_embedder(path: Path, length: int = LENGTH) -> Path:
    """An embedding of the mean colour of a face; names are odd on purpose, as they are read from the graph."""
    weights = np.random.default_rng(0).normal(size=(3, length)).astype(np.float32)
    nodes = [
        helper.make_node("GlobalAveragePool", ["face_in"], ["mean"]),
        helper.make_node("Flatten", ["mean"], ["flat"]),
        helper.make_node("MatMul", ["flat", "w"], ["told"]),
    ]
    return _save(path, nodes, {"face_in": [1, 3, EMBEDDED, EMBEDDED]}, {"told": [1, length]}, {"w": weights})


def save_swapper(path: Path, side: int = SWAPPED, *, emap: bool = False) -> Path:
    """Gives a face the colour that its source has, half and half with its own; `emap` adds a matrix that no node uses."""
    back = np.linalg.pinv(np.random.default_rng(0).normal(size=(3, LENGTH))).astype(np.float32)
    nodes = [
        helper.make_node("MatMul", ["who", "back"], ["colour"]),
        helper.make_node("Mul", ["colour", "much"], ["more"]),
        helper.make_node("Add", ["more", "half"], ["moved"]),
        helper.make_node("Reshape", ["moved", "shape"], ["laid"]),
        helper.make_node("Add", ["crop", "laid"], ["sum"]),
        helper.make_node("Mul", ["sum", "half"], ["drawn"]),
    ]
    values = {"back": back, "much": np.float32(0.5), "half": np.float32(0.5), "shape": np.array([1, 3, 1, 1], np.int64)}
    if emap:
        values["emap"] = -np.eye(LENGTH, dtype=np.float32)
    shape = [1, 3, side, side]
    return _save(path, nodes, {"who": [1, LENGTH], "crop": shape}, {"drawn": shape}, values)


def save_yunet(path: Path, box: float = 60.0) -> Path:
    """A detector with YuNet's inputs and outputs: a face of a fixed size lies around each red dot."""
    nodes, outputs = [], dict[str, list[Any]]()
    values: dict[str, Any] = {"two": np.float32(2), "zero": np.float32(0), "one": np.float32(1)}
    for stride in (8, 16, 32):
        red = np.zeros((1, 3, stride, stride), np.float32)
        if stride == 8:
            red[0] = np.array([-0.5, -0.5, 1.0])[:, None, None] / (stride * stride * 255)  # channels are BGR
        size = float(np.log(box / stride))
        points = [v / stride + 0.5 for v in (-12, -12, 12, -12, 0, 2, -9, 14, 9, 14)]
        values |= {f"red{stride}": red, f"to1_{stride}": np.array([1, -1, 1], np.int64)}
        nodes += [
            helper.make_node(
                "Conv", ["input", f"red{stride}"], [f"a{stride}"], kernel_shape=[stride] * 2, strides=[stride] * 2
            ),
            helper.make_node("Mul", [f"a{stride}", "two"], [f"b{stride}"]),
            helper.make_node("Clip", [f"b{stride}", "zero", "one"], [f"c{stride}"]),
            helper.make_node("Reshape", [f"c{stride}", f"to1_{stride}"], [f"cls_{stride}"]),
            helper.make_node("Reshape", [f"c{stride}", f"to1_{stride}"], [f"obj_{stride}"]),
        ]
        outputs |= {f"cls_{stride}": [1, None, 1], f"obj_{stride}": [1, None, 1]}
        for name, constant in (("bbox", [0.5, 0.5, size, size]), ("kps", points)):
            own, many = f"{name}{stride}", len(constant)
            values |= {
                f"{own}w": np.zeros((many, 3, stride, stride), np.float32),
                f"{own}b": np.array(constant, np.float32),
                f"{own}s": np.array([1, -1, many], np.int64),
            }
            nodes += [
                helper.make_node(
                    "Conv",
                    ["input", f"{own}w", f"{own}b"],
                    [f"{own}c"],
                    kernel_shape=[stride] * 2,
                    strides=[stride] * 2,
                ),
                helper.make_node("Transpose", [f"{own}c"], [f"{own}t"], perm=[0, 2, 3, 1]),
                helper.make_node("Reshape", [f"{own}t", f"{own}s"], [f"{name}_{stride}"]),
            ]
            outputs[f"{name}_{stride}"] = [1, None, many]
    return _save(path, nodes, {"input": [1, 3, 160, 160]}, outputs, values)


def save_record(path: Path, *, gives: Image | None = None, targets: Sequence[dict[str, Any]] = (), **told: Any) -> Path:
    """Write a consent record, in JSON; what is told takes the place of what is usual, None leaves it out."""
    path.parent.mkdir(parents=True, exist_ok=True)
    record: dict[str, Any] = {
        "record": path.stem,
        "subject": f"A. {path.stem.title()}",
        "adult": True,
        "scope": {"purposes": ["training"], "categories": ["bottle", "cigarette"]},
        "expires": str(date.today() + timedelta(days=90)),
        "signed": {
            "day": str(date.today() - timedelta(days=90)),
            "document": hashlib.sha256(path.stem.encode()).hexdigest(),
        },
        "licence": "LicenseRef-consent",
        "targets": list(targets),
    }
    if gives is not None:
        data = encode_png(gives)
        (path.parent / f"{path.stem}.png").write_bytes(data)
        record["references"] = [{"file": f"{path.stem}.png", "sha256": hashlib.sha256(data).hexdigest()}]
    record = {name: value for name, value in (record | told).items() if value is not None}
    path.write_text(json.dumps(record))
    return path
