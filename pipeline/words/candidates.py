"""What people said of texts before, to look for more, and which of those found are neither sealed nor copies."""

from collections import Counter
from collections.abc import Sequence
from itertools import islice
from typing import cast

import numpy as np

from tilth.claims import Json, State
from tilth.data.where import both, one_of
from tilth.encoders.families import Texts
from tilth.encoders.sentences import Sentences
from tilth.engine.job import batched
from tilth.engine.work import Work
from tilth.mining.copies.known_texts import KnownTexts
from tilth.mining.search.feedback import CATEGORY, MOST
from tilth.mining.search.texts import Found, Wanted, asked_with
from tilth.policy import Category
from tilth.samples import NewSample
from tilth.texts import decode_text

AT_ONCE = 1000


class Known:
    """What people said of texts before: those that show a category, and those that were mined for one and do not show it.

    Args:
        work: The surroundings.
        encoder: Of the vectors.
    """

    def __init__(self, work: Work, encoder: Sentences) -> None:
        self._work, self._encoder = work, encoder
        shows: dict[str, list[str]] = {}
        lacks: dict[str, list[str]] = {}
        known = both("split != 'test'", one_of("state", (State.REVIEWED, State.CONFIRMED_EMPTY)))
        for id_, mined_for, *lists in work.dataset.cells("id", CATEGORY, "categories", "looked", where=known):
            shown, looked = (set(cast("list[str]", names or [])) for names in lists)
            for name in shown:
                shows.setdefault(name, []).append(str(id_))
            if mined_for in looked - shown:
                lacks.setdefault(str(mined_for), []).append(str(id_))
        self._shows, self._lacks = shows, lacks
        self.counts: dict[str, Json] = {
            "accepted": {name: len(ids) for name, ids in sorted(shows.items())},
            "rejected": {name: len(ids) for name, ids in sorted(lacks.items())},
        }

    def wanted(self, category: Category) -> Wanted:
        """Return what is looked for in the place of a category."""
        shown, lacking = (self._texts(ids.get(category.name, [])) for ids in (self._shows, self._lacks))
        return Wanted(
            category=category,
            prompts=self._encoder(asked_with(category)),
            shown=shown,
            accepted=self._vectors(shown),
            rejected=self._vectors(lacking),
        )

    def _texts(self, ids: Sequence[str]) -> list[str]:
        return [sample.text() for sample in self._work.dataset.read(ids[-MOST:]) if sample.data] if ids else []

    def _vectors(self, texts: Sequence[str]) -> Texts:
        parts = [self._encoder(some) for some in batched(texts, MOST)]
        return np.concatenate(parts) if parts else np.empty((0, self._encoder.width), np.float32)


class Refusing:
    """Takes texts that are neither sealed, nor in the dataset, nor copies of what was taken.

    Args:
        texts: All candidates, by key.
        work: The surroundings.
        sealed: What must not be mined.
        min_likeness: From which on two texts are copies.
    """

    def __init__(self, texts: dict[str, NewSample], work: Work, sealed: KnownTexts, min_likeness: float) -> None:
        self._texts, self._sealed = texts, sealed
        self._ids = {key: new.identify()[0] for key, new in texts.items()}
        self._there = {
            id_ for ids in batched(sorted(set(self._ids.values())), AT_ONCE) for id_ in work.dataset.contains(ids)
        }
        self._taken = KnownTexts(min_likeness=min_likeness)
        self.refused: Counter[str] = Counter()

    def take(self, found: Sequence[Found], count: int) -> list[Found]:
        """Take the first `count` of a line."""
        taken: list[Found] = []
        for one in found:
            if len(taken) == count:
                break
            key, stamp = one.key
            if key not in self._texts or self._ids[key][: len(stamp)] != stamp:
                self.refused["changed since it was indexed"] += 1
            elif self._fits(key):
                taken.append(one)
        return taken

    def drawn(self, keys: Sequence[str], count: int) -> list[str]:
        """Take the first `count` of what was drawn at random; copies of what was taken stay, as they were drawn."""
        fitting = (key for key in keys if key in self._texts and self._fits(key, alike=True))
        return list(islice(fitting, count))

    def _fits(self, key: str, *, alike: bool = False) -> bool:
        text = decode_text(self._texts[key].data)
        known = self._ids[key] in self._there
        why = "in the dataset" if known else "sealed" if self._sealed.hold([text])[0] else ""
        if not why and not alike and self._taken.hold([text])[0]:
            why = "copy of another"
        if why:
            self.refused[why] += 1
            return False
        self._there.add(self._ids[key])
        if not alike:
            self._taken.add([text])
        return True
