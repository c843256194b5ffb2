"""Which way up a label file saw an image: boxes of the image as it is stored, turned to the image as it is shown.

Cameras store pixels as the sensor lies and note in EXIF how to turn them. Some label tools turn the image before a
person draws, some do not, and no format says which. The size beside the boxes tells, unless the turn keeps it, or the
size was read from the file afterwards by a program that does not turn; then a box beyond that size tells.
"""

import math
from collections.abc import Sequence

import numpy as np

from tilth.errors import InputError
from tilth.geometry import Box, Boxes
from tilth.images import ORIENTATION, read_header, shown_size

__all__ = ["ORIENTATION", "read_header", "saw_stored", "shown_size", "turn"]
SLACK = 2.0  # pixels beyond the edge that rounding and unsteady hands explain
FAR = 0.01  # of the longer side beyond the edge, which they do not
BY_BOX = "turned by EXIF, boxes go beyond the size that the labels give and fit the other way up; taken so"
BY_TOOL = "turned by EXIF, size as stored, but the tool shows images upright; taken as shown"
BY_SIZE = "turned by EXIF, size as stored, and boxes that fit either way; taken as stored"
UNKNOWN = "turned by EXIF, size does not tell which way the labels saw it; taken as shown"


def turn(boxes_xyxy: Boxes, stored_wh: tuple[int, int], orientation: int) -> Boxes:
    """Turn boxes `(n, 4)` in pixels of the stored image into pixels of the shown one.

    >>> turn(np.array([[0.0, 0, 10, 20]]), (100, 50), 6)
    array([[30.,  0., 50., 10.]])
    """
    width, height = stored_wh
    x0, y0, x1, y1 = boxes_xyxy.T
    left_right, top_bottom = (width - x1, width - x0), (height - y1, height - y0)
    (a, b), (c, d) = {
        1: ((x0, x1), (y0, y1)),
        2: (left_right, (y0, y1)),
        3: (left_right, top_bottom),
        4: ((x0, x1), top_bottom),
        5: ((y0, y1), (x0, x1)),
        6: (top_bottom, (x0, x1)),
        7: (top_bottom, left_right),
        8: ((y0, y1), left_right),
    }[orientation]
    return np.stack([a, c, b, d], axis=1)


def saw_stored(
    declared_wh: tuple[int, int] | None,
    boxes_xyxy: Sequence[Box],
    stored_wh: tuple[int, int],
    orientation: int,
    *,
    upright: bool = False,
) -> tuple[bool, str]:
    """Tell whether labels saw the stored image and not the shown one, and what is to be noted of it.

    Args:
        declared_wh: The size that the label file gives, if it does.
        boxes_xyxy: The boxes that it gives in pixels.
        stored_wh: Of the image.
        orientation: Of the image.
        upright: The tool that made the file is known to show images as they are to be seen.

    Raises:
        InputError: The label file saw an image of another size.
    """
    shown = shown_size(stored_wh, orientation)
    if declared_wh is not None and declared_wh not in (stored_wh, shown):
        theirs, ours = (f"{width} x {height}" for width, height in (declared_wh, shown))
        raise InputError(f"labels are for {theirs} pixels, the image has {ours}")
    if orientation == 1 or not boxes_xyxy:
        return False, ""
    if upright:
        return False, BY_TOOL if declared_wh not in (None, shown) else ""
    if stored_wh == shown:
        return False, UNKNOWN
    over = {size: _over(boxes_xyxy, size) for size in (stored_wh, shown)}
    said = declared_wh or shown
    other = shown if said == stored_wh else stored_wh
    if over[said] > max(SLACK, FAR * max(said)) and over[other] <= SLACK:
        return other == stored_wh, BY_BOX
    if declared_wh is None:
        return False, UNKNOWN if over[stored_wh] <= SLACK else ""
    return said == stored_wh, BY_SIZE if said == stored_wh and over[shown] <= SLACK else ""


def _over(boxes_xyxy: Sequence[Box], size_wh: tuple[int, int]) -> float:
    """Return by how many pixels the boxes go over the edge; those that are none are judged elsewhere."""
    over = (side - limit for box in boxes_xyxy for side, limit in zip(box, size_wh * 2, strict=True))
    under = (-side for box in boxes_xyxy for side in box)
    return max((far for far in (*over, *under) if math.isfinite(far)), default=0.0)
