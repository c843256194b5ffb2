"""Fill the store of a corpus: read, decode, encode, append, while the next batch is being read."""

import hashlib
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from tilth.claims import Json
from tilth.encoders.families import Encoder, Vectors
from tilth.encoders.inputs import Inputs
from tilth.engine.job import FEW, batched
from tilth.errors import InputError, TooManyFailures
from tilth.events import Events
from tilth.images import Image
from tilth.mining.corpora.corpus import Corpus, Item
from tilth.mining.vectors.store import Store

READERS = 4  # threads that read and decode; Pillow lets go of the interpreter meanwhile
Loaded = tuple[Item, Image | str]


@dataclass(frozen=True, kw_only=True)
class Part:
    """What became of a batch.

    Args:
        items: Key and stamp of the images that were encoded.
        vectors: Theirs, `(n, q, d)`.
        failed: Key, stamp and reason of those that could not be read.
    """

    items: list[tuple[str, str]]
    vectors: Vectors
    failed: list[tuple[str, str, str]]


Spread = Callable[[Iterator[Item]], Iterator[Part]]


def store_folder(root: Path, corpus: Corpus, digest: str) -> Path:
    """Name the folder of a corpus and a model below `root`; two corpora never share one."""
    place = hashlib.sha256(corpus.place.encode()).hexdigest()[:8]
    return root / f"{corpus.name}-{place}-{digest}"


def load(corpus: Corpus, inputs: Inputs, item: Item) -> Loaded:
    """Read and decode an image, or say why not."""
    try:
        return item, inputs.load(corpus.read(item.key))
    except InputError as error:
        return item, str(error)


def _batches(corpus: Corpus, inputs: Inputs, items: Iterator[Item], size: int) -> Iterator[list[Loaded]]:
    """Yield batches of decoded images, one batch ahead."""
    pool = ThreadPoolExecutor(READERS)
    try:
        ahead = None
        for batch in batched(items, size):
            coming = [pool.submit(load, corpus, inputs, item) for item in batch]
            if ahead is not None:
                yield [future.result() for future in ahead]
            ahead = coming
        if ahead is not None:
            yield [future.result() for future in ahead]
    finally:
        pool.shutdown(cancel_futures=True)  # a store that is down lets each of those that wait run into its time limit


def encode(encoder: Encoder, batch: Sequence[Loaded]) -> Part:
    """Encode what could be read of a batch."""
    good = [(item, image) for item, image in batch if not isinstance(image, str)]
    none = np.empty((0, encoder.queries, encoder.width), np.float16)
    return Part(
        items=[(item.key, item.stamp) for item, _ in good],
        vectors=encoder.images([image for _, image in good]) if good else none,
        failed=[(item.key, item.stamp, error) for item, error in batch if isinstance(error, str)],
    )


def _here(corpus: Corpus, encoder: Encoder, todo: Iterator[Item], batch_size: int) -> Iterator[Part]:
    return (encode(encoder, batch) for batch in _batches(corpus, encoder.inputs, todo, batch_size))


def embed(
    corpus: Corpus,
    encoder: Encoder,
    store: Store,
    events: Events,
    *,
    batch_size: int = 64,
    max_fail_rate: float = 0.2,
    spread: Spread | None = None,
) -> dict[str, Json]:
    """Encode whatever the store lacks.

    Args:
        corpus: What to read.
        encoder: What to encode with.
        store: What to fill.
        events: Told of progress and failures.
        batch_size: Images per forward pass.
        max_fail_rate: Share of unreadable images at which to stop.
        spread: Encodes on other machines, such as `spread_embed.on_cluster`; here when None.

    Returns:
        Numbers: `images` of the corpus in the store, `embedded` now, `embed_per_s`, `failed` in all.

    Raises:
        TooManyFailures: More than `max_fail_rate` of at least 50 images could not be read, or all of any number.
    """
    known = store.has()
    began = time.monotonic()
    embedded = 0
    failed = len(store.failures())
    total = sum(not known(item.key, item.stamp) for item in corpus.items())
    todo = (item for item in corpus.items() if not known(item.key, item.stamp))
    found = spread(todo) if spread and total else _here(corpus, encoder, todo, batch_size)
    with events.progress(f"embed {corpus.name}", total) as advance:
        for part in found:
            store.append(part.items, part.vectors) if part.items else None
            store.fail(part.failed) if part.failed else None
            for key, _, error in part.failed:
                events.emit("failed", source=f"{corpus.name}/{key}", error=error)
            embedded, failed = embedded + len(part.items), failed + len(part.failed)
            advance(len(part.items) + len(part.failed))
            seen = len(store) + failed
            if seen >= FEW and failed > max_fail_rate * seen:
                raise TooManyFailures(
                    f"{corpus.name}: {failed} of {seen} images cannot be read, more than max_fail_rate "
                    f"{max_fail_rate:g}; for example {': '.join(store.failures()[-1])}. Everything done is kept; mend the "
                    "cause and run again with --retry-failed"
                )
    if failed and not len(store):
        raise TooManyFailures(
            f"{corpus.name}: none of its {failed} images can be read; for example {': '.join(store.failures()[-1])}. Mend the cause "
            "and run again with --retry-failed"
        )
    seconds = time.monotonic() - began
    forgotten = store.forget_all_but((item.key, item.stamp) for item in corpus.items())
    return {
        "images": len(store) - forgotten,
        "embedded": embedded,
        "embed_s": round(seconds, 2),
        "embed_per_s": round(embedded / seconds, 1) if embedded else 0.0,
        "failed": failed,
    }
