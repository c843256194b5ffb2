"""Write the starter world, or rebuild its miniatures.

python -m tilth.starter world --out runs/starter-world
python -m tilth.starter train diffusion
"""

import argparse
import importlib
import json
from pathlib import Path

MODELS = Path(__file__).parent / "models"

# name -> the function that trains it: (out, work, device, steps) -> scores on held-out scenes
TRAINERS = {
    "judge": "tilth.starter.diffusion.judge:train",
    "diffusion": "tilth.starter.diffusion.train:train",
    "controlnet": "tilth.starter.diffusion.controlnet:train",
    "lora": "tilth.starter.diffusion.lora:train",
    "retrieval": "tilth.starter.retrieval.train:train",
    "grounding": "tilth.starter.grounding.train:train",
    "detector": "tilth.starter.stage1.detector:train",
    "classifier": "tilth.starter.stage1.classifier:train",
    "verdict": "tilth.starter.verdict.train:train",
}


def write_files(arguments: argparse.Namespace) -> None:
    """Write the world and show how far it is."""
    from tilth.events import Events
    from tilth.starter.world.files import write_world

    events = Events()
    total = arguments.labelled + arguments.corpus + arguments.test
    with events.progress("starter world", total) as advance:
        written = write_world(
            arguments.out, labelled=arguments.labelled, corpus=arguments.corpus, test=arguments.test, advance=advance
        )
    events.emit("world", message=f"{arguments.out}: {total} images" + ("" if written else ", already there"))


def main() -> None:
    """Parse the command line."""
    parser = argparse.ArgumentParser(
        prog="python -m tilth.starter", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    commands = parser.add_subparsers(dest="command", required=True)
    train = commands.add_parser("train", help="train one miniature, or go on where a killed job stopped")
    train.add_argument("name", choices=sorted(TRAINERS))
    train.add_argument("--out", type=Path, default=MODELS, help="folder of the checkpoints (default: %(default)s)")
    train.add_argument("--work", type=Path, default=Path("work"), help="rendered scenes and unfinished training")
    train.add_argument("--device", default="auto", help="auto, cpu, cuda, cuda:1, …")
    train.add_argument("--steps", type=int, help="optimiser steps, instead of the default of the model")
    world = commands.add_parser(
        "world", help="write the labelled images, the corpus, the sealed test set and the truth"
    )
    world.add_argument("--out", type=Path, required=True, help="folder to make")
    for name, count in (("labelled", 60), ("corpus", 6000), ("test", 1000)):
        world.add_argument(f"--{name}", type=int, default=count, help="number of images (default: %(default)s)")
    arguments = parser.parse_args()
    if arguments.command == "world":
        write_files(arguments)
        return
    import torch

    from tilth import models

    device = torch.device(models.device(arguments.device))
    module, _, function = TRAINERS[arguments.name].partition(":")
    trainer = getattr(importlib.import_module(module), function)
    scores = trainer(arguments.out, arguments.work, device, arguments.steps)
    print(json.dumps({arguments.name: scores}, indent=2))


if __name__ == "__main__":
    main()
