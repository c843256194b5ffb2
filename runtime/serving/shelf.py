"""A folder of images, each under its id, with a line of `metadata.jsonl` for each: bounded, and of the most doubtful.

It can be moved away at any time, to be taken in elsewhere; the next image then begins a new one.
"""

import contextlib
import io
import json
import os
import re
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol, TextIO

from tilth.errors import InputError
from tilth.images import Image, decode

LINES = "metadata.jsonl"  # what Hugging Face's imagefolder calls it, so that others read the folder, too
OURS = re.compile(r"[0-9a-f]{64}\.[a-z]{3,4}")


class Guard(Protocol):
    """Says on which list of known images an image is; None when it is on none."""

    digest: str

    def __call__(self, image: Image) -> str | None: ...


@dataclass(frozen=True, slots=True)
class Kept:
    """An image of the folder: its file, how doubtful it is, and its line, which also says on which hash lists it was looked up."""

    file: str
    doubt: float
    line: str

    @classmethod
    def of(cls, file: str, served: dict[str, Any], lists: str | None) -> "Kept":
        """Write the line."""
        return cls(file, float(served["doubt"]), json.dumps({"file_name": file, "hash_lists": lists, "served": served}))

    @property
    def id(self) -> str:
        """Of the image."""
        return self.file.partition(".")[0]


