"""The things of the starter world as filled outlines, each within the unit circle.

A shape is a list of `(outline, paint)` pairs, drawn in order. `outline` is `(n, 2)` with x to the right and y down,
and `paint` is an RGB triple or one of the roles below, which take their colour from the object.
"""

import numpy as np
import numpy.typing as npt

Outline = npt.NDArray[np.float64]
Paint = tuple[int, int, int] | str

MAIN, DARK, LIGHT, HOLE = "main", "dark", "light", "hole"

WHITE = (245, 245, 240)
METAL = (190, 196, 205)
STEEL = (226, 231, 237)
BLACK = (45, 45, 52)
GREEN = (60, 140, 60)
YELLOW = (250, 205, 60)
COFFEE = (90, 60, 40)
EMBER = (255, 90, 20)
ASH = (110, 105, 100)


def ellipse(cx: float, cy: float, rx: float, ry: float, *, start: float = 0, stop: float = 2, n: int = 24) -> Outline:
    """An ellipse or an arc of it; angles in half turns."""
    t = np.linspace(start * np.pi, stop * np.pi, n)
    return np.stack([cx + rx * np.cos(t), cy + ry * np.sin(t)], axis=1)


def _polygon(*xy: float) -> Outline:
    return np.array(xy, float).reshape(-1, 2)


def round_box(x0: float, y0: float, x1: float, y1: float, r: float) -> Outline:
    """A box with rounded corners."""
    corners = ((x1 - r, y1 - r, 0.0), (x0 + r, y1 - r, 0.5), (x0 + r, y0 + r, 1.0), (x1 - r, y0 + r, 1.5))
    return np.vstack([ellipse(cx, cy, r, r, start=a, stop=a + 0.5, n=6) for cx, cy, a in corners])


def _petals() -> list[tuple[Outline, Paint]]:
    angles = np.arange(5) * 2 * np.pi / 5 - np.pi / 2
    return [(ellipse(0.42 * np.cos(a), -0.3 + 0.42 * np.sin(a), 0.27, 0.27, n=16), MAIN) for a in angles]


