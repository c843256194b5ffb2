"""Keep the best text of every group of near-duplicates."""

from collections.abc import Iterator, Mapping, Sequence
from functools import lru_cache
from typing import ClassVar

import numpy as np
import numpy.typing as npt

from tilth.engine.apply import Apply
from tilth.engine.job import batched
from tilth.engine.steps import Facts, step
from tilth.engine.work import Work
from tilth.mining.copies.dedup import GUARDED, REVIEWED
from tilth.mining.copies.minhash import BANDS, COLUMN, Bands, MinHash, likeness, shingles
from tilth.mining.copies.near import Groups
from tilth.samples import TEXT, Result, Sample

ID_BYTES = 32
READ_AT_ONCE = 2048  # pairs whose texts are in memory


@step
class DedupText:
    """Drop all but the best text of every group of near-duplicates, whatever tricks of letters set them apart.

    Texts that share a band of MinHash are compared by all their runs of five letters. The best is the one that is held back (test, then
    val), then one that a person has reviewed, a real one before a generated one, the longer, the one of an earlier import, the first.
    Texts of the test split are never dropped; others give way, so what people labelled for a test stays unseen. Members of a group,
    kept or dropped, share the column `dedup.group`, and `split` keeps a group together.

    Args:
        min_likeness: Least share of runs of five letters that two copies have in common, in (0, 1].
    """

    decides: ClassVar[bool] = True  # anew each time where the dataset outlives runs
    media: ClassVar[tuple[str, ...]] = (TEXT,)

    min_likeness: float = 0.8

    def __post_init__(self) -> None:
        """Check the setting."""
        if not 0 < self.min_likeness <= 1:
            raise ValueError(f"min_likeness must lie in (0, 1], got {self.min_likeness}")

    def run(self, work: Work) -> Facts:
        """Find the groups and drop all but their best."""
        where = f"`{COLUMN}` is null"
        if work.dataset.count(where):
            work.map(MinHash(), where, label=f"{work.name}: minhash")
        ids, bands = self._kept_on_disk(work)
        groups, compared = Groups(len(ids)), 0
        for some in batched(candidates(bands), READ_AT_ONCE):
            open_ = [(a, b) for a, b in some if groups.find(a) != groups.find(b)]
            wanted = sorted({n for pair in open_ for n in pair})
            read = work.dataset.read([ids[n].tobytes().hex() for n in wanted])
            texts = {n: sample.text() for n, sample in zip(wanted, read, strict=True)}
            cut = lru_cache(maxsize=READ_AT_ONCE)(lambda n, texts=texts: frozenset(shingles(texts[n])))
            for a, b in open_:
                compared += 1
                if groups.find(a) != groups.find(b) and likeness(cut(a), cut(b)) >= self.min_likeness:
                    groups.join(a, b)
        found = groups.members()
        results: dict[str, Result] = {}
        for some_groups in batched(found, 256):
            every = [n for group in some_groups for n in group]
            samples = dict(
                zip(every, work.dataset.read([ids[n].tobytes().hex() for n in every], images=False), strict=True)
            )
            came = work.dataset.came_with([sample.id for sample in samples.values()])
            for group in some_groups:
                results |= decide([samples[n] for n in group], came)
        Apply.to(work, results)
        return {
            "texts": len(ids),
            "groups": len(found),
            "dropped": sum(bool(result.dropped) for result in results.values()),
            "compared": compared,
            "largest_group": max(map(len, found), default=1),
        }

    def _kept_on_disk(self, work: Work) -> tuple[npt.NDArray[np.uint8], Bands]:
        """Return the ids `(n, 32)` and the bands `(n, 21)` of all texts, which stay in files: there may be more than memory holds."""
        work.folder.mkdir(parents=True, exist_ok=True)
        with (work.folder / "ids").open("wb") as ids, (work.folder / "bands").open("wb") as bands:
            for id_, text in work.dataset.cells("id", COLUMN):
                if text:
                    ids.write(bytes.fromhex(str(id_)))
                    bands.write(bytes.fromhex(str(text)))
            count = ids.tell() // ID_BYTES
        if not count:
            return np.empty((0, ID_BYTES), np.uint8), np.empty((0, BANDS), np.uint32)
        return (
            np.memmap(work.folder / "ids", np.uint8, "r", shape=(count, ID_BYTES)),
            np.memmap(work.folder / "bands", "<u4", "r", shape=(count, BANDS)),
        )


def candidates(bands: Bands) -> Iterator[tuple[int, int]]:
    """Yield pairs of texts that share a band: each with the one before it and with the first of the same hash.

    Args:
        bands: Hashes of the bands, `(n, 21)`.
    """
    for band in range(BANDS):
        keys = np.array(bands[:, band])
        order = np.argsort(keys, kind="stable")
        keys = keys[order]
        starts = np.flatnonzero(np.r_[True, keys[1:] != keys[:-1]])
        first = order[np.repeat(starts, np.diff(np.r_[starts, len(keys)]))]
        same = np.flatnonzero(keys[1:] == keys[:-1]) + 1
        for place in same.tolist():
            yield int(first[place]), int(order[place])
            if first[place] != order[place - 1]:
                yield int(order[place - 1]), int(order[place])


def decide(group: Sequence[Sample], came: Mapping[str, int]) -> dict[str, Result]:
    """Keep the best text of a group, and all of the test split; say of the others why they go."""

    def rank(sample: Sample) -> tuple[int, bool, bool, int, int]:
        held = GUARDED.index(sample.split) if sample.split in GUARDED else len(GUARDED)
        return held, sample.state not in REVIEWED, sample.made, -sample.size_wh[0], came[sample.id]

    best = min(group, key=rank)  # of equal ones the first
    name = min(sample.id for sample in group)[:12]
    return {
        sample.id: Result(
            columns={"dedup.group": name},
            dropped="" if sample is best or sample.split == "test" else f"near-duplicate of {best.called}",
        )
        for sample in group
    }
