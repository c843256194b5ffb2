"""What the numbers of a YOLO line are is read from `data.yaml`, or from what all lines of the set have in common."""

from pathlib import Path

import pytest
from label_files import boxes, images

from tilth.annotate.exchange.importing import Import
from tilth.engine.work import Work

SIDE = 100
MIDDLE = "0 .5 .5 .4 .2"  # (30, 40, 70, 60)
XY = "  .4 .45 .5 .5 .6 .55 .35 .58"
XYV = "  .4 .45 2 .5 .5 1 0 0 0 .35 .58 2"
FOUR = "0 .3 .4 .7 .4 .69 .6 .31 .6"  # a polygon of four points, no turned box
TURNED = "0 .5 .2 .8 .5 .5 .8 .2 .5"
KNOWN = (30.0, 40.0, 70.0, 60.0)


def read(work: Work, root: Path, *lines: str, more: str = "") -> tuple[list[object], dict[str, int]]:
    images(root, "a.png", side=SIDE)
    (root / "data.yaml").write_text(f"names: [knife]\n{more}")
    (root / "a.txt").write_text("\n".join(lines))
    facts = Import(path=root).run(work)
    found = [tuple(round(v, 3) for v in box) for _, box in boxes(work)["a.png"]]  # type: ignore[misc, attr-defined]
    return found, {kind: told["labels"] for kind, told in facts["left_out"].items()}  # type: ignore[union-attr, index, call-overload]


@pytest.mark.parametrize("line", [MIDDLE + XY, MIDDLE + XYV, MIDDLE])
def test_kpt_shape_makes_a_line_a_box_with_key_points(work: Work, tmp_path: Path, line: str) -> None:
    assert read(work, tmp_path / "set", line, more="kpt_shape: [4, 3]\n") == ([KNOWN], {})


def test_a_line_that_kpt_shape_does_not_give_is_named(work: Work, tmp_path: Path) -> None:
    found, left = read(work, tmp_path / "set", MIDDLE + XYV + " .5", more="kpt_shape: [4, 3]\n")
    assert (found, left) == ([], {"17 numbers, which kpt_shape does not give": 1})


@pytest.mark.parametrize("values", [XY, XYV])
def test_without_a_word_many_like_lines_with_points_inside_their_boxes_are_key_points(
    work: Work, tmp_path: Path, values: str
) -> None:
    lines = [f"0 .5 .5 .4 .{20 + n}{values}" for n in range(8)]
    found, left = read(work, tmp_path / "set", *lines)
    assert (found[0], len(found), left) == (KNOWN, 8, {})


UNCLEAR = "numbers that may be a polygon or a box with key points; `kpt_shape` or `task` in data.yaml would tell"


@pytest.mark.parametrize(
    ("more", "expected"),
    [
        ("", ([KNOWN], {UNCLEAR: 1})),
        ("task: segment\n", ([(35.0, 20.0, 60.0, 58.0), KNOWN], {})),
        ("task: detect\n", ([KNOWN], {"12 numbers, which the task of data.yaml does not have": 1})),
    ],
)
def test_few_lines_that_may_be_polygons_or_key_points_are_left_out_unless_the_task_is_given(
    work: Work, tmp_path: Path, more: str, expected: object
) -> None:
    assert read(work, tmp_path / "set", MIDDLE + XY, MIDDLE, more=more) == expected


def test_polygons_of_one_length_are_polygons_when_one_of_them_is_no_box_with_points_inside(
    work: Work, tmp_path: Path
) -> None:
    found, left = read(work, tmp_path / "set", FOUR, MIDDLE + " .4 .45 .6 .55", FOUR)
    assert (found, left) == ([(30.0, 40.0, 70.0, 60.0), (40.0, 20.0, 60.0, 55.0), (30.0, 40.0, 70.0, 60.0)], {})


@pytest.mark.parametrize("more", ["", "task: obb\n"])
def test_turned_boxes_are_taken_as_the_upright_boxes_around_them(work: Work, tmp_path: Path, more: str) -> None:
    found, left = read(work, tmp_path / "set", TURNED, TURNED + " .75", more=more)
    assert (found, left) == ([(20.0, 20.0, 80.0, 80.0)] * 2, {})


@pytest.mark.parametrize(
    ("line", "why"),
    [
        ("1.7 .5 .5 .4 .2", "class number that is no whole number"),
        ("0 50 50 40 20", "numbers beyond the image, or pixels, which YOLO does not have"),
        ("0 -.5 .5 .4 .2", "numbers beyond the image, or pixels, which YOLO does not have"),
        ("0 .5 .5 .4 .2 3", "number behind the box that is no score"),
        ("0 .5 .5 .4", "line of too few numbers"),
        ("knife .5 .5 .4 .2", "line that is no label"),
        ("0 .1 .2 .3 .4 .5 .6 .7", "7 numbers, which fit neither a box, key points nor a polygon"),
    ],
)
def test_a_line_whose_numbers_fit_nothing_is_named(work: Work, tmp_path: Path, line: str, why: str) -> None:
    assert read(work, tmp_path / "set", MIDDLE, line, FOUR) == ([KNOWN, KNOWN], {why: 1})
