"""What a row of a table says of a sound, as claims: names of what is heard in it, with seconds where the table has them."""

from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

from tilth.annotate.formats.parts.records import inside
from tilth.annotate.texts.rows import Row
from tilth.annotate.texts.taking import Span, TextTaker, split_of
from tilth.claims import Json
from tilth.data.where import LEFT_OUT
from tilth.engine.intake import Failed
from tilth.errors import InputError
from tilth.samples import SOUND, SPLITS, NewSample
from tilth.sounds import MAX_BYTES, decode_sound

FILES = ("file_name", "file", "path", "audio", "filename", "wav")  # columns that name the sound
SPLIT_NAMES = {"validation": "val"}


@dataclass(kw_only=True)
class SoundTaker(TextTaker):
    """Turns rows that name sounds into samples, and keeps count.

    Args:
        root: Folder that the sounds lie in.
        named: Paths of sounds that a table spoke of, relative to the root.
        slices: Columns that are kept as `sound.<column>`.
    """

    whole_spans: ClassVar[bool] = False  # in seconds
    root: Path
    named: set[str]
    slices: tuple[str, ...] = ()

    def decided(self) -> tuple[str, ...]:
        """Name the categories that are heard."""
        return tuple(category.name for category in self.policy.heard)

    def take(self, row: Row) -> NewSample | Failed:
        """Read one row and its sound, and say what is claimed about it."""
        where = f"{row.file}#{row.number}"
        try:
            if row.error:
                raise InputError(row.error)
            file = next((str(row.cells[name]) for name in FILES if row.cells.get(name)), "")
            if not file:
                raise InputError(
                    f"no column that names the sound ({', '.join(FILES)}); there are: {', '.join(map(str, row.cells))[:200]}"
                )
            path = Path(row.file).parent / file
            place = inside(self.root, str(path))
            self.named.add(str(place.relative_to(self.root.resolve())))
            where = f"{where} ({file})"
            data = _read(place)
            seconds = decode_sound(data).seconds
            claims, doubts = self.claims(self.said(row, where), row, lambda span: _within(span, seconds))
        except InputError as error:
            return Failed(name=where, error=str(error))
        columns: dict[str, Json] = {
            "sound.seconds": round(seconds, 4),
            **({LEFT_OUT: sorted(doubts)} if doubts else {}),
        }
        if split := self.split or split_of(row) or _folder_split(row.file):
            columns["split"] = split
        columns |= {f"sound.{name}": self.cell(row.cells, name) for name in self.slices if self.cell(row.cells, name)}
        origin: dict[str, Json] = {**self.origin, "source": f"{self.called}/{path}"}
        if licence := self.cell(row.cells, "licence"):
            origin["licence"] = licence
        if parent := self.cell(row.cells, self.how.parent or "of"):
            origin["of"] = parent
        return NewSample(media=SOUND, data=data, origin=origin, claims=tuple(claims), columns=columns)


def _read(place: Path) -> bytes:
    try:
        if (size := place.stat().st_size) > MAX_BYTES:
            raise InputError(f"sound file of {size / 2**20:.0f} MiB, the limit is {MAX_BYTES // 2**20} MiB")
        return place.read_bytes()
    except OSError as error:
        raise InputError(f"cannot be read: {error.strerror}") from error


def _within(span: Span, seconds: float) -> Span:
    """Check that a place lies in the sound; tables round its end."""
    start, end = span
    if not 0 <= start < end <= seconds + 0.05:
        raise InputError(f"from {start:g} s to {end:g} s is not within the {seconds:.2f} s of the sound")
    return start, min(end, seconds)


def _folder_split(file: str) -> str:
    """Return the split that the folder of a table is called by, as `datasets` has it; empty when none is."""
    name = file.rpartition("/")[0].rpartition("/")[2].lower()
    name = SPLIT_NAMES.get(name, name)
    return name if name in SPLITS else ""
