"""The starter world is what it says: seeded, any size, quick, and its truth is true."""

import json
import time
from pathlib import Path

import numpy as np
import pytest

from tilth.images import decode, image_id
from tilth.starter.world.files import draw, write_world
from tilth.starter.world.scene import COLORS, KINDS, LOOK_ALIKES, STYLES, UNSAFE_KINDS, Spec, draw_spec, render
from tilth.starter.world.sets import PURPOSES, scene_rng, scene_set
from tilth.starter.world.settings import SHARES, World


def test_the_same_seed_draws_the_same_scene() -> None:
    one, two = (render(draw_spec(scene_rng("train", 3)), scene_rng("train", 4)) for _ in range(2))
    assert (one.image == two.image).all()
    assert one.things == two.things


def test_purposes_never_share_a_scene() -> None:
    assert len(set(PURPOSES.values())) == len(PURPOSES)
    ids = [image_id(render(draw_spec(scene_rng(p, i)), scene_rng(p, i)).image) for p in PURPOSES for i in range(5)]
    assert len(set(ids)) == len(ids)


@pytest.mark.parametrize("side", [64, 96, 320, 512])
def test_boxes_hold_exactly_the_visible_part_at_any_size(side: int) -> None:
    for i in range(6):
        rng = np.random.default_rng(i)
        scene = render(draw_spec(rng), rng, side=side)
        assert scene.image.shape == (side, side, 3)
        for thing, mask in zip(scene.things, scene.masks, strict=True):
            rows, columns = np.flatnonzero(mask.any(1)), np.flatnonzero(mask.any(0))
            seen = np.array([columns[0], rows[0], columns[-1] + 1, rows[-1] + 1])
            assert np.abs(np.array(thing.box_xyxy) - seen).max() <= 3  # masks are thinned to every third pixel
            assert 0 < thing.visible <= 1


def test_every_kind_has_its_colour_in_its_box() -> None:
    for kind in KINDS:
        spec = Spec(things=((kind, "red", ""),), surface="tile", style="photo")
        scene = render(spec, np.random.default_rng(5))
        x0, y0, x1, y1 = (int(v) for v in scene.things[0].box_xyxy)
        inside = scene.image[y0:y1, x0:x1].reshape(-1, 3).astype(int)
        red = (inside[:, 0] - inside[:, 1:].max(1) > 60).mean()
        assert red > 0.05, f"{kind} has no red"


def test_there_are_enough_kinds_styles_and_look_alikes() -> None:
    assert len(KINDS) >= 12
    assert len(STYLES) >= 4
    assert set(LOOK_ALIKES) == set(UNSAFE_KINDS)
    assert not set(LOOK_ALIKES.values()) & set(UNSAFE_KINDS)
    assert len(COLORS) == 8


def test_fifty_images_a_second_a_core() -> None:
    rng = np.random.default_rng(0)
    render(draw_spec(rng), rng)
    began = time.process_time()
    for _ in range(40):
        render(draw_spec(rng), rng)
    assert 40 / (time.process_time() - began) >= 50


def test_a_rendered_set_is_opened_again_and_not_drawn_again(tmp_path: Path) -> None:
    one = scene_set(tmp_path, "train", 5, side=64, single=True)
    [folder] = tmp_path.iterdir()
    stamp = (folder / "images.npy").stat().st_mtime_ns
    two = scene_set(tmp_path, "train", 5, side=64, single=True)
    assert (folder / "images.npy").stat().st_mtime_ns == stamp
    assert [s.things for s in one.scenes] == [s.things for s in two.scenes]


def test_signs_with_words_are_large_enough_to_read() -> None:
    signs = [row for data, row in (draw("corpus", i) for i in range(150)) if row["text"]]
    assert signs
    assert all(row["side"] == 320 for row in signs)
    assert all(any(label["category"] == "text_area" for label in row["labels"]) for row in signs)


def test_the_world_on_disk_is_whole_and_its_truth_knows_every_image(tmp_path: Path) -> None:
    assert write_world(tmp_path / "w", labelled=12, corpus=160, test=20, workers=1)
    assert not write_world(tmp_path / "w", labelled=12, corpus=160, test=20, workers=1)
    truth = [json.loads(line) for line in (tmp_path / "w" / "truth.jsonl").read_text().splitlines()]
    by_file = {(row["split"], row["file"]): row for row in truth}
    assert {row["style"] for row in truth if row["split"] == "labelled"} == {"photo"}
    for split, folder in (("corpus", "corpus"), ("test", "test/images"), ("labelled", "labelled/images")):
        for path in sorted((tmp_path / "w" / folder).iterdir())[:15]:
            if (split, path.name) in by_file:
                assert image_id(decode(path.read_bytes())) == by_file[split, path.name]["id"]
    coco = json.loads((tmp_path / "w" / "test" / "annotations.json").read_text())
    assert [c["name"] for c in coco["categories"]] == list(World().categories)
    assert len(coco["images"]) == 20


def test_each_unsafe_category_is_rare_in_the_corpus() -> None:
    assert SHARES["corpus"][0] == pytest.approx(0.04)
