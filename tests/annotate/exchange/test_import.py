"""Label files of other tools become claims, and everything odd about them is counted and named."""

import json
import os
import shlex
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import yaml
from label_files import coco, images, jpeg, named, voc
from noise import noise_image

from tilth.annotate.exchange.importing import Import
from tilth.annotate.formats.parts.orientation import read_header, turn
from tilth.claims import Answer, Claim, State
from tilth.engine.work import Work
from tilth.errors import InputError
from tilth.images import decode
from tilth.policy import Category, Policy
from tilth.samples import NewSample


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """A folder for the set, apart from the dataset."""
    folder = tmp_path / "set"
    folder.mkdir()
    return folder


def test_coco_boxes_become_claims_with_their_source(work: Work, root: Path) -> None:
    images(root / "images", "a.png", "b.png")
    coco(root, [("a.png", [("knife", [1, 2, 3, 4])]), ("b.png", [])])
    facts = Import(path=root, split="train", licence="CC0-1.0").run(work)
    a, b = named(work)["images/a.png"], named(work)["images/b.png"]
    assert [(c.category, c.box_xyxy, c.source) for c in a.claims] == [
        ("knife", (1, 2, 4, 6), "import:set/annotations.json")
    ]
    assert (a.state, b.state) == (State.REVIEWED, State.UNLABELLED)
    assert a.split == "train"
    assert a.origin["licence"] == "CC0-1.0"
    assert a.origin["step"] == "test"
    assert (facts["images"], facts["boxes"], facts["by_state"]) == (2, 1, {"reviewed": 1, "unlabelled": 1})


def _model_says(root: Path, **scores: float) -> Path:
    """Write what a model says, a knife in each image that has a score, apart from the images."""
    folder = root / "model"
    folder.mkdir(exist_ok=True)
    path = coco(folder, [(f"{name}.png", [("knife", [1, 2, 3, 4])] if score else []) for name, score in scores.items()])
    told = json.loads(path.read_text())
    for label, score in zip(told["annotations"], filter(None, scores.values()), strict=True):
        label["score"] = score
    path.write_text(json.dumps(told))
    return path


def test_labels_of_a_model_are_automatic_ones_of_the_images_that_are_there(work: Work, root: Path) -> None:
    images(root / "images", "a.png", "b.png", "c.png", "d.png")
    (root / "images" / "d.png").rename(root / "d.png")
    Import(path=root / "images").run(work)
    human = Claim(category="knife", box_xyxy=(5, 5, 9, 9), source="human:ann", asked=work.policy.names)
    work.add("people", [NewSample(data=(root / "images" / "c.png").read_bytes(), origin={}, claims=(human,))])
    (root / "d.png").rename(root / "images" / "d.png")
    path = _model_says(root, a=0.625, b=0, c=0.9, d=0.8)
    work.name = "teacher"
    facts = Import(path=path, images=root / "images", by="model:weak").run(work)
    assert (facts["images"], facts["by_state"], facts["covers"]) == (3, {"auto": 3}, ["knife"])
    assert facts["labels"] == {"read": 3, "taken": 2, "ignored": 0, "left_out": 1}
    assert facts["left_out"]["of an image that is not in the dataset"]["labels"] == 1
    assert facts["odd"]["image that is not in the dataset, left out"] == 1
    a, b, c = (named(work)[f"{name}.png"] for name in "abc")
    assert [(x.category, x.box_xyxy, x.score, x.source) for x in a.claims] == [
        ("knife", (1, 2, 4, 6), 0.625, "model:weak")
    ]
    assert (a.state, b.state, c.state) == (State.AUTO, State.AUTO, State.REVIEWED)
    assert [b.truth.of(name) for name in ("knife", "pill")] == [Answer.ABSENT, Answer.UNASKED]
    assert [label.source for label in c.truth.labels] == ["human:ann"]


