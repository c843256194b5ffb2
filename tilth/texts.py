"""Texts in, characters out: decoding with limits, the one way in which a text is written, and the identity of a text.

Every text is taken as hostile. What character tricks it plays, such as letters of other alphabets or invisible ones, is kept, since a model
has to see it; only ways of writing that no reader can tell apart are made one: composed letters, ends of lines, and white space around.
"""

import hashlib
import re
import unicodedata
from codecs import BOM_UTF8, BOM_UTF16_BE, BOM_UTF16_LE, BOM_UTF32_BE, BOM_UTF32_LE
from functools import lru_cache

from tilth.errors import InputError

MAX_BYTES = 4 * 2**20
MAX_CHARACTERS = 100_000  # some 20,000 words; a longer one is a document, which is cut into texts before
MARKS = {  # that of UTF-32 begins as that of UTF-16 does
    BOM_UTF32_LE: "utf-32", BOM_UTF32_BE: "utf-32", BOM_UTF8: "utf-8-sig", BOM_UTF16_LE: "utf-16", BOM_UTF16_BE: "utf-16",
}  # fmt: skip
# Shown as nothing, and of no category that says so.
UNSEEN = frozenset(
    "\u034f\u115f\u1160\u17b4\u17b5\u180b\u180c\u180d\u180e\u180f\u2800\u3164\uffa0"
    + "".join(map(chr, range(0xFE00, 0xFE10)))
)
# Letters of other alphabets that look like Latin ones; those of Latin alphabets are told by their Unicode names.
TWINS = str.maketrans(
    "аеорсухіїјѕԁһкмтвгпԛԝѵӏҽьзαεοιυνκρτχγωηβσɑɡɩʋօոսցհӏ",
    "aeopcyxiijsdhkmtbrnqwvlebzaeoiuvkptxywnbsagivonughl",
)
NAMED = re.compile(
    r"(?:LATIN|REGIONAL INDICATOR|CIRCLED|SQUARED|MODIFIER)\b.*\bLETTER (?:SMALL CAPITAL |DOTLESS |SCRIPT |OPEN |TURNED )?([A-Z])\b"
)
LEET = "0o 3e 4a 5s 7t 8b 2z $s @a +t €e £l ¢c §s (c <c"  # and what may be an i or an l, and a b or a g
SIGNS = tuple(
    str.maketrans({pair[0]: pair[1] for pair in f"{LEET} {own}".split()})
    for own in ("1i !i |i 6b 9g", "1l !l |l 6g 9q", "1l !i |i 6b 9g", "1i !l |l 6g 9g")
)
DISGUISES = re.compile("[013457@$]")
DIGITS = dict(zip(map(ord, "013457@$"), "oieastas", strict=True))
# Marks of Indian and Thai letters are no letters to Python, and stand inside words.
LETTER = r"[^\W_]|[\u0900-\u0963\u0966-\u0e7f]"
TOKEN = re.compile(rf"(?:{LETTER})+")
CONTROLS = {code: " " if chr(code).isspace() else None for code in (*range(32), 127)}


def encoding_of(head: bytes) -> str:
    """Return the encoding that the first bytes of a text tell, UTF-8 when there is no mark."""
    return next((name for mark, name in MARKS.items() if head.startswith(mark)), "utf-8")


def decode_text(data: bytes) -> str:
    """Decode a text as it is kept and shown: UTF-8, or what its byte order mark says, normalised.

    Raises:
        InputError: It is empty, too long, binary, or in another encoding.
    """
    if len(data) > MAX_BYTES:
        raise InputError(f"text of {len(data) / 2**20:.0f} MiB, the limit is {MAX_BYTES // 2**20} MiB")
    encoding = encoding_of(data)
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


def plain(text: str) -> str:
    r"""Fold a text to lower case without accents, compatibility forms and what is not seen; any space is a space.

    >>> plain("Ｃａｆé\u200b\x0bｓ")
    'cafe s'
    """
    if text.isascii():
        return text.translate(CONTROLS).casefold()
    spaced = "".join(" " if c.isspace() else c for c in text)
    folded = unicodedata.normalize("NFKD", unicodedata.normalize("NFKC", spaced).casefold())
    kept = (
        c
        for c in folded
        if not unicodedata.combining(c) and c not in UNSEEN and unicodedata.category(c) not in ("Cf", "Cc", "Co", "Me")
    )
    return unicodedata.normalize("NFC", "".join(kept))


@lru_cache(maxsize=4096)
def _latin(letter: str) -> str:
    named = NAMED.search(unicodedata.name(letter, ""))
    return named[1].lower() if named else letter


def latin(text: str) -> str:
    """Write letters that look like Latin ones as these.

    >>> latin("sехuаl ɴᴜᴅᴇ")
    'sexual nude'
    """
    return text if text.isascii() else "".join(c if c.isascii() else _latin(c) for c in text.translate(TWINS))


def signs_read(text: str, way: dict[int, str]) -> str:
    """Read digits and signs as letters, in words that have both; `way` is one of `SIGNS`."""

    def one(chunk: re.Match[str]) -> str:
        word = chunk[0].strip(".,;:?)>]}\"'([{")
        return word.translate(way) if any(c.isalpha() for c in word) else word

    return re.sub(r"\S+", one, text)


def uncovered(text: str) -> str:
    r"""Read a text as if nothing were disguised: look-alike letters and digits inside words as Latin ones, without what is not seen.

    >>> uncovered("W\u0456n B1G\u200b now"), uncovered("call 555")
    ('win big now', 'call 555')
    """
    view = latin(plain(text))
    return " ".join((signs_read(view, DIGITS) if DISGUISES.search(view) else view).split())


def bare(text: str) -> str:
    """Return the words of a text as they are compared: in plain Latin letters where they look like such, without signs, one space between.

    >>> bare("W\u0456n  B1G\u200b t0night!!"), bare("Call 555-12 now")
    ('win big tonight', 'call 555 12 now')
    """
    return " ".join(TOKEN.findall(uncovered(text)))
