"""A newcomer's way from photographs and a policy to labels, by single commands: help, mistakes, kills and what is left."""

import json
import re
import signal
import subprocess
import time
from dataclasses import fields
from pathlib import Path
from typing import Any

import pytest
import typer
import yaml
from commands import command, tilth
from noise import noise_samples
from places import POLICY, ROOT
from refusals import refusal
from typer.testing import CliRunner

from tilth.data.dataset import Dataset
from tilth.engine.recipe import load_class
from tilth.engine.work import Work
from tilth.errors import InputError
from tilth.pipeline.cli import bundle as cli_bundle
from tilth.pipeline.cli import data as cli_data
from tilth.pipeline.cli import main as cli
from tilth.pipeline.cli import steps as cli_steps
from tilth.pipeline.table import step_table
from tilth.starter.world.files import write_world

EVERY = {**cli_steps.COMMANDS, **{f"train {name}": one for name, one in cli_steps.TRAINED.items()}}


def refused(*arguments: object, cwd: Path) -> str:
    """Run what must be refused; whatever it says, it is no traceback and leaves nothing."""
    done = tilth(*arguments, cwd=cwd)
    assert done.returncode == 2, done.stderr
    assert not list(cwd.iterdir()), "nothing is begun"
    return refusal(done)


@pytest.fixture(scope="module")
def photos(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("world") / "world"
    write_world(folder, labelled=1, corpus=48, test=8, workers=1)
    return folder / "corpus"


@pytest.fixture
def empty(tmp_path: Path) -> Path:
    (tmp_path / "here").mkdir()
    return tmp_path / "here"


@pytest.mark.parametrize("name", EVERY)
def test_help_tells_every_setting_and_gives_an_example_that_can_be_run(name: str) -> None:
    app = cli.app
    if not any(group.name == "train" for group in app.registered_groups):
        cli_steps.add_to(app)
        cli_bundle.add_to(app)
    shown = CliRunner().invoke(app, [*name.split(), "--help"], env={"COLUMNS": "200"}).output
    cls = load_class(step_table(), EVERY[name].step)
    for setting, _, told in cli_steps.settings_of(cls):
        assert re.search(rf"^│ {setting} ", shown, re.M), f"{name} --help lacks {setting}"
        assert told, f"the docstring of {cls.__name__} says nothing of {setting}"
    example = re.search(rf"^ Example: tilth {name} data/mine --policy (\S+)(.*)$", shown, re.M)
    assert example
    assert (ROOT / example[1]).exists()
    given = set(re.findall(r"--set '?(\w+)=", example[2]))
    needed = {item[0] for item in cli_steps.settings_of(cls) if item[1] == "required"}
    assert needed <= given <= {item.name for item in fields(cls)}


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (["ground", "--set", "treshold=0.3"], "--set treshold: no such setting; did you mean 'threshold'?"),
        (["ground", "--set", "threshold=7"], "ground: threshold must lie in [0.1, 1], got 7.0"),
        (["ground", "--set", "tiles=many"], "--set tiles: input should be a valid integer"),
        (["ground", "--set", "threshold"], "--set needs name=value, got 'threshold'"),
        (["synth", "--set", "drawing={stpes: 3}"], "--set drawing.stpes: no such setting; did you mean 'steps'?"),
        (["synth", "--set", "drawing.stpes=3"], "--set drawing.stpes: no such setting; did you mean 'steps'?"),
        (
            ["synth", "--set", "drawing=1", "--set", "drawing.steps=3"],
            "--set drawing.steps: drawing was given as a whole",
        ),
        (["train", "detector", "--set", "views.turn=200"], "--set views: turn must lie in [0, 180], got 200.0"),
        (["synth", "--set", "steps=3"], "--set steps: no such setting; did you mean 'steps' of 'drawing'?"),
        (["synth", "--set", "drawing={steps: 0}"], "--set drawing: steps and batch_size must be at least 1, got 0"),
        (["synth", "--set", "drawing=30"], "--set drawing: must be a mapping, as in {a: 1}, got '30'"),
        (["fuse"], "--set of=…: needs a value"),
        (["fuse", "--set", "of=[ground"], "--set of: expected ',' or ']'"),
        (["fuse", "--set", "of=[ground, ground]"], "fuse: of needs the names of at least two different ground steps"),
        (["train", "detector", "--set", "steps=x"], "--set steps: input should be a valid integer"),
        (["import", "--set", "path=/nowhere"], "import: /nowhere: no such file or folder"),
        (["ground", "--as", "../../evil"], "--as: a name is letters, digits, '.', '-' and '_', got '../../evil'"),
        (["ground", "--device", "potato"], "device must be auto, cpu, cuda, cuda:1 or mps, got 'potato'"),
        (["ground", "--device", "cuda:99"], "device cuda:99 is not on this machine, which has "),
        (["ground"], "data: no dataset here; take images in first: tilth import data --set path=…"),
        (["second-opinion"], "data: no dataset here"),
        (["review", "push", "--people", "0"], "review push: people must be at least 1, got 0"),
        (["review", "push", "--images", "fax"], "--images: input should be 'folder', 'upload' or 'origin', got 'fax'"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else "",
)
def test_a_mistake_is_named_before_anything_is_begun(arguments: list[str], told: str, empty: Path) -> None:
    name = arguments.index("push") + 1 if "push" in arguments else 2 if arguments[0] == "train" else 1
    said = refused(*arguments[:name], "data", "--policy", POLICY, *arguments[name:], cwd=empty)
    assert said.startswith(told)
    assert "--set :" not in said


def test_a_policy_that_is_not_there_leaves_no_dataset(photos: Path, empty: Path) -> None:
    said = refused("import", "data", "--policy", "nowhere.yaml", "--set", f"path={photos}", cwd=empty)
    assert said == "nowhere.yaml: no such file"


def test_a_place_that_is_a_file_is_named_in_one_line(photos: Path, tmp_path: Path) -> None:
    taken = tmp_path / "taken"
    taken.write_text("mine")
    recipe = tmp_path / "recipe.yaml"
    recipe.write_text(f"policy: {POLICY}\nsteps:\n  - import: {{path: {photos}, format: folder}}\n")
    for arguments in (
        ("import", taken, "--policy", POLICY, "--set", f"path={photos}"),
        ("run", recipe, "--runs", taken),
    ):
        done = tilth(*arguments)
        assert (done.returncode, done.stdout) == (2, "")
        assert re.fullmatch(rf"{taken}\S*: (File exists|Not a directory); name another place", refusal(done))
    assert taken.read_text() == "mine"


def test_a_value_is_text_unless_it_begins_like_yaml() -> None:
    told = cli_steps.read_settings(
        ["path=2024", "licence=no", "of=[a, b]", "clean_up={nested_cover: 0}", "images=null"]
    )
    assert told == {"path": "2024", "licence": "no", "of": ["a", "b"], "clean_up": {"nested_cover": 0}, "images": None}


def test_a_run_misses_its_files_at_once_and_says_which_variable_names_each(photos: Path, empty: Path) -> None:
    recipe = ROOT / "configs/recipes/label.yaml"
    given = ("--set", f"images={photos}", "--set", "test=/nowhere", "--set", "truth=/no/truth.jsonl")
    for verb in ("run", "check"):
        lines = refused(verb, recipe, *given, cwd=empty).splitlines()
        assert lines == [
            "leakage: /nowhere: no such file or folder; give another with --set test=…",
            "review: /no/truth.jsonl: no such file or folder; give another with --set truth=…",
            "evaluate: /nowhere/annotations.json: no such file or folder; give another with --set test=…",
        ]
    # people need no file that says what they will answer, and what is not run needs nothing
    only = refused("run", recipe, *given, "--review", "labelstudio", "--until", "export", cwd=empty)
    assert only.splitlines() == lines[:1]


def test_a_run_takes_another_policy(photos: Path, tmp_path: Path) -> None:
    policy = tmp_path / "mine.yaml"
    policy.write_text("policy: mine\nversion: 3\ncategories:\n  - {name: pen, definition: A pen., prompts: [pen]}\n")
    recipe = tmp_path / "recipe.yaml"
    recipe.write_text(f"policy: {POLICY}\nsteps:\n  - import: {{path: {photos}, format: folder}}\n  - ground\n")
    done = tilth("run", recipe, "--policy", policy, "--runs", tmp_path / "runs")
    assert done.returncode == 0, done.stderr
    folder = tmp_path / "runs" / "recipe"
    assert json.loads((folder / "summary.json").read_text())["policy"] == {"name": "mine", "version": 3}
    assert yaml.safe_load((folder / "recipe.yaml").read_text())["policy"] == str(policy)
    assert tilth("report", folder).returncode == 0
    assert tilth("status", folder).stdout.splitlines()[-3:-1] == ["2 of 2 steps are done", "samples: auto 48"]


def contents(data: Path) -> dict[str, list[tuple[Any, ...]]]:
    samples = Dataset(data).samples(images=False, dropped=True)
    return {s.id: sorted((c.category, c.box_xyxy, c.score, c.source) for c in s.claims) for s in samples}


def test_photographs_become_labels_by_single_commands_and_a_kill_changes_nothing(photos: Path, tmp_path: Path) -> None:
    whole, torn = tmp_path / "whole", tmp_path / "torn"

    def one(*arguments: object) -> dict[str, Any]:
        done = tilth(*arguments)
        assert done.returncode == 0, done.stderr
        return dict(json.loads(done.stdout))

    for data in (whole, torn):
        assert one("import", data, "--policy", POLICY, "--set", f"path={photos}")["images"] == 48
    found = one("ground", whole, "--policy", POLICY)
    assert found["boxes"] > 0
    for seconds in (2.0, 4.0):
        killed = subprocess.Popen(command("ground", torn, "--policy", POLICY), stderr=subprocess.DEVNULL)
        time.sleep(seconds)
        killed.send_signal(signal.SIGKILL)
        killed.wait()
    again = one("ground", torn, "--policy", POLICY)
    assert (again["images"], again["boxes"]) == (48, found["boxes"])
    assert contents(torn) == contents(whole)
    second = tilth("ground", whole, "--policy", POLICY)
    assert json.loads(second.stdout)["looked_at_now"] == 0
    assert "all images have their answer from before, with these settings" in second.stderr
    assert one("gallery", torn, "--policy", POLICY, "--out", tmp_path / "gallery")["shown"] == 48
    sheet = one("gallery", torn, "--policy", POLICY, "--sheet", tmp_path / "sheet.png")
    assert (sheet["shown"], 0 < sheet["veiled"] <= 48) == (48, True)
    said = one("export", torn, tmp_path / "yolo", "--format", "yolo", "--policy", POLICY)
    names = [category["name"] for category in yaml.safe_load(POLICY.read_text())["categories"]]
    assert said["categories"] == names, "a class has its number whatever was found"
    assert said["boxes"] == found["boxes"]
    tagged = tilth("tag", torn, "labelled").stdout
    assert tagged.startswith(
        f"version {Dataset(torn).at.number} is now 'labelled'; go back to it with: tilth rollback "
    )


def test_a_command_that_is_killed_at_its_very_end_and_given_again_does_nothing_twice(
    photos: Path, tmp_path: Path
) -> None:
    data = tmp_path / "data"
    running = data / "running.json"
    mine = command("mine", data, "--policy", POLICY, "--set", f"corpus={photos}", "--set", "per_category=3")
    for words in (mine, command("ground", data, "--policy", POLICY)):
        with subprocess.Popen(words, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL) as process:
            while not running.exists():
                assert process.poll() is None
                time.sleep(0.01)
            told = running.read_text()
        assert (process.returncode, running.exists()) == (0, False)
        whole = contents(data)
        running.write_text(told)  # as a kill after the last piece of work leaves it
        assert subprocess.run(words, capture_output=True, check=False).returncode == 0
        assert contents(data) == whole
    tilth("mine", data, "--policy", POLICY, "--set", f"corpus={photos}", "--set", "per_category=3")
    assert len(contents(data)) > len(whole), "but a command that had ended is one more"


def test_a_count_knows_what_a_step_may_write_and_says_what_none_has_measured(work: Work) -> None:
    work.add("a", noise_samples(3))
    app = typer.Typer()
    cli_data.add_to(app)

    def counted(where: str) -> tuple[int, str, str]:
        done = CliRunner().invoke(app, ["count", str(work.dataset.root), "--where", where])
        return done.exit_code, done.stdout.strip(), done.stderr

    assert counted("left_out > 0") == counted("conflict > 0") == (0, "0", "")
    assert counted("left_out is null")[:2] == (0, "3")
    code, found, said = counted("quality.sharpness < 20")
    assert (code, found) == (0, "0")
    assert "no sample has 'quality.sharpness' yet" in said
    with pytest.raises(InputError, match="cannot ask for 'leftout > 0'"):
        CliRunner().invoke(app, ["count", str(work.dataset.root), "--where", "leftout > 0"], catch_exceptions=False)
