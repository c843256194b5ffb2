"""How much memory a step takes with its models, as `benchmarks/full_size.py` measured it, and whether this machine has so much.

The figures lie beside the cards, in `configs/models/full_size.json`; a card names its own there with `full_size`. A model that nobody
measured has the `peak_mb` of its card, if it has one. Measured was a whole process on a CPU, with its libraries and what it works with.
"""

import json
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from functools import lru_cache
from importlib.resources import files
from pathlib import Path

import psutil

from tilth import models
from tilth.annotate.grounding.ground import Ground
from tilth.engine.work import Step
from tilth.mining.search.mine import Mine
from tilth.pipeline.steps.package import Package
from tilth.synth.adapters.training import TrainLora
from tilth.synth.draw.generate import Generate
from tilth.train.learn.fine_tune import FineTune

# a step -> the parts of the rehearsal that it is; the first says how long an image takes
PARTS: Mapping[type, tuple[str, ...]] = {
    FineTune: ("train",),
    Ground: ("ground",),
    Mine: ("mine",),
    Generate: ("draw", "edges", "inpaint", "adapter"),
    TrainLora: ("teach",),
    Package: ("package",),
}


@dataclass(frozen=True, kw_only=True)
class Need:
    """What a step takes with one of its models.

    Args:
        model: As the recipe names it.
        peak_mb: The most memory that its process holds.
        measured: Whether that was measured; else the card's estimate.
        core_s_an_image: Seconds of a processor that an image takes; 0 when nobody measured them.
    """

    model: str
    peak_mb: float
    measured: bool
    core_s_an_image: float


@lru_cache(maxsize=1)
def _figures() -> Mapping[str, float]:
    path = Path(str(files("tilth"))) / "configs" / "models" / "full_size.json"
    told = json.loads(path.read_text(encoding="utf-8"))["figures"] if path.exists() else {}
    return {key: float(figure["value"]) for key, figure in told.items()}


def needs(step: Step) -> list[Need]:
    """Return what is known of a step with each of its models; nothing of those whose card says nothing."""
    parts = next((names for kind, names in PARTS.items() if isinstance(step, kind)), ())
    found, figures = [], _figures()
    for name in step.models() if parts else ():
        spec = models.spec(name)
        if isinstance(step, Package) and step.asking.back_end != "onnx":  # it is opened, and not exported
            if spec.memory_mb:
                found.append(Need(model=name, peak_mb=spec.memory_mb, measured=False, core_s_an_image=0))
            continue
        measured = [value for part in parts if (value := figures.get(f"{spec.full_size}.{part}.peak_mb"))]
        if peak := max(measured, default=spec.peak_mb):
            seconds = figures.get(f"{spec.full_size}.{parts[0]}.core_s_an_image", 0.0)
            if isinstance(step, Generate):
                seconds = figures.get(f"{spec.full_size}.draw.core_s_a_step", 0.0) * step.drawing.steps
            found.append(Need(model=name, peak_mb=peak, measured=bool(measured), core_s_an_image=seconds))
    return found


def most(name: str) -> float:
    """Return the most memory that any step takes with a model, in MB: as measured, or else as its card estimates; 0 when neither says."""
    spec = models.spec(name)
    told = [v for k, v in _figures().items() if k.startswith(f"{spec.full_size}.") and k.endswith(".peak_mb")]
    return max(told, default=spec.peak_mb)


def too_large(name: str, step: Step, device: str = "auto") -> list[str]:
    """Say which models of a step this machine has not the memory for, one line each.

    Args:
        name: Of the step in its recipe.
        step: The step.
        device: On which it will run; a GPU has memory of its own, which nothing here knows of.
    """
    here = psutil.virtual_memory().total / 1e6
    large = [need for need in needs(step) if need.peak_mb > here]
    if large and not (isinstance(step, Package) and step.asking.back_end == "onnx"):
        with suppress(ImportError):  # without torch nothing runs anyway, and others say so
            large = large if models.device(device) == "cpu" else []
    return [
        f"{name}: {need.model} takes {'' if need.measured else 'about '}{need.peak_mb:,.0f} MB of memory at its peak, and this machine "
        f"has {here:,.0f}; take a smaller model or a larger machine"
        for need in large
    ]
