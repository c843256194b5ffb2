"""What the numbers of a line of YOLO are: a box, a box with key points, a turned box, or a polygon.

Nothing in a line says which. A `data.yaml` does, by `kpt_shape` or `task`; where it does not, what all lines of the set have in
common does.
"""

from collections.abc import Callable, Iterable
from dataclasses import dataclass

from tilth.geometry import Box

OVER = 0.01  # how far beyond the image a number may lie by rounding
ENOUGH = 8  # lines that all look like boxes with key points, before that is no chance
CLOSE = 2e-3  # how exactly the corners of a turned box make a parallelogram

BOX, POSE, TURNED, POLYGON = "box", "pose", "turned box", "polygon"
NOTES = {
    POSE: "key points beside a box, left out",
    TURNED: "turned box, taken as the upright box around it",
    POLYGON: "polygon, taken as the box around it",
}
TASKS = {"detect": BOX, "pose": POSE, "obb": TURNED, "segment": POLYGON, "seg": POLYGON}
UNCLEAR = "numbers that may be a polygon or a box with key points; `kpt_shape` or `task` in data.yaml would tell"


class Odd(ValueError):
    """A line that cannot be taken, and why."""


@dataclass(frozen=True)
class Common:
    """What the long lines of a set, those of more than five numbers, have in common."""

    lines: int
    scored: bool  # all have an odd count of numbers, as polygons with a score behind them do
    pose: bool  # all are as long as each other, and are boxes whose other points lie inside them


def common_of(lines: Iterable[list[float]]) -> Common:
    """Look at the numbers behind the class of all long lines of a set."""
    count, scored, lengths = 0, True, set()
    steps = {2, 3}
    for values in lines:
        count += 1
        scored &= len(values) % 2 == 1
        lengths.add(len(values))
        steps = {step for step in steps if _is_pose(values, step)} if len(lengths) == 1 else set()
    return Common(count, scored and count > 0, bool(steps) and count > 0)


def _is_pose(values: list[float], step: int) -> bool:
    x, y, w, h = values[:4]
    if len(values) < 4 + step or (len(values) - 4) % step or w <= 0 or h <= 0:
        return False
    edges = [middle + way * side / 2 for middle, side in ((x, w), (y, h)) for way in (-1, 1)]
    if min(edges) < -OVER or max(edges) > 1 + OVER:
        return False
    points = [values[at : at + step] for at in range(4, len(values), step)]
    if step == 3 and not all(point[2] in (0, 1, 2) for point in points):
        return False
    inside = [abs(p[0] - x) <= w / 2 + OVER and abs(p[1] - y) <= h / 2 + OVER for p in points if any(p[:2])]
    return all(inside) and bool(inside)


@dataclass
class Lines:
    """Reads the numbers behind the class.

    Args:
        task: That `data.yaml` gives, of `TASKS`; empty when it gives none.
        points: Number of key points, of its `kpt_shape`; 0 when it gives none.
        look: Returns what the set's long lines have in common; asked for at the first line that needs it.
    """

    task: str
    points: int
    look: Callable[[], Common]
    common: Common | None = None

    def read(self, values: list[float]) -> tuple[str, Box, float]:
        """Return what a line is, its box in parts of the image, and its score.

        Raises:
            Odd: Its numbers fit nothing, or more than one thing.
        """
        kind = self._kind(values)
        score = values[-1] if (kind, len(values)) in ((BOX, 5), (TURNED, 9)) or self._has_score(kind, values) else 1.0
        if not 0 <= score <= 1:
            raise Odd("number behind the box that is no score")
        places = values[:4] if kind in (BOX, POSE) else values[: len(values) // 2 * 2]
        if not all(-OVER <= v <= 1 + OVER for v in places):
            raise Odd("numbers beyond the image, or pixels, which YOLO does not have")
        if kind in (BOX, POSE):
            x, y, w, h = places
            return kind, (x - w / 2, y - h / 2, x + w / 2, y + h / 2), score
        xs, ys = places[0::2], places[1::2]
        return kind, (min(xs), min(ys), max(xs), max(ys)), score

    @staticmethod
    def _has_score(kind: str, values: list[float]) -> bool:
        return kind == POLYGON and len(values) % 2 == 1

    def _kind(self, values: list[float]) -> str:
        count = len(values)
        if count in (4, 5):
            return BOX
        if self.points and self.task in ("", POSE):
            if count in (4 + 2 * self.points, 4 + 3 * self.points):
                return POSE
            raise Odd(f"{count} numbers, which kpt_shape does not give")
        if count < 6:
            raise Odd("line of too few numbers")
        if self.task == TURNED and count in (8, 9):
            return TURNED
        if self.task == POLYGON:
            return POLYGON
        if self.task:
            raise Odd(f"{count} numbers, which the task of data.yaml does not have")
        return self._by_common(values)

    def _by_common(self, values: list[float]) -> str:
        if len(values) in (8, 9) and _is_parallelogram(values):
            return TURNED
        self.common = self.common or self.look()
        if self.common.pose:
            if self.common.lines < ENOUGH and len(values) % 2 == 0:
                raise Odd(UNCLEAR)
            return POSE
        if len(values) % 2 and not self.common.scored:
            raise Odd(f"{len(values)} numbers, which fit neither a box, key points nor a polygon")
        return POLYGON


def _is_parallelogram(values: list[float]) -> bool:
    """Tell whether four points are the corners of a turned box, whose sides stay parallel when the image is scaled."""
    x0, y0, x1, y1, x2, y2, x3, y3 = values[:8]
    return abs(x0 + x2 - x1 - x3) <= CLOSE and abs(y0 + y2 - y1 - y3) <= CLOSE
