"""The rows of a view: what all tables of a version say of a sample, in one row, and back from rows to samples.

A row holds the claims of a sample in the order of the tables and which of them are its truth, so reading a sample looks nowhere
else, and a new table changes a row by being added to it. Measured numbers, texts and flags are columns; of a list or a mapping the
row has the number of items, and its content is read from the results tables when somebody looks at it.
"""

import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from itertools import accumulate, pairwise
from typing import Protocol, overload

import pyarrow as pa
import pyarrow.compute as pc

from tilth.claims import PEOPLE, Claim, Json, State, Truth, resolve
from tilth.data.table import CLAIM, CLAIM_FIELDS, HASH_GATE, QUARANTINED, Table, TableRef, read_claim
from tilth.samples import Sample, is_made

BASE = pa.schema(
    [
        ("id", pa.string()),
        ("place", pa.int64()),  # in the order in which samples came
        ("width", pa.int32()),
        ("height", pa.int32()),
        ("state", pa.string()),
        ("split", pa.string()),
        ("categories", pa.list_(pa.string())),
        ("labels", pa.int32()),  # how many the truth has …
        ("boxes", pa.int32()),  # … and how many of them have a box
        ("kinds", pa.list_(pa.string())),  # who has said anything: human, import, model, synth
        ("looked", pa.list_(pa.string())),  # categories that somebody looked for …
        ("looked_by", pa.list_(pa.string())),  # … and the kind of who decides each
        ("decided", pa.list_(pa.string())),  # categories that people decided
        ("silent", pa.bool_()),  # whether somebody decides who does not say what they looked for
        ("policy", pa.string()),  # of the last claim that names one
        ("people", pa.bool_()),  # whether a person or an imported file has said anything
        ("made", pa.bool_()),
        ("source", pa.string()),
        ("licence", pa.string()),
        ("step", pa.string()),
        ("dropped", pa.string()),  # why; null while the sample is in
        ("origin", pa.string()),
        ("claims", pa.list_(CLAIM)),
        ("truth", pa.list_(pa.int32())),  # places in `claims`
        ("drops", pa.list_(pa.struct([("step", pa.string()), ("reason", pa.string())]))),
    ]
)
KINDS = {"flag": pa.bool_(), "int": pa.int64(), "number": pa.float64(), "text": pa.string(), "items": pa.int64()}
TOLD = ("id", "width", "height", "origin", "drops", "state", "truth", "looked", "looked_by", "silent")  # of each sample
HIDDEN = ("place", "looked_by", "claims", "truth", "drops")  # of no use in a condition

Row = dict[str, object]
Find = Callable[[TableRef], Table]


class Rows(Protocol):
    """Something that has rows by id: a table, or one that is read ahead."""

    def get(self, ids: Sequence[str], columns: list[str]) -> dict[str, Row]:
        """Return the rows of these ids, by id."""
        ...


Look = Callable[[TableRef], Rows]
Load = Callable[[list[str]], Mapping[str, Mapping[str, Json]]]


def kind_of(value: Json) -> str:
    """Name the kind of column that holds a value."""
    if isinstance(value, bool):
        return "flag"
    if isinstance(value, int):
        return "int" if abs(value) < 1 << 63 else "items"
    if isinstance(value, float):
        return "number"
    return "text" if isinstance(value, str) else "items"


def joined(a: str, b: str) -> str:
    """Name the kind of column that holds values of two kinds; those that go together in none are only counted."""
    return a if a == b else "number" if {a, b} == {"int", "number"} else "items"


