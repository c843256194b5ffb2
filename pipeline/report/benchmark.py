"""What a benchmark over several seeds found, quoted with its command: the demo alone is one draw."""

from markupsafe import Markup

from tilth.pipeline.report.numbers import Numbers, capital, plain
from tilth.pipeline.report.parts import METRICS, Block, Fold, Section, Table, bars_table, some


def benchmark(numbers: Numbers) -> Section:
    """Compare the loop with its parts left out and with random labelling, over seeds."""
    section = Section(id="benchmark", title="Over several seeds", short="Seeds")
    found = numbers.get("benchmark")
    if not found:
        return section
    blocks: list[Block] = []
    if table := actions(numbers):
        blocks.append(table)
    rows = [(m, [f"benchmark.baseline.{m}", f"benchmark.variants.whole.{m}"]) for m in METRICS]
    blocks += some(
        bars_table(
            numbers, rows, [("baseline", "c-baseline"), ("final", "c-final")], "The whole loop, by seed", "measure"
        )
    )
    if without := without_steps(numbers):
        blocks.append(without)
    curve = numbers.get("benchmark.random") or {}
    rows = [(f"{actions} actions", [f"benchmark.random.{actions}.{m}" for m in METRICS]) for actions in curve]
    series = [(plain(m), css) for m, css in zip(METRICS, ("c-final", "c-1", "c-2"), strict=False)]
    if table := bars_table(numbers, rows, series, "Random labelling", "effort"):
        blocks.append(Fold(title="The learning curve of random labelling", parts=[table]))
    lead = Markup(
        "The numbers above are one draw. Printed by <code>{}</code>, with 95\u202f% intervals over {} seeds:"
    ).format(numbers.show("benchmark.command"), numbers.show("benchmark.seeds", "count"))
    return Section(id=section.id, title=section.title, short=section.short, lead=lead, blocks=blocks)


def actions(numbers: Numbers) -> Table | None:
    """Say what random labelling needs for the scores of the loop."""
    base = "benchmark.human_actions"
    rows: list[list[str | Markup]] = []
    for metric in METRICS:
        if numbers.point(f"{base}.random_at_equal_{metric}"):
            beyond = numbers.get(f"{base}.beyond_the_curve_{metric}")
            rows.append(
                [
                    capital(plain(metric)),
                    numbers.estimate(f"{base}.loop", "count"),
                    Markup("more than {}" if beyond else "{}").format(
                        numbers.estimate(f"{base}.random_at_equal_{metric}", "count")
                    ),
                    numbers.estimate(f"{base}.saved_at_equal_{metric}", "percent"),
                ]
            )
    head = ["for the same", "human actions of the loop", "of random labelling", "saved"]
    caption = "What the loop's scores would cost by labelling at random"
    return Table(caption=caption, head=head, rows=rows) if rows else None


def without_steps(numbers: Numbers) -> Table | None:
    """Say what the loop loses without one of its parts."""
    rows: list[list[str | Markup]] = []
    for name in numbers.get("benchmark.variants"):
        base = f"benchmark.variants.{name}"
        if numbers.has(f"{base}.lost"):
            lost = [numbers.estimate(f"{base}.lost.{m}", "percent") for m in METRICS]
            rows.append([name.replace("no-", "without "), *lost, numbers.estimate(f"{base}.human_actions", "count")])
    head = ["variant", *(f"lost {plain(m)}" for m in METRICS), "human actions"]
    caption = "What each part is worth: what is lost without it; below zero, it got better"
    return Table(caption=caption, head=head, rows=rows) if rows else None