class Shelf:
    """Keeps the most doubtful images; not safe to share between threads.

    When it is full, the least doubtful tenth goes at once, so that the lines are written anew once for so many images; from then on
    only what is more doubtful than all that went comes in.

    Args:
        folder: Made when absent, for its owner's eyes alone; nothing else may lie there.
        most: Images.
        guard: What it names is taken out when the folder is opened; who puts an image in has asked it already.

    Raises:
        InputError: Something else lies there, or somebody else keeps images there.
    """

    def __init__(self, folder: Path, most: int, guard: Guard | None = None) -> None:
        if most < 1:
            raise InputError(f"at least 1 image must be kept, got {most}")
        self.folder, self.most, self._guard = folder, most, guard
        self._lists = None if guard is None else guard.digest
        self._lines: TextIO = io.StringIO()
        self.kept: dict[str, Kept] = {}
        self.floor = -1.0  # only what is more doubtful comes in
        self.pushed_out = 0  # images that went for more doubtful ones
        self._begin()

    def __len__(self) -> int:
        """Count the images."""
        return len(self.kept)

    def wants(self, doubt: float) -> bool:
        """Tell whether an image of so much doubt could come in."""
        if not self._still_there():
            self._begin()
        return doubt > self.floor

    def put(self, id_: str, suffix: str, data: bytes, served: dict[str, Any]) -> str:
        """Keep an image unless it is there already or others have more `doubt`; say which: `kept`, `copy` or `less_doubtful`."""
        wanted = self.wants(float(served["doubt"]))
        if id_ in self.kept:
            return "copy"
        new = Kept.of(f"{id_}{suffix}", served, self._lists)
        if not wanted or (len(self.kept) >= self.most and not self._make_room(new)):
            return "less_doubtful"
        try:
            self._write(new, data)
        except OSError:
            with contextlib.suppress(OSError):  # an image without a line would be one that nobody counts
                (self.folder / new.file).unlink(missing_ok=True)
            with contextlib.suppress(
                OSError
            ):  # half of the line may be there, so the folder is read again before the next image
                self.close()
            raise
        self.kept[id_] = new
        return "kept"

    def close(self) -> None:
        """Let go of the folder."""
        self._lines.close()

    def _write(self, new: Kept, data: bytes) -> None:
        beside = self.folder / f".{new.file}"  # hidden, so that no reader takes half of an image
        try:
            beside.write_bytes(data)
            beside.replace(self.folder / new.file)
        except OSError:
            with contextlib.suppress(OSError):
                beside.unlink(missing_ok=True)
            raise
        self._lines.write(new.line + "\n")
        self._lines.flush()

    def _make_room(self, new: Kept) -> bool:
        """Take the least doubtful tenth away; tell whether the new image is not of it."""
        ranked = sorted([*self.kept.values(), new], key=lambda one: -one.doubt)
        stay = ranked[: self.most - self.most // 10]
        gone = ranked[len(stay) :]
        self._rewrite(one for one in stay if one is not new)
        for one in gone:
            (self.folder / one.file).unlink(missing_ok=True)
        self.floor = gone[0].doubt
        self.pushed_out += len(gone) - (new in gone)
        return new in stay

    def _still_there(self) -> bool:
        """Tell whether the file of lines is the one that we write to: the folder may have been moved away, or emptied."""
        try:
            there, ours = os.stat(self.folder / LINES), os.fstat(self._lines.fileno())
        except (FileNotFoundError, ValueError):  # or it could not be opened the last time
            return False
        return (there.st_dev, there.st_ino) == (ours.st_dev, ours.st_ino)

    def _begin(self) -> None:
        """Open the folder, and know again what an earlier server kept there."""
        self.close()
        self.folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        names = {entry.name for entry in os.scandir(self.folder)}
        if strange := sorted(name for name in names if name != LINES and name[0] != "." and not OURS.fullmatch(name)):
            raise InputError(
                f"{self.folder}: {strange[0]!r} lies there, which is no image kept by a server; name a new folder"
            )
        lines = (self.folder / LINES).open("a+", encoding="utf-8")
        self._hold(lines)
        lines.seek(0)
        self._lines, self.floor = lines, -1.0
        found = [one for line in lines if (one := self._read(line)) and one.file in names]
        kept = [one for each in found if (one := self._looked_up(each))]
        self._rewrite(kept)
        # one that was killed can leave an image without its line; nobody would know what was thought of it
        images = {name for name in names if OURS.fullmatch(name.lstrip("."))}
        for name in images - {one.file for one in kept}:
            (self.folder / name).unlink(missing_ok=True)

    def _hold(self, lines: TextIO) -> None:
        import fcntl  # not everywhere, and a server that keeps nothing needs none

        try:
            fcntl.flock(lines, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            lines.close()
            raise InputError(
                f"{self.folder}: another server keeps its doubts there; give each a folder of its own"
            ) from error

    def _read(self, line: str) -> Kept | None:
        """Read a line; None for one that a kill has torn.

        Raises:
            InputError: It is somebody else's.
        """
        try:
            row = json.loads(line)
        except ValueError:
            return None
        try:
            one = Kept(row["file_name"], float(row["served"]["doubt"]), line.rstrip("\n"))
            if OURS.fullmatch(one.file):
                return one
        except (ValueError, KeyError, TypeError):
            pass
        self.close()
        raise InputError(f"{self.folder / LINES}: not the file of a server that keeps its doubts; name a new folder")

    def _looked_up(self, one: Kept) -> Kept | None:
        """Return an image that is on none of the lists of today, None for another; each is looked up on each state of the lists once."""
        row = json.loads(one.line)
        if self._guard is None or row.get("hash_lists") == self._lists:
            return one
        try:
            listed = self._guard(decode((self.folder / one.file).read_bytes())) is not None
        except InputError:
            listed = True  # it was changed, and nobody knows what it is now
        return None if listed else Kept.of(one.file, row["served"], self._lists)

    def _rewrite(self, kept: Iterable[Kept]) -> None:
        """Write the lines of these images alone, whole or not at all, and hold the new file as the old one was held."""
        kept = list(kept)
        partial = self.folder / f".{LINES}"
        lines = partial.open("w", encoding="utf-8")
        try:
            self._hold(lines)
            lines.writelines(one.line + "\n" for one in kept)
            lines.flush()
            partial.replace(self.folder / LINES)
        except BaseException:
            lines.close()
            raise
        self.close()
        self._lines = lines
        self.kept = {one.id: one for one in kept}
