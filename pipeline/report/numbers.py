"""Numbers on the page: each is looked up in `summary.json` by its key, and carries that key with it.

A key is a path with dots, such as `final.f1.ci95.0`. Names of steps have dots of their own, so at every level the
longest name that fits is taken first.
"""

import re
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from markupsafe import Markup

NARROW = "\u202f"  # between a number and its unit, so that they never part
RATIOS = re.compile(
    r"(^|[._])(recall|precision|f1|map|map50|ap|ap50|auc|auroc|accuracy|share|rate|fpr|ece|iou|agreement|coverage|fraction|ratio)"
)
CHARTED = ("calibration", "curve", "pr_curve", "history", "losses", "matrix")  # long lists that plots show, not tables


def look_up(document: Any, key: str) -> Any:
    """Return the value at a key, or None when there is none.

    >>> look_up({"steps": {"baseline.detector": {"facts": {"epochs": 3}}}}, "steps.baseline.detector.facts.epochs")
    3
    """
    if not key:
        return document
    parts = key.split(".")
    if isinstance(document, Sequence) and not isinstance(document, str):
        if parts[0].isdigit() and int(parts[0]) < len(document):
            return look_up(document[int(parts[0])], ".".join(parts[1:]))
        return None
    if not isinstance(document, Mapping):
        return None
    for end in range(len(parts), 0, -1):
        name = ".".join(parts[:end])
        if name in document and (found := look_up(document[name], ".".join(parts[end:]))) is not None:
            return found
    return None


def unit_of(key: str, value: float) -> str:
    """Guess how a number should be written from the name that its step gave it."""
    name = key.rpartition(".")[2] if not key.rpartition(".")[2].isdigit() else key
    if key.startswith("seconds.") or name.endswith(("_s", "seconds")):
        return "seconds"
    if key.startswith("peak_rss_mb.") or name.endswith("_mb"):
        return "mb"
    for ending, unit in (("_ms", "ms"), ("_per_s", "per_s"), ("hours", "hours")):
        if name.endswith(ending):
            return unit
    if isinstance(value, int):
        return "count"
    near = ".".join(key.split(".")[-3:])
    return "percent" if 0 <= value <= 1 and RATIOS.search(near) else "number"


def spell(value: Any, unit: str, digits: int = 1) -> str:
    r"""Write a value as people read it.

    >>> spell(0.7834, "percent"), spell(1234, "count"), spell(3725, "seconds"), spell(True, "count")
    ('78.3\u202f%', '1,234', '1\u202fh 2\u202fmin', 'yes')
    """
    if isinstance(value, bool):
        return "yes" if value else "no"
    if not isinstance(value, int | float):
        return str(value)
    if unit == "percent":
        return f"{round(100 * value, digits) + 0.0:.{digits}f}{NARROW}%"  # no minus before a zero
    if unit == "seconds":
        return duration(value)
    if unit == "mb":
        return f"{value / 1024:.1f}{NARROW}GB" if value >= 1024 else f"{value:.0f}{NARROW}MB"
    if unit in ("ms", "hours", "per_s"):
        after = {"ms": "ms", "hours": "h", "per_s": "/s"}[unit]
        return f"{value:,.{0 if value >= 100 else 1}f}{NARROW}{after}"
    if unit == "count" or float(value).is_integer():
        return f"{int(value):,}"
    return f"{value:,.1f}" if abs(value) >= 100 else f"{value:.3g}" if abs(value) < 1e6 else f"{value:,.0f}"


def duration(seconds: float) -> str:
    """Write a time in at most two units."""
    if seconds < 10:
        return f"{seconds:.1f}{NARROW}s"
    if seconds < 60:
        return f"{seconds:.0f}{NARROW}s"
    minutes, rest = divmod(round(seconds), 60)
    if minutes < 60:
        return f"{minutes}{NARROW}min {rest}{NARROW}s" if rest else f"{minutes}{NARROW}min"
    hours, minutes = divmod(round(seconds / 60), 60)
    return f"{hours}{NARROW}h {minutes}{NARROW}min" if minutes else f"{hours}{NARROW}h"


def middle(estimate: Mapping[str, Any]) -> str:
    """Return under which name an estimate has its middle: steps say `mean`, and benchmarks `value`."""
    return "value" if "value" in estimate else "mean"


