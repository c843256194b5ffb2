"""What a source says of one picture in several places, put together; and what it has said in the end."""

import json
import math
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from itertools import product
from typing import Any, cast

import pyarrow as pa
import pyarrow.compute as pc

from tilth.claims import Json
from tilth.data.table import Table, read_columns, write_columns
from tilth.data.where import CONFLICT, LEFT_OUT

LOST = "lost"  # column of an image that could not be kept: the number of its labels
EXAMPLES = 10
SAME_PX = 0.5  # boxes of a category whose corners are as near as this were written twice

Row = dict[str, Any]


def merge(first: Row, other: Row, name: str = "") -> bool:
    """Put the labels of a copy, whose file is called `name`, to those of the first; tell whether that changed it.

    A label that both have is kept once. What contradicts, a label and the word that nothing is there or two categories of one box, is
    kept as labels and noted. What a copy left in doubt nobody has looked for, whatever the other says.
    """
    columns, others = read_columns(first), read_columns(other)
    before = (first["claims"], columns)
    mine, theirs = cast(list[Row], first["claims"]), cast(list[Row], other["claims"])
    found: dict[str, Json] = {**others, **columns}
    if all(claim["source"].startswith("import:") for claim in [*mine, *theirs]):
        said = _said(mine, theirs, columns, others, found, name)
    else:  # people and models speak for themselves, each once
        had = [_told(claim) for claim in mine]
        said = [*mine, *(claim for claim in theirs if _told(claim) not in had)]
    if (said, found) == before:
        return False
    first |= {"claims": said, **write_columns(found)}
    return True


def _told(claim: Row) -> Row:
    return {name: value for name, value in claim.items() if name != "time"}


def _said(
    mine: list[Row],
    theirs: list[Row],
    columns: dict[str, Json],
    others: dict[str, Json],
    found: dict[str, Json],
    name: str,
) -> list[Row]:
    """Return the claims of both, and write what is in doubt and what is a conflict into the columns that were found."""
    doubts = sorted({*_texts(columns, LEFT_OUT), *_texts(others, LEFT_OUT)})
    labels, others_ = ([claim for claim in claims if claim["says"] == "label"] for claims in (mine, theirs))
    places = _Places(labels)
    new = [claim for claim in others_ if not any(old["category"] == claim["category"] for old in places.near(claim))]
    told = (f"{name}: {why}" for why in _conflicts(mine, theirs, labels, new, places))
    conflicts = [*_texts(columns, CONFLICT), *told]
    said = [*labels, *new] or ([] if doubts else [*mine, *theirs][:1])
    if said:
        asked = _asked(mine, theirs, said, doubts)
        source = (mine or theirs)[0]["source"]  # one source, as a picture is one thing; two would have to agree
        said = [_of(claim, source, asked) for claim in said]
    for name, values in ((LEFT_OUT, doubts), (CONFLICT, list(dict.fromkeys(conflicts)))):
        if values:
            found[name] = values
    return said


def _texts(columns: dict[str, Json], name: str) -> list[str]:
    values = columns.get(name)
    return [str(value) for value in values] if isinstance(values, list | tuple) else []


class _Places:
    """Finds the labels in one place; each lies in a cell by its corners, so that many cost no more than few."""

    def __init__(self, labels: Sequence[Row]) -> None:
        self._cells: dict[tuple[int, ...], list[Row]] = {}
        for label in labels:
            self._cells.setdefault(tuple(math.floor(v) for v in label["box"] or ()), []).append(label)

    def near(self, label: Row) -> Iterator[Row]:
        """Yield those whose corners lie where this one's do; those of the whole image lie in one place."""
        box = label["box"] or ()
        for cell in product(*({math.floor(v - SAME_PX), math.floor(v + SAME_PX)} for v in box)):
            for other in self._cells.get(cell, ()):
                if all(abs(u - v) <= SAME_PX for u, v in zip(box, other["box"] or (), strict=True)):
                    yield other


