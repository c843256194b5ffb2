"""Long text files that may be hostile, read piece by piece: the lines of a file, the lists of a JSON file, the encoding of XML."""

import codecs
import json
import re
from collections.abc import Iterator
from functools import lru_cache
from pathlib import Path
from typing import TextIO

from tilth.errors import InputError
from tilth.sources.texts import WRONG, readable
from tilth.texts import encoding_of

CHUNK = 2**20  # characters read at once
MAX_ITEM = 16 * 2**20  # characters of a line, or of one item of a JSON list; more is no label
MAX_DIGITS = 400  # of a whole number; more is none
SPACE = re.compile(r"[ \t\r\n]*")
DECLARED = re.compile(r"""^\s*<\?xml\b[^>]*?\bencoding\s*=\s*["']([A-Za-z][\w.:-]*)["']""")
# what is called by the first name is written with the letters of the second, as browsers know
WIDER = {
    "gb2312": "gb18030", "gbk": "gb18030", "shift_jis": "cp932", "euc_kr": "cp949", "iso8859-1": "cp1252", "ascii": "utf-8",
    "big5": "big5hkscs",
}  # fmt: skip
NO_TEXT = (
    "idna",
    "punycode",
    "unicode-escape",
    "unicode_escape",
    "raw-unicode-escape",
    "raw_unicode_escape",
    "undefined",
    "utf-7",
)


def _number(digits: str) -> int | float:
    return int(digits) if len(digits) < MAX_DIGITS else float(digits)


DECODER = json.JSONDecoder(parse_int=_number)
HALF = re.compile("[\ud800-\udfff]")


def whole(value: object) -> object:
    """Return a value of JSON without halves of characters, which an escape can write and nothing can keep."""
    if isinstance(value, str):
        return HALF.sub(WRONG, value)
    if isinstance(value, list):
        return [whole(item) for item in value]
    return {HALF.sub(WRONG, key): whole(item) for key, item in value.items()} if isinstance(value, dict) else value


def parse_json(text: str) -> object:
    """Read a JSON text.

    Raises:
        InputError: It is none.
    """
    try:
        value = DECODER.decode(text)
        return whole(value) if "\\u" in text else value
    except (ValueError, RecursionError) as error:
        raise InputError(f"not JSON: {str(error)[:200]}") from error


def xml_encoding(head: bytes) -> str:
    """Return the encoding that the first bytes of an XML file tell, by their mark, their zeros, or the declaration.

    The parser knows few encodings by itself; what this names, Python's codecs decode, and the parser gets text.

    Raises:
        InputError: Nobody knows what it declares.
    """
    known = encoding_of(head)
    if known != "utf-8":
        return known
    if head[:4] in (b"<\0?\0", b"\0<\0?"):
        return "utf-16-le" if head[1] == 0 else "utf-16-be"
    found = DECLARED.match(head[:1024].decode("latin-1"))
    return _codec(found[1]) if found else "utf-8"


@lru_cache(maxsize=64)
def _codec(declared: str) -> str:
    try:
        name = codecs.lookup(declared).name
        "<".encode(name)  # only text can be encoded
    except (LookupError, ValueError):
        name = ""
    if name.startswith(
        ("utf-16", "utf-32")
    ):  # it was legible, so it is none: .NET writes so what it then saves as UTF-8
        return "utf-8"
    if not name or name in NO_TEXT:
        raise InputError(f"encoding {declared!r}, which nobody knows; save the file as UTF-8")
    return WIDER.get(name, name)


