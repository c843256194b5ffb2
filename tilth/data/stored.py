"""The rows of a view on disk: one Lance table whose versions are the views, read in the order in which samples came."""

from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path

import lance
import pyarrow as pa
import pyarrow.compute as pc

from tilth.data.table import SESSION, in_, rows_at
from tilth.data.where import both
from tilth.errors import DatasetError

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
            columns: Of Lance, `_rowid` too.
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
        if condition and self._rows > size:
            few = self.data.to_table(columns=["place", "_rowid"], filter=condition, limit=size)
            size = self._rows if len(few) < size else size  # the whole dataset is one window, when few rows are chosen
        for start in range(0, self._rows, size):
            here = f"place >= {start} and place < {start + size}" if self._rows > size else ""
            found = self.data.to_table(columns=columns, filter=both(here, condition) or None)
            if chosen is not None:
                found = found.filter(pc.is_in(found["id"], value_set=chosen))
            if len(found):
                yield found.sort_by("place")

    def in_order(
        self, columns: Sequence[str], condition: str = "", among: Iterable[str] | None = None
    ) -> Iterator["Part"]:
        """Yield rows in order, `CHUNK_ROWS` at once, with these columns; see `windows`."""
        for found in self.windows(["_rowid"], condition, among):
            row_ids = found["_rowid"].to_pylist()
            for start in range(0, len(row_ids), CHUNK_ROWS):
                yield Part(self.data, row_ids[start : start + CHUNK_ROWS], columns)

    def of(self, ids: Sequence[str], columns: Sequence[str]) -> "Part":
        """Return the rows of ids, in the order in which they came."""
        found = self.data.to_table(columns=["_rowid"], filter=in_(ids))["_rowid"].to_pylist() if ids else []
        return Part(self.data, found, columns)


class Part:
    """Some rows in order; what is asked for beyond the columns that were read is read then, of all of them.

    Args:
        data: The table.
        row_ids: Lance's, of the rows.
        columns: To read at once.
    """

    def __init__(self, data: lance.LanceDataset, row_ids: Sequence[int], columns: Sequence[str]) -> None:
        self._data, self._row_ids = data, row_ids
        self.rows = self._read(["place", *(name for name in columns if name != "place")])

    def __len__(self) -> int:
        """Count the rows."""
        return len(self._row_ids)

    def _read(self, columns: list[str]) -> pa.Table:
        if not self._row_ids:
            return self._data.schema.empty_table()
        try:
            return rows_at(self._data, self._row_ids, columns).sort_by("place")
        except (ValueError, OSError) as error:
            raise DatasetError(f"{self._data.uri}: the view went while it was being read; run again") from error

    def column(self, name: str) -> pa.ChunkedArray:
        """Return a column.

        Raises:
            DatasetError: The view was deleted, or cleaned up a day after it had been replaced.
        """
        if name not in self.rows.schema.names:
            self.rows = self.rows.append_column(name, self._read(["place", name])[name])
        return self.rows[name]


def place_in(folder: Path) -> Path:
    """Return where the rows lie."""
    return folder / "rows.lance"
