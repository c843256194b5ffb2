"""Rebuild the starter's miniatures from nothing: `python -m tilth.starter train diffusion`."""

import argparse
import importlib
import json
from pathlib import Path

from tilth.starter.loop import pick_device

MODELS = Path(__file__).parent / "models"

# name -> the function that trains it: (out, work, device, steps) -> scores on held-out scenes
TRAINERS = {
    "judge": "tilth.starter.judge:train",
    "diffusion": "tilth.starter.diffusion:train",
    "controlnet": "tilth.starter.controlnet:train",
    "lora": "tilth.starter.lora:train",
    "retrieval": "tilth.starter.retrieval:train",
    "grounding": "tilth.starter.grounding:train",
    "detector": "tilth.starter.detector:train",
    "classifier": "tilth.starter.classifier:train",
    "verdict": "tilth.starter.verdict:train",
}


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m tilth.starter", description=__doc__)
    commands = parser.add_subparsers(dest="command", required=True)
    train = commands.add_parser("train", help="train one miniature, or go on where a killed job stopped")
    train.add_argument("name", choices=sorted(TRAINERS))
    train.add_argument("--out", type=Path, default=MODELS, help="folder of the checkpoints (default: %(default)s)")
    train.add_argument("--work", type=Path, default=Path("work"), help="rendered scenes and unfinished training")
    train.add_argument("--device", default="auto", help="auto, cpu, cuda, cuda:1, …")
    train.add_argument("--steps", type=int, help="optimiser steps, instead of the default of the model")
    arguments = parser.parse_args()
    module, _, function = TRAINERS[arguments.name].partition(":")
    trainer = getattr(importlib.import_module(module), function)
    scores = trainer(arguments.out, arguments.work, pick_device(arguments.device), arguments.steps)
    print(json.dumps({arguments.name: scores}, indent=2))


if __name__ == "__main__":
    main()
