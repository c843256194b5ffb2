"""What a run would do, and what this installation can do: looked up, never downloaded or loaded."""

import importlib.metadata
import importlib.util
import os
import shutil
import sys
from pathlib import Path
from typing import Any

import psutil

from tilth import models
from tilth.engine.recipe import Recipe
from tilth.errors import ModelError
from tilth.extras import EXTRAS
from tilth.pipeline.needs import needs, too_large
from tilth.pipeline.run import read_record


def plan_tables(recipe: Recipe, runs: Path) -> dict[str, Any]:
    """Return the steps and models of a recipe as rows.

    A model's download, memory and licence are what its card in `configs/models` says; 0 and empty mean that none says. What a step takes
    at its peak, and of a processor for an image, was measured (`needs.py`); None where nobody did.
    """
    folder = runs / recipe.name
    steps = []
    names: dict[str, None] = {}
    for number, (name, step) in enumerate(recipe.steps.items(), 1):
        record = read_record(folder / "steps" / f"{number:02d}-{name}.json")
        names |= dict.fromkeys(step.models())
        takes = needs(step)
        steps.append(
            {
                "step": name,
                "kind": type(step).__name__,
                "models": list(step.models()),
                "inputs": [{"path": str(p), "there": p.exists()} for p in step.inputs()],
                "last_seconds": record.seconds if record else None,
                "peak_mb": max((need.peak_mb for need in takes), default=None),
                "measured": all(need.measured for need in takes),
                "core_s_an_image": max((need.core_s_an_image for need in takes), default=0) or None,
                "too_large": too_large(name, step),
            }
        )
    return {"recipe": recipe.name, "folder": str(folder), "steps": steps, "models": [_model_row(n) for n in names]}


def _model_row(name: str) -> dict[str, Any]:
    spec = models.spec(name)
    row: dict[str, Any] = {
        "model": name,
        "family": spec.family,
        "licence": spec.licence or "unknown",
        "paper": spec.paper,
        "download_mb": spec.download_mb,
        "memory_mb": spec.memory_mb,
    }
    if spec.place == "hub":
        row["there"] = models.is_here(name)
        row["pinned"] = "@" in name
        return row
    try:
        row["there"] = models.find(name).exists()
        row["download_mb"] = 0
    except ModelError as error:
        row |= {"there": False, "problem": str(error)}
    return row


def plan_text(tables: dict[str, Any]) -> str:
    """Write a plan for a person."""
    lines = [f"{tables['recipe']}: into {tables['folder']}", "", "steps"]
    for step in tables["steps"]:
        took = f"took {step['last_seconds']:.0f} s last time" if step["last_seconds"] is not None else ""
        missing = [i["path"] for i in step["inputs"] if not i["there"]]
        lines.append(f"  {step['step']:28} {', '.join(step['models']):44} {took}".rstrip())
        if step["peak_mb"]:
            took = step["core_s_an_image"]
            seconds = f", {took:.3g} s of one core an image" if took else ""
            about = "" if step["measured"] else "about "
            lines.append(f"      at its peak {about}{step['peak_mb']:,.0f} MB of memory{seconds}")
        lines += [f"      missing: {path}" for path in missing]
    large = [line for step in tables["steps"] for line in step["too_large"]]
    lines += ["", "does not fit this machine", *(f"  {line}" for line in large)] if large else []
    lines += ["", "models"]
    total = 0.0
    for model in tables["models"]:
        where = (
            "here"
            if model["there"]
            else (f"to download, {model['download_mb'] or '?'} MB" if "problem" not in model else model["problem"])
        )
        memory = f"{model['memory_mb']:.0f} MB in memory" if model["memory_mb"] else "memory unknown"
        total += 0 if model["there"] else float(model["download_mb"])
        lines.append(f"  {model['model']:60} {model['licence']:22} {memory:20} {where}")
        if model.get("pinned") is False:
            lines.append("      not pinned: add @<commit>, or the run will refuse it")
    lines.append(f"  to download in all: {total:,.0f} MB")
    return "\n".join(lines)


def doctor_tables() -> dict[str, Any]:
    """Return versions, hardware and missing extras."""
    installed = {}
    for module, extra in EXTRAS.items():
        there = importlib.util.find_spec(module) is not None
        installed[module] = {"extra": extra, "there": there, "version": _version(module) if there else None}
    return {
        "python": sys.version.split()[0],
        "cores": os.cpu_count(),
        "memory_gb": round(psutil.virtual_memory().total / 2**30, 1),
        "disk_free_gb": round(shutil.disk_usage(".").free / 2**30, 1),
        "packages": installed,
        "accelerator": _accelerator(),
    }


def _version(module: str) -> str | None:
    names = importlib.metadata.packages_distributions().get(module, [])
    return importlib.metadata.version(names[0]) if names else None


def _accelerator() -> str:
    if importlib.util.find_spec("torch") is None:
        return "none (torch is not installed)"
    device = models.device()
    return f"{device}, {models.precision(device)}"


def doctor_text(tables: dict[str, Any]) -> str:
    """Write the check-up for a person."""
    lines = [
        f"python {tables['python']}, {tables['cores']} cores, {tables['memory_gb']} GB memory, "
        f"{tables['disk_free_gb']} GB disk free, runs on {tables['accelerator']}"
    ]
    for module, row in tables["packages"].items():
        cure = "" if row["there"] else f"missing; pip install 'tilth[{row['extra']}]'"
        lines.append(f"  {module:20} {row['version'] or '':14} {cure}".rstrip())
    return "\n".join(lines)
