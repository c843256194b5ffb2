"""What a row of a table says of a text, as claims; a label that nobody knows is left out by name, and its text is never called empty."""

import re
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import ClassVar, TypeAlias

from tilth.annotate.formats.parts.records import Oddities, writable
from tilth.annotate.texts.rows import Cells, Row, listed
from tilth.annotate.texts.sets import COLUMNS, LABELS, TextSet
from tilth.claims import Claim, Json
from tilth.data.where import LEFT_OUT
from tilth.engine.intake import Failed
from tilth.errors import InputError
from tilth.policy import SAFE, Policy, fold
from tilth.samples import SPLITS, TEXT, NewSample
from tilth.sources.texts import WRONG
from tilth.texts import checked, moved, normalised

HALF = 0.5  # of those who were asked, from which on a flag with a share says that it is so
FLAGS = {"true": 1.0, "false": 0.0, "yes": 1.0, "no": 0.0}
SPLIT_NAMES = {"validation": "val", "dev": "val", "valid": "val"}
SHARE = re.compile(r"[01](\.\d+)?|\.\d+")


Span: TypeAlias = tuple[float, float]


def check_names(policy: Policy, categories: Mapping[str, str], covers: Sequence[str]) -> None:
    """Check what an import's settings name.

    Raises:
        InputError: One of them names a category that the policy does not have.
    """
    for setting, named in (("categories", {*categories.values()} - {""}), ("covers", {*covers})):
        if wrong := sorted(named - {*policy.names}):
            raise InputError(f"{setting}: the policy has no {', '.join(wrong)}; it has {', '.join(policy.names)}")


@dataclass(frozen=True, kw_only=True)
class Label:
    """One label of a row: a category by the table's name, the characters of the text as it came or seconds of the sound, and how surely."""

    category: str
    span: Span | None = None
    score: float = 1.0


@dataclass(frozen=True, kw_only=True)
class Said:
    """What a row says of its text.

    Args:
        labels: What it shows.
        flags: What it shows, in [0, 1], by the table's names of all that was looked for one by one.
        safe: Whether it says that nothing is wrong.
        listed: Whether the labels are a list, which others could have been on.
    """

    labels: list[Label] = field(default_factory=list)
    flags: dict[str, float] = field(default_factory=dict)
    safe: bool = False
    listed: bool = False


