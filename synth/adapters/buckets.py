"""Images of many shapes in a few: sizes of about the same number of pixels, so that batches are of one size and little is cut off."""

import math

from tilth.images import Image, resize
from tilth.synth.plan.survey import frame_around

WIDEST = 2.0  # times as wide as high, or as high as wide


def sizes(side: int, step: int) -> list[tuple[int, int]]:
    """List the sizes `(width, height)` that a model is shown images in.

    Args:
        side: Of the model's own square.
        step: Pixels that sides are multiples of.

    >>> sizes(512, 64)
    [(384, 640), (448, 576), (512, 512), (576, 448), (640, 384)]
    >>> sizes(64, 16)
    [(48, 80), (64, 64), (80, 48)]
    """
    found = []
    for wide in range(step, round(side * WIDEST) + 1, step):
        tall = side * side // wide // step * step
        if tall and max(wide / tall, tall / wide) <= WIDEST:
            found.append((wide, tall))
    return found


def nearest(size_wh: tuple[int, int], among: list[tuple[int, int]]) -> tuple[int, int]:
    """Return the size whose shape is most like that of an image.

    >>> nearest((1600, 1200), sizes(512, 64)), nearest((80, 100), sizes(512, 64))
    ((576, 448), (448, 576))
    """
    return min(among, key=lambda each: abs(math.log(each[0] / each[1]) - math.log(size_wh[0] / size_wh[1])))


def cut(image: Image, size_wh: tuple[int, int]) -> Image:
    """Cut the largest frame of a shape out of the middle of an image, in that size."""
    left, top, wide, tall = frame_around((image.shape[1], image.shape[0]), None, size_wh)
    return resize(image[top : top + tall, left : left + wide], size_wh)
