"""Draw somebody in a place: polygons from head to foot, from the front or from behind, in one of the world's four styles."""

from dataclasses import dataclass
from itertools import pairwise

import numpy as np
import numpy.typing as npt
from PIL import Image, ImageDraw, ImageFilter

from tilth.starter.persons.people import RGB, Build, Face, Outfit, Person, Room
from tilth.starter.world.scene import edge_of, mix
from tilth.starter.world.shapes import BLACK, WHITE, Outline, ellipse, round_box

SIDE, FACTOR = 128, 2  # pixels of an image, and how many times as large it is drawn
OUTLINED = ("cartoon", "sketch", "neon")
Point = tuple[float, float]


@dataclass(frozen=True, kw_only=True)
class Pose:
    """How somebody stands before the camera.

    Args:
        height: Of the person, in parts of the image; above 1 a part is outside.
        foot: Where the feet are, x and y in parts of the image.
        back: Whether they are seen from behind.
        turn: Of the head, in [-1, 1].
        sway: Added to the angles of arms, elbows and spine, five radians.
        smile: Of the mouth, in [-1, 1].
        hidden: Boxes that something in the foreground covers, in parts of the image, each with its colour.
        light: Factor on all pixels.
        blur: Radius in pixels.
    """

    height: float
    foot: Point
    back: bool
    turn: float
    sway: tuple[float, float, float, float, float]
    smile: float
    hidden: tuple[tuple[tuple[float, float, float, float], RGB], ...]
    light: float
    blur: float


