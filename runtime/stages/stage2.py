"""Stage 2: a language model reads the prompt and gives its verdict in one forward pass over the label tokens.

What all prompts of a bundle begin with, the rules, is read once: its keys and values are kept and stand before every case.
"""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

import numpy as np
import numpy.typing as npt

from tilth.errors import InputError
from tilth.fusion import finite
from tilth.policy import Policy
from tilth.runtime.stages.graphs import Arrays, Graph
from tilth.runtime.stages.stage1 import Screen
from tilth.runtime.stages.template import SAFE, case

if TYPE_CHECKING:
    from tokenizers import Tokenizer

MAX_BATCH = 16
SHARED = 32  # characters on either side of where words are parted, so that no phrase is torn


@dataclass(frozen=True, kw_only=True)
class Shared:
    """What every prompt begins and ends with.

    Args:
        begins: Token ids of the rules.
        ends: Token ids after the case, such as where a chat model begins its answer.
        kept: Keys and values of the rules, `(2 × layers, heads, tokens, width)`; None where the graph keeps none, and reads them anew.
    """

    begins: Sequence[int]
    ends: Sequence[int] = ()
    kept: "npt.NDArray[np.float32] | None" = None


@dataclass(frozen=True, kw_only=True, eq=False)
class Stage2:
    """An ONNX graph `ids, mask (n, t), past (2 × layers, heads, p, width) -> logits (n, k)` of the label tokens after each prompt.

    Args:
        session: The graph.
        tokenizer: Of the language model.
        labels: The verdicts, by the first of the k.
        max_tokens: Longest prompt; words that do not fit are judged in parts, each in a prompt of its own.
        padding: The side that shorter prompts of a batch are filled on.
        shared: What all prompts begin and end with.
    """

    session: Graph
    tokenizer: "Tokenizer"
    labels: tuple[str, ...]
    max_tokens: int
    padding: Literal["left", "right"]
    shared: Shared

    def __call__(self, screens: Sequence[Screen], texts: Sequence[str]) -> list[dict[str, float]]:
        """Return the probability of each verdict, by image; they add up to 1.

        Of words that take several prompts, each verdict has the probability of its worst part, and `safe` that of the least safe.

        Raises:
            ModelError: The model says what is no number.
        """
        prompts = [self.prompts(screen, text) for screen, text in zip(screens, texts, strict=True)]
        rows = [row for of_one in prompts for row in of_one]
        judged: list[dict[str, float]] = []
        for start in range(0, len(rows), MAX_BATCH):
            judged += self._judge(rows[start : start + MAX_BATCH])
        parts = iter(judged)
        return [self._worst([next(parts) for _ in of_one]) for of_one in prompts]

    def _worst(self, parts: Sequence[Mapping[str, float]]) -> dict[str, float]:
        return {name: (min if name == SAFE else max)(part[name] for part in parts) for name in self.labels}

    def prompts(self, screen: Screen, text: str) -> list[list[int]]:
        """Return the token ids of as many cases as the words need; halves share some characters.

        None is longer than `max_tokens` with the rules.

        Raises:
            InputError: Even without text the prompt is too long for the model.
        """
        # words that are spelled like a token of the chat are words, and open no turn of their own
        ids = [*encode(self.tokenizer, case(screen, text), special=False), *self.shared.ends]
        length = len(self.shared.begins) + len(ids)
        if length <= self.max_tokens:
            return [ids]
        if len(text) < 2:
            raise InputError(f"the prompt takes {length} tokens without text, the limit is {self.max_tokens}")
        middle = len(text) // 2
        overlap = min(SHARED, middle // 2)
        return [*self.prompts(screen, text[: middle + overlap]), *self.prompts(screen, text[middle - overlap :])]

    def _judge(self, rows: list[list[int]]) -> list[dict[str, float]]:
        kept = self.shared.kept
        if kept is None:
            rows = [[*self.shared.begins, *row] for row in rows]
        longest = max(map(len, rows))
        ids = np.zeros((len(rows), longest), np.int64)
        mask = np.zeros((len(rows), longest), np.int64)
        for i, row in enumerate(rows):
            part = slice(longest - len(row), None) if self.padding == "left" else slice(0, len(row))
            ids[i, part], mask[i, part] = row, 1
        given: dict[str, Arrays] = {"ids": ids, "mask": mask, **({} if kept is None else {"past": kept})}
        (logits,) = self.session.run(["logits"], given)
        logits = finite(logits, "verdict.onnx")[:, : len(self.labels)]
        shifted = np.exp(logits - logits.max(1, keepdims=True))
        return [dict(zip(self.labels, map(float, row / row.sum()), strict=True)) for row in shifted]


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


def read_once(
    session: Graph, tokenizer: "Tokenizer", begins: str, ends: str, past_shape: Sequence[int] | None
) -> Shared:
    """Read what every prompt of a bundle begins with, and keep what a graph that can makes of it.

    Args:
        session: The graph.
        tokenizer: Of the language model.
        begins: The rules, with what a chat begins with.
        ends: What comes after the case.
        past_shape: Layers times two, heads and width of what the graph keeps; None where it keeps nothing.
    """
    ids = encode(tokenizer, begins, special=True, begins=True)
    last = encode(tokenizer, ends, special=True) if ends else []
    if past_shape is None:
        return Shared(begins=ids, ends=last)
    layers, heads, width = past_shape
    rows = np.array([ids], np.int64)
    given: dict[str, Arrays] = {
        "ids": rows,
        "mask": np.ones_like(rows),
        "past": np.zeros((layers, heads, 0, width), np.float32),
    }
    (kept,) = session.run(["kept"], given)
    return Shared(begins=ids, ends=last, kept=np.ascontiguousarray(finite(kept, "verdict.onnx")))
