"""A versioned dataset on Lance: a pool of images and texts, and tables of what each step found out about them.

    pool.lance           every image or text once, under its id
    results/<name>.lance one row a sample that a step has finished: its claims, columns, drop reason or error
    versions/000007.json which tables, at which Lance version, make up version 7 of the dataset
    tags.json            names of versions
    view/                one row a sample of a version, derived from its tables and asked in their place
    quarantine.jsonl     what a hash list kept out: when, from where, on which list; never the image

A row of a table is appended whole, so its existence means that the work is done: the tables are the journal that a killed
run resumes from. A version is a short list of tables, so a commit is one renamed file, `rollback` forgets nothing, and two
versions share whatever they agree on.
"""

import hashlib
import json
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from tilth.claims import Json
from tilth.data.files import write_beside
from tilth.data.making import key_of
from tilth.data.table import BATCH_ROWS, POOL, QUARANTINED, RESULT, Table, TableRef
from tilth.data.view import View
from tilth.data.where import one_of
from tilth.errors import DatasetError, InputError, Quarantined
from tilth.images import Image, decode
from tilth.samples import IMAGE, NewSample, Sample, origin_text

Guard = Callable[[Image], str | None]
"""Says why an image may not be kept or shown, or None."""
FORMAT = 2  # of tables; since 2 claims say what was asked, and lists and mappings lie apart


@dataclass(frozen=True, kw_only=True)
class Version:
    """One state of a dataset."""

    number: int
    parent: int
    message: str
    time: str
    tables: tuple[TableRef, ...] = ()


