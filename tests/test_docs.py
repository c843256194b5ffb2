"""What the documents say is so: links lead somewhere, commands exist, and the first line of a recipe is its command."""

import re
from pathlib import Path

import pytest
import yaml

from tilth.pipeline.steps import step_table
from tilth.recipe import load_recipe

ROOT = Path(__file__).parents[1]
PAGES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").glob("*.md"))]
RECIPES = sorted((ROOT / "configs" / "recipes").glob("*.yaml"))


@pytest.mark.parametrize("page", PAGES, ids=lambda p: p.name)
def test_links_lead_somewhere(page: Path) -> None:
    for target in re.findall(r"\]\(([^)#]+)\)", page.read_text()):
        if not target.startswith("http"):
            assert (page.parent / target).exists(), f"{page.name}: {target}"


@pytest.mark.parametrize("page", PAGES, ids=lambda p: p.name)
def test_files_that_are_named_exist(page: Path) -> None:
    for name in re.findall(
        r"`((?:configs|docs|tests|starter|pipeline|tilth|annotate)/[\w./-]+\.(?:py|yaml|md))`", page.read_text()
    ):
        assert (ROOT / name).exists(), f"{page.name}: {name}"


@pytest.mark.parametrize("recipe", RECIPES, ids=lambda p: p.name)
def test_a_recipe_begins_with_its_command_and_has_no_mistake(recipe: Path) -> None:
    first = recipe.read_text().splitlines()[0]
    assert re.match(rf"# tilth (run|plan) configs/recipes/{recipe.name}", first)
    needed = yaml.safe_load(recipe.read_text()).get("variables") or {}
    load_recipe(recipe, step_table(), {name: "/nowhere" for name, value in needed.items() if value is None})


@pytest.mark.parametrize("card", sorted((ROOT / "configs" / "models").glob("*.card.yaml")), ids=lambda p: p.name)
def test_a_card_says_what_a_user_needs_to_know(card: Path) -> None:
    told = yaml.safe_load(card.read_text())
    assert {"name", "family", "location", "licence"} <= set(told)
    if str(told["location"]).startswith("starter:"):
        assert {"trained_on", "command", "minutes", "scores", "limits"} <= set(told)
        folder = ROOT / "starter" / "models" / str(told["location"]).removeprefix("starter:")
        assert any(folder.rglob("*.safetensors"))


def test_every_starter_model_has_a_card_and_all_are_small() -> None:
    cards = {yaml.safe_load(p.read_text())["location"] for p in (ROOT / "configs" / "models").glob("*.card.yaml")}
    folders = [p for p in (ROOT / "starter" / "models").iterdir() if any(p.rglob("*.safetensors"))]
    assert {f"starter:{p.name}" for p in folders} <= cards
    assert sum(f.stat().st_size for p in folders for f in p.rglob("*") if f.is_file()) <= 50 * 2**20
    assert not [f for p in folders for f in p.rglob("*") if f.suffix in (".bin", ".pt", ".pkl", ".ckpt")]