def test_a_model_that_says_it_again_takes_back_what_it_said_also_of_images_that_came_since(
    work: Work, root: Path
) -> None:
    images(root / "images", "a.png", "b.png")
    Import(path=root / "images").run(work)
    work.name = "teacher"
    for scores, first in (({"a": 0.5, "b": 0.5, "c": 0.5}, 0.5), ({"a": 0, "b": 0.75, "c": 0.5}, 0.75)):
        path = _model_says(root, **scores)
        images(root / "images", "a.png", "b.png", "c.png")
        facts = Import(path=path, images=root / "images", by="model:weak").run(work)
        assert facts["images"] == 2
        assert [label.score for label in named(work)["b.png"].truth.labels] == [first]
    assert named(work)["a.png"].truth.categories == set()
    work.name = "more"
    Import(path=root / "images").run(work)
    work.name = "teacher"
    assert Import(path=path, images=root / "images", by="model:weak").run(work)["images"] == 3


@pytest.mark.parametrize("by", ["ann", "human:ann", "model:", "model:a b"])
def test_who_is_no_model_is_refused(by: str) -> None:
    with pytest.raises(ValueError, match="by must be model:<name>"):
        Import(path=Path("x"), by=by)


def test_a_model_that_speaks_of_none_of_the_images_is_refused(work: Work, root: Path) -> None:
    images(root / "images", "a.png")
    path = _model_says(root, a=0.5)
    with pytest.raises(InputError, match="image that is not in the dataset, left out: 1"):
        Import(path=path, images=root / "images", by="model:weak").run(work)
    with pytest.raises(InputError, match="these are images alone; give path its label file"):
        Import(path=root / "images", by="model:weak").run(work)


def test_a_night_on_which_nothing_came_is_no_mistake_where_the_recipe_says_so(work: Work, root: Path) -> None:
    step = Import(path=root / "night", optional=True)
    for _ in range(2):
        assert step.run(work) == {"images": 0, "nothing_came": str(root / "night")}
        (root / "night").mkdir(exist_ok=True)
    with pytest.raises(InputError):
        Import(path=root / "night").run(work)
    images(root / "night", "a.png")
    assert step.inputs() == (root / "night",)
    assert step.run(work)["images"] == 1


def test_an_image_without_boxes_is_confirmed_empty_only_when_the_recipe_says_so(work: Work, root: Path) -> None:
    images(root, "a.png", "b.png", "c.png")
    coco(root, [("a.png", [("unicorn", [1, 2, 3, 4])]), ("b.png", []), ("c.png", [("knife", [1, 2, 3, 4])])])
    facts = Import(path=root, empty_means="confirmed_empty").run(work)
    assert named(work)["b.png"].state == State.CONFIRMED_EMPTY
    # its only label was skipped, and may have been one of ours under another name
    assert named(work)["a.png"].state == State.UNLABELLED
    assert facts["unknown_categories"] == {"unicorn": {"boxes": 1, "did_you_mean": ""}}


def test_foreign_names_are_mapped_ignored_or_taken_as_they_are(work: Work, root: Path) -> None:
    images(root, "a.png", "b.png")
    coco(root, [("a.png", [("Knives", [1, 2, 3, 4]), ("cat", [1, 1, 2, 2])]), ("b.png", [("cat", [1, 1, 2, 2])])])
    Import(path=root, categories={"Knives": "knife", "cat": ""}, empty_means="confirmed_empty").run(work)
    assert named(work)["a.png"].truth.categories == {"knife"}
    assert named(work)["a.png"].claims[0].evidence["was"] == "Knives"
    assert named(work)["b.png"].state == State.CONFIRMED_EMPTY
    work.name = "again"
    facts = Import(path=root, categories="as_is").run(work)
    assert named(work)["a.png"].truth.categories == {"Knives", "cat"}, (
        "the later import of a file replaces the earlier one"
    )
    assert facts["unknown_categories"] == {}


