"""Everything in a folder is taken, or named as left alone; what an image is, its first bytes tell."""

import io
import os
from pathlib import Path

import pytest
from label_files import boxes
from noise import noise_image
from PIL import Image as PilImage

from tilth.annotate.exchange.importing import Import
from tilth.engine.work import Work
from tilth.errors import InputError, TooManyFailures
from tilth.images import FORMATS, decode, kind_of
from tilth.mining.corpora.corpus import FolderCorpus
from tilth.sources.walk import LeftAlone, walk

HEIC = b"\0\0\0\x18ftypheic\0\0\0\0mif1heic" + bytes(100)


def picture(format_: str, seed: int = 0) -> bytes:
    out = io.BytesIO()
    PilImage.fromarray(decode(noise_image(seed))).save(out, format_)
    return out.getvalue()


IMAGES = {
    "a.jpg": picture("JPEG"),
    "b.jfif": picture("JPEG", 1),
    "c.jpe": picture("JPEG", 2),
    "d.JPEG": picture("JPEG", 3),
    "without": picture("PNG", 4),
    "webp.called.dat": picture("WEBP", 5),
    "png.jpg": picture("PNG", 6),
    "many.mpo": picture("MPO", 7),
    **({"f.avif": picture("AVIF", 8), "avif.jpg": picture("AVIF", 9)} if "AVIF" in FORMATS else {}),
}
OTHERS = {
    "notes.txt": (b"hello", ".txt"),
    "labels.csv": (b"a,b", ".csv"),
    "drawing.svg": (b'<svg xmlns="x"/>', ".svg (SVG)"),
    "new.jxl": (b"\xff\x0a123", ".jxl (JPEG XL)"),
    "weights.bin": (b"1234", ".bin"),
    "README": (b"BM is how this text begins", "no suffix"),
    "photo.NEF": (b"MM\0*" + bytes(40), ".nef"),
    ".DS_Store": (b"x", "hidden file"),
    "._a.jpg": (b"x", "macOS's own (._) file"),
    "sub/.cache/a.png": (noise_image(70), "hidden folder, not entered"),
    "__MACOSX/._a.jpg": (b"x", "macOS's own (._) folder, not entered"),
}


@pytest.fixture
def mess(tmp_path: Path) -> Path:
    """A folder as it lies on the disk of somebody who has never looked."""
    root = tmp_path / "mess"
    for name, data in {**IMAGES, **{name: data for name, (data, _) in OTHERS.items()}}.items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_bytes(data)
    (root / "nowhere.jpg").symlink_to("gone.jpg")
    (root / "loop").symlink_to(".")
    (root / os.fsdecode(b"caf\xe9.jpg")).write_bytes(noise_image(71))
    os.mkfifo(root / "pipe")
    return root


EXPECTED = {kind: 1 for _, kind in OTHERS.values()} | {
    "link that leads nowhere": 1,
    "link to a folder, not entered": 1,
    "name that is not Unicode": 1,
    "no regular file": 1,
}


@pytest.mark.parametrize("ordered", [False, True])
def test_a_walk_lists_images_by_what_they_are_and_counts_the_rest_by_kind(mess: Path, ordered: bool) -> None:
    left = LeftAlone()
    found = [f"{folder}/{name}".strip("/") for folder, name, _ in walk(mess, left, ordered=ordered)]
    assert sorted(found) == sorted(IMAGES)
    assert left.counts == EXPECTED
    assert left.examples["name that is not Unicode"] == "caf\\xe9.jpg"
    assert not ordered or found == sorted(found)


def test_an_import_takes_fails_or_names_every_file(mess: Path, work: Work) -> None:
    (mess / "phone.heic").write_bytes(HEIC)
    (mess / "phone.jpg").write_bytes(HEIC)
    (mess / "page.jpg").write_bytes(b"<!DOCTYPE html><p>404")
    facts = Import(path=mess).run(work)
    assert (facts["format"], facts["images"], facts["failed"]) == ("folder", len(IMAGES), 3)
    assert {kind: about["files"] for kind, about in facts["left_alone"].items()} == EXPECTED  # type: ignore[union-attr,index,call-overload]
    reasons = dict(error.split(": ", 1) for _, error in work.dataset.table(work.dataset.at.tables[0].name).failures())
    assert reasons["mess/page.jpg"] == "not an image of a known format, but HTML"
    assert reasons["mess/phone.heic"] == reasons["mess/phone.jpg"]
    assert "pip install pillow-heif" in reasons["mess/phone.heic"]


def test_a_corpus_takes_the_same_files_as_an_import(mess: Path) -> None:
    corpus = FolderCorpus(mess)
    assert [item.key for item in corpus.items()] == sorted(IMAGES)
    assert corpus.left_alone.counts == EXPECTED


