"""A corpus is read in one order, never left, and never trusted."""

import importlib
import json
import os
import subprocess
import sys
import tarfile
from pathlib import Path

import fsspec
import lance
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from noise import noise_image, tar
from places import POLICY
from refusals import refusal

from tilth.errors import InputError
from tilth.mining.corpora.corpus import Corpus, FolderCorpus
from tilth.mining.corpora.opening import TarCorpus, open_corpus
from tilth.mining.corpora.places import StorePlace
from tilth.mining.corpora.tables import ParquetCorpus


def keys(folder: Path) -> list[str]:
    return [item.key for item in FolderCorpus(folder).items()]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    for name in ("b/2.png", "b/1.PNG", "a.jpg", "d.json", ".hidden.png", ".git/x.png"):
        path = tmp_path / "corpus" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(noise_image(len(name)))
    return tmp_path / "corpus"


def test_images_come_by_path_and_hidden_files_stay_hidden(folder: Path) -> None:
    assert keys(folder) == ["a.jpg", "b/1.PNG", "b/2.png"]


def test_links_out_of_the_folder_and_rings_of_folders_are_not_followed(tmp_path: Path, folder: Path) -> None:
    outside = tmp_path / "secret.png"
    outside.write_bytes(noise_image(1))
    (folder / "leads_out.png").symlink_to(outside)
    (folder / "up").symlink_to(tmp_path)
    (folder / "ring").symlink_to(folder)
    (folder / "dangling.png").symlink_to(folder / "nothing.png")
    (folder / "z_inside.png").symlink_to(folder / "a.jpg")
    assert keys(folder) == ["a.jpg", "b/1.PNG", "b/2.png", "z_inside.png"]


@pytest.mark.parametrize("key", ["../secret.png", "/etc/hostname", "b/../../secret.png", "gone.png"])
def test_a_key_cannot_reach_outside(tmp_path: Path, folder: Path, key: str) -> None:
    (tmp_path / "secret.png").write_bytes(noise_image(1))
    with pytest.raises(InputError, match="no such file in the corpus"):
        FolderCorpus(folder).read(key)


def test_a_changed_file_has_another_stamp(folder: Path) -> None:
    corpus = FolderCorpus(folder)
    before = corpus.stamp("a.jpg")
    (folder / "a.jpg").write_bytes(noise_image(99, side=17))
    assert corpus.stamp("a.jpg") != before
    (folder / "a.jpg").unlink()
    assert corpus.stamp("a.jpg") == ""


def test_an_absent_folder_is_named(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="nowhere: no such folder"):
        FolderCorpus(tmp_path / "nowhere")


def pictures(n: int) -> list[bytes]:
    return [noise_image(200 + i) for i in range(n)]


def contents(corpus: Corpus) -> list[bytes]:
    return [corpus.read(item.key) for item in corpus.items()]


def test_archives_are_read_where_they_lie(tmp_path: Path) -> None:
    a, b, c = pictures(3)
    about = json.dumps({"license": "CC0-1.0", "url": "https://example.org/a"}).encode()
    tar(tmp_path / "set" / "0.tar", *[("a.json", about), ("a.png", a), ("a.txt", b"x"), ("deep/b.png", b)])
    tar(tmp_path / "set" / "1.tar", *[("c.png", c), ("d.txt", b"y")])
    corpus = open_corpus(str(tmp_path / "set"))
    assert isinstance(corpus, TarCorpus)
    items = list(corpus.items())
    assert contents(corpus) == [a, b, c]
    assert [corpus.about(item.key) for item in items] == [
        {"licence": "CC0-1.0", "url": "https://example.org/a"},
        {},
        {},
    ]
    assert all(corpus.stamp(item.key) == item.stamp != "" for item in items)
    assert contents(open_corpus(str(tmp_path / "set" / "1.tar"))) == [c]
    for key in ("0.tar/a.png@0:1", "nothing", "../x.tar/a.png@0:0:5", "9.tar/a.png@0:0:5"):
        with pytest.raises(InputError, match="no such"):
            corpus.read(key)


def test_links_in_archives_are_passed_over_and_damage_is_one_item(tmp_path: Path) -> None:
    a, b = pictures(2)
    path = tar(tmp_path / "0.tar", *[("a.png", a), ("b.png", b)])
    with tarfile.open(path, "a") as archive:
        link = tarfile.TarInfo("leak.png")
        link.type, link.linkname = tarfile.SYMTYPE, "/etc/hostname"
        archive.addfile(link)
    corpus = TarCorpus(str(path))
    assert [item.key.partition("@")[0] for item in corpus.items()] == ["0.tar/a.png", "0.tar/b.png"]
    whole = path.read_bytes()
    place = whole.index(b[:50])
    path.write_bytes(whole[: place + 100])
    keys_ = [item.key for item in corpus.items()]
    assert corpus.read(keys_[0]) == a
    errors = []
    for key in keys_[1:]:
        with pytest.raises(InputError) as error:
            corpus.read(key)
        errors.append(str(error.value))
    assert any("ends before the image does" in text for text in errors)
    path.write_bytes(b"not an archive at all" * 100)
    [broken] = corpus.items()
    with pytest.raises(InputError, match="broken archive"):
        corpus.read(broken.key)


