"""Lists of addresses as people and programs write them, and an address as a browser would ask for it.

Source: https://url.spec.whatwg.org, the parts of it that such lists need
"""

import csv
import re
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import quote, urlsplit

from tilth.errors import InputError
from tilth.extras import optional
from tilth.sources.texts import WRONG, readable

COLUMNS = ("url", "image_url", "src")
DELIMITERS = ",;\t|"
# what a browser leaves as it is, besides letters, digits and what is encoded already
IN_PATH, IN_QUERY = "%/:@!$&'()*+,;=|[]~", "%/:@!$&()*+,;=|[]?{}`^~"
BETWEEN = re.compile(r"[;\s]+(?=https?://)")  # addresses on one line
AROUND = "\"'<>,"
HOST = re.compile(r"[a-z0-9._-]+|\[[0-9a-f:.]+\]")


def encode(url: str) -> str:
    """Return an address as it goes over the wire: hosts in IDNA, paths and queries percent-encoded, no fragment.

    >>> encode("https://fotos-münchen.example/Nazaré 1.jpg?x=é#top")
    'https://xn--fotos-mnchen-jlb.example/Nazar%C3%A9%201.jpg?x=%C3%A9'

    Raises:
        InputError: It is no http address.
    """
    shown = url[:200]
    if WRONG in url:
        raise InputError(f"{shown}: the list is no UTF-8 here; save it as UTF-8")
    try:
        parts = urlsplit(url.replace("\\", "/"))
        host, port = parts.hostname or "", parts.port
    except ValueError as error:
        raise InputError(f"{shown}: not an http address: {error}") from error
    if parts.scheme not in ("http", "https") or not host or "@" in parts.netloc:
        raise InputError(f"{shown}: not an http address")
    host = _host(host, shown)
    query = f"?{quote(parts.query, safe=IN_QUERY)}" if parts.query else ""
    where = f"{host}:{port}" if port is not None else host
    return f"{parts.scheme}://{where}{quote(parts.path, safe=IN_PATH) or '/'}{query}"


def _host(host: str, shown: str) -> str:
    if ":" in host:
        host = f"[{host}]"
    elif not host.isascii():
        with optional():
            import idna
        try:
            host = idna.encode(host, uts46=True).decode()
        except UnicodeError as error:  # whose class theirs is
            raise InputError(f"{shown}: no name of a host: {error}") from error
    if not HOST.fullmatch(host) or max(map(len, host.split("."))) > 63 or len(host) > 253:
        raise InputError(f"{shown}: {host[:80]!r} is no name of a host")
    return host


def check_list(path: Path) -> None:
    """See that a list can be read.

    Raises:
        InputError: It cannot, or it is a table without a column of addresses.
    """
    if _is_table(path):
        _header(path)


def addresses(path: Path) -> Iterator[str]:
    """Yield the addresses of a list in its order, as they are written there: lines of a text, or a column of a table."""
    for text in _column(path) if _is_table(path) else _lines(path):
        if (url := text.strip()) and not url.startswith("#"):
            yield url


def _is_table(path: Path) -> bool:
    return path.suffix.lower() in (".csv", ".tsv")


def _lines(path: Path) -> Iterator[str]:
    with readable(path) as stream:
        for line in stream:
            text = line.strip()
            if "\t" in text:  # an address with its caption, in either order
                text = next((part for part in text.split("\t") if part.strip().startswith("http")), text)
            for url in BETWEEN.split(text):
                yield url.strip(AROUND) if url[:1] in AROUND else url


def _header(path: Path) -> tuple[str, list[str], int]:
    """Return what parts the columns of a table, their names, and which one has the addresses."""
    with readable(path) as stream:
        first = stream.readline(2**20)
    names: list[str] = []
    for delimiter in DELIMITERS:
        try:
            found = next(csv.reader([first], delimiter=delimiter), [])
        except csv.Error:
            continue
        names = found if len(found) > len(names) else names
        at = next((n for n, name in enumerate(found) if name.strip().lower() in COLUMNS), -1)
        if at >= 0:
            return delimiter, found, at
    raise InputError(f"{path}: no column {', '.join(COLUMNS)}; it has {', '.join(names) or 'nothing'}")


def _column(path: Path) -> Iterator[str]:
    delimiter, names, at = _header(path)
    with readable(path) as stream:
        rows = csv.reader((line.replace("\0", WRONG) for line in stream), delimiter=delimiter)
        next(rows, None)
        while True:
            try:
                row = next(rows)
            except StopIteration:
                return
            except csv.Error as error:
                yield f"row that ends in line {rows.line_num} of {path.name}, which is no CSV: {error}"
                continue
            if len(row) > len(names) and at == len(names) - 1:  # an address with what parts the columns in it
                yield delimiter.join(row[at:])
            elif len(row) > len(names) and any(row[len(names) :]):
                yield f"line {rows.line_num} of {path.name}, which has more columns than its head: {delimiter.join(row)}"
            elif len(row) > at:
                yield row[at]
