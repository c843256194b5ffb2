"""Small worlds for the tests."""

import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import label_studio
import pytest
from noise import noise_image
from places import POLICY

from tilth.data.dataset import Dataset
from tilth.engine.work import Work
from tilth.events import Events
from tilth.policy import Policy, load_policy

if TYPE_CHECKING:
    from playwright.sync_api import Browser, Page


@pytest.fixture(scope="session")
def policy() -> Policy:
    return load_policy(POLICY)


@pytest.fixture
def image_folder(tmp_path: Path) -> Path:
    """A folder with two images, a.png and b.png, apart from the dataset."""
    folder = tmp_path / "set"
    folder.mkdir()
    for seed, name in enumerate(("a.png", "b.png")):
        (folder / name).write_bytes(noise_image(seed))
    return folder


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
