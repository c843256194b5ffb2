"""Texts are found in tables by meaning, by words and by examples; sealed ones never; a killed search goes on."""

import json
import sqlite3
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from words_world import jsonl

from tilth.claims import Claim
from tilth.encoders.sentences import Sentences
from tilth.engine.work import Work
from tilth.errors import InputError, TooManyFailures
from tilth.mining.copies.known_texts import KnownTexts
from tilth.mining.search.lexical import Lexical
from tilth.pipeline.words.mining import MineText
from tilth.policy import Category, Policy
from tilth.samples import TEXT, NewSample
from tilth.starter.protocols.words import write_words

LIKE = ("poker tonight for cash", "bet your money on horses", "roulette for real money", "win cash at our tables")
OTHER = ("the fair is on sunday", "fresh bread every day", "mind the gap please", "lost cat near the park")


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("words") / "world"
    write_words(out, corpus=500, labelled=60, test=40, seed=3)
    return out


@pytest.fixture
def words(work: Work) -> Work:
    work.show_own(MineText(path=Path("x")))
    return work


def truth_of(world: Path) -> dict[str, str]:
    return {
        row["text"].strip(): row["label"] for row in map(json.loads, (world / "truth.jsonl").read_text().splitlines())
    }


def mined(work: Work, category: str) -> list[Any]:
    return [s for s in work.dataset.samples() if s.columns["mine.category"] == category]


def test_more_of_what_is_mined_for_a_category_shows_it_than_of_what_is_drawn_and_chances_are_kept(
    words: Work, world: Path
) -> None:
    facts: Any = MineText(path=world / "corpus.jsonl", per_category=12, explore=0.3, language="language").run(words)
    assert facts["mined"] == words.dataset.count() == 3 * 12 + facts["explored"]
    truth = truth_of(world)
    for name in ("gambling_ad", "illicit_sale", "threat"):
        some = mined(words, name)
        assert np.mean([truth[s.text()] == name for s in some]) > 0.3, "one in sixteen of the corpus shows it"
        assert all(s.columns["mine.reason"] == "match" and s.columns["mine.explain"]["order"] > 0 for s in some)
        assert [s.columns["mine.rank"] for s in sorted(some, key=lambda s: s.columns["mine.rank"])] == list(
            range(1, 13)
        )
    drawn = mined(words, "")
    assert len(drawn) == facts["explored"] == round(36 * 0.3 / 0.7)
    assert {s.columns["mine.chance"] for s in drawn} == {round(facts["explored"] / (facts["texts"] - 36), 6)}
    assert {s.state for s in drawn} == {"unlabelled"}


def test_what_people_saw_leads_to_texts_that_no_word_of_the_policy_does(work: Work, tmp_path: Path) -> None:
    work.policy = Policy(
        policy="p", version=1, categories=(Category(name="zzz", evidence="text", definition="Qwxyz.", prompts=()),)
    )
    path = jsonl(tmp_path / "c.jsonl", *({"text": f"{text} {n}"} for n in range(8) for text in (*LIKE, *OTHER)))
    step = MineText(path=path, per_category=4, explore=0)
    say = Claim(category="zzz", source="human:ann", asked=("zzz",))
    work.add("seen", [NewSample(media=TEXT, data=t.encode(), origin={}, claims=(say,)) for t in LIKE])
    work.show_own(step)
    facts: Any = step.run(work)
    assert facts["judged_before"]["accepted"] == {"zzz": 4}
    found = [s.text() for s in mined_in(work)]
    assert len(found) == 4
    assert all(any(text.startswith(like) for like in LIKE) for text in found)


def mined_in(work: Work) -> list[Any]:
    return [s for s in work.dataset.samples() if "mine.reason" in s.columns]


def test_sealed_texts_their_copies_and_what_is_there_already_are_never_mined(words: Work, tmp_path: Path) -> None:
    sealed, near = (
        "bet your money on the horses tonight at the old track",
        "BET your m0ney on the horses tonight, at the old track!",
    )
    test = NewSample(media=TEXT, data=sealed.encode(), origin={}, columns={"split": "test"})
    words.add("test", [test, NewSample(media=TEXT, data=b"poker for cash at nine", origin={})])
    never = jsonl(tmp_path / "never.jsonl", {"text": "win cash at our poker tables every single night"})
    rows = (
        sealed,
        near,
        "poker for cash at nine",
        "win cash at our poker tables every single nights",
        "play dice for money",
    )
    path = jsonl(tmp_path / "c.jsonl", *({"text": text} for text in rows))
    facts: Any = MineText(path=path, per_category=5, never=(never,), pool=20).run(words)
    assert [s.text() for s in mined_in(words)] == ["play dice for money"]
    assert facts["refused"]["sealed"] >= 3
    assert facts["refused"]["in the dataset"] >= 1
    assert facts["sealed"] == 2
    broken = jsonl(tmp_path / "broken.jsonl", {"text": ""})
    with pytest.raises(InputError, match="of the sealed texts cannot be read"):
        MineText(path=path, never=(broken,)).run(Work(**{**vars(words), "folder": tmp_path / "other"}))


