"""Measure how much of an image is writing: text-only images, and what looks like a watermark.

Only where text lies is asked, not what it says: rapidocr's detector, whose models (PP-OCR) come inside its wheel.
"""

from collections.abc import Callable, Sequence
from typing import Any

import cv2
import numpy as np
import numpy.typing as npt

from tilth.engine.steps import Facts, step
from tilth.engine.work import Work
from tilth.extras import optional
from tilth.images import Image, fit_within
from tilth.samples import Result, Sample

LOOKED_AT_PX = 960  # longer side
EDGE = 0.12  # share of the sides that counts as the edge
TONES = 32


def measure(image: Image, quads: npt.NDArray[np.floating]) -> dict[str, float]:
    """Say what the places of text tell of an image.

    Args:
        image: `(height, width, 3)`.
        quads: Corners of the lines of text, `(n, 4, 2)` in px.

    Returns:
        `lines`: how many. `area`: share of the image that they cover. `edge`: share of that area within the outer eighth of the
        image, where watermarks and captions are. `only`: how plain everything else is, the share of its most common tone of 32;
        0 without text, near 1 for an image of nothing but text.
    """
    height, width = image.shape[:2]
    covered = np.zeros((height, width), np.uint8)
    for quad in quads:
        cv2.fillPoly(covered, [np.round(quad).astype(np.int32)], 1)
    where = covered.astype(bool)
    if not where.any():
        return {"lines": 0.0, "area": 0.0, "edge": 0.0, "only": 0.0}
    middle = np.zeros_like(where)
    top, left = round(EDGE * height), round(EDGE * width)
    middle[top : height - top, left : width - left] = True
    rest = cv2.cvtColor(image, cv2.COLOR_RGB2GRAY)[~cv2.dilate(covered, np.ones((5, 5), np.uint8)).astype(bool)]
    tones = np.bincount(rest // (256 // TONES), minlength=TONES)
    return {
        "lines": float(len(quads)),
        "area": float(where.mean()),
        "edge": float((where & ~middle).sum() / where.sum()),
        "only": float(tones.max() / max(1, tones.sum())) if len(rest) else 1.0,
    }


@step
class Words:
    """Measure the writing in every image, as columns `words.lines`, `words.area`, `words.edge` and `words.only`.

    Nothing is dropped: `filter` does that, by rules such as `words.only <= 0.9` (text-only images) or `words.edge <= 0.8`
    (writing at the edge only: watermarks and captions).

    Args:
        batch_size: Images per call.
    """

    batch_size: int = 16

    def models(self) -> tuple[str, ...]:
        """Name none: the detector is part of rapidocr."""
        return ()

    def load(self) -> Callable[[Sequence[Sample]], list[Result]]:
        """Return the function that measures a batch.

        Raises:
            MissingExtra: rapidocr is not installed.
        """
        with optional():
            from rapidocr import RapidOCR
        engine: Any = RapidOCR(
            params={"Global.log_level": "error", "Det.limit_type": "max", "Det.limit_side_len": LOOKED_AT_PX}
        )

        def look(sample: Sample) -> Result:
            image = fit_within(sample.pixels(), LOOKED_AT_PX)
            found = engine(np.ascontiguousarray(image[:, :, ::-1]), use_det=True, use_cls=False, use_rec=False)  # BGR
            quads = np.empty((0, 4, 2)) if found.boxes is None else np.asarray(found.boxes)
            return Result(columns={f"words.{name}": round(value, 4) for name, value in measure(image, quads).items()})

        return lambda samples: [look(sample) for sample in samples]

    def run(self, work: Work) -> Facts:
        """Measure what is not measured yet."""
        return dict(work.map(self))
