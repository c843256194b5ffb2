"""Tables with a column a category, as Roboflow writes them for images of several classes: 1 is there, 0 is not, blank nobody looked.

filename,knife,bottle
a.jpg,1,0
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from tilth.annotate.formats.parts.records import Labels, LeftOut, Named

YES, NO = ("1", "1.0", "true", "yes"), ("0", "0.0", "false", "no")
NEVER = ("width", "height", "state", "split", "score", "unasked")  # columns that are no category, whatever is in them


@dataclass(frozen=True)
class Columns:
    """Where a table has its file names and its categories."""

    file: int
    names: dict[int, str]

    def read(self, row: Sequence[str]) -> tuple[str, Labels, tuple[str, ...]]:
        """Return the file that a row is of, its labels, and what nobody looked for."""
        found: list[Named | LeftOut] = []
        unasked = []
        for at, name in self.names.items():
            value = row[at].strip().lower() if at < len(row) else ""
            if value in YES:
                found.append(Named(category=name, box_xyxy=None))
            elif not value:
                unasked.append(name)
            elif value not in NO:
                found.append(LeftOut(kind="value of a category that is neither 0 nor 1", category=name))
        return row[self.file].strip() if self.file < len(row) else "", Labels.of(found), tuple(unasked)


def columns_of(header: Sequence[str], file: int, knows: Callable[[str], bool]) -> Columns | None:
    """Return the columns of categories; None when none is called as a label of ours is."""
    names = {at: name.strip() for at, name in enumerate(header) if at != file and name.strip().lower() not in NEVER}
    return Columns(file, names) if any(map(knows, names.values())) else None
