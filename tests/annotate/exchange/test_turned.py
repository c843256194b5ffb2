"""A photo that EXIF turns keeps its boxes on the thing: whatever kind of file, whatever label format, whichever way a tool saw it."""

import io
import math
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from label_files import boxes
from label_sets import opened, silent
from PIL import Image as PilImage
from PIL import TiffImagePlugin

from tilth.annotate.exchange.exporting import export
from tilth.annotate.exchange.importing import Import
from tilth.annotate.formats.parts.orientation import BY_BOX, BY_SIZE, BY_TOOL, UNKNOWN, saw_stored, turn
from tilth.annotate.formats.parts.records import Boxed, Entry
from tilth.annotate.formats.writing import CARRIES_IMAGES, open_writer
from tilth.annotate.formats.writing import FORMATS as ALL_FORMATS
from tilth.annotate.labelstudio.answers import read_answers
from tilth.annotate.labelstudio.images import _file
from tilth.annotate.labelstudio.tasks import make_task
from tilth.engine.work import Work
from tilth.geometry import Box
from tilth.images import FORMATS, ORIENTATION, shown_size
from tilth.policy import Policy
from tilth.samples import Sample

STORED, BOX = (64, 40), (8, 6, 28, 32)  # the thing, in pixels of the image as it is stored
SUFFIX = {"JPEG": ".jpg", "MPO": ".jpg", "PNG": ".png", "WEBP": ".webp", "TIFF": ".tif", "AVIF": ".avif"}
FILES = [kind for kind in SUFFIX if kind in (*FORMATS, "MPO")]
LABEL_FORMATS = [format_ for format_ in ALL_FORMATS if format_ != "classfolders"]  # which has no boxes
IN_PARTS = ("yolo", "labelstudio")  # which are of the image as it is shown


def photo(kind: str, orientation: int, box: Box = BOX) -> bytes:
    pixels = np.zeros((STORED[1], STORED[0], 3), np.uint8)
    x0, y0, x1, y1 = map(int, box)
    pixels[y0:y1, x0:x1] = 255
    image, out, exif, tags = (
        PilImage.fromarray(pixels),
        io.BytesIO(),
        PilImage.Exif(),
        TiffImagePlugin.ImageFileDirectory_v2(),
    )
    exif[ORIENTATION] = tags[ORIENTATION] = orientation
    more = {"TIFF": {"tiffinfo": tags}, "MPO": {"exif": exif, "save_all": True, "append_images": [image]}}
    image.save(out, kind, **more.get(kind, {"exif": exif}))
    return out.getvalue()


def shown(orientation: int, box: Box = BOX) -> Box:
    x0, y0, x1, y1 = turn(np.array([box], np.float64), STORED, orientation)[0].tolist()
    return x0, y0, x1, y1


def write(folder: Path, format_: str, kind: str, orientation: int, way: str) -> None:
    """Write a set of one turned photo, whose labels see it as it is stored or as it is shown."""
    size = STORED if way == "stored" else shown_size(STORED, orientation)
    box = BOX if way == "stored" else shown(orientation)
    folder.mkdir()
    writer = open_writer(format_, folder, ("knife",), ("",))
    writer.add(
        Entry(
            id="0" * 64, file="p" + SUFFIX[kind], data=photo(kind, orientation), size_wh=size, split="", state="reviewed",
            labels=(Boxed("knife", box, 1.0, "human:me"),),
        )
    )  # fmt: skip
    writer.close()


def assert_on_the_thing(pixels: np.ndarray, box: Box, off_by: float = 1.01) -> None:
    ys, xs = np.nonzero(pixels.max(-1) > 127)
    np.testing.assert_allclose(box, (xs.min(), ys.min(), xs.max() + 1, ys.max() + 1), atol=off_by)


def only(work: Work) -> tuple[Sample, Box]:
    (sample,) = work.dataset.samples()
    (label,) = sample.truth.labels
    assert label.box_xyxy is not None
    return sample, label.box_xyxy


