"""Measure what makes copies recognisable: the PDQ hash of every image, and its quality.

Paper: https://github.com/facebook/ThreatExchange/blob/main/hashing/hashing.pdf
Differs: images below 256 px are enlarged first. PDQ looks at a 64 x 64 copy; taken straight from a 96 px image it
aliases, and one in a hundred copies that were resized by a tenth moves by 54 bits of 256 or more. Enlarged, by 14.
"""

from collections.abc import Callable, Sequence

import cv2
import numpy as np
import numpy.typing as npt

from tilth.extras import optional
from tilth.images import Image
from tilth.samples import Result, Sample
from tilth.steps import Facts, step
from tilth.work import Work

SMALLEST_SIDE = 256  # px
BITS = 256
COLUMN, QUALITY = "hash.pdq", "hash.pdq_quality"

Bits = npt.NDArray[np.uint8]


def pdq(image: Image) -> tuple[str, int]:
    """Return the PDQ hash as 64 hex digits, and its quality in [0, 100]; below 50 the image is too plain to compare."""
    with optional():
        import pdqhash
    height, width = image.shape[:2]
    scale = SMALLEST_SIDE / min(height, width)
    if scale > 1:
        image = cv2.resize(image, (round(width * scale), round(height * scale)), interpolation=cv2.INTER_CUBIC)
    bits, quality = pdqhash.compute(np.ascontiguousarray(image))
    return np.packbits(bits.astype(np.uint8)).tobytes().hex(), int(quality)


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

    def models(self) -> tuple[str, ...]:
        """Name none."""
        return ()

    def load(self) -> Callable[[Sequence[Sample]], list[Result]]:
        """Return the function that hashes a batch."""

        def measure(samples: Sequence[Sample]) -> list[Result]:
            hashes = [pdq(sample.pixels()) for sample in samples]
            return [Result(columns={COLUMN: text, QUALITY: quality}) for text, quality in hashes]

        return measure

    def run(self, work: Work) -> Facts:
        """Hash what has no hash yet."""
        return dict(work.map(self))


def ensure_hashes(work: Work) -> dict[str, int]:
    """Hash the samples that have no hash, such as those made after the step `hash` ran."""
    return work.map(Hash(), lambda sample: COLUMN not in sample.columns, label=f"{work.name}: hash")
