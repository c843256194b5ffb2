"""What pictures show of somebody: an album is one occasion, in one place, in one style and mostly in one's own clothes.

Some cues lie: people visit each other, borrow clothes, change them, turn their backs and stand behind things.
"""

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from tilth.geometry import Box
from tilth.starter.persons.drawing import SIDE, Pose, draw
from tilth.starter.persons.people import CLOTH, RGB, Outfit, Person, Room, outfit, person, room
from tilth.starter.world.scene import STYLES

SHARES = (0.55, 0.15, 0.15, 0.15)  # of the styles
AWAY, VISITING = 0.35, 0.1  # of the albums are in a public place, and in somebody else's room
UNIFORM, BORROWED = 0.12, 0.08  # of the albums show clothes that many have, and somebody else's
PUBLIC = 12  # public places, and as many uniforms
TALLEST = (0.75, 2.6)  # of a person in parts of the image: from the whole of them to a portrait
SEEN = 0.25  # of a part must be visible for it to have a box


@dataclass(frozen=True, kw_only=True)
class Shot:
    """A picture with its truth.

    Args:
        image: `(SIDE, SIDE, 3)`.
        person: Who it shows.
        album: Of that person.
        style: One of the four.
        boxes: Of face, body and clothing, as far as they can be seen, in pixels, each with how sure a detector would be of it.
        lies: Cues that speak for somebody else.
        back: Whether they are seen from behind.
    """

    image: npt.NDArray[np.uint8]
    person: str
    album: str
    style: str
    boxes: dict[str, tuple[Box, float]]
    lies: tuple[str, ...]
    back: bool


@dataclass(frozen=True, kw_only=True)
class Album:
    """One occasion."""

    name: str
    who: Person
    worn: Outfit
    where: Room
    style: str
    lies: tuple[str, ...]


def album(seed: int, split: str, number: int, index: int, people: int) -> Album:
    """Draw the occasion of an album; who is visited and whose clothes are borrowed is of the same split.

    Args:
        seed: Of the world.
        split: Of the person.
        number: Of the person.
        index: Of the album.
        people: How many there are in the split.
    """
    rng = np.random.default_rng((4_200, seed, *split.encode(), number, index))
    who = person(seed, split, number)
    other = person(seed, split, int((number + rng.integers(1, max(2, people))) % people))
    style = str(rng.choice(STYLES, p=SHARES))
    worn, where, lies = (
        who.wardrobe[int(rng.integers(len(who.wardrobe)))],
        who.rooms[int(rng.integers(len(who.rooms)))],
        [],
    )
    chance = rng.random()
    if chance < AWAY:
        where = room(np.random.default_rng((4_300, int(rng.integers(PUBLIC)))))
    elif chance < AWAY + VISITING:
        where, lies = other.rooms[int(rng.integers(len(other.rooms)))], ["scene"]
    chance = rng.random()
    if chance < UNIFORM:
        worn = outfit(np.random.default_rng((4_400, int(rng.integers(PUBLIC)))))
    elif chance < UNIFORM + BORROWED:
        worn, lies = other.wardrobe[int(rng.integers(len(other.wardrobe)))], [*lies, "clothing"]
    return Album(name=f"{who.name}-{index:02d}", who=who, worn=worn, where=where, style=style, lies=tuple(lies))


def _pose(rng: np.random.Generator) -> Pose:
    height = float(np.exp(rng.uniform(*np.log(TALLEST))))
    below = max(0.0, height - 0.93)  # what does not fit lies below the picture
    hidden: list[tuple[tuple[float, float, float, float], RGB]] = []
    if rng.random() < 0.3:
        x, w = float(rng.uniform(0.15, 0.75)), float(rng.uniform(0.1, 0.3))
        y = float(rng.uniform(0.0, 0.8))
        hidden.append(((x, y, x + w, y + float(rng.uniform(0.15, 0.5))), CLOTH[int(rng.integers(len(CLOTH)))]))
    return Pose(
        height=height,
        foot=(float(rng.uniform(0.3, 0.7)), 0.96 + below + float(rng.uniform(-0.02, 0.03))),
        back=bool(rng.random() < 0.22),
        turn=float(rng.uniform(-0.8, 0.8)),
        sway=tuple(float(v) for v in (*rng.normal(0, 0.22, 4), rng.normal(0, 0.04))),  # type: ignore[arg-type]
        smile=float(rng.uniform(-0.6, 1)),
        hidden=tuple(hidden),
        light=float(rng.uniform(0.85, 1.1)),
        blur=float(rng.choice([0.0, 0.6, 1.3], p=(0.75, 0.17, 0.08))),
    )


def shot(of: Album, index: int, seed: int) -> Shot:
    """Draw picture `index` of an album."""
    rng = np.random.default_rng((4_500, seed, *of.name.encode(), index))
    pose = _pose(rng)
    image, outlines = draw(of.who, of.worn, of.where, pose, of.style, rng)
    boxes = {}
    for name, points in outlines.items():
        (x0, y0), (x1, y1) = points.min(0), points.max(0)
        left, top, right, bottom = (float(v) for v in np.clip((x0, y0, x1, y1), 0, SIDE))
        if right - left < 4 or bottom - top < 4:
            continue
        area = (right - left) * (bottom - top)
        covered = sum(
            max(0.0, min(right, b[2] * SIDE) - max(left, b[0] * SIDE)) * max(0.0, min(bottom, b[3] * SIDE) - max(top, b[1] * SIDE))
            for b, _ in pose.hidden
        )  # fmt: skip
        seen = 1 - min(1.0, covered / area)
        seen *= 1.0 if name == "body" else area / max(1e-6, float((x1 - x0) * (y1 - y0)))
        if seen >= SEEN:
            sure = float(np.clip(0.25 + 0.7 * seen + rng.normal(0, 0.08), 0.05, 0.99))
            boxes[name] = ((round(left, 1), round(top, 1), round(right, 1), round(bottom, 1)), round(sure, 3))
    lies = tuple(cue for cue in of.lies if cue == "scene" or cue in boxes)
    return Shot(image=image, person=of.who.name, album=of.name, style=of.style, boxes=boxes, lies=lies, back=pose.back)
