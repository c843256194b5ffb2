"""Keep copies of the sealed test set out of the dataset."""

from pathlib import Path
from typing import ClassVar

from tilth.engine.apply import Apply
from tilth.engine.job import batched
from tilth.engine.steps import Facts, step
from tilth.engine.work import Work
from tilth.mining.copies.hash import COLUMN, ensure_hashes
from tilth.mining.copies.sealed import REASON, Sealed
from tilth.samples import Result


@step
class Leakage:
    """Drop every image that is in a sealed test set, or is a copy of one that is.

    Args:
        sealed: Folders of the sealed test sets.
        max_distance: PDQ bits of 256 up to which an image counts as a copy.
    """

    decides: ClassVar[bool] = True  # anew each time where the dataset outlives runs

    sealed: tuple[Path, ...]
    max_distance: int = 31

    def __post_init__(self) -> None:
        """Check the settings."""
        check_distance(self.max_distance)

    def inputs(self) -> tuple[Path, ...]:
        """Name the sealed folders."""
        return self.sealed

    def run(self, work: Work) -> Facts:
        """Drop what leaks; the samples of the dataset's own test split stay."""
        ensure_hashes(work)
        sealed = Sealed(self.sealed, self.max_distance, work.events)
        results: dict[str, Result] = {}
        same = checked = 0
        for cells in batched(work.dataset.cells("id", COLUMN, where="split != 'test'"), 1024):
            checked += len(cells)
            hashes = {str(id_): str(text) for id_, text in cells if text is not None}
            near = dict(zip(hashes, sealed.near(list(hashes.values())), strict=True))
            for id_ in (str(id_) for id_, _ in cells):
                distance = 0 if id_ in sealed.ids else near.get(id_)
                if distance is not None:
                    same += id_ in sealed.ids
                    results[id_] = Result(columns={"leakage.distance": distance}, dropped=REASON)
        Apply.to(work, results)
        return {"checked": checked, "dropped": len(results), "same_pixels": same, "sealed": len(sealed)}


def check_distance(max_distance: int) -> None:
    """Refuse a distance at which PDQ says nothing.

    Raises:
        ValueError: It lies outside [0, 80].
    """
    if not 0 <= max_distance <= 80:
        raise ValueError(f"max_distance must lie in [0, 80] bits of 256 (31 is a match), got {max_distance}")
