"""Whether there is enough to learn a category from: images that show it, and images in which somebody looked for it in vain."""

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence

from tilth.claims import State
from tilth.data.dataset import Dataset
from tilth.data.where import both, quoted
from tilth.train.learn.examples import Example, usable

LEAST = 5  # images that show something, or do not, from which anything is learned about it
LEAST_SHARE = 0.05

Counts = Mapping[str, tuple[int, int]]
"""Of each category: images that show it, of those in which somebody looked for it."""


def among(rows: Iterable[Example], labels: Sequence[str]) -> Counts:
    """Count examples."""
    shown, looked = Counter[int](), Counter[int]()
    for row in rows:
        asked = [i for i, by in enumerate(row.looked) if by]
        looked.update(asked)
        shown.update(i for i in asked if i in row.labels)
    return {label: (shown[i], looked[i]) for i, label in enumerate(labels)}


def in_dataset(dataset: Dataset, labels: Sequence[str], states: Sequence[State]) -> Counts:
    """Count what would be learned from in a dataset, of the categories that anybody looked for."""
    known = both(usable(states), "split != 'val'")
    found = {}
    for label in labels:
        looked = both(known, f"array_has(looked, {quoted(label)})")
        if count := dataset.count(looked):
            found[label] = dataset.count(both(looked, f"array_has(categories, {quoted(label)})")), count
    return found


def too_few(counts: Counts, *, negatives: bool) -> dict[str, str]:
    """Say of which categories a model will learn little, as hardly any image shows them, or hardly any does not.

    Args:
        counts: Of what is learned from.
        negatives: Whether the model needs images that do not show a category.
    """
    told = {}
    for label, (shown, looked) in counts.items():
        if shown < LEAST:
            told[label] = f"only {shown} of {looked} images that were looked at show it; it will hardly be learned"
        elif negatives and looked - shown < max(LEAST, LEAST_SHARE * looked):
            told[label] = (
                f"{shown} of {looked} images show it, so that the model will find it in nearly any picture; "
                "add images in which people looked for it in vain"
            )
    return told