class Canvas:
    """Polygons in pixels of the large image, each in the colours of a style."""

    def __init__(self, style: str, side: int) -> None:
        self.style, self.side = style, side
        self.image = Image.new("RGB", (side, side))
        self._brush = ImageDraw.Draw(self.image)

    def fill(self, outline: Outline, rgb: RGB, *, edge: bool = True) -> None:
        """Draw a polygon, `(n, 2)`, with the outline of its style."""
        base, points = np.array(rgb, float), [(float(x), float(y)) for x, y in outline]
        self._brush.polygon(points, fill=mix("main", base, self.style))
        if edge and self.style in OUTLINED:
            self._brush.line(
                [*points, points[0]], fill=edge_of("main", base, self.style), width=max(1, self.side // 160)
            )

    def limb(self, a: Point, b: Point, width: float, rgb: RGB) -> None:
        """Draw a rounded bar from one point to another."""
        along = np.array(b) - np.array(a)
        length = max(float(np.hypot(*along)), 1e-6)
        turn = np.array([along, (-along[1], along[0])]) / length
        bar = round_box(-width / 2, -width / 2, length + width / 2, width / 2, width / 2)
        self.fill(bar @ turn + np.array(a), rgb)


def room_of(canvas: Canvas, room: Room, shift: float) -> None:
    """Paint a place; the camera stands `shift` of the image's width beside its middle."""
    side = canvas.side
    at = lambda x: (x + shift) * side  # noqa: E731
    box = lambda x0, y0, x1, y1: round_box(x0, y0, x1, y1, 1)  # noqa: E731
    canvas.fill(box(-2, -2, side + 2, side + 2), room.wall, edge=False)
    step = room.scale * side
    if room.pattern in ("stripes", "bars"):
        for k in np.arange(-1, side / step + 1, 2):
            place = k * step + (shift * side) % (2 * step)
            long = (
                box(place, 0, place + step, side)
                if room.pattern == "stripes"
                else box(0, k * step, side, (k + 1) * step)
            )
            canvas.fill(long, room.print, edge=False)
    elif room.pattern == "dots":
        for x in np.arange(0, side + step, 2 * step).tolist():
            for y in np.arange(0, 0.7 * side, 2 * step).tolist():
                canvas.fill(
                    ellipse(x + (shift * side) % (2 * step), y, step / 3, step / 3, n=8), room.print, edge=False
                )
    canvas.fill(box(-2, 0.72 * side, side + 2, side + 2), room.floor, edge=False)
    x, y = room.window
    canvas.fill(box(at(x) - 0.12 * side, y * side, at(x) + 0.12 * side, (y + 0.28) * side), (150, 200, 240))
    x, y, rgb = room.picture
    canvas.fill(box(at(x) - 0.07 * side, y * side, at(x) + 0.07 * side, (y + 0.14) * side), rgb)
    for kind, x, rgb in room.furniture:
        left, low = at(x), 0.78 * side
        shapes = {
            "shelf": [box(left - 0.1 * side, 0.35 * side, left + 0.1 * side, low)],
            "sofa": [box(left - 0.2 * side, 0.6 * side, left + 0.2 * side, low)],
            "lamp": [box(left - 2, 0.4 * side, left + 2, low), ellipse(left, 0.38 * side, 0.07 * side, 0.06 * side)],
            "table": [box(left - 0.17 * side, 0.62 * side, left + 0.17 * side, 0.66 * side), box(left - 3, 0.66 * side, left + 3, low)],
            "plant": [ellipse(left, 0.58 * side, 0.05 * side, 0.14 * side), box(left - 0.04 * side, 0.7 * side, left + 0.04 * side, low)],
        }  # fmt: skip
        for shape in shapes[kind]:
            canvas.fill(shape, rgb)


def head_of(canvas: Canvas, face: Face, pose: Pose, middle: Point, tall: float, hat: RGB | None) -> None:
    """Draw a head around a point, `tall` pixels high."""
    (cx, cy), wide = middle, tall * face.width
    of = lambda x, y: (cx + x * wide / 2, cy + (y - 0.5) * tall)  # noqa: E731
    if face.hair in (1, 4):  # long, behind the head
        canvas.fill(
            round_box(
                cx - 0.62 * wide, cy - 0.45 * tall, cx + 0.62 * wide, cy + (0.55 + 0.2 * (face.hair == 4)) * tall, 3
            ),
            face.hair_rgb,
        )
    for sign in (-1, 1):
        canvas.fill(ellipse(*of(sign, face.eye_y), face.ears * wide + 1, 0.1 * tall, n=10), face.skin)
    skull = ellipse(cx, cy, wide / 2, tall / 2, n=28)
    lower = skull[:, 1] > cy
    skull[lower, 0] = cx + (skull[lower, 0] - cx) * (
        face.jaw + (1 - face.jaw) * (1 - (skull[lower, 1] - cy) / (tall / 2))
    )
    canvas.fill(skull, face.skin)
    if pose.back:
        if face.hair != 5:
            canvas.fill(ellipse(cx, cy - 0.06 * tall, wide * 0.53, tall * 0.46), face.hair_rgb)
    else:
        _features(canvas, face, pose, of, wide, tall)
        caps = {0: (0.5, 0.32), 1: (0.54, 0.3), 2: (0.5, 0.2), 3: (0.58, 0.42), 4: (0.52, 0.36)}
        if face.hair in caps:
            rx, ry = caps[face.hair]
            cap = ellipse(cx + pose.turn * 0.05 * wide, cy - 0.22 * tall, wide * rx, tall * ry, start=1, stop=2)
            canvas.fill(cap, face.hair_rgb)
    if hat is not None:
        canvas.fill(round_box(cx - 0.42 * wide, cy - 0.72 * tall, cx + 0.42 * wide, cy - 0.36 * tall, 2), hat)
        canvas.fill(round_box(cx - 0.75 * wide, cy - 0.4 * tall, cx + 0.75 * wide, cy - 0.32 * tall, 1), hat)


def _features(canvas: Canvas, face: Face, pose: Pose, of, wide: float, tall: float) -> None:  # type: ignore[no-untyped-def]
    """Draw eyes, brows, nose, mouth, beard and glasses; a turned head shows them to one side."""
    shift = pose.turn * 0.3
    dark = (int(face.hair_rgb[0] * 0.6), int(face.hair_rgb[1] * 0.6), int(face.hair_rgb[2] * 0.6))
    if face.beard:
        low = {1: 0.9, 2: 0.84, 3: 0.72}[face.beard]
        x, y = of(shift * 0.5, low)
        canvas.fill(ellipse(x, y, wide * 0.3, tall * (1.0 - low) * 0.9), face.hair_rgb, edge=False)
    for sign in (-1, 1):
        x, y = of(sign * face.eye_gap + shift, face.eye_y)
        r = face.eye_size * wide
        canvas.fill(ellipse(x, y, r, r * 0.8, n=14), WHITE)
        canvas.fill(ellipse(x + pose.turn * r * 0.4, y, r * 0.45, r * 0.5, n=10), BLACK, edge=False)
        rise = face.brow * r * sign
        canvas.limb((x - r, y - 2.0 * r + rise), (x + r, y - 2.0 * r - rise), max(1.0, 0.025 * tall), dark)
        if face.glasses:
            ring = ellipse(x, y, r * 1.7, r * (1.7 if face.glasses == 1 else 1.2), n=16)
            canvas._brush.line([(float(a), float(b)) for a, b in ring], fill=BLACK, width=max(1, round(0.03 * tall)))
    x, y = of(shift * 1.3, face.eye_y + face.nose)
    canvas.limb(
        (x, y - face.nose * 0.7 * tall),
        (x + pose.turn * 0.04 * wide, y),
        max(1.0, 0.04 * tall),
        mix("dark", np.array(face.skin, float), "photo"),
    )
    x, y = of(shift, face.mouth_y)
    t = np.linspace(-1, 1, 9)
    curve = np.stack([x + t * face.mouth * wide / 2, y + pose.smile * 0.05 * tall * (1 - 2 * t**2)], 1)
    for a, b in pairwise(curve):
        canvas.limb((a[0], a[1]), (b[0], b[1]), max(1.0, 0.03 * tall), (150, 50, 50))


def body_of(canvas: Canvas, build: Build, worn: Outfit, pose: Pose, skin: RGB) -> tuple[Point, float, list[Outline]]:
    """Draw all below the head; return where the head's middle goes, its height, and the outlines of what is worn, in pixels."""
    tall, side = pose.height * canvas.side, canvas.side
    x, y = pose.foot[0] * side, pose.foot[1] * side
    limb = build.limb * tall
    hip_y, neck_y = y - build.leg * tall, y - (1 - build.head) * tall
    lean = build.lean + pose.sway[4]
    neck = (x + lean * (hip_y - neck_y), neck_y)
    half = lambda w: w * tall / 2  # noqa: E731
    for sign in (-1, 1):
        start, foot = (
            (x + sign * half(build.hip) * 0.5, hip_y),
            (x + sign * (half(build.hip) * 0.5 + build.stance * 0.2 * tall), y),
        )
        canvas.limb(start, foot, limb * 1.25, skin if worn.skirt else worn.bottom)
    shoulder_y = neck_y + 0.03 * tall
    arms = []
    for k, sign in enumerate((-1, 1)):
        upper, lower = build.arms[k] + pose.sway[k], build.elbows[k] + pose.sway[2 + k]
        at = (neck[0] + sign * half(build.shoulder), shoulder_y + limb / 2)
        elbow = (at[0] + sign * np.sin(upper) * 0.17 * tall, at[1] + np.cos(upper) * 0.17 * tall)
        hand = (elbow[0] + sign * np.sin(upper + lower) * 0.16 * tall, elbow[1] + np.cos(upper + lower) * 0.16 * tall)
        arms.append((at, elbow, hand))
        canvas.limb(elbow, hand, limb * 0.8, worn.top if worn.sleeves > 0.7 else skin)
        canvas.limb(at, elbow, limb, worn.top)
    waist_y = (shoulder_y + hip_y) / 2 + 0.03 * tall
    torso = np.array([
        (neck[0] - half(build.shoulder), shoulder_y), (neck[0] + half(build.shoulder), shoulder_y), (x + half(build.waist), waist_y),
        (x + half(build.hip), hip_y), (x - half(build.hip), hip_y), (x - half(build.waist), waist_y),
    ])  # fmt: skip
    canvas.limb((neck[0], neck[1] - 0.02 * tall), (neck[0], shoulder_y), limb, skin)
    canvas.fill(torso, worn.top)
    _print(canvas, worn, torso, tall, back=pose.back)
    below = torso[2:].copy()
    if worn.skirt:
        below = np.array([(x - half(build.hip), hip_y - 0.02 * tall), (x + half(build.hip), hip_y - 0.02 * tall),
                          (x + half(build.hip) * 1.5, hip_y + 0.22 * tall), (x - half(build.hip) * 1.5, hip_y + 0.22 * tall)])  # fmt: skip
        canvas.fill(below, worn.bottom)
    feet = np.array([(x - half(build.hip), y), (x + half(build.hip), y)])
    return (neck[0], neck_y - build.head * tall / 2 + 0.01 * tall), build.head * tall, [torso, below, feet]


def _print(canvas: Canvas, worn: Outfit, torso: Outline, tall: float, *, back: bool) -> None:
    (x0, y0), (x1, y1) = torso.min(0), torso.max(0)
    inner0, inner1 = x0 + 0.28 * (x1 - x0), x1 - 0.28 * (x1 - x0)
    if worn.pattern == "stripes":
        for y in np.linspace(y0, y1, 6)[1:-1]:
            canvas.limb((inner0, y), (inner1, y), 0.018 * tall, worn.print)
    elif worn.pattern == "bars":
        for x in np.linspace(inner0, inner1, 4):
            canvas.limb((x, y0 + 0.03 * tall), (x, y1 - 0.03 * tall), 0.015 * tall, worn.print)
    elif worn.pattern == "dots":
        for x in np.linspace(inner0, inner1, 3):
            for y in np.linspace(y0, y1, 6)[1:-1]:
                canvas.fill(ellipse(x, y, 0.013 * tall, 0.013 * tall, n=8), worn.print, edge=False)
    elif worn.pattern == "badge" and not back:
        canvas.fill(ellipse((x0 + x1) / 2, y0 + 0.3 * (y1 - y0), 0.05 * tall, 0.05 * tall), worn.print)


def draw(
    who: Person, worn: Outfit, where: Room, pose: Pose, style: str, rng: np.random.Generator
) -> tuple[npt.NDArray[np.uint8], dict[str, Outline]]:
    """Draw a picture, `(SIDE, SIDE, 3)`, and return it with the outlines of face, body and clothing in its pixels."""
    canvas = Canvas(style, SIDE * FACTOR)
    room_of(canvas, where, float(rng.uniform(-0.12, 0.12)))
    middle, tall, clothes = body_of(canvas, who.build, worn, pose, who.face.skin)
    head_of(canvas, who.face, pose, middle, tall, worn.print if worn.hat else None)
    for (x0, y0, x1, y1), rgb in pose.hidden:
        side = canvas.side
        canvas.fill(round_box(x0 * side, y0 * side, x1 * side, y1 * side, 2), rgb)
    image = canvas.image.reduce(FACTOR)
    if pose.blur:
        image = image.filter(ImageFilter.GaussianBlur(pose.blur))
    pixels = np.asarray(image, np.float32) * pose.light
    if style == "photo":  # light from one side
        pixels *= np.linspace(float(rng.uniform(0.75, 1)), 1.05, SIDE, dtype=np.float32)[None, :, None]
    pixels += rng.normal(0, 4 if style == "photo" else 1, pixels.shape).astype(np.float32)
    (cx, cy), wide = middle, tall * who.face.width
    head = np.array([(cx - wide / 2, cy - tall / 2), (cx + wide / 2, cy + tall / 2)])
    worn_at = np.vstack(clothes)
    parts = {"clothing": worn_at, "body": np.vstack([head, worn_at])} | ({} if pose.back else {"face": head})
    return np.clip(pixels, 0, 255).astype(np.uint8), {name: points / FACTOR for name, points in parts.items()}
