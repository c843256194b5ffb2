"""A WordPiece tokenizer for the miniature verdict model: whole words of the world's signs, letters for everything else.

Differs: continued pieces have no `##`, so "NOID" that lost its space becomes the same tokens as "NO ID".
"""

import string
from collections.abc import Sequence
from pathlib import Path

from tokenizers import Tokenizer, normalizers, pre_tokenizers, processors
from tokenizers.models import WordPiece
from transformers import PreTrainedTokenizerFast

from tilth.runtime.stages.stage1 import Found, Screen
from tilth.runtime.stages.template import LEVELS, case, rules
from tilth.starter.world.texts import signs

PAD, START, UNKNOWN = "<pad>", "<s>", "<unk>"
MAX_TOKENS = 192
_PREPARE = normalizers.Sequence([normalizers.NFKD(), normalizers.StripAccents(), normalizers.Lowercase()])


def vocabulary(labels: Sequence[str]) -> list[str]:
    """List the tokens by id: special ones, characters, numbers up to 100, words of the prompt, words of the signs."""
    frames = " ".join(
        rules(labels)
        + case(Screen(scores={"safe": low}, boxes=(Found(category="text_area", box_xyxy=box, score=low),)), "")
        for low, _ in LEVELS
        for box in ((0, 0, 0.1, 0.1), (0, 0, 1, 1), (0.7, 0.7, 1, 1))
    )
    lists = [some for halves in signs().values() for half in halves.values() for some in half]
    sayings = " ".join(text for some in lists for text in some)
    split = pre_tokenizers.Whitespace()
    words = {word for word, _ in split.pre_tokenize_str(_PREPARE.normalize_str(f"{frames} nothing none {sayings}"))}
    first = [PAD, START, UNKNOWN, *string.ascii_lowercase, *string.digits, *string.punctuation]
    first += [str(n) for n in range(10, 101)] + ["am", "pm"]
    return [*first, *sorted(word for word in words if word not in first and not word[0].isdigit())]


def write_tokenizer(folder: Path, labels: Sequence[str]) -> Tokenizer:
    """Write `tokenizer.json`, which loads with `tokenizers` alone and as a `PreTrainedTokenizerFast`."""
    ids = {token: i for i, token in enumerate(vocabulary(labels))}
    model = WordPiece(ids, unk_token=UNKNOWN, max_input_chars_per_word=1000, continuing_subword_prefix="")
    tokenizer = Tokenizer(model)
    tokenizer.normalizer = _PREPARE
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    tokenizer.post_processor = processors.TemplateProcessing(single=f"{START} $A", special_tokens=[(START, ids[START])])
    fast = PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, pad_token=PAD, bos_token=START, unk_token=UNKNOWN, model_max_length=MAX_TOKENS
    )
    fast.save_pretrained(folder)
    return Tokenizer.from_file(str(folder / "tokenizer.json"))