def test_names_are_known_in_other_letters_and_by_what_else_a_category_is_called(work: Work, root: Path) -> None:
    knife = Category(name="Kitchen Knife", also=("blade",), definition="", prompts=("knife",))
    work = replace(work, policy=Policy(policy="p", version=1, categories=(knife,)))
    images(root, "a.png", "b.png")
    coco(
        root,
        [
            ("a.png", [("kitchen_knife", [1, 2, 3, 4])]),
            ("b.png", [("Blade", [1, 2, 3, 4]), ("Kitchen Knife", [5, 5, 2, 2])]),
        ],
    )
    facts = Import(path=root).run(work)
    assert facts["boxes_by_category"] == {"Kitchen Knife": 3}
    assert facts["renamed"] == {"kitchen_knife": "Kitchen Knife", "Blade": "Kitchen Knife"}
    assert named(work)["a.png"].claims[0].evidence["was"] == "kitchen_knife"
    assert facts["covers"] == ["Kitchen Knife"]


@pytest.mark.parametrize("kind", [coco, voc])
def test_a_set_of_which_no_name_is_known_is_refused_with_the_mapping_to_paste(
    work: Work, root: Path, kind: Callable[..., None]
) -> None:
    images(root, "a.png", "b.png")
    if kind is coco:
        coco(
            root,
            [("a.png", [("knifes", [1, 2, 3, 4]), ("WBC: old", [1, 2, 3, 4])]), ("b.png", [("knifes", [1, 2, 3, 4])])],
        )
    else:
        voc(root / "a.xml", "a.png", ("knifes", 1, 2, 4, 6), ("WBC: old", 1, 2, 4, 6))
        voc(root / "b.xml", "b.png", ("knifes", 1, 2, 4, 6))
    with pytest.raises(
        InputError, match=r"none of its 3 labels is of a category of the policy; they are knifes \(2\), WBC: old"
    ) as told:
        Import(path=root).run(work)
    assert work.dataset.count() == 0, "nothing came in"
    mapping = yaml.safe_load(str(told.value).partition("categories=")[2].rstrip("'"))
    assert mapping == {"knifes": "knife", "WBC: old": ""}
    assert Import(path=root, categories=mapping).run(work)["boxes"] == 2


def test_a_set_answers_for_the_categories_of_its_own_list_and_for_no_others(work: Work, root: Path) -> None:
    images(root, "a.png", "b.png")
    coco(root, [("a.png", [("Knives", [1, 2, 3, 4]), ("dice", [5, 5, 4, 4]), ("tree", [5, 5, 4, 4])]), ("b.png", [])])
    facts = Import(path=root, categories={"Knives": "knife", "tree": ""}, empty_means="confirmed_empty").run(work)
    assert facts["covers"] == ["knife", "dice"]
    assert set(facts["not_covered"]) == set(work.policy.names) - {"knife", "dice"}  # type: ignore[arg-type]
    a, b = (named(work)[name].truth for name in ("a.png", "b.png"))
    assert a.looked == b.looked == {"knife": "import", "dice": "import"}
    assert [str(b.of(name)) for name in ("knife", "pill")] == ["absent", "nobody looked"]
    assert {c.policy for c in named(work)["a.png"].claims} == {"starter@1"}


def test_a_list_of_other_things_than_the_policys_confirms_nothing(work: Work, root: Path) -> None:
    images(root, "a.png", "b.png")
    coco(root, [("a.png", [("unicorn", [1, 2, 3, 4])]), ("b.png", [])])
    facts = Import(path=root, empty_means="confirmed_empty", categories={"unicorn": ""}).run(work)
    assert (facts["covers"], facts["by_state"]) == ([], {"unlabelled": 2})
    assert facts["odd"]["not called empty, as the set covers nothing of the policy"] == 2  # type: ignore[index, call-overload]


