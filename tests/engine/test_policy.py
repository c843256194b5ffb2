"""The policy: names as the data has them, and what is refused because it could mean two things."""

from pathlib import Path

import pytest
from places import POLICY
from typer.testing import CliRunner

from tilth.errors import InputError
from tilth.pipeline.cli import policy as cli
from tilth.policy import Policy, load_policy


def policy(*categories: dict[str, object]) -> Policy:
    given = [{"definition": "", "prompts": ["thing"], **category} for category in categories]
    return Policy.model_validate({"policy": "p", "version": 1, "categories": given})


@pytest.mark.parametrize(
    "name", ["WBC", "white cell", "Größe", "刀", "knife (kitchen)", "it's", "a+b & c", "3", "x" * 64]
)
def test_any_printable_name_that_is_safe_in_files_is_a_category(name: str) -> None:
    assert policy({"name": name}).find(name) == name


@pytest.mark.parametrize("name", ["", " a", "a ", ".a", "a.", "a/b", "a\\b", "a:b", "a\nb", "a*", "x" * 65, "Safe"])
def test_a_name_that_would_do_harm_is_refused_with_the_reason(name: str) -> None:
    with pytest.raises(
        ValueError, match=r"a category's name is 1 to 64 printable characters|give the category another name"
    ):
        policy({"name": name})


def test_labels_of_other_tools_are_known_by_what_else_a_category_is_called() -> None:
    blood = policy({"name": "WBC", "also": ["white cell", "leukocyte"]}, {"name": "red_cell"})
    told = {"WBC": "WBC", "wbc": "WBC", "White-Cell": "WBC", "LEUKOCYTE ": "WBC", "Red Cell": "red_cell", "cell": None}
    assert {name: blood.find(name) for name in told} == told


@pytest.mark.parametrize(
    "others",
    [[{"name": "Knife"}], [{"name": "blade", "also": ["KNIFE"]}], [{"name": "a", "also": ["b c"]}, {"name": "B_C"}]],
)
def test_names_that_two_categories_share_are_refused(others: list[dict[str, object]]) -> None:
    with pytest.raises(ValueError, match="are both called"):
        policy({"name": "knife"}, *others)


def test_a_policy_is_begun_and_checked_on_the_command_line(tmp_path: Path) -> None:
    path = tmp_path / "new" / "mine.yaml"
    run = CliRunner().invoke
    assert run(cli.app, ["new", str(path), "WBC", "white cell", "no"], catch_exceptions=False).exit_code == 0
    assert load_policy(path).names == ("WBC", "white cell", "no")
    with pytest.raises(InputError, match="is there already"):
        run(cli.app, ["new", str(path), "RBC"], catch_exceptions=False)
    with pytest.raises(InputError, match="can name a file"):
        run(cli.app, ["new", str(tmp_path / "b.yaml"), "a/b"], catch_exceptions=False)
    assert not (tmp_path / "b.yaml").exists()
    path.write_text(path.read_text().replace("prompts: [wbc]", "prompts: [cell]\n    examples: [nowhere.png]"))
    path.write_text(path.read_text().replace("prompts: [white cell]", "prompts: [Cell]") + "hash_lists: [gone.txt]\n")
    told = run(cli.app, ["check", str(path)], catch_exceptions=False).stdout
    assert "3 categories: fine" in told
    for note in ("no such example", "are both asked for as 'Cell'", "gone.txt: no such file"):
        assert note in told.replace("\n", " ")


def test_a_policy_with_other_categories_forgets_the_old_ones() -> None:
    policy = load_policy(POLICY)
    assert policy.find("knife") == "knife"
    assert policy["dice"].review_above < 1
    fewer = policy.with_categories(
        c.model_copy(update={"review_above": 1.0, "block_above": 1.0}) for c in policy.categories[1:]
    )
    assert "knife" not in fewer.names
    assert fewer.find("knife") is None
    assert fewer["dice"].review_above == 1
