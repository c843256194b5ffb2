"""What was measured on the test set: systems side by side, curves, parts of the set, two models compared, and what is taken for what."""

from collections.abc import Mapping, Sequence
from dataclasses import replace

from markupsafe import Markup

from tilth.pipeline.report.cases import Cases, confused_rows
from tilth.pipeline.report.numbers import Numbers, capital, plain
from tilth.pipeline.report.parts import (
    METRICS,
    PALETTE,
    Block,
    Figure,
    Fold,
    Note,
    Pair,
    Section,
    Strip,
    Table,
    bars_table,
    evaluations,
    is_estimate,
    metrics_of,
    some,
)
from tilth.pipeline.report.pictures import Album
from tilth.pipeline.report.plots import Line, lines
from tilth.policy import SAFE

MOST_ROWS = 40  # of a table by category
MOST_COLUMNS = 12  # of a confusion matrix
MOST_CELLS = 20  # of one that is too large to be shown whole
SIZES = {
    "small": "small, below 1\u202f% of the image",
    "medium": "medium, up to 10\u202f%",
    "large": "large, above 10\u202f%",
}


def compare(numbers: Numbers, rows: Sequence[tuple[str, str]], caption: str, first: str) -> Table | None:
    """Compare the systems: `rows` are `(name, path of the estimate below a system)`."""
    systems = list(evaluations(numbers).values())
    last = next((key for key, _, _ in reversed(systems) if numbers.has(f"{key}.always_unsafe")), "")
    nothing = {name: f"{last}.{trivial(ending)}" for name, ending in rows if last}
    lines = [(name, [f"{key}.{ending}" for key, _, _ in systems]) for name, ending in rows]
    return bars_table(
        numbers, lines, [(name, css) for _, name, css in systems], caption, first, beside=("all called unsafe", nothing)
    )


def trivial(ending: str) -> str:
    """Say where the same number stands of what calls every image unsafe.

    >>> trivial("f1"), trivial("per_category.knife.f1")
    ('always_unsafe.f1', 'per_category.knife.always_unsafe.f1')
    """
    before, dot, measure = ending.rpartition(".")
    return f"{before}{dot}always_unsafe.{measure}"


RARE = 0.01  # share of unsafe images where the costs of a threshold are shown


def curves(numbers: Numbers) -> list[Block]:
    """Draw what other thresholds would do, and how sure of it the scores are."""
    return some(_thresholds(numbers), _precisions(numbers))


def _thresholds(numbers: Numbers) -> Pair | None:
    """Draw recall by false positives, and what is missed by what people look at."""
    recall, missed = list[Line](), list[Line]()
    for key, name, css in evaluations(numbers).values():
        rows = numbers.get(f"{key}.curve") or []
        if rows:
            recall.append(Line(name=name, css=css, points=[(fpr, caught) for fpr, caught, _ in rows]))
            looked = [(1000 * (RARE * caught + (1 - RARE) * fpr), 1 - caught) for fpr, caught, _ in rows]
            missed.append(Line(name=name, css=css, points=looked))
    if not recall:
        return None
    top = next(end for end in (0.2, 0.4, 0.6, 0.8, 1.0) if end >= max(y for line in missed for _, y in line.points))
    of = f"of 1,000 images of which {1000 * RARE:.0f} are unsafe"
    by_rate = lines(
        recall, "Recall by the share of false positives", x=("false positives", 0.2, ".0%"), y=("recall", 1.0, ".0%")
    )
    by_work = lines(
        missed,
        f"What is missed by what people look at, {of}",
        x=("images looked at", 100, ".0f"),
        y=("missed", top, ".0%"),
    )
    return Pair(
        parts=[
            Figure(
                drawing=by_rate,
                title="At other thresholds",
                caption="The left of the ROC curve, on the sealed test set.",
            ),
            Figure(
                drawing=by_work,
                title="What a miss costs",
                caption=f"Unsafe images that are missed, by how many people look at {of}.",
            ),
        ]
    )


def _precisions(numbers: Numbers) -> Pair | None:
    """Draw precision by recall, of each system, and of the last one by category."""
    systems = [system for system in evaluations(numbers).values() if numbers.get(f"{system[0]}.pr_curve")]
    if not systems:
        return None

    def line(at: str, name: str, css: str) -> Line:
        shown = Markup("AP {}").format(numbers.show(f"{at}.average_precision.mean", "percent"))
        return Line(name=name, css=css, points=[tuple(row) for row in numbers.get(f"{at}.pr_curve")], shown=shown)

    key = systems[-1][0]
    names = [
        name for name in numbers.get(f"{key}.per_category") or {} if numbers.get(f"{key}.per_category.{name}.pr_curve")
    ]
    few = names if len(names) <= len(PALETTE) else worst(numbers, "per_category", names)[: len(PALETTE)]
    by_category = [
        line(f"{key}.per_category.{name}", plain(name), css) for name, css in zip(few, PALETTE, strict=False)
    ]
    axes = {"x": ("recall", 1.0, ".0%"), "y": ("precision", 1.0, ".0%")}
    title = "Precision by recall"
    whole = lines([line(*system) for system in systems], f"{title} of unsafe images", **axes)
    parts = [Figure(drawing=whole, title=title, caption="Of unsafe images, with the area under the curve (AP).")]
    if by_category:
        caption = f"Of {systems[-1][1]}" + (
            f", the {len(few)} worst of {len(names)} categories." if few != names else "."
        )
        parts.append(
            Figure(
                drawing=lines(by_category, f"{title}, by category", **axes),
                title=f"{title}, by category",
                caption=caption,
            )
        )
    return Pair(parts=parts)


