"""Versions, tags, rollback, and tables that stay fast as they grow."""

import hashlib
import json
from datetime import timedelta
from pathlib import Path

import numpy as np
import pytest
from noise import noise_image, noise_samples

from tilth.claims import Claim, State, resolve
from tilth.data import table as tables
from tilth.data.dataset import Dataset
from tilth.data.table import RESULT, Table, result_row
from tilth.engine.work import Work
from tilth.errors import InputError
from tilth.pipeline.versions import diff_versions
from tilth.samples import NewSample, Result

KNIFE = Claim(category="knife", box_xyxy=(1, 1, 8, 8), score=0.9, source="model:a@1")


def test_a_version_stays_what_it_was(work: Work) -> None:
    work.add("a", noise_samples(3))
    work.dataset.tag("three")
    work.add("b", noise_samples(5))
    assert work.dataset.count() == 5
    assert work.dataset.checkout("three").count() == 3


def test_rollback_forgets_nothing(work: Work) -> None:
    work.add("a", noise_samples(3))
    work.add("b", noise_samples(5))
    work.dataset.rollback(1, work.now())
    assert work.dataset.count() == 3
    assert work.dataset.checkout(2).count() == 5


def test_diff_says_what_came(work: Work) -> None:
    work.add("a", noise_samples(3))
    work.add("b", noise_samples(5))
    assert [row["change"] for row in diff_versions(work.dataset, 1)] == ["added", "added"]
    assert [row["change"] for row in diff_versions(work.dataset, 2, 1)] == ["removed", "removed"]


def test_an_unknown_tag_is_refused_with_the_known_ones(work: Work) -> None:
    work.add("a", noise_samples(1))
    work.dataset.tag("good")
    with pytest.raises(InputError, match="known: good"):
        work.dataset.checkout("bad")


def test_a_dataset_of_another_format_is_refused_in_one_line(work: Work) -> None:
    work.add("a", noise_samples(1))
    path = work.dataset.root / "versions" / "000001.json"
    path.write_text(path.read_text().replace('"format": 2', '"format": 1'))
    with pytest.raises(InputError, match="written by another version of Tilth"):
        Dataset(work.dataset.root)


def test_human_over_consensus_over_one_model() -> None:
    other = Claim(category="knife", box_xyxy=(1, 1, 8, 9), score=0.8, source="model:b@1")
    alone = Claim(category="dice", box_xyxy=(20, 20, 30, 30), score=0.9, source="model:b@1")
    assert resolve([KNIFE]).state is State.AUTO
    assert {c.category for c in resolve([KNIFE, other, alone]).labels} == {"knife"}
    assert resolve([KNIFE, Claim(says="empty", source="human:ann")]).state is State.CONFIRMED_EMPTY


def test_looked_and_found_nothing_is_not_nobody_looked() -> None:
    assert resolve([]).state is State.UNLABELLED
    assert resolve([Claim(says="empty", source="model:a@1")]).state is State.AUTO
    assert resolve([Claim(says="empty", source="import:coco.json")]).state is State.CONFIRMED_EMPTY


def test_people_who_disagree_make_a_dispute_and_a_later_round_replaces_an_earlier_one() -> None:
    ann = Claim(category="knife", box_xyxy=(1, 1, 8, 8), source="human:ann", evidence={"round": 1})
    bob = Claim(says="empty", source="human:bob")
    assert resolve([ann, bob]).state is State.DISPUTED
    assert (
        resolve([ann, bob, Claim(says="empty", source="human:ann", evidence={"round": 2})]).state
        is State.CONFIRMED_EMPTY
    )


def id_of(n: int) -> str:
    return hashlib.sha256(str(n).encode()).hexdigest()


def result_of(n: int) -> Result:
    return Result(claims=(KNIFE,), columns={"n": n, "text": np.random.default_rng(n).bytes(1000).hex()})


def grow(table: Table, appends: int, rows: int = 40) -> None:
    for first in range(len(table), len(table) + appends * rows, rows):
        table.append([result_row(id_of(n), result_of(n), "") for n in range(first, first + rows)])


def test_a_table_that_grows_writes_each_row_a_few_times_at_most(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # what a hundred million rows do, at a hundredth of the sizes
    for name, value in {"COMPACT_EVERY": 10, "FRAGMENT_ROWS": 400, "INDEX_FROM_ROWS": 5000}.items():
        monkeypatch.setattr(tables, name, value)
    table, written, pinned = Table(tmp_path / "t.lance", RESULT), [], {}
    for _ in range(4):
        grow(table, 40)
        pinned[table.lance_version] = len(table)
        written.append(sum(path.stat().st_size for path in (tmp_path / "t.lance" / "data").iterdir()))
    assert written[2] / written[0] < 3.5  # all rows again after every tenth append makes it above 5
    grow(table, 40)
    grow(table, 7)
    assert [n for ids in table.ids() for n in ids] == [id_of(n) for n in range(8280)]
    rows = table.get([id_of(n) for n in range(0, 8280, 9)], ["columns", "claims"])
    assert all(json.loads(rows[id_of(n)]["columns"]) == result_of(n).columns for n in range(0, 8280, 9))
    for version, count in pinned.items():
        assert len(Table(tmp_path / "t.lance", RESULT, version)) == count


def test_what_the_pool_compacted_away_goes_once_nobody_can_be_reading_it(
    work: Work, monkeypatch: pytest.MonkeyPatch
) -> None:
    files = work.dataset.root / "pool.lance" / "data"
    work.add("a", noise_samples(40), commit_rows=1)
    assert len(list(files.iterdir())) == 40
    work.dataset.pool.optimize()
    assert len(list(files.iterdir())) == 41
    monkeypatch.setattr(tables, "READERS_HAVE", timedelta(0))
    work.dataset.pool.optimize()
    assert len(list(files.iterdir())) == 1
    assert sum(len(sample.pixels()) > 0 for sample in work.dataset.samples()) == 40


def test_a_look_up_reads_the_images_that_it_is_asked_for_and_no_others(
    work: Work, monkeypatch: pytest.MonkeyPatch
) -> None:
    def read_so_far() -> int:
        return int(Path("/proc/self/io").read_text().split()[1])

    monkeypatch.setattr(tables, "INDEX_FROM_ROWS", 50)
    work.add("a", [NewSample(data=noise_image(n, 80), origin={}) for n in range(60)])
    work.dataset.pool.optimize()
    work.add("b", [NewSample(data=noise_image(n, 80), origin={}) for n in range(60, 260)])  # 4 MB that no index covers
    ids = [i for some in work.dataset.ids() for i in some]
    some = [ids[3], ids[100]]
    work.dataset.pool.get(some, ["data"])
    before = read_so_far()
    assert len(work.dataset.pool.get(some, ["data"])) == 2
    assert read_so_far() - before < 1e6
