"""Find the images of a corpus that are worth a person's time: likely hits, benign look-alikes, and a few at random."""

import hashlib
import json
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

import numpy as np

from tilth.claims import Json
from tilth.data.files import write_beside
from tilth.encoders.families import Backend, Encoder, open_encoder
from tilth.engine.cluster import Cluster
from tilth.engine.intake import Failed
from tilth.engine.steps import Facts, step
from tilth.engine.work import Work
from tilth.errors import InputError
from tilth.mining.copies.leakage import check_distance
from tilth.mining.copies.sealed import Sealed
from tilth.mining.corpora.corpus import Corpus
from tilth.mining.corpora.opening import open_corpus
from tilth.mining.search.examples import Examples
from tilth.mining.search.feedback import Feedback
from tilth.mining.search.rank import Candidate, Question, Searcher, questions, share_out
from tilth.mining.search.scored import Scored, load_scores
from tilth.mining.search.truth import precision_report
from tilth.mining.vectors.embed import Spread, embed, store_folder
from tilth.mining.vectors.index import BUDGET_MB, Index, Kind
from tilth.mining.vectors.store import Store
from tilth.samples import NewSample

RECALL_AT = 10
DRAWN_AT_ONCE = 512
MINED = "mined.json"  # beside the vectors: how many there were when they were last mined

Pick = dict[str, Json]
"""A chosen image: its `key` in the corpus, its pixel `id`, and the `columns` that say why it was chosen."""


