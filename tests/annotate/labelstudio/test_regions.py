"""One piece of code reads what people drew, in files and in a review, whatever the labelling interface."""

import json
from pathlib import Path
from typing import Any

import pytest
from label_files import boxes, images, named

from tilth.annotate.exchange.importing import Import
from tilth.annotate.labelstudio.answers import read_answers
from tilth.annotate.labelstudio.tasks import EMPTY, ESCALATE
from tilth.claims import State
from tilth.engine.work import Work
from tilth.errors import TooManyFailures

SIZE = (200, 100)
NAMES = ("knife", "pill")
PLACE = {"x": 50, "y": 70, "width": -30, "height": -50}
BOX = (40.0, 20.0, 100.0, 70.0)


def part(kind: str, id_: str = "r", **value: Any) -> dict[str, Any]:
    return {"id": id_, "type": kind, "original_width": 200, "original_height": 100, "to_name": "image", "value": value}


DRAWN = {
    "from the lower right": [part("rectanglelabels", **PLACE, rectanglelabels=["knife"])],
    "from the lower left": [part("rectanglelabels", x=20, y=70, width=30, height=-50, rectanglelabels=["knife"])],
    "a shape and its label": [part("rectangle", **PLACE), part("labels", **PLACE, labels=["knife"])],
    "a shape and a choice for it": [part("rectangle", **PLACE), part("choices", **PLACE, choices=["knife"])],
    "a polygon": [part("polygonlabels", points=[[20, 20], [50, 20], [20, 70]], polygonlabels=["knife"])],
    "an ellipse": [part("ellipselabels", x=35, y=45, radiusX=15, radiusY=25, ellipselabels=["knife"])],
    "a box on its side": [part("rectanglelabels", x=50, y=20, width=25, height=60, rotation=90, rectanglelabels=["knife"])],
}  # fmt: skip


@pytest.mark.parametrize("drawn", DRAWN)
def test_a_box_is_the_same_in_a_file_and_in_a_review(work: Work, tmp_path: Path, drawn: str) -> None:
    images(tmp_path / "set", "a.png", side=64)
    result = DRAWN[drawn]
    data = {"image": "a", "sample": "s", "width": SIZE[0], "height": SIZE[1]}
    (said,) = read_answers({"data": data, "annotations": [{"id": 1, "completed_by": 1, "result": result}]}, NAMES, 1)
    assert [(c.category, pytest.approx(BOX)) for c in said.claims] == [("knife", c.box_xyxy) for c in said.claims]
    (tmp_path / "set" / "x.json").write_text(
        json.dumps([{"data": {"image": "a.png"}, "annotations": [{"result": result}]}])
    )
    Import(path=tmp_path / "set").run(work)
    ((category, box),) = boxes(work)["a.png"]  # type: ignore[misc]
    assert (category, box) == (
        "knife",
        pytest.approx([v * 64 / side for v, side in zip(BOX, SIZE * 2, strict=True)], abs=1e-4),
    )


def test_what_a_review_cannot_read_of_an_answer_nobody_takes_for_absent() -> None:
    data = {"image": "a", "sample": "s", "width": SIZE[0], "height": SIZE[1]}

    def read(*result: dict[str, Any]) -> Any:
        return read_answers(
            {"data": data, "annotations": [{"id": 1, "completed_by": 1, "result": list(result)}]}, NAMES, 1
        )[0]

    knife = DRAWN["from the lower right"][0]
    brush = part("brushlabels", "b", rle=[1], brushlabels=["pill"])
    both = read(knife, brush)
    assert [(c.category, c.asked) for c in both.claims] == [("knife", ("knife",))]
    assert both.odd == ("brush, which is no box",)
    assert (read(brush).note, read(brush).claims) == ("cannot be read", ())
    empty = {"id": "e", "type": "choices", "from_name": "whole", "value": {"choices": [EMPTY]}}
    assert read(brush, empty).note == "contradicts itself"
    assert [c.says for c in read(empty).claims] == ["empty"]


def tasks(root: Path, *addresses: str, key: str = "image") -> None:
    said = [{"data": {key: a}, "annotations": [{"result": DRAWN["from the lower left"]}]} for a in addresses]
    (root / "tasks.json").write_text(json.dumps(said))


