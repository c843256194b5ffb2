"""What the run achieved: headline, systems side by side, categories and styles, calibration, Stage 2, the gate."""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

from markupsafe import Markup

from tilth.pipeline.report_numbers import Numbers, capital, plain
from tilth.pipeline.report_parts import (
    METRICS,
    Block,
    Figure,
    Fold,
    Note,
    Pair,
    Section,
    Strip,
    Table,
    evaluations,
    facts_fold,
    is_estimate,
    metrics_of,
    some,
    steps_of,
)
from tilth.pipeline.report_plots import Curve, Part, bars, curves, stacked

HEADLINE_METRIC = {"recall_at_fpr05": "Recall at 5\u202f% false positives", "map50": "mAP at IoU 0.50", "f1": "F1"}


def headline(numbers: Numbers) -> Markup:
    """Say in one sentence what the run achieved, with its numbers."""
    systems = evaluations(numbers)
    metric = next(
        (m for m in HEADLINE_METRIC if any(numbers.point(f"{key}.{m}") for key, _, _ in systems.values())), ""
    )
    if not metric:
        return Markup("{} images, {} of them with labels, and nothing measured yet.").format(
            numbers.show("dataset.samples", "count"), numbers.show("dataset.labelled", "count")
        )
    key = lambda system: f"{systems[system][0]}.{metric}"  # noqa: E731
    mean = lambda system: numbers.show(f"{key(system)}.mean", "percent", 0)  # noqa: E731
    effort = numbers.get("human_actions")
    actions = Markup(" with {} human actions").format(numbers.show("human_actions", "count")) if effort else Markup("")
    if "baseline" in systems and "final" in systems:
        verb = change(numbers.point(key("baseline")), numbers.point(key("final")))
        said = Markup("{} {} from {} to {}{}").format(
            HEADLINE_METRIC[metric], verb, mean("baseline"), mean("final"), actions
        )
        if numbers.point(key("random_same_effort")) if "random_same_effort" in systems else None:
            said += Markup("; random labelling with the same effort reached {}").format(mean("random_same_effort"))
        return said + "."
    last = next(reversed([s for s in systems if numbers.point(key(s))]))
    return Markup("{} is {}{}.").format(HEADLINE_METRIC[metric], mean(last), actions)


def change(before: Sequence[float] | None, after: Sequence[float] | None) -> str:
    """Find the verb for a change.

    >>> change((0.31, 0.28, 0.34), (0.78, 0.74, 0.81)), change((0.5, 0.4, 0.6), (0.5, 0.4, 0.6))
    ('rose', 'stayed')
    """
    if not before or not after or round(after[0], 2) == round(before[0], 2):
        return "stayed" if before and after else "went"
    return "rose" if after[0] > before[0] else "fell"


def certainty(numbers: Numbers) -> Note | None:
    """Say whether the intervals of the first metric keep apart."""
    systems = evaluations(numbers)
    metric = next((m for m in HEADLINE_METRIC if numbers.point(f"final.{m}")), "")
    if "final" not in systems or not metric:
        return None
    parts, good = [], True
    final = numbers.point(f"final.{metric}")
    for other, words in (("baseline", "the baseline"), ("random_same_effort", "random labelling with the same effort")):
        point = numbers.point(f"{other}.{metric}") if other in systems else None
        if point is None or final is None or final[1] == final[2]:
            continue
        above, below = final[1] > point[2], final[2] < point[1]
        good &= above
        verdict = "lies above" if above else "lies below" if below else "overlaps"
        parts.append(f"{verdict} that of {words}")
    if not parts:
        return None
    said = f"The final 95\u202f% interval {' and '.join(parts)}"
    said += "." if good else "; where they overlap, the difference may be chance." if "overlaps" in said else "."
    return Note(text=said, tone="good" if good else "plain")


def compare(numbers: Numbers, rows: Sequence[tuple[str, str]], caption: str, first: str) -> Table | None:
    """Make a table with a row of bars and a column of numbers for each system.

    Args:
        numbers: The summary.
        rows: `(name of the row, path of the estimate below a system)`.
        caption: What the table shows.
        first: Head of the first column.
    """
    systems = list(evaluations(numbers).values())
    lines: list[list[str | Markup]] = []
    for name, ending in rows:
        points = [(numbers.point(f"{key}.{ending}"), css) for key, _, css in systems]
        if not any(point for point, _ in points):
            continue
        said = "; ".join(f"{who} {p[0]:.1%}" for (p, _), (_, who, _) in zip(points, systems, strict=True) if p)
        cells = [numbers.estimate(f"{key}.{ending}") for key, _, _ in systems]
        lines.append([capital(plain(name)), bars(points, f"{plain(name)}: {said}"), *cells])
    if not lines:
        return None
    heads = [Markup('<i class="key {}"></i>{}').format(css, name) for _, name, css in systems]
    return Table(
        caption=caption, head=[first, "0 to 100\u202f%", *heads], rows=lines, css=f"bars systems s{len(systems)}"
    )


