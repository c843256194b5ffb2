"""Names of files under a root, kept in a temporary database on disk, so that a million of them take no memory."""

import unicodedata
from collections.abc import Iterator
from functools import cached_property
from pathlib import Path
from urllib.parse import unquote

from tilth.annotate.formats.parts.records import Entry, Found, Oddities, inside, is_absolute, on_disk
from tilth.errors import InputError
from tilth.images import SUFFIXES
from tilth.sources.scratch import scratch
from tilth.sources.texts import WRONG
from tilth.sources.walk import LeftAlone, Listed, stem_of, suffix_of, walk

__all__ = ["Files", "Seen", "scratch", "write_image", "write_text"]
COLUMNS = (
    "path TEXT PRIMARY KEY, folder TEXT, name TEXT, low TEXT, low_name TEXT, stem TEXT, link INTEGER, seen INTEGER"
)
FETCH = 1000  # rows
MOST_FOLDERS = 8  # of an address that are looked for


class Seen:
    """A set of texts that lies on disk and keeps their order."""

    def __init__(self) -> None:
        self._rows = scratch()
        self._rows.execute("CREATE TABLE seen (number INTEGER PRIMARY KEY, text TEXT UNIQUE)")

    def add(self, text: str) -> bool:
        """Add a text; tell whether it is new."""
        return self._rows.execute("INSERT OR IGNORE INTO seen(text) VALUES (?)", (text,)).rowcount == 1

    def __contains__(self, text: str) -> bool:
        """Tell whether it was added."""
        return self._rows.execute("SELECT 1 FROM seen WHERE text=?", (text,)).fetchone() is not None

    def __len__(self) -> int:
        """Count the texts."""
        return int(self._rows.execute("SELECT count(*) FROM seen").fetchone()[0])

    def __iter__(self) -> Iterator[str]:
        """Yield the texts in the order they came."""
        for (text,) in self._rows.execute("SELECT text FROM seen ORDER BY number"):
            yield text


def _row(found: Listed) -> tuple[str, str, str, str, str, str, int]:
    folder, name, link = found
    path = f"{folder}/{name}" if folder else name
    low = _fold(path)
    return path, folder, name, low, low.rpartition("/")[2], stem_of(low), int(link)


def _fold(path: str) -> str:
    """Return what two spellings of a name share: letters in lower case, accents as one character, as macOS splits them."""
    return path.lower() if path.isascii() else unicodedata.normalize("NFC", path).lower()


