"""The rehearsal at full size: its tokenizers have the published ids, and what is stopped is said, and begun again."""

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from places import ROOT


@pytest.fixture
def tokens(monkeypatch: pytest.MonkeyPatch) -> object:
    monkeypatch.syspath_prepend(str(ROOT / "benchmarks"))
    import full_size_tokens  # type: ignore[import-not-found]

    return full_size_tokens


@pytest.mark.parametrize(
    ("written", "size", "ids"),
    [
        ("write_bert", 30522, {"[CLS]": 101, "[SEP]": 102, ".": 1012, "?": 1029}),
        ("write_clip", 49408, {"<|startoftext|>": 49406, "<|endoftext|>": 49407}),
        ("write_qwen", 151646, {"<|endoftext|>": 151643, "<|im_end|>": 151645}),
    ],
)
def test_a_tokenizer_has_the_size_and_the_marks_of_the_published_one(
    tokens: object, tmp_path: Path, written: str, size: int, ids: dict[str, int]
) -> None:
    from transformers import AutoTokenizer

    getattr(tokens, written)(tmp_path)
    found = AutoTokenizer.from_pretrained(tmp_path, local_files_only=True)
    assert len(found) == size
    assert {mark: found.convert_tokens_to_ids(mark) for mark in ids} == ids
    assert len(found.tokenize("a photo of a knife")) <= 6


def test_a_family_that_takes_too_long_is_stopped_and_said_and_not_counted_as_done(tmp_path: Path) -> None:
    (tmp_path / "photos").mkdir()
    for n in range(24):
        Image.fromarray(np.full((40, 60, 3), n, np.uint8)).save(tmp_path / "photos" / f"{n}.jpg")
    words = ["--photos", str(tmp_path / "photos"), "--work", str(tmp_path / "work"), "--results", str(tmp_path)]
    program = [sys.executable, str(ROOT / "benchmarks" / "full_size.py"), *words, "--only", "d_fine_small"]
    for _ in range(2):
        done = subprocess.run([*program, "--minutes", "0"], capture_output=True, text=True, check=True)
        assert done.stdout.startswith("d_fine_small: takes longer than 0 minutes;")
    figures = json.loads((tmp_path / "full_size.json").read_text())["figures"]
    assert figures["d_fine_small.works"]["value"] == 0
    assert not (tmp_path / "work" / "d_fine_small").exists()
