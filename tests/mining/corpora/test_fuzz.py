"""Damaged corpora and odd images of every kind end as items, or as one clear error: nothing else is raised, nothing hangs."""

import io
import random
import shutil
import struct
import zlib
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

import lance
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st
from noise import noise_image, tar
from PIL import Image as PilImage

from tilth.errors import InputError
from tilth.images import decode, decode_luma
from tilth.mining.corpora.opening import open_corpus

MUTATIONS = 40  # of each kind of corpus


def images(n: int) -> list[bytes]:
    return [noise_image(900 + i) for i in range(n)]


def as_folder(place: Path) -> None:
    place.mkdir()
    for n, data in enumerate(images(4)):
        (place / f"{n}.png").write_bytes(data)


def as_tar(place: Path) -> None:
    members = [(f"{n}.png", data) for n, data in enumerate(images(4))]
    members += [(f"{n}.json", b'{"license": "CC0-1.0"}') for n in range(4)]
    tar(place / "a.tar", *sorted(members))


def table(n: int = 4) -> pa.Table:
    return pa.table({"image": images(n), "license": ["CC0-1.0"] * n, "url": ["https://example.org"] * n})


def as_parquet(place: Path) -> None:
    place.mkdir()
    pq.write_table(table(), place / "a.parquet", row_group_size=2)


def as_arrow(place: Path) -> None:
    place.mkdir()
    with pa.ipc.new_stream(str(place / "a.arrow"), table().schema) as writer:
        writer.write_table(table(), max_chunksize=2)


def as_lance(place: Path) -> None:
    place.mkdir()
    lance.write_dataset(table(), str(place / "a.lance"))


KINDS: dict[str, Callable[[Path], None]] = {
    "folder": as_folder, "tar": as_tar, "parquet": as_parquet, "arrow": as_arrow, "lance": as_lance
}  # fmt: skip


def damage(data: bytes, rng: random.Random) -> bytes:
    """Cut, flip, overwrite, repeat or empty some bytes."""
    if not data:
        return b"\xff"
    where = rng.randrange(len(data))
    match rng.randrange(6):
        case 0:
            return data[:where]
        case 1:
            return b""
        case 2:
            return data[:where] + bytes([data[where] ^ (1 << rng.randrange(8))]) + data[where + 1 :]
        case 3:
            return data[:where] + rng.randbytes(16) + data[where + 16 :]
        case 4:
            return data[:where] + data[where : where + 200] + data[where:]
        case _:
            return data[:where] + b"\xff" * 8 + data[where + 8 :]


def use(location: str) -> tuple[int, int]:
    """Do with a corpus all that mining does; return the numbers of images and of refusals."""
    good, reasons = 0, list[str]()
    try:
        corpus = open_corpus(location)
        for item in corpus.items():
            try:
                decode(corpus.read(item.key))
                assert corpus.stamp(item.key) == item.stamp
                assert all(isinstance(value, str) for value in corpus.about(item.key).values())
                good += 1
            except InputError as error:
                reasons.append(str(error))
    except InputError as error:
        reasons.append(str(error))
    assert all(reason and "\n" not in reason for reason in reasons), "a reason is one line"
    return good, len(reasons)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.timeout(180)
def test_a_damaged_corpus_is_counted_not_raised(tmp_path: Path, kind: str) -> None:
    whole = tmp_path / "whole"
    KINDS[kind](whole)
    location = whole / "a.lance" if kind == "lance" else whole
    assert use(str(location)) == (4, 0)
    outcomes = set()
    for seed in range(MUTATIONS):
        rng = random.Random(seed)
        hurt = tmp_path / f"hurt-{seed}"
        shutil.copytree(whole, hurt)
        victim = rng.choice(sorted(p for p in hurt.rglob("*") if p.is_file()))
        victim.write_bytes(damage(victim.read_bytes(), rng))
        outcomes.add(use(str(hurt / "a.lance" if kind == "lance" else hurt)))
    assert len(outcomes) > 1, "the damage must matter for this test to mean anything"


