"""Edited pairs: one scene drawn twice, once with a thing and once with its harmless look-alike in the same place.

Both are drawn, from the same noise and in the same words but for what is in the place: if one of the two were a photograph, how it was
made would tell them apart, and a model would learn that.
"""

from collections.abc import Iterable, Mapping

import numpy as np

from tilth.errors import InputError
from tilth.geometry import Box, clip
from tilth.policy import Category
from tilth.synth.plan.prompts import Words
from tilth.synth.safety.refusals import examine

PAIRED = ("insert", "replace")  # methods of which each request is two images
MARGIN = 0.15  # of a box that is replaced, on each side: its shadow goes with the thing
REPLACED = (
    0.1,
    0.85,
)  # least and most of the frame's sides that a hole may take: less is a few latents, more leaves no scene


def drawn_in_pairs(methods: Mapping[str, float]) -> bool:
    """Whether some images are planned in edited pairs."""
    return any(methods.get(method) for method in PAIRED)


def look_alikes(words: Words, categories: Iterable[Category]) -> dict[str, tuple[str, ...]]:
    """Return the look-alikes of categories that may be drawn.

    Raises:
        InputError: A category has none.
    """
    found = {
        each.name: tuple(
            word for word in words.harmless(each) if examine({"category": each.name, "prompt": word}) is None
        )
        for each in categories
    }
    if without := [name for name, able in found.items() if not able]:
        raise InputError(
            f"{' and '.join(PAIRED)} draw a harmless look-alike, and there is none that may be drawn of {', '.join(without)}; "
            "name some: counter_prompts in the policy, or words: {look_alikes: …}"
        )
    return found


def grown_in(size_wh: tuple[int, int], box: Box) -> Box | None:
    """Return a box with its margin, in an image; None where it takes too little or too much of a frame to be replaced."""
    wide, tall = (MARGIN * (box[i + 2] - box[i]) for i in (0, 1))
    grown = clip(np.array([[box[0] - wide, box[1] - tall, box[2] + wide, box[3] + tall]]), size_wh)[0]
    sides = (grown[2:] - grown[:2]) / min(size_wh)
    if sides.min() < REPLACED[0] or sides.max() > REPLACED[1]:
        return None
    x0, y0, x1, y1 = grown.tolist()
    return x0, y0, x1, y1