PREFIXED = {
    ("/data/upload/1/0a1b2c3d-photo.png", "0a1b2c3d-photo.png"): True,
    ("/data/upload/1/0a1b2c3d-photo.png", "photo.png"): True,
    ("/data/upload/1/0a1b2c3d-photo.png", "upload/1/0a1b2c3d-photo.png"): True,
    ("/data/upload/1/0a1b2c3d-photo.png", "deeper/photo.png"): True,
    ("/data/upload/1/0a1b2c3d-my_photo_1.png", "my photo (1).png"): True,  # as the server tidies names
    ("/label-studio/data/upload/1/0a1b2c3d-photo.png", "photo.png"): True,
    ("http://host/data/upload/1/0a1b2c3d-photo.png", "photo.png"): True,
    ("photo.png", "0a1b2c3d-photo.png"): True,
    ("/data/local-files/?d=x/photo.png", "ffffffff-photo.png"): True,
    ("photo.png", "0a1b2c3d-other.png"): False,
    ("photo.png", "holiday-photo.png"): False,  # no letters of a server
}


@pytest.mark.parametrize(("address", "file"), PREFIXED)
def test_an_upload_is_found_with_its_letters_and_without(work: Work, tmp_path: Path, address: str, file: str) -> None:
    images(tmp_path / "set", file)
    tasks(tmp_path / "set", address)
    if not PREFIXED[address, file]:
        with pytest.raises(TooManyFailures, match="missing image"):
            Import(path=tmp_path / "set").run(work)
        return
    facts = Import(path=tmp_path / "set").run(work)
    assert (facts["images"], facts["failed"], set(named(work))) == (1, 0, {file})


def test_an_upload_that_could_be_any_of_several_files_is_none(work: Work, tmp_path: Path) -> None:
    images(tmp_path / "set", "0a1b2c3d-photo.png", "0a1b2c3e-photo.png")
    tasks(tmp_path / "set", "photo.png", "/data/upload/1/0a1b2c3e-photo.png")
    facts = Import(path=tmp_path / "set").run(work)
    assert (list(named(work)), facts["failed"]) == (["0a1b2c3e-photo.png"], 1)


def test_one_choice_of_another_interface_says_nothing_of_the_others(work: Work, tmp_path: Path) -> None:
    images(tmp_path / "set", "a.png", "b.png")
    made = [part("choices", choices=names) for names in (["knife"], ["knife", "pill"])]
    rows = [{"data": {"image": f"{n}.png"}, "annotations": [{"result": [r]}]} for n, r in zip("ab", made, strict=True)]
    (tmp_path / "set" / "tasks.json").write_text(json.dumps(rows))
    Import(path=tmp_path / "set").run(work)
    a, b = (named(work)[name].truth for name in ("a.png", "b.png"))
    assert (str(a.of("dice")), str(b.of("dice"))) == ("nobody looked", "absent")


def test_the_smaller_export_is_read(work: Work, tmp_path: Path) -> None:
    images(tmp_path / "set", *(f"{n}.png" for n in range(6)))
    place = {**PLACE, "original_width": 200, "original_height": 100}
    answers: list[dict[str, Any]] = [
        {"label": [{**place, "rectanglelabels": ["knife"]}]},
        {"rect": [place], "label": [{**place, "labels": ["knife"]}]},
        {"kind": "knife", "caption": "on a table"},
        {"kind": {"choices": ["knife", "pill"]}},
        {"spot": [{"x": 1, "y": 1, "width": 0.5, "keypointlabels": ["knife"]}]},
        {},
    ]
    rows = [
        {"image": f"/data/upload/1/0a1b2c3d-{n}.png", "id": n, "annotator": 1, "annotation_id": n, **a}
        for n, a in enumerate(answers)
    ]
    (tmp_path / "set" / "min.json").write_text(json.dumps(rows))
    facts = Import(path=tmp_path / "set", empty_means="confirmed_empty").run(work)
    assert (facts["format"], facts["failed"]) == ("labelstudio", 0)
    found = {name: [(c.category, c.box_xyxy is not None) for c in s.truth.labels] for name, s in named(work).items()}
    assert found == {
        "0.png": [("knife", True)],
        "1.png": [("knife", True)],
        "2.png": [("knife", False)],
        "3.png": [("knife", False), ("pill", False)],
        "4.png": [],
        "5.png": [],
    }
    states = {name: s.state for name, s in named(work).items()}
    assert (states["4.png"], states["5.png"]) == (State.UNLABELLED, State.CONFIRMED_EMPTY)
    # a caption and a single choice look alike
    assert set(facts["left_out"]) == {"text of 'caption', which is no box", "keypoint, which is no box"}  # type: ignore[arg-type]
    assert facts["labels"] == {"read": 7, "taken": 5, "ignored": 0, "left_out": 2}


