"""Look at generated images with an encoder and measure what is decided by: brightness, the match with words, and a short vector.

The vectors of an image, side by side, are projected at random onto 256 numbers of a byte each: that keeps the distance of two images to
about a tenth, so of images that are nearly the same it is off by little.

Paper: https://doi.org/10.1016/S0022-0000(03)00025-4 (random projections)
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import field

import numpy as np
import numpy.typing as npt

from tilth.claims import Json
from tilth.encoders.families import max_similarity, open_encoder
from tilth.encoders.few_shot import side_by_side
from tilth.engine.steps import step
from tilth.images import Image
from tilth.samples import Result, Sample

LONGEST = 256  # numbers of a vector
VECTOR = "adherence.vector"


@step
class Look:
    """Measure images.

    Args:
        encoder: Model name; empty to look at brightness alone.
        texts: Category -> what it is called.
        device: `auto`, `cpu`, `cuda`, …
        batch_size: Images per call.
    """

    encoder: str = ""
    texts: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    device: str = "auto"
    batch_size: int = 32

    def models(self) -> tuple[str, ...]:
        """Name the encoder."""
        return (self.encoder,) if self.encoder else ()

    def load(self) -> Callable[[Sequence[Sample]], list[Result]]:
        """Load the encoder."""
        if not self.encoder:
            return lambda samples: [Result(columns=plain(sample.pixels())) for sample in samples]
        encoder = open_encoder(self.encoder, self.device)
        names = [(category, text) for category, texts in self.texts.items() for text in texts] if encoder.reads else []
        words = encoder.texts([text for _, text in names]) if names else None

        def look(samples: Sequence[Sample]) -> list[Result]:
            vectors = encoder.images([encoder.inputs.load(sample.data) for sample in samples])
            match = max_similarity(vectors, words) if words is not None else None
            found = []
            for i, (sample, short) in enumerate(zip(samples, shortened(side_by_side(vectors)), strict=True)):
                columns = plain(sample.pixels()) | {VECTOR: short.tolist()}
                asked = [k for k, (category, _) in enumerate(names) if category == sample.origin.get("category")]
                if match is not None and asked:
                    columns["adherence.match"] = round(float(match[i, asked].max()), 4)
                found.append(Result(columns=columns))
            return found

        return look


def plain(image: Image) -> dict[str, Json]:
    """Measure how bright an image is and by how much that varies, both in [0, 1], and how alike neighbouring pixels are, at most 1."""
    grey = image.mean(2) / 255
    wide, tall = grey[:, 1:].ravel(), grey[1:].ravel()
    alike = [_correlation(grey[:, :-1].ravel(), wide), _correlation(grey[:-1].ravel(), tall)]
    return {
        "adherence.brightness": round(float(grey.mean()), 4),
        "adherence.contrast": round(float(grey.std()), 4),
        "adherence.smoothness": round(min(alike), 4),
    }


def _correlation(a: npt.NDArray[np.floating], b: npt.NDArray[np.floating]) -> float:
    spread = a.std() * b.std()
    return float(((a - a.mean()) * (b - b.mean())).mean() / spread) if spread > 1e-9 else 1.0


def shortened(flat: npt.NDArray[np.float32]) -> npt.NDArray[np.int8]:
    """Return short vectors of long ones `(n, d)`; where d is small, it stays.

    >>> some = np.random.default_rng(1).standard_normal((3, 2000)).astype(np.float32)
    >>> some[1] = some[0] + 0.1 * some[1]
    >>> near = cosines(shortened(some), shortened(some))
    >>> bool(near[0, 1] > 0.99), bool(abs(near[0, 2]) < 0.2)
    (True, True)
    """
    if flat.shape[1] > LONGEST:
        flat = flat @ np.random.default_rng(0).standard_normal((flat.shape[1], LONGEST), np.float32)
    largest = np.abs(flat).max(1, keepdims=True)
    return np.asarray(np.rint(127 * flat / np.maximum(largest, 1e-9)), np.int8)


def cosines(a: npt.NDArray[np.int8], b: npt.NDArray[np.int8]) -> npt.NDArray[np.float32]:
    """Return the cosines of short vectors `(n, d)` and `(m, d)`, `(n, m)`."""
    left, right = (unit(each) for each in (a, b))
    return np.asarray(left @ right.T, np.float32)


def unit(short: npt.NDArray[np.int8]) -> npt.NDArray[np.float32]:
    """Return vectors of length one."""
    long = short.astype(np.float32)
    return np.asarray(long / np.maximum(np.linalg.norm(long, axis=1, keepdims=True), 1e-9), np.float32)
