"""CSV: one row a box in pixels from corner to corner; an image without boxes is a row without category."""

import csv
from collections.abc import Iterable, Iterator
from contextlib import closing
from pathlib import Path

from tilth.annotate.formats.parts.files import scratch, write_image
from tilth.annotate.formats.parts.listing import Listed
from tilth.annotate.formats.parts.records import MAX_LABELS, Entry, Found, Named
from tilth.annotate.formats.parts.texts import lines
from tilth.errors import InputError

FILE = "labels.csv"
COLUMNS = ("file", "width", "height", "category", "x_min", "y_min", "x_max", "y_max", "score", "state")
NEEDED = ("file", "category", "x_min", "y_min", "x_max", "y_max")
NAN = float("nan")


def looks_like_csv(path: Path) -> bool:
    """Tell whether a file has the columns that a table of boxes needs."""
    try:
        header = next(csv.reader(text for _, text in lines(path)), [])
    except (InputError, csv.Error):
        return False
    return set(NEEDED) <= {name.strip().lower() for name in header}


class Csv(Listed):
    """Reads every `.csv` of boxes under a folder, or one; rows of an image are put together in a temporary database."""

    suffixes = (".csv",)

    def in_file(self, file: str, place: Path) -> Iterator[Found]:
        """Yield the images in the order of their first rows."""
        with closing(scratch()) as rows:
            names, marks = ", ".join(COLUMNS), ", ".join("?" * len(COLUMNS))
            rows.execute(f"CREATE TABLE rows (number INTEGER PRIMARY KEY, {names})")
            rows.execute("BEGIN")
            # nothing is taken of a damaged table: half an image's boxes would pass for all of them
            rows.executemany(f"INSERT INTO rows({names}) VALUES ({marks})", _rows(place))
            rows.execute("COMMIT")
            rows.execute("CREATE INDEX by_file ON rows(file, number)")
            for (name,) in rows.execute("SELECT file FROM rows GROUP BY file ORDER BY min(number)"):
                wanted = f"SELECT {names} FROM rows WHERE file = ? ORDER BY number LIMIT {MAX_LABELS + 1}"
                yield self._image(file, name, rows.execute(wanted, (name,)).fetchall())

    def _image(self, file: str, name: str, rows: list[tuple[str, ...]]) -> Found:
        sizes = {row[1:3] for row in rows}
        labels = tuple(_label(row) for row in rows if row[3])
        if labels and len(labels) < len(rows):
            self.odd.note("image with boxes and with a row that says it is empty; the boxes stand", name)
        error = "its rows give several sizes" if len(sizes) > 1 else ""
        error = error or (f"refused: more than {MAX_LABELS} labels of one image" if len(rows) > MAX_LABELS else "")
        size = sizes.pop()
        return self.found(name, file, labels=labels, size_wh=_size(size), state=rows[0][9], error=error)


def _rows(place: Path) -> Iterator[list[str]]:
    """Yield the rows as texts in the order of `COLUMNS`.

    Raises:
        InputError: A column is absent, or the file is no CSV.
    """
    reader = csv.reader(text for _, text in lines(place))
    try:
        header = [name.strip().lower() for name in next(reader, [])]
        if missing := [name for name in NEEDED if name not in header]:
            raise InputError(f"{place.name}: no column {', '.join(missing)}; expected {','.join(COLUMNS)}")
        places = [header.index(name) if name in header else -1 for name in COLUMNS]
        for row in reader:
            yield ["" if at < 0 or at >= len(row) else row[at].strip() for at in places]
    except csv.Error as error:
        raise InputError(f"{place.name}:{reader.line_num}: not CSV: {error}") from error


def _size(size: Iterable[str]) -> tuple[int, int] | None:
    try:
        width, height = (int(side) for side in size)
    except ValueError:
        return None
    return (width, height) if width > 0 and height > 0 else None


def _label(row: tuple[str, ...]) -> Named:
    try:
        x0, y0, x1, y1 = (float(v) for v in row[4:8])
        score = min(1.0, max(0.0, float(row[8] or 1.0)))
    except ValueError:
        x0 = y0 = x1 = y1 = NAN
        score = 1.0
    return Named(category=row[3], box_xyxy=(x0, y0, x1, y1), score=score)


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
        for label in entry.labels:
            self._rows.writerow((*head, label.category, *label.box_xyxy, label.score, entry.state))
        if not entry.labels:
            self._rows.writerow((*head, "", "", "", "", "", "", entry.state))

    def close(self) -> None:
        """Close the table."""
        self._stream.close()
