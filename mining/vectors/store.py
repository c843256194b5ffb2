"""The query vectors of a corpus on disk: append-only, readable while it grows, whole after a kill.

    store.json      whose vectors these are: model, digest, q, d
    00000.vectors   float16, (rows, q, d), nothing else
    00000.keys      one JSON line a row: [key, stamp]
    00000.ends      uint64, where each of these lines ends, so that one can be read without those before it
    failed.jsonl    one JSON line an image that could not be read: [key, stamp, error]
    forgotten.npy   rows whose image has left the corpus or changed; they keep their numbers and are not found

Vectors are written first and their key lines after them, so a line means that its vectors are there; whatever lies beyond
the last whole line is cut off when the store is opened. A kill loses the batch that was being written.
"""

import hashlib
import json
import os
from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from itertools import chain
from pathlib import Path

import numpy as np
import numpy.typing as npt

from tilth.data.files import write_beside
from tilth.errors import DatasetError, ModelError

SHARD_ROWS = 65_536

Vectors = npt.NDArray[np.float16]
Rows = npt.NDArray[np.int64]


def _mark(key: str, stamp: str) -> int:
    """Name an item by 8 bytes, so that a hundred million of them fit in memory."""
    return int.from_bytes(
        hashlib.blake2b(f"{key}\0{stamp}".encode("utf-8", "surrogatepass"), digest_size=8).digest(), "little"
    )


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
        self._maps: dict[int, Vectors] = {}
        self._failed = folder / "failed.jsonl"
        line_ends(self._failed)
        gone = folder / "forgotten.npy"
        self.forgotten: Rows = np.load(gone) if gone.exists() else np.empty(0, np.int64)

    def _repair(self) -> list[int]:
        counts: list[int] = []
        for number in range(len(list(self.folder.glob("*.keys")))):
            keys, vectors, ends = self._paths(number)
            known = np.fromfile(ends, np.uint64) if ends.exists() else np.empty(0, np.uint64)
            if not len(known) or int(known[-1]) != keys.stat().st_size:  # a kill, or a store of an older version
                known = line_ends(keys)
                _replace(ends, known.tobytes())
            there = vectors.stat().st_size if vectors.exists() else 0
            if there < len(known) * self._row_bytes:
                raise DatasetError(
                    f"{vectors}: {there} bytes for {len(known)} rows of {self._row_bytes}; "
                    "remove the folder to embed again"
                )
            if there > len(known) * self._row_bytes:
                os.truncate(vectors, len(known) * self._row_bytes)
            counts.append(len(known))
        return counts

    def _paths(self, number: int) -> tuple[Path, Path, Path]:
        stem = f"{number:05d}"
        return self.folder / f"{stem}.keys", self.folder / f"{stem}.vectors", self.folder / f"{stem}.ends"

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
        keys, data, ends = self._paths(len(self._counts) - 1)
        _append(data, np.ascontiguousarray(vectors, np.float16).tobytes())
        start = keys.stat().st_size if keys.exists() else 0
        lengths = _append_lines(keys, [list(item) for item in items])
        _append(ends, (start + np.cumsum(lengths, dtype=np.uint64)).astype(np.uint64).tobytes())
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

        return lambda key, stamp: _in(known, _mark(key, stamp))

    def items(self) -> Iterator[tuple[str, str]]:
        """Yield `(key, stamp)` of each row, in order."""
        for number, count in enumerate(self._counts):
            for place, (key, stamp) in enumerate(_lines(self._paths(number)[0])):
                if place < count:
                    yield key, stamp

    def lookup(self, rows: Collection[int]) -> dict[int, tuple[str, str]]:
        """Return `(key, stamp)` of some rows, reading their lines alone."""
        found: dict[int, tuple[str, str]] = {}
        for number, first, numbers in self._by_shard(np.array(sorted(rows), np.int64)):
            keys, _, ends = self._paths(number)
            last = np.memmap(ends, np.uint64, "r")
            with keys.open("rb") as stream:
                for place in numbers.tolist():
                    start = int(last[place - 1]) if place else 0
                    stream.seek(start)
                    key, stamp = json.loads(stream.read(int(last[place]) - start))
                    found[first + place] = key, stamp
        return found

    def forget_all_but(self, present: Iterable[tuple[str, str]]) -> int:
        """Leave the rows whose `(key, stamp)` the corpus has no longer out of every search, until it has them again.

        Holds 8 bytes an item.

        Returns:
            Number of rows that are forgotten.
        """
        marks = np.sort(np.fromiter((_mark(*item) for item in present), np.uint64))
        gone = (row for row, item in enumerate(self.items()) if not _in(marks, _mark(*item)))
        forgotten = np.fromiter(gone, np.int64)
        if not np.array_equal(forgotten, self.forgotten):
            partial = self.folder / "forgotten.partial"
            with partial.open("wb") as stream:
                np.save(stream, forgotten)
            os.replace(partial, self.folder / "forgotten.npy")
        self.forgotten = forgotten
        return len(forgotten)

    def blocks(self, rows: int = 4096) -> Iterator[tuple[int, Vectors]]:
        """Yield `(first row, vectors (n, q, d))`, mapped from disk, at most `rows` at a time."""
        first = 0
        for number, count in enumerate(self._counts):
            shard = self._map(number)
            for start in range(0, count, rows):
                yield first + start, shard[start : start + rows]
            first += count

    def take(self, rows: Rows) -> Vectors:
        """Return the vectors of some rows, `(n, q, d)`."""
        found = np.empty((len(rows), self.queries, self.width), np.float16)
        order = np.argsort(rows, kind="stable")  # pages are then read once and in order
        done = 0
        for number, _, numbers in self._by_shard(rows[order]):
            found[order[done : done + len(numbers)]] = self._map(number)[numbers]
            done += len(numbers)
        return found

    def _by_shard(self, rows: Rows) -> Iterator[tuple[int, int, Rows]]:
        """Yield `(shard, its first row, places in it)` for sorted rows."""
        bounds = np.cumsum([0, *self._counts])
        cuts = np.searchsorted(rows, bounds)
        for number in range(len(self._counts)):
            if cuts[number] < cuts[number + 1]:
                yield number, int(bounds[number]), rows[cuts[number] : cuts[number + 1]] - bounds[number]

    def _map(self, number: int) -> Vectors:
        shape = (self._counts[number], self.queries, self.width)
        if number not in self._maps or self._maps[number].shape != shape:
            self._maps[number] = np.memmap(self._paths(number)[1], np.float16, "r", shape=shape)
        return self._maps[number]


