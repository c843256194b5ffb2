"""Other people's readers see in our files what we see in the dataset."""

import gc
import json
import os
import subprocess
import warnings
from pathlib import Path

import numpy as np
import pytest
from label_sets import SCENES, assert_same, fill, labels_of, opened, silent

from tilth.annotate.exchange.exporting import export
from tilth.annotate.exchange.importing import Import
from tilth.images import decode, image_id
from tilth.policy import Policy

DATUMARO = "TILTH_DATUMARO"
Rows = list[tuple[str, list[float]]]
MANY = [*SCENES, [], SCENES[2]]
SPLITS = ["train", "train", "val", "val", "train"]


@pytest.fixture(autouse=True)
def offline(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    monkeypatch.setenv("HF_HOME", str(tmp_path / "hub"))


def written(policy: Policy, folder: Path, format_: str, splits: list[str] | None = None) -> dict[str, Rows]:
    """Write the scenes into `out` and return the boxes of each image by its id."""
    with opened(folder, policy) as work:
        fill(work, MANY, splits)
        export(work.dataset, folder / "out", format_, say=silent)
        return {i: sorted((str(c), list(b or ())) for c, b in rows) for i, rows in labels_of(work.dataset).items()}


def rows_of(objects: dict[str, list[object]]) -> Rows:
    boxes = np.array(objects["bbox"], float).reshape(-1, 4)
    boxes[:, 2:] += boxes[:, :2]
    return sorted((str(c), b) for c, b in zip(objects["categories"], boxes.tolist(), strict=True))


def id_of(picture: object) -> str:
    return image_id(np.asarray(picture.convert("RGB")))  # type: ignore[attr-defined]


@pytest.mark.parametrize("splits", [None, SPLITS])
def test_datasets_loads_the_imagefolder(policy: Policy, tmp_path: Path, splits: list[str] | None) -> None:
    datasets = pytest.importorskip("datasets", reason="datasets is not installed; pip install 'tilth[dev]'")
    expected = written(policy, tmp_path, "imagefolder", splits)
    read = datasets.load_dataset("imagefolder", data_dir=str(tmp_path / "out"), cache_dir=str(tmp_path / "cache"))
    found = {id_of(row["image"]): rows_of(row["objects"]) for part in read.values() for row in part}
    assert found == expected
    if splits:
        assert {name: len(part) for name, part in read.items()} == {"train": 3, "validation": 2}


def test_datasets_loads_the_parquet_with_its_images(policy: Policy, tmp_path: Path) -> None:
    datasets = pytest.importorskip("datasets", reason="datasets is not installed; pip install 'tilth[dev]'")
    expected = written(policy, tmp_path, "parquet")
    read = datasets.load_dataset(
        "parquet", data_files=str(tmp_path / "out" / "*.parquet"), cache_dir=str(tmp_path / "cache"), split="train"
    )
    assert {id_of(row["image"]): rows_of(row["objects"]) for row in read} == expected
    assert sorted(read["state"]) == ["confirmed_empty"] * 2 + ["reviewed"] * 3


def test_webdataset_and_datasets_read_the_tars(policy: Policy, tmp_path: Path) -> None:
    webdataset = pytest.importorskip("webdataset", reason="webdataset is not installed; pip install 'tilth[dev]'")
    datasets = pytest.importorskip("datasets", reason="datasets is not installed; pip install 'tilth[dev]'")
    expected = written(policy, tmp_path, "webdataset")
    place = str(tmp_path / "out" / "000000.tar")
    read = webdataset.WebDataset(place, shardshuffle=False, empty_check=False)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ResourceWarning)  # both leave the file to the garbage collector
        found = {image_id(decode(s["png"])): rows_of(json.loads(s["json"])["objects"]) for s in read}
        again = datasets.load_dataset("webdataset", data_files=place, cache_dir=str(tmp_path / "cache"), split="train")
        del read
        gc.collect()
    assert found == expected
    assert {id_of(row["png"]): rows_of(row["json"]["objects"]) for row in again} == expected