def test_disguised_words_are_found_as_they_are_meant_and_kept_as_they_came(words: Work, tmp_path: Path) -> None:
    disguised = "P\u043eker f\u043er m\u043eney"
    path = jsonl(tmp_path / "c.jsonl", *({"text": text} for text in (*OTHER, disguised)))
    MineText(path=path, quotas={"illicit_sale": 0, "threat": 0}, per_category=1, explore=0).run(words)
    assert [s.text() for s in words.dataset.samples()] == [disguised]


def test_a_second_search_embeds_what_is_new_and_forgets_what_is_gone(words: Work, tmp_path: Path) -> None:
    path = jsonl(tmp_path / "c.jsonl", *({"text": text} for text in (*LIKE, *OTHER)))
    step = MineText(path=path, quotas={"illicit_sale": 0, "threat": 0}, per_category=2, explore=0)
    first: Any = step.run(words)
    assert (first["texts"], first["embedded"]) == (8, 8)
    before = {s.id for s in words.dataset.samples(images=False)}
    again: Any = step.run(words)
    assert again == first, "a resumed run adds what was chosen before"
    assert {s.id for s in words.dataset.samples(images=False)} == before
    jsonl(path, {"text": "dice for cash"}, *({"text": text} for text in OTHER[1:]))
    words.folder = tmp_path / "next"
    second: Any = step.run(words)
    assert (second["texts"], second["embedded"]) == (4, 4)
    new = [s for s in words.dataset.samples() if s.id not in before]
    assert "dice for cash" in {s.text() for s in new}
    assert not {s.text() for s in new} & set(LIKE)


def test_a_corpus_of_mostly_broken_rows_and_quotas_of_no_category_are_refused(words: Work, tmp_path: Path) -> None:
    path = jsonl(tmp_path / "c.jsonl", *({"text": ""} for _ in range(60)))
    with pytest.raises(TooManyFailures, match="60 of 60 rows hold no text"):
        MineText(path=path).run(words)
    with pytest.raises(InputError, match="words decide no knife"):
        MineText(path=path, quotas={"knife": 3}).run(words)


def test_the_index_of_words_ranks_as_sqlite_does_alone_and_follows_changed_texts(tmp_path: Path) -> None:
    lexical = Lexical(tmp_path / "words.sqlite")
    texts = [(f"a#{n}", f"s{n}", text) for n, text in enumerate((*LIKE, *OTHER))]
    lexical.add(texts)
    plain = sqlite3.connect(":memory:")
    plain.execute("CREATE VIRTUAL TABLE t USING fts5(words)")
    plain.executemany("INSERT INTO t VALUES (?)", [(text,) for _, _, text in texts])
    asked = 'SELECT rowid - 1 FROM t WHERE t MATCH \'"cash" OR "money"\' ORDER BY bm25(t), rowid'
    assert [key for key, _, _ in lexical.search(["cash", "money"], 9)] == [f"a#{n}" for (n,) in plain.execute(asked)]
    lexical.add([("a#0", "new", "fresh cheese")])
    assert "a#0" not in {key for key, _, _ in lexical.search(["poker"], 9)}
    assert [(key, stamp) for key, stamp, _ in lexical.search(["cheese"], 9)] == [("a#0", "new")]
    assert len(lexical) == 8
    assert lexical.telling(["money poker zebra"])[0] in ("money", "poker")
    assert lexical.search(['"; DROP TABLE texts'], 9) == []


def test_known_texts_are_told_with_their_near_copies() -> None:
    known = KnownTexts(["bet your money on the horses tonight"])
    assert known.hold(["bet y0ur money on the horses tonight!", "the fair is on sunday"]) == [True, False]


def test_sentences_about_the_same_are_near_whatever_beside_them_is_in_the_batch() -> None:
    encoder = Sentences("starter:sentences")
    alone = np.concatenate([encoder([text]) for text in (*LIKE, *OTHER)])
    found = encoder([*LIKE, *OTHER])
    assert np.allclose(alone, found, atol=1e-4)
    assert np.allclose(np.linalg.norm(found, axis=1), 1, atol=1e-4)
    near = found @ found.T
    assert near[:4, :4].mean() > near[:4, 4:].mean() + 0.3
