"""Label files as the wild writes them: read, with a list of what was odd."""

import json
import unicodedata
from pathlib import Path
from typing import get_args

import numpy as np
import pytest
from label_files import HEADER, boxes, coco, cvat, images, jpeg, named, region, row, task

from tilth.annotate.exchange.importing import Import
from tilth.annotate.formats.reading import Format
from tilth.annotate.formats.writing import FORMATS
from tilth.claims import State
from tilth.engine.work import Work


def test_one_name_in_two_spellings_of_unicode_or_of_another_machine_is_found(work: Work, image_folder: Path) -> None:
    images(image_folder, unicodedata.normalize("NFD", "fräsér.png"), "日本 語.png")
    listed = [
        unicodedata.normalize("NFC", "fräsér.png"),
        "日本 語.png",
        "C:\\Users\\Ann\\set\\a.png",
        "/home/ann/set/b.png",
    ]
    coco(image_folder, [(name, [("knife", [1, 2, 3, 4])]) for name in listed])
    facts = Import(path=image_folder).run(work)
    assert (facts["images"], facts["copies"], facts["failed"], facts["boxes"]) == (2, 2, 0, 2)
    assert facts["odd"] == {"path of another machine, image taken by its file name": 2}


def test_coco_with_a_mark_at_its_start_gaps_in_its_categories_and_lists_in_any_order(
    work: Work, image_folder: Path
) -> None:
    document = {
        "annotations": [
            {"image_id": 7, "category_id": 90, "bbox": [1, 2, 3, 4]},
            {"image_id": 7, "category_id": 90, "segmentation": [[1, 1, 5, 1, 5, 6]]},
            {"image_id": 7, "category_id": 2, "segmentation": {"counts": "abc", "size": [16, 16]}},
            {"image_id": 7, "category_id": 90, "bbox": [1, 1, 2, 2], "iscrowd": 1},
            {"image_id": 7, "category_id": 90, "bbox": [1, 1, 1e400, 2]},
            "what",
        ],
        "categories": [{"id": 90, "name": "knife"}, {"id": 2, "name": "pill"}],
        "images": [{"id": 7, "file_name": ".\\a.png", "width": 16, "height": 16}],
    }
    (image_folder / "labels.json").write_text("\ufeff" + json.dumps(document), encoding="utf-8")
    facts = Import(path=image_folder).run(work)
    assert boxes(work) == {"a.png": [("knife", (1, 2, 4, 6)), ("knife", (1, 1, 5, 6)), ("knife", (1, 1, 3, 3))]}
    assert set(facts["left_out"]) == {"entry that is no object", "box that is no box", "mask without a box"}  # type: ignore[arg-type]
    assert facts["odd"] == {
        "polygon, taken as the box around it": 1,
        "crowd region, taken as one box around all of it": 1,
        "image that the label file does not list, left out": 1,
    }


def test_cvat_shapes_become_boxes_or_are_named(work: Work, image_folder: Path) -> None:
    turned = '<box label="knife" xtl="4" ytl="6" xbr="12" ybr="10" rotation="90"/>'
    polygon = '<polygon label="pill" points="1,2;5,2;5.5,9"/>'
    text = cvat(
        f'<image id="0" name="a.png" width="16" height="16">{turned}{polygon}<points points="1,1"/></image>',
        '<image id="1" name="b.png" width="32" height="16"><box label="knife" xtl="1" ytl="1" xbr="2" ybr="2"/></image>',
        '<track id="0" label="knife"/>',
    )
    (image_folder / "annotations.xml").write_text(text)
    facts = Import(path=image_folder).run(work)
    assert facts["format"] == "cvat"
    (found,) = boxes(work).values()
    assert [category for category, _ in found] == ["knife", "pill"]  # type: ignore[misc]
    assert np.allclose([box for _, box in found], [(6, 4, 10, 12), (1, 2, 5.5, 9)])  # type: ignore[misc]
    assert facts["odd"] == {
        "turned box, taken as the upright box around it": 1,
        "polygon, taken as the box around it": 1,
        "image that could not be taken": 1,
    }
    assert {kind: told["labels"] for kind, told in facts["left_out"].items()} == {  # type: ignore[union-attr, index, call-overload]
        "points, which is no box": 1,
        "track of a video": 1,
        "of an image that could not be taken": 1,
    }
    assert "labels are for 32 x 16 pixels" in facts["odd_examples"]["image that could not be taken"][0]  # type: ignore[index, call-overload]


