"""Which way up a label file saw an image: boxes of the image as it is stored, turned to the image as it is shown.

Cameras store pixels as the sensor lies and note in EXIF how to turn them. Some label tools turn the image before a
person draws, some do not, and no format says which. The size beside the boxes tells, unless the turn keeps it.
"""

import numpy as np

from tilth.errors import InputError
from tilth.geometry import Boxes
from tilth.images import ORIENTATION, read_header, shown_size

__all__ = ["ORIENTATION", "read_header", "seen_stored", "shown_size", "turn"]


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


def seen_stored(declared_wh: tuple[int, int] | None, stored_wh: tuple[int, int], orientation: int) -> bool | None:
    """Tell whether a label file saw the stored image (true) or the shown one (false); None when the size cannot tell.

    Raises:
        InputError: The label file saw an image of another size.
    """
    shown = shown_size(stored_wh, orientation)
    if declared_wh is not None and declared_wh not in (stored_wh, shown):
        theirs, ours = (f"{width} x {height}" for width, height in (declared_wh, shown))
        raise InputError(f"labels are for {theirs} pixels, the image has {ours}")
    if orientation == 1:
        return False
    if declared_wh is None or stored_wh == shown:
        return None
    return declared_wh == stored_wh
