"""Small worlds for the tests."""

import io
import shutil
import tarfile
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import label_studio
import numpy as np
import pytest

from tilth.dataset import Dataset
from tilth.events import Events
from tilth.images import encode_png
from tilth.policy import Policy, load_policy
from tilth.samples import NewSample
from tilth.work import Work

if TYPE_CHECKING:
    from playwright.sync_api import Browser, Page

ROOT = Path(__file__).parents[1]


@pytest.fixture(scope="session")
def policy() -> Policy:
    return load_policy(ROOT / "configs" / "policies" / "starter.yaml")


def noise_image(seed: int, side: int = 16) -> bytes:
    """A PNG that no other seed has."""
    return encode_png(np.random.default_rng(seed).integers(0, 256, (side, side, 3), dtype=np.uint8))


def noise_samples(n: int, side: int = 16) -> list[NewSample]:
    return [NewSample(data=noise_image(i, side), origin={"source": f"{i}.png"}) for i in range(n)]


@pytest.fixture
def image_folder(tmp_path: Path) -> Path:
    """A folder with two images, a.png and b.png, apart from the dataset."""
    folder = tmp_path / "set"
    folder.mkdir()
    for seed, name in enumerate(("a.png", "b.png")):
        (folder / name).write_bytes(noise_image(seed))
    return folder


def tar(path: Path, *members: tuple[str, bytes]) -> Path:
    """Write an archive."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with tarfile.open(path, "w") as archive:
        for name, data in members:
            member = tarfile.TarInfo(name)
            member.size = len(data)
            archive.addfile(member, io.BytesIO(data))
    return path


@pytest.fixture
def work(tmp_path: Path, policy: Policy) -> Iterator[Work]:
    """An empty dataset to work on."""
    events = Events(tmp_path / "events.jsonl")
    yield Work(
        name="test", dataset=Dataset(tmp_path / "dataset"), policy=policy, folder=tmp_path / "files", events=events
    )
    events.close()


@pytest.fixture(scope="session")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[label_studio.Server]:
    """A real Label Studio."""
    if reason := label_studio.missing():
        pytest.skip(reason)
    with label_studio.serving(tmp_path_factory.mktemp("label-studio")) as running:
        yield running


@pytest.fixture(scope="module")
def browser() -> "Iterator[Browser]":
    """The system's Chromium.

    It lives no longer than a module: while it does, Playwright's event loop counts as running, and `asyncio.run` refuses.
    """
    api = pytest.importorskip("playwright.sync_api", reason="playwright is not installed")
    program = shutil.which("chromium")
    if not program:
        pytest.skip("Chromium is not installed")
    with api.sync_playwright() as playwright, playwright.chromium.launch(executable_path=program) as running:
        yield running


@pytest.fixture
def tab(browser: "Browser") -> "Iterator[Page]":
    """An empty page that shares nothing with those of other tests."""
    with browser.new_context(viewport={"width": 1400, "height": 1000}) as context:
        yield context.new_page()
