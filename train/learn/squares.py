"""Images as small squares, decoded once for all that is trained on a dataset and kept beside it, as many as there is room for.

<side>.bin  or <side>-kept.bin where images keep their aspect: squares `(side, side, 3)` uint8, one after another
<side>.ids  their ids, a line each; what a kill left in the other file beyond these is written over
"""

from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import numpy.typing as npt

from tilth.engine.job import batched
from tilth.images import Image, into
from tilth.samples import Sample

BATCH = 256
LINE = 65  # of an id, 64 hexadecimal digits and the end of the line
KEY = "S32"  # as many digits tell ids apart


class Squares:
    """The squares of a dataset at one size.

    Args:
        folder: Where they lie.
        side: Width and height in pixels.
        most_bytes: That they may take on disk.
        keep_aspect: Of images; what is beside them is grey.
    """

    def __init__(self, folder: Path, side: int, most_bytes: float, *, keep_aspect: bool = False) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        name = f"{side}-kept" if keep_aspect else f"{side}"
        self.side, self.keep_aspect = side, keep_aspect
        self._squares, self._ids = folder / f"{name}.bin", folder / f"{name}.ids"
        self._most = round(most_bytes) // (side * side * 3)
        self._look()

    def _look(self) -> None:
        """Read which are there, sorted, as a set of millions of names would not fit."""
        keys = np.fromfile(self._ids, f"S{LINE}").astype(KEY) if self._ids.exists() else np.empty(0, KEY)
        self._order = np.argsort(keys, kind="stable")
        self._keys = keys[self._order]

    def __len__(self) -> int:
        return len(self._keys)

    @property
    def room(self) -> int:
        """Return how many more may be kept."""
        return max(0, self._most - len(self))

    def places(self, ids: Sequence[str]) -> npt.NDArray[np.int64]:
        """Return where squares lie, -1 for those that are not kept."""
        wanted = np.array(ids, KEY)
        if not len(self):
            return np.full(len(wanted), -1)
        at = np.searchsorted(self._keys, wanted).clip(max=len(self) - 1)
        return np.where(self._keys[at] == wanted, self._order[at], -1)

    def add(self, samples: Iterable[Sample], advance: Callable[[int], object]) -> None:
        """Keep the squares of samples that are not there, while there is room; they must come with their images."""
        kept = len(self)
        for batch in batched(samples, BATCH):
            squares = self.make(batch)
            with self._squares.open("r+b" if self._squares.exists() else "w+b") as stream:
                stream.seek(kept * self.side * self.side * 3)
                stream.write(squares.tobytes())
            with self._ids.open("r+b" if self._ids.exists() else "w+b") as names:
                names.seek(kept * LINE)
                names.write(b"".join(f"{sample.id}\n".encode() for sample in batch))
                names.truncate()
            kept += len(batch)
            advance(len(batch))
        self._look()

    def make(self, samples: Sequence[Sample]) -> npt.NDArray[np.uint8]:
        """Decode images, several at a time, into squares `(n, side, side, 3)`."""

        def one(sample: Sample) -> Image:
            return into(sample.pixels(), (self.side, self.side), keep_aspect=self.keep_aspect)

        with ThreadPoolExecutor() as pool:
            return np.stack(list(pool.map(one, samples)))

    def read(self, places: npt.NDArray[np.int64]) -> npt.NDArray[np.uint8]:
        """Return the squares at some places, `(n, side, side, 3)`.

        The file is mapped only meanwhile: its pages would count as memory of ours.
        """
        shape = (len(self), self.side, self.side, 3)
        return np.asarray(np.memmap(self._squares, np.uint8, "r", shape=shape)[places])
