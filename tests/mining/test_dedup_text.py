"""Near-duplicates among texts: which are found, whatever hides them, which are not, and which of a group stays."""

import random
from typing import Any

import numpy as np
import pytest

from tilth.claims import Claim
from tilth.engine.work import Work
from tilth.mining.copies.dedup_text import DedupText, candidates
from tilth.mining.copies.minhash import BANDS, bands_of, likeness, shingles
from tilth.samples import TEXT, NewSample

HUMAN = Claim(says="empty", source="human:a", asked=("knife",))


def said(seed: int, words: int = 14) -> str:
    rng = random.Random(seed)
    return " ".join("".join(rng.choice("abcdeghiklmnoprstu") for _ in range(rng.randint(2, 9))) for _ in range(words))


def take(work: Work, *texts: Any) -> dict[str, Any]:
    """Add texts, each alone or with more about it, and drop near-duplicates."""
    new = []
    for number, each in enumerate(texts):
        text, more = each if isinstance(each, tuple) else (each, {})
        new.append(
            NewSample(
                media=TEXT,
                data=text.encode(),
                origin={"source": f"t#{number}", **more.get("origin", {})},
                claims=more.get("claims", ()),
                columns=more.get("columns", {}),
            )
        )
    work.add("k", new)
    step = DedupText()
    work.show_own(step)
    return dict(step.run(work))


def left(work: Work) -> list[str]:
    return [sample.text() for sample in work.dataset.samples()]


LONG = said(1)
TWINS = str.maketrans("aeoc", "\u0430\u0435\u043e\u0441")  # Cyrillic


@pytest.mark.parametrize(
    "copy",
    [
        LONG.upper() + "!!!",
        LONG.translate(TWINS),
        "\u200b".join(LONG),
        LONG.replace("e", "3").replace("o", "0"),
        LONG.replace(" ", "  *  "),
        "".join(chr(ord(c) - 0x20 + 0xFF00) if "!" <= c <= "~" else c for c in LONG),  # wide letters
        LONG + " now",
        LONG.replace(LONG.split()[7], "other"),
    ],
)
def test_a_copy_is_found_whatever_hides_it_and_is_kept_as_it_was_while_it_is_in(work: Work, copy: str) -> None:
    facts = take(work, (LONG, {"claims": (HUMAN,)}), copy, said(2))
    assert (facts["groups"], facts["dropped"], left(work)) == (1, 1, [LONG, said(2)])
    (gone,) = work.dataset.samples("dropped is not null", dropped=True)
    assert gone.text() == copy.strip()
    assert gone.drops[0][1].startswith("near-duplicate of ")


def test_other_texts_are_not_joined_however_many_there_are(work: Work) -> None:
    texts = [said(seed) for seed in range(3000)]
    short = ["yes", "no", "ok", "!", "?", "\u4f60\u597d", "\u4f60\u597d\u5417"]
    facts = take(work, *texts, *short)
    assert facts == {"texts": 3007, "groups": 0, "dropped": 0, "compared": facts["compared"], "largest_group": 1}
    assert facts["compared"] < 30


def test_a_band_is_shared_by_as_many_copies_as_the_paper_says() -> None:
    rng = random.Random(5)
    first = [said(seed, 30) for seed in range(400)]
    second = []
    for text in first:
        words = text.split()
        for at in rng.sample(range(len(words)), 3):
            words[at] = said(rng.randrange(1 << 30), 1)
        second.append(" ".join(words))
    alike = np.array([likeness(shingles(a), shingles(b)) for a, b in zip(first, second, strict=True)])
    shared = (bands_of(first) == bands_of(second)).any(1)
    expected = 1 - (1 - alike**6) ** BANDS
    assert shared.mean() == pytest.approx(expected.mean(), abs=0.05)


@pytest.mark.parametrize(
    ("first", "second", "stays"),
    [
        ({}, {"claims": (HUMAN,)}, 1),
        ({"claims": (HUMAN,)}, {"columns": {"split": "test"}}, 1),
        ({"columns": {"split": "train"}}, {"columns": {"split": "val"}}, 1),
        ({"origin": {"prompt": "p"}}, {}, 1),
        ({}, {}, 1),  # the longer
    ],
)
def test_what_is_held_back_stays_then_what_people_said_something_of(
    work: Work, first: dict[str, Any], second: dict[str, Any], stays: int
) -> None:
    texts = [LONG, LONG + " x"]
    take(work, (texts[0], first), (texts[1], second))
    assert left(work) == [texts[stays]]


def test_test_texts_are_never_dropped_not_even_for_each_other(work: Work) -> None:
    held = {"columns": {"split": "test"}}
    facts = take(work, (LONG, held), (LONG + "!", held), LONG + " y")
    assert facts["dropped"] == 1
    assert {sample.split for sample in work.dataset.samples()} == {"test"}


def test_a_text_that_comes_later_is_compared_with_all_and_nothing_is_hashed_twice(work: Work) -> None:
    take(work, LONG, said(2))
    work.add("later", [NewSample(media=TEXT, data=(LONG + "!").encode(), origin={"source": "late"})])
    before = len(work.dataset.at.tables)
    facts = DedupText().run(work)
    assert (facts["texts"], facts["dropped"]) == (3, 1)
    assert len(work.dataset.at.tables) > before
    assert sorted(left(work)) == sorted([LONG + "!", said(2)])


def test_every_pair_of_a_bucket_is_reached_from_its_first_and_its_neighbour() -> None:
    bands = np.arange(6 * BANDS, dtype=np.uint32).reshape(6, BANDS)
    bands[[1, 3, 5], 4] = 7
    assert list(candidates(bands)) == [(1, 3), (1, 5), (3, 5)]


def test_a_share_out_of_range_is_refused() -> None:
    with pytest.raises(ValueError, match="min_likeness must lie in"):
        DedupText(min_likeness=0)
