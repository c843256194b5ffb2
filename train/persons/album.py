"""Who is who: the lines of a people file beside the samples of a dataset, checked so that nobody and no album is in two splits."""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from tilth.data.dataset import Dataset
from tilth.errors import InputError
from tilth.samples import Sample
from tilth.train.persons.cues import Seen, people_in, see

SPLITS = ("train", "calibration")
ROLES = ("train", "reference", "query")


@dataclass(frozen=True, kw_only=True)
class Line:
    """One picture: whom it shows, on which occasion, and what it is for."""

    id: str
    person: str
    album: str
    split: str
    role: str


def read_people(path: Path) -> list[Line]:
    """Read a people file.

    Raises:
        InputError: A line is wrong, or a person or an album is in two splits.
    """
    lines: list[Line] = []
    for number, text in enumerate(path.read_text(encoding="utf-8").splitlines(), 1):
        try:
            row = json.loads(text)
            line = Line(**{name: str(row[name]) for name in ("id", "person", "album", "split", "role")})
        except (ValueError, KeyError, TypeError) as error:
            raise InputError(
                f"{path}:{number}: expected id, person, album, split and role, as in JSON; {error!r}"
            ) from error
        if line.split not in SPLITS or line.role not in ROLES:
            wanted = f"split {' or '.join(SPLITS)} and role {', '.join(ROLES)}"
            raise InputError(f"{path}:{number}: expected {wanted}; got {line.split!r} and {line.role!r}")
        lines.append(line)
    for name in ("person", "album"):
        first: dict[str, str] = {}
        for line in lines:
            if first.setdefault(getattr(line, name), line.split) != line.split:
                raise InputError(
                    f"{path}: the {name} {getattr(line, name)!r} is in two splits; what is learned must not be what it is judged by"
                )
    return lines


def seen_in(sample: Sample, side: int) -> list[Seen]:
    """Cut out every person of a sample by the boxes that it has; the largest first."""
    image = sample.pixels()
    found = []
    for one in people_in(sample.truth.labels):
        boxes = {part: (claim.box_xyxy, claim.score) for part, claim in one.items() if claim.box_xyxy is not None}
        found.append(see(image, boxes, side))
    return found


def largest(dataset: Dataset, ids: Sequence[str], side: int) -> list[Seen]:
    """Cut out the largest person of each of some samples; nothing is seen where nobody is boxed."""
    found: list[Seen] = []
    for start in range(0, len(ids), 256):
        for sample in dataset.read(ids[start : start + 256]):
            found.append(next(iter(seen_in(sample, side)), Seen()))
    return found
