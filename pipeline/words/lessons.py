"""Texts as a language model learns from them: the prompts of a policy and its changed forms, and the loss of their answers."""

import logging
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from tilth.extras import optional
from tilth.policy import SAFE, Policy
from tilth.runtime.judges.causal import filled, last, window
from tilth.runtime.judges.rows import encode
from tilth.runtime.stages.stage1 import Screen
from tilth.runtime.stages.template import DEFINED, case, rules
from tilth.train.artifacts.export import verdict_settings

if TYPE_CHECKING:
    import torch

SAME = 1e-3  # the most by which logits may differ after a policy that was read once, relative to the largest
log = logging.getLogger("tilth.words")


@dataclass(frozen=True, kw_only=True)
class Lesson:
    """A text as it is learned from.

    Args:
        ids: Token ids of the case.
        shows: Categories that it shows.
        knows: Categories of which that is known.
    """

    ids: tuple[int, ...]
    shows: frozenset[str]
    knows: frozenset[str]


class Asks:
    """Prompts of a policy and its changed forms, as the runtime writes them, and the loss of their answers.

    All texts of a batch stand after one policy, so that is read once, and its keys and values, with their gradients, serve all of them,
    where a model answers after them as it does when it reads all anew.

    Args:
        place: Of the model.
        policy: What words decide.

    Attributes:
        once: Whether the policy is read once a batch.

    Raises:
        ModelError: Its tokenizer has no token for a letter.
    """

    once = False

    def __init__(self, place: Path, policy: Policy) -> None:
        with optional():
            from tokenizers import Tokenizer
        self.policy = policy
        self._means = {category.name: category.definition for category in policy.categories}
        told = verdict_settings(place, (SAFE, *policy.names), DEFINED)
        self._letters: list[int] = list(told["label_token_ids"])
        self._before, self._after = str(told.get("before", "")), str(told.get("after", ""))
        self._tokenizer: Tokenizer = Tokenizer.from_file(str(place / "tokenizer.json"))
        self._ends = encode(self._tokenizer, self._after, special=True) if self._after else []

    def case(self, text: str, most: int = 0) -> list[int]:
        """Return the token ids of a case; of a text that is too long, of as much of its beginning as there is room for."""
        ids = encode(self._tokenizer, case(Screen(scores={}), text), special=False)
        while most and len(ids) > most and len(text) > 1:
            text = text[: max(1, int(len(text) * most / len(ids) * 0.95))]
            ids = encode(self._tokenizer, case(Screen(scores={}), text), special=False)
        return ids

    def read_once(self, model: Any, some: Sequence[Lesson]) -> None:
        """Read the policy once a batch from now on, if the model can: some keep what they read in a way of their own."""
        import torch

        names = self.policy.names
        model.eval()
        with torch.inference_mode():
            anew = self._said(model, some, names)
            try:
                self.once = True
                again = self._said(model, some, names)
            except (AttributeError, TypeError, ValueError, RuntimeError, IndexError) as error:
                why = (str(error).splitlines() or [type(error).__name__])[0][:200]
            else:
                gap = float((again - anew).abs().max() / anew.abs().max().clamp(min=1e-6))
                why = f"its answers would differ by {gap:.2g}" if gap > SAME else ""
        if why:
            self.once = False
            log.warning("the model reads the policy anew with each text: %s", why)

    def loss(self, model: Any, some: Sequence[Lesson], names: Sequence[str]) -> "torch.Tensor":
        """Return the mean loss of texts under a policy of these categories, in this order.

        The choices of a text are `safe` and the categories that somebody looked for; right is any that it shows, else `safe`.
        """
        import torch

        said = self._said(model, some, names)
        open_ = torch.tensor([[True, *(name in one.knows for name in names)] for one in some], device=said.device)
        right = torch.tensor([_right(one, names) for one in some], device=said.device)
        nothing = torch.finfo(said.dtype).min
        chosen = torch.logsumexp(said.masked_fill(~right, nothing), 1)
        among = torch.logsumexp(said.masked_fill(~open_, nothing), 1)
        loss: torch.Tensor = (among - chosen).mean()
        return loss

    def _said(self, model: Any, some: Sequence[Lesson], names: Sequence[str]) -> "torch.Tensor":
        """Return the logits `(n, k)` of the letters of `safe` and these categories."""
        import torch

        begins = encode(self._tokenizer, self._before + rules((SAFE, *names), self._means), special=True, begins=True)
        rows = [[*one.ids, *self._ends] for one in some]
        device = next(model.parameters()).device
        most = len(begins) + max(map(len, rows))
        more: dict[str, Any] = {}
        if self.once and most <= window(model.config):
            kept = model(input_ids=torch.tensor([begins], device=device), use_cache=True, **last(model)).past_key_values
            kept.batch_repeat_interleave(len(rows))
            more = {"past_key_values": kept, "use_cache": True}
        else:
            rows = [[*begins, *row] for row in rows]
        ids, mask = filled(rows, len(begins) if more else 0)
        places = (mask.cumsum(1) - 1).clamp(min=0)[:, -ids.shape[1] :]
        logits: torch.Tensor = model(
            input_ids=ids.to(device),
            attention_mask=mask.to(device),
            position_ids=places.to(device),
            **more,
            **last(model),
        ).logits
        return logits[:, -1, self._letters[: len(names) + 1]].float()


def turns(count: int, size: int, number: int, seed: int) -> list[int]:
    """Return which of `count` texts a batch holds: each comes once before any comes again, every time in an order of its own.

    >>> sorted(turns(4, 2, 0, seed=7) + turns(4, 2, 1, seed=7)), len(turns(4, 6, 0, seed=7))
    ([0, 1, 2, 3], 6)
    """
    places = range(number * size, (number + 1) * size)
    orders = {time: np.random.default_rng((seed, time)).permutation(count) for time in {at // count for at in places}}
    return [int(orders[at // count][at % count]) for at in places]


def _right(one: Lesson, names: Sequence[str]) -> list[bool]:
    shown = [name in one.shows for name in names]
    return [not any(shown), *shown]