def test_a_set_without_a_list_covers_the_policy_or_what_the_recipe_says(work: Work, root: Path) -> None:
    images(root, "a.png")
    voc(root / "a.xml", "a.png", ("knife", 1, 1, 9, 9))
    assert Import(path=root).run(work)["covers"] == list(work.policy.names)
    assert named(work)["a.png"].truth.unasked(work.policy.names) == ()
    work.name = "again"
    assert Import(path=root, covers=("knife", "pill")).run(work)["covers"] == ["knife", "pill"]
    assert set(named(work)["a.png"].truth.looked) == {"knife", "pill"}
    with pytest.raises(InputError, match="covers: the policy has no knives"):
        Import(path=root, covers=("knives",)).run(work)


def test_what_a_skipped_label_may_have_been_is_not_known_absent(work: Work, root: Path) -> None:
    images(root, "a.png", "b.png")
    voc(root / "a.xml", "a.png", ("knife", 1, 1, 9, 9), ("pill", 9, 9, 1, 1))
    voc(root / "b.xml", "b.png", ("knife", 1, 1, 9, 9), ("blade", 2, 2, 9, 9))
    Import(path=root).run(work)
    assert named(work)["a.png"].truth.unasked(work.policy.names) == ("pill",)
    assert set(named(work)["b.png"].truth.looked) == {"knife"}, "a blade may be anything"


def test_a_mapping_to_a_name_that_the_policy_lacks_is_refused(work: Work, root: Path) -> None:
    images(root, "a.png")
    with pytest.raises(InputError, match="the policy has no 'knives'"):
        Import(path=root, categories={"cat": "knives"}).run(work)


def test_odd_boxes_are_clipped_or_skipped_and_counted(work: Work, root: Path) -> None:
    images(root, "a.png")
    boxes = [[10, 10, 30, 2], [5, 5, -2, 2], [40, 40, 4, 4], [1, 1, float("nan"), 2], [0, 0, 0, 5], [2, 2, 4, 4]]
    path = coco(root, [("a.png", [("knife", box) for box in boxes])])
    document = json.loads(path.read_text())
    document["annotations"] += [
        {"image_id": 99, "category_id": 0, "bbox": [1, 1, 2, 2]},
        {"image_id": 0, "category_id": 0, "bbox": [1, 2]},
        {"image_id": 0, "category_id": 0, "bbox": [1, 1, 2, 2], "iscrowd": 1},
    ]
    path.write_text(json.dumps(document))
    facts = Import(path=root).run(work)
    found = [c.box_xyxy for c in named(work)["a.png"].claims]
    assert found == [(10, 10, 16, 12), (2, 2, 6, 6), (1, 1, 3, 3)], "a crowd has a place, too"
    assert facts["odd"] == {"crowd region, taken as one box around all of it": 1, "box over the edge, clipped": 1}
    assert facts["labels"] == {"read": 9, "taken": 3, "ignored": 0, "left_out": 6}
    assert {kind: told["labels"] for kind, told in facts["left_out"].items()} == {  # type: ignore[union-attr, index, call-overload]
        "of an image that is not listed": 1,
        "inverted or empty box": 2,
        "box outside the image": 1,
        "box that is no box": 2,
    }


def test_missing_images_are_rows_with_a_reason(work: Work, root: Path) -> None:
    images(root, "a.png")
    (root / "broken.png").write_bytes(noise_image(1)[:60])
    coco(root, [("a.png", []), ("gone.png", []), ("broken.png", [])])
    facts = Import(path=root).run(work)
    assert (facts["images"], facts["failed"]) == (1, 2)
    (table,) = [work.dataset.table(ref.name) for ref in work.dataset.at.tables]
    assert "missing image 'gone.png'" in str(table.failures())


OUTSIDE = ["../secret.png", "/etc/secret.png", "C:\\secret.png", "a/../../secret.png", "link.png", "linked/secret.png"]


