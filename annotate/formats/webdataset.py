"""WebDataset: tar archives that hold an image `<key>.<ext>` and its labels `<key>.json`.

Nothing of an archive is unpacked, so the paths in it cannot lead anywhere; `tilth/sources/shards.py` knows what shares a key.
"""

import io
import json
import tarfile
from collections.abc import Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import BinaryIO

from tilth.annotate.formats.parts.files import Files
from tilth.annotate.formats.parts.objects import SILENT, parse_row, said_of, to_row
from tilth.annotate.formats.parts.records import Entry, Found, Oddities
from tilth.annotate.formats.parts.texts import MAX_ITEM
from tilth.errors import InputError
from tilth.images import MAX_BYTES, SUFFIXES
from tilth.sources.shards import Member, Shard, images_of, leftover
from tilth.sources.walk import stem_of

SHARD_BYTES = 256 * 2**20
SHARD_IMAGES = 10_000
BLOCK = 512  # bytes; two blocks of zeros end an archive
EMPTY = tarfile.TarInfo("").tobuf(tarfile.USTAR_FORMAT)

LABELS = (".json", ".cls")

Group = dict[str, bytes]


class WebDataset:
    """Reads every `.tar` under a folder, or one."""

    def __init__(self, path: Path, odd: Oddities) -> None:
        self.root = path.parent if path.is_file() else path
        self.odd = odd
        self._files = (path.name,) if path.is_file() else Files(path, (".tar",))

    def count(self) -> int | None:
        """Archives do not tell."""
        return None

    def __iter__(self) -> Iterator[Found]:
        """Yield the images in the order of the archives."""
        for file in self._files:
            try:
                place = self._files.checked(file) if isinstance(self._files, Files) else self.root / file
                for key, group in self._groups(place, file):
                    yield self._found(f"{file}/{key}", file, group)
            except (InputError, tarfile.TarError, OSError, EOFError, OverflowError, ValueError) as error:
                yield Found(name=file, label_file=file, error=f"damaged archive: {error}")

    def _groups(self, place: Path, file: str) -> Iterator[tuple[str, Group]]:
        """Yield the parts that share a key; a part that is left out is noted."""
        if not _ends_well(place):
            self.odd.note("archive without its end, maybe cut short", file)
        with place.open("rb") as stream:
            shard = Shard(stream, file, self.odd)
            for key, members, _ in shard:
                images = images_of(members)
                labels = [member for member in members if member.part in LABELS]
                for member in members:
                    if member not in images and member not in labels:
                        self.odd.note(leftover(member.part), f"{file}/{member.name}")
                if len(images) > 1 and not any(image.part in SUFFIXES for image in images):
                    for image in images:  # names with dots that share but their beginning, as of photos by date
                        yield stem_of(image.name), self._read(stream, file, [image])
                    for member in labels:
                        self.odd.note(
                            "labels of several images of one key in an archive, left alone", f"{file}/{member.name}"
                        )
                else:
                    yield key, self._read(stream, file, [*images, *labels])
            if shard.damage:
                raise InputError(shard.damage)

    def _read(self, stream: BinaryIO, file: str, members: Sequence[Member]) -> Group:
        group = Group()
        for member in members:
            part = member.part if member.part in LABELS else f".{member.part.rpartition('.')[2]}"
            if part in group:
                self.odd.note("two parts of one name in an archive, the later left out", f"{file}/{member.name}")
            elif member.size > (MAX_ITEM if part in LABELS else MAX_BYTES):
                self.odd.note("part that is too large, left out", f"{file}/{member.name}")
            elif len(data := _bytes(stream, member)) < member.size:
                self.odd.note("part that the archive ends in, left out", f"{file}/{member.name}")
            else:
                group[part] = data
        return group

    def _found(self, name: str, file: str, group: Group) -> Found:
        parts = [part for part in group if part not in LABELS]
        try:
            row = parse_row(group[".json"]) if ".json" in group else {}
            if ".cls" in group:
                row["cls"] = group[".cls"].decode("utf-8-sig").strip()
            labels, more = said_of(row, file)
            if row and not (more["label_file"] or more["served"]):
                self.odd.note(SILENT, f"{name}: {', '.join(map(str, row))}")
        except UnicodeDecodeError:
            return Found(name=name, label_file=file, error=f"{name}.cls is not UTF-8 text")
        except InputError as error:
            return Found(name=name, label_file=file, error=str(error))
        if len(parts) != 1:
            more |= {"label_file": file, "error": f"expected one image under a key, got {len(parts)}"}
        else:
            name, more = name + parts[0], {**more, "read": partial(group.__getitem__, parts[0])}
        return Found(name=name, labels=labels.taken, left_out=labels.left_out, **more)


def _bytes(stream: BinaryIO, member: Member) -> bytes:
    stream.seek(member.at)
    return stream.read(member.size)


def _ends_well(place: Path) -> bool:
    with place.open("rb") as stream:
        size = stream.seek(0, io.SEEK_END)
        stream.seek(max(0, size - 2 * BLOCK))
        return size % BLOCK == 0 and not any(stream.read())


class WebDatasetWriter:
    """Writes `000000.tar`, `000001.tar`, …, each of at most 10,000 images or 256 MiB."""

    def __init__(self, folder: Path, categories: tuple[str, ...]) -> None:
        self.folder = folder
        self._shards, self._images, self._bytes = 0, 0, 0
        self._stream: BinaryIO | None = None

    def _room(self, size: int) -> BinaryIO:
        if self._images >= SHARD_IMAGES or (self._images and self._bytes + size > SHARD_BYTES):
            self.close()
        if self._stream is None:
            self._stream = (self.folder / f"{self._shards:06d}.tar").open("wb")
            self._shards, self._images, self._bytes = self._shards + 1, 0, 0
        return self._stream

    def add(self, entry: Entry) -> None:
        """Write an image and its labels."""
        data = entry.data or b""
        stream = self._room(len(data))
        stem = stem_of(entry.file)
        for name, part in ((entry.file, data), (f"{stem}.json", json.dumps(to_row(entry)).encode())):
            stream.write(_header(name, len(part)))
            stream.write(part)
            stream.write(bytes(-len(part) % BLOCK))
        self._images += 1
        self._bytes += len(data)

    def close(self) -> None:
        """Finish the archive."""
        if self._stream is not None:
            self._stream.write(bytes(2 * BLOCK))
            self._stream.close()
            self._stream = None


def _header(name: str, size: int) -> bytes:
    """Write the header of a file in an archive; `tarfile` takes ten times as long, as it allows for everything else.

    >>> tarfile.TarInfo.frombuf(_header("a.png", 3), "utf-8", "strict").size
    3
    """
    if len(name) > 100 or not name.isascii():
        info = tarfile.TarInfo(name)
        info.size = size
        return info.tobuf()
    block = bytearray(EMPTY)
    block[: len(name)] = name.encode()
    block[124:135] = b"%011o" % size
    block[148:154] = b"%06o" % (sum(block) + 8 * 32 - sum(block[148:156]))  # the sum counts itself as spaces
    return bytes(block)
