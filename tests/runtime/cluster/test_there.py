"""What is asked of a replica that dies is asked of another, and what nobody answers is never an answer."""

import importlib.util
from typing import Any

import numpy as np
import pytest
from runtime_graphs import RED, shared_bundle

from tilth.errors import InputError, Unavailable
from tilth.runtime.bundles.bundle import read_bundle
from tilth.runtime.cluster import there
from tilth.runtime.stages.cascade import Action, Moderator
from tilth.runtime.stages.stage1 import Found, Screen

pytestmark = pytest.mark.skipif(importlib.util.find_spec("ray") is None, reason="Ray is not installed: tilth[serve]")
BOARD = Screen(
    scores={"text_area": 0.99}, boxes=(Found(category="text_area", box_xyxy=(0, 0, 60, 40), score=0.99),), size_wh=(64, 48)
)  # fmt: skip


@pytest.fixture(autouse=True)
def _quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(there, "TRIES_S", (0.0, 0.01, 0.01))


def replies(*come: Any) -> tuple[there.Ask, list[tuple[Any, ...]]]:
    """A stage that gives these answers, or raises them, one after another; and what it was asked."""
    left, asked = iter(come), list[tuple[Any, ...]]()

    def ask(*given: Any) -> Any:
        asked.append(given)
        one = next(left)
        if isinstance(one, BaseException):
            raise one
        return one

    return ask, asked


def died() -> Exception:
    from ray.exceptions import ActorDiedError

    return ActorDiedError()


def test_what_a_dead_replica_was_asked_is_asked_of_another_and_counted_once() -> None:
    ask, asked = replies(died(), died(), [BOARD])
    assert there.again(ask, ["pixels"]) == [BOARD]
    assert asked == [(["pixels"],)] * 3


def test_a_stage_that_always_dies_gives_no_answer() -> None:
    ask, asked = replies(died(), died(), died(), "never")
    with pytest.raises(Unavailable, match="no replica lives long enough"):
        there.again(ask)
    assert len(asked) == 3


def test_what_a_stage_says_is_wrong_is_raised_as_if_it_were_here_and_not_asked_again() -> None:
    from ray.exceptions import RayTaskError

    ask, asked = replies(RayTaskError("f", "a traceback", InputError("the prompt is too long")), "never")
    with pytest.raises(InputError, match=r"^the prompt is too long$"):
        there.again(ask)
    assert len(asked) == 1


def moderator(judge: there.Ask) -> Moderator:
    def see(images: list[Any]) -> list[Screen]:
        return [BOARD] * len(images)

    return there.spread(read_bundle(shared_bundle()), see=see, read=lambda image: "WORDS", judge=judge, workers=2)


@pytest.mark.parametrize(
    ("come", "why"), [([TimeoutError()], "timeout"), ([died] * 3, "unreachable")], ids=["slow", "dead"]
)
def test_words_that_no_replica_judged_go_to_a_person(come: list[Any], why: str) -> None:
    ask, _ = replies(*(one() if callable(one) else one for one in come))
    [verdict] = moderator(ask).moderate([RED])
    assert (verdict.action, verdict.degraded, verdict.stage) == (Action.REVIEW, why, 1)


def test_the_cascade_is_the_same_whoever_works_for_it() -> None:
    labels = read_bundle(shared_bundle()).verdict.labels  # type: ignore[union-attr]
    sure = dict.fromkeys(labels, 0.0) | {"threat": 0.97}

    def judge(screens: list[Screen], texts: list[str]) -> list[dict[str, float]]:
        assert (screens, texts) == ([BOARD], ["WORDS"])
        return [sure]

    [verdict] = moderator(judge).moderate([np.zeros((48, 64, 3), np.uint8)])
    assert (verdict.action, verdict.stage, verdict.degraded) == (Action.BLOCK, 2, "")
    assert verdict.scores["threat"] == 0.97
    assert moderator(judge).judge([]) == []
