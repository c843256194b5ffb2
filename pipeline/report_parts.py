"""The parts that a page is made of, and the tables that many sections share."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, TypeAlias

from markupsafe import Markup

from tilth.pipeline.report_numbers import Numbers, plain
from tilth.pipeline.report_pictures import Row

METRICS = ("recall_at_fpr05", "f1", "map50")
SYSTEMS = {  # name in the summary -> (name on the page, colour)
    "baseline": ("baseline", "c-baseline"),
    "random_same_effort": ("random, same effort", "c-random"),
    "final": ("final", "c-final"),
}
PALETTE = tuple(f"c-{number}" for number in range(1, 9))


@dataclass(frozen=True, kw_only=True)
class Table:
    """A table; the first cell of a row is its header."""

    caption: str
    head: Sequence[str | Markup]
    rows: Sequence[Sequence[str | Markup]]
    css: str = ""
    kind: str = "table"


@dataclass(frozen=True, kw_only=True)
class Figure:
    """A plot with its title, and a line below it."""

    drawing: Markup
    title: str = ""
    caption: str | Markup = ""
    kind: str = "figure"


@dataclass(frozen=True, kw_only=True)
class Pair:
    """Two or more parts side by side where there is room."""

    parts: Sequence["Block"]
    kind: str = "pair"


@dataclass(frozen=True, kw_only=True)
class Strip:
    """Rows of pictures."""

    title: str
    rows: Sequence[Row]
    note: str = ""
    kind: str = "strip"

    @property
    def narrow(self) -> bool:
        """Whether two rows fit side by side."""
        return max((len(row.pictures) for row in self.rows), default=0) <= 4


@dataclass(frozen=True, kw_only=True)
class Note:
    """A sentence or two; `tone` is `plain`, `good` or `bad`."""

    text: str | Markup
    tone: str = "plain"
    kind: str = "note"


@dataclass(frozen=True, kw_only=True)
class Fold:
    """Something that opens when asked for."""

    title: str
    parts: Sequence["Block"] = ()
    text: str = ""
    kind: str = "fold"


Block: TypeAlias = Table | Figure | Pair | Strip | Note | Fold


@dataclass(frozen=True, kw_only=True)
class Section:
    """A part of the page; one without blocks is left out."""

    id: str
    title: str
    short: str
    lead: str | Markup = ""
    blocks: Sequence[Block] = field(default_factory=list)


def steps_of(numbers: Numbers, *words: str) -> list[str]:
    """Return the names of the steps whose name, or the name of whose class, begins with one of these words."""
    found = []
    for name, step in (numbers.get("steps") or {}).items():
        kind = str(step.get("kind", "")).lower()
        first = name.lower().split(".")[0].split("-")[0]
        if any(first == word or kind.startswith(word.replace("_", "")) for word in words):
            found.append(name)
    return found


def counts_table(numbers: Numbers, key: str, caption: str, first: str, second: str = "images") -> Table | None:
    """Make a table of `{name: count}`, or None when there is nothing to count."""
    counts = numbers.get(key)
    if not isinstance(counts, Mapping) or not counts:
        return None
    rows = [[plain(str(name)), numbers.show(f"{key}.{name}", "count")] for name in counts]
    return Table(caption=caption, head=[first, second], rows=rows, css="counts")


def facts_table(numbers: Numbers, step: str, caption: str = "") -> Table | None:
    """Make a table of every single value that a step reported, or None when it reported none."""
    key = f"steps.{step}.facts"
    rows: list[list[str | Markup]] = []
    for place, label in numbers.leaves(key):
        name = " › ".join(plain(part) for part in label.split(" › "))
        rows.append([name, numbers.show(place)])
    return (
        Table(caption=caption or f"Everything that {step} reported", head=["fact", "value"], rows=rows, css="facts")
        if rows
        else None
    )


def facts_fold(numbers: Numbers, steps: Sequence[str]) -> list[Block]:
    """Offer every number of these steps, folded away."""
    tables = [table for step in steps if (table := facts_table(numbers, step)) is not None]
    return [Fold(title=f"All numbers of {', '.join(steps)}", parts=tables)] if tables else []


def evaluations(numbers: Numbers) -> dict[str, tuple[str, str, str]]:
    """Return `(key, name, colour)` of each evaluated system by its name in the summary, in the order of the story."""
    found = {
        name: (name, *SYSTEMS[name]) for name in SYSTEMS if isinstance(numbers.get(name), Mapping) and numbers.get(name)
    }
    if found:
        return found
    steps = steps_of(numbers, "evaluate")
    colours = ("c-final", *PALETTE)
    return {s: (f"steps.{s}.facts", s, colours[i % len(colours)]) for i, s in enumerate(steps)}


def metrics_of(numbers: Numbers, key: str) -> list[str]:
    """Return the names of the estimates below a key, the well-known first."""
    facts = numbers.get(key)
    if not isinstance(facts, Mapping):
        return []
    measured = [name for name, value in facts.items() if is_estimate(value)]
    return [m for m in METRICS if m in measured] + [m for m in measured if m not in METRICS]


def is_estimate(value: Any) -> bool:
    """Tell whether a value is `{mean, …}`."""
    return (
        isinstance(value, Mapping)
        and isinstance(value.get("mean"), int | float)
        and not isinstance(value.get("mean"), bool)
    )


def some(*blocks: Block | None) -> list[Block]:
    """Keep the blocks that there are."""
    return [block for block in blocks if block is not None]
