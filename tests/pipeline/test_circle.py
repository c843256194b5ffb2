"""Uncertain cases come back: what a served model doubts is taken in, asked about, and learned from; what is on a hash list never is."""

import json
import re
import shlex
from pathlib import Path

import numpy as np
import pytest
import typer
from noise import noise_image
from places import POLICY
from runtime_graphs import shared_bundle, shared_moderator
from served import asked, running
from typer.testing import CliRunner

from tilth.annotate.review.review import Review
from tilth.claims import Answer
from tilth.images import decode, encode_png, image_id
from tilth.mining.copies.listed import hashes_of
from tilth.pipeline.cli import main as cli
from tilth.pipeline.cli import steps as cli_steps
from tilth.pipeline.cli.keeping import keeping
from tilth.pipeline.cli.steps import opened


def doubtful(seed: int) -> bytes:
    """A picture that the classifier of the tests takes for a knife, and their detector does not."""
    rng = np.random.default_rng(seed)
    small = rng.integers(0, 60, (16, 16, 3), dtype=np.uint8) + np.array((0, 0, 150), np.uint8)
    return encode_png(small.repeat(8, 0).repeat(8, 1))


@pytest.fixture
def policy(tmp_path: Path) -> Path:
    """The starter's policy with a hash list that has the first picture."""
    (tmp_path / "known.txt").write_text(f"pdq {hashes_of(decode(doubtful(0)))[0]}\n")
    path = tmp_path / "policy.yaml"
    path.write_text(POLICY.read_text() + "\nhash_lists: [known.txt]\n")
    return path


def tilth(line: str, code: int = 0) -> str:
    app = typer.Typer()
    app.registered_commands = list(cli.app.registered_commands)
    cli_steps.add_to(app)
    done = CliRunner().invoke(app, shlex.split(line)[1:])
    assert (0 if done.exception is None else getattr(done.exception, "exit_code", 1)) == code, done.output
    return done.stdout + (str(done.exception) if done.exception else "")


def test_what_is_served_and_doubted_is_imported_asked_about_and_learned(tmp_path: Path, policy: Path) -> None:
    make = keeping(tmp_path / "doubts", 100, policy)
    assert make is not None
    images = [doubtful(n) for n in range(6)]
    with running(shared_moderator(), make(shared_moderator())) as client:
        answer = client.post("/v1/moderations", json={"input": [asked(data) for data in (*images, noise_image(9, 64))]})
        served = answer.json()["results"][1]["category_scores"]
    (tmp_path / "doubts").rename(tmp_path / "night")

    data = tmp_path / "data"
    facts = json.loads(tilth(f"tilth import {data} --policy {policy} --set path={tmp_path / 'night'}"))
    assert (facts["images"], facts["served"], facts["failed"]) == (5, 5, 0)
    assert (facts["odd"], facts["left_alone"], facts["by_state"]) == ({}, {}, {"unlabelled": 5})
    ids = [image_id(decode(image)) for image in images]
    truth = tmp_path / "truth.jsonl"
    knife = [{"category": "knife", "box_xyxy": [8, 8, 90, 90]}]
    truth.write_text("".join(json.dumps({"id": id_, "labels": knife}) + "\n" for id_ in ids))
    tilth(f"tilth ground {data} --policy {policy}")
    with opened(data, policy, "review", lambda _: tmp_path / "files") as work:
        by_id = {sample.id: sample for sample in work.dataset.samples(images=False)}
        assert set(by_id) == set(ids[1:]), "the first is on a hash list"
        columns = by_id[ids[1]].columns
        assert columns["served.by"] == shared_moderator().name
        assert columns["served.scores"] == {
            name: served[name] for name in ("knife", "cigarette", "bottle", "pill", "dice")
        }
        assert work.dataset.count("served.doubt > 0 and served.by is not null") == 5
        told = Review(truth=truth, budget=3, audit_share=0).run(work)
        assert told["images_reviewed"] == 3
        seen = [s for s in work.dataset.samples(images=False) if s.labelled_by_people]
        assert {s.columns["review.why"] for s in seen} == {"served"}
        assert all(s.truth.of("knife") is Answer.PRESENT for s in seen)
    tilth(f"tilth train classifier {data} --policy {policy} --set steps=2")


def test_moderate_keeps_doubts_too_and_what_is_missing_is_said(tmp_path: Path, policy: Path) -> None:
    for n in range(3):
        (tmp_path / f"{n}.png").write_bytes(doubtful(n))
    line = f"tilth moderate {shared_bundle()} {' '.join(str(tmp_path / f'{n}.png') for n in range(3))}"
    verdicts = tilth(f"{line} --keep-doubts {tmp_path / 'doubts'} --policy {policy}").splitlines()
    kept = [json.loads(row) for row in (tmp_path / "doubts" / "metadata.jsonl").read_text().splitlines()]
    assert (len(verdicts), len(kept)) == (3, 2)
    other = tmp_path / "other.yaml"
    other.write_text(re.sub(r"^policy: starter", "policy: other", POLICY.read_text(), flags=re.M))
    for options, message in (
        (f"--keep-doubts {tmp_path / 'more'}", "give --policy, too: its hash_lists say what is never kept"),
        (f"--policy {policy}", "nothing is kept without --keep-doubts FOLDER"),
        (f"--keep-doubts {tmp_path / 'more'} --policy {policy} --keep-most 0", "--keep-most must be at least 1, got 0"),
        (f"--keep-doubts {tmp_path / 'more'} --policy {other}", "it is the policy 'other', and the bundle serves 'starter'"),
    ):  # fmt: skip
        assert message in tilth(f"{line} {options}", 2)
    assert not (tmp_path / "more").exists()
