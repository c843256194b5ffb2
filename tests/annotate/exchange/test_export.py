"""What is exported reads back the same, here and in the libraries that everybody uses."""

import contextlib
import io
import json
import os
import subprocess
import sys
from dataclasses import replace
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from label_sets import SCENES, SIDE, Labels, assert_same, fill, labels_of, opened, silent
from noise import noise_image
from refusals import refusal

from tilth.annotate.exchange.export import Export
from tilth.annotate.exchange.exporting import export
from tilth.annotate.exchange.importing import Import
from tilth.annotate.formats.writing import CARRIES_IMAGES, FORMATS, HOLDS_BOXES, HOLDS_SCORES, HOLDS_STATE
from tilth.claims import Answer, Claim, State
from tilth.errors import InputError
from tilth.geometry import Box
from tilth.policy import Policy
from tilth.samples import NewSample

NAMES = ("knife", "pill", "dice")


@st.composite
def boxes(draw: st.DrawFn) -> Box:
    """A box in the image, in 64ths of a pixel, which the store keeps exactly."""
    (x0, x1), (y0, y1) = (
        sorted(draw(st.lists(st.integers(0, SIDE * 64), min_size=2, max_size=2, unique=True))) for _ in range(2)
    )
    return x0 / 64, y0 / 64, x1 / 64, y1 / 64


LABELLED = st.lists(st.lists(st.tuples(st.sampled_from(NAMES), boxes()), max_size=4), min_size=1, max_size=5)


OFF_BY = {"coco": 2e-6, "yolo": 1e-5, "voc": 1.0, "labelstudio": 1e-5, "csv": 0, "cvat": 0}


@pytest.mark.parametrize(("format_", "off_by"), [(format_, OFF_BY.get(format_, 2e-6)) for format_ in HOLDS_BOXES])
@settings(max_examples=12, deadline=None)
@given(images=LABELLED)
def test_boxes_come_back_from_a_round_trip(policy: Policy, format_: str, off_by: float, images: list[Labels]) -> None:
    with TemporaryDirectory() as name:
        folder = Path(name)
        with opened(folder, policy) as work:
            fill(work, images)
            export(work.dataset, folder / "out", format_, say=silent)
            (folder / "back").mkdir()
        with opened(folder / "back", policy) as back:
            facts = Import(path=folder / "out", format=format_, empty_means="confirmed_empty").run(back)
            assert facts["failed"] == 0
            assert facts["unknown_categories"] == {}
            assert not set(facts["odd"]) - {"box over the edge, clipped"}
            before = labels_of(work.dataset)
            assert_same(labels_of(back.dataset), before, off_by)
            states = {s.id: s.state for s in back.dataset.samples(images=False)}
            assert states == {i: State.REVIEWED if labels else State.CONFIRMED_EMPTY for i, labels in before.items()}


def test_pycocotools_reads_what_we_write(policy: Policy, tmp_path: Path) -> None:
    from pycocotools.coco import COCO

    with opened(tmp_path, policy) as work:
        fill(work, SCENES)
        export(work.dataset, tmp_path / "out", "coco", say=silent)
        with contextlib.redirect_stdout(io.StringIO()):
            read = COCO(str(tmp_path / "out" / "annotations.json"))
        names = {c["id"]: c["name"] for c in read.loadCats(read.getCatIds())}
        found = {}
        for image in read.loadImgs(read.getImgIds()):
            assert (tmp_path / "out" / "images" / image["file_name"]).is_file()
            rows = read.loadAnns(read.getAnnIds(imgIds=image["id"]))
            found[image["sample"]] = [
                (
                    names[r["category_id"]],
                    (r["bbox"][0], r["bbox"][1], r["bbox"][0] + r["bbox"][2], r["bbox"][1] + r["bbox"][3]),
                )
                for r in rows
            ]
        assert found == labels_of(work.dataset)


