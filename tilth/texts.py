"""Texts in, characters out: decoding with limits, the one way in which a text is written, and the identity of a text.

Every text is taken as hostile. What character tricks it plays, such as letters of other alphabets or invisible ones, is kept, since a model
has to see it; only ways of writing that no reader can tell apart are made one: composed letters, ends of lines, and white space around.
"""

import hashlib
import unicodedata
from codecs import BOM_UTF8, BOM_UTF16_BE, BOM_UTF16_LE, BOM_UTF32_BE, BOM_UTF32_LE

from tilth.errors import InputError

MAX_BYTES = 4 * 2**20
MAX_CHARACTERS = 100_000  # some 20,000 words; a longer one is a document, which is cut into texts before
BOMS = {
    BOM_UTF32_LE: "utf-32", BOM_UTF32_BE: "utf-32", BOM_UTF8: "utf-8-sig", BOM_UTF16_LE: "utf-16", BOM_UTF16_BE: "utf-16",
}  # fmt: skip


def decode_text(data: bytes) -> str:
    """Decode a text as it is kept and shown: UTF-8, or what its byte order mark says, normalised.

    Raises:
        InputError: It is empty, too long, binary, or in another encoding.
    """
    if len(data) > MAX_BYTES:
        raise InputError(f"text of {len(data) / 2**20:.0f} MiB, the limit is {MAX_BYTES // 2**20} MiB")
    encoding = next((name for mark, name in BOMS.items() if data.startswith(mark)), "utf-8")
    try:
        text = data.decode(encoding)
    except UnicodeDecodeError as error:
        raise InputError(f"not {encoding.upper()}, at byte {error.start}; save it as UTF-8") from error
    return checked(normalised(text))


def checked(text: str) -> str:
    """Return a normalised text as it is.

    Raises:
        InputError: It is empty or too long, holds NUL characters as binary files do, or halves of characters as broken JSON does.
    """
    if not text:
        raise InputError("empty text")
    if len(text) > MAX_CHARACTERS:
        raise InputError(f"text of {len(text):,} characters, the limit is {MAX_CHARACTERS:,}; cut it into parts")
    if "\0" in text:
        raise InputError("a text with NUL characters, as a binary file has them")
    if not text.isascii() and any("\ud800" <= sign <= "\udfff" for sign in text):
        raise InputError("a text with half a character in it, as JSON has it that was cut")
    return text


def normalised(text: str) -> str:
    r"""Write a text in the one way in which it is kept: letters composed (NFC), lines that end in `\n`, no white space around.

    >>> normalised(" e\u0301te\u0301\r\n") == "\u00e9t\u00e9"
    True
    """
    text = text.replace("\r\n", "\n").replace("\r", "\n").strip()
    return text if text.isascii() else unicodedata.normalize("NFC", text)


def text_id(text: str) -> str:
    """Return the SHA-256 of a normalised text; never that of a picture, whose size comes first.

    >>> text_id("a sign") == text_id("a sign") != text_id("A sign")
    True
    """
    return hashlib.sha256(b"text\0" + text.encode()).hexdigest()


def moved(text: str, span: tuple[int, int]) -> tuple[int, int]:
    r"""Return where characters of a text as it came, `(start, end)`, lie in the normalised one.

    Raises:
        InputError: They are no characters of the text, or nothing of them is left.

    >>> moved("  e\u0301te\u0301", (2, 4)), normalised("  e\u0301te\u0301")[0:1] == "\u00e9"
    ((0, 1), True)
    """
    start, end = span
    if not 0 <= start < end <= len(text):
        raise InputError(f"span ({start}, {end}) is not within the {len(text):,} characters of the text")
    whole = normalised(text)
    lead = len(text) - len(text.lstrip())
    before, until = (_length(text[lead : max(lead, at)]) for at in span)
    before, until = min(before, len(whole)), min(until, len(whole))
    if before >= until:
        raise InputError(f"span ({start}, {end}) holds white space alone")
    return before, until


def _length(part: str) -> int:
    part = part.replace("\r\n", "\n").replace("\r", "\n")
    return len(part) if part.isascii() else len(unicodedata.normalize("NFC", part))
