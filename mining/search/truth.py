"""How well mining did, where the truth of a corpus is known; read for the report only, after everything is chosen."""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path

from tilth.claims import Json

RANKS = (10, 50, 100)


def precision_report(
    truth: Path, ranked: Mapping[str, Sequence[str]], picks: Sequence[Mapping[str, Json]]
) -> dict[str, Json]:
    """Compare a ranking with the truth.

    Args:
        truth: JSON lines with `id`, `split` and `labels` (each with a `category`).
        ranked: Ids of the candidates per category, best first.
        picks: The images that were chosen, with their `id`.

    Returns:
        Per category: `p10`, `p50` and `p100` (of the first so many that there are; none for an empty ranking),
        `prevalence` (precision of a random draw), `positives` in the corpus, `found` among the picks, and `recall` =
        found / positives.
    """
    shown: dict[str, set[str]] = {}
    with truth.open(encoding="utf-8") as stream:
        for line in stream:
            row = json.loads(line)
            if row["split"] == "corpus":
                shown[row["id"]] = {label["category"] for label in row["labels"]}
    chosen = {str(pick["id"]) for pick in picks}
    report: dict[str, Json] = {}
    for category, ids in ranked.items():
        positives = {id_ for id_, categories in shown.items() if category in categories}
        hits = [id_ in positives for id_ in ids]
        found = len(positives & chosen)
        report[category] = {
            **{f"p{k}": round(sum(hits[:k]) / len(hits[:k]), 4) for k in RANKS if hits},
            "prevalence": round(len(positives) / max(1, len(shown)), 4),
            "positives": len(positives),
            "found": found,
            "recall": round(found / len(positives), 4) if positives else None,
        }
    return report
