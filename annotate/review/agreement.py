"""How far several people agree beyond chance: Krippendorff's alpha over what they said of images and of matched boxes.

Paper: K. Krippendorff, "Computing Krippendorff's Alpha-Reliability", 2011
Differs: boxes have no units of their own, so boxes of several people that overlap by IoU >= 0.5 are one unit, and a person
who looked at the image and drew nothing there said "nothing" of it.
"""

from collections import Counter
from collections.abc import Hashable, Iterable, Mapping, Sequence

import numpy as np

from tilth.claims import SAME_BOX_IOU, Claim
from tilth.geometry import iou

NOTHING = ""  # what a person says of a place where they drew no box


def alpha(units: Iterable[Sequence[Hashable]]) -> float | None:
    """Return Krippendorff's alpha for nominal values: 1 is perfect, 0 is chance; None when nothing can be compared.

    Args:
        units: For each thing that was judged, the values that people gave it; things judged once say nothing.

    >>> alpha([["knife", "knife"], ["pill", "pill"], ["pill", "knife"]])
    0.4444444444444444
    """
    pairable = [list(unit) for unit in units if len(unit) > 1]
    totals = Counter(value for unit in pairable for value in unit)
    n = totals.total()
    expected = n * n - sum(count * count for count in totals.values())
    if expected == 0:  # one value throughout: there is nothing that they could have confused
        return None
    observed = 0.0
    for unit in pairable:
        counts = Counter(unit)
        observed += (len(unit) ** 2 - sum(count * count for count in counts.values())) / (len(unit) - 1)
    return 1 - (n - 1) * observed / expected


def category_units(said: Mapping[str, Sequence[Claim]], categories: Sequence[str]) -> dict[str, list[bool]]:
    """Return for each category whether each person saw it in an image.

    Args:
        said: The labels of each person; none for an image they called empty.
        categories: All that they could have named.
    """
    return {name: [any(c.category == name for c in labels) for labels in said.values()] for name in categories}


def box_units(said: Mapping[str, Sequence[Claim]]) -> list[list[str]]:
    """Return for each place in an image that somebody drew a box around what each person called it.

    A box joins the place whose first box it overlaps most, when that is enough and its person has no box there yet.
    """
    places: list[tuple[Claim, dict[str, str]]] = []
    for who, labels in said.items():
        for claim in (label for label in labels if label.box_xyxy is not None):
            free = [place for place in places if who not in place[1]]
            boxes = np.array([place[0].box_xyxy for place in free], float).reshape(-1, 4)
            overlaps = iou(np.array([claim.box_xyxy], float), boxes)[0]
            if len(free) and overlaps.max() >= SAME_BOX_IOU:
                free[int(overlaps.argmax())][1][who] = str(claim.category)
            else:
                places.append((claim, {who: str(claim.category)}))
    return [[names.get(who, NOTHING) for who in said] for _, names in places]
