"""The vectors of a dataset's own samples, and which samples look alike by them.

Of an image with q vectors, the i-th comes from one place in the model, so two images are compared place by place: the mean of q
cosines, which is the inner product of the vectors laid end to end. To look among millions without holding these (32 x 256
numbers in BLIP-2), they are projected at random onto 256 numbers, which keeps inner products to about .06; an index over these
proposes the nearest few of each image, and the whole vectors decide.

Paper: https://doi.org/10.1016/S0022-0000(03)00025-4 (random projections)
"""

from collections.abc import Iterator, Sequence

import numpy as np

from tilth.encoders.families import Encoder
from tilth.engine.job import batched
from tilth.engine.work import Work
from tilth.mining.vectors.index import Index
from tilth.mining.vectors.store import Store

NEAREST = 32  # neighbours that are looked at exactly
PROJECTED = 256
BLOCK = 1024


def sample_vectors(work: Work, ids: Sequence[str], encoder: Encoder) -> Store:
    """Return the vectors of samples; they stay beside the dataset, so each image is encoded once.

    Args:
        work: Whose dataset.
        ids: Of the samples that must be there; there may be more.
        encoder: The model.
    """
    store = Store(
        work.dataset.root / "vectors" / encoder.digest,
        model=encoder.name,
        digest=encoder.digest,
        queries=encoder.queries,
        width=encoder.width,
    )
    known = store.has()
    with work.events.progress(f"{work.name}: embed", len(ids)) as advance:
        for batch in batched(ids, 64):
            todo = work.dataset.read([i for i in batch if not known(i, "")])
            if todo:
                vectors = encoder.images([encoder.inputs.load(s.data) for s in todo])
                store.append([(s.id, "") for s in todo], vectors)
            advance(len(batch))
    return store


def alike_pairs(store: Store, min_cosine: float) -> Iterator[tuple[int, int]]:
    """Yield pairs of rows whose vectors have a mean cosine of at least `min_cosine`, maybe more than once.

    Memory is that of an index of 256 numbers an image; see `index.py`.
    """
    small = _projected(store)
    index = Index(small, digest=store.digest)
    for first in range(0, len(store), BLOCK):
        rows = np.arange(first, min(first + BLOCK, len(store)))
        whole = store.take(rows).astype(np.float32)
        answers = index.search(small.take(rows)[:, 0].astype(np.float32), NEAREST)
        for row, own, (near, _) in zip(rows.tolist(), whole, answers, strict=True):
            later = near[near > row]
            cosines = np.einsum("nqd,qd->n", store.take(later).astype(np.float32), own) / store.queries
            for other in later[cosines >= min_cosine].tolist():
                yield row, other


def _projected(store: Store) -> Store:
    """Return a store of the same rows, each projected to one unit vector; it grows with the whole one."""
    small = Store(store.folder / "projected", model="projected", digest=store.digest, queries=1, width=PROJECTED)
    length = store.queries * store.width
    onto = np.random.default_rng(0).standard_normal((length, PROJECTED), np.float32)
    for first in range(len(small), len(store), BLOCK):
        rows = np.arange(first, min(first + BLOCK, len(store)))
        flat = store.take(rows).astype(np.float32).reshape(len(rows), length) @ onto
        flat /= np.maximum(np.linalg.norm(flat, axis=1, keepdims=True), 1e-9)
        small.append([(str(row), "") for row in rows], flat[:, None].astype(np.float16))
    return small
