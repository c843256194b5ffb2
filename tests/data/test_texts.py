"""Texts as samples: what they are decoded into, what they are known by, where spans lie, and who is given them."""

import json
import shutil
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import ClassVar

import lance
import pytest
from brightness import Brightness

from tilth.claims import Claim, State, agree, resolve
from tilth.data.dataset import Dataset
from tilth.engine.steps import step
from tilth.engine.work import Work
from tilth.errors import InputError
from tilth.images import encode_png
from tilth.samples import IMAGE, TEXT, NewSample, Result, Sample
from tilth.texts import MAX_CHARACTERS, decode_text, moved, normalised, text_id

ORIGIN = {"source": "t"}


def text(words: str, *claims: Claim, **origin: str) -> NewSample:
    return NewSample(media=TEXT, data=words.encode(), origin={**ORIGIN, **origin}, claims=claims)


def image(value: int) -> NewSample:
    import numpy as np

    return NewSample(data=encode_png(np.full((8, 8, 3), value, np.uint8)), origin=ORIGIN)


@pytest.mark.parametrize(
    ("data", "found"),
    [
        (b"\xef\xbb\xbfa sign", "a sign"),
        ("a sign".encode("utf-16"), "a sign"),
        ("a sign".encode("utf-32"), "a sign"),
        (b" a\r\nsign \n", "a\nsign"),
        ("cafe\u0301".encode(), "caf\u00e9"),
        ("p\u0430y \u200bh3re \u202eabc".encode(), "p\u0430y \u200bh3re \u202eabc"),  # tricks are kept
        ("\u05e9\u05dc\u05d5\u05dd".encode(), "\u05e9\u05dc\u05d5\u05dd"),
    ],
)
def test_a_text_is_decoded_by_its_mark_and_written_in_one_way(data: bytes, found: str) -> None:
    assert decode_text(data) == found
    assert text_id(decode_text(data)) == text_id(normalised(found))


@pytest.mark.parametrize(
    ("data", "why"),
    [
        (b"", "empty text"),
        (b" \n\t ", "empty text"),
        (b"caf\xe9", "not UTF-8, at byte 3; save it as UTF-8"),
        (b"a\0b", "NUL"),
        (b"x" * (MAX_CHARACTERS + 1), "100,001 characters, the limit is 100,000"),
        (b"x" * (5 << 20), "text of 5 MiB, the limit is 4 MiB"),
    ],
)
def test_what_is_no_text_is_refused_in_one_line_that_holds_nothing_of_it(data: bytes, why: str) -> None:
    with pytest.raises(InputError, match=why):
        decode_text(data)


@pytest.mark.parametrize("came", ["  two\r\nlines  ", "cafe\u0301 bets", "\n\na\u0308o\u0308 b", "plain"])
def test_every_span_shows_the_same_letters_before_and_after_a_text_is_normalised(came: str) -> None:
    whole = normalised(came)
    for start in range(len(came)):
        for end in range(start + 1, len(came) + 1):
            if not came[start:end].strip():
                continue
            if "\u0300" <= came[start] <= "\u036f" or (end < len(came) and "\u0300" <= came[end] <= "\u036f"):
                continue  # within a letter
            first, last = moved(came, (start, end))
            assert whole[first:last].strip() == normalised(came[start:end])


@pytest.mark.parametrize("span", [(0, 0), (3, 2), (-1, 2), (0, 99), (0, 2)])
def test_a_span_beyond_the_text_or_of_nothing_is_refused(span: tuple[int, int]) -> None:
    with pytest.raises(InputError, match="span"):
        moved("  ab", span)


def test_spans_that_share_half_of_their_letters_are_one_statement() -> None:
    a, b, c = (
        Claim(category="x", span=span, source=f"human:{who}", asked=("x",))
        for who, span in (("a", (0, 4)), ("b", (1, 4)), ("c", (6, 9)))
    )
    whole = Claim(category="x", source="human:d", asked=("x",))
    assert agree([a], [b])
    assert not agree([a], [c])
    assert not agree([a], [whole])
    assert resolve([a, b]).state is State.REVIEWED
    assert resolve([a, c]).state is State.DISPUTED
    with pytest.raises(InputError, match="span"):
        Claim(category="x", span=(4, 4), source="human:a")
    with pytest.raises(InputError, match="without a box"):
        Claim(category="x", span=(0, 4), box_xyxy=(0, 0, 1, 1), source="human:a")