def test_files_of_a_known_suffix_are_not_opened_for_the_listing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("a.jpg", "b.png", "c.txt", "d.json"):
        (tmp_path / name).write_bytes(b"nothing that anybody could open")
    monkeypatch.setattr(Path, "open", lambda *_, **__: pytest.fail("opened"))
    assert len(list(walk(tmp_path, LeftAlone()))) == 2


def test_a_folder_that_cannot_be_listed_is_named_and_costs_no_other(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "shut").mkdir()
    (tmp_path / "a.png").write_bytes(noise_image(0))
    really = os.scandir

    def scandir(path: Path) -> "os._ScandirIterator[str]":
        if path.name == "shut":
            raise PermissionError(13, "Permission denied")
        return really(path)

    monkeypatch.setattr(os, "scandir", scandir)
    left = LeftAlone()
    assert [found.name for found in walk(tmp_path, left)] == ["a.png"]
    assert left.counts == {"folder that cannot be listed": 1}
    with pytest.raises(InputError, match="cannot be listed"):
        list(walk(tmp_path / "shut", left))


def test_numbered_suffixes_do_not_fill_memory() -> None:
    left = LeftAlone()
    for number in range(1000):
        left.note(f".{number}", f"file.{number}")
    assert len(left.counts) == 101
    assert left.counts["other kinds"] == 900


@pytest.mark.parametrize("count", [1, 7])
def test_an_import_of_which_all_images_fail_says_so_at_any_number(tmp_path: Path, work: Work, count: int) -> None:
    for number in range(count):
        (tmp_path / "set" / f"{number}.jpg").parent.mkdir(exist_ok=True)
        (tmp_path / "set" / f"{number}.jpg").write_bytes(b"no image")
    for _ in range(2):  # and again, when there is nothing left to try
        with pytest.raises(TooManyFailures, match=rf"all {count} .*not an image"):
            Import(path=tmp_path / "set").run(work)


def test_images_that_differ_in_their_suffix_alone_are_told_apart_or_named(tmp_path: Path, work: Work) -> None:
    root = tmp_path / "set"
    for name, data in (("a.jpg", picture("JPEG")), ("a.png", picture("PNG", 1)), ("b.png", picture("PNG", 2))):
        root.mkdir(exist_ok=True)
        (root / name).write_bytes(data)
    box = "<bndbox><xmin>2</xmin><ymin>3</ymin><xmax>4</xmax><ymax>6</ymax></bndbox>"
    for name, called in (("a", "a.png"), ("b", "other.png")):
        xml = f"<annotation><filename>{called}</filename><object><name>knife</name>{box}</object></annotation>"
        (root / f"{name}.xml").write_text(xml)
    Import(path=root).run(work)
    assert {name: len(found) for name, found in boxes(work).items()} == {"a.jpg": 0, "a.png": 1, "b.png": 1}
    (root / "a.xml").write_text((root / "a.xml").read_text().replace("a.png", "a.bmp"))
    facts = Import(path=root).run(work)
    assert "label file whose name several images bear and that names none of them; one taken" in str(facts["odd"])
    for path in root.glob("*.xml"):
        path.unlink()
    (root / "a.txt").write_text("0 .5 .5 .5 .5\n")
    (root / "classes.txt").write_text("knife\n")
    facts = Import(path=root).run(work)
    shared = "label file that several images share, as they differ in their suffix alone; taken for each"
    assert (facts["boxes"], facts["odd"][shared]) == (2, 2)  # type: ignore[index, call-overload]


def test_an_import_that_finds_no_image_at_all_names_what_it_found(tmp_path: Path, work: Work) -> None:
    (tmp_path / "set").mkdir()
    (tmp_path / "set" / "notes.md").write_text("nothing here")
    with pytest.raises(InputError, match=r"no images in it .* left alone: \.md: 1, such as notes\.md"):
        Import(path=tmp_path / "set").run(work)


@pytest.mark.parametrize(
    ("head", "kind"),
    [
        (b"\0\0\0\x20ftypavif\0\0\0\0avifmif1", "AVIF"),
        (b"\0\0\0\x1cftypmif1\0\0\0\0mif1avif", "AVIF"),
        (b"\0\0\0\x1cftypmif1\0\0\0\0mif1heic", "HEIC"),
        (b"\0\0\0\x20ftypisom\0\0\2\0isomiso2", "video"),
        (b"RIFF\0\0\0\0WAVEfmt ", ""),
        (b"\xef\xbb\xbf  <!DOCTYPE HTML>", "HTML"),
        (b"version https://git-lfs.github.com/spec/v1", "pointer of Git LFS"),
        (b"", ""),
    ],
)
def test_first_bytes_tell_what_a_file_is(head: bytes, kind: str) -> None:
    assert kind_of(head) == kind
