"""Read the words in an image: look for lines of text in a small copy first, and recognise those that are found in the large one.

Most images hold no words, and the search for them is what takes long: in half of the width it takes a quarter of the time.
Where letters are not sure, the image is turned upside down and read again, so that signs may hang in any direction.

The models (PP-OCR) come inside the `rapidocr` wheel; nothing is downloaded.
"""

import queue
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import cv2
import numpy as np
import numpy.typing as npt

from tilth.extras import optional
from tilth.images import Image, fit_within, resize
from tilth.runtime.stages.graphs import OPENVINO, REFERENCE, usable_cores

MAX_SIDE = 1280  # larger images are shrunk: signs stay legible, and the time stays bounded
MIN_SIDE = 480  # smaller ones are enlarged; on the starter's signs as good as rapidocr's 736, in half the time
MAX_ENLARGEMENT = 2.5  # what is too small to read does not get legible by being blown up, only slower
SEARCHED, SEARCHED_LARGE = 0.5, 2 / 3  # of that size, in which lines are looked for; signs in large images are small
LARGE = 640  # shorter side from which on an image is large
MIN_SCORE = 0.5
SURE = 0.9  # a line below is read upside down as well; of the starter's, upright ones lie above 0.92, others below 0.89
TALL = 1.5  # lines that are so much higher than wide run downwards
ENGINES = 2  # that read at once, so many images

Quad = npt.NDArray[np.float32]


class Reader:
    """Optical character recognition, loaded at its first use and safe to share between threads.

    Args:
        threads: Of each engine; 0 for as many as this process may use.
        min_side: Images whose shorter side is smaller are enlarged to it, in pixels.
        engines: Images that are read at once; others wait for a free engine. An engine keeps settings of a call, so each reads one.
        back_end: What runs the models: `onnxruntime`, or one of OpenVINO's.
    """

    def __init__(
        self, *, threads: int = 0, min_side: int = MIN_SIDE, engines: int = ENGINES, back_end: str = REFERENCE
    ) -> None:
        self.back_end = back_end
        self._threads = threads or usable_cores()
        self._min_side = min_side
        self._idle: queue.LifoQueue[Any] = queue.LifoQueue()  # engines, of which rapidocr has no usable types
        for _ in range(engines):
            self._idle.put(
                None
            )  # the last that was used is taken first, so others are only loaded when they are needed

    def __call__(self, image: Image) -> str:
        """Return the words, top to bottom, lines joined by spaces; empty when there are none."""
        large = np.ascontiguousarray(scaled(image, self._min_side)[:, :, ::-1])  # rapidocr takes BGR
        height, width = large.shape[:2]
        searched = SEARCHED_LARGE if min(height, width) > LARGE else SEARCHED
        small = resize(large, (max(1, round(width * searched)), max(1, round(height * searched))))
        with self._engine() as engine:
            found = engine(small, use_det=True, use_cls=False, use_rec=False).boxes
            if found is None or not len(found):
                return ""
            factors = np.array([width / small.shape[1], height / small.shape[0]], np.float32)
            lines = _read(engine, [cut(large, np.asarray(quad, np.float32) * factors) for quad in found])
        return " ".join(line for line in lines if line)

    @contextmanager
    def _engine(self) -> Iterator[Any]:
        """Lend an engine, as soon as one is free."""
        engine = self._idle.get()
        try:
            if engine is None:
                engine = self._load()
            yield engine
        finally:
            self._idle.put(engine)

    def _load(self) -> Any:
        with optional():
            from rapidocr import EngineType, RapidOCR
        if self.back_end in OPENVINO:
            with optional():
                pass  # rapidocr's own error does not say what to install
        kind = EngineType.OPENVINO if self.back_end in OPENVINO else EngineType.ONNXRUNTIME
        return RapidOCR(
            params={
                **{f"{part}.engine_type": kind for part in ("Det", "Rec", "Cls")},
                "Global.log_level": "error",
                "Global.text_score": MIN_SCORE,
                "Global.max_side_len": MAX_SIDE,
                "Det.limit_type": "min",
                "Det.limit_side_len": 32,  # `scaled` has seen to it
                "EngineConfig.onnxruntime.intra_op_num_threads": self._threads,
                "EngineConfig.openvino.inference_num_threads": self._threads,
            }
        )


def _read(engine: Any, lines: list[Image]) -> list[str]:
    """Recognise the lines of an image, top to bottom; if the longest is surer upside down, so is the whole image."""
    longest = max(
        range(len(lines)), key=lambda i: lines[i].shape[1] / lines[i].shape[0]
    )  # the least likely to be no text at all
    text, score = _recognised(engine, lines[longest])
    known = {longest: (text, score)}
    if score < SURE and len(text) > 1:  # what is no text is mostly read as one letter or none
        turned = [np.ascontiguousarray(line[::-1, ::-1]) for line in reversed(lines)]
        other = _recognised(engine, turned[-1 - longest])
        if other[1] > score:
            lines, known = turned, {len(lines) - 1 - longest: other}
    said = [known[i] if i in known else _recognised(engine, line) for i, line in enumerate(lines)]
    return [text for text, score in said if score >= MIN_SCORE]


def _recognised(engine: Any, line: Image) -> tuple[str, float]:
    read = engine(line, use_det=False, use_cls=False, use_rec=True)
    if not read.txts:
        return "", 0.0
    return str(read.txts[0]).strip(), float(read.scores[0])


def cut(image: Image, quad: Quad) -> Image:
    """Cut a line of text out of an image and lay it flat; one that runs downwards is turned by a quarter.

    Args:
        image: `(h, w, 3)`.
        quad: Its corners `(4, 2)` in pixels, clockwise from the top left.
    """
    width = max(1, round(max(np.linalg.norm(quad[0] - quad[1]), np.linalg.norm(quad[2] - quad[3]))))
    height = max(1, round(max(np.linalg.norm(quad[0] - quad[3]), np.linalg.norm(quad[1] - quad[2]))))
    corners = np.array([[0, 0], [width, 0], [width, height], [0, height]], np.float32)
    flat = cv2.warpPerspective(
        image, cv2.getPerspectiveTransform(quad, corners), (width, height),
        flags=cv2.INTER_CUBIC, borderMode=cv2.BORDER_REPLICATE,
    )  # fmt: skip
    return np.asarray(np.ascontiguousarray(np.rot90(flat)) if height >= TALL * width else flat, np.uint8)


def scaled(image: Image, min_side: int = MIN_SIDE) -> Image:
    """Bring an image to the size in which text is read.

    >>> scaled(np.zeros((96, 192, 3), np.uint8)).shape, scaled(np.zeros((1000, 2560, 3), np.uint8)).shape
    ((240, 480, 3), (500, 1280, 3))
    """
    image = fit_within(image, MAX_SIDE)
    height, width = image.shape[:2]
    factor = min(MAX_ENLARGEMENT, min_side / min(height, width), MAX_SIDE / max(height, width))
    return resize(image, (round(width * factor), round(height * factor))) if factor > 1 else image
