"""What the commands share: how `name=value` arguments become the settings of a step, and a dataset that must be there."""

from collections.abc import Mapping
from pathlib import Path
from types import UnionType
from typing import TYPE_CHECKING, Annotated, Any, Union, get_args, get_origin, get_type_hints

import typer
import yaml
from pydantic import TypeAdapter, ValidationError

from tilth.errors import InputError
from tilth.yaml_text import meant, plainly

if TYPE_CHECKING:
    from pydantic_core import ErrorDetails

    from tilth.data.dataset import Dataset

MAPPINGS = (dict, Mapping)  # as the hints of a step write them
DatasetPath = Annotated[Path, typer.Argument(help="Dataset folder.")]


def pairs(settings: list[str] | None) -> dict[str, str]:
    """Split `name=value` arguments.

    Raises:
        InputError: One has no `=`.
    """
    found = {}
    for setting in settings or []:
        name, equals, value = setting.partition("=")
        if not equals:
            raise InputError(f"--set needs name=value, got {setting!r}")
        found[name] = value
    return found


def read_settings(texts: list[str] | None) -> dict[str, Any]:
    """Read `name=value` arguments; a value that begins like a list, a mapping or a quotation is YAML.

    What is in a group may be named by both, `drawing.steps=3`.

    Raises:
        InputError: One has no `=`, or is not YAML.
    """
    found: dict[str, Any] = {}
    for name, value in pairs(texts).items():
        try:
            read = yaml.safe_load(value) if value.startswith(tuple("[{\"'")) or value == "null" else value
        except yaml.YAMLError as error:
            problem = getattr(error, "problem", None) or "not YAML"
            raise InputError(f"--set {name}: {problem}, got {value!r}; lists are [a, b], mappings {{a: 1}}") from error
        outer, _, inner = name.partition(".")
        if inner:
            group = found.setdefault(outer, {})
            if not isinstance(group, dict):
                raise InputError(f"--set {name}: {outer} was given as a whole; give one or the other")
            group[inner] = read
        else:
            found[name] = read
    return found


def make_step(cls: type, command: str, settings: Mapping[str, Any], prefix: str = "--set ") -> Any:
    """Make a step of its settings.

    Args:
        cls: Of the step.
        command: That was given, for the message.
        settings: By name.
        prefix: What goes before a name on the command line.

    Raises:
        InputError: A setting is wrong; all of them are listed.
    """
    hints = get_type_hints(cls)
    given = {name: _mapping(value) if _takes_mapping(hints.get(name)) else value for name, value in settings.items()}
    try:
        return TypeAdapter(cls).validate_python(given)
    except ValidationError as error:
        wrong = [_told(item, command, prefix, cls) for item in error.errors()]
        raise InputError("\n".join([*wrong, f"all settings: tilth {command} --help"])) from error


def _takes_mapping(kind: Any) -> bool:
    return any(get_origin(each) in MAPPINGS for each in (kind, *get_args(kind)))


def _mapping(value: Any) -> Any:
    """Read `WBC:wbc,RBC:rbc`, which is quicker to type than a mapping in YAML.

    >>> _mapping("WBC:wbc, white cell:wbc,ruler:"), _mapping("as_is")
    ({'WBC': 'wbc', 'white cell': 'wbc', 'ruler': ''}, 'as_is')
    """
    if not isinstance(value, str) or ":" not in value:
        return value
    parts = [part.rpartition(":") for part in value.split(",")]
    return {name.strip(): ours.strip() for name, _, ours in parts} if all(colon for _, colon, _ in parts) else value


def emptied(cls: type, settings: Mapping[str, Any]) -> dict[str, Any]:
    """Let an empty value mean what is empty of its kind: no text, nothing at all, an empty list.

    Raises:
        InputError: A path is empty, which would be the folder that the command was given in.
    """
    hints = get_type_hints(cls)
    return {name: _empty(name, hints.get(name)) if value == "" else value for name, value in settings.items()}


def _empty(name: str, kind: Any) -> Any:
    kinds = (kind, *get_args(kind)) if get_origin(kind) in (Union, UnionType) else (kind,)
    if str in kinds:
        return ""
    if type(None) in kinds:
        return None
    if any(get_origin(each) in (tuple, list) for each in kinds):
        return []
    if any(get_origin(each) in MAPPINGS for each in kinds):
        return {}
    if Path in kinds:
        raise InputError(f"--set {name}=…: needs a path")
    return ""


def _told(item: "ErrorDetails", command: str, prefix: str, cls: type) -> str:
    """Say one mistake: of a setting by its name, of how several go together by the command's."""
    name = ".".join(map(str, item["loc"]))
    if not name:
        return f"{command}: {plainly(item)}"
    if item["type"] == "unexpected_keyword_argument":
        return f"{prefix}{name}: no such setting{meant(item, cls)}"
    if item["type"] in ("missing", "missing_argument", "missing_keyword_only_argument"):
        return f"{prefix}{name}=…: needs a value"
    return f"{prefix}{name}: {plainly(item)}"


def existing(path: Path) -> "Dataset":
    """Open a dataset that is there.

    Raises:
        InputError: There is none.
    """
    from tilth.data.dataset import Dataset

    if not (path / "versions").is_dir():
        raise InputError(f"{path}: no dataset here; a run keeps its own in runs/<name>/dataset")
    return Dataset(path)
