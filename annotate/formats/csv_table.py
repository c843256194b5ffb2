"""CSV and TSV: one row a box in pixels from corner to corner, or one row a label of the whole image.

An image without labels is a row without category. Columns go by the names that common tools give them, in any order, and are parted
by a comma, a semicolon, a tab or a bar.
"""

import csv
import json
import math
import re
from collections.abc import Callable, Iterable, Iterator
from contextlib import closing
from dataclasses import dataclass
from itertools import chain
from pathlib import Path

from tilth.annotate.formats.parts.columns import Columns, columns_of
from tilth.annotate.formats.parts.files import scratch, write_image
from tilth.annotate.formats.parts.listing import Listed
from tilth.annotate.formats.parts.objects import NOWHERE, SILENT, listed_in, objects_of
from tilth.annotate.formats.parts.records import MAX_LABELS, Entry, Found, Labels, LeftOut, Named, Oddities, nobody
from tilth.annotate.formats.parts.texts import lines
from tilth.errors import InputError

FILE = "labels.csv"
COLUMNS = ("file", "width", "height", "category", "x_min", "y_min", "x_max", "y_max", "score", "state", "unasked")
CORNERS = COLUMNS[4:8]
READ = (*COLUMNS, "bbox", "objects")
# other names of columns, of TensorFlow's and Roboflow's tables, Hugging Face's metadata and hand-made ones
ALSO = {
    "file": ("file_name", "filename", "image", "image_path", "path"),
    "category": ("label", "class", "class_name", "labels"),
    "x_min": ("xmin",),
    "y_min": ("ymin",),
    "x_max": ("xmax",),
    "y_max": ("ymax",),
    "score": ("confidence",),
}
NUMBERS = (*CORNERS, "score")
SUFFIXES = (".csv", ".tsv")
SIGNS = ",;\t|"  # that part columns
SAID = re.compile(r"sep=([^\w\" ])\s*$")  # a first line of Excel's, which tells the sign
Row = tuple[str, ...]


def _places(header: list[str]) -> dict[str, int]:
    """Return where the columns are that are read, by our names."""
    names = [name.strip().lower() for name in header]
    found = {}
    for ours in READ:
        theirs = next((name for name in (ours, *ALSO.get(ours, ())) if name in names), None)
        if theirs is not None:
            found[ours] = names.index(theirs)
    return found


def _wanting(places: dict[str, int]) -> list[str]:
    """Return the columns that a table of labels lacks: it names files and their categories, with all four corners or none."""
    wanting = [name for name in ("file", "category") if name not in places and "objects" not in places]
    some = [name for name in CORNERS if name in places]
    return wanting + [name for name in CORNERS if some and name not in places]


def looks_like_csv(path: Path, knows: Callable[[str], bool] = nobody) -> bool:
    """Tell whether a file has the columns that a table of labels needs."""
    try:
        header = _table(path).header
    except InputError:
        return False
    places = _places(header)
    return "file" in places and (not _wanting(places) or columns_of(header, places["file"], knows) is not None)


@dataclass(frozen=True)
class _Table:
    """The sign that parts the columns of a table, its header, and its rows, which can be read once."""

    sign: str
    header: list[str]
    rows: Iterator[list[str]]


def _table(path: Path) -> _Table:
    """Open a table, whichever sign parts the columns: that by which the header has most.

    Raises:
        InputError: It is no CSV; reading the rows may raise it too.
    """
    texts = (text for _, text in lines(path))
    first = next(texts, "")
    if told := SAID.match(first):
        sign, first = told[1], next(texts, "")
    else:
        sign = max(SIGNS, key=lambda each: len(_cells(first, each)))
    rows = _read(path, chain([first], texts), sign)
    return _Table(sign, next(rows, []), rows)


def _cells(line: str, sign: str) -> list[str]:
    try:
        return next(csv.reader([line], delimiter=sign), [])
    except csv.Error:  # reading says it
        return []


def _read(path: Path, texts: Iterable[str], sign: str) -> Iterator[list[str]]:
    reader = csv.reader(texts, delimiter=sign)
    try:
        yield from reader
    except csv.Error as error:
        raise InputError(f"{path.name}:{reader.line_num}: not CSV: {error}") from error


