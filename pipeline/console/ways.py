"""Which recipes the console offers, what each needs of a folder, and what a folder holds."""

import os
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from importlib.resources import files
from pathlib import Path
from typing import Any

from tilth.images import SUFFIXES
from tilth.yaml_text import load_yaml

CONFIGS = Path(str(files("tilth"))) / "configs"
MOST = 5_000  # files of a folder that are counted
KNOWN = ("train", "test", "labelled", "corpus", "truth.jsonl")


@dataclass(frozen=True, kw_only=True)
class Way:
    """A recipe, told for somebody who has a folder.

    Args:
        file: In `configs/recipes`.
        title: In a few words.
        does: What comes out.
        needs: What must lie in the folder.
        wants: The same in words.
        fills: Variable -> what of the folder it is given, `.` for all of it.
        options: Of `tilth run`, beside the recipe's variables.
        packs: Whether a bundle comes out, that can be served.
    """

    file: str
    title: str
    does: str
    needs: tuple[str, ...]
    wants: str
    fills: Mapping[str, str] = field(default_factory=dict)
    packs: bool = True


LABELLED = "train/ and test/, each with images and labels (COCO, YOLO or Pascal VOC)"
WAYS = {
    "few_shot": Way(
        file="few_shot.yaml",
        title="A few examples",
        does="A classifier from about ten labelled pictures of each thing, fitted in seconds, measured and packed to be served.",
        needs=("train", "test"),
        wants=LABELLED,
        fills={"photos": "."},
    ),
    "photos": Way(
        file="photos.yaml",
        title="Hundreds of labelled photographs",
        does="Cleans the set, fine-tunes a classifier and a detector, measures both and packs them to be served.",
        needs=("train", "test"),
        wants=LABELLED,
        fills={"photos": "."},
    ),
    "label": Way(
        file="label.yaml",
        title="Label a folder",
        does="Models look twice and judge each other, a tenth is reviewed, and a detector learns. Labels come out, no bundle.",
        needs=(),
        wants="images; a sealed test set in COCO, and who reviews a tenth: people, or a file of truth",
        fills={"images": "corpus", "test": "test", "truth": "truth.jsonl"},
        packs=False,
    ),
    "starter": Way(
        file="starter.yaml",
        title="The whole loop",
        does="Mine, label, generate, clean, review, train, gate and pack: everything there is, on a drawn world with known truth.",
        needs=("labelled", "corpus", "test", "truth.jsonl"),
        wants="a starter world: python -m tilth.starter world --kinds all --given 8 --out runs/faithful-world",
        fills={"world": "."},
    ),
}


@dataclass(frozen=True, kw_only=True)
class Held:
    """What a folder holds.

    Args:
        path: Of the folder.
        wrong: Why it cannot be used; empty where it can.
        images: That were counted.
        more: Whether there are more than were counted.
        parts: Which of `KNOWN` lie in it.
        folders: Names of the folders in it, some of them.
    """

    path: Path
    wrong: str = ""
    images: int = 0
    more: bool = False
    parts: tuple[str, ...] = ()
    folders: tuple[str, ...] = ()

    @property
    def said(self) -> str:
        """In a sentence."""
        if self.wrong:
            return self.wrong
        count = f"{'more than ' if self.more else ''}{self.images:,} image{'' if self.images == 1 else 's'}"
        return f"{count}{', with ' + ' and '.join(self.parts) if self.parts else ''}"


def holds(text: str) -> Held:
    """Look into a folder, no further than it takes a moment."""
    path = Path(text).expanduser()
    if not text.strip():
        return Held(path=path, wrong="name a folder")
    try:
        if not path.exists():
            return Held(path=path, wrong=f"{text}: no such folder")
        if not path.is_dir():
            return Held(path=path, wrong=f"{text}: is a file; name the folder that it lies in")
        inside = sorted(e.name for e in os.scandir(path) if e.is_dir() and not e.name.startswith("."))
    except (OSError, ValueError) as error:
        return Held(path=path, wrong=f"{text}: cannot be read ({getattr(error, 'strerror', None) or error})")
    images = 0
    for count, name in enumerate(_names(path)):
        if count >= MOST:
            return Held(path=path, images=images, more=True, parts=_parts(path), folders=tuple(inside[:60]))
        images += Path(name).suffix.lower() in SUFFIXES
    wrong = "" if images else f"{text}: no image here, nor in the folders in it"
    return Held(path=path, wrong=wrong, images=images, parts=_parts(path), folders=tuple(inside[:60]))


def _parts(path: Path) -> tuple[str, ...]:
    return tuple(name for name in KNOWN if (path / name).exists())


def _names(path: Path) -> Iterator[str]:
    for _, _, names in os.walk(path, followlinks=True):
        yield from names


def lacks(way: Way, held: Held) -> list[str]:
    """Return what a recipe needs and a folder does not hold."""
    return [name for name in way.needs if name not in held.parts]


def variables(way: Way, held: Held) -> dict[str, str]:
    """Return the variables of a recipe with the values that a folder gives them; empty where it gives none.

    Raises:
        InputError: The recipe cannot be read.
    """
    document, _ = load_yaml(CONFIGS / "recipes" / way.file)
    declared: Mapping[str, Any] = (document.get("variables") or {}) if isinstance(document, dict) else {}
    found = {}
    for name, value in declared.items():
        part = way.fills.get(name)
        inside = held.path / part if part else None
        if inside is not None and inside.exists():
            found[name] = str(inside)
        elif name == "images":
            found[name] = str(held.path)
        else:
            found[name] = "" if value is None else str(value)
    return found


def policies(runs: Path) -> list[Path]:
    """List the policy files that there are: those that come along, and those that were written here."""
    ours = sorted((CONFIGS / "policies").glob("*.yaml"))
    own = sorted((runs / "policies").glob("*.yaml")) if (runs / "policies").is_dir() else []
    return [*own, *ours]


def near(path: Path) -> str:
    """Write a path as a person would who stands here."""
    try:
        return str(path.resolve().relative_to(Path.cwd())) if path.is_absolute() else str(path)
    except ValueError:
        try:  # what is linked into our folder from elsewhere
            return os.path.relpath(path) if not os.path.relpath(path).startswith("..") else str(path)
        except ValueError:
            return str(path)
