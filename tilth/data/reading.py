"""From the rows of a view back to samples: nothing is turned into Python's objects before somebody looks at it.

A column that nobody looks at is not even read.
"""

import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from itertools import accumulate, pairwise
from typing import Protocol, overload

import pyarrow as pa
import pyarrow.compute as pc

from tilth.claims import Claim, Json, State, Truth
from tilth.data.rows import Columns
from tilth.data.table import CLAIM_FIELDS, read_claim
from tilth.samples import Sample

TOLD = (
    "id",
    "media",
    "width",
    "height",
    "origin",
    "drops",
    "state",
    "truth",
    "looked",
    "looked_by",
    "silent",
)  # of each sample

Rows = Mapping[str, Mapping[str, Json]]  # what was measured, by id and name
Load = Callable[[list[str], str, dict[str, Rows]], Rows]


class Part(Protocol):
    """Rows of a view that were read together; a column is read when somebody looks at it."""

    def __len__(self) -> int:
        """Count the rows."""
        ...

    def column(self, name: str) -> pa.ChunkedArray:
        """Return a column."""
        ...


class Batch:
    """Some rows of a part: what they say is turned into Python's objects when somebody looks at it, for all rows at once.

    Args:
        part: Rows of a view.
        start: Place of the first row in it.
        rows: How many.
        columns: The view's measured names.
        load: Reads what was measured of samples under a name from the results tables; keeps what it read of each in a mapping.
    """

    def __init__(self, part: Part, start: int, rows: int, columns: Columns, load: Load) -> None:
        self.kinds, self._part, self._columns, self._load = columns.kinds, part, columns, load
        self._start, self._rows = start, rows
        self._cells: dict[str, list[Json]] = {}
        self._items: dict[str, list[Json]] = {}
        self._read: dict[str, Rows] = {}
        self._claims: list[tuple[Claim, ...]] | None = None

    def column(self, name: str) -> pa.ChunkedArray:
        """Return a column of the view."""
        return self._part.column(name).slice(self._start, self._rows)

    def cells(self, name: str) -> list[Json]:
        """Return the values of a measured name; None where there is nothing."""
        if name not in self._cells:
            self._cells[name] = self.column(self._columns.column(name)).to_pylist()
        return self._cells[name]

    def items(self, name: str) -> list[Json]:
        """Return the lists and mappings that were measured under a name; other tables than those that hold some are not read."""
        if name not in self._items:
            ids = self.column("id").to_pylist()
            found = self._load(ids, name, self._read)
            self._items[name] = [found[id_][name] if id_ in found else None for id_ in ids]
        return self._items[name]

    def claims(self, place: int) -> tuple[Claim, ...]:
        """Return all claims about a sample."""
        if self._claims is None:
            self._claims = claims_of(self.column("claims"))
        return self._claims[place]


class Said(Sequence[Claim]):
    """Claims about one sample of a batch: all, or those in some places."""

    __slots__ = ("_batch", "_place", "_some")

    def __init__(self, batch: Batch, place: int, some: Sequence[int] | None = None) -> None:
        self._batch, self._place, self._some = batch, place, some

    def _read(self) -> tuple[Claim, ...]:
        claims = self._batch.claims(self._place)
        return claims if self._some is None else tuple(claims[n] for n in self._some)

    @overload
    def __getitem__(self, at: int) -> Claim: ...
    @overload
    def __getitem__(self, at: slice) -> tuple[Claim, ...]: ...
    def __getitem__(self, at: int | slice) -> Claim | tuple[Claim, ...]:
        """Return a claim, or several."""
        return self._read()[at]

    def __iter__(self) -> Iterator[Claim]:
        """Yield the claims."""
        return iter(self._read())

    def __len__(self) -> int:
        """Count the claims."""
        return len(self._read() if self._some is None else self._some)

    def __eq__(self, other: object) -> bool:
        """Compare with other claims in their order."""
        return isinstance(other, Sequence) and self._read() == tuple(other)

    def __hash__(self) -> int:
        """Hash as the tuple of the claims."""
        return hash(self._read())

    def __repr__(self) -> str:
        """Show all."""
        return repr(self._read())


class Measured(Mapping[str, Json]):
    """The measured columns of one sample of a batch."""

    __slots__ = ("_batch", "_place")

    def __init__(self, batch: Batch, place: int) -> None:
        self._batch, self._place = batch, place

    def __getitem__(self, name: str) -> Json:
        """Return a value; a list or a mapping is read from the results tables, for the whole batch."""
        if name not in self:
            raise KeyError(name)
        if self._batch.kinds[name] == "items":
            return self._batch.items(name)[self._place]
        return self._batch.cells(name)[self._place]

    def __contains__(self, name: object) -> bool:
        """Tell whether something was measured under a name."""
        return name in self._batch.kinds and self._batch.cells(str(name))[self._place] is not None

    def __iter__(self) -> Iterator[str]:
        """Yield all names."""
        return (name for name in self._batch.kinds if name in self)

    def __len__(self) -> int:
        """Count the names."""
        return sum(1 for _ in self)

    def __repr__(self) -> str:
        """Show everything."""
        return repr(dict(self))


def samples_of(part: Part, start: int, rows: int, columns: Columns, load: Load) -> list[Sample]:
    """Make samples of rows.

    Args:
        part: Rows of a view.
        start: Place of the first row in it.
        rows: How many; fewer when it ends before.
        columns: The view's measured names.
        load: Reads what was measured of samples under a name from the results tables; keeps what it read of each in a mapping.
    """
    batch = Batch(part, start, rows, columns, load)
    return [
        Sample(
            id=id_,
            media=media,
            size_wh=(width, height),
            origin=json.loads(origin),
            claims=Said(batch, place),
            columns=Measured(batch, place),
            drops=tuple((drop["step"], drop["reason"]) for drop in drops),
            resolved=Truth(
                state=State(state),
                labels=Said(batch, place, truth),
                looked=dict(zip(looked, by, strict=True)),
                silent=silent,
            ),
        )
        for place, (id_, media, width, height, origin, drops, state, truth, looked, by, silent) in enumerate(
            zip(*(batch.column(name).to_pylist() for name in TOLD), strict=True)
        )
    ]


def claims_of(column: pa.ChunkedArray) -> list[tuple[Claim, ...]]:
    """Read a column of claims; field by field, as a mapping for each claim would cost more than the claim."""
    found: list[tuple[Claim, ...]] = []
    for chunk in column.chunks:
        fields = [part.to_pylist() for part in chunk.flatten().flatten()]
        flat = [read_claim(dict(zip(CLAIM_FIELDS, cells, strict=True))) for cells in zip(*fields, strict=True)]
        ends = accumulate(pc.list_value_length(chunk).to_pylist(), initial=0)
        found += [tuple(flat[start:end]) for start, end in pairwise(ends)]
    return found
