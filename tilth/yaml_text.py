"""YAML files read so that a mistake can be told with its line."""

import difflib
from collections.abc import Mapping
from dataclasses import fields, is_dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import yaml
from pydantic import ValidationError

from tilth.claims import Json
from tilth.errors import InputError

if TYPE_CHECKING:
    from dataclasses import Field

    from pydantic_core import ErrorDetails

Place = tuple[str | int, ...]

MOST_VALUES = 100_000  # of a file that people write; aliases of aliases can unfold a short one to billions
LONGEST_VALUE = 80  # letters of a value that a message quotes
PLAINLY = {
    "tuple_type": "must be a list, as in [a, b]",
    "list_type": "must be a list, as in [a, b]",
    "dict_type": "must be a mapping, as in {a: 1}",
    "model_type": "must be a mapping, as in {a: 1}",
    "dataclass_type": "must be a mapping, as in {a: 1}",
    "extra_forbidden": "no such key",
    "unexpected_keyword_argument": "no such key",
}


def load_yaml(path: Path) -> tuple[Json, dict[Place, int]]:
    """Read a YAML file into plain values, and the line (from 1) of every place in it.

    Raises:
        InputError: The file is absent, or is not YAML.
    """
    try:
        text = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        reason = (
            "no such file" if isinstance(error, FileNotFoundError) else getattr(error, "strerror", "") or str(error)
        )
        raise InputError(f"{path}: {reason}") from error
    try:
        node = yaml.compose(text, yaml.SafeLoader)
        lines: dict[Place, int] = {}
        _note_lines(node, (), lines)
        if len(lines) > MOST_VALUES:
            raise InputError(f"{path}: unfolds to more than {MOST_VALUES:,} values; write it with fewer aliases")
        return yaml.safe_load(text), lines
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        place = f"{path}:{mark.line + 1}" if mark else str(path)
        raise InputError(f"{place}: not valid YAML: {getattr(error, 'problem', None) or error}") from error


def _note_lines(node: yaml.Node | None, place: Place, lines: dict[Place, int]) -> None:
    if node is None or len(lines) > MOST_VALUES:
        return
    lines.setdefault(place, node.start_mark.line + 1)
    if isinstance(node, yaml.MappingNode):
        for key, value in node.value:
            inner = (*place, key.value)
            lines[inner] = key.start_mark.line + 1
            _note_lines(value, inner, lines)
    elif isinstance(node, yaml.SequenceNode):
        for index, value in enumerate(node.value):
            _note_lines(value, (*place, index), lines)


def line_of(place: Place, lines: Mapping[Place, int]) -> int:
    """Return the line of a place, or of the nearest one around it."""
    while place and place not in lines:
        place = place[:-1]
    return lines.get(place, 1)


def spell(place: Place) -> str:
    """Write a place as a reader would: `steps[3].dedup.max_distance`.

    >>> spell(("steps", 3, "dedup"))
    'steps[3].dedup'
    """
    text = ""
    for part in place:
        text += f"[{part}]" if isinstance(part, int) else f".{part}"
    return text.removeprefix(".")


def describe(
    error: ValidationError, path: Path, lines: Mapping[Place, int], prefix: Place = (), of: type | None = None
) -> list[str]:
    """Turn every mistake that pydantic found into one line with its place.

    Args:
        error: What pydantic found.
        path: The file.
        lines: Of its places.
        prefix: Place of what was checked.
        of: The dataclass that it was to become, to name the setting that a wrong name was meant for.
    """
    told = []
    for item in error.errors():
        place = (*prefix, *item["loc"])
        where = spell(place)
        message = f"{where + ': ' if where else ''}{plainly(item)}{meant(item, of) if of else ''}"
        told.append(f"{path}:{line_of(place, lines)}: {message}")
    return told


def meant(item: "ErrorDetails", of: type) -> str:
    """Say which setting an unknown one was meant for, of the same group or of one inside; nothing of other mistakes."""
    if item["type"] != "unexpected_keyword_argument":
        return ""
    *around, name = item["loc"]
    here: object = of
    for part in around:
        here = next((each.type for each in fields(here) if each.name == part), None) if is_dataclass(here) else None
    if not is_dataclass(here):
        return ""
    known = {inner.name: f" of {each.name!r}" for each in fields(here) for inner in _inside(each.type)}
    known |= {each.name: "" for each in fields(here)}
    close = difflib.get_close_matches(str(name), known, n=1)
    return f"; did you mean {close[0]!r}{known[close[0]]}?" if close else ""


def _inside(kind: object) -> "tuple[Field[Any], ...]":
    return fields(kind) if is_dataclass(kind) else ()


def plainly(item: "ErrorDetails") -> str:
    """Say what pydantic found in the words of YAML, with what came."""
    message = PLAINLY.get(item["type"]) or item["msg"].removeprefix("Value error, ")
    got = repr(item["input"])
    got = got if len(got) <= LONGEST_VALUE else got[: LONGEST_VALUE - 1] + "…"
    silent = item["type"] in ("missing", "value_error", "extra_forbidden", "unexpected_keyword_argument")
    return f"{message[:1].lower()}{message[1:]}" + ("" if silent else f", got {got}")