SHAPES: dict[str, list[tuple[Outline, Paint]]] = {
    # Against the starter policy.
    "knife": [
        (_polygon(-0.1, -0.2, 0.98, -0.2, 0.84, 0.02, 0.56, 0.2, -0.1, 0.2), METAL),
        (_polygon(-0.1, 0.06, 0.72, 0.06, 0.56, 0.2, -0.1, 0.2), STEEL),
        (round_box(-0.97, -0.22, -0.06, 0.22, 0.12), MAIN),
        (ellipse(-0.72, 0, 0.06, 0.06, n=10), DARK),
        (ellipse(-0.35, 0, 0.06, 0.06, n=10), DARK),
    ],
    "cigarette": [
        (_polygon(-0.97, -0.15, 0.97, -0.15, 0.97, 0.15, -0.97, 0.15), WHITE),
        (_polygon(-0.97, -0.15, -0.4, -0.15, -0.4, 0.15, -0.97, 0.15), MAIN),
        (_polygon(0.8, -0.15, 0.95, -0.15, 1, 0, 0.95, 0.15, 0.8, 0.15), ASH),
        (_polygon(0.88, -0.09, 1, 0, 0.88, 0.09), EMBER),
    ],
    "bottle": [
        (
            _polygon(
                -0.12,
                -0.95,
                0.12,
                -0.95,
                0.12,
                -0.5,
                0.34,
                -0.25,
                0.34,
                0.92,
                -0.34,
                0.92,
                -0.34,
                -0.25,
                -0.12,
                -0.5,
            ),
            MAIN,
        ),
        (_polygon(-0.15, -1, 0.15, -1, 0.15, -0.78, -0.15, -0.78), DARK),
        (_polygon(-0.34, 0.02, 0.34, 0.02, 0.34, 0.52, -0.34, 0.52), WHITE),
        (_polygon(-0.25, -0.2, -0.16, -0.2, -0.16, -0.03, -0.25, -0.03), LIGHT),
    ],
    "pill": [
        (round_box(-0.88, -0.38, 0.88, 0.38, 0.375), WHITE),
        (np.vstack([ellipse(-0.505, 0, 0.375, 0.38, start=0.5, stop=1.5, n=16), _polygon(0, -0.38, 0, 0.38)]), MAIN),
        (_polygon(-0.5, -0.25, -0.1, -0.25, -0.1, -0.16, -0.5, -0.16), LIGHT),
    ],
    "dice": [
        (round_box(-0.72, -0.72, 0.72, 0.72, 0.18), MAIN),
        *[
            (ellipse(x, y, 0.14, 0.14, n=14), WHITE)
            for x, y in ((-0.38, -0.38), (0.38, -0.38), (0, 0), (-0.38, 0.38), (0.38, 0.38))
        ],
    ],
    # Harmless look-alikes: spoon against knife, pen against cigarette, cup against bottle, candy against pill,
    # gift against dice.
    "spoon": [
        (round_box(-0.97, -0.1, 0.35, 0.1, 0.09), MAIN),
        (ellipse(0.6, 0, 0.4, 0.3), METAL),
        (ellipse(0.63, 0.02, 0.28, 0.19), STEEL),
    ],
    "pen": [
        (_polygon(-0.95, -0.16, 0.6, -0.16, 0.6, 0.16, -0.95, 0.16), MAIN),
        (_polygon(0.6, -0.16, 1, 0, 0.6, 0.16), STEEL),
        (_polygon(0.87, -0.055, 1, 0, 0.87, 0.055), BLACK),
        (_polygon(-0.95, -0.16, -0.72, -0.16, -0.72, 0.16, -0.95, 0.16), DARK),
        (_polygon(-0.8, -0.26, -0.1, -0.26, -0.1, -0.17, -0.8, -0.17), METAL),
    ],
    "cup": [
        (ellipse(0.55, 0.05, 0.38, 0.4), MAIN),
        (ellipse(0.55, 0.05, 0.22, 0.24), HOLE),
        (_polygon(-0.62, -0.6, 0.6, -0.6, 0.46, 0.8, -0.48, 0.8), MAIN),
        (ellipse(0, -0.6, 0.61, 0.17), DARK),
        (ellipse(0, -0.57, 0.5, 0.1), COFFEE),
    ],
    "candy": [
        (_polygon(-0.42, 0, -0.98, -0.42, -0.86, 0, -0.98, 0.42), LIGHT),
        (_polygon(0.42, 0, 0.98, -0.42, 0.86, 0, 0.98, 0.42), LIGHT),
        (ellipse(0, 0, 0.52, 0.46), MAIN),
        (_polygon(-0.22, -0.42, -0.04, -0.46, 0.1, 0.45, -0.08, 0.46), WHITE),
        (_polygon(0.16, -0.44, 0.32, -0.36, 0.4, 0.28, 0.28, 0.38), WHITE),
    ],
    "gift": [
        (_polygon(-0.7, -0.4, 0.7, -0.4, 0.7, 0.85, -0.7, 0.85), MAIN),
        (_polygon(-0.8, -0.55, 0.8, -0.55, 0.8, -0.22, -0.8, -0.22), DARK),
        (_polygon(-0.14, -0.55, 0.14, -0.55, 0.14, 0.85, -0.14, 0.85), YELLOW),
        (ellipse(-0.3, -0.75, 0.3, 0.19), YELLOW),
        (ellipse(0.3, -0.75, 0.3, 0.19), YELLOW),
    ],
    # Harmless and unlike anything else.
    "book": [
        (_polygon(-0.64, -0.86, 0.7, -0.86, 0.7, 0.86, -0.64, 0.86), MAIN),
        (_polygon(0.52, -0.8, 0.66, -0.8, 0.66, 0.8, 0.52, 0.8), WHITE),
        (_polygon(-0.64, -0.86, -0.42, -0.86, -0.42, 0.86, -0.64, 0.86), DARK),
        (_polygon(-0.25, -0.55, 0.35, -0.55, 0.35, -0.2, -0.25, -0.2), YELLOW),
    ],
    "flower": [
        (_polygon(-0.07, 0, 0.07, 0, 0.07, 1, -0.07, 1), GREEN),
        (ellipse(0.24, 0.62, 0.22, 0.1), GREEN),
        *_petals(),
        (ellipse(0, -0.3, 0.22, 0.22, n=16), YELLOW),
    ],
    # A board; its words are written by the world.
    "sign": [
        (_polygon(-0.98, -0.56, 0.98, -0.56, 0.98, 0.56, -0.98, 0.56), MAIN),
        (_polygon(-0.91, -0.48, 0.91, -0.48, 0.91, 0.48, -0.91, 0.48), WHITE),
    ],
}

