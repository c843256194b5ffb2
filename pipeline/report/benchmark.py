"""What a benchmark over several seeds found, quoted with its command: the demo alone is one draw."""

from collections.abc import Sequence

from markupsafe import Markup

from tilth.pipeline.report.numbers import Numbers, capital, plain
from tilth.pipeline.report.parts import METRICS, Block, Fold, Section, Table, bars_table, some

FIGURES = "benchmark.figures"
"""Where the summary holds what `benchmarks/loop.py` wrote: `{value, unit, ci95, n}` by key."""


def benchmark(numbers: Numbers) -> Section:
    """Compare the loop with its parts left out and with random labelling, over seeds."""
    section = Section(id="benchmark", title="Over several seeds", short="Seeds")
    keys = list(numbers.get("benchmark.figures") or ())
    if f"baseline.{METRICS[0]}" not in keys:
        return section
    blocks: list[Block] = []
    if table := actions(numbers):
        blocks.append(table)
    rows = [(m, [f"{FIGURES}.baseline.{m}", f"{FIGURES}.whole.{m}"]) for m in METRICS]
    blocks += some(
        bars_table(
            numbers, rows, [("baseline", "c-baseline"), ("final", "c-final")], "The whole loop, by seed", "measure"
        )
    )
    if without := without_steps(numbers, middles(keys, "lost")):
        blocks.append(without)
    curve = middles(keys, "random")
    rows = [(f"{actions} actions", [f"{FIGURES}.random.{actions}.{m}" for m in METRICS]) for actions in curve]
    series = [(plain(m), css) for m, css in zip(METRICS, ("c-final", "c-1", "c-2"), strict=False)]
    if table := bars_table(numbers, rows, series, "Random labelling", "effort"):
        blocks.append(Fold(title="The learning curve of random labelling", parts=[table]))
    lead = Markup(
        "The numbers above are one draw. Printed by <code>{}</code>, with 95\u202f% intervals over {} seeds:"
    ).format(numbers.show("benchmark.command"), numbers.show(f"{FIGURES}.baseline.{METRICS[0]}.n", "count"))
    return Section(id=section.id, title=section.title, short=section.short, lead=lead, blocks=blocks)


def middles(keys: Sequence[str], kind: str) -> list[str]:
    """Return the different middle words of keys such as `lost.no_review.f1`.

    >>> middles(["lost.no_review.f1", "lost.no_review.map50", "random.200.f1"], "lost")
    ['no_review']
    """
    return list(dict.fromkeys(key.split(".")[1] for key in keys if key.startswith(f"{kind}.")))


def actions(numbers: Numbers) -> Table | None:
    """Say what random labelling needs for the scores of the loop."""
    rows: list[list[str | Markup]] = []
    for metric in METRICS:
        equal = f"{FIGURES}.equal.{metric}"
        if numbers.point(f"{equal}.random_actions"):
            beyond = numbers.get(f"{equal}.seeds_beyond_the_curve.value")
            rows.append(
                [
                    capital(plain(metric)),
                    numbers.estimate(f"{FIGURES}.whole.human_actions", "count"),
                    Markup("more than {}" if beyond else "{}").format(
                        numbers.estimate(f"{equal}.random_actions", "count")
                    ),
                    numbers.estimate(f"{equal}.saved", "percent"),
                ]
            )
    head = ["for the same", "human actions of the loop", "of random labelling", "saved"]
    caption = "What the loop's scores would cost by labelling at random"
    return Table(caption=caption, head=head, rows=rows) if rows else None


def without_steps(numbers: Numbers, variants: Sequence[str]) -> Table | None:
    """Say what the loop loses without one of its parts."""
    rows: list[list[str | Markup]] = []
    for name in variants:
        lost = [numbers.estimate(f"{FIGURES}.lost.{name}.{m}", "percent") for m in METRICS]
        spent = numbers.estimate(f"{FIGURES}.{name}.human_actions", "count")
        rows.append([name.replace("no_", "without "), *lost, spent])
    head = ["variant", *(f"lost {plain(m)}" for m in METRICS), "human actions"]
    caption = "What each part is worth: what is lost without it; below zero, it got better"
    return Table(caption=caption, head=head, rows=rows) if rows else None
