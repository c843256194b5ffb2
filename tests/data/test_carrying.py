"""What old tables of a dataset say is carried forward into few, and nobody can tell."""

import random
import signal
import subprocess
import sys
import time
from dataclasses import replace

import numpy as np
import pytest
from noise import noise_image, noise_samples
from told import BOX, drawn, told_by_view

from tilth.claims import Claim, Truth
from tilth.data.carrying import LETTING_GO, carry, let_go
from tilth.data.dataset import Dataset
from tilth.data.table import TableRef
from tilth.engine.apply import Apply
from tilth.engine.work import Work
from tilth.errors import InputError
from tilth.samples import NewSample, Result

NIGHT = ("mine", "look", "filter", "people")


def nights(work: Work, rng: np.random.Generator, first: int, last: int) -> None:
    """Each night images come, a model decides anew about all, and people say something."""
    for night in range(first, last):
        work.name = "mine"
        come = (int(n) for n in rng.choice(60, 8, replace=False))
        work.add(f"k{night}", [NewSample(data=noise_image(n), origin={"source": str(n)}) for n in come])
        ids = [i for some in work.dataset.ids() for i in some]
        work.name = "look"
        knife = {
            "category": "knife",
            "box_xyxy": BOX,
            "source": "model:t@1",
            "asked": ("knife", "dice"),
            "policy": "p@1",
        }
        look = {
            i: Result(claims=(Claim(evidence={"round": "same"}, **knife),), columns={"look.night": night}) for i in ids
        }  # type: ignore[arg-type]
        Apply.to(work, look)
        for work.name in ("filter", "people"):
            Apply.to(work, drawn(rng, ids, 0.4))


def meant(dataset: Dataset) -> list[tuple[object, ...]]:
    """What is understood of each sample, in order: everything but what models said and nothing depends on."""

    def plain(truth: Truth) -> tuple[object, ...]:
        return truth.state, tuple(truth.labels), truth.looked, truth.silent

    return [
        (id_, [claim for claim in claims if claim.kind != "model"], columns, sorted(drops), plain(truth))  # type: ignore[attr-defined, call-overload, arg-type]
        for id_, (claims, columns, drops, truth) in told_by_view(dataset).items()
    ]


def but_last(work: Work, kept: int = 3) -> set[str]:
    return {ref.name for ref in work.dataset.at.tables[:-kept]}


@pytest.mark.parametrize("seed", range(4))
def test_what_is_carried_forward_is_understood_as_before_night_after_night(work: Work, seed: int) -> None:
    rng = np.random.default_rng(seed)
    work.name = "standing"
    work.add("all", noise_samples(12))  # used every night
    for night in range(0, 8, 2):
        nights(work, rng, night, night + 2)
        before, tables, at = meant(work.dataset), len(work.dataset.at.tables), work.dataset.at.number
        ids = [str(row[0]) for row in before]
        came = work.dataset.came_with(ids)
        old = but_last(work) - {"standing-all"}
        assert carry(work.dataset, old, "now") > 1
        assert meant(work.dataset) == before
        assert len(work.dataset.at.tables) < min(tables, 9)
        again = work.dataset.came_with(ids)
        assert all((came[a] < came[b]) == (again[a] < again[b]) for a in ids for b in ids)
        assert meant(work.dataset.checkout(at)) == before, "what was there before is there still"
        claims = [len(s.claims) for s in work.dataset.samples(images=False, dropped=True)]
    assert max(claims) < 24, "and models are not remembered for saying the same each night"
    assert carry(work.dataset, old, "now") == 0


def test_old_versions_are_let_go_of_and_kept_ones_can_be_gone_back_to(work: Work) -> None:
    rng = np.random.default_rng(0)
    nights(work, rng, 0, 2)
    work.dataset.tag("good")
    good, first = meant(work.dataset), work.dataset.at.number
    nights(work, rng, 2, 4)
    carry(work.dataset, but_last(work), "now")
    kept, whole = work.dataset.at.number, meant(work.dataset)
    assert let_go(work.dataset, kept, but=[2]) == kept - 3
    assert let_go(work.dataset, kept, but=[2]) == 0
    assert work.dataset.checkout(2).count(dropped=True) == 8
    assert let_go(work.dataset, kept) == 1
    assert [v.number for v in work.dataset.history()] == [first, kept]
    listed = {ref.name for v in work.dataset.history() for ref in v.tables}
    assert {path.stem for path in (work.dataset.root / "results").iterdir()} == listed
    with pytest.raises(InputError, match=f"no version 1; there are {first}, {kept}"):
        work.dataset.checkout(1)
    assert meant(Dataset(work.dataset.root)) == whole
    work.dataset.rollback("good", "now")
    assert meant(Dataset(work.dataset.root)) == good


CARRY = """
import sys
from pathlib import Path
from tilth.data.carrying import carry, let_go
from tilth.data.dataset import Dataset
dataset = Dataset(Path(sys.argv[1]))
print("now", flush=True)
carry(dataset, sys.argv[2].split(), "now")
let_go(dataset, dataset.at.number)
"""


def test_it_can_be_killed_at_any_moment(work: Work) -> None:
    nights(work, np.random.default_rng(1), 0, 6)
    whole, old = meant(work.dataset), " ".join(sorted(but_last(work)))
    draw, took, ended = random.Random(1), 1.0, False
    for attempt in range(12):
        words = [sys.executable, "-c", CARRY, str(work.dataset.root), old]
        process = subprocess.Popen(words, stdout=subprocess.PIPE)
        assert process.stdout is not None
        process.stdout.readline()
        began = time.monotonic()
        try:
            process.wait(draw.uniform(0, took) if attempt < 5 else None)
        except subprocess.TimeoutExpired:
            process.send_signal(signal.SIGKILL)
        ended = process.wait() == 0
        process.stdout.close()
        assert meant(Dataset(work.dataset.root)) == whole, f"killed after {time.monotonic() - began:.2f} s"
        if ended:
            break
    assert ended
    data = Dataset(work.dataset.root)
    assert len(data.history()) == 1
    assert not (data.root / LETTING_GO).exists()
    assert {path.stem for path in (data.root / "results").iterdir()} == {ref.name for ref in data.at.tables}


def test_what_failed_and_was_done_later_has_not_failed(work: Work) -> None:
    work.add("a", noise_samples(3))
    ids = [i for some in work.dataset.ids() for i in some]
    first, then = {ids[0]: "failed", ids[1]: "failed", ids[2]: "dropped"}, dict.fromkeys(ids[1:], "ok")
    for name, rows in (("x", first), ("y", then)):
        table = work.dataset.table(f"look-{name}")
        blank = {"claims": [], "columns": "", "nested": ""}
        why = {"ok": "", "failed": "why", "dropped": "why"}
        table.append([{"id": i, "status": s, "reason": why[s], **blank} for i, s in rows.items()])
        work.dataset.attach("look", table, "", "")
    names = {"look-x", "look-y"}
    assert carry(work.dataset, names, "now") == 2
    [left] = [ref for ref in work.dataset.at.tables if ref.carried]
    assert replace(left, name="", lance_version=1) == TableRef(step="look", name="", lance_version=1)
    table = work.dataset.table(left.name, left.lance_version)
    assert table.failures() == [(ids[0], "why")]
    assert table.counts() == {"dropped": 1, "failed": 1}
    assert [s.drops for s in work.dataset.samples(images=False, dropped=True)] == [(), (), (("look", "why"),)]