def _cell(value: Json, kind: str) -> Json:
    if kind == "items":
        return int(str(value["items"])) if isinstance(value, Mapping) else 1
    return value


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
        load: Reads all measured columns of samples from the results tables, by id.
    """

    def __init__(self, part: Part, start: int, rows: int, columns: "Columns", load: Load) -> None:
        self.kinds, self._part, self._columns, self._load = columns.kinds, part, columns, load
        self._start, self._rows = start, rows
        self._cells: dict[str, list[Json]] = {}
        self._whole: list[Mapping[str, Json]] | None = None
        self._claims: list[tuple[Claim, ...]] | None = None

    def column(self, name: str) -> pa.ChunkedArray:
        """Return a column of the view."""
        return self._part.column(name).slice(self._start, self._rows)

    def cells(self, name: str) -> list[Json]:
        """Return the values of a measured name; None where there is nothing."""
        if name not in self._cells:
            self._cells[name] = self.column(self._columns.column(name)).to_pylist()
        return self._cells[name]

    def whole(self, place: int) -> Mapping[str, Json]:
        """Return everything measured of a sample, lists and mappings too."""
        if self._whole is None:
            ids = self.column("id").to_pylist()
            found = self._load(ids)
            self._whole = [found[id_] for id_ in ids]
        return self._whole[place]

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
            return self._batch.whole(self._place)[name]
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


@dataclass
class Columns:
    """Which measured names a view has: their column, their kind, and which tables hold those that are read when looked at."""

    kinds: dict[str, str] = field(default_factory=dict)
    nested: dict[str, list[str]] = field(default_factory=dict)  # table -> names

    @staticmethod
    @lru_cache(maxsize=4096)
    def column(name: str) -> str:
        """Return the column of a measured name."""
        return "m_" + "".join(c if c.isalnum() else "__" if c == "." else f"_{ord(c):x}_" for c in name)

    def names(self) -> dict[str, str]:
        """Return the column of everything that can be asked for."""
        base = {name: name for name in BASE.names if name not in HIDDEN}
        return {name: self.column(name) for name in self.kinds} | base

    def schema(self) -> pa.Schema:
        """Return the schema of the rows."""
        return pa.schema([*BASE, *(pa.field(self.column(n), KINDS[kind]) for n, kind in self.kinds.items())])

    def learn(self, ref: TableRef, table: Table) -> bool:
        """Look through a results table for names; return whether a known one is now of another kind."""
        changed = False
        for text in table.texts("columns"):
            for name, value in json.loads(text).items():
                if value is None:
                    continue
                kind = kind_of(value)
                known = self.kinds.setdefault(name, kind)
                if known != kind and joined(known, kind) != known:
                    self.kinds[name] = joined(known, kind)
                    changed = True
                if kind == "items" or self.kinds[name] == "items":
                    held = self.nested.setdefault(ref.name, [])
                    if name not in held:
                        held.append(name)
        return changed


def fresh(ids: Sequence[str], places: Sequence[int], pool: Rows, columns: Columns) -> pa.Table:
    """Make the rows of samples of which no table has said anything yet.

    Args:
        ids: Whose.
        places: Where each comes in the order of all samples.
        pool: Where images and origins lie.
        columns: The measured names.
    """
    kept = pool.get(ids, ["width", "height", "origin"])
    rows = [
        {"id": i, "place": place, **_UNSAID, **kept[i], **_origin(str(kept[i]["origin"]))}
        for i, place in zip(ids, places, strict=True)
    ]
    return pa.Table.from_pylist(rows, schema=columns.schema())


_UNSAID: Row = {
    "state": str(State.UNLABELLED),
    "split": "",
    "labels": 0,
    "boxes": 0,
    "people": False,
    "silent": False,
    "policy": "",
    **{name: [] for name in ("categories", "kinds", "looked", "looked_by", "decided", "claims", "truth")},
}


def _origin(text: str) -> Row:
    """Read what is asked of an origin, and whether the hash gate took the image's bytes out."""
    origin = json.loads(text)
    drops = [{"step": HASH_GATE, "reason": str(origin[QUARANTINED])}] if QUARANTINED in origin else []
    return {
        "made": is_made(origin),
        **{name: str(origin.get(name) or "") for name in ("source", "licence", "step")},
        "drops": drops,
        "dropped": drops[0]["reason"] if drops else None,
    }


