"""What the run leaves behind: the dataset, what it cost in time and memory, and where everything comes from."""

from collections.abc import Mapping, Sequence
from pathlib import Path

from markupsafe import Markup

from tilth.pipeline.report.numbers import Numbers
from tilth.pipeline.report.parts import Block, Figure, Fold, Pair, Section, Table, counted_bars, facts_table, some
from tilth.pipeline.report.plots import Line, bars, lines


def dataset(numbers: Numbers) -> Section:
    """Count the dataset by state, source, split and category, and list its versions."""
    tables = [
        counted_bars(numbers, f"dataset.{part}", caption, first)
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


def training(numbers: Numbers) -> Section:
    """Say what each model learned from."""
    columns = (
        ("train_images", "images"),
        ("reviewed_images", "seen by a person"),
        ("made_images", "generated"),
        ("val_images", "held back"),
        ("learns", "weights that learn"),
        ("steps", "steps"),
    )
    rows: list[list[str | Markup]] = []
    charts: list[Block] = []
    for name, step in (numbers.get("steps") or {}).items():
        facts = step.get("facts") or {}
        trained = (
            [""]
            if "train_images" in facts
            else [k for k, v in facts.items() if isinstance(v, dict) and "train_images" in v]
        )
        for part in trained:
            base = f"steps.{name}.facts.{part}".rstrip(".")
            shown = [numbers.show(f"{base}.{fact}", "count") for fact, _ in columns]
            rows.append([f"{name}: {part}" if part else name, *shown])
            charts += _curves(f"{name}: {part}" if part else name, numbers.get(f"{base}.curve") or [])
    head = ["model", *(words for _, words in columns)]
    table = Table(caption="Training sets", head=head, rows=rows)
    lead = "How many images each model learned from, and how many of them a person had looked at."
    blocks: list[Block] = [table] if rows else []
    if charts:
        blocks.append(
            Fold(
                title="How each model learned", parts=[Pair(parts=charts[i : i + 2]) for i in range(0, len(charts), 2)]
            )
        )
    return Section(id="training", title="What each model learned from", short="Training", lead=lead, blocks=blocks)


def _curves(name: str, curve: Sequence[Mapping[str, float]]) -> list[Block]:
    """Draw the losses of a training, and how good the model was on held-back images meanwhile."""
    if len(curve) < 2:
        return []
    x = ("steps", curve[-1]["step"], ",.0f")
    found: list[Block] = []
    for title, top, wanted in (
        ("loss", max(max(p["loss"], p["val_loss"]) for p in curve), {"loss": "training images", "val_loss": "held-back images"}),
        ("quality", 1.0, {"val_quality": "mean average precision on held-back images"}),
    ):  # fmt: skip
        series = [
            Line(name=words, css=f"c-{i}", points=[(p["step"], p[key]) for p in curve if key in p])
            for i, (key, words) in enumerate(wanted.items(), 1) if any(key in p for p in curve)
        ]  # fmt: skip
        if series:
            drawing = lines(series, f"{title} of {name} by steps", x=x, y=(title, top or 1.0, ".2f"))
            found.append(Figure(drawing=drawing, title=f"{name}: {title}"))
    return found


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
    tables = some(*(facts_table(numbers, step) for step in numbers.get("steps") or {}))
    blocks += [Fold(title="Everything that every step reported", parts=tables)] if tables else []
    lead = (
        "Equal recipe, seed, weights and inputs give an equal dataset. Each label and each image leads back to these."
    )
    return Section(id="lineage", title="Lineage", short="Lineage", lead=lead, blocks=blocks)
