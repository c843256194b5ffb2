"""Ten times the images take no more memory, in every format, written and read."""

import gc
import tracemalloc
from collections.abc import Callable
from pathlib import Path

import pytest

from tilth.annotate.formats.parts import texts
from tilth.annotate.formats.parts.records import Boxed, Entry, Oddities
from tilth.annotate.formats.reading import open_reader
from tilth.annotate.formats.writing import CARRIES_IMAGES, FORMATS, open_writer

FEW, MANY = 1200, 4800  # a row group of Parquet is full with the few
BOXES = tuple(Boxed("knife", (n, n, n + 1.5, n + 2), 1.0, "human:a") for n in range(4))
A_NAME = 150  # bytes that one more string of an image's path would take, at least


def write(format_: str, folder: Path, count: int) -> None:
    folder.mkdir()
    writer = open_writer(format_, folder, ("knife",), ("",))
    for n in range(count):
        data = b"x" * 100 if format_ in CARRIES_IMAGES else None
        file = f"{n:032d}.png" if data else f"{n % 9}/{n:032d}.png"
        writer.add(
            Entry(id=f"{n:064x}", file=file, data=data, size_wh=(64, 48), split="", state="reviewed", labels=BOXES)
        )
    writer.close()


def read(format_: str, folder: Path, images: Path, count: int) -> None:
    found = 0
    for one in open_reader(folder, format_, "", images, Oddities())[1]:  # type: ignore[arg-type]
        assert len(one.labels) == (1 if format_ == "classfolders" else 4), one.error
        found += 1
    assert found == count


def peak(work: Callable[[], None]) -> int:
    gc.collect()
    tracemalloc.start()
    work()
    most = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    return most


@pytest.fixture(scope="module")
def pictures(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Folders of images, few and many; empty files, as no reader opens them."""
    folder = tmp_path_factory.mktemp("pictures")
    for count in (FEW, MANY):
        for n in range(count):
            place = folder / str(count) / str(n % 9) / f"{n:032d}.png"
            place.parent.mkdir(parents=True, exist_ok=True)
            place.touch()
    return folder


@pytest.mark.parametrize("format_", FORMATS)
def test_memory_does_not_grow_with_the_number_of_images(
    format_: str, pictures: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(texts, "CHUNK", 2**16)  # so that the few fill it many times, as the many do
    allowed = (MANY - FEW) * A_NAME

    def reads(count: int) -> int:
        return peak(lambda: read(format_, tmp_path / str(count), pictures / str(count), count))

    few, many = (peak(lambda n=n: write(format_, tmp_path / str(n), n)) for n in (FEW, MANY))  # type: ignore[misc]
    assert many - few < allowed
    # a second try, as the interpreter's own table of names may double in the first, once
    assert any(reads(MANY) - reads(FEW) < allowed for _ in range(2))
