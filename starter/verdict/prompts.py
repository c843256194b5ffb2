"""Prompts as token ids: policies, each read once, and the cases that are judged by each."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from tokenizers import Tokenizer

from tilth.runtime.stages.template import LETTERS, case, rules
from tilth.starter.verdict.cases import Saying
from tilth.starter.verdict.policies import Rules
from tilth.starter.verdict.tokenizer import PAD
from tilth.starter.verdict.topics import TOPICS

NAMES = list(TOPICS)


@dataclass(frozen=True, kw_only=True, eq=False)
class Prompts:
    """Policies, and as many cases of each; all padded to the right.

    Args:
        policies: Token ids `(g, p)`.
        policy_lengths: `(g,)`.
        cases: Token ids `(g × n, t)`, those of the first policy first.
        case_lengths: `(g × n,)`.
        verdicts: Which letter is right, `(g × n,)`.
        governs: Column of the full stop of the clause that speaks of the words, `(g × n,)`, or of what is said of `safe`.
        topics: What the words of a case are about, `(g × n,)`; -1 for nothing.
        clauses: `(row, column, letter)` of the full stop of each sentence, `(c, 3)`: A where it says that something is fine.
        spoken_of: What each of these is about, `(c, topics)`, each row adding up to 1; to 0 where that is a picture.
    """

    policies: torch.Tensor
    policy_lengths: torch.Tensor
    cases: torch.Tensor
    case_lengths: torch.Tensor
    verdicts: torch.Tensor
    governs: torch.Tensor
    topics: torch.Tensor
    clauses: torch.Tensor
    spoken_of: torch.Tensor

    def to(self, device: Any) -> "Prompts":
        """Move everything to a device."""
        return Prompts(**{name: value.to(device) for name, value in vars(self).items()})


def encode(tokenizer: Tokenizer, given: Sequence[tuple[Rules, Sequence[Saying]]]) -> Prompts:
    """Write and encode prompts; each policy comes with as many cases."""
    policies = [
        code.ids for code in tokenizer.encode_batch([rules(policy.labels, policy.definitions) for policy, _ in given])
    ]
    flat = [(policy, one) for policy, cases in given for one in cases]
    cases = [
        code.ids
        for code in tokenizer.encode_batch([case(one.screen, one.text) for _, one in flat], add_special_tokens=False)
    ]
    ids_of = tokenizer.get_vocab()
    stop, pad = ids_of["."], ids_of[PAD]
    clauses, spoken_of, governs = [], [], []
    for row, (ids, (policy, ones)) in enumerate(zip(policies, given, strict=True)):
        sentences: list[tuple[int, tuple[str, ...], bool]] = [(0, (), True)]  # of `safe`
        sentences += [(n + 1, c.topics, c.counts) for n, rule in enumerate(policy.rules) for c in rule.clauses]
        stops = [column for column, token in enumerate(ids) if token == stop]
        for column, (letter, topics, counts) in zip(stops, sentences, strict=True):
            clauses.append((row, column, letter if counts else 0))
            spoken_of.append([1 / len(topics) if name in topics else 0.0 for name in NAMES])
        for one in ones:
            speaks = (column for column, (_, topics, _) in zip(stops, sentences, strict=True) if one.topic in topics)
            governs.append(next(speaks, stops[0]))
    return Prompts(
        policies=_filled(policies, pad),
        policy_lengths=torch.tensor([len(row) for row in policies]),
        cases=_filled(cases, pad),
        case_lengths=torch.tensor([len(row) for row in cases]),
        verdicts=torch.tensor([policy.labels.index(one.verdict(policy)) for policy, one in flat]),
        governs=torch.tensor(governs),
        topics=torch.tensor([NAMES.index(one.topic) if one.topic and one.text else -1 for _, one in flat]),
        clauses=torch.tensor(clauses),
        spoken_of=torch.tensor(spoken_of),
    )


def _filled(rows: Sequence[Sequence[int]], pad: int) -> torch.Tensor:
    longest = max(map(len, rows))
    return torch.tensor([[*row, *[pad] * (longest - len(row))] for row in rows])


def letters_of(tokenizer: Tokenizer) -> list[int]:
    """Return the tokens of the letters, which answer."""
    ids_of = tokenizer.get_vocab()
    return [ids_of[letter] for letter in LETTERS]
