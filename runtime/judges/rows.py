"""A judge that is asked in token ids: what all prompts begin with, the case, and one or several endings, each a row of its own.

The models behind it (`graph.py`, `causal.py`, `llamacpp.py`) do one thing: rows in, the logits of the tokens that were asked for out.
What rows begin with they are given when they are opened, so that they can read it once and keep its keys and values.
"""

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

import numpy as np

from tilth.policy import Policy
from tilth.runtime.stages.stage1 import Floats
from tilth.runtime.stages.stage2 import Chances

if TYPE_CHECKING:
    from tokenizers import Tokenizer


class Model(Protocol):
    """A causal language model, opened with what all rows begin with and with the tokens of its answers.

    Attributes:
        back_end: What runs it.
    """

    back_end: str

    def __call__(self, rows: Sequence[Sequence[int]]) -> Floats:
        """Return the logits `(n, k)` of the tokens of the answers, for rows of ids that stand after the beginning.

        Raises:
            ModelError: One is no number.
        """
        ...


def softmax(logits: Floats) -> Chances:
    """Return probabilities that add up to 1 along the last axis.

    >>> softmax(np.array([[0.0, 0.0], [1000.0, 0.0]], np.float32)).tolist()
    [[0.5, 0.5], [1.0, 0.0]]
    """
    raised = np.exp(logits.astype(np.float64) - logits.max(-1, keepdims=True))
    chances: Chances = raised / raised.sum(-1, keepdims=True)
    return chances


def by_letter(labels: int) -> Callable[[Floats], Chances]:
    """Return what reads the logits of letters `(n, 1, letters)` as probabilities of so many labels `(n, labels)`."""
    return lambda logits: softmax(logits[:, 0, :labels])


@dataclass(frozen=True, kw_only=True, eq=False)
class Rows:
    """A model, and how cases become rows and logits become probabilities.

    Args:
        model: Is asked.
        tokenizer: Of the model.
        begins: Token ids of what every prompt begins with, which the model knows.
        ends: Token ids after the case, such as where a chat model begins its answer; of several, each is asked about every case.
        max_tokens: Longest prompt.
        read: Makes probabilities `(n, labels)` of the logits `(n, ends, k)`.
        workers: See `Judge`.
    """

    model: Model
    tokenizer: "Tokenizer"
    begins: Sequence[int]
    ends: tuple[tuple[int, ...], ...] = ((),)
    max_tokens: int
    read: Callable[[Floats], Chances]
    workers: int = 1

    @property
    def back_end(self) -> str:
        """What runs the model."""
        return self.model.back_end

    def room(self, case: str) -> int:
        """Return how many tokens are left beside a prompt about this case."""
        longest = max(map(len, self.ends))
        return self.max_tokens - len(self.begins) - longest - len(encode(self.tokenizer, case, special=False))

    def rows(self, case: str) -> list[list[int]]:
        """Return the token ids after the beginning, for each ending."""
        # words that are spelled like a token of the chat are words, and open no turn of their own
        ids = encode(self.tokenizer, case, special=False)
        return [[*ids, *end] for end in self.ends]

    def __call__(self, cases: Sequence[str]) -> list[Chances]:
        """Return the probability of each label, by case.

        Raises:
            ModelError: The model says what is no number.
        """
        each = len(self.ends)
        at_once = max(1, len(cases) // each) if each > 1 else len(cases)
        chances: list[Chances] = []
        for start in range(0, len(cases), at_once):
            some = cases[start : start + at_once]
            logits = self.model([row for case in some for row in self.rows(case)])
            chances += [*self.read(logits.reshape(len(some), each, -1))]
        return chances


def encode(tokenizer: "Tokenizer", text: str, *, special: bool, begins: bool = False) -> list[int]:
    """Return the token ids of a part of a prompt.

    Args:
        tokenizer: Of the language model.
        text: The part.
        special: Whether it is ours, so that it may name the tokens of a chat; what others wrote never does.
        begins: Whether the prompt begins with it.
    """
    tokenizer.encode_special_tokens = not special
    return list(tokenizer.encode(text, add_special_tokens=begins).ids)


def strange_words(tokenizer: "Tokenizer", policy: Policy) -> list[str]:
    """Say of which categories a model that was taught whole words cannot read the definition, and which words of it.

    Args:
        tokenizer: Of the model; it has words that were not taught in pieces only.
        policy: What words decide in it is read.
    """
    told = []
    for category in policy.written:
        words = dict.fromkeys(re.findall(r"[^\W\d_]+", category.definition))
        strange = [word for word in words if len(encode(tokenizer, word, special=False)) > 1]
        if strange or not words:
            told.append(f"{', '.join(strange) or 'no definition'} ({category.name})")
    return told
