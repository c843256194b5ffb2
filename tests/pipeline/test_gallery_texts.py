"""Texts in the gallery: hidden until asked for, never markup, nothing in them unseen, in the direction of their letters."""

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from commands import tilth
from noise import noise_image
from words_world import WORDS

from tilth.claims import Claim
from tilth.engine.work import Work
from tilth.pipeline.gallery.page import Gallery
from tilth.samples import TEXT, NewSample

if TYPE_CHECKING:
    from playwright.sync_api import Page

HOSTILE = "</script><img src=x onerror=\"document.title='taken'\"><b>bold</b> & {{ 7 }}"
TRICKS = "pay\u200bpal \u202egnp.exe \x07 end"
ARABIC = "\u0645\u0631\u062d\u0628\u0627 \u0628\u0643\u0645"
SPANNED = "go \U0001f3b2 win money now"
NAMES = WORDS.names


@pytest.fixture
def shown(work: Work, tmp_path: Path, tab: "Page") -> "Page":
    """A gallery of a few texts, open in a browser."""
    where = Claim(category="gambling", span=(5, 14), source="human:ann", asked=NAMES)
    model = Claim(category="threats", score=0.61, source="model:judge@1", asked=NAMES)
    nothing = Claim(says="empty", source="human:ann", asked=NAMES)
    rows: list[tuple[str, tuple[Claim, ...], dict[str, Any]]] = [
        (HOSTILE, (), {}),
        (TRICKS, (), {}),
        (ARABIC, (), {}),
        (SPANNED, (model, where), {"judge.scores": {"gambling": 0.2, "threats": 0.61}}),
        ("harmless " * 1000, (nothing,), {}),
    ]
    work.add(
        "texts",
        [NewSample(media=TEXT, data=t.encode(), origin={}, claims=c, columns=columns) for t, c, columns in rows],
    )
    facts = Gallery(dataset=work.dataset, policy=WORDS).write(tmp_path / "gallery")
    assert (facts["shown"], facts["veiled"], facts["damaged"]) == (5, 4, 0)
    tab.goto(f"file://{facts['page']}")
    tab.locator(".tile").nth(4).wait_for()
    return tab


def test_the_command_shows_images_and_texts_on_one_page(work: Work, tmp_path: Path) -> None:
    work.add("both", [NewSample(media=TEXT, data=b"a text", origin={}), NewSample(data=noise_image(1), origin={})])
    done = tilth("gallery", work.dataset.root, "--out", tmp_path / "g")
    assert json.loads(done.stdout)["shown"] == 2


def test_a_text_is_not_in_the_page_until_it_is_asked_for(shown: "Page") -> None:
    assert "5 of 5 texts" in shown.locator("#count").inner_text()
    tile = shown.locator(".tile").nth(3)
    assert "win" not in tile.inner_text()
    assert "harmless" in shown.locator(".tile").nth(4).inner_text(), "what people called harmless is open"
    tile.click()
    assert SPANNED in tile.inner_text()
    assert "win" not in shown.locator(".tile").nth(0).inner_text()


def test_markup_in_a_text_is_shown_and_not_obeyed(shown: "Page") -> None:
    shown.locator("#show-all").check()
    tile = shown.locator(".tile").nth(0)
    assert tile.locator(".words").text_content() == HOSTILE
    assert tile.locator("img, b:not(.about b), script").count() == 0
    assert "Tilth gallery" in shown.title()


def test_what_is_not_seen_is_named_and_turns_nothing_round(shown: "Page") -> None:
    shown.locator("#show-all").check()
    tile = shown.locator(".tile").nth(1)
    assert tile.locator(".unseen").all_inner_texts() == ["U+200B", "U+202E", "U+0007"]
    assert "\u202e" not in str(tile.text_content())


def test_texts_from_right_to_left_stand_right(shown: "Page") -> None:
    shown.locator("#show-all").check()
    look = """e => {
        const range = document.createRange(), box = e.getBoundingClientRect();
        range.selectNodeContents(e);
        const text = range.getBoundingClientRect();
        return [text.left - box.left, box.right - text.right];
    }"""
    left, right = shown.locator(".tile").nth(2).locator(".words").evaluate(look)
    assert right < 2 < left
    left, right = shown.locator(".tile").nth(3).locator(".words").evaluate(look)
    assert left < 2 < right


def test_the_large_view_has_spans_claims_scores_and_how_much_is_left_out(shown: "Page") -> None:
    shown.locator(".tile").nth(3).click()
    shown.locator(".tile").nth(3).click()
    assert shown.locator("#stage mark").inner_text() == "win money"
    said = shown.locator("#said").inner_text()
    for part in ("Judges", "0.61", "0.20", "ann", "somewhere in the text", f"{len(SPANNED)} characters, 1 line"):
        assert part in said
    shown.keyboard.press("j")
    assert "4,999 more characters" in shown.locator("#stage").inner_text()
    shown.keyboard.press("k")
    shown.keyboard.press("k")
    assert shown.locator("#stage .reveal").count() == 1
    assert ARABIC not in shown.locator("#stage").inner_text()
    shown.locator("#stage .reveal").click()
    assert ARABIC in shown.locator("#stage").inner_text()