def results(numbers: Numbers, caught: Strip | None = None, missed: Strip | None = None) -> Section:
    """Compare the systems on the sealed test set."""
    systems = evaluations(numbers)
    names = list(dict.fromkeys(m for key, _, _ in systems.values() for m in metrics_of(numbers, key)))
    names = [m for m in METRICS if m in names] + [m for m in names if m not in METRICS]
    table = compare(numbers, [(m, m) for m in names], "On the sealed test set, with 95\u202f% intervals", "measure")
    sizes = next((f"{key}.n_images" for key, _, _ in systems.values() if numbers.has(f"{key}.n_images")), "")
    lead: str | Markup = "Every number comes from images that were never mined, trained on, tuned on or generated from."
    if sizes:
        lead = Markup(
            "Every number comes from {} images that were never mined, trained on, tuned on or generated from."
        ).format(numbers.show(sizes, "count"))
    blocks = some(certainty(numbers), table, caught, missed) if table else []
    return Section(id="results", title="What it achieved", short="Results", lead=lead, blocks=blocks)


def split_section(numbers: Numbers, part: str, section: Section, first: str) -> Section:
    """Compare the systems by category or by slice, for every measure that was taken there."""
    names: list[str] = []
    measures: list[str] = []
    for key, _, _ in evaluations(numbers).values():
        for name, value in (numbers.get(f"{key}.{part}") or {}).items():
            names += [name] if name not in names else []
            found = metrics_of(numbers, f"{key}.{part}.{name}") if not is_estimate(value) else [""]
            measures += [m for m in found if m not in measures]
    tables = []
    for measure in [m for m in METRICS if m in measures] + [m for m in measures if m not in METRICS]:
        rows = [(name, f"{part}.{name}.{measure}".rstrip(".")) for name in names]
        words = capital(plain(measure)) if measure else "Value"
        tables.append(compare(numbers, rows, f"{words}, {section.title[:1].lower()}{section.title[1:]}", first))
    blocks: list[Block] = some(*tables[:1])
    if more := some(*tables[1:]):
        blocks.append(Fold(title=f"The other measures {section.title[:1].lower()}{section.title[1:]}", parts=more))
    return replace(section, blocks=blocks)


def by_category(numbers: Numbers) -> Section:
    """Compare by category."""
    lead = "An average can hide a category that got worse."
    section = Section(id="categories", title="By category", short="Categories", lead=lead)
    return split_section(numbers, "per_category", section, "category")


def by_slice(numbers: Numbers) -> Section:
    """Compare by style or another slice."""
    lead = (
        "The same measures on parts of the test set. The gap between them shows what the labelled images had none of."
    )
    section = Section(id="slices", title="By style", short="Styles", lead=lead)
    return split_section(numbers, "per_slice", section, "style")


def gate(numbers: Numbers) -> Section:
    """Say what the gate decided and why."""
    steps = steps_of(numbers, "gate")
    blocks: list[Block] = []
    for name in steps:
        facts = numbers.get(f"steps.{name}.facts") or {}
        passed = next((facts[k] for k in ("passed", "pass", "accepted", "ok") if isinstance(facts.get(k), bool)), None)
        decision = str(facts.get("decision") or "").lower()
        good = passed if passed is not None else decision in ("pass", "passed", "accept", "accepted", "promote")
        said = "The gate let the new model pass." if good else "The gate kept the old model."
        reason = facts.get("reason") or "; ".join(map(str, facts.get("reasons") or []))
        blocks.append(Note(text=f"{said} {reason}".strip(), tone="good" if good else "bad"))
        blocks += some(_checks(numbers, f"steps.{name}.facts.checks"))
    return Section(id="gate", title="The gate", short="Gate", blocks=[*blocks, *facts_fold(numbers, steps)])


def _checks(numbers: Numbers, key: str) -> Table | None:
    checks = numbers.get(key)
    if not isinstance(checks, Sequence | Mapping) or not checks or isinstance(checks, str):
        return None
    places = list(checks) if isinstance(checks, Mapping) else [str(n) for n in range(len(checks))]
    columns: list[str] = []
    for place in places:
        entry = numbers.get(f"{key}.{place}")
        if not isinstance(entry, Mapping):
            return None
        columns += [c for c in entry if c not in columns and not isinstance(entry[c], Mapping | list)]
    named = next((c for c in ("check", "name", "what", "rule", "metric") if c in columns), "")
    columns = [c for c in columns if c != named]
    rows = [
        [
            str(numbers.get(f"{key}.{p}.{named}")) if named else plain(str(p)),
            *(numbers.show(f"{key}.{p}.{c}") for c in columns),
        ]
        for p in places
    ]
    return Table(caption="What it checked", head=["check", *map(plain, columns)], rows=rows)