@pytest.mark.parametrize("format_", ["coco", "yolo", "voc"])
def test_supervision_reads_what_we_write(policy: Policy, tmp_path: Path, format_: str) -> None:
    import supervision as sv

    with opened(tmp_path, policy) as work:
        fill(work, SCENES)
        out = tmp_path / "out"
        export(work.dataset, out, format_, say=silent)
        if format_ == "coco":
            read = sv.DetectionDataset.from_coco(str(out / "images"), str(out / "annotations.json"))
        elif format_ == "yolo":
            read = sv.DetectionDataset.from_yolo(
                str(out / "images/unsplit"), str(out / "labels/unsplit"), str(out / "data.yaml")
            )
        else:
            read = sv.DetectionDataset.from_pascal_voc(str(out / "JPEGImages"), str(out / "Annotations"))
        found = {}
        for path, _, detections in read:
            rows = [
                (read.classes[int(k)], np.round(b, 3).tolist())
                for k, b in zip(detections.class_id, detections.xyxy, strict=True)
            ]
            found[Path(path).stem] = sorted(rows)
        expected = {i: sorted((str(c), list(b or ())) for c, b in rows) for i, rows in labels_of(work.dataset).items()}
        assert found == expected


def test_what_a_format_cannot_hold_is_said_before_anything_is_written(policy: Policy, tmp_path: Path) -> None:
    with opened(tmp_path, policy) as work:
        model = "model:starter:grounding@abc"
        claims: list[tuple[Claim, ...]] = [
            (
                Claim(category="knife", box_xyxy=(1, 1, 9.5, 9), score=0.5, source=model),
                Claim(category="pill", source=model),
            ),
            (Claim(category="pill", source=model),),
            (Claim(says="empty", source=model),),
            (),
            (Claim(says="reject", source="human:a"),),
        ]
        work.add("images", [NewSample(data=noise_image(n, SIDE), origin={}, claims=c) for n, c in enumerate(claims)])
        told: list[tuple[str, bool]] = []
        facts = export(
            work.dataset,
            tmp_path / "out",
            "voc",
            say=lambda text: told.append((text, (tmp_path / "out.partial").exists())),
        )
        assert told
        assert not any(begun for _, begun in told)
        assert facts["left_out"] == {"labels without boxes only": 1, "unlabelled": 1, "rejected": 1}
        assert facts["cannot_hold"] == {
            "labels of whole images": 1,
            "scores below 1": 1,
            "fractions of pixels, rounded": 1,
            "whether an empty image was confirmed by a person": 1,
            "that nobody looked for a category of the set": 1,
        }
        lines = [json.loads(line) for line in (tmp_path / "out" / "samples.jsonl").read_text().splitlines()]
        assert len(lines) == facts["images"] == 2
        assert {"category": "pill", "box_xyxy": None, "score": 1.0, "source": model} in lines[0]["labels"]


@pytest.mark.parametrize("format_", HOLDS_BOXES)
def test_splits_are_kept_apart_and_can_be_read_alone(policy: Policy, tmp_path: Path, format_: str) -> None:
    with opened(tmp_path, policy) as work:
        fill(work, SCENES, ["train", "test", "train"])
        export(work.dataset, tmp_path / "out", format_, say=silent)
        ids = {s.id for s in work.dataset.samples(images=False) if s.split == "train"}
    (tmp_path / "back").mkdir()
    with opened(tmp_path / "back", policy) as back:
        facts = Import(path=tmp_path / "out", split="train").run(back)
        assert (facts["format"], facts["images"], facts["failed"]) == (format_, 2, 0)
        assert {s.id for s in back.dataset.samples(images=False)} == ids
        assert {s.split for s in back.dataset.samples(images=False)} == {"train"}
        with pytest.raises(InputError, match=r"train.*'val'|'val'.*train"):
            Import(path=tmp_path / "out", split="val").run(back)


