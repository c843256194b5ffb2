"""The world of people on disk: pictures in albums, boxes as COCO, and who is who apart.

images/<split>/000000.png    train, unlabelled, calibration, test
annotations.json             boxes of face, body and clothing, each with the score that a detector would give it
people.jsonl                 who is who: {"id", "file", "person", "album", "split", "role"}, and what `train.person` reads of it
truth.jsonl                  the same with style, boxes, what lies, and whether a person of the test is one to know

Nobody is in two splits, so no album is either. Of calibration and test the first albums are references, the others are asked about.
"""

import json
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tilth.data.files import folder_beside
from tilth.errors import InputError
from tilth.images import encode_png, image_id
from tilth.starter.persons.albums import Shot, album, shot
from tilth.starter.persons.drawing import SIDE

PARTS = ("face", "body", "clothing")
REFERENCE, QUERY = "reference", "query"


@dataclass(frozen=True, kw_only=True)
class People:
    """How many there are.

    Args:
        train: People to learn from; as many pictures of others are unlabelled.
        calibration: People to learn fusion and threshold from.
        test: People to measure with, of whom every second is known.
        albums: Of each person of the train split.
        references: Albums of each other person that are references.
        queries: Albums of each other person that are asked about.
        shots: Pictures in an album.
        seed: Another one gives other people.
    """

    train: int = 160
    calibration: int = 160
    test: int = 160
    albums: int = 5
    references: int = 3
    queries: int = 4
    shots: int = 2
    seed: int = 0

    def __post_init__(self) -> None:
        """Check the numbers.

        Raises:
            InputError: One is too small.
        """
        for name in ("train", "calibration", "test", "albums", "references", "queries", "shots"):
            if getattr(self, name) < 2 - (name in ("references", "queries", "shots")):
                raise InputError(f"{name} must be at least 2, got {getattr(self, name)}")

    @property
    def total(self) -> int:
        """Number of pictures."""
        train = self.train * self.albums * self.shots
        return train + train // 2 + (self.calibration + self.test) * (self.references + self.queries) * self.shots

    def rows(self) -> Iterator[tuple[dict[str, Any], Shot]]:
        """Draw every picture, with what is true of it."""
        for number in range(self.train):
            yield from self._album("train", "train", number, range(self.albums), self.train)
        for number in range(self.train * self.albums // 2):
            yield from self._album("unlabelled", "unlabelled", number, range(1), self.train * self.albums // 2)
        both = self.references + self.queries
        for split, people in (("calibration", self.calibration), ("test", self.test)):
            for number in range(people):
                yield from self._album(split, REFERENCE, number, range(self.references), people)
                yield from self._album(split, QUERY, number, range(self.references, both), people)

    def _album(
        self, split: str, role: str, number: int, which: range, people: int
    ) -> Iterator[tuple[dict[str, Any], Shot]]:
        for index in which:
            of = album(self.seed, split, number, index, people)
            for k in range(self.shots):
                one = shot(of, k, self.seed)
                known = {"known": number % 2 == 0} if split == "test" else {}
                told = (
                    {"person": one.person, "album": one.album} if split != "unlabelled" else {"person": "", "album": ""}
                )
                yield {**told, "split": split, "role": role, **known}, one


def write_people(out: Path, people: People, advance: Callable[[int], None] = lambda n: None) -> int:
    """Write the world, whole or not at all, and return the number of pictures.

    Raises:
        InputError: `out` is there.
    """
    if out.exists():
        raise InputError(f"{out} is there already; name another --out")
    coco: dict[str, list[dict[str, Any]]] = {
        "images": [],
        "annotations": [],
        "categories": [{"id": k + 1, "name": n} for k, n in enumerate(PARTS)],
    }
    lines: list[dict[str, Any]] = []
    with folder_beside(out) as partial:
        for row, one in people.rows():
            place = partial / "images" / str(row["split"])
            place.mkdir(parents=True, exist_ok=True)
            name = f"images/{row['split']}/{len(lines):06d}.png"
            (partial / name).write_bytes(encode_png(one.image))
            coco["images"].append({"id": len(lines) + 1, "file_name": name, "width": SIDE, "height": SIDE})
            for part, ((x0, y0, x1, y1), sure) in one.boxes.items():
                told = {
                    "id": len(coco["annotations"]) + 1,
                    "image_id": len(lines) + 1,
                    "category_id": PARTS.index(part) + 1,
                }
                box = [x0, y0, round(x1 - x0, 1), round(y1 - y0, 1)]
                coco["annotations"].append({**told, "bbox": box, "area": box[2] * box[3], "iscrowd": 0, "score": sure})
            boxes = {part: [*box, sure] for part, (box, sure) in one.boxes.items()}
            more = {"style": one.style, "back": one.back, "boxes": boxes, "lies": list(one.lies)}
            lines.append({"id": image_id(one.image), "file": name, **row, **more})
            advance(1)
        (partial / "annotations.json").write_text(json.dumps(coco))
        plain = ("id", "file", "person", "album", "split", "role")
        (partial / "truth.jsonl").write_text("".join(json.dumps(row) + "\n" for row in lines))
        told_people = ({key: row[key] for key in plain} for row in lines if row["person"] and row["split"] != "test")
        (partial / "people.jsonl").write_text("".join(json.dumps(row) + "\n" for row in told_people))
    return len(lines)
