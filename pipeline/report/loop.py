"""How the run got there: human effort, mining, labelling, generation, and whatever was left out on the way."""

from collections.abc import Mapping

from markupsafe import Markup

from tilth.pipeline.report.numbers import Numbers, capital, plain
from tilth.pipeline.report.parts import (
    Block,
    Figure,
    Note,
    Pair,
    Section,
    Strip,
    Table,
    bars_table,
    counted_bars,
    first_key,
    parts_of,
    some,
    steps_of,
)
from tilth.pipeline.report.pictures import Album, Draw
from tilth.pipeline.report.plots import Part, around_zero, stacked
from tilth.train.measure.gains import WORDS


def effort(numbers: Numbers) -> Section:
    """Show what the people did."""
    steps = [n for n, s in (numbers.get("steps") or {}).items() if "human_actions" in (s.get("facts") or {})]
    rows: list[list[str | Markup]] = []
    details: list[Block] = []
    for name in steps:
        base = f"steps.{name}.facts"
        kinds = first_key(numbers, base, "actions", "by_kind", "actions_by_kind", "ledger")
        if kinds and (parts := parts_of(numbers, kinds)):
            drawn = stacked(parts, f"Human actions of {name} by kind")
            details.append(Figure(drawing=drawn, title=f"{capital(name)}: what the people did"))
        details += some(_pace(numbers, base, name))
        if queued := parts_of(numbers, f"{base}.queued_for"):
            drawn = stacked(queued, f"Why {name} asked for these images")
            details.append(Figure(drawing=drawn, title=f"{capital(name)}: why these images were asked about"))
        hours = first_key(numbers, base, "hours", "estimated_hours", "human_hours")
        pace = first_key(numbers, base, "seconds_source", "source", "backend")
        rows.append(
            [
                name,
                numbers.show(f"{base}.human_actions", "count"),
                numbers.show(hours or "none", "hours"),
                numbers.show(pace or "none"),
            ]
        )
    head = ["step", "actions", "estimated hours", "seconds come from"]
    blocks: list[Block] = [Table(caption="Each step that asked a person", head=head, rows=rows)] if rows else []
    blocks += [Pair(parts=details)] if details else []
    lead = Markup(
        "{} human actions in the loop: every accept, edit, draw, reject and confirmed-empty counts as one."
    ).format(numbers.show("human_actions", "count"))
    return Section(id="effort", title="What it cost in human work", short="Effort", lead=lead, blocks=blocks)


def _pace(numbers: Numbers, base: str, name: str) -> Table | None:
    key = first_key(numbers, base, "seconds_per_action", "pace_s", "seconds_each")
    pace = numbers.get(key) if key else None
    if not isinstance(pace, Mapping):
        return None
    rows: list[list[str | Markup]] = []
    for kind, value in pace.items():
        if isinstance(value, Mapping):
            rows.append([plain(kind), *(numbers.show(f"{key}.{kind}.{part}") for part in value)])
        else:
            rows.append([plain(kind), numbers.show(f"{key}.{kind}", "seconds")])
    wide = next((list(v) for v in pace.values() if isinstance(v, Mapping)), ["seconds"])
    return Table(caption=f"Seconds an action, {name}", head=["action", *map(plain, wide)], rows=rows)


FEW_PARTS = 7  # more reasons than colours make a table, not a bar
PRECISIONS = (("p10", "first 10", "c-1"), ("p50", "first 50", "c-6"), ("p100", "first 100", "c-3"))


def mining(numbers: Numbers, draw: Draw, album: Album) -> Section:
    """Show what mining found and how precise it was by rank."""
    blocks: list[Block] = []
    lead = Markup("Images found in the unlabelled corpus by asking for each category in words.")
    for name in steps_of(numbers, "mine"):
        base = f"steps.{name}.facts"
        if numbers.has(f"{base}.mined"):
            lead += Markup(" {} added {} images, {} of them drawn at random.").format(
                capital(name), numbers.show(f"{base}.mined", "count"), numbers.show(f"{base}.explored", "count")
            )
        found = numbers.get(f"{base}.precision") or {}
        series = [(words, css) for _, words, css in PRECISIONS] + [("a random draw", "c-baseline")]
        rows = [(c, [f"{base}.precision.{c}.{m}" for m in ("p10", "p50", "p100", "prevalence")]) for c in found]
        title = "Precision by rank: share of the best images that really show the category"
        blocks += some(bars_table(numbers, rows, series, title, "category"), _mined(numbers, base))
        if refused := parts_of(numbers, f"{base}.refused"):
            drawn = stacked(refused, "Images that mining refused")
            blocks.append(Figure(drawing=drawn, title="Refused by mining, and why"))
    if rows_ := album.rows(draw.groups("mined")):
        blocks.append(Strip(title="Mined, by what was asked for, with what each image turned out to be", rows=rows_))
    return Section(id="mining", title="What mining found", short="Mining", lead=lead, blocks=blocks)


