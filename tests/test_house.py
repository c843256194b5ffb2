"""The rules that keep the folders apart, and the tables honest."""

import ast
import doctest
import importlib
import pkgutil
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

from tilth.pipeline.steps import step_table
from tilth.recipe import load_class

ROOT = Path(__file__).parents[1]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())
PACKAGES = PROJECT["tool"]["setuptools"]["packages"]

# folder -> the folders it may import; anything not named here is forbidden
ALLOWED = {
    "tilth": {"tilth"},
    "synth": {"tilth", "synth"},
    "mining": {"tilth", "mining"},
    "annotate": {"tilth", "annotate"},
    "train": {"tilth", "train"},
    "runtime": {"tilth", "runtime"},
    "starter": {"tilth", "starter", "train", "runtime", "synth"},  # its models are made for what those do
    "pipeline": {"tilth", "synth", "mining", "annotate", "train", "runtime", "pipeline", "starter"},
}
HEAVY = {
    "torch",
    "transformers",
    "diffusers",
    "faiss",
    "sklearn",
    "onnxruntime",
    "label_studio_sdk",
    "rapidocr",
    "matplotlib",
}


def imported_folders(path: Path) -> set[str]:
    names: set[str] = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: relative import"
            names |= {f"{node.module}.{alias.name}" for alias in node.names}
    parts = [name.split(".") for name in names if name.split(".")[0] == "tilth"]
    return {part[1] if len(part) > 1 and part[1] in ALLOWED else "tilth" for part in parts}


@pytest.mark.parametrize(
    "path", sorted(p for f in ALLOWED for p in (ROOT / f).rglob("*.py")), ids=lambda p: str(p.relative_to(ROOT))
)
def test_folders_import_only_what_they_may(path: Path) -> None:
    assert imported_folders(path) <= ALLOWED[path.relative_to(ROOT).parts[0]]


def test_every_package_is_shipped() -> None:
    found = {p.parent.relative_to(ROOT) for f in ALLOWED for p in (ROOT / f).rglob("__init__.py")}
    shipped = {Path(*name.split(".")[1:]) if "." in name else Path("tilth") for name in PACKAGES}
    data_only = {Path("pipeline/templates"), Path("configs")}
    assert shipped - data_only == found


@pytest.mark.parametrize(
    "modules", ["tilth.pipeline.cli, tilth.pipeline.cli_data, tilth.pipeline.run", "tilth.recipe, tilth.engine"]
)
def test_importing_the_command_line_or_the_kernel_loads_no_model_library(modules: str) -> None:
    code = f"import sys, {modules}; from tilth.pipeline.steps import step_table; step_table(); print({HEAVY!r} & set(sys.modules))"
    assert subprocess.check_output([sys.executable, "-c", code], text=True).strip() == "set()"


def test_the_runtime_runs_without_torch() -> None:
    names = [f"tilth.runtime.{m.name}" for m in pkgutil.iter_modules([str(ROOT / "runtime")])]
    code = f"import sys, {', '.join(names)}; print('torch' in sys.modules)"
    assert subprocess.check_output([sys.executable, "-c", code], text=True).strip() == "False"


@pytest.mark.parametrize("name", sorted(step_table()))
def test_every_step_of_the_table_is_a_documented_frozen_dataclass(name: str) -> None:
    cls = load_class(step_table(), name)
    assert cls.__doc__
    assert cls.__dataclass_params__.frozen  # type: ignore[attr-defined]
    assert callable(cls.run)  # type: ignore[attr-defined]


def test_no_two_folders_offer_a_step_of_the_same_name() -> None:
    from tilth.pipeline.steps import FOLDERS

    names = [name for folder in FOLDERS for name in importlib.import_module(f"tilth.{folder}").STEPS]
    assert len(names) == len(set(names))


MODULES = [
    f"{package}.{module.name}"
    for package in PACKAGES
    if package not in ("tilth.configs", "tilth.pipeline.templates")
    for module in pkgutil.iter_modules(
        [str(ROOT / Path(*package.split(".")[1:]) if "." in package else ROOT / "tilth")]
    )
    if not module.ispkg and module.name != "__main__"
]


@pytest.mark.parametrize("name", MODULES)
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
