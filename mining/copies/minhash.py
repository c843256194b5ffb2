"""Measure what makes copies of texts recognisable: the MinHash of the letters that follow each other in them.

Paper: https://doi.org/10.1109/SEQUEN.1997.666900 (MinHash), https://arxiv.org/abs/1704.04370 (how rensa computes it)

Texts are compared by their bare words, so that other alphabets, digits for letters, invisible signs and punctuation do not hide a copy.
"""

from collections.abc import Callable, Iterable, Sequence
from typing import ClassVar

import numpy as np
import numpy.typing as npt

from tilth.engine.steps import Facts, step
from tilth.engine.work import Work
from tilth.extras import optional
from tilth.samples import TEXT, Result, Sample
from tilth.texts import bare

COLUMN = "minhash.bands"
SHINGLE = 5  # letters
BANDS, ROWS = 21, 6  # two texts that share 8 in 10 shingles share a band in 99.8 % of cases, those that share 7 in 93 %
PERMUTATIONS = 128
SEED = 0
_WEIGHTS = np.array([pow(0x9E3779B1, n, 1 << 32) for n in range(1, ROWS + 1)], np.uint64)

Bands = npt.NDArray[np.uint32]


def shingles(text: str) -> list[str]:
    """Return the runs of five letters in a text's bare words; all of a shorter one.

    >>> shingles("Win  b1g"), shingles("!")
    (['win b', 'in bi', 'n big'], ['!'])
    """
    words = bare(text) or text
    return [words[at : at + SHINGLE] for at in range(max(1, len(words) - SHINGLE + 1))]


def likeness(a: Iterable[str], b: Iterable[str]) -> float:
    """Return the share of shingles that two texts have in common (Jaccard), in [0, 1].

    >>> likeness(shingles("win big now"), shingles("win big now!")), likeness(["a"], ["b"])
    (1.0, 0.0)
    """
    first, second = set(a), set(b)
    return len(first & second) / len(first | second)


def bands_of(texts: Sequence[str]) -> Bands:
    """Return the hashes of the bands of texts, `(n, 21)`; texts that share one may be near-duplicates."""
    with optional():
        from rensa import RMinHash
    found = RMinHash.digest_matrix_from_token_sets([shingles(text) for text in texts], PERMUTATIONS, SEED)
    rows = np.array(found.to_rows(), np.uint64)[:, : BANDS * ROWS].reshape(len(texts), BANDS, ROWS)
    mixed = (rows * _WEIGHTS).sum(2) & np.uint64(0xFFFFFFFFFFFFFFFF)
    return np.asarray((mixed ^ (mixed >> np.uint64(32))) & np.uint64(0xFFFFFFFF), np.uint32)


@step
class MinHash:
    """Measure the MinHash of every text, as the column `minhash.bands` (168 hex digits).

    Args:
        batch_size: Texts per call.
    """

    media: ClassVar[tuple[str, ...]] = (TEXT,)

    batch_size: int = 256

    def models(self) -> tuple[str, ...]:
        """Name none."""
        return ()

    def load(self) -> Callable[[Sequence[Sample]], list[Result]]:
        """Return the function that hashes a batch."""

        def measure(samples: Sequence[Sample]) -> list[Result]:
            found = bands_of([sample.text() for sample in samples]).astype("<u4")
            return [Result(columns={COLUMN: row.tobytes().hex()}) for row in found]

        return measure

    def run(self, work: Work) -> Facts:
        """Hash what has no hash yet."""
        return dict(work.map(self))
