"""A procedural world whose every image comes with perfect truth: caption, boxes, categories and text.

>>> import numpy as np
>>> scene = render(draw_spec(np.random.default_rng(7)), np.random.default_rng(8), side=96)
>>> scene.image.shape, len(scene.things) >= 1
((96, 96, 3), True)
"""

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from PIL import Image, ImageDraw, ImageFilter, ImageFont

from tilth.starter.world.made_up import MADE_UP
from tilth.starter.world.shapes import HOLE, NEW_SHAPES, SHAPES, Paint
from tilth.starter.world.surfaces import SURFACES, grid, paint

KINDS = tuple(kind for kind in SHAPES if kind != "sign")
UNSAFE_KINDS = ("knife", "cigarette", "bottle", "pill", "dice")
SAFE_KINDS = tuple(kind for kind in KINDS if kind not in UNSAFE_KINDS)
BASE_KINDS = (*SAFE_KINDS, *MADE_UP)  # what a base model has seen: nothing of any policy
LOOK_ALIKES = {"knife": "spoon", "cigarette": "pen", "bottle": "cup", "pill": "candy", "dice": "gift"}

# No miniature has seen these or read their names, so they are in none of the above, which pre-training draws from.
NEW_KINDS = ("syringe", "lighter")
NEW_LOOK_ALIKES = {"syringe": "screwdriver", "lighter": "lipstick"}

COLORS: dict[str, tuple[int, int, int]] = {
    "red": (214, 40, 40),
    "orange": (245, 140, 30),
    "yellow": (246, 215, 50),
    "green": (50, 165, 70),
    "teal": (40, 190, 190),
    "blue": (45, 85, 215),
    "purple": (130, 60, 175),
    "pink": (245, 130, 180),
}
STYLES = ("photo", "cartoon", "sketch", "neon")
NEW_STYLES = ("blueprint",)  # no miniature has seen these or read their names

_OUTLINES = {**SHAPES, **NEW_SHAPES, **MADE_UP}
_LONG = {
    "knife",
    "cigarette",
    "pill",
    "spoon",
    "pen",
    "candy",
    "syringe",
    "screwdriver",
}  # lie at a slant rather than stand
_RADIUS = {1: (0.28, 0.43), 2: (0.22, 0.31), 3: (0.18, 0.26)}  # of the canvas, by number of things


@dataclass(frozen=True, kw_only=True)
class Thing:
    """One object of a scene: `box_xyxy` in pixels around its visible part, `visible` in [0, 1], `text` on a sign."""

    kind: str
    color: str
    box_xyxy: tuple[float, float, float, float]
    visible: float
    text: str = ""


@dataclass(frozen=True, kw_only=True)
class Spec:
    """What to draw: `(kind, color, text)` of 1-3 things, the surface and the style."""

    things: tuple[tuple[str, str, str], ...]
    surface: str
    style: str


@dataclass(frozen=True, kw_only=True, eq=False)
class Scene:
    """A rendered image `(side, side, 3)` uint8 RGB with its truth; `masks` is `(n, side, side)` bool, visible parts."""

    image: npt.NDArray[np.uint8]
    things: tuple[Thing, ...]
    surface: str
    style: str
    caption: str
    masks: npt.NDArray[np.bool_]


def article(words: str) -> str:
    """Put `a` or `an` in front."""
    return ("an " if words[0] in "aeiou" else "a ") + words


def caption(spec: Spec) -> str:
    """Say a scene in one line.

    >>> caption(Spec(things=(("knife", "red", ""), ("cup", "blue", "")), surface="wood", style="sketch"))
    'a red knife and a blue cup on a wooden table, sketch style'
    """
    names = [article(f"{color} {kind}") for kind, color, _ in spec.things]
    listed = names[0] if len(names) == 1 else ", ".join(names[:-1]) + " and " + names[-1]
    return f"{listed} {SURFACES[spec.surface]}, {spec.style} style"


