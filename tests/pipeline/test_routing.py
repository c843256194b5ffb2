"""The router learns from labelled texts which ones the language model need not be asked about, and a bundle serves it."""

import json
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from runtime_graphs import shared_bundle, shared_moderator

from tilth.annotate.texts.importing import ImportText
from tilth.engine.work import Work
from tilth.errors import InputError, ModelError
from tilth.pipeline.words.routing import TrainRouter
from tilth.runtime.bundles.bundle import load_bundle, seal, verify
from tilth.runtime.stages.cascade import Action
from tilth.runtime.stages.route import UNSAFE, Costs, Line, Way
from tilth.starter.protocols.words import CATEGORIES, draw_words


def route(work: Work, tmp_path: Path, texts: int) -> dict[str, Any]:
    rows = [draw_words(n, 5) for n in range(texts)]
    table = tmp_path / "texts.jsonl"
    table.write_text("".join(json.dumps({"text": r["text"], "label": r["label"]}) + "\n" for r in rows))
    load, learn = ImportText(path=table, covers=tuple(CATEGORIES)), TrainRouter()
    work.show_own(load)
    load.run(work)
    return dict(learn.run(work))


def packed(work: Work, tmp_path: Path) -> Path:
    bundle = shutil.copytree(shared_bundle(), tmp_path / "bundle")
    for name in ("route.json", "route.npz"):
        shutil.copy(work.artifact("test") / name, bundle)
    seal(bundle)
    return Path(bundle)


def test_a_router_spares_the_language_model_most_texts_and_never_clears_what_it_cannot_read(
    work: Work, tmp_path: Path
) -> None:
    told = route(work, tmp_path, 700)
    assert told["held_out"]["ways"]["clear"] > 0.3
    assert told["held_out"]["missed"]["mean"] < 0.1
    bundle = packed(work, tmp_path)
    verify(bundle)
    moderator = load_bundle(bundle, threads=1)
    rows = [draw_words(n, 5) for n in range(2000, 2300)]
    verdicts = moderator.moderate_texts([row["text"] for row in rows])
    ways = [verdict.route for verdict in verdicts]
    assert ways.count("clear") > 100
    cleared = [row for row, way in zip(rows, ways, strict=True) if way == "clear"]
    assert np.mean([row["label"] != "safe" for row in cleared]) < 0.05
    for verdict in verdicts:
        if verdict.route == "clear":
            assert (verdict.action, verdict.stage, set(verdict.timings_ms)) == (Action.ALLOW, 1, {"route", "total"})
        elif verdict.route == "check":
            assert "language" in verdict.timings_ms
    strange = ["", "\U0001f642", "\u6e38\u620f\u514d\u8d39", "qzx vvk jjw", "a word " * 300]
    assert {v.route for v in moderator.moderate_texts(strange)} == {"check"}
    plain = replace(moderator, router=None).moderate_texts([rows[0]["text"]])[0]
    assert (plain.route, plain.scores) == ("", shared_moderator().moderate_texts([rows[0]["text"]])[0].scores)


def test_few_labels_clear_nothing_and_it_says_so(work: Work, tmp_path: Path) -> None:
    told = route(work, tmp_path, 60)
    assert told["held_out"]["ways"]["clear"] == told["held_out"]["ways"]["block"] == 0
    assert any("nothing is cleared or blocked" in note for note in told["notes"])
    assert load_bundle(packed(work, tmp_path), threads=1).moderate_texts(["MIND THE STEPS"])[0].route != "clear"


def test_a_router_of_other_words_or_with_broken_numbers_is_not_served(work: Work, tmp_path: Path) -> None:
    route(work, tmp_path, 60)
    bundle = packed(work, tmp_path)
    told = json.loads((bundle / "route.json").read_text())
    (bundle / "route.json").write_text(json.dumps({**told, "means": {"threat": "something else"}}))
    seal(bundle)
    with pytest.raises(InputError, match="learned for other words"):
        load_bundle(bundle)
    (bundle / "route.json").write_text(json.dumps(told))
    with np.load(bundle / "route.npz") as stored:
        arrays = dict(stored)
    np.savez(bundle / "route.npz", **{**arrays, "text.bias": np.full_like(arrays["text.bias"], np.nan)})
    seal(bundle)
    with pytest.raises(ModelError, match="bias of text"):
        load_bundle(bundle)


@pytest.mark.parametrize("broken", [b"", b"PK\x03\x04 no zip", b"\x93NUMPY\x01\x00"])
def test_a_file_of_numbers_that_is_none_is_refused_in_a_line(work: Work, tmp_path: Path, broken: bytes) -> None:
    route(work, tmp_path, 60)
    bundle = packed(work, tmp_path)
    whole = (bundle / "route.npz").read_bytes()
    for data in (broken, whole[: len(whole) // 2], whole[:200] + bytes(255 - b for b in whole[200:260]) + whole[260:]):
        (bundle / "route.npz").write_bytes(data)
        seal(bundle)
        with pytest.raises(ModelError, match=r"route\.npz"):
            load_bundle(bundle)


def test_a_router_that_lacks_a_category_is_not_served_as_what_it_does_not_tell_is_not_harmless(
    work: Work, tmp_path: Path
) -> None:
    route(work, tmp_path, 60)
    bundle = packed(work, tmp_path)
    told = json.loads((bundle / "route.json").read_text())
    names = told["lines"]["text"]["outputs"]
    told["lines"]["text"]["outputs"] = [names[0], *(f"x{n}" for n in range(len(names) - 1))]
    (bundle / "route.json").write_text(json.dumps(told))
    seal(bundle)
    with pytest.raises(ModelError, match="has to tell unsafe"):
        load_bundle(bundle)


def test_nothing_is_cleared_while_a_category_has_hardly_been_seen() -> None:
    k = len(CATEGORIES) + 1
    line = Line(
        outputs=(UNSAFE, *CATEGORIES), trusted=(UNSAFE, *CATEGORIES), weights=np.zeros((0, k)), numbers=(), centre=np.zeros(0),
        scale=np.ones(0), slopes=np.zeros((0, k)), bias=np.zeros(k), calibration=np.tile([1.0, 0.0], (k, 1)),
        costs=Costs(missed=100, false_alarm=20, check=1, review=10),
    )  # fmt: skip
    harmless = dict.fromkeys(line.outputs, 1e-4)
    assert line.way(harmless).way is Way.CLEAR
    assert line.way(dict.fromkeys(line.outputs, 0.999)).way is Way.BLOCK
    assert line.way(dict.fromkeys(line.outputs, 0.05)).way is Way.CHECK
    assert line.way({**harmless, UNSAFE: float("nan")}).way is Way.CHECK
    assert replace(line, trusted=line.outputs[:-1]).way(harmless).way is Way.CHECK
