"""Turn a policy into questions for a grounding model: phrases, texts that fit its limit, and the tokens of each phrase.

A grounding model reads one text, "knife . spoon .", and scores every token of it for every box. Which tokens make up which
phrase is therefore kept from the start, and words of neighbouring phrases can never merge into one label.
"""

import hashlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from tilth.errors import InputError
from tilth.policy import Category


@dataclass(frozen=True, slots=True, kw_only=True)
class Question:
    """What to ask for one category: its names, and the names of what it is mistaken for."""

    category: str
    phrases: tuple[str, ...]
    counters: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class Prompt:
    """One text for the model.

    Args:
        text: Phrases in lower case, each ended by a full stop.
        phrases: In the order of the text, each once.
        categories: The category of each phrase; empty for what competes only.
    """

    text: str
    phrases: tuple[str, ...]
    categories: tuple[str, ...]

    @property
    def digest(self) -> str:
        """12 hex digits that name the text and what its phrases mean."""
        return hashlib.sha256(repr((self.text, self.categories)).encode()).hexdigest()[:12]


def questions(categories: Sequence[Category]) -> tuple[Question, ...]:
    """Ask for every category by all its prompts, against its counter-prompts.

    Raises:
        InputError: A phrase is empty or holds the marks that end phrases, or two categories share one.
    """
    asked = tuple(
        Question(category=c.name, phrases=_plain(c.prompts), counters=_plain(c.counter_prompts)) for c in categories
    )
    owners: dict[str, str] = {}
    for question in asked:
        for phrase in (*question.phrases, *question.counters):
            if not phrase or set(phrase) & set(".?"):
                raise InputError(f"policy: prompt {phrase!r} of {question.category} must be words without '.' and '?'")
        for phrase in question.phrases:
            if (other := owners.setdefault(phrase, question.category)) != question.category:
                raise InputError(
                    f"policy: prompt {phrase!r} belongs to {other} and to {question.category}; leave it to one of them"
                )
    return asked


def _plain(phrases: Sequence[str]) -> tuple[str, ...]:
    return tuple(dict.fromkeys(" ".join(phrase.lower().split()) for phrase in phrases))


def spelled(phrases: Sequence[str], tokenize: Callable[[str], Sequence[str]]) -> list[str]:
    """Return the phrases with a word that a tokenizer knows by its letters alone or not at all, as the model was not taught it.

    >>> pieces = {"knife": ["knife"], "vape": ["v", "##a", "##p", "##e"], "🔪": ["[UNK]"]}
    >>> spelled(["knife", "vape knife", "🔪"], pieces.__getitem__)
    ['vape knife', '🔪']
    """

    def unknown(word: str) -> bool:
        pieces = tokenize(word)
        return "[UNK]" in pieces or (len(word) > 2 and all(len(piece.removeprefix("##")) == 1 for piece in pieces))

    return [phrase for phrase in phrases if any(map(unknown, phrase.split()))]


def unknown(asked: Sequence[Question], words: Sequence[str]) -> tuple[str, ...]:
    """Return the categories of which a model knows no phrase, given those that it does not know.

    >>> asked = [Question(category="knife", phrases=("knife", "vape knife")), Question(category="vape", phrases=("vape",))]
    >>> unknown(asked, ["vape knife", "vape"])
    ('vape',)
    """
    return tuple(question.category for question in asked if set(question.phrases) <= set(words))


def make_prompts(asked: Sequence[Question], count_tokens: Callable[[str], int], limit: int) -> tuple[Prompt, ...]:
    """Pack questions into as few prompts as their order allows; a category stays beside its counter-prompts.

    Args:
        asked: The questions; a counter-prompt that is another category's own phrase competes as that category.
        count_tokens: Length of a text, with the tokens that begin and end it.
        limit: Longest text that the model reads.

    Raises:
        InputError: One category alone is too long.
    """
    owners = {phrase: question.category for question in asked for phrase in question.phrases}
    prompts: list[Prompt] = []
    packed: dict[str, str] = {}
    for question in asked:
        more = dict.fromkeys(question.phrases, question.category)
        more |= {phrase: owners.get(phrase, "") for phrase in question.counters}
        if count_tokens(_text(packed | more)) > limit and packed:
            prompts.append(_prompt(packed))
            packed = {}
        packed |= more
        if (length := count_tokens(_text(packed))) > limit:
            raise InputError(
                f"policy: the prompts and counter_prompts of {question.category} take {length} tokens, "
                f"the model reads {limit}; give it fewer"
            )
    return (*prompts, _prompt(packed)) if packed else tuple(prompts)


def _text(phrases: dict[str, str]) -> str:
    return " . ".join(phrases) + " ."


def _prompt(phrases: dict[str, str]) -> Prompt:
    return Prompt(text=_text(phrases), phrases=tuple(phrases), categories=tuple(phrases.values()))


def phrase_spans(prompt: Prompt, offsets: Sequence[tuple[int, int]]) -> list[list[int]]:
    """Return the positions of the tokens of each phrase.

    Args:
        prompt: The prompt.
        offsets: Where each token lies in the text, as tokenizers give it; empty ranges are marks, not words.

    Raises:
        InputError: The tokenizer left a phrase without a token.
    """
    spans: list[list[int]] = []
    start = 0
    for phrase in prompt.phrases:
        end = start + len(phrase)
        inside = [n for n, (a, b) in enumerate(offsets) if a < b and start <= a and b <= end]
        if not inside:
            raise InputError(f"the model's tokenizer has no token for {phrase!r}")
        spans.append(inside)
        start = end + len(" . ")
    return spans
