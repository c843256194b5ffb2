"""Boxes: `xyxy` in float pixels inside, every other convention only here and in format files; and spans.

An array of boxes is `(n, 4)` float; `x1` and `y1` lie outside the box, so a box of the whole image is `(0, 0, w, h)`.
"""

from typing import TypeAlias

import numpy as np
import numpy.typing as npt

Box: TypeAlias = tuple[float, float, float, float]
Boxes: TypeAlias = npt.NDArray[np.floating]


def areas(boxes_xyxy: Boxes) -> Boxes:
    """Return the area of each box, `(n,)`; an inverted box has none."""
    wh = np.clip(boxes_xyxy[:, 2:] - boxes_xyxy[:, :2], 0, None)
    return wh[:, 0] * wh[:, 1]


def intersections(a_xyxy: Boxes, b_xyxy: Boxes) -> Boxes:
    """Return the shared area of every pair, `(n, m)`."""
    low = np.maximum(a_xyxy[:, None, :2], b_xyxy[None, :, :2])
    high = np.minimum(a_xyxy[:, None, 2:], b_xyxy[None, :, 2:])
    wh = np.clip(high - low, 0, None)
    return np.asarray(wh[..., 0] * wh[..., 1])


def iou(a_xyxy: Boxes, b_xyxy: Boxes) -> Boxes:
    """Return the intersection over union of every pair, `(n, m)` in [0, 1].

    >>> iou(np.array([[0., 0, 2, 2]]), np.array([[0., 0, 2, 2], [1, 0, 3, 2], [5, 5, 6, 6]])).round(2)
    array([[1.  , 0.33, 0.  ]])
    """
    shared = intersections(a_xyxy, b_xyxy)
    union = areas(a_xyxy)[:, None] + areas(b_xyxy)[None, :] - shared
    return np.divide(shared, union, out=np.zeros(shared.shape), where=union > 0)


def iou_of(a: Box, b: Box) -> float:
    """Return the intersection over union of two boxes, in [0, 1], as `iou` does, for when there are only two.

    >>> iou_of((0., 0., 2., 2.), (1., 0., 3., 2.)) == float(iou(np.array([[0., 0, 2, 2]]), np.array([[1., 0, 3, 2]]))[0, 0])
    True
    """
    shared = max(0.0, min(a[2], b[2]) - max(a[0], b[0])) * max(0.0, min(a[3], b[3]) - max(a[1], b[1]))
    area = max(0.0, a[2] - a[0]) * max(0.0, a[3] - a[1])
    union = area + max(0.0, b[2] - b[0]) * max(0.0, b[3] - b[1]) - shared
    return shared / union if union > 0 else 0.0


def span_iou(a: tuple[float, float], b: tuple[float, float]) -> float:
    """Return the intersection over union of two spans `(start, end)`, in [0, 1].

    >>> span_iou((0, 4), (2, 6)) == 1 / 3
    True
    """
    shared = max(0.0, min(a[1], b[1]) - max(a[0], b[0]))
    return shared / (a[1] - a[0] + b[1] - b[0] - shared) if shared else 0.0


def clip(boxes_xyxy: Boxes, size_wh: tuple[int, int]) -> Boxes:
    """Cut boxes at the edges of the image."""
    limit = np.array([size_wh[0], size_wh[1]] * 2, boxes_xyxy.dtype)
    return np.clip(boxes_xyxy, 0, limit)


def xywh_to_xyxy(boxes: Boxes) -> Boxes:
    """Convert `(left, top, width, height)`, as COCO writes it."""
    return np.concatenate([boxes[:, :2], boxes[:, :2] + boxes[:, 2:]], axis=1)


def xyxy_to_xywh(boxes: Boxes) -> Boxes:
    """Convert to `(left, top, width, height)`, as COCO writes it."""
    return np.concatenate([boxes[:, :2], boxes[:, 2:] - boxes[:, :2]], axis=1)


def cxcywh_to_xyxy(boxes: Boxes) -> Boxes:
    """Convert `(centre x, centre y, width, height)`, as YOLO and DETR write it (in parts of the image there)."""
    half = boxes[:, 2:] / 2
    return np.concatenate([boxes[:, :2] - half, boxes[:, :2] + half], axis=1)


def xyxy_to_cxcywh(boxes: Boxes) -> Boxes:
    """Convert to `(centre x, centre y, width, height)`."""
    return np.concatenate([(boxes[:, :2] + boxes[:, 2:]) / 2, boxes[:, 2:] - boxes[:, :2]], axis=1)