def png(width: int, height: int, depth: int, colour: int, data: bytes) -> bytes:
    def chunk(kind: bytes, body: bytes) -> bytes:
        return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))

    head = struct.pack(">IIBBBBB", width, height, depth, colour, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", head) + chunk(b"IDAT", data) + chunk(b"IEND", b"")


def saved(image: PilImage.Image, kind: str, **more: object) -> bytes:
    out = io.BytesIO()
    image.save(out, kind, **more)  # type: ignore[arg-type]
    return out.getvalue()


GRADIENT = np.linspace(0, 255, 48 * 40).reshape(40, 48)
ODD: dict[str, bytes] = {
    "16 bits": saved(PilImage.fromarray((GRADIENT * 257).astype(np.uint16)), "PNG"),
    "32 bits of float": saved(PilImage.fromarray(GRADIENT.astype(np.float32)), "TIFF"),
    "CMYK": saved(PilImage.fromarray(GRADIENT.astype(np.uint8)).convert("CMYK"), "JPEG"),
    "a palette": saved(PilImage.fromarray(GRADIENT.astype(np.uint8)).convert("P"), "PNG"),
    "a palette with a hole": saved(PilImage.fromarray(GRADIENT.astype(np.uint8)).convert("P"), "PNG", transparency=3),
    "one bit": saved(PilImage.fromarray(GRADIENT.astype(np.uint8)).convert("1"), "PNG"),
    "grey and alpha": saved(PilImage.fromarray(GRADIENT.astype(np.uint8)).convert("LA"), "PNG"),
    "animated": saved(
        PilImage.fromarray(GRADIENT.astype(np.uint8)),
        "GIF",
        save_all=True,
        append_images=[PilImage.new("L", (48, 40))] * 3,
    ),
    "pages": saved(
        PilImage.fromarray(GRADIENT.astype(np.uint8)), "TIFF", save_all=True, append_images=[PilImage.new("L", (9, 9))]
    ),
    "WebP without loss": saved(PilImage.fromarray(GRADIENT.astype(np.uint8)).convert("RGBA"), "WEBP", lossless=True),
}
HOSTILE: dict[str, bytes] = {
    "a bomb of pixels": png(60_000, 60_000, 8, 0, zlib.compress(b"\0" * 10_000)),
    "no pixel": png(0, 0, 8, 2, b""),
    "less than it says": png(64, 64, 8, 2, zlib.compress(b"\0" * 10)),
    "a program": b"MZ" + bytes(range(256)) * 8,
    "a page": b"<html><body>404</body></html>",
    "SVG": b'<svg xmlns="http://www.w3.org/2000/svg"><image href="file:///etc/passwd"/></svg>',
    "PostScript": b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\nshowpage\n",
    "nothing": b"",
}


@pytest.mark.parametrize("what", ODD)
def test_an_odd_image_is_an_image_like_any_other(what: str) -> None:
    image = decode(ODD[what])
    assert image.shape == (40, 48, 3)
    assert image.dtype == np.uint8
    assert abs(float(image[0, :4].mean()) - 0) < 16 < 200 < float(image[-1, -4:].mean()), "black above, white below"
    assert decode_luma(ODD[what], at_least=512).shape == (40, 48)
    assert np.abs(decode_luma(ODD[what], at_least=512).astype(int) - image.mean(2)).max() <= 4


@pytest.mark.parametrize("what", HOSTILE)
def test_a_hostile_file_is_one_short_reason(what: str) -> None:
    for read in (decode, lambda data: decode(data, at_least=64), lambda data: decode_luma(data, at_least=64)):
        with pytest.raises(InputError) as caught:
            read(HOSTILE[what])
        assert len(str(caught.value)) < 200
        assert "\n" not in str(caught.value)


@settings(max_examples=300, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(st.sampled_from(sorted(ODD)), st.integers(0, 2**32))
@example("CMYK", 0)
def test_damaged_bytes_never_do_more_than_fail(what: str, seed: int) -> None:
    data = damage(ODD[what], random.Random(seed))
    for read in (decode, lambda data: decode(data, at_least=16), lambda data: decode_luma(data, at_least=16)):
        with suppress(InputError):
            assert read(data).dtype == np.uint8
