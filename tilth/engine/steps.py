"""What a step and a mapper are made of: settings, their key, and what they report.

A step is a frozen dataclass; its fields are its configuration, and `run` is its one verb (`work.py` has the protocol). Fields
that name earlier steps are listed in `refers` (`parts.loras` for one in a group), what a step leaves under other names than its own in
`leaves`. Many settings come in groups, which are frozen dataclasses as well: `drawing: {steps: 20, guidance: 3.0}`. A mapper is
a frozen dataclass too; it touches every image: `load` gets its model ready once and returns the function that turns a batch into
results. Both are given images alone, unless a class variable `media` names other kinds of samples.
"""

import hashlib
import json
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from operator import attrgetter
from pathlib import Path
from typing import Any, Protocol, TypeVar, dataclass_transform

from pydantic import ConfigDict

from tilth import models
from tilth.claims import Json
from tilth.samples import Result, Sample

Facts = Mapping[str, Json]
"""What a step reports: numbers and short texts that end up in `summary.json` under the step's name."""
Function = Callable[[Sequence[Sample]], list[Result]]
"""What a loaded mapper does with a batch."""


class Mapper(Protocol):
    """Whatever touches every image."""

    @property
    def batch_size(self) -> int:
        """Number of samples to hand over at once."""
        ...

    def models(self) -> tuple[str, ...]:
        """Name the models that it loads."""
        ...

    def load(self) -> Function:
        """Load the models and return the function; a batch must give what its samples give one by one."""
        ...


T = TypeVar("T")
NAME = re.compile(r"[A-Za-z][\w.-]*")  # of a step in a recipe, and of what it leaves


@dataclass_transform(frozen_default=True, kw_only_default=True)
def group(cls: type[T]) -> type[T]:
    """Make a class a group of settings, the type of a step's field: frozen, keyword-only, deaf to what it does not have."""
    cls.__pydantic_config__ = ConfigDict(extra="forbid")  # type: ignore[attr-defined]
    return dataclass(frozen=True, kw_only=True)(cls)


@dataclass_transform(frozen_default=True, kw_only_default=True)
def step(cls: type[T]) -> type[T]:
    """Make a class a step or a mapper: settings like those of a group; no models and no inputs unless it says otherwise."""
    for name in ("models", "inputs"):
        if not hasattr(cls, name):
            setattr(cls, name, lambda self: ())
    return group(cls)


def names_step(text: str) -> bool:
    """Tell whether a text, where a model may be named as well, is the name of a step.

    >>> [names_step(text) for text in ("train.lora", "starter:lora-neon", "./neon", "neon.safetensors", "owner/name@1f2e3d")]
    [True, False, False, False, False]
    """
    return NAME.fullmatch(text) is not None and models.spec(text).place == "hub"


def references(of: Any) -> list[tuple[tuple[str, ...], str]]:
    """List the settings of a step that name earlier ones, by their place, with the name; a setting in a group may name models, too."""
    found: list[tuple[tuple[str, ...], str]] = []
    for key in getattr(of, "refers", ()):
        value, place = attrgetter(key)(of), tuple(key.split("."))
        if isinstance(value, Mapping):
            each = [name for one in value.values() for name in ([one] if isinstance(one, str) else one)]
            found += [(place, name) for name in each if names_step(name)]
        elif value:
            found.append((place, value))
    return found


def fingerprint(of: Any, *more: str) -> str:
    """Name a step or mapper by its class, its settings and its models' weights: equal names mean equal results.

    >>> @step
    ... class Keep:
    ...     above: float = 0.5
    >>> fingerprint(Keep()) == fingerprint(Keep(above=0.5)) != fingerprint(Keep(above=0.6))
    True
    """
    weights = [models.digest(name) for name in of.models()]
    # A mapper raises `revision` when its code gives other results for the same settings.
    parts = [type(of).__qualname__, getattr(of, "revision", 0), asdict(of), weights, *more]
    text = json.dumps(parts, sort_keys=True, default=str)
    return hashlib.sha256(text.encode()).hexdigest()[:12]


def inputs_digest(paths: Sequence[Path]) -> str:
    """Return a digest that changes when a file is added, removed, resized or touched."""
    whole = 0
    for path in paths:
        for item in path.rglob("*") if path.is_dir() else [path]:
            if item.is_file():
                stat = item.stat()
                line = hashlib.sha256(f"{item} {stat.st_size} {stat.st_mtime_ns}".encode(errors="surrogateescape"))
                whole += int.from_bytes(line.digest())  # a sum has no order, so no list of all names is kept
    return hashlib.sha256(str(whole).encode()).hexdigest()[:12]