@pytest.mark.parametrize("name", OUTSIDE)
def test_no_label_file_leads_out_of_its_folder(work: Work, root: Path, name: str) -> None:
    outside = root.parent / "outside"
    images(outside, "secret.png")
    images(root, "a.png")
    (root.parent / "secret.png").write_bytes(noise_image(7))
    os.symlink(outside / "secret.png", root / "link.png")
    os.symlink(outside, root / "linked")
    coco(root, [("a.png", []), (name, [])])
    facts = Import(path=root).run(work)
    assert (facts["images"], facts["failed"]) == (1, 1)
    assert "refused" in str(facts["odd_examples"])


def test_a_folder_skips_links_that_leave_it_and_keeps_equal_names_apart(work: Work, root: Path) -> None:
    images(root, "x/a.JPG", "y/a.jpg", "b.png", "notes.txt")
    images(root.parent / "outside", *(f"{n}.png" for n in range(30)))
    os.symlink(root.parent / "outside" / "20.png", root / "c.png")
    facts = Import(path=root).run(work)
    assert facts["format"] == "folder"
    assert (facts["images"], facts["failed"]) == (3, 1)
    assert set(named(work)) == {"x/a.JPG", "y/a.jpg", "b.png"}
    assert facts["odd_examples"]["file name in several folders, each kept"] == ["a.jpg"]
    assert all(s.state == State.UNLABELLED for s in work.dataset.samples())


def test_yolo_reads_boxes_scores_and_polygons(work: Work, root: Path) -> None:
    images(root, "train/images/a.JPG", "train/images/b.png", "train/images/c.png", "valid/images/d.png")
    (root / "data.yaml").write_text("train: ../train/images\nval: ../valid/images\nnames: [knife, pill]\n")
    (root / "train/labels").mkdir()
    (root / "train/labels/a.txt").write_text(
        "0 0.5 0.5 0.25 0.5\n1 0.5 0.5 0.5 0.5 0.75\n\n1 0 0 0.5 0 0.5 0.25\n0 x\n7 .5 .5 .1 .1\n"
    )
    (root / "train/labels/b.txt").write_text("")
    facts = Import(path=root, split="train", empty_means="confirmed_empty").run(work)
    a = named(work)["train/images/a.JPG"]
    assert [(c.category, c.box_xyxy, c.score) for c in a.claims] == [
        ("knife", (6, 4, 10, 12), 1),
        ("pill", (4, 4, 12, 12), 0.75),
        ("pill", (0, 0, 8, 4), 1),
    ]
    assert named(work)["train/images/b.png"].state == State.CONFIRMED_EMPTY
    assert named(work)["train/images/c.png"].state == State.UNLABELLED, "without a label file nobody has looked"
    assert "valid/images/d.png" not in named(work), "another split"
    assert facts["left_out"]["line that is no label"] == {"labels": 1, "examples": ["train/labels/a.txt:5"]}  # type: ignore[index, call-overload]
    assert facts["unknown_categories"]["7"]["boxes"] == 1
    with pytest.raises(InputError, match="has no images for 'test'; it has train, val"):
        Import(path=root, split="test").run(work)


def test_voc_pixels_count_from_one_and_the_files_own_name_finds_the_image(work: Work, root: Path) -> None:
    images(root, "IMG_1.JPG", "other.png", "images/far.png", "x/twice.png", "y/twice.png")
    voc(root / "IMG_1.xml", "old_name.jpg", ("knife", 1, 1, 16, 16))
    voc(root / "named.xml", "OTHER.PNG", ("pill", 3, 3, 4, 4))
    voc(root / "labels" / "z.xml", "twice.png", ("pill", 3, 3, 4, 4))
    facts = Import(path=root).run(work)
    found = named(work)
    assert found["IMG_1.JPG"].claims[0].box_xyxy == (0, 0, 16, 16)
    assert found["other.png"].claims[0].box_xyxy == (2, 2, 4, 4)
    assert facts["odd"]["image without a label file"] == 3
    assert "in several folders" in facts["odd_examples"]["image that could not be taken"][0]