def _mined(numbers: Numbers, base: str) -> Table | None:
    categories = numbers.get(f"{base}.categories")
    if not isinstance(categories, Mapping) or not categories:
        return None
    columns = [
        ("categories", "candidates", "looked at"),
        ("categories", "matches", "taken as matches"),
        ("categories", "look_alikes", "taken as look-alikes"),
        ("precision", "positives", "in the corpus"),
        ("precision", "found", "of these found"),
        ("precision", "recall", "recall"),
    ]
    shown = [c for c in columns if any(numbers.has(f"{base}.{c[0]}.{name}.{c[1]}") for name in categories)]
    rows: list[list[str | Markup]] = [
        [plain(name), *(numbers.show(f"{base}.{part}.{name}.{fact}") for part, fact, _ in shown)] for name in categories
    ]
    return Table(caption="Images by category", head=["category", *(words for _, _, words in shown)], rows=rows)


def labelling(numbers: Numbers) -> Section:
    """Show which boxes the models drew, and which the clean-up and second opinions took away."""
    blocks: list[Block] = []
    drew = [(name, "boxes_by_category", "boxes") for kind in ("ground", "fuse") for name in steps_of(numbers, kind)]
    judged = [(name, "rejected_by_category", "boxes rejected") for name in steps_of(numbers, "second_opinion")]
    for name, fact, words in drew + judged:
        base, title = f"steps.{name}.facts", capital(name.replace("_", " "))
        table = counted_bars(numbers, f"{base}.{fact}", f"{title}: {words}, by category", "category", "boxes")
        pair: list[Block] = some(table)
        if removed := parts_of(numbers, f"{base}.removed_by_reason"):
            drawn = stacked(removed, f"Boxes that the clean-up of {name} took away")
            pair.append(Figure(drawing=drawn, title=f"{title}: boxes that the clean-up took away, and why"))
        blocks += [Pair(parts=pair)] if pair else []
    for name in steps_of(numbers, "review"):
        base = f"steps.{name}.facts.labels_before_review"
        kinds = [k for k in numbers.get(base) or {} if numbers.get(f"{base}.{k}.shown")]
        rows = [(kind, [f"{base}.{kind}.precision", f"{base}.{kind}.recall"]) for kind in kinds]
        series = [("precision", "c-1"), ("recall", "c-6")]
        title = "How right these boxes were, by what the people of the review said"
        blocks += some(bars_table(numbers, rows, series, title, "images"))
    lead = "Boxes that models drew before a person looked. Each removed box keeps its reason and can be brought back."
    return Section(id="labelling", title="Labels by models", short="Labels", lead=lead, blocks=blocks)


def generation(numbers: Numbers, draw: Draw, album: Album) -> Section:
    """Show what was generated, which images were kept, and why the others fell."""
    blocks: list[Block] = []
    for name in steps_of(numbers, "generate"):
        tables = (
            counted_bars(
                numbers, f"steps.{name}.facts.{fact}", f"{capital(name)}: images asked for, {words}", words[3:]
            )
            for fact, words in (("by_category", "by category"), ("by_style", "by style"))
        )
        blocks += [Pair(parts=pair)] if (pair := some(*tables)) else []
    for name in steps_of(numbers, "adherence"):
        base = f"steps.{name}.facts"
        blocks += some(_kept(numbers, base, capital(name)), _worst(numbers, base))
    for name in steps_of(numbers, "label_made"):
        asked = numbers.get(f"steps.{name}.facts.as_asked") or {}
        rows = [(category, [f"steps.{name}.facts.as_asked.{category}"]) for category in asked]
        title = "Generated images that show what was asked for, as an independent judge sees it"
        blocks += some(bars_table(numbers, rows, [("right", "c-final")], title, "category"))
    for strip, title in (("generated", "Generated and accepted"), ("fallen", "Generated and rejected, by reason")):
        if rows_ := album.rows(draw.groups(strip)):
            blocks.append(Strip(title=title, rows=rows_))
    lead = "Generated images fill gaps of the training set. Each is checked before it counts; none enters the test set."
    return Section(id="generation", title="Generated images", short="Generated", lead=lead, blocks=blocks)


def _kept(numbers: Numbers, base: str, name: str) -> Block | None:
    parts = parts_of(numbers, f"{base}.reasons")
    title = f"{name}: what was kept, and why the others fell"
    if len(parts) > FEW_PARTS:
        return counted_bars(numbers, f"{base}.reasons", f"{name}: why generated images fell", "reason", css="c-2")
    if (kept := numbers.get(f"{base}.kept")) is None:
        return None
    accepted = Part(name="kept", css="c-final", value=float(kept), shown=numbers.show(f"{base}.kept"))
    return Figure(drawing=stacked([accepted, *parts], title), title=title)