@pytest.mark.parametrize("format_", sorted(set(HOLDS_STATE) & set(HOLDS_BOXES)))
def test_empty_and_unlabelled_stay_two_things(policy: Policy, tmp_path: Path, format_: str) -> None:
    with opened(tmp_path, policy) as work:
        fill(work, SCENES)
        work.add("more", [NewSample(data=noise_image(99, SIDE), origin={})])
        facts = export(work.dataset, tmp_path / "out", format_, unlabelled=True, say=silent)
        assert (facts["images"], facts["left_out"]) == (4, {})
        states = {s.id: s.state for s in work.dataset.samples(images=False)}
    (tmp_path / "back").mkdir()
    with opened(tmp_path / "back", policy) as back:
        assert Import(path=tmp_path / "out").run(back)["format"] == format_
        assert {s.id: s.state for s in back.dataset.samples(images=False)} == states
    assert sorted(states.values()) == ["confirmed_empty", "reviewed", "reviewed", "unlabelled"]


@pytest.mark.parametrize("format_", HOLDS_SCORES)
@settings(max_examples=5, deadline=None)
@given(scores=st.lists(st.integers(0, 64), min_size=1, max_size=4))
def test_scores_come_back(policy: Policy, format_: str, scores: list[int]) -> None:
    said = [
        Claim(category="knife", box_xyxy=(n, 1, n + 5, 9), score=score / 64, source="model:starter:grounding@abc")
        for n, score in enumerate(scores)
    ]
    with TemporaryDirectory() as name:
        folder = Path(name)
        with opened(folder, policy) as work:
            work.add("images", [NewSample(data=noise_image(1, SIDE), origin={}, claims=tuple(said))])
            facts = export(work.dataset, folder / "out", format_, say=silent)
            assert facts["cannot_hold"] == {}
        (folder / "back").mkdir()
        with opened(folder / "back", policy) as back:
            Import(path=folder / "out").run(back)
            (sample,) = back.dataset.samples(images=False)
            assert [label.score for label in sample.truth.labels] == [score / 64 for score in scores]


def test_a_format_that_cannot_tell_unlabelled_from_empty_says_so(policy: Policy, tmp_path: Path) -> None:
    with opened(tmp_path, policy) as work:
        fill(work, SCENES)
        with pytest.raises(InputError, match=r"yolo cannot tell an unlabelled image from an empty one; coco, .* can"):
            export(work.dataset, tmp_path / "out", "yolo", unlabelled=True, say=silent)
        assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("format_", sorted(set(FORMATS) - set(CARRIES_IMAGES)))
@pytest.mark.parametrize("splits", [None, ["train", "test", "train"]])
def test_labels_alone_find_the_images_where_they_lay(
    policy: Policy, tmp_path: Path, format_: str, splits: list[str] | None
) -> None:
    sources = ["set/a/ä 1.png", "set/b/1.png", "set/b/c/2.png"]
    with opened(tmp_path, policy) as work:
        samples = []
        for number, (source, labels) in enumerate(zip(sources, SCENES, strict=True)):
            place = tmp_path / "pictures" / source
            place.parent.mkdir(parents=True, exist_ok=True)
            place.write_bytes(noise_image(number, SIDE))
            say = partial(Claim, source="human:ann", asked=policy.names)
            claims = tuple(say(category=c, box_xyxy=b) for c, b in labels)
            columns = {"split": splits[number]} if splits else {}
            empty = (say(says="empty"),)
            samples.append(
                NewSample(data=place.read_bytes(), origin={"source": source}, claims=claims or empty, columns=columns)
            )
        work.add("images", samples)
        export(work.dataset, tmp_path / "out", format_, images="none", say=silent)
        expected = labels_of(work.dataset)
    kinds = {p.suffix for p in (tmp_path / "out").rglob("*") if p.is_file()}
    assert not kinds & {".png", ".jpg"}
    (tmp_path / "back").mkdir()
    with opened(tmp_path / "back", policy) as back:
        for split in sorted(set(splits or [""])):
            work_of_split = replace(back, name=split or "all")
            asked = Import(
                path=tmp_path / "out", images=tmp_path / "pictures", split=split, empty_means="confirmed_empty"
            )  # type: ignore[arg-type]
            facts = asked.run(work_of_split)
            assert (facts["format"], facts["failed"]) == (format_, 0)
        states = {s.id: s.state for s in back.dataset.samples(images=False)}
        assert states == {i: State.REVIEWED if rows else State.CONFIRMED_EMPTY for i, rows in expected.items()}
        assert_same(labels_of(back.dataset), expected, OFF_BY.get(format_, 2e-6))


