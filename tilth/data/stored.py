"""The rows of a view on disk: one Lance table whose versions are the views, read in the order in which samples came."""

from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path

import lance
import pyarrow as pa
import pyarrow.compute as pc

from tilth.data.table import SESSION, in_
from tilth.data.where import both

CHUNK_ROWS = 8192  # rows that are made, or read, at once
WINDOWS = 64  # rows are put in order so many parts of the dataset at a time …
WINDOW_ROWS = 1 << 16  # … or so many rows


class Stored:
    """The rows of one view.

    Args:
        folder: Where views lie.
        version: Of its table; the newest when None.
        rows: How many there are.

    Raises:
        OSError, ValueError: It was deleted, or cleaned up.
    """

    def __init__(self, folder: Path, version: int | None, rows: int) -> None:
        self.data = lance.dataset(str(place_in(folder)), version=version, session=SESSION)
        self._rows = rows

    def windows(
        self, columns: list[str], condition: str = "", among: Iterable[str] | None = None
    ) -> Iterator[pa.Table]:
        """Yield columns in order, a part of the dataset at a time.

        Args:
            columns: Of Lance, `_rowoffset` too.
            condition: Of Lance; keeps the rows that it holds for.
            among: Keeps the rows of these ids.
        """
        chosen = None if among is None else pa.array(among, pa.string())
        if chosen is not None and len(chosen) <= CHUNK_ROWS:
            if not len(chosen):
                return
            condition, chosen = both(in_(chosen.to_pylist()), condition), None
        columns = ["place", *columns, *(["id"] if chosen is not None and "id" not in columns else [])]
        size = max(WINDOW_ROWS, -(-self._rows // WINDOWS))
        for start in range(0, self._rows, size):
            here = f"place >= {start} and place < {start + size}" if self._rows > size else ""
            found = self.data.to_table(columns=columns, filter=both(here, condition) or None)
            if chosen is not None:
                found = found.filter(pc.is_in(found["id"], value_set=chosen))
            if len(found):
                yield found.sort_by("place")

    def in_order(self, condition: str = "", among: Iterable[str] | None = None) -> Iterator[pa.Table]:
        """Yield whole rows in order, `CHUNK_ROWS` at once; see `windows`."""
        for found in self.windows(["_rowoffset"], condition, among):
            places = found["_rowoffset"].to_pylist()
            for start in range(0, len(places), CHUNK_ROWS):
                yield self.data.take(places[start : start + CHUNK_ROWS])

    def of(self, ids: Sequence[str], columns: list[str] | None = None) -> pa.Table | None:
        """Return the rows of ids, in no order; None when there is none."""
        offsets = self.data.to_table(columns=["_rowoffset"], filter=in_(ids))["_rowoffset"].to_pylist() if ids else []
        return self.data.take(offsets, columns=columns) if offsets else None


def place_in(folder: Path) -> Path:
    """Return where the rows lie."""
    return folder / "rows.lance"