class Files:
    """The files of some kinds under a root, by name whatever the case of its letters.

    Args:
        root: The folder.
        suffixes: Of the files, in lower case; images, by `walk`, if none are given.
    """

    def __init__(self, root: Path, suffixes: tuple[str, ...] = ()) -> None:
        self.root = root
        self._rows = scratch()
        self._rows.execute(f"CREATE TABLE files ({COLUMNS}) WITHOUT ROWID")
        self._rows.execute("BEGIN")
        self._rows.executemany(
            "INSERT INTO files VALUES (?, ?, ?, ?, ?, ?, ?, 0)",
            map(_row, walk(root, LeftAlone(), suffixes, name_all=False)),
        )
        self._rows.execute("COMMIT")
        for column in ("low", "low_name", "stem"):
            self._rows.execute(f"CREATE INDEX by_{column} ON files({column})")

    def __len__(self) -> int:
        """Count the files."""
        return int(self._rows.execute("SELECT count(*) FROM files").fetchone()[0])

    def __iter__(self) -> Iterator[str]:
        """Yield the paths relative to the root, folder by folder, in the order of their names."""
        return self._paths("1")

    def _paths(self, condition: str, *values: str) -> Iterator[str]:
        found = self._rows.execute(f"SELECT path FROM files WHERE {condition} ORDER BY folder, name", values)
        while rows := found.fetchmany(FETCH):
            for (path,) in rows:
                yield path

    def under(self, folder: str) -> Iterator[str]:
        """Yield the paths in a folder and the folders below it."""
        if folder in ("", "."):
            return iter(self)
        clean = folder.rstrip("/")
        # "0" follows "/" in the order of characters
        return self._paths("folder = ? OR (folder > ? AND folder < ?)", clean, clean + "/", clean + "0")

    def doubles(self) -> Iterator[str]:
        """Yield the file names that occur in more than one folder, or in two spellings."""
        for (name,) in self._rows.execute("SELECT low_name FROM files GROUP BY low_name HAVING count(*) > 1"):
            yield name

    def mark(self, path: str) -> bool:
        """Note that a file was met; tell whether that is the first time."""
        return self._rows.execute("UPDATE files SET seen=1 WHERE path=? AND seen=0", (path,)).rowcount == 1

    def unmarked(self) -> Iterator[str]:
        """Yield the paths of the files that were not met."""
        return self._paths("seen = 0")

    def at(self, *candidates: str) -> str:
        """Return the first candidate path that is there, in its own spelling; empty when none is.

        Raises:
            InputError: A candidate differs from two files in its letters' case only.
        """
        for path in candidates:
            if self._rows.execute("SELECT 1 FROM files WHERE path=?", (path,)).fetchone():
                return path
            paths = [p for (p,) in self._rows.execute("SELECT path FROM files WHERE low=? LIMIT 5", (_fold(path),))]
            if len(paths) > 1:
                raise InputError(f"{path!r} could be any of {', '.join(paths)}")
            if paths:
                return str(paths[0])
        return ""

    def stems(self, *candidates: str) -> list[str]:
        """Return the files that are there under the first candidate path that has any, with whatever suffix; the best one first."""
        for stem in candidates:
            found = self._rows.execute("SELECT path FROM files WHERE stem=? LIMIT 20", (_fold(stem),))
            paths = sorted(str(p) for (p,) in found)
            # the same letters come before others, then kinds in the order of the table
            paths.sort(key=lambda p: (stem_of(p) != stem, _rank(p)))
            if paths:
                return paths
        return []

    @cached_property
    def _twins(self) -> bool:
        return (
            self._rows.execute("SELECT 1 FROM files GROUP BY stem HAVING count(*) > 1 LIMIT 1").fetchone() is not None
        )

    def has_twin(self, path: str) -> bool:
        """Tell whether another file differs from this one in its suffix alone, so that a label file may be of either."""
        return self._twins and len(self.stems(stem_of(path))) > 1

    def named(self, name: str) -> str:
        """Return the only file of this name in any folder; empty when there is none.

        Raises:
            InputError: Several folders have one.
        """
        found = self._rows.execute("SELECT path FROM files WHERE low_name=? ORDER BY path LIMIT 5", (_fold(name),))
        paths = [str(path) for (path,) in found]
        if len(paths) > 1:
            raise InputError(f"{name!r} is in several folders: {', '.join(paths[:4])}")
        return paths[0] if paths else ""

    def checked(self, path: str) -> Path:
        """Return where a listed file lies; only a link can lead out of the root, as the walk follows none.

        Raises:
            InputError: It is a link out of the root.
        """
        if self._rows.execute("SELECT link FROM files WHERE path=?", (path,)).fetchone()[0]:
            return inside(self.root, path)
        return self.root / path

    def unlabelled(self, path: str) -> Found:
        """Return a listed image that no label file speaks of."""
        try:
            return Found(name=path, read=on_disk(self.checked(path)))
        except InputError as error:
            return Found(name=path, error=str(error))

    def find(self, name: str, beside: tuple[str, ...], odd: Oddities) -> str:
        """Return the file that a label file calls `name`: in a folder of `beside`, else the only one of its name.

        A path of the machine that the labels were made on says no more than the file's name, and an address no more than its end.

        Raises:
            InputError: It leads out of the root, is absent, or is not the only one.
        """
        if "://" in name:
            return self._at_address(name, odd)
        clean = name.replace("\\", "/").removeprefix("./")
        path = self.at(*(f"{folder}/{clean}" if folder else clean for folder in beside))
        if not path and is_absolute(name) and (path := self.named(clean.rpartition("/")[2])):
            odd.note("path of another machine, image taken by its file name", name)
        if not path:
            inside(self.root, name)
            path = self.named(clean.rpartition("/")[2])
        if not path:
            wrong = "; the label file is no UTF-8 here" if WRONG in name else ""
            raise InputError(f"missing image {name!r}{wrong}")
        self.checked(path)
        return path

    def _at_address(self, address: str, odd: Oddities) -> str:
        """Return the file that lies where the end of an address says, folders and all, else the only one of its name."""
        asked = address.partition("://")[2].partition("#")[0].partition("?")[0]
        for way in dict.fromkeys((asked, unquote(asked))):
            *folders, name = way.split("/")[1:][-MOST_FOLDERS:] or [""]
            tails = ("/".join([*folders[n:], name]) for n in range(len(folders)))
            if path := self.at(*tails) or self.named(name):
                odd.note("address in place of a path, image taken by the end of it", address)
                self.checked(path)
                return path
        raise InputError(f"missing image {address!r}: no file here is called {unquote(name)!r}")


def _rank(path: str) -> int:
    suffix = suffix_of(path)
    return SUFFIXES.index(suffix) if suffix in SUFFIXES else len(SUFFIXES)


def write_text(path: Path, text: str) -> None:
    """Write a small file, making its folder when that is new."""
    try:
        stream = path.open("w", encoding="utf-8")
    except FileNotFoundError:
        path.parent.mkdir(parents=True, exist_ok=True)
        stream = path.open("w", encoding="utf-8")
    with stream:
        stream.write(text)


def write_image(folder: Path, entry: Entry) -> str:
    """Write the image file into `images/` and return its name there; when labels are written alone, the name it has."""
    if entry.data is not None:
        (folder / "images").mkdir(exist_ok=True)
        (folder / "images" / entry.file).write_bytes(entry.data)
    return entry.file