@pytest.mark.parametrize("format_", HOLDS_BOXES)
def test_an_image_keeps_its_name_where_no_other_has_it(policy: Policy, tmp_path: Path, format_: str) -> None:
    sources = ["set/IMG_1.JPG", "set/x/dup.png", "set/y/DUP.jpg", "set/a b é.png", "rows.parquet/7", "bad/?.png"]
    knife = Claim(category="knife", box_xyxy=(1.0, 2.0, 9.0, 9.0), source="human:ann", asked=("knife",))
    with opened(tmp_path, policy) as work:
        work.add(
            "k",
            (
                NewSample(data=noise_image(n, 16), origin={"source": source}, claims=(knife,))
                for n, source in enumerate(sources)
            ),
        )
        ids = {str(s.origin["source"]): s.id for s in work.dataset.samples(images=False)}
        export(work.dataset, tmp_path / "out", format_, say=silent)
    written = {line["file"] for line in map(json.loads, (tmp_path / "out" / "samples.jsonl").read_text().splitlines())}
    own = {"set/IMG_1.JPG": "IMG_1.png", "set/a b é.png": "a b é.png"} if format_ != "webdataset" else {}
    assert written == {own.get(source, f"{id_}.png") for source, id_ in ids.items()}
    (tmp_path / "back").mkdir()
    with opened(tmp_path / "back", policy) as back:
        assert Import(path=tmp_path / "out", format=format_).run(back)["boxes"] == len(sources)


def test_a_folder_that_is_there_is_never_overwritten(policy: Policy, tmp_path: Path) -> None:
    with opened(tmp_path, policy) as work:
        fill(work, SCENES)
        export(work.dataset, tmp_path / "out", "coco", say=silent)
        with pytest.raises(InputError, match="is there already"):
            export(work.dataset, tmp_path / "out", "coco", say=silent)
        with pytest.raises(InputError, match=r"format must be one of coco, .*, got 'tsv'"):
            export(work.dataset, tmp_path / "new", "tsv", say=silent)


STRANGE = ['<&> "quoted"', "ключ, ножи", "a;b=c", "#1", "true"]


@pytest.mark.parametrize("format_", HOLDS_BOXES)
def test_strange_names_of_categories_come_back_and_impossible_ones_are_refused(
    policy: Policy, tmp_path: Path, format_: str
) -> None:
    with opened(tmp_path, policy) as work:
        fill(work, [[(name, (1.0, 2.0, 5.0, 7.0))] for name in STRANGE])
        export(work.dataset, tmp_path / "out", format_, say=silent)
        expected = labels_of(work.dataset)
        fill(replace(work, name="more"), [[("a\x01\n", (1.0, 2.0, 5.0, 7.0))]] * 1 + [[("b", (1.0, 2.0, 5.0, 7.0))]])
        with pytest.raises(InputError, match=r"no label file can hold the categories \['a"):
            export(work.dataset, tmp_path / "new", format_, say=silent)
    (tmp_path / "back").mkdir()
    with opened(tmp_path / "back", policy) as back:
        assert Import(path=tmp_path / "out", categories="as_is").run(back)["failed"] == 0
        found = {i: [c for c, _ in rows] for i, rows in labels_of(back.dataset).items()}
    assert found == {i: [c for c, _ in rows] for i, rows in expected.items()}


