"""What a text can be read as, when what people do to hide a word is undone: other alphabets, digits, signs, spaces, glue."""

import re
import unicodedata
from collections.abc import Iterator
from dataclasses import dataclass
from functools import lru_cache

from tilth.texts import SIGNS, TOKEN, latin, plain, signs_read

LOOSE = re.compile(r"(?<!\w)(?:[^\W\d_](?:[\W_]{1,3}|$)){3,}")
PREFIXES = ("وال", "بال", "ال", "لل", "و", "ب", "ה", "ב", "ו", "ל", "מ", "ש", "כ")
LONGEST = 16  # letters of a word that was taken apart


@dataclass(frozen=True, kw_only=True)
class Reading:
    """What a text can be read as.

    Args:
        views: The text in plain letters, in each way.
        texts: Its words alone, with one space between, before and after them.
        words: Its words, whole.
        pieces: Words that neighbouring pieces make together, or that are left when letters are no longer repeated.
        runs: Letters that stood apart, in a row.
        flat: The texts without anything between letters.
        holes: Words in which signs, or letters of another script, stand for unknown letters, as patterns.
    """

    views: tuple[str, ...]
    texts: tuple[str, ...]
    words: frozenset[str]
    pieces: frozenset[str]
    runs: tuple[str, ...]
    flat: tuple[str, ...]
    holes: tuple[re.Pattern[str], ...]


@lru_cache(maxsize=512)
def read(text: str) -> Reading:
    """Undo what is done to hide words."""
    apart = re.sub(r"(?<=[a-z])(?=[A-Z])|(?<=[A-Z])(?=[A-Z][a-z])", " ", text)
    written = plain(text)
    capital = re.sub(r"(?<=[a-z])I(?=[a-z])", "l", unicodedata.normalize("NFKC", text))  # an I that passes for an l
    views = [written, latin(written), *(signs_read(latin(written), way) for way in SIGNS)]
    views += [re.sub(r"\d+", " ", latin(written)), re.sub(r"\d+", " ", plain(apart)), plain(capital)]
    views = list(dict.fromkeys(re.sub(r"[’'`´]", "", view) for view in views))
    words: dict[str, None] = {}
    pieces: dict[str, None] = {}
    for view in views:
        found = TOKEN.findall(view)
        words |= dict.fromkeys(found)
        mixed = [word for word in found if not word.isascii()]
        words |= dict.fromkeys(word.removeprefix(prefix) for word in mixed for prefix in PREFIXES)
        words |= dict.fromkeys(part for word in mixed for part in re.findall(r"[a-z]{3,}", word))
        pieces |= dict.fromkeys(_joined(found))
        pieces |= dict.fromkeys("".join(TOKEN.findall(chunk)) for chunk in view.split(" "))
    for held in (words, pieces):
        held |= dict.fromkeys(fewer for word in tuple(held) for fewer in _fewer(word))
    pieces |= dict.fromkeys(re.sub(r"(.)\1", r"\1", word) for word in words)
    return Reading(
        views=tuple(views),
        texts=tuple({f" {' '.join(TOKEN.findall(view))} " for view in views}),
        words=frozenset(words),
        pieces=frozenset(pieces) - frozenset(words),
        runs=tuple({"".join(TOKEN.findall(run[0])) for view in views for run in LOOSE.finditer(view)}),
        flat=tuple({"".join(TOKEN.findall(view)) for view in views if not view.isascii()}),
        holes=tuple(dict.fromkeys(_holes(views))),
    )


def _joined(words: list[str]) -> Iterator[str]:
    """Yield the words that pieces make: any two neighbours, and more where most are a letter or two."""
    for start in range(len(words)):
        whole, short = words[start], int(len(words[start]) <= 2)
        for end in range(start + 1, len(words)):
            whole, short = whole + words[end], short + int(len(words[end]) <= 2)
            if len(whole) > LONGEST:
                break
            if end == start + 1 or 2 * short >= end - start + 1:
                yield whole


def _fewer(word: str) -> Iterator[str]:
    """Yield a word with its longer runs of one letter cut to two, and to one."""
    if re.search(r"(.)\1{2}", word):
        yield re.sub(r"(.)\1{2,}", r"\1\1", word)
        yield re.sub(r"(.)\1{2,}", r"\1", word)


def _holes(views: list[str]) -> Iterator[re.Pattern[str]]:
    for view in views:
        for chunk in re.findall(r"[^\W_](?:[^\W_]|[*#%•·○●∗]){2,}", view):
            letters = "".join(c if c.isascii() and c.isalnum() else "." for c in chunk)
            if "." in letters and 2 * letters.count(".") <= len(letters) and len(letters) >= 3:
                yield re.compile(letters)
