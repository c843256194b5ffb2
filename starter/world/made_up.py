"""Things that do not exist, for pre-training: many simple shapes teach what outlines and parts are, and none is of any policy.

A model that has seen seven kinds of things knows those; one that has seen fifty more has learned to look.
"""

import numpy as np

from tilth.starter.world.shapes import (
    ASH,
    BLACK,
    DARK,
    EMBER,
    GREEN,
    LIGHT,
    MAIN,
    METAL,
    STEEL,
    WHITE,
    YELLOW,
    Outline,
    Paint,
    ellipse,
    round_box,
)

COUNT = 48
BODIES: tuple[Paint, ...] = (MAIN, MAIN, MAIN, DARK, LIGHT, WHITE, METAL)
DETAILS: tuple[Paint, ...] = (MAIN, DARK, LIGHT, WHITE, METAL, STEEL, BLACK, GREEN, YELLOW, EMBER, ASH)


def _outline(rng: np.random.Generator, centre: tuple[float, float], half: tuple[float, float]) -> Outline:
    """Draw an ellipse, a box or a polygon that fills about the half sides `half` around `centre`."""
    (cx, cy), (rx, ry) = centre, half
    form = rng.integers(4)
    if form == 0:
        return ellipse(cx, cy, rx, ry)
    if form == 1:
        return round_box(cx - rx, cy - ry, cx + rx, cy + ry, min(rx, ry) * float(rng.uniform(0.05, 0.6)))
    corners = int(rng.integers(3, 8))
    angles = np.sort(rng.uniform(0, 2 * np.pi, corners)) if form == 2 else np.linspace(0, 2 * np.pi, corners + 1)[:-1]
    far = rng.uniform(0.55, 1.0, corners) if form == 2 else np.ones(corners)
    return np.stack([cx + rx * far * np.cos(angles), cy + ry * far * np.sin(angles)], axis=1)


def made_up(number: int) -> list[tuple[Outline, Paint]]:
    """Draw the parts of a thing, always the same for a number.

    >>> parts = made_up(3)
    >>> max(float(np.hypot(*outline.T).max()) for outline, _ in parts) <= 1.0001
    True
    """
    rng = np.random.default_rng((9_000, number))
    slim = float(rng.choice([0.2, 0.35, 0.6, 0.95]))
    half = (0.95, 0.95 * slim) if rng.random() < 0.6 else (0.95 * slim, 0.95)
    parts = [(_outline(rng, (0.0, 0.0), half), BODIES[int(rng.integers(len(BODIES)))])]
    for _ in range(int(rng.integers(1, 5))):
        centre = tuple(float(rng.uniform(-0.8, 0.8)) * side for side in half)
        size = tuple(float(rng.uniform(0.15, 0.6)) * side + 0.04 for side in half)
        parts.append(
            (_outline(rng, (centre[0], centre[1]), (size[0], size[1])), DETAILS[int(rng.integers(len(DETAILS)))])
        )
    reach = max(float(np.hypot(*outline.T).max()) for outline, _ in parts)
    return [(outline / reach, paint) for outline, paint in parts]


MADE_UP = {f"made-up-{number}": made_up(number) for number in range(COUNT)}
