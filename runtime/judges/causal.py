"""A language model in transformers, in this process: any causal model, in bfloat16 where the device multiplies it, else in float32.

Needs torch, which is imported here alone and only when such a model is opened.
"""

import copy
import inspect
import logging
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeAlias

import numpy as np

from tilth import models
from tilth.encoders.fusion import finite
from tilth.errors import ModelError
from tilth.extras import optional
from tilth.runtime.stages.stage1 import Floats

if TYPE_CHECKING:
    import torch

SAME = 0.05  # the most by which logits may differ after what was kept, relative to their spread; bfloat16 differs by a hundredth
log = logging.getLogger("tilth.judges")

Place: TypeAlias = tuple[
    int, tuple[int, ...]
]  # so many tokens before the end of a row, and the tokens that may come next there


class CausalModel:
    """A causal model and the places at which it is asked.

    Args:
        folder: In the layout of `save_pretrained`.
        begins: What all rows begin with: read once, if the model answers after what it kept as it does when it reads all anew.
        places: Where in each row which tokens are asked for; their logits stand side by side.
        device: As torch names it; `auto` for the best there is.

    Attributes:
        keeps: Whether the beginning is read once.

    Raises:
        ModelError: It is no model that transformers can open, or it says what is no number.
    """

    back_end = "transformers"

    def __init__(self, folder: Path, begins: Sequence[int], places: Sequence[Place], device: str = "auto") -> None:
        with optional():
            import torch
            from transformers import AutoModelForCausalLM
        models.check_device(device)
        self._device = models.device(device)
        kind = torch.bfloat16 if models.precision(self._device) == "bfloat16" else torch.float32
        self._name = folder.name
        try:
            opened: Any = AutoModelForCausalLM.from_pretrained(folder, dtype=kind, use_safetensors=True)
        except (OSError, ValueError, KeyError, RuntimeError) as error:
            first = (str(error).splitlines() or [type(error).__name__])[0][:200]
            raise ModelError(f"{folder}: no causal model that transformers can open: {first}") from error
        self._model = opened.eval().to(self._device)
        self._begins, self._places = [*begins], [*places]
        deepest = 1 + max(back for back, _ in places)
        self._last = last(self._model, deepest)
        self._kept: Any = None
        self._window = window(self._model.config)
        self.keeps = False
        if self._begins:
            self._keep_if_it_can()

    def __call__(self, rows: Sequence[Sequence[int]]) -> Floats:
        """Return the logits `(n, k)` of the tokens of all places."""
        longest = len(self._begins) + max(map(len, rows))
        # filling lies between what was kept and shorter rows, and would push it out of a window that is counted in places
        return self._ask(rows, self._kept if longest <= self._window else None)

    def _ask(self, rows: Sequence[Sequence[int]], kept: Any) -> Floats:
        import torch

        whole = [row if kept is not None else [*self._begins, *row] for row in rows]
        before = 0 if kept is None else len(self._begins)
        ids, mask = filled(whole, before)
        places = (mask.cumsum(1) - 1).clamp(min=0)[:, before:]
        more = {} if kept is None else {"past_key_values": _for_many(kept, len(whole)), "use_cache": True}
        with torch.inference_mode():
            logits: torch.Tensor = self._model(
                input_ids=ids.to(self._device), attention_mask=mask.to(self._device),
                position_ids=places.to(self._device), **more, **self._last,
            ).logits  # fmt: skip
            asked = [logits[:, -1 - back, list(tokens)] for back, tokens in self._places]
            return finite(torch.cat(asked, 1).float().cpu().numpy(), self._name)

    def _keep_if_it_can(self) -> None:
        """Read the beginning, and keep what the model makes of it where that changes no answer: some models keep in their own way."""
        import torch

        row = [self._begins[-1 - i % len(self._begins)] for i in range(4 + max(back for back, _ in self._places))]
        rows = [row, row[:-2]]
        anew = self._ask(rows, None)
        try:
            with torch.inference_mode():
                kept = self._model(
                    input_ids=torch.tensor([self._begins]).to(self._device), use_cache=True, **self._last
                ).past_key_values
            again = self._ask(rows, kept) if len(self._begins) + len(row) <= self._window else anew
        except (AttributeError, TypeError, ValueError, RuntimeError, IndexError) as error:
            why = (str(error).splitlines() or [type(error).__name__])[0][:200]
        else:
            gap = float(np.abs(again - anew).max() / max(1e-6, anew.max() - anew.min(), np.abs(anew).max()))
            why = f"its answers would differ by {gap:.2g}" if gap > SAME else ""
            if not why:
                self._kept, self.keeps = kept, True
        if why:
            log.warning("%s: reads the policy anew with each case: %s", self._name, why)


def filled(rows: Sequence[Sequence[int]], before: int) -> "tuple[torch.Tensor, torch.Tensor]":
    """Return rows as ids `(n, longest)`, filled on the left, so that all end at one place, and their mask `(n, before + longest)`.

    Args:
        rows: Token ids.
        before: So many tokens of each row were kept.
    """
    import torch

    longest = max(map(len, rows))
    ids = torch.zeros((len(rows), longest), dtype=torch.long)
    mask = torch.zeros((len(rows), before + longest), dtype=torch.long)
    mask[:, :before] = 1
    for i, row in enumerate(rows):
        ids[i, longest - len(row) :] = torch.tensor(row)
        mask[i, before + longest - len(row) :] = 1
    return ids, mask


def last(model: Any, places: int = 1) -> dict[str, int]:
    """Return what a model is told so that it computes logits at the last places alone, where it can be told."""
    inner = getattr(model, "get_base_model", lambda: model)()  # peft tells nothing of what the model takes
    few = "logits_to_keep" in inspect.signature(inner.forward).parameters
    return {"logits_to_keep": places} if few else {}


def window(config: Any) -> float:
    """Return how many tokens a layer looks back at most; infinite where every layer sees all."""
    told = config.get_text_config()
    layers = getattr(told, "layer_types", None)
    size = getattr(told, "sliding_window", None) or getattr(told, "attention_chunk_size", None)
    if not size or (layers and all(kind == "full_attention" for kind in layers)):
        return float("inf")
    return float(size)


def _for_many(kept: Any, rows: int) -> Any:
    """Return what was kept of one row for several, as a copy, which the model then writes into."""
    mine = copy.deepcopy(kept)
    mine.batch_repeat_interleave(rows)
    return mine