def test_rows_of_parquet_and_lance_are_images(tmp_path: Path) -> None:
    data = pictures(5)
    table = pa.table({"id": range(5), "image": data, "license": ["CC0-1.0", None, "MIT", "", "CC-BY-4.0"]})
    (tmp_path / "rows").mkdir()
    pq.write_table(table.slice(0, 3), tmp_path / "rows" / "a.parquet", row_group_size=2)
    pq.write_table(table.slice(3), tmp_path / "rows" / "b.parquet")
    lance.write_dataset(table, str(tmp_path / "rows.lance"))
    for corpus in (open_corpus(str(tmp_path / "rows")), open_corpus(str(tmp_path / "rows.lance"))):
        assert contents(corpus) == data
        licences = [corpus.about(item.key).get("licence") for item in corpus.items()]
        assert licences == ["CC0-1.0", None, "MIT", None, "CC-BY-4.0"]
        assert all(corpus.stamp(item.key) == item.stamp != "" for item in corpus.items())
        for key in ("a.parquet/9:0", "a.parquet/0:9", "77", "x"):
            with pytest.raises(InputError):
                corpus.read(key)


def test_rows_of_a_saved_hugging_face_data_set_are_images(tmp_path: Path) -> None:
    data = pictures(5)
    images = pa.array(
        [{"bytes": one, "path": None} for one in data], pa.struct([("bytes", pa.binary()), ("path", pa.string())])
    )
    table = pa.table({"image": images, "label": range(5), "license": ["MIT"] * 5})
    folder = tmp_path / "saved"
    folder.mkdir()
    (folder / "state.json").write_text("{}")
    for number, part in enumerate((table.slice(0, 3), table.slice(3))):
        path = folder / f"data-{number:05d}-of-00002.arrow"
        with pa.OSFile(str(path), "wb") as sink, pa.ipc.new_stream(sink, table.schema) as writer:
            writer.write_table(part, max_chunksize=2)
    corpus = open_corpus(str(folder))
    assert contents(corpus) == data
    first = next(iter(corpus.items()))
    assert (first.key, corpus.stamp(first.key), corpus.about(first.key)) == (
        "data-00000-of-00002.arrow/0",
        first.stamp,
        {"licence": "MIT"},
    )
    for key in ("data-00000-of-00002.arrow/9", "data-00000-of-00002.arrow/x", "other.arrow/0", "x"):
        with pytest.raises(InputError):
            corpus.read(key)
    (folder / "data-00000-of-00002.arrow").write_bytes(b"cut short")
    half = open_corpus(str(folder))
    broken, *others = half.items()
    assert [half.read(item.key) for item in others] == data[3:]
    with pytest.raises(InputError, match="not a readable Arrow stream"):
        half.read(broken.key)
    (folder / "data-00001-of-00002.arrow").write_bytes(b"cut short")
    with pytest.raises(InputError, match="not a readable Arrow stream"):
        open_corpus(str(folder))


def test_a_table_may_name_files_or_hold_both_but_must_hold_images(tmp_path: Path, folder: Path) -> None:
    pq.write_table(pa.table({"path": ["a.jpg", "b/2.png", "../secret.png", None]}), folder / "paths.parquet")
    corpus = ParquetCorpus(str(folder / "paths.parquet"))
    named = [item.key for item in corpus.items()]
    assert [corpus.read(key) for key in named[:2]] == [
        (folder / "a.jpg").read_bytes(),
        (folder / "b/2.png").read_bytes(),
    ]
    for key, words in zip(named[2:], ("no such file in the corpus", "holds no image"), strict=True):
        with pytest.raises(InputError, match=words):
            corpus.read(key)
    both = pa.array(
        [{"bytes": pictures(1)[0], "path": None}], pa.struct([("bytes", pa.binary()), ("path", pa.string())])
    )
    pq.write_table(pa.table({"image": both}), tmp_path / "both.parquet")
    assert contents(ParquetCorpus(str(tmp_path / "both.parquet"))) == pictures(1)
    pq.write_table(pa.table({"id": [1], "caption": ["a cup"]}), tmp_path / "none.parquet")
    with pytest.raises(InputError, match=r"no column of images .* it has id, caption"):
        ParquetCorpus(str(tmp_path / "none.parquet"))
    (tmp_path / "broken.parquet").write_bytes(b"PAR1 and then nothing")
    with pytest.raises(InputError, match="not a readable Parquet file"):
        ParquetCorpus(str(tmp_path / "broken.parquet"))


