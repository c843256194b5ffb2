"""What a protocol found, as one HTML page that needs nothing else, with the pictures of which both stages are most wrong."""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from markupsafe import Markup

from tilth.data.files import write_beside
from tilth.images import Image
from tilth.pipeline.protocols.rates import NUMBERS
from tilth.pipeline.protocols.table import SHARES, TITLES, left_out, short
from tilth.pipeline.protocols.table import show as plain
from tilth.pipeline.report.page import TEMPLATES
from tilth.pipeline.report.parts import Block, Note, Section, Strip, Table
from tilth.pipeline.report.pictures import Picture, Row, thumbnail
from tilth.pipeline.report.plots import bars

Facts = Mapping[str, Any]
Thumbs = dict[str, Picture]
HEADLINES = {
    "two-stage": "Both stages beside the first alone",
    "flips": "The same images under other policies",
    "pairs": "Images in which one thing is replaced",
    "injection": "Words that are to mislead",
}
SCALE = Markup('<span class="scale"><i>0</i><i>100 %</i></span>')


def show(share: Any) -> str:
    """Write a share whose interval is not torn apart at the end of a line."""
    return plain(share).replace(", ", ",\u00a0")


def thumb(file: str, image: Image) -> Picture:
    """Make a small picture of an image, veiled whatever it shows."""
    return Picture(
        uri=thumbnail(image), alt=f"image {file}", caption="", marks=Markup(""), veiled=True,
        size_wh=(image.shape[1], image.shape[0]),
    )  # fmt: skip


def write_page(path: Path, facts: Facts, thumbs: Thumbs, date: str) -> None:
    """Write the page.

    Args:
        path: Of the file.
        facts: What `judge` returned.
        thumbs: Pictures by name of the image.
        date: Of the day.
    """
    from jinja2 import Environment, FileSystemLoader, StrictUndefined

    environment = Environment(
        loader=FileSystemLoader(TEMPLATES), autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True
    )  # fmt: skip
    found = [section for section in (_subsets(facts) if "subsets" in facts else [_decisions(facts)]) if section.blocks]
    page = environment.get_template("protocol.html.j2").render(
        protocol=facts["protocol"], title=HEADLINES[facts["protocol"]], bundle=facts["bundle"], set=Path(facts["set"]).name,
        date=date, sections=[*found, *_more(facts, thumbs)],
    )  # fmt: skip
    write_beside(path, page)


def _bar(share: Any, name: str) -> Markup | str:
    if not isinstance(share, Mapping) or share["mean"] is None or None in share.get("ci95", ()):
        return ""
    low, high = share.get("ci95", (share["mean"],) * 2)
    return bars([((share["mean"], low, high), "c-final")], f"{name}: {show(share)}", top=1.0)


def _subsets(facts: Facts) -> list[Section]:
    sections = []
    for name, some in facts["subsets"].items():
        head: list[str | Markup] = ["", Markup("F1 {}").format(SCALE), *(TITLES.get(one, one) for one in NUMBERS)]
        rows: list[list[str | Markup]] = [
            [short(judge), _bar(told["f1"], judge), *(show(told[one]) for one in NUMBERS)]
            for judge, told in some["judges"].items()
        ]
        rows += [
            [f"full − {short(judge)}", "", *(show(told[one]) for one in NUMBERS)]
            for judge, told in some["full_minus"].items()
        ]
        caption = f"{some['images']} images, {some['unsafe']} of them unsafe"
        sections.append(
            Section(
                id=name.replace(" ", "").replace("+", "-"), title=name.capitalize(), short=name.capitalize(),
                blocks=[Table(caption=caption, head=head, rows=rows, css="bars")],
            )
        )  # fmt: skip
    return sections


def _decisions(facts: Facts) -> Section:
    names = SHARES[facts["protocol"]]
    rows: list[list[str | Markup]] = [
        [short(judge), _bar(told[names[0]], judge), *(show(told[name]) for name in names)]
        for judge, told in facts["judges"].items()
    ]
    titles = [name.replace("_", " ") for name in names]
    head: list[str | Markup] = ["", Markup("{} {}").format(titles[0], SCALE), *titles]
    blocks: list[Block] = [Table(caption="By judge", head=head, rows=rows, css="bars")]
    full = facts["judges"]["full"]
    if "per_policy" in full:
        own: list[list[str | Markup]] = [
            [policy, *(f"{show(told[name])} of {told[name]['cases']}" for name in names)]
            for policy, told in full["per_policy"].items()
        ]
        blocks.append(Table(caption="Both stages, by policy", head=["policy", *titles], rows=own))
    if "per_category" in full:
        own = [[what, show(told), str(told["pairs"])] for what, told in full["per_category"].items()]
        blocks.append(Table(caption="Both stages, by what differs", head=["", "pairs right", "pairs"], rows=own))
    return Section(id="decisions", title="Decisions", short="Decisions", blocks=blocks)


def _more(facts: Facts, thumbs: Thumbs) -> list[Section]:
    """Show categories, times, the hardest images, and what was not judged."""
    sections = []
    if told := facts.get("per_category"):
        judges = [*facts["latency_ms"]]
        rows: list[list[str | Markup]] = [
            [name, str(one["images"]), *(show(one["recall"][judge]) for judge in judges)] for name, one in told.items()
        ]
        head = ["category", "images", *map(short, judges)]
        blocks: list[Block] = [Table(caption="Images that are flagged, for whatever reason", head=head, rows=rows)]
        sections.append(Section(id="categories", title="By category", short="Categories", blocks=blocks))
    if times := facts.get("latency_ms"):
        rows = [[short(who), f"{one['p50']:.1f}", f"{one['p99']:.1f}"] for who, one in times.items() if "p50" in one]
        blocks = [Table(caption="Milliseconds an image, one at a time", head=["", "p50", "p99"], rows=rows)]
        sections.append(Section(id="time", title="Time", short="Time", blocks=blocks))
    if hardest := facts.get("hardest"):
        groups = {kind: [one for one in hardest if one["is"] == kind] for kind in ("missed", "false alarm")}
        shown = [Row(title=kind, pictures=_pictures(some, thumbs)) for kind, some in groups.items()]
        if some := [row for row in shown if row.pictures]:
            lead = "Of which both stages are surest and wrong."
            blocks = [Strip(title="The hardest images", rows=some)]
            sections.append(Section(id="hardest", title="Errors", short="Errors", lead=lead, blocks=blocks))
    if notes := left_out(facts):
        blocks = [Note(text=line, tone="bad") for line in "\n".join(notes).splitlines()]
        sections.append(Section(id="left-out", title="What was not judged", short="Not judged", blocks=blocks))
    return sections


def _pictures(some: Sequence[Facts], thumbs: Thumbs) -> tuple[Picture, ...]:
    return tuple(
        replace(
            thumbs[one["file"]],
            caption=f"{', '.join(one['categories'] or one['said'])} {one['score']:.2f}, stage {one['stage']}",
        )
        for one in some
        if one["file"] in thumbs
    )
