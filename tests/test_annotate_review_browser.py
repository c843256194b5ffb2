"""The whole loop as a newcomer walks it: commands on one side, a real browser on the other."""

import json
import os
import stat
import subprocess
import sys
from pathlib import Path
from typing import Any

import chromium
import label_studio
import numpy as np
import pytest
from conftest import ROOT
from review_desk import MODEL

from tilth.claims import Claim, State
from tilth.dataset import Dataset
from tilth.images import encode_png
from tilth.samples import NewSample
from tilth.work import Work

pytestmark = pytest.mark.timeout(900)
POLICY = str(ROOT / "configs" / "policies" / "starter.yaml")
SIZE_WH = (300, 200)
BOX = (30.0, 40.0, 130.0, 120.0)
BUTTON = "document.querySelector('[data-testid=bottombar-{}-button]:not([disabled])')"
CANVAS = "document.querySelector('.konvajs-content canvas')"


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
        [sys.executable, "-m", "tilth.pipeline.cli", *words], capture_output=True, text=True, env=os.environ.copy()
    )
    assert done.returncode == code, done.stderr
    if code:
        assert done.stderr.strip().startswith("tilth: ")
        assert "\n" not in done.stderr.strip()
    return done.stderr if code else done.stdout


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
    home: Path, work: Work, server: label_studio.Server, tmp_path: Path
) -> None:
    if reason := chromium.missing():
        pytest.skip(reason)
    data = str(three_images(work))
    assert "nothing was pushed" in tilth("review", "pull", data, "--policy", POLICY, code=2)
    pushed = json.loads(tilth("review", "push", data, "--policy", POLICY, "--audit-share", "0"))
    assert (pushed["sent"], pushed["waiting"]) == (3, 3)
    with chromium.browsing(tmp_path / "chromium") as page:
        page.open(f"{server.url}/user/login/")
        fields = {"email": server.login["user"], "password": server.login["password"]}
        for name, value in fields.items():
            page.ask(f"document.querySelector('input[name={name}]').value = {json.dumps(value)}")
        page.ask("document.querySelector('form').submit()")
        page.wait("!location.href.includes('login') && document.readyState === 'complete'")
        page.open(f"{pushed['project']}/data?labeling=1")
        # the first shows the predicted box in its list; it is dragged a tenth of the image to the right
        page.wait("document.body.innerText.includes('0.30')")
        middle = page.wait(_stable_middle())
        width = page.ask(f"{CANVAS}.getBoundingClientRect().width")
        page.drag((middle[0], middle[1]), (middle[0] + 0.1 * width, middle[1]))
        page.press(BUTTON.format("submit"), "document.body.innerText.includes('0.50')")
        page.press(BUTTON.format("skip"), "!document.body.innerText.includes('0.50')")
        empty = "[...document.querySelectorAll('label')].find(e => e.innerText.includes('confirmed empty'))"
        page.press(empty, "!!document.querySelector('input[type=checkbox]:checked, input[type=radio]:checked')")
        number = pushed["project"].rpartition("/")[2]
        done = "p.total_annotations_number + p.skipped_annotations_number === 3"
        page.press(BUTTON.format("submit"), f"fetch('/api/projects/{number}/').then(r => r.json()).then(p => {done})")
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


def _stable_middle() -> str:
    """Where the middle of the box is, once the image is on the screen."""
    x, y = (BOX[0] + BOX[2]) / 2 / SIZE_WH[0], (BOX[1] + BOX[3]) / 2 / SIZE_WH[1]
    return (
        f"new Promise(done => setTimeout(() => {{ const r = {CANVAS}?.getBoundingClientRect();"
        f"done(r && r.width > 100 ? [r.x + {x} * r.width, r.y + {y} * r.height] : null) }}, 1500))"
    )
