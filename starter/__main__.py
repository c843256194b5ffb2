"""Write the starter world or folders that bundles are judged on, or rebuild its miniatures.

python -m tilth.starter world --out runs/starter-world
python -m tilth.starter pairs --out runs/pairs
python -m tilth.starter flips --out runs/flips
python -m tilth.starter persons --out runs/persons
python -m tilth.starter train diffusion
"""

import argparse
import importlib
import json
import sys
from collections.abc import Callable
from importlib.resources import files
from pathlib import Path
from typing import NoReturn

from tilth.errors import InputError, TilthError

MODELS = Path(__file__).parent / "models"
POLICY = Path(str(files("tilth"))) / "configs" / "policies" / "starter.yaml"

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
    "speech": "tilth.starter.speech.pretrain:train",
    "sentences": "tilth.starter.sentences.train:train",
}


EXAMPLE = """\
Without options but --out it is the world that the demo has always had. Known kinds are those that the miniatures were trained on:
knife, cigarette, bottle, pill, dice; new ones, which no miniature has seen, nor their words, are syringe and lighter.

Example: python -m tilth.starter world --out runs/faithful-world --kinds all --given 8 --seed 1 --rare knife:neon \\
             --prevalence knife=0.01,syringe=0.02 --weak-teacher lost=0.33,added=0.1,renamed=0.1,knife.lost=0.5
"""


class _Parser(argparse.ArgumentParser):
    """Says in one line what is wrong."""

    def error(self, message: str) -> NoReturn:
        self.exit(2, f"{self.prog}: {message}\n")


def _names(text: str) -> tuple[str, ...]:
    """Read names with commas between them."""
    return tuple(name.strip() for name in text.split(",") if name.strip())


def _numbers(text: str) -> dict[str, float]:
    """Read `name=number` pairs with commas between them."""
    told: dict[str, float] = {}
    for pair in _names(text):
        name, _, value = (part.strip() for part in pair.partition("="))
        if name in told:
            raise argparse.ArgumentTypeError(f"{name} is given twice")
        try:
            told[name] = float(value)
        except ValueError:
            wanted = "expected a number, or name=number pairs with commas between them"
            raise argparse.ArgumentTypeError(f"{wanted}; got {pair!r}") from None
    return told


def _prevalence(text: str) -> float | dict[str, float]:
    """Read one number, or `name=number` pairs."""
    try:
        return float(text)
    except ValueError:
        return _numbers(text)


# name -> what its help says, what is counted, and how many by default
PROTOCOLS = {
    "flips": (
        "write policies that differ in one thing, and drawn signs with what truly applies under each",
        "number of images",
        600,
    ),
    "injection": (
        "write drawn signs with words that try to talk a judge round, and their twins without",
        "number of pairs",
        500,
    ),
}
CLIPS = {"corpus": 600, "labelled": 400, "few": 80, "general": 400, "hard": 400, "low": 400}  # of the world of sounds
SETTINGS: dict[str, tuple[Callable[[str], object], str, str]] = {
    "labelled": (int, "N", "number of labelled images (default: 60)"),
    "corpus": (int, "N", "number of corpus images (default: 6000)"),
    "test": (int, "N", "number of sealed test images (default: 1000)"),
    "seed": (int, "N", "another one gives another world: other images altogether (default: 0)"),
    "kinds": (str, "WHICH", "known, new or all: unsafe kinds that there are (default: known)"),
    "prevalence": (_prevalence, "P", "chance that a corpus image shows a kind: 0.04, or knife=0.01,pill=0.1 (default: 0.04)"),
    "styles": (_names, "S,S", "of corpus and test; no miniature has seen blueprint (default: photo,cartoon,sketch,neon)"),
    "labelled-styles": (_names, "S,S", "of the labelled images (default: photo)"),
    "test-styles": (_names, "S,S", "of the test and the examples (default: those of the corpus)"),
    "examples": (int, "N", "number of unlabelled images of the test's styles beside the corpus (default: 0)"),
    "copies": (float, "P", "share of the corpus that is near-copies of other corpus images (default: 0.03)"),
    "leaks": (float, "P", "share of the corpus that is copies of sealed test images (default: 0.003)"),
    "rare": (_names, "K:S,K:S", "kind:style that labelled and corpus images show a tenth as often; the test is as it would be"),
    "given": (int, "N", "number of labelled images that show each new kind (default: as chance has it, 13 %%)"),
    "weak-teacher": (
        _numbers,
        "W=P,W=P",
        "write teacher/annotations.json, what a model would say of the corpus that has `lost` and `renamed` shares of the boxes and "
        "`added` boxes an image; knife.lost=0.5 is of one category",
    ),
}  # fmt: skip


