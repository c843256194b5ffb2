"""Texts that are known, such as those of a sealed test: what is one of them, or a near-duplicate of one, is recognised."""

from collections import defaultdict
from collections.abc import Iterable, Sequence

from tilth.engine.job import batched
from tilth.mining.copies.minhash import bands_of, likeness, shingles
from tilth.texts import text_id

AT_ONCE = 256


class KnownTexts:
    """Some texts, by id and by MinHash; compared as `dedup.text` does.

    Memory grows with them, so they are the texts of a test, or those that a step has chosen, and no corpus.

    Args:
        texts: The normalised texts.
        min_likeness: Least share of runs of five letters that two copies have in common, in (0, 1].
    """

    def __init__(self, texts: Iterable[str] = (), *, min_likeness: float = 0.8) -> None:
        self.min_likeness = min_likeness
        self._ids: set[str] = set()
        self._cut: list[frozenset[str]] = []
        self._places: dict[tuple[int, int], list[int]] = defaultdict(list)
        for some in batched(texts, AT_ONCE):
            self.add(some)

    def __len__(self) -> int:
        """Count them."""
        return len(self._ids)

    def add(self, texts: Sequence[str]) -> None:
        """Know these, too."""
        new = [text for text in dict.fromkeys(texts) if text_id(text) not in self._ids]
        if not new:
            return
        for text, bands in zip(new, bands_of(new).tolist(), strict=True):
            self._ids.add(text_id(text))
            for band in enumerate(bands):
                self._places[band].append(len(self._cut))
            self._cut.append(frozenset(shingles(text)))

    def hold(self, texts: Sequence[str]) -> list[bool]:
        """Tell of each text whether it is one of them, or near one."""
        if not texts or not self._cut:
            return [False] * len(texts)
        found = []
        for text, bands in zip(texts, bands_of(texts).tolist(), strict=True):
            near = {n for band in enumerate(bands) for n in self._places.get(band, ())}
            cut = shingles(text)
            found.append(
                text_id(text) in self._ids or any(likeness(cut, self._cut[n]) >= self.min_likeness for n in near)
            )
        return found
