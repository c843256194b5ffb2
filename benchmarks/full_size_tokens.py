"""Tokenizers of the same class, form and size as the published models have, with words of our own.

Only the ids that a model's code looks for lie where they were published: those of BERT's marks and of CLIP's end. Words that
somebody may ask for are whole tokens, all others fall into letters, and the rest of the vocabulary is filled up, so that files and
tables have their size.
"""

import json
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from tokenizers import AddedToken, Tokenizer, models, normalizers, pre_tokenizers, processors

KNOWN = """
a an and at be in of on the with for is not no none or to photo picture image drawing photograph sketch cartoon neon
sign style table ground shop wall pencil knife blade spoon cigarette smoke pen bottle flask cup pill capsule tablet
candy dice die gift board book card nine ten jack queen king ace rules classifier detector nothing text which rule
applies words come first answer its letter safe gambling_ad illicit_sale threat text_area certain likely doubtful
unlikely large medium small top centre bottom left middle right
"""
WORDS = KNOWN.split()
BYTES = sorted(
    pre_tokenizers.ByteLevel.alphabet()
)  # the printable stand-in of each byte, as GPT-2, CLIP and Qwen have them
LETTERS = "abcdefghijklmnopqrstuvwxyz0123456789"
BERT = {
    0: "[PAD]",
    100: "[UNK]",
    101: "[CLS]",
    102: "[SEP]",
    103: "[MASK]",
    1012: ".",
    1029: "?",
}  # as GroundingDINO looks for them


def placed(size: int, fixed: Mapping[int, str], tokens: Iterable[str]) -> dict[str, int]:
    """Number tokens around those that have a place, and fill up to a size."""
    ids = {token: n for n, token in fixed.items()}
    free = (n for n in range(size) if n not in fixed)
    ids |= {token: next(free) for token in dict.fromkeys(tokens) if token not in ids}
    return ids | {f"[unused{n}]": n for n in free}


def merges_of(words: Iterable[Sequence[str]]) -> tuple[list[str], list[tuple[str, str]]]:
    """Return the tokens and merges by which words, given as their symbols, become whole, from the left."""
    tokens: dict[str, None] = {}
    merges: dict[tuple[str, str], None] = {}
    for word in words:
        whole = word[0]
        for symbol in word[1:]:
            merges[whole, symbol] = None
            whole += symbol
            tokens[whole] = None
    return list(tokens), list(merges)


def write_bert(folder: Path, size: int = 30522, *, more: Sequence[str] = ()) -> None:
    """Write the tokenizer of bert-base-uncased, as GroundingDINO and BLIP-2 have it.

    Args:
        folder: Of the model.
        size: Of the vocabulary.
        more: Special tokens behind it.
    """
    from transformers import BertTokenizer

    tokens = [*WORDS, *LETTERS, *(f"##{c}" for c in LETTERS), ",", "-", "'", "!"]
    ids = placed(size, BERT, tokens)
    (folder / "vocab.txt").write_text("\n".join(sorted(ids, key=ids.__getitem__)) + "\n")
    tokenizer = BertTokenizer(vocab=str(folder / "vocab.txt"), do_lower_case=True, model_max_length=512)
    if more:
        tokenizer.add_special_tokens({"bos_token": more[0]})
    tokenizer.save_pretrained(folder)
    settings(folder, tokenizer_class="BertTokenizer")


def write_clip(folder: Path, *, pad: str = "<|endoftext|>") -> None:
    """Write the tokenizer of CLIP, whose end has the highest id: there the text encoder reads its answer off."""
    from transformers import CLIPTokenizer

    folder.mkdir(parents=True, exist_ok=True)
    tokens, merges = merges_of([*word[:-1], word[-1] + "</w>"] for word in WORDS)
    fixed = {49406: "<|startoftext|>", 49407: "<|endoftext|>"}
    ids = placed(49408, fixed, ["!", *BYTES, *(f"{letter}</w>" for letter in BYTES), *tokens])
    vocabulary, rules = folder / "vocab.json", folder / "merges.txt"
    vocabulary.write_text(json.dumps(ids, ensure_ascii=False), encoding="utf-8")
    rules.write_text("#version: 0.2\n" + "".join(f"{a} {b}\n" for a, b in merges), encoding="utf-8")
    tokenizer = CLIPTokenizer(vocab=str(vocabulary), merges=str(rules), model_max_length=77, pad_token=pad)
    tokenizer.save_pretrained(folder)
    settings(folder, tokenizer_class="CLIPTokenizer")


