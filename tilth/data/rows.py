"""The rows of a view: what all tables of a version say of a sample, in one row, and back from rows to samples.

A row holds the claims of a sample in the order of the tables and which of them are its truth, so reading a sample looks nowhere
else, and a new table changes a row by being added to it. Measured numbers, texts and flags are columns; of a list or a mapping the
row has the number of items, and its content is read from the results tables when somebody looks at it.
"""

import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from itertools import pairwise

import pyarrow as pa

from tilth.claims import Claim, Json, State, Truth, resolve
from tilth.data.table import CLAIM, CLAIM_FIELDS, HASH_GATE, QUARANTINED, Table, TableRef, read_claim
from tilth.samples import Sample

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
HIDDEN = ("place", "claims", "truth", "drops")  # of no use in a condition

Row = dict[str, object]
Find = Callable[[TableRef], Table]


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


class Measured(Mapping[str, Json]):
    """The measured columns of one sample; those with lists and mappings are read when they are looked at.

    Args:
        plain: Values by name.
        items: Names of the others.
        load: Reads all columns of the samples that were read together with this one, and returns this one's.
    """

    __slots__ = ("_items", "_load", "_plain")

    def __init__(self, plain: dict[str, Json], items: tuple[str, ...], load: Callable[[], Mapping[str, Json]]) -> None:
        self._plain, self._items, self._load = plain, items, load

    def __getitem__(self, name: str) -> Json:
        """Return a value."""
        if name in self._plain:
            return self._plain[name]
        if name not in self._items:
            raise KeyError(name)
        return self._load()[name]

    def __contains__(self, name: object) -> bool:
        """Tell whether something was measured under a name."""
        return name in self._plain or name in self._items

    def __iter__(self) -> Iterator[str]:
        """Yield all names."""
        yield from self._plain
        yield from self._items

    def __len__(self) -> int:
        """Count the names."""
        return len(self._plain) + len(self._items)

    def __repr__(self) -> str:
        """Show everything."""
        return repr(dict(self))


@dataclass
class Columns:
    """Which measured names a view has: their column, their kind, and which tables hold those that are read when looked at."""

    kinds: dict[str, str] = field(default_factory=dict)
    nested: dict[str, list[str]] = field(default_factory=dict)  # table -> names

    def column(self, name: str) -> str:
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


def compose(
    ids: Sequence[str],
    old: Mapping[str, Row],
    refs: Sequence[TableRef],
    *,
    find: Find,
    pool: Table,
    places: Mapping[str, int],
    columns: Columns,
) -> list[Row]:
    """Make the rows of samples.

    Args:
        ids: Whose.
        old: Their rows in an earlier view, to which `refs` are added; a sample without one is made from the pool and `refs`.
        refs: Tables, in the order of the version.
        find: Opens a table.
        pool: Where images and origins lie.
        places: Of samples without an earlier row.
        columns: The measured names.
    """
    fresh = pool.get([i for i in ids if i not in old], ["width", "height", "origin"])
    rows: dict[str, Row] = {i: dict(old[i]) if i in old else _new_row(i, fresh[i], places[i]) for i in ids}
    changed = set(rows) - set(old)
    for ref in refs:
        for id_, found in find(ref).get(ids, ["status", "reason", "claims", "columns"]).items():
            row = rows[id_]
            if found["columns"]:
                for name, value in json.loads(str(found["columns"])).items():
                    if value is not None:
                        row[columns.column(name)] = _cell(value, columns.kinds[name])
            if found["claims"]:
                row["claims"] = [*row["claims"], *found["claims"]]  # type: ignore[misc]
                changed.add(id_)
            if found["status"] == "dropped":
                row["drops"] = [*row["drops"], {"step": ref.step, "reason": found["reason"]}]  # type: ignore[misc]
                changed.add(id_)
    split = columns.column("split")
    for id_, row in rows.items():
        row["split"] = row.get(split) or ""
        if id_ in changed:
            _resolve(row)
    return list(rows.values())


