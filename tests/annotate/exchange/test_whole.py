"""Labels of the whole image come in and go out wherever a format can hold them; what it cannot hold is said first."""

import json
from functools import partial
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from label_files import images, named
from label_sets import SIDE, opened, silent
from noise import noise_image, tar

from tilth.annotate.exchange.exporting import export
from tilth.annotate.exchange.importing import Import
from tilth.annotate.formats.writing import FORMATS, HOLDS_BOXES, HOLDS_SCORES, HOLDS_UNASKED, HOLDS_WHOLE
from tilth.claims import Answer, Claim, State
from tilth.engine.work import Work
from tilth.errors import InputError
from tilth.policy import Policy
from tilth.samples import NewSample

NAMES = ("knife", "pill", "dice")


def fill_whole(work: Work) -> None:
    """Images with a label of the whole, with one beside a box, with none, and with one that was looked for half of the categories."""
    say = partial(Claim, source="human:ann", asked=NAMES)
    claims = [
        (say(category="knife", score=0.75),),
        (say(category="pill"), say(category="pill", box_xyxy=(1, 2, 9, 12))),
        (say(says="empty"),),
        (Claim(category="dice", source="human:ann", asked=("dice", "pill")),),
    ]
    work.add("images", [NewSample(data=noise_image(n, SIDE), origin={}, claims=c) for n, c in enumerate(claims)])


def said(work: Work) -> dict[str, list[tuple[str, bool, float]]]:
    return {
        s.id: [(str(c.category), c.box_xyxy is not None, c.score) for c in s.truth.labels]
        for s in work.dataset.samples(images=False)
    }


@pytest.mark.parametrize("format_", sorted(set(HOLDS_WHOLE) & set(HOLDS_BOXES)))
def test_labels_of_the_whole_image_come_back_from_a_round_trip(policy: Policy, tmp_path: Path, format_: str) -> None:
    with opened(tmp_path, policy) as work:
        fill_whole(work)
        facts = export(work.dataset, tmp_path / "out", format_, say=silent)
        assert (facts["images"], facts["boxes"], facts["image_labels"], facts["cannot_hold"]) == (4, 1, 3, {})
        before = {id_: sorted(labels) for id_, labels in said(work).items()}
        truths = {s.id: s.truth for s in work.dataset.samples(images=False)}
    (tmp_path / "back").mkdir()
    with opened(tmp_path / "back", policy) as back:
        told = Import(path=tmp_path / "out").run(back)
        assert (told["format"], told["failed"], told["image_labels"]) == (format_, 0, 3)
        assert {id_: sorted(labels) for id_, labels in said(back).items()} == before
        for sample in back.dataset.samples(images=False):
            assert [sample.truth.of(name) for name in NAMES] == [truths[sample.id].of(name) for name in NAMES]


@pytest.mark.parametrize("format_", sorted(set(FORMATS) - set(HOLDS_WHOLE)))
def test_a_format_that_has_no_place_for_them_says_so_before_it_writes(
    policy: Policy, tmp_path: Path, format_: str
) -> None:
    with opened(tmp_path, policy) as work:
        fill_whole(work)
        told: list[tuple[str, bool]] = []
        facts = export(
            work.dataset, tmp_path / "out", format_, say=lambda t: told.append((t, (tmp_path / "out.partial").exists()))
        )
        assert (facts["images"], facts["image_labels"]) == (2, 0)
        assert facts["left_out"] == {"labels without boxes only": 2}
        assert (f"{format_} cannot hold: labels of whole images (1); samples.jsonl has them", False) in told


