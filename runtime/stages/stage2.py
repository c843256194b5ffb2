"""Stage 2: a language model reads the prompt and gives its verdict in one forward pass over the label tokens."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

import numpy as np

from tilth.errors import InputError
from tilth.fusion import finite
from tilth.runtime.stages.graphs import Graph
from tilth.runtime.stages.stage1 import Screen
from tilth.runtime.stages.template import SAFE, render

if TYPE_CHECKING:
    from tokenizers import Tokenizer

MAX_BATCH = 16
SHARED = 32  # characters on either side of where words are parted, so that no phrase is torn


@dataclass(frozen=True, kw_only=True, eq=False)
class Stage2:
    """An ONNX graph `ids, mask (n, t) -> logits (n, k)` of the label tokens after the last token of each prompt.

    Args:
        session: The graph.
        tokenizer: Of the language model.
        labels: The k verdicts.
        max_tokens: Longest prompt; words that do not fit are judged in parts, each in a prompt of its own.
        padding: The side that shorter prompts of a batch are filled on.
    """

    session: Graph
    tokenizer: "Tokenizer"
    labels: tuple[str, ...]
    max_tokens: int
    padding: Literal["left", "right"]

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
        """Return the token ids of as many prompts of at most `max_tokens` as the words need; halves share some characters.

        Raises:
            InputError: Even without text the prompt is too long for the model.
        """
        ids = list(self.tokenizer.encode(render(screen, text, self.labels)).ids)
        if len(ids) <= self.max_tokens:
            return [ids]
        if len(text) < 2:
            raise InputError(f"the prompt takes {len(ids)} tokens without text, the limit is {self.max_tokens}")
        middle = len(text) // 2
        shared = min(SHARED, middle // 2)
        return [*self.prompts(screen, text[: middle + shared]), *self.prompts(screen, text[middle - shared :])]

    def _judge(self, rows: list[list[int]]) -> list[dict[str, float]]:
        longest = max(map(len, rows))
        ids = np.zeros((len(rows), longest), np.int64)
        mask = np.zeros((len(rows), longest), np.int64)
        for i, row in enumerate(rows):
            part = slice(longest - len(row), None) if self.padding == "left" else slice(0, len(row))
            ids[i, part], mask[i, part] = row, 1
        (logits,) = self.session.run(["logits"], {"ids": ids, "mask": mask})
        logits = finite(logits, "verdict.onnx")
        shifted = np.exp(logits - logits.max(1, keepdims=True))
        return [dict(zip(self.labels, map(float, row / row.sum()), strict=True)) for row in shifted]
