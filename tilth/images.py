"""Image files in, pixels out: what a file is, which way it is up, decoding with limits, and the identity of a picture.

Every file is taken as hostile. Only still formats that Pillow decodes itself are opened, and HEIC where somebody has installed
`pillow-heif`; the size is checked before any pixel is, and whatever goes wrong ends as one `InputError` with a short reason.
"""

import hashlib
import importlib.util
import io
import struct
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TypeAlias

import numpy as np
import numpy.typing as npt
from PIL import Image as PilImage
from PIL import ImageOps, UnidentifiedImageError, features

from tilth.errors import InputError

Image: TypeAlias = npt.NDArray[np.uint8]
"""(height, width, 3), RGB, EXIF orientation applied."""

Luma: TypeAlias = npt.NDArray[np.uint8]
"""(height, width), brightness, EXIF orientation applied."""

FORMATS = ("JPEG", "PNG", "WEBP", "BMP", "GIF", "TIFF", *(("AVIF",) if features.check("avif") else ()))
SUFFIXES = (
    ".jpg", ".jpeg", ".png", ".webp", ".bmp", ".gif", ".tif", ".tiff", ".jfif", ".jpe", ".avif", ".heic", ".heif",
)  # fmt: skip
SUFFIX_OF = {
    "JPEG": ".jpg", "PNG": ".png", "WEBP": ".webp", "BMP": ".bmp", "GIF": ".gif", "TIFF": ".tif", "AVIF": ".avif", "HEIC": ".heic",
}  # fmt: skip
MAX_PIXELS = 50_000_000
MAX_BYTES = 64 * 2**20
HEAD_BYTES = 64  # at the beginning of a file that tell what it is
HEIC_READER = (
    "pillow_heif"  # not ours to install: its wheels are under the GPL, as they hold an encoder that we never need
)
BEGINNINGS = {
    b"\xff\xd8\xff": "JPEG",
    b"\x89PNG\r\n\x1a\n": "PNG",
    b"GIF8": "GIF",
    b"II*\0\x10\0\0\0CR": "camera raw",
    b"II*\0": "TIFF",
    b"MM\0*": "TIFF",
    b"II+\0": "TIFF",
    b"MM\0+": "TIFF",
    b"\xff\x0a": "JPEG XL",
    b"\0\0\0\x0cJXL ": "JPEG XL",
    b"\0\0\0\x0cjP  ": "JPEG 2000",
    b"\xff\x4f\xff\x51": "JPEG 2000",
    b"8BPS": "Photoshop",
    b"\0\0\1\0": "icon",
    b"<svg": "SVG",
    b"%PDF": "PDF",
    b"<!doctype html": "HTML",
    b"<html": "HTML",
    b"PK\3\4": "ZIP",
    b"\x1f\x8b": "gzip",
    b"\x1aE\xdf\xa3": "video",
    b"version https://git-lfs": "pointer of Git LFS",
}
BRANDS = {  # of files in the container that video, HEIC and AVIF share
    "AVIF": (b"avif", b"avis"),
    "HEIC": (b"heic", b"heix", b"heim", b"heis", b"hevc", b"hevx", b"mif1", b"msf1"),
    "camera raw": (b"crx ",),
}
BMP_HEADERS = (12, 40, 52, 56, 64, 108, 124)  # bytes; two letters alone begin many a text
ORIENTATION = 0x0112  # EXIF tag
TURNED = (5, 6, 7, 8)  # orientations that swap width and height
WIDTH, HEIGHT = 256, 257  # TIFF tags
PALE = 240  # of 255; ink whose every channel is above is not seen on white
INK = 0.99  # share of what is drawn that must be so for the ground to be another
GREY = (128, 128, 128, 255)


def kind_of(head: bytes) -> str:
    """Return what a file is, one of `SUFFIX_OF` or something that is not read, by its first bytes; empty when that is unknown.

    >>> kind_of(bytes.fromhex("ffd8ffe0")), kind_of(bytes(4) + b"ftypheic" + bytes(4)), kind_of(b"BMW and other cars")
    ('JPEG', 'HEIC', '')
    """
    if head[:4] == b"RIFF":
        return "WEBP" if head[8:12] == b"WEBP" else "video" if head[8:12] == b"AVI " else ""
    if head[:2] == b"BM":
        return "BMP" if int.from_bytes(head[14:18], "little") in BMP_HEADERS else ""
    if head[4:8] == b"ftyp":
        # what a file calls itself first may be general; what else it says it is compatible with is not
        said = [head[at : at + 4] for at in (8, *range(16, min(len(head), int.from_bytes(head[:4], "big")), 4))]
        return next((kind for kind, brands in BRANDS.items() if any(brand in brands for brand in said)), "video")
    text = head.lstrip(b"\xef\xbb\xbf \t\r\n").lower()
    found = (kind for begins, kind in BEGINNINGS.items() if head.startswith(begins) or text.startswith(begins))
    return next(found, "")


