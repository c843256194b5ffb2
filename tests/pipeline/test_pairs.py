"""Edited pairs that `generate` made are written as a folder that `tilth eval --protocol pairs` judges bundles on."""

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import typer
from noise import noise_image
from places import POLICY
from typer.testing import CliRunner

from tilth.claims import Claim, Json
from tilth.data.dataset import Dataset
from tilth.engine.work import Work
from tilth.errors import InputError
from tilth.images import encode_png
from tilth.mining.copies.dedup import Dedup
from tilth.pipeline.cli import data as cli_data
from tilth.pipeline.protocols.folder import read_folder
from tilth.pipeline.protocols.pairs import edited_pairs, write_pairs
from tilth.samples import NewSample


def two(number: int, name: str, *said: Claim) -> list[NewSample]:
    """A pair as `generate` leaves it; of the first what else was said."""
    made = []
    for n, instead in enumerate(("", "spoon")):
        origin: dict[str, Json] = {"prompt": "a thing", "category": "knife", "instead": instead, "pair": name}
        claim = Claim(
            says="empty" if instead else "label",
            category=None if instead else "knife",
            score=0.5,
            source="synth:generate",
            asked=("knife",),
        )
        claims = (claim, *said) if n == 0 else (claim,)
        made.append(NewSample(data=noise_image(2 * number + n), origin=origin, claims=claims, columns={"pair": name}))
    return made


def test_pairs_of_a_dataset_become_a_folder_that_the_protocol_reads(work: Work, tmp_path: Path) -> None:
    wrong = Claim(says="empty", source="human:ann", asked=("knife",))
    more = [Claim(category=name, source="human:ann", asked=("knife", "dice")) for name in ("knife", "dice")]
    half = two(3, "c")[:1]
    made = [*two(1, "a"), *two(2, "b", wrong), *half, *two(4, "d", *more)]
    work.add("made", [*made, NewSample(data=noise_image(50), origin={"source": "real.png"})])
    told = write_pairs(work.dataset, POLICY, tmp_path / "pairs")
    left_out = {"people found otherwise": 1, "one of its images is not there": 1}
    assert told == {"pairs": 2, "seen_by_people": 0, "left_out": left_out}
    folder = read_folder(tmp_path / "pairs")
    pairs = edited_pairs(folder)
    assert len(pairs) == 2
    shown = {frozenset(map(frozenset, (folder.unsafe("base", a), folder.unsafe("base", b)))) for a, b in pairs}
    assert shown == {
        frozenset({frozenset({"knife"}), frozenset()}),
        frozenset({frozenset({"knife", "dice"}), frozenset()}),
    }
    assert all(folder.read(file)[0] is not None for pair in pairs for file in pair)


def test_a_dropped_image_takes_its_pair_along_and_no_pairs_are_one_line(work: Work, tmp_path: Path) -> None:
    pair = two(1, "a")
    work.add("made", [pair[0], replace(pair[1], columns={})])
    with pytest.raises(InputError, match=r"no edited pairs here to write.*1 left out: one of its images is not there"):
        write_pairs(work.dataset, POLICY, tmp_path / "pairs")
    assert not (tmp_path / "pairs").exists()


def test_the_images_of_a_pair_are_alike_on_purpose_and_no_copies(work: Work) -> None:
    scene = np.random.default_rng(0).integers(0, 255, (8, 8, 3)).astype(np.uint8).repeat(24, 0).repeat(24, 1)

    def changed(corner: int) -> bytes:
        image = scene.copy()
        image[corner : corner + 6, :6] = 255
        return encode_png(image)

    thing, harmless = two(1, "a")
    work.add("made", [replace(thing, data=changed(0)), replace(harmless, data=changed(20))])
    work.add("real", [NewSample(data=changed(n), origin={"source": f"{n}.png"}) for n in (40, 60)])
    facts = Dedup().run(work)
    assert (facts["dropped"], facts["in_edited_pairs"], facts["images"]) == (1, 2, 2)
    assert work.dataset.count("pair is not null") == 2


def test_the_command_writes_them_and_says_what_it_needs(work: Work, tmp_path: Path) -> None:
    work.add("made", two(1, "a"))
    app, data = typer.Typer(), str(work.dataset.root)
    cli_data.add_to(app)
    asked = ["export", data, str(tmp_path / "pairs"), "--format", "pairs"]
    without = CliRunner().invoke(app, asked)
    assert isinstance(without.exception, InputError)
    assert "needs --policy" in str(without.exception)
    done = CliRunner().invoke(app, [*asked, "--policy", str(POLICY)])
    assert json.loads(done.stdout.splitlines()[-1]) == {"pairs": 1, "seen_by_people": 0, "left_out": {}}
    assert len((tmp_path / "pairs" / "answers.jsonl").read_text().splitlines()) == 2
    assert Dataset(work.dataset.root).count() == 2