def test_an_image_that_a_person_passed_on_is_not_empty(work: Work, tmp_path: Path) -> None:
    images(tmp_path / "set", "a.png", "b.png")
    up = {"id": "e", "type": "choices", "from_name": "whole", "value": {"choices": [ESCALATE]}}
    said = [[up], [up, DRAWN["a polygon"][0]]]
    rows = [{"data": {"image": f"{n}.png"}, "annotations": [{"result": r}]} for n, r in zip("ab", said, strict=True)]
    (tmp_path / "set" / "tasks.json").write_text(json.dumps(rows))
    facts = Import(path=tmp_path / "set", empty_means="confirmed_empty").run(work)
    assert (facts["by_state"], facts["labels"]) == (
        {"unlabelled": 2},
        {"read": 1, "taken": 0, "ignored": 0, "left_out": 1},
    )


def test_regions_of_several_images_of_a_task_are_left_out(work: Work, tmp_path: Path) -> None:
    images(tmp_path / "set", "a.png")
    one, two = DRAWN["a polygon"][0], {**DRAWN["an ellipse"][0], "id": "two", "to_name": "second"}
    pages = {**DRAWN["an ellipse"][0], "item_index": 1}
    for number, result in enumerate(([one, two], [pages])):
        (tmp_path / "set" / "tasks.json").write_text(
            json.dumps([{"data": {"image": "a.png"}, "annotations": [{"result": result}]}])
        )
        work.name = f"n{number}"
        assert set(Import(path=tmp_path / "set").run(work)["left_out"]) == {"of one of several images of a task"}  # type: ignore[arg-type]


@pytest.mark.parametrize(("who", "sure"), [((1, 1), True), ((1, 2), False), ((None, None), False)])
def test_what_another_person_labelled_keeps_an_image_from_being_empty(
    work: Work, tmp_path: Path, who: tuple[int | None, int | None], sure: bool
) -> None:
    images(tmp_path / "set", "a.png")
    said = [
        {"completed_by": who[0], "updated_at": "2026-01-01", "result": DRAWN["a polygon"]},
        {"completed_by": who[1], "updated_at": "2026-01-02", "result": []},
    ]
    (tmp_path / "set" / "tasks.json").write_text(json.dumps([{"data": {"image": "a.png"}, "annotations": said}]))
    facts = Import(path=tmp_path / "set", empty_means="confirmed_empty").run(work)
    assert facts["by_state"] == ({"confirmed_empty": 1} if sure else {"unlabelled": 1})
    assert facts["labels"]["read"] == facts["labels"]["left_out"] == (0 if sure else 1)  # type: ignore[index, call-overload]


@pytest.mark.parametrize(
    ("data", "to_name", "taken"),
    [
        ({"image1": "a.png", "image2": "b.png"}, "img2", 0),
        ({"image": "a.png", "other": "b.png"}, "image", 1),
        ({"image": "a.png", "other": "b.png"}, "img", 0),
        ({"photo": "a.png", "caption": "b"}, "img", 1),
    ],
)
def test_a_region_of_one_of_several_images_is_put_on_none_but_its_own(
    work: Work, tmp_path: Path, data: dict[str, str], to_name: str, taken: int
) -> None:
    images(tmp_path / "set", "a.png", "b.png")
    region = part("rectanglelabels", rectanglelabels=["knife"], x=10, y=10, width=50, height=50) | {"to_name": to_name}
    (tmp_path / "set" / "tasks.json").write_text(json.dumps([{"data": data, "annotations": [{"result": [region]}]}]))
    facts = Import(path=tmp_path / "set", empty_means="confirmed_empty").run(work)
    assert (facts["boxes"], facts["labels"]["left_out"]) == (taken, 1 - taken)  # type: ignore[index, call-overload]
    assert "confirmed_empty" not in facts["by_state"]  # type: ignore[operator]
