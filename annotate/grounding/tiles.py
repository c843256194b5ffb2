"""Look at an image in overlapping tiles too, so that small things are large enough to be seen."""

import numpy as np

from tilth.geometry import Box

OVERLAP = 0.25  # of a tile's side; a thing up to this size is whole in some tile
EDGE_PX = 1.0  # a box that comes so near to a cut is taken for a part of something

Tile = tuple[int, int, int, int]


def cut(size_wh: tuple[int, int], per_side: int) -> list[Tile]:
    """Return the tiles of an image as `(x0, y0, x1, y1)`, row by row; none for fewer than two a side.

    >>> cut((70, 40), 2)
    [(0, 0, 40, 23), (30, 0, 70, 23), (0, 17, 40, 40), (30, 17, 70, 40)]
    """
    if per_side < 2:
        return []
    spans = [_spans(side, per_side) for side in size_wh]
    return [(x0, y0, x1, y1) for y0, y1 in spans[1] for x0, x1 in spans[0]]


def _spans(length: int, count: int) -> list[tuple[int, int]]:
    side = length / (count - (count - 1) * OVERLAP)
    starts = np.linspace(0, length - side, count)
    return [(int(np.floor(start)), min(length, int(np.ceil(start + side)))) for start in starts]


def whole(box: Box, tile: Tile, size_wh: tuple[int, int]) -> bool:
    """Tell whether a box, in pixels of its tile, shows a whole thing: it keeps off the sides where the tile was cut.

    >>> whole((5, 5, 40, 20), (0, 0, 40, 22), (70, 40)), whole((0, 0, 39, 20), (0, 0, 40, 40), (40, 40))
    (False, True)
    """
    x0, y0, x1, y1 = tile
    left, top = x0 == 0 or box[0] > EDGE_PX, y0 == 0 or box[1] > EDGE_PX
    right = x1 == size_wh[0] or box[2] < x1 - x0 - EDGE_PX
    bottom = y1 == size_wh[1] or box[3] < y1 - y0 - EDGE_PX
    return left and top and right and bottom


def moved(box: Box, tile: Tile) -> Box:
    """Return a box of a tile in pixels of the image."""
    return (box[0] + tile[0], box[1] + tile[1], box[2] + tile[0], box[3] + tile[1])
