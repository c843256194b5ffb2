"""Train the miniature sentence encoder: a small BERT whose mean over a text's tokens lies near that of texts about the same.

Paper: https://arxiv.org/abs/2004.11362 (supervised contrastive learning)

A batch holds sayings of many topics, two of each, and what a policy may call them; all of one topic are to be near each other and far from
the rest. Sayings that no clause speaks of are of a topic each. It shares the vocabulary of the verdict model, and reads bare words.
"""

import os
import shutil
from pathlib import Path

import numpy as np
import torch
from tokenizers import Tokenizer
from torch import nn
from transformers import BertConfig, BertModel

from tilth.engine.fit import fit
from tilth.starter.verdict.policies import core
from tilth.starter.verdict.tokenizer import MAX_TOKENS, PAD, write_tokenizer
from tilth.starter.verdict.topics import OTHER, TOPICS, say
from tilth.texts import bare

STEPS = 800
TEMPERATURE = 0.07
OTHERS = 24  # sayings of a batch that no clause speaks of
FRAMES = (
    "{} see you there",
    "hi all {}",
    "{} tell your friends",
    "just saw this {}",
    "hey {}",
    "{} ok",
    "so {}",
    "{}",
    "{}",
)


def build(tokens: int, pad: int) -> BertModel:
    """Make the untrained model, 0.4 million parameters."""
    model = BertModel(
        BertConfig(
            vocab_size=tokens,
            hidden_size=128,
            num_hidden_layers=2,
            num_attention_heads=4,
            intermediate_size=256,
            max_position_embeddings=MAX_TOKENS,
            pad_token_id=pad,
            type_vocab_size=1,
            hidden_dropout_prob=0.0,
            attention_probs_dropout_prob=0.0,
        )
    )
    for part in model.pooler.parameters():  # there because loading would ask for it; nothing reads it
        nn.init.zeros_(part)
    return model


def draw(rng: np.random.Generator, *, held_out: bool = False) -> tuple[list[str], list[int]]:
    """Draw the texts of a batch, and of which topic each is."""
    texts, topics = [], []
    for number, topic in enumerate(TOPICS):
        some = [_framed(say(topic, rng, held_out=held_out), rng) for _ in range(2)]
        texts += [*some, core([topic], rng, held_out).text]
        topics += [number] * 3
    for number in range(OTHERS):
        texts.append(_framed(say(OTHER, rng, held_out=held_out), rng))
        topics.append(len(TOPICS) + number)
    return [bare(text) for text in texts], topics


def _framed(text: str, rng: np.random.Generator) -> str:
    return str(rng.choice(FRAMES)).format(text)


def vectors(model: nn.Module, tokenizer: Tokenizer, texts: list[str]) -> torch.Tensor:
    """Return the unit vectors of texts, `(n, d)`."""
    ids = [each.ids for each in tokenizer.encode_batch(texts)]
    longest = max(map(len, ids))
    device = next(model.parameters()).device
    tokens = torch.tensor([row + [0] * (longest - len(row)) for row in ids], device=device)
    mask = torch.tensor([[1] * len(row) + [0] * (longest - len(row)) for row in ids], device=device)
    hidden = model(input_ids=tokens, attention_mask=mask).last_hidden_state
    weight = mask[..., None].to(hidden.dtype)
    return nn.functional.normalize((hidden * weight).sum(1) / weight.sum(1), dim=1)


def loss_of(found: torch.Tensor, topics: torch.Tensor) -> torch.Tensor:
    """Return the supervised contrastive loss of vectors `(n, d)`; those that share their topic with none only push away."""
    alike = found @ found.T / TEMPERATURE
    itself = torch.eye(len(found), dtype=torch.bool, device=found.device)
    same = (topics[:, None] == topics) & ~itself
    chances = alike.masked_fill(itself, -1e4).log_softmax(1)
    with_partner = same.any(1)
    return -((chances * same).sum(1) / same.sum(1).clamp(min=1))[with_partner].mean()


@torch.no_grad()
def score(model: nn.Module, tokenizer: Tokenizer, batches: int = 20) -> dict[str, float]:
    """Return how often the nearest definition of a saying that training never shows is that of its topic, and so of the nearest saying."""
    by_words = by_saying = whole = 0
    for number in range(batches):
        texts, topics = draw(np.random.default_rng((97, number)), held_out=True)
        found, of = vectors(model, tokenizer, texts).cpu().numpy(), np.array(topics)
        known = 3 * len(TOPICS)
        first, second, words = (np.arange(start, known, 3) for start in range(3))
        by_words += int((of[words][(found[first] @ found[words].T).argmax(1)] == of[first]).sum())
        by_saying += int((of[second][(found[first] @ found[second].T).argmax(1)] == of[first]).sum())
        whole += len(TOPICS)
    return {"finds_by_definition": round(by_words / whole, 4), "finds_by_example": round(by_saying / whole, 4)}


def train(out: Path, work: Path, device: str, steps: int | None) -> dict[str, float]:
    """Train the model, write it to `out/sentences`, and return its scores on what training never shows."""
    made = work / "sentences"
    made.mkdir(parents=True, exist_ok=True)
    tokenizer = write_tokenizer(made)
    torch.manual_seed(0)
    model = build(tokenizer.get_vocab_size(), int(tokenizer.token_to_id(PAD) or 0)).to(device)

    def loss_at(step: int) -> torch.Tensor:
        texts, topics = draw(np.random.default_rng((96, step)))
        return loss_of(vectors(model, tokenizer, texts), torch.tensor(topics, device=device))

    fit("sentences", model, loss_at, steps=steps or STEPS, lr=2e-3, work=work, warmup=50, weight_decay=0.01, ema=0.98)
    model.half().save_pretrained(made)
    scores = score(BertModel.from_pretrained(made, dtype=torch.float32).to(device).eval(), tokenizer)
    out.mkdir(parents=True, exist_ok=True)
    shutil.copytree(made, out / "sentences.partial", dirs_exist_ok=True)
    shutil.rmtree(out / "sentences", ignore_errors=True)
    os.replace(out / "sentences.partial", out / "sentences")
    return scores
