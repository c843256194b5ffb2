"""A corpus of texts: tables that are read row by row, as often as is needed, and what is known of them on disk."""

import hashlib
from collections import Counter
from collections.abc import Collection, Iterator
from pathlib import Path

import numpy as np

from tilth.annotate.exchange.taking import called_apart
from tilth.annotate.texts.rows import Rows
from tilth.annotate.texts.sets import TextSet
from tilth.annotate.texts.taking import TextTaker
from tilth.claims import Json
from tilth.encoders.sentences import Sentences
from tilth.engine.intake import Failed
from tilth.engine.job import batched
from tilth.engine.work import Work
from tilth.errors import TooManyFailures
from tilth.mining.search.lexical import Lexical
from tilth.mining.vectors.store import Store
from tilth.samples import NewSample

FEW = 50


class TextCorpus:
    """Tables that are read row by row, as often as is needed.

    Args:
        path: A table, or a folder of them.
        work: The surroundings.
        text: Column of the text; one of the usual names when empty.
        language: Column of the language.
        licence: Of the texts.
    """

    def __init__(self, path: Path, work: Work, *, text: str = "", language: str = "", licence: str = "") -> None:
        self._work, self._licence = work, licence
        self._how = TextSet(text=(text,) if text else (), language=language)
        self._path = path.expanduser().resolve()
        self._called = called_apart(work.dataset.root, self._path)
        place = hashlib.sha256(str(self._path).encode()).hexdigest()[:8]
        self.name = f"{self._path.stem}-{place}"

    def __iter__(self) -> Iterator[tuple[str, NewSample | Failed]]:
        """Yield all rows, each with its key."""
        taker = TextTaker(
            how=self._how,
            policy=self._work.policy,
            categories={},
            covers=(),
            empty_means="unlabelled",
            called=self._called,
            key=self.name,
            origin={"licence": self._licence, "step": self._work.name},
            split="",
        )
        for row in Rows(self._path):
            yield f"{row.file}#{row.number}", taker.take(row)

    def rows(self, keys: Collection[str]) -> Iterator[tuple[str, NewSample]]:
        """Yield the rows of some keys that are texts."""
        for key, new in self:
            if key in keys and isinstance(new, NewSample):
                yield key, new

    def chosen(self, picks: dict[str, dict[str, Json]]) -> Iterator[NewSample | Failed]:
        """Yield what was chosen, with why."""
        for key, new in self:
            if key in picks:
                yield (
                    new
                    if isinstance(new, Failed)
                    else NewSample(**{**vars(new), "columns": {**new.columns, **picks[key]}})
                )

    def index(self, encoder: Sentences, store: Store, lexical: Lexical, batch_size: int) -> dict[str, Json]:
        """Embed and index whatever is not yet, and forget what is no more.

        Returns:
            Numbers: `texts` of the corpus, `embedded` now, `failed`, and `failed_examples`.

        Raises:
            TooManyFailures: More than the allowed share of at least 50 rows, or all of any number, hold no text.
        """
        has, failed, before = store.has(), list[str](), len(store)
        counts: Counter[str] = Counter()
        with self._work.events.progress(f"{self._work.name}: embed", Rows(self._path).count(), unit="texts") as advance:
            for some in batched(self, batch_size):
                texts = [(key, _stamp(new), new.data.decode()) for key, new in some if isinstance(new, NewSample)]
                failed += [f"{new.name}: {new.error}" for _, new in some if isinstance(new, Failed)][
                    : FEW - len(failed)
                ]
                lexical.add(texts)
                fresh = [one for one in texts if not has(one[0], one[1])]
                if fresh:
                    vectors = encoder([text for _, _, text in fresh]).astype(np.float16)
                    store.append([(key, stamp) for key, stamp, _ in fresh], vectors[:, None])
                counts.update(texts=len(texts), rows=len(some), embedded=len(fresh))
                advance(len(some))
        lost, most = counts["rows"] - counts["texts"], self._work.max_fail_rate
        if not counts["texts"] or (counts["rows"] >= FEW and lost > most * counts["rows"]):
            raise TooManyFailures(
                f"{self._path}: {lost:,} of {counts['rows']:,} rows hold no text, more than max_fail_rate {most:g} allows; for "
                f"example {'; '.join(failed[:3]) or 'none'}"
            )
        if before:
            store.forget_all_but((key, _stamp(new)) for key, new in self if isinstance(new, NewSample))
        told = {"texts": counts["texts"], "embedded": counts["embedded"], "failed": lost}
        return {**told, "failed_examples": list(failed[:5])}


def _stamp(new: NewSample) -> str:
    return new.identify()[0][:16]