def write_files(arguments: argparse.Namespace) -> None:
    """Write the world and show how far it is.

    Raises:
        InputError: A setting is wrong.
    """
    from tilth.events import Events
    from tilth.starter.world.files import write_world
    from tilth.starter.world.settings import World

    told = {name.replace("-", "_"): getattr(arguments, name.replace("-", "_")) for name in SETTINGS}
    world = World(**{name: value for name, value in told.items() if value is not None})
    events = Events()
    total = sum(count for _, count in world.folders.values())
    with events.progress("starter world", total) as advance:
        written = write_world(arguments.out, world, advance=advance)
    events.emit("world", message=f"{arguments.out}: {total} images" + ("" if written else ", already there"))


# name -> the function that draws it, number of images, what it is
FOLDERS = {
    "signs": ("tilth.starter.protocols.signs:signs", 1000, "images with words, harmful ones and harmless"),
    "pairs": (
        "tilth.starter.protocols.pairs:pairs",
        1000,
        "scenes with something unsafe and with its harmless twin instead",
    ),
}


def write_judged(arguments: argparse.Namespace) -> None:
    """Write a folder that bundles are judged on.

    Raises:
        InputError: It is there, or a number is none.
    """
    from tilth.events import Events
    from tilth.starter.protocols.folder import write_drawn

    for name, least in (("images", 2), ("seed", 0)):
        if getattr(arguments, name) < least:
            raise InputError(f"--{name} must be at least {least}, got {getattr(arguments, name)}")
    module, _, function = FOLDERS[arguments.command][0].partition(":")
    draw = getattr(importlib.import_module(module), function)
    with Events().progress(arguments.command, arguments.images) as advance:
        write_drawn(arguments.out, draw(arguments.images, arguments.seed), advance=advance)


def write_texts(arguments: argparse.Namespace) -> None:
    """Write the world of words.

    Raises:
        InputError: It is there, or a number is none.
    """
    from tilth.events import Events
    from tilth.starter.protocols.words import write_words

    told = write_words(
        arguments.out, corpus=arguments.corpus, labelled=arguments.labelled, test=arguments.test, seed=arguments.seed
    )
    counts = ", ".join(f"{name} {count:,}" for name, count in told.items())
    Events().emit("words", message=f"{arguments.out}: {counts}")


def write_clips(arguments: argparse.Namespace) -> None:
    """Write the world of sounds and show how far it is.

    Raises:
        InputError: It is there, or a number is none.
        Unavailable: espeak-ng is not here.
    """
    from tilth.events import Events
    from tilth.starter.speech.clips import write_sounds

    counts = {name: getattr(arguments, name) for name in CLIPS}
    events = Events()
    with events.progress("sounds", sum(counts.values())) as advance:
        write_sounds(arguments.out, counts=counts, seed=arguments.seed, advance=advance)
    told = ", ".join(f"{name} {count:,}" for name, count in counts.items())
    events.emit("sounds", message=f"{arguments.out}: {told}")


# setting of the world of people -> what is counted
PEOPLE = {
    "train": "people to learn from",
    "calibration": "people to learn fusion and threshold from",
    "test": "people to measure with, every second of whom is known",
}


def write_persons(arguments: argparse.Namespace) -> None:
    """Write the world of people and show how far it is.

    Raises:
        InputError: It is there, or a number is too small.
    """
    from tilth.events import Events
    from tilth.starter.persons.files import People, write_people

    people = People(**{name: getattr(arguments, name) for name in PEOPLE}, seed=arguments.seed)
    events = Events()
    with events.progress("persons", people.total) as advance:
        written = write_people(arguments.out, people, advance)
    events.emit("persons", message=f"{arguments.out}: {written:,} pictures")