@step
class Mine:
    """Search a corpus for every pictured category and add what is found to the dataset, unlabelled.

    Args:
        corpus: Folder of images at any depth, of WebDataset archives (`.tar`) or of Parquet files; one such file; a Lance
            table; a list of URLs (`.txt`, `.csv`); or the URL of a folder in an object store.
        model: A BLIP-2 image-text retrieval model, or one of the families in `encode.py`.
        backend: `transformers`, or `lavis` for Salesforce's own BLIP-2; see `tilth env lavis`.
        per_category: Images wanted per category, look-alikes among them.
        quotas: Images wanted of some categories, instead of `per_category`; 0 leaves one out.
        counter_weight: How much it counts against an image that it is more like a counter-prompt than like the prompts.
        similarity_weight: How much similarity counts beside the matching head's log-odds.
        feedback_weight: How much it counts that people accepted, or rejected, images like it in earlier rounds.
        example_weight: How much likeness to image examples counts beside similarity to the prompts.
        few_shot: Reviewed images of the dataset that serve as examples of each category, beside those of the policy.
        classifier: A few-shot classifier around the same model, by the name of the `train.few_shot` step that fitted it, or its folder;
            what it says takes the place of words and examples for the categories that it knows.
        rerank: Candidates that the matching head looks at, per image wanted.
        hard_negatives: Share of `per_category` that goes to benign look-alikes near the boundary.
        explore: Share of all mined images that is drawn at random, so that the loop sees what it would not search for.
        pool: Images wanted in all; more are drawn at random until there are so many. What ranks high is what is easy: labels of
            everything that is likely, and of much that is not, are worth more, where a model makes them and people mend the worst.
        never: Folders of sealed images, which and whose copies are never mined.
        never_distance: PDQ bits of 256 up to which an image is a copy of a sealed one.
        licence: Of the corpus, kept with every image whose own licence the corpus does not say.
        since: `last` to look only at images that came into the corpus after it was last mined, of which there may be none; at all when
            empty.
        embeddings: Folder that keeps the vectors of the corpus between runs; inside the run when None.
        index: `exact`, `ivf`, `hnsw`, `rabitq`, or `auto` to choose by size.
        index_memory_mb: What the index may take in memory.
        index_recall: Share of the true best images that the index should find; a large one is tuned to it.
        batch_size: Images per forward pass.
        truth: A truth.jsonl, for a report of precision and recall; it never touches what is chosen.
    """

    corpus: str
    model: str = "starter:retrieval"
    backend: Backend = "transformers"
    per_category: int = 40
    quotas: dict[str, int] = field(default_factory=dict)
    counter_weight: float = 0.5
    similarity_weight: float = 10.0
    feedback_weight: float = 10.0
    example_weight: float = 0.1
    few_shot: int = 0
    classifier: str = ""
    rerank: int = 3
    hard_negatives: float = 0.2
    explore: float = 0.1
    pool: int = 0
    never: tuple[Path, ...] = ()
    never_distance: int = 31
    licence: str = "unknown"
    since: Literal["", "last"] = ""
    embeddings: Path | None = None
    index: Kind = "auto"
    index_memory_mb: int = BUDGET_MB
    index_recall: float = 0.95
    batch_size: int = 64
    truth: Path | None = None

    def __post_init__(self) -> None:
        """Check the settings."""
        check_distance(self.never_distance)
        for name in ("per_category", "rerank", "batch_size", "index_memory_mb"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} must be at least 1, got {getattr(self, name)}")
        for name in ("hard_negatives", "explore"):
            if not 0 <= getattr(self, name) < 1:
                raise ValueError(f"{name} must lie in [0, 1), got {getattr(self, name)}")
        for name in ("counter_weight", "similarity_weight", "feedback_weight", "example_weight", "few_shot", "pool"):
            if getattr(self, name) < 0:
                raise ValueError(f"{name} must not be negative, got {getattr(self, name)}")
        if wrong := {name: count for name, count in self.quotas.items() if count < 0}:
            raise ValueError(f"quotas must not be negative, got {wrong}")
        if not 0 < self.index_recall <= 1:
            raise ValueError(f"index_recall must lie in (0, 1], got {self.index_recall}")

    def models(self) -> tuple[str, ...]:
        """Name the model."""
        return (self.model,)

    def inputs(self) -> tuple[Path, ...]:
        """Name the corpus, the sealed folders and the truth."""
        here = [] if "://" in self.corpus else [Path(self.corpus)]
        fitted = [Path(self.classifier)] if Path(self.classifier, "tilth.json").exists() else []
        return (*here, *self.never, *fitted, *([self.truth] if self.truth else []))

    def run(self, work: Work) -> Facts:
        """Embed, search, choose, add."""
        work.policy.check_pictured(self.quotas, "quotas")
        corpus = open_corpus(self.corpus, self._downloads(work))
        plan = work.folder / "selection.json"
        if work.retry_failed or not plan.exists():
            work.folder.mkdir(parents=True, exist_ok=True)
            picks, facts, store = self._choose(work, corpus)
            seen = {"vectors": str(store.folder.resolve()), "rows": len(store)}
            write_beside(plan, json.dumps({"picks": picks, "facts": facts, "seen": seen}))
        # A resumed run adds what was chosen before the kill, whatever a search would answer now.
        text = plan.read_text()
        chosen = json.loads(text)
        if not chosen["picks"] and not chosen["facts"]["looked_at"]:
            return {"mined": 0, **chosen["facts"]}
        counts = work.add(hashlib.sha256(text.encode()).hexdigest()[:12], self._samples(work, corpus, chosen["picks"]))
        # last: what was chosen and not added, as by a run that is never gone on with, is looked at again
        write_beside(Path(chosen["seen"]["vectors"]) / MINED, json.dumps({"rows": chosen["seen"]["rows"]}))
        return {"mined": counts.get("ok", 0), **chosen["facts"]}

    def _scored(self, work: Work, store: Store, first: int) -> Scored | None:
        """Ask the classifier, if there is one, about the corpus."""
        if not self.classifier:
            return None
        folder = Path(self.classifier)
        scores = load_scores(folder if (folder / "tilth.json").exists() else work.artifact(self.classifier), self.model)
        wanted = max([*self.quotas.values(), self.per_category])
        return Scored(scores, store, 2 * self.rerank * wanted + work.dataset.count(dropped=True), first)

    @staticmethod
    def _downloads(work: Work) -> Path:
        return work.dataset.root.parent / "downloads"

    def _spread(self, work: Work, cluster: Cluster, encoder: Encoder) -> Spread:
        from tilth.mining.vectors.spread import on_cluster

        return on_cluster(
            cluster.address,
            work.folder / "embed.todo.lance",
            encoder,
            location=self.corpus,
            downloads=self._downloads(work),
            backend=self.backend,
            device=work.device,
            batch_size=self.batch_size,
        )

    def _samples(self, work: Work, corpus: Corpus, picks: list[Pick]) -> Iterator[NewSample | Failed]:
        for pick in picks:
            source = f"{corpus.name}/{pick['key']}"
            try:
                data = corpus.read(str(pick["key"]))
            except InputError as error:
                yield Failed(name=source, error=str(error))
                continue
            origin: dict[str, Json] = {
                "source": source, "licence": self.licence, "step": work.name, **corpus.about(str(pick["key"]))
            }  # fmt: skip
            yield NewSample(data=data, origin=origin, columns=pick["columns"])  # type: ignore[arg-type]

    def _choose(self, work: Work, corpus: Corpus) -> tuple[list[Pick], dict[str, Json], Store]:
        encoder = open_encoder(self.model, work.device, self.backend)
        folder = store_folder(self.embeddings or work.dataset.root.parent / "embeddings", corpus, encoder.digest)
        store = Store(folder, model=self.model, digest=encoder.digest, queries=encoder.queries, width=encoder.width)
        if work.retry_failed:
            store.forgive()
        embedded = embed(
            corpus,
            encoder,
            store,
            work.events,
            batch_size=self.batch_size,
            max_fail_rate=work.max_fail_rate,
            spread=self._spread(work, work.executor, encoder) if isinstance(work.executor, Cluster) else None,
        )
        if not len(store):
            raise InputError(f"{self.corpus}: holds no image that can be read")
        before = _mined_rows(store) if self.since else 0
        if before == len(store):
            again = f"{self.corpus}: nothing new since it was last mined; leave `since` out to mine all of it again"
            work.events.emit("nothing_new", step=work.name, message=f"  {again}")
            return [], {**embedded, "left_alone": corpus.left_alone.facts(), "looked_at": 0}, store
        began = time.monotonic()
        asked = [q for q in questions(work.policy) if self.quotas.get(q.category, self.per_category)]
        if not asked:
            raise InputError("quotas: every category is 0, so there is nothing to look for")
        examples = Examples(work.policy, work.dataset, encoder, store, self.few_shot)
        if encoder.reads:
            texts = encoder.texts([q.prompts[0] for q in asked])
        else:
            texts = np.concatenate([examples.queries(q.category) for q in asked])
        index = Index(
            store,
            digest=encoder.digest,
            kind=self.index,
            memory_mb=self.index_memory_mb,
            recall=self.index_recall,
            texts=texts,
        )
        recall = index.recall(texts, RECALL_AT)
        indexed = time.monotonic()
        searcher = Searcher(
            corpus,
            encoder,
            store,
            index,
            Sealed(self.never, self.never_distance, work.events),
            work.dataset,
            counter_weight=self.counter_weight,
            similarity_weight=self.similarity_weight,
            feedback=Feedback(work.dataset, corpus, store),
            feedback_weight=self.feedback_weight,
            examples=examples,
            example_weight=self.example_weight,
            batch_size=self.batch_size,
            first=before,
            scored=self._scored(work, store, before),
        )
        chosen = _Chooser(self, work, searcher).choose(asked)
        facts: dict[str, Json] = {
            **embedded,
            "left_alone": corpus.left_alone.facts(),
            "index": {
                "kind": index.kind,
                "why": index.plan.why,
                "opened": index.note,
                "vectors": len(index),
                f"recall_at_{RECALL_AT}": round(recall, 4),
                "build_s": round(indexed - began, 2),
            },
            "looked_at": len(store) - before,
            "search_s": round(time.monotonic() - indexed, 2),
            "categories": chosen.categories,
            "explored": chosen.explored,
            "examples": dict(examples.counts),
            "judged_before": {
                side: {category: len(rows) for category, rows in sorted(found.items()) if rows}
                for side, found in (
                    ("accepted", searcher.feedback.accepted),
                    ("rejected", searcher.feedback.rejected),
                )
            },
            "refused": _tally(searcher.refused),
            "unasked_before": work.unasked([question.category for question in asked]),
        }
        if self.truth is not None:
            facts["precision"] = precision_report(self.truth, chosen.ranked, chosen.picks)
        return chosen.picks, facts, store


