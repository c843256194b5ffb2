"""Label files as the wicked write them: refused with a reason, one by one, and never believed."""

import json
import tarfile
from collections.abc import Callable
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from label_files import HEADER, boxes, coco, cvat, region, row, task
from label_sets import SCENES, fill, opened, silent
from noise import noise_image, tar

from tilth.annotate.exchange.exporting import export
from tilth.annotate.exchange.importing import Import
from tilth.annotate.formats.parts.records import MAX_LABELS, Oddities
from tilth.annotate.formats.parts.texts import CHUNK, MAX_ITEM, json_lists
from tilth.annotate.formats.reading import open_reader
from tilth.annotate.formats.writing import FORMATS
from tilth.claims import State
from tilth.engine.work import Work
from tilth.errors import InputError, TooManyFailures
from tilth.policy import Policy

NAN_BOXES: dict[str, Callable[[Path], object]] = {
    "csv": lambda root: (root / "x.csv").write_text(f"{HEADER}a.png,16,16,knife,nan,1,inf,2,1,\n"),
    "cvat": lambda root: (root / "x.xml").write_text(
        cvat('<image name="a.png"><box label="knife" xtl="nan" ytl="1" xbr="inf" ybr="2"/></image>')
    ),
    "imagefolder": lambda root: (root / "metadata.jsonl").write_text(row("a.png", [float("nan"), 1, float("inf"), 2])),
    "labelstudio": lambda root: (root / "x.json").write_text(json.dumps([task("a.png", region(x=float("nan")))])),
    "coco": lambda root: coco(root, [("a.png", [("knife", [float("nan"), 1, float("inf"), 2])])]),
    "webdataset": lambda root: tar(
        root / "x.tar", ("k.png", noise_image(0)), ("k.json", row("", [float("nan"), 1, 2, 2]).encode())
    ),
}


@pytest.mark.parametrize("format_", NAN_BOXES)
def test_a_box_without_numbers_is_skipped_and_leaves_its_image_unconfirmed(
    work: Work, image_folder: Path, format_: str
) -> None:
    NAN_BOXES[format_](image_folder)
    facts = Import(path=image_folder, empty_means="confirmed_empty").run(work)
    assert facts["format"] == format_
    assert facts["left_out"]["box that is no box"]["labels"] == 1  # type: ignore[index, call-overload]
    assert facts["odd"]["not called empty, as labels of it were left out"] == 1  # type: ignore[index, call-overload]
    assert [s.state for s in work.dataset.samples(images=False)] == [State.UNLABELLED]


OUTSIDE = "../secret.png"
LEADING_OUT: dict[str, Callable[[Path], object]] = {
    "csv": lambda root: (root / "x.csv").write_text(f"{HEADER}{OUTSIDE},16,16,knife,1,1,2,2,1,\n"),
    "cvat": lambda root: (root / "x.xml").write_text(cvat(f'<image name="{OUTSIDE}"/>')),
    "imagefolder": lambda root: (root / "metadata.jsonl").write_text(row(OUTSIDE, [1, 1, 2, 2])),
    "labelstudio": lambda root: (root / "x.json").write_text(json.dumps([task(f"/data/local-files/?d={OUTSIDE}")])),
    "parquet": lambda root: pq.write_table(
        pa.Table.from_pylist([{"image": {"bytes": None, "path": OUTSIDE}, "objects": {"bbox": [], "categories": []}}],
            schema=pa.schema([("image", pa.struct([("bytes", pa.binary()), ("path", pa.string())])),
                ("objects", pa.struct([("bbox", pa.list_(pa.list_(pa.float64()))), ("categories", pa.list_(pa.string()))]))])),
        root / "x.parquet",
    ),
}  # fmt: skip


@pytest.mark.parametrize("format_", LEADING_OUT)
def test_no_label_file_leads_out_of_its_folder(work: Work, image_folder: Path, format_: str) -> None:
    (image_folder.parent / "secret.png").write_bytes(noise_image(7))
    LEADING_OUT[format_](image_folder)
    with pytest.raises(TooManyFailures, match=r"all 1 samples failed; .*refused"):
        Import(path=image_folder).run(work)


def test_nothing_of_a_tar_is_unpacked_and_its_links_are_skipped(work: Work, image_folder: Path) -> None:
    path = tar(
        image_folder / "x.tar", ("../../out.png", noise_image(3)), ("../../out.json", row("", [1, 2, 3, 4]).encode())
    )
    with tarfile.open(path, "a") as archive:
        link = tarfile.TarInfo("passwords.png")
        link.type, link.linkname = tarfile.SYMTYPE, "/etc/passwd"
        archive.addfile(link)
        device = tarfile.TarInfo("zero.png")
        device.type, device.devmajor, device.devminor = tarfile.CHRTYPE, 1, 5
        archive.addfile(device)
    before = {p for p in image_folder.parent.rglob("*") if "dataset" not in p.parts}
    facts = Import(path=image_folder / "x.tar").run(work)
    assert (facts["images"], facts["failed"], facts["boxes"]) == (1, 0, 1)
    assert facts["odd"] == {"link or device in an archive, skipped": 2}
    assert {p for p in image_folder.parent.rglob("*") if "dataset" not in p.parts} == before
    told: list[str] = []
    export(work.dataset, image_folder.parent / "out", "yolo", images="none", say=told.append)
    assert not (image_folder.parent.parent / "out.txt").exists()
    (label_file,) = (image_folder.parent / "out" / "labels").rglob("*.txt")
    assert len(label_file.stem) == 64, "a path that leads out is not repeated; the image goes by its id"


