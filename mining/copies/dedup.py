"""Keep the best image of every group of near-duplicates.

A cascade, cheapest first: files of the same pixels are one sample already, by its id; PDQ hashes find images that were
re-encoded or resized, each compared with all others; colours, key points and blocks find crops, borders, mirrored and
overwritten ones (`edits.py`); query vectors find what merely looks alike.
"""

from collections.abc import Iterator, Mapping, Sequence
from typing import ClassVar

from tilth.claims import State
from tilth.data.where import PAIR
from tilth.encoders.families import open_encoder
from tilth.engine.apply import Apply
from tilth.engine.job import batched
from tilth.engine.steps import Facts, step
from tilth.engine.work import Work
from tilth.mining.copies.edits import Edits
from tilth.mining.copies.hash import COLUMN, QUALITY, ensure_hashes, to_bytes
from tilth.mining.copies.leakage import check_distance
from tilth.mining.copies.near import Groups, close_pairs
from tilth.mining.vectors.alike import alike_pairs, sample_vectors
from tilth.samples import Result, Sample

COMPRESSED = 0.75  # a file of the same picture that is lighter than this part of another was compressed harder
GUARDED = ("test", "val")
REVIEWED = (State.REVIEWED, State.CONFIRMED_EMPTY, State.DISPUTED)


@step
class Dedup:
    """Drop all but the best image of every group of near-duplicates.

    The best is the one that is held back (test, then val), then one that a person has reviewed, a real one before a generated
    one, the larger, the one of an earlier import, the less compressed, the first. Images of the test split are never dropped;
    others give way. Members of a group, kept or dropped, share the column `dedup.group`, and `split` keeps a group together.
    The two images of an edited pair, and the scene that they were drawn into, are alike on purpose: pairs are left alone.

    Args:
        max_distance: PDQ bits of 256 up to which images are copies; 31 is the value that Meta recommends for a match.
        min_quality: PDQ quality below which an image is too plain for its hash to mean anything.
        edits: Also join crops, bordered, mirrored and overwritten copies; see `edits.py`. About 20 images/s on a core.
        min_cosine: Also join images whose BLIP-2 query vectors have at least this mean cosine; off when None.
        model: For `min_cosine`.
    """

    decides: ClassVar[bool] = True  # anew each time where the dataset outlives runs

    max_distance: int = 31
    min_quality: int = 50
    edits: bool = False
    min_cosine: float | None = None
    model: str = "starter:retrieval"

    def __post_init__(self) -> None:
        """Check the settings."""
        check_distance(self.max_distance)
        if not 0 <= self.min_quality <= 100:
            raise ValueError(f"min_quality must lie in [0, 100], got {self.min_quality}")
        if self.min_cosine is not None and not 0 < self.min_cosine <= 1:
            raise ValueError(f"min_cosine must lie in (0, 1], got {self.min_cosine}")

    def models(self) -> tuple[str, ...]:
        """Name the model, when one is used."""
        return (self.model,) if self.min_cosine is not None else ()

    def run(self, work: Work) -> Facts:
        """Find the groups and drop all but their best."""
        ensure_hashes(work)
        ids, hashes, plain, unhashed = [], [], 0, 0
        for id_, text, quality in work.dataset.cells("id", COLUMN, QUALITY, where=f"{PAIR} is null"):
            good = float(str(quality or 0)) >= self.min_quality
            plain += bool(text) and not good
            unhashed += not text
            if text and good:
                ids.append(str(id_))
                hashes.append(str(text))
        groups = Groups(len(ids))
        if ids:
            for a, b in close_pairs(to_bytes(hashes), self.max_distance):
                groups.join(a, b)
        by_hash = len(groups.members())
        if self.edits and ids:
            found_edits = Edits(work.dataset.root / "edits")
            found_edits.update(work, ids)
            numbers = {id_: n for n, id_ in enumerate(ids)}
            for a_id, b_id in found_edits.pairs():
                if a_id in numbers and b_id in numbers:
                    groups.join(numbers[a_id], numbers[b_id])
        by_edits = len(groups.members()) if self.edits else by_hash
        if self.min_cosine is not None and ids:
            for a, b in _alike(work, ids, self.model, self.min_cosine):
                groups.join(a, b)
        found = [[ids[i] for i in group] for group in groups.members()]
        results: dict[str, Result] = {}
        for some in batched(found, 64):
            every = [i for group in some for i in group]
            samples = {s.id: s for s in work.dataset.read(every)}
            weights = {id_: len(sample.data) for id_, sample in samples.items()}
            came = work.dataset.came_with(every)
            for group in some:
                results |= decide([samples[i] for i in group], came, weights)
        Apply.to(work, results)
        return {
            "images": len(ids) + plain + unhashed,
            "groups": len(found),
            "groups_by_hash": by_hash,
            "groups_with_edits": by_edits,
            "dropped": sum(bool(r.dropped) for r in results.values()),
            "too_plain": plain,
            "in_edited_pairs": work.dataset.count(f"{PAIR} is not null"),
            "largest_group": max((len(g) for g in found), default=1),
        }


def best_of(group: Sequence[Sample], came: Mapping[str, int], weights: Mapping[str, int]) -> Sample:
    """Return the image that stands for a group of near-duplicates.

    Args:
        group: In the order in which they came.
        came: With which import each came, by id.
        weights: Bytes of the image files, by id.
    """
    left = list(group)
    for better in (
        lambda s: GUARDED.index(s.split) if s.split in GUARDED else len(GUARDED),
        lambda s: s.state not in REVIEWED,
        lambda s: s.made,
        lambda s: -s.size_wh[0] * s.size_wh[1],
        lambda s: came[s.id],
    ):
        best = min(map(better, left))
        left = [s for s in left if better(s) == best]
    heaviest = max(weights[s.id] for s in left)
    # of equally large files the first: a mirrored copy is a little heavier or lighter by chance
    return next(s for s in left if weights[s.id] >= COMPRESSED * heaviest)


def decide(group: Sequence[Sample], came: Mapping[str, int], weights: Mapping[str, int]) -> dict[str, Result]:
    """Keep the best sample of a group, and all of the test split; say of the others why they go."""
    best = best_of(group, came, weights)
    name = min(sample.id for sample in group)[:12]
    return {
        sample.id: Result(
            columns={"dedup.group": name},
            dropped="" if sample is best or sample.split == "test" else f"near-duplicate of {best.called}",
        )
        for sample in group
    }


def _alike(work: Work, ids: list[str], model: str, min_cosine: float) -> Iterator[tuple[int, int]]:
    """Yield pairs of samples that look alike to a model."""
    store = sample_vectors(work, ids, open_encoder(model, work.device))
    numbers = {id_: n for n, id_ in enumerate(ids)}
    places = [numbers.get(id_, -1) for id_, _ in store.items()]  # -1 for those that are out of the dataset by now
    for a, b in alike_pairs(store, min_cosine):
        if places[a] >= 0 <= places[b]:
            yield places[a], places[b]
