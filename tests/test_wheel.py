"""What is published works: an sdist of the tree, the wheel of that, and an environment that has nothing else of ours."""

import os
import shutil
import subprocess
import sys
import sysconfig
import tarfile
import zipfile
from dataclasses import dataclass
from pathlib import Path

import pytest
from places import ROOT

HELD = (
    "tilth/configs/models/starter-grounding.card.yaml",
    "tilth/configs/policies/starter.yaml",
    "tilth/configs/recipes/starter.yaml",
    "tilth/mining/copies/dedup.py",
    "tilth/pipeline/gallery/templates/",
    "tilth/pipeline/report/templates/",
    "tilth/py.typed",
    "tilth/starter/models/grounding/",
)


@dataclass(frozen=True)
class Published:
    """What was built, and where it was installed."""

    sdist: Path
    wheel: Path
    environment: Path

    def run(self, *words: str, folder: Path) -> str:
        """Run a program of the environment as a user does, from a folder of their own."""
        clean = {k: v for k, v in os.environ.items() if not k.startswith(("PYTHON", "VIRTUAL_ENV"))}
        program = str(self.environment / "bin" / words[0])
        done = subprocess.run([program, *words[1:]], cwd=folder, env=clean, capture_output=True, text=True)
        assert done.returncode == 0, done.stdout + done.stderr
        return done.stdout


@pytest.fixture(scope="session")
def published(tmp_path_factory: pytest.TempPathFactory) -> Published:
    pytest.importorskip("build", reason="build is not installed")
    folder = tmp_path_factory.mktemp("published")
    tree, dist, environment = folder / "tree", folder / "dist", folder / "environment"
    # A copy, as setuptools remembers in the tree what it packed before.
    words = ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"]
    for name in filter(None, subprocess.check_output(words, cwd=ROOT, text=True).split("\0")):
        if os.path.lexists(ROOT / name):
            (tree / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(ROOT / name, tree / name, follow_symlinks=False)
    quiet([sys.executable, "-m", "build", "--no-isolation", "--outdir", str(dist), str(tree)], folder)
    (sdist,), (wheel,) = dist.glob("*.tar.gz"), dist.glob("*.whl")
    quiet([sys.executable, "-m", "venv", "--without-pip", str(environment)], folder)
    python = environment / "bin" / "python"
    install = [sys.executable, "-m", "pip", "--python", str(python), "install", "--no-deps", "--no-index", str(wheel)]
    quiet(install, folder)
    # Only now the libraries, or pip would find the tree that is installed beside them. Its own .pth is not read from here.
    (packages,) = (environment / "lib").glob("python*/site-packages")
    (packages / "libraries.pth").write_text(sysconfig.get_path("purelib") + "\n")
    return Published(sdist, wheel, environment)


def quiet(command: list[str], folder: Path) -> None:
    clean = {k: v for k, v in os.environ.items() if k != "PYTHONPATH"}
    done = subprocess.run(command, cwd=folder, env=clean, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]


def missing(names: set[str]) -> list[str]:
    return [
        held for held in HELD if not any(name == held or (held[-1] == "/" and name.startswith(held)) for name in names)
    ]


def test_the_sdist_holds_real_files_where_the_tree_has_links(published: Published) -> None:
    with tarfile.open(published.sdist) as packed:
        members = packed.getmembers()
    assert [member.name for member in members if not (member.isfile() or member.isdir())] == []
    names = {member.name.partition("/")[2] for member in members if member.isfile()}
    assert missing(names) == []
    assert {"LICENSE", "README.md", "pyproject.toml"} <= names


def test_the_wheel_holds_what_is_read_at_run_time(published: Published) -> None:
    with zipfile.ZipFile(published.wheel) as packed:
        rows = packed.infolist()
    names = {row.filename: row.file_size for row in rows}
    assert missing(set(names)) == []
    about = "-".join(published.wheel.name.split("-")[:2]) + ".dist-info"
    assert {name.split("/")[0] for name in names} == {"tilth", about}
    assert [row.filename for row in rows if (row.external_attr >> 16) & 0o170000 == 0o120000] == []  # links
    for kind, folder in (
        ("*.card.yaml", "configs/models"),
        ("*.yaml", "configs/recipes"),
        ("*.safetensors", "starter"),
    ):
        for path in (ROOT / folder).rglob(kind):
            assert names[f"tilth/{path.relative_to(ROOT)}"] == path.stat().st_size


def test_the_installed_command_line_plans_the_starter_with_licences(published: Published, tmp_path: Path) -> None:
    where = published.run("python", "-c", "import tilth; print(tilth.__file__)", folder=tmp_path).strip()
    assert Path(where).is_relative_to(published.environment)
    assert "runs on" in published.run("tilth", "doctor", folder=tmp_path)
    recipe = Path(where).parent / "configs" / "recipes" / "starter.yaml"
    planned = published.run("tilth", "plan", str(recipe), folder=tmp_path)
    assert "starter:grounding" in planned
    assert "Apache-2.0" in planned


def test_an_installed_model_finds_a_thing(published: Published, tmp_path: Path) -> None:
    code = """
import tilth, tilth.models
from pathlib import Path
from tilth.annotate.grounding.model import Finder
from tilth.annotate.grounding.phrases import Question
from tilth.starter.world.scene import Spec, render
import numpy as np
assert tilth.models.locate("starter:grounding").is_relative_to(Path(tilth.__file__).parent)
finder = Finder("starter:grounding", (Question(category="knife", phrases=("knife",)),), device="cpu", floor=0.1)
spec = Spec(things=(("knife", "red", ""),), surface="wood", style="photo")
seen = finder.find([render(spec, np.random.default_rng(0), side=96).image])[0]
print(tilth.models.digest("starter:grounding"), max(one.score for one in seen))
"""
    digest, score = published.run("python", "-W", "ignore", "-c", code, folder=tmp_path).split()
    assert len(digest) >= 12
    assert float(score) > 0.2
