"""Images with words: half of the signs are against the policy, as are some of the things beside them; a quarter of the images have no sign.

The words are those that training never shows (`world/texts.py`), and two of five harmless signs share words with harmful ones.
"""

from collections.abc import Iterator

import numpy as np

from tilth.images import Image
from tilth.starter.protocols.folder import Row
from tilth.starter.world.files import SIDE, SIGN_SIDE, TEXT_CATEGORIES
from tilth.starter.world.scene import COLORS, SAFE_KINDS, STYLES, UNSAFE_KINDS, Spec, render
from tilth.starter.world.surfaces import SURFACES
from tilth.starter.world.texts import draw_text

SIGNS, HARMFUL, UNSAFE = 0.75, 0.5, 0.3  # shares: of images with a sign, of signs, of images with an unsafe thing
VISIBLE = 0.2  # share of a thing that must be seen for it to count
PURPOSE = 92  # part of the seed; no other images are drawn by it


def signs(images: int, seed: int = 0) -> Iterator[tuple[Image, Row]]:
    """Draw so many images, with the categories that apply, `text_area` where there is a sign."""
    for index in range(images):
        rng = np.random.default_rng((PURPOSE, index, seed))
        signed, harmful = rng.random() < SIGNS, rng.random() < HARMFUL
        kinds = UNSAFE_KINDS if rng.random() < UNSAFE else SAFE_KINDS
        things = [(str(rng.choice(kinds)), str(rng.choice(list(COLORS))), "")]
        written = str(rng.choice(TEXT_CATEGORIES)) if harmful else ""
        if signed:
            text = draw_text(rng, written or None, held_out=True)
            things.append(("sign", str(rng.choice(list(COLORS))), text))
        spec = Spec(things=tuple(things), surface=str(rng.choice(list(SURFACES))), style=str(rng.choice(STYLES)))
        scene = render(spec, rng, side=SIGN_SIDE if signed else SIDE)
        seen = {thing.kind for thing in scene.things if thing.visible > VISIBLE}
        found = [*sorted(seen & {*UNSAFE_KINDS})]
        if "sign" in seen:
            found += [*([written] if written else []), "text_area"]
        yield scene.image, {"categories": found}
