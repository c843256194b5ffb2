"""The nights in Dagster: its own executor runs the assets, and its own contexts the sensor, of the file that the documents name."""

import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from dagster_file import definitions
from nightly import END
from places import POLICY, ROOT

from tilth.annotate.review.ledger import Ledger
from tilth.data.files import alone
from tilth.runtime.bundles.champion import Champion
from tilth.starter.world.files import write_world

RECIPE = """
recipe: nightly
policy: {policy}
dataset: data
variables: {{world: world, champion: champion, max_ece: "1"}}
steps:
  - import: {{path: world/labelled, format: coco, empty_means: confirmed_empty}}
  - split
  - changed
  - train.classifier: {{steps: 2, batch_size: 4}}
{end}"""


@pytest.fixture
def load(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[], Any]:
    """Load the file as one that is told by the environment where everything lies."""
    monkeypatch.setenv("TILTH_RECIPE", "nightly.yaml")
    monkeypatch.setenv("TILTH_DATASET", "data")
    monkeypatch.setenv("TILTH_FOLDER", str(tmp_path))
    monkeypatch.setenv("TILTH_PROGRAM", f"{sys.executable} -m tilth.pipeline.cli.main")
    return lambda: definitions(monkeypatch)


def but(file: Any, **settings: Any) -> Any:
    """Return what the environment says of the nights, with some settings in the place of it."""
    return file.Nights(**{**file.defs.resources["nights"].model_dump(), **settings})


def night(file: Any, **settings: Any) -> Any:
    """Run the job in this process, and return what it came to."""
    nights = but(file, **settings)
    return file.defs.resolve_job_def("nightly").execute_in_process(resources={"nights": nights}, raise_on_error=False)


def noted(done: Any, asset: str) -> dict[str, Any]:
    """Return the metadata of what was materialised of an asset in a run; empty when nothing was."""
    made = [e.materialization for e in done.get_asset_materialization_events() if e.asset_key.path == [asset]]
    assert len(made) <= 1
    return {name: value.value for one in made for name, value in one.metadata.items()}


def checks(done: Any) -> dict[str, tuple[bool, str]]:
    return {one.check_name: (one.passed, str(one.description)) for one in done.get_asset_check_evaluations()}


def test_a_night_is_an_asset_its_champion_another_and_a_refusal_a_check_that_fails(
    tmp_path: Path, load: Callable[[], Any]
) -> None:
    file = load()
    write_world(tmp_path / "world", labelled=24, corpus=1, test=24, workers=1)
    (tmp_path / "nightly.yaml").write_text(RECIPE.format(end=END, policy=POLICY))
    champion = Champion(tmp_path / "champion")

    done = night(file)
    assert done.success
    assert champion.bundle is not None
    assert noted(done, "night")["outcome"] == "done"
    assert Path(noted(done, "night")["report"]).exists()
    assert done.run_id[:8] in noted(done, "night")["folder"]
    promoted = noted(done, "champion")
    assert (promoted["bundle"], promoted["instead_of"]) == (champion.bundle.name, "nothing")
    assert Path(promoted["champion"]) == champion.folder
    assert 0 <= promoted["recall_at_fpr05"] <= 1
    assert checks(done)["gate"] == (True, promoted["why"])

    done = night(file)
    assert done.success
    assert noted(done, "night")["outcome"] == "stopped"
    assert "nothing to learn is new since" in noted(done, "night")["message"]
    assert (noted(done, "champion"), set(checks(done))) == ({}, {"came_to_an_end"})

    before = champion.bundle
    done = night(file, options="--set max_ece=0.0001")
    assert done.success, "what the gate refuses is no failure"
    assert champion.bundle == before
    assert noted(done, "champion") == {}
    told = noted(done, "night")
    assert told["outcome"] == "refused"
    assert {"f1", "f1_before", "recall_at_fpr05_before"} <= set(told)
    passed, why = checks(done)["gate"]
    assert not passed
    assert "its chances are off" in why

    with alone(tmp_path / "data"):
        done = night(file, tries=1, wait_minutes=0)
    assert done.success, "nor is a night that has to wait"
    assert [e.event_type_value for e in done.all_events].count("STEP_UP_FOR_RETRY") == 1
    assert (noted(done, "night"), checks(done)["came_to_an_end"][0]) == ({}, False)

    done = night(file, recipe="none.yaml")
    assert not done.success
    [failed] = [e for e in done.all_events if e.event_type_value == "STEP_FAILURE"]
    assert "wrong input: " in failed.step_failure_data.user_failure_data.description


def test_a_night_is_asked_for_once_when_people_have_answered_and_at_two(
    tmp_path: Path, load: Callable[[], Any]
) -> None:
    file = load()
    import dagster

    instance = dagster.DagsterInstance.ephemeral()

    def tick(cursor: str | None, **settings: Any) -> Any:
        nights = but(file, **{"quiet_minutes": 0, **settings})
        context = dagster.build_sensor_context(instance=instance, cursor=cursor, resources={"nights": nights})
        return file.new_answers.evaluate_tick(context)

    assert "nothing was answered" in tick(None).skip_message
    ledger = Ledger(path=tmp_path / "data" / "review.json")  # as `tilth review pull` leaves it beside the nights
    ledger.save()
    assert tick(None).run_requests == []
    ledger.pulled = ["a"]
    ledger.save()
    assert "somebody is answering" in tick(None, quiet_minutes=10).skip_message
    asked = tick(None)
    assert len(asked.run_requests) == 1
    again = tick(asked.cursor)
    assert again.run_requests == []
    assert "asked for already" in again.skip_message
    ledger.pulled = []  # a night has counted it
    ledger.save()
    assert tick(asked.cursor).run_requests == []
    ledger.pulled, ledger.seen_until = ["b"], "2026-11-30T12:00:00Z"
    ledger.save()
    assert tick(asked.cursor).run_requests[0].run_key != asked.run_requests[0].run_key

    ledger.project, ledger.url = 1, "http://127.0.0.1:9"
    ledger.save()
    assert "Label Studio does not answer" in tick(None).skip_message
    instance.add_run(dagster.DagsterRun(job_name="nightly", status=dagster.DagsterRunStatus.STARTED))
    assert "a night is at work" in tick(None).skip_message

    schedule = file.defs.resolve_schedule_def("every_night")
    assert (schedule.cron_schedule, schedule.job_name) == ("0 2 * * *", "nightly")
    assert f"`{schedule.cron_schedule}`" in (ROOT / "docs" / "retrain.md").read_text()
