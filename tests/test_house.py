"""The rules that keep folders and rooms apart, and the tables honest."""

import ast
import doctest
import importlib
import json
import pkgutil
import re
import subprocess
import sys
from graphlib import TopologicalSorter
from itertools import accumulate
from pathlib import Path

import pytest
from places import ROOT

import tilth
from tilth.engine.recipe import load_class
from tilth.pipeline.table import FOLDERS, step_table

# folder -> the folders it may import beside itself; anything not named here is forbidden
ALLOWED = {
    "tilth": set(),
    "synth": {"tilth"},
    "mining": {"tilth"},
    "annotate": {"tilth"},
    "train": {"tilth"},
    "runtime": {"tilth"},
    "starter": {"tilth", "runtime", "synth"},  # its models are made for what those do
    "pipeline": {"tilth", "synth", "mining", "annotate", "train", "runtime", "starter"},
}
# folder -> its rooms, in levels: a room imports rooms of earlier levels only, so never a sibling; "" is the folder itself
ROOMS = {
    "tilth": [[""], ["data", "sources", "encoders", "origins", "hearing"], ["engine"]],
    "synth": [["safety", "plan", "check"], ["draw"], ["adapters", "identity"]],
    "mining": [["corpora"], ["vectors"], ["copies"], ["search"], ["cleaning"]],
    "annotate": [
        ["boxes", "formats/parts"],
        ["grounding", "labelstudio"],
        ["formats", "review"],
        ["exchange"],
        ["texts"],
        ["sounds"],
    ],
    "train": [["artifacts", "measure"], ["learn"], ["judge", "persons"], ["speech"]],
    "runtime": [["stages"], ["judges"], ["bundles"], ["serving"], ["cluster"]],
    "starter": [
        ["world"],
        ["grounding", "diffusion", "persons", "stage1", "verdict", "speech"],
        ["retrieval", "protocols", "sentences"],
        [""],
    ],
    "pipeline": [["report", "steps"], ["protocols", "words"], ["", "gallery"], ["console", "persons"], ["cli"]],
}
A_DOZEN = 12
HEAVY = {
    "torch",
    "transformers",
    "diffusers",
    "faiss",
    "sklearn",
    "onnxruntime",
    "label_studio_sdk",
    "rapidocr",
    "openvino",
    "matplotlib",
}


def module_of(path: Path) -> str:
    parts = path.relative_to(ROOT).with_suffix("").parts
    return ".".join((*(() if parts[0] == "tilth" else ("tilth",)), *parts)).removesuffix(".__init__")


FILES = {module_of(path): path for folder in ALLOWED for path in sorted((ROOT / folder).rglob("*.py"))}


def imported(path: Path) -> set[str]:
    """The modules of ours that a file imports, anywhere in it."""
    found: set[str] = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: relative import"
            names = {f"{node.module}.{alias.name}" for alias in node.names}
            found |= {name if name in FILES else str(node.module) for name in names}
    return {name for name in found if name == "tilth" or name.startswith("tilth.")}


IMPORTS = {name: imported(path) - {name} for name, path in FILES.items()}


def folder_and_room(module: str) -> tuple[str, str]:
    parts = FILES[module].relative_to(ROOT).parent.parts
    return parts[0], "/".join(parts[1:])


def levels(folder: str) -> dict[str, int]:
    return {room: level for level, rooms in enumerate(ROOMS[folder]) for room in rooms}


@pytest.mark.parametrize("module", FILES, ids=lambda name: name.removeprefix("tilth."))
def test_a_file_imports_only_what_exists_and_what_its_room_may(module: str) -> None:
    folder, room = folder_and_room(module)
    for name in IMPORTS[module]:
        assert name in FILES, f"{name} is no module"
        other, its_room = folder_and_room(name)
        if other != folder:
            assert other in ALLOWED[folder], f"{folder} must not import {name}"
        elif its_room != room:
            assert levels(folder)[its_room] < levels(folder)[room], f"{folder}/{room} must not import {name}"


def test_no_imports_go_in_a_circle_not_even_late_ones() -> None:
    assert list(TopologicalSorter(IMPORTS).static_order())  # raises CycleError, which names the circle