@dataclass(frozen=True, kw_only=True)
class _Chosen:
    picks: list[Pick]
    ranked: dict[str, list[str]]
    categories: dict[str, Json]
    explored: int


class _Chooser:
    """Divides what the searcher finds among the quotas of the step."""

    def __init__(self, mine: Mine, work: Work, searcher: Searcher) -> None:
        self._mine, self._work, self._searcher = mine, work, searcher

    def choose(self, asked: list[Question]) -> _Chosen:
        mine = self._mine
        wanted = [mine.quotas.get(q.category, mine.per_category) for q in asked]
        hard = [round(n * mine.hard_negatives) if q.counters else 0 for n, q in zip(wanted, asked, strict=True)]
        hits: list[list[Candidate]] = []
        benign: list[list[Candidate]] = []
        with self._work.events.progress(f"{self._work.name}: search", len(asked), unit="categories") as advance:
            for question, number, quota in zip(asked, wanted, hard, strict=True):
                depths = (mine.rerank * (number - quota), mine.rerank * quota)
                likely, alike = self._searcher.propose(question, *depths)
                hits.append(self._searcher.judge(question, likely, depths[0]))
                judged = [c for c in self._searcher.judge(question, alike, depths[1]) if c.lead > 0]
                benign.append(sorted(judged, key=lambda c: (c.lead, c.row)))
                advance()
        taken: set[str] = set()
        matches = share_out(hits, [n - h for n, h in zip(wanted, hard, strict=True)], taken)
        look_alikes = share_out(benign, hard, taken)
        picks = [
            _pick(candidate, rank, reason)
            for reason, shares in (("match", matches), ("look-alike", look_alikes))
            for share in shares
            for rank, candidate in enumerate(share, 1)
        ]
        share = round(len(picks) * mine.explore / (1 - mine.explore))
        explored = self._explore(max(share, mine.pool - len(picks)), taken)
        return _Chosen(
            picks=picks + explored,
            explored=len(explored),
            ranked={q.category: [c.id for c in found] for q, found in zip(asked, hits, strict=True)},
            categories={
                q.category: {"candidates": len(h), "matches": len(m), "look_alikes": len(a)}
                for q, h, m, a in zip(asked, hits, matches, look_alikes, strict=True)
            },
        )

    def _explore(self, wanted: int, taken: set[str]) -> list[Pick]:
        """Draw images at random from the whole corpus, and note with which chance each was drawn."""
        rng = np.random.default_rng(self._work.seed)
        first, rows = self._searcher.first, len(self._searcher.store)
        chance = round(min(1.0, wanted / max(1, rows - first - len(taken))), 6)
        found: list[Pick] = []
        with self._work.events.progress(f"{self._work.name}: explore", wanted) as advance:
            for drawn in _draws(rng, first, rows, wanted):
                for _, key, id_, _ in self._searcher.look(drawn):
                    if len(found) < wanted and id_ not in taken:
                        taken.add(id_)
                        told: dict[str, Json] = {
                            "mine.category": "",
                            "mine.reason": "explore",
                            "mine.rank": len(found) + 1,
                        }
                        found.append({"key": key, "id": id_, "columns": {**told, "mine.chance": chance}})
                        advance()
                if len(found) >= wanted:
                    break
        return found


