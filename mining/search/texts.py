"""Rank the texts of a corpus for a category: by meaning, by words, and by what people said of others, fused by ranks.

    order = sum over the rankings of 1 / (60 + rank)

The rankings are: how near a text's vector is to the category's definition and prompts; BM25 of the words that these have; BM25 of the words
that tell the texts apart in which people saw the category; and how much more a text is like these than like those that were mined for the
category and do not show it. Who is in none of them is no candidate.

Paper: https://doi.org/10.1145/1571941.1572114 (reciprocal rank fusion)
"""

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np

from tilth.claims import Json
from tilth.encoders.families import Texts
from tilth.mining.search.feedback import MOST, NEAREST
from tilth.mining.search.lexical import Lexical
from tilth.mining.vectors.index import Index
from tilth.mining.vectors.store import Rows, Store
from tilth.policy import Category

FUSED = 60.0  # added to each rank; the value of the paper
EXAMPLES_ASKED = 32  # examples that are asked with, the newest

Key = tuple[str, str]
"""Key of a row in the corpus, and the stamp of its text."""


@dataclass(frozen=True, kw_only=True)
class Wanted:
    """What is looked for.

    Args:
        category: Of the policy.
        prompts: Vectors of its definition and prompts, `(p, d)`.
        shown: Texts in which people saw it, the newest last.
        accepted: Their vectors, `(a, d)`.
        rejected: Vectors of texts that were mined for it and do not show it, `(r, d)`.
    """

    category: Category
    prompts: Texts
    shown: Sequence[str] = ()
    accepted: Texts
    rejected: Texts


@dataclass(frozen=True, kw_only=True)
class Found:
    """A candidate: where it is, its category, how it ranks, and in which rankings it has which place, from 1."""

    key: Key
    category: str
    order: float
    ranks: dict[str, int] = field(default_factory=dict)

    def explain(self) -> dict[str, Json]:
        """Say what placed it where."""
        return {"order": round(self.order, 5), **self.ranks}


def asked_with(category: Category) -> list[str]:
    """Return the words that a category is asked for by."""
    return [category.definition, *category.prompts, category.name.replace("_", " ")]


class TextSearcher:
    """Asks one corpus.

    Args:
        store: Vectors of its texts, one each.
        index: Over the store.
        lexical: Its words.
    """

    def __init__(self, store: Store, index: Index, lexical: Lexical) -> None:
        self._store, self._index, self._lexical = store, index, lexical

    def find(self, wanted: Wanted, depth: int) -> list[Found]:
        """Return candidates for a category, best first.

        Args:
            wanted: What is looked for.
            depth: Length of each ranking.
        """
        lists = {
            "meaning": self._near(wanted.prompts, depth),
            "examples": self._near(wanted.accepted[-EXAMPLES_ASKED:], depth),
        }
        rows = {row for found in lists.values() for row in found}
        keys = self._store.lookup(rows)
        ranked = {name: [keys[row] for row in found] for name, found in lists.items() if name == "meaning"}
        if len(wanted.accepted) or len(wanted.rejected):
            order = np.array(sorted(rows), np.int64)
            likeness = self._likeness(order, wanted)
            ranked["examples"] = [keys[int(row)] for row in order[np.argsort(-likeness, kind="stable")][:depth]]
        asked = {"words": self._lexical.telling(asked_with(wanted.category))}
        if wanted.shown:
            asked["words of examples"] = self._lexical.telling(wanted.shown[-MOST:])
        for name, words in asked.items():
            ranked[name] = [(key, stamp) for key, stamp, _ in self._lexical.search(words, depth)]
        places: dict[Key, dict[str, int]] = {}
        for name, found in ranked.items():
            for rank, key in enumerate(found, 1):
                places.setdefault(key, {})[name] = rank
        every = [
            Found(
                key=key,
                category=wanted.category.name,
                order=sum(1 / (FUSED + rank) for rank in ranks.values()),
                ranks=ranks,
            )
            for key, ranks in places.items()
        ]
        return sorted(every, key=lambda one: (-one.order, one.key))

    def _near(self, asked: Texts, depth: int) -> list[int]:
        """Return the rows nearest to any of some vectors, best first."""
        best: dict[int, float] = {}
        for rows, scores in self._index.search(asked, depth):
            for row, score in zip(rows.tolist(), scores.tolist(), strict=True):
                best[row] = max(best.get(row, -1.0), score)
        return sorted(best, key=lambda row: (-best[row], row))[:depth]

    def _likeness(self, rows: Rows, wanted: Wanted) -> np.ndarray[tuple[int], np.dtype[np.float32]]:
        """Return how much more rows are like what shows the category than like what does not: means of the nearest few, `(n,)`."""
        vectors = self._store.take(rows)[:, 0].astype(np.float32)
        found = np.zeros(len(rows), np.float32)
        for sign, examples in ((1, wanted.accepted[-MOST:]), (-1, wanted.rejected[-MOST:])):
            if len(examples):
                found += sign * np.sort(vectors @ examples.T, 1)[:, -NEAREST:].mean(1)
        return found
