"""How much each cue of each picture looks like each known person: cosines, then in deviations of what strangers get.

Shapes: n pictures, k known people, c cues in the order of `CUES`.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from tilth.train.persons.cues import CUES, QUALITIES

Floats = npt.NDArray[np.float32]
Bools = npt.NDArray[np.bool_]
NEAREST = 2  # of a person's references that a picture is compared with


@dataclass(frozen=True, kw_only=True)
class Pictures:
    """Vectors of pictures.

    Args:
        vectors: By cue, `(n, width)`; zeros where it is not seen.
        seen: `(n, c)`.
        quality: `(n, c, 3)`.
    """

    vectors: Mapping[str, Floats]
    seen: Bools
    quality: Floats

    def __len__(self) -> int:
        """Count the pictures."""
        return len(self.seen)

    def take(self, places: Sequence[int] | npt.NDArray[np.int64]) -> "Pictures":
        """Return some of them."""
        at = np.asarray(places, np.int64)
        return Pictures(
            vectors={cue: v[at] for cue, v in self.vectors.items()}, seen=self.seen[at], quality=self.quality[at]
        )

    def without(self, cue: str) -> "Pictures":
        """Return them as if a cue were seen in none."""
        seen = self.seen.copy()
        seen[:, CUES.index(cue)] = False
        return Pictures(vectors=self.vectors, seen=seen, quality=self.quality)


@dataclass(frozen=True, kw_only=True)
class Compared:
    """Cosines of pictures and known people, `(n, k, c)`; `both` says where picture and person have the cue, `quality` is `(n, c, 3)`."""

    cosines: Floats
    both: Bools
    quality: Floats

    def take(self, rows: npt.NDArray[np.int64], known: npt.NDArray[np.int64]) -> "Compared":
        """Return some pictures beside some people."""
        return Compared(
            cosines=self.cosines[rows][:, known], both=self.both[rows][:, known], quality=self.quality[rows]
        )


def compare(pictures: Pictures, references: Sequence[Pictures]) -> Compared:
    """Compare pictures with the references of each known person: the mean cosine of the nearest two."""
    n, k, c = len(pictures), len(references), len(CUES)
    cosines, both = np.zeros((n, k, c), np.float32), np.zeros((n, k, c), bool)
    for at, cue in enumerate(CUES):
        for number, own in enumerate(references):
            there = own.seen[:, at]
            if not there.any():
                continue
            found = pictures.vectors[cue] @ own.vectors[cue][there].T
            cosines[:, number, at] = np.sort(found, 1)[:, -NEAREST:].mean(1)
            both[:, number, at] = pictures.seen[:, at]
    return Compared(cosines=cosines, both=both, quality=pictures.quality)


@dataclass(frozen=True, kw_only=True)
class Strangers:
    """Mean and deviation of the cosines that people get with references of others, by cue."""

    mean: tuple[float, ...]
    deviation: tuple[float, ...]

    def z(self, of: Compared) -> Floats:
        """Return how many deviations above strangers each comparison is, `(n, k, c)`; 0 where there is nothing to compare."""
        z = (of.cosines - np.array(self.mean, np.float32)) / np.array(self.deviation, np.float32)
        return np.asarray(np.where(of.both, z, 0), np.float32)


def strangers(of: Compared, same: Bools) -> Strangers:
    """Learn what strangers get; `same` is `(n, k)`, whether a picture shows a known person."""
    mean, deviation = [], []
    for at in range(len(CUES)):
        some = of.cosines[..., at][of.both[..., at] & ~same]
        mean.append(float(some.mean()) if len(some) else 0.0)
        deviation.append(float(some.std()) + 1e-6 if len(some) else 1.0)
    return Strangers(mean=tuple(mean), deviation=tuple(deviation))


def mean_z(z: Floats, both: Bools) -> Floats:
    """Return the plain mean of the z-scores that there are, `(n, k)`; what a fusion has to beat."""
    return np.asarray(np.where(both.any(-1), z.sum(-1) / np.maximum(both.sum(-1), 1), -9), np.float32)


def none_seen(n: int, width: int) -> Pictures:
    """Return n pictures in which nothing is seen, to be filled."""
    return Pictures(
        vectors={cue: np.zeros((n, width), np.float32) for cue in CUES},
        seen=np.zeros((n, len(CUES)), bool),
        quality=np.zeros((n, len(CUES), len(QUALITIES)), np.float32),
    )
