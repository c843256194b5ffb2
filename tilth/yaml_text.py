"""YAML files read so that a mistake can be told with its line."""

from collections.abc import Mapping
from pathlib import Path

import yaml
from pydantic import ValidationError

from tilth.claims import Json
from tilth.errors import InputError

Place = tuple[str | int, ...]


def load_yaml(path: Path) -> tuple[Json, dict[Place, int]]:
    """Read a YAML file into plain values, and the line (from 1) of every place in it.

    Raises:
        InputError: The file is absent, or is not YAML.
    """
    try:
        text = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        reason = "no such file" if isinstance(error, FileNotFoundError) else str(error)
        raise InputError(f"{path}: {reason}") from error
    try:
        node = yaml.compose(text, yaml.SafeLoader)
        lines: dict[Place, int] = {}
        _note_lines(node, (), lines)
        return yaml.safe_load(text), lines
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        place = f"{path}:{mark.line + 1}" if mark else str(path)
        raise InputError(f"{place}: not valid YAML: {getattr(error, 'problem', None) or error}") from error


def _note_lines(node: yaml.Node | None, place: Place, lines: dict[Place, int]) -> None:
    if node is None:
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


def describe(error: ValidationError, path: Path, lines: Mapping[Place, int], prefix: Place = ()) -> list[str]:
    """Turn every mistake that pydantic found into one line with its place."""
    told = []
    for item in error.errors():
        place = (*prefix, *item["loc"])
        message = item["msg"].removeprefix("Value error, ")
        got = "" if item["type"] in ("missing", "value_error") else f", got {item['input']!r}"
        where = spell(place)
        told.append(
            f"{path}:{line_of(place, lines)}: {where + ': ' if where else ''}{message[:1].lower()}{message[1:]}{got}"
        )
    return told
