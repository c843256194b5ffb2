"""A dataset that outlives many nights stays as small as what is still to be known of it, and learns from people as if it forgot nothing."""

import json
from pathlib import Path
from typing import Any

import pytest
from noise import noise_samples
from places import POLICY

from tilth.annotate.review.pull import PEOPLE_SAY
from tilth.data.dataset import Dataset
from tilth.data.table import result_row
from tilth.engine.recipe import load_recipe
from tilth.engine.work import Work
from tilth.errors import InputError
from tilth.pipeline import forward
from tilth.pipeline.run import Run
from tilth.pipeline.steps.retraining import Promote
from tilth.pipeline.table import step_table
from tilth.samples import Result
from tilth.starter.world.files import write_world

RECIPE = """
recipe: nightly
policy: {policy}
dataset: {here}/data
steps:
  - import: {{path: {world}/labelled, format: coco, empty_means: confirmed_empty}}
  - as: images
    import: {{path: {world}/corpus}}
  - ground: {{threshold: 0.3, relabel: true}}
  - hash
  - dedup
  - as: scores
    relabel: {{}}
  - review: {{backend: simulated, truth: {world}/truth.jsonl, budget: 4, wait: false}}
  - relabel: {{}}
"""
NIGHTS = 4


def night(here: Path, world: Path, number: int) -> dict[str, Any]:
    """Run a night, and return what is known after it, and what answers have taught."""
    here.mkdir(exist_ok=True)
    recipe = here / "nightly.yaml"
    recipe.write_text(RECIPE.format(policy=POLICY, here=here, world=world))
    folder = Run(load_recipe(recipe, step_table()), here / "runs" / str(number)).execute()
    steps = json.loads((folder / "summary.json").read_text())["steps"]
    return {
        "learned": [steps[n]["facts"]["curves"] for n in ("scores", "relabel")],
        "known": known(Dataset(here / "data")),
    }


def known(data: Dataset) -> list[Any]:
    return [
        (
            s.id,
            s.state,
            [(c.category, c.box_xyxy, c.score) for c in s.truth.labels],
            s.chances,
            s.drops,
            s.columns.get("review.why"),
        )
        for s in data.samples(images=False, dropped=True)
    ]


def test_what_is_learned_is_the_same_and_what_is_kept_does_not_grow(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    world = tmp_path / "world"
    write_world(world, labelled=12, corpus=24, test=1, workers=1)
    monkeypatch.setattr(forward, "KEPT_NIGHTS", 2)
    tables, claims, ends = [], [], []
    for number in range(NIGHTS):
        told = []
        for name, most in (("carried", 3), ("grown", 10**6)):
            monkeypatch.setattr(forward, "MOST_TABLES", most)
            told.append(night(tmp_path / name, world, number))
        assert told[0] == told[1], f"after night {number}"
        data = Dataset(tmp_path / "carried" / "data")
        tables.append(len(data.at.tables))
        claims.append(max(len(s.claims) for s in data.samples(images=False, dropped=True)))
        ends.append((data.at.number, told[0]["known"]))
    assert max(tables) <= 13, tables
    assert max(claims[2:]) <= max(claims[:2]), claims
    assert len(Dataset(tmp_path / "grown" / "data").at.tables) > max(tables) + 4
    listed = {ref.name for version in data.history() for ref in version.tables if ref.lance_version}
    assert {path.stem for path in (data.root / "results").iterdir()} == listed
    assert data.checkout(ends[-2][0]).count(dropped=True) == 36
    data.rollback(ends[-2][0], "now")
    assert known(Dataset(data.root)) == ends[-2][1], "the night before can be gone back to"
    with pytest.raises(InputError, match="no version 1; there are"):
        data.checkout(1)
    night(tmp_path / "carried", world, NIGHTS)
    assert sum(s.labelled_by_people for s in Dataset(data.root).samples(images=False, dropped=True)) > 12 + 4 * (
        NIGHTS - 2
    )


def test_what_a_bundle_was_made_from_that_can_be_put_into_use_again_is_kept(tmp_path: Path) -> None:
    for name, manifest in (("1", {"dataset_version": 3}), ("2", {"dataset_version": 9}), ("3", {})):
        (tmp_path / "champion" / "bundles" / name).mkdir(parents=True)
        (tmp_path / "champion" / "bundles" / name / "bundle.json").write_text(json.dumps(manifest))
    data = Dataset(tmp_path / "data")
    for number in range(12):
        data.commit(str(number), "", ())
    steps = {"promote": Promote(champion=tmp_path / "champion")}
    ends = {str(night): number for night, number in enumerate(range(2, 12))}
    for ends_at, gone, left in (
        (ends, 2, [*range(3, 13)]),
        ({n: e + 6 for n, e in ends.items()}, 5, [3, *range(9, 13)]),
    ):
        (data.root / forward.ENDS).write_text(json.dumps(ends_at))
        assert forward.forget(data, "tonight", {}, steps, "now") == (0, gone)
        assert [version.number for version in data.history()] == left


def test_what_steps_of_others_left_and_what_people_say_is_left_alone(
    work: Work, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(forward, "MOST_TABLES", 2)
    work.add("a", noise_samples(3))
    ids = [i for some in work.dataset.ids() for i in some]
    for step, name in (
        ("look", "look-1"), ("look", "look-2"), ("theirs", "theirs-1"), ("review", f"review{PEOPLE_SAY}x-1"), ("look", "look-3"),
    ):  # fmt: skip
        table = work.dataset.table(name)
        table.append([result_row(i, Result(columns={f"{step}.x": name}), "") for i in ids])
        work.dataset.attach(step, table, "", "")
    used = {"look": ["look-3"], "review": [], work.name: [f"{work.name}-a"]}
    assert forward.forget(work.dataset, "tonight", used, {}, "now") == (2, 0)
    first, carried, *rest = [ref.name for ref in work.dataset.at.tables]
    assert [first, *rest] == [f"{work.name}-a", "theirs-1", f"review{PEOPLE_SAY}x-1", "look-3"]
    assert carried.startswith("carried-")
    assert [s.columns["look.x"] for s in work.dataset.samples(images=False)] == ["look-3"] * 3
