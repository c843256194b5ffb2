"""Lay a face where networks expect it, and put it back with a soft edge.

Paper: ArcFace (Deng et al. 2019, arXiv:1801.07698), whose five points in a crop of 112 pixels nearly all face networks were taught with.
Method: Umeyama (1991, IEEE TPAMI), the least-squares similarity between two sets of points.
"""

from collections.abc import Iterable

import cv2
import numpy as np
import numpy.typing as npt

from tilth.geometry import Box
from tilth.images import Image
from tilth.synth.identity.faces import Face

# pixels of a crop of 112; crops of 128 have the same face, moved by 8 to the right
ARCFACE = np.array([(38.2946, 51.6963), (73.5318, 51.5014), (56.0252, 71.7366), (41.5493, 92.3655), (70.7299, 92.2041)])
OVAL = (0.38, 0.44)  # half axes of what is pasted, in parts of the crop
FEATHER = 0.05  # standard deviation of its edge, likewise

Matrix = npt.NDArray[np.float64]
"""(2, 3): from pixels of the image to pixels of the crop."""


def places(side: int) -> npt.NDArray[np.float64]:
    """Return where the five points lie in a crop of a size, `(5, 2)` pixels."""
    if side % 112 == 0 or side % 128:
        return ARCFACE * (side / 112)
    return np.asarray((ARCFACE + np.array([8.0, 0.0])) * (side / 128))


def similarity(points: npt.NDArray[np.float64], to: npt.NDArray[np.float64]) -> Matrix:
    """Return the rotation, scale and shift that bring points nearest to others, `(n, 2)` each.

    >>> square = np.array([(0.0, 0.0), (2.0, 0.0), (2.0, 2.0), (0.0, 2.0)])
    >>> similarity(square, square * 3 + [5, 7]).round().astype(int).tolist()
    [[3, 0, 5], [0, 3, 7]]
    """
    middle, target = points.mean(0), to.mean(0)
    a, b = points - middle, to - target
    spread = max(float((a**2).sum()), 1e-9)
    cos = float((a * b).sum()) / spread
    sin = float((a[:, 0] * b[:, 1] - a[:, 1] * b[:, 0]).sum()) / spread
    turn = np.array([(cos, -sin), (sin, cos)])
    return np.column_stack([turn, target - turn @ middle])


def matrix_of(face: Face, side: int) -> Matrix:
    """Return what brings a face into a crop of a size."""
    return similarity(np.array(face.points, np.float64), places(side))


def crop(image: Image, matrix: Matrix, side: int) -> Image:
    """Cut a face out, `(side, side, 3)`; beyond the edge of the image its last pixels go on."""
    scale = float(np.hypot(*matrix[:, 0]))
    how = cv2.INTER_AREA if scale < 1 else cv2.INTER_LINEAR
    return np.asarray(cv2.warpAffine(image, matrix, (side, side), flags=how, borderMode=cv2.BORDER_REPLICATE))


def paste(image: Image, face: Image, matrix: Matrix, keep: Iterable[Box] = ()) -> Image:
    """Put a crop back where it was cut out, with a soft edge.

    Args:
        image: That it was cut out of.
        face: What to put there, `(side, side, 3)`.
        matrix: That it was cut out with.
        keep: Boxes in which no pixel changes, such as those of other faces.
    """
    side = face.shape[0]
    feather = max(0.8, FEATHER * side / float(np.hypot(*matrix[:, 0])))
    # all that can change lies between the corners of the crop and as far from them as the blur reaches
    corners = np.array([(0, 0), (side, 0), (side, side), (0, side)]) - matrix[:, 2]
    around = corners @ np.linalg.inv(matrix[:, :2]).T
    limit = image.shape[1], image.shape[0]
    left, top = (int(v) for v in np.clip(np.floor(around.min(0) - 4 * feather), 0, limit))
    right, bottom = (int(v) for v in np.clip(np.ceil(around.max(0) + 4 * feather), 0, limit))
    part = image[top:bottom, left:right]
    moved = np.column_stack([matrix[:, :2], matrix[:, 2] + matrix[:, :2] @ [left, top]])
    oval = np.zeros((side, side), np.float32)
    axes = round(OVAL[0] * side), round(OVAL[1] * side)
    cv2.ellipse(oval, (side // 2, side // 2), axes, 0, 0, 360, 1.0, -1)
    back, size_wh = cv2.WARP_INVERSE_MAP | cv2.INTER_LINEAR, (right - left, bottom - top)
    mask = cv2.warpAffine(oval, moved, size_wh, flags=back)
    drawn = cv2.warpAffine(face, moved, size_wh, flags=back, borderMode=cv2.BORDER_REPLICATE)
    inside = [_pixels(box, left, top) for box in keep]
    for where in inside:
        mask[where] = 0
    mask = cv2.GaussianBlur(mask, (0, 0), feather)
    for where in inside:  # the blur must not reach into them
        mask[where] = 0
    weight = mask[..., None]
    blended = np.where(weight > 0, (part * (1 - weight) + drawn * weight).round(), part)
    child = image.copy()
    child[top:bottom, left:right] = blended
    return child


def _pixels(box: Box, left: int, top: int) -> tuple[slice, slice]:
    """Return all pixels that a box touches, in a part of an image that begins at a point."""
    x0, y0, x1, y1 = box
    rows = slice(max(0, int(y0) - top), max(0, int(np.ceil(y1)) - top))
    return rows, slice(max(0, int(x0) - left), max(0, int(np.ceil(x1)) - left))
