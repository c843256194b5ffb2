"""Plots as small inline SVG, coloured by the page's own variables, so that they follow light and dark mode.

Bars use percentages for x, so they stretch with the page while their ends do not. Every plot has a `<title>` that says
in words what it shows.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from markupsafe import Markup

Estimate = tuple[float, float, float]
"""Mean, low end and high end of the interval."""


@dataclass(frozen=True, kw_only=True)
class Part:
    """A part of a stacked bar; `shown` is its number as the page writes it."""

    name: str
    css: str
    value: float
    shown: Markup


def svg(body: Markup, *, title: str, css: str, width: str, height: float, box: str = "") -> Markup:
    """Wrap a drawing."""
    view = Markup(' viewBox="{}"').format(box) if box else Markup("")
    return Markup('<svg class="{}" role="img" width="{}" height="{:g}"{}><title>{}</title>{}</svg>').format(
        css, width, height, view, title, body
    )


def bars(
    estimates: Sequence[tuple[Estimate | None, str]], title: str, *, top: float = 1.0, thick: float = 12
) -> Markup:
    """Draw horizontal bars below each other, each with the whisker of its interval, on a scale from 0 to `top`.

    Args:
        estimates: The estimate and the colour of each bar; None leaves its place empty.
        title: What it shows, in words.
        top: Value of a full bar.
        thick: Pixels of a bar.
    """
    body, gap = Markup(""), 3.0
    for number, (estimate, css) in enumerate(estimates):
        y = number * (thick + gap)
        body += Markup('<rect class="track" x="0" y="{:g}" width="100%" height="{:g}" rx="2.5"/>').format(y, thick)
        if estimate is None:
            continue
        mean, low, high = (100 * min(max(v / top, 0.0), 1.0) if top > 0 else 0.0 for v in estimate)
        body += Markup('<rect class="fill {}" x="0" y="{:g}" width="{:.2f}%" height="{:g}" rx="2.5"/>').format(
            css, y, mean, thick
        )
        if high > low:
            body += _whisker(low, high, y + thick / 2, thick / 4)
    return svg(body, title=title, css="bar", width="100%", height=len(estimates) * (thick + gap) - gap)


def _whisker(low: float, high: float, middle: float, half: float) -> Markup:
    line = Markup('<line class="whisker" x1="{:.2f}%" x2="{:.2f}%" y1="{:g}" y2="{:g}"/>')
    ends = (line.format(end, end, middle - half, middle + half) for end in (low, high))
    return line.format(low, high, middle, middle) + Markup("").join(ends)


def stacked(parts: Sequence[Part], title: str, *, height: float = 26) -> Markup:
    """Draw parts of a whole as one bar with a legend below that gives each number."""
    whole = sum(part.value for part in parts)
    body, x = Markup(""), 0.0
    for part in parts:
        width = 100 * part.value / whole if whole else 0.0
        body += Markup(
            '<rect class="part {}" x="{:.3f}%" y="0" width="{:.3f}%" height="{:g}"><title>{}</title></rect>'
        ).format(part.css, x, width, height, part.name)
        x += width
    legend = Markup("").join(
        Markup('<li><i class="key {}"></i>{} <b>{}</b></li>').format(part.css, part.name, part.shown) for part in parts
    )
    drawn = svg(body, title=title, css="stack", width="100%", height=height)
    return Markup('{}<ul class="legend">{}</ul>').format(drawn, legend)


def boxes(marks: Sequence[Mapping[str, Any]], size_wh: tuple[int, int]) -> Markup:
    """Draw boxes over a picture: each mark has `box` (xyxy pixels of the full image), `css` and `name`."""
    width, height = size_wh
    body = Markup("")
    for mark in marks:
        x0, y0, x1, y1 = mark["box"]
        body += Markup(
            '<rect class="mark {}" x="{:.1f}" y="{:.1f}" width="{:.1f}" height="{:.1f}"><title>{}</title></rect>'
        ).format(mark["css"], x0, y0, x1 - x0, y1 - y0, mark["name"])
    return Markup(
        '<svg class="marks" aria-hidden="true" viewBox="0 0 {} {}" preserveAspectRatio="none">{}</svg>'
    ).format(width, height, body)
