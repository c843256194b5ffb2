"""Mined matches stay when the detector sees them, too."""

import json
from pathlib import Path

import numpy as np
import pytest
from places import POLICY

from tilth.data.dataset import Dataset
from tilth.engine.work import Work
from tilth.errors import InputError
from tilth.events import Events
from tilth.images import encode_png
from tilth.mining.search.verify import Verify, combined
from tilth.policy import load_policy
from tilth.samples import NewSample


def mined(folder: Path, rows: list[tuple[str, str, float, dict[str, float] | None]]) -> Work:
    """Make a dataset of mined images: category, reason, mining's order, and what the detector saw of each."""
    work = Work(
        name="verify", dataset=Dataset(folder / "d"), policy=load_policy(POLICY), folder=folder / "f", events=Events()
    )
    new = []
    for i, (category, reason, order, top) in enumerate(rows):
        columns = {"mine.category": category, "mine.reason": reason, "mine.explain": {"order": order}}
        columns |= {"ground.top": top} if top is not None else {}
        image = np.random.default_rng(i).integers(0, 255, (20, 20, 3), np.uint8)
        new.append(NewSample(data=encode_png(image), origin={"source": str(i)}, columns=columns))  # type: ignore[arg-type]
    work.add("rows", new)
    return work


def kept(work: Work) -> set[str]:
    return {str(sample.origin["source"]) for sample in work.dataset.samples(images=False)}


ROWS: list[tuple[str, str, float, dict[str, float] | None]] = [
    ("knife", "match", 9.0, {"knife": 0.05}),
    ("knife", "match", 5.0, {"knife": 0.9, "pill": 0.1}),
    ("knife", "match", 4.0, {"pill": 0.9}),
    ("pill", "match", 1.0, {"pill": 0.4}),
    ("knife", "look-alike", 3.0, {"knife": 0.0}),
    ("", "explore", 0.0, {}),
]


def test_what_the_detector_does_not_see_goes_and_what_is_no_match_stays(tmp_path: Path) -> None:
    work = mined(tmp_path, ROWS)
    facts = Verify(min_score=0.3).run(work)
    assert kept(work) == {"1", "3", "4", "5"}
    assert facts == {"matches": 4, "kept": {"knife": 1, "pill": 1}, "dropped": {"knife": 2, "pill": 0}}
    reasons = {str(s.origin["source"]): s.drops for s in work.dataset.samples(images=False, dropped=True)}
    assert "the detector sees no knife (0.05)" in str(reasons["0"])


def test_the_best_of_both_scores_are_kept(tmp_path: Path) -> None:
    work = mined(tmp_path, ROWS)
    Verify(keep=1).run(work)
    assert kept(work) == {"1", "3", "4", "5"}
    assert combined(5.0, 0.9) > combined(9.0, 0.05, 2.0) > combined(4.0, 0.0, 2.0)


def test_without_a_detector_it_says_so(tmp_path: Path) -> None:
    work = mined(tmp_path, [("knife", "match", 1.0, None)])
    with pytest.raises(InputError, match=r"no mined image has a column 'ground\.top'; run ground before, or set `by`"):
        Verify().run(work)


def test_wrong_settings_are_refused() -> None:
    with pytest.raises(ValueError, match="keep must be at least 1, got 0"):
        Verify(keep=0)
    with pytest.raises(ValueError, match=r"min_score must lie in \[0, 1\], got 2"):
        Verify(min_score=2)


def test_an_image_can_be_explained(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    from tilth.pipeline.cli.data import explain

    work = mined(tmp_path, ROWS)
    Verify(min_score=0.3).run(work)
    ids = {str(s.origin["source"]): s.id for s in work.dataset.samples(images=False, dropped=True)}
    explain(tmp_path / "d", ids["0"][:12])
    told = capsys.readouterr().out
    for line in ("mine.explain.order", "ground.top.knife", "dropped by verify", "the detector sees no knife (0.05)"):
        assert line in told
    explain(tmp_path / "d", ids["1"], as_json=True)
    assert json.loads(capsys.readouterr().out)["mine.category"] == "knife"
    with pytest.raises(InputError, match="no samples begin with 'zz'; give more of the id"):
        explain(tmp_path / "d", "zz")
