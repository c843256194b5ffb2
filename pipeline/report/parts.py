"""The parts that a page is made of, and the tables that many sections share."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, TypeAlias

from markupsafe import Markup

from tilth.pipeline.report.numbers import Numbers, capital, plain, spell
from tilth.pipeline.report.pictures import Row
from tilth.pipeline.report.plots import Part, bars

METRICS = ("recall_at_fpr05", "f1", "map50")
SYSTEMS = {  # name in the summary -> (name on the page, colour)
    "baseline": ("baseline", "c-baseline"),
    "random_same_effort": ("random, same effort", "c-random"),
    "final": ("final", "c-final"),
    "champion": ("champion, in use until then", "c-baseline"),
    "challenger": ("challenger", "c-final"),
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
        return all(len(row.pictures) <= 4 and len(row.title) <= 18 for row in self.rows)


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


def bars_table(
    numbers: Numbers,
    rows: Sequence[tuple[str, Sequence[str]]],
    series: Sequence[tuple[str, str]],
    caption: str,
    first: str,
    top: float = 1.0,
    unit: str = "percent",
    beside: tuple[str, Mapping[str, str]] = ("", {}),
) -> Table | None:
    """Make a table with bars below each other in every row, and a column of numbers for each series.

    Args:
        numbers: The summary.
        rows: `(name of the row, key of the estimate of each series)`; a row without any estimate is left out.
        series: `(name, colour)`.
        caption: What the table shows.
        first: Head of the first column.
        top: Value of a full bar.
        unit: Of the numbers.
        beside: Head of a column of numbers without bars, and their keys by the name of the row; left out where there are none.
    """
    more = any(numbers.has(beside[1].get(name, "")) for name, _ in rows) if beside[1] else False
    lines: list[list[str | Markup]] = []
    for name, keys in rows:
        points = [numbers.point(key) for key in keys]
        if not any(points):
            continue
        said = "; ".join(f"{who} {spell(p[0], unit)}" for p, (who, _) in zip(points, series, strict=True) if p)
        drawn = bars([(p, css) for p, (_, css) in zip(points, series, strict=True)], f"{plain(name)}: {said}", top=top)
        extra = [numbers.show(beside[1].get(name, ""), unit)] if more else []
        lines.append([capital(plain(name)), drawn, *extra, *(numbers.estimate(key, unit) for key in keys)])
    if not lines:
        return None
    heads: list[str | Markup] = [Markup('<i class="key {}"></i>{}').format(css, name) for name, css in series]
    scale = Markup('<span class="scale"><i>0</i><i>{}</i></span>').format(spell(top, unit, 0))
    heads = [beside[0], *heads] if more else heads
    css = "bars systems" + (" strong" if series[-1][1] == "c-final" else "")
    return Table(caption=caption, head=[first, scale, *heads], rows=lines, css=css)


def counted_bars(
    numbers: Numbers, key: str, caption: str, first: str, what: str = "images", css: str = "c-1"
) -> Table | None:
    """Make a table of `{name: count}` with a bar for each, or None when there is nothing to count."""
    counts = numbers.get(key)
    if not isinstance(counts, Mapping):
        return None
    whole = {str(k): v for k, v in counts.items() if isinstance(v, int | float) and not isinstance(v, bool)}
    if not whole:
        return None
    top = float(max(whole.values())) or 1.0
    rows = [
        [
            plain(name),
            bars([((float(value),) * 3, css)], f"{plain(name)}: {value}", top=top),
            numbers.show(f"{key}.{name}", "count"),
        ]
        for name, value in whole.items()
    ]
    return Table(caption=caption, head=[first, "", what], rows=rows, css="bars small")


def parts_of(numbers: Numbers, key: str) -> list[Part]:
    """Turn `{name: count}` into the parts of a bar."""
    counts = numbers.get(key)
    if not isinstance(counts, Mapping):
        return []
    numeric = [
        (str(k), v) for k, v in counts.items() if isinstance(v, int | float) and not isinstance(v, bool) and v > 0
    ]
    return [
        Part(name=plain(name), css=PALETTE[i % len(PALETTE)], value=float(value), shown=numbers.show(f"{key}.{name}"))
        for i, (name, value) in enumerate(numeric)
    ]


def first_key(numbers: Numbers, base: str, *names: str) -> str:
    """Return the key of the first of these facts that there is, or an empty text."""
    return next((f"{base}.{name}" for name in names if numbers.has(f"{base}.{name}")), "")


def evaluations(numbers: Numbers) -> dict[str, tuple[str, str, str]]:
    """Return `(key, name, colour)` of each evaluated system by its name in the summary, in the order of the story."""
    found = {name: (name, *SYSTEMS[name]) for name in SYSTEMS if metrics_of(numbers, name)}
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
