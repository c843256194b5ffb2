"""How every page looks: its frame, the way with its nine stations, and blocks of HTML made of templates that escape what they are given."""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import quote, urlencode

from markupsafe import Markup
from nicegui import ui

from tilth.pipeline.console.commands import Command

if TYPE_CHECKING:
    from jinja2 import Environment

TEMPLATES = Path(__file__).parent / "templates"
WAY = (
    ("folder", "Folder"),
    ("policy", "Policy"),
    ("recipe", "Recipe"),
    ("plan", "Plan"),
    ("run", "Run"),
    ("pictures", "Pictures"),
    ("review", "Review"),
    ("model", "Compare"),
    ("use", "In use"),
)
BEFORE = ("folder", "policy", "recipe", "plan")  # a run has begun


@cache
def _environment() -> "Environment":
    from jinja2 import Environment, FileSystemLoader, StrictUndefined

    made = Environment(
        loader=FileSystemLoader(TEMPLATES),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    made.globals.update(to=to, run_at=run_at)
    made.filters.update(share=share, short_s=short_s)
    return made


def render(template: str, **facts: Any) -> str:
    """Make HTML of a template; every value is escaped."""
    return _environment().get_template(f"{template}.html.j2").render(**facts)


def block(template: str, **facts: Any) -> ui.html:
    """Put a template on the page."""
    return ui.html(render(template, **facts), sanitize=False)  # its values are escaped already


def to(path: str, **query: Any) -> str:
    """Write an address; what is empty is left out."""
    told = urlencode({key: value for key, value in query.items() if value not in ("", None, [])}, doseq=True)
    return f"{path}?{told}" if told else path


def run_at(name: str, place: str = "") -> str:
    """Write the address of a run's page."""
    return f"/run/{quote(name)}{'/' + place if place else ''}"


def share(value: Any) -> str:
    """Write a part of one in percent, with its interval.

    >>> share({"mean": 0.9259, "ci95": [0.8214, 1.0]}), share({"mean": None})
    ('92.6 % [82.1, 100.0]', '–')
    """
    if not isinstance(value, Mapping) or value.get("mean") is None:
        return "–"
    ends = [end for end in value.get("ci95") or () if end is not None]
    interval = f" [{100 * ends[0]:.1f}, {100 * ends[1]:.1f}]" if len(ends) == 2 else ""
    return f"{100 * float(value['mean']):.1f} %{interval}".replace("-", "−")


def short_s(seconds: Any) -> str:
    """Write how long something takes.

    >>> short_s(0.4), short_s(75), short_s(7300), short_s(None)
    ('0.4 s', '1 min 15 s', '2 h 1 min', '')
    """
    if seconds is None:
        return ""
    whole = float(seconds)
    if whole < 10:
        return f"{whole:.1f} s"
    if whole < 60:
        return f"{whole:.0f} s"
    if whole < 3600:
        return f"{whole // 60:.0f} min {whole % 60:.0f} s"
    return f"{whole // 3600:.0f} h {whole % 3600 // 60:.0f} min"


def stations(at: str, run: str, asked: Mapping[str, str]) -> list[dict[str, Any]]:
    """Return the stations of the way, each with where it leads, empty where nobody can go yet."""
    here = next((n for n, (key, _) in enumerate(WAY) if key == at), -1)
    rows = []
    for number, (key, title) in enumerate(WAY):
        if key == "use":
            link = "/use"
        elif run:
            link = "" if key in BEFORE else run_at(run, "" if key == "run" else key)
        else:
            known = number < here or (key == "folder")
            link = to("/new" if key == "folder" else f"/{key}", **asked) if known else ""
        past = number < here and key != "use"
        rows.append({"key": key, "title": title, "link": link, "now": key == at, "past": past, "number": number + 1})
    return rows


@contextmanager
def frame(title: str, *, at: str = "", run: str = "", asked: Mapping[str, str] | None = None) -> Iterator[None]:
    """Put the frame of a page around what follows.

    Args:
        title: Of the page, its only first heading.
        at: Key of the station, as in `WAY`; empty where the page is none.
        run: Name of the run that the page is about.
        asked: Query that later stations of the way need.
    """
    ui.page_title(f"{title} · Tilth")
    ui.add_head_html(f"<style>{_file('console.css')}</style><script>{_file('console.js')}</script>")
    block("top", title=title, stations=stations(at, run, asked or {}) if at else [], run=run)
    with ui.element("div").props("id=main tabindex=-1"):
        yield


def document(title: str, *parts: str, at: str = "", run: str = "") -> str:
    """Make a whole page of HTML, for where nothing on it changes: it is drawn without waiting for the scripts of the others.

    Args:
        title: See `frame`.
        parts: Blocks that were rendered.
        at: See `frame`.
        run: See `frame`.
    """
    top = render("top", title=title, stations=stations(at, run, {}) if at else [], run=run)
    body = Markup("").join(Markup(part) for part in parts)
    style, script = Markup(_file("console.css")), Markup(_file("console.js"))  # files of ours
    return render("document", title=title, top=Markup(top), body=body, style=style, script=script)


@cache
def _file(name: str) -> str:
    return (TEMPLATES / name).read_text(encoding="utf-8")


def same(*commands: Command, where: str = "On the command line") -> ui.html:
    """Show the command lines that do what the page does."""
    return ui.html(same_text(*commands, where=where), sanitize=False)


def same_text(*commands: Command, where: str = "On the command line") -> str:
    """Make the HTML of `same`."""
    return render("same", lines=[command.line for command in commands], where=where)


def problem(text: str) -> ui.html:
    """Say what is wrong, a line each."""
    return block("problem", lines=text.splitlines())
