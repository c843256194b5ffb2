"""One rule for all formats: a label is taken, ignored as the recipe says, or left out by name, and none makes an image empty."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any, Literal, get_args

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from label_files import cvat, images, named
from noise import noise_image, tar

from tilth.annotate.exchange.importing import Import
from tilth.annotate.formats.reading import Format
from tilth.claims import State
from tilth.engine.work import Work

SIDE = 64
Fate = Literal["box", "whole", "left out", "ignored"]
Case = tuple[Any, Fate]
KNIFE, CAT, UNKNOWN = "knife", "cat", "unicorn"  # of the policy, mapped to nothing, known to nobody
BOX = [8, 8, 16, 24]


def files(root: Path, cases: list[Any]) -> list[str]:
    """An image for each case, and one that nothing is said of but that it was looked at."""
    names = [f"{n}.png" for n in range(len(cases) + 1)]
    images(root, *names, side=SIDE)
    return names


COCO: list[Case] = [
    ({"category_id": 1, "bbox": BOX}, "box"),
    ({"category_id": "1", "bbox": BOX}, "box"),  # a text beside numbers
    ({"category_id": 1, "bbox": BOX, "iscrowd": 1, "segmentation": {"size": [64, 64], "counts": "x"}}, "box"),
    ({"category_id": 1, "segmentation": [[8, 8, 24, 8, 24, 32]]}, "box"),
    ({"category_id": 1, "bbox": BOX, "keypoints": [9, 9, 2]}, "box"),
    ({"segments_info": [{"category_id": 1, "bbox": BOX}]}, "box"),  # as a panoptic file has it
    ({"category_id": KNIFE, "bbox": BOX}, "box"),
    ({"category_name": KNIFE, "bbox": BOX}, "box"),
    ({"category_id": 1, "bbox": [0.1, 0.1, 0.5, 0.5]}, "left out"),  # parts of the image
    ({"category_id": 1}, "whole"),
    ({"category_id": 1, "bbox": [], "segmentation": []}, "whole"),
    ({"category_id": 1, "segmentation": {"size": [64, 64], "counts": "x"}}, "left out"),
    ({"category_id": 1, "keypoints": [9, 9, 2]}, "left out"),
    ({"category_id": 1, "bbox": [1, "two", 3, 4]}, "left out"),
    ({"category_id": 1, "bbox": [8, 8, -4, 4]}, "left out"),
    ({"category_id": 7, "bbox": BOX}, "left out"),  # of no category
    ({"category_id": None, "bbox": BOX}, "left out"),
    ({"category_id": 4, "bbox": BOX}, "left out"),  # an id of two names
    ({"category_id": 3, "bbox": BOX}, "left out"),
    ({"category_id": 2, "bbox": BOX}, "ignored"),
]


def coco(root: Path, cases: list[Any]) -> int:
    names = files(root, cases)
    spread = [{**case, "image_id": n if n % 2 else f"0{n}"} for n, case in enumerate(cases, 1)]
    lost = ["what", {"image_id": 99, "category_id": 1, "bbox": BOX}]
    pairs = [(1, KNIFE), (2, CAT), (3, UNKNOWN), (4, KNIFE), (4, "pill")]
    document = {
        "images": [{"id": n, "file_name": name} for n, name in enumerate(names, 1)],
        "categories": [{"id": id_, "name": name} for id_, name in pairs],
        "annotations": [*spread, *lost],
    }
    (root / "labels.json").write_text(json.dumps(document))
    return len(lost)


YOLO: list[Case] = [
    ("0 .5 .5 .25 .25", "box"),
    ("0.0 .5 .5 .25 .25 .75", "box"),
    ("0 .1 .1 .9 .1 .5 .9", "box"),  # a polygon
    ("0 .5 .2 .8 .5 .5 .8 .2 .5", "box"),  # a turned box
    ("0 0.1 .1 .9 .1 .5 .9 .2 .8 .1 .7", "box"),
    ("1.7 .5 .5 .25 .25", "left out"),
    ("nan .5 .5 .25 .25", "left out"),
    ("0 .5 .5 .25", "left out"),
    ("0 .5 .5 inf .25", "left out"),
    ("0 32 32 16 16", "left out"),  # pixels
    ("0 .5 .5 .25 .25 7", "left out"),  # no score
    ("0 .5 .5 .25 .25 .1 .2 .3", "left out"),  # of seven numbers
    ("knife .5 .5 .25 .25", "left out"),
    ("9 .5 .5 .25 .25", "left out"),
    ("2 .5 .5 .25 .25", "left out"),
    ("1 .5 .5 .25 .25", "ignored"),
]


def yolo(root: Path, cases: list[Any]) -> int:
    files(root, cases)
    (root / "data.yaml").write_text(f"names: [{KNIFE}, {CAT}, {UNKNOWN}]\n")
    for n, case in enumerate([*cases, ""]):
        (root / f"{n}.txt").write_text(case)
    (root / "gone.txt").write_text("0 .5 .5 .25 .25\n0 .5 .5 .5 .5\n")
    return 2


def thing(name: str, place: str) -> str:
    return f"<object><name>{name}</name>{place}</object>"


PLACE = "<bndbox><xmin>8</xmin><ymin>8</ymin><xmax>24</xmax><ymax>32</ymax></bndbox>"
VOC: list[Case] = [
    (thing(KNIFE, PLACE), "box"),
    (thing(KNIFE, PLACE + "<part><name>edge</name>" + PLACE + "</part>"), "box"),
    (thing(KNIFE, "<polygon><x1>8</x1><y1>8</y1><x2>24</x2><y2>8</y2><x3>9</x3><y3>30</y3></polygon>"), "box"),
    (thing(KNIFE, "<robndbox><cx>32</cx><cy>32</cy><w>16</w><h>8</h><angle>0.5</angle></robndbox>"), "box"),
    (thing(KNIFE, PLACE).replace("<object>", '<object xmlns="urn:a">'), "box"),
    (thing(KNIFE, ""), "left out"),
    (thing(KNIFE, PLACE.replace("24", "many")), "left out"),
    (thing(KNIFE, "<polygon/>"), "left out"),
    (thing("", PLACE), "left out"),
    (thing(UNKNOWN, PLACE), "left out"),
    (thing(CAT, PLACE), "ignored"),
]


def voc(root: Path, cases: list[Any]) -> int:
    files(root, cases)
    for n, case in enumerate([*cases, ""]):
        (root / f"{n}.xml").write_text(f"<annotation><filename>{n}.png</filename>{case}</annotation>")
    (root / "gone.xml").write_text(f"<annotation><filename>gone.png</filename>{thing(KNIFE, PLACE)}</annotation>")
    return 1


CORNERS = 'xtl="8" ytl="8" xbr="24" ybr="32"'
CVAT: list[Case] = [
    (f'<box label="{KNIFE}" {CORNERS}/>', "box"),
    (f'<box label="{KNIFE}" {CORNERS} rotation="30"/>', "box"),
    (f'<polygon label="{KNIFE}" points="8,8;24,8;9,30"/>', "box"),
    (f'<ellipse label="{KNIFE}" cx="32" cy="32" rx="8" ry="4"/>', "box"),
    (f'<mask label="{KNIFE}" rle="1, 2" left="8" top="8" width="4" height="4"/>', "box"),
    (f'<tag label="{KNIFE}"><attribute name="a">b</attribute></tag>', "whole"),
    (f'<points label="{KNIFE}" points="8,8"/>', "left out"),
    (f'<polyline label="{KNIFE}" points="8,8;9,9"/>', "left out"),
    (f'<skeleton label="{KNIFE}"><points label="tip" points="1,1"/><points label="end" points="2,2"/></skeleton>', "left out"),
    (f'<cuboid label="{KNIFE}" xtl1="8"/>', "left out"),
    (f'<box label="{KNIFE}" xtl="8" ytl="eight" xbr="24" ybr="32"/>', "left out"),
    (f'<tag label="{UNKNOWN}"/>', "left out"),
    (f"<box {CORNERS}/>", "left out"),
    (f'<box label="{CAT}" {CORNERS}/>', "ignored"),
    (f'<tag label="{CAT}"/>', "ignored"),
]  # fmt: skip


def cvat_file(root: Path, cases: list[Any]) -> int:
    names = files(root, cases)
    shown = [f'<image name="{name}">{case}</image>' for name, case in zip(names, [*cases, ""], strict=True)]
    (root / "annotations.xml").write_text(cvat(*shown, f'<box label="{KNIFE}" {CORNERS}/>'))
    return 1


def drawn(kind: str, **value: Any) -> dict[str, Any]:
    more = value if value else {"x": 10, "y": 10, "width": 20, "height": 20, kind: [KNIFE]}
    return {"id": "r", "type": kind, "original_width": SIDE, "original_height": SIDE, "value": more}


PERCENT = {"x": 60, "y": 60, "width": -20, "height": -30}
STUDIO: list[Case] = [
    ([drawn("rectanglelabels")], "box"),
    ([drawn("rectanglelabels", **PERCENT, rectanglelabels=[KNIFE])], "box"),  # drawn from the lower right
    ([drawn("rectangle", **PERCENT), drawn("labels", **PERCENT, labels=[KNIFE])], "box"),
    ([drawn("rectangle", **PERCENT), drawn("choices", choices=[KNIFE]), drawn("textarea", text=["old"])], "box"),
    ([drawn("polygonlabels", points=[[1, 1], [50, 1], [1, 40]], polygonlabels=[KNIFE])], "box"),
    ([drawn("ellipselabels", x=50, y=50, radiusX=9, radiusY=5, rotation=20, ellipselabels=[KNIFE])], "box"),
    ([drawn("choices", choices=[KNIFE])], "whole"),
    ([drawn("taxonomy", taxonomy=[["weapon", KNIFE]])], "whole"),
    ([drawn("brushlabels", rle=[1], brushlabels=[KNIFE])], "left out"),
    ([drawn("keypointlabels", x=1, y=1, keypointlabels=[KNIFE])], "left out"),
    ([drawn("videorectangle", sequence=[]), drawn("labels", labels=[KNIFE])], "left out"),
    ([drawn("rectangle", **PERCENT)], "left out"),
    ([drawn("rectanglelabels", x="wide", rectanglelabels=[KNIFE])], "left out"),
    ([drawn("textarea", text=["a knife"])], "left out"),
    ([drawn("rating", rating=3)], "left out"),
    ([drawn("choices", choices=3)], "left out"),
    (["what"], "left out"),
    ([drawn("choices", choices=[UNKNOWN])], "left out"),
    ([drawn("rectanglelabels", **PERCENT, rectanglelabels=[UNKNOWN])], "left out"),
    ([drawn("choices", choices=[CAT])], "ignored"),
]


def studio(root: Path, cases: list[Any]) -> int:
    names = files(root, cases)
    tasks = [{"data": {"image": n}, "annotations": [{"result": c}]} for n, c in zip(names, [*cases, []], strict=True)]
    (root / "tasks.json").write_text(json.dumps(tasks))
    return 0


CSV: list[Case] = [
    (f"{KNIFE},8,8,24,32", "box"),
    (f"{KNIFE},,,,", "whole"),
    (f"{KNIFE},8,eight,24,32", "left out"),
    (f"{KNIFE},8,8,24,", "left out"),
    (f"{UNKNOWN},8,8,24,32", "left out"),
    (f"{UNKNOWN},,,,", "left out"),
    (",8,8,24,32", "left out"),
    (f"{CAT},8,8,24,32", "ignored"),
]


def table(root: Path, cases: list[Any]) -> int:
    names = files(root, cases)
    rows = [f"{name},{case}" for name, case in zip(names, [*cases, ",,,,"], strict=True)]
    (root / "labels.csv").write_text("\n".join(["filename,class,xmin,ymin,xmax,ymax", *rows]))
    return 0


def objects(*rows: tuple[Any, Any]) -> dict[str, Any]:
    return {"objects": {"bbox": [box for box, _ in rows], "categories": [name for _, name in rows]}}


ROWS: list[Case] = [
    (objects((BOX, KNIFE)), "box"),
    (objects((None, KNIFE)), "whole"),
    ({"label": KNIFE}, "whole"),
    ({"labels": [KNIFE]}, "whole"),
    ({"image_labels": [KNIFE], **objects()}, "whole"),
    (objects(([1, 2], KNIFE)), "left out"),
    (objects((BOX, UNKNOWN)), "left out"),
    (objects((BOX, None)), "left out"),
    (objects((None, None)), "left out"),
    ({"label": UNKNOWN}, "left out"),
    (objects((BOX, CAT)), "ignored"),
    ({"label": CAT}, "ignored"),
]


def lines(root: Path, cases: list[Any]) -> int:
    rows = [{"file_name": n, **case} for n, case in zip(files(root, cases), [*cases, objects()], strict=True)]
    (root / "metadata.jsonl").write_text("\n".join(map(json.dumps, rows)))
    return 0


def parquet(root: Path, cases: list[Any]) -> int:
    rows = [
        {"image": {"bytes": noise_image(n, SIDE), "path": f"{n}.png"}, **case}
        for n, case in enumerate([*cases, objects()])
    ]
    keys = {key for row in rows for key in row}
    pq.write_table(pa.Table.from_pylist([{key: row.get(key) for key in keys} for row in rows]), root / "x.parquet")
    return 0


def shards(root: Path, cases: list[Any]) -> int:
    parts = []
    for n, case in enumerate([*cases, objects()]):
        parts.append((f"{n}.png", noise_image(n, SIDE)))
        part = (".cls", case["label"].encode()) if set(case) == {"label"} else (".json", json.dumps(case).encode())
        parts.append((f"{n}{part[0]}", part[1]))
    tar(root / "x.tar", *parts)
    return 0


FOLDERS: list[Case] = [
    (KNIFE, "whole"),
    (f"train/{KNIFE}", "whole"),
    (f"{KNIFE}/val", "whole"),
    (f"{KNIFE}/images", "whole"),
    (UNKNOWN, "left out"),
    (f"test/{UNKNOWN}", "left out"),
    (f"{KNIFE}/pill", "left out"),
    (CAT, "ignored"),
]


def folders(root: Path, cases: list[Any]) -> int:
    images(root, *(f"{case}/{n}.png" for n, case in enumerate([*cases, "confirmed_empty"])), side=SIDE)
    return 1  # the image in two classes has two labels


FORMATS: dict[str, tuple[Callable[[Path, list[Any]], int], list[Case]]] = {
    "coco": (coco, COCO),
    "yolo": (yolo, YOLO),
    "voc": (voc, VOC),
    "cvat": (cvat_file, CVAT),
    "labelstudio": (studio, STUDIO),
    "csv": (table, CSV),
    "imagefolder": (lines, ROWS),
    "parquet": (parquet, ROWS),
    "webdataset": (shards, ROWS),
    "classfolders": (folders, FOLDERS),
}


def test_every_format_is_held_to_the_rule() -> None:
    assert set(FORMATS) == set(get_args(Format)) - {"auto", "folder"}


@pytest.mark.parametrize("format_", FORMATS)
def test_a_label_is_taken_ignored_or_left_out_and_what_is_left_out_makes_no_image_empty(
    work: Work, tmp_path: Path, format_: str
) -> None:
    root = tmp_path / "set"
    root.mkdir()
    write, cases = FORMATS[format_]
    lost = write(root, [case for case, _ in cases])
    facts = Import(path=root, empty_means="confirmed_empty", categories={CAT: ""}).run(work)
    assert facts["format"] == format_
    found = {Path(name).stem: sample for name, sample in named(work).items()}
    fates = {}
    for n in range(len(cases)):
        sample = found[str(n)]
        labels = [(label.category, label.box_xyxy is not None) for label in sample.truth.labels]
        doubt = "left_out" in sample.columns
        if labels:
            assert not doubt
            fates[n] = {((KNIFE, True),): "box", ((KNIFE, False),): "whole"}[tuple(labels)]
        else:
            fates[n] = "left out" if doubt else "ignored"
            assert sample.state == (State.UNLABELLED if doubt else State.CONFIRMED_EMPTY)
    assert fates == {n: fate for n, (_, fate) in enumerate(cases)}
    assert found[str(len(cases))].state == State.CONFIRMED_EMPTY, "nothing was left out of this one"
    counts = {name: sum(fate in kinds for _, fate in cases) for name, kinds in KINDS.items()}
    assert facts["labels"] == {"read": len(cases) + lost, **counts, "left_out": counts["left_out"] + lost}
    assert sum(told["labels"] for told in facts["left_out"].values()) == counts["left_out"] + lost  # type: ignore[union-attr, index, call-overload, misc]
    assert all(told["examples"] for told in facts["left_out"].values())  # type: ignore[union-attr, index, call-overload]
    assert (facts["boxes"], facts["image_labels"]) == tuple(
        sum(f == kind for _, f in cases) for kind in ("box", "whole")
    )
    assert facts["unsure"] == counts["left_out"]


KINDS = {"taken": ("box", "whole"), "ignored": ("ignored",), "left_out": ("left out",)}
