"""What is never generated: sexual content, and anything that sexualises or harms a minor. Nothing switches this off.

Every text that can steer an image is read: prompts, negative prompts, categories with their definitions and synonyms, captions and
metadata of reference images, names, trigger words and metadata of models, adapters and control networks. Words of many languages
(`lists.py`) are compared with all that a text can be read as (`readings.py`). They catch what people write; a model's own safety
checker and the review stay behind them.

A text alone is refused for sexual words, for clothes that are taken away, and "not" in front changes nothing, as text encoders
hardly read it. Words for minors are harmless by themselves ("a child's toy"), and refused together with words of harm, of weapons
and drugs, or of undress, even when these stand in different fields of one job.
"""

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import lru_cache

from tilth.errors import InputError
from tilth.policy import Category
from tilth.synth.safety import lists
from tilth.synth.safety.lists import VERSION, Words
from tilth.synth.safety.readings import Reading, read
from tilth.texts import plain

SEXUAL = "sexual content"
MINOR = "sexualising or harming a minor"
INVERTED = "a negative prompt that takes clothing or adulthood away"
NEGATIVE = "negative prompt"

SHORT = ("sex", "xxx", "gun", "kid", "boy")  # short words that are looked for in letters that stood apart, too
# What may stand beside a listed word where all is written as one.
COMPANIONS = frozenset(
    {
        "a",
        "an",
        "and",
        "at",
        "by",
        "for",
        "in",
        "no",
        "not",
        "of",
        "on",
        "the",
        "with",
        "fully",
        "very",
        "drinking",
        "holding",
    }
    | {
        "man",
        "men",
        "woman",
        "women",
        "lady",
        "person",
        "people",
        "human",
        "figure",
        "body",
        "bodies",
        "model",
        "scene",
    }
    | {"art", "image", "images", "photo", "pic", "pics", "picture", "style", "lora"}
)
ENDINGS = ("s", "es", "d", "ed", "ing", "er", "ic", "y")
# A definition says what is not meant, too, and that is what a negative prompt does.
NOT_MEANT = re.compile(
    r"\b(?:not meant|do(?:es)? not count|not count|not included?|excluded|are fine|is fine|not of this)\b",
    re.IGNORECASE,
)


@dataclass(frozen=True, kw_only=True)
class Finding:
    """What a text was refused for, and in which fields."""

    reason: str
    fields: tuple[str, ...]


def _list(text: str) -> Words:
    spaced, _, anywhere = text.partition("|")
    words = [plain(word.replace("_", " ")) for word in spaced.split()]
    single = [word for word in words if " " not in word]
    exact = frozenset(word for word in single if not word.endswith("*"))
    stems = tuple(word.rstrip("*") for word in single if word.endswith("*"))
    whole = exact.union(stems, (stem + ending for stem in stems for ending in ENDINGS))
    return Words(
        exact=exact,
        stems=stems,
        whole=whole,
        long=frozenset(word for word in whole if len(word) >= 4 or word in SHORT),
        phrases=tuple(word.rstrip("*") for word in words if " " in word),
        anywhere=tuple(plain(word) for word in anywhere.split()),
    )


_SEXUAL, _MINORS, _HARM, _WEAPONS, _VICES, _UNDRESS, _INVERTING = map(
    _list, (lists.SEXUAL, lists.MINORS, lists.HARM, lists.WEAPONS, lists.VICES, lists.UNDRESS, lists.INVERTING)
)
_HARMLESS, _UNCLOTHED, _AGES, _UNDER = (
    re.compile("|".join(parts)) for parts in (lists.HARMLESS, lists.UNCLOTHED, lists.AGES, (lists.UNDER,))
)


def version() -> str:
    """Return which refusals these are, as every generated image keeps it."""
    return f"tilth-refusals-{VERSION}"


@lru_cache(maxsize=512)
def _reading(text: str) -> tuple[Reading, Reading]:
    """Read a text as it is, for ages and clothes, and without the phrases that mean something else, for words."""
    return read(text), read(_HARMLESS.sub(" ; ", plain(text)) if _HARMLESS.search(plain(text)) else text)


def _has(words: Words, told: Reading) -> bool:
    """Tell whether a text can be read as holding a word of a list."""
    return (
        any(word in words.exact or word.startswith(words.stems) for word in told.words)
        # of pieces only whole words count: with any ending, "is ex…" and its like would be found everywhere
        or not words.long.isdisjoint(told.pieces)
        or any(f" {phrase} " in text for text in told.texts for phrase in words.phrases)
        or any(part in flat for flat in told.flat for part in words.anywhere)
        or any(word in run for run in told.runs for word in words.long)
        or any(hole.fullmatch(word) for hole in told.holes for word in words.whole if len(word) == len(hole.pattern))
        or any(_glued(word, words) for word in told.words if 5 <= len(word) <= 40)
    )