def test_class_folders_go_out_and_come_back_and_say_what_they_cannot_hold(policy: Policy, tmp_path: Path) -> None:
    with opened(tmp_path, policy) as work:
        fill_whole(work)
        several = tuple(Claim(category=name, source="human:ann", asked=NAMES) for name in ("knife", "pill"))
        more = [NewSample(data=noise_image(8, SIDE), origin={}, claims=several, columns={"split": "val"})]
        more.append(NewSample(data=noise_image(9, SIDE), origin={}, columns={"split": "val"}))
        work.add("more", more)
        facts = export(work.dataset, tmp_path / "out", "classfolders", unlabelled=True, say=silent)
        assert facts["left_out"] == {"labels of several categories": 1}
        assert facts["cannot_hold"] == {
            "where the boxes are": 1,
            "scores below 1": 1,
            "that nobody looked for a category of the set": 4,
        }
        kinds = {s.id: s.state for s in work.dataset.samples(images=False)}
    found = {str(p.parent.relative_to(tmp_path / "out")) for p in (tmp_path / "out").rglob("*.png")}
    assert found == {f"unsplit/{name}" for name in (*NAMES, "confirmed_empty")} | {"val/unlabelled"}
    (tmp_path / "back").mkdir()
    with opened(tmp_path / "back", policy) as back:
        told = Import(path=tmp_path / "out").run(back)
        assert (told["format"], told["image_labels_by_category"]) == ("classfolders", dict.fromkeys(sorted(NAMES), 1))
        assert all(kinds[s.id] == s.state for s in back.dataset.samples(images=False))
    with opened(tmp_path, policy) as work, pytest.raises(InputError, match="carries the images"):
        export(work.dataset, tmp_path / "new", "classfolders", images="none", say=silent)


@pytest.mark.parametrize("name", ["test", "unlabelled", "a/b", "images"])
def test_a_category_that_no_folder_of_a_class_can_be_called_is_refused(
    policy: Policy, tmp_path: Path, name: str
) -> None:
    with opened(tmp_path, policy) as work:
        claim = Claim(category=name, source="human:ann")
        work.add("images", [NewSample(data=noise_image(1, SIDE), origin={}, claims=(claim,))])
        with pytest.raises(InputError, match=f"no folder of a class can be called {name}"):
            export(work.dataset, tmp_path / "out", "classfolders", say=silent)


def test_torchvision_reads_the_class_folders(policy: Policy, tmp_path: Path) -> None:
    read = pytest.importorskip("torchvision.datasets").ImageFolder
    with opened(tmp_path, policy) as work:
        fill_whole(work)
        export(work.dataset, tmp_path / "out", "classfolders", say=silent)
        ids = {s.id: [str(c.category) for c in s.truth.labels] for s in work.dataset.samples(images=False)}
    found = read(str(tmp_path / "out"))
    assert {Path(path).stem: found.classes[n] for path, n in found.samples} == {
        id_: (names or ["confirmed_empty"])[0] for id_, names in ids.items()
    }


@pytest.mark.filterwarnings("ignore")
def test_datasets_loads_the_parquet_with_its_labels_of_whole_images(policy: Policy, tmp_path: Path) -> None:
    datasets = pytest.importorskip("datasets")
    with opened(tmp_path, policy) as work:
        fill_whole(work)
        export(work.dataset, tmp_path / "out", "parquet", say=silent)
        expected = {i: sorted(n for n, boxed, _ in labels if not boxed) for i, labels in said(work).items()}
    rows = datasets.load_dataset("parquet", data_files=str(tmp_path / "out/*.parquet"), cache_dir=str(tmp_path / "c"))
    assert {row["sample"]: sorted(row["image_labels"]) for row in rows["train"]} == expected


def set_of_classes(root: Path) -> None:
    names = [
        f"{split}/{name}/{n}.png" for split in ("train", "val") for name in ("knife", "pill", "safe") for n in (1, 2)
    ]
    images(root, *names)


