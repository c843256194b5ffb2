"""How often the verdict model is right on what its training never shows: signs, wordings, clauses with a topic, injections."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from tokenizers import Tokenizer

from tilth.starter.verdict.cases import LABELS, WRITTEN, Saying, draw_case, draw_saying
from tilth.starter.verdict.forward import read
from tilth.starter.verdict.injections import inject
from tilth.starter.verdict.policies import Rules, draw_policy, starter, twin
from tilth.starter.verdict.prompts import encode, letters_of
from tilth.starter.verdict.topics import TOPICS

EACH = 25  # cases of a policy


def score(model: Any, tokenizer: Tokenizer, n: int) -> dict[str, float]:
    """Return shares of right verdicts: under the starter's own policy, and under pairs of policies.

    `accuracy_of_words` is of the one question that the runtime asks: which written category, if any, the words fall under. `flips_right`
    is of the cases on which two policies differ, right under both; `spill` of the others, that the change changes; `injection_flips`
    of signs, that get another verdict with injected words.

    Args:
        model: A Llama.
        tokenizer: Of the model.
        n: Cases under the starter's policy; there are as many of pairs, and of injections.
    """
    return {**_starter(model, tokenizer, n), **_pairs(model, tokenizer, n), **_injections(model, tokenizer, n)}


def _starter(model: Any, tokenizer: Tokenizer, n: int) -> dict[str, float]:
    drawn = [draw_case(np.random.default_rng((71, i)), held_out=True) for i in range(n)]
    policy = starter()
    cases = [Saying(screen=one.screen, text=one.text, topic=None) for one in drawn]
    said = [name for at in range(0, n, 100) for name in verdicts(model, tokenizer, [(policy, cases[at : at + 100])])[0]]
    right = [name == one.verdict for name, one in zip(said, drawn, strict=True)]
    words = [
        name == one.verdict or not {name, one.verdict} & set(WRITTEN) for name, one in zip(said, drawn, strict=True)
    ]
    groups = {
        "accuracy": [True] * n,
        "accuracy_doubtful": [one.doubtful for one in drawn],
        "accuracy_with_text": [bool(one.text) for one in drawn],
        "accuracy_without_text": [not one.text for one in drawn],
        **{f"accuracy_{label}": [one.verdict == label for one in drawn] for label in LABELS},
    }
    found = {name: _mean(np.array(right)[np.array(which)]) for name, which in groups.items()}
    return {**found, "accuracy_of_words": _mean(np.array(words)[[bool(one.text) for one in drawn]])}


def _pairs(model: Any, tokenizer: Tokenizer, n: int) -> dict[str, float]:
    flips: list[bool] = []
    right: list[bool] = []
    spill: list[bool] = []
    for i in range(max(1, n // EACH)):
        rng = np.random.default_rng((72, i))
        policy = draw_policy(rng, held_out=True)
        other, turned = twin(policy, rng, held_out=True)
        cases = [draw_saying(policy, turned, rng, held_out=True, injected=False) for _ in range(EACH)]
        before, after = verdicts(model, tokenizer, [(policy, cases), (other, cases)])
        for one, old, new in zip(cases, before, after, strict=True):
            truths = [_of_words(one.verdict(each), each) for each in (policy, other)]
            answers = [_of_words(name, each) for name, each in ((old, policy), (new, other))]
            if truths[0] == truths[1]:
                spill.append(answers[0] != answers[1])
            else:
                flips.append(answers == truths)
            right.append(answers[0] == truths[0])
    return {"any_policy": _mean(right), "flips_right": _mean(flips), "spill": _mean(spill)}


def _injections(model: Any, tokenizer: Tokenizer, n: int) -> dict[str, float]:
    changed: list[bool] = []
    for i in range(max(1, n // EACH)):
        rng = np.random.default_rng((73, i))
        policy = starter() if i % 2 else draw_policy(rng, held_out=True)
        clean = [draw_saying(policy, (), rng, held_out=True, short=True, injected=False) for _ in range(EACH)]
        spoilt = [Saying(screen=one.screen, text=f"{one.text} {_line(policy, rng)}", topic=one.topic) for one in clean]
        before, after = verdicts(model, tokenizer, [(policy, clean), (policy, spoilt)])
        changed += [old != new for old, new in zip(before, after, strict=True)]
    return {"injection_flips": _mean(changed)}


def _line(policy: Rules, rng: np.random.Generator) -> str:
    topic = str(rng.choice(policy.spoken_of))
    return inject(rng, policy.labels, str(rng.choice(TOPICS[topic].phrases("nouns", True))), held_out=True)


def _of_words(verdict: str, policy: Rules) -> str:
    """Return a verdict on words: what is pictured is not theirs to say."""
    return "safe" if verdict in policy.pictured else verdict


def _mean(values: Any) -> float:
    return round(float(np.mean(values)), 4) if len(values) else float("nan")


def verdicts(model: Any, tokenizer: Tokenizer, given: Sequence[tuple[Rules, Sequence[Saying]]]) -> list[list[str]]:
    """Ask the model about cases under policies, as many under each."""
    device = next(model.parameters()).device
    prompts = encode(tokenizer, given).to(device)
    with torch.no_grad():
        logits = read(model, prompts, 0).last @ model.lm_head.weight[letters_of(tokenizer)].T
    parts = logits.reshape(len(given), -1, logits.shape[1])
    return [
        [policy.labels[int(i)] for i in part[:, : len(policy.labels)].argmax(1)]
        for (policy, _), part in zip(given, parts, strict=True)
    ]