class Csv(Listed):
    """Reads every `.csv` and `.tsv` of labels under a folder, or one; rows of an image are put together in a temporary database.

    Args:
        path: As of every list.
        images: As of every list.
        odd: As of every list.
        knows: Tells whether a word is a label of ours; a column that is called so is one of a category.
    """

    suffixes: tuple[str, ...] = SUFFIXES

    def __init__(self, path: Path, images: Path | None, odd: Oddities, knows: Callable[[str], bool] = nobody) -> None:
        super().__init__(path, images, odd)
        self.knows = knows

    @property
    def categories(self) -> tuple[str, ...]:
        """Return the categories that the tables have a column of; none of a table that names them in its rows."""
        found: dict[str, None] = {}
        for _, place in self.files():
            try:
                if place.is_symlink():  # it may lead out of the folder; reading finds out
                    continue
                header = _table(place).header if place.suffix.lower() in SUFFIXES else []
                found |= dict.fromkeys(columns.names.values() if (columns := self._columns(header)) else ())
            except InputError:
                continue  # reading says it
        return tuple(found)

    def _columns(self, header: list[str]) -> Columns | None:
        places = _places(header)
        return columns_of(header, places["file"], self.knows) if "file" in places and _wanting(places) else None

    def in_file(self, file: str, place: Path) -> Iterator[Found]:
        """Yield the images in the order of their first rows."""
        table = _table(place)
        if columns := self._columns(table.header):
            for row in table.rows:
                name, labels, unasked = columns.read(row)
                yield self.found(name, file, labels=labels, unasked=unasked)
        else:
            yield from _read_table(self, file, _rows(place.name, table))


def _read_table(listed: Listed, file: str, texts: Iterator[list[str]]) -> Iterator[Found]:
    with closing(scratch()) as rows:
        names, marks = ", ".join(READ), ", ".join("?" * len(READ))
        rows.execute(f"CREATE TABLE rows (number INTEGER PRIMARY KEY, {names})")
        rows.execute("BEGIN")
        # nothing is taken of a damaged table: half an image's boxes would pass for all of them
        rows.executemany(f"INSERT INTO rows({names}) VALUES ({marks})", texts)
        rows.execute("COMMIT")
        rows.execute("CREATE INDEX by_file ON rows(file, number)")
        boxed = any(rows.execute(f"SELECT 1 FROM rows WHERE {name} != '' LIMIT 1").fetchone() for name in READ[4:8])
        boxed = boxed or bool(rows.execute("SELECT 1 FROM rows WHERE bbox != '' LIMIT 1").fetchone())
        nested = bool(rows.execute("SELECT 1 FROM rows WHERE objects != '' LIMIT 1").fetchone())
        for (name,) in rows.execute("SELECT file FROM rows GROUP BY file ORDER BY min(number)"):
            wanted = f"SELECT {names} FROM rows WHERE file = ? ORDER BY number LIMIT {MAX_LABELS + 1}"
            yield _image(listed, file, name, rows.execute(wanted, (name,)).fetchall(), boxed, nested)


def _image(listed: Listed, file: str, name: str, rows: list[Row], boxed: bool, nested: bool) -> Found:
    odd, said = listed.odd, [dict(zip(READ, row, strict=True)) for row in rows]
    labels = Labels.of(label for row in said for label in _labels(row))
    if any(row["bbox"] for row in said):
        odd.note("bbox of a table, read as left, top, width, height", name)
    if labels != Labels() and not all(row["category"] or row["objects"] or _has_box(row) for row in said):
        odd.note("image with labels and with a row that says it is empty; the labels stand", name)
    sizes = {(row["width"], row["height"]) for row in said}
    error = "its rows give several sizes" if len(sizes) > 1 else ""
    error = error or (f"refused: more than {MAX_LABELS} labels of one image" if len(rows) > MAX_LABELS else "")
    # a blank where the words for an image stand is no word that nothing is there
    silent = not boxed and labels == Labels() and not any(row["state"] or row["objects"] for row in said)
    if silent:
        odd.note(SILENT, f"{file}: {name}")
    return listed.found(
        name,
        file,
        label_file="" if silent else file,
        labels=labels,
        size_wh=_size(sizes.pop()),
        state=said[0]["state"],
        unasked=listed_in(said[0]["unasked"]),
        # of a table without boxes, one row an image is the word that was chosen for it
        one_of=not (boxed or nested) and len(rows) == 1 and not said[0]["state"],
        error=error,
    )


