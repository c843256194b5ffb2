"""Nights of `tilth retrain` in Dagster: two assets, a check, a schedule and a sensor on what people answered.

    dagster dev -f docs/dagster_nights.py

A file to copy and to adapt (docs/retrain.md, "Dagster"). It starts `tilth` as a program, so that Dagster may live in an environment of its
own; what is where is said by the environment variables at the end, or by another `Nights` in their place.
"""

import json
import os
import shlex
import subprocess
import sys
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import dagster as dg

BESIDE = Path(sys.executable).with_name("tilth")  # in the environment of Dagster, if it is there
NUMBERS = ("recall_at_fpr05", "f1", "map50")
KEY = "LABEL_STUDIO_API_KEY"
TRY_AGAIN, REFUSED, INTERRUPTED = 75, 3, (130, 143)
NIGHT, CHAMPION = dg.AssetKey("night"), dg.AssetKey("champion")
AT_WORK = [getattr(dg.DagsterRunStatus, name) for name in ("NOT_STARTED", "QUEUED", "STARTING", "STARTED")]
# tasks that people have worked on, a skip among them
ANSWERED = [
    {"filter": f"filter:tasks:{name}", "operator": "greater", "type": "Number", "value": 0}
    for name in ("total_annotations", "cancelled_annotations")
]


class Nights(dg.ConfigurableResource):  # type: ignore[type-arg]
    """What is run every night, and where.

    Args:
        recipe: For `tilth retrain`.
        dataset: The one that the recipe names; the sensor looks at its notes of the review.
        folder: In which the program runs: what the recipe says of places is seen from here.
        program: Command line of `tilth`, with whatever stands before it.
        options: More of `tilth retrain`, such as `--set k=v --device cuda`.
        tries: How often a night that had to wait is tried again before it is left to the next.
        wait_minutes: Between two tries.
        quiet_minutes: How long nobody must have answered before the sensor asks for a night.
    """

    recipe: str
    dataset: str
    folder: str = "."
    program: str = "tilth"
    options: str = ""
    tries: int = 8
    wait_minutes: float = 30
    quiet_minutes: float = 30

    def retrain(self, night: str) -> dict[str, Any]:
        """Run a night to its end, or go on with one that did not end, and return what it says of itself.

        Raises:
            Failure: It said nothing: it was killed, or is no `tilth`.
        """
        command = [*shlex.split(self.program), "retrain", self.recipe, "--night", night, *shlex.split(self.options)]
        # its progress goes to our standard error, which Dagster keeps with the run
        try:
            process = subprocess.Popen(command, cwd=self.folder, stdout=subprocess.PIPE, text=True)
        except OSError as error:
            why = f"{command[0]} cannot be started in {self.folder} ({error}); set TILTH_PROGRAM and TILTH_FOLDER"
            raise dg.Failure(why, allow_retries=False) from error
        try:
            said, _ = process.communicate()
        except BaseException:  # Dagster ends this run: so does the night, which can be gone on with
            process.terminate()
            process.wait()
            raise
        try:
            told: dict[str, Any] = json.loads(said)
        except ValueError:
            why = f"{shlex.join(command)} ended with {process.returncode} and said no JSON: {said[-200:]!r}; the next night goes on"
            raise dg.Failure(why, allow_retries=False) from None
        return told

    def steps(self, told: dict[str, Any], kind: str) -> list[dict[str, Any]]:
        """Return what the steps of a kind found in a night, as its folder says."""
        path = Path(self.folder, str(told.get("run")), "summary.json")
        steps = json.loads(path.read_text())["steps"].values() if path.exists() else ()
        return [step["facts"] for step in steps if step["kind"] == kind]

    def answers(self) -> tuple[str, datetime] | None:
        """Say what people answered since a night, or `tilth review pull`, last took it in, and when; None when there is nothing.

        One small file is read and one request sent, of one row. An answer that was deleted waits for the night.
        """
        path = Path(self.folder, self.dataset, "review.json")
        if not path.exists():  # nothing was put before people yet
            return None
        notes = json.loads(path.read_text())
        taken = len(notes["pulled"])  # by hand, and by no night yet
        newest = self._newest(notes["url"], notes["project"]) if notes["project"] else ""
        if newest and (not notes["seen_until"] or _time(newest) > _time(notes["seen_until"])):
            return f"project {notes['project']}: {newest}", _time(newest)
        at = datetime.fromtimestamp(path.stat().st_mtime, UTC)
        return (f"project {notes['project']}: {notes['seen_until']}, {taken} pulled", at) if taken else None

    def _newest(self, url: str, project: int) -> str:
        """Ask Label Studio when a task that people have worked on last changed."""
        key = os.environ.get(KEY, "")
        if key.count(".") == 2:  # a personal token, which only opens others
            body = json.dumps({"refresh": key}).encode()
            key = "Bearer " + _ask(f"{url}/api/token/refresh", {"Content-Type": "application/json"}, body)["access"]
        query = {"filters": {"conjunction": "or", "items": ANSWERED}, "ordering": ["-tasks:updated_at"]}
        wanted = {"project": project, "page_size": 1, "include": "id,updated_at", "query": json.dumps(query)}
        authorization = key if key.startswith("Bearer ") else f"Token {key}"
        listed = _ask(f"{url}/api/tasks?{urllib.parse.urlencode(wanted)}", {"Authorization": authorization})
        return str(listed["tasks"][0]["updated_at"]) if listed["tasks"] else ""


