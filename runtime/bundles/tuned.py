"""`tuned.json`: which back end runs each graph on this machine, as `tilth tune` measured it.

It lies beside the seal and not under it, as it is written again on each machine. So it can do little: it chooses by name among the back
ends that there are, and only where it was made, for the very bundle that it names; anywhere else onnxruntime runs all.
"""

import importlib.metadata
import logging
import platform
from pathlib import Path
from typing import Literal

from pydantic import BaseModel, ConfigDict, ValidationError

from tilth.data.files import write_beside
from tilth.runtime.stages.graphs import REFERENCE, usable_cores

TUNED = "tuned.json"
BackEnd = Literal["onnxruntime", "openvino-f32", "openvino-bf16"]

log = logging.getLogger("tilth.bundles")


class _Row(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class Measured(_Row):
    """What one back end is worth for a graph.

    Args:
        back_end: Its name.
        ms_one: Milliseconds of one image alone, the median.
        ms_batch: The same of each image of a batch.
        score_gap: The most by which a score of an image differs from that of onnxruntime.
        boxes_kept: Share of its boxes that this one shows as well; 1 for a graph without boxes.
        refused: Why it may not be taken; empty when it may.
    """

    back_end: BackEnd
    ms_one: float = 0
    ms_batch: float = 0
    score_gap: float = 0
    boxes_kept: float = 1
    refused: str = ""


class Part(_Row):
    """One graph: what was taken, and all that were measured."""

    back_end: BackEnd
    measured: tuple[Measured, ...]


class Tuned(_Row):
    """The whole file.

    Args:
        bundle: Digits of the bundle that was measured.
        machine: Where, and by which versions.
        made: When.
        images: How many.
        batch: Images of the larger batch.
        graphs: By name, `classifier` and `detector`.
    """

    bundle: str
    machine: dict[str, str]
    made: str
    images: int
    batch: int
    graphs: dict[str, Part]


def machine() -> dict[str, str]:
    """Say on what a measurement depends: the processor, its cores and the libraries."""
    told = {"processor": _processor(), "cores": str(usable_cores())}
    for name in ("onnxruntime", "openvino"):
        try:
            told[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            told[name] = ""
    return told


def _processor() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        lines = []
    named = (line.partition(":")[2].strip() for line in lines if line.startswith("model name"))
    return next(named, platform.processor() or platform.machine())


def write_tuned(folder: Path, tuned: Tuned) -> None:
    """Write the file, whole or not at all."""
    write_beside(folder / TUNED, tuned.model_dump_json(indent=1) + "\n")


def chosen(folder: Path, bundle: str) -> dict[str, str]:
    """Return the back end of each graph that was measured here; nothing, and a line in the log, where it does not fit.

    Args:
        folder: Of the bundle.
        bundle: Its digits.
    """
    if not (folder / TUNED).is_file():
        return {}
    try:
        tuned = Tuned.model_validate_json((folder / TUNED).read_bytes())
    except ValidationError as error:
        first = error.errors()[0]
        why = f"{'.'.join(map(str, first['loc'])) or 'the file'}: {first['msg']}"
    else:
        if tuned.bundle == bundle and tuned.machine == machine():
            return {name: part.back_end for name, part in tuned.graphs.items()}
        why = "it is of another bundle" if tuned.bundle != bundle else "it was made on another machine"
    log.warning("%s: %s; %s runs everything until: tilth tune", folder / TUNED, why, REFERENCE)
    return {}
