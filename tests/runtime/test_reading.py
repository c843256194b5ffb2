"""Words in an image are read wherever and however they hang, and where there are none, little is asked."""

import threading
import time
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
import pytest

from tilth.images import Image
from tilth.runtime.stages.reading import Reader, cut
from tilth.starter.world.scene import Spec, render

READER = Reader(threads=1, engines=1)


def sign(text: str, side: int = 320) -> Image:
    spec = Spec(things=(("cup", "blue", ""), ("sign", "yellow", text)), surface="wood", style="photo")
    return render(spec, np.random.default_rng(3), side=side).image


def within(image: Image, size_wh: tuple[int, int]) -> Image:
    """The image somewhere in a grey one of another size."""
    whole = np.full((size_wh[1], size_wh[0], 3), 128, np.uint8)
    whole[100 : 100 + len(image), 200 : 200 + image.shape[1]] = image
    return whole


@pytest.mark.parametrize("quarters", [0, 1, 2, 3])
def test_a_sign_is_read_in_whatever_direction_it_hangs(quarters: int) -> None:
    read = READER(np.rot90(sign("WE WILL FIND YOU"), quarters))
    assert sorted(read.split()) == ["FIND", "WE", "WILL", "YOU"]


def test_a_slanted_sign_is_read() -> None:
    import cv2

    turned = cv2.warpAffine(sign("BOOK CLUB"), cv2.getRotationMatrix2D((160, 160), 20, 0.8), (320, 320))
    assert READER(np.asarray(turned, np.uint8)).replace(" ", "") == "BOOKCLUB"


def test_a_small_sign_in_a_large_image_is_read() -> None:
    assert READER(within(sign("BET NOW WIN BIG", side=200), (1280, 960))).replace(" ", "") == "BETNOWWINBIG"


def test_where_no_line_is_found_nothing_is_recognised() -> None:
    asked: list[dict[str, bool]] = []

    class Engine:
        def __call__(self, image: Image, **how: bool) -> Any:
            asked.append(how)
            return engine(image, **how)

    reader = Reader(threads=1, engines=1)
    engine = reader._load()
    reader._load = Engine  # type: ignore[method-assign]
    assert reader(np.full((240, 320, 3), 90, np.uint8)) == ""
    assert [how["use_rec"] for how in asked] == [False]
    assert reader(sign("BOOK CLUB")) == "BOOK CLUB"
    assert asked[2]["use_rec"]


def test_lines_are_cut_out_flat_and_those_that_run_downwards_are_turned() -> None:
    image = np.zeros((60, 60, 3), np.uint8)
    image[10:20, 10:50] = 200
    flat = cut(image, np.array([[10, 10], [50, 10], [50, 20], [10, 20]], np.float32))
    assert flat.shape == (10, 40, 3)
    assert flat.min() > 100
    assert cut(image.transpose(1, 0, 2).copy(), np.array([[10, 10], [20, 10], [20, 50], [10, 50]], np.float32)).shape == (
        10, 40, 3
    )  # fmt: skip
    assert cut(image, np.array([[5, 5], [5, 5], [5, 5], [5, 5]], np.float32)).shape == (1, 1, 3)


def test_as_many_images_are_read_at_once_as_there_are_engines_and_each_engine_reads_one() -> None:
    made: list[object] = []
    inside, most, lock = [0], [0], threading.Lock()

    class Engine:
        def __init__(self) -> None:
            made.append(self)
            self.busy = threading.Lock()

        def __call__(self, image: Image, **how: bool) -> Any:
            assert self.busy.acquire(blocking=False), "an engine was asked while it was at work"
            with lock:
                inside[0] += 1
                most[0] = max(most[0], inside[0])
            time.sleep(0.02)
            with lock:
                inside[0] -= 1
            self.busy.release()
            return type("Nothing", (), {"boxes": None})

    reader = Reader(threads=1, engines=2)
    reader._load = Engine  # type: ignore[method-assign]
    with ThreadPoolExecutor(6) as pool:
        assert set(pool.map(reader, [np.zeros((32, 32, 3), np.uint8)] * 12)) == {""}
    assert (len(made), most[0]) == (2, 2)
    reader = Reader(threads=1, engines=2)
    reader._load = Engine  # type: ignore[method-assign]
    for _ in range(3):
        reader(np.zeros((32, 32, 3), np.uint8))
    assert len(made) == 3  # one after the other needs one


def test_an_engine_that_failed_is_lent_again() -> None:
    reader = Reader(threads=1, engines=1)

    def broken() -> Any:
        raise OSError("no model")

    reader._load = broken  # type: ignore[method-assign]
    for _ in range(2):
        with pytest.raises(OSError, match="no model"):
            reader(np.zeros((32, 32, 3), np.uint8))


def test_openvino_reads_the_same() -> None:
    pytest.importorskip("openvino", reason="OpenVINO is not installed")
    assert Reader(threads=1, engines=1, back_end="openvino-bf16")(sign("BOOK CLUB 7PM")) == "BOOK CLUB 7PM"