def test_label_studio_tasks_say_what_people_said(work: Work, image_folder: Path) -> None:
    images(image_folder, "c.png", "d.png", "e.png", "f.png", side=20)
    skipped = {"result": [region()], "was_cancelled": True}
    tasks = [
        task("/data/local-files/?d=set%2Fa.png", region(), region("polygonlabels", points=[[0, 0], [50, 0], [50, 50]])),
        task("/data/upload/3/0a1b2c3d-b.png", {"type": "choices", "value": {"choices": ["confirmed empty"]}}),
        task("https://host/x/c.png?size=9", predictions=[{"result": [region()]}], annotations=[skipped]),
        {"data": {"photo": "d.png"}, "predictions": []},
        task("e.png", {"type": "choices", "value": {"choices": ["unusable"]}}),
        task("f.png", region("brushlabels"), region(x="wide"), region(rotation=90)),
        "what",
    ]
    (image_folder / "tasks.json").write_text(json.dumps(tasks, indent=2))
    facts = Import(path=image_folder).run(work)
    assert facts["format"] == "labelstudio"
    states = {name: s.state for name, s in named(work).items()}
    assert states == {
        "a.png": State.REVIEWED,
        "b.png": State.CONFIRMED_EMPTY,
        "c.png": State.REVIEWED,
        "d.png": State.UNLABELLED,
        "f.png": State.REVIEWED,
    }
    found = boxes(work)
    assert found["a.png"] == [("knife", (8, 4, 12, 12)), ("knife", (0, 0, 8, 8))]
    assert found["c.png"] == [("knife", (10, 5, 15, 15))]
    assert found["f.png"] == [("knife", (0, 5, 10, 10))], "turned about its corner, cut at the edge"
    assert facts["failed"] == 2


def test_csv_rows_of_an_image_may_lie_apart_and_may_contradict(work: Work, image_folder: Path) -> None:
    images(image_folder, "c.png", side=20)
    text = (
        "\ufeffFile,Category,x_min,y_min,x_max,y_max,width,height\r\n"
        "a.png,knife,1,2,3,4,16,16\r\nb.png,,,,,,16,16\r\na.png,pill,nan,2,3,4,16,16\r\n"
        "c.png,knife,1,2,3,4,20,20\r\nc.png,knife,1,2,3,4,99,20\r\na.png,pill,5,5,7,7,16,16\r\n"
    )
    (image_folder / "labels.csv").write_text(text, encoding="utf-8")
    facts = Import(path=image_folder).run(work)
    assert (facts["format"], facts["images"], facts["failed"]) == ("csv", 2, 1)
    assert boxes(work) == {"a.png": [("knife", (1, 2, 3, 4)), ("pill", (5, 5, 7, 7))], "b.png": []}
    assert "several sizes" in str(facts["odd_examples"])


@pytest.mark.parametrize("seen_as", [(40, 24), (24, 40)])
@pytest.mark.parametrize("format_", ["csv", "cvat", "imagefolder"])
def test_boxes_of_a_turned_photo_land_on_the_thing(
    work: Work, tmp_path: Path, format_: str, seen_as: tuple[int, int]
) -> None:
    folder = tmp_path / "turned"
    folder.mkdir()
    (folder / "a.png").write_bytes(jpeg(6))
    x0, y0, x1, y1 = (4, 6, 14, 20) if seen_as == (40, 24) else (4, 4, 18, 14)
    width, height = seen_as
    box = f'<box label="knife" xtl="{x0}" ytl="{y0}" xbr="{x1}" ybr="{y1}"/>'
    written = {
        "csv": ("labels.csv", f"{HEADER}a.png,{width},{height},knife,{x0},{y0},{x1},{y1},1,\n"),
        "cvat": ("a.xml", cvat(f'<image name="a.png" width="{width}" height="{height}">{box}</image>')),
        "imagefolder": ("metadata.jsonl", row("a.png", [x0, y0, x1 - x0, y1 - y0], width=width, height=height)),
    }
    name, text = written[format_]
    (folder / name).write_text(text)
    assert Import(path=folder).run(work)["format"] == format_
    sample = named(work)["a.png"]
    left, top, right, bottom = (int(v) for v in sample.claims[0].box_xyxy or ())
    assert sample.pixels()[top:bottom, left:right].min() == 255
    assert sample.pixels().sum() == (bottom - top) * (right - left) * 3 * 255


def test_captions_and_classes_beside_images_say_nothing_of_boxes(work: Work, image_folder: Path) -> None:
    (image_folder / "metadata.jsonl").write_text(
        '{"file_name": "a.png", "text": "a knife"}\n\n{"file_name": "b.png"}\n'
    )
    facts = Import(path=image_folder, empty_means="confirmed_empty").run(work)
    assert facts["by_state"] == {"unlabelled": 2}


def test_every_format_that_is_written_is_read() -> None:
    assert set(FORMATS) | {"auto", "folder"} == set(get_args(Format))
