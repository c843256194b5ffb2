"""What the gallery knows of a sample: who says what and where, what the clean-up took, and why it was left out.

Names that come again and again travel as numbers; `Names` gives them out in the order in which they are met.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from itertools import combinations
from math import isfinite
from typing import Any

from tilth.claims import Claim, Json, agree, resolve, standing
from tilth.pipeline.report.dataset import source_of
from tilth.samples import TEXT, Sample

REMOVED = ".removed"  # columns of steps that clean up end so
LONGEST = 160  # characters of a text of unknown origin
LONGEST_SHOWN = 4000  # characters of a sample that is a text
SCORES = ".scores"  # columns of judges end so


@dataclass
class Names:
    """Numbers for names."""

    numbers: dict[str, int] = field(default_factory=dict)

    def __getitem__(self, name: str) -> int:
        """Return the number of a name, a new one if need be."""
        return self.numbers.setdefault(name, len(self.numbers))


def grouped(source: str) -> str:
    """Name a source as people choose among them: an import by the set, whichever of its thousand label files spoke.

    >>> grouped("import:bccd/Annotations/a1.xml"), grouped("human:ann")
    ('import:bccd', 'human:ann')
    """
    return source.partition("/")[0] if source.startswith("import:") else source


def disagree(said: Mapping[str, list[Claim]]) -> bool:
    """Tell whether two sources differ in the labels that they give an image.

    >>> knife = Claim(category="knife", box_xyxy=(0, 0, 9, 9), source="model:a@1")
    >>> nothing = Claim(says="empty", source="human:b")
    >>> disagree({"model:a@1": [knife], "human:b": [nothing]}), disagree({"model:a@1": [knife]})
    (True, False)
    """
    labels = [[claim for claim in claims if claim.says == "label"] for claims in said.values()]
    return any(not agree(a, b) for a, b in combinations(labels, 2))


def record(sample: Sample, picture: str, veiled: bool, categories: Names, sources: Names) -> dict[str, Json]:
    """Describe a sample for the page; `pipeline/templates/gallery.js.j2` reads it.

    Args:
        sample: The sample.
        picture: Address of its picture, as the page sees it.
        veiled: Whether it is blurred until somebody asks for it.
        categories: Gives categories their numbers.
        sources: Gives sources their numbers.
    """
    said, truth = standing(sample.claims), resolve(sample.claims)
    stands = {id(label) for label in truth.labels}
    claims: list[Json] = [
        [
            categories[claim.category] if claim.category else claim.says,
            sources[grouped(claim.source)],
            round(claim.score, 3),
            _corners(claim.box_xyxy),
            int(id(claim) in stands),
            *([members] if (members := _members(claim)) else []),
        ]
        for each in said.values()
        for claim in each
    ]
    return {
        "i": sample.id,
        "w": sample.size_wh[0],
        "h": sample.size_wh[1],
        "p": picture,
        "v": int(veiled),
        "s": truth.state.value,
        "t": sample.split,
        "d": int(disagree(said)),
        "g": str(sample.columns.get("dedup.group") or ""),
        "q": _doubt(sample),
        "c": claims,
        "r": _removed(sample, categories),
        "x": [[step, reason[:LONGEST]] for step, reason in sample.drops],
        **(_words(sample, said) if sample.media == TEXT else {}),
        "o": " · ".join(part for part in (source_of(sample), str(sample.origin.get("source") or "")[:LONGEST]) if part),
    }


def _words(sample: Sample, said: Mapping[str, list[Claim]]) -> dict[str, Json]:
    """Return a text as the page shows it: its beginning, how much is left out, where each claim is, and what judges said."""
    text = sample.text()
    spans: list[Json] = [
        [int(end) for end in claim.span] if claim.span else None for each in said.values() for claim in each
    ]
    judges: list[Json] = [
        [column.removesuffix(SCORES), str(name), _score(score)]
        for column in sorted(sample.columns)
        if column.endswith(SCORES) and isinstance(scores := sample.columns[column], Mapping)
        for name, score in scores.items()
    ]
    return {"m": text[:LONGEST_SHOWN], "l": max(0, len(text) - LONGEST_SHOWN), "z": spans, "j": judges}


def _doubt(sample: Sample) -> str:
    """Return what `label_errors` said of a label, if it said anything."""
    category, says = (sample.columns.get(f"label_errors.{name}") for name in ("category", "says"))
    return f"{category}: probably {says}" if category and says else ""


def _corners(box: Any) -> Json:
    """Return a box that a page can draw, or None."""
    known = (
        isinstance(box, list | tuple) and len(box) == 4 and all(isinstance(v, int | float) and isfinite(v) for v in box)
    )
    return [round(float(v), 1) for v in box] if known else None


def _members(claim: Claim) -> int:
    """Return how many boxes were fused into this one."""
    members = claim.evidence.get("of")
    return len(members) if isinstance(members, list) else 0


def _removed(sample: Sample, categories: Names) -> list[Json]:
    """Return which labels clean-up steps took: category, score, corners, reason, and the step."""
    found: list[Json] = []
    for column, rows in sorted(sample.columns.items()):
        if column.endswith(REMOVED) and isinstance(rows, list):
            # a look-alike has no category: it competed, but was never a label to be taken
            for row in (row for row in rows if isinstance(row, Mapping) and row.get("category")):
                gave_way = f", for {row['by']}" if row.get("by") else ""
                reason = f"{row.get('reason')}{gave_way}"[:LONGEST]
                step = column.removesuffix(REMOVED)
                score = _score(row.get("score"))
                found.append([categories[str(row["category"])], score, _corners(row.get("box_xyxy")), reason, step])
    return found


def _score(value: Any) -> float:
    return round(float(value), 3) if isinstance(value, int | float) and isfinite(value) else 0.0