def _in(marks: npt.NDArray[np.uint64], mark: int) -> bool:
    place = int(np.searchsorted(marks, np.uint64(mark)))
    return place < len(marks) and int(marks[place]) == mark


def _append(path: Path, data: bytes) -> None:
    with path.open("ab") as stream:
        stream.write(data)
        stream.flush()
        os.fsync(stream.fileno())


def _append_lines(path: Path, rows: Sequence[list[str]]) -> list[int]:
    """Append rows as JSON and return the bytes of each."""
    lines = [(json.dumps(row) + "\n").encode() for row in rows]
    _append(path, b"".join(lines))
    return [len(line) for line in lines]


def _replace(path: Path, data: bytes) -> None:
    partial = path.with_name(path.name + ".partial")
    partial.write_bytes(data)
    os.replace(partial, path)


def _lines(path: Path) -> Iterator[list[str]]:
    if path.exists():
        with path.open(encoding="utf-8") as stream:
            yield from map(json.loads, stream)


def line_ends(path: Path) -> npt.NDArray[np.uint64]:
    """Cut off what a kill left after the last newline, and return where each line ends."""
    ends: list[int] = []
    if path.exists():
        with path.open("rb") as stream:
            size = 0
            for line in stream:
                size += len(line)
                if line.endswith(b"\n"):
                    ends.append(size)
        if size > (ends[-1] if ends else 0):
            os.truncate(path, ends[-1] if ends else 0)
    return np.array(ends, np.uint64)