@settings(
    max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow]
)
@given(
    format_=st.sampled_from(LABEL_FORMATS),
    out=st.sampled_from(LABEL_FORMATS),
    kind=st.sampled_from(FILES),
    orientation=st.integers(1, 8),
    way=st.sampled_from(["stored", "shown"]),
)
def test_a_box_stays_on_the_thing_through_import_review_and_export(
    policy: Policy, format_: str, out: str, kind: str, orientation: int, way: str
) -> None:
    if format_ in IN_PARTS or shown_size(STORED, orientation) == STORED:
        way = "shown"  # the one, or the only, way that a set can say
    with TemporaryDirectory() as name, opened(Path(name), policy) as work:
        (Path(name) / "again").mkdir()
        (Path(name) / "apart").mkdir()
        write(Path(name) / "set", format_, kind, orientation, way)
        facts = Import(path=Path(name) / "set").run(work)
        sample, box = only(work)
        assert_on_the_thing(sample.pixels(), box)
        assert ("turned by EXIF" in str(facts["odd"])) == (
            orientation != 1
            and format_ not in IN_PARTS
            and (way == "stored" or shown_size(STORED, orientation) == STORED)
        )
        _, file = _file(sample)
        unturned = np.asarray(PilImage.open(io.BytesIO(file)).convert("RGB"))
        assert_on_the_thing(unturned, box)
        task = make_task(sample, "/a.png") | {"id": 1}
        task["annotations"] = (
            [{"id": 1, "completed_by": 1, "result": task["predictions"][0]["result"]}] if task["predictions"] else []
        )
        for answer in read_answers(task, policy.names, 1):
            np.testing.assert_allclose(answer.claims[0].box_xyxy or (), box, atol=0.01)
        export(work.dataset, Path(name) / "out", out, say=silent)
        with opened(Path(name) / "again", policy) as again:
            Import(path=Path(name) / "out").run(again)
            back, its = only(again)
        np.testing.assert_allclose(its, box, atol=1.01 if "voc" in (format_, out) else 0.01)
        assert_on_the_thing(np.asarray(PilImage.open(io.BytesIO(back.data)).convert("RGB")), its, 2.01)
        if out not in CARRIES_IMAGES:
            export(work.dataset, Path(name) / "labels", out, images="none", say=silent)
            with opened(Path(name) / "apart", policy) as apart:
                if format_ not in ("webdataset", "parquet"):
                    Import(path=Path(name) / "labels", images=Path(name)).run(apart)
                    assert_on_the_thing(only(apart)[0].pixels(), only(apart)[1], 2.01)


BEYOND, BOTH = [(5, 45, 30, 60)], [(5, 5, 30, 30)]  # of 64 x 40 stored, 40 x 64 shown


@pytest.mark.parametrize(
    ("declared", "found", "upright", "expected"),
    [
        ((64, 40), BEYOND, False, (False, BY_BOX)),
        ((40, 64), [(45, 5, 60, 30), (math.nan, 0, math.inf, 1)], False, (True, BY_BOX)),
        (None, [(45, 5, 60, 30), (math.nan, 0, math.inf, 1)], False, (True, BY_BOX)),
        (None, BEYOND, False, (False, "")),
        (None, BOTH, False, (False, UNKNOWN)),
        ((64, 40), BOTH, False, (True, BY_SIZE)),
        ((64, 40), BOTH, True, (False, BY_TOOL)),
        ((40, 64), BOTH, False, (False, "")),
        ((64, 40), [(5, 5, 30, 41.5)], False, (True, BY_SIZE)),  # over the edge by a trembling hand
        ((64, 40), [(5, 5, 90, 90)], False, (True, "")),  # fits neither, so the size decides
        ((64, 40), [], False, (False, "")),
    ],
)
def test_size_boxes_and_tool_tell_which_way_labels_saw_an_image(
    declared: tuple[int, int] | None, found: list[Box], upright: bool, expected: tuple[bool, str]
) -> None:
    assert saw_stored(declared, found, STORED, 6, upright=upright) == expected


def test_where_the_turn_keeps_the_size_that_is_noted() -> None:
    assert saw_stored((40, 40), BOTH, (40, 40), 6) == (False, UNKNOWN)
    assert saw_stored((64, 40), BOTH, (64, 40), 3) == (False, UNKNOWN)


def test_coco_of_label_studio_has_the_size_as_stored_and_boxes_as_shown(work: Work, tmp_path: Path) -> None:
    root = tmp_path / "set"
    root.mkdir()
    (root / "p.jpg").write_bytes(photo("JPEG", 6))
    x0, y0, x1, y1 = shown(6)
    (root / "result.json").write_text(
        f'{{"images": [{{"id": 0, "file_name": "p.jpg", "width": 64, "height": 40}}], "categories": [{{"id": 0, "name": "knife"}}],'
        f'"annotations": [{{"image_id": 0, "category_id": 0, "bbox": [{x0}, {y0}, {x1 - x0}, {y1 - y0}]}}],'
        f'"info": {{"contributor": "Label Studio"}}}}'
    )
    facts = Import(path=root).run(work)
    assert boxes(work) == {"p.jpg": [("knife", shown(6))]}
    assert facts["odd"] == {BY_TOOL: 1}
