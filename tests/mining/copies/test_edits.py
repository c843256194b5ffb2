"""Edited copies are found, other photographs of the same thing are not, and a grown dataset costs only what is new."""

import functools
from pathlib import Path

import cv2
import numpy as np
import pytest
from places import POLICY

from tilth.data.dataset import Dataset
from tilth.engine.work import Work
from tilth.events import Events
from tilth.images import Image, encode_png
from tilth.mining.copies import near
from tilth.mining.copies.compare import agreement, mirrored, traces
from tilth.mining.copies.dedup import Dedup
from tilth.mining.copies.edits import Edits, same_picture, sketch
from tilth.policy import load_policy
from tilth.samples import NewSample


@functools.cache
def picture(seed: int, side: int = 320) -> Image:
    """Draw a scene with structure everywhere, as photographs have it."""
    rng = np.random.default_rng(seed)
    base = cv2.resize(rng.integers(0, 255, (12, 12, 3), np.uint8), (side, side), interpolation=cv2.INTER_CUBIC)
    for _ in range(60):
        x, y = (int(v) for v in rng.integers(0, side, 2))
        colour = tuple(int(v) for v in rng.integers(0, 255, 3))
        size = tuple(int(v) for v in rng.integers(6, 50, 2))
        if rng.random() < 0.5:
            cv2.rectangle(base, (x, y), (x + size[0], y + size[1]), colour, -1)
        else:
            cv2.ellipse(base, (x, y), size, float(rng.integers(180)), 0, 360, colour, -1)
    return base


def edits(image: Image) -> dict[str, Image]:
    height, width = image.shape[:2]
    written = image.copy()
    cv2.rectangle(written, (width // 2, 3 * height // 4), (width - 9, height - 9), (250, 250, 250), -1)
    cv2.putText(written, "SALE", (width // 2 + 9, height - 29), cv2.FONT_HERSHEY_SIMPLEX, 1.2, (200, 0, 0), 3)
    return {
        "cropped": image[30 : height - 12, 20 : width - 25],
        "bordered": cv2.copyMakeBorder(image, 25, 25, 25, 25, cv2.BORDER_CONSTANT, value=[255] * 3),
        "mirrored": np.ascontiguousarray(image[:, ::-1]),
        "overlaid": written,
    }


@pytest.mark.parametrize("kind", ["cropped", "bordered", "mirrored", "overlaid"])
@pytest.mark.parametrize("seed", range(4))
def test_an_edited_copy_is_told_from_other_pictures(kind: str, seed: int) -> None:
    original, other = traces(picture(seed)), traces(picture(seed + 50))
    copy = traces(edits(picture(seed))[kind])
    assert same_picture(copy, original) >= 0.6
    assert same_picture(copy, other) < 0.3
    assert sketch(picture(seed)) @ sketch(edits(picture(seed))[kind]) > 0.8  # so that it is proposed


def test_things_in_common_do_not_make_a_copy() -> None:
    """The same poster on two walls shares its key points and little else."""
    walls = picture(7).copy(), picture(8).copy()
    for wall, (y, x) in zip(walls, ((20, 20), (150, 180)), strict=True):
        wall[y : y + 120, x : x + 120] = picture(9, 120)
    assert agreement(traces(walls[0]), traces(walls[1])) < 0.6


def test_plain_and_tiny_images_agree_with_nothing() -> None:
    plain = traces(np.full((200, 200, 3), 128, np.uint8))
    tiny = traces(np.zeros((3, 5, 3), np.uint8))
    for a in (plain, tiny):
        for b in (plain, tiny, traces(picture(1))):
            assert agreement(a, b) == agreement(b, a) == 0.0
    assert mirrored(plain).codes is None
    assert sketch(np.zeros((3, 5, 3), np.uint8)).shape == (492,)


def work_on(folder: Path) -> Work:
    return Work(
        name="dedup",
        dataset=Dataset(folder / "dataset"),
        policy=load_policy(POLICY),
        folder=folder / "files",
        events=Events(),
    )


def add(work: Work, name: str, images: list[Image]) -> None:
    new = [
        NewSample(data=encode_png(image), origin={"source": f"{name}/{i}"}, columns={"made": name})
        for i, image in enumerate(images)
    ]
    work.add(name, new)


def groups(work: Work) -> list[set[str]]:
    found: dict[str, set[str]] = {}
    for sample in work.dataset.samples(images=False, dropped=True):
        if "dedup.group" in sample.columns:
            found.setdefault(str(sample.columns["dedup.group"]), set()).add(str(sample.origin["source"]))
    return sorted(found.values(), key=min)


def test_a_grown_dataset_is_compared_with_what_it_held_before(tmp_path: Path) -> None:
    pictures = [picture(seed) for seed in range(6)]
    work = work_on(tmp_path / "grown")
    add(work, "first", pictures)
    ids = [sample.id for sample in work.dataset.samples(images=False)]
    edited = Edits(work.dataset.root / "edits")
    assert edited.update(work, ids) == 6
    assert list(edited.pairs()) == []
    add(work, "second", list(edits(pictures[2]).values()))
    facts = Dedup(edits=True, min_quality=0).run(work)
    assert facts["groups_with_edits"] == 1
    assert groups(work) == [{"first/2", *(f"second/{i}" for i in range(4))}]
    again = Edits(work.dataset.root / "edits")
    assert again.update(work, [s.id for s in work.dataset.samples(images=False, dropped=True)]) == 0
    whole = work_on(tmp_path / "whole")
    add(whole, "first", pictures)
    add(whole, "second", list(edits(pictures[2]).values()))
    Dedup(edits=True, min_quality=0).run(whole)
    assert groups(whole) == groups(work)


def test_a_line_that_a_kill_left_half_is_cut_off(tmp_path: Path) -> None:
    folder = tmp_path / "edits"
    folder.mkdir()
    (folder / "edits.jsonl").write_text('["a", "b", 0.9]\n["c", "d"')
    assert list(Edits(folder).pairs()) == [("a", "b")]
    assert (folder / "edits.jsonl").read_text() == '["a", "b", 0.9]\n'


def test_among_many_hashes_the_close_pairs_are_those_of_comparing_all(monkeypatch: pytest.MonkeyPatch) -> None:
    rng = np.random.default_rng(0)
    hashes = rng.integers(0, 256, (3000, 32), np.uint8)
    for row in range(600):  # copies of the first, 0 to 31 bits away
        flipped = np.zeros(256, np.uint8)
        flipped[rng.choice(256, row % 32, replace=False)] = 1
        hashes[2000 + row] = hashes[row] ^ np.packbits(flipped)
    every = set(near.close_pairs(hashes, 31))
    assert len(every) == 600
    monkeypatch.setattr(near, "MULTIHASH_FROM", 0)
    found = {(min(pair), max(pair)) for pair in near.close_pairs(hashes, 31)}
    assert found <= every
    assert len(found) >= 597
    assert {(a, b) for a, b in every if a % 32 <= 15} <= found


def test_without_edits_crops_are_not_joined(tmp_path: Path) -> None:
    work = work_on(tmp_path)
    add(work, "all", [picture(1), edits(picture(1))["cropped"]])
    assert Dedup(min_quality=0).run(work)["groups"] == 0
