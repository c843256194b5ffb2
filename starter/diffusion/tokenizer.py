"""A CLIP byte-pair tokenizer that knows the words of the world as whole tokens, and any other text byte by byte."""

import json
from pathlib import Path

from transformers import CLIPTokenizer

from tilth.starter.world.scene import COLORS, KINDS, STYLES
from tilth.starter.world.surfaces import SURFACES

MAX_TOKENS = 20


def vocabulary() -> list[str]:
    """Return the words of all captions."""
    words = {"a", "an", "and", "on", "in", "against", "style", ",", *KINDS, *COLORS, *STYLES}
    for phrase in SURFACES.values():
        words |= set(phrase.split())
    return sorted(words)


def _byte_letters() -> list[str]:
    """Return the printable stand-in of each byte, as GPT-2 and CLIP assign them."""
    plain = [*range(33, 127), *range(161, 173), *range(174, 256)]
    others = [b for b in range(256) if b not in plain]
    return [chr(b) for b in plain] + [chr(256 + n) for n in range(len(others))]


def make_tokenizer(folder: Path) -> CLIPTokenizer:
    """Write the tokenizer's files and load it."""
    letters = _byte_letters()
    tokens = letters + [letter + "</w>" for letter in letters]
    merges: list[tuple[str, str]] = []
    for word in vocabulary():
        symbols = [*word[:-1], word[-1] + "</w>"]
        while len(symbols) > 1:  # merge from the left, so that words with one beginning share merges
            pair = (symbols[0], symbols[1])
            if pair not in merges:
                merges.append(pair)
            if "".join(pair) not in tokens:
                tokens.append("".join(pair))
            symbols = ["".join(pair), *symbols[2:]]
    tokens += ["<|startoftext|>", "<|endoftext|>"]
    folder.mkdir(parents=True, exist_ok=True)
    vocab, rules = folder / "vocab.json", folder / "merges.txt"
    vocab.write_text(json.dumps({token: i for i, token in enumerate(tokens)}, ensure_ascii=False), encoding="utf-8")
    rules.write_text("#version: 0.2\n" + "".join(f"{a} {b}\n" for a, b in merges), encoding="utf-8")
    tokenizer = CLIPTokenizer(vocab=str(vocab), merges=str(rules), model_max_length=MAX_TOKENS)
    tokenizer.save_pretrained(folder)
    return tokenizer
