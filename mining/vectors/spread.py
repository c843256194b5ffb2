"""Embed a corpus on a Ray cluster: each actor loads the encoder once and reads its share of the corpus itself.

Keys go out, vectors come back (16 kB an image for BLIP-2), and only the driver writes the store; so the job resumes as the
local one does, and either can finish what the other began. All nodes must see the corpus and the run's folder.
"""

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pyarrow as pa

from tilth.encoders.families import Backend, Encoder, open_encoder
from tilth.engine.cluster import connect, run_actors, write_todo
from tilth.engine.job import batched
from tilth.mining.corpora.corpus import Item
from tilth.mining.corpora.opening import open_corpus
from tilth.mining.vectors.embed import READERS, Part, Spread, encode, load

TODO = pa.schema([("key", pa.string()), ("stamp", pa.string())])
DONE = pa.schema([*TODO, ("error", pa.string()), ("vectors", pa.binary())])
KEYS_AT_ONCE = 1024


class _Worker:
    """An actor; what it needs are attributes of a class made for the job, as in `tilth/engine/cluster.py`."""

    location: str
    downloads: Path
    model: str
    backend: Backend
    device: str

    def __init__(self) -> None:
        self._corpus = open_corpus(self.location, self.downloads)
        self._encoder = open_encoder(self.model, self.device, self.backend)
        self._pool = ThreadPoolExecutor(READERS)

    def __call__(self, batch: pa.Table) -> pa.Table:
        items = [Item(key=row["key"], stamp=row["stamp"]) for row in batch.to_pylist()]
        read = [self._pool.submit(load, self._corpus, self._encoder.inputs, item) for item in items]
        part = encode(self._encoder, [future.result() for future in read])
        rows = [
            {"key": key, "stamp": stamp, "error": "", "vectors": vectors.tobytes()}
            for (key, stamp), vectors in zip(part.items, part.vectors, strict=True)
        ]
        rows += [{"key": key, "stamp": stamp, "error": error, "vectors": b""} for key, stamp, error in part.failed]
        return pa.Table.from_pylist(rows, schema=DONE)


def on_cluster(
    address: str,
    todo: Path,
    encoder: Encoder,
    *,
    location: str,
    downloads: Path,
    backend: Backend,
    device: str,
    batch_size: int,
) -> Spread:
    """Return what `embed` takes to encode on a cluster.

    Args:
        address: Of the Ray cluster; one is started here when empty.
        todo: Lance table to write the keys to, where all nodes see it.
        encoder: The driver's own, for the shape of its vectors.
        location: Of the corpus, as `open_corpus` takes it.
        downloads: As `open_corpus` takes it.
        backend: As `open_encoder` takes it.
        device: As `open_encoder` takes it.
        batch_size: Images per forward pass.

    Raises:
        MissingExtra: Ray is not installed.
        Unavailable: Nothing answers at the address.
    """
    settings = {
        "location": location if "://" in location else str(Path(location).resolve()),
        "downloads": downloads.resolve(),
        "model": str(Path(encoder.name).resolve()) if Path(encoder.name).is_dir() else encoder.name,
        "backend": backend,
        "device": device,
    }
    shape = (-1, encoder.queries, encoder.width)

    def spread(items: Iterator[Item]) -> Iterator[Part]:
        connect(address)
        rows = (
            pa.record_batch([[item.key for item in some], [item.stamp for item in some]], schema=TODO)
            for some in batched(items, KEYS_AT_ONCE)
        )
        write_todo(todo, rows, TODO)
        worker = type("Worker", (_Worker,), settings)
        for table in run_actors(worker, todo, batch_size=batch_size, learned=True):
            found = table.to_pylist()
            good = [row for row in found if not row["error"]]
            vectors = np.frombuffer(b"".join(row["vectors"] for row in good), np.float16).reshape(shape)
            yield Part(
                items=[(row["key"], row["stamp"]) for row in good],
                vectors=vectors,
                failed=[(row["key"], row["stamp"], row["error"]) for row in found if row["error"]],
            )

    return spread