@dataclass(kw_only=True)
class TextTaker:
    """Turns rows into samples, and keeps count.

    Args:
        how: Which columns are read.
        policy: Whose categories count.
        categories: The table's names to the policy's; "" ignores a name.
        covers: What whoever labelled looked for; what is decided by words when empty.
        empty_means: What a text with an empty list of labels is.
        called: What the table is called in this dataset.
        key: Of this import; a second import of the same files replaces the first by it.
        origin: Of the texts.
        split: Of the texts; as the table says when empty.
    """

    how: TextSet
    policy: Policy
    categories: Mapping[str, str]
    covers: tuple[str, ...]
    empty_means: str
    called: str
    key: str
    origin: Mapping[str, str]
    split: str
    whole_spans: ClassVar[bool] = True  # in characters
    unknown: Counter[str] = field(default_factory=Counter)
    odd: Oddities = field(default_factory=Oddities)
    spans: int = 0

    def __post_init__(self) -> None:
        """Settle what a list of labels was chosen from."""
        self._listed = self.covers or self.decided() or self.policy.names
        self._safe = {SAFE, *map(fold, self.how.safe)}

    def decided(self) -> tuple[str, ...]:
        """Name the categories that whoever labelled looked for, unless `covers` says it."""
        return tuple(category.name for category in self.policy.written)

    def take(self, row: Row) -> NewSample | Failed:
        """Read one row and say what is claimed about its text."""
        where = f"{row.file}#{row.number}"
        try:
            if row.error:
                raise InputError(row.error)
            text = self._text(row.cells)
            whole = checked(normalised(text))
            said = self.said(row, where)
            claims, doubts = self.claims(said, row, lambda span: moved(text, (int(span[0]), int(span[1]))))
        except InputError as error:
            return Failed(name=where, error=str(error))
        columns: dict[str, Json] = {LEFT_OUT: sorted(doubts)} if doubts else {}
        if split := self.split or split_of(row):
            columns["split"] = split
        if damaged := whole.count(WRONG):
            self.odd.note("text with characters that are wrong in the file's encoding", where)
            columns["text.damaged"] = damaged
        if language := self.cell(row.cells, self.how.language):
            columns["text.language"] = language
        origin: dict[str, Json] = {
            **self.origin,
            "source": f"{self.called}/{row.file}#{row.cells.get('id') or row.number}",
        }
        if licence := self.cell(row.cells, "licence"):
            origin["licence"] = licence
        if parent := self.cell(row.cells, self.how.parent):
            origin["of"] = parent
        return NewSample(media=TEXT, data=whole.encode(), origin=origin, claims=tuple(claims), columns=columns)

    @staticmethod
    def cell(cells: Cells, column: str) -> str:
        """Return a cell as a text, empty where there is none."""
        return str(cells.get(column) or "") if column else ""

    def _text(self, cells: Cells) -> str:
        columns = self.how.text or tuple(name for name in COLUMNS if name in cells)[:1]
        if absent := [name for name in columns or ("text",) if name not in cells]:
            there = ", ".join(map(str, cells))[:200] or "none"
            raise InputError(f"no column {absent[0]!r}; there are: {there}. Say which has the text: --set text=…")
        parts = [cells[name] for name in columns if cells[name] is not None]
        if odd := [type(part).__name__ for part in parts if not isinstance(part, str)]:
            raise InputError(f"expected a text in {', '.join(columns)}, got {odd[0]}")
        return "\n\n".join(part for part in parts if part)

    def said(self, row: Row, where: str) -> Said:
        """Read what a row says."""
        flags = self._flags(row.cells)
        usual = () if self.how.flags or self.how.inside else LABELS
        column = self.how.label or next((name for name in usual if name in row.cells), "")
        if not column:
            return Said(flags=flags)
        if column not in row.cells:
            raise InputError(f"no column {column!r}; there are: {', '.join(map(str, row.cells))[:200]}")
        value, names = row.cells[column], row.names.get(column, ())
        if self.how.split_at and isinstance(value, str):
            value = [part.strip() for part in value.split(self.how.split_at) if part.strip()]
        labels = []
        for item in (items := listed(value)):
            if isinstance(item, Mapping):
                labels.append(self._spanned(item))
            elif isinstance(item, int) and not isinstance(item, bool) and 0 <= item < len(names):
                labels.append(Label(category=names[item]))
            elif isinstance(item, int | str) and not isinstance(item, bool):
                labels.append(Label(category=str(item).strip()))
            else:
                self.odd.note("label that is no name", f"{where}: {type(item).__name__}")
        wrong = [label for label in labels if fold(label.category) not in self._safe]
        several = not isinstance(value, int | str) or [value] != items
        return Said(labels=wrong, flags=flags, safe=bool(labels) and not wrong, listed=several and value is not None)

    def _spanned(self, item: Mapping[str, object]) -> Label:
        score, start, end = (item.get(name) for name in ("score", "start", "end"))
        number = int if self.whole_spans else int | float
        told = isinstance(start, number) and isinstance(end, number) and not isinstance(start, bool)
        if not told and (start, end) != (None, None):
            raise InputError(
                f"a span needs {'whole ' * self.whole_spans}numbers start and end, got {start!r} and {end!r}"
            )
        span = (float(str(start)), float(str(end))) if told else None
        sure = min(1.0, max(0.0, float(score))) if isinstance(score, int | float) else 1.0
        return Label(category=str(item.get("category") or item.get("label") or ""), span=span, score=sure)

    def _flags(self, cells: Cells) -> dict[str, float]:
        """Return the columns that are called as categories, or that the set is known to have; where one is empty, nobody looked."""
        if self.how.inside:
            inside = cells.get(self.how.inside)
            cells = inside if isinstance(inside, Mapping) else {}
        names = self.how.flags or [name for name in cells if self.how.inside or self._ours(str(name)) is not None]
        found = ((self.how.rename.get(name, str(name)), flag(cells.get(name))) for name in names)
        return {name: value for name, value in found if value is not None}

    def claims(self, said: Said, row: Row, place: Callable[[Span], Span]) -> tuple[list[Claim], set[str]]:
        """Return what a row claims, and what its left-out labels may be of: anything; `place` turns a span into that of a claim."""
        flagged = [Label(category=name, score=value) for name, value in said.flags.items() if value >= HALF]
        taken: list[tuple[str, Label]] = []
        doubts: set[str] = set()
        for label in [*said.labels, *flagged]:
            ours = self._ours(label.category)
            if ours is None:
                self.unknown[writable(label.category)] += 1
                doubts.add("")
            elif ours:
                taken.append((ours, label))
        asked = tuple(self._asked(said, row.cells, {ours for ours, _ in taken}, bool(doubts)))
        evidence: dict[str, Json] = {"round": self.key}
        source = f"import:{self.called}/{row.file}"
        claims = []
        for ours, label in taken:
            span = place(label.span) if label.span else None
            self.spans += span is not None
            was: dict[str, Json] = {} if ours == label.category else {"was": label.category}
            claims.append(
                Claim(
                    category=ours,
                    span=span,
                    score=label.score,
                    source=source,
                    asked=asked,
                    policy=self.policy.tag,
                    evidence={**evidence, **was},
                )
            )
        if not claims and asked and not doubts and self._is_empty(said, row.cells):
            claims.append(Claim(says="empty", source=source, asked=asked, policy=self.policy.tag, evidence=evidence))
        return claims, doubts

    def _asked(self, said: Said, cells: Cells, named: set[str], doubtful: bool) -> list[str]:
        """Return what was looked for, in the order of the policy: of one class that was chosen, others are not known to be absent."""
        asked = {*named}
        if "looked" in cells and "state" in cells:  # of our own export
            asked |= set(map(str, listed(cells["looked"])))
        elif not doubtful:
            asked |= {ours for name in said.flags if (ours := self._ours(name))}
            asked |= set(self._listed) if said.listed or said.safe else set(self.covers if said.labels else ())
        return [name for name in self.policy.names if name in asked]

    def _is_empty(self, said: Said, cells: Cells) -> bool:
        state = self.cell(cells, "state")
        if state in ("confirmed_empty", "unlabelled"):
            return state == "confirmed_empty"
        return bool(said.flags) or said.safe or (said.listed and self.empty_means == "confirmed_empty")

    def _ours(self, name: str) -> str | None:
        """Return the policy's name for one of the table, empty when it is to be ignored, None when nobody knows it."""
        return self.categories[name] if name in self.categories else self.policy.find(name)


def split_of(row: Row) -> str:
    """Return the split that a row names, or its table is called by; empty when none does."""
    told = (str(row.cells.get("split") or ""), row.file.rpartition("/")[2].partition(".")[0].partition("-")[0])
    known = (SPLIT_NAMES.get(name, name) for name in map(str.lower, told))
    return next((name for name in known if name in SPLITS), "")


def flag(value: object) -> float | None:
    """Read a flag, or the share of people who say so; None when there is none.

    >>> flag(True), flag("0"), flag("0.7"), flag(""), flag("yes"), flag("perhaps")
    (1.0, 0.0, 0.7, None, 1.0, None)
    """
    if isinstance(value, str):
        text = value.strip().lower()
        return float(text) if SHARE.fullmatch(text) and float(text) <= 1 else FLAGS.get(text)
    if isinstance(value, bool | int | float) and 0 <= value <= 1:
        return float(value)
    return None
