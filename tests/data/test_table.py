"""Tables that a kill left half made, and tables that are read ahead of who asks."""

import shutil
from pathlib import Path

import numpy as np
import pytest

from tests.parts.noise import noise_samples
from tilth.data import ahead
from tilth.data.ahead import Ahead
from tilth.data.dataset import Dataset
from tilth.data.table import RESULT, Table, result_row
from tilth.samples import Result


def table_of(path: Path, ids: list[str]) -> Table:
    table = Table(path, RESULT)
    table.append([result_row(id_, Result(columns={"was": id_}), "") for id_ in ids])
    return table


@pytest.mark.parametrize("left", ["data", "nothing"])
def test_a_table_whose_first_write_was_killed_is_as_if_it_had_never_been(tmp_path: Path, left: str) -> None:
    dataset = Dataset(tmp_path)
    dataset.put(list(noise_samples(2)))
    table_of(dataset.table("a").path, ["x"])
    for path in (tmp_path / "pool.lance", tmp_path / "results" / "a.lance"):
        for folder in ("_versions", "_transactions", *(["data"] if left == "nothing" else [])):
            shutil.rmtree(path / folder, ignore_errors=True)
    again = Dataset(tmp_path)
    assert len(again.pool) == len(again.table("a")) == 0
    ids = again.put(list(noise_samples(3)))
    assert len(Dataset(tmp_path).pool) == len(ids) == 3
    assert table_of(again.table("a").path, ["y"]).get(["x", "y"], ["columns"]).keys() == {"y"}


@pytest.mark.parametrize("order", ["as asked", "reversed", "shuffled", "every third", "beyond", "none"])
def test_rows_that_are_read_ahead_are_those_of_the_table(
    tmp_path: Path, order: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(ahead, "HELD_ROWS", 40)
    asked = [f"{n:03d}" for n in range(600)]
    ids = {
        "as asked": asked,
        "reversed": asked[::-1],
        "shuffled": np.random.default_rng(0).permutation(asked).tolist(),
        "every third": asked[::3],
        "beyond": [f"failed:{n}" for n in range(300)] + asked,
        "none": [],
    }[order]
    table = table_of(tmp_path / "a.lance", ids)
    read = Ahead(table)
    for start in range(0, len(asked), 50):
        some = asked[start : start + 50]
        assert read.get(some, ["columns"]) == table.get(some, ["columns"])
