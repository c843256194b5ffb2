"""Reading a table in its own order, ahead of somebody who asks for its rows in about the same order.

To write all rows of a view, each table is asked for all ids. Tables of one dataset mostly have their rows in the order in which samples
came; then one pass over each does, and neither the index of its ids nor the time to search it is needed.
"""

from collections.abc import Iterator, Sequence

import pyarrow as pa

from tilth.data.table import Table

HELD_ROWS = 1 << 14  # that were read and not yet asked for; what lies further ahead is looked up


class Ahead:
    """A table whose rows are asked for once each.

    Args:
        table: The table.
    """

    def __init__(self, table: Table) -> None:
        self._table = table
        self._batches: Iterator[pa.RecordBatch] | None = None
        self._ended = False
        self._held: dict[str, tuple[pa.RecordBatch, int]] = {}

    def get(self, ids: Sequence[str], columns: list[str]) -> dict[str, dict[str, object]]:
        """Return the rows of these ids, by id; always the same columns must be asked for."""
        if self._batches is None:
            self._batches = self._table.batches(["id", *columns])
        missing = dict.fromkeys(ids)
        found: dict[str, dict[str, object]] = {}
        self._take(missing, found)
        while missing and not self._ended and len(self._held) < HELD_ROWS:
            batch = next(self._batches, None)
            self._ended = batch is None
            if batch is not None:
                ids_here = enumerate(batch.column("id").to_pylist())
                # ids with a colon are of what failed or was a copy: nobody asks for them
                self._held.update((id_, (batch, place)) for place, id_ in ids_here if ":" not in id_)
                self._take(missing, found)
        if missing and not self._ended:
            found |= self._table.get(list(missing), columns)
        return found

    def _take(self, missing: dict[str, None], found: dict[str, dict[str, object]]) -> None:
        """Move what was missing and is held to what was found."""
        places: dict[int, tuple[pa.RecordBatch, list[int]]] = {}
        for id_ in [i for i in missing if i in self._held]:
            batch, place = self._held.pop(id_)
            places.setdefault(id(batch), (batch, []))[1].append(place)
            del missing[id_]
        for batch, some in places.values():
            found.update((row["id"], row) for row in batch.take(pa.array(some)).to_pylist())