@pytest.mark.parametrize("format_", ["auto", "imagefolder", "classfolders"])
def test_folders_called_as_categories_are_classes_with_splits_above_or_below(
    work: Work, tmp_path: Path, format_: str
) -> None:
    set_of_classes(tmp_path / "set")
    facts = Import(
        path=tmp_path / "set", format=format_, split="val", categories={"safe": ""}, empty_means="confirmed_empty"
    ).run(work)  # type: ignore[arg-type]
    assert (facts["format"], facts["images"], facts["covers"]) == ("classfolders", 6, ["knife", "pill"])
    knife, safe = named(work)["val/knife/1.png"], named(work)["val/safe/2.png"]
    assert [(c.category, c.box_xyxy) for c in knife.truth.labels] == [("knife", None)]
    assert knife.truth.of("pill") is Answer.UNASKED, "one class was chosen, which says nothing of the others"
    assert (safe.state, safe.truth.of("pill"), safe.truth.of("dice")) == (
        State.CONFIRMED_EMPTY,
        Answer.ABSENT,
        Answer.UNASKED,
    )
    work.name = "apart"
    Import(path=tmp_path / "set", split="train", categories={"safe": ""}, covers=("knife", "pill")).run(work)
    assert named(work)["train/knife/1.png"].truth.of("pill") is Answer.ABSENT, (
        "the recipe says that the classes stand apart"
    )
    with pytest.raises(InputError, match="has no folder for 'test'; it has train, val"):
        Import(path=tmp_path / "set", split="test").run(work)


def test_folders_that_nobody_knows_are_plain_images_and_the_folders_are_named(work: Work, tmp_path: Path) -> None:
    images(tmp_path / "set", "cats/1.png", "dogs/2.png")
    facts = Import(path=tmp_path / "set").run(work)
    assert (facts["format"], facts["by_state"]) == ("folder", {"unlabelled": 2})
    (kind,) = facts["odd"]  # type: ignore[misc]
    assert "may be a class; map its name by `categories`" in str(kind)
    assert facts["odd_examples"][kind] == ["cats", "dogs"]  # type: ignore[index, call-overload]
    work.name = "mapped"
    facts = Import(path=tmp_path / "set", categories={"cats": "knife", "dogs": ""}).run(work)
    assert (facts["format"], facts["image_labels_by_category"]) == ("classfolders", {"knife": 1})


def test_a_file_that_may_hold_labels_and_that_no_reader_takes_is_named(work: Work, tmp_path: Path) -> None:
    images(tmp_path / "set", "a.png")
    (tmp_path / "set" / "list.csv").write_text("id;what\n1;knife\n")
    (tmp_path / "set" / "a.txt").write_text("0 .5 .5 .2 .2")
    (tmp_path / "set" / "notes.json").write_text('{"a": 1}')
    facts = Import(path=tmp_path / "set").run(work)
    named_ = {kind: sorted(names) for kind, names in facts["odd_examples"].items()}  # type: ignore[union-attr]
    assert named_ == {
        "file that may hold labels and that no reader takes": ["list.csv", "notes.json"],
        "text beside an image that may be its label or caption and that no reader takes": ["a.txt"],
    }


CLASSES = {"info": {"features": {"label": {"names": ["pill", "knife"], "_type": "ClassLabel"}}}}


def test_label_columns_of_metadata_in_every_kind_of_file_are_labels_of_the_image(work: Work, tmp_path: Path) -> None:
    for n, kind in enumerate(("jsonl", "csv", "parquet")):
        root = tmp_path / kind
        images(root, "a.png", "b.png", "c.png", side=16 + n)
        if kind == "jsonl":
            rows = [{"file_name": "a.png", "label": "knife"}, {"file_name": "b.png", "labels": ["pill", "knife"]}]
            (root / "metadata.jsonl").write_text("\n".join(map(json.dumps, [*rows, {"file_name": "c.png"}])))
        elif kind == "csv":
            (root / "metadata.csv").write_text("file_name,label\na.png,knife\nb.png,pill\nb.png,knife\nc.png,\n")
        else:
            data = pa.table({"file_name": ["a.png", "b.png", "c.png"], "label": [1, 0, None]})
            pq.write_table(
                data.replace_schema_metadata({"huggingface": json.dumps(CLASSES)}), root / "metadata.parquet"
            )
        work.name = kind
        facts = Import(path=root).run(work)
        assert (facts["format"], facts["images"]) == ("imagefolder", 3)
        found = {p: sorted(s.truth.categories) for p, s in named(work).items() if s.size_wh[0] == 16 + n}
        assert found == {"a.png": ["knife"], "b.png": ["pill"] if kind == "parquet" else ["knife", "pill"], "c.png": []}


