"""Which hashes are close: exact neighbours within a number of bits, among a few or among millions."""

from collections.abc import Iterable, Iterator
from typing import Any

import numpy as np

from tilth.extras import optional
from tilth.mining.hash import BITS, Bits

MULTIHASH_FROM = 50_000  # below, comparing all pairs is as fast
CHUNKS = 16  # of 16 bits each
QUERIES_AT_ONCE = 4096


def hash_index(hashes: Bits, max_distance: int) -> Any:
    """Build a FAISS index over hashes `(n, 32)` that finds every neighbour within `max_distance` bits.

    The multi-hash index is exact, too: hashes that differ in r bits agree in one of 16 chunks up to r // 16 bits, and
    it looks at all those. Neighbours of more than 63 bits are not worth its while.
    """
    with optional():
        import faiss
    index: Any
    if len(hashes) < MULTIHASH_FROM or max_distance > 63:
        index = faiss.IndexBinaryFlat(BITS)
    else:
        index = faiss.IndexBinaryMultiHash(BITS, CHUNKS, BITS // CHUNKS)
        index.nflip = max_distance // CHUNKS
    index.add(hashes)
    return index


def neighbours(index: Any, hashes: Bits, max_distance: int) -> Iterator[tuple[int, int, int]]:
    """Yield `(query, entry, distance)` for every entry of the index within `max_distance` bits of a query."""
    for start in range(0, len(hashes), QUERIES_AT_ONCE):
        part = hashes[start : start + QUERIES_AT_ONCE]
        limits, distances, entries = index.range_search(part, max_distance + 1)  # FAISS's radius is exclusive
        for query in range(len(part)):
            for place in range(int(limits[query]), int(limits[query + 1])):
                yield start + query, int(entries[place]), int(distances[place])


class Groups:
    """Disjoint groups of numbers, joined pair by pair; every group is named by its smallest member.

    >>> Groups(5, [(0, 3), (3, 4)]).members()
    [[0, 3, 4]]
    """

    def __init__(self, count: int, pairs: Iterable[tuple[int, int]] = ()) -> None:
        self._parent = np.arange(count)
        for a, b in pairs:
            self.join(a, b)

    def find(self, a: int) -> int:
        """Return the smallest member of a number's group."""
        while self._parent[a] != a:
            self._parent[a] = self._parent[self._parent[a]]
            a = int(self._parent[a])
        return a

    def join(self, a: int, b: int) -> None:
        """Make one group of two."""
        low, high = sorted((self.find(a), self.find(b)))
        self._parent[high] = low

    def members(self) -> list[list[int]]:
        """Return the groups of more than one, each in order."""
        groups: dict[int, list[int]] = {}
        for number in range(len(self._parent)):
            groups.setdefault(self.find(number), []).append(number)
        return [group for group in groups.values() if len(group) > 1]