SAMPLE_BYTES = 4 * 512 + 512  # two headers, an image of two blocks, labels of one


@pytest.mark.parametrize("cut", [100, 700, 2048])
def test_a_tar_that_is_cut_short_gives_what_came_before_and_says_so(work: Work, image_folder: Path, cut: int) -> None:
    labels = row("", [1, 2, 3, 4]).encode()
    parts = [(f"{n}.{kind}", noise_image(n) if kind == "png" else labels) for n in range(3) for kind in ("png", "json")]
    whole = tar(image_folder / "x.tar", *parts)
    whole.write_bytes(whole.read_bytes()[: SAMPLE_BYTES + cut])
    facts = Import(path=whole).run(work)
    assert facts["odd"]["archive without its end, maybe cut short"] == 1  # type: ignore[index, call-overload]
    assert boxes(work)["x.tar/0.png"] == [("knife", (1, 2, 4, 6))]


def test_a_tar_with_two_images_of_a_key_or_none_fails_that_key_alone(work: Work, image_folder: Path) -> None:
    picture, labels = noise_image(1), row("", [1, 2, 3, 4]).encode()
    two = [("a.png", picture), ("a.jpg", picture)]
    broken = [("b.json", labels), ("c.png", noise_image(2)), ("c.json", b"{")]
    tar(image_folder / "x.tar", *two, *broken, ("d.png", noise_image(4)))
    facts = Import(path=image_folder / "x.tar").run(work)
    assert (facts["images"], facts["failed"], facts["by_state"]) == (1, 3, {"unlabelled": 1})


CROWD = '<image name="a.png">' + "<box/>" * (MAX_LABELS + 1) + "</image>"
LENGTHS = b'{"file_name": "a.png", "objects": {"bbox": [[1,1,2,2]], "categories": []}}'
BOMB = '<!DOCTYPE a [<!ENTITY a "aaaaaaaaaa"><!ENTITY b "&a;&a;&a;&a;&a;&a;&a;&a;">]>'
REFUSED: dict[str, tuple[str, str, bytes, str]] = {
    "entity bomb": ("cvat", "x.xml", f'{BOMB}<annotations><image name="&b;"/></annotations>'.encode(), "no DOCTYPE"),
    "tag without end": ("cvat", "x.xml", b"<annotations><!--" + b"x" * (17 * 2**20), "without a tag"),
    "a million boxes": ("cvat", "x.xml", cvat(CROWD).encode(), "more than 100000 labels"),
    "cut XML": ("cvat", "x.xml", b'<annotations><image name="a.png">', "not an XML file"),
    "XML of an encoding that nobody knows": ("cvat", "x.xml", b'<?xml version="1.0" encoding="klingon"?><annotations/>', "nobody knows"),
    "XML of an encoding that is none": ("cvat", "x.xml", b'<?xml version="1.0" encoding="zip"?><annotations/>', "nobody knows"),
    "JSON as deep as a well": ("labelstudio", "x.json", b'[{"data":' + b"[" * 200_000, "too deeply"),
    "JSON without end": ("labelstudio", "x.json", b'[{"data": "' + b"x" * (MAX_ITEM + 2 * CHUNK), "one item of more than"),
    "line without end": ("imagefolder", "metadata.jsonl", b'{"file_name": "' + b"x" * (MAX_ITEM + CHUNK), "line of more than"),
    "line of a deep well": ("imagefolder", "metadata.jsonl", b"[" * 200_000, "not JSON"),
    "lists of two lengths": ("imagefolder", "metadata.jsonl", LENGTHS, "of one length"),
    "CSV without columns": ("csv", "x.csv", b"name,colour\na.png,knife\n", "no column file, category"),
    "CSV that is no text": ("csv", "x.csv", b"\x80\xfe\n", "no column file"),
    "CSV with an endless field": ("csv", "x.csv", HEADER.encode() + b'"' + b"x" * 200_000, "field larger than"),
    "no Parquet": ("parquet", "x.parquet", b"PAR1 and more", "damaged or no such table"),
    "no tar": ("webdataset", "x.tar", b"not a tar" * 400, "damaged archive"),
}  # fmt: skip


