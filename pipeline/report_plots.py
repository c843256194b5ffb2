"""Plots as small inline SVG, coloured by the page's own variables, so that they follow light and dark mode.

Bars use percentages for x and so stretch with the page while their text does not; curves have a fixed shape. Every plot
has a `<title>` that says in words what it shows.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from markupsafe import Markup

Estimate = tuple[float, float, float]
"""Mean, low end and high end of the interval."""


@dataclass(frozen=True, kw_only=True)
class Curve:
    """A line of a plot: `points` are (x, y); `css` names its colour; `dots` marks the points."""

    name: str
    css: str
    points: Sequence[tuple[float, float]]
    dots: bool = True


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


def legend(entries: Sequence[tuple[str, str]]) -> Markup:
    """List `(css, name)` of the series of a plot."""
    items = Markup("").join(Markup('<li><i class="key {}"></i>{}</li>').format(css, name) for css, name in entries)
    return Markup('<ul class="legend">{}</ul>').format(items)


def _tick(value: float, unit: str) -> str:
    return f"{100 * value:.0f}%" if unit == "percent" else f"{value:,.0f}"


def curves(
    lines: Sequence[Curve],
    title: str,
    *,
    x_label: str,
    y_label: str,
    x_unit: str = "count",
    diagonal: bool = False,
    x_max: float = 0.0,
    width: int = 460,
    height: int = 290,
) -> Markup:
    """Draw lines over an x axis from 0 and a y axis from 0 to 1, shown as percent; `diagonal` adds the line x = y."""
    left, right, top, bottom = 58, 22, 12, 46
    x_max = x_max or max((x for line in lines for x, _ in line.points), default=1.0) or 1.0
    place = lambda x, y: (  # noqa: E731
        left + (width - left - right) * x / x_max,
        height - bottom - (height - top - bottom) * min(max(y, 0.0), 1.0),
    )
    body = Markup("")
    for step in range(5):
        x, y = place(x_max * step / 4, step / 4)
        body += Markup('<line class="grid" x1="{}" x2="{}" y1="{y:.1f}" y2="{y:.1f}"/>').format(
            left, width - right, y=y
        )
        body += Markup('<text class="tick" text-anchor="end" x="{}" y="{:.1f}">{}</text>').format(
            left - 7, y + 4, _tick(step / 4, "percent")
        )
        body += Markup('<text class="tick" text-anchor="middle" x="{:.1f}" y="{}">{}</text>').format(
            x, height - bottom + 18, _tick(x_max * step / 4, x_unit)
        )
    body += Markup('<text class="axis" text-anchor="middle" x="{:.1f}" y="{}">{}</text>').format(
        (left + width - right) / 2, height - 8, x_label
    )
    body += Markup(
        '<text class="axis" text-anchor="middle" transform="translate(13 {:.1f}) rotate(-90)">{}</text>'
    ).format((top + height - bottom) / 2, y_label)
    if diagonal:
        (x1, y1), (x2, y2) = place(0, 0), place(x_max, 1)
        body += Markup('<line class="diagonal" x1="{:.1f}" y1="{:.1f}" x2="{:.1f}" y2="{:.1f}"/>').format(
            x1, y1, x2, y2
        )
    for line in lines:
        spots = [place(x, y) for x, y in line.points]
        path = " ".join(f"{x:.1f},{y:.1f}" for x, y in spots)
        body += Markup('<polyline class="line {}" points="{}"/>').format(line.css, path)
        if line.dots:
            for (x, y), (shown_x, shown_y) in zip(spots, line.points, strict=True):
                body += Markup(
                    '<circle class="dot {}" cx="{:.1f}" cy="{:.1f}" r="3.4"><title>{}: {:g}, {:.3g}</title></circle>'
                ).format(line.css, x, y, line.name, shown_x, shown_y)
    drawn = svg(body, title=title, css="curve", width="100%", height=height, box=f"0 0 {width} {height}")
    return drawn + legend([(line.css, line.name) for line in lines])


def boxes(marks: Sequence[dict[str, Any]], size_wh: tuple[int, int]) -> Markup:
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
