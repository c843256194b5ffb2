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

import errno
from collections.abc import Mapping
from typing import Any

# what is wrong with a path that was given; any other error of the system is a crash
PLACES = (errno.EACCES, errno.EEXIST, errno.EISDIR, errno.ENOTDIR, errno.EPERM, errno.EROFS, errno.ENAMETOOLONG)


def is_wrong_place(error: BaseException) -> bool:
    """Tell whether the system refused a path that was given, such as one that may not be read."""
    return isinstance(error, OSError) and error.errno in PLACES and bool(error.filename)


def is_full_disk(error: BaseException) -> bool:
    """Tell whether there was no space left."""
    return isinstance(error, OSError) and (error.errno == errno.ENOSPC or "No space left on device" in str(error))


def code_of(error: BaseException | None) -> int:
    """Return the exit code that an error ends a command with."""
    if error is None:
        return 0
    told = getattr(error, "exit_code", None)
    if told is not None:
        return int(told)
    if isinstance(error, KeyboardInterrupt):
        return 130
    return InputError.exit_code if is_wrong_place(error) else Unavailable.exit_code if is_full_disk(error) else 1


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