def compared(numbers: Numbers) -> list[Block]:
    """Say how much better a model is than the one that its evaluation was held against, image by image."""
    blocks: list[Block] = []
    for key, name, _ in evaluations(numbers).values():
        base = f"{key}.against"
        if not numbers.has(f"{base}.name"):
            continue
        other = str(numbers.get(f"{base}.name")).removeprefix("evaluate.")
        verdict = str(numbers.get(f"{base}.said"))
        tone = {"better": "good", "worse": "bad"}.get(verdict.partition(",")[0], "plain")
        said = Markup("{}, beside {}: {}.").format(capital(name), other, verdict)
        if numbers.has(f"{base}.images"):
            said += Markup(
                " At the thresholds that are served, {} of {} images are right only by {} and {} only by {} (McNemar's exact test: p = {})."
            ).format(
                *(numbers.show(f"{base}.{what}", "count") for what in ("right_only_now", "images")), name,
                numbers.show(f"{base}.right_only_before", "count"), other, numbers.show(f"{base}.p", "number"),
            )  # fmt: skip
        blocks.append(Note(text=said, tone=tone))
        measures = [m for m in (*METRICS, "average_precision") if numbers.has(f"{base}.{m}.difference")]
        rows: list[list[str | Markup]] = [
            [
                capital(plain(m)),
                *(numbers.show(f"{base}.{m}.{side}", "percent") for side in ("old", "new")),
                numbers.estimate(f"{base}.{m}.difference"),
            ]
            for m in measures
        ]
        if rows:
            head = ["measure", other, name, "difference in points, paired"]
            blocks.append(Table(caption=f"The same images, judged by {other} and {name}", head=head, rows=rows))
            blocks += some(_compared_by_category(numbers, base, measures))
    return blocks


def _compared_by_category(numbers: Numbers, base: str, measures: Sequence[str]) -> Block | None:
    names = list(numbers.get(f"{base}.per_category") or {})
    if not names:
        return None
    counts = {"right_only_now": "right only now", "right_only_before": "only before", "p": "p"}
    rows: list[list[str | Markup]] = [
        [
            capital(plain(name)),
            *(numbers.estimate(f"{base}.per_category.{name}.{m}.difference") for m in measures),
            *(numbers.show(f"{base}.per_category.{name}.{what}") for what in counts),
            numbers.show(f"{base}.per_category.{name}.said"),
        ]
        for name in names[:MOST_ROWS]
    ]
    heads = {"recall_at_fpr05": "recall", "average_precision": "average precision", "map50": "mAP"}
    head = ["category", *(heads.get(m, plain(m)) for m in measures), *counts.values(), "so it is"]
    caption = (
        "Differences in points by category, each with its own 95\u202f% interval: of twenty, one lies outside by chance"
    )
    if len(names) > MOST_ROWS:
        caption += f"; the first {MOST_ROWS} of {len(names)}, summary.json has all"
    return Fold(
        title="The differences by category", parts=[Table(caption=caption, head=head, rows=rows, css="differences")]
    )


def confusion(numbers: Numbers, cases: Cases | None, album: Album) -> Section:
    """Show what boxes of each category are seen as."""
    key = next((key for key, _, _ in reversed(evaluations(numbers).values()) if numbers.get(f"{key}.confusion")), "")
    lead = Markup(
        "Boxes of at least the score that is served, held against the true box that they overlap by half. A thing that is seen as two "
        "things counts twice."
    )
    section = Section(id="confusion", title="What is taken for what", short="Confusions", lead=lead)
    if not key:
        return section
    blocks: list[Block] = [_matrix(numbers, f"{key}.confusion")]
    if cases is not None and (rows := confused_rows(cases, album)):
        title = "The most frequent confusions, the surest first"
        blocks.append(
            Strip(
                title=title,
                rows=rows,
                note="Green is the truth; dashes are what the model saw, also where its score is below what is served.",
            )
        )
    return replace(section, blocks=blocks)


