"""Image files in, pixels out: decoding with limits, and the identity of a picture.

Every file is taken as hostile. Only still formats that Pillow decodes itself are opened, the size is checked before any
pixel is, and whatever goes wrong ends as one `InputError` with a short reason.
"""

import hashlib
import io
import struct
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TypeAlias

import numpy as np
import numpy.typing as npt
from PIL import Image as PilImage
from PIL import ImageOps, UnidentifiedImageError

from tilth.errors import InputError

Image: TypeAlias = npt.NDArray[np.uint8]
"""(height, width, 3), RGB, EXIF orientation applied."""

Luma: TypeAlias = npt.NDArray[np.uint8]
"""(height, width), brightness, EXIF orientation applied."""

FORMATS = ("JPEG", "PNG", "WEBP", "BMP", "GIF", "TIFF")
SUFFIXES = (".jpg", ".jpeg", ".png", ".webp", ".bmp", ".gif", ".tif", ".tiff")
MAX_PIXELS = 50_000_000
MAX_BYTES = 64 * 2**20


def decode(data: bytes, *, at_least: int = 0, max_pixels: int = MAX_PIXELS) -> Image:
    """Decode an image file into RGB pixels `(height, width, 3)`; of an animation, the first frame.

    Transparent parts are laid on white; 16-bit, CMYK and palette images become 8-bit RGB.

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
            with PilImage.open(io.BytesIO(data), formats=FORMATS) as opened:
                width, height = opened.size
                if width * height > max_pixels:
                    raise InputError(f"{width} x {height} pixels, the limit is {max_pixels} in all")
                yield opened
    except InputError:
        raise
    except UnidentifiedImageError as error:
        raise InputError("not an image of a known format") from error
    except Exception as error:
        raise InputError(f"damaged image: {str(error)[:120] or type(error).__name__}") from error


def _rgb(image: PilImage.Image) -> PilImage.Image:
    if image.mode.startswith(("I;16", "I", "F")) and image.mode != "RGB":
        wide = np.asarray(image, np.float64)
        return PilImage.fromarray(
            (wide / (257 if wide.max(initial=0) > 255 else 1)).clip(0, 255).astype(np.uint8)
        ).convert("RGB")
    if "A" in image.mode or "transparency" in image.info:
        layer = image.convert("RGBA")
        return PilImage.alpha_composite(PilImage.new("RGBA", layer.size, "white"), layer).convert("RGB")
    return image.convert("RGB")


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


def resize(image: Image, size_wh: tuple[int, int]) -> Image:
    """Resize to exactly `size_wh`, antialiased."""
    if image.shape[1::-1] == size_wh:
        return image
    return np.asarray(PilImage.fromarray(image).resize(size_wh, PilImage.Resampling.BICUBIC, reducing_gap=2.0))