def _draws(rng: np.random.Generator, first: int, rows: int, wanted: int) -> Iterator[list[int]]:
    """Draw rows without drawing one twice, some at a time: of few all are shuffled, of many some are drawn."""
    if wanted > (rows - first) / 8:
        order = first + rng.permutation(rows - first)
        yield from (order[start : start + DRAWN_AT_ONCE].tolist() for start in range(0, len(order), DRAWN_AT_ONCE))
        return
    seen: set[int] = set()
    for _ in range(20):  # rounds; a corpus that is all taken gives nothing
        drawn = [row for row in dict.fromkeys(rng.integers(first, rows, 2 * wanted).tolist()) if row not in seen]
        seen.update(drawn)
        yield drawn


def _mined_rows(store: Store) -> int:
    """Return how many rows the store had when it was last mined."""
    path = store.folder / MINED
    return int(json.loads(path.read_text())["rows"]) if path.exists() else 0


def _pick(candidate: Candidate, rank: int, reason: str) -> Pick:
    return {
        "key": candidate.key,
        "id": candidate.id,
        "columns": {
            "mine.category": candidate.category,
            "mine.reason": reason,
            "mine.rank": rank,
            "mine.score": round(candidate.score, 4),
            "mine.itm": round(candidate.match, 4),
            "mine.explain": candidate.explain(),
        },
    }


def _tally(refused: dict[str, str]) -> dict[str, Json]:
    counts: dict[str, Json] = {}
    for why in ("sealed", "in the dataset", "changed since it was indexed"):
        if number := sum(reason == why for reason in refused.values()):
            counts[why] = number
    if other := len(refused) - sum(reason in counts for reason in refused.values()):
        counts["unreadable"] = other
    return counts
