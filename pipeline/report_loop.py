"""How the run got there: human effort, mining, generation, what was left out, the dataset, its cost and its lineage."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from markupsafe import Markup

from tilth.pipeline.report_numbers import Numbers, capital, plain
from tilth.pipeline.report_parts import (
    PALETTE,
    Block,
    Figure,
    Fold,
    Pair,
    Section,
    Strip,
    Table,
    counts_table,
    facts_fold,
    some,
    steps_of,
)
from tilth.pipeline.report_pictures import Album, Draw
from tilth.pipeline.report_plots import Curve, Part, bars, curves, stacked


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
        "{} human actions in all: every accept, edit, draw, reject and confirmed-empty counts as one."
    ).format(numbers.show("human_actions", "count"))
    blocks += facts_fold(numbers, steps)
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


def mining(numbers: Numbers, draw: Draw, album: Album) -> Section:
    """Show what mining found and how precise it was by rank."""
    steps = steps_of(numbers, "mine")
    blocks: list[Block] = []
    for name in steps:
        base = f"steps.{name}.facts"
        key = first_key(numbers, base, "precision_by_rank", "precision_at", "precision_at_rank", "precision")
        blocks += some(_by_rank(numbers, key, name) if key else None)
    counts = [
        t
        for name in steps
        for part in ("by_category", "per_category", "found", "mined", "added_by_category")
        if (t := counts_table(numbers, f"steps.{name}.facts.{part}", f"Images mined by {name}", "category")) is not None
    ]
    if blocks and counts:
        blocks = [Pair(parts=[*blocks, *counts])]
    else:
        blocks += counts
    rows = album.rows(draw.groups("mined"))
    if rows:
        blocks.append(Strip(title="Mined from the corpus, with the labels they have now", rows=rows))
    lead = "Images found in the unlabelled corpus by asking for each category in words and by example."
    return Section(
        id="mining", title="What mining found", short="Mining", lead=lead, blocks=[*blocks, *facts_fold(numbers, steps)]
    )


def _by_rank(numbers: Numbers, key: str, name: str) -> Figure | None:
    found = numbers.get(key)
    lines = []
    if isinstance(found, Mapping) and found and all(str(k).isdigit() for k in found):
        found = {name: found}
    if not isinstance(found, Mapping):
        return None
    for number, (category, ranks) in enumerate(found.items()):
        points = _points(ranks)
        if points:
            css = PALETTE[number % len(PALETTE)]
            lines.append(Curve(name=plain(str(category)), css=css, points=points, dots=len(points) <= 20))
    if not lines:
        return None
    drawn = curves(lines, f"Precision of {name} by rank", x_label="images taken, best first", y_label="precision")
    return Figure(drawing=drawn, title="Share of the images taken that really show the category, by rank")


def _points(ranks: Any) -> list[tuple[float, float]]:
    if isinstance(ranks, Mapping):
        pairs = [(float(k), v["mean"] if isinstance(v, Mapping) else v) for k, v in ranks.items() if str(k).isdigit()]
    elif isinstance(ranks, list):
        pairs = [
            (p["rank"], p["precision"]) if isinstance(p, Mapping) else tuple(p)
            for p in ranks
            if isinstance(p, Mapping | list)
        ]
    else:
        return []
    return sorted((float(x), float(y)) for x, y in pairs if y is not None)


def generation(numbers: Numbers, draw: Draw, album: Album) -> Section:
    """Show which generated images were kept, and why the others fell."""
    steps = steps_of(
        numbers, "generate", "inpaint", "controlnet", "control", "lora", "adherence", "accept", "judge", "label_made"
    )
    blocks: list[Block] = []
    for name in steps:
        base = f"steps.{name}.facts"
        for fact in ("outcomes", "rejected", "rejected_by_reason", "fell", "dropped_by_reason", "reasons"):
            parts = parts_of(numbers, f"{base}.{fact}")
            if not parts:
                continue
            if (kept := first_key(numbers, base, "accepted", "kept")) and fact != "outcomes":
                parts.insert(
                    0, Part(name="accepted", css="c-final", value=float(numbers.get(kept)), shown=numbers.show(kept))
                )
            drawn = stacked(parts, f"{name}: accepted, and why the others fell")
            blocks.append(Figure(drawing=drawn, title=f"{capital(name)}: what was kept, and why the others fell"))
            break
    for strip, title in (("generated", "Generated and accepted"), ("fallen", "Generated and rejected, by reason")):
        if rows := album.rows(draw.groups(strip)):
            blocks.append(Strip(title=title, rows=rows))
    lead = "Generated images fill gaps of the training set. Each is checked before it counts; none enters the test set."
    return Section(
        id="generation",
        title="Generated images",
        short="Generated",
        lead=lead if blocks else "",
        blocks=[*blocks, *facts_fold(numbers, steps)],
    )


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


def dataset(numbers: Numbers) -> Section:
    """Count the dataset by state, source, split and category, and list its versions."""
    tables = [
        _counted(numbers, f"dataset.{part}", caption, first)
        for part, caption, first in (
            ("by_state", "By state of the labels", "state"),
            ("by_split", "By split", "split"),
            ("by_source", "By the step that brought them in", "step"),
            ("by_category", "By category", "category"),
        )
    ]
    blocks: list[Block] = [Pair(parts=some(*tables))] if any(tables) else []
    rows: list[list[str | Markup]] = [
        [
            numbers.show(f"dataset.versions.{n}.number", "count"),
            v["message"],
            v["time"].replace("T", " ").replace("Z", ""),
            ", ".join(v["tags"]) or "–",
        ]
        for n, v in enumerate(numbers.get("dataset.versions") or [])
    ]
    if rows:
        table = Table(
            caption="Each version can be opened, compared and gone back to",
            head=["version", "made by", "time (UTC)", "tags"],
            rows=rows[::-1],
            css="versions",
        )
        blocks.append(Fold(title="Versions of the dataset", parts=[table]))
    lead = Markup("{} images; {} more were left out and keep their reason.").format(
        numbers.show("dataset.samples", "count"), numbers.show("dataset.left_out", "count")
    )
    return Section(id="dataset", title="The dataset", short="Dataset", lead=lead, blocks=blocks)


def _counted(numbers: Numbers, key: str, caption: str, first: str) -> Table | None:
    counts = numbers.get(key)
    if not isinstance(counts, Mapping) or not counts:
        return None
    top = float(max(counts.values()))
    rows = [
        [
            plain(str(name)),
            bars([((value, value, value), "c-1")], f"{plain(str(name))}: {value}", top=top),
            numbers.show(f"{key}.{name}", "count"),
        ]
        for name, value in counts.items()
    ]
    return Table(caption=caption, head=[first, "", "images"], rows=rows, css="bars small")


def cost(numbers: Numbers) -> Section:
    """Show time and peak memory of each step."""
    seconds, memory = numbers.get("seconds") or {}, numbers.get("peak_rss_mb") or {}
    if not seconds:
        return Section(id="cost", title="Time and memory", short="Cost")
    longest, largest = max(seconds.values(), default=1.0), max(memory.values(), default=1.0)
    rows: list[list[str | Markup]] = []
    for name, value in seconds.items():
        peak = memory.get(name)
        rows.append(
            [
                name,
                bars([((value, value, value), "c-1")], f"{name}: {value:.0f} seconds", top=longest),
                numbers.show(f"seconds.{name}", "seconds"),
                bars([((peak, peak, peak), "c-2")], f"{name}: {peak:.0f} MB", top=largest) if peak is not None else "",
                numbers.show(f"peak_rss_mb.{name}", "mb"),
            ]
        )
    table = Table(caption="Each step", head=["step", "time", "", "peak memory", ""], rows=rows, css="bars small cost")
    return Section(
        id="cost",
        title="Time and memory",
        short="Cost",
        lead="Where the run spent its time, and how much memory it held at most.",
        blocks=[table],
    )


def lineage(numbers: Numbers, run_folder: Path) -> Section:
    """Say which weights, settings and seed made this."""
    models: dict[str, str] = {}
    users: dict[str, list[str]] = {}
    for step, record in (numbers.get("steps") or {}).items():
        for model, digest in (record.get("models") or {}).items():
            models[model] = digest
            users.setdefault(model, []).append(step)
    blocks: list[Block] = []
    if models:
        rows: list[list[str | Markup]] = [
            [name, Markup("<code>{}</code>").format(digest), ", ".join(users[name])]
            for name, digest in sorted(models.items())
        ]
        blocks.append(
            Table(
                caption="Models and the digests of their weights",
                head=["model", "digest", "used by"],
                rows=rows,
                css="wide",
            )
        )
    recipe = run_folder / "recipe.yaml"
    if recipe.exists():
        blocks.append(Fold(title="The recipe as it ran", text=recipe.read_text(encoding="utf-8")))
    blocks += facts_fold(numbers, list(numbers.get("steps") or {}))[:1]
    lead = (
        "Equal recipe, seed, weights and inputs give an equal dataset. Each label and each image leads back to these."
    )
    return Section(id="lineage", title="Lineage", short="Lineage", lead=lead, blocks=blocks)
