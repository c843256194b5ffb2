"""Measure how good an image is as a picture, whatever it shows: sharpness, light, contrast, plainness, shape."""

from collections.abc import Callable, Sequence

import cv2
import numpy as np

from tilth.claims import Json
from tilth.engine.steps import Facts, step
from tilth.engine.work import Work
from tilth.images import Image, fit_within
from tilth.samples import Result, Sample

LOOKED_AT_PX = 512  # longer side at which images are measured, so that large and small ones compare


def measure(image: Image) -> dict[str, float]:
    """Measure one image.

    Returns:
        `sharpness`: variance of the Laplacian, 0 for a plain image. `brightness`: mean luminance, `dark` and `bright`:
        shares of pixels within 5 of black and white, in [0, 1]. `contrast`: distance of the 5th from the 95th
        percentile of luminance, in [0, 1]. `entropy`: of the luminance, in bits of 8. `uniform`: share of the most
        common of 32 luminance levels. `aspect`: longer by shorter side. `min_side`: in px of the file.
    """
    height, width = image.shape[:2]
    grey = cv2.cvtColor(fit_within(image, LOOKED_AT_PX), cv2.COLOR_RGB2GRAY)
    shares = np.bincount(grey.ravel(), minlength=256) / grey.size
    low, high = np.percentile(grey, [5, 95])
    seen = shares[shares > 0]
    return {
        "sharpness": float(cv2.Laplacian(grey, cv2.CV_64F).var()),
        "brightness": float(grey.mean() / 255),
        "dark": float(shares[:6].sum()),
        "bright": float(shares[250:].sum()),
        "contrast": float((high - low) / 255),
        "entropy": float(max(0.0, -(seen * np.log2(seen)).sum())),
        "uniform": float(shares.reshape(32, 8).sum(1).max()),
        "aspect": max(width, height) / min(width, height),
        "min_side": float(min(width, height)),
    }


@step
class Quality:
    """Measure the picture quality of every image, as columns `quality.sharpness`, `quality.brightness` and so on.

    Nothing is dropped: `filter` does that, by rules over these columns.

    Args:
        batch_size: Images per call.
    """

    batch_size: int = 32

    def models(self) -> tuple[str, ...]:
        """Name none."""
        return ()

    def load(self) -> Callable[[Sequence[Sample]], list[Result]]:
        """Return the function that measures a batch."""

        def columns(sample: Sample) -> dict[str, Json]:
            return {f"quality.{name}": round(value, 4) for name, value in measure(sample.pixels()).items()}

        return lambda samples: [Result(columns=columns(sample)) for sample in samples]

    def run(self, work: Work) -> Facts:
        """Measure what is not measured yet and report the spread of each column."""
        counts = work.map(self)
        spread: dict[str, Json] = {}
        for name in (name for name in work.dataset.measured() if name.startswith("quality.")):
            cells = work.dataset.cells(name, where=f"`{name}` is not null")
            found = np.fromiter((float(str(value)) for (value,) in cells), np.float64)
            if len(found):
                shares = {f"p{p}": round(float(np.percentile(found, p)), 3) for p in (1, 50, 99)}
                spread[name.removeprefix("quality.")] = shares
        return {**counts, "spread": spread}
