"""Work on what several requests ask for at once: whenever a worker is free it takes what waits, up to a number, as one batch.

Nothing waits for a batch to fill: what comes first goes alone, and what comes meanwhile goes together. Beside a batch that is worked on
another begins once a quarter of a full one waits, as small ones cost more an item. Who asks for much does not hold up who asks for
little: requests take turns, an item each. An item that breaks a batch is found by trying each alone.
"""

import asyncio
from collections import deque
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import Generic, TypeVar

WORTH = 4  # the part of a full batch, one in so many, for which another begins beside one that is worked on
Item = TypeVar("Item")
Result = TypeVar("Result")


class _Order(Generic[Item, Result]):
    """What one request asks for: its items, how many of them have been taken, and the results that have come."""

    def __init__(self, items: Sequence[Item], done: "asyncio.Future[list[Result]]") -> None:
        self.items, self.done, self.taken = items, done, 0
        self._results: dict[int, Result] = {}

    def put(self, place: int, result: "Result | Exception") -> None:
        if self.done.done():  # nobody waits any more, or another item failed
            return
        if isinstance(result, Exception):
            self.done.set_exception(result)
            return
        self._results[place] = result
        if len(self._results) == len(self.items):
            self.done.set_result([self._results[i] for i in range(len(self.items))])


class Batches(Generic[Item, Result]):
    """A function over batches, asked by many; everything but the function runs in the event loop.

    Args:
        work: Returns a result for each item of a batch; is called in a thread.
        name: Of what it does, in a word.
        most: Items of a batch.
        workers: Batches that are worked on at once.
        told: Is given the size of each batch.
    """

    def __init__(
        self,
        work: Callable[[Sequence[Item]], Sequence[Result]],
        *,
        name: str,
        most: int,
        workers: int = 1,
        told: Callable[[int], None] = lambda size: None,
    ) -> None:
        self.name, self._work, self._most, self._workers, self._told = name, work, most, workers, told
        self._busy = 0
        self._waiting: deque[_Order[Item, Result]] = deque()
        self._pool = ThreadPoolExecutor(workers, thread_name_prefix=name)

    def __len__(self) -> int:
        """Count the items that wait."""
        return sum(len(order.items) - order.taken for order in self._waiting if not order.done.done())

    async def __call__(self, items: Sequence[Item]) -> list[Result]:
        """Return the results of a request's items, in their order.

        Raises:
            Exception: What the function raised on one of them alone.
        """
        if not items:
            return []
        order: _Order[Item, Result] = _Order(items, asyncio.get_running_loop().create_future())
        self._waiting.append(order)
        self._begin()
        return await order.done  # a request that is given up takes its order with it

    def close(self) -> None:
        """Let the threads go, once they are done."""
        self._pool.shutdown(wait=False)

    def _begin(self) -> None:
        while (
            self._busy < self._workers
            and (not self._busy or len(self) * WORTH >= self._most)
            and (batch := self._next())
        ):
            self._busy += 1
            self._told(len(batch))
            items = [order.items[place] for order, place in batch]
            began = asyncio.get_running_loop().run_in_executor(self._pool, self._try, items)
            began.add_done_callback(partial(self._end, batch))

    def _next(self) -> list[tuple[_Order[Item, Result], int]]:
        """Take a batch: of each request that waits one item, then of each another."""
        batch: list[tuple[_Order[Item, Result], int]] = []
        while self._waiting and len(batch) < self._most:
            order = self._waiting.popleft()
            if order.done.done():
                continue
            batch.append((order, order.taken))
            order.taken += 1
            if order.taken < len(order.items):
                self._waiting.append(order)
        return batch

    def _end(
        self, batch: list[tuple[_Order[Item, Result], int]], ended: "asyncio.Future[list[Result | Exception]]"
    ) -> None:
        self._busy -= 1
        for (order, place), result in zip(batch, ended.result(), strict=True):
            order.put(place, result)
        self._begin()

    def _try(self, items: Sequence[Item]) -> list[Result | Exception]:
        try:
            results = list(self._work(items))
            if len(results) != len(items):
                raise RuntimeError(f"{self.name}: {len(items)} items gave {len(results)} results")
        except Exception as error:  # noqa: BLE001  # whatever it is, it is told to whom it belongs
            return [error] if len(items) == 1 else [one for item in items for one in self._try([item])]
        return [*results]
