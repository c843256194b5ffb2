"""Find edited copies among many images: a small sketch of colours proposes, key points and blocks decide (see `copies.py`).

A sketch is histograms of CIELAB values, of the whole image and of its three horizontal bands, as a unit vector of their square
roots, so that the inner product of two sketches is their Bhattacharyya coefficient. Crops, borders and writing change it
little, mirroring not at all.

Paper: https://doi.org/10.1109/CVPR.1997.609412 (histograms for indexing)

State lies in one folder per dataset, by sample id, so a grown dataset costs only what is new:

    sketches/       a store of sketches
    edits.jsonl     one JSON line a confirmed pair: [id, id, agreement]
    sought.json     how many rows of the store have had their neighbours looked at
"""

import json
from collections import OrderedDict
from collections.abc import Iterator, Sequence
from pathlib import Path

import cv2
import numpy as np
import numpy.typing as npt

from tilth.data.files import write_beside
from tilth.engine.job import batched
from tilth.engine.work import Work
from tilth.images import Image
from tilth.mining.copies.compare import Traces, agreement, mirrored, traces
from tilth.mining.vectors.index import Index
from tilth.mining.vectors.store import Store, line_ends

SIDE = 64  # px at which colours are counted
BANDS, BINS = 3, 12  # of each CIELAB value in a band
CELLS = (6, 8, 8)  # of the whole image's joint histogram
WIDTH = BANDS * 3 * BINS + CELLS[0] * CELLS[1] * CELLS[2]
NEIGHBOURS = 8  # that are compared closely
LEAST_COSINE = 0.8  # below, sketches are of other pictures
AGREEMENT = 0.6  # share of blocks from which on images are copies
DIGEST = "sketch-2"
TRACES_KEPT = 2000  # 150 kB each
COMMIT = 256  # rows between two notes of how far we are

Sketch = npt.NDArray[np.float32]


def sketch(image: Image) -> Sketch:
    """Return the sketch of an image, a unit vector `(492,)`."""
    small = cv2.cvtColor(cv2.resize(image, (SIDE, SIDE), interpolation=cv2.INTER_AREA), cv2.COLOR_RGB2LAB)
    parts = [band.reshape(-1, 3) for band in np.array_split(small, BANDS)]
    bands = [np.histogram(part[:, c], BINS, (0, 256))[0] / len(part) for part in parts for c in range(3)]
    # a and b of CIELAB seldom lie beyond 96 and 160 of 255
    whole = cv2.calcHist([small], [0, 1, 2], None, list(CELLS), [0, 256, 96, 160, 96, 160]).ravel() / SIDE**2
    found = np.sqrt(np.concatenate([*bands, 4 * whole]))
    return np.asarray(found / np.linalg.norm(found), np.float32)


def same_picture(a: Traces, b: Traces) -> float:
    """Return the agreement of two images, the better of as they are and mirrored."""
    straight = agreement(a, b)
    return straight if straight >= AGREEMENT else max(straight, agreement(mirrored(a), b))


class Edits:
    """The edited copies in a dataset.

    Args:
        folder: Of the state, made when absent.
    """

    def __init__(self, folder: Path) -> None:
        self._store = Store(folder / "sketches", model="sketch", digest=DIGEST, queries=1, width=WIDTH)
        self._pairs, self._sought = folder / "edits.jsonl", folder / "sought.json"
        line_ends(self._pairs)  # cuts off what a kill left half
        self._kept: OrderedDict[str, Traces] = OrderedDict()

    def pairs(self) -> Iterator[tuple[str, str]]:
        """Yield the pairs of ids found so far."""
        if self._pairs.exists():
            with self._pairs.open(encoding="utf-8") as stream:
                for line in stream:
                    a, b, _ = json.loads(line)
                    yield a, b

    def update(self, work: Work, ids: Sequence[str]) -> int:
        """Sketch the images that have no sketch, and compare them with all others.

        Returns:
            Number of images that were new.
        """
        known = self._store.has()
        new = [id_ for id_ in ids if not known(id_, "")]
        with work.events.progress(f"{work.name}: sketch", len(new)) as advance:
            for batch in batched(new, 64):
                samples = work.dataset.read(batch)
                drawn = np.array([sketch(s.pixels()) for s in samples], np.float16)
                self._store.append([(s.id, "") for s in samples], drawn[:, None])
                advance(len(batch))
        start = json.loads(self._sought.read_text()) if self._sought.exists() else 0
        if start < len(self._store):
            index = Index(self._store, digest=DIGEST)
            with work.events.progress(f"{work.name}: compare", len(self._store) - start) as advance:
                for rows in batched(range(start, len(self._store)), COMMIT):
                    self._seek(work, index, np.array(rows))
                    write_beside(self._sought, json.dumps(rows[-1] + 1))
                    advance(len(rows))
        return len(new)

    def _seek(self, work: Work, index: Index, rows: npt.NDArray[np.int64]) -> None:
        asked = self._store.take(rows)[:, 0].astype(np.float32)
        near = index.search(asked, NEIGHBOURS + 1)
        pairs = {
            (min(row, int(other)), max(row, int(other)))
            for row, (others, scores) in zip(rows.tolist(), near, strict=True)
            for other, score in zip(others, scores, strict=True)
            if other != row and score >= LEAST_COSINE
        }
        names = self._store.lookup({row for pair in pairs for row in pair})
        wanted = sorted((names[a][0], names[b][0]) for a, b in pairs)
        lines = []
        for some in batched(wanted, 64):
            self._load(work, {id_ for pair in some for id_ in pair})
            for a, b in some:
                if a in self._kept and b in self._kept:  # one that has left the dataset has no pixels
                    share = same_picture(self._kept[a], self._kept[b])
                    lines += [json.dumps([a, b, round(share, 3)])] if share >= AGREEMENT else []
        with self._pairs.open("a", encoding="utf-8") as stream:
            stream.writelines(line + "\n" for line in lines)

    def _load(self, work: Work, ids: set[str]) -> None:
        for id_ in ids & self._kept.keys():
            self._kept.move_to_end(id_)
        present = work.dataset.contains(sorted(ids - self._kept.keys()))
        for sample in work.dataset.read(sorted(present)):
            self._kept[sample.id] = traces(sample.pixels())
        while len(self._kept) > max(TRACES_KEPT, len(ids)):
            self._kept.popitem(last=False)