def _new_row(id_: str, pool: Mapping[str, object], place: int) -> Row:
    row: Row = {"id": id_, "place": place, "width": pool["width"], "height": pool["height"], "claims": [], "drops": []}
    return tell_origin(row, str(pool["origin"]))


def tell_origin(row: Row, text: str) -> Row:
    """Write into a row where its sample comes from, and whether its bytes were taken out since."""
    origin = json.loads(text)
    row["origin"] = text
    row["made"] = bool(origin.get("parents") or origin.get("prompt"))
    for name in ("source", "licence", "step"):
        row[name] = str(origin.get(name) or "")
    drops = [drop for drop in row["drops"] if drop["step"] != HASH_GATE]  # type: ignore[attr-defined]
    gone = [{"step": HASH_GATE, "reason": str(origin[QUARANTINED])}] if QUARANTINED in origin else []
    row["drops"] = [*drops, *gone]
    return row


def _resolve(row: Row) -> None:
    claims = [read_claim(claim) for claim in row["claims"]]  # type: ignore[attr-defined]
    truth = resolve(claims)
    where = {id(claim): place for place, claim in enumerate(claims)}
    drops = [*(d for d in row["drops"] if d["step"] != HASH_GATE), *(d for d in row["drops"] if d["step"] == HASH_GATE)]  # type: ignore[attr-defined]
    row |= {
        "state": str(truth.state),
        "categories": sorted(truth.categories),
        "labels": len(truth.labels),
        "boxes": sum(label.box_xyxy is not None for label in truth.labels),
        "kinds": (kinds := sorted({claim.kind for claim in claims})),
        "people": "human" in kinds or "import" in kinds,
        "truth": [where[id(label)] for label in truth.labels],
        "drops": drops,
        "dropped": drops[0]["reason"] if drops else None,
    }


def samples_of(
    rows: pa.Table, columns: Columns, load: Callable[[list[str]], Mapping[str, Mapping[str, Json]]]
) -> list[Sample]:
    """Make samples of rows.

    Args:
        rows: Of a view.
        columns: Its measured names.
        load: Reads all measured columns of samples from the results tables, by id.
    """
    ids: list[str] = rows["id"].to_pylist()
    together: dict[str, Mapping[str, Json]] = {}

    def of(id_: str) -> Mapping[str, Json]:
        if not together:
            together.update(load(ids))
        return together[id_]

    claims, truths = claims_of(rows["claims"]), rows["truth"].to_pylist()
    plain: list[dict[str, Json]] = [{} for _ in ids]
    items: list[list[str]] = [[] for _ in ids]
    for name, kind in columns.kinds.items():
        for place, value in enumerate(rows[columns.column(name)].to_pylist()):
            if value is not None:
                if kind == "items":
                    items[place].append(name)
                else:
                    plain[place][name] = value
    cells = (rows[name].to_pylist() for name in ("width", "height", "origin", "state", "drops"))
    return [
        Sample(
            id=id_,
            size_wh=(width, height),
            origin=json.loads(origin),
            claims=said,
            columns=Measured(plain[n], tuple(items[n]), partial(of, id_)),
            drops=tuple((drop["step"], drop["reason"]) for drop in drops),
            resolved=Truth(state=State(state), labels=tuple(said[place] for place in truths[n])),
        )
        for n, (id_, said, width, height, origin, state, drops) in enumerate(zip(ids, claims, *cells, strict=True))
    ]


def claims_of(column: pa.ChunkedArray) -> list[tuple[Claim, ...]]:
    """Read a column of claims; field by field, as a mapping for each claim would cost more than the claim."""
    found: list[tuple[Claim, ...]] = []
    for chunk in column.chunks:
        ends = chunk.offsets.to_pylist()
        fields = dict(zip(CLAIM_FIELDS, (part.to_pylist() for part in chunk.values.flatten()), strict=True))
        flat = [read_claim(dict(zip(CLAIM_FIELDS, cells, strict=True))) for cells in zip(*fields.values(), strict=True)]
        found += [tuple(flat[start:end]) for start, end in pairwise(ends)]
    return found
