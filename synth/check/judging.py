"""Decide which generated images are kept, of all that was measured of them: a reason for each that is not, and an order of the rest."""

from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from tilth.synth.check.near import Real, Seen, copies, siblings

DARK, FLAT, ROUGH = (
    0.06,
    0.02,
    0.2,
)  # brightness, contrast and likeness of neighbouring pixels, below which a picture is none
ENOUGH = 10  # images of a class before its lowest are anything but chance


@dataclass(frozen=True, kw_only=True)
class Limits:
    """What an image must reach.

    Args:
        lowest: Share of each class that goes, those that match the words least.
        max_cosine: From which on two images are the same.
        min_agreement: Least chance that the classifier gives the category.
    """

    lowest: float = 0.1
    max_cosine: float = 0.985
    min_agreement: float = 0.0


@dataclass(frozen=True, kw_only=True)
class Verdict:
    """What is decided.

    Args:
        reasons: By id, why an image goes; empty for one that stays.
        ranks: By id, the place of one that stays: the best of each category and style in turn.
    """

    reasons: Mapping[str, str]
    ranks: Mapping[str, int]


def decide(images: Sequence[Seen], limits: Limits, real: Real, gone: Sequence[Seen] = ()) -> Verdict:
    """Decide about all images together; an image goes for the first reason that there is.

    Args:
        images: All that are in.
        limits: What they must reach.
        real: What they may be no copies of.
        gone: That were left out before; what is lowest is so among these too, so nothing falls for the others' fall.
    """
    reasons = {one.id: broken(one) or one.wrong for one in images}
    left = [one for one in images if not reasons[one.id]]
    reasons |= copies(left, real, limits.max_cosine)
    least = _least([*images, *gone], limits.lowest)
    for one in left:
        if reasons[one.id]:
            continue
        if one.match < least.get(one.id, -np.inf):
            reasons[one.id] = f"asked for {one.category}, matches these words less than others of its kind"
        elif one.agrees < limits.min_agreement:
            reasons[one.id] = f"asked for {one.category}, the classifier does not see it"
    kept = [one for one in left if not reasons[one.id]]
    good = _quality(kept)
    reasons |= siblings(kept, good, limits.max_cosine)
    return Verdict(reasons=reasons, ranks=ranked([one for one in kept if not reasons[one.id]], good))


def broken(one: Seen) -> str:
    """Say what is wrong with an image that is none, such as a checker leaves or a model that failed; empty when it is one.

    >>> [broken(Seen(id="a", category="pill", **of)) for of in ({"brightness": 0, "contrast": 0}, {"contrast": 0}, {"smoothness": 0.1}, {})]
    ['black', 'of one colour', 'noise', '']
    """
    if one.contrast < FLAT:
        return "black" if one.brightness < DARK else "of one colour"
    return "noise" if one.smoothness < ROUGH else ""


def _least(images: Sequence[Seen], lowest: float) -> dict[str, float]:
    """Return for each image what it must match at least: of its category and style, or of its category where these are few."""
    groups: dict[tuple[str, ...], list[Seen]] = defaultdict(list)
    for one in images:
        if not np.isnan(one.match):
            groups[one.cell].append(one)
            groups[(one.category,)].append(one)
    least: dict[str, float] = {}
    for group in sorted(groups, key=len):  # of a category first, then of each style in it
        if len(groups[group]) >= ENOUGH:
            quantile = float(np.quantile([one.match for one in groups[group]], lowest))
            least |= {one.id: quantile for one in groups[group]}
    return least


def _quality(images: Sequence[Seen]) -> dict[str, float]:
    """Return how good each image is beside others of its category, in [0, 1]: the mean of its places by score, match and agreement."""
    found: dict[str, list[float]] = defaultdict(list)
    for group in _by_category(images).values():
        for measure in ("found", "match", "agrees"):
            values = np.array([getattr(one, measure) for one in group])
            if not np.isnan(values).any():
                places = np.searchsorted(np.sort(values), values, side="right") / len(values)
                for one, place in zip(group, places.tolist(), strict=True):
                    found[one.id].append(place)
    return {id_: float(np.mean(places)) for id_, places in found.items()}


def _by_category(images: Sequence[Seen]) -> dict[str, list[Seen]]:
    groups: dict[str, list[Seen]] = defaultdict(list)
    for one in images:
        groups[one.category].append(one)
    return groups


def ranked(images: Sequence[Seen], good: Mapping[str, float]) -> dict[str, int]:
    """Return the place of each image: the best of each category in turn, and in each the best of each style in turn.

    >>> rows = [("a", "x", "photo"), ("b", "x", "photo"), ("c", "x", "neon"), ("d", "y", "photo")]
    >>> some = [Seen(id=id_, category=category, style=style) for id_, category, style in rows]
    >>> sorted((place, id_) for id_, place in ranked(some, {"a": 0.2, "b": 0.9, "c": 0.5, "d": 0.1}).items())
    [(0, 'c'), (1, 'd'), (2, 'b'), (3, 'a')]
    """
    turns = []
    for category, group in sorted(_by_category(images).items()):
        order, turn = [], defaultdict[str, int](int)
        for one in sorted(group, key=lambda one: (-good[one.id], -one.found, one.id)):
            order.append((turn[one.style], one.style, one.id))
            turn[one.style] += 1
        turns += [(place, category, id_) for place, (_, _, id_) in enumerate(sorted(order))]
    return {id_: place for place, (_, _, id_) in enumerate(sorted(turns))}
