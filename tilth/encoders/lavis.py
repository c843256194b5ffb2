"""BLIP-2 by Salesforce's own library, LAVIS, which runs in an environment of its own behind a pipe.

Paper: https://arxiv.org/abs/2209.09019

The worker gets pixels and token ids and returns vectors and probabilities, so that both backends see the same input. A
message is an Arrow IPC stream after its length in 8 bytes, little-endian; one batch of rows `name, shape, kind, data`.
"""

import contextlib
import os
import select
import subprocess
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from tilth.encoders.families import Texts
from tilth.errors import ModelError
from tilth.extras import python_of

WORKER = Path(__file__).with_name("lavis_worker.py")
START_S, ANSWER_S = 600.0, 600.0

Arrays = Mapping[str, npt.NDArray[Any]]


def pack(verb: str, arrays: Arrays) -> bytes:
    """Write a message."""
    rows = [(name, list(a.shape), str(a.dtype), np.ascontiguousarray(a).tobytes()) for name, a in arrays.items()]
    names = ("name", "shape", "kind", "data")
    kinds = (pa.string(), pa.list_(pa.int64()), pa.string(), pa.large_binary())
    columns = [pa.array(c, k) for c, k in zip(zip(*rows, strict=True) if rows else ((),) * 4, kinds, strict=True)]
    batch = pa.record_batch(columns, names=names).replace_schema_metadata({"verb": verb})
    sink = pa.BufferOutputStream()
    with pa.ipc.new_stream(sink, batch.schema) as writer:
        writer.write_batch(batch)
    data: bytes = sink.getvalue().to_pybytes()
    return len(data).to_bytes(8, "little") + data


def unpack(data: bytes) -> tuple[str, dict[str, npt.NDArray[Any]]]:
    """Read a message, without its length."""
    reader = pa.ipc.open_stream(data)
    verb = reader.schema.metadata[b"verb"].decode()
    rows = reader.read_all().to_pylist()
    return verb, {r["name"]: np.frombuffer(r["data"], r["kind"]).reshape(r["shape"]) for r in rows}


class LavisHeads:
    """The network by LAVIS; see `blip2.Heads`. The worker ends with this object.

    Args:
        folder: The model, in the layout of `save_pretrained`.
        device: `cpu`, `cuda`, …

    Raises:
        InputError: The environment is missing.
        ModelError: The worker cannot load the model.
    """

    def __init__(self, folder: Path, device: str) -> None:
        environment = {k: v for k, v in os.environ.items() if not k.startswith(("PYTHON", "VIRTUAL_ENV"))}
        self._process = subprocess.Popen(
            [str(python_of("lavis")), "-I", "-W", "ignore", str(WORKER), str(folder), device],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            env=environment,
        )
        self._wait("load", START_S)

    def images(self, pixels: npt.NDArray[np.float32]) -> Texts:
        """Return unit query vectors `(n, q, d)`."""
        return self._ask("images", {"pixels": pixels})

    def texts(self, ids: npt.NDArray[np.int64], mask: npt.NDArray[np.int64]) -> Texts:
        """Return unit vectors `(t, d)`."""
        return self._ask("texts", {"ids": ids, "mask": mask})

    def match(self, pixels: npt.NDArray[np.float32], ids: npt.NDArray[np.int64], mask: npt.NDArray[np.int64]) -> Texts:
        """Return the probability that each text is true of each image, `(n, t)`."""
        return self._ask("match", {"pixels": pixels, "ids": ids, "mask": mask})

    def _ask(self, verb: str, arrays: Arrays) -> Texts:
        assert self._process.stdin is not None
        with contextlib.suppress(BrokenPipeError):  # a dead worker shows when its answer is waited for
            self._process.stdin.write(pack(verb, arrays))
            self._process.stdin.flush()
        return self._wait(verb, ANSWER_S)

    def _wait(self, verb: str, seconds: float) -> Texts:
        end = time.monotonic() + seconds
        size = int.from_bytes(self._read(8, verb, end), "little")
        said, arrays = unpack(self._read(size, verb, end))
        if said == "error":
            raise ModelError(f"lavis: {verb}: {arrays['message'].tobytes().decode()}")
        found: Texts = arrays.get("values", np.empty(0, np.float32))
        return found

    def _read(self, size: int, verb: str, end: float) -> bytes:
        assert self._process.stdout is not None
        pipe = self._process.stdout.fileno()
        data = bytearray()
        while len(data) < size:
            if not select.select([pipe], [], [], max(0.0, end - time.monotonic()))[0]:
                self.close()
                raise ModelError(
                    f"lavis: {verb}: no answer in time; the worker was stopped, run again with a smaller batch_size"
                )
            part = os.read(pipe, min(size - len(data), 1 << 20))
            if not part:
                code = self._process.wait()
                raise ModelError(f"lavis: {verb}: the worker ended with {code}; its last words are above")
            data += part
        return bytes(data)

    def close(self) -> None:
        """End the worker."""
        self._process.kill()
        self._process.wait()
        for pipe in (self._process.stdin, self._process.stdout):
            with contextlib.suppress(OSError, AttributeError):
                pipe.close()  # type: ignore[union-attr]

    def __del__(self) -> None:
        """End the worker when nobody needs it."""
        if hasattr(self, "_process"):
            self.close()
