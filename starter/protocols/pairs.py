"""Edited pairs: a scene drawn twice, once with an unsafe thing and once with its harmless look-alike in its place.

Both are drawn by the same random numbers, so all that the thing, its shadow and its glow do not reach is equal in every pixel.
"""

from collections.abc import Iterator

import numpy as np

from tilth.images import Image
from tilth.starter.protocols.folder import Row
from tilth.starter.world.scene import COLORS, LOOK_ALIKES, SAFE_KINDS, STYLES, UNSAFE_KINDS, Spec, render
from tilth.starter.world.surfaces import SURFACES

SIDE = 96
COMPANY = (0.5, 0.35, 0.15)  # chances of no, one and two other things
PURPOSE = 81  # part of the seed; no other images are drawn by it


def draw_pair(index: int, seed: int = 0) -> tuple[Image, Image, str]:
    """Draw a pair, unsafe first, and say what is unsafe in it."""
    rng = np.random.default_rng((PURPOSE, index, seed))
    kind = UNSAFE_KINDS[index % len(UNSAFE_KINDS)]
    others = [one for one in SAFE_KINDS if one not in LOOK_ALIKES.values()]
    company = [str(one) for one in rng.choice(others, int(rng.choice(3, p=COMPANY)), replace=False)]
    colors = [str(color) for color in rng.choice(list(COLORS), len(company) + 1)]
    surface, style = str(rng.choice(list(SURFACES))), str(rng.choice(STYLES))
    scenes = []
    for shown in (kind, LOOK_ALIKES[kind]):
        things = zip([*company, shown], colors, strict=True)  # drawn last, so that nothing covers it
        spec = Spec(things=tuple((one, color, "") for one, color in things), surface=surface, style=style)
        scenes.append(render(spec, np.random.default_rng((PURPOSE, index, seed, 1)), side=SIDE).image)
    return scenes[0], scenes[1], kind


def pairs(images: int, seed: int = 0) -> Iterator[tuple[Image, Row]]:
    """Draw so many images, two a pair."""
    for index in range(images // 2):
        unsafe, harmless, kind = draw_pair(index, seed)
        name = f"{index:06d}"
        yield unsafe, {"categories": [kind], "pair": name}
        yield harmless, {"categories": [], "pair": name}
