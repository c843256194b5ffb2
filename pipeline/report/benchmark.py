"""What a benchmark over several seeds found, quoted with its command: the demo alone is one draw."""

from collections.abc import Sequence

from markupsafe import Markup

from tilth.pipeline.report.numbers import Numbers, capital, plain
from tilth.pipeline.report.parts import METRICS, Block, Fold, Section, Table, bars_table, some

FIGURES = "benchmark.figures"
"""Where the summary holds what `benchmarks/loop.py` wrote: `{value, unit, ci95, n}` by key."""
WORLD = f"{FIGURES}.faithful"
"""And what of it is of the recipe's own world."""
PARTS = {
    "people_add_recall": ("people", ("people_add_recall", "people_add_f1", "people_add_map50")),
    **{
        f"step_{s}": (s, (f"step_{s}", f"step_{s}_f1", f"step_{s}_map50"))
        for s in ("clean", "generate", "verify", "rounds")
    },
}


def benchmark(numbers: Numbers) -> Section:
    """Compare the loop with random labelling, and with its parts left out, over seeds."""
    section = Section(id="benchmark", title="Over several seeds", short="Seeds")
    keys = list(numbers.get(FIGURES) or ())
    if f"faithful.baseline.{METRICS[0]}" not in keys:
        return section
    blocks: list[Block] = []
    if table := actions(numbers):
        blocks.append(table)
    rows = [(m, [f"{WORLD}.baseline.{m}", f"{WORLD}.loop.{m}"]) for m in METRICS]
    blocks += some(
        bars_table(
            numbers, rows, [("baseline", "c-baseline"), ("final", "c-final")], "The whole loop, by seed", "measure"
        )
    )
    if worth := of_parts(numbers):
        blocks.append(worth)
    rows = [(f"{at} actions", [f"{WORLD}.random.{at}.{m}" for m in METRICS]) for at in curve_of(keys)]
    series = [(plain(m), css) for m, css in zip(METRICS, ("c-final", "c-1", "c-2"), strict=False)]
    if table := bars_table(numbers, rows, series, "Random labelling", "effort"):
        blocks.append(Fold(title="The learning curve of random labelling", parts=[table]))
    lead = Markup(
        "The numbers above are one draw. Printed by <code>{}</code>, with 95\u202f% intervals over {} seeds:"
    ).format(numbers.show("benchmark.command"), numbers.show(f"{WORLD}.baseline.{METRICS[0]}.n", "count"))
    return Section(id=section.id, title=section.title, short=section.short, lead=lead, blocks=blocks)


def curve_of(keys: Sequence[str]) -> list[str]:
    """Return the points of the curve of random labelling.

    >>> curve_of(["faithful.random.100.f1", "faithful.random.100.map50", "faithful.random.whole.f1", "known.random.100.f1"])
    ['100', 'whole']
    """
    return list(dict.fromkeys(key.split(".")[2] for key in keys if key.startswith("faithful.random.")))


def actions(numbers: Numbers) -> Table | None:
    """Say what random labelling needs for the scores of the loop."""
    rows: list[list[str | Markup]] = []
    for metric in METRICS:
        if numbers.point(f"{WORLD}.equal.{metric}"):
            beyond = numbers.get(f"{WORLD}.beyond.{metric}.value")
            rows.append(
                [
                    capital(plain(metric)),
                    numbers.estimate(f"{WORLD}.loop.human_actions", "count"),
                    Markup("more than {}" if beyond else "{}").format(
                        numbers.estimate(f"{WORLD}.equal.{metric}", "count")
                    ),
                    numbers.estimate(f"{FIGURES}.saved_{metric}", "percent"),
                    numbers.estimate(f"{FIGURES}.saved_hours_{metric}", "percent"),
                ]
            )
    head = ["for the same", "human actions of the loop", "of random labelling", "actions saved", "hours saved"]
    caption = "What the loop's scores would cost by labelling at random"
    return Table(caption=caption, head=head, rows=rows) if rows else None


def of_parts(numbers: Numbers) -> Table | None:
    """Say what people and steps add, each in the world in which it matters."""
    rows: list[list[str | Markup]] = [
        [name, *(numbers.estimate(f"{FIGURES}.{key}", "percent") for key in keys)]
        for first, (name, keys) in PARTS.items()
        if numbers.point(f"{FIGURES}.{first}")
    ]
    caption = "What people and each step add, in a world where they matter; below zero, it is better without"
    return Table(caption=caption, head=["part", *(plain(m) for m in METRICS)], rows=rows) if rows else None
