"""Label files of other tools: what every reader yields, where it may look, and what it notes when a file is odd."""

import os
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

from tilth.errors import InputError
from tilth.images import SUFFIXES

EXAMPLES = 10  # of each oddity that are named


@dataclass(frozen=True, slots=True, kw_only=True)
class Named:
    """A box as a file has it: `xyxy`, end exclusive, not clipped, in pixels or (`parts`) in parts of the image."""

    category: str
    box_xyxy: tuple[float, float, float, float]
    parts: bool = False
    score: float = 1.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Found:
    """An image and what a label file says of it.

    Args:
        name: Path of the image relative to the root, or what the file calls it when it cannot be had.
        path: The image file; None when `error` says why there is none.
        label_file: Path of the label file relative to the root; empty when nothing speaks of the image.
        labels: The boxes.
        size_wh: The size that the label file gives; None when it gives none.
        state: What the file says of an image without boxes, if it does: `confirmed_empty` or `unlabelled`.
        error: Why the image cannot be had.
    """

    name: str
    path: Path | None = None
    label_file: str = ""
    labels: tuple[Named, ...] = ()
    size_wh: tuple[int, int] | None = None
    state: str = ""
    error: str = ""


@dataclass
class Oddities:
    """Counts what is odd in a source, and names the first of each kind."""

    counts: Counter[str] = field(default_factory=Counter)
    examples: dict[str, list[str]] = field(default_factory=dict)

    def note(self, kind: str, where: str) -> None:
        """Count one."""
        self.counts[kind] += 1
        named = self.examples.setdefault(kind, [])
        if len(named) < EXAMPLES:
            named.append(where[:200])


def inside(root: Path, name: str) -> Path:
    """Return the path that a label file names, which must stay under the root, links followed.

    Raises:
        InputError: It leaves the root.
    """
    parts = name.replace("\\", "/").split("/")
    if ".." in parts or parts[0] == "" or parts[0].endswith(":"):
        raise InputError(f"refused: {name!r} leads out of the folder")
    path = root.joinpath(*parts)
    if not path.resolve().is_relative_to(root.resolve()):
        raise InputError(f"refused: {name!r} is a link out of the folder")
    return path


class Images:
    """The image files under a root, by name whatever the case of its letters.

    Keeps one name a file and nothing else; links to folders are not followed.
    """

    def __init__(self, root: Path) -> None:
        self.root = root
        self._by_path: dict[str, list[str]] = {}
        self._by_name: dict[str, list[str]] = {}
        for folder, folders, names in os.walk(root):
            folders.sort()
            here = Path(folder).relative_to(root)
            for name in sorted(names):
                if name.lower().endswith(SUFFIXES) and not name.startswith("."):
                    path = (here / name).as_posix()
                    self._by_path.setdefault(path.lower(), []).append(path)
                    self._by_name.setdefault(name.lower(), []).append(path)

    def __len__(self) -> int:
        """Count the files."""
        return sum(map(len, self._by_path.values()))

    def __iter__(self) -> Iterator[str]:
        """Yield the paths relative to the root, in the order of their names."""
        for paths in self._by_path.values():
            yield from paths

    def doubles(self) -> list[str]:
        """Return the file names that occur in more than one folder, or in two spellings."""
        return [name for name, paths in self._by_name.items() if len(paths) > 1]

    def at(self, *candidates: str) -> str:
        """Return the first candidate path that is there, in its own spelling; empty when none is.

        Raises:
            InputError: A candidate differs from two files in its letters' case only.
        """
        for path in candidates:
            paths = self._by_path.get(path.lower(), [])
            if path in paths:
                return path
            if len(paths) > 1:
                raise InputError(f"{path!r} could be any of {', '.join(paths)}")
            if paths:
                return paths[0]
        return ""

    def named(self, name: str) -> str:
        """Return the only file of this name in any folder; empty when there is none.

        Raises:
            InputError: Several folders have one.
        """
        paths = self._by_name.get(name.lower(), [])
        if len(paths) > 1:
            raise InputError(f"{name!r} is in several folders: {', '.join(paths[:4])}")
        return paths[0] if paths else ""

    def find(self, name: str, beside: tuple[str, ...]) -> str:
        """Return the file that a label file calls `name`: in a folder of `beside`, else the only one of its name.

        Raises:
            InputError: It leads out of the root, is absent, or is not the only one.
        """
        inside(self.root, name)
        clean = name.replace("\\", "/").removeprefix("./")
        path = self.at(*(f"{folder}/{clean}" if folder else clean for folder in beside)) or self.named(Path(clean).name)
        if not path:
            raise InputError(f"missing image {name!r}")
        inside(self.root, path)
        return path