@pytest.mark.parametrize("attack", REFUSED)
def test_a_hostile_file_is_refused_with_a_reason(image_folder: Path, attack: str) -> None:
    format_, name, data, reason = REFUSED[attack]
    (image_folder / name).write_bytes(data)
    odd = Oddities()
    found = list(open_reader(image_folder, format_, "", None, odd)[1])  # type: ignore[arg-type]
    assert [f.label_file or f.name for f in found if f.error] == [name]
    assert reason in str([f.error for f in found])


def test_a_parquet_that_claims_more_values_than_memory_holds_is_refused_unread(image_folder: Path) -> None:
    image_type = pa.struct([("bytes", pa.binary()), ("path", pa.string())])
    kind = pa.schema([("image", image_type), ("objects", pa.struct([("score", pa.list_(pa.int8()))]))])
    objects = pa.StructArray.from_arrays(
        [pa.ListArray.from_arrays([0, 30_000_000], pa.array(np.zeros(30_000_000, np.int8)))], ["score"]
    )
    image = pa.array([{"bytes": noise_image(1), "path": None}], image_type)
    pq.write_table(pa.table([image, objects], schema=kind), image_folder / "x.parquet")
    assert (image_folder / "x.parquet").stat().st_size < 10_000, "little on disk"
    (found,) = open_reader(image_folder, "parquet", "", None, Oddities())[1]
    assert "refused: row group 0 claims" in found.error


def test_a_yolo_file_of_a_million_lines_fails_alone(work: Work, image_folder: Path) -> None:
    (image_folder / "classes.txt").write_text("knife\n")
    (image_folder / "a.txt").write_text("0 .5 .5 .1 .1\n" * (MAX_LABELS + 1))
    (image_folder / "b.txt").write_text("0 .5 .5 .5 .5\n1e400 .5 .5 .5 .5\n")
    facts = Import(path=image_folder).run(work)
    assert (facts["images"], facts["failed"], facts["boxes"]) == (1, 1, 1)


@settings(max_examples=40, deadline=None)
@given(
    items=st.lists(
        st.recursive(st.none() | st.floats(allow_nan=False) | st.text(), st.lists, max_leaves=5), max_size=6
    ),
    indent=st.sampled_from([None, 1, "\t\n "]),
)
def test_a_list_read_piece_by_piece_is_the_list(items: list[object], indent: int | str | None) -> None:
    with TemporaryDirectory() as name:
        path = Path(name) / "x.json"
        path.write_text(json.dumps({"skip": [1, {}], "more": {"a": []}, "take": items, "end": 1}, indent=indent))
        assert [item for _, item in json_lists(path, ("take",))] == items
        path.write_text(json.dumps(items, indent=indent))
        assert [item for _, item in json_lists(path, ("",))] == items


def test_a_long_list_is_the_same_wherever_it_is_cut_into_pieces(tmp_path: Path) -> None:
    items = [{"n": n, "text": "ä" * (n % 977), "number": n * 1.5} for n in range(6000)]
    path = tmp_path / "x.json"
    path.write_text(json.dumps(items, ensure_ascii=False), encoding="utf-8")
    assert path.stat().st_size > 4 * CHUNK
    assert [item for _, item in json_lists(path, ("",))] == items


@pytest.fixture(scope="module")
def sets(policy: Policy, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """One set in every format."""
    folder = tmp_path_factory.mktemp("sets")
    with opened(folder, policy) as work:
        fill(work, SCENES)
        for format_ in FORMATS:
            export(work.dataset, folder / format_, format_, say=silent)
    return folder


LABEL_FILES = (".json", ".jsonl", ".xml", ".csv", ".tar", ".parquet", ".txt", ".yaml")


@pytest.mark.parametrize("format_", sorted(set(FORMATS) - {"classfolders"}))
@settings(max_examples=40, deadline=None)
@given(data=st.data())
def test_no_damage_to_a_label_file_ends_in_anything_but_a_reason(sets: Path, format_: str, data: st.DataObject) -> None:
    files = sorted(p for p in (sets / format_).rglob("*") if p.suffix in LABEL_FILES and p.name != "samples.jsonl")
    path = data.draw(st.sampled_from(files))
    whole = path.read_bytes()
    at = data.draw(st.integers(0, max(0, len(whole) - 1)))
    upto = at + data.draw(st.integers(0, 40))
    put = data.draw(st.binary(max_size=12) | st.sampled_from([b"null", b"-1e999", b"NaN", b"{}", b"[", b"\0", b'"']))
    path.write_bytes(whole[:at] + put + (b"" if data.draw(st.booleans()) else whole[upto:]))
    try:
        for found in open_reader(sets / format_, format_, "", None, Oddities())[1]:  # type: ignore[arg-type]
            assert bool(found.error) != bool(found.read)
            assert len(found.read() if found.read else b"-") > 0
    except InputError:
        pass  # the whole source is refused
    finally:
        path.write_bytes(whole)
