"""Train the miniature of Stage 2's language model: a small Llama that reads a policy and a case, and answers with a letter.

It is trained on made-up policies (`policies.py`) and cases (`cases.py`) in pairs: the same words under two policies that differ in one
thing. So it learns to read what the policy says, and not what words are usually called. Letters change places at random.

What makes that short enough for a CPU: half-way up, the full stops of clauses and the end of the words are to tell what they are about,
and clauses to which letter they lead; one head of the next layer is to look from the words at the clause that speaks of them. Words begin
near those of the same topics. None of this is in the model that is written.
"""

import json
import os
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import torch
from tokenizers import Tokenizer
from torch import nn
from transformers import LlamaConfig, LlamaForCausalLM

from tilth.engine.fit import fit
from tilth.runtime.stages.template import DEFINED, LETTERS
from tilth.starter.verdict.cases import LABELS, Saying, draw_pictured, draw_saying
from tilth.starter.verdict.forward import read
from tilth.starter.verdict.policies import Rules, draw_policy, twin
from tilth.starter.verdict.prompts import NAMES, Prompts, encode, letters_of
from tilth.starter.verdict.score import score
from tilth.starter.verdict.tokenizer import MAX_TOKENS, PAD, START, write_tokenizer
from tilth.starter.verdict.topics import OTHER, TOPICS, sayings

STEPS = 9000
CASES = 8  # of a policy
# from which step on -> pairs of short and of long policies of a step, and how much each matters; every how many steps there are long ones
LESSONS = {0: ((4, 1.0), (1, 0.4), 4), 750: ((2, 0.6), (2, 1.0), 1)}
HELD_OUT = 2000
MIDDLE = 2  # layers
NEAR = 0.03


def build(tokens: int, pad: int, start: int) -> LlamaForCausalLM:
    """Make the untrained model, 0.8 million parameters."""
    return LlamaForCausalLM(
        LlamaConfig(
            vocab_size=tokens,
            hidden_size=128,
            intermediate_size=320,
            num_hidden_layers=4,
            num_attention_heads=4,
            num_key_value_heads=4,
            max_position_embeddings=1024,
            initializer_range=0.06,
            rope_parameters={
                "rope_type": "default",
                "rope_theta": 1e7,
            },  # slow turns, in which topics are compared from afar
            tie_word_embeddings=True,
            pad_token_id=pad,
            bos_token_id=start,
            eos_token_id=None,
            attn_implementation="sdpa",
        )
    )


def draw_pair(rng: np.random.Generator, n: int, *, short: bool) -> list[tuple[Rules, list[Saying]]]:
    """Draw two policies that differ in one thing, and cases for both."""
    policy = draw_policy(rng, short=short)
    other, turned = twin(policy, rng)
    cases = [
        draw_pictured(policy, rng)
        if not short and rng.random() < 0.25
        else draw_saying(policy, turned, rng, short=short)
        for _ in range(n)
    ]
    return [(policy, cases), (other, cases)]


def near(tokenizer: Tokenizer, width: int) -> torch.Tensor:
    """Return what is added to each word, `(tokens, width)`: how much oftener than others each topic has it, turned at random."""
    shares = np.zeros((tokenizer.get_vocab_size(), len(NAMES) + 1))
    for column, name in enumerate((*NAMES, OTHER)):
        texts = [text for some in sayings()[name][False] for text in some[:40]]
        if name:
            texts += [text for form in ("verbs", "nouns") for text in TOPICS[name].phrases(form, False)] * 8
        for code in tokenizer.encode_batch(texts, add_special_tokens=False):
            shares[code.ids, column] += 1 / len(texts)
    often = np.log(np.maximum(shares, 1e-9) / (shares.mean(1, keepdims=True) + 1e-4)).clip(0)[:, : len(NAMES)]
    turn = np.linalg.qr(np.random.default_rng(0).normal(size=(width, len(NAMES))))[0].T
    return torch.from_numpy(often @ turn).float()


def mixed(prompts: Prompts, letters: list[int], rng: np.random.Generator) -> None:
    """Let the letters of a batch change places, all but A."""
    places = np.array([0, *(1 + rng.permutation(len(letters) - 1))])
    to = torch.arange(max(int(prompts.policies.max()), *letters) + 1)
    to[torch.tensor(letters)] = torch.tensor([letters[place] for place in places])
    prompts.policies.copy_(to[prompts.policies])
    prompts.verdicts.copy_(torch.from_numpy(places)[prompts.verdicts])
    prompts.clauses[:, 2] = torch.from_numpy(places)[prompts.clauses[:, 2]]


