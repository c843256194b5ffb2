"""How a review stands: how many images wait, what each person did and how long it took them, and how far they agree."""

from collections import Counter
from collections.abc import Mapping, Sequence
from typing import cast

from tilth.annotate.review.agreement import alpha, box_units, category_units
from tilth.annotate.review.effort import READ_ROWS, tally
from tilth.annotate.review.ledger import Ledger
from tilth.claims import Claim, Json, standing
from tilth.engine.job import batched
from tilth.engine.work import Work
from tilth.samples import Sample

PEOPLE = "human:labelstudio-"


def status(work: Work, ledger: Ledger) -> dict[str, Json]:
    """Add up a review from the notes and the dataset; the server is not asked.

    Args:
        work: The surroundings.
        ledger: The notes of the review.
    """
    states: Counter[str] = Counter()
    reasons: Counter[str] = Counter(ledger.queue.values())
    reviewers: dict[str, list[Mapping[str, Json]]] = {}
    said: list[dict[str, list[Claim]]] = []
    for sample in (s for ids in batched(ledger.queue, READ_ROWS) for s in work.dataset.read(ids, images=False)):
        if f"{work.name}.answers" not in sample.columns:
            continue
        states[str(sample.state)] += 1
        for row in cast("list[Mapping[str, Json]]", sample.columns[f"{work.name}.answers"]):
            reviewers.setdefault(str(row["who"]), []).append(row)
        said.append(decided(sample))
    answers = [row for rows in reviewers.values() for row in rows]
    return {
        "project": f"{ledger.url}/projects/{ledger.project}" if ledger.project else "",
        "queue": len(ledger.queue),
        "queued_for": dict(reasons),
        "waiting": len(ledger.open),
        "answered": len(said),
        "skipped": sum(row["note"] == "skipped" for row in answers),
        "deleted": len(ledger.deleted),
        "states": dict(states),
        "minutes": _minutes(answers),
        "reviewers": {who: _person(rows) for who, rows in sorted(reviewers.items())},
        "agreement": agreement(said, [category.name for category in work.policy.categories]),
    }


def decided(sample: Sample) -> dict[str, list[Claim]]:
    """Return what each person stands by, their labels alone; those who withdrew or passed the image on are left out."""
    rounds = standing(claim for claim in sample.claims if claim.source.startswith(PEOPLE))
    return {
        who: [claim for claim in claims if claim.says == "label"]
        for who, claims in rounds.items()
        if all(claim.says in ("label", "empty") for claim in claims)
    }


def agreement(said: Sequence[Mapping[str, Sequence[Claim]]], categories: Sequence[str]) -> dict[str, Json]:
    """Return Krippendorff's alpha over the images that several people decided.

    Args:
        said: Labels of each person, for each image.
        categories: All that they could have named.
    """
    several = [people for people in said if len(people) > 1]
    seen = [category_units(people, categories) for people in several]
    return {
        "images": len(several),
        "alpha_images": _round(alpha([unit for units in seen for unit in units.values()])),
        "alpha_boxes": _round(alpha([unit for people in several for unit in box_units(people)])),
        "alpha_by_category": {name: _round(alpha([units[name] for units in seen])) for name in categories},
    }


def _round(value: float | None) -> float | None:
    return None if value is None else round(value, 4)


def _minutes(rows: Sequence[Mapping[str, Json]]) -> float:
    return round(sum(float(cast("float", row["seconds"])) for row in rows) / 60, 2)


def _person(rows: Sequence[Mapping[str, Json]]) -> dict[str, Json]:
    actions = [str(action) for row in rows for action in cast("list[Json]", row["actions"])]
    minutes = _minutes(rows)
    return {
        "images": len(rows),
        "skipped": sum(row["note"] == "skipped" for row in rows),
        "minutes": minutes,
        "seconds_per_image": round(60 * minutes / len(rows), 1),
        "actions": tally(actions),
    }


def status_text(found: Mapping[str, Json]) -> str:
    """Write it for people."""
    agreed = cast("Mapping[str, Json]", found["agreement"])
    lines = [
        f"{found['project'] or 'nothing was pushed yet'}",
        f"queue {found['queue']}, answered {found['answered']}, waiting {found['waiting']}, skipped {found['skipped']}, "
        f"deleted {found['deleted']}, {found['minutes']} minutes",
        "  ".join(f"{state} {count}" for state, count in cast("Mapping[str, Json]", found["states"]).items()),
    ]
    for who, row in cast("Mapping[str, Mapping[str, Json]]", found["reviewers"]).items():
        did = "  ".join(f"{kind} {count}" for kind, count in cast("Mapping[str, int]", row["actions"]).items() if count)
        lines.append(
            f"reviewer {who}: {row['images']} images, {row['minutes']} minutes, {row['seconds_per_image']} s an image  {did}"
        )
    if agreed["images"]:
        lines.append(
            f"agreement over {agreed['images']} images that several people saw: alpha {agreed['alpha_images']} of images, "
            f"{agreed['alpha_boxes']} of boxes"
        )
    return "\n".join(line for line in lines if line)
