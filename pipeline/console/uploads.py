"""Files that a browser sends: every one hostile until it has been decoded. What is taken lies under `runs/uploads/<name>`.

An archive is read entry by entry with limits on what it unfolds to, whatever it says of itself. Images must decode; beside them only
label files are kept. What is refused is counted by reason, with an example of each, and the rest is taken.
"""

import json
import re
import stat
import unicodedata
import zipfile
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath
from typing import BinaryIO

from tilth.errors import InputError
from tilth.images import HEAD_BYTES, SUFFIXES, decode, is_image, kind_of
from tilth.sources.walk import APPLE, FOLDER_OF_APPLE, HIDDEN, LeftAlone

LABELS = (".json", ".jsonl", ".xml", ".txt", ".csv", ".yaml", ".yml")
FILE_BYTES = 32 * 2**20  # of one file, unfolded
ALL_BYTES = 2 * 2**30  # of all files of an upload, unfolded
MOST_FILES = 20_000
MOST_PARTS = 8  # folders in each other
NAME = re.compile(r"[A-Za-z0-9][\w.-]{0,63}")
CHUNK = 1 << 16


@dataclass
class Taken:
    """What became of an upload."""

    folder: Path
    images: int = 0
    labels: int = 0
    read_bytes: int = 0
    refused: LeftAlone = field(default_factory=LeftAlone)

    @property
    def reasons(self) -> list[str]:
        """One line a reason: how many, why, and the first."""
        return [f"{n} × {why}, as {self.refused.examples[why]}" for why, n in sorted(self.refused.counts.items())]


class Refused(Exception):
    """A file is not taken; the message says why, without its name."""


def place_of(uploads: Path, name: str) -> Path:
    """Return the folder of an upload of this name.

    Raises:
        InputError: The name could be no folder.
    """
    if not NAME.fullmatch(name):
        raise InputError(f"a set is named by letters, digits, '.', '-' and '_', got {name[:80]!r}")
    return uploads / name


def take(taken: Taken, name: str, stream: BinaryIO) -> None:
    """Take one file, or all that is in an archive, and note what is refused.

    Args:
        taken: Is counted into.
        name: As the browser says it.
        stream: Its bytes.
    """
    head = stream.read(4)
    stream.seek(0)
    if head == b"PK\x03\x04" or name.lower().endswith(".zip"):
        _unfold(taken, name, stream)
    else:
        _one(taken, name, stream)


def _one(taken: Taken, name: str, stream: BinaryIO) -> None:
    shown = repr(name[:120])
    try:
        parts = safe_parts(name)
        if taken.images + taken.labels >= MOST_FILES:
            raise Refused(f"more than {MOST_FILES:,} files")
        data = _read(stream, taken)
        kind = _checked(parts[-1], data)
        path = taken.folder.joinpath(*parts)
        if path.exists():
            raise Refused("a file of this name is there already")
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(data)
    except Refused as why:
        taken.refused.note(str(why), shown)
        return
    except (OSError, zipfile.BadZipFile, RuntimeError, NotImplementedError, EOFError) as error:
        taken.refused.note(f"cannot be read ({type(error).__name__})", shown)
        return
    taken.images += kind == "image"
    taken.labels += kind == "labels"


def safe_parts(name: str) -> tuple[str, ...]:
    """Return folders and name of a file below the upload.

    Raises:
        Refused: They lead elsewhere, or cannot be a file's.
    """
    text = unicodedata.normalize("NFC", name)
    path = PurePosixPath(text)
    if path.is_absolute() or "\\" in text or ":" in text or any(part in ("..", ".", "") for part in text.split("/")):
        raise Refused("its name leads out of the upload")
    if (
        not text.isprintable()
        or len(text.encode()) > 400
        or any(len(p.encode()) > 200 for p in path.parts)
        or len(path.parts) > MOST_PARTS
    ):
        raise Refused("its name cannot be a file's")
    if FOLDER_OF_APPLE in path.parts or path.name.startswith("._"):
        raise Refused(APPLE)
    if any(part.startswith(".") for part in path.parts):
        raise Refused(HIDDEN)
    return path.parts


def _read(stream: BinaryIO, taken: Taken) -> bytes:
    """Read a file no further than it may be long: an archive can say what it likes."""
    found = bytearray()
    while chunk := stream.read(CHUNK):
        found += chunk
        taken.read_bytes += len(chunk)  # of what is refused, too: many entries can be made of the same few bytes
        if len(found) > FILE_BYTES:
            raise Refused(f"larger than {FILE_BYTES // 2**20} MiB")
        if taken.read_bytes > ALL_BYTES:
            raise Refused(f"more than {ALL_BYTES // 2**30} GiB in all")
    return bytes(found)


def _checked(name: str, data: bytes) -> str:
    """Say whether a file is an image or holds labels.

    Raises:
        Refused: It is neither, or is not what its name says.
    """
    suffix = Path(name).suffix.lower()
    if suffix in LABELS:
        try:
            data.decode("utf-8")
        except UnicodeDecodeError as error:
            raise Refused("a label file that is no text") from error
        return "labels"
    kind = kind_of(data[:HEAD_BYTES])
    if suffix not in SUFFIXES and not is_image(kind):
        raise Refused("neither an image nor labels")
    try:
        decode(data)
    except InputError as error:
        raise Refused(f"no image that can be read: {str(error)[:120]}") from error
    return "image"


def _unfold(taken: Taken, name: str, stream: BinaryIO) -> None:
    try:
        archive = zipfile.ZipFile(stream)
        entries = archive.infolist()
    except (zipfile.BadZipFile, OSError, ValueError, NotImplementedError) as error:
        taken.refused.note(f"no archive that can be read ({type(error).__name__})", repr(name[:120]))
        return
    with archive:
        if len(entries) > MOST_FILES:
            taken.refused.note(f"an archive of more than {MOST_FILES:,} files", repr(name[:120]))
            return
        for entry in _files(entries, taken):
            try:
                with archive.open(entry) as inside:
                    _one(taken, entry.filename, inside)  # type: ignore[arg-type]  # it reads, which is all that is asked of it
            except (OSError, zipfile.BadZipFile, RuntimeError, NotImplementedError, ValueError) as error:
                taken.refused.note(f"cannot be unfolded ({type(error).__name__})", repr(entry.filename[:120]))


def _files(entries: list[zipfile.ZipInfo], taken: Taken) -> Iterator[zipfile.ZipInfo]:
    for entry in entries:
        if entry.is_dir():
            continue
        if stat.S_ISLNK(entry.external_attr >> 16):
            taken.refused.note("a link", repr(entry.filename[:120]))
            continue
        if entry.file_size > FILE_BYTES:
            taken.refused.note(f"larger than {FILE_BYTES // 2**20} MiB", repr(entry.filename[:120]))
            continue
        yield entry


def write_note(taken: Taken) -> None:
    """Leave what became of the upload beside it, for the page that follows."""
    told = {"images": taken.images, "labels": taken.labels, "refused": taken.reasons}
    taken.folder.parent.mkdir(parents=True, exist_ok=True)
    (taken.folder.parent / f"{taken.folder.name}.json").write_text(json.dumps(told), encoding="utf-8")
