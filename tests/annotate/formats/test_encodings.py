"""Label files in whatever encoding their program wrote; one that is wrong costs itself, and what it is in."""

import codecs
import json
from collections.abc import Callable
from pathlib import Path

import pytest
from label_files import HEADER, boxes, coco, cvat, images, row, task
from label_files import region as drawn

from tilth.annotate.exchange.importing import Import
from tilth.engine.work import Work

BOX = (1.0, 2.0, 4.0, 6.0)
THING = "<object><name>knife</name><bndbox><xmin>2</xmin><ymin>3</ymin><xmax>4</xmax><ymax>6</ymax></bndbox></object>"


def voc(encoding: str, file: str, folder: str = "x") -> str:
    head = f'<?xml version="1.0" encoding="{encoding}"?>\n'
    return f"{head}<annotation><folder>{folder}</folder><filename>{file}</filename>{THING}</annotation>"


DECLARED = {
    "gb2312": "图片.png",
    "GBK": "相機.png",
    "big5": "相機.png",
    "Shift_JIS": "写真.png",
    "euc-kr": "사진.png",
    "windows-1251": "фото.png",
    "ISO-8859-1": "café.png",
    "koi8-r": "фото.png",
    "utf-16": "foto.png",
    "UTF-8": "写真.png",
}


@pytest.mark.parametrize("encoding", DECLARED)
def test_xml_is_read_in_the_encoding_that_it_declares(work: Work, tmp_path: Path, encoding: str) -> None:
    name, root = DECLARED[encoding], tmp_path / "set"
    images(root, name, "b.png")
    text = voc(encoding, name, name)
    (root / "first.xml").write_bytes(text.encode("gb18030" if encoding == "gb2312" else encoding))
    (root / "b.xml").write_text(voc("UTF-8", "b.png"), encoding="utf-8")
    Import(path=root).run(work)
    assert boxes(work) == {name: [("knife", BOX)], "b.png": [("knife", BOX)]}


@pytest.mark.parametrize("encoding", ["gb2312", "utf-16", "windows-1252"])
def test_cvat_is_read_in_the_encoding_that_it_declares(work: Work, tmp_path: Path, encoding: str) -> None:
    name = "图片.png" if encoding == "gb2312" else "é.png"
    images(tmp_path / "set", name)
    box = '<box label="knife" xtl="1" ytl="2" xbr="4" ybr="6"/>'
    text = f'<?xml version="1.0" encoding="{encoding}"?>' + cvat(f'<image name="{name}">{box}</image>', " " * 600_000)
    (tmp_path / "set" / "x.xml").write_bytes(text.encode(encoding))
    facts = Import(path=tmp_path / "set").run(work)
    assert (facts["format"], boxes(work)) == ("cvat", {name: [("knife", BOX)]})


@pytest.mark.parametrize("damage", ["unknown encoding", "cut", "no XML", "empty", "lies about it"])
def test_a_label_file_that_cannot_be_read_fails_alone(work: Work, tmp_path: Path, damage: str) -> None:
    root = tmp_path / "set"
    images(root, "a.png", "b.png")
    good = voc("UTF-8", "a.png")
    bad = {
        "unknown encoding": good.replace("UTF-8", "x-mac-klingon").encode(),
        "cut": good.encode()[:-20],
        "no XML": b"\0\1\2",
        "empty": b"",
        "lies about it": good.encode("utf-16-le"),
    }[damage]
    (root / "a.xml").write_bytes(bad)
    (root / "b.xml").write_text(voc("UTF-8", "b.png"), encoding="utf-8")
    facts = Import(path=root, format="voc").run(work)
    assert boxes(work)["b.png"] == [("knife", BOX)]
    assert facts["failed"] == (0 if damage == "lies about it" else 1)


def test_a_byte_that_is_no_utf8_costs_the_name_that_it_is_in(work: Work, tmp_path: Path) -> None:
    root = tmp_path / "set"
    images(root, "a.png", "b.png")
    lines = row("a.png", [1, 2, 3, 4]) + row("caf?.png", [1, 2, 3, 4]) + row("b.png", [1, 2, 3, 4], text="na?f")
    (root / "metadata.jsonl").write_bytes(lines.encode().replace(b"?", b"\xe9"))
    facts = Import(path=root).run(work)
    assert boxes(work) == {"a.png": [("knife", BOX)], "b.png": [("knife", BOX)]}
    assert "the label file is no UTF-8 here" in str(facts["odd_examples"])


WRITTEN: dict[str, Callable[[Path], Path]] = {
    "csv": lambda root: _text(root / "x.csv", f"{HEADER}a.png,16,16,knife,1,2,4,6,1,\n"),
    "imagefolder": lambda root: _text(root / "metadata.jsonl", row("a.png", [1, 2, 3, 4])),
    "labelstudio": lambda root: _text(
        root / "x.json", json.dumps([task("a.png", drawn(x=6.25, y=12.5, width=18.75, height=25))])
    ),
    "coco": lambda root: coco(root, [("a.png", [("knife", [1, 2, 3, 4])])]),
    "yolo": lambda root: _text(root / "a.txt", "0 0.15625 0.25 0.1875 0.25\n"),
}


def _text(path: Path, text: str) -> Path:
    path.write_text(text)
    return path


@pytest.mark.parametrize("mark", [codecs.BOM_UTF8, codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE, codecs.BOM_UTF32_LE])
@pytest.mark.parametrize("format_", WRITTEN)
def test_text_that_windows_saved_is_known_by_its_mark(work: Work, tmp_path: Path, format_: str, mark: bytes) -> None:
    root = tmp_path / "set"
    images(root, "a.png")
    path = WRITTEN[format_](root)
    if format_ == "yolo":
        (root / "data.yaml").write_bytes(_marked("names: [knife]\n", mark if len(mark) < 4 else b""))
    path.write_bytes(_marked(path.read_text().replace("\n", "\r\n"), mark))
    facts = Import(path=root).run(work)
    assert facts["format"] == format_
    ((category, box),) = boxes(work)["a.png"]  # type: ignore[misc]
    assert category == "knife"
    assert box == pytest.approx(BOX, abs=1e-4)


def _marked(text: str, mark: bytes) -> bytes:
    names = {codecs.BOM_UTF8: "utf-8", codecs.BOM_UTF16_LE: "utf-16-le", codecs.BOM_UTF16_BE: "utf-16-be"}
    return mark + text.encode(names.get(mark, "utf-32-le" if mark else "utf-8"))


def test_a_number_of_ten_thousand_digits_costs_its_item(work: Work, tmp_path: Path) -> None:
    images(tmp_path / "set", "a.png", "b.png")
    path = coco(tmp_path / "set", [("a.png", [("knife", [1, 2, 3, 4])]), ("b.png", [("knife", [5, 5, 5, 5])])])
    path.write_text(path.read_text().replace("[5, 5, 5, 5]", f"[5, 5, {'9' * 10_000}, 5]"))
    facts = Import(path=tmp_path / "set").run(work)
    assert boxes(work) == {"a.png": [("knife", BOX)], "b.png": []}
    assert "box that is no box" in str(facts)