def _matrix(numbers: Numbers, key: str) -> Table:
    counts: Mapping[str, Mapping[str, int]] = numbers.get(key)
    named = [name for name in dict.fromkeys((*counts, *(n for row in counts.values() for n in row))) if name != SAFE]
    names = [*named, SAFE]
    words = {name: plain(name) for name in names} | {SAFE: "nothing"}
    if len(named) <= MOST_COLUMNS:
        rows: list[list[str | Markup]] = [
            [
                capital(words[true]),
                *(_cell(numbers, f"{key}.{true}.{said}", same=true == said) for said in names),
            ]
            for true in names
        ]
        head = ["is", *(f"seen as {words[said]}" if place == 0 else words[said] for place, said in enumerate(names))]
        return Table(
            caption="Boxes, by what is there and what it is seen as", head=head, rows=rows, css="counts matrix"
        )
    off = [(count, true, said) for true, row in counts.items() for said, count in row.items() if true != said]
    most = sorted(off, key=lambda cell: (-cell[0], cell[1:]))[:MOST_CELLS]
    rows = [
        [capital(words[true]), words[said], numbers.show(f"{key}.{true}.{said}", "count")] for _, true, said in most
    ]
    caption = f"The {len(most)} most frequent of {len(off)} confusions; summary.json has all"
    return Table(caption=caption, head=["is", "seen as", "boxes"], rows=rows, css="counts")


def _cell(numbers: Numbers, key: str, *, same: bool) -> str | Markup:
    shown = numbers.show(key, "count") if numbers.has(key) else ""
    return Markup("<b>{}</b>").format(shown) if same and shown else shown


def split_section(
    numbers: Numbers, part: str, section: Section, first: str, words: Mapping[str, str] | None = None
) -> Section:
    """Compare the systems by category or by slice, for every measure that was taken there; of very many, the worst."""
    names: list[str] = []
    measures: list[str] = []
    for key, _, _ in evaluations(numbers).values():
        for name, value in (numbers.get(f"{key}.{part}") or {}).items():
            names += [name] if name not in names else []
            found = metrics_of(numbers, f"{key}.{part}.{name}") if not is_estimate(value) else [""]
            measures += [m for m in found if m not in measures]
    blocks: list[Block] = []
    if len(names) > MOST_ROWS:
        blocks.append(
            Note(text=f"The {MOST_ROWS} of {len(names)} that the last system does worst at; summary.json has all.")
        )
        names = worst(numbers, part, names)
    tables = []
    for measure in [m for m in METRICS if m in measures] + [m for m in measures if m not in METRICS]:
        rows = [((words or {}).get(name, name), f"{part}.{name}.{measure}".rstrip(".")) for name in names]
        said = capital(plain(measure)) if measure else "Value"
        tables.append(compare(numbers, rows, f"{said}, {section.title[:1].lower()}{section.title[1:]}", first))
    blocks += some(*tables[:1])
    if more := some(*tables[1:]):
        blocks.append(Fold(title=f"The other measures {section.title[:1].lower()}{section.title[1:]}", parts=more))
    return replace(section, blocks=blocks)


def by_category(numbers: Numbers) -> Section:
    """Compare by category."""
    lead = "An average can hide a category that got worse."
    section = Section(id="categories", title="By category", short="Categories", lead=lead)
    return split_section(numbers, "per_category", section, "category")


def worst(numbers: Numbers, part: str, names: Sequence[str]) -> list[str]:
    """Return those that the last system does worst at."""
    key = [key for key, _, _ in evaluations(numbers).values() if numbers.has(f"{key}.{part}")][-1]

    def precision(name: str) -> float:
        return (numbers.point(f"{key}.{part}.{name}.average_precision") or (2.0,))[0]

    return sorted(names, key=lambda name: (precision(name), name))[:MOST_ROWS]


def by_slice(numbers: Numbers) -> Section:
    """Compare by style or another slice."""
    lead = (
        "The same measures on parts of the test set. The gap between them shows what the labelled images had none of."
    )
    told = [str(by) for key, _, _ in evaluations(numbers).values() if (by := numbers.get(f"{key}.sliced_by"))]
    by = told[-1] if told else "style"
    section = Section(id="slices", title=f"By {plain(by)}", short=f"{capital(plain(by))}s", lead=lead)
    return split_section(numbers, "per_slice", section, plain(by))


def by_severity(numbers: Numbers) -> Section:
    """Compare by the severity that the policy gives categories."""
    lead = "What counts as unsafe are here the categories of one severity alone."
    section = Section(id="severities", title="By severity", short="Severity", lead=lead)
    return split_section(numbers, "per_severity", section, "severity")


def by_size(numbers: Numbers) -> Section:
    """Compare by how large things are in the image."""
    lead = "By the share of the image that the largest unsafe thing in it takes; all safe images are beside those of each size."
    section = Section(id="sizes", title="By size of the thing", short="Sizes", lead=lead)
    return split_section(numbers, "per_size", section, "size", SIZES)
