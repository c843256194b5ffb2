"""Everything Tilth raises on purpose, with the exit code that the command line gives it.

TilthError
├── InputError          2   a file, an option or a value is wrong
│   ├── RecipeError     2   a recipe names something that does not exist, or gives it a bad value
│   ├── Quarantined     2   an image is on a hash list: it is neither kept nor shown
│   └── MissingExtra    2   an optional library is not installed (also an ImportError)
├── ModelError          2   weights are absent, not allowed, or not the ones that were pinned
├── DatasetError        1   the dataset on disk contradicts itself
├── GateRefused         3   the new model is not good enough to replace the old one
├── TooManyFailures     4   more samples failed than the recipe allows
└── Unavailable        75   a service is down or a disk is full; the same command works later
"""

from collections.abc import Mapping
from typing import Any


class TilthError(Exception):
    """Base class, so that callers can catch this package and nothing else."""

    exit_code = 1


class InputError(TilthError):
    """A file, an option or a value is wrong."""

    exit_code = 2


class RecipeError(InputError):
    """A recipe names something that does not exist, or gives it a bad value."""


class Quarantined(InputError):
    """An image is on a hash list: it is neither kept nor shown."""


class MissingExtra(InputError, ImportError):
    """An optional library is not installed."""


class ModelError(TilthError):
    """Weights are absent, not allowed, or not the ones that were pinned."""

    exit_code = 2


class DatasetError(TilthError):
    """The dataset on disk contradicts itself."""


class GateRefused(TilthError):
    """The new model is not good enough to replace the old one.

    Args:
        message: Why.
        facts: What was compared, and how it came out.
    """

    exit_code = 3

    def __init__(self, message: str, facts: Mapping[str, Any] | None = None) -> None:
        super().__init__(message)
        self.facts = dict(facts or {})


class TooManyFailures(TilthError):
    """More samples failed than the recipe allows."""

    exit_code = 4


class Unavailable(TilthError):
    """A service is down or a disk is full; the same command works later."""

    exit_code = 75
