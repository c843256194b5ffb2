"""One image, text or sound that is ours, with all that is claimed about it."""

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property

from tilth.claims import PEOPLE, Claim, Json, State, Truth, resolve
from tilth.errors import InputError
from tilth.images import Image, Luma, decode, decode_luma, image_id
from tilth.sounds import Sound, decode_sound, sound_id
from tilth.texts import decode_text, text_id

IMAGE, TEXT, SOUND = "image", "text", "sound"
SPLITS = ("train", "val", "test")
RANK = (
    "made.rank"  # column of a generated image: its place among all, the best judged of each category and style in turn
)
SUSPECTED = "model:suspected"  # source of a box that nobody claims
EVEN = 0.5  # a chance above says yes
SHOWN = 0.3  # a chance from which on a suspected box is drawn for people: to draw one takes them twenty times as long as to reject one


def _identify_image(data: bytes) -> tuple[str, tuple[int, int]]:
    image = decode(data)
    return image_id(image), (image.shape[1], image.shape[0])


def _identify_text(data: bytes) -> tuple[str, tuple[int, int]]:
    text = decode_text(data)
    return text_id(text), (len(text), text.count("\n") + 1)


def _identify_sound(data: bytes) -> tuple[str, tuple[int, int]]:
    sound = decode_sound(data)
    return sound_id(sound), (len(sound.samples), sound.rate)


MEDIA = {IMAGE: _identify_image, TEXT: _identify_text, SOUND: _identify_sound}
"""The kinds of samples: from a file to the id of what it holds and its size, as `Sample` has them; else InputError."""


def taken_by(of: object) -> tuple[str, ...]:
    """Return which kinds of samples a step or a mapper takes, as its `media` says; images alone unless it says so."""
    return tuple(getattr(of, "media", (IMAGE,)))


@dataclass(frozen=True, kw_only=True)
class Sample:
    """One image, text or sound of a dataset.

    Args:
        id: SHA-256 of its pixels and size, of its normalised characters, or of its samples and their rate.
        media: What it is: `image`, `text` or `sound`.
        size_wh: Width and height in pixels; of a text, its characters and its lines; of a sound, its samples and their rate in Hz.
        data: The file as it came; empty when the scan left files out.
        origin: Where it comes from: `source`, `licence`, `step`, and for made images `parents`, `prompt`, `seed`, `model`.
        claims: All statements about it, oldest first.
        columns: What steps have measured, by column name.
        resolved: The labels that the claims add up to, when somebody worked that out before.
        drops: `(step, reason)` of every step that left it out; it is in when there is none.
    """

    id: str
    media: str = IMAGE
    size_wh: tuple[int, int]
    data: bytes = b""
    origin: Mapping[str, Json] = field(default_factory=dict)
    claims: Sequence[Claim] = ()
    columns: Mapping[str, Json] = field(default_factory=dict)
    drops: tuple[tuple[str, str], ...] = ()
    resolved: Truth | None = field(default=None, compare=False, repr=False)

    def pixels(self) -> Image:
        """Decode the image, `(height, width, 3)`.

        Raises:
            InputError: The scan left images out, the file is damaged, or it is no image.
        """
        return decode(self._file(IMAGE))

    def text(self) -> str:
        """Return the normalised text.

        Raises:
            InputError: The scan left texts out, or it is no text.
        """
        return decode_text(self._file(TEXT))

    def sound(self) -> Sound:
        """Decode the sound, mono, at the rate of its file.

        Raises:
            InputError: The scan left sounds out, the file is damaged, or it is no sound.
        """
        return decode_sound(self._file(SOUND))

    def luma(self, *, at_least: int) -> Luma:
        """Decode the brightness, `(height, width)`, the shorter side `at_least` pixels or what the image has.

        Raises:
            InputError: As `pixels`.
        """
        return decode_luma(self._file(IMAGE), at_least=at_least)

    def _file(self, wanted: str) -> bytes:
        if self.media != wanted:
            raise InputError(f"sample {self.id[:12]} is of media {self.media}, and {wanted} was asked for")
        if not self.data:
            raise InputError(f"sample {self.id[:12]} was read without its {wanted}")
        return self.data

    @property
    def truth(self) -> Truth:
        """The resolved labels."""
        return self.resolved or resolve(self.claims)

    @property
    def state(self) -> State:
        """What the claims add up to."""
        return self.truth.state

    def to_ask(self, names: Iterable[str]) -> tuple[str, ...]:
        """Return those of the categories that people can still be asked for.

        They are none where the image as a whole is in question: it is disputed, rejected, or a person took back what they said.
        """
        if not self.labelled_by_people:
            return tuple(names)
        truth = self.truth
        return truth.unasked(names, PEOPLE) if truth.state in (State.REVIEWED, State.CONFIRMED_EMPTY) else ()

    @cached_property
    def turns(self) -> dict[str, int]:
        """Return the steps that looked at the labels again, each with its number: they leave `<step>.turn`, which counts from one."""
        found = ((name, self.columns[name]) for name in self.columns if name.endswith(".turn"))
        return {name.removesuffix(".turn"): number for name, number in found if isinstance(number, int)}

    @property
    def chances(self) -> Mapping[str, float]:
        """How likely what is said about each category is to be right, as the last step that looked at labels again says; else empty.

        Such a step leaves `<step>.right`, by category.
        """
        return self._last_look("right")

    @property
    def presence(self) -> Mapping[str, float]:
        """How likely the image is to show each category, as the last step that looked at labels again says; else empty.

        Such a step leaves `<step>.present`, by category. What people said of the image it does not know.
        """
        return self._last_look("present")

    @property
    def doubts(self) -> tuple[Claim, ...]:
        """Boxes that may be missing, each with its chance as its score, as the last step that looked at labels again says.

        Nobody claims them. Such a step leaves `<step>.suspected`: rows of category, chance and box. What people decided is in doubt no
        more.
        """
        rows = self.columns.get(f"{self.last_turn}.suspected")
        looked, found = self.truth.looked, list[Claim]()
        for row in rows if isinstance(rows, list | tuple) else ():
            if isinstance(row, list | tuple) and looked.get(str(row[0])) not in PEOPLE:
                x0, y0, x1, y1 = (float(str(value)) for value in row[2:6])
                chance = float(str(row[1]))
                found.append(Claim(category=str(row[0]), score=chance, box_xyxy=(x0, y0, x1, y1), source=SUSPECTED))
        return tuple(found)

    @property
    def suspected(self) -> tuple[Claim, ...]:
        """Boxes that may well be missing; a person who is asked about the image finds them drawn."""
        return tuple(claim for claim in self.doubts if claim.score >= SHOWN)

    @property
    def last_turn(self) -> str:
        """Name of the last step that looked at the labels again; empty when none did."""
        turns = self.turns
        return max(turns, key=lambda step: turns[step], default="")

    def _last_look(self, column: str) -> Mapping[str, float]:
        found = self.columns.get(f"{self.last_turn}.{column}")
        return {name: float(str(chance)) for name, chance in found.items()} if isinstance(found, Mapping) else {}

    @property
    def called(self) -> str:
        """What a person knows it by: the beginning of its id, and its source."""
        source = str(self.origin.get("source") or "")
        return f"{self.id[:12]} ({source})" if source else self.id[:12]

    @property
    def split(self) -> str:
        """`train`, `val`, `test`, or empty while nobody has split the dataset."""
        return str(self.columns.get("split") or "")

    @property
    def labelled_by_people(self) -> bool:
        """Whether a person or an imported file has said anything about it."""
        return any(claim.kind in PEOPLE for claim in self.claims)

    @property
    def rank(self) -> float:
        """The place of a generated image among all, the best first; infinite while nobody has judged it."""
        return float(str(self.columns.get(RANK, "inf")))

    @property
    def made(self) -> bool:
        """Whether the image was generated."""
        return is_made(self.origin)


