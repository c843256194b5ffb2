"""A BERT WordPiece vocabulary of the starter world, shared by the miniature GroundingDINO and BLIP-2.

Differs: 1,032 entries instead of 30,522, with the special tokens where bert-base-uncased has them, because
GroundingDINO's code in transformers looks for the ids 101, 102, 1012 and 1029. Unknown words fall into letters, so no
input is lost.
"""

import string
from pathlib import Path

from transformers import BertTokenizer

from tilth.starter.world.scene import COLORS, KINDS, STYLES
from tilth.starter.world.surfaces import SURFACES

# What people may call a thing of the world; the first name is its kind.
NAMES: dict[str, tuple[str, ...]] = {
    "knife": ("knife", "blade"),
    "cigarette": ("cigarette", "smoke"),
    "bottle": ("bottle", "flask"),
    "pill": ("pill", "capsule", "tablet"),
    "dice": ("dice", "die"),
    "spoon": ("spoon",),
    "pen": ("pen",),
    "cup": ("cup", "mug"),
    "candy": ("candy", "sweet"),
    "gift": ("gift", "present"),
    "book": ("book",),
    "flower": ("flower",),
    "sign": ("sign", "board"),
}

VOCABULARY_SIZE = 1032
MAX_TOKENS = 64
_SPECIAL = {0: "[PAD]", 100: "[UNK]", 101: "[CLS]", 102: "[SEP]", 103: "[MASK]", 104: "[DEC]", 1012: ".", 1029: "?"}
_FIRST_WORD = 110
_GRAMMAR = ("a", "an", "and", "the", "of", "on", "in", "against", "with", "style", "photo", "picture", ",")


def vocabulary() -> list[str]:
    """List the tokens by id.

    >>> tokens = vocabulary()
    >>> tokens[1012], tokens.index("knife") < 1012, len(tokens)
    ('.', True, 1032)
    """
    tokens = [f"[unused{i}]" for i in range(VOCABULARY_SIZE)]
    for i, token in _SPECIAL.items():
        tokens[i] = token
    words = {*_GRAMMAR, *COLORS, *STYLES, *KINDS}
    words |= {name for names in NAMES.values() for name in names}
    words |= {word for place in SURFACES.values() for word in place.split()}
    symbols = string.ascii_lowercase + string.digits
    pieces = [*sorted(words), *(c for c in symbols if c not in words), *(f"##{c}" for c in symbols), "-", "'", "!"]
    tokens[_FIRST_WORD : _FIRST_WORD + len(pieces)] = pieces
    return tokens


def write_tokenizer(folder: Path) -> BertTokenizer:
    """Write the tokenizer into a folder, so that it loads with `BertTokenizer.from_pretrained(folder)`."""
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / "vocab.txt"
    path.write_text("\n".join(vocabulary()) + "\n")
    tokenizer = BertTokenizer(vocab=str(path), do_lower_case=True, model_max_length=MAX_TOKENS)
    tokenizer.save_pretrained(folder)
    return tokenizer
