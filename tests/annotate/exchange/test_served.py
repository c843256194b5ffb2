"""What a served model was unsure about comes in with its scores; what is wrong with them is named, and the image is taken."""

import json
import shutil
from pathlib import Path

import pytest
from noise import noise_image, tar

from tilth.annotate.exchange.importing import Import
from tilth.annotate.formats.parts.objects import SILENT
from tilth.engine.work import Work
from tilth.errors import InputError
from tilth.samples import Sample


def served(knife: float, by: str = "starter-v1@abc", **more: object) -> dict[str, object]:
    return {"by": by, "time": "2026-11-29T12:00:00Z", "doubt": 0.5, "scores": {"knife": knife, **more}}


def write(folder: Path, format_: str, *rows: dict[str, object]) -> Path:
    """Write images and a row for each, as imagefolder or WebDataset has them."""
    folder.mkdir()
    if format_ == "webdataset":
        members = [
            [(f"{n}.png", noise_image(n)), (f"{n}.json", json.dumps(row).encode())] for n, row in enumerate(rows)
        ]
        tar(folder / "0.tar", *(member for each in members for member in each))
        return folder
    for n in range(len(rows)):
        (folder / f"{n}.png").write_bytes(noise_image(n))
    lines = (json.dumps({"file_name": f"{n}.png", **row}) for n, row in enumerate(rows))
    (folder / "metadata.jsonl").write_text("\n".join(lines))
    return folder


def taken(work: Work) -> dict[str, Sample]:
    return {str(s.origin["source"]).rpartition("/")[2]: s for s in work.dataset.samples(images=False)}


@pytest.mark.parametrize("format_", ["imagefolder", "webdataset"])
def test_scores_become_columns_beside_labels_or_without_any(work: Work, tmp_path: Path, format_: str) -> None:
    odd = "score of a category that the policy does not have, left out"
    labelled = {"image_labels": ["pill"], "served": served(0.2, threat=0.3, text_area=0.9, vape=0.4)}
    facts = Import(path=write(tmp_path / "in", format_, {"served": served(0.4)}, labelled)).run(work)
    assert (facts["served"], facts["by_state"]) == (2, {"unlabelled": 1, "reviewed": 1})
    assert facts["odd"] == {odd: 1}
    first, second = taken(work).values()
    assert (first.columns["served.scores"], second.columns["served.scores"]) == ({"knife": 0.4}, {"knife": 0.2})
    assert (first.columns["served.by"], first.columns["served.doubt"]) == ("starter-v1@abc", 0.5)


@pytest.mark.parametrize(
    "wrong",
    [7, None, {}, served(1.2), served(float("nan")), served("much"), {**served(0.2), "scores": [0.2]}],  # type: ignore[arg-type]
)
def test_what_is_no_verdict_is_named_and_the_image_is_a_plain_one(work: Work, tmp_path: Path, wrong: object) -> None:
    facts = Import(path=write(tmp_path / "in", "imagefolder", {"served": wrong})).run(work)
    assert (facts["images"], "served" in facts, facts["odd"]) == (1, False, {SILENT: 1})
    assert not [name for name in taken(work)["0.png"].columns if name.startswith("served")]


def test_a_later_bundle_has_the_last_word(work: Work, tmp_path: Path) -> None:
    for night, row in enumerate((served(0.2, by="old"), served(0.6, by="new"))):
        Import(path=write(tmp_path / f"night-{night}", "imagefolder", {"served": row})).run(work)
    [sample] = taken(work).values()
    assert (sample.columns["served.by"], sample.columns["served.scores"]) == ("new", {"knife": 0.6})


def test_what_came_on_each_night_is_read_once(work: Work, tmp_path: Path) -> None:
    doubts = tmp_path / "doubts"
    step = Import(path=doubts, optional=True, each=True)
    assert step.run(work)["nothing_came"] == str(doubts)
    doubts.mkdir()
    write(doubts / "monday", "imagefolder", {"served": served(0.2)}, {"served": served(0.3)})
    assert step.run(work)["images"] == 2
    write(doubts / "tuesday", "imagefolder", {"served": served(0.6)})
    facts = step.run(work)
    assert (facts["images"], facts["read_before"], list(facts["folders"])) == (1, 1, ["tuesday"])  # type: ignore[call-overload]
    at = work.dataset.at.number
    assert step.run(work)["read_before"] == 2
    assert work.dataset.at.number == at, "and nothing is written"
    assert taken(work)["0.png"].columns["served.scores"] == {"knife": 0.6}
    work.dataset.rollback(1, "now")
    assert step.run(work)["images"] == 1, "what a rollback took back is read again"
    (doubts / "0.png").write_bytes(noise_image(9))
    shutil.rmtree(doubts / "monday")
    work.dataset.opened.clear()
    assert step.run(work)["read_before"] == 1
    assert len(work.dataset.opened) == 1, "of what is gone there the table is of no more use"
    shutil.rmtree(doubts / "tuesday")
    with pytest.raises(InputError, match="must hold folders with images"):
        step.run(work)
