"""A newcomer copies the lines of README and of two pages, from photographs to a served bundle, and none of them fails.

With `TILTH_CARDS` they run as they are printed, on the playing cards that the pages speak of; without, on small drawn ones of the same
names, and learning stops after a few steps.
"""

import base64
import json
import os
import re
import shlex
import shutil
import socket
import subprocess
import sys
import time
from pathlib import Path

import httpx
import numpy as np
import pytest
from label_files import voc
from places import ROOT

from tilth.images import encode_png
from tilth.policy import load_policy

MINUTES = 15  # that a newcomer has, on two cores
POLICY = ROOT / "configs" / "policies" / "cards.yaml"


def printed(page: str, after: str = "") -> list[str]:
    """Return the commands of the first block of a page, or of the first after some words."""
    text = (ROOT / page).read_text().partition(after)[2] if after else (ROOT / page).read_text()
    block = re.search(r"(?:^    \S.*\n)+", text, re.M)
    assert block, page
    lines = [line.strip() for line in block[0].splitlines()]
    return [line for line in lines if line.startswith("tilth ") and "…" not in line and "policy.yaml" not in line]


def draw_cards(folder: Path) -> None:
    """Write photographs of rectangles whose colour is their rank, and a few of nothing."""
    names = load_policy(POLICY).names
    for part, count in (("train", 40), ("test", 12)):
        (folder / part).mkdir(parents=True)
        for n in range(count):
            rng = np.random.default_rng([len(part), n])
            image = rng.integers(90, 160, (96, 96, 3), dtype=np.uint8)
            boxes = []
            if n % 5:
                rank, (x, y) = n % len(names), rng.integers(4, 40, 2).tolist()
                image[y : y + 48, x : x + 36] = 255 - 40 * rank, 40 * rank, 128
                boxes = [(names[rank], x + 1, y + 1, x + 36, y + 48)]
            (folder / part / f"IMG_{n}.png").write_bytes(encode_png(image))
            voc(folder / part / f"IMG_{n}.xml", f"IMG_{n}.png", *boxes, size_wh=(96, 96))


@pytest.fixture
def here(tmp_path: Path) -> Path:
    (tmp_path / "configs").symlink_to(ROOT / "configs")
    if cards := os.environ.get("TILTH_CARDS"):
        (tmp_path / "cards").symlink_to(cards)
    else:
        draw_cards(tmp_path / "cards")
    shutil.copy(next((tmp_path / "cards" / "test").glob("IMG*")), tmp_path / "photo.jpg")
    return tmp_path


def words_of(line: str, here: Path) -> list[str]:
    """Return a line as the shell would cut it, with the folder that the pages call `/data/cards`, and fewer steps on drawn cards."""
    line = line.replace("/data/cards", str(here / "cards"))
    if "TILTH_CARDS" not in os.environ:
        line = re.sub(r"(steps)=\d+", r"\1=6", line)
    return [sys.executable, "-m", "tilth.pipeline.cli.main", *shlex.split(line, comments=True)[1:]]


def test_the_lines_of_the_pages_lead_from_photographs_to_a_served_bundle(here: Path) -> None:
    began = time.monotonic()
    train, serve = printed("docs/train.md"), printed("docs/serve.md")
    assert len(train) > 10
    for line in ["tilth doctor", *train]:
        done = subprocess.run(words_of(line, here), cwd=here, capture_output=True, text=True, check=False, timeout=900)
        assert done.returncode == 0, f"{line}\n{done.stderr[-2000:]}"
    verdicts = [json.loads(line) for line in done.stdout.splitlines()]
    assert len(verdicts) >= 12, "a verdict for each image"
    assert (here / "data" / "cards-gallery" / "index.html").is_file()

    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        port = listener.getsockname()[1]
    (line,) = [line for line in serve if line.startswith("tilth serve")]
    server = subprocess.Popen(words_of(line.replace("8080", str(port)), here), cwd=here, stderr=subprocess.DEVNULL)
    try:
        url = f"http://127.0.0.1:{port}"
        for _ in range(240):
            try:
                httpx.get(f"{url}/readyz").raise_for_status()
                break
            except httpx.HTTPError:
                assert server.poll() is None, "the server ended"
                time.sleep(0.25)
        image = "data:image/jpeg;base64," + base64.b64encode((here / "photo.jpg").read_bytes()).decode()
        body = {"input": [{"type": "image_url", "image_url": {"url": image}}]}
        (result,) = httpx.post(f"{url}/v1/moderations", json=body, timeout=60).raise_for_status().json()["results"]
        assert set(result["category_scores"]) == set(load_policy(POLICY).names)
    finally:
        server.terminate()
        server.wait()
    assert time.monotonic() - began < 60 * MINUTES