@pytest.mark.parametrize("folder", ALLOWED)
def test_every_room_is_named_says_what_it_is_for_and_holds_no_more_than_a_dozen_files(folder: str) -> None:
    rooms: dict[str, list[str]] = {}
    for module, path in FILES.items():
        if path.relative_to(ROOT).parts[0] == folder:
            rooms.setdefault(folder_and_room(module)[1], []).append(path.name)
    holding = {room: sorted(set(names) - {"__init__.py", "__main__.py"}) for room, names in rooms.items()}
    assert {room for room, names in holding.items() if names and room} == set(levels(folder)) - {""}
    assert {room: names for room, names in holding.items() if len(names) > A_DOZEN} == {}
    for room in rooms:
        told = importlib.import_module(module_of(ROOT / folder / room / "__init__.py")).__doc__ or ""
        named = re.findall(r"`(\w+\.py)`", told)
        assert told
        assert not room or named, f"{folder}/{room}/__init__.py says nothing of where to begin"
        for name in named:
            assert (ROOT / folder / room / name).exists(), f"{folder}/{room}: {name}"


def test_tests_lie_in_the_rooms_of_what_they_test() -> None:
    rooms = {"/".join(folder_and_room(name)).strip("/").removeprefix("tilth/") for name in FILES}
    known = {str(part) for room in rooms for part in accumulate(map(Path, Path(room).parts), Path.joinpath)} | {"", "."}
    lie = {str(path.parent.relative_to(ROOT / "tests")) for path in (ROOT / "tests").rglob("test_*.py")}
    assert lie <= known


def test_an_editor_finds_every_module(tmp_path: Path) -> None:
    """Pyright is what editors ask; it is given one file that imports all, as it takes minutes over the files themselves."""
    pytest.importorskip("pyright", reason="pyright is not installed")
    everything = tmp_path / "everything.py"
    everything.write_text("".join(f"import {name}\n" for name in [*FILES, "tilth.nowhere"]))
    settings = {"include": ["everything.py"], "typeCheckingMode": "off", "reportMissingImports": "error"}
    settings |= {"venvPath": str(Path(sys.prefix).parent), "venv": Path(sys.prefix).name}
    config = tmp_path / "pyright.json"
    config.write_text(json.dumps(settings))
    command = [sys.executable, "-m", "pyright", "--project", str(config), "--outputjson"]
    done = subprocess.run(command, capture_output=True, text=True, cwd=tmp_path)
    if "error" not in done.stdout and done.returncode:
        pytest.skip(f"Pyright could not start: {done.stderr[-200:]}")
    told = json.loads(done.stdout)["generalDiagnostics"]
    missing = [one["message"] for one in told if one.get("rule") == "reportMissingImports"]
    assert missing == ['Import "tilth.nowhere" could not be resolved']


@pytest.mark.parametrize(
    "modules",
    ["tilth.pipeline.cli.main, tilth.pipeline.cli.data, tilth.pipeline.run", "tilth.engine.recipe, tilth.engine.work"],
)
def test_importing_the_command_line_or_the_kernel_loads_no_model_library(modules: str) -> None:
    code = f"import sys, {modules}; from tilth.pipeline.table import step_table; step_table(); print({HEAVY!r} & set(sys.modules))"
    assert subprocess.check_output([sys.executable, "-c", code], text=True).strip() == "set()"


def test_the_runtime_runs_without_torch() -> None:
    names = [name for name in FILES if name.startswith("tilth.runtime")]
    code = f"import sys, {', '.join(names)}; print('torch' in sys.modules)"
    assert subprocess.check_output([sys.executable, "-c", code], text=True).strip() == "False"


@pytest.mark.parametrize("name", sorted(step_table()))
def test_every_step_of_the_table_is_a_documented_frozen_dataclass(name: str) -> None:
    cls = load_class(step_table(), name)
    assert cls.__doc__
    assert cls.__dataclass_params__.frozen  # type: ignore[attr-defined]
    assert callable(cls.run)  # type: ignore[attr-defined]


def test_no_two_folders_offer_a_step_of_the_same_name() -> None:
    names = [name for folder in FOLDERS for name in importlib.import_module(f"tilth.{folder}").STEPS]
    assert len(names) == len(set(names))


def test_every_module_is_found_by_its_package() -> None:
    found = {m.name for m in pkgutil.walk_packages(tilth.__path__, "tilth.")} | {"tilth"}
    assert found - {name for name in found if name.endswith("__main__")} == {
        n for n in FILES if not n.endswith("__main__")
    }


@pytest.mark.parametrize("name", [name for name in FILES if not name.endswith("__main__")])
def test_the_examples_in_the_docstrings_are_true(name: str) -> None:
    assert doctest.testmod(importlib.import_module(name)).failed == 0


def test_no_file_names_a_private_path() -> None:
    listed = subprocess.check_output(
        ["git", "ls-files", "*.py", "*.md", "*.yaml", "*.toml", "Makefile"], text=True, cwd=ROOT
    )
    for name in listed.split():
        if name != "tests/test_house.py":
            text = (ROOT / name).read_text()
            assert "../shared" not in text
            assert "/work/" not in text