@dataclass(frozen=True, kw_only=True)
class NewSample:
    """An image, a text or a sound on its way into a dataset; `data` is the file."""

    data: bytes
    media: str = IMAGE
    origin: Mapping[str, Json]
    claims: tuple[Claim, ...] = ()
    columns: Mapping[str, Json] = field(default_factory=dict)

    def identify(self) -> tuple[str, tuple[int, int]]:
        """Decode the file and return its id and size; see `MEDIA`.

        Raises:
            InputError: It holds nothing of its kind, or is damaged.
        """
        return MEDIA[self.media](self.data)


@dataclass(frozen=True, kw_only=True)
class Result:
    """What a mapper says of one sample: claims, columns, and a reason if it leaves the sample out."""

    claims: tuple[Claim, ...] = ()
    columns: Mapping[str, Json] = field(default_factory=dict)
    dropped: str = ""


def is_made(origin: Mapping[str, Json]) -> bool:
    """Tell whether an image of this origin was generated: it has parents or a prompt, or its file says so."""
    return bool(origin.get("parents") or origin.get("prompt") or origin.get("digital_source_type"))


UNKNOWN_LICENCE = "unknown"  # one that nobody told


def join_licences(*licences: str) -> str:
    """Return the licence of what several licences bind, as SPDX writes it.

    >>> join_licences("CC-BY-4.0", "", "openrail++", "CC-BY-4.0")
    'CC-BY-4.0 AND openrail++'
    >>> join_licences("openrail++", "MIT OR 0BSD"), join_licences("MIT OR 0BSD")
    ('openrail++ AND (MIT OR 0BSD)', 'MIT OR 0BSD')
    """
    parts = dict.fromkeys(part for licence in licences for part in licence.strip().split(" AND ") if part)
    whole = [f"({part})" if " OR " in part and not part.startswith("(") else part for part in parts]
    return " AND ".join(dict.fromkeys(whole)) if len(whole) > 1 else "".join(parts)


def origin_text(origin: Mapping[str, Json]) -> str:
    """Write an origin in the one way that makes equal origins equal text."""
    return json.dumps(origin, sort_keys=True, ensure_ascii=False)
