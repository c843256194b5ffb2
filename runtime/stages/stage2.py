"""Stage 2: a language model reads the prompt and gives its verdict in one forward pass over the label tokens."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

import numpy as np

from tilth.errors import InputError
from tilth.fusion import finite
from tilth.runtime.stages.stage1 import Screen
from tilth.runtime.stages.template import render

if TYPE_CHECKING:
    from onnxruntime import InferenceSession
    from tokenizers import Tokenizer

MAX_BATCH = 16


@dataclass(frozen=True, kw_only=True, eq=False)
class Stage2:
    """An ONNX graph `ids, mask (n, t) -> logits (n, k)` of the label tokens after the last token of each prompt.

    Args:
        session: The graph.
        tokenizer: Of the language model.
        labels: The k verdicts.
        max_tokens: Longest prompt; the words of the image are cut to fit, nothing else is.
        padding: The side that shorter prompts of a batch are filled on.
    """

    session: "InferenceSession"
    tokenizer: "Tokenizer"
    labels: tuple[str, ...]
    max_tokens: int
    padding: Literal["left", "right"]

    def __call__(self, screens: Sequence[Screen], texts: Sequence[str]) -> list[dict[str, float]]:
        """Return the probability of each verdict, by image; they add up to 1.

        Raises:
            ModelError: The model says what is no number.
        """
        found: list[dict[str, float]] = []
        for start in range(0, len(screens), MAX_BATCH):
            pairs = zip(screens[start : start + MAX_BATCH], texts[start : start + MAX_BATCH], strict=True)
            found += self._judge([self.tokens(screen, text) for screen, text in pairs])
        return found

    def tokens(self, screen: Screen, text: str) -> list[int]:
        """Return the token ids of one prompt, its text cut so that they are at most `max_tokens`.

        Raises:
            InputError: Even without text the prompt is too long for the model.
        """
        while len(ids := self.tokenizer.encode(render(screen, text, self.labels)).ids) > self.max_tokens:
            if not text:
                raise InputError(f"the prompt takes {len(ids)} tokens without text, the limit is {self.max_tokens}")
            text = text[: max(0, len(text) - (len(ids) - self.max_tokens))]
        return list(ids)

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
