"""The rehearsal at full size: its tokenizers have the published ids, and what is stopped is said, and begun again."""

import importlib
import json
import subprocess
import sys
from contextlib import closing
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from places import ROOT

from tilth import models


@pytest.fixture
def tokens(monkeypatch: pytest.MonkeyPatch) -> Any:
    monkeypatch.syspath_prepend(str(ROOT / "benchmarks"))
    return importlib.import_module("full_size_tokens")


@pytest.fixture
def rehearsals(monkeypatch: pytest.MonkeyPatch) -> Any:
    monkeypatch.syspath_prepend(str(ROOT / "benchmarks"))
    return importlib.import_module("full_size_steps")


@pytest.fixture(scope="module")
def photos(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("photos")
    rng = np.random.default_rng(0)
    for n in range(24):
        Image.fromarray(rng.integers(0, 256, (60, 90, 3), np.uint8)).save(folder / f"{n}.jpg")
    return folder


@pytest.mark.parametrize(
    ("written", "size", "ids"),
    [
        ("write_bert", 30522, {"[CLS]": 101, "[SEP]": 102, ".": 1012, "?": 1029}),
        ("write_clip", 49408, {"<|startoftext|>": 49406, "<|endoftext|>": 49407}),
        ("write_qwen", 151646, {"<|endoftext|>": 151643, "<|im_end|>": 151645}),
    ],
)
def test_a_tokenizer_has_the_size_and_the_marks_of_the_published_one(
    tokens: Any, tmp_path: Path, written: str, size: int, ids: dict[str, int]
) -> None:
    from transformers import AutoTokenizer

    getattr(tokens, written)(tmp_path)
    found = AutoTokenizer.from_pretrained(tmp_path, local_files_only=True)
    assert len(found) == size
    assert {mark: found.convert_tokens_to_ids(mark) for mark in ids} == ids
    assert len(found.tokenize("a photo of a knife")) <= 6


@pytest.mark.filterwarnings("ignore::DeprecationWarning")  # of mlcroissant's rdflib
@pytest.mark.parametrize(
    ("model", "rehearsed", "told"),
    [
        ("starter:grounding", "find_boxes", "ground.core_s_an_image"),
        ("starter:retrieval", "mine", "mine.core_s_an_image"),
        ("starter:verdict", "judge_words", "judge.ms"),
    ],
)
def test_a_rehearsal_tells_what_each_part_took(
    rehearsals: Any, photos: Path, tmp_path: Path, model: str, rehearsed: str, told: str
) -> None:
    made = rehearsals.Rehearsal(models.locate(model), photos, tmp_path / "run")
    with closing(made.events):
        rehearsals.REHEARSALS[rehearsed](made)
    assert made.told[told] > 0
    parts = {key.partition(".")[0] for key in made.told if key.endswith("_mb")}
    assert len(parts - {"package"}) >= 2
    assert all(made.told[f"{part}.{what}"] > 0 for part in parts for what in ("s", "core_s", "peak_mb"))


def test_a_family_that_takes_too_long_is_stopped_and_said_and_not_counted_as_done(tmp_path: Path, photos: Path) -> None:
    words = ["--photos", str(photos), "--work", str(tmp_path / "work"), "--results", str(tmp_path)]
    program = [sys.executable, str(ROOT / "benchmarks" / "full_size.py"), *words, "--only", "d_fine_small"]
    for _ in range(2):
        done = subprocess.run([*program, "--minutes", "0"], capture_output=True, text=True, check=True)
        assert done.stdout.startswith("d_fine_small: takes longer than 0 minutes;")
    figures = json.loads((tmp_path / "full_size.json").read_text())["figures"]
    assert figures["d_fine_small.works"]["value"] == 0
    assert not (tmp_path / "work" / "d_fine_small").exists()
