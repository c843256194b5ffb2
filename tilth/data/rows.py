"""The rows of a view: what all tables of a version say of a sample, in one row; `reading.py` makes samples of them again.

A row holds the claims of a sample in the order of the tables and which of them are its truth, so reading a sample looks nowhere
else, and a new table changes a row by being added to it. Measured numbers, texts and flags are columns; of a list or a mapping the
row has the number of items, and its content is read from the results tables when somebody looks at it.
"""

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from typing import Protocol

import pyarrow as pa

from tilth.claims import PEOPLE, Json, State, resolve
from tilth.data.table import CLAIM, HASH_GATE, QUARANTINED, Table, TableRef, read_claim
from tilth.samples import IMAGE, is_made

BASE = pa.schema(
    [
        ("id", pa.string()),
        ("place", pa.int64()),  # in the order in which samples came
        ("media", pa.string()),
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
HIDDEN = ("place", "looked_by", "claims", "truth", "drops")  # of no use in a condition

Row = dict[str, object]
Find = Callable[[TableRef], Table]


class Rows(Protocol):
    """Something that has rows by id: a table, or one that is read ahead."""

    def get(self, ids: Sequence[str], columns: list[str]) -> dict[str, Row]:
        """Return the rows of these ids, by id."""
        ...


Look = Callable[[TableRef], Rows]


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
    kept = pool.get(ids, ["media", "width", "height", "origin"])
    rows = [
        {
            "id": i,
            "place": place,
            **_UNSAID,
            **kept[i],
            "media": kept[i].get("media") or IMAGE,
            **_origin(str(kept[i]["origin"])),
        }
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