def write_protocol(arguments: argparse.Namespace) -> None:
    """Write the files of a protocol and show how far it is.

    Raises:
        InputError: The policy is wrong, or the folder is there already.
    """
    from tilth.events import Events
    from tilth.policy import load_policy
    from tilth.starter.protocols.clauses import write_flips, write_injections

    write, each = (write_flips, 1) if arguments.command == "flips" else (write_injections, 2)
    if arguments.images < 1:
        raise InputError(f"--images must be at least 1, got {arguments.images}")
    events = Events()
    with events.progress(arguments.command, each * arguments.images) as advance:
        told = write(arguments.out, load_policy(arguments.policy), arguments.seed, arguments.images, advance)
    said = ", ".join(f"{name} {count}" for name, count in told.items() if name != "base")
    events.emit(arguments.command, message=f"{arguments.out}: {each * arguments.images} images; of these, {said}")


def main() -> None:
    """Parse the command line."""
    parser = _Parser(
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
        "world",
        help="write the labelled images, the corpus, the sealed test set and the truth",
        epilog=EXAMPLE,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    world.add_argument("--out", type=Path, required=True, help="folder to make")
    for name, (read, shape, words) in SETTINGS.items():
        world.add_argument(f"--{name}", type=read, metavar=shape, help=words)
    of_what = {
        **{
            name: (f"write {words}, to judge a bundle on", "how many", count)
            for name, (_, count, words) in FOLDERS.items()
        },
        **PROTOCOLS,
    }
    for name, (words, counted, count) in of_what.items():
        folder = commands.add_parser(name, help=words)
        folder.add_argument("--out", type=Path, required=True, help="folder to make")
        folder.add_argument("--seed", type=int, default=0, help="another one gives other images (default: 0)")
        folder.add_argument("--images", type=int, metavar="N", default=count, help=f"{counted} (default: %(default)s)")
        if name in PROTOCOLS:
            folder.add_argument(
                "--policy",
                type=Path,
                default=POLICY,
                help="whose pictured categories are kept (default: the starter's)",
            )
    texts = commands.add_parser(
        "words", help="write a world of words: a corpus of texts, labelled ones, a sealed test and the truth"
    )
    texts.add_argument("--out", type=Path, required=True, help="folder to make")
    for name, count in (("corpus", 4000), ("labelled", 60), ("test", 1000)):
        texts.add_argument(f"--{name}", type=int, metavar="N", default=count, help="texts (default: %(default)s)")
    texts.add_argument("--seed", type=int, default=0, help="another one gives other texts (default: 0)")
    sounds = commands.add_parser(
        "sounds",
        help="write a world of sounds: spoken phrases and events, with noise, in rooms, and the truth (needs espeak-ng)",
    )
    sounds.add_argument("--out", type=Path, required=True, help="folder to make")
    for name, count in CLIPS.items():
        sounds.add_argument(f"--{name}", type=int, metavar="N", default=count, help="clips (default: %(default)s)")
    sounds.add_argument("--seed", type=int, default=0, help="another one gives other clips (default: 0)")
    persons = commands.add_parser("persons", help="write a world of drawn people in albums, and the truth")
    persons.add_argument("--out", type=Path, required=True, help="folder to make")
    for name, words_of in PEOPLE.items():
        persons.add_argument(f"--{name}", type=int, metavar="N", default=160, help=f"{words_of} (default: %(default)s)")
    persons.add_argument("--seed", type=int, default=0, help="another one gives other people (default: 0)")
    arguments = parser.parse_args()
    writers = {
        "world": write_files,
        "words": write_texts,
        "sounds": write_clips,
        "persons": write_persons,
        **dict.fromkeys(FOLDERS, write_judged),
        **dict.fromkeys(PROTOCOLS, write_protocol),
    }
    if arguments.command != "train":
        try:
            writers[arguments.command](arguments)
        except TilthError as error:
            print(f"{parser.prog} {arguments.command}: {error}", file=sys.stderr)
            raise SystemExit(error.exit_code) from None
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