class Numbers:
    """The summary of a run, and how its values are put on the page."""

    def __init__(self, summary: Mapping[str, Any]) -> None:
        self.summary = summary

    def get(self, key: str) -> Any:
        """Return a value, or None."""
        return look_up(self.summary, key)

    def has(self, key: str) -> bool:
        """Tell whether there is such a value."""
        return self.get(key) is not None

    def show(self, key: str, unit: str = "", digits: int = 1) -> Markup:
        """Write a value with its key, or a dash when there is none."""
        value = self.get(key)
        if value is None:
            return Markup('<span class="none">–</span>')
        unit = unit or (unit_of(key, value) if isinstance(value, int | float) else "text")
        return Markup('<data class="n" data-key="{}" data-as="{}" value="{}">{}</data>').format(
            key, unit, value, spell(value, unit, digits)
        )

    def estimate(self, key: str, unit: str = "percent", digits: int = 1) -> Markup:
        """Write `{mean, ci95}`, or `{value, ci95}` of a benchmark, as a value with its interval; a plain number as it is."""
        value = self.get(key)
        if not isinstance(value, Mapping):
            return self.show(key, unit, digits)
        name = middle(value)
        shown = self.show(f"{key}.{name}", unit, digits)
        if value.get(name) is None or None in (value.get("ci95") or [None]):
            return shown
        low, high = self.show(f"{key}.ci95.0", unit, digits), self.show(f"{key}.ci95.1", unit, digits)
        return Markup('{} <span class="ci">{} to {}</span>').format(shown, low, high)

    def point(self, key: str) -> tuple[float, float, float] | None:
        """Return `(mean, low, high)` of an estimate; the interval of a plain number is the number."""
        value = self.get(key)
        if isinstance(value, bool) or value is None:
            return None
        if isinstance(value, int | float):
            return float(value), float(value), float(value)
        if not isinstance(value, Mapping) or not isinstance(value.get(middle(value)), int | float):
            return None
        mean = float(value[middle(value)])
        low, high = value.get("ci95") or (None, None)
        return (mean, mean, mean) if low is None or high is None else (mean, float(low), float(high))

    def leaves(self, key: str, depth: int = 4, most: int = 400) -> Iterator[tuple[str, str]]:
        """Yield `(key, label)` of every single value below a key, at most `most`, in the order they were reported."""
        for number, found in enumerate(_leaves(self.get(key), key, "", depth)):
            if number >= most:
                return
            yield found


def _leaves(value: Any, key: str, label: str, depth: int) -> Iterator[tuple[str, str]]:
    if isinstance(value, Mapping):
        for name, below in value.items():
            if depth > 0 and not (isinstance(below, Sequence) and name in CHARTED):
                yield from _leaves(below, f"{key}.{name}", f"{label} › {name}" if label else str(name), depth - 1)
    elif isinstance(value, Sequence) and not isinstance(value, str):
        if len(value) <= 4 and not any(isinstance(v, Mapping) for v in value):
            for number, below in enumerate(value):
                yield from _leaves(below, f"{key}.{number}", f"{label} [{number + 1}]", depth - 1)
    elif value is not None and label:
        yield key, label


def plain(name: str) -> str:
    r"""Write the name of a fact as words.

    >>> plain("recall_at_fpr05"), plain("human_actions")
    ('recall at 5\u202f% false positives', 'human actions')
    """
    return NAMES.get(name, name.replace("_", " "))


def capital(text: str) -> str:
    """Begin a sentence, but leave `mAP` and its like alone.

    >>> capital("by style"), capital("mAP at IoU 0.50")
    ('By style', 'mAP at IoU 0.50')
    """
    return text if text[1:2].isupper() else text[:1].upper() + text[1:]


NAMES = {
    "recall_at_fpr05": f"recall at 5{NARROW}% false positives",
    "recall_at_fpr01": f"recall at 1{NARROW}% false positives",
    "recall_at_fpr02": f"recall at 2{NARROW}% false positives",
    "recall_at_fpr10": f"recall at 10{NARROW}% false positives",
    "f1": "F1",
    "map50": "mAP at IoU 0.50",
    "ap50": "AP at IoU 0.50",
    "map": "mAP at IoU 0.50 to 0.95",
    "auroc": "area under the ROC curve",
    "average_precision": "average precision of unsafe images",
    "ece": "calibration error (ECE)",
    "confirmed_empty": "confirmed empty",
    "n_images": "images",
    "sealed": "copies of sealed test images",
}
