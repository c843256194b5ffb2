"""What somebody is recognised by: crops of face, body, clothing and scene, each with how good it is.

>>> a, b = (10.0, 10.0, 40.0, 90.0), (60.0, 10.0, 90.0, 90.0)
>>> claims = [Claim(category=c, box_xyxy=x, source="human:a") for c, x in (("body", a), ("face", (15.0, 12.0, 25.0, 24.0)), ("body", b))]
>>> [sorted(one) for one in people_in(claims)]
[['body', 'face'], ['body']]
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

import cv2
import numpy as np
import numpy.typing as npt

from tilth.claims import Claim
from tilth.geometry import Box
from tilth.images import Image

CUES = ("face", "body", "clothing", "scene")
PARTS = CUES[:3]  # that have boxes; the scene is what is around them
QUALITIES = ("size", "sharpness", "presence")
AROUND = {"face": 0.35, "body": 0.08, "clothing": 0.0}  # share of a box's sides that is shown beside it
FULL = {
    "face": 32.0,
    "body": 96.0,
    "clothing": 64.0,
    "scene": 96.0,
}  # pixels of a crop's side from which on more say no more
GREY = 127

Quality = npt.NDArray[np.float32]
"""(3,) in [0, 1]: visible size, sharpness, and how sure the detector was that all of it is seen."""


@dataclass(frozen=True, kw_only=True)
class Crop:
    """One cue of one person: `(side, side, 3)` and its quality."""

    image: Image
    quality: Quality


@dataclass(frozen=True, kw_only=True)
class Seen:
    """One person in one image, by cue; what is not seen is not there."""

    crops: Mapping[str, Crop] = field(default_factory=dict)
    boxes: Mapping[str, Box] = field(default_factory=dict)


def people_in(claims: Iterable[Claim]) -> list[dict[str, Claim]]:
    """Put together which boxes are of one person; the largest person first.

    A face or clothes belong to the body that covers most of them, where that is half or more, and else to somebody of whom no more is seen.
    """
    boxed = [claim for claim in claims if claim.box_xyxy is not None and claim.category in PARTS]
    found = [{"body": claim} for claim in boxed if claim.category == "body"]
    alone: list[dict[str, Claim]] = []
    for claim in boxed:
        part = str(claim.category)
        if part == "body":
            continue
        free = [one for one in found if part not in one]
        best = max(free, key=lambda one: _inside(claim, one["body"]), default=None)
        if best is not None and _inside(claim, best["body"]) >= 0.5:
            best[part] = claim
        else:
            alone.append({part: claim})
    return sorted([*found, *alone], key=lambda one: -max(_area(claim.box_xyxy) for claim in one.values()))


def _area(box: Box | None) -> float:
    return (box[2] - box[0]) * (box[3] - box[1]) if box else 0.0


def _inside(claim: Claim, body: Claim) -> float:
    """Return the share of a box that lies in a body's."""
    a, b = claim.box_xyxy, body.box_xyxy
    if a is None or b is None:
        return 0.0
    wide, high = min(a[2], b[2]) - max(a[0], b[0]), min(a[3], b[3]) - max(a[1], b[1])
    return max(0.0, wide) * max(0.0, high) / max(1e-6, _area(a))


def see(image: Image, boxes: Mapping[str, tuple[Box, float]], side: int) -> Seen:
    """Cut out what is seen of a person.

    Args:
        image: The whole.
        boxes: Of the parts, `xyxy` pixels, each with the score of whoever drew it; 1 for a person.
        side: Of the crops.
    """
    crops: dict[str, Crop] = {}
    for part in PARTS:
        if part in boxes:
            box, score = boxes[part]
            square, pixels = _square(image, box, part, side)
            if pixels >= 3:
                crops[part] = Crop(image=square, quality=_quality(part, square, pixels, score))
    around, share = _scene(image, [box for part, (box, _) in boxes.items() if part in PARTS], side)
    if share > 0.05:
        crops["scene"] = Crop(image=around, quality=_quality("scene", around, min(image.shape[:2]), share))
    return Seen(crops=crops, boxes={part: box for part, (box, _) in boxes.items()})


def _square(image: Image, box: Box, part: str, side: int) -> tuple[Image, float]:
    """Cut out a square around a box, grey beyond the image's edge, and return it with the pixels of the box's side."""
    x0, y0, x1, y1 = box
    size = float(np.sqrt(max(0.0, (x1 - x0) * (y1 - y0))))
    half = max(x1 - x0, y1 - y0) / 2 * (1 + 2 * AROUND[part])
    wide, high = (
        (half, half) if part != "clothing" else ((x1 - x0) / 2, (y1 - y0) / 2)
    )  # clothes have no shape of their own
    cx, cy = (x0 + x1) / 2, (y0 + y1) / 2
    ends = (
        round(cx - wide),
        round(cy - high),
        max(round(cx + wide), round(cx - wide) + 1),
        max(round(cy + high), round(cy - high) + 1),
    )
    h, w = image.shape[:2]
    before = max(0, -ends[1]), max(0, -ends[0])
    part_of = image[max(0, ends[1]) : min(h, ends[3]), max(0, ends[0]) : min(w, ends[2])]
    if not part_of.size:
        return np.full((side, side, 3), GREY, np.uint8), 0.0
    whole = np.full((ends[3] - ends[1], ends[2] - ends[0], 3), GREY, np.uint8)
    whole[before[0] : before[0] + part_of.shape[0], before[1] : before[1] + part_of.shape[1]] = part_of
    return _resized(whole, side), size


def _scene(image: Image, boxes: Iterable[Box], side: int) -> tuple[Image, float]:
    """Return the image without the person in it, and the share that is left of it."""
    left = image.copy()
    free = np.ones(image.shape[:2], bool)
    for x0, y0, x1, y1 in boxes:
        rows, columns = slice(max(0, int(y0)), int(np.ceil(y1))), slice(max(0, int(x0)), int(np.ceil(x1)))
        left[rows, columns] = GREY
        free[rows, columns] = False
    return _resized(left, side), float(free.mean())


def _resized(image: Image, side: int) -> Image:
    how = cv2.INTER_AREA if min(image.shape[:2]) > side else cv2.INTER_LINEAR
    return np.asarray(cv2.resize(image, (side, side), interpolation=how))


def _quality(cue: str, square: Image, pixels: float, presence: float) -> Quality:
    """Say how much a crop can tell."""
    grey = cv2.cvtColor(square, cv2.COLOR_RGB2GRAY).astype(np.float32)
    contrast = float(grey.std()) + 4
    sharp = float(np.abs(cv2.Laplacian(grey, cv2.CV_32F)).mean()) / contrast
    return np.array([min(1.0, pixels / FULL[cue]), min(1.0, sharp / 0.8), presence], np.float32)