def test_the_same_text_is_one_sample_with_the_labels_of_both_and_comes_back_as_it_was(work: Work) -> None:
    label = Claim(category="knife", span=(2, 6), source="human:a", asked=("knife",))
    counts = work.add("k", [text("a sign\r\n", label), text(" a sign"), text("A sign"), image(3)])
    assert counts == {"ok": 3, "dropped": 1}
    first, second, picture = work.dataset.samples()
    assert (first.text(), first.media, first.size_wh) == ("a sign", TEXT, (6, 1))
    assert first.truth.labels[0].span == (2, 6)
    assert first.truth.labels[0].box_xyxy is None
    assert second.id != first.id
    assert picture.media == IMAGE
    with pytest.raises(InputError, match="media text, and image was asked for"):
        first.pixels()
    with pytest.raises(InputError, match="media image, and text was asked for"):
        picture.text()


@step
class Shout:
    """Count capitals, of texts alone."""

    media: ClassVar[tuple[str, ...]] = (TEXT,)
    batch_size: int = 2

    def load(self) -> Callable[[Sequence[Sample]], list[Result]]:
        return lambda samples: [Result(columns={"capitals": sum(map(str.isupper, s.text()))}) for s in samples]


def test_a_mapper_is_given_what_it_takes_and_nothing_else(work: Work) -> None:
    work.add("k", [text("One"), image(9), text("TWO"), image(90)])
    assert work.map(Shout()) == {"ok": 2}
    assert work.map(Brightness()) == {"ok": 2}
    assert work.dataset.tally("media", where="capitals is not null") == {(TEXT,): 2}
    assert work.dataset.tally("media", where="mean is not null") == {(IMAGE,): 2}


def test_a_step_that_takes_images_finds_no_texts_and_the_others_are_counted(work: Work) -> None:
    work.add("k", [text("One"), image(9), text("Two")])
    work.show_own(Brightness())
    assert work.dataset.count() == 1
    assert [s.media for s in work.dataset.samples()] == [IMAGE]
    assert work.dataset.tally("media") == {(IMAGE,): 1}
    told = [json.loads(line) for line in (work.dataset.root.parent / "events.jsonl").read_text().splitlines()]
    assert [event["samples"] for event in told if event["event"] == "other_media"] == [2]
    work.show_own(Shout())
    assert work.dataset.count() == 2


def test_a_dataset_from_before_there_were_texts_is_read_and_grows(work: Work) -> None:
    work.add("k", [image(9)])
    assert work.dataset.count() == 1
    root = work.dataset.root
    for path in (root / "pool.lance", root / "view" / "rows.lance"):  # as an earlier Tilth left them
        rows = lance.dataset(str(path)).to_table().drop_columns(["media"])
        shutil.rmtree(path)
        lance.write_dataset(rows, str(path))
    for path in (root / "view").glob("*.json"):
        path.write_text(
            path.read_text().replace(
                f'"lance_version": {json.loads(path.read_text())["lance_version"]}', '"lance_version": 1'
            )
        )
    work.dataset = Dataset(root)
    assert [s.media for s in work.dataset.samples()] == [IMAGE]
    work.add("more", [text("words")])
    assert work.dataset.tally("media") == {(IMAGE,): 1, (TEXT,): 1}


def test_the_hash_gate_looks_at_images_alone(work: Work, tmp_path: Path) -> None:
    seen: list[object] = []
    work.dataset = Dataset(tmp_path / "gated", guard=lambda pixels: seen.append(pixels))  # type: ignore[func-returns-value]
    work.add("k", [text("One"), image(9)])
    assert len(seen) == 1
    assert work.dataset.sweep("now") == []
    assert len(seen) == 2
