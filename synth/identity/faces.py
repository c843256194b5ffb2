"""Find faces: with YuNet, which the user brings as an ONNX file, or with the Haar cascade that comes with OpenCV.

Papers: YuNet (Wu, Peng and Yu 2023, Machine Intelligence Research); Viola and Jones (2001, CVPR).
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np
import numpy.typing as npt

from tilth import models
from tilth.claims import Json
from tilth.engine.steps import step
from tilth.errors import ModelError
from tilth.geometry import Box, clip
from tilth.images import Image, fit_within
from tilth.samples import Result, Sample

HAAR = "haarcascade_frontalface_default.xml"
MOST_SIDE = 1280  # pixels of the longer side that are looked at; a face of a twentieth of it is still found
NEIGHBOURS = 4  # windows of the cascade that must agree
OVERLAP = 0.3  # IoU from which on YuNet's boxes are one face
# Where eyes, nose and the corners of the mouth are in the cascade's box of an upright face, in parts of its sides.
IN_BOX = np.array([(0.31, 0.40), (0.69, 0.40), (0.50, 0.60), (0.35, 0.77), (0.65, 0.77)])

Points = npt.NDArray[np.float64]
"""(5, 2) pixels: the eye on the left of the image, the other, the nose, the corners of the mouth."""


@dataclass(frozen=True, kw_only=True)
class Face:
    """A face in an image, in its pixels."""

    box_xyxy: Box
    points: tuple[tuple[float, float], ...]
    score: float

    def row(self) -> list[Json]:
        """Return it as a column holds it."""
        return [round(v, 2) for v in (self.score, *self.box_xyxy, *(v for point in self.points for v in point))]


Find = Callable[[Image], list[Face]]
"""From an image to its faces, the largest first."""


def face_of(row: Sequence[object]) -> Face:
    """Read a face from a column."""
    score, x0, y0, x1, y1, *rest = (float(str(value)) for value in row)
    points = tuple(zip(rest[::2], rest[1::2], strict=True))
    return Face(box_xyxy=(x0, y0, x1, y1), points=points, score=score)


def finder(detector: str, threshold: float) -> Find:
    """Return what finds faces.

    Args:
        detector: YuNet's ONNX file; empty for the Haar cascade, which tells no landmarks and no score.
        threshold: Least score of YuNet.

    Raises:
        ModelError: The file is none that OpenCV runs.
    """
    raw = _yunet(models.find(detector), threshold) if detector else _haar()

    def find(image: Image) -> list[Face]:
        small = fit_within(image, MOST_SIDE)
        size_wh = image.shape[1], image.shape[0]
        scale = np.array([size_wh[0] / small.shape[1], size_wh[1] / small.shape[0]])
        faces = []
        for score, box, points in raw(small):
            x0, y0, x1, y1 = clip((box.reshape(2, 2) * scale).reshape(1, 4), size_wh)[0].tolist()
            if x1 > x0 and y1 > y0:
                placed = tuple((float(x), float(y)) for x, y in points * scale)
                faces.append(Face(box_xyxy=(x0, y0, x1, y1), points=placed, score=score))
        return sorted(faces, key=lambda face: (-_area(face.box_xyxy), face.box_xyxy))

    return find


def _area(box: Box) -> float:
    return (box[2] - box[0]) * (box[3] - box[1])


Raw = Callable[[Image], list[tuple[float, npt.NDArray[np.float64], Points]]]


def _haar() -> Raw:
    folder = Path(cv2.data.haarcascades)  # type: ignore[attr-defined]  # its stubs leave it out
    cascade = cv2.CascadeClassifier(str(folder / HAAR))
    if cascade.empty():
        raise ModelError(f"this build of OpenCV comes without {HAAR}; give YuNet's ONNX file as detector")

    def find(image: Image) -> list[tuple[float, npt.NDArray[np.float64], Points]]:
        grey = cv2.cvtColor(image, cv2.COLOR_RGB2GRAY)
        found = np.array(cascade.detectMultiScale(grey, 1.1, NEIGHBOURS), np.float64).reshape(-1, 4)
        return [(1.0, np.array([x, y, x + w, y + h]), IN_BOX * [w, h] + [x, y]) for x, y, w, h in found]

    return find


def _yunet(path: Path, threshold: float) -> Raw:
    try:
        net = cv2.FaceDetectorYN.create(str(path), "", (320, 320), threshold, OVERLAP)
    except cv2.error as error:
        raise ModelError(f"{path}: not a face detector that OpenCV runs: {_line(error)}") from error

    def find(image: Image) -> list[tuple[float, npt.NDArray[np.float64], Points]]:
        net.setInputSize((image.shape[1], image.shape[0]))
        try:
            _, found = net.detect(cv2.cvtColor(image, cv2.COLOR_RGB2BGR))
        except cv2.error as error:
            raise ModelError(f"{path}: not a face detector of YuNet's kind: {_line(error)}") from error
        rows = np.zeros((0, 15)) if found is None else np.asarray(found, np.float64)
        # YuNet names the points as the person has them, right eye first, which is the left one of the image
        return [(float(r[14]), np.array([r[0], r[1], r[0] + r[2], r[1] + r[3]]), r[4:14].reshape(5, 2)) for r in rows]

    return find


def _line(error: Exception) -> str:
    return " ".join(str(error).split())[:160]


@step
class FindFaces:
    """Find the faces in an image.

    Args:
        detector: YuNet's ONNX file; the Haar cascade of OpenCV when empty.
        threshold: Least score of YuNet.
    """

    detector: str = ""
    threshold: float = 0.6
    batch_size: int = 16

    def models(self) -> tuple[str, ...]:
        """Name the detector."""
        return (self.detector,) if self.detector else ()

    def load(self) -> Callable[[Sequence[Sample]], list[Result]]:
        """Open the detector."""
        find = finder(self.detector, self.threshold)

        def look(samples: Sequence[Sample]) -> list[Result]:
            found = [find(sample.pixels()) for sample in samples]
            return [
                Result(columns={"faces.count": len(faces), "faces.found": [face.row() for face in faces]})
                for faces in found
            ]

        return look
