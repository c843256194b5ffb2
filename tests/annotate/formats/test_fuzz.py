"""A few hundred of the damaged inputs that `benchmarks/imports.py` feeds to every reader by the ten thousand."""

import importlib
import sys
import warnings

import pytest
from places import ROOT

sys.path.insert(0, str(ROOT / "benchmarks"))  # where the two files find each other
fuzz = importlib.import_module("fuzz")
sys.path.pop(0)

INPUTS = 25


@pytest.mark.parametrize("name", fuzz.TARGETS)
def test_a_damaged_file_is_an_error_with_a_reason_or_a_counted_failure(name: str) -> None:
    if name == "image_avif" and "AVIF" not in importlib.import_module("tilth.images").FORMATS:
        pytest.skip("this build of Pillow has no AVIF")
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        found = fuzz.run(name, range(INPUTS))
    assert (found.inputs, found.crashes) == (INPUTS, [])


def test_what_a_reader_must_not_do_is_seen(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("fuzz_targets.encode", lambda url: 1 // 0)
    assert "ZeroDivisionError" in fuzz.run("list_txt", range(5)).crashes[0]


def test_the_same_seed_is_the_same_damage() -> None:
    import random

    data = b'{"a": [1, 2, 3]}' * 50
    made = [[fuzz.damage(random.Random(seed), data) for seed in range(200)] for _ in range(2)]
    assert made[0] == made[1]
    assert sum(one != data for one in made[0]) > 150
