"""Tell whether one image is an edited copy of another: cropped, bordered, mirrored, written over, or all of it.

Key points of both are matched, a similarity transform is fitted to them, one image is laid over the other, and what lies on
what is compared block by block. A copy agrees in most blocks; two photographs of the same thing share key points, not blocks.

Papers: https://doi.org/10.1109/ICCV.2011.6126544 (ORB), https://doi.org/10.1145/358669.358692 (RANSAC)
"""

from dataclasses import dataclass
from typing import Any

import cv2
import numpy as np
import numpy.typing as npt

from tilth.images import Image, fit_within

SIDE = 384  # px of the longer side at which images are compared
POINTS = 400
RATIO = 0.75  # a match counts when its rival is so much farther (Lowe 2004)
LEAST_POINTS = 12  # that the transform must explain
BLOCKS = 12  # along each side
ALIKE = 0.75  # correlation at which two blocks show the same
LEAST_SHARE = 0.5  # of the blocks with any structure in which copies agree
LEAST_OVERLAP = 0.4  # of the smaller image that must lie on the other


@dataclass(frozen=True)
class Traces:
    """What is kept of an image to compare it: grey levels `(h, w)`, and key points with their descriptors, if it has any."""

    grey: npt.NDArray[np.uint8]
    points: npt.NDArray[np.float32]
    codes: npt.NDArray[np.uint8] | None


def traces(image: Image) -> Traces:
    """Find the key points of an image."""
    grey = cv2.cvtColor(fit_within(image, SIDE), cv2.COLOR_RGB2GRAY)
    finder: Any = cv2.ORB.create(POINTS)
    points, codes = finder.detectAndCompute(grey, None)
    return Traces(grey, np.array([p.pt for p in points], np.float32).reshape(-1, 2), codes)


def mirrored(of: Traces) -> Traces:
    """Return the traces of the mirror image."""
    return traces(np.repeat(of.grey[:, ::-1, None], 3, axis=2))


def agreement(a: Traces, b: Traces) -> float:
    """Return the share of blocks, in [0, 1], in which one image laid over the other shows the same; 0 when it does not fit."""
    transform = _transform(a, b)
    if transform is None:
        return 0.0
    height, width = b.grey.shape
    laid = cv2.warpAffine(a.grey, transform, (width, height), flags=cv2.INTER_AREA)
    covered = cv2.warpAffine(np.full_like(a.grey, 255), transform, (width, height)) > 250
    scale = float(np.hypot(transform[0, 0], transform[1, 0]))
    if covered.sum() < LEAST_OVERLAP * min(b.grey.size, a.grey.size * scale**2):
        return 0.0
    return _alike(laid.astype(np.float32), b.grey.astype(np.float32), covered)


def _transform(a: Traces, b: Traces) -> npt.NDArray[np.float64] | None:
    if a.codes is None or b.codes is None or min(len(a.codes), len(b.codes)) < 2:
        return None
    pairs: Any = cv2.BFMatcher(cv2.NORM_HAMMING).knnMatch(a.codes, b.codes, 2)
    good = [first for first, second in pairs if first.distance < RATIO * second.distance]
    if len(good) < LEAST_POINTS:
        return None
    left, right = a.points[[m.queryIdx for m in good]], b.points[[m.trainIdx for m in good]]
    cv2.setRNGSeed(0)  # two runs agree
    transform, explained = cv2.estimateAffinePartial2D(left, right, method=cv2.RANSAC, ransacReprojThreshold=3)
    if transform is None or explained.sum() < LEAST_POINTS:
        return None
    return np.asarray(transform)


def _alike(a: npt.NDArray[np.float32], b: npt.NDArray[np.float32], covered: npt.NDArray[np.bool_]) -> float:
    """Return the share of covered blocks with structure whose grey levels correlate."""
    rows, columns = (np.array_split(np.arange(n), BLOCKS) for n in b.shape)
    found = []
    for y in rows:
        for x in columns:
            part = np.ix_(y, x)
            if covered[part].mean() < 0.9:
                continue
            left, right = a[part].ravel(), b[part].ravel()
            spread = left.std(), right.std()
            if max(spread) > 4:  # grey levels; plain blocks say nothing
                found.append(min(spread) > 1 and float(np.corrcoef(left, right)[0, 1]) >= ALIKE)
    return float(np.mean(found)) if len(found) >= BLOCKS else 0.0