def test_we_read_what_datasets_writes(policy: Policy, tmp_path: Path) -> None:
    datasets = pytest.importorskip("datasets", reason="datasets is not installed; pip install 'tilth[dev]'")
    from noise import noise_image

    names = datasets.ClassLabel(names=["pill", "knife"])
    boxes = datasets.Sequence(datasets.Sequence(datasets.Value("float32")))
    objects = {"bbox": boxes, "category": datasets.Sequence(names)}
    features = datasets.Features({"image": datasets.Image(), "width": datasets.Value("int32"), "objects": objects})
    rows = [
        {"image": {"bytes": noise_image(1), "path": None}, "width": 16, "objects": {"bbox": [[1, 2, 3, 4]], "category": [1]}},
        {"image": {"bytes": noise_image(2), "path": None}, "width": 16, "objects": {"bbox": [], "category": []}},
    ]  # fmt: skip
    (tmp_path / "set").mkdir()
    datasets.Dataset.from_list(rows, features=features).to_parquet(str(tmp_path / "set" / "train.parquet"))
    with opened(tmp_path, policy) as work:
        facts = Import(path=tmp_path / "set").run(work)
        assert (facts["format"], facts["images"], facts["failed"]) == ("parquet", 2, 0)
        assert sorted(labels_of(work.dataset).values()) == [[], [("knife", (1.0, 2.0, 4.0, 6.0))]]


READ = """
import json, sys
from datumaro.components.dataset import Dataset
from datumaro.components.annotation import AnnotationType, Bbox
path, format_ = sys.argv[1:]
read = Dataset.import_from(path, format_)
names = [label.name for label in read.categories()[AnnotationType.label]]
rows = {}
for item in read:
    boxes = [a for a in item.annotations if isinstance(a, Bbox)]
    rows[item.id.rpartition("/")[2]] = sorted(
        [names[b.label], [b.x, b.y, b.x + b.w, b.y + b.h]] for b in boxes
    )
print(json.dumps(rows))
"""


THEIRS = {"coco": "coco_instances", "cvat": "cvat", "voc": "voc", "yolo": "yolo"}


def datumaro(script: str, *arguments: str) -> str:
    python = os.environ.get(DATUMARO, "")
    if not python:
        pytest.skip(f"{DATUMARO} does not name the python of an environment with datumaro, which pins another pyarrow")
    told = subprocess.run([python, "-c", script, *arguments], capture_output=True, text=True, check=False)
    assert told.returncode == 0, told.stderr[-3000:]
    return told.stdout


@pytest.mark.parametrize("format_", THEIRS)
def test_datumaro_reads_what_we_write(policy: Policy, tmp_path: Path, format_: str) -> None:
    # it finds the images of a VOC set by the lists of its splits
    expected = written(policy, tmp_path, format_, ["train"] * 5 if format_ == "voc" else None)
    out = tmp_path / "out"
    if format_ == "coco":  # it knows a COCO file by its place only
        (out / "annotations").mkdir()
        out = (out / "annotations.json").rename(out / "annotations" / "instances_default.json")
    told = datumaro(READ, str(out), THEIRS[format_])
    found = {Path(k).stem: v for k, v in json.loads(told.splitlines()[-1]).items()}
    assert_same(found, expected, 1.01 if format_ == "voc" else 0.02)


WRITE = """
import sys
from datumaro.components.dataset import Dataset
path, out, format_ = sys.argv[1:]
Dataset.import_from(path, "cvat").export(out, format_, save_media=True)
"""


@pytest.mark.parametrize("format_", THEIRS)
def test_we_read_what_datumaro_writes(policy: Policy, tmp_path: Path, format_: str) -> None:
    expected = written(policy, tmp_path, "cvat")
    datumaro(WRITE, str(tmp_path / "out"), str(tmp_path / "theirs"), format_)
    (tmp_path / "back").mkdir()
    with opened(tmp_path / "back", policy) as back:
        facts = Import(path=tmp_path / "theirs").run(back)
        assert (facts["format"], facts["failed"]) == (format_, 0)
        found = {i: sorted((str(c), list(b or ())) for c, b in rows) for i, rows in labels_of(back.dataset).items()}
    assert_same(found, expected, 1.01 if format_ == "voc" else 0.02)
