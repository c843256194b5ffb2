"""WebDataset archives: which members of a tar are one sample, for mining and import alike.

The key of a member is its path up to the first dot of its last part, with the folders, and these may have dots; what follows the dot
is the part of the sample that it holds. Members of one key need not lie side by side. Nothing is unpacked: headers are read, and
where the bytes lie is remembered in a temporary database, so that an archive of a million members takes no memory.

Source: https://github.com/webdataset/webdataset, `base_plus_ext` in tariterators.py
Differs: a leading `./` and the case of a part mean nothing, and a part may lie anywhere in the archive.
"""

import tarfile
from collections.abc import Iterator, Sequence
from contextlib import closing
from itertools import groupby
from typing import BinaryIO, NamedTuple, Protocol

from tilth.images import HEAD_BYTES, SUFFIX_OF, SUFFIXES, is_image, kind_of
from tilth.sources.scratch import scratch
from tilth.sources.walk import hidden

DAMAGE = (
    tarfile.TarError,
    OSError,
    EOFError,
    OverflowError,
    ValueError,
)  # what tarfile makes of an archive that is none
LINK = "link or device in an archive, skipped"
LABELS = ".json"


class Notes(Protocol):
    """Takes notes of what is left alone."""

    def note(self, kind: str, where: str) -> None:
        """Count one."""
        ...


class Member(NamedTuple):
    """A file in an archive.

    `header` and `at` are the bytes where its header and its content begin. `part` begins with a dot, and is in lower case.
    """

    key: str
    part: str
    name: str
    header: int
    at: int
    size: int


class Group(NamedTuple):
    """The members of one key, in their order; `first` is where to begin to look for its labels."""

    key: str
    members: list[Member]
    first: int


def key_of(name: str) -> tuple[str, str]:
    """Split a path at the first dot of its last part.

    >>> key_of("./train/0001.PNG"), key_of("a.b/0001.seg.png"), key_of("a.b/0001")
    (('train/0001', '.png'), ('a.b/0001', '.seg.png'), ('a.b/0001', ''))
    """
    folder, slash, last = name.removeprefix("./").rpartition("/")
    stem, dot, rest = last.partition(".")
    return folder + slash + stem, (dot + rest).lower()


def images_of(members: Sequence[Member]) -> list[Member]:
    """Return the images of a sample: those whose part is a suffix of images alone, else those whose part ends with one.

    So `0001.seg.png` beside `0001.jpg` is no image of its own, and `holiday.2020.05.jpg` is one.
    """
    plain = [member for member in members if member.part in SUFFIXES]
    return plain or [member for member in members if member.part.endswith(SUFFIXES)]


class Shard:
    """The samples of an archive.

    Args:
        stream: The archive.
        name: Of the archive, for the notes.
        notes: Takes notes of members that belong to no sample.
    """

    def __init__(self, stream: BinaryIO, name: str, notes: Notes) -> None:
        self._stream, self._name, self._notes = stream, name, notes
        self.damage = ""  # what ended the reading of headers, if not the end of the archive

    def __iter__(self) -> Iterator[Group]:
        """Yield the samples in the order of their first members; of a damaged archive, those that can be found."""
        with closing(scratch()) as rows:
            rows.execute("CREATE TABLE members (number INTEGER PRIMARY KEY, key, part, name, header, at, size)")
            rows.execute("BEGIN")
            try:
                for member in self._members():
                    rows.execute("INSERT INTO members VALUES (NULL, ?, ?, ?, ?, ?, ?)", member)
            except DAMAGE as error:
                self.damage = str(error) or type(error).__name__
            rows.execute("COMMIT")
            rows.execute("CREATE TABLE keys AS SELECT key, min(number) AS first FROM members GROUP BY key")
            found = rows.execute(
                "SELECT keys.key, part, name, header, at, size, number FROM keys JOIN members USING (key) ORDER BY first, number"
            )
            for key, group in groupby(found, lambda row: row[0]):
                told = list(group)
                members = [Member(*row[:-1]) for row in told]
                yield Group(key, members, _first(members, together=told[-1][-1] - told[0][-1] == len(told) - 1))

    def _members(self) -> Iterator[Member]:
        # a block that is no header is passed over, so that the members behind it are found, and archives that were joined
        with closing(tarfile.open(fileobj=self._stream, mode="r:", ignore_zeros=True)) as archive:
            expected = 0
            while (info := archive.next()) is not None:
                archive.members.clear()  # type: ignore[attr-defined]  # or it remembers all of them
                self._check(expected, info.offset)
                expected = archive.offset
                if info.isdir():
                    continue
                if why := unusable(info):
                    self._notes.note(why, f"{self._name}/{info.name}")
                    continue
                key, part = key_of(info.name)
                if not part and is_image(kind := self._kind(info)):
                    part = SUFFIX_OF[kind]
                yield Member(key, part, info.name, info.offset, info.offset_data, info.size)
            self._check(expected, None)

    def _check(self, expected: int, at: int | None) -> None:
        """Take note of damage where there should have been a header, or the zeros of an end, and is neither."""
        if at == expected:
            return
        self._stream.seek(expected)
        block = self._stream.read(tarfile.BLOCKSIZE)
        if any(block) or 0 < len(block) < tarfile.BLOCKSIZE:
            self.damage = f"no header at byte {expected}; what lies there is lost"

    def _kind(self, info: tarfile.TarInfo) -> str:
        self._stream.seek(info.offset_data)
        return kind_of(self._stream.read(min(HEAD_BYTES, info.size)))


def find_part(stream: BinaryIO, first: int, key: str, part: str, most: int) -> bytes:
    """Return a part of a sample, reading on from a header of it until another sample begins; empty when there is none.

    Args:
        stream: The archive.
        first: Where to begin, from `Group.first`.
        key: Of the sample.
        part: Which is wanted.
        most: Bytes that it may have.
    """
    stream.seek(first)
    try:
        with tarfile.open(fileobj=stream, mode="r|") as archive:
            for info in archive:
                if info.isdir() or unusable(info):
                    continue
                if key_of(info.name)[0] != key:
                    break
                if key_of(info.name)[1] == part and info.size <= most and (file := archive.extractfile(info)):
                    return file.read()
    except DAMAGE:
        pass
    return b""


def unusable(info: tarfile.TarInfo) -> str:
    """Say why a member is part of no sample; empty when it may be one."""
    if not info.isfile():
        return LINK
    if info.issparse():
        return "file with holes in an archive, skipped"
    folders = (part for part in info.name.split("/") if part not in (".", ".."))
    if kind := next(filter(None, map(hidden, folders)), ""):
        return f"{kind} file"
    try:
        info.name.encode()
    except UnicodeEncodeError:
        return "name that is not Unicode"
    return ""


def leftover(part: str) -> str:
    """Name the kind of a part that nobody reads."""
    return f"{part or 'nameless'} part of an archive, which is not read"


def _first(members: Sequence[Member], *, together: bool) -> int:
    """Return the header from which on the labels are met before a member of another key."""
    labels = next((member for member in members if member.part == LABELS), members[0])
    return (members[0] if together else labels).header
