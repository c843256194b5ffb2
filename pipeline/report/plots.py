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


@dataclass(frozen=True, kw_only=True)
class Line:
    """A line of a chart: its name, its colour, its points in the units of the axes, and a number that the legend tells."""

    name: str
    css: str
    points: Sequence[tuple[float, float]]
    shown: Markup | None = None


WIDE, HIGH, LEFT, RIGHT, BELOW, ABOVE = 360.0, 230.0, 52.0, 20.0, 38.0, 8.0  # of a chart and its margins, in px


def lines(series: Sequence[Line], title: str, *, x: tuple[str, float, str], y: tuple[str, float, str]) -> Markup:
    """Draw lines over two axes that begin at 0, with a legend below.

    Args:
        series: The lines.
        title: What they show, in words.
        x: Name, end and form of the numbers of the axis, as in `("false positives", 0.2, ".0%")`.
        y: The same.
    """
    inside_w, inside_h = WIDE - LEFT - RIGHT, HIGH - BELOW - ABOVE
    at = lambda px, py: (LEFT + inside_w * min(px / x[1], 1), ABOVE + inside_h * (1 - min(py / y[1], 1)))  # noqa: E731
    body = Markup("")
    for part in (0, 0.25, 0.5, 0.75, 1):
        (x0, yy), (xx, y0) = at(0, part * y[1]), at(part * x[1], 0)
        body += Markup('<line class="grid" x1="{:.1f}" x2="{:.1f}" y1="{:.1f}" y2="{:.1f}"/>').format(
            x0, WIDE - RIGHT, yy, yy
        )
        body += Markup('<text class="tick" x="{:.1f}" y="{:.1f}" text-anchor="end">{}</text>').format(
            x0 - 5, yy + 4, format(part * y[1], y[2])
        )
        body += Markup('<text class="tick" x="{:.1f}" y="{:.1f}" text-anchor="middle">{}</text>').format(
            xx, y0 + 15, format(part * x[1], x[2])
        )
    body += Markup('<text class="tick" x="{:.1f}" y="{:.1f}" text-anchor="middle">{}</text>').format(
        LEFT + inside_w / 2, HIGH - 5, x[0]
    )
    body += Markup(
        '<text class="tick" transform="translate(10 {:.1f}) rotate(-90)" text-anchor="middle">{}</text>'
    ).format(ABOVE + inside_h / 2, y[0])
    for line in series:
        path = " ".join(
            f"{px:.1f},{py:.1f}" for px, py in (at(*point) for point in line.points if point[0] <= x[1] * 1.0001)
        )
        body += Markup('<polyline class="line {}" points="{}"><title>{}</title></polyline>').format(
            line.css, path, line.name
        )
    legend = Markup("").join(
        Markup('<li><i class="key {}"></i>{}</li>').format(
            one.css, Markup("{} <b>{}</b>").format(one.name, one.shown) if one.shown else one.name
        )
        for one in series
    )
    drawn = svg(body, title=title, css="curve", width="100%", height=HIGH, box=f"0 0 {WIDE:g} {HIGH:g}")
    return Markup('{}<ul class="legend">{}</ul>').format(drawn, legend)


def around_zero(points: Sequence[tuple[float, Estimate]], title: str, *, x: str, y: str) -> Markup:
    """Draw a line through estimates with their intervals, above and below a line at 0; the first point is at x = 0.

    Args:
        points: x and the estimate, in the order of x.
        title: What it shows, in words.
        x: Name of the axis.
        y: The same, of shares that are written in points of a hundred.
    """
    ends = [end for _, estimate in points for end in estimate]
    low, high = min(0.0, *ends), max(0.0, *ends)
    span, widest = high - low or 1.0, max(each for each, _ in points) or 1.0
    inside_w, inside_h = WIDE - LEFT - RIGHT, HIGH - BELOW - ABOVE
    at_x = lambda px: LEFT + inside_w * px / widest  # noqa: E731
    at_y = lambda py: ABOVE + inside_h * (1 - (py - low) / span)  # noqa: E731
    body = Markup("")
    for py in sorted({low, 0.0, high}):
        body += Markup('<line class="grid" x1="{:.1f}" x2="{:.1f}" y1="{:.1f}" y2="{:.1f}"/>').format(
            LEFT, WIDE - RIGHT, at_y(py), at_y(py)
        )
        body += Markup('<text class="tick" x="{:.1f}" y="{:.1f}" text-anchor="end">{:+.1f}</text>').format(
            LEFT - 5, at_y(py) + 4, 100 * py
        )
    for px, (mean, down, up) in points:
        body += Markup('<line class="whisker" x1="{:.1f}" x2="{:.1f}" y1="{:.1f}" y2="{:.1f}"/>').format(
            at_x(px), at_x(px), at_y(down), at_y(up)
        )
        body += Markup('<circle class="dot c-final" cx="{:.1f}" cy="{:.1f}" r="3.5"/>').format(at_x(px), at_y(mean))
        body += Markup('<text class="tick" x="{:.1f}" y="{:.1f}" text-anchor="middle">{:g}</text>').format(
            at_x(px), HIGH - BELOW + 15, px
        )
    path = " ".join(f"{at_x(px):.1f},{at_y(mean):.1f}" for px, (mean, _, _) in points)
    body += Markup('<polyline class="line c-final" points="{}"/>').format(path)
    body += Markup('<text class="tick" x="{:.1f}" y="{:.1f}" text-anchor="middle">{}</text>').format(
        LEFT + inside_w / 2, HIGH - 5, x
    )
    body += Markup(
        '<text class="tick" transform="translate(10 {:.1f}) rotate(-90)" text-anchor="middle">{}</text>'
    ).format(ABOVE + inside_h / 2, y)
    return svg(body, title=title, css="curve", width="100%", height=HIGH, box=f"0 0 {WIDE:g} {HIGH:g}")


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
