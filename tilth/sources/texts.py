"""Text files of other people: their encoding, which the first bytes tell.

A byte that is wrong in its encoding becomes U+FFFD, so that it costs the name or the number that it is in, and not the file.
"""

import codecs
import io
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TextIO

from tilth.errors import InputError

WRONG = "\ufffd"
MARKS = {
    codecs.BOM_UTF8: "utf-8-sig",
    codecs.BOM_UTF32_LE: "utf-32",  # begins as that of UTF-16 does
    codecs.BOM_UTF32_BE: "utf-32",
    codecs.BOM_UTF16_LE: "utf-16",
    codecs.BOM_UTF16_BE: "utf-16",
}


def encoding_of(head: bytes) -> str:
    """Return the encoding that the first bytes of a text tell, UTF-8 when there is no mark."""
    return next((name for mark, name in MARKS.items() if head.startswith(mark)), "utf-8")


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
