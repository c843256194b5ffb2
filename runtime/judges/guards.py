"""Guard models, asked in the words that they were trained to answer with, in one pass.

| | answers | the policy |
|---|---|---|
| `qwen3guard` | `Safety: Unsafe`, then `Categories: Violent` | its own nine categories; the bundle says which stands for which of ours |
| `llama_guard` | `unsafe`, then `S1` | ours, with definitions, in its list of categories |
| `shieldgemma` | `Yes` or `No` | ours, with definitions, a guideline each and a prompt each |

A guard judges what a person said; it is told the words in the image and nothing else. Where it answers twice, first whether and then why,
the first answer `unsafe` is written for it, so that one pass gives the odds of both: a category is as likely as that anything is wrong,
times that this is the first one named. What Qwen3Guard calls controversial counts as wrong.

A prompt is what the model's own chat template writes, with two slots; `tilth.train.artifacts.chat` rendered it for the bundle.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal, TypeAlias

import numpy as np

from tilth.errors import InputError, ModelError
from tilth.runtime.judges.causal import Place
from tilth.runtime.judges.rows import encode, softmax
from tilth.runtime.stages.stage1 import Floats
from tilth.runtime.stages.stage2 import Chances
from tilth.runtime.stages.template import SAFE

if TYPE_CHECKING:
    from tokenizers import Tokenizer

Form: TypeAlias = Literal["letters", "qwen3guard", "llama_guard", "shieldgemma"]
READ_POLICY: tuple[Form, ...] = ("letters", "llama_guard", "shieldgemma")
QUESTION, POLICY = "\ufffcquestion\ufffc", "\ufffcpolicy\ufffc"  # the slots of a prompt
QWEN3_CATEGORIES = (
    "Violent", "Non-violent Illegal Acts", "Sexual Content or Sexual Acts", "PII", "Suicide & Self-Harm", "Unethical Acts",
    "Politically Sensitive Topics", "Copyright Violation", "Jailbreak",
)  # fmt: skip


def slots(form: Form) -> tuple[str, ...]:
    """Return what a prompt of this form has a slot for."""
    return (QUESTION, POLICY) if form in READ_POLICY else (QUESTION,)


@dataclass(frozen=True, kw_only=True)
class Guard:
    """How a guard is asked about a policy.

    Args:
        begins: Token ids that every prompt begins with.
        ends: Token ids after the words, a prompt each.
        places: Where in a prompt which tokens are asked for.
        read: Makes probabilities `(n, labels)` of logits `(n, ends, k)`.
    """

    begins: list[int]
    ends: tuple[tuple[int, ...], ...]
    places: tuple[Place, ...]
    read: Callable[[Floats], Chances]


def guard(
    form: Form,
    prompt: str,
    labels: Sequence[str],
    *,
    means: Mapping[str, str],
    words: Mapping[str, str],
    tokenizer: "Tokenizer",
) -> Guard:
    """Put a policy into the words of a guard.

    Args:
        form: Which kind of guard.
        prompt: With its slots.
        labels: `safe` and our categories.
        means: Definition of each category.
        words: Which of its categories stands for which of ours; of Qwen3Guard alone.
        tokenizer: Its own.

    Raises:
        InputError: A category has no word of the guard's.
        ModelError: Its tokenizer cuts the words so that the first token does not tell them apart.
    """
    kinds = [label for label in labels if label != SAFE]
    if form == "shieldgemma":
        return _yes_or_no(prompt, labels, kinds, means, tokenizer)
    if form == "llama_guard":
        listed = "".join(f"S{i}: {_said(k)}.\n{' '.join(means[k].split())}\n" for i, k in enumerate(kinds, 1))
        filled = prompt.replace(POLICY, listed.rstrip("\n"))
        # where the header of the answer has no line of its own after it, the answer begins with one
        lead = "\n\n" if prompt.endswith("<|end_header_id|>") else ""
        steps = [(lead, ("safe", "unsafe")), (f"{lead}unsafe\nS", tuple(str(i + 1) for i in range(len(kinds))))]
        places_of = list(range(len(kinds)))
    else:
        check_words(kinds, words)
        filled = prompt
        its = (*QWEN3_CATEGORIES, "None")
        steps = [
            ("Safety:", (" Safe", " Unsafe", " Controversial")),
            ("Safety: Unsafe\nCategories:", tuple(f" {w}" for w in its)),
        ]
        places_of = [its.index(words.get(k, k)) for k in kinds]
    before, _, after = filled.partition(QUESTION)
    whole = encode(tokenizer, steps[-1][0], special=True)
    places = tuple(_place(tokenizer, begun, said, whole) for begun, said in steps)
    end = (*encode(tokenizer, after, special=True), *whole)
    first = len(places[0][1])

    def read(logits: Floats) -> Chances:
        safe = softmax(logits[:, 0, :first])[:, 0]
        named = softmax(logits[:, 0, first:])
        by_kind = (1 - safe)[:, None] * named[:, places_of]
        others = np.ones(named.shape[1], bool)
        others[places_of] = False
        rest = safe + (1 - safe) * named[:, others].sum(1)  # what is wrong by no rule of ours is safe by ours
        return np.stack([rest if label == SAFE else by_kind[:, kinds.index(label)] for label in labels], 1)

    return Guard(begins=encode(tokenizer, before, special=True, begins=True), ends=(end,), places=places, read=read)


def _yes_or_no(
    prompt: str, labels: Sequence[str], kinds: Sequence[str], means: Mapping[str, str], tokenizer: "Tokenizer"
) -> Guard:
    before, _, after = prompt.partition(QUESTION)
    told = [f'"No {_said(k)}": The prompt shall not contain this: {" ".join(means[k].split())}' for k in kinds]
    ends = tuple(tuple(encode(tokenizer, after.replace(POLICY, each), special=True)) for each in told)
    place = _place(tokenizer, "", ("Yes", "No"), [])

    def read(logits: Floats) -> Chances:
        yes = softmax(logits)[:, :, 0]
        return np.stack([1 - yes.max(1) if label == SAFE else yes[:, kinds.index(label)] for label in labels], 1)

    return Guard(begins=encode(tokenizer, before, special=True, begins=True), ends=ends, places=(place,), read=read)


def check_words(kinds: Sequence[str], words: Mapping[str, str]) -> None:
    """Check that each category has a word of Qwen3Guard's, its own name or one that was given.

    Raises:
        InputError: One has none, or a word is none of its.
    """
    if wrong := [
        f"{kind} ({words.get(kind, kind)!r})" for kind in kinds if words.get(kind, kind) not in QWEN3_CATEGORIES
    ]:
        raise InputError(
            f"Qwen3Guard has no word for {', '.join(wrong)}; say which of its own stands for each, as in asking: "
            f"{{words: {{{wrong[0].split(' (')[0]}: Violent}}}}; they are {', '.join(QWEN3_CATEGORIES)}"
        )


def _said(name: str) -> str:
    """Write a category's name as words."""
    return name.replace("_", " ")


def _place(tokenizer: "Tokenizer", begun: str, words: Sequence[str], whole: Sequence[int]) -> Place:
    """Return where after an answer that was begun which tokens begin its words.

    Raises:
        ModelError: Two words begin with one token, or are joined to what stands before.
    """
    known = encode(tokenizer, begun, special=True)
    found = []
    for word in words:
        ids = encode(tokenizer, begun + word, special=True)
        if ids[: len(known)] != known or len(ids) == len(known):
            raise ModelError(f"the guard's tokenizer joins {word!r} to what stands before it; choose another guard")
        found.append(ids[len(known)])
    if [*whole[: len(known)]] != known or len({*found}) < len(found):
        raise ModelError(
            f"the guard's tokenizer cuts its words {', '.join(map(repr, words[:4]))}… so that their first tokens do not tell them apart; "
            "choose another guard, or a policy of fewer categories"
        )
    return len(whole) - len(known), tuple(found)
