"""Drawings show boxes where they are."""

import numpy as np
import pytest

from tilth.annotate.boxes.draw import blurred, colour_of, contact_sheet, overlay
from tilth.claims import Claim

GREY = np.full((60, 80, 3), 128, np.uint8)


def test_a_box_is_drawn_on_its_own_edge_pixels_and_the_image_is_left_as_it_is() -> None:
    label = Claim(category="knife", box_xyxy=(10, 20, 30, 40), source="human:a")
    drawn = overlay(GREY, [label], names=False)
    changed = np.argwhere((drawn != GREY).any(2))
    assert changed.min(0).tolist() == [20, 10]
    assert changed.max(0).tolist() == [39, 29]
    assert tuple(drawn[20, 10]) == colour_of("knife")
    assert (GREY == 128).all()


def test_an_enlarged_overlay_keeps_the_place_and_names_stay_inside() -> None:
    labels = [
        Claim(category="knife", box_xyxy=(70, 0, 80, 60), score=0.5, source="model:m@1"),
        Claim(category="pill", source="human:a"),
    ]
    drawn = overlay(GREY, labels, side=320)
    assert drawn.shape == (240, 320, 3)
    assert (drawn[120, 280:] != 128).any()
    assert (drawn[:30, :30] != 128).any(), "a label without a box is named in the corner"


def test_a_sheet_holds_every_image_whatever_its_shape() -> None:
    images = [
        np.full((h, w, 3), 10 * n, np.uint8)
        for n, (h, w) in enumerate([(10, 200), (200, 10), (64, 64), (500, 400), (1, 1)])
    ]
    sheet = contact_sheet(images, columns=3, side=64, gap=2)
    assert sheet.shape == (2 * 66 + 2, 3 * 66 + 2, 3)
    assert {0, 10, 20, 30, 40} <= set(np.unique(sheet).tolist())
    with pytest.raises(ValueError, match="needs at least one image"):
        contact_sheet([])


def test_a_blurred_image_shows_colours_and_no_shapes() -> None:
    checks = np.kron(np.indices((12, 12)).sum(0) % 2, np.ones((8, 8)))[..., None].repeat(3, 2).astype(np.uint8) * 255
    soft = blurred(checks)
    assert soft.shape == checks.shape
    assert soft.std() < checks.std() / 10
    assert abs(float(soft.mean()) - float(checks.mean())) < 3