@lru_cache(maxsize=4096)
def _glued(word: str, words: Words) -> bool:
    """Tell whether a word is made of listed words and of what may stand beside them, and of nothing else."""
    known = _known()
    # reached[n]: ways to have read n letters: has a word of the list been among them, and may an ending follow?
    reached: list[set[tuple[bool, bool]]] = [{(False, False)}, *(set[tuple[bool, bool]]() for _ in word)]
    for at in range(len(word)):
        for found, open_ in reached[at]:
            for end in range(at + 1, min(len(word), at + 20) + 1):
                part = word[at:end]
                if part in known and (len(part) >= 3 or part in COMPANIONS):
                    reached[end].add((found or part in words.long, part not in COMPANIONS))
                elif open_ and part in ENDINGS:
                    reached[end].add((found, False))
    return any(found for found, _ in reached[-1])


@lru_cache(maxsize=1)
def _known() -> frozenset[str]:
    every = (_SEXUAL, _MINORS, _HARM, _WEAPONS, _VICES, _UNDRESS)
    return COMPANIONS.union(*(words.whole for words in every))


def _is_sexual(text: str) -> bool:
    whole, cut = _reading(text)
    return _has(_SEXUAL, cut) or any(_UNCLOTHED.search(text) for text in whole.texts)


def names_minor(text: str) -> bool:
    """Tell whether a text speaks of somebody who is no adult."""
    whole, cut = _reading(text)
    if _has(_MINORS, cut) or any(_UNDER.search(view) for view in whole.views):
        return True
    ages = (value for view in cut.views for found in _AGES.findall(view) for value in found if value)
    return any((lists.YEARS.get(age) or int(age)) < 18 for age in ages)


def examine(fields: Mapping[str, str]) -> Finding | None:
    """Say what speaks against generating from these texts, or None.

    Args:
        fields: Text by what it is, such as `prompt`, `category`, `adapter` or `caption of the reference`, all of one
            image; a field called `negative prompt` says what the image shall *not* show.
    """
    for name, text in fields.items():
        if _is_sexual(text):
            return Finding(reason=SEXUAL, fields=(name,))
    wanted = {name: text for name, text in fields.items() if name != NEGATIVE}
    negative = fields.get(NEGATIVE, "")
    if _has(_INVERTING, _reading(negative)[1]):
        return Finding(reason=INVERTED, fields=(NEGATIVE,))
    for group in (wanted, {NEGATIVE: negative}):
        young = tuple(name for name, text in group.items() if names_minor(text))
        if not young:
            continue
        worse = tuple(
            name
            for name, text in group.items()
            if any(_has(words, _reading(text)[1]) for words in (_HARM, _WEAPONS, _VICES, _UNDRESS))
        )
        if worse:
            return Finding(reason=MINOR, fields=tuple(dict.fromkeys((*young, *worse))))
    return None


def refuse(fields: Mapping[str, str]) -> None:
    """Raise when these texts must not be generated from. The message never repeats them, so that logs stay clean.

    Raises:
        InputError: Names the reason and the fields.
    """
    if (found := examine(fields)) is not None:
        raise InputError(f"refused: {found.reason} (in: {', '.join(found.fields)}); no setting allows it")


def examine_category(category: Category, more: Iterable[str] = ()) -> Finding | None:
    """Say what speaks against generating images of a category, or None: its name, synonyms, prompts and definition are read together.

    What a definition says is not meant may name children beside what else it names, and nothing that clothes.

    Args:
        category: Of a policy.
        more: Prompts that a recipe has for it.
    """
    told, excluded = said_of_category(category, more)
    without = examine({NEGATIVE: excluded})
    return examine(told) or (without if without and without.reason != MINOR else None)


def said_of_category(category: Category, more: Iterable[str] = ()) -> tuple[dict[str, str], str]:
    """Return what a category means, by where that is said, and what its definition says is not meant."""
    sentences = re.split(r"(?<=[.!?;])\s+|\n", category.definition)
    parts = {
        excluded: " ".join(s for s in sentences if bool(NOT_MEANT.search(s)) is excluded) for excluded in (False, True)
    }
    told = {
        "name": " ; ".join((category.name, *category.also)),
        "prompts": " ; ".join((*category.prompts, *more)),
        "definition": parts[False],
    }
    return told, parts[True]


def is_violent(text: str) -> bool:
    """Tell whether a text speaks of harm or of weapons."""
    told = _reading(text)[1]
    return _has(_HARM, told) or _has(_WEAPONS, told)


def is_suggestive(text: str) -> bool:
    """Tell whether a text speaks of undress, of swimwear or of what comes near to it."""
    return _has(_UNDRESS, _reading(text)[1])
