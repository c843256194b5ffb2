"""The plots of the pages, each drawn from the figures of one file: `make figures` draws them, and no benchmark does."""

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from matplotlib.figure import Figure

METRICS = {"recall_at_fpr05": "recall at 5 % false positives", "f1": "F1", "map50": "mAP at IoU 0.5"}

Found = Mapping[str, Mapping[str, Any]]
"""The figures of a file, by key."""


def loop(figures: Found) -> "Figure":
    """Plot the learning curve of random labelling, to the whole corpus, beside the loop."""
    from matplotlib import pyplot as plt

    curve = [
        key.removesuffix(".human_actions") for key in figures if key.startswith("faithful.random.") and "human" in key
    ]
    ticks = [round(figures[f"{key}.human_actions"]["value"]) for key in curve]
    plot, axes = plt.subplots(1, len(METRICS), figsize=(11, 3.4), layout="constrained")
    for axis, (metric, title) in zip(axes, METRICS.items(), strict=True):
        of_loop = [
            (figures[f"{key}.human_actions"]["value"], figures[f"{key}.{metric}"])
            for key in ("faithful.few", "faithful.loop")
            if f"{key}.{metric}" in figures
        ]
        for points, marker, label in (
            ([(n, figures[f"{key}.{metric}"]) for n, key in zip(ticks, curve, strict=True)], "o", "random labelling"),
            (of_loop, "s", "Tilth"),
        ):
            means = [row["value"] for _, row in points]
            halves = [row["value"] - row.get("ci95", [row["value"]])[0] for _, row in points]
            axis.errorbar([at for at, _ in points], means, halves, marker=marker, capsize=3, label=label)
        axis.set(xscale="log", xlabel="human actions", title=title, ylim=(None, 1))
        axis.set_xticks(ticks, [f"{n:,}" for n in ticks])
        axis.minorticks_off()
        axis.grid(alpha=0.3)
    axes[0].legend()
    return plot


def find(figures: Found) -> "Figure":
    """Plot how many images must be looked at, by order."""
    from matplotlib import pyplot as plt

    colours = {
        "random": "#8d9b8f",
        "pooled": "#c98a1f",
        "maximum": "#a9c4d6",
        "policy": "#7aa6c2",
        "matching": "#3f7fa6",
        "verified": "#1e7d4a",
    }
    shares = (50, 80, 95)
    plot, axes = plt.subplots(figsize=(7.5, 3.2), layout="constrained")
    width = 0.8 / len(colours)
    for i, (way, colour) in enumerate(colours.items()):
        means = [figures[f"{way}.looks_{share}"]["value"] for share in shares]
        axes.bar(np.arange(len(shares)) + (i - (len(colours) - 1) / 2) * width, means, width, label=way, color=colour)
    axes.set_yscale("log")
    axes.set_xticks(range(len(shares)), [f"{share} % of the positives" for share in shares])
    axes.set_ylabel("images to look at")
    axes.legend(frameon=False, ncols=6, fontsize=8, loc="lower center", bbox_to_anchor=(0.5, 1.0))
    axes.spines[["top", "right"]].set_visible(False)
    return plot


def memory(figures: Found) -> "Figure":
    """Plot the peak memory of mining by the number of images."""
    from matplotlib import pyplot as plt

    sizes = sorted(int(key.removesuffix(".peak_mb")) for key in figures if key.endswith(".peak_mb"))
    peaks = [figures[f"{size}.peak_mb"]["value"] for size in sizes]
    held = [figures[f"{size}.not_mapped_mb"]["value"] for size in sizes]
    plot, axes = plt.subplots(figsize=(6.5, 3.2), layout="constrained")
    axes.plot(sizes, peaks, "o-", color="#1e7d4a", label="peak memory, files mapped from disk and all")
    axes.plot(sizes, held, "o-", color="#c98a1f", label="of it at the end not mapped")
    floats = [size * figures["floats_bytes_a_vector"]["value"] / 1e6 for size in sizes]
    axes.plot(sizes, floats, "--", color="#8d9b8f", label="the vectors as floats")
    axes.set_xscale("log")
    axes.set_ylim(0, max(1500, 1.1 * max(peaks)))
    axes.set_xlabel("images")
    axes.set_ylabel("MB")
    axes.legend(frameon=False, fontsize=8)
    axes.spines[["top", "right"]].set_visible(False)
    return plot


def week(figures: Found) -> "Figure":
    """Plot the champion's recall night by night, beside that of the first night's model and of nights without people."""
    from matplotlib import pyplot as plt

    nights = [n for n in range(1, 32) if f"people.night{n}.recall_at_fpr05" in figures]
    of = {key: [figures[f"{key}.night{n}.recall_at_fpr05"]["value"] for n in nights] for key in ("people", "alone")}
    codes = [figures[f"people.night{n}.exit_code"]["value"] for n in nights]
    plot, axes = plt.subplots(figsize=(7.5, 3.2), layout="constrained")
    axes.plot(nights, of["people"], marker="o", color="#1e7d4a", label="tilth retrain")
    axes.plot(nights, of["alone"], marker="s", color="#3f7fa6", label="the same nights without people")
    axes.plot(nights, [of["people"][0]] * len(nights), color="#8d9b8f", linestyle="--", label="the first night's model")
    for night, code, value in zip(nights, codes, of["people"], strict=True):
        if code:
            said = {3: "refused", 75: "service down"}.get(code, f"exit code {code}")
            axes.annotate(said, (night, value), (0, 8), textcoords="offset points", ha="center", fontsize=8)
    axes.set(xlabel="night", ylabel=METRICS["recall_at_fpr05"], ylim=(0, 1), xticks=nights)
    axes.grid(alpha=0.3)
    axes.spines[["top", "right"]].set_visible(False)
    axes.legend(loc="lower right", fontsize=8)
    return plot


PLOTS: dict[str, tuple[str, Callable[[Found], "Figure"]]] = {
    "loop.png": ("loop", loop),
    "find.png": ("find", find),
    "mining-memory.png": ("memory", memory),
    "week.png": ("week", week),
}
