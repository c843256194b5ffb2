"""The view of a version: one row a sample with all that its tables say, derived from them and asked in the place of them.

    view/rows.lance     the rows; each view is one Lance version of it
    view/<key>.json     which Lance version is the view of which tables, and what its measured columns are called
    view/.lock          one process at a time makes a view

It may be deleted and is made again (`making.py`); `where.py` says how to ask.
"""

import fcntl
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path

from tilth.claims import Json
from tilth.data.making import Entry, Making, entry_at, path_of
from tilth.data.reading import TOLD, Rows, samples_of
from tilth.data.rows import Find
from tilth.data.stored import CHUNK_ROWS, Stored
from tilth.data.table import Table, TableRef, read_columns
from tilth.data.where import both, one_of, quoted, translate
from tilth.errors import DatasetError, InputError
from tilth.samples import Sample


class View:
    """The view of some tables, made when absent.

    Args:
        folder: Where views lie.
        refs: The tables of a version, in order.
        find: Opens one of them.
        pool: Where images and origins lie.
        swept: Ids of all samples that the hash gate ever took out, in that order.
        media: Which kinds of samples conditions find; all when empty.
    """

    def __init__(
        self,
        folder: Path,
        refs: Sequence[TableRef],
        *,
        find: Find,
        pool: Table,
        swept: Sequence[str],
        media: Sequence[str] = (),
    ) -> None:
        self._folder, self._refs, self._find = folder, tuple(refs), find
        entry = self._entry(len(swept))
        if entry is None:
            with _locked(folder):
                # another process may have made it meanwhile
                entry = self._entry(len(swept)) or Making(folder, refs, find=find, pool=pool, swept=swept).make()
        self.columns = entry.columns
        self._stored = Stored(folder, entry.lance_version, entry.rows) if entry.rows else None
        self._media = one_of("media", media) if media and self._mixed(media) else ""

    def _entry(self, swept: int) -> Entry | None:
        entry = entry_at(path_of(self._folder, self._refs))
        return entry if entry is not None and entry.swept == swept else None

    def _condition(self, where: str, dropped: bool) -> str:
        return both(self._media, "" if dropped else "dropped is null", translate(where, self.columns.names()))

    def _mixed(self, media: Sequence[str]) -> bool:
        """Tell whether there is anything of another kind; most datasets need no condition."""
        if self._stored is None:
            return False
        return bool(self._stored.data.count_rows(filter=f"not ({one_of('media', media)})"))

    @contextmanager
    def _told(self, where: str) -> Iterator[None]:
        """Say in one line what is wrong with a condition."""
        try:
            yield
        except (ValueError, OSError) as error:
            text = str(error).partition(", /")[0].partition(". Valid fields")[0].splitlines()[0]
            there = ", ".join(sorted(self.columns.names()))
            raise InputError(f"cannot ask for {where!r}: {text[:200]}; there are: {there}") from error

    def count(self, where: str = "", *, dropped: bool = False) -> int:
        """Count the samples that a condition holds for."""
        if self._stored is None:
            return 0
        with self._told(where):
            return int(self._stored.data.count_rows(filter=self._condition(where, dropped) or None))

    def tally(self, names: Sequence[str], where: str = "", *, dropped: bool = False) -> dict[tuple[Json, ...], int]:
        """Count the samples by the values of columns, most frequent first."""
        if self._stored is None:
            return {}
        known = self.columns.names()
        parts = [f'"{known[name]}"' if name in known else "NULL" for name in names]
        condition = self._condition(where, dropped)
        text = f"SELECT {', '.join(f'{part} AS c{n}' for n, part in enumerate(parts))}, count(*) AS n FROM dataset"
        text += f" WHERE {condition}" if condition else ""
        text += f" GROUP BY {', '.join(f'c{n}' for n in range(len(parts)))}"
        with self._told(where):
            batches = self._stored.data.sql(text).build().to_batch_records()
        rows = [tuple(row.values()) for batch in batches for row in batch.to_pylist()]
        return {row[:-1]: row[-1] for row in sorted(rows, key=lambda row: (-row[-1], str(row)))}

    def ids(
        self,
        where: str = "",
        *,
        among: Iterable[str] | None = None,
        dropped: bool = False,
        batch_rows: int = CHUNK_ROWS,
    ) -> Iterator[list[str]]:
        """Yield the ids of the samples that a condition holds for, in the order in which they came."""
        if self._stored is None:
            return
        with self._told(where):
            for found in self._stored.windows(["id"], self._condition(where, dropped), among):
                for start in range(0, len(found), batch_rows):
                    yield found["id"].slice(start, batch_rows).to_pylist()

    def cells(self, names: Sequence[str], where: str = "", *, dropped: bool = False) -> Iterator[tuple[Json, ...]]:
        """Yield the values of columns, None where there is none, of the samples that a condition holds for, in order."""
        if self._stored is None:
            return
        known = self.columns.names()
        wanted = list(dict.fromkeys(known[name] for name in names if name in known))
        with self._told(where):
            for found in self._stored.windows(wanted, self._condition(where, dropped)):
                for start in range(0, len(found), CHUNK_ROWS):
                    part = found.slice(start, CHUNK_ROWS)
                    lists = [part[known[n]].to_pylist() if n in known else [None] * len(part) for n in names]
                    yield from zip(*lists, strict=True)

    def scan(
        self, where: str = "", *, among: Iterable[str] | None = None, dropped: bool = False, batch_rows: int = 256
    ) -> Iterator[list[Sample]]:
        """Yield the samples that a condition holds for, and whose ids are `among` some, in order, without images."""
        if self._stored is None:
            return
        with self._told(where):
            for part in self._stored.in_order(TOLD, self._condition(where, dropped), among):
                for begin in range(0, len(part), batch_rows):
                    yield samples_of(part, begin, batch_rows, self.columns, self._load)

    def contains(self, ids: Sequence[str]) -> set[str]:
        """Return those of the ids that have a row."""
        return set(self._stored.of(ids, ["id"]).column("id").to_pylist()) if self._stored else set()

    def beginning(self, text: str, limit: int) -> list[str]:
        """Return ids that begin with a text, `limit` at most."""
        if self._stored is None:
            return []
        condition = f"starts_with(id, {quoted(text)})"
        return list(self._stored.data.to_table(columns=["id"], filter=condition, limit=limit)["id"].to_pylist())

    def read(self, ids: Sequence[str]) -> list[Sample]:
        """Return these samples in this order, without images.

        Raises:
            DatasetError: One has no row.
        """
        part = self._stored.of(list(dict.fromkeys(ids)), TOLD) if self._stored else None
        known = {s.id: s for s in samples_of(part, 0, len(part), self.columns, self._load)} if part else {}
        if missing := [i for i in ids if i not in known]:
            raise DatasetError(
                f"{self._folder.parent}: no sample {missing[0][:12]} in this version ({len(missing)} missing)"
            )
        return [known[i] for i in ids]

    def _load(self, ids: list[str], name: str, read: dict[str, Rows]) -> Rows:
        """Read what was measured under a name from the tables that hold lists and mappings under it, or take it from what was `read`."""
        found: dict[str, Mapping[str, Json]] = {}
        for ref in self._refs:
            if name in self.columns.nested.get(ref.name, ()):
                if ref.name not in read:
                    rows = self._find(ref).get(ids, ["columns", "nested"])
                    read[ref.name] = {id_: read_columns(row) for id_, row in rows.items()}
                found |= {id_: row for id_, row in read[ref.name].items() if name in row}
        return found


@contextmanager
def _locked(folder: Path) -> Iterator[None]:
    folder.mkdir(parents=True, exist_ok=True)
    with (folder / ".lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield
