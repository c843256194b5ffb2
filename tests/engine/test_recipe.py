"""A wrong recipe is told whole: every mistake, with its line and the nearest valid name."""

import subprocess
import sys
import time
from pathlib import Path

import pytest
from places import POLICY
from refusals import refusal

from tilth.engine.recipe import load_recipe
from tilth.errors import InputError, RecipeError
from tilth.pipeline.table import step_table
from tilth.policy import load_policy
from tilth.synth.draw.settings import Drawing


def write(folder: Path, text: str) -> Path:
    path = folder / "recipe.yaml"
    path.write_text(text.replace("POLICY", str(POLICY)))
    return path


def mistakes(folder: Path, text: str) -> list[str]:
    with pytest.raises(RecipeError) as caught:
        load_recipe(write(folder, text), step_table())
    return str(caught.value).splitlines()


def test_all_mistakes_are_told_at_once_with_their_lines(tmp_path: Path) -> None:
    told = mistakes(
        tmp_path, "recipe: x\npolicy: POLICY\nsteps:\n- tagg: {name: a}\n- tag: {nme: a}\n- tag: {}\nstps: 1\n"
    )
    text = "\n".join(told)
    assert "recipe.yaml:4: steps[0].tagg: no such step; did you mean 'tag'?" in text
    assert "recipe.yaml:5: steps[1].tag.nme" in text
    assert "two steps are called 'tag'" in text
    assert "recipe.yaml:7: stps: no such key; did you mean 'steps'?" in text


def test_a_step_that_is_named_and_not_there_is_missed_at_once(tmp_path: Path) -> None:
    steps = "- train.classifier\n- calibrate: {classifier: train.clasifier}\n- package: {classifier: train.classifier, detector: ''}\n"
    more = "- moderate: {images: a, truth: b}\n- as: late\n  train.detector: {start: later}\n- as: later\n  train.detector: {}\n"
    told = mistakes(tmp_path, f"policy: POLICY\nsteps:\n{steps}{more}")
    assert len(told) == 2, "what package leaves is there for moderate"
    assert told[0].endswith(
        "recipe.yaml:4: steps[1].calibrate.classifier: no step before this one is called 'train.clasifier'; "
        "did you mean 'train.classifier'?"
    )
    assert "recipe.yaml:8: steps[4].train.detector.start: no step before this one is called 'later'" in told[1]


@pytest.mark.parametrize(
    ("line", "told"),
    [
        ("    drawing: {stpes: 3}", "drawing.stpes: no such key; did you mean 'steps'?"),
        ("    stpes: 3", "stpes: no such key; did you mean 'steps' of 'drawing'?"),
        ("    steps: 3", "steps: no such key; did you mean 'steps' of 'drawing'?"),
        ("    stlyes: [photo]", "stlyes: no such key; did you mean 'styles'?"),
        ("    drawing: {quux: 3}", "drawing.quux: no such key"),
        ("    drawing: {steps: few}", "drawing.steps: input should be a valid integer, unable to parse string as an"),
        ("    drawing: {steps: 0}", "drawing: steps and batch_size must be at least 1, got 0 and 16"),
        ("    drawing: 20", "drawing: must be a mapping, as in {a: 1}, got 20"),
        (
            "    words: {fillings: {}}",
            "words: nothing fills {attribute}, {camera}, {light}, {place} of the template; add fillings",
        ),
    ],
)
def test_a_mistake_in_a_group_of_settings_is_told_with_its_line(line: str, told: str, tmp_path: Path) -> None:
    [mistake] = mistakes(tmp_path, f"policy: POLICY\nsteps:\n- generate:\n    count: 5\n{line}\n")
    assert f"recipe.yaml:5: steps[0].generate.{told}" in mistake


def test_a_group_of_settings_is_read_and_the_rest_of_it_stays_as_it_is(tmp_path: Path) -> None:
    path = write(tmp_path, "policy: POLICY\nsteps:\n- generate: {drawing: {steps: 30}}\n")
    step = load_recipe(path, step_table()).steps["generate"]
    assert step.drawing == Drawing(steps=30, guidance=3.0)  # type: ignore[attr-defined]


def test_a_variable_without_a_value_says_how_to_give_one(tmp_path: Path) -> None:
    told = mistakes(tmp_path, "policy: POLICY\nvariables: {photos: null}\nsteps:\n- tag: {name: '${photos}'}\n")
    assert any("--set photos=" in line for line in told)


def test_a_given_variable_fills_the_recipe(tmp_path: Path) -> None:
    path = write(tmp_path, "policy: POLICY\nvariables: {label: old}\nsteps:\n- tag: {name: 'set-${label}'}\n")
    recipe = load_recipe(path, step_table(), {"label": "new"})
    assert recipe.steps["tag"].name == "set-new"  # type: ignore[attr-defined]


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("- just\n- a list\n", "a recipe is a mapping"),
        ("policy: POLICY\nsteps: [", "not valid YAML"),
        ("policy: nowhere.yaml\nsteps:\n- tag: {name: a}\n", "no such file"),
        ("steps:\n- tag: {name: a}\n", "needs a policy"),
        ("policy: POLICY\n", "at least one step"),
        ("policy: POLICY\nseed: many\nsteps:\n- tag: {name: a}\n", "must be a number"),
    ],
)
def test_the_command_line_ends_a_bad_recipe_in_one_line_and_exit_code_2(
    tmp_path: Path, text: str, expected: str
) -> None:
    path = write(tmp_path, text)
    done = subprocess.run(
        [sys.executable, "-m", "tilth.pipeline.cli.main", "check", str(path)],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 2
    assert expected in refusal(done)


def test_a_missing_recipe_says_so() -> None:
    done = subprocess.run(
        [sys.executable, "-m", "tilth.pipeline.cli.main", "run", "nowhere.yaml"],
        capture_output=True,
        text=True,
        check=False,
    )
    assert (done.returncode, refusal(done)) == (2, "nowhere.yaml: no such file")


@pytest.mark.parametrize(
    ("category", "told"),
    [
        (
            "{name: a, definition: x, prompts: knife}",
            "categories[0].prompts: must be a list, as in [a, b], got 'knife'",
        ),
        ("{name: a, definition: x, prompts: []}", "categories[0]: a picture category needs at least one prompt"),
        ("{name: a, definition: x, promts: [b], prompts: [b]}", "categories[0].promts: no such key"),
        ("{name: a, definition: x, prompts: [9]}", "categories[0].prompts[0]: input should be a valid string, got 9"),
        ("knife", "categories[0]: must be a mapping, as in {a: 1}, got 'knife'"),
    ],
)
def test_a_mistake_of_a_policy_is_told_once_and_plainly(category: str, told: str, tmp_path: Path) -> None:
    path = tmp_path / "policy.yaml"
    path.write_text(f"policy: mine\nversion: 1\ncategories:\n  - {category}\n")
    with pytest.raises(InputError) as error:
        load_policy(path)
    assert str(error.value) == f"{path}:4: {told}"


def test_a_policy_without_categories_and_one_that_unfolds_without_end_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "policy.yaml"
    path.write_text("policy: mine\nversion: 1\ncategories: []\n")
    with pytest.raises(InputError, match="categories: needs at least one"):
        load_policy(path)
    lines = ["a0: &a0 [x, x, x, x, x, x, x, x, x]"]
    lines += [f"a{n}: &a{n} [{', '.join([f'*a{n - 1}'] * 9)}]" for n in range(1, 12)]
    path.write_text("\n".join(lines))
    began = time.process_time()
    with pytest.raises(InputError, match="unfolds to more than 100,000 values"):
        load_policy(path)
    assert time.process_time() - began < 10


def test_rounds_are_written_once_and_name_each_other(tmp_path: Path) -> None:
    path = tmp_path / "r.yaml"
    path.write_text(
        f"policy: {POLICY}\nsteps:\n- import: {{path: {tmp_path}}}\n- rounds: 2\n  steps:\n"
        "  - as: student\n    train.detector: {start: student, steps: 10}\n  - relabel: {detector: student}\n  - hash\n"
        "- as: last\n  relabel: {detector: student}\n"
    )
    steps = load_recipe(path, step_table()).steps
    assert list(steps) == ["import", "student.1", "relabel.1", "hash.1", "student.2", "relabel.2", "hash.2", "last"]
    assert [vars(steps[name])["start"] for name in ("student.1", "student.2")] == ["", "student.1"]
    assert [vars(steps[name])["detector"] for name in ("relabel.1", "relabel.2", "last")] == [
        "student.1",
        "student.2",
        "student.2",
    ]


def test_wrong_rounds_are_named_with_their_line(tmp_path: Path) -> None:
    path = tmp_path / "r.yaml"
    path.write_text(f"policy: {POLICY}\nsteps:\n- rounds: 0\n  steps: [hash]\n- rounds: 1\n  steps:\n  - hsah\n")
    with pytest.raises(RecipeError, match=r"(?s)r\.yaml:3: .*rounds are a number.*r\.yaml:7: .*did you mean 'hash'"):
        load_recipe(path, step_table())


def test_a_mistake_in_rounds_is_said_once(tmp_path: Path) -> None:
    path = tmp_path / "r.yaml"
    path.write_text(f"policy: {POLICY}\nsteps:\n- rounds: 3\n  steps:\n  - hsah\n")
    with pytest.raises(RecipeError) as error:
        load_recipe(path, step_table())
    assert str(error.value).count("did you mean 'hash'") == 1
