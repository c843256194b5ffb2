"""Cut a labelled thing out of one image and put it into another.

Paper: https://doi.org/10.1145/1186562.1015720 (GrabCut), https://doi.org/10.1145/882262.882269 (Poisson blending),
    https://arxiv.org/abs/2012.07177 (copy-paste as augmentation)
"""

from dataclasses import dataclass
from typing import Literal, TypeAlias

import numpy as np
import numpy.typing as npt

from tilth.geometry import Box
from tilth.images import Image, resize

Alpha: TypeAlias = npt.NDArray[np.float32]

ROUNDS = 5  # of GrabCut
AROUND = 0.3  # of a box's sides: what GrabCut takes for background lies there
LEAST, MOST = 0.1, 0.98  # share of its box that a thing fills; beyond, GrabCut did not find one
LARGEST = 384  # pixels of the longer side that GrabCut looks at; its time grows with the area
FEATHER = 0.02  # of the longer side
RIM = 0.1  # of the longer side


@dataclass(frozen=True, kw_only=True)
class CutOut:
    """A thing, and how much of each pixel around it is the thing.

    Args:
        image: The thing with a rim of what was around it, `(h, w, 3)`.
        alpha: How much of each pixel is the thing, `(h, w)` in [0, 1]; none of the rim is.
        rim: Pixels on each side.
        by: `grabcut`, or `box` where that found nothing that stands out, and all of the box is taken.
    """

    image: Image
    alpha: Alpha
    rim: int
    by: Literal["grabcut", "box"]


def cut_out(image: Image, box: Box) -> CutOut:
    """Cut the thing in a box out of an image."""
    tall, wide = image.shape[:2]
    x0, y0 = max(0, int(box[0])), max(0, int(box[1]))
    x1, y1 = min(wide, max(x0 + 1, round(box[2]))), min(tall, max(y0 + 1, round(box[3])))
    alpha = _found(image, (x0, y0, x1, y1))
    ys, xs = np.nonzero(alpha >= 0.5)
    by: Literal["grabcut", "box"] = "grabcut"
    if not LEAST <= len(ys) / alpha.size <= MOST:
        by, alpha, ys, xs = "box", np.ones_like(alpha), np.array([0, y1 - y0 - 1]), np.array([0, x1 - x0 - 1])
    x0, y0, x1, y1 = x0 + int(xs.min()), y0 + int(ys.min()), x0 + int(xs.max()) + 1, y0 + int(ys.max()) + 1
    alpha = alpha[ys.min() : ys.max() + 1, xs.min() : xs.max() + 1]
    rim = 2 + round(RIM * max(alpha.shape))
    around = np.pad(image, ((rim, rim), (rim, rim), (0, 0)), mode="edge")  # beyond the image its edge goes on
    return CutOut(image=around[y0 : y1 + 2 * rim, x0 : x1 + 2 * rim], alpha=np.pad(alpha, rim), rim=rim, by=by)


def _found(image: Image, box: tuple[int, int, int, int]) -> Alpha:
    """Return how much of each pixel of a box GrabCut takes for the thing; nothing where there is nothing to tell it from."""
    import cv2

    x0, y0, x1, y1 = box
    dx, dy = round(AROUND * (x1 - x0)) + 2, round(AROUND * (y1 - y0)) + 2
    left, top = max(0, x0 - dx), max(0, y0 - dy)
    part = image[top : y1 + dy, left : x1 + dx]
    scale = min(1.0, LARGEST / max(part.shape[:2]))
    small = resize(part, (max(1, round(part.shape[1] * scale)), max(1, round(part.shape[0] * scale))))
    inside = [round(v * scale) for v in (x0 - left, y0 - top, x1 - left, y1 - top)]
    mask = np.full(small.shape[:2], cv2.GC_BGD, np.uint8)
    mask[inside[1] : max(inside[1] + 1, inside[3]), inside[0] : max(inside[0] + 1, inside[2])] = cv2.GC_PR_FGD
    found = np.zeros(mask.shape, np.float32)
    if (mask == cv2.GC_BGD).any():  # else the thing fills the image
        cv2.setRNGSeed(0)
        try:
            models_ = np.zeros((1, 65)), np.zeros((1, 65))
            cv2.grabCut(small[..., ::-1].copy(), mask, None, *models_, ROUNDS, cv2.GC_INIT_WITH_MASK)
            found[(mask == cv2.GC_FGD) | (mask == cv2.GC_PR_FGD)] = 1
        except cv2.error:  # too few pixels, or all of one colour
            pass
    whole = cv2.resize(found, part.shape[1::-1], interpolation=cv2.INTER_LINEAR)
    return np.asarray(whole[y0 - top : y1 - top, x0 - left : x1 - left], np.float32)


def paste(
    scene: Image, thing: CutOut, place: Box, blend: Literal["feather", "seamless"] = "feather"
) -> tuple[Image, Box]:
    """Put a thing into the middle of a place, as large as fits there.

    Args:
        scene: The image that it goes into.
        thing: The cut-out; it keeps its shape.
        place: In whole pixels of the scene.
        blend: How its outline is hidden.

    Returns:
        The new image, and the box of the thing in it.
    """
    import cv2

    x0, y0, x1, y1 = (int(v) for v in place)
    tall, wide = (side - 2 * thing.rim for side in thing.alpha.shape)
    scale = min((x1 - x0) / wide, (y1 - y0) / tall)
    size = max(4, round(thing.alpha.shape[1] * scale)), max(4, round(thing.alpha.shape[0] * scale))
    left, top = (x0 + x1 - size[0]) // 2, (y0 + y1 - size[1]) // 2
    # as far as it lies within the scene
    within = slice(max(0, top), top + size[1]), slice(max(0, left), left + size[0])
    shift = slice(max(0, -top), scene.shape[0] - top), slice(max(0, -left), scene.shape[1] - left)
    layer, alpha = scene.copy(), np.zeros(scene.shape[:2], np.float32)
    layer[within] = resize(thing.image, size)[shift]
    smaller = cv2.INTER_AREA if scale < 1 else cv2.INTER_LINEAR
    alpha[within] = cv2.resize(thing.alpha, size, interpolation=smaller)[shift]
    ys, xs = np.nonzero(alpha >= min(0.5, float(alpha.max())))
    box = (float(xs.min()), float(ys.min()), float(xs.max() + 1), float(ys.max() + 1))
    if blend == "feather":
        reach = max(1, round(FEATHER * max(size)))
        soft = np.minimum(alpha, cv2.GaussianBlur(alpha, (2 * reach + 1, 2 * reach + 1), 0))[..., None]
        return (layer * soft + scene * (1 - soft)).round().astype(np.uint8), box
    # with a bit of what was around it: the outline itself must lie within what is fitted
    reach = max(1, round(thing.rim * scale / 2))
    mask = cv2.dilate((alpha >= 0.5).astype(np.uint8) * 255, np.ones((2 * reach + 1, 2 * reach + 1), np.uint8))
    mask[[0, -1]] = mask[:, [0, -1]] = 0
    if not mask.any():
        return layer, box
    x, y, w, h = cv2.boundingRect(mask)  # whose middle it puts where it is told to
    return np.asarray(cv2.seamlessClone(layer, scene, mask, (x + w // 2, y + h // 2), cv2.NORMAL_CLONE), np.uint8), box
