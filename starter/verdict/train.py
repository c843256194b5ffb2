"""Train the miniature of Stage 2's language model: a small Llama that reads the prompt and answers with a letter.

It is trained on made-up cases (see `verdict_cases`), so it learns how far to trust doubtful scores and what words mean.
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
from tilth.runtime.stages.template import LETTERS, NAMED, case, rules
from tilth.starter.verdict.cases import LABELS, WRITTEN, Case, draw_case
from tilth.starter.verdict.tokenizer import MAX_TOKENS, PAD, START, write_tokenizer

STEPS, BATCH = 2800, 64
HELD_OUT = 3000


def build(tokens: int, pad: int, start: int) -> LlamaForCausalLM:
    """Make the untrained model, 1.4 million parameters."""
    return LlamaForCausalLM(
        LlamaConfig(
            vocab_size=tokens,
            hidden_size=160,
            intermediate_size=432,
            num_hidden_layers=4,
            num_attention_heads=5,
            num_key_value_heads=5,
            max_position_embeddings=256,
            tie_word_embeddings=True,
            pad_token_id=pad,
            bos_token_id=start,
            eos_token_id=None,
            attn_implementation="sdpa",
        )
    )


def encode(tokenizer: Tokenizer, cases: list[Case]) -> tuple[torch.Tensor, torch.Tensor]:
    """Return right-padded token ids `(n, t)` and each prompt's last position `(n,)`."""
    rows = [code.ids for code in tokenizer.encode_batch([rules(LABELS) + case(one.screen, one.text) for one in cases])]
    longest = max(map(len, rows))
    ids = torch.tensor([[*row, *[tokenizer.token_to_id(PAD)] * (longest - len(row))] for row in rows])
    return ids, torch.tensor([len(row) - 1 for row in rows])


def label_logits(model: Any, ids: torch.Tensor, last: torch.Tensor, letters: list[int]) -> torch.Tensor:
    """Return the logits of the label tokens after each prompt, `(n, labels)`.

    All prompts begin with the same rules, which are read once for the batch. Padding lies to the right, where causal
    attention never looks, so there is no mask.
    """
    shared = int((ids == ids[:1]).all(0).cumprod(0).sum().clamp(max=ids.shape[1] - 1))
    cache = model.model(input_ids=ids[:1, :shared], use_cache=True).past_key_values
    cache.batch_repeat_interleave(len(ids))
    hidden = model.model(input_ids=ids[:, shared:], past_key_values=cache, use_cache=True).last_hidden_state
    logits: torch.Tensor = hidden[torch.arange(len(ids)), last - shared] @ model.lm_head.weight[letters].T
    return logits.float()


def score(model: nn.Module, tokenizer: Tokenizer, letters: list[int], n: int) -> dict[str, float]:
    """Return the share of right verdicts on held-out signs: of all cases, doubtful ones, with and without words.

    `accuracy_of_words` is of the one question that the runtime asks: which written category, if any, the words fall under.
    """
    device = next(model.parameters()).device
    cases = [draw_case(np.random.default_rng((71, i)), held_out=True) for i in range(n)]
    right: list[bool] = []
    words: list[bool] = []
    for at in range(0, n, 250):
        ids, last = encode(tokenizer, cases[at : at + 250])
        with torch.no_grad():
            chosen = label_logits(model, ids.to(device), last.to(device), letters).argmax(1).tolist()
        pairs = [(LABELS[i], case.verdict) for i, case in zip(chosen, cases[at : at + 250], strict=True)]
        right += [said == true for said, true in pairs]
        words += [said == true or not {said, true} & set(WRITTEN) for said, true in pairs]
    groups = {
        "accuracy": [True] * n,
        "accuracy_doubtful": [case.doubtful for case in cases],
        "accuracy_with_text": [bool(case.text) for case in cases],
        "accuracy_without_text": [not case.text for case in cases],
        **{f"accuracy_{label}": [case.verdict == label for case in cases] for label in LABELS},
    }
    found = {name: round(float(np.mean(np.array(right)[np.array(which)])), 4) for name, which in groups.items()}
    return {**found, "accuracy_of_words": round(float(np.mean(np.array(words)[[bool(c.text) for c in cases]])), 4)}


def train(out: Path, work: Path, device: str, steps: int | None) -> dict[str, float]:
    """Train the model, write it to `out/verdict`, and return its scores on signs that training never shows."""
    made = work / "verdict"
    made.mkdir(parents=True, exist_ok=True)
    tokenizer = write_tokenizer(made, LABELS)
    letters = [tokenizer.encode(letter, add_special_tokens=False).ids[0] for letter in LETTERS[: len(LABELS)]]
    torch.manual_seed(0)
    pad, start = (int(tokenizer.token_to_id(token) or 0) for token in (PAD, START))
    model = build(tokenizer.get_vocab_size(), pad, start).to(device)

    def loss_at(step: int) -> torch.Tensor:
        cases = [draw_case(np.random.default_rng((70, step, i))) for i in range(BATCH)]
        ids, last = encode(tokenizer, cases)
        truth = torch.tensor([LABELS.index(case.verdict) for case in cases], device=device)
        with torch.autocast(torch.device(device).type, torch.bfloat16):
            logits = label_logits(model, ids.to(device), last.to(device), letters)
        return nn.functional.cross_entropy(logits, truth)

    def watch(_: int, shown: nn.Module) -> str:
        return json.dumps(score(shown, tokenizer, letters, 500))

    fit(
        "verdict",
        model,
        loss_at,
        steps=steps or STEPS,
        lr=2e-3,
        work=work,
        warmup=100,
        flat=0.4,
        weight_decay=0.01,
        ema=0.995,
        save_every=250,
        watch=watch,
    )
    model.half().save_pretrained(made)
    described = {
        "template_version": NAMED, "labels": list(LABELS), "label_token_ids": letters, "max_tokens": MAX_TOKENS,
        "padding": "right",
    }  # fmt: skip
    (made / "verdict.json").write_text(json.dumps(described, indent=2) + "\n")
    scores = score(LlamaForCausalLM.from_pretrained(made, dtype=torch.float32).to(device), tokenizer, letters, HELD_OUT)
    out.mkdir(parents=True, exist_ok=True)
    shutil.copytree(made, out / "verdict.partial", dirs_exist_ok=True)
    shutil.rmtree(out / "verdict", ignore_errors=True)
    os.replace(out / "verdict.partial", out / "verdict")
    return scores
