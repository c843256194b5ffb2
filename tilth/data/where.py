"""The language in which a dataset is asked: the conditions of SQL over the columns of a view.

    state = 'auto' and split != 'test'
    quality.sharpness >= 20 and array_has(categories, 'knife')
    `train-a.seen` is not null

A measured number is called as its step named it; a name with other signs than letters, digits and dots stands in backticks.
"""

import difflib
import re
from collections.abc import Iterable, Mapping

from tilth.errors import InputError

_TOKEN = re.compile(r"'(?:[^']|'')*'|`[^`]*`|[A-Za-z_]\w*(?:\.\w+)*")
_LITERAL = re.compile(r"'(?:[^']|'')*'|`[^`]*`")
NULL = "CAST(NULL AS string)"  # what a name means that nothing was measured under
LEFT_OUT = "left_out"  # column: the categories that labels may be of which were left out, an empty one for any
CONFLICT = "conflict"  # column: what entries of one picture say of it that cannot all be so
STYLE = "style"  # column: in which a picture was made
PAIR = "pair"  # column: which edited pair a picture is one of
SOMETIMES = (LEFT_OUT, CONFLICT, STYLE, PAIR)  # measured names without a dot; absent while there is nothing to say
MISSPELT = 0.9  # likeness to a name that there is, from which on another is a slip and not one of a step that never ran


def quoted(text: str) -> str:
    """Write a text as a literal.

    >>> quoted("it's")
    "'it''s'"
    """
    return "'" + text.replace("'", "''") + "'"


def both(*conditions: str) -> str:
    """Join conditions that must all hold; empty ones say nothing.

    >>> both("a = 1", "", "b = 2 or c = 3")
    '(a = 1) and (b = 2 or c = 3)'
    """
    return " and ".join(f"({each})" for each in conditions if each)


def one_of(column: str, values: Iterable[str]) -> str:
    """Write the condition that a column has one of some values.

    >>> one_of("state", ["auto", "reviewed"])
    "state in ('auto', 'reviewed')"
    """
    return f"{column} in ({', '.join(quoted(value) for value in values)})"


def lacks(column: str, values: Iterable[str]) -> str:
    """Write the condition that a list lacks one of some values.

    >>> lacks("looked", ["knife", "dice"])
    "not (array_has(looked, 'knife') and array_has(looked, 'dice'))"
    """
    found = " and ".join(f"array_has({column}, {quoted(value)})" for value in values)
    return f"not ({found})" if found else "false"


def to_ask(categories: Iterable[str]) -> str:
    """Write the condition that people can still be asked for one of some categories; see `Sample.to_ask`."""
    return f"not people or (state in ('reviewed', 'confirmed_empty') and {lacks('decided', categories)})"


def open_to_models(categories: Iterable[str]) -> str:
    """Write the condition that what a model says of one of some categories counts: people have not decided them all."""
    return f"not people or (not silent and state in ('reviewed', 'confirmed_empty') and {lacks('decided', categories)})"


def named(text: str) -> list[str]:
    """List the measured names that a condition asks for: those with a dot or in backticks, each once."""
    tokens = [token for token in _TOKEN.findall(text) if token[0] != "'"]
    return list(dict.fromkeys(token.strip("`") for token in tokens if "." in token or token[0] == "`"))


def check_whole(text: str) -> None:
    """Refuse what SQL would read only the beginning of.

    Raises:
        InputError: Brackets or quotation marks do not match, or there is a second statement or a comment.
    """
    plain, depth = _LITERAL.sub("", text), 0
    for sign in plain:
        depth += {"(": 1, ")": -1}.get(sign, 0)
        if depth < 0:
            break
    if depth or any(mark in plain for mark in ("'", "`", ";", "--", "/*")):
        raise InputError(
            f"{text!r} is not one whole condition; give one as in quality.sharpness >= 20 and state = 'auto'"
        )


def translate(text: str, columns: Mapping[str, str]) -> str:
    """Put the columns of a view in the place of the names in a condition; nothing was measured under names it lacks.

    Raises:
        InputError: It is not one whole condition.

    >>> translate("quality.sharpness > 1 and step = 'a.b'", {"quality.sharpness": "m_quality__sharpness"})
    "`m_quality__sharpness` > 1 and step = 'a.b'"
    """
    check_whole(text)

    def column(match: re.Match[str]) -> str:
        token = match[0]
        if token[0] == "'":
            return token
        name = token.strip("`")
        if name in columns:
            return f"`{columns[name]}`"
        return NULL if "." in token or token[0] == "`" or token in SOMETIMES else token

    return _TOKEN.sub(column, text)


def check_named(text: str, columns: Mapping[str, str], setting: str) -> None:
    """Refuse a condition over names that nothing was measured under.

    Args:
        text: The condition.
        columns: What there is.
        setting: What gives the condition, for the message.

    Raises:
        InputError: One is unknown; the nearest known name is told.
    """
    for name in named(text):
        if name not in columns and name not in SOMETIMES:
            near = difflib.get_close_matches(name, columns, n=1)
            there = f"did you mean {near[0]!r}?" if near else f"there are: {', '.join(sorted(columns))}"
            raise InputError(f"{setting} {text!r}: no sample has a column {name!r}; {there}")


def unmeasured(text: str, columns: Mapping[str, str]) -> list[str]:
    """Return the names in a condition that nothing was measured under; no sample can be found by them.

    Raises:
        InputError: One is nearly a name that there is, so probably a slip.
    """
    found = [name for name in named(text) if name not in columns and name not in SOMETIMES]
    for name in found:
        if near := difflib.get_close_matches(name, columns, n=1, cutoff=MISSPELT):
            raise InputError(f"{text!r}: no sample has a column {name!r}; did you mean {near[0]!r}?")
    return found
