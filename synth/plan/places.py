"""Where in a scene there is room: places with little in them, as far as edges tell."""

import numpy as np
import numpy.typing as npt

from tilth.geometry import Box
from tilth.images import Image, resize

CELLS = 32  # a side; fine texture, such as grass, is gone in so few, and things are not


def detail_of(image: Image, frame: tuple[int, int, int, int]) -> npt.NDArray[np.float32]:
    """Return how much there is in each part of a frame of an image, `(32, 32)`: how fast its colours change.

    Args:
        image: The image.
        frame: Left, top, width and height.
    """
    left, top, wide, tall = frame
    small = resize(image[top : top + tall, left : left + wide], (CELLS, CELLS)).astype(np.float32)
    down, across = np.gradient(small, axis=(0, 1))
    return np.asarray(np.hypot(down, across).max(2), np.float32)


def within(detail: npt.NDArray[np.float32], place: Box) -> float:
    """Return how much there is in a place, in parts of the sides, on average.

    >>> detail = np.zeros((32, 32), np.float32)
    >>> detail[:16] = 1
    >>> within(detail, (0.0, 0.0, 1.0, 0.5)), within(detail, (0.0, 0.25, 1.0, 0.75)), within(detail, (0.5, 0.5, 1.0, 1.0))
    (1.0, 0.5, 0.0)
    """
    x0, y0, x1, y1 = (round(value * CELLS) for value in place)
    return float(detail[y0 : max(y0 + 1, y1), x0 : max(x0 + 1, x1)].mean())
