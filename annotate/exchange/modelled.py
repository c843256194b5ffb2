"""Labels that a model gave outside of Tilth: they are of images that a dataset has already, which files alone do not tell."""

from collections.abc import Iterable, Iterator
from itertools import islice

from tilth.annotate.exchange.taking import Taker
from tilth.data.dataset import Dataset
from tilth.engine.intake import Failed
from tilth.errors import InputError
from tilth.samples import NewSample

ABSENT = "of an image that is not in the dataset"
BATCH = 128


def of_known_images(
    items: Iterable[NewSample | Failed], dataset: Dataset, taker: Taker
) -> Iterator[NewSample | Failed]:
    """Yield what is of images that the dataset has, by their pixels; the labels of others are counted as left out."""
    waiting = iter(items)
    while some := list(islice(waiting, BATCH)):
        ids = [_id(item) for item in some]
        present = dataset.contains([id_ for id_ in ids if id_])
        for item, id_ in zip(some, ids, strict=True):
            if isinstance(item, Failed) or not id_ or id_ in present:
                yield item
                continue
            name = str(item.origin.get("source", ""))
            taker.odd.note("image that is not in the dataset, left out", name)
            for claim in item.claims:
                if claim.category:
                    taker.labels.taken -= 1
                    taker.labels.left_out.note(ABSENT, f"{name}: {claim.category}")


def _id(item: NewSample | Failed) -> str:
    """Return the id of an image; empty when it has none, which is said where it is taken in."""
    try:
        return "" if isinstance(item, Failed) else item.identify()[0]
    except InputError:
        return ""
