"""Every step that a recipe can name, from all folders, in one table."""

import importlib

FOLDERS = ("mining", "annotate", "synth", "train", "pipeline")


def step_table() -> dict[str, str]:
    """Return step name -> `module:Class`; nothing heavy is imported."""
    table: dict[str, str] = {}
    for folder in FOLDERS:
        table |= importlib.import_module(f"tilth.{folder}").STEPS
    return table