def reads_heic() -> bool:
    """Tell whether somebody has installed what decodes the photos of iPhones."""
    return importlib.util.find_spec(HEIC_READER) is not None


def is_image(kind: str) -> bool:
    """Tell whether files of a kind are images that are decoded, here or where the optional reader is installed."""
    return kind in SUFFIX_OF


def read_header(data: bytes) -> tuple[tuple[int, int], int]:
    """Return the stored `(width, height)` of an image file and its orientation, 1 to 8 as EXIF has it, without decoding it.

    Raises:
        InputError: The bytes are no image of `FORMATS`, are damaged, or hold more than `MAX_PIXELS`.
    """
    with _opened(data, MAX_PIXELS) as opened:
        orientation = opened.getexif().get(ORIENTATION, 1)
        orientation = orientation if orientation in range(1, 9) else 1
        # of a TIFF, and of no other, Pillow gives the size as it is shown
        tags = getattr(opened, "tag_v2", {})
        stored = (tags[WIDTH], tags[HEIGHT]) if opened.format == "TIFF" and {WIDTH, HEIGHT} <= {*tags} else opened.size
        return stored, orientation


def pixels_in(data: bytes) -> int:
    """Return the pixels of an image file by its header alone; unlike `read_header` it never looks for what may come after the pixels.

    Raises:
        InputError: The bytes are no image of `FORMATS`, or hold more than `MAX_PIXELS`.
    """
    with _opened(data, MAX_PIXELS) as opened:
        return opened.width * opened.height


def is_plain(data: bytes) -> bool:
    """Tell whether every program shows an image file as `decode` does: nothing turns it, and nothing of it is transparent.

    Raises:
        InputError: It is no image.
    """
    with _opened(data, MAX_PIXELS) as opened:
        return opened.getexif().get(ORIENTATION, 1) in (0, 1) and not _transparent(opened)


def shown_size(stored_wh: tuple[int, int], orientation: int) -> tuple[int, int]:
    """Return the size of the image as it is shown."""
    return (stored_wh[1], stored_wh[0]) if orientation in TURNED else stored_wh


def decode(data: bytes, *, at_least: int = 0, max_pixels: int = MAX_PIXELS) -> Image:
    """Decode an image file into RGB pixels `(height, width, 3)`; of an animation, the first frame.

    Transparent parts are laid on white, or on grey when nearly all that is drawn is white; 16-bit, CMYK and palette images
    become 8-bit RGB.

    Args:
        data: The file.
        at_least: Pixels of the shorter side that suffice; a JPEG is then decoded at a half, a quarter or an eighth of its
            size, which is several times as fast. 0 for the whole image.
        max_pixels: Limit of width times height.

    Raises:
        InputError: The bytes are no image of `FORMATS`, are damaged, or hold more than `max_pixels`.
    """
    with _opened(data, max_pixels) as opened:
        if at_least:
            _draft(opened, opened.mode, at_least)
        opened.load()
        return np.asarray(_rgb(ImageOps.exif_transpose(opened)))


def decode_luma(data: bytes, *, at_least: int, max_pixels: int = MAX_PIXELS) -> Luma:
    """Decode only the brightness `(height, width)`, else as `decode`; a JPEG is decoded without its colours."""
    with _opened(data, max_pixels) as opened:
        _draft(opened, "L" if opened.mode in ("RGB", "L") else opened.mode, at_least)
        opened.load()
        image = ImageOps.exif_transpose(opened)
        return np.asarray(image if image.mode == "L" and "transparency" not in image.info else _rgb(image).convert("L"))


