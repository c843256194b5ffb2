"""Miniatures of guards: their real classes with random weights, a tokenizer with their words, a chat template of their kind."""

from pathlib import Path
from typing import Any

import torch

HEAD = "<|start_header_id|>{}<|end_header_id|>"
TEMPLATES = {
    "qwen3guard": (
        "<|im_start|>user\n{{ messages[-1].content }}\nSay Safety: and Categories: of it.<|im_end|>\n"
        "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
    ),
    "llama_guard": (
        HEAD.format("user") + "\n\nIs it unsafe?\n\n<BEGIN UNSAFE CONTENT CATEGORIES>\nS1: Its own.\nS2: Another.\n"
        "<END UNSAFE CONTENT CATEGORIES>\n\n<BEGIN CONVERSATION>\n\nUser: {{ messages[0].content }}\n\n<END CONVERSATION><|eot_id|>"
        "{% if add_generation_prompt %}" + HEAD.format("assistant") + "{% endif %}"
    ),
    "llama_guard in parts": (
        HEAD.format("user") + "\n\nIs it unsafe?\n\n<BEGIN UNSAFE CONTENT CATEGORIES>\nS1: Its own.\n"
        "<END UNSAFE CONTENT CATEGORIES>\n\n<BEGIN CONVERSATION>\n\nUser: "
        "{% for part in messages[0].content %}{{ part.text }}{% endfor %}\n\n<END CONVERSATION><|eot_id|>"
        "{% if add_generation_prompt %}" + HEAD.format("assistant") + "\n\n{% endif %}"
    ),
    "shieldgemma": (
        "<bos>Help to decide.\n\n<start_of_turn>\nHuman: {{ messages[-1].content }}\n<end_of_turn>\n\n"
        "* {{ guideline }}\n\nDoes it violate this? Yes or No.\n\n"
    ),
}  # fmt: skip
WORDS = (
    "Safety: Safe\nSafety: Unsafe\nSafety: Controversial\nCategories: Violent\nCategories: Non-violent Illegal Acts\n"
    "Categories: Sexual Content\nCategories: PII\nCategories: Suicide & Self-Harm\nCategories: Unethical Acts\n"
    "Categories: Politically Sensitive Topics\nCategories: Copyright Violation\nCategories: Jailbreak\nCategories: None\n"
    "safe\nunsafe\nS1\nS2\nS3\nS10\nYes\nNo\n"
)
SPECIAL = [
    "<bos>", "<|im_start|>", "<|im_end|>", "<|start_header_id|>", "<|end_header_id|>", "<|eot_id|>", "<start_of_turn>", "<end_of_turn>",
]  # fmt: skip


def guard_model(folder: Path, form: str, *, bytes_alone: bool = False) -> Path:
    """Write a miniature of a guard.

    Args:
        folder: Is made.
        form: One of `TEMPLATES`.
        bytes_alone: Whether its tokenizer knows no words, so that one token begins several of them.
    """
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
    from transformers import PreTrainedTokenizerFast

    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer, tokenizer.decoder = pre_tokenizers.ByteLevel(add_prefix_space=False), decoders.ByteLevel()
    trainer: Any = trainers.BpeTrainer(
        vocab_size=257 if bytes_alone else 700,
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator([WORDS] * 20, trainer)
    fast = PreTrainedTokenizerFast(tokenizer_object=tokenizer, additional_special_tokens=SPECIAL, bos_token="<bos>")
    fast.chat_template = TEMPLATES[form]
    fast.save_pretrained(folder)
    torch.manual_seed(1)
    _class_of(form, len(fast)).save_pretrained(folder)
    return folder


def _class_of(form: str, words: int) -> Any:
    from transformers import (
        Gemma2Config,
        Gemma2ForCausalLM,
        LlamaConfig,
        LlamaForCausalLM,
        Qwen3Config,
        Qwen3ForCausalLM,
    )

    size = {
        "vocab_size": words, "hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2, "num_attention_heads": 4,
        "num_key_value_heads": 2, "head_dim": 8, "initializer_range": 0.4,  # else nothing but the last token decides
        "bos_token_id": None, "eos_token_id": None, "pad_token_id": None,
    }  # fmt: skip
    if form == "qwen3guard":
        return Qwen3ForCausalLM(Qwen3Config(**size))
    if form == "shieldgemma":
        return Gemma2ForCausalLM(Gemma2Config(**size, sliding_window=16, query_pre_attn_scalar=8))
    return LlamaForCausalLM(LlamaConfig(**size))
