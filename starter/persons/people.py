"""Who there is: drawn adults, made up from a number, each with a face, a build, a habit of standing, a wardrobe and rooms of their own."""

from dataclasses import dataclass

import numpy as np

RGB = tuple[int, int, int]
SKIN: tuple[RGB, ...] = ((250, 222, 196), (236, 190, 150), (205, 150, 105), (160, 105, 70), (110, 72, 50))
HAIR: tuple[RGB, ...] = ((40, 32, 30), (92, 58, 36), (150, 100, 55), (225, 190, 110), (170, 70, 40), (185, 185, 190))
CLOTH: tuple[RGB, ...] = (
    (214, 40, 40), (245, 140, 30), (246, 215, 50), (50, 165, 70), (40, 190, 190), (45, 85, 215), (130, 60, 175),
    (245, 130, 180), (240, 240, 240), (60, 60, 70), (120, 80, 50), (110, 130, 150),
)  # fmt: skip
WALL: tuple[RGB, ...] = (
    (235, 225, 205), (200, 220, 235), (225, 205, 225), (205, 230, 205), (245, 215, 180), (180, 190, 200), (235, 235, 235)
)  # fmt: skip
PATTERNS = ("plain", "stripes", "bars", "dots", "badge")
FURNITURE = ("shelf", "sofa", "lamp", "table", "plant")


@dataclass(frozen=True, kw_only=True)
class Face:
    """Parts of the head's width or height, and colours; `hair` and `beard` count the ways in which they are drawn."""

    skin: RGB
    hair_rgb: RGB
    hair: int
    beard: int
    glasses: int
    width: float
    jaw: float
    eye_gap: float
    eye_size: float
    eye_y: float
    brow: float
    nose: float
    mouth: float
    mouth_y: float
    ears: float


@dataclass(frozen=True, kw_only=True)
class Build:
    """Parts of the person's height, and angles of arms and spine in radians: how somebody is built and likes to stand."""

    head: float
    shoulder: float
    waist: float
    hip: float
    leg: float
    limb: float
    arms: tuple[float, float]
    elbows: tuple[float, float]
    lean: float
    stance: float


@dataclass(frozen=True, kw_only=True)
class Outfit:
    """What is worn: colours, the pattern of the upper part, and whether there is a skirt or a hat."""

    top: RGB
    pattern: str
    print: RGB
    bottom: RGB
    skirt: bool
    hat: bool
    sleeves: float


@dataclass(frozen=True, kw_only=True)
class Room:
    """A place: wall with a pattern, floor, a window, a picture, and two pieces of furniture."""

    wall: RGB
    pattern: str
    print: RGB
    floor: RGB
    window: tuple[float, float]
    picture: tuple[float, float, RGB]
    furniture: tuple[tuple[str, float, RGB], ...]
    scale: float


@dataclass(frozen=True, kw_only=True)
class Person:
    """Somebody who does not exist."""

    name: str
    face: Face
    build: Build
    wardrobe: tuple[Outfit, ...]
    rooms: tuple[Room, ...]


def _one(rng: np.random.Generator, colours: tuple[RGB, ...], spread: float = 9) -> RGB:
    r, g, b = np.clip(np.array(colours[int(rng.integers(len(colours)))]) + rng.normal(0, spread, 3), 0, 255).astype(int)
    return int(r), int(g), int(b)


def _face(rng: np.random.Generator) -> Face:
    of = lambda low, high: float(rng.uniform(low, high))  # noqa: E731
    return Face(
        skin=_one(rng, SKIN), hair_rgb=_one(rng, HAIR), hair=int(rng.integers(6)), beard=int(rng.choice(4, p=(0.6, 0.15, 0.15, 0.1))),
        glasses=int(rng.choice(3, p=(0.65, 0.2, 0.15))), width=of(0.66, 0.88), jaw=of(0.55, 1.0), eye_gap=of(0.32, 0.54),
        eye_size=of(0.07, 0.14), eye_y=of(0.42, 0.54), brow=of(-0.35, 0.35), nose=of(0.08, 0.22), mouth=of(0.18, 0.42),
        mouth_y=of(0.74, 0.84), ears=of(0.0, 0.14),
    )  # fmt: skip


def _build(rng: np.random.Generator) -> Build:
    of = lambda low, high: float(rng.uniform(low, high))  # noqa: E731
    return Build(
        head=of(0.135, 0.165), shoulder=of(0.17, 0.3), waist=of(0.11, 0.27), hip=of(0.15, 0.28), leg=of(0.42, 0.52), limb=of(0.045, 0.075),
        arms=(of(0.05, 0.9), of(0.05, 0.9)), elbows=(of(-1.2, 1.2), of(-1.2, 1.2)), lean=of(-0.12, 0.12), stance=of(0.0, 0.3),
    )  # fmt: skip


def outfit(rng: np.random.Generator, taste: tuple[RGB, ...] = CLOTH) -> Outfit:
    """Draw something to wear, in colours that somebody likes."""
    return Outfit(
        top=_one(rng, taste), pattern=str(rng.choice(PATTERNS)), print=_one(rng, taste), bottom=_one(rng, CLOTH[8:]),
        skirt=bool(rng.random() < 0.25), hat=bool(rng.random() < 0.15), sleeves=float(rng.uniform(0.3, 1)),
    )  # fmt: skip


def room(rng: np.random.Generator) -> Room:
    """Draw a place."""
    of = lambda low, high: float(rng.uniform(low, high))  # noqa: E731
    things = tuple((str(rng.choice(FURNITURE)), of(0.05, 0.95), _one(rng, CLOTH)) for _ in range(3))
    return Room(
        wall=_one(rng, WALL), pattern=str(rng.choice(PATTERNS[:4])), print=_one(rng, WALL), floor=_one(rng, (*HAIR, *WALL)),
        window=(of(0.05, 0.95), of(0.1, 0.3)), picture=(of(0.05, 0.95), of(0.08, 0.2), _one(rng, CLOTH)), furniture=things,
        scale=of(0.04, 0.12),
    )  # fmt: skip


def person(seed: int, split: str, number: int) -> Person:
    """Make somebody up, always the same for a world, a split and a number.

    >>> person(0, "train", 3) == person(0, "train", 3) != person(0, "test", 3)
    True
    """
    rng = np.random.default_rng((4_100, seed, *split.encode(), number))
    taste = tuple(CLOTH[int(i)] for i in rng.choice(len(CLOTH), 4, replace=False))
    return Person(
        name=f"{split}-{number:04d}",
        face=_face(rng),
        build=_build(rng),
        wardrobe=tuple(outfit(rng, taste) for _ in range(3)),
        rooms=tuple(room(rng) for _ in range(2)),
    )
