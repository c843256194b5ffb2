"""Draw boxes on images, lay images out on a sheet, and blur what should not be seen by accident."""

import colorsys
import hashlib
from collections.abc import Iterable, Sequence

import numpy as np
from PIL import Image as PilImage
from PIL import ImageDraw, ImageFilter, ImageFont

from tilth.claims import Claim
from tilth.images import Image, fit_within

Colour = tuple[int, int, int]


def colour_of(category: str) -> Colour:
    """Return the colour of a category, the same wherever it is drawn.

    >>> colour_of("knife") == colour_of("knife") != colour_of("pill")
    True
    """
    hue = int.from_bytes(hashlib.sha256(category.encode()).digest()[:2], "big") / 65536
    red, green, blue = colorsys.hsv_to_rgb(hue, 0.85, 0.95)
    return int(red * 255), int(green * 255), int(blue * 255)


def overlay(image: Image, labels: Iterable[Claim], *, side: int = 0, names: bool = True) -> Image:
    """Draw boxes with their names and scores on a copy of an image.

    Args:
        image: `(h, w, 3)`.
        labels: Labels; those without a box are listed in the corner.
        side: Enlarge or shrink so that the longer side has this many pixels, which keeps small names readable; 0 leaves it.
        names: Write names and scores.
    """
    height, width = image.shape[:2]
    scale = side / max(height, width) if side else 1.0
    canvas = PilImage.fromarray(image)
    if scale != 1:
        size = (max(1, round(width * scale)), max(1, round(height * scale)))
        canvas = canvas.resize(size, PilImage.Resampling.BICUBIC)
    draw = ImageDraw.Draw(canvas)
    line = max(1, round(max(canvas.size) / 200))
    corner = 0
    for label in labels:
        name = str(label.category or label.says)
        text = name if label.score == 1 else f"{name} {label.score:.2f}"
        colour = colour_of(name)
        x0 = y0 = 0.0
        if label.box_xyxy:
            x0, y0, x1, y1 = (v * scale for v in label.box_xyxy)
            draw.rectangle((x0, y0, max(x0, x1 - 1), max(y0, y1 - 1)), outline=colour, width=line)
        if names:
            top = y0 if label.box_xyxy else float(corner)
            bottom = _tag(draw, (x0, top), text, colour, canvas.size)
            corner += 0 if label.box_xyxy else round(bottom - top)
    return np.asarray(canvas)


def _tag(draw: ImageDraw.ImageDraw, at: tuple[float, float], text: str, colour: Colour, size: tuple[int, int]) -> float:
    font = ImageFont.load_default(size=max(10, round(max(size) / 28)))
    left, top, right, bottom = draw.textbbox((0, 0), text, font=font)
    width, height = right - left + 4, bottom - top + 4
    x, y = min(max(0.0, at[0]), max(0.0, size[0] - width)), min(max(0.0, at[1]), max(0.0, size[1] - height))
    draw.rectangle((x, y, x + width, y + height), fill=colour)
    dark = sum(colour) > 380
    draw.text((x + 2 - left, y + 2 - top), text, fill=(0, 0, 0) if dark else (255, 255, 255), font=font)
    return y + height


def contact_sheet(images: Sequence[Image], *, columns: int = 8, side: int = 128, gap: int = 4) -> Image:
    """Lay images out in rows on white, each shrunk to fit a square of `side` pixels.

    Raises:
        ValueError: There is no image, or no column.
    """
    if not images or columns < 1:
        raise ValueError(f"needs at least one image and one column, got {len(images)} and {columns}")
    columns = min(columns, len(images))
    rows = -(-len(images) // columns)
    sheet = np.full((rows * (side + gap) + gap, columns * (side + gap) + gap, 3), 255, np.uint8)
    for index, image in enumerate(images):
        small = fit_within(image, side)
        height, width = small.shape[:2]
        top = gap + index // columns * (side + gap) + (side - height) // 2
        left = gap + index % columns * (side + gap) + (side - width) // 2
        sheet[top : top + height, left : left + width] = small
    return sheet


def blurred(image: Image, strength: float = 0.08) -> Image:
    """Blur an image so that shapes are gone and colours stay.

    Args:
        image: `(h, w, 3)`.
        strength: Radius of the blur as a part of the longer side.
    """
    radius = strength * max(image.shape[:2])
    return np.asarray(PilImage.fromarray(image).filter(ImageFilter.GaussianBlur(radius)))