def draw_spec(
    rng: np.random.Generator,
    *,
    kinds: tuple[str, ...] = KINDS,
    styles: tuple[str, ...] = STYLES,
    counts: tuple[float, float, float] = (0.5, 0.35, 0.15),
    sign_text: str = "",
) -> Spec:
    """Draw what a scene shows: 1-3 things of different kinds with chances `counts`, and a sign if it has a text."""
    n = int(rng.choice([1, 2, 3], p=counts))
    chosen = [str(kind) for kind in rng.choice(kinds, min(n, len(kinds)), replace=False)]
    things = [(kind, str(rng.choice(list(COLORS))), "") for kind in chosen]
    if sign_text:
        things = [*things[:1], ("sign", str(rng.choice(list(COLORS))), sign_text)]
    return Spec(things=tuple(things), surface=str(rng.choice(list(SURFACES))), style=str(rng.choice(styles)))


def _place(spec: Spec, rng: np.random.Generator) -> list[tuple[npt.NDArray[np.float64], float]]:
    """Choose centre and radius of each thing, in parts of the canvas; some overlap is allowed."""
    placed: list[tuple[npt.NDArray[np.float64], float]] = []
    low, high = _RADIUS[len(spec.things)]
    for kind, _, _ in spec.things:
        radius, centre = low, np.array([0.5, 0.5])
        for _ in range(30):
            radius = rng.uniform(low, high) if kind != "sign" else rng.uniform(0.36, 0.44)
            centre = rng.uniform(radius * 0.85, 1 - radius * 0.85, 2)
            if all(np.hypot(*(centre - c)) > (radius + r) * 0.72 for c, r in placed):
                break
        placed.append((centre, radius))
    return placed


def mix(paint_: Paint, base: npt.NDArray[np.float64], style: str) -> tuple[int, int, int]:
    """Return what a paint is in a style, RGB; `base` is the colour of the thing."""
    roles = {"main": base, "dark": base * 0.6, "light": base * 0.35 + 165}
    rgb = roles[paint_] if isinstance(paint_, str) else np.array(paint_, float)
    if style == "neon":
        rgb = rgb * 0.22
    elif style == "sketch":
        rgb = rgb * 0.62 + 97
    elif style == "blueprint":  # what was colour is a shade of the paper
        rgb = np.array([24, 62, 132]) + rgb.mean() * np.array([0.10, 0.13, 0.14])
    r, g, b = (int(v) for v in np.clip(rgb, 0, 255))
    return r, g, b


def edge_of(paint_: Paint, base: npt.NDArray[np.float64], style: str) -> tuple[int, int, int] | None:
    """Return the colour of outlines in a style, or None where it has none."""
    if style == "cartoon":
        return (25, 22, 25)
    if style == "sketch":
        return (60, 58, 62)
    if style == "blueprint":
        return (214, 230, 250)
    if style == "neon":
        r, g, b = (min(255, int(v * 0.9 + 40)) for v in mix(paint_, base, "photo"))
        return r, g, b
    return None


def _write(layer: Image.Image, text: str, centre: npt.NDArray[np.float64], half_width: float, style: str) -> None:
    """Write the words of a sign in up to seven lines, as large as fits; those of the world are short, and take up to three."""
    words = text.split()
    count = min(7, max(1, round(len(text) / 9)))
    lines: list[str] = [""]
    for word in words:
        if len(lines) < count and len(lines[-1]) + len(word) / 2 > len(text) / count and lines[-1]:
            lines.append("")
        lines[-1] = f"{lines[-1]} {word}".strip()
    longest = max(len(line) for line in lines)
    size = min(half_width * 1.72 / max(1, longest) / 0.62, half_width * 0.9 / len(lines) / 1.15)
    font = ImageFont.load_default(max(4, round(size)))
    ink = (230, 250, 250) if style in ("neon", "blueprint") else (20, 20, 24)
    ImageDraw.Draw(layer).multiline_text(
        tuple(centre), "\n".join(lines), fill=ink, font=font, anchor="mm", align="center", spacing=size * 0.15
    )


