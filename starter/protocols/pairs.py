"""Edited pairs: a scene drawn twice, once with something unsafe and once with its harmless twin in the same place.

In every other pair a thing gives way to its look-alike, in the others the words of a sign to harmless ones. Both scenes are drawn by the
same random numbers, so all that the thing, its shadow and its glow, or the letters do not reach is equal in every pixel.
"""

from collections.abc import Iterator

import numpy as np

from tilth.images import Image
from tilth.starter.protocols.folder import Row
from tilth.starter.world.files import SIDE, SIGN_SIDE, TEXT_CATEGORIES
from tilth.starter.world.scene import COLORS, LOOK_ALIKES, SAFE_KINDS, STYLES, UNSAFE_KINDS, Spec, render
from tilth.starter.world.surfaces import SURFACES
from tilth.starter.world.texts import draw_text

COMPANY = (0.5, 0.35, 0.15)  # chances of no, one and two other things beside a thing
PURPOSE = 91  # part of the seed; no other images are drawn by it


def draw_pair(index: int, seed: int = 0) -> tuple[Image, Image, str]:
    """Draw a pair, unsafe first, and say what is unsafe in it."""
    rng = np.random.default_rng((PURPOSE, index, seed))
    unsafe, harmless, category = (_things if index % 2 == 0 else _words)(index // 2, rng)
    surface, style = str(rng.choice(list(SURFACES))), str(rng.choice(STYLES))
    scenes = [
        render(
            Spec(things=things, surface=surface, style=style), np.random.default_rng((PURPOSE, index, seed, 1)),
            side=SIGN_SIDE if things[-1][2] else SIDE,
        ).image
        for things in (unsafe, harmless)
    ]  # fmt: skip
    return scenes[0], scenes[1], category


Things = tuple[tuple[str, str, str], ...]


def _things(turn: int, rng: np.random.Generator) -> tuple[Things, Things, str]:
    """Choose things, the last of which is replaced; it is drawn last, so nothing covers it."""
    kind = UNSAFE_KINDS[turn % len(UNSAFE_KINDS)]
    others = [one for one in SAFE_KINDS if one not in LOOK_ALIKES.values()]
    company = [str(one) for one in rng.choice(others, int(rng.choice(3, p=COMPANY)), replace=False)]
    beside = tuple((one, _color(rng), "") for one in company)
    color = _color(rng)
    return (*beside, (kind, color, "")), (*beside, (LOOK_ALIKES[kind], color, "")), kind


def _words(turn: int, rng: np.random.Generator) -> tuple[Things, Things, str]:
    """Choose a sign beside a harmless thing, and two sayings for it that training never shows."""
    category = TEXT_CATEGORIES[turn % len(TEXT_CATEGORIES)]
    beside, color = (str(rng.choice(SAFE_KINDS)), _color(rng), ""), _color(rng)
    unsafe, harmless = draw_text(rng, category, held_out=True), draw_text(rng, None, held_out=True)
    return (beside, ("sign", color, unsafe)), (beside, ("sign", color, harmless)), category


def _color(rng: np.random.Generator) -> str:
    return str(rng.choice(list(COLORS)))


def pairs(images: int, seed: int = 0) -> Iterator[tuple[Image, Row]]:
    """Draw so many images, two a pair."""
    for index in range(images // 2):
        unsafe, harmless, category = draw_pair(index, seed)
        name, sign = f"{index:06d}", ["text_area"] if category in TEXT_CATEGORIES else []
        yield unsafe, {"categories": [category, *sign], "pair": name}
        yield harmless, {"categories": sign, "pair": name}