class Dataset:
    """A folder that holds a dataset, opened at one version.

    Args:
        root: The folder; made when absent.
        version: Number or tag of the version to open; the newest when None.
        guard: Looks at every image before it is kept, and before a file from elsewhere is shown beside this dataset.
        media: Which kinds of samples conditions find; all when empty.

    Raises:
        InputError: There is no such version or tag.
    """

    def __init__(
        self,
        root: Path,
        version: int | str | None = None,
        guard: Guard | None = None,
        media: Sequence[str] = (),
    ) -> None:
        self.root, self.guard, self.media = root, guard, tuple(media)
        (root / "versions").mkdir(parents=True, exist_ok=True)
        self.pool = Table(root / "pool.lance", POOL, pinned=False)
        self._tables: dict[tuple[str, int], Table] = {}
        self.opened: set[str] = set()  # tables, to write into
        self._aside: tuple[TableRef, ...] = ()
        self._view: tuple[tuple[str, int, tuple[str, ...]], View] | None = None
        self.at = self._load(version)

    # versions

    def _path(self, number: int) -> Path:
        return self.root / "versions" / f"{number:06d}.json"

    def history(self) -> list[Version]:
        """Return all versions, oldest first."""
        return [self._read(int(path.stem)) for path in sorted((self.root / "versions").glob("*.json"))]

    def _read(self, number: int) -> Version:
        try:
            document = json.loads(self._path(number).read_text())
        except FileNotFoundError as error:
            there = ", ".join(str(int(path.stem)) for path in sorted((self.root / "versions").glob("*.json")))
            raise InputError(f"{self.root}: no version {number}; there are {there or 'none'}") from error
        except ValueError as error:
            raise DatasetError(f"{self._path(number)}: not a version file: {error}") from error
        if document.pop("format", 1) != FORMAT:
            raise InputError(
                f"{self.root}: written by another version of Tilth, in a format that this one does not read; "
                "export it with that one, or make it again here"
            )
        return Version(**{**document, "tables": tuple(TableRef(**table) for table in document["tables"])})

    def _load(self, version: int | str | None) -> Version:
        if isinstance(version, str) and not version.isdigit():
            tags = self.tags()
            if version not in tags:
                raise InputError(f"{self.root}: no tag {version!r}; known: {', '.join(sorted(tags)) or 'none'}")
            version = tags[version]
        if version is not None and int(version) > 0:
            return self._read(int(version))
        newest = max((int(path.stem) for path in (self.root / "versions").glob("*.json")), default=0)
        if newest == 0 or version is not None:
            return Version(number=0, parent=0, message="empty", time="")
        return self._read(newest)

    def digest(self) -> str:
        """Return digits by which the version that is open is told from those of this number elsewhere; empty of the empty one."""
        path = self._path(self.at.number)
        return hashlib.sha256(path.read_bytes()).hexdigest()[:12] if path.exists() else ""

    def checkout(self, version: int | str) -> "Dataset":
        """Return the dataset at another version, for reading or to go on from there."""
        return Dataset(self.root, version, self.guard, self.media)

    def commit(self, message: str, time: str, tables: Iterable[TableRef]) -> Version:
        """Make a new version of these tables and move to it."""
        newest = max((int(path.stem) for path in (self.root / "versions").glob("*.json")), default=0)
        version = Version(number=newest + 1, parent=self.at.number, message=message, time=time, tables=tuple(tables))
        document = {
            "format": FORMAT, **vars(version), "tables": [vars(table) for table in (*version.tables, *self._aside)]
        }  # fmt: skip
        write_beside(self._path(version.number), json.dumps(document, indent=1))
        self.at = version
        return version

    def decide_anew(self, without: Iterable[TableRef], aside: Iterable[TableRef]) -> None:
        """Go on as if some tables were not there; every version that is committed from now on lacks these, and has those put aside."""
        self._aside = tuple(aside)
        gone = {*without, *self._aside}
        self.at = replace(self.at, tables=tuple(ref for ref in self.at.tables if ref not in gone))

    def rollback(self, version: int | str, time: str) -> Version:
        """Make a new version that equals an earlier one."""
        earlier = self._load(version)
        return self.commit(f"roll back to version {earlier.number}", time, earlier.tables)

    def tags(self) -> dict[str, int]:
        """Return version numbers by tag."""
        path = self.root / "tags.json"
        return dict(json.loads(path.read_text())) if path.exists() else {}

    def tag(self, name: str) -> None:
        """Name the version that is open; a name can be moved.

        Raises:
            InputError: The name could be taken for a number.
        """
        if not name or name.isdigit():
            raise InputError(f"a tag needs a name that is not a number, got {name!r}")
        write_beside(
            self.root / "tags.json", json.dumps(self.tags() | {name: self.at.number}, indent=1, sort_keys=True)
        )

    # tables

    def table(self, name: str, lance_version: int | None = None) -> Table:
        """Open a results table, at its newest state unless a version is given."""
        if lance_version is None:
            self.opened.add(name)
            return Table(self.root / "results" / f"{name}.lance", RESULT)
        key = (name, lance_version)
        if key not in self._tables:
            self._tables[key] = Table(self.root / "results" / f"{name}.lance", RESULT, lance_version or None)
        return self._tables[key]

    def attach(self, step: str, table: Table, message: str, time: str, *, adds: bool = False) -> Version:
        """Make a version with this table in it; an earlier state of the same table gives way."""
        ref = TableRef(step=step, name=table.path.stem, lance_version=table.lance_version, adds=adds)
        if ref in self.at.tables:
            return self.at
        kept = [t for t in self.at.tables if t.name != ref.name]
        return self.commit(message, time, [*kept, ref])

    def put(self, samples: Sequence[NewSample]) -> list[str | InputError]:
        """Keep images in the pool, each once; return their ids, or why an image cannot be kept."""
        known: list[str | InputError] = []
        rows: dict[str, dict[str, object]] = {}
        for sample in samples:
            try:
                id_, (width, height) = sample.identify()
                if self.guard and sample.media == IMAGE and (why := self.guard(decode(sample.data))):
                    raise Quarantined(why)
            except InputError as error:
                known.append(error)
                continue
            known.append(id_)
            about = {"width": width, "height": height, "origin": origin_text(sample.origin), "media": sample.media}
            rows.setdefault(id_, {"id": id_, "data": sample.data, **about})  # the first of a picture, as of all batches
        present = self.pool.get(list(rows), [])
        self.pool.append([row for id_, row in rows.items() if id_ not in present])
        return known

    def quarantine(self, why: str, time: str, **where: Json) -> None:
        """Write into the audit log that an image was kept out or taken out."""
        with (self.root / "quarantine.jsonl").open("a", encoding="utf-8") as stream:
            stream.write(json.dumps({"time": time, "why": why, **where}) + "\n")

    def sweep(self, time: str) -> list[str]:
        """Show every kept image to the guard, take the bytes of those it refuses out of the pool, and return their ids.

        They stay as dropped samples of every version, without image and without origin.
        """

        def why(row: Mapping[str, object]) -> str | None:
            looked = self.guard and row["data"] and row["media"] in (IMAGE, None)
            return self.guard(decode(bytes(row["data"]))) if self.guard and looked else None  # type: ignore[call-overload]

        return self._take_out(why, "data", time)

    def erase(self, why: Callable[[Mapping[str, Json]], str | None], time: str) -> list[str]:
        """Take the bytes of images out of the pool by what their origins say, as `sweep` does, and return their ids.

        Args:
            why: Says of an origin why its image goes, or None.
            time: For the audit log.
        """
        return self._take_out(lambda row: why(json.loads(str(row["origin"]))), "origin", time)

    def _take_out(self, why: Callable[[Mapping[str, object]], str | None], column: str, time: str) -> list[str]:
        refused: list[str] = []
        for ids in self.pool.ids():
            gone = []
            for id_, row in self.pool.get(ids, [column, "width", "height", "media"]).items():
                if reason := why(row):
                    self.quarantine(reason, time, id=id_)
                    gone.append({**row, "data": b"", "origin": origin_text({QUARANTINED: reason})})
            refused += [str(row["id"]) for row in gone]
            if gone:
                self.pool.replace(gone)
        if refused:
            self.pool.forget()
        return refused

    # asking

    @property
    def view(self) -> View:
        """One row a sample, with all that this version says of it."""
        swept = self._swept()
        key = (key_of(self.at.tables), len(swept), self.media)
        if self._view is None or self._view[0] != key:
            find = lambda ref: self.table(ref.name, ref.lance_version)  # noqa: E731
            view = View(self.root / "view", self.at.tables, find=find, pool=self.pool, swept=swept, media=self.media)
            self._view = key, view
        return self._view[1]

    def _swept(self) -> list[str]:
        """Return the ids that the hash gate took out, in that order."""
        path = self.root / "quarantine.jsonl"
        lines = path.read_text(encoding="utf-8").splitlines() if path.exists() else []
        return [row["id"] for row in map(json.loads, lines) if "id" in row]

    def only(self, media: Sequence[str]) -> int:
        """Find samples of these kinds alone from now on, and return how many of other kinds there are."""
        self.media = ()
        others = self.count(f"not ({one_of('media', media)})")
        self.media = tuple(media)
        return others

    def count(self, where: str = "", *, ids: Iterable[str] | None = None, dropped: bool = False) -> int:
        """Count the samples that a condition holds for; `where.py` says how to write one."""
        if ids is None:
            return self.view.count(where, dropped=dropped)
        return sum(len(some) for some in self.view.ids(where, among=ids, dropped=dropped))

    def measured(self) -> list[str]:
        """List the names under which anything was measured."""
        return list(self.view.columns.kinds)

    def tally(self, *names: str, where: str = "", dropped: bool = False) -> dict[tuple[Json, ...], int]:
        """Count the samples by the values of columns, as in `tally("state", "split")`, most frequent first."""
        return self.view.tally(names, where, dropped=dropped)

    def cells(self, *names: str, where: str = "", dropped: bool = False) -> Iterator[tuple[Json, ...]]:
        """Yield the values of columns, sample by sample in the order in which they were added; None where there is none."""
        return self.view.cells(names, where, dropped=dropped)

    def ids(self, where: str = "", *, dropped: bool = True, batch_rows: int = BATCH_ROWS) -> Iterator[list[str]]:
        """Yield the ids of samples, each once, in the order in which they were added."""
        return self.view.ids(where, dropped=dropped, batch_rows=batch_rows)

    def contains(self, ids: Sequence[str]) -> set[str]:
        """Return those of the ids that are samples of this version."""
        return self.view.contains(ids)

    # reading

    def came_with(self, ids: Sequence[str]) -> dict[str, int]:
        """Return for samples a number that is the greater, the later the table that they first came with."""
        found: dict[str, int] = {}
        number = 0
        for ref in (ref for ref in self.at.tables if ref.adds):
            rows = self.table(ref.name, ref.lance_version).get([i for i in ids if i not in found], ["status", "reason"])
            # of several tables that were carried forward into one, the row says which
            found |= {id_: number + int(str(row["reason"] or 0)) for id_, row in rows.items() if row["status"] == "ok"}
            number += ref.came
        return found

    def read(self, ids: Sequence[str], *, images: bool = True) -> list[Sample]:
        """Return these samples in this order, with everything that this version says of them.

        Raises:
            DatasetError: One is not in this version, or the pool lacks it.
        """
        samples = self.view.read(ids)
        return self.with_images(samples) if images else samples

    def with_images(self, samples: Sequence[Sample]) -> list[Sample]:
        """Read the image files of samples.

        Raises:
            DatasetError: The pool lacks one.
        """
        data = self.pool.get([s.id for s in samples], ["data"])
        if missing := [s.id for s in samples if s.id not in data]:
            raise DatasetError(f"{self.root}: {len(missing)} samples are not in the pool, {missing[0][:12]} among them")
        return [replace(s, data=data[s.id]["data"]) for s in samples]  # type: ignore[arg-type]

    def scan(
        self,
        where: str = "",
        *,
        ids: Iterable[str] | None = None,
        images: bool = True,
        keep: Callable[[Sample], bool] | None = None,
        dropped: bool = False,
        batch_rows: int = BATCH_ROWS,
    ) -> Iterator[list[Sample]]:
        """Yield samples in batches, in the order in which they were added; dropped ones only when asked for.

        Args:
            where: Keeps those that this condition holds for.
            ids: Keeps those of these ids.
            images: Read the image files too.
            keep: What no condition can say: keeps those that it is true of, before their images are read.
            dropped: Yield dropped samples as well.
            batch_rows: Largest size of a batch.
        """
        for batch in self.view.scan(where, among=ids, dropped=dropped, batch_rows=batch_rows):
            kept = [sample for sample in batch if keep is None or keep(sample)]
            if kept:
                yield self.with_images(kept) if images else kept

    def samples(
        self,
        where: str = "",
        *,
        ids: Iterable[str] | None = None,
        images: bool = True,
        keep: Callable[[Sample], bool] | None = None,
        dropped: bool = False,
    ) -> Iterator[Sample]:
        """Yield samples one by one; see `scan`."""
        for batch in self.scan(where, ids=ids, images=images, keep=keep, dropped=dropped):
            yield from batch