def _ask(url: str, headers: dict[str, str], body: bytes | None = None) -> Any:
    with urllib.request.urlopen(urllib.request.Request(url, body, headers), timeout=20) as answer:
        return json.load(answer)


def _time(text: str) -> datetime:
    return datetime.fromisoformat(text).astimezone(UTC)


@dg.multi_asset(
    specs=[
        dg.AssetSpec(NIGHT, skippable=True, description="A run of the recipe over its dataset, with its report."),
        dg.AssetSpec(CHAMPION, skippable=True, deps=[NIGHT], description="The bundle in use."),
    ],
    check_specs=[
        dg.AssetCheckSpec("gate", asset=NIGHT, description="The challenger is not worse than the champion."),
        dg.AssetCheckSpec("came_to_an_end", asset=NIGHT, description="Nothing keeps the night waiting."),
    ],
    can_subset=True,  # so that a night without a challenger need not say how it was judged
)
def night_and_champion(context: dg.AssetExecutionContext, nights: Nights) -> Iterator[Any]:
    """Run a night; what the gate refuses is no failure, and the champion stays what it was."""
    told = nights.retrain(f"{datetime.now():%Y-%m-%d}-{context.run.run_id[:8]}")
    code, message = told["exit_code"], told.get("message", "")
    if code == TRY_AGAIN or code in INTERRUPTED:
        if context.retry_number < nights.tries:
            context.log.warning(message)
            raise dg.RetryRequested(nights.tries, nights.wait_minutes * 60) from RuntimeError(message)
    elif code not in (0, REFUSED):
        raise dg.Failure(f"{told['outcome']}: {message}", metadata={"told": told}, allow_retries=False)
    chosen = {*context.selected_asset_keys, *context.selected_asset_check_keys}
    for key, event in results(nights, told):
        if key in chosen:  # who chose one of them in the interface gets the whole night, and that one is noted
            yield event


def checked(name: str, passed: bool, why: str, **metadata: Any) -> tuple[dg.AssetCheckKey, dg.AssetCheckResult]:
    """Note how a check of the night came out; a warning, as nothing is broken."""
    warn, key = dg.AssetCheckSeverity.WARN, dg.AssetCheckKey(NIGHT, name)
    return key, dg.AssetCheckResult(
        passed=passed, asset_key=NIGHT, check_name=name, severity=warn, description=why, metadata=metadata
    )


