"""The view says what the tables say, whichever way it came about."""

import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
from noise import noise_image, noise_samples
from places import PARTS, POLICY
from told import BOX, drawn, told_by_tables, told_by_view

from tilth.claims import Claim
from tilth.data import making, stored
from tilth.data import rows as view_rows
from tilth.data.dataset import Dataset
from tilth.data.table import result_row
from tilth.data.where import SOMETIMES, check_named, quoted, translate, unmeasured
from tilth.engine.apply import Apply
from tilth.engine.work import Work
from tilth.errors import InputError
from tilth.samples import NewSample, Result


def same(dataset: Dataset) -> bool:
    """Compare the view with the tables, and with a view made from nothing; order and all."""
    grown = list(told_by_view(dataset).items())
    shutil.rmtree(dataset.root / "view")
    fresh = list(told_by_view(Dataset(dataset.root, dataset.at.number)).items())
    assert [id_ for id_, _ in grown] == [id_ for id_, _ in fresh]
    return grown == fresh == list(told_by_tables(dataset).items())


@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize("small", [True, False], ids=["upserts", "whole"])
def test_a_view_that_grew_table_by_table_says_what_the_tables_say(
    work: Work, seed: int, small: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    for module, name, value in (
        (stored, "CHUNK_ROWS", 7),
        (making, "CHUNK_ROWS", 7),
        (stored, "WINDOW_ROWS", 5),
        (making, "UPSERT_SHARE", 10.0 if small else -1.0),
        (making, "INDEX_FROM_ROWS", 20),
    ):
        monkeypatch.setattr(module, name, value)
    rng = np.random.default_rng(seed)
    for step in range(6):
        work.name = f"step{step}"
        if step in (0, 3):
            work.add(
                f"k{step}", (NewSample(data=noise_image(int(n)), origin={"source": str(n)}) for n in rng.choice(40, 25))
            )
        elif step == 4:
            work.dataset.rollback(2, work.now())
        else:
            Apply.to(work, drawn(rng, [i for some in work.dataset.ids() for i in some]))
        if rng.random() < 0.7:
            work.dataset.count()  # so that some views grow by several tables at once
    people = work.dataset.table("people")
    ids = [i for some in work.dataset.ids() for i in some]
    for _ in range(2):  # a table that grows and changes, as answers of people do
        people.replace([result_row(i, r, "") for i, r in drawn(rng, ids, 0.3).items()])
        work.dataset.attach("people", people, "pull", work.now())
        work.dataset.count()
        Apply.to(work, drawn(rng, ids, 0.2))
    assert same(work.dataset)


def test_a_dataset_is_asked_in_sql(work: Work) -> None:
    work.add("a", noise_samples(6))
    ids = [i for some in work.dataset.ids() for i in some]
    split = {i: Result(columns={"split": "test" if n < 2 else "train"}) for n, i in enumerate(ids)}
    Apply.to(work, split)
    work.name = "look-1"
    knife = Claim(category="knife", box_xyxy=BOX, score=0.5, source="model:a@1")
    Apply.to(
        work,
        {i: Result(claims=(knife,), columns={"q.sharp": n / 10, "look-1.seen": [1, 2]}) for n, i in enumerate(ids[:4])},
    )
    work.name = "filter"
    Apply.to(work, {ids[3]: Result(dropped="too plain")})
    data = work.dataset
    assert data.count() == 5
    assert data.count(dropped=True) == 6
    assert data.count("state = 'auto' and split != 'test'") == 1
    assert data.count("array_has(categories, 'knife') and q.sharp >= 0.1") == 2
    assert data.count("`look-1.seen` is not null") == 3
    assert data.count("`look-1.seen` > 1 and source = '1.png'") == 1
    assert data.count("never.measured is null") == 5
    assert data.count(f"source = {quoted('0.png')}") == 1
    assert data.tally("state", "split") == {("auto", "test"): 2, ("unlabelled", "train"): 2, ("auto", "train"): 1}
    assert list(data.cells("q.sharp", "nothing.such", where="split = 'test'")) == [(0.0, None), (0.1, None)]
    assert next(iter(data.samples(f"id = '{ids[0]}'", images=False))).columns["look-1.seen"] == [1, 2]
    assert [s.id for s in data.samples(ids=[ids[5], ids[0]])] == [ids[0], ids[5]]
    for name in SOMETIMES:  # a step may write it, but had nothing to say here
        assert data.count(f"{name} > 0") == data.count(f"{name} = 'photo'") == 0
        assert data.count(f"{name} is null") == 5
        assert data.tally(name) == {(None,): 5}
        check_named(f"`{name}`", data.view.columns.names(), "--by")
    with pytest.raises(InputError, match=r"cannot ask for 'lft_out > 0'"):
        data.count("lft_out > 0")
    with pytest.raises(InputError, match=r"cannot ask for 'sharpnes > 2'.*there are: .*q\.sharp"):
        data.count("sharpnes > 2")
    with pytest.raises(
        InputError, match=r"rule 'q\.sharpp > 2': no sample has a column 'q\.sharpp'; did you mean 'q\.sharp'"
    ):
        check_named("q.sharpp > 2", data.view.columns.names(), "rule")


def test_a_name_that_was_never_measured_is_told_and_a_slip_of_the_pen_refused() -> None:
    known = {"quality.sharpness": "", "mine.rank": "", "look-1.seen": "", "state": ""}
    asked = "mine.itm > 0.5 and quality.sharpness > 1 and dedup.group is not null and left_out > 0 and state = 'a.b'"
    assert unmeasured(asked, known) == ["mine.itm", "dedup.group"]
    for slip, meant in (("quality.sharpnes > 2", "quality.sharpness"), ("`mine.rnk` > 2", "mine.rank")):
        with pytest.raises(InputError, match=rf"no sample has a column '.*'; did you mean '{meant}'\?"):
            unmeasured(slip, known)


def test_names_within_literals_are_left_alone() -> None:
    known = {"a.b": "m_a__b", "state": "state"}
    assert translate("a.b = 'a.b' or state = 'it''s a.b'", known) == "`m_a__b` = 'a.b' or `state` = 'it''s a.b'"


def test_two_names_never_share_a_column() -> None:
    columns = view_rows.Columns()
    names = ["a.b", "a__b", "a-b", "a_b", "ab", "a.b_", "Ä.b", "a b"]
    assert len({columns.column(name).lower() for name in names}) == len(names)


def test_a_column_that_changes_its_kind_keeps_every_value(work: Work) -> None:
    work.add("a", noise_samples(4))
    ids = [i for some in work.dataset.ids() for i in some]
    for n, value in enumerate([1, 2.5, "three", [4]]):
        work.name = f"s{n}"
        Apply.to(work, {ids[n]: Result(columns={"odd": value})})
        assert work.dataset.count("odd is not null") == n + 1
    assert [s.columns["odd"] for s in work.dataset.samples(images=False)] == [1, 2.5, "three", [4]]
    assert same(work.dataset)


def test_a_deleted_or_damaged_view_is_made_again(work: Work) -> None:
    work.add("a", noise_samples(3))
    assert work.dataset.count() == 3
    shutil.rmtree(work.dataset.root / "view" / "rows.lance")
    assert Dataset(work.dataset.root).count() == 3
    for damage in ("{", "{}", "[]", '{"refs": [{}]}'):
        for path in (work.dataset.root / "view").glob("*.json"):
            path.write_text(damage)
        assert Dataset(work.dataset.root).count() == 3


def test_readers_of_an_old_version_keep_it_while_the_dataset_grows(work: Work) -> None:
    work.add("a", noise_samples(5))
    old = Dataset(work.dataset.root)
    reading = old.samples(images=False)
    first = next(reading)
    other = work.dataset.checkout(1)
    work.add("b", noise_samples(9))
    assert (old.count(), other.count(), work.dataset.count()) == (5, 5, 9)
    assert len({first.id, *(s.id for s in reading)}) == 5


JOB = """
import sys
from pathlib import Path
sys.path.insert(0, {tests!r})
from noise import noise_samples
from tilth.claims import Claim
from tilth.data import making
from tilth.data.dataset import Dataset
from tilth.engine.apply import Apply
from tilth.engine.work import Work
from tilth.events import Events
from tilth.policy import load_policy
from tilth.samples import Result
making.CHUNK_ROWS = 16  # so that a view takes many writes
root = Path(sys.argv[1])
work = Work(name="test", dataset=Dataset(root / "dataset"), policy=load_policy(Path({policy!r})), folder=root,
            events=Events(root / "e.jsonl"))
if work.dataset.at.number < 2:
    work.add("a", noise_samples(400))
    ids = [i for some in work.dataset.ids() for i in some]
    knife = Claim(category="knife", source="model:a@1")
    work.name = "look"
    Apply.to(work, {{i: Result(claims=(knife,), columns={{"n": n}}) for n, i in enumerate(ids)}})
print("writing", flush=True)
print(work.dataset.count("array_has(categories, 'knife')"))
"""


def test_a_kill_while_a_view_is_written_loses_nothing(tmp_path: Path) -> None:
    code = JOB.format(tests=str(PARTS), policy=str(POLICY))
    killed = 0
    for wait_s in (0.0, 0.05, 0.1, 0.15, 0.2):
        with subprocess.Popen(
            [sys.executable, "-c", code, str(tmp_path)], stdout=subprocess.PIPE, text=True
        ) as process:
            assert process.stdout is not None
            assert process.stdout.readline() == "writing\n"
            time.sleep(wait_s)
            os.kill(process.pid, signal.SIGKILL)
            killed += process.stdout.read() == ""
        if killed < 2:  # whatever was finished before is made once more
            shutil.rmtree(tmp_path / "dataset" / "view", ignore_errors=True)
    assert killed, "no kill came while a view was written"
    done = subprocess.run([sys.executable, "-c", code, str(tmp_path)], capture_output=True, text=True, check=True)
    assert done.stdout == "writing\n400\n"
    assert same(Dataset(tmp_path / "dataset"))
