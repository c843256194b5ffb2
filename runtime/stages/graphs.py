"""Open an ONNX graph on a back end: onnxruntime, which is the reference and always there, or OpenVINO in one of its precisions.

All of them are asked in the same way, `run(names of outputs, {name: array})`, and may be shared between threads.
"""

import math
from collections import deque
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol, TypeAlias

import numpy as np
import numpy.typing as npt
import psutil

from tilth.errors import ModelError
from tilth.extras import optional

REFERENCE = "onnxruntime"
OPENVINO = {"openvino-f32": "f32", "openvino-bf16": "bf16"}  # back end: the precision that it computes in
BACK_ENDS = (REFERENCE, *OPENVINO)
CPU_LIMIT = Path("/sys/fs/cgroup/cpu.max")  # of a container

Arrays: TypeAlias = npt.NDArray[Any]


class Graph(Protocol):
    """An open graph, and the name of what runs it."""

    back_end: str

    def run(self, names: Sequence[str], inputs: Mapping[str, Arrays]) -> Sequence[Arrays]:
        """Return the outputs of these names."""
        ...


def open_graph(
    path: Path, inputs: set[str], outputs: set[str], *, threads: int = 0, back_end: str = REFERENCE
) -> Graph:
    """Open a graph and check its inputs and outputs.

    Args:
        path: The ONNX file.
        inputs: Names that it must have.
        outputs: Names that it must have.
        threads: To compute with; 0 for as many as this process may use.
        back_end: One of `BACK_ENDS`.

    Raises:
        MissingExtra: The back end is not installed.
        ModelError: The file is no graph that the back end can run, or one with other inputs and outputs.
    """
    opened: _OnnxRuntime | _OpenVino
    try:
        if back_end in OPENVINO:
            opened = _OpenVino(path, OPENVINO[back_end], threads or usable_cores())
        else:
            opened = _OnnxRuntime(path, threads or usable_cores())
    except (ImportError, ModelError):
        raise
    except Exception as error:
        raise ModelError(f"{path}: not a graph that {back_end} can run: {_first_line(error)}") from error
    for expected, names in ((inputs, {*opened.inputs}), (outputs, {*opened.outputs})):
        if not expected <= names:
            raise ModelError(f"{path}: expected inputs or outputs {sorted(expected)}, the graph has {sorted(names)}")
    return opened


def usable_cores() -> int:
    """Count the cores that this process may use: real ones, not beyond its affinity nor its container's limit.

    Libraries count those of the machine: in a container of 2 cores on a machine of 64, 64 threads wait for each other.
    """
    counts = [psutil.cpu_count(logical=False) or 1, psutil.cpu_count() or 1]
    if hasattr(psutil.Process, "cpu_affinity"):
        counts.append(len(psutil.Process().cpu_affinity()))
    return max(1, min([*counts, *container_limit(CPU_LIMIT)]))


def container_limit(path: Path) -> list[int]:
    """Return how many cores a container may use, by the file of its control group; nothing where there is no limit."""
    try:
        quota, period = path.read_text().split()
        return [max(1, math.ceil(int(quota) / int(period)))]
    except (OSError, ValueError):  # no container, or `max`
        return []


class _OnnxRuntime:
    """The reference, on a GPU where the installed onnxruntime knows one."""

    def __init__(self, path: Path, threads: int) -> None:
        with optional():
            import onnxruntime
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = threads
        options.log_severity_level = 3
        usable = onnxruntime.get_available_providers()
        chosen = [name for name in ("CUDAExecutionProvider", "CPUExecutionProvider") if name in usable]
        self.back_end = REFERENCE
        self._session = onnxruntime.InferenceSession(str(path), options, providers=chosen)
        self.inputs = {one.name for one in self._session.get_inputs()}
        self.outputs = {one.name for one in self._session.get_outputs()}

    def run(self, names: Sequence[str], inputs: Mapping[str, Arrays]) -> Sequence[Arrays]:
        return list(self._session.run(list(names), dict(inputs)))


class _OpenVino:
    """OpenVINO on the CPU; a request serves one call at a time, so each call that comes while others run has its own."""

    def __init__(self, path: Path, precision: str, threads: int) -> None:
        with optional():
            import openvino
        core = openvino.Core()
        able = core.get_property("CPU", "OPTIMIZATION_CAPABILITIES")
        if precision == "bf16" and "BF16" not in able:
            raise ModelError(f"{path}: this processor does not multiply bf16, which would be slower than f32 here")
        settings = {
            "INFERENCE_PRECISION_HINT": precision,
            "PERFORMANCE_HINT": "LATENCY",
            "INFERENCE_NUM_THREADS": threads,
        }
        self.back_end = f"openvino-{precision}"
        self._compiled = core.compile_model(core.read_model(path), "CPU", settings)
        self.inputs = {name for one in self._compiled.inputs for name in one.names}
        self.outputs = {name: one for one in self._compiled.outputs for name in one.names}  # one may have several
        self._idle: deque[Any] = deque()

    def run(self, names: Sequence[str], inputs: Mapping[str, Arrays]) -> Sequence[Arrays]:
        try:
            request = self._idle.pop()
        except IndexError:
            request = self._compiled.create_infer_request()
        try:
            request.infer(dict(inputs), share_inputs=True)
            return [np.array(request.get_tensor(self.outputs[name]).data) for name in names]
        finally:
            self._idle.append(request)


def _first_line(error: Exception) -> str:
    return (str(error).splitlines() or [type(error).__name__])[0][:200]