def test_an_xml_bomb_is_refused(work: Work, root: Path) -> None:
    images(root, "a.png")
    bomb = '<!DOCTYPE a [<!ENTITY a "aaaaaaaaaa"><!ENTITY b "&a;&a;&a;&a;&a;&a;&a;&a;">]><annotation><filename>&b;</filename></annotation>'
    (root / "a.xml").write_text(bomb)
    facts = Import(path=root).run(work)
    assert facts["failed"] == 1
    assert "needs no DOCTYPE" in str(facts["odd_examples"])


@pytest.mark.parametrize("orientation", range(1, 9))
def test_boxes_turn_as_the_image_does(orientation: int) -> None:
    data = jpeg(orientation)
    ys, xs = np.nonzero(decode(data)[..., 0])
    expected = [[xs.min(), ys.min(), xs.max() + 1, ys.max() + 1]]
    assert read_header(data) == ((40, 24), orientation)
    assert turn(np.array([[4.0, 6, 14, 20]]), (40, 24), orientation).tolist() == expected


@pytest.mark.parametrize("labels_are", ["stored", "shown"])
def test_labels_of_a_turned_photo_land_on_the_thing_whichever_way_the_tool_saw_it(
    work: Work, root: Path, labels_are: str
) -> None:
    (root / "a.png").write_bytes(jpeg(6))
    box, size = ((4, 6, 14, 20), (40, 24)) if labels_are == "stored" else ((4, 4, 18, 14), (24, 40))
    voc(root / "a.xml", "a.png", ("knife", box[0] + 1, box[1] + 1, box[2], box[3]), size_wh=size)
    Import(path=root).run(work)
    sample = named(work)["a.png"]
    x0, y0, x1, y1 = (int(v) for v in sample.claims[0].box_xyxy or ())
    assert sample.pixels()[y0:y1, x0:x1].min() == 255
    assert sample.pixels().sum() == (y1 - y0) * (x1 - x0) * 3 * 255


def test_labels_made_for_another_size_are_refused_and_an_unclear_turn_is_noted(work: Work, root: Path) -> None:
    (root / "half.png").write_bytes(jpeg(1))
    (root / "upside.png").write_bytes(jpeg(3, (40, 26)))
    voc(root / "half.xml", "half.png", ("knife", 1, 1, 9, 9), size_wh=(20, 12))
    voc(root / "upside.xml", "upside.png", ("knife", 1, 1, 9, 9), size_wh=(40, 26))
    facts = Import(path=root).run(work)
    assert facts["odd_examples"] == {
        "image that could not be taken": ["half.png: labels are for 20 x 12 pixels, the image has 40 x 24"],
        "turned by EXIF, size does not tell which way the labels saw it; taken as shown": ["upside.png"],
    }


@pytest.mark.parametrize("labelled", ["first", "second", "far", "both"])
def test_copies_of_a_picture_are_one_sample_and_keep_its_labels(work: Work, root: Path, labelled: str) -> None:
    images(root, *(f"{n:03d}.png" for n in range(100)))
    copies = ["000.png", "001.png", "099.png"]
    for name in copies:
        (root / name).write_bytes(noise_image(500))
    chosen = {"first": copies[:1], "second": copies[1:2], "far": copies[2:], "both": copies[:2]}[labelled]
    coco(root, [(f"{n:03d}.png", [("knife", [1, 2, 3, 4])] if f"{n:03d}.png" in chosen else []) for n in range(100)])
    facts = Import(path=root).run(work)
    samples = list(work.dataset.samples(images=False))
    assert len(samples) == len({s.id for s in samples}) == facts["images"] == 98
    assert facts["copies"] == 2
    assert [c.box_xyxy for s in samples for c in s.truth.labels] == [(1, 2, 4, 6)]
    version = work.dataset.at
    assert Import(path=root).run(work) == facts
    assert work.dataset.at == version