def calibration(numbers: Numbers) -> Section:
    """Show how far scores are probabilities, before and after calibration."""
    tables: list[Table] = []
    figures: list[Figure] = []
    for name in numbers.get("steps") or {}:
        for place, found in _calibrations(numbers.get(f"steps.{name}.facts"), f"steps.{name}.facts"):
            rows = (
                [
                    [plain(m), numbers.show(f"{place}.before.{m}", ""), numbers.show(f"{place}.after.{m}", "")]
                    for m, v in found["before"].items()
                    if isinstance(v, int | float)
                ]
                if isinstance(found["before"], Mapping)
                else [
                    [
                        "calibration error (ECE)",
                        numbers.show(f"{place}.before", "percent"),
                        numbers.show(f"{place}.after", "percent"),
                    ]
                ]
            )
            tables.append(Table(caption=name, head=["measure", "before", "after"], rows=rows))
            figures += some(reliability(found, name))  # type: ignore[arg-type]
    blocks: list[Block] = [*tables, *figures]
    lead = (
        "A calibrated score of 0.8 is right eight times in ten. Thresholds of the policy mean what they say only then."
    )
    return Section(
        id="calibration",
        title="Calibration",
        short="Calibration",
        lead=lead,
        blocks=[Pair(parts=blocks)] if blocks else [],
    )


def _calibrations(facts: Any, key: str) -> list[tuple[str, Mapping[str, Any]]]:
    if not isinstance(facts, Mapping):
        return []
    if "before" in facts and "after" in facts and ("calibration" in key or "ece" in key):
        return [(key, facts)]
    return [found for name, below in facts.items() for found in _calibrations(below, f"{key}.{name}")]


def reliability(found: Mapping[str, Any], name: str) -> Figure | None:
    """Draw how often a score was right, before and after."""
    lines = []
    for moment, css in (("before", "c-baseline"), ("after", "c-final")):
        bins = found[moment].get("bins") if isinstance(found[moment], Mapping) else None
        if not bins:
            return None
        points = (
            [(float(b["score"]), float(b["share"])) for b in bins]
            if isinstance(bins[0], Mapping)
            else [(b[0], b[1]) for b in bins]
        )
        lines.append(Curve(name=moment, css=css, points=points))
    drawn = curves(
        lines,
        f"Reliability of {name}",
        x_label="score",
        y_label="share that was right",
        x_unit="percent",
        diagonal=True,
        x_max=1.0,
    )
    return Figure(
        drawing=drawn,
        title=f"{name}: how often a score was right",
        caption="On the diagonal, a score is a probability.",
    )


STAGE2 = {  # names of the counts a moderation run may report -> (words, colour)
    "stage1_decided": ("decided by Stage 1", "c-1"),
    "decided_by_stage1": ("decided by Stage 1", "c-1"),
    "sent_on": ("sent on to Stage 2", "c-2"),
    "sent_to_stage2": ("sent on to Stage 2", "c-2"),
    "stage2": ("sent on to Stage 2", "c-2"),
}


def stage2(numbers: Numbers) -> Section:
    """Show what Stage 2 changed."""
    steps = steps_of(numbers, "moderate")
    blocks: list[Block] = []
    for name in steps:
        key = f"steps.{name}.facts"
        facts = numbers.get(key) or {}
        parts: dict[str, Part] = {}
        for fact, (words, css) in STAGE2.items():
            if isinstance(facts.get(fact), int) and words not in parts:
                parts[words] = Part(
                    name=words, css=css, value=facts[fact], shown=numbers.show(f"{key}.{fact}", "count")
                )
        if parts:
            blocks.append(
                Figure(drawing=stacked(list(parts.values()), "Which stage decided"), title="Which stage decided")
            )
        rows = [
            [plain(label.replace(" › ", ", ")), numbers.show(place)]
            for place, label in numbers.leaves(key, depth=2)
            if "artifact" not in label
        ]
        if rows:
            blocks.append(
                Table(
                    caption="The two-stage runtime on the test images", head=["fact", "value"], rows=rows, css="counts"
                )
            )
    lead = (
        "Stage 1 looks at pixels. What it cannot decide goes to Stage 2, which reads the words and never sees pixels."
    )
    return Section(id="stage2", title="What Stage 2 changed", short="Stage 2", lead=lead, blocks=blocks)
