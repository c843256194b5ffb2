"""A model that is retrained every night: one dataset, nothing lost over kills, and nothing served that the gate did not let through."""

import errno
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import typer
from nightly import END
from PIL import Image as PilImage
from places import POLICY
from runtime_graphs import shared_bundle
from typer.testing import CliRunner

from tilth.data.dataset import Dataset
from tilth.data.files import alone
from tilth.engine.work import Work
from tilth.errors import GateRefused, InputError
from tilth.events import Events
from tilth.images import decode, encode_png
from tilth.mining.cleaning.quality import Quality
from tilth.pipeline.cli import data as cli_data
from tilth.pipeline.cli import main as cli
from tilth.pipeline.cli import nights as cli_nights
from tilth.pipeline.cli import steps as cli_steps
from tilth.pipeline.report.numbers import Numbers
from tilth.pipeline.report.results import drift
from tilth.pipeline.steps.drift import Drift
from tilth.pipeline.steps.retraining import Changed, EvaluateBundle, Promote
from tilth.policy import load_policy
from tilth.runtime.bundles.bundle import digest_of, load_bundle, seal
from tilth.runtime.bundles.champion import Champion
from tilth.samples import NewSample
from tilth.starter.world.files import write_world
from tilth.train.artifacts.artifact import read_about
from tilth.train.judge.gate import Gate
from tilth.train.judge.kept import read_columns
from tilth.train.judge.measure import category_scores

RECIPE = """
recipe: nightly
policy: {policy}
dataset: {here}/data
variables: {{world: {world}, champion: {here}/champion, max_ece: "1"}}
steps:
  - import: {{path: "${{world}}/labelled", format: coco, empty_means: confirmed_empty}}
  - hash
  - dedup
  - split
  - changed
  - train.classifier: {{steps: 4, batch_size: 8}}
{end}"""


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("world") / "world"
    write_world(folder, labelled=40, corpus=1, test=40, workers=1)
    return folder


def tilth(*arguments: object, plain: bool = False) -> tuple[int, Any]:
    """Run a command in this process; what it prints is one JSON object, or words."""
    app = typer.Typer()
    app.registered_commands = list(cli.app.registered_commands)
    for part in (cli_steps, cli_nights, cli_data):
        part.add_to(app)
    done = CliRunner().invoke(app, [*map(str, arguments)])
    code = 0 if done.exception is None else getattr(done.exception, "exit_code", 1)
    return code, done.stdout if plain else json.loads(done.stdout)


def people_say(here: Path, world: Path, start: int, stop: int) -> Path:
    """Write some of the labelled images as a set of their own, of another tool."""
    folder = here / f"set{start}"
    shutil.copytree(world / "labelled", folder)
    document = json.loads((folder / "annotations.json").read_text())
    document["images"] = sorted(document["images"], key=lambda image: image["id"])[start:stop]
    kept = {image["id"] for image in document["images"]}
    document["annotations"] = [a for a in document["annotations"] if a["image_id"] in kept]
    (folder / "annotations.json").write_text(json.dumps(document))
    for path in (folder / "images").iterdir():
        if path.name not in {image["file_name"] for image in document["images"]}:
            path.unlink()
    return folder


