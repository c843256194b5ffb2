"""Text files of other people: their encoding, which the first bytes tell.

A byte that is wrong in its encoding becomes U+FFFD, so that it costs the name or the number that it is in, and not the file.
"""

import io
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TextIO

from tilth.errors import InputError
from tilth.texts import encoding_of

WRONG = "\ufffd"


@contextmanager
def readable(path: Path) -> Iterator[TextIO]:
    """Open a text file, whose encoding its first bytes tell.

    Raises:
        InputError: It cannot be read.
    """
    try:
        with path.open("rb") as raw:
            yield io.TextIOWrapper(raw, encoding_of(raw.peek(4)), errors="replace", newline="")
    except OSError as error:
        raise InputError(f"{path.name}: cannot be read: {error.strerror or error}") from error
    except UnicodeError as error:
        raise InputError(f"{path.name}: not UTF-8 text: {error}") from error