def _rows(name: str, table: _Table) -> Iterator[list[str]]:
    """Yield the rows of the table called `name` as texts in the order of `READ`.

    Raises:
        InputError: A column is absent, or the file is no CSV.
    """
    found = _places(table.header)
    if missing := _wanting(found):
        raise InputError(f"{name}: no column {', '.join(missing)}; expected {','.join(COLUMNS)}")
    places = [found.get(name, -1) for name in READ]
    numbers = [READ.index(each) for each in NUMBERS] if table.sign == ";" else []
    for row in table.rows:
        texts = ["" if at < 0 or at >= len(row) else row[at].strip() for at in places]
        for at in numbers:  # semicolons part columns where a comma is the decimal point
            texts[at] = texts[at].replace(",", ".")
        yield texts


def _size(size: Iterable[str]) -> tuple[int, int] | None:
    try:
        width, height = (int(side) for side in size)
    except ValueError:
        return None
    return (width, height) if width > 0 and height > 0 else None


def _has_box(row: dict[str, str]) -> bool:
    return bool(row["bbox"]) or any(row[corner] for corner in CORNERS)


def _labels(row: dict[str, str]) -> Iterator[Named | LeftOut]:
    if row["objects"]:
        yield from _objects(row["objects"])
    elif row["category"] or _has_box(row):
        category = row["category"]
        if not _has_box(row):
            yield Named(category=category, box_xyxy=None, score=_score(row["score"]))
        elif not category:
            yield LeftOut(kind="box without a category")
        else:
            yield Named(category=category, box_xyxy=_box(row), score=_score(row["score"]))


def _objects(text: str) -> Iterator[Named | LeftOut]:
    """Read a column of JSON, as Hugging Face's metadata have it."""
    try:
        objects = json.loads(text)
        yield from objects_of(objects)
    except (InputError, ValueError, RecursionError):
        yield LeftOut(kind="objects that are not JSON of bbox and categories")


def _score(text: str) -> float:
    try:
        score = float(text or 1.0)
    except ValueError:
        return 1.0
    return min(1.0, max(0.0, score)) if math.isfinite(score) else 1.0


def _box(row: dict[str, str]) -> tuple[float, float, float, float]:
    try:
        if not row["bbox"]:
            x0, y0, x1, y1 = (float(row[corner]) for corner in CORNERS)
            return x0, y0, x1, y1
        x, y, w, h = (float(v) for v in row["bbox"].strip("[]() ").replace(",", " ").split())
    except ValueError:
        return NOWHERE
    return x, y, x + w, y + h


class CsvWriter:
    """Writes `labels.csv`, with the images in `images/`."""

    def __init__(self, folder: Path, categories: tuple[str, ...]) -> None:
        self.folder = folder
        self._stream = (folder / FILE).open("w", encoding="utf-8", newline="")
        self._rows = csv.writer(self._stream, lineterminator="\n")
        self._rows.writerow(COLUMNS)

    def add(self, entry: Entry) -> None:
        """Write an image and its rows."""
        write_image(self.folder, entry)
        head = (entry.file, *entry.size_wh)
        tail = (entry.state, json.dumps(entry.unasked) if entry.unasked else "")
        for label in entry.labels:
            self._rows.writerow((*head, label.category, *label.box_xyxy, label.score, *tail))
        for shown in entry.shown:
            self._rows.writerow((*head, shown.category, "", "", "", "", shown.score, *tail))
        if not entry.labels and not entry.shown:
            self._rows.writerow((*head, "", "", "", "", "", "", *tail))

    def close(self) -> None:
        """Close the table."""
        self._stream.close()
