"""Which hashes are close: neighbours within a number of bits, among a few or among millions.

Paper: https://arxiv.org/abs/1307.2982 (multi-index hashing)
"""

from collections.abc import Iterable, Iterator
from typing import Any

import numpy as np
import numpy.typing as npt

from tilth.extras import optional
from tilth.mining.copies.hash import BITS, Bits

MULTIHASH_FROM = 50_000  # below, comparing all pairs is as fast
CHUNKS = 16  # of 16 bits each
QUERIES_AT_ONCE = 4096
CUTS = 3


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


def close_pairs(hashes: Bits, max_distance: int) -> Iterator[tuple[int, int]]:
    """Yield the pairs of hashes `(n, 32)` within `max_distance` bits of each other, maybe more than once.

    Among few all are compared. Among many, those that agree in one of 16 chunks of 16 bits, in three ways of cutting the
    256 bits into chunks: that is every pair up to 15 bits, and 999 in 1,000 of those 31 bits apart. It takes linear memory.
    """
    if len(hashes) < MULTIHASH_FROM or max_distance > 63:
        yield from ((a, b) for a, b, _ in neighbours(hash_index(hashes, max_distance), hashes, max_distance) if a < b)
        return
    for cut in range(CUTS):
        order = np.arange(BITS) if cut == 0 else np.random.default_rng(cut).permutation(BITS)
        chunks = np.empty((len(hashes), CHUNKS), np.uint16)
        for start in range(0, len(hashes), QUERIES_AT_ONCE):
            part = np.unpackbits(hashes[start : start + QUERIES_AT_ONCE], axis=1)[:, order]
            chunks[start : start + len(part)] = np.ascontiguousarray(np.packbits(part, axis=1)).view(np.uint16)
        for chunk in range(CHUNKS):
            yield from _pairs_in_buckets(hashes, chunks[:, chunk], max_distance)


def _pairs_in_buckets(hashes: Bits, keys: npt.NDArray[np.uint16], max_distance: int) -> Iterator[tuple[int, int]]:
    order = np.argsort(keys, kind="stable")
    keys, words = keys[order], np.ascontiguousarray(hashes[order]).view(np.uint64)
    apart = 1
    here: npt.NDArray[np.int64] = np.arange(len(keys))
    while True:  # first with the next in the bucket, then with the one after it, while there is one
        here = here[here < len(keys) - apart]
        here = here[keys[here] == keys[here + apart]]
        if not len(here):
            return
        distances = np.bitwise_count(words[here] ^ words[here + apart]).sum(1, dtype=np.int64)
        for place in here[distances <= max_distance].tolist():
            yield int(order[place]), int(order[place + apart])
        apart += 1


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
        roots = self._parent
        while not np.array_equal(roots, above := roots[roots]):
            roots = above
        order = np.argsort(roots, kind="stable")  # by group, each in order
        starts = np.flatnonzero(np.r_[True, np.diff(roots[order]) > 0])
        ends = np.r_[starts[1:], len(order)]
        several = ends - starts > 1
        return [order[a:b].tolist() for a, b in zip(starts[several], ends[several], strict=True)]