def results(nights: Nights, told: dict[str, Any]) -> Iterator[tuple[Any, Any]]:
    """Say in Dagster's words what a night said, each with its key."""
    ended, gate, message = told["exit_code"] in (0, REFUSED), told.get("gate"), told.get("message", "")
    yield checked("came_to_an_end", ended, message or told["outcome"])
    if not ended:  # it waits for a service or for another night; the next call goes on with it
        return
    folder = Path(nights.folder, str(told["run"])).resolve()
    places = {"folder": dg.MetadataValue.path(folder), "report": dg.MetadataValue.path(folder / "report.html")}
    numbers = before_and_now(nights.steps(told, "Evaluate"))
    known = {name: told.get(name) for name in ("outcome", "message", "human_actions", "drifted") if told.get(name)}
    minutes, whole = round(told["seconds"] / 60, 2), dg.MetadataValue.json(told)
    noted = {**known, **places, **numbers, "minutes": minutes, "told": whole}
    yield NIGHT, dg.MaterializeResult(asset_key=NIGHT, metadata=noted)
    refused = told["exit_code"] == REFUSED  # by the gate, or by `promote`, when another was put into use meanwhile
    if gate or refused:
        why = message if refused else gate["reason"]
        yield checked("gate", not refused, why, gate=dg.MetadataValue.json(gate or {}))
    for made in nights.steps(told, "Promote") if told.get("promoted") else ():
        came = {"bundle": made["bundle"], "instead_of": made["instead_of"] or "nothing", "why": made["why"]}
        place = dg.MetadataValue.path(Path(nights.folder, made["champion"]).resolve())
        noted = {**came, "champion": place, **numbers, **places}
        yield (
            CHAMPION,
            dg.MaterializeResult(asset_key=CHAMPION, metadata=noted, data_version=dg.DataVersion(made["bundle"])),
        )


def before_and_now(evaluated: list[dict[str, Any]]) -> dict[str, float]:
    """Pick the headline numbers of the challenger, and beside them those of the champion on the same images."""
    found: dict[str, float] = {}
    for facts in evaluated[-1:]:
        for name in NUMBERS:
            old, now = (facts.get("against") or {}).get(name, {}).get("old"), (facts.get(name) or {}).get("mean")
            found |= {f"{name}_before": old} if old is not None else {}
            found |= {name: now} if now is not None else {}
    return found


nightly = dg.define_asset_job("nightly", selection=dg.AssetSelection.assets(NIGHT, CHAMPION))
every_night = dg.ScheduleDefinition(
    name="every_night",
    job=nightly,
    cron_schedule="0 2 * * *",
    execution_timezone=os.environ.get("TILTH_TIMEZONE", "UTC"),
)


@dg.sensor(name="new_answers", job=nightly, minimum_interval_seconds=300)
def new_answers(context: dg.SensorEvaluationContext, nights: Nights) -> dg.SensorResult | dg.SkipReason:
    """Ask for a night when people have answered, and have stopped for a while; once for whatever they answered."""
    if context.instance.get_runs_count(dg.RunsFilter(job_name="nightly", statuses=AT_WORK)):
        return dg.SkipReason("a night is at work; what it does not take in is seen after it")
    try:
        found = nights.answers()
    except urllib.error.HTTPError as error:
        if error.code in (401, 403):
            raise dg.Failure(f"Label Studio refuses the key ({error.code}); set {KEY}") from error
        return dg.SkipReason(f"Label Studio answers {error.code}; it is asked again")
    except OSError as error:
        return dg.SkipReason(f"Label Studio does not answer ({error}); it is asked again")
    if found is None:
        return dg.SkipReason("nothing was answered that a night has not taken in")
    mark, at = found
    if mark == context.cursor:
        return dg.SkipReason(f"a night was asked for already, for {mark}")
    if datetime.now(UTC) - at < timedelta(minutes=nights.quiet_minutes):
        return dg.SkipReason(f"somebody is answering: {mark}")
    return dg.SensorResult(run_requests=[dg.RunRequest(run_key=mark)], cursor=mark)


defs = dg.Definitions(
    assets=[night_and_champion],
    jobs=[nightly],
    schedules=[every_night],
    sensors=[new_answers],
    resources={
        "nights": Nights(
            recipe=os.environ.get("TILTH_RECIPE", "configs/recipes/nightly.yaml"),
            dataset=os.environ.get("TILTH_DATASET", "runs/nightly-data/dataset"),
            folder=os.environ.get("TILTH_FOLDER", "."),
            program=os.environ.get("TILTH_PROGRAM", shlex.quote(str(BESIDE)) if BESIDE.exists() else "tilth"),
            options=os.environ.get("TILTH_OPTIONS", ""),
        )
    },
)
