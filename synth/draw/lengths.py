"""How much of a prompt a model reads: what is longer would lose its end unsaid, and so is refused before anything is drawn."""

import inspect
import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tilth import models
from tilth.errors import InputError


@dataclass(frozen=True, kw_only=True)
class Encoder:
    """One text encoder of a model: its tokenizer, and how many tokens it reads, those of begin and end included."""

    tokenizer: Any
    limit: int

    def tokens(self, text: str) -> int:
        """Count the tokens of a text."""
        return len(self.tokenizer(text, verbose=False).input_ids)


def encoders(model: str) -> list[Encoder]:
    """Return the text encoders of a checkpoint, of which some have two or three; no weights are loaded.

    Args:
        model: Name of the checkpoint.
    """
    from transformers import AutoTokenizer

    folder = models.locate(model)
    found = []
    for place in sorted(folder.glob("tokenizer*/")):
        tokenizer = AutoTokenizer.from_pretrained(place, local_files_only=True)
        limits = [int(tokenizer.model_max_length), _positions(folder / place.name.replace("tokenizer", "text_encoder"))]
        if "CLIP" not in type(tokenizer).__name__:  # of the others, the pipeline itself reads so much and no more
            limits.append(_read_by(folder))
        found.append(Encoder(tokenizer=tokenizer, limit=min(n for n in limits if n)))
    return found


def _positions(folder: Path) -> int:
    """Return the number of places of an encoder; 0 where its settings name none."""
    path = folder / "config.json"
    return int(json.loads(path.read_text()).get("max_position_embeddings") or 0) if path.exists() else 0


def _read_by(folder: Path) -> int:
    """Return how many tokens the pipeline of a checkpoint reads; 0 where it does not say."""
    import diffusers

    path = folder / "model_index.json"
    pipeline = getattr(diffusers, str(json.loads(path.read_text()).get("_class_name")), None) if path.exists() else None
    default = inspect.signature(pipeline.__call__).parameters.get("max_sequence_length") if pipeline else None
    return int(default.default) if default is not None and isinstance(default.default, int) else 0


def refuse_long(told: Mapping[str, Iterable[str]], by: Iterable[Encoder], model: str) -> None:
    """Refuse texts whose end no encoder of a model would read: two that differ only there would give the same picture.

    Args:
        told: Texts, by what they are; the message names that and never repeats a text.
        by: The encoders.
        model: Name of the checkpoint.

    Raises:
        InputError: Says of each kind how many are too long, the most tokens that one has, and how many are read.
    """
    by = list(by)
    if not by:
        return
    wrong = []
    for what, texts in told.items():
        different = set(texts)
        counts = [[encoder.tokens(text) for encoder in by] for text in different]
        # an encoder with room for all of a text sees its end, even if another does not
        over = [row for row in counts if all(n > encoder.limit for n, encoder in zip(row, by, strict=True))]
        if over:
            most = max(over, key=max)
            read = [f"{n} tokens, of which {e.limit} are read" for n, e in zip(most, by, strict=True)]
            wrong.append(
                f"{what}: {len(over)} of {len(different)} texts are too long for {model}, "
                f"the longest has {' and '.join(dict.fromkeys(read))}"
            )
    if wrong:
        raise InputError(
            "\n".join([*wrong, "begin and end are two of these tokens; shorten the texts, nothing was drawn"])
        )