def test_metadata_csv_has_boxes_as_hugging_face_writes_them(work: Work, tmp_path: Path) -> None:
    images(tmp_path / "set", "a.png", "b.png")
    objects = json.dumps({"bbox": [[1, 2, 3, 4]], "categories": ["pill"]}).replace('"', '""')
    (tmp_path / "set" / "metadata.csv").write_text(
        f'file_name,bbox,category,objects\na.png,"[1,2,3,4]",knife,\nb.png,,,"{objects}"\n'
    )
    facts = Import(path=tmp_path / "set").run(work)
    assert facts["label_files"] == ["metadata.csv"]
    found = {name: [(c.category, c.box_xyxy) for c in s.truth.labels] for name, s in named(work).items()}
    assert found == {"a.png": [("knife", (1, 2, 4, 6))], "b.png": [("pill", (1, 2, 4, 6))]}


def test_webdataset_classes_and_numbers_of_them_are_labels(work: Work, tmp_path: Path) -> None:
    root = tmp_path / "set"
    root.mkdir()
    parts = [
        (f"{n}.{kind}", noise_image(n) if kind == "png" else f"{n % 2}\n".encode())
        for n in range(3)
        for kind in ("png", "cls")
    ]
    tar(root / "x.tar", *parts, ("2.txt", b"a caption"))
    facts = Import(path=root, categories={"0": "knife", "1": ""}, empty_means="confirmed_empty").run(work)
    assert (facts["image_labels_by_category"], facts["by_state"]) == (
        {"knife": 2},
        {"reviewed": 2, "confirmed_empty": 1},
    )
    assert facts["odd_examples"] == {".txt part of an archive, which is not read": ["x.tar/2.txt"]}


def test_a_table_of_tensorflow_is_read_by_its_own_names(work: Work, tmp_path: Path) -> None:
    images(tmp_path / "set", "a.png")
    (tmp_path / "set" / "_annotations.csv").write_text(
        "filename,width,height,class,xmin,ymin,xmax,ymax\na.png,16,16,knife,1,2,9,12\n"
    )
    Import(path=tmp_path / "set").run(work)
    np.testing.assert_array_equal([c.box_xyxy for c in named(work)["a.png"].truth.labels], [(1, 2, 9, 12)])


def test_the_tables_of_what_formats_hold_agree() -> None:
    assert set(HOLDS_SCORES) == set(HOLDS_UNASKED) == set(FORMATS) - {"yolo", "voc", "classfolders"}


def test_a_table_with_a_column_a_category_says_present_absent_or_nobody_looked(work: Work, tmp_path: Path) -> None:
    images(tmp_path / "set", "a.png", "b.png", "c.png")
    text = "filename, knife, pill, unicorn, split\na.png, 1, 0, 0, train\nb.png, 0, , 0, val\nc.png, 0, 0, 1, val\n"
    (tmp_path / "set" / "_classes.csv").write_text(text)
    facts = Import(path=tmp_path / "set", empty_means="confirmed_empty").run(work)
    assert (facts["format"], facts["covers"]) == ("csv", ["knife", "pill"])
    a, b, c = (named(work)[f"{name}.png"].truth for name in "abc")
    known = [[str(truth.of(name)) for name in NAMES] for truth in (a, b, c)]
    assert known[0] == ["present", "absent", "nobody looked"]
    assert known[1] == ["absent", "nobody looked", "nobody looked"]
    assert (known[2], c.state) == (["nobody looked"] * 3, State.UNLABELLED), (
        "a unicorn may be one of ours under another name"
    )
