"""Read the words in an image: find lines of text first, recognise only where there are some.

The models (PP-OCRv6) come inside the `rapidocr` wheel; nothing is downloaded.
"""

import threading
from typing import Any

import numpy as np

from tilth.extras import optional
from tilth.images import Image, fit_within, resize

MAX_SIDE = 1280  # larger images are shrunk: signs stay legible, and the time stays bounded
MIN_SIDE = 480  # smaller ones are enlarged; on the starter's signs as good as rapidocr's 736, in half the time
MAX_ENLARGEMENT = 2.5  # what is too small to read does not get legible by being blown up, only slower
MIN_SCORE = 0.5


class Reader:
    """Optical character recognition, loaded at its first use and safe to share between threads.

    Args:
        threads: Of onnxruntime; 0 lets it choose.
        min_side: Images whose shorter side is smaller are enlarged to it before the search for text, in pixels.
    """

    def __init__(self, *, threads: int = 0, min_side: int = MIN_SIDE) -> None:
        self._threads = threads
        self._min_side = min_side
        self._engine: Any = None  # rapidocr has no usable types
        self._lock = threading.Lock()  # its engine keeps settings of a call in attributes

    def __call__(self, image: Image) -> str:
        """Return the words, top to bottom, lines joined by spaces; empty when there are none."""
        with self._lock:
            if self._engine is None:
                self._engine = self._load()
            # rapidocr takes BGR
            read = self._engine(np.ascontiguousarray(scaled(image, self._min_side)[:, :, ::-1]))
        return " ".join(read.txts or ())

    def _load(self) -> Any:
        with optional():
            from rapidocr import RapidOCR
        return RapidOCR(
            params={
                "Global.log_level": "error",
                "Global.use_cls": False,  # lines upside down are rare, and asking costs a model
                "Global.text_score": MIN_SCORE,
                "Global.max_side_len": MAX_SIDE,
                "Det.limit_type": "min",
                "Det.limit_side_len": 32,  # `scaled` has seen to it
                "EngineConfig.onnxruntime.intra_op_num_threads": self._threads or -1,
            }
        )


def scaled(image: Image, min_side: int = MIN_SIDE) -> Image:
    """Bring an image to the size at which text is looked for.

    >>> scaled(np.zeros((96, 192, 3), np.uint8)).shape, scaled(np.zeros((1000, 2560, 3), np.uint8)).shape
    ((240, 480, 3), (500, 1280, 3))
    """
    image = fit_within(image, MAX_SIDE)
    height, width = image.shape[:2]
    factor = min(MAX_ENLARGEMENT, min_side / min(height, width), MAX_SIDE / max(height, width))
    return resize(image, (round(width * factor), round(height * factor))) if factor > 1 else image
