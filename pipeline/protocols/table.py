"""What a protocol found, as tables for a terminal."""

from collections.abc import Mapping, Sequence
from typing import Any

from tilth.pipeline.protocols.rates import NUMBERS
from tilth.pipeline.protocols.said import FULL

Facts = Mapping[str, Any]
LONGEST = 41  # name of a judge
TITLES = {"balanced_accuracy": "balanced acc.", "fpr": "FPR", "f1": "F1"}
SHARES = {"pairs": ("pairs_right",), "injection": ("injection_flips", "let_through"), "flips": ("flips_right", "spill")}


def show(share: Any) -> str:
    """Write a share with its interval in percent.

    >>> show({"mean": 0.9333, "ci95": [0.9, 0.95]}), show({"mean": None, "ci95": [None, None]})
    ('93.3 [90.0, 95.0]', '–')
    >>> show({"mean": -0.01, "ci95": [-0.02, 0.0]})
    '−1.0 [−2.0, 0.0]'
    """
    if not isinstance(share, Mapping) or share["mean"] is None:
        return "–"
    mean = float(share["mean"])
    ends = [100 * end for end in share.get("ci95", ()) if end is not None]
    told = f"{100 * mean:.1f}" + (f" [{ends[0]:.1f}, {ends[1]:.1f}]" if ends else "")
    return told.replace("-", "−")


def columns(rows: Sequence[Sequence[str]]) -> str:
    """Put cells below each other: the first column to the left, the others to the right."""
    widths = [max(len(row[i]) for row in rows) for i in range(len(rows[0]))]
    lines = []
    for row in rows:
        cells = [row[0].ljust(widths[0]), *(cell.rjust(width) for cell, width in zip(row[1:], widths[1:], strict=True))]
        lines.append("  ".join(cells).rstrip())
    return "\n".join(lines)


def short(name: str) -> str:
    """Keep the end of a long name.

    >>> short("Falconsai/nsfw_image_detection@04367978d3474804f6fb3c4a4f7e7b1e2e0ee6a5")
    '…04367978d3474804f6fb3c4a4f7e7b1e2e0ee6a5'
    """
    return name if len(name) <= LONGEST else "…" + name[1 - LONGEST :]


def table(facts: Facts) -> str:
    """Write everything that a person wants to see at once; percent, with 95 % intervals."""
    blocks = [f"{facts['protocol']}: {facts['bundle']} on {facts['set']}; percent, with 95 % intervals"]
    blocks += two_stage(facts) if facts["protocol"] == "two-stage" else shares(facts)
    blocks += left_out(facts)
    return "\n\n".join(blocks)


def two_stage(facts: Facts) -> list[str]:
    """Write the tables of the whole evaluation."""
    blocks = []
    for name, some in facts["subsets"].items():
        head = [f"{name} ({some['images']}, {some['unsafe']} unsafe)", *(TITLES.get(n, n) for n in NUMBERS)]
        rows = [[short(judge), *(show(told[n]) for n in NUMBERS)] for judge, told in some["judges"].items()]
        rows += [
            [f"{FULL} − {short(judge)}", *(show(told[n]) for n in NUMBERS)]
            for judge, told in some["full_minus"].items()
        ]
        blocks.append(columns([head, *rows]))
    judges = [*facts["latency_ms"]]
    head = ["flagged of each category", "images", *map(short, judges)]
    rows = [
        [name, str(told["images"]), *(show(told["recall"][judge]) for judge in judges)]
        for name, told in facts["per_category"].items()
    ]
    if rows:
        blocks.append(columns([head, *rows]))
    times = [
        [short(judge), f"{told['p50']:.1f}", f"{told['p99']:.1f}"] if "p50" in told else [short(judge), "–", "–"]
        for judge, told in facts["latency_ms"].items()
    ]
    blocks.append(columns([["ms an image, one at a time", "p50", "p99"], *times]))
    if decided := facts["decided_by"]:
        blocks.append(
            "decided by " + ", ".join(f"{who[:-1]} {who[-1]}: {100 * part:.1f} %" for who, part in decided.items())
        )
    return blocks


def shares(facts: Facts) -> list[str]:
    """Write the tables of a protocol that compares decisions."""
    names, flips = SHARES[facts["protocol"]], facts["protocol"] == "flips"
    rows = [["", *(name.replace("_", " ") for name in names), *([] if flips else ["pairs"])]]
    for judge, told in facts["judges"].items():
        cells = [f"{show(told[name])} of {told[name]['cases']}" if flips else show(told[name]) for name in names]
        rows.append([short(judge), *cells, *([] if flips else [str(told["pairs"])])])
        if flips and judge == FULL:
            for policy, own in told["per_policy"].items():
                rows.append([f"  {policy}", *(f"{show(own[name])} of {own[name]['cases']}" for name in names)])
    blocks = [columns(rows)]
    if facts["protocol"] == "pairs":
        judges = {short(name): told["per_category"] for name, told in facts["judges"].items()}
        every = {what: told["pairs"] for own in judges.values() for what, told in own.items()}
        more = [
            [what, str(n), *(show(told.get(what, {"mean": None})) for told in judges.values())]
            for what, n in every.items()
        ]
        blocks.append(columns([["right where this differs", "pairs", *judges], *more]))
    return blocks


def left_out(facts: Facts) -> list[str]:
    """Name what was not judged."""
    lines = []
    if (broken := facts.get("not_decoded", {})).get("count"):
        first = "; ".join(f"{one['file']}: {one['why']}" for one in broken["first"][:3])
        lines.append(f"not decoded: {broken['count']} ({first})")
    if (unknown := facts.get("nobody_looked", {})).get("count"):
        lines.append(
            f"left out, as nobody looked for every category: {unknown['count']} ({', '.join(unknown['first'][:3])})"
        )
    for judge, silent in facts.get("not_answered", {}).items():
        first = "; ".join(f"{one['file']}: {one['why']}" for one in silent["first"][:3])
        lines.append(f"not answered by {judge}: {silent['count']} ({first})")
    return ["\n".join(lines)] if lines else []


def saved(facts: Facts) -> str:
    """Write what thresholds were chosen, and what they cost an image."""
    rows = [["", "was", "is"]]
    for name, told in {**facts["review_above"], "clear_below": facts["clear_below"]}.items():
        rows.append([name, f"{told['was']:.3f}", f"{told['is']:.3f}"])
    costs = {name: facts[name] for name in ("cost_before", "cost_after")}
    lines = [f"{facts['images']} images, {facts['unsafe']} of them unsafe, {facts['left_out']} left out", columns(rows)]
    for name, told in costs.items():
        low, high = told["ci95"]
        lines.append(f"{name.replace('_', ' ')} an image: {told['mean']:.3f} [{low:.3f}, {high:.3f}]")
    lines += [f"{name} stays: {why}" for name, why in facts["kept"].items() if why != "a signpost"]
    lines.append("what it costs on the images that it was chosen by flatters it; others tell")
    return "\n".join(lines)