def test_an_object_store_is_a_corpus(tmp_path: Path) -> None:
    import fsspec

    files = fsspec.filesystem("memory")
    data = pictures(3)
    for name, each in zip(("b/2.png", "a.png", "b/1.png"), data, strict=True):
        files.pipe_file(f"/bucket/images/{name}", each)
    files.pipe_file("/bucket/images/notes.txt", b"x")
    corpus = open_corpus("memory://bucket/images")
    assert [item.key for item in corpus.items()] == ["a.png", "b/1.png", "b/2.png"]
    assert contents(corpus) == [data[1], data[2], data[0]]
    assert corpus.about("a.png") == {"url": "memory://bucket/images/a.png"}
    assert corpus.stamp("gone.png") == ""
    with pytest.raises(InputError, match="no such file"):
        corpus.read("gone.png")
    with pytest.raises(InputError, match="nothing there"):
        list(open_corpus("memory://elsewhere/x").items())
    with pytest.raises(InputError, match="known are s3://"):
        open_corpus("nonsense://x")


def test_a_store_whose_library_is_missing_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    known = importlib.import_module("fsspec.registry")._registry  # what was imported before
    for scheme, library, cure in (("s3", "s3fs", "'tilth[s3]'"), ("gs", "gcsfs", "gcsfs")):
        monkeypatch.delitem(known, scheme, raising=False)
        monkeypatch.setitem(sys.modules, library, None)
        with pytest.raises(InputError) as error:
            open_corpus(f"{scheme}://bucket/images")
        assert str(error.value) == f"{scheme}://bucket/images: {library} is not installed; run: pip install {cure}"


def test_a_store_that_does_not_answer_is_one_line_and_to_be_tried_again(tmp_path: Path) -> None:
    # the client of the hub raises errors of its own, which are no OSError
    dead = {**os.environ, "HF_ENDPOINT": "http://127.0.0.1:9", "HF_HUB_OFFLINE": "0", "HF_HOME": str(tmp_path)}
    policy = POLICY
    command = [sys.executable, "-m", "tilth.pipeline.cli.main", "mine", str(tmp_path / "set"), "--policy", str(policy)]
    done = subprocess.run(
        [*command, "--set", "corpus=hf://datasets/owner/name"], capture_output=True, text=True, env=dead, check=False
    )
    assert done.returncode == 75, done.stderr
    assert refusal(done).startswith("hf://datasets/owner/name: ")
    assert refusal(done).endswith("check credentials and network, then run again")


def test_what_lies_at_a_place_decides_how_it_is_read(tmp_path: Path, folder: Path) -> None:
    assert isinstance(open_corpus(str(folder)), FolderCorpus)
    with pytest.raises(InputError, match="no such folder"):
        open_corpus(str(tmp_path / "nowhere"))
    with pytest.raises(InputError, match="not a corpus"):
        open_corpus(str(folder / "d.json"))
    with pytest.raises(InputError, match="not a readable Lance table"):
        open_corpus(str(tmp_path / "absent.lance"))


@pytest.mark.parametrize("others", [0, 1])
def test_objects_without_a_suffix_are_known_by_their_first_bytes_and_few_are_asked(
    monkeypatch: pytest.MonkeyPatch, others: int
) -> None:
    store = fsspec.filesystem("memory")
    names = [f"{n:03d}" for n in range(60)]
    for name in names:
        store.pipe_file(f"/bare{others}/{name}", noise_image(int(name)) if name != "007" or not others else b"text")
    store.pipe_file(f"/bare{others}/a.txt", b"text")
    corpus = open_corpus(f"memory://bare{others}")
    asked: list[str] = []
    really = StorePlace.range
    monkeypatch.setattr(StorePlace, "range", lambda self, *about: [asked.append(about[0]), really(self, *about)][1])
    assert [item.key for item in corpus.items()] == [name for name in names if name != "007" or not others]
    assert len(asked) == (60 if others else 50)
    assert corpus.left_alone.counts == {".txt": 1, **({"no suffix": 1} if others else {})}


def test_walking_a_long_archive_takes_no_more_memory(tmp_path: Path) -> None:
    import tracemalloc

    path = tar(tmp_path / "long.tar", *[(f"{i:06d}.png", b"x" * 10) for i in range(6000)])
    corpus = TarCorpus(str(path))

    def peak(n: int) -> int:
        tracemalloc.start()
        for _ in zip(range(n), corpus.items(), strict=False):
            pass
        found = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        return found

    peak(100)
    assert peak(6000) < peak(1000) + 200_000