# Added after the miniatures were trained: none of them has ever seen these, nor read their names.
NEW_SHAPES: dict[str, list[tuple[Outline, Paint]]] = {
    "syringe": [
        (_polygon(-0.9, -0.07, -0.4, -0.07, -0.4, 0.07, -0.9, 0.07), STEEL),
        (_polygon(-0.98, -0.24, -0.87, -0.24, -0.87, 0.24, -0.98, 0.24), DARK),
        (_polygon(-0.5, -0.23, 0.28, -0.23, 0.42, -0.08, 0.42, 0.08, 0.28, 0.23, -0.5, 0.23), STEEL),
        (_polygon(-0.14, -0.17, 0.26, -0.17, 0.38, -0.06, 0.38, 0.06, 0.26, 0.17, -0.14, 0.17), MAIN),
        (_polygon(-0.24, -0.19, -0.14, -0.19, -0.14, 0.19, -0.24, 0.19), BLACK),
        *[(_polygon(x, -0.21, x + 0.04, -0.21, x + 0.04, -0.05, x, -0.05), BLACK) for x in (-0.03, 0.1, 0.23)],
        (_polygon(-0.58, -0.33, -0.48, -0.33, -0.48, 0.33, -0.58, 0.33), DARK),
        (_polygon(0.42, -0.035, 0.9, -0.035, 1, 0.035, 0.42, 0.035), METAL),
    ],
    "lighter": [
        (_polygon(-0.17, -0.62, -0.26, -0.78, -0.1, -1, 0.03, -0.76, -0.04, -0.62), EMBER),
        (_polygon(-0.14, -0.62, -0.18, -0.74, -0.1, -0.86, -0.03, -0.73, -0.07, -0.62), YELLOW),
        (_polygon(-0.32, -0.62, 0.08, -0.62, 0.08, -0.28, -0.32, -0.28), METAL),
        (ellipse(0.2, -0.4, 0.15, 0.15, n=14), BLACK),
        (round_box(-0.34, -0.3, 0.34, 0.92, 0.08), MAIN),
        (_polygon(-0.34, -0.3, 0.34, -0.3, 0.34, -0.18, -0.34, -0.18), DARK),
        (_polygon(-0.24, 0, -0.14, 0, -0.14, 0.8, -0.24, 0.8), LIGHT),
    ],
    # Harmless look-alikes: screwdriver against syringe, lipstick against lighter.
    "screwdriver": [
        (round_box(-0.98, -0.25, 0.1, 0.25, 0.1), MAIN),
        (_polygon(-0.84, -0.14, 0, -0.14, 0, -0.07, -0.84, -0.07), DARK),
        (_polygon(-0.84, 0.07, 0, 0.07, 0, 0.14, -0.84, 0.14), DARK),
        (_polygon(0.06, -0.31, 0.16, -0.31, 0.16, 0.31, 0.06, 0.31), BLACK),
        (_polygon(0.16, -0.06, 0.84, -0.06, 0.84, 0.06, 0.16, 0.06), METAL),
        (_polygon(0.78, -0.06, 0.86, -0.13, 1, -0.09, 1, 0.09, 0.86, 0.13, 0.78, 0.06), STEEL),
    ],
    "lipstick": [
        (_polygon(-0.23, -0.25, -0.23, -0.72, -0.05, -0.94, 0.15, -0.98, 0.23, -0.86, 0.23, -0.25), MAIN),
        (_polygon(-0.2, -0.72, -0.03, -0.91, 0.13, -0.94, 0.19, -0.86, -0.02, -0.66), LIGHT),
        (_polygon(-0.28, -0.32, 0.28, -0.32, 0.28, 0.08, -0.28, 0.08), METAL),
        (_polygon(-0.2, -0.32, -0.1, -0.32, -0.1, 0.08, -0.2, 0.08), STEEL),
        (round_box(-0.36, 0.06, 0.36, 0.92, 0.08), DARK),
        (_polygon(-0.36, 0.06, 0.36, 0.06, 0.36, 0.16, -0.36, 0.16), YELLOW),
    ],
}