def _worst(numbers: Numbers, base: str) -> Table | None:
    prompts = numbers.get(f"{base}.worst_prompts")
    if not prompts:
        return None
    rows: list[list[str | Markup]] = [
        [numbers.show(f"{base}.worst_prompts.{number}.{what}") for what in ("prompt", "kept", "made")]
        for number in range(len(prompts))
    ]
    return Table(caption="Prompts of which least was accepted", head=["prompt", "accepted", "generated"], rows=rows)


def proof(numbers: Numbers) -> Section:
    """Show what generated images gained on real ones, by how many there were, and what was decided."""
    blocks: list[Block] = []
    for name in steps_of(numbers, "prove"):
        base = f"steps.{name}.facts"
        kept, made = (numbers.show(f"{base}.{what}", "count") for what in ("kept", "made"))
        said = Markup("{}: {} of {} generated images are kept. {}.").format(
            capital(name), kept, made, capital(str(numbers.get(f"{base}.reason")))
        )
        blocks.append(Note(text=said, tone="good" if numbers.get(f"{base}.kept") else "plain"))
        ratios = list(numbers.get(f"{base}.gain_by_ratio") or {})
        if not ratios:
            continue
        metric = WORDS.get(str(numbers.get(f"{base}.metric")), "score")
        points = [
            (float(r), point) for r in ratios if (point := numbers.point(f"{base}.gain_by_ratio.{r}")) is not None
        ]
        title = f"Gain in {metric} by generated images for a real one"
        drawn = around_zero(
            [(0.0, (0.0, 0.0, 0.0)), *points], title, x="generated images for a real one", y="points gained"
        )
        rows: list[list[str | Markup]] = [
            [
                numbers.show(f"{base}.tried.{place}", "number"),
                numbers.show(f"{base}.images_by_ratio.{ratio}", "count"),
                numbers.show(f"{base}.score_by_ratio.{ratio}", "percent"),
                numbers.estimate(f"{base}.gain_by_ratio.{ratio}"),
            ]
            for place, ratio in enumerate(["0", *ratios])
        ]
        head = ["ratio", "images", "score", "gain"]
        seeds_ = Markup("Mean of {} seeds, on {} real validation images").format(
            *(numbers.show(f"{base}.{what}", "count") for what in ("seeds", "val_images"))
        )
        figure = Figure(drawing=drawn, title=title, caption=seeds_ + Markup("."))
        blocks.append(Pair(parts=[figure, Table(caption="What each ratio reached", head=head, rows=rows)]))
    lead = (
        "Models were trained with and without the generated images, over several seeds, and judged on real images. "
        "Intervals hold for all ratios together; the sealed test was not opened."
    )
    return Section(id="proof", title="Do the generated images help?", short="Proof", lead=lead, blocks=blocks)


def seeds(draw: Draw, album: Album) -> Section:
    """Show the labelled images that the run started from."""
    rows = album.rows(draw.groups("seed"))
    blocks = [Strip(title="Labelled images at the start", rows=rows)] if rows else []
    return Section(
        id="seeds", title="Where it started", short="Start", lead="The images that came with labels.", blocks=blocks
    )


def left_out(numbers: Numbers, draw: Draw, album: Album) -> Section:
    """List what was dropped or failed, with every reason."""
    blocks: list[Block] = []
    pair: list[Block] = []
    for key, caption, head in (
        ("dataset.left_out_by_reason", "Left out, by step and reason", "reason"),
        ("dataset.failed_by_error", "Failed, by step and error", "error"),
    ):
        rows: list[list[str | Markup]] = []
        for step, reasons in (numbers.get(key) or {}).items():
            for number, reason in enumerate(reasons):
                rows.append(
                    [
                        reason,
                        step if number == 0 else Markup('<span class="again">{}</span>').format(step),
                        numbers.show(f"{key}.{step}.{reason}", "count"),
                    ]
                )
        if rows:
            pair.append(Table(caption=caption, head=[head, "step", "images"], rows=rows, css="reasons"))
    blocks += [Pair(parts=pair)] if len(pair) > 1 else pair
    if rows_ := album.rows(draw.groups("left_out")):
        blocks.append(Strip(title="Examples, by reason", rows=rows_))
    lead = "Nothing disappears: a dropped image keeps its reason, a failed one its error, and both stay in the dataset."
    return Section(id="left-out", title="What was left out, and why", short="Left out", lead=lead, blocks=blocks)
