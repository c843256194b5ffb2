"""What a person's actions cost: the kinds that are counted, and how long each takes as published."""

from collections import Counter
from collections.abc import Iterable

ACTIONS = ("accept", "edit", "relabel", "draw", "reject", "confirm_empty")

SECONDS_PER_ACTION = {
    # "We don't need no bounding-boxes", CVPR 2016: yes/no on a box that is shown.
    "accept": 1.6,
    "reject": 1.6,
    # The same: choosing one of five answers about a box that is shown.
    "relabel": 2.4,
    # "Extreme clicking for efficient object annotation", ICCV 2017: four clicks on a thing that is already found.
    "edit": 7.0,
    # "Crowdsourcing annotations for visual object detection", 2012, as the former cites it: 34.5 s in the traditional way.
    "draw": 34.5,
    # The same of 2012: checking that no instance in an image was missed.
    "confirm_empty": 7.8,
}
SECONDS_SOURCE = "published averages (Su 2012, Papadopoulos 2016 and 2017)"


def seconds(actions: Iterable[str]) -> float:
    """Return how long these actions take, in seconds.

    >>> seconds(["accept", "accept", "draw"])
    37.7
    """
    return round(sum(SECONDS_PER_ACTION[action] for action in actions), 3)


def tally(actions: Iterable[str]) -> dict[str, int]:
    """Count actions by kind, every kind named."""
    counts = Counter(actions)
    return {kind: counts[kind] for kind in ACTIONS}
