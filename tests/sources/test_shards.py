"""Members of an archive are put together by WebDataset's own rule, in mining as in import."""

import json
import tarfile
from pathlib import Path

import pytest
import webdataset
from label_files import boxes, row
from noise import noise_image, tar

from tilth.annotate.exchange.importing import Import
from tilth.engine.work import Work
from tilth.mining.corpora.opening import TarCorpus
from tilth.sources.shards import key_of

PARTS = ["png", "json"]


def about(name: str) -> bytes:
    objects = {"bbox": [[1, 2, 3, 4]], "categories": ["knife"]}
    return json.dumps({"license": f"of {name}", "url": f"https://example.org/{name}", "objects": objects}).encode()


def pairs(*names: str) -> list[tuple[str, bytes]]:
    content = {"png": noise_image, "json": lambda n: about(names[n])}
    return [(f"{name}.{part}", content[part](n)) for n, name in enumerate(names) for part in PARTS]


APART = pairs("a", "b", "c")
APART = [member for part in PARTS for member in APART if member[0].endswith(part)]
SHAPES = {
    "plain": (pairs("a", "b", "c"), ["a", "b", "c"]),
    "folders with dots": (pairs("train.v1/0", "train.v1/1", "train.v2/0"), ["train.v1/0", "train.v1/1", "train.v2/0"]),
    "from here": ([(f"./{name}", data) for name, data in pairs("x/a", "x/b", "c")], ["x/a", "x/b", "c"]),
    "from here, half": ([(f"./{n}" if n.endswith("png") else n, d) for n, d in pairs("a", "b", "c")], ["a", "b", "c"]),
    "labels first": ([m for n in range(0, 6, 2) for m in reversed(pairs("a", "b", "c")[n : n + 2])], ["a", "b", "c"]),
    "all images before all labels": (APART, ["a", "b", "c"]),
    "of a Mac": (
        [m for name, data in pairs("d/a", "d/b", "c") for m in ((f"d/._{name[-5:]}", b"x"), (name, data))],
        ["d/a", "d/b", "c"],
    ),
    "in capitals": ([(n.replace(".png", ".PNG"), d) for n, d in pairs("a", "b", "c")], ["a", "b", "c"]),
}


@pytest.mark.parametrize("shape", SHAPES)
def test_each_image_has_its_own_labels_licence_and_address(work: Work, tmp_path: Path, shape: str) -> None:
    members, keys = SHAPES[shape]
    path = tar(tmp_path / "set" / "0.tar", *members)
    corpus = TarCorpus(str(path))
    found = [corpus.about(item.key) for item in corpus.items()]
    names = [name.partition(" ")[2] for name in (about_["licence"] for about_ in found)]
    assert [name.removeprefix("./") for name in names] == keys
    assert [about_["url"].rpartition("/")[2] for about_ in found] == [key.rpartition("/")[2] for key in keys]
    facts = Import(path=path).run(work)
    assert facts["failed"] == 0
    assert {name.removeprefix("0.tar/").rpartition(".")[0]: found for name, found in boxes(work).items()} == {
        key: [("knife", (1.0, 2.0, 4.0, 6.0))] for key in keys
    }
    if shape == "of a Mac":
        assert corpus.left_alone.counts == {"macOS's own (._) file": 6}
        assert facts["odd"]["macOS's own (._) file"] == 6  # type: ignore[index, call-overload]


@pytest.mark.parametrize("name", ["a.png", "a.b/c.seg.png", "a.b.c/d.PNG", "x/y.tar/z.json"])
def test_keys_are_those_of_the_library(name: str) -> None:
    key, part = webdataset.tariterators.base_plus_ext(name)
    assert key_of(name) == (key, f".{part.lower()}")


def test_parts_that_nobody_reads_are_named_and_a_mask_is_no_image_of_its_own(work: Work, tmp_path: Path) -> None:
    members = [*pairs("a"), ("a.seg.png", noise_image(7)), ("a.txt", b"hello"), ("b.json", b"{}"), ("c.npy", b"1")]
    path = tar(tmp_path / "0.tar", *members, ("without", noise_image(8)))
    corpus = TarCorpus(str(path))
    assert [item.key.partition("@")[0] for item in corpus.items()] == ["0.tar/a.png", "0.tar/without"]
    facts = Import(path=path).run(work)
    parts = {f"{part} part of an archive, which is not read": 1 for part in (".seg.png", ".txt", ".npy")}
    assert corpus.left_alone.counts == parts | {".json part of an archive, which is not read": 1}
    assert parts.items() <= facts["odd"].items()  # type: ignore[union-attr]
    assert (facts["images"], facts["failed"]) == (2, 2)


def test_photos_named_by_date_are_images_each(work: Work, tmp_path: Path) -> None:
    members = [(f"IMG.2020.0{n}.png", noise_image(n)) for n in range(3)]
    path = tar(tmp_path / "0.tar", *members, ("IMG.json", row("", [1, 2, 3, 4]).encode()))
    assert len(list(TarCorpus(str(path)).items())) == 3
    facts = Import(path=path).run(work)
    assert (facts["images"], facts["failed"]) == (3, 0)
    assert facts["odd"] == {"labels of several images of one key in an archive, left alone": 1}


def test_a_name_that_is_not_unicode_and_an_archive_of_a_mac_cost_nothing_else(work: Work, tmp_path: Path) -> None:
    path = tmp_path / "set" / "0.tar"
    tar(path, ("caf\udce9.png", noise_image(1)), *pairs("a"))
    (path.parent / "._0.tar").write_bytes(b"x" * 163)
    corpus = TarCorpus(str(path.parent))
    assert [item.key.partition("@")[0] for item in corpus.items()] == ["0.tar/a.png"]
    assert corpus.left_alone.counts == {"macOS's own (._) file": 1, "name that is not Unicode": 1}
    facts = Import(path=path.parent).run(work)
    assert (facts["images"], facts["failed"]) == (1, 0)
    assert "macOS's own (._) file" in facts["left_alone"]  # type: ignore[operator]


def test_of_a_damaged_archive_all_is_found_but_what_the_damage_hit(work: Work, tmp_path: Path) -> None:
    path = tar(tmp_path / "0.tar", *pairs("a", "b", "c"))
    with tarfile.open(path) as archive:
        second = archive.getmember("b.png").offset
    data = bytearray(path.read_bytes())
    data[second : second + 512] = b"\xff" * 512
    path.write_bytes(data)
    assert [item.key.partition("@")[0] for item in TarCorpus(str(path)).items()] == [
        "0.tar/a.png",
        "0.tar/c.png",
        "0.tar/",
    ]
    facts = Import(path=path).run(work)
    assert (facts["images"], facts["failed"]) == (2, 2)
    assert [*boxes(work)] == ["0.tar/a.png", "0.tar/c.png"]


def test_archives_that_were_joined_are_read_to_the_last_one(tmp_path: Path) -> None:
    first, second = (tar(tmp_path / f"{n}.tar", *pairs(name)) for n, name in enumerate("ab"))
    first.write_bytes(first.read_bytes() + second.read_bytes())
    assert [item.key.partition("@")[0] for item in TarCorpus(str(first)).items()] == ["0.tar/a.png", "0.tar/b.png"]
