"""Send the numbers of a run to the tracker that a team watches: TensorBoard, MLflow, Weights & Biases, whatever accelerate knows."""

import math
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from tilth.claims import Json
from tilth.errors import InputError

CURVE = "curve"  # of a training: a list of points with their step


def check_tracker(kind: str) -> None:
    """Refuse a tracker before anything is begun.

    Raises:
        InputError: There is none of that name, or its library is not installed.
    """
    from accelerate.tracking import LOGGER_TYPE_TO_CLASS, get_available_trackers

    if kind not in LOGGER_TYPE_TO_CLASS:
        raise InputError(f"track: {kind}: no such tracker; known: {', '.join(sorted(LOGGER_TYPE_TO_CLASS))}")
    if kind not in {str(one.value) for one in get_available_trackers()}:
        raise InputError(f"track: {kind}: its library is not installed; pip install {kind}, or leave track out")


def track(
    kind: str, recipe: str, folder: Path, settings: Mapping[str, str], facts: Mapping[str, Mapping[str, Json]]
) -> int:
    """Send a run's numbers, each once.

    Args:
        kind: Of the tracker, which `check_tracker` has let through.
        recipe: Name of the experiment or project.
        folder: The run's; its name is that of the run, and what is kept in files lies in `track/` there.
        settings: Of the recipe.
        facts: What each step reported.

    Returns:
        How many numbers were sent.
    """
    from accelerate import PartialState
    from accelerate.tracking import LOGGER_TYPE_TO_CLASS

    PartialState(cpu=True)  # trackers ask it whether this is the first process
    cls = LOGGER_TYPE_TO_CLASS[kind]
    if kind == "mlflow":
        tracker = cls(recipe, run_name=folder.name)
    elif cls.requires_logging_directory:
        tracker = cls(folder.name, logging_dir=str(folder / "track"))
    else:
        tracker = cls(recipe)
    tracker.start()
    tracker.store_init_configuration(dict(settings))
    count = 0
    for name, told in facts.items():
        values = dict(numbers(told, name))
        tracker.log(values, step=0)
        count += len(values)
        for place, curve in curves(told, name):
            for point in curve:
                values = {f"{place}/{key}": float(value) for key, value in point.items() if key != "step"}
                tracker.log(values, step=int(point["step"]))
                count += len(values)
    tracker.finish()
    return count


def numbers(told: Mapping[str, Any], under: str) -> Iterator[tuple[str, float]]:
    """Yield every finite number, with the words that lead to it.

    >>> dict(numbers({"f1": {"mean": 0.9, "ci95": [0.8, 1.0]}, "model": "x", "curve": [{"step": 1}], "ece": float("nan")}, "final"))
    {'final/f1/mean': 0.9}
    """
    for name, value in told.items():
        if isinstance(value, Mapping):
            yield from numbers(value, f"{under}/{name}")
        elif isinstance(value, bool | int | float) and math.isfinite(value):
            yield f"{under}/{name}", float(value)


def curves(told: Mapping[str, Any], under: str) -> Iterator[tuple[str, list[Mapping[str, float]]]]:
    """Yield the curves of trainings, with the words that lead to them."""
    for name, value in told.items():
        if name == CURVE and isinstance(value, list):
            yield under, value
        elif isinstance(value, Mapping):
            yield from curves(value, f"{under}/{name}")