def _draft(opened: PilImage.Image, mode: str, at_least: int) -> None:
    """Ask for a smaller decoding; only JPEG heeds it."""
    shrink = max(1, min(opened.size) // at_least)
    opened.draft(mode, (-(-opened.width // shrink), -(-opened.height // shrink)))


@contextmanager
def _opened(data: bytes, max_pixels: int) -> Iterator[PilImage.Image]:
    """Open an image file whose pixels are not decoded yet; what goes wrong then is an `InputError`, too."""
    if not data:
        raise InputError("empty file")
    if len(data) > MAX_BYTES:
        raise InputError(f"file of {len(data) / 2**20:.0f} MiB, the limit is {MAX_BYTES // 2**20} MiB")
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # Pillow warns of odd EXIF and of large images; the limit below decides
            with PilImage.open(io.BytesIO(data), formats=_formats(data)) as opened:
                width, height = opened.size
                if width * height > max_pixels:
                    raise InputError(f"{width} x {height} pixels, the limit is {max_pixels} in all")
                yield opened
    except InputError:
        raise
    except UnidentifiedImageError as error:
        raise InputError(_unknown(data)) from error
    except Exception as error:
        raise InputError(f"damaged image: {str(error)[:120] or type(error).__name__}") from error


def _formats(data: bytes) -> tuple[str, ...]:
    """Return the formats that a file may be opened as; the reader of HEIC is loaded when it is needed first.

    Raises:
        InputError: It is HEIC, and there is no reader.
    """
    if data[4:8] != b"ftyp" or kind_of(data[:HEAD_BYTES]) != "HEIC":
        return FORMATS
    if not reads_heic():
        raise InputError("a HEIC image, which needs a reader of its own; run: pip install pillow-heif")
    importlib.import_module(HEIC_READER).register_heif_opener()
    return ("HEIF",)


def _unknown(data: bytes) -> str:
    kind = kind_of(data[:HEAD_BYTES])
    if kind == "AVIF" and kind not in FORMATS:
        return "an AVIF image, which this build of Pillow cannot read; run: pip install -U pillow"
    if is_image(kind):
        return f"damaged image: begins as {kind} and is none"
    return f"not an image of a known format{f', but {kind}' if kind else ''}"


def _rgb(image: PilImage.Image) -> PilImage.Image:
    if image.mode.startswith(("I;16", "I", "F")) and image.mode != "RGB":
        wide = np.asarray(image, np.float64)
        return PilImage.fromarray(
            (wide / (257 if wide.max(initial=0) > 255 else 1)).clip(0, 255).astype(np.uint8)
        ).convert("RGB")
    if _transparent(image):
        layer = image.convert("RGBA")
        return PilImage.alpha_composite(PilImage.new("RGBA", layer.size, _ground(layer)), layer).convert("RGB")
    return image.convert("RGB")


def _transparent(image: PilImage.Image) -> bool:
    return image.has_transparency_data


def _ground(layer: PilImage.Image) -> tuple[int, int, int, int] | str:
    """Return what to lay a drawing on so that it is seen: white, or grey for one that is nearly white all over."""
    *colours, alpha = (np.asarray(band) for band in layer.split())
    ink = int(alpha.sum(dtype=np.int64))
    pale = int(alpha[np.minimum.reduce(colours) >= PALE].sum(dtype=np.int64))
    return GREY if ink and pale > INK * ink and alpha.min() < 128 else "white"


def encode_png(image: Image) -> bytes:
    """Encode pixels without loss."""
    out = io.BytesIO()
    PilImage.fromarray(image).save(out, "PNG", compress_level=3)
    return out.getvalue()


def image_id(image: Image) -> str:
    """Return the SHA-256 of the size and the pixels: the same picture has the same id, whatever its file.

    >>> import numpy as np
    >>> image_id(np.zeros((2, 3, 3), np.uint8)) == image_id(np.zeros((3, 2, 3), np.uint8))
    False
    """
    digest = hashlib.sha256(struct.pack("<II", image.shape[1], image.shape[0]))
    digest.update(np.ascontiguousarray(image).data)
    return digest.hexdigest()


def fit_within(image: Image, side: int) -> Image:
    """Shrink an image so that its longer side is at most `side` pixels; a smaller one is returned as it is."""
    height, width = image.shape[:2]
    scale = side / max(height, width)
    if scale >= 1:
        return image
    size = (max(1, round(width * scale)), max(1, round(height * scale)))
    return np.asarray(PilImage.fromarray(image).resize(size, PilImage.Resampling.BICUBIC, reducing_gap=2.0))


def frame(size_wh: tuple[int, int], into_wh: tuple[int, int], *, keep_aspect: bool) -> tuple[float, float]:
    """Return the width and height, in pixels of an image, of what fills a frame: the image itself, or the image with what is beside it.

    >>> frame((640, 480), (64, 64), keep_aspect=False), frame((640, 480), (64, 64), keep_aspect=True)
    ((640, 480), (640.0, 640.0))
    """
    if not keep_aspect:
        return size_wh
    scale = max(size_wh[0] / into_wh[0], size_wh[1] / into_wh[1])
    return into_wh[0] * scale, into_wh[1] * scale


def into(image: Image, size_wh: tuple[int, int], *, keep_aspect: bool) -> Image:
    """Resize to exactly `size_wh`; an image that keeps its aspect lies at the top left, and grey is beside it."""
    wide, tall = frame((image.shape[1], image.shape[0]), size_wh, keep_aspect=keep_aspect)
    own = max(1, round(image.shape[1] / wide * size_wh[0])), max(1, round(image.shape[0] / tall * size_wh[1]))
    if own == size_wh:
        return resize(image, size_wh)
    whole = np.full((size_wh[1], size_wh[0], 3), GREY[:3], np.uint8)
    whole[: own[1], : own[0]] = resize(image, own)
    return whole


def resize(image: Image, size_wh: tuple[int, int]) -> Image:
    """Resize to exactly `size_wh`, antialiased."""
    if image.shape[1::-1] == size_wh:
        return image
    return np.asarray(PilImage.fromarray(image).resize(size_wh, PilImage.Resampling.BICUBIC, reducing_gap=2.0))
