"""Measure what makes copies recognisable: the PDQ hash of every image, and its quality.

Paper: https://github.com/facebook/ThreatExchange/blob/main/hashing/hashing.pdf

Up to its median, PDQ is linear: two box filters a side, every so-many-th pixel and a cosine transform are products with one
small matrix a side, which depends only on the side's length. So it is computed, within 2 bits of the authors' own code on
photographs (6 on plain drawings, as brightness is rounded here) and 5 times as fast; `tests/mining/cleaning/test_clean.py` holds it
to the bits. The hash gate (`listed.py`) asks the authors' code itself.

Differs: images below 256 px are enlarged first. PDQ looks at a 64 x 64 copy; taken straight from a 96 px image it
aliases, and one in a hundred copies that were resized by a tenth moves by 54 bits of 256 or more. Enlarged, by 14.
Images from 1,024 px are reduced to 512 or more, as the paper allows.
"""

from collections.abc import Callable, Sequence
from functools import lru_cache
from typing import ClassVar

import cv2
import numpy as np
import numpy.typing as npt

from tilth.engine.steps import Facts, step
from tilth.engine.work import Work
from tilth.images import Image, Luma
from tilth.samples import Result, Sample

SMALLEST_SIDE, ENOUGH_SIDE = 256, 512  # px
BITS = 256
COLUMN, QUALITY = "hash.pdq", "hash.pdq_quality"

_GRID = 64  # pixels a side that PDQ looks at …
_WAVES = 16  # … and cosines a side that it keeps, without the constant one
_COSINES = np.sqrt(2 / _GRID) * np.cos(
    np.pi / 2 / _GRID * np.outer(np.arange(1, _WAVES + 1), np.arange(1, 2 * _GRID, 2))
).astype(np.float32)

Bits = npt.NDArray[np.uint8]
Floats = npt.NDArray[np.float32]


@lru_cache(256)
def _shrinking(side: int) -> Floats:
    """Return the matrix `(64, side)` that smooths a side twice by the mean of a window and takes 64 pixels of it."""
    window = -(-side // (2 * _GRID))
    first = np.arange(side) - (window - 1) // 2
    first, last = np.maximum(first, 0), np.minimum(first + window, side)  # of the window around each pixel
    taken = ((np.arange(_GRID) + 0.5) * side / _GRID).astype(int)
    steps, rows = np.zeros((_GRID, side + 1)), np.arange(_GRID)
    for offset in range(window):
        pixel = first[taken] + offset
        seen = pixel < last[taken]
        pixel = np.minimum(pixel, side - 1)
        weight = seen / (last[taken] - first[taken]) / (last[pixel] - first[pixel])
        steps[rows, first[pixel]] += weight
        steps[rows, last[pixel]] -= weight
    return np.ascontiguousarray(steps.cumsum(1)[:, :side], np.float32)


def pdq(image: Image | Luma) -> tuple[str, int]:
    """Return the PDQ hash as 64 hex digits, and its quality in [0, 100]; below 50 the image is too plain to compare.

    Args:
        image: `(height, width, 3)`, or the brightness `(height, width)`.
    """
    luma = cv2.cvtColor(image, cv2.COLOR_RGB2GRAY) if image.ndim == 3 else image
    height, width = luma.shape
    if (scale := SMALLEST_SIDE / min(height, width)) > 1:
        luma = cv2.resize(luma, (round(width * scale), round(height * scale)), interpolation=cv2.INTER_CUBIC)
    elif (shrink := min(height, width) // ENOUGH_SIDE) > 1:
        luma = cv2.resize(luma, (width // shrink, height // shrink), interpolation=cv2.INTER_AREA)
    height, width = luma.shape
    small = _shrinking(height) @ luma.astype(np.float32) @ _shrinking(width).T
    waves = _COSINES @ small @ _COSINES.T
    slopes = sum(int(np.abs(np.trunc(np.diff(small, axis=axis) * 100 / 255)).sum()) for axis in (0, 1))
    bits = (waves > np.median(waves)).ravel()[::-1]  # the last cosine first
    return np.packbits(bits).tobytes().hex(), min(100, slopes // 90)


def to_bytes(hashes: Sequence[str]) -> Bits:
    """Turn hashes into `(n, 32)` bytes, as FAISS takes them."""
    return np.frombuffer(bytes.fromhex("".join(hashes)), np.uint8).reshape(len(hashes), BITS // 8)


@step
class Hash:
    """Measure the PDQ hash of every image: columns `hash.pdq` (64 hex digits) and `hash.pdq_quality` (0-100).

    Args:
        batch_size: Images per call.
    """

    batch_size: int = 32
    revision: ClassVar[int] = 1  # hashes of before are up to 14 bits away

    def models(self) -> tuple[str, ...]:
        """Name none."""
        return ()

    def load(self) -> Callable[[Sequence[Sample]], list[Result]]:
        """Return the function that hashes a batch."""

        def measure(samples: Sequence[Sample]) -> list[Result]:
            hashes = [pdq(sample.luma(at_least=ENOUGH_SIDE)) for sample in samples]
            return [Result(columns={COLUMN: text, QUALITY: quality}) for text, quality in hashes]

        return measure

    def run(self, work: Work) -> Facts:
        """Hash what has no hash yet."""
        return dict(work.map(self))


def ensure_hashes(work: Work) -> dict[str, int]:
    """Hash the samples that have no hash, such as those made after the step `hash` ran."""
    where = f"`{COLUMN}` is null"
    # without any no version is made: a step that decides anew commits what it left out and what it decides as one
    return work.map(Hash(), where, label=f"{work.name}: hash") if work.dataset.count(where) else {}
