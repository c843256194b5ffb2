"""What the documents say is so: links lead somewhere, commands exist, and the first line of a recipe is its command."""

import re
import shlex
import subprocess
import sys
import textwrap
from dataclasses import fields
from pathlib import Path
from typing import Any

import pytest
import typer
import yaml
from places import ROOT

from tilth.engine.recipe import load_class, load_recipe
from tilth.pipeline.cli import bundle as cli_bundle
from tilth.pipeline.cli import data as cli_data
from tilth.pipeline.cli import main as cli
from tilth.pipeline.cli import nights as cli_nights
from tilth.pipeline.cli import policy as cli_policy
from tilth.pipeline.cli import review as cli_review
from tilth.pipeline.cli import steps as cli_steps
from tilth.pipeline.console import server as console
from tilth.pipeline.persons import commands as persons
from tilth.pipeline.table import step_table
from tilth.policy import load_policy

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


def commands(text: str) -> list[list[str]]:
    """Every `tilth …` line that a reader would copy, as the shell would cut it."""
    lines = re.findall(r"^(?:    |# +)(tilth .+)$", text, re.M)
    return [shlex.split(line.replace("<dataset>", "data"), comments=True)[1:] for line in lines]


def parsed(arguments: list[str]) -> tuple[str, dict[str, Any]]:
    """Let the real command line read arguments; it raises what it would print. Nothing is run."""
    app = typer.Typer()
    app.registered_commands = list(cli.app.registered_commands)
    for part in (cli_steps, cli_data, cli_policy, cli_review, cli_nights, cli_bundle, console, persons):
        part.add_to(app)
    command: Any = typer.main.get_command(app)
    context: Any = None
    names: list[str] = []
    while hasattr(command, "commands"):
        context = command.make_context("tilth", list(arguments), parent=context)
        name, command, arguments = command.resolve_command(context, [*context._protected_args, *context.args])
        names.append(name)
    return " ".join(names), dict(command.make_context(names[-1], list(arguments), parent=context).params)


PRINTED = [(page, arguments) for page in [*PAGES, *RECIPES] for arguments in commands(page.read_text())]


@pytest.mark.parametrize(("page", "arguments"), PRINTED, ids=lambda v: v.name if isinstance(v, Path) else " ".join(v))
def test_every_command_is_one_that_the_command_line_reads(page: Path, arguments: list[str]) -> None:
    name, options = parsed(arguments)
    one = cli_steps.COMMANDS.get(name) or cli_steps.TRAINED.get(name.removeprefix("train "))
    if one is not None:
        known = {item.name for item in fields(load_class(step_table(), one.step))}
        assert set(cli_steps.read_settings(options["settings"])) <= known, f"{page.name}: {arguments}"
    elif recipe := options.get("recipe"):
        told = RECIPES if recipe.name == "recipe.yaml" else [ROOT / recipe]
        named = {setting.partition("=")[0] for setting in options["settings"] or []}
        assert named <= set(yaml.safe_load(told[0].read_text()).get("variables") or {}), f"{page.name}: {arguments}"


def test_the_policy_that_a_page_shows_is_one(tmp_path: Path) -> None:
    shown = re.search(r"((?:^    .+\n)+)", (ROOT / "docs/annotate.md").read_text().partition("`policy.yaml`:")[2], re.M)
    assert shown
    (tmp_path / "policy.yaml").write_text(textwrap.dedent(shown[1]))
    assert load_policy(tmp_path / "policy.yaml")["knife"].counter_prompts == ("spoon",)


def manifests() -> list[dict[str, Any]]:
    blocks = re.findall(r"```yaml\n(.*?)```", (ROOT / "docs" / "kubernetes.md").read_text(), re.S)
    return [one for block in blocks for one in yaml.safe_load_all(block)]


def inside(told: Any, key: str) -> list[Any]:
    """All that is said under a key, anywhere in a manifest."""
    if isinstance(told, dict):
        return [found for name, value in told.items() for found in ([value] if name == key else inside(value, key))]
    return [found for value in told for found in inside(value, key)] if isinstance(told, list) else []


def test_manifests_run_commands_that_there_are_on_ports_and_probes_that_answer() -> None:
    from fastapi.testclient import TestClient

    from tilth.runtime.serving.app import make_app
    from tilth.runtime.serving.desk import Desk

    kinds = [one["kind"] for one in manifests()]
    assert kinds == ["Deployment", "Service", "Deployment", "Service", "InferenceService", "RayJob"]
    assert all(one["apiVersion"] and one["metadata"]["name"] for one in manifests())
    ours = [c for one in manifests() for some in inside(one, "containers") for c in some if "tilth" in c["image"]]
    with TestClient(make_app(Desk())) as client:
        for container in ours:
            if "command" not in container:
                continue
            name, options = parsed(container["command"][1:])
            assert (name, options["host"]) == ("serve", "0.0.0.0")
            assert [port["containerPort"] for port in container["ports"]] == [options["port"]]
            for probe in (container[kind] for kind in container if kind.endswith("Probe")):
                assert probe["httpGet"]["port"] == options["port"]
                assert client.get(probe["httpGet"]["path"]).status_code in (200, 503)
    [grace] = [found for one in manifests() for found in inside(one, "terminationGracePeriodSeconds")]
    _, options = parsed(next(c["command"][1:] for c in ours if "--drain-s" in c.get("command", [])))
    assert grace > options["drain_s"] + options["timeout_s"]
    [job] = [one for one in manifests() if one["kind"] == "RayJob"]
    name, options = parsed(job["spec"]["entrypoint"].split()[1:])
    assert (name, options["cluster"], options["host"]) == ("serve", "auto", "0.0.0.0")
    from tilth.runtime.cluster.application import read_replicas

    assert read_replicas(options["replicas"]).door == 2
    services = {one["metadata"]["name"]: one["spec"] for one in manifests() if one["kind"] == "Service"}
    targets = {
        one["metadata"]["name"]: inside(one, "containerPort") for one in manifests() if one["kind"] == "Deployment"
    }
    assert all(spec["ports"][0]["targetPort"] in targets[name] for name, spec in services.items())


def test_pages_and_plots_agree_with_the_files_of_figures() -> None:
    command = [sys.executable, str(ROOT / "benchmarks" / "figures.py"), "--check"]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr


def test_every_benchmark_writes_its_figures() -> None:
    for path in {*(ROOT / "benchmarks").glob("*.py")} - {
        ROOT / "benchmarks" / name
        for name in (
            "figures.py",
            "plots.py",
            "fuzz.py",
            "fuzz_targets.py",
            "import_rates.py",
            "variants.py",
            "loop_figures.py",
            "full_size_drawing.py",
            "full_size_models.py",
            "full_size_steps.py",
            "full_size_tokens.py",
            "service_litserve.py",
            "service_parts.py",
            "style_sheet.py",
        )
    }:
        assert re.search(r"figures\.write\(|\.write\(asked\.results\)", path.read_text()), path.name


def test_commands_are_found_in_the_documents() -> None:
    assert len(PRINTED) > 20
    assert ["gallery", "data/set", "--policy", "policy.yaml", "--out", "gallery"] in [a for _, a in PRINTED]
    with pytest.raises(Exception, match="No such option"):
        parsed(["ground", "data", "--policy", "p", "--nonsense"])


@pytest.mark.parametrize("recipe", RECIPES, ids=lambda p: p.name)
def test_a_recipe_begins_with_its_command_and_has_no_mistake(recipe: Path) -> None:
    first = recipe.read_text().splitlines()[0]
    assert re.match(rf"# tilth (run|plan|retrain) configs/recipes/{recipe.name}", first)
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
