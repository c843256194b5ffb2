"""Batches over requests: nothing waits for company, nobody is held up by who asks for much, and what breaks breaks alone."""

import asyncio
import threading
from collections.abc import Sequence

import pytest

from tilth.runtime.serving.batches import Batches


class Work:
    """Doubles numbers, once it is let; notes the batches. A negative number breaks any batch that it is in."""

    def __init__(self) -> None:
        self.let = threading.Event()
        self.batches: list[list[int]] = []

    def __call__(self, items: Sequence[int]) -> list[int]:
        assert self.let.wait(20)
        self.batches.append(list(items))
        if min(items) < 0:
            raise ValueError("a negative number")
        return [2 * item for item in items]


def outcomes(work: Work, *requests: Sequence[int], most: int = 8) -> list[list[int] | BaseException]:
    """Ask for all of this at once, while the worker is held up by the first; return what each is told."""

    async def ask() -> list[list[int] | BaseException]:
        batches = Batches(work, name="double", most=most)
        tasks = [asyncio.create_task(batches(items)) for items in requests]
        await asyncio.sleep(0.05)
        work.let.set()
        told = await asyncio.wait_for(asyncio.gather(*tasks, return_exceptions=True), 20)
        batches.close()
        return told

    return asyncio.run(ask())


def test_what_comes_first_goes_alone_and_what_comes_meanwhile_goes_together() -> None:
    work = Work()
    assert outcomes(work, [1], [2], [3], [4]) == [[2], [4], [6], [8]]
    assert work.batches == [[1], [2, 3, 4]]


def test_requests_take_turns_so_that_a_large_one_holds_up_no_small_one() -> None:
    work = Work()
    assert outcomes(work, [0], range(10, 20), [1], [2], most=4)[1] == [2 * i for i in range(10, 20)]
    assert work.batches[1] == [10, 1, 2, 11]
    assert work.batches[2:] == [[12, 13, 14, 15], [16, 17, 18, 19]]


def test_a_second_batch_begins_beside_the_first_once_it_is_worth_it() -> None:
    work = Work()

    async def begun(*requests: Sequence[int]) -> int:
        batches = Batches(work, name="double", most=8, workers=2)
        tasks = [asyncio.create_task(batches(items)) for items in requests]
        await asyncio.sleep(0.05)
        waiting = len(batches)
        work.let.set()
        await asyncio.wait_for(asyncio.gather(*tasks), 20)
        return sum(map(len, requests)) - waiting

    assert asyncio.run(begun([1], [2])) == 1
    work.let.clear()
    assert asyncio.run(begun([1], [2], [3])) == 3


def test_an_item_that_breaks_a_batch_fails_its_own_request_alone() -> None:
    work = Work()
    first, good, bad, mixed = outcomes(work, [0], [1, 2], [-1], [3, -3])
    assert (first, good) == ([0], [2, 4])
    assert isinstance(bad, ValueError)
    assert isinstance(mixed, ValueError)


def test_a_request_that_is_given_up_is_not_worked_on() -> None:
    work = Work()

    async def ask() -> list[int]:
        batches = Batches(work, name="double", most=4)
        first, given_up, last = (asyncio.create_task(batches(items)) for items in ([0], [5, 6], [1]))
        await asyncio.sleep(0.05)
        assert len(batches) == 3
        given_up.cancel()
        assert len(batches) == 1
        work.let.set()
        await asyncio.wait_for(first, 20)
        return await asyncio.wait_for(last, 20)

    assert asyncio.run(ask()) == [2]
    assert work.batches == [[0], [1]]


def test_a_function_that_loses_an_item_is_an_error_and_nobody_waits_for_ever() -> None:
    async def ask() -> None:
        batches = Batches(lambda items: items[1:], name="lossy", most=4)
        await asyncio.wait_for(batches([1, 2]), 20)

    with pytest.raises(RuntimeError, match="lossy: 1 items gave 0 results"):
        asyncio.run(ask())