def test_nights(tmp_path: Path, world: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    own = tmp_path / "world"
    shutil.copytree(world, own)
    shutil.rmtree(own / "labelled")
    shutil.copytree(people_say(tmp_path, world, 0, 30), own / "labelled")
    recipe, champion = tmp_path / "nightly.yaml", Champion(tmp_path / "champion")
    recipe.write_text(RECIPE.format(end=END, policy=POLICY, here=tmp_path, world=own))

    code, told = tilth("retrain", recipe, "--night", "monday")
    assert (code, told["outcome"], told["run"]) == (0, "done", "runs/nightly/monday")
    assert told["gate"]["reason"].startswith("the first")
    first = champion.bundle
    assert first is not None
    assert told["promoted"] == first.name
    assert load_bundle(champion.folder).policy.policy == "starter"

    code, told = tilth("retrain", recipe, "--night", "tuesday")
    assert (code, told["outcome"], told["promoted"]) == (0, "stopped", None)
    assert "nothing to learn is new since" in told["message"]
    assert not list((tmp_path / "runs/nightly/tuesday/files").glob("train*"))

    code, told = tilth("retrain", recipe, "--night", "tuesday")
    assert (code, told["outcome"]) == (0, "ended before")

    # what comes in beside the nights is there in the next, whatever is killed
    more = people_say(tmp_path, world, 30, 40)
    code, _ = tilth("import", tmp_path / "data", "--policy", POLICY, "--set", f"path={more}")
    assert code == 0
    code, told = tilth("retrain", recipe, "--night", "wednesday", "--set", "max_ece=0.0001")
    assert (code, told["outcome"]) == (3, "refused")
    assert "its chances are off" in told["message"]
    assert told["gate"]["difference"]["mean"] is not None
    assert champion.bundle == first
    assert (tmp_path / "runs/nightly/wednesday/report.html").exists()

    command = [sys.executable, "-m", "tilth.pipeline.cli.main", "retrain", str(recipe)]
    killed = 0
    for how, step in ((signal.SIGTERM, "train.classifier"), (signal.SIGKILL, "package")):
        process = subprocess.Popen(command, cwd=tmp_path, stderr=subprocess.DEVNULL, stdout=subprocess.PIPE, text=True)
        folder = tmp_path / "runs/nightly"
        while process.poll() is None and not _began(folder, step):
            time.sleep(0.05)
        os.kill(process.pid, how)
        said, _ = process.communicate(timeout=60)
        killed += process.returncode != 0
        if how == signal.SIGTERM:
            assert process.returncode == (told := json.loads(said))["exit_code"] == 143
            assert told["outcome"] == "interrupted"
    assert killed == 2
    with alone(tmp_path / "data"):
        code, told = tilth("retrain", recipe)
        assert (code, told["outcome"]) == (75, "try again")
    code, told = tilth("retrain", recipe)
    assert (code, told["outcome"]) == (0, "done")
    nights = sorted(path.parent.name for path in folder.glob("*/recipe.yaml"))
    assert len(nights) == 4, f"the killed night is gone on with: {nights}"
    assert told["gate"]["passed"]
    [judged] = (folder / nights[-1] / "steps").glob("*-evaluate.json")
    against = json.loads(judged.read_text())["facts"]["against"]
    assert against["recall_at_fpr05"]["difference"] == told["gate"]["difference"]
    assert against["images"] == 40
    assert [p.instead_of for p in champion.history()] == ["", first.name]
    states = Dataset(tmp_path / "data").tally("state", dropped=True)
    assert sum(states.values()) == 40
    assert states["unlabelled",] < 10, "where people found nothing in the second set, it does not say that they looked"
    lines = [json.loads(line)["outcome"] for line in (folder / "nights.jsonl").read_text().splitlines()]
    shown = CliRunner().invoke(cli.app, ["status", "runs/nightly"]).output.splitlines()
    assert len(shown) == len(lines)
    assert f"{told['promoted']} is in use" in shown[-1]
    assert lines == ["done", "stopped", "ended before", "refused", "interrupted", "try again", "done"]


def _began(folder: Path, step: str) -> bool:
    newest = folder / (folder / "last.txt").read_text()
    events = newest / "events.jsonl"
    return events.exists() and any(
        json.loads(line).get("step") == step and json.loads(line)["event"] == "started"
        for line in events.read_text().splitlines()[-3:]
        if line.endswith("}")
    )


def test_a_recipe_without_a_dataset_of_its_own_is_refused_in_one_line(
    tmp_path: Path, world: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    recipe = tmp_path / "nightly.yaml"
    text = RECIPE.format(end=END, policy=POLICY, here=tmp_path, world=world)
    recipe.write_text("\n".join(line for line in text.splitlines() if not line.startswith("dataset")))
    code, told = tilth("retrain", recipe)
    assert (code, told["outcome"], told["run"]) == (2, "wrong input", None)
    assert not (tmp_path / "runs").exists(), "nor is a run of that name spoilt"
    assert "give the recipe a dataset that outlives its runs" in told["message"]


@pytest.fixture
def work(tmp_path: Path) -> Callable[[str], Work]:
    policy = load_policy(POLICY)

    def make(name: str) -> Work:
        folder = tmp_path / name
        folder.mkdir(exist_ok=True)
        return Work(name=name, dataset=Dataset(tmp_path / "dataset"), policy=policy, folder=folder, events=Events())

    return make


def test_the_bundle_in_use_is_measured_as_it_is_served(
    tmp_path: Path, world: Path, work: Callable[[str], Work]
) -> None:
    champion = Champion(tmp_path / "champion")
    step = EvaluateBundle(bundle=champion.folder, test=world / "test")
    none = work("evaluate.champion")
    assert step.run(none)["bundle"] is None
    assert Gate(old="evaluate.champion").run(replace(none, facts={"evaluate.champion": {"bundle": None}}))["passed"]
    champion.promote(shared_bundle(), time="now")
    assert step.run(none)["bundle"] is None, "it goes on with what it began with"
    judging = work("evaluate.again")
    facts = step.run(judging)
    moderator = load_bundle(champion.folder)
    assert (facts["bundle"], facts["n_images"]) == (moderator.name, 40)
    rows = read_columns(judging.artifact("evaluate.again.predictions"), ["knife", "dice"])
    ours = category_scores(rows, read_about(judging.artifact("evaluate.again.classifier")))
    for file, (knife, dice) in zip(rows.files[:8], ours, strict=False):
        [screen] = moderator.stage1([decode((world / "test" / "images" / file).read_bytes())])
        assert (screen.scores["knife"], screen.scores["dice"]) == pytest.approx((knife, dice), abs=1e-3)
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "file").touch()
    with pytest.raises(InputError, match="neither a bundle nor a champion"):
        replace(step, bundle=tmp_path / "other").run(work("evaluate.other"))


def test_what_the_gate_did_not_compare_with_is_not_replaced(tmp_path: Path, work: Callable[[str], Work]) -> None:
    champion = Champion(tmp_path / "champion")
    two = Path(shutil.copytree(shared_bundle(), tmp_path / "two"))
    three = Path(shutil.copytree(shared_bundle(), tmp_path / "three"))
    seal(two, clear_below=0.03)
    seal(three, clear_below=0.04)
    champion.promote(shared_bundle(), time="now")
    promoting = replace(
        work("promote"),
        artifacts={"bundle": three},
        facts={"evaluate.champion": {"digest": digest_of(shared_bundle())}},
    )
    assert tilth("promote", two, champion.folder, "--json") == (
        0,
        {**vars(champion.history()[-1]), "why": "promoted by hand", "back": False},
    )
    with pytest.raises(GateRefused, match=r"is in use and not .*, which the new bundle was compared with"):
        Promote(champion=champion.folder).run(promoting)
    code, said = tilth("rollback", champion.folder, plain=True)
    assert (code, said) == (
        0,
        f"0001-{digest_of(shared_bundle())} is in use again, instead of 0002-{digest_of(two)}; servers of {champion.folder} follow\n",
    )
    assert tilth("rollback", champion.folder, plain=True)[0] == 2, "nothing was in use before"
    assert str(Promote(champion=champion.folder).run(promoting)["bundle"]).startswith("0003")
    assert str(Promote(champion=champion.folder).run(promoting)["bundle"]).startswith("0003"), "again, after a kill"
    assert len(champion.history()) == 4


def coloured(n: int, seed: int, red: float) -> list[NewSample]:
    """Pictures of a noisy colour, by which the model of the tests judges."""
    rng, made = np.random.default_rng(seed), []
    for _ in range(n):
        mean = rng.normal((128 + red, 128 - red, 128 - red), 30)
        image = np.clip(rng.normal(mean, 10, (24, 24, 3)), 0, 255).astype(np.uint8)
        made.append(NewSample(data=encode_png(image), origin={"source": "x"}))
    return made


@pytest.mark.parametrize(("red", "drifts"), [(0, False), (60, True)])
def test_a_drift_of_what_comes_in_is_told_and_chance_is_not(
    tmp_path: Path, work: Callable[[str], Work], red: float, drifts: bool
) -> None:
    doing, step = work("drift"), Drift(bundle=tmp_path / "champion", most=100)
    assert step.run(doing)["bundle"] is None
    doing.add("first", coloured(120, 1, 0))
    Quality().run(replace(doing, name="quality"))
    bundle = Path(shutil.copytree(shared_bundle(), tmp_path / "made"))
    made: Any = {"dataset_version": doing.dataset.at.number, "dataset_digest": "of another"}
    seal(bundle, clear_below=0.02, facts=made)
    assert "was not made from this dataset" in str(replace(step, bundle=bundle).run(doing)["reason"])
    made["dataset_digest"] = doing.dataset.digest()
    seal(bundle, clear_below=0.03, facts=made)
    Champion(tmp_path / "champion").promote(bundle, time="now")
    doing.add("few", coloured(20, 2, 60))
    assert "fewer than 50 images came since" in str(step.run(doing)["reason"])
    doing.add("second", coloured(150 if drifts else 600, 3, red))
    Quality().run(replace(doing, name="quality"))
    facts: Any = step.run(doing)
    assert facts["images_before"] == 120
    assert facts["series"]["score of knife"]["psi"]["mean"] >= 0
    assert ("score of knife" in facts["drifted"]) == drifts
    assert "min_side" in facts["series"]
    assert "min_side" not in facts["drifted"]
    assert (facts["series"]["score of knife"]["p"] < 1e-6) == drifts
    shown = str(drift(Numbers({"steps": {"drift": {"kind": "Drift", "facts": facts}}})).blocks)
    assert ("they have moved: " in shown) == drifts
    assert "Score of knife" in shown


def test_what_looser_rules_let_in_comes_back_and_a_status_needs_no_place(
    tmp_path: Path, world: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    recipe = tmp_path / "r.yaml"
    text = """
recipe: r
policy: {policy}
dataset: data
variables: {{least: "0"}}
steps:
  - import: {{path: {world}/labelled, format: coco}}
  - quality
  - filter: {{rules: ["quality.sharpness >= ${{least}}"]}}
"""
    recipe.write_text(text.format(policy=POLICY, world=world))
    counts = []
    for night, least in (("a", "1500"), ("b", "0"), ("b", "1500"), ("c", "1500")):
        assert tilth("run", recipe, "--name", night, "--set", f"least={least}", "--json")[0] == 0
        counts.append(Dataset(tmp_path / "data").count())
    assert counts == [counts[0], 40, counts[0], counts[0]]
    assert counts[0] < 40
    before = len(Dataset(tmp_path / "data").at.tables)
    assert tilth("run", recipe, "--name", "d", "--set", "least=1500", "--json")[0] == 0
    assert len(Dataset(tmp_path / "data").at.tables) == before, "nights without news add no tables"
    monkeypatch.chdir(tmp_path.parent)
    shown = CliRunner().invoke(cli.app, ["status", str(tmp_path / "runs" / "a")]).output
    assert "3 of 3 steps are done" in shown
    assert not (tmp_path.parent / "data").exists()


def test_stricter_rules_let_no_copy_in_of_what_they_leave_out(
    tmp_path: Path, world: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "copies").mkdir()
    for path in sorted((world / "labelled" / "images").iterdir())[:20]:
        PilImage.open(path).convert("RGB").save(tmp_path / "copies" / f"{path.stem}.jpg", quality=90)
    recipe = tmp_path / "r.yaml"
    recipe.write_text(f"""
recipe: r
policy: {POLICY}
dataset: ${{data}}
variables: {{least: "0", data: data}}
steps:
  - import: {{path: {world}/labelled, format: coco}}
  - as: import.copies
    import: {{path: copies}}
  - hash
  - quality
  - filter: {{rules: ["quality.sharpness >= ${{least}}"]}}
  - dedup
""")
    told = {}
    for data, rules in (("fresh", ("1500",)), ("data", ("0", "1500"))):
        for night, least in enumerate(rules):
            words = ("--set", f"least={least}", "--set", f"data={data}")
            assert tilth("run", recipe, "--name", f"{data}{night}", *words, "--json")[0] == 0
            told[data, least] = sorted(i for some in Dataset(tmp_path / data).ids(dropped=False) for i in some)
    assert 0 < len(told["fresh", "1500"]) < len(told["data", "0"]) == 40
    assert told["data", "1500"] == told["fresh", "1500"]


def test_a_night_that_comes_past_again_with_other_steps_before_is_not_told_that_nothing_is_new(
    tmp_path: Path, work: Callable[[str], Work]
) -> None:
    first = work("changed")
    first.add("a", coloured(3, 1, 0))
    for key in ("k1", "k2"):
        folder = tmp_path / "runs" / "monday" / "files" / f"changed-{key}"
        assert "enough" not in Changed().run(replace(first, folder=folder))
    folder = tmp_path / "runs" / "tuesday" / "files" / "changed-k2"
    assert "nothing to learn is new" in str(Changed().run(replace(first, folder=folder))["enough"])
    assert "enough" not in Changed().run(replace(first, folder=folder, options={"recipe": "another"}))


def test_an_answer_is_printed_when_nothing_can_be_written(
    tmp_path: Path, world: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    recipe = tmp_path / "nightly.yaml"
    recipe.write_text(RECIPE.format(end=END, policy=POLICY, here=tmp_path, world=world))
    (tmp_path / "runs" / "nightly").mkdir(parents=True)
    (tmp_path / "runs" / "nightly" / "nights.jsonl").symlink_to("/dev/full")

    def full(*_: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr("tilth.pipeline.run.write_beside", full)
    _, told = tilth("retrain", recipe)
    assert (told["exit_code"], told["outcome"]) == (75, "try again")


def test_a_step_that_decides_anew_and_fails_lets_nothing_in(
    tmp_path: Path, world: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    sealed = tmp_path / "sealed"
    sealed.mkdir()
    for path in sorted((world / "labelled" / "images").iterdir())[:5]:
        shutil.copy(path, sealed / path.name)
    recipe = tmp_path / "r.yaml"
    recipe.write_text(f"""
recipe: r
policy: {POLICY}
dataset: data
steps:
  - import: {{path: {world}/labelled, format: coco}}
  - hash
  - leakage: {{sealed: [{sealed}]}}
""")
    assert tilth("run", recipe, "--name", "a", "--json")[0] == 0
    clean = Dataset(tmp_path / "data").count()
    assert clean <= 35
    (sealed / "broken.png").write_bytes(b"no image")
    code, _ = tilth("run", recipe, "--name", "b", "--json", plain=True)
    assert code == 2
    assert Dataset(tmp_path / "data").count() == clean
    (sealed / "broken.png").unlink()
    assert tilth("run", recipe, "--name", "b", "--json")[0] == 0
    assert Dataset(tmp_path / "data").count() == clean
