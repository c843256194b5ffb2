"""The query vectors of a corpus on disk: append-only, readable while it grows, whole after a kill.

    store.json      whose vectors these are: model, digest, q, d
    00000.vectors   float16, (rows, q, d), nothing else
    00000.keys      one JSON line a row: [key, stamp]
    failed.jsonl    one JSON line an image that could not be read: [key, stamp, error]

Vectors are written first and their key lines last, so a line means that its vectors are there; whatever lies beyond the
last whole line is cut off when the store is opened. A kill loses the batch that was being written.
"""

import hashlib
import json
import os
from collections.abc import Callable, Collection, Iterator, Sequence
from itertools import chain
from pathlib import Path

import numpy as np
import numpy.typing as npt

from tilth.dataset import write_beside
from tilth.errors import DatasetError, ModelError

SHARD_ROWS = 65_536

Vectors = npt.NDArray[np.float16]


def _mark(key: str, stamp: str) -> int:
    """Name an item by 8 bytes, so that a hundred million of them fit in memory."""
    return int.from_bytes(hashlib.blake2b(f"{key}\0{stamp}".encode(), digest_size=8).digest(), "little")


class Store:
    """Vectors of one corpus by one model.

    Args:
        folder: Made when absent.
        model: Name of the model, for messages.
        digest: Of its weights.
        queries: Vectors per image, q.
        width: Dimensions of a vector, d.
        shard_rows: Rows per file.

    Raises:
        ModelError: The folder holds vectors of another model.
        DatasetError: The files contradict each other.
    """

    def __init__(
        self, folder: Path, *, model: str, digest: str, queries: int, width: int, shard_rows: int = SHARD_ROWS
    ) -> None:
        self.folder, self.digest, self.queries, self.width = folder, digest, queries, width
        self._shard_rows, self._row_bytes = shard_rows, queries * width * 2
        folder.mkdir(parents=True, exist_ok=True)
        wanted = {"model": model, "digest": digest, "queries": queries, "width": width, "shard_rows": shard_rows}
        about = folder / "store.json"
        if about.exists():
            found = json.loads(about.read_text())
            if found["digest"] != digest:
                raise ModelError(
                    f"{folder}: holds vectors of {found['model']} ({found['digest']}), not of {model} ({digest}); "
                    "give another folder, vectors of different weights cannot be compared"
                )
            self._shard_rows = int(found["shard_rows"])
        else:
            write_beside(about, json.dumps(wanted))
        self._counts = self._repair()
        self._failed = folder / "failed.jsonl"
        _cut_unfinished_line(self._failed)

    def _repair(self) -> list[int]:
        counts: list[int] = []
        for number in range(len(list(self.folder.glob("*.keys")))):
            keys, vectors = self._paths(number)
            rows = _cut_unfinished_line(keys)
            there = vectors.stat().st_size if vectors.exists() else 0
            if there < rows * self._row_bytes:
                raise DatasetError(
                    f"{vectors}: {there} bytes for {rows} rows of {self._row_bytes}; "
                    "remove it and its .keys to embed again"
                )
            os.truncate(vectors, rows * self._row_bytes)
            counts.append(rows)
        return counts

    def _paths(self, number: int) -> tuple[Path, Path]:
        return self.folder / f"{number:05d}.keys", self.folder / f"{number:05d}.vectors"

    def __len__(self) -> int:
        """Count the rows."""
        return sum(self._counts)

    def append(self, items: Sequence[tuple[str, str]], vectors: Vectors) -> None:
        """Append rows, all or none.

        Args:
            items: `(key, stamp)` of each row.
            vectors: `(n, q, d)`.
        """
        if not self._counts or self._counts[-1] >= self._shard_rows:
            self._counts.append(0)
        keys, data = self._paths(len(self._counts) - 1)
        with data.open("ab") as stream:
            stream.write(np.ascontiguousarray(vectors, np.float16).tobytes())
            stream.flush()
            os.fsync(stream.fileno())
        _append_lines(keys, [list(item) for item in items])
        self._counts[-1] += len(items)

    def fail(self, items: Sequence[tuple[str, str, str]]) -> None:
        """Note images that could not be read, as `(key, stamp, error)`, so that they are not tried again."""
        _append_lines(self._failed, [list(item) for item in items])

    def forgive(self) -> None:
        """Forget the failures, so that they are tried again."""
        self._failed.unlink(missing_ok=True)

    def failures(self) -> list[tuple[str, str]]:
        """Return `(key, error)` of the images that could not be read."""
        return [(key, error) for key, _, error in _lines(self._failed)]

    def has(self) -> Callable[[str, str], bool]:
        """Return a function that tells whether `(key, stamp)` is done, as of now."""
        failed = ((key, stamp) for key, stamp, _ in _lines(self._failed))
        known = np.sort(np.fromiter((_mark(key, stamp) for key, stamp in chain(self.items(), failed)), np.uint64))

        def found(key: str, stamp: str) -> bool:
            mark = np.uint64(_mark(key, stamp))
            place = int(np.searchsorted(known, mark))
            return place < len(known) and bool(known[place] == mark)

        return found

    def items(self) -> Iterator[tuple[str, str]]:
        """Yield `(key, stamp)` of each row, in order."""
        for number, count in enumerate(self._counts):
            for place, (key, stamp) in enumerate(_lines(self._paths(number)[0])):
                if place < count:
                    yield key, stamp

    def lookup(self, rows: Collection[int]) -> dict[int, tuple[str, str]]:
        """Return `(key, stamp)` of some rows."""
        wanted = set(rows)
        return {row: item for row, item in enumerate(self.items()) if row in wanted}

    def blocks(self, rows: int = 4096) -> Iterator[tuple[int, Vectors]]:
        """Yield `(first row, vectors (n, q, d))`, mapped from disk, at most `rows` at a time."""
        first = 0
        for number, count in enumerate(self._counts):
            shard = self._map(number)
            for start in range(0, count, rows):
                yield first + start, shard[start : start + rows]
            first += count

    def take(self, rows: npt.NDArray[np.int64]) -> Vectors:
        """Return the vectors of some rows, `(n, q, d)`."""
        found = np.empty((len(rows), self.queries, self.width), np.float16)
        bounds = np.cumsum([0, *self._counts])
        for number in range(len(self._counts)):
            here = (rows >= bounds[number]) & (rows < bounds[number + 1])
            if here.any():
                found[here] = self._map(number)[rows[here] - bounds[number]]
        return found

    def _map(self, number: int) -> Vectors:
        shape = (self._counts[number], self.queries, self.width)
        return np.memmap(self._paths(number)[1], np.float16, "r", shape=shape)


def _append_lines(path: Path, rows: Sequence[list[str]]) -> None:
    with path.open("a", encoding="utf-8") as stream:
        stream.writelines(json.dumps(row, ensure_ascii=False) + "\n" for row in rows)
        stream.flush()
        os.fsync(stream.fileno())


def _lines(path: Path) -> Iterator[list[str]]:
    if path.exists():
        with path.open(encoding="utf-8") as stream:
            yield from map(json.loads, stream)


def _cut_unfinished_line(path: Path) -> int:
    """Cut off what a kill left after the last newline, and count the lines."""
    if not path.exists():
        return 0
    count = end = place = 0
    with path.open("rb") as stream:
        for line in stream:
            place += len(line)
            if line.endswith(b"\n"):
                count, end = count + 1, place
    if end < place:
        os.truncate(path, end)
    return count
