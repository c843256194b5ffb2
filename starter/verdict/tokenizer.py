"""A WordPiece tokenizer for the miniature verdict model: whole words of the world's signs, letters for everything else.

Differs: continued pieces have no `##`, so "NOID" that lost its space becomes the same tokens as "NO ID". What the template writes at the
start of a line, its frames and the letters of the rules, are tokens in capitals; all else is in small letters. So no words in an image,
which stand inside a line, are ever spelled like a rule, or like the start of another line.
"""

import re
import string
from pathlib import Path

from tokenizers import Regex, Tokenizer, normalizers, pre_tokenizers, processors
from tokenizers.models import WordPiece
from transformers import PreTrainedTokenizerFast

from tilth.runtime.stages.stage1 import Found, Screen
from tilth.runtime.stages.template import LETTERS, LEVELS, case, rules
from tilth.starter.verdict import injections, policies
from tilth.starter.verdict.topics import TOPICS, sayings
from tilth.starter.world.scene import KINDS

PAD, START, UNKNOWN = "<pad>", "<s>", "<unk>"
MAX_TOKENS = 512
NOTHING = case(Screen(scores={}), "").splitlines()
# what the template writes at the start of a line -> its token
FRAMES = {
    rules([], {}).strip(): "POLICY",
    **dict(zip(NOTHING, ("NO_CLASS", "NO_BOX", "NO_TEXT", "ANSWER"), strict=True)),
    "Classifier:": "CLASSIFIER",
    "Detector:": "DETECTOR",
    'Text: "': "TEXT",
}
_PREPARE = normalizers.Sequence(
    [
        normalizers.NFKD(),
        normalizers.StripAccents(),
        normalizers.Lowercase(),
        *(normalizers.Replace(Regex(f"(?m)^{re.escape(said.lower())}"), f"{token} ") for said, token in FRAMES.items()),
        *(normalizers.Replace(Regex(f"(?m)^ ?{letter.lower()}(?= |$)"), letter) for letter in LETTERS),
    ]
)


def vocabulary() -> list[str]:
    """List the tokens by id: special ones, the letters that answer, the frames, characters, numbers, and words that are known."""
    shown = " ".join(
        case(Screen(scores={"safe": low}, boxes=(Found(category="text_area", box_xyxy=box, score=low),)), "")
        for low, _ in LEVELS
        for box in ((0, 0, 0.1, 0.1), (0, 0, 1, 1), (0.7, 0.7, 1, 1))
    )
    of_topics = " ".join(f"{t.names} {t.verbs} {t.nouns}" for t in TOPICS.values()).replace("_", " ")
    of_signs = " ".join(
        text for halves in sayings().values() for half in halves.values() for some in half for text in some
    )
    frames = " ".join((*policies.CORES, *policies.CLAUSES[True], *policies.CLAUSES[False], *policies.PICTURED))
    things = " ".join(f"{rule.name} {rule.definition}" for rule in policies.starter().rules if rule.pictured)
    more = " ".join((*KINDS, *(f"{kind}s" for kind in KINDS), "rule category group nothing none safe no other applies"))
    text = " ".join((shown, of_topics, of_signs, frames, things, more, injections.LINES)).lower()
    words = set(re.findall(r"[a-z]+", text)) | {"text_area"}
    first = [
        PAD,
        START,
        UNKNOWN,
        *LETTERS,
        *FRAMES.values(),
        *string.ascii_lowercase,
        *string.digits,
        *string.punctuation,
    ]
    first += [str(n) for n in range(10, 101)]
    return [*first, *sorted(word for word in words if word not in first)]


def write_tokenizer(folder: Path) -> Tokenizer:
    """Write `tokenizer.json`, which loads with `tokenizers` alone and as a `PreTrainedTokenizerFast`."""
    ids = {token: i for i, token in enumerate(vocabulary())}
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