def loss_of(parts: Any, prompts: Prompts, letters: list[int]) -> torch.Tensor:
    """Return the loss of the answers, with what helps."""
    found = read(parts["model"], prompts, MIDDLE)
    rows = torch.arange(len(prompts.cases), device=found.last.device)
    written = parts["model"].lm_head(found.last).float()  # of all tokens, so that `generate()` writes a letter, too
    right = torch.tensor(letters, device=written.device)[prompts.verdicts]
    loss = nn.functional.cross_entropy(written, right)
    stops = found.policies[prompts.clauses[:, 0], prompts.clauses[:, 1]]
    loss = loss + 0.5 * nn.functional.cross_entropy(parts["letter"](stops).float(), prompts.clauses[:, 2])
    of_words = prompts.spoken_of.sum(1) > 0
    loss = loss + 0.5 * nn.functional.cross_entropy(
        parts["topic"](stops[of_words]).float(), prompts.spoken_of[of_words]
    )
    said = prompts.topics >= 0
    ends = found.cases[rows, prompts.case_lengths - 2]
    if said.any():
        loss = loss - 0.5 * (found.looks[rows, prompts.governs][said].float() + 1e-3).log().mean()
        loss = loss + 0.5 * nn.functional.cross_entropy(parts["topic"](ends[said]).float(), prompts.topics[said])
    return loss


def train(out: Path, work: Path, device: str, steps: int | None) -> dict[str, float]:
    """Train the model, write it to `out/verdict`, and return its scores on what training never shows."""
    made = work / "verdict"
    made.mkdir(parents=True, exist_ok=True)
    tokenizer = write_tokenizer(made)
    letters = letters_of(tokenizer)
    torch.manual_seed(0)
    pad, start = (int(tokenizer.token_to_id(token) or 0) for token in (PAD, START))
    model = build(tokenizer.get_vocab_size(), pad, start)
    width = model.config.hidden_size
    with torch.no_grad():
        model.model.embed_tokens.weight += NEAR * near(tokenizer, width)
    parts = nn.ModuleDict(
        {"model": model, "topic": nn.Linear(width, len(NAMES)), "letter": nn.Linear(width, len(LETTERS))}
    ).to(device)

    def loss_at(step: int) -> torch.Tensor:
        total = torch.zeros((), device=device)
        short, long, every = LESSONS[max(start for start in LESSONS if start <= step)]
        for of_long, (pairs, weight) in enumerate((short, long) if step % every == 0 else (short,)):
            rng = np.random.default_rng((70, step, of_long))
            given = [one for _ in range(pairs) for one in draw_pair(rng, CASES, short=not of_long)]
            prompts = encode(tokenizer, given)
            if rng.random() < 0.5:
                mixed(prompts, letters, rng)
            with torch.autocast(torch.device(device).type, torch.bfloat16):
                total = total + weight * loss_of(parts, prompts.to(device), letters)
        return total

    def watch(_: int, shown: nn.Module) -> str:
        return json.dumps(score(shown["model"], tokenizer, 60))  # type: ignore[index]

    fit(
        "verdict",
        parts,
        loss_at,
        steps=steps or STEPS,
        lr=3e-3,
        work=work,
        warmup=30,
        flat=0.4,
        weight_decay=0.01,
        ema=0.98,
        save_every=250,
        watch=watch,
    )
    model.half().save_pretrained(made)
    described = {
        "template_version": DEFINED, "labels": list(LABELS), "label_token_ids": letters, "max_tokens": MAX_TOKENS,
        "padding": "right", "whole_words": True,
    }  # fmt: skip
    (made / "verdict.json").write_text(json.dumps(described, indent=2) + "\n")
    scores = score(LlamaForCausalLM.from_pretrained(made, dtype=torch.float32).to(device), tokenizer, HELD_OUT)
    out.mkdir(parents=True, exist_ok=True)
    shutil.copytree(made, out / "verdict.partial", dirs_exist_ok=True)
    shutil.rmtree(out / "verdict", ignore_errors=True)
    os.replace(out / "verdict.partial", out / "verdict")
    return scores