def test_the_command_line_names_every_format_and_writes_labels_alone(policy: Policy, tmp_path: Path) -> None:
    with opened(tmp_path, policy) as work:
        fill(work, SCENES)
    command = [sys.executable, "-m", "tilth.pipeline.cli.main", "export", "dataset", "out", "--format", "csv"]
    run = partial(subprocess.run, cwd=tmp_path, capture_output=True, text=True, env=os.environ | {"COLUMNS": "200"})
    told = run([*command, "--help"]).stdout
    assert [format_ for format_ in FORMATS if format_ not in told] == []
    done = run([*command, "--images", "none", "--unlabelled"])
    assert json.loads(done.stdout)["boxes"] == 3
    assert len((tmp_path / "out" / "labels.csv").read_text().splitlines()) == 1 + 4
    refused = run([*command[:-2], "--format", "webdataset", "--images", "none"])
    assert refused.returncode == 2
    assert refusal(refused).startswith("webdataset carries the images")


def test_the_step_writes_what_the_command_writes_and_a_run_that_was_killed_writes_it_again(
    policy: Policy, tmp_path: Path
) -> None:
    with opened(tmp_path, policy) as work:
        fill(work, SCENES, ["train", "test", "train"])
        export(work.dataset, tmp_path / "out", "coco", categories=policy.names, say=silent)
        for _ in range(2):
            told = Export().run(work)
        assert (told["images"], told["splits"]) == (3, {"train": 2, "test": 1})
        assert Export(format="yolo", splits=("train",)).run(work)["images"] == 2
        with pytest.raises(InputError, match="no labelled image in val to write"):
            Export(format="voc", splits=("val",)).run(work)
    step, command = tmp_path / "coco", tmp_path / "out"
    files = sorted(p.relative_to(command) for p in command.rglob("*") if p.is_file())
    assert len(files) > len(SCENES)
    assert sorted(p.relative_to(step) for p in step.rglob("*") if p.is_file()) == files
    assert all((step / name).read_bytes() == (command / name).read_bytes() for name in files)
    with pytest.raises(ValueError, match=r"format must be one of coco, .*, got 'tsv'"):
        Export(format="tsv")


def test_what_nobody_looked_for_is_written_and_comes_back(tmp_path: Path, policy: Policy) -> None:
    asked = [("knife", "pill"), ("knife",), ("knife", "pill", "dice")]
    for name in ("a", "b"):
        (tmp_path / name).mkdir()
    with opened(tmp_path / "a", policy) as work:
        for n, names in enumerate(asked):
            say = partial(Claim, source="human:ann", asked=names)
            claim = say(category="knife", box_xyxy=(1, 1, 9, 9)) if n != 1 else say(says="empty")
            more = (say(category="pill", box_xyxy=(1, 1, 9, 9)),) if n == 0 else ()
            work.add(f"{n}", [NewSample(data=noise_image(n, SIDE), origin={}, claims=(claim, *more))])
        facts = export(work.dataset, tmp_path / "coco", "coco", say=silent)
        assert (facts["categories"], facts["nobody_looked"]) == (["knife", "pill"], {"pill": 1})
        voc = export(work.dataset, tmp_path / "voc", "voc", say=silent)
        assert voc["cannot_hold"]["that nobody looked for a category of the set"] == 1  # type: ignore[index, call-overload]
        before = {s.id: s.truth for s in work.dataset.samples(images=False)}
    with opened(tmp_path / "b", policy) as work:
        told = Import(path=tmp_path / "coco", empty_means="confirmed_empty").run(work)
        assert told["covers"] == ["knife", "pill"]
        for sample in work.dataset.samples(images=False):
            for name in ("knife", "pill"):
                assert sample.truth.of(name) is before[sample.id].of(name)
            assert sample.truth.of("dice") is Answer.UNASKED
