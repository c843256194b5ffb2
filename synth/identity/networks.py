"""The networks that the user brings as ONNX files: one that makes an embedding of a face, one that draws a face by an embedding.

Names and shapes are read from the graphs. The swapper has two inputs, a crop `(1, 3, S, S)` and an embedding `(1, D)`, and gives a crop
of the same size. Some hold a matrix `(D, D)` that none of their nodes uses: embeddings are multiplied by it first.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import numpy.typing as npt

from tilth import models
from tilth.engine.steps import group
from tilth.errors import ModelError
from tilth.extras import optional
from tilth.images import Image
from tilth.synth.identity.aligning import crop, matrix_of
from tilth.synth.identity.faces import Face
from tilth.synth.safety.provenance import licence_of_all

Vector = npt.NDArray[np.float32]
UNIT, SIGNED = (0.0, 1.0), (-1.0, 1.0)


@group
class Network:
    """An ONNX file, and under which licences.

    Args:
        onnx: The file.
        code: Licence of the code that it was trained with.
        weights: Licence of its weights; of many swap models it forbids commercial use.
        data: Licence of the images that it was trained on; `unknown` where nobody says.
        pixels: Values of black and white; those that are usual for the network when empty.
    """

    onnx: str = ""
    code: str = ""
    weights: str = ""
    data: str = ""
    pixels: tuple[float, ...] = ()

    def __post_init__(self) -> None:
        """Check that whoever names a file says its licences."""
        if self.onnx and not self.onnx.endswith(".onnx"):
            raise ValueError(f"onnx names a file that ends in .onnx, got {self.onnx!r}")
        if self.onnx and (silent := [name for name in ("code", "weights", "data") if not getattr(self, name).strip()]):
            raise ValueError(f"say the licence of its {' and its '.join(silent)}, or 'unknown'")
        if self.pixels and (len(self.pixels) != 2 or self.pixels[0] >= self.pixels[1]):
            raise ValueError(f"pixels are the values of black and white, as in [0, 1], got {list(self.pixels)}")

    @property
    def licence(self) -> str:
        """What binds whatever is made with it."""
        return licence_of_all(self.weights, self.data)

    def told(self) -> dict[str, str]:
        """Return what an image says of it."""
        licences = {"code": self.code, "weights": self.weights, "data": self.data}
        return {"model": Path(self.onnx).name, "digest": models.digest(self.onnx), **licences}


class _Graph:
    """A graph, opened from its bytes alone: the digest of the file is that of all that is run."""

    def __init__(self, network: Network, usual: tuple[float, float]) -> None:
        with optional():
            import onnx
            import onnxruntime
        self.name = network.onnx
        self._black, self._white = network.pixels or usual
        path = models.find(network.onnx)
        data = path.read_bytes()
        options = onnxruntime.SessionOptions()
        options.log_severity_level = 3
        able = onnxruntime.get_available_providers()
        chosen = [name for name in ("CUDAExecutionProvider", "CPUExecutionProvider") if name in able]
        try:
            self.graph = onnx.load_from_string(data).graph
            self._session = onnxruntime.InferenceSession(data, options, providers=chosen)
        except Exception as error:
            told = " ".join(str(error).split())[:160]
            raise ModelError(f"{path}: not a whole ONNX graph in one file: {told}") from error
        self.inputs: dict[str, Sequence[Any]] = {i.name: i.shape for i in self._session.get_inputs()}
        self.outputs: dict[str, Sequence[Any]] = {o.name: o.shape for o in self._session.get_outputs()}

    def shapes(self) -> str:
        """Say what goes in and comes out."""
        return f"{self.inputs} -> {self.outputs}"

    def side_of(self, name: str) -> int:
        """Return the side of the crop that an input takes.

        Raises:
            ModelError: It is not square, not of three channels, or of no size that the graph tells.
        """
        _, channels, height, width = self.inputs[name]
        if channels != 3 or height != width or not isinstance(height, int):
            raise ModelError(f"{self.name}: expected crops of (1, 3, S, S), the graph has {self.shapes()}")
        return height

    def run(self, given: dict[str, npt.NDArray[np.float32]]) -> npt.NDArray[np.float32]:
        """Return the first output."""
        return np.asarray(self._session.run([next(iter(self.outputs))], given)[0], np.float32)

    def into(self, image: Image) -> npt.NDArray[np.float32]:
        """Lay out a crop as the network takes it, `(1, 3, S, S)`."""
        scaled = image.astype(np.float32) / 255 * (self._white - self._black) + self._black
        return np.ascontiguousarray(scaled.transpose(2, 0, 1)[None])

    def out(self, values: npt.NDArray[np.float32]) -> Image:
        """Make a crop of what the network gives, `(1, 3, S, S)`.

        Raises:
            ModelError: It is no crop, or there are values in it that are no numbers.
        """
        if values.ndim != 4 or values.shape[:2] != (1, 3) or not np.isfinite(values).all():
            raise ModelError(f"{self.name}: expected a crop of numbers (1, 3, S, S), got {values.shape}")
        scaled = (values[0].transpose(1, 2, 0) - self._black) / (self._white - self._black)
        return np.asarray((scaled * 255).round().clip(0, 255), np.uint8)


class Embedder(_Graph):
    """Makes of a face a vector of unit length that is alike for the same person.

    Raises:
        ModelError: The file is no such graph.
    """

    def __init__(self, network: Network) -> None:
        super().__init__(network, SIGNED)
        if len(self.inputs) != 1 or any(len(shape) != 4 for shape in self.inputs.values()):
            raise ModelError(f"{self.name}: an embedder takes one crop (1, 3, S, S), the graph has {self.shapes()}")
        [self._input] = self.inputs
        self._side = self.side_of(self._input)

    def embed(self, image: Image, face: Face) -> Vector:
        """Return the embedding of a face, `(D,)`."""
        cut = crop(image, matrix_of(face, self._side), self._side)
        return unit(self.run({self._input: self.into(cut)}).reshape(-1))


class Swapper(_Graph):
    """Draws a face anew by the embedding of another.

    Raises:
        ModelError: The file is no such graph.
    """

    def __init__(self, network: Network) -> None:
        super().__init__(network, UNIT)
        by_rank = {len(shape): name for name, shape in self.inputs.items()}
        if len(self.inputs) != 2 or set(by_rank) != {2, 4}:
            raise ModelError(
                f"{self.name}: a swapper takes a crop (1, 3, S, S) and an embedding (1, D), the graph has {self.shapes()}"
            )
        self._target, self._source = by_rank[4], by_rank[2]
        self.side = self.side_of(self._target)
        self.length = self.inputs[self._source][1]
        self._map = self._unused_matrix()

    def _unused_matrix(self) -> npt.NDArray[np.float32] | None:
        from onnx import numpy_helper

        used = {name for node in self.graph.node for name in node.input}
        shape = [self.length, self.length]
        idle = [each for each in self.graph.initializer if each.name not in used and list(each.dims) == shape]
        return np.asarray(numpy_helper.to_array(idle[-1]), np.float32) if idle else None

    def swap(self, image: Image, face: Face, source: Vector) -> tuple[Image, npt.NDArray[np.float64]]:
        """Return the crop in which a face has become that of another, with the matrix that it was cut out with.

        Raises:
            ModelError: The embedding has another length than the graph takes, or the graph gives no crop.
        """
        if source.shape != (self.length,):
            raise ModelError(
                f"{self.name}: takes embeddings of {self.length} numbers, the embedder gives {len(source)}"
            )
        if self._map is not None:
            source = unit(source @ self._map)
        matrix = matrix_of(face, self.side)
        cut = crop(image, matrix, self.side)
        drawn = self.out(self.run({self._target: self.into(cut), self._source: source[None]}))
        if drawn.shape != cut.shape:
            drawn = np.asarray(cv2.resize(drawn, (self.side, self.side), interpolation=cv2.INTER_AREA))
        return drawn, matrix


def unit(vector: Vector) -> Vector:
    """Return a vector with length 1."""
    return np.asarray(vector / max(float(np.linalg.norm(vector)), 1e-9), np.float32)
