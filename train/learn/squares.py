"""Images as small squares, decoded once for all that is trained on a dataset and kept beside it.

<side>.bin  squares `(side, side, 3)` uint8, one after another
<side>.ids  their ids, a line each; what a kill left in the other file beyond these is written over
"""

from collections.abc import Callable, Iterable, Sequence
from pathlib import Path

import numpy as np
import numpy.typing as npt

from tilth.engine.job import batched
from tilth.images import resize
from tilth.samples import Sample

BATCH = 256


class Squares:
    """The squares of a dataset at one size.

    Args:
        folder: Where they lie.
        side: Width and height in pixels.
    """

    def __init__(self, folder: Path, side: int) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self.side, self._squares, self._ids = side, folder / f"{side}.bin", folder / f"{side}.ids"
        text = self._ids.read_text() if self._ids.exists() else ""
        self.places = {id_: place for place, id_ in enumerate(text[: text.rfind("\n") + 1].split())}

    def add(self, samples: Iterable[Sample], advance: Callable[[int], object]) -> None:
        """Keep the squares of samples that are not there; they must come with their images."""
        for batch in batched(samples, BATCH):
            fresh = [sample for sample in batch if sample.id not in self.places]
            if fresh:
                squares = np.stack([resize(sample.pixels(), (self.side, self.side)) for sample in fresh])
                with self._squares.open("r+b" if self._squares.exists() else "w+b") as stream:
                    stream.seek(len(self.places) * self.side * self.side * 3)
                    stream.write(squares.tobytes())
                with self._ids.open("r+" if self._ids.exists() else "w+") as names:
                    names.seek(sum(len(id_) + 1 for id_ in self.places))
                    names.writelines(f"{sample.id}\n" for sample in fresh)
                    names.truncate()
                self.places |= {sample.id: len(self.places) + i for i, sample in enumerate(fresh)}
            advance(len(batch))

    def missing(self, ids: Sequence[str]) -> list[str]:
        """Return those of the ids that are not there."""
        return [id_ for id_ in ids if id_ not in self.places]

    def read(self, places: npt.NDArray[np.int64]) -> npt.NDArray[np.uint8]:
        """Return the squares at some places, `(n, side, side, 3)`.

        The file is mapped only meanwhile: its pages would count as memory of ours.
        """
        shape = (len(self.places), self.side, self.side, 3)
        return np.asarray(np.memmap(self._squares, np.uint8, "r", shape=shape)[places])