def ends(path: Path, size: int = 65536) -> tuple[str, str]:
    """Return the first and the last so many bytes of a text file, to tell what it is; empty when it cannot be read."""
    try:
        with path.open("rb") as stream:
            head = stream.read(size)
            stream.seek(max(0, path.stat().st_size - size) // 4 * 4)  # in step with the characters of every encoding
            tail = stream.read()
    except OSError:
        return "", ""
    encoding = encoding_of(head)
    if encoding == "utf-16":  # only the beginning says in what order the bytes are
        encoding = "utf-16-le" if head.startswith(codecs.BOM_UTF16_LE) else "utf-16-be"
    return head.decode(encoding, "replace").lstrip("\ufeff \t\r\n"), tail.decode(encoding, "replace")


def lines(path: Path) -> Iterator[tuple[int, str]]:
    """Yield the number, from 1, and the text of each line that is not blank.

    Raises:
        InputError: The file cannot be read, or a line is too long.
    """
    with readable(path) as stream:
        number = 0
        while line := stream.readline(MAX_ITEM):
            number += 1
            if len(line) == MAX_ITEM:
                raise InputError(f"{path.name}:{number}: line of more than {MAX_ITEM // 2**20} Mi characters")
            if line.strip():
                yield number, line.replace("\0", WRONG)


class _Scanner:
    """The part of a JSON text that is in memory, and where in it we are."""

    def __init__(self, stream: TextIO) -> None:
        self.stream, self.text, self.at, self.over = stream, "", 0, False

    def more(self) -> bool:
        """Read on; false at the end of the file.

        Raises:
            InputError: What is not understood yet is too long.
        """
        rest = self.text[self.at :]
        if len(rest) > MAX_ITEM:
            raise InputError(f"not JSON, or one item of more than {MAX_ITEM // 2**20} Mi characters")
        piece = self.stream.read(max(CHUNK, len(rest)))  # doubled, so that a long item is not parsed again too often
        self.text, self.at = rest + piece, 0
        self.over = not piece
        return bool(piece)

    def peek(self) -> str:
        """Return the next character that is no space; empty at the end."""
        while True:
            self.at = SPACE.match(self.text, self.at).end()  # type: ignore[union-attr]  # it matches nothing too
            if self.at < len(self.text):
                return self.text[self.at]
            if not self.more():
                return ""

    def take(self, *expected: str) -> str:
        """Step over the next character, which must be one of these."""
        found = self.peek()
        if found not in expected or not found:
            raise InputError(f"not JSON: expected {' or '.join(expected)}, got {found or 'the end of the file'}")
        self.at += 1
        return found

    def value(self) -> object:
        """Read one value."""
        if not self.peek():
            raise InputError("not JSON: expected a value, got the end of the file")
        while True:
            try:
                value, end = DECODER.raw_decode(self.text, self.at)
                value = whole(value) if self.text.find("\\u", self.at, end) >= 0 else value
            except ValueError as error:
                if not self.more():
                    raise InputError(f"not JSON: {error}") from error
                continue
            except RecursionError as error:
                raise InputError("refused: JSON nested too deeply") from error
            if end < len(self.text):
                self.at = end
                return value
            if not self.more():  # a number at the end of what is in memory may go on
                self.at = len(self.text)
                return value

    def items(self) -> Iterator[object]:
        """Read a list."""
        self.take("[")
        if self.peek() == "]":
            self.at += 1
            return
        while True:
            yield self.value()
            if self.take(",", "]") == "]":
                return


def mentions(path: Path, words: str) -> bool:
    """Tell whether a text is somewhere in a file."""
    before = ""
    with readable(path) as stream:
        while piece := stream.read(CHUNK):
            if words in before + piece:
                return True
            before = piece[-len(words) :]
    return False


def json_lists(path: Path, names: tuple[str, ...], alone: tuple[str, ...] = ()) -> Iterator[tuple[str, object]]:
    """Yield `(name, item)` for the items of lists in a JSON file, holding one at a time.

    Args:
        path: The file.
        names: Members of the object in the file that must be lists; `""` is the file itself being one.
        alone: Members that are yielded as they are.

    Raises:
        InputError: It is not JSON, or such a member is no list.
    """
    try:
        with readable(path) as stream:
            yield from _lists(_Scanner(stream), names, alone)
    except InputError as error:
        raise InputError(f"{path}: not a JSON file that can be read: {error}") from error


def _lists(scanner: _Scanner, names: tuple[str, ...], alone: tuple[str, ...]) -> Iterator[tuple[str, object]]:
    if scanner.peek() == "[" and "" in names:
        for item in scanner.items():
            yield "", item
    else:
        scanner.take("{")
        ended = scanner.peek() == "}" and scanner.take("}") == "}"
        while not ended:
            name = scanner.value()
            scanner.take(":")
            if name in alone:
                yield str(name), scanner.value()
            elif scanner.peek() == "[":
                for item in scanner.items():
                    if name in names:
                        yield str(name), item
            elif name in names:
                raise InputError(f"{name} must be a list")
            else:
                scanner.value()
            ended = scanner.take(",", "}") == "}"
    if scanner.peek():
        raise InputError("more text after the end")
