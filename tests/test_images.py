"""Files become pixels: transparency is laid where the drawing stays visible, and one place knows which way is up."""

import io

import numpy as np
import pytest
from noise import noise_image
from PIL import Image as PilImage
from PIL import TiffImagePlugin

from tilth.images import FORMATS, ORIENTATION, decode, decode_luma, image_id, is_plain, read_header, shown_size

WHITE, BLACK, CREAM, RED = (255, 255, 255), (0, 0, 0), (250, 248, 245), (200, 0, 0)


def drawing(
    colour: tuple[int, int, int], shape: str, mode: str = "RGBA", format_: str = "PNG", alpha: int = 255
) -> bytes:
    layer = np.zeros((40, 60, 4), np.uint8)
    layer[..., :3] = 255  # what editors leave under transparent pixels
    rows, columns = (slice(5, 35), slice(10, 20)) if shape == "bar" else (slice(15, 25), slice(5, 55))
    layer[rows, columns] = (*colour, alpha)
    out = io.BytesIO()
    image = PilImage.fromarray(layer)
    (image.quantize(16) if mode == "P" else image.convert(mode)).save(
        out, format_, **({"lossless": True} if format_ == "WEBP" else {})
    )
    return out.getvalue()


@pytest.mark.parametrize("colour", [WHITE, CREAM, BLACK, RED])
@pytest.mark.parametrize(
    ("mode", "format_"), [("RGBA", "PNG"), ("RGBA", "WEBP"), ("LA", "PNG"), ("P", "PNG"), ("RGBA", "TIFF")]
)
def test_a_drawing_on_transparency_stays_visible(colour: tuple[int, int, int], mode: str, format_: str) -> None:
    bar, beam = (decode(drawing(colour, shape, mode, format_)) for shape in ("bar", "beam"))
    assert np.ptp(bar.astype(int)) > 50
    assert image_id(bar) != image_id(beam)


def test_a_faint_white_veil_is_seen_too() -> None:
    assert np.ptp(decode(drawing(WHITE, "bar", alpha=40)).astype(int)) > 15


@pytest.mark.parametrize("colour", [BLACK, RED, (235, 235, 235)])
def test_other_drawings_lie_on_white_as_ever_so_their_ids_stay(colour: tuple[int, int, int]) -> None:
    layer = PilImage.open(io.BytesIO(drawing(colour, "bar")))
    on_white = PilImage.alpha_composite(PilImage.new("RGBA", layer.size, "white"), layer).convert("RGB")
    np.testing.assert_array_equal(decode(drawing(colour, "bar")), np.asarray(on_white))


def test_a_white_page_without_transparency_stays_white() -> None:
    out = io.BytesIO()
    PilImage.new("RGBA", (20, 20), "white").save(out, "PNG")
    assert decode(out.getvalue()).min() == 255


def test_brightness_alone_sees_the_same_ground() -> None:
    data = drawing(WHITE, "bar")
    full = np.asarray(PilImage.fromarray(decode(data)).convert("L"))
    np.testing.assert_array_equal(decode_luma(data, at_least=1), full)


def turned(format_: str, orientation: int) -> bytes:
    pixels = np.zeros((24, 40, 3), np.uint8)
    pixels[:8, :16], pixels[16:, 32:] = (250, 0, 0), (0, 0, 250)
    image, out = PilImage.fromarray(pixels), io.BytesIO()
    exif = PilImage.Exif()
    exif[ORIENTATION] = orientation
    if format_ == "TIFF":
        tags = TiffImagePlugin.ImageFileDirectory_v2()
        tags[ORIENTATION] = orientation
        image.save(out, format_, tiffinfo=tags)
    elif format_ == "MPO":
        image.save(out, format_, exif=exif, quality=95, save_all=True, append_images=[image])
    else:
        image.save(out, format_, exif=exif, **({"lossless": True} if format_ == "WEBP" else {"quality": 95}))
    return out.getvalue()


TURNING = {1: None, 2: 0, 3: 3, 4: 1, 5: 5, 6: 4, 7: 6, 8: 2}  # EXIF -> Pillow's transpositions


@pytest.mark.parametrize("format_", ["JPEG", "MPO", "PNG", "WEBP", "TIFF", *(["AVIF"] if "AVIF" in FORMATS else [])])
@pytest.mark.parametrize("orientation", range(1, 9))
def test_every_format_is_turned_once_and_its_header_says_how(format_: str, orientation: int) -> None:
    data = turned(format_, orientation)
    assert read_header(data) == ((40, 24), orientation)
    shown = decode(data)
    assert shown.shape[1::-1] == shown_size((40, 24), orientation)
    upright = PilImage.fromarray(decode(turned(format_, 1)))
    turn = TURNING[orientation]
    expected = np.asarray(upright if turn is None else upright.transpose(PilImage.Transpose(turn)))
    np.testing.assert_allclose(
        shown.astype(int), expected.astype(int), atol=40 if format_ in ("JPEG", "MPO", "AVIF") else 0
    )


def test_a_plain_file_has_no_turn_and_no_transparency() -> None:
    assert read_header(noise_image(1, 20)) == ((20, 20), 1)
    assert is_plain(noise_image(1, 20))
    assert not is_plain(turned("JPEG", 6))
    assert not any(is_plain(drawing(WHITE, "bar", mode)) for mode in ("RGBA", "LA", "P"))