def compose(rows: pa.Table, refs: Sequence[TableRef], look: Look, columns: Columns) -> pa.Table:
    """Add to rows what tables say; whatever they say nothing of is passed on as it is.

    Args:
        rows: Of samples.
        refs: Tables, in the order of the version.
        look: Opens a table.
        columns: The measured names.
    """
    ids: list[str] = rows["id"].to_pylist()
    at = {id_: place for place, id_ in enumerate(ids)}
    cells: dict[str, dict[int, Json]] = {}
    said: dict[int, list[Row]] = {}
    drops: dict[int, list[Row]] = {}
    for ref in refs:
        for id_, found in look(ref).get(ids, ["status", "reason", "claims", "columns"]).items():
            place = at[id_]
            for name, value in json.loads(str(found["columns"])).items() if found["columns"] else ():
                if value is not None:
                    cells.setdefault(name, {})[place] = _cell(value, columns.kinds[name])
            if found["claims"]:
                said.setdefault(place, []).extend(found["claims"])  # type: ignore[arg-type]
            if found["status"] == "dropped":
                drops.setdefault(place, []).append({"step": ref.step, "reason": found["reason"]})
    for name, values in cells.items():
        rows = _patched(rows, columns.column(name), values)
    if "split" in cells:
        rows = _patched(rows, "split", cells["split"])
    if changed := sorted({*said, *drops}):
        before = rows.select(["claims", "drops"]).take(changed).to_pylist()
        told = [
            _resolved([*row["claims"], *said.get(place, ())], [*row["drops"], *drops.get(place, ())])
            for place, row in zip(changed, before, strict=True)
        ]
        for name in told[0]:
            rows = _patched(rows, name, {place: row[name] for place, row in zip(changed, told, strict=True)})
    return rows


def _patched(rows: pa.Table, name: str, values: Mapping[int, object]) -> pa.Table:
    """Put values in some places of a column."""
    number = rows.schema.get_field_index(name)
    field = rows.schema.field(number)
    takes = list(range(len(rows)))
    for new, place in enumerate(values, len(rows)):
        takes[place] = new
    both = pa.chunked_array([*rows[name].chunks, pa.array(list(values.values()), field.type)], field.type)
    return rows.set_column(number, field, both.take(pa.array(takes)))


def _resolved(claims: Sequence[Mapping[str, object]], drops: Sequence[Mapping[str, object]]) -> Row:
    read = [read_claim(claim) for claim in claims]
    truth = resolve(read)
    where = {id(claim): place for place, claim in enumerate(read)}
    kinds = sorted({claim.kind for claim in read})
    drops = sorted(drops, key=lambda drop: drop["step"] == HASH_GATE)  # it comes last, whenever it struck
    return {
        "claims": claims,
        "state": str(truth.state),
        "categories": sorted(truth.categories),
        "labels": len(truth.labels),
        "boxes": sum(label.box_xyxy is not None for label in truth.labels),
        "kinds": kinds,
        "looked": list(truth.looked),
        "looked_by": list(truth.looked.values()),
        "decided": sorted(name for name, kind in truth.looked.items() if kind in PEOPLE),
        "silent": truth.silent,
        "policy": next((claim.policy for claim in reversed(read) if claim.policy), ""),
        "people": any(kind in PEOPLE for kind in kinds),
        "truth": [where[id(label)] for label in truth.labels],
        "drops": drops,
        "dropped": drops[0]["reason"] if drops else None,
    }


def samples_of(part: Part, start: int, rows: int, columns: Columns, load: Load) -> list[Sample]:
    """Make samples of rows.

    Args:
        part: Rows of a view.
        start: Place of the first row in it.
        rows: How many; fewer when it ends before.
        columns: The view's measured names.
        load: Reads all measured columns of samples from the results tables, by id.
    """
    batch = Batch(part, start, rows, columns, load)
    return [
        Sample(
            id=id_,
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
        for place, (id_, width, height, origin, drops, state, truth, looked, by, silent) in enumerate(
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