def test_two_sets_whose_folders_are_called_alike_do_not_replace_each_others_labels(work: Work, tmp_path: Path) -> None:
    for name, category in (("one", "knife"), ("two", "pill"), ("one", "knife")):
        root = tmp_path / name / "train"
        if not root.exists():
            images(root, "a.png")
            coco(root, [("a.png", [(category, [1, 2, 3, 4])])])
        work.name = f"import.{name}"
        Import(path=root).run(work)
    (only,) = work.dataset.samples(images=False)
    assert {c.source for c in only.claims} == {"import:train/annotations.json", "import:train~2/annotations.json"}
    assert only.truth.categories == {"knife", "pill"}, "each set looked for its own"


def test_running_again_adds_nothing(work: Work, root: Path) -> None:
    images(root, *(f"{n}.png" for n in range(5)))
    first = Import(path=root).run(work)
    version = work.dataset.at
    assert Import(path=root).run(work) == first
    assert work.dataset.at == version


def test_a_policy_that_knows_more_has_the_labels_read_again(work: Work, root: Path) -> None:
    images(root, "a.png", "b.png")
    coco(root, [("a.png", [("knife", [1, 2, 3, 4]), ("vape", [5, 5, 4, 4])]), ("b.png", [("vape", [1, 1, 2, 2])])])
    assert Import(path=root).run(work)["unknown_categories"] == {"vape": {"boxes": 2, "did_you_mean": ""}}
    vape = Category(name="vape", definition="", prompts=("vape",))
    work.policy = Policy(policy="starter", version=2, categories=(*work.policy.categories, vape))
    assert Import(path=root).run(work)["boxes"] == 3
    a, b = named(work)["a.png"], named(work)["b.png"]
    assert sorted(str(label.category) for label in a.truth.labels) == ["knife", "vape"], "each once"
    assert [label.category for label in b.truth.labels] == ["vape"]
    assert work.dataset.count() == 2
    version = work.dataset.at
    Import(path=root).run(work)
    assert work.dataset.at == version


@pytest.mark.parametrize(("part", "count"), [("train", 296), ("test", 67)])
def test_real_photographs_with_voc_labels_come_in_whole(work: Work, part: str, count: int) -> None:
    cards = os.environ.get("TILTH_CARDS", "")
    if not cards:
        pytest.skip("TILTH_CARDS does not name a folder with the playing-cards photographs (train/, test/)")
    facts = Import(path=Path(cards) / part, categories="as_is").run(work)
    assert (facts["images"], facts["failed"], facts["odd"]) == (count, 0, {})
    for sample in work.dataset.samples(images=False):
        for label in sample.truth.labels:
            x0, y0, x1, y1 = label.box_xyxy or ()
            assert 0 <= x0 < x1 <= sample.size_wh[0]
            assert 0 <= y0 < y1 <= sample.size_wh[1]


@pytest.mark.parametrize("name", ["White cell", "no", "007", "0", "a: b", '"', "knife's"])
def test_the_mapping_that_is_offered_can_be_pasted(work: Work, root: Path, name: str) -> None:
    images(root, "a.png")
    coco(root, [("a.png", [(name, [1, 2, 3, 4]), ("pill", [5, 5, 3, 4])])])
    Import(path=root).run(work)
    told = (root.parent / "events.jsonl").read_text().splitlines()
    (line,) = [m for m in (json.loads(t).get("message", "") for t in told) if "--set" in m]
    (word,) = shlex.split(line.partition("--set ")[2])
    mapping = yaml.safe_load(word.removeprefix("categories="))
    assert [str(key) for key in mapping] == [name]
    work.name = "again"
    assert Import(path=root, categories=dict.fromkeys(mapping, "knife")).run(work)["boxes"] == 2
