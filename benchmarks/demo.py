"""The demo as figures: what `tilth run configs/recipes/starter.yaml` found, from the summary that it leaves.

    tilth run configs/recipes/starter.yaml
    python benchmarks/demo.py runs/starter/summary.json

The commit and the machine are those of now, so read the summary where and when it was made.
"""

import argparse
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from figures import Figures, add_option

SYSTEMS = {"baseline": "baseline", "random": "random_same_effort", "loop": "final"}
NEW = ("syringe", "lighter")  # the kinds that no model has seen; told apart, too, as means over the two
METRICS = {"recall": "recall_at_fpr05", "f1": "f1", "map50": "map50"}


def tell(summary: Mapping[str, Any]) -> Figures:
    """Return the figures of a finished run."""
    command = f"tilth run configs/recipes/{summary['recipe']}.yaml"
    figures = Figures("demo", seeds=[summary["seed"]], command=command, date=str(summary["finished"])[:10])
    facts = {name: step["facts"] for name, step in summary["steps"].items()}
    for system, name in SYSTEMS.items():
        if judged := summary.get(name):
            for key, metric in METRICS.items():
                found = judged[metric]
                figures.add(f"{system}.{key}", found["mean"], "share", ci95=found["ci95"], n=judged.get("n_images"))
                apart = [
                    one[metric]["mean"]
                    for name, one in (judged.get("per_category") or {}).items()
                    if name in NEW and metric in one
                ]
                if apart:
                    figures.add(f"{system}.new.{key}", sum(apart) / len(apart), "share", n=len(apart))
    for system, name in (("loop", "review"), ("random", "random_effort")):
        for key, unit in (("human_actions", "actions"), ("hours", "hours")):
            found = [
                told[key]
                for step, told in facts.items()
                if step == name or (step.startswith(f"{name}.") and key in told)
            ]
            if found:
                figures.add(f"{system}.{key}", sum(found), unit)
    figures.add("seconds", sum(summary["seconds"].values()), "s")
    figures.add("peak_mb", summary["peak_rss_mb"]["run"], "MB")
    if both := facts.get("moderate"):
        figures.add("moderate.images", both["images"], "images")
        figures.add("moderate.decided_by_stage1", both["decided_by_stage1"] / both["images"], "share", n=both["images"])
        for name in ("corrected", "harmed"):
            figures.add(f"moderate.{name}", both[name], "images")
        words = both["harm_only_in_text"]
        figures.add("moderate.harm_only_in_text.images", words["images"], "images")
        for name in ("recall_both_stages", "recall_stage1_alone"):
            if words[name] is not None:
                figures.add(f"moderate.harm_only_in_text.{name}", words[name], "share", n=words["images"])
    return figures


def main() -> None:
    """Read a summary and write its figures."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("summary", type=Path, nargs="?", default=Path("runs/starter/summary.json"))
    add_option(parser)
    asked = parser.parse_args()
    print(tell(json.loads(asked.summary.read_text())).write(asked.results).read_text())


if __name__ == "__main__":
    main()
