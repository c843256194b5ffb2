"""Sets as they come, whose form alone could cost labels: what they say is taken, and what they do not say makes no image empty."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from label_files import cvat, images, named

from tilth.annotate.exchange.importing import Import
from tilth.engine.work import Work
from tilth.errors import InputError
from tilth.pipeline.cli.settings import make_step, read_settings

SIDE = 64
BOX = [8, 8, 16, 24]
PLACE = (8, 8, 24, 32)
KNIFE: list[dict[str, Any]] = [{"id": 1, "name": "knife"}]


def write_coco(path: Path, **lists: Any) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    listed = [{"id": n, "file_name": f"{name}.png"} for n, name in enumerate("ab", 1)]
    path.write_text(json.dumps({"images": listed, "categories": KNIFE, **lists}))


def state(work: Work, root: Path) -> dict[str, tuple[str, list[Any]]]:
    Import(path=root, empty_means="confirmed_empty").run(work)
    return {name: (s.state, [c.box_xyxy for c in s.truth.labels]) for name, s in named(work).items()}


@pytest.mark.parametrize(
    ("label", "a", "b"),
    [
        ({"image_id": "a.png"}, ("reviewed", [PLACE]), ("confirmed_empty", [])),
        ({"file_name": "sets\\a.png"}, ("reviewed", [PLACE]), ("confirmed_empty", [])),
        ({"image_id": "1.0"}, ("reviewed", [PLACE]), ("confirmed_empty", [])),
        ({"image_id": "who"}, ("unlabelled", []), ("unlabelled", [])),  # it may be of any
        ({}, ("unlabelled", []), ("unlabelled", [])),
        ({"image_id": 77}, ("confirmed_empty", []), ("confirmed_empty", [])),  # of another part of the set
    ],
)
def test_a_label_of_coco_finds_its_image_by_name_or_leaves_all_unsure(
    work: Work, tmp_path: Path, label: dict[str, Any], a: Any, b: Any
) -> None:
    images(tmp_path / "set", "a.png", "b.png", side=SIDE)
    write_coco(tmp_path / "set" / "l.json", annotations=[{"category_id": 1, "bbox": BOX, **label}])
    assert state(work, tmp_path / "set") == {"a.png": a, "b.png": b}


def test_a_coco_file_without_annotations_confirms_nothing(work: Work, tmp_path: Path) -> None:
    images(tmp_path / "set", "a.png", "b.png", side=SIDE)
    write_coco(tmp_path / "set" / "image_info.json")
    assert state(work, tmp_path / "set") == {"a.png": ("unlabelled", []), "b.png": ("unlabelled", [])}


@pytest.mark.parametrize(
    "lists",
    [
        {},
        {"categories": []},
        {"categories": [{"id": 1}, {"id": 2}]},
        {"categories": [{"id": 1, "name": ""}, {"id": 2, "name": None}]},
        {"categories": [{"id": "1", "name": " "}, {"id": "2"}]},
    ],
)
@pytest.mark.parametrize("typed", ["{1: knife, 2: ''}", "1:knife,2:"])
def test_categories_without_names_are_mapped_by_their_ids(
    work: Work, tmp_path: Path, lists: dict[str, Any], typed: str
) -> None:
    images(tmp_path / "set", "a.png", "b.png", side=SIDE)
    labels = [{"image_id": n, "category_id": n, "bbox": BOX} for n in (1, 2)]
    document = {"images": [{"id": n, "file_name": f"{name}.png"} for n, name in enumerate("ab", 1)], **lists}
    (tmp_path / "set" / "l.json").write_text(json.dumps({**document, "annotations": labels}))
    with pytest.raises(InputError, match=r"they are 1 \(1\), 2 \(1\)\..*--set 'categories=\{1: \"\", 2: \"\"\}'"):
        Import(path=tmp_path / "set").run(work)
    settings = read_settings([f"path={tmp_path / 'set'}", f"categories={typed}"])
    facts = make_step(Import, "import", settings).run(work)
    assert facts["labels"] == {"read": 2, "taken": 1, "ignored": 1, "left_out": 0}
    assert named(work)["a.png"].truth.categories == {"knife"}
    assert facts["covers"] == (["knife"] if any(lists.values()) else list(work.policy.names))


def test_an_id_is_no_name_where_a_category_is_called_so(work: Work, tmp_path: Path) -> None:
    images(tmp_path / "set", "a.png", side=SIDE)
    labels = [{"image_id": 1, "category_id": n, "bbox": BOX} for n in (1, 2)]
    write_coco(tmp_path / "set" / "l.json", categories=[{"id": 1, "name": "2"}], annotations=labels)
    facts = Import(path=tmp_path / "set", categories={2: "knife"}).run(work)
    assert facts["labels"] == {"read": 2, "taken": 1, "ignored": 0, "left_out": 1}


ADDRESS = "https://images.example.org/set"


@pytest.mark.parametrize(
    ("image", "file"),
    [
        ({"coco_url": f"{ADDRESS}/a.png"}, "pics/a.png"),  # as LVIS has it
        ({"file_name": f"{ADDRESS}/a%20b.png?size=9#top"}, "pics/a b.png"),
        ({"file_name": "", "coco_url": None, "flickr_url": f"{ADDRESS}/a.png"}, "pics/a.png"),
        ({"file_name": f"s3://bucket/{'x/' * 40}val/c.png"}, "val/c.png"),
        ({"file_name": f"{ADDRESS}/c.png"}, ""),  # of two folders
        ({"file_name": f"{ADDRESS}/../../a.png"}, "pics/a.png"),
        ({"file_name": f"{ADDRESS}/gone.png"}, ""),
        ({"file_name": "https://"}, ""),
    ],
)
def test_an_address_in_place_of_a_path_finds_the_only_image_that_it_can_mean(
    work: Work, tmp_path: Path, image: dict[str, Any], file: str
) -> None:
    images(tmp_path / "set", "here.png", "pics/a.png", "pics/a b.png", "train/c.png", "val/c.png", side=SIDE)
    listed = [{"id": 1, "file_name": "here.png"}, {"id": 2, **image}]
    write_coco(tmp_path / "set" / "l.json", images=listed, annotations=[{"image_id": 2, "category_id": 1, "bbox": BOX}])
    facts = Import(path=tmp_path / "set").run(work)
    assert set(named(work)) == {"here.png", file} - {""}
    assert (facts["failed"], facts["labels"]["left_out"]) == ((0, 0) if file else (1, 1))  # type: ignore[index, call-overload]
    kind = "address in place of a path, image taken by the end of it"
    assert facts["odd"].get(kind, 0) == bool(file)  # type: ignore[union-attr]
    assert file or next(iter(image.values())) in facts["failed_examples"][0]  # type: ignore[index, operator]


def test_labels_inside_the_list_of_images_are_taken(work: Work, tmp_path: Path) -> None:
    images(tmp_path / "set", "a.png", side=SIDE)
    inner = [{"id": 1, "file_name": "a.png", "annotations": [{"category_id": 1, "bbox": BOX}]}]
    write_coco(tmp_path / "set" / "l.json", images=inner, annotations=[])
    assert state(work, tmp_path / "set") == {"a.png": ("reviewed", [PLACE])}


def test_a_coco_file_in_each_folder_of_a_split_is_read(work: Work, tmp_path: Path) -> None:
    images(tmp_path / "set", "train/a.png", "valid/b.png", side=SIDE)
    for part, name in (("train", "a.png"), ("valid", "b.png")):
        listed = [{"id": 1, "file_name": name}]
        labels = [{"image_id": 1, "category_id": 1, "bbox": BOX}]
        write_coco(tmp_path / "set" / part / "_annotations.coco.json", images=listed, annotations=labels)
    facts = Import(path=tmp_path / "set").run(work)
    assert (facts["boxes"], facts["left_alone"]) == (2, {})
    assert set(named(work)) == {"train/a.png", "valid/b.png"}
    assert facts["label_files"] == ["train/_annotations.coco.json", "valid/_annotations.coco.json"]


def elsewhere(root: Path) -> None:
    images(root / "images", "a.png", side=SIDE)
    (root / "labels").mkdir()
    (root / "labels" / "a.txt").write_text("0 .25 .3125 .25 .375")
    (root / "data.yaml").write_text("train: /home/ann/set/images\nnames: [knife]\n")


def names_in_labels(root: Path) -> None:
    elsewhere(root)
    (root / "data.yaml").unlink()
    (root / "labels" / "classes.txt").write_text("knife\n")


def namespace(root: Path) -> None:
    images(root, "a.png", side=SIDE)
    corners = "<xmin>9</xmin><ymin>9</ymin><xmax>24</xmax><ymax>32</ymax>"
    thing = f"<object><name>knife</name><bndbox>{corners}</bndbox></object>"
    head = '\n<?xml version="1.0" encoding="utf-16"?>'  # as .NET declares it
    (root / "a.xml").write_text(f'{head}<annotation xmlns="urn:voc"><filename>a.png</filename>{thing}</annotation>')


def flat(row: dict[str, Any]) -> Callable[[Path], None]:
    def write(root: Path) -> None:
        images(root, "a.png", side=SIDE)
        (root / "metadata.jsonl").write_text(json.dumps({"file_name": "a.png", **row}))

    return write


@pytest.mark.parametrize(
    "write",
    [elsewhere, names_in_labels, namespace, flat({"bbox": [BOX], "category": ["knife"]}), flat({"bbox": BOX, "label": "knife"})],
)  # fmt: skip
def test_a_form_that_tools_write_costs_no_label(work: Work, tmp_path: Path, write: Callable[[Path], None]) -> None:
    (tmp_path / "set").mkdir()
    write(tmp_path / "set")
    ((_, boxes),) = state(work, tmp_path / "set").values()
    assert [tuple(map(round, box)) for box in boxes] == [PLACE]


@pytest.mark.parametrize("given", ["", "all.xml"], ids=["a folder", "the file"])
def test_annotations_of_voc_in_one_file_are_no_cvat_and_name_their_images(
    work: Work, tmp_path: Path, given: str
) -> None:
    root = tmp_path / "set"
    images(root, "pics/a.png", "pics/b.png", "all.png", side=SIDE)
    corners = "<xmin>9</xmin><ymin>9</ymin><xmax>24</xmax><ymax>32</ymax>"
    thing = f"<object><name>knife</name><bndbox>{corners}</bndbox></object>"
    told = [("b.png", thing), ("a.png", ""), ("gone.png", thing), ("", thing)]
    inner = "".join(f"<annotation><filename>{name}</filename>{things}</annotation>" for name, things in told)
    (root / "all.xml").write_text(f"<?xml version='1.0'?>\n<!-- annotation -->\n<annotations>{inner}</annotations>")
    facts = Import(path=root / given, empty_means="confirmed_empty").run(work)
    assert (facts["format"], facts["failed"], facts["left_out"]["of an image that could not be taken"]["labels"]) == (
        "voc",
        2,
        2,
    )  # type: ignore[index, call-overload]
    found = {name: (s.state, [c.box_xyxy for c in s.truth.labels]) for name, s in named(work).items()}
    assert found.pop("all.png", ("unlabelled", [])) == ("unlabelled", [])  # of another name than any that it names
    assert found == {"pics/a.png": ("confirmed_empty", []), "pics/b.png": ("reviewed", [PLACE])}


def test_a_division_chooses_among_annotations_in_one_file(work: Work, tmp_path: Path) -> None:
    root = tmp_path / "set"
    images(root, "a.png", "b.png", side=SIDE)
    inner = "".join(f"<annotation><filename>{name}.png</filename></annotation>" for name in "ab")
    (root / "all.xml").write_text(f"<annotations>{inner}</annotations>")
    (root / "ImageSets" / "Main").mkdir(parents=True)
    (root / "ImageSets" / "Main" / "val.txt").write_text("b\n")
    Import(path=root, split="val", empty_means="confirmed_empty").run(work)
    assert {name: s.state for name, s in named(work).items()} == {"b.png": "confirmed_empty"}


@pytest.mark.parametrize(
    ("file", "text"),
    [
        ("metadata.csv", "file_name,label\na.png,\nb.png,knife\n"),
        (
            "metadata.csv",
            'file_name,objects\na.png,\nb.png,"{""bbox"": [[8, 8, 16, 24]], ""categories"": [""knife""]}"\n',
        ),
        ("metadata.jsonl", '{"file_name": "a.png", "label": ""}\n{"file_name": "b.png", "label": "knife"}\n'),
    ],
)
def test_a_blank_where_a_word_for_the_image_stands_makes_it_not_empty(
    work: Work, tmp_path: Path, file: str, text: str
) -> None:
    images(tmp_path / "set", "a.png", "b.png", side=SIDE)
    (tmp_path / "set" / file).write_text(text)
    facts = Import(path=tmp_path / "set", empty_means="confirmed_empty").run(work)
    assert (facts["by_state"], facts["left_alone"]) == ({"unlabelled": 1, "reviewed": 1}, {})


@pytest.mark.parametrize(
    ("file", "text"),
    [
        ("labels.csv", "filename;class;xmin;ymin;xmax;ymax\na.png;knife;8,0;8,0;24;32\n"),
        ("labels.csv", "sep=;\nfilename;class;xmin;ymin;xmax;ymax\na.png;knife;8;8;24;32\n"),
        ("labels.csv", '\ufefffilename|"class, or none"|class|xmin|ymin|xmax|ymax\na.png|x|knife|8|8|24|32\n'),
        ("labels.tsv", "filename\tclass\txmin\tymin\txmax\tymax\na.png\tknife\t8\t8\t24\t32\n"),
        ("LABELS.TSV", "file_name\tlabel\tbbox\na.png\tknife\t[8, 8, 16, 24]\n"),
        ("metadata.csv", "file_name;label;bbox\na.png;knife;8 8 16 24\n"),
    ],
)
def test_columns_of_a_table_may_be_parted_by_other_signs(work: Work, tmp_path: Path, file: str, text: str) -> None:
    images(tmp_path / "set", "a.png", side=SIDE)
    (tmp_path / "set" / file).write_text(text)
    assert state(work, tmp_path / "set") == {"a.png": ("reviewed", [PLACE])}


def test_columns_of_categories_may_be_parted_by_semicolons(work: Work, tmp_path: Path) -> None:
    images(tmp_path / "set", "a.png", "b.png", side=SIDE)
    (tmp_path / "set" / "_classes.csv").write_text("filename;knife;bottle\na.png;1;0\nb.png;0;0\n")
    facts = Import(path=tmp_path / "set", empty_means="confirmed_empty").run(work)
    assert (facts["by_state"], facts["covers"]) == ({"reviewed": 1, "confirmed_empty": 1}, ["knife", "bottle"])


def test_a_list_of_names_beside_folders_of_classes_makes_them_no_yolo(work: Work, tmp_path: Path) -> None:
    images(tmp_path / "set", "knife/a.png", side=SIDE)
    (tmp_path / "set" / "classes.txt").write_text("knife\n")
    assert Import(path=tmp_path / "set").run(work)["image_labels"] == 1


def test_a_video_without_an_image_is_refused_by_what_it_holds(work: Work, tmp_path: Path) -> None:
    images(tmp_path / "set", "frame_0.png", side=SIDE)
    (tmp_path / "set" / "a.xml").write_text(cvat('<track id="0" label="knife"/>'))
    with pytest.raises(InputError, match=r"no images in it.*track of a video: 1"):
        Import(path=tmp_path / "set").run(work)


def test_a_mapping_may_be_typed_without_brackets() -> None:
    step = make_step(Import, "import", {"path": "set", "categories": "WBC:wbc,RBC:rbc,ruler:"})
    assert step.categories == {"WBC": "wbc", "RBC": "rbc", "ruler": ""}
