"""Image examples: ask for a category by a few pictures of it, for what has no word yet and for models that read none.

An image has q vectors, each from one place in the model, so examples are averaged place by place; the mean of the corpus is
taken off first, as images of one corpus are all alike in what they share. The prototype p of a category, the likeness of an
image v, and c, the mean of the corpus:

    p = mean over examples of (e - c)        likeness = mean over the q places of cos(v - c, p)

Tried on the starter world, a word that the model has learned finds more than 16 pictures do, and both together no more than the
word, so words lead where there are any; see `example_weight` of the step `mine`.

Paper: https://arxiv.org/abs/1703.05175 (prototypes)
Differs: centred on the corpus, and place by place.
"""

from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path
from typing import cast

import numpy as np
import numpy.typing as npt

from tilth.data.dataset import Dataset
from tilth.encoders.families import Encoder
from tilth.encoders.inputs import Inputs
from tilth.engine.job import batched
from tilth.errors import InputError
from tilth.images import Image
from tilth.mining.vectors.store import Store, Vectors
from tilth.policy import Category, Policy
from tilth.sources.walk import images_in

CENTRE_ROWS = 4096  # stored images that the mean of the corpus is taken of
BATCH = 64

Floats = npt.NDArray[np.float32]


class Examples:
    """The prototypes of the categories that have examples.

    Args:
        policy: Whose categories name example images.
        dataset: Whose reviewed images may serve as examples, too.
        encoder: The model.
        store: Its vectors of the corpus.
        few_shot: Reviewed images of the dataset to take for each category.

    Raises:
        InputError: An example of the policy is no image, or a model that reads no words has no example of a category.
    """

    def __init__(self, policy: Policy, dataset: Dataset, encoder: Encoder, store: Store, few_shot: int) -> None:
        images = {c.name: [_loaded(path, c, encoder.inputs) for path in _paths(c)] for c in policy.pictured}
        for category, found in _reviewed(dataset, few_shot).items() if few_shot else ():
            images.get(category, []).extend(encoder.inputs.load(data) for data in found)
        self.counts = {category: len(found) for category, found in images.items() if found}
        if not encoder.reads and (bare := sorted(images.keys() - self.counts.keys())):
            raise InputError(
                f"{encoder.name} knows no words, and there are no example images of {', '.join(bare)}; name some under "
                "`examples` in the policy, or set few_shot and review some"
            )
        self._prototypes: dict[str, Floats] = {}
        if not self.counts:
            return
        step = max(1, len(store) // CENTRE_ROWS)
        self._centre = store.take(np.arange(0, len(store), step)).astype(np.float32).mean(0)
        for category in self.counts:
            vectors = np.concatenate([encoder.images(some) for some in batched(images[category], BATCH)])
            self._prototypes[category] = _unit((vectors.astype(np.float32) - self._centre).mean(0))

    def __contains__(self, category: str) -> bool:
        """Tell whether a category has examples."""
        return category in self._prototypes

    def queries(self, category: str) -> Floats:
        """Return what to ask an index for, `(q, d)`."""
        return self._prototypes[category]

    def likeness(self, category: str, vectors: Vectors) -> Floats:
        """Return how alike images `(n, q, d)` are to the examples, `(n,)` in [-1, 1]."""
        own = _unit(vectors.astype(np.float32) - self._centre)
        found: Floats = np.einsum("nqd,qd->n", own, self._prototypes[category]) / own.shape[1]
        return found


def _unit(values: Floats) -> Floats:
    return np.asarray(values / np.maximum(np.linalg.norm(values, axis=-1, keepdims=True), 1e-6), np.float32)


def _paths(category: Category) -> Iterator[Path]:
    for path in category.examples:
        inside = images_in(path) if path.is_dir() else [path]
        if not inside:
            raise InputError(f"{path}: no example image of {category.name} here")
        yield from inside


def _loaded(path: Path, category: Category, inputs: Inputs) -> Image:
    try:
        return inputs.load(path.read_bytes())
    except (OSError, InputError) as error:
        raise InputError(f"{path}: example of {category.name}: {error}") from error


def _reviewed(dataset: Dataset, most: int) -> dict[str, list[bytes]]:
    ids: dict[str, list[str]] = defaultdict(list)
    for id_, categories in dataset.cells("id", "categories", where="state = 'reviewed' and split != 'test'"):
        for category in cast("list[str]", categories):
            if len(ids[category]) < most:
                ids[category].append(str(id_))
    return {category: [sample.data for sample in dataset.read(found)] for category, found in ids.items()}