def write_qwen(folder: Path) -> None:
    """Write a byte-level tokenizer as Qwen2.5 has it, with 151,643 tokens and its marks behind them."""
    spaced = ([*f"Ġ{word}"] for word in WORDS)
    tokens, merges = merges_of([*spaced, *([*word] for word in WORDS)])
    tokens += [f"Ġ{letter}" for letter in "ABCDEFGHIJKLMNOPQRSTUVWXYZ"]
    merges += [("Ġ", letter) for letter in "ABCDEFGHIJKLMNOPQRSTUVWXYZ"]
    tokenizer = Tokenizer(models.BPE(vocab=placed(151643, {}, [*BYTES, *tokens]), merges=merges))
    tokenizer.normalizer = normalizers.NFC()
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.post_processor = processors.ByteLevel(trim_offsets=False)
    marks = ("<|endoftext|>", "<|im_start|>", "<|im_end|>")
    tokenizer.add_special_tokens([AddedToken(mark, normalized=False, special=True) for mark in marks])
    tokenizer.save(str(folder / "tokenizer.json"))
    settings(
        folder,
        tokenizer_class="Qwen2Tokenizer",
        eos_token="<|im_end|>",
        pad_token="<|endoftext|>",
        model_max_length=131072,
    )


def write_gemma(folder: Path) -> None:
    """Write a tokenizer as Gemma and SigLIP 2 have it: byte-pair with bytes to fall back on, 256,000 tokens."""
    marks = {0: "<pad>", 1: "<eos>", 2: "<bos>", 3: "<unk>", 4: "<mask>"}
    tokens, merges = merges_of([*([*f"▁{word}"] for word in WORDS), *([*word] for word in WORDS)])
    letters = [*(f"<0x{n:02X}>" for n in range(256)), "▁", *(chr(n) for n in range(33, 127))]
    ids = placed(256000, marks, [*letters, *tokens])
    tokenizer = Tokenizer(models.BPE(vocab=ids, merges=merges, fuse_unk=True, unk_token="<unk>", byte_fallback=True))
    tokenizer.normalizer = normalizers.Replace(" ", "▁")
    tokenizer.post_processor = processors.TemplateProcessing(single="$A <eos>", special_tokens=[("<eos>", 1)])
    tokenizer.add_special_tokens([AddedToken(mark, normalized=False, special=True) for mark in marks.values()])
    tokenizer.save(str(folder / "tokenizer.json"))
    settings(
        folder,
        tokenizer_class="GemmaTokenizer",
        model_max_length=64,
        padding_side="right",
        add_bos_token=False,
        add_eos_token=True,
        **{f"{mark.strip('<>')}_token": mark for mark in marks.values() if mark != "<mask>"},
    )


def write_unigram(folder: Path) -> None:
    """Write a tokenizer as SigLIP has it: SentencePiece's unigrams, 32,000 of them, in `tokenizer.json`."""
    first = ["<pad>", "</s>", "<unk>"]
    pieces = [f"▁{word}" for word in WORDS]
    letters = ["▁", *LETTERS, ",", ".", "'", "-"]
    filled = placed(32000, dict(enumerate(first)), [*pieces, *letters])
    scores = [(token, -3.0 if token in pieces else -9.0) for token in sorted(filled, key=filled.__getitem__)]
    tokenizer = Tokenizer(models.Unigram(scores, unk_id=2))
    tokenizer.normalizer = normalizers.Lowercase()
    tokenizer.pre_tokenizer = pre_tokenizers.Metaspace()
    tokenizer.post_processor = processors.TemplateProcessing(single="$A </s>", special_tokens=[("</s>", 1)])
    tokenizer.add_special_tokens([AddedToken(mark, normalized=False, special=True) for mark in first[1:]])
    tokenizer.save(str(folder / "tokenizer.json"))
    marks = {"eos_token": "</s>", "unk_token": "<unk>", "pad_token": "</s>"}
    settings(folder, tokenizer_class="SiglipTokenizer", model_max_length=64, do_lower_case=True, **marks)


def settings(folder: Path, **told: Any) -> None:
    """Write `tokenizer_config.json`, or what is told into the one that is there."""
    path = folder / "tokenizer_config.json"
    before = json.loads(path.read_text()) if path.exists() else {"clean_up_tokenization_spaces": False}
    path.write_text(json.dumps({**before, **told}, indent=2))
