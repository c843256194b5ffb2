"""The benchmark of doubts: which automatic labels count as wrong, and what each ranking is given."""

import importlib
import sys
from collections.abc import Iterator
from types import ModuleType

import numpy as np
import pytest
from places import ROOT

from tilth.claims import Claim
from tilth.samples import Sample

THERE, ELSEWHERE = (10.0, 10.0, 30.0, 30.0), (50.0, 50.0, 80.0, 80.0)


@pytest.fixture(scope="module")
def doubts() -> Iterator[ModuleType]:
    sys.path.insert(0, str(ROOT / "benchmarks"))
    yield importlib.import_module("doubts")
    sys.path.remove(str(ROOT / "benchmarks"))


def sample(id_: str, *claims: Claim, right: float = 1.0) -> Sample:
    seen = [["knife", 0.6, *THERE], ["knife", 0.2, *ELSEWHERE], ["dice", 0.9, *THERE]]
    chances = {"knife": right, "dice": 0.1}
    return Sample(
        id=id_,
        size_wh=(96, 96),
        claims=claims,
        columns={"relabel.1.turn": 2, "relabel.1.right": chances, "relabel.1.again": seen},
    )


def test_an_image_is_wrong_by_what_was_looked_for(doubts: ModuleType) -> None:
    knife = Claim(category="knife", box_xyxy=THERE, score=0.7, source="model:a@1", asked=("knife",))
    nothing = Claim(says="empty", source="model:a@1", asked=("knife",))
    samples = [
        sample("right", knife, right=0.9),
        sample("moved", knife),
        sample("missed", nothing),
        sample("empty", nothing),
    ]
    truth = {
        "right": (("knife", THERE), ("dice", ELSEWHERE)),  # nobody looked for dice
        "moved": (("knife", ELSEWHERE),),
        "missed": (("knife", THERE),),
        "empty": (("dice", THERE),),
    }
    round_ = doubts.Round(name="relabel.1", samples=samples, truth=truth, categories=("knife", "dice"))
    assert round_.wrong().tolist() == [False, True, True, False]
    assert round_.by_right().tolist() == [0.9, 1.0, 1.0, 1.0]
    assert round_.by_lowest_score().tolist() == [0.7, 0.7, 1.0, 1.0]
    assert round_.labels() == [[0], [0], [], []]
    assert np.allclose(round_.chances(), [[0.6, 0.0]] * 4), "the best box of a category; none of what nobody looked for"
    assert np.allclose(round_.by_category(), [[0.9, 0.0], [1.0, 0.0], [0.0, 0.0], [0.0, 0.0]])
    given, said = round_.boxes()
    assert [len(one["labels"]) for one in given] == [1, 1, 0, 0]
    assert [len(boxes) for boxes in said[0]] == [2, 0]
