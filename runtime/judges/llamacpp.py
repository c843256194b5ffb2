"""A language model as a GGUF file, run by llama.cpp: quantised models on a CPU, or whatever its build knows.

Rows are token ids of the tokenizer that lies beside the file in the bundle, so that what the file says of its own does not matter.
"""

import logging
import threading
import weakref
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from tilth.encoders.fusion import finite
from tilth.errors import ModelError
from tilth.extras import optional
from tilth.runtime.judges.causal import SAME
from tilth.runtime.stages.stage1 import Floats

log = logging.getLogger("tilth.judges")


class LlamaCppModel:
    """A GGUF file, asked row by row; one call at a time.

    Args:
        path: The file.
        begins: What all rows begin with; read once, if the model answers after what it kept as it does when it reads all anew.
        tokens: Whose logits are asked for.
        words: Tokens that the tokenizer knows.
        max_tokens: Longest prompt, beginning and all.
        threads: To compute with.

    Attributes:
        keeps: Whether the beginning is read once.

    Raises:
        MissingExtra: llama-cpp-python is not installed.
        ModelError: It is no file that llama.cpp can run, or does not know all tokens.
    """

    back_end = "llama.cpp"

    def __init__(
        self, path: Path, begins: Sequence[int], tokens: Sequence[int], *, words: int, max_tokens: int, threads: int
    ) -> None:
        with optional():
            import llama_cpp
        try:
            self._llama = llama_cpp.Llama(
                str(path), n_ctx=max_tokens, n_batch=min(512, max_tokens), n_threads=threads, n_threads_batch=threads, verbose=False
            )  # fmt: skip
        except (ValueError, RuntimeError, AssertionError) as error:
            raise ModelError(f"{path.name}: not a file that llama.cpp can run: {str(error)[:200]}") from error
        self._name, self._begins, self._tokens = path.name, [*begins], [*tokens]
        self._vocabulary, self._lock = self._llama.n_vocab(), threading.Lock()
        if words > self._vocabulary:
            raise ModelError(
                f"{path.name}: has {self._vocabulary} tokens, and tokenizer.json {words}; they do not belong together"
            )
        weakref.finalize(self, self._llama.close)  # also when Python ends, where its own way of doing so would fail
        self.keeps = False
        if self._begins:
            self.keeps = self._can_keep()

    def __call__(self, rows: Sequence[Sequence[int]]) -> Floats:
        """Return the logits `(n, k)` of the tokens after each row."""
        with self._lock:
            return finite(np.stack([self._one(row) for row in rows]), self._name)

    def _one(self, row: Sequence[int]) -> Floats:
        from llama_cpp import llama_get_logits_ith

        self._llama.n_tokens = len(self._begins) if self.keeps else 0  # what comes after is forgotten when more is read
        self._llama.eval([*row] if self.keeps else [*self._begins, *row])
        logits = np.ctypeslib.as_array(llama_get_logits_ith(self._llama.ctx, -1), shape=(self._vocabulary,))
        return logits[self._tokens].astype(np.float32)

    def _can_keep(self) -> bool:
        """Tell whether a row is answered alike after what was kept and another row was forgotten: some models forget nothing."""
        row = self._begins[-4:]
        anew = self._one(row)
        self._llama.n_tokens = 0
        self._llama.eval(self._begins)
        self.keeps = True
        self._one(row[::-1])
        gap = float(np.abs(self._one(row) - anew).max() / max(1e-6, np.abs(anew).max()))
        if gap > SAME:
            log.warning("%s: reads the policy anew with each case: its answers would differ by %.2g", self._name, gap)
        return gap <= SAME
