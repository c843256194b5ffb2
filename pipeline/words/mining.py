"""Find the texts of a corpus that are worth a person's time: those near each category that words decide, and a few at random."""

import hashlib
import json
from collections.abc import Iterator
from dataclasses import field
from pathlib import Path
from typing import Any, ClassVar

import numpy as np

from tilth.claims import Json
from tilth.data.files import write_beside
from tilth.encoders.sentences import Sentences
from tilth.engine.intake import Failed
from tilth.engine.steps import Facts, step
from tilth.engine.work import Work
from tilth.errors import InputError
from tilth.mining.copies.known_texts import KnownTexts
from tilth.mining.search.feedback import CATEGORY
from tilth.mining.search.lexical import Lexical
from tilth.mining.search.texts import TextSearcher
from tilth.mining.vectors.index import Index
from tilth.mining.vectors.store import Store
from tilth.pipeline.words.candidates import Known, Refusing
from tilth.pipeline.words.corpus import TextCorpus
from tilth.policy import Category, Policy
from tilth.samples import TEXT
from tilth.texts import decode_text

LOOKED_AT = 4  # candidates that are read for each text wanted; sealed ones and copies fall out
FEW = 50  # texts that are read at least


@step
class MineText:
    """Search tables of texts for every category that words decide, and add what is found to the dataset.

    Found is what is near the definition and the prompts of a category in meaning, what has their words, and what is like texts in which
    people saw the category; all over undisguised words. Nothing holds all texts: vectors and words lie on disk, and the tables are read
    row by row. Sealed texts and near-duplicates of such are never mined.

    Args:
        path: A table or a folder of them, as of `import.text`; labels that they have are taken, too.
        model: A sentence encoder: any encoder of transformers, whose tokens' mean is taken.
        text: Column of the text; one of the usual names when empty.
        language: Column that says in which language a text is.
        licence: Of the texts, kept with each.
        per_category: Texts wanted per category.
        quotas: Texts wanted of some categories, instead of `per_category`; 0 leaves one out.
        explore: Share of all mined texts that is drawn at random, so that the loop sees what it would not search for.
        pool: Texts wanted in all; more are drawn at random until there are so many.
        never: Tables of sealed texts, beside those of the dataset's test split.
        min_likeness: Share of runs of five letters from which on a text is a copy, in (0, 1].
        embeddings: Folder that keeps vectors and words of the corpus between runs; beside the dataset when None.
        batch_size: Texts per forward pass.
    """

    media: ClassVar[tuple[str, ...]] = (TEXT,)

    path: Path
    model: str = "starter:sentences"
    text: str = ""
    language: str = ""
    licence: str = "unknown"
    per_category: int = 40
    quotas: dict[str, int] = field(default_factory=dict)
    explore: float = 0.1
    pool: int = 0
    never: tuple[Path, ...] = ()
    min_likeness: float = 0.8
    embeddings: Path | None = None
    batch_size: int = 256

    def __post_init__(self) -> None:
        """Check the settings."""
        for name in ("per_category", "batch_size"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} must be at least 1, got {getattr(self, name)}")
        if not 0 <= self.explore < 1:
            raise ValueError(f"explore must lie in [0, 1), got {self.explore}")
        if not 0 < self.min_likeness <= 1:
            raise ValueError(f"min_likeness must lie in (0, 1], got {self.min_likeness}")
        if self.pool < 0 or any(count < 0 for count in self.quotas.values()):
            raise ValueError(f"pool and quotas must not be negative, got {self.pool} and {self.quotas}")

    def models(self) -> tuple[str, ...]:
        """The encoder."""
        return (self.model,)

    def inputs(self) -> tuple[Path, ...]:
        """The corpus and the sealed tables."""
        return (self.path.expanduser(), *self.never)

    def run(self, work: Work) -> Facts:
        """Embed, search, choose, add.

        Raises:
            InputError: Words decide nothing in the policy, a quota names another category, or the path holds no text.
        """
        categories = self._categories(work.policy)
        corpus = TextCorpus(self.path, work, text=self.text, language=self.language, licence=self.licence)
        plan = work.folder / "selection.json"
        if work.retry_failed or not plan.exists():
            work.folder.mkdir(parents=True, exist_ok=True)
            picks, facts = self._choose(work, corpus, categories)
            write_beside(plan, json.dumps({"picks": picks, "facts": facts}))
        # a resumed run adds what was chosen before the kill, whatever a search would answer now
        told = plan.read_text()
        chosen: dict[str, Any] = json.loads(told)
        counts = work.add(
            hashlib.sha256(told.encode()).hexdigest()[:12], corpus.chosen(chosen["picks"]), len(chosen["picks"])
        )
        return {"mined": counts.get("ok", 0), **chosen["facts"]}

    def _categories(self, policy: Policy) -> list[tuple[Category, int]]:
        """Return what is looked for, and how many of each."""
        names = [category.name for category in policy.written]
        if not names:
            raise InputError(f"policy {policy.policy}: words decide none of its categories (evidence: text)")
        if wrong := sorted(set(self.quotas) - set(names)):
            raise InputError(f"quotas: words decide no {', '.join(wrong)}; they decide {', '.join(names)}")
        wanted = [(category, self.quotas.get(category.name, self.per_category)) for category in policy.written]
        if not any(count for _, count in wanted):
            raise InputError("quotas: every category is 0, so there is nothing to look for")
        return [(category, count) for category, count in wanted if count]

    def _choose(
        self, work: Work, corpus: "TextCorpus", categories: list[tuple[Category, int]]
    ) -> tuple[dict[str, dict[str, Json]], dict[str, Json]]:
        encoder = Sentences(self.model, work.device)
        folder = (self.embeddings or work.dataset.root.parent / "embeddings") / f"{corpus.name}-{encoder.digest}"
        store = Store(folder, model=self.model, digest=encoder.digest, queries=1, width=encoder.width)
        lexical = Lexical(folder / "words.sqlite")
        try:
            read = corpus.index(encoder, store, lexical, self.batch_size)
            index = Index(store, digest=encoder.digest)
            searcher = TextSearcher(store, index, lexical)
            known = Known(work, encoder)
            depth = {category.name: max(FEW, LOOKED_AT * count) for category, count in categories}
            found = {
                category.name: searcher.find(known.wanted(category), depth[category.name]) for category, _ in categories
            }
        finally:
            lexical.close()
        share = round(sum(count for _, count in categories) * self.explore / (1 - self.explore))
        wanted_in_all = share + sum(count for _, count in categories)
        draws = self._draw(store, work.seed, max(wanted_in_all, self.pool))
        needed = {one.key[0] for ones in found.values() for one in ones} | set(draws)
        texts = dict(corpus.rows(needed))
        sealed = KnownTexts(_sealed(self, work), min_likeness=self.min_likeness)
        refusing = Refusing(texts, work, sealed, self.min_likeness)
        picks: dict[str, dict[str, Json]] = {}
        counts: dict[str, int] = {}
        for category, count in categories:
            some = refusing.take(found[category.name], count)
            counts[category.name] = len(some)
            for rank, one in enumerate(some, 1):
                columns: dict[str, Json] = {
                    "mine.reason": "match",
                    "mine.rank": rank,
                    "mine.score": round(one.order, 5),
                }
                picks[one.key[0]] = {CATEGORY: category.name, **columns, "mine.explain": one.explain()}
        more = max(round(len(picks) * self.explore / (1 - self.explore)), self.pool - len(picks))
        chance = round(min(1.0, more / max(1, len(store) - len(store.forgotten) - len(picks))), 6)
        drawn = refusing.drawn(draws, more)
        for rank, key in enumerate(drawn, 1):
            picks[key] = {CATEGORY: "", "mine.reason": "explore", "mine.rank": rank, "mine.chance": chance}
        facts: dict[str, Json] = {
            **read,
            "index": {"kind": index.kind, "why": index.plan.why, "opened": index.note},
            "categories": {
                name: {"candidates": len(found[name]), "matches": counts[name]}
                for name in (c.name for c, _ in categories)
            },
            "explored": len(drawn),
            "judged_before": known.counts,
            "sealed": len(sealed),
            "refused": dict(refusing.refused),
        }
        return picks, facts

    @staticmethod
    def _draw(store: Store, seed: int, wanted: int) -> list[str]:
        """Draw rows at random without drawing one twice, and more than are wanted, as some will be refused."""
        gone = set(store.forgotten.tolist())
        rng = np.random.default_rng(seed)
        total = len(store)
        few = min(total, 2 * wanted + FEW)
        drawn = rng.permutation(total)[:few] if few > total / 8 else rng.choice(total, few, replace=False, shuffle=True)
        rows = [row for row in drawn.tolist() if row not in gone]
        keys = store.lookup(rows)
        return [keys[row][0] for row in rows]


def _sealed(mine: MineText, work: Work) -> Iterator[str]:
    """Yield the texts that must never be trained on: those of the test split, and of sealed tables.

    Raises:
        InputError: A row of a sealed table holds no text: a seal with a hole is none.
    """
    for sample in work.dataset.samples("split = 'test'"):
        yield sample.text()
    for path in mine.never:
        for key, new in TextCorpus(path, work, text=mine.text):
            if isinstance(new, Failed):
                raise InputError(f"{path}: {key} of the sealed texts cannot be read: {new.error}")
            yield decode_text(new.data)
