"""How the models of the CLIP family read texts: each as it was trained, whichever libraries are here."""

import json
import re
import string
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from tilth.errors import MissingExtra
from tilth.extras import optional


class Reader:
    """A model's tokenizer with the rules that its family was trained by.

    SigLIP and SigLIP 2 were trained on texts in lower case, padded to their full length and with no mask over what is filled up, and read
    others differently; SigLIP also without punctuation. Its own tokenizer needs a library that nothing else does, so where that is
    missing, `tokenizer.json` beside it is read, which holds the same tokens.

    Args:
        folder: Of the model.
        family: As its `config.json` names it.
        longest: Tokens that the model reads.

    Raises:
        MissingExtra: The tokenizer lies there only in a form for which the library is missing.
    """

    def __init__(self, folder: Path, family: str, longest: int) -> None:
        with optional():
            from transformers import AutoTokenizer, PreTrainedTokenizerFast
        self._longest = longest
        self._siglip = family.startswith("siglip")
        try:
            self._tokens: Any = AutoTokenizer.from_pretrained(folder, local_files_only=True)
        except ImportError as error:
            if not (folder / "tokenizer.json").exists():
                raise MissingExtra(f"{folder}: its tokenizer needs a library: pip install sentencepiece") from error
            self._tokens = PreTrainedTokenizerFast.from_pretrained(folder, local_files_only=True)
        told = folder / "tokenizer_config.json"
        named = str(json.loads(told.read_text()).get("tokenizer_class")) if told.exists() else ""
        self._no_marks = named.startswith("SiglipTokenizer")

    def __call__(self, texts: Sequence[str]) -> Any:
        """Return the tokens of texts as torch wants them."""
        return self._tokens(
            [self.spelt(text) for text in texts],
            padding="max_length" if self._siglip else True,
            truncation=True,
            max_length=self._longest,
            return_attention_mask=not self._siglip,
            return_tensors="pt",
        )

    def spelt(self, text: str) -> str:
        """Return a text as the model knows texts."""
        if not self._siglip:
            return text
        text = text.lower()
        if self._no_marks:
            text = re.sub(r"\s+", " ", text.translate(str.maketrans("", "", string.punctuation))).strip()
        return text
