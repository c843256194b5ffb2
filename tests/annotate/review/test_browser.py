"""The whole loop as a newcomer walks it: commands on one side, a real browser on the other."""

import json
import os
import stat
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import label_studio
import numpy as np
import pytest
from places import POLICY
from refusals import refusal
from review_desk import MODEL, log_in

from tilth.claims import Claim, State
from tilth.data.dataset import Dataset
from tilth.engine.work import Work
from tilth.images import encode_png
from tilth.samples import NewSample

if TYPE_CHECKING:
    from playwright.sync_api import Page

pytestmark = pytest.mark.timeout(900)
SIZE_WH = (300, 200)
BOX = (30.0, 40.0, 130.0, 120.0)
CANVAS = ".konvajs-content"
# the panels beside it move it once more after it has appeared
SETTLED = f"""() => {{
    const width = document.querySelector('{CANVAS}')?.clientWidth, before = window.widthBefore;
    window.widthBefore = width;
    return width > 100 && width === before;
}}"""


@pytest.fixture
def home(server: label_studio.Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Make the server of the tests the one that `tilth review up` keeps."""
    (tmp_path / "data" / "tilth").mkdir(parents=True)
    (tmp_path / "data" / "tilth" / "review").symlink_to(server.home)
    monkeypatch.setenv("XDG_DATA_HOME", str(tmp_path / "data"))
    monkeypatch.delenv("LABEL_STUDIO_API_KEY", raising=False)
    return tmp_path


def tilth(*words: str, code: int = 0) -> str:
    """Run a command as a user does; it must end with this code, and an error in one line."""
    done = subprocess.run(
        [sys.executable, "-m", "tilth.pipeline.cli.main", *words], capture_output=True, text=True, env=os.environ.copy()
    )
    assert done.returncode == code, done.stderr
    return refusal(done) if code else done.stdout


def gray(value: int) -> bytes:
    return encode_png(np.full((SIZE_WH[1], SIZE_WH[0], 3), value, np.uint8))


def three_images(work: Work) -> Path:
    """Two images that the model sees a knife in, the first more doubtful, and one that it sees nothing in."""
    claims = [
        Claim(category="knife", box_xyxy=BOX, score=0.3, source=MODEL),
        Claim(category="knife", box_xyxy=BOX, score=0.5, source=MODEL),
        Claim(says="empty", source=MODEL),
    ]
    new = [NewSample(data=gray(90 + 40 * k), origin={"k": k}, claims=(claim,)) for k, claim in enumerate(claims)]
    work.add("images", new)
    return work.dataset.root


def test_up_is_idempotent_keeps_its_secrets_and_says_when_a_port_is_taken(
    home: Path, server: label_studio.Server
) -> None:
    said = tilth("review", "up", "--port", str(server.port))
    assert server.url in said
    assert server.token not in said, "the key is where it is kept, not on the screen"
    login = server.home / "login.json"
    assert stat.S_IMODE(login.stat().st_mode) == 0o600
    assert server.token not in (server.home / "server.log").read_text()
    assert "runs at" in tilth("review", "up", "--port", str(server.port + 1), code=2)
    (home / "data" / "tilth" / "review").unlink()
    assert f"port {server.port} is taken" in tilth("review", "up", "--port", str(server.port), code=2)
    assert tilth("review", "down") == "none was running\n"


def test_a_person_moves_a_box_skips_an_image_and_calls_one_empty(
    home: Path, work: Work, server: label_studio.Server, tab: "Page"
) -> None:
    data = str(three_images(work))
    assert "nothing was pushed" in tilth("review", "pull", data, "--policy", POLICY, code=2)
    pushed = json.loads(tilth("review", "push", data, "--policy", POLICY, "--audit-share", "0"))
    assert (pushed["sent"], pushed["waiting"]) == (3, 3)
    tab.set_default_timeout(90_000)
    log_in(tab, server)
    tab.goto(f"{pushed['project']}/data?labeling=1")
    # the first shows the predicted box in its list; it is dragged a tenth of the image to the right
    tab.get_by_text("0.30").first.wait_for()
    drag_box_right(tab)
    leave(tab, "submit")
    tab.get_by_text("0.50").first.wait_for()
    leave(tab, "skip")
    tab.get_by_label("confirmed empty").check()
    tab.get_by_test_id("bottombar-submit-button").click()
    number = pushed["project"].rpartition("/")[2]
    done = "p => p.total_annotations_number + p.skipped_annotations_number === 3"
    tab.wait_for_function(f"fetch('/api/projects/{number}/').then(r => r.json()).then({done})", polling=500)
    facts = json.loads(tilth("review", "pull", data, "--policy", POLICY))
    assert (facts["changed"], facts["answered"]) == (3, 3)
    assert json.loads(tilth("review", "pull", data, "--policy", POLICY))["changed"] == 0
    moved, skipped, empty_ = sorted(Dataset(work.dataset.root).samples(images=False), key=lambda s: str(s.origin["k"]))
    assert [s.state for s in (moved, skipped, empty_)] == [State.REVIEWED, State.AUTO, State.CONFIRMED_EMPTY]
    expected = (BOX[0] + 0.1 * SIZE_WH[0], BOX[1], BOX[2] + 0.1 * SIZE_WH[0], BOX[3])
    assert moved.truth.labels[0].box_xyxy == pytest.approx(expected, abs=1.5)
    assert moved.truth.labels[0].evidence["action"] == "edit"
    assert 0 < float(str(moved.columns["review.seconds"])) < 300
    status: Any = json.loads(tilth("review", "status", data, "--policy", POLICY, "--json"))
    (reviewer,) = status["reviewers"].values()
    assert (status["answered"], status["skipped"], status["waiting"]) == (3, 1, 0)
    assert (reviewer["actions"]["edit"], reviewer["actions"]["confirm_empty"]) == (1, 1)
    assert status["states"] == {"reviewed": 1, "auto": 1, "confirmed_empty": 1}
    assert "reviewer" in tilth("review", "status", data, "--policy", POLICY)
    published = json.loads((work.dataset.root / "published.json").read_text())
    assert published["facts"]["review"]["seconds_source"] == "measured by Label Studio"


def drag_box_right(page: "Page") -> None:
    """Drag the box by a tenth of the image."""
    page.wait_for_function(SETTLED, polling=500)
    canvas = page.locator(CANVAS)
    x, y = (BOX[0] + BOX[2]) / 2 / SIZE_WH[0], (BOX[1] + BOX[3]) / 2 / SIZE_WH[1]
    width, height = canvas.evaluate("canvas => [canvas.clientWidth, canvas.clientHeight]")
    start, end = ({"x": part * width, "y": y * height} for part in (x, x + 0.1))
    canvas.drag_to(canvas, source_position=start, target_position=end, steps=8)


def leave(page: "Page", button: str) -> None:
    """Press a button, and wait until another image is there."""
    shown = page.locator("img[alt=image]").get_attribute("src")
    page.get_by_test_id(f"bottombar-{button}-button").click()
    page.locator(f"img[alt=image]:not([src='{shown}'])").wait_for()