def _conflicts(mine: list[Row], theirs: list[Row], labels: list[Row], new: list[Row], places: _Places) -> Iterator[str]:
    for empty, others in ((mine, new), (theirs, labels)):
        if others and any(claim["says"] == "empty" for claim in empty):
            yield f"{empty[0]['source']} says empty, {others[0]['source']} says {others[0]['category']}"
    for claim in new:
        for old in places.near(claim) if claim["box"] else ():
            yield f"{old['source']} says {old['category']}, {claim['source']} says {claim['category']} of one box"


def _asked(mine: list[Row], theirs: list[Row], said: list[Row], doubts: list[str]) -> list[str]:
    """Return what was looked for in either, but for what a label may be of that was left out."""
    named = {str(claim["category"]): None for claim in said if claim["category"]}
    asked = dict.fromkeys([name for claim in [*mine[:1], *theirs[:1]] for name in claim["asked"] or ()])
    if "" in doubts:
        return list(named)
    return [name for name in asked if name in named or name not in doubts]


def _of(claim: Row, source: str, asked: list[str]) -> Row:
    if claim["source"] != source:
        evidence = json.loads(claim["evidence"]) if claim["evidence"] else {}
        claim = {**claim, "evidence": json.dumps({**evidence, "from": claim["source"]}, sort_keys=True)}
    return {**claim, "source": source, "asked": asked}


@dataclass
class Outcome:
    """What is in the dataset of a source: its images by state, its labels by category, and where it is not sure.

    Args:
        states: Images that are `reviewed` (they have labels), `confirmed_empty` or `unlabelled`.
        boxes: By category.
        whole: Labels of the whole image, by category.
        unsure: Images of which a label was left out.
        lost: Labels of images that could not be kept.
        conflicts: Images of which entries of one picture say different things.
        conflict_examples: Some of them: the id of the sample, and what is said of it.
    """

    states: Counter[str] = field(default_factory=Counter)
    boxes: Counter[str] = field(default_factory=Counter)
    whole: Counter[str] = field(default_factory=Counter)
    unsure: int = 0
    lost: int = 0
    conflicts: int = 0
    conflict_examples: list[tuple[str, str]] = field(default_factory=list)


def outcome(table: Table) -> Outcome:
    """Count what a source has added, whatever runs it took."""
    found = Outcome()
    for batch in table.batches(["id", "status", "claims", "columns", "nested"]):
        _count(batch.filter(pc.equal(batch["status"], "ok")), found)
        for row in batch.filter(pc.match_substring(batch["columns"], f'"{LOST}"')).to_pylist():
            found.lost += 0 if row["status"] == "ok" else int(str(read_columns(row).get(LOST, 0)))
    return found


def _count(rows: pa.RecordBatch, found: Outcome) -> None:
    claims = rows["claims"]
    parents, flat = pc.list_parent_indices(claims), pc.list_flatten(claims)
    says, category, box = (pc.struct_field(flat, name) for name in ("says", "category", "box"))
    label = pc.equal(says, "label")
    spoken = len(pc.unique(parents))
    labelled = len(pc.unique(parents.filter(label)))
    counts = {"reviewed": labelled, "confirmed_empty": spoken - labelled, "unlabelled": len(rows) - spoken}
    found.states.update({state: n for state, n in counts.items() if n})
    boxed = pc.fill_null(pc.greater(pc.list_value_length(box), 0), False)
    for counter, chosen in ((found.boxes, boxed), (found.whole, pc.invert(boxed))):
        for each in category.filter(pc.and_(label, chosen)).value_counts().to_pylist():
            counter[each["values"]] += each["counts"]
    nested = rows["nested"]
    found.unsure += pc.sum(pc.match_substring(nested, f'"{LEFT_OUT}"')).as_py() or 0
    for row in rows.filter(pc.match_substring(nested, f'"{CONFLICT}"')).to_pylist():
        found.conflicts += 1
        told = _texts(read_columns(row), CONFLICT)[: EXAMPLES - len(found.conflict_examples)]
        found.conflict_examples += [(row["id"], why) for why in told]