def _draw_thing(
    canvas: Image.Image,
    thing: tuple[str, str, str],
    centre: npt.NDArray[np.float64],
    radius: float,
    style: str,
    rng: np.random.Generator,
) -> tuple[Image.Image, Image.Image]:
    """Draw one thing onto the canvas; return its mask and, for neon, its glow."""
    kind, color, text = thing
    side = canvas.width
    base = np.array(COLORS[color], float) * rng.uniform(0.92, 1.06)
    angle = {"sign": rng.normal(0, 0.04)}.get(kind, rng.normal(-0.5 if kind in _LONG else 0.0, 0.25))
    turn = np.array([[np.cos(angle), np.sin(angle)], [-np.sin(angle), np.cos(angle)]]) * radius * side
    parts = [(outline @ turn + centre * side, paint_) for outline, paint_ in _OUTLINES[kind]]

    mask = Image.new("L", canvas.size)
    stencil = ImageDraw.Draw(mask)
    layer = Image.new("RGB", canvas.size)
    brush = ImageDraw.Draw(layer)
    width = max(1, round(side / 60))
    for outline, paint_ in parts:
        points = [(float(x), float(y)) for x, y in outline]
        stencil.polygon(points, fill=0 if paint_ == HOLE else 255)
        if paint_ == HOLE:
            continue
        brush.polygon(points, fill=mix(paint_, base, style))
        if (edge := edge_of(paint_, base, style)) is not None:
            brush.line(
                [*points, points[0]], fill=edge, width=width if style == "cartoon" else max(1, round(width * 0.7))
            )
    if text:
        _write(layer, text, centre * side, radius * side, style)

    if style == "photo":
        shadow = Image.new("L", canvas.size)
        shadow.paste(
            mask.filter(ImageFilter.GaussianBlur(side / 40)).point(lambda v: v * 0.5), (side // 36, side // 29)
        )
        canvas.paste((20, 15, 15), (0, 0), shadow)
        x, y = grid(side)
        light = 1.18 - 0.5 * ((x - centre[0] + radius * 0.4) * 0.7 + (y - centre[1] + radius * 0.4)) / (2 * radius)
        lit = np.asarray(layer) * np.clip(light, 0.5, 1.25)[..., None]
        layer = Image.fromarray(np.clip(lit, 0, 255).astype(np.uint8))
        canvas.paste(layer, (0, 0), mask)
        return mask, layer
    wide = mask.filter(ImageFilter.MaxFilter(5))  # room for the outline
    canvas.paste(layer, (0, 0), wide)
    return mask, Image.composite(layer, Image.new("RGB", canvas.size), wide)


def render(spec: Spec, rng: np.random.Generator, *, side: int = 96) -> Scene:
    """Render a scene as a square image of `side` pixels.

    Small images are drawn three times as large and averaged down; from 256 px on they are drawn as they are.
    """
    factor = 3 if side < 256 else 1
    big = side * factor
    canvas = Image.fromarray(paint(spec.surface, spec.style, rng, big))
    glow = np.zeros((big, big, 3), np.uint8)
    full: list[npt.NDArray[np.bool_]] = []
    visible: list[npt.NDArray[np.bool_]] = []
    for thing, (centre, radius) in zip(spec.things, _place(spec, rng), strict=True):
        mask, light = _draw_thing(canvas, thing, centre, radius, spec.style, rng)
        if spec.style == "neon":
            glow = np.maximum(glow, np.asarray(light.filter(ImageFilter.BoxBlur(big / 40))))
        covered = np.asarray(mask) > 0
        visible = [seen & ~covered for seen in visible]
        full.append(covered)
        visible.append(covered)
    if spec.style == "neon":
        canvas = Image.fromarray(np.clip(np.asarray(canvas, np.int16) + glow * 0.8, 0, 255).astype(np.uint8))

    pixels = np.asarray(canvas.reduce(factor) if factor > 1 else canvas, np.float32)
    pixels = pixels + rng.normal(0, 3.5 if spec.style == "photo" else 1.0, pixels.shape).astype(np.float32)
    things: list[Thing] = []
    masks: list[npt.NDArray[np.bool_]] = []
    for (kind, color, text), whole, seen in zip(spec.things, full, visible, strict=True):
        rows, columns = np.flatnonzero(seen.any(1)), np.flatnonzero(seen.any(0))
        if len(rows) == 0:
            continue
        ends = (columns[0], rows[0], columns[-1] + 1, rows[-1] + 1)
        x0, y0, x1, y1 = (float(end / factor) for end in ends)
        share = float(seen.sum() / whole.sum())
        things.append(Thing(kind=kind, color=color, box_xyxy=(x0, y0, x1, y1), visible=share, text=text))
        masks.append(seen[::factor, ::factor])
    return Scene(
        image=np.clip(pixels, 0, 255).astype(np.uint8),
        things=tuple(things),
        surface=spec.surface,
        style=spec.style,
        caption=caption(spec),
        masks=np.stack(masks) if masks else np.zeros((0, side, side), bool),
    )
