"""Rank the images of a corpus for the categories of a policy: similarity finds, the matching head orders.

For a category with prompts P and counter-prompts C (benign look-alikes):

    score = less(max over P of similarity, max over C of similarity)     decides who becomes a candidate
    order = less(max over P of log-odds, max over C of log-odds) + g * score + f * feedback
    less(a, b) = a - w * max(0, b - a)

The log-odds are the matching head's. A look-alike counts only by how much it outdoes the category: an image that shows
both a knife and a spoon is a good find, and all that is long and thin is a little like a spoon. Matching and similarity
are added, as in the authors' own evaluation (LAVIS, `blip2_qformer.compute_sim_matrix`), so that neither head's blind
spot decides alone; g stands for the temperature, which published checkpoints do not hold. Feedback is what people said of
images like it in earlier rounds; see `feedback.py`. Where a category has image examples, their likeness (`examples.py`) times e
is added to the score; for a model that reads no words it is the score. For a category that a few-shot classifier knows (`scored.py`), what
that says decides who becomes a candidate, and with the feedback the order.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import islice
from typing import TypeAlias

import numpy as np
import numpy.typing as npt

from tilth.claims import Json
from tilth.data.dataset import Dataset
from tilth.encoders.families import Encoder, Texts
from tilth.engine.job import batched
from tilth.errors import InputError
from tilth.images import Image, decode, image_id
from tilth.mining.copies.sealed import Sealed
from tilth.mining.corpora.corpus import Corpus
from tilth.mining.search.examples import Examples
from tilth.mining.search.feedback import Feedback
from tilth.mining.search.scored import Scored
from tilth.mining.vectors.index import Index
from tilth.mining.vectors.store import Rows, Store
from tilth.policy import Policy

POOL = 10  # images of a look-alike, per candidate, among which those nearest to the category are looked for

Look: TypeAlias = tuple[int, str, str, Image]
"""Row, key, pixel id and image."""


def phrase(prompt: str) -> str:
    """Put a prompt into the words that captions use.

    >>> phrase("knife"), phrase("axe"), phrase("a photo of a knife"), phrase("the sea")
    ('a knife', 'an axe', 'a photo of a knife', 'the sea')
    """
    if prompt.split()[0].lower() in ("a", "an", "the", "two", "some", "people", "person"):
        return prompt
    return ("an " if prompt[0].lower() in "aeiou" else "a ") + prompt


@dataclass(frozen=True, kw_only=True)
class Question:
    """How a category is asked for."""

    category: str
    prompts: tuple[str, ...]
    counters: tuple[str, ...]

    @property
    def texts(self) -> tuple[str, ...]:
        """All phrases, prompts first."""
        return self.prompts + self.counters


def questions(policy: Policy) -> list[Question]:
    """Ask for every category that shows in pictures."""
    return [
        Question(category=c.name, prompts=tuple(map(phrase, c.prompts)), counters=tuple(map(phrase, c.counter_prompts)))
        for c in policy.pictured
    ]


@dataclass(frozen=True, kw_only=True)
class Candidate:
    """An image as one category sees it: similarities in [-1, 1], matches in [0, 1], both 0 for an absent counter.

    `lead` is how much the counter-prompts outdo the prompts, in log-odds plus g times similarity: above 0 the image is
    rather a look-alike, and near 0 it lies at the boundary.
    """

    row: int
    id: str
    key: str
    category: str
    prompt: str
    similarity: float
    counter: str
    counter_similarity: float
    score: float
    match: float
    counter_match: float
    order: float
    lead: float
    feedback: float = 0.0
    likeness: float = 0.0
    logit: float | None = None

    def explain(self) -> dict[str, Json]:
        """Say what scored what."""
        return {
            "prompt": self.prompt,
            "similarity": round(self.similarity, 4),
            "match": round(self.match, 4),
            "counter_prompt": self.counter,
            "counter_similarity": round(self.counter_similarity, 4),
            "counter_match": round(self.counter_match, 4),
            "feedback": round(self.feedback, 4),
            "examples": round(self.likeness, 4),
            **({} if self.logit is None else {"classifier": round(self.logit, 4)}),
            "order": round(self.order, 4),
        }


def log_odds(probability: npt.NDArray[np.float32]) -> npt.NDArray[np.float32]:
    """Return the log-odds of probabilities, at most 9.2 either way, so that no head is ever certain.

    >>> log_odds(np.array([0.5, 1.0], np.float32)).round(1).tolist()
    [0.0, 9.199999809265137]
    """
    safe = np.clip(probability, 1e-4, 1 - 1e-4)
    found: npt.NDArray[np.float32] = np.log(safe / (1 - safe))
    return found


class Searcher:
    """Asks one corpus.

    Args:
        corpus: Where the images are.
        encoder: The model.
        store: Its vectors of the corpus.
        index: Over the store.
        sealed: Images that never come back.
        dataset: Whose images are not found again, however high they rank.
        counter_weight: w of the formulas above.
        similarity_weight: g.
        feedback: Of people, on images mined before.
        feedback_weight: f.
        examples: Pictures of the categories.
        example_weight: e.
        batch_size: Images per forward pass.
        first: Row of the store from which on images are looked for.
        scored: What a few-shot classifier says.
    """

    def __init__(
        self,
        corpus: Corpus,
        encoder: Encoder,
        store: Store,
        index: Index,
        sealed: Sealed,
        dataset: Dataset,
        *,
        counter_weight: float,
        similarity_weight: float,
        feedback: Feedback,
        feedback_weight: float,
        examples: Examples,
        example_weight: float,
        batch_size: int,
        first: int = 0,
        scored: Scored | None = None,
    ) -> None:
        self.first, self._scored = first, scored
        self._among = np.arange(first, len(store)) if first else None
        self.corpus, self.store, self.index = corpus, store, index
        self._encoder, self._sealed, self._dataset = encoder, sealed, dataset
        self._owned = dataset.count(dropped=True)
        self._weight, self._similarity_weight, self._batch_size = counter_weight, similarity_weight, batch_size
        self.feedback, self._feedback_weight = feedback, feedback_weight
        self._examples, self._example_weight = examples, example_weight if encoder.reads else 1.0
        self.refused: dict[str, str] = {}  # key -> why an image cannot be taken
        self._ids: dict[str, str] = {}  # key -> id of those that can

    def propose(self, question: Question, depth: int, alike_depth: int) -> tuple[Rows, Rows]:
        """Return the rows that may well be the category, and those that are its look-alikes, best first.

        They are at least `depth` and `alike_depth` even without those that the dataset has, if the corpus has so many.
        """
        texts, asked = self._texts(question)
        scored = self._scored_for(question)
        likely = scored.best(question.category) if scored else self._likely(question, texts, asked, depth)
        if len(texts) == asked or not alike_depth:
            return likely, likely[:0]
        answers = self.index.search(texts[asked:], POOL * alike_depth + self._owned, self._among)
        alike = np.unique(np.concatenate([rows for rows, _ in answers]))
        scores = self.index.similarity(alike, texts)
        # A look-alike is nearer to its own name than to the category's, yet as near to the category's as it can be.
        benign = scores[:, asked:].max(1) > scores[:, :asked].max(1)
        alike, scores = alike[benign], scores[benign]
        return likely, alike[np.lexsort((alike, -scores[:, :asked].max(1)))]

    def _likely(self, question: Question, texts: Texts, asked: int, depth: int) -> Rows:
        """Return rows by their similarity to prompts and examples, best first."""
        queries = texts[:asked]
        if question.category in self._examples:
            queries = np.concatenate([queries, self._examples.queries(question.category)])
        # Twice as many as wanted, since counter-prompts reorder them.
        answers = self.index.search(queries, 2 * depth + self._owned, self._among)
        found = np.unique(np.concatenate([rows for rows, _ in answers]))
        score = self._score(self.index.similarity(found, texts), asked)
        score += self._example_weight * self._likeness(question, found)
        likely: Rows = found[np.lexsort((found, -score))]
        return likely

    def _scored_for(self, question: Question) -> Scored | None:
        return self._scored if self._scored and question.category in self._scored else None

    def _texts(self, question: Question) -> tuple[Texts, int]:
        """Return the vectors of a question's phrases `(t, d)`, prompts first, and how many are prompts."""
        if not self._encoder.reads:
            return np.empty((0, self._encoder.width), np.float32), 0
        return self._encoder.texts(question.texts), len(question.prompts)

    def _likeness(self, question: Question, rows: Rows) -> npt.NDArray[np.float32]:
        """Return the likeness of images to the examples, `(n,)`; 0 where there are none."""
        if question.category not in self._examples:
            return np.zeros(len(rows), np.float32)
        parts = [self._examples.likeness(question.category, self.store.take(part)) for part in _parts(rows)]
        return np.concatenate(parts) if parts else np.empty(0, np.float32)

    def _score(self, values: npt.NDArray[np.float32], asked: int) -> npt.NDArray[np.float32]:
        """Return `less` of values `(n, t)`, prompts first; 0 where nothing was asked in words."""
        if not asked:
            return np.zeros(len(values), np.float32)
        best: npt.NDArray[np.float32] = values[:, :asked].max(1)
        if values.shape[1] == asked:
            return best
        return np.asarray(best - self._weight * np.maximum(0, values[:, asked:].max(1) - best))

    def judge(self, question: Question, rows: Rows, depth: int) -> list[Candidate]:
        """Look at the first `depth` images that may be taken with the matching head; the best comes first."""
        texts, asked = self._texts(question)
        scored = self._scored_for(question)
        prompts, counters = (question.prompts, question.counters) if asked else ((), ())
        found: list[Candidate] = []
        for batch in batched(islice(self.look(rows.tolist()), depth), self._batch_size):
            numbers = np.array([row for row, _, _, _ in batch])
            similar: Texts = self.index.similarity(numbers, texts)
            match: Texts = np.zeros((len(batch), 0), np.float32)
            if asked:
                match = self._encoder.match([image for _, _, _, image in batch], question.texts)
            like = self._likeness(question, numbers)
            score = self._score(similar, asked) + self._example_weight * like
            odds = log_odds(match)
            said = self.feedback(question.category, numbers)
            order = self._score(odds, asked) + self._similarity_weight * score
            logits = scored(question.category, numbers) if scored else None
            order = (order if logits is None else logits) + self._feedback_weight * said
            both = odds + self._similarity_weight * similar
            own = both[:, :asked].max(1) if asked else 0.0
            lead = both[:, asked:].max(1, initial=-np.inf) - own
            for i, (row, key, id_, _) in enumerate(batch):
                found.append(
                    Candidate(
                        row=row,
                        id=id_,
                        key=key,
                        category=question.category,
                        prompt=prompts[int(similar[i, :asked].argmax())] if asked else "",
                        similarity=float(similar[i, :asked].max()) if asked else 0.0,
                        counter=counters[int(similar[i, asked:].argmax())] if counters else "",
                        counter_similarity=float(similar[i, asked:].max()) if counters else 0.0,
                        score=float(score[i]),
                        match=float(match[i, :asked].max()) if asked else 0.5,
                        counter_match=float(match[i, asked:].max()) if counters else 0.0,
                        order=float(order[i]),
                        lead=float(lead[i]),
                        feedback=float(said[i]),
                        likeness=float(like[i]),
                        logit=None if logits is None else float(logits[i]),
                    )
                )
        # Both heads together, as BLIP-2's own evaluation ranks: each is wrong about other images.
        return sorted(found, key=lambda c: (-c.order, c.row))

    def look(self, rows: Sequence[int]) -> Iterator[Look]:
        """Yield the rows that may be taken, with their images, and note of the others why not."""
        items = self.store.lookup(rows)
        for some in batched(rows, self._batch_size):
            seen = list(self._open(some, items))
            self._check([(key, image) for _, key, image in seen if key not in self._ids])
            owned = self._dataset.contains(list({self._ids[key] for _, key, _ in seen if key in self._ids}))
            for row, key, image in seen:
                id_ = self._ids.get(key)
                if id_ in owned:
                    self.refused[key] = "in the dataset"
                elif id_:
                    yield row, key, id_, image

    def _open(self, rows: Sequence[int], items: Mapping[int, tuple[str, str]]) -> Iterator[tuple[int, str, Image]]:
        for row in rows:
            key, stamp = items[row]
            if key in self.refused:
                continue
            if self.corpus.stamp(key) != stamp:
                self.refused[key] = "changed since it was indexed"
                continue
            try:
                yield row, key, decode(self.corpus.read(key))
            except InputError as error:
                self.refused[key] = str(error)

    def _check(self, seen: Sequence[tuple[str, Image]]) -> None:
        """Name what may be taken, and refuse what is sealed."""
        for (key, image), sealed in zip(seen, self._sealed.hold([image for _, image in seen]), strict=True):
            if sealed:
                self.refused[key] = "sealed"
            else:
                self._ids[key] = image_id(image)


def _parts(rows: Rows) -> list[Rows]:
    return np.array_split(rows, len(rows) // 4096 + 1)


def share_out(lists: Sequence[Sequence[Candidate]], quotas: Sequence[int], taken: set[str]) -> list[list[Candidate]]:
    """Give every list its quota of images that nobody took, going round so that no category is served first.

    Args:
        lists: Candidates per category, best first.
        quotas: Images wanted per category.
        taken: Ids that are taken; grows.
    """
    shares: list[list[Candidate]] = [[] for _ in lists]
    streams = [iter(candidates) for candidates in lists]
    open_ = set(range(len(lists)))
    while open_:
        for i in sorted(open_):
            candidate = next((c for c in streams[i] if c.id not in taken), None) if len(shares[i]) < quotas[i] else None
            if candidate is None:
                open_.discard(i)
            else:
                taken.add(candidate.id)
                shares[i].append(candidate)
    return shares
